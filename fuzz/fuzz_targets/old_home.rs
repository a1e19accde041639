//! What the earlier agentctl wrote and says: any bytes are understood, entry by entry, or refused.

#![no_main]

use agentctl::wire::{old_home, old_tool};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(entries) = old_home::sessions(bytes) {
        assert!(entries.read.iter().all(|session| !session.id.is_empty() && session.pid != Some(1)));
    }
    let _no_launch = old_home::launched(bytes, "opencode");
    let (_no_locks, _no_fuses) = (old_home::locks(bytes), old_home::fuses(bytes));
    let _no_code = old_home::exit_code(bytes);
    let _not_it = old_tool::pid_of_old_daemon(bytes);
    let answer = old_tool::answer(bytes, old_tool::Told { pid: 2, uptime_ms: 0, sessions: 0, locks: 0, fuses: 0 });
    assert!(answer.ends_with('\n') && answer.matches('\n').count() == 1);
});
