//! A daemon of the service manager meets one that a command had started: it takes the home over.
//!
//! The other one is asked to end (TERM, to its pidfd) and its sessions are found again like after any restart. Refuses
//! to take a home from a daemon that a service manager or a person runs: those two would fight.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use crate::core::vocab::HostId;
use crate::sys::lock_holder::lock_holder;

use super::home::{Home, HomeError, HomeLock};

/// TERM, by number.
const TERM: u8 = 15;
/// A daemon ends within milliseconds; its last commit may wait for a slow disk.
const END_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the lock file says of a daemon that a command started, and that makes way for a service.
pub(super) const STARTED_BY_COMMAND: &str = "started by a command";

/// Prepares the home; `may_take`: a daemon there that makes way is made to.
pub(super) fn prepare(home: &Home, line: &str, host: &HostId, may_take: bool) -> Result<HomeLock, HomeError> {
    match home.prepare(line, host) {
        Err(taken @ HomeError::Taken { .. }) if may_take => match ask(home) {
            Ok(true) => home.prepare(line, host),
            Ok(false) => Err(taken),
            Err(error) => {
                tracing::warn!("ask the other daemon to make way: {error}");
                Err(taken)
            }
        },
        prepared => prepared,
    }
}

/// Whether there is nobody any more who holds the home.
fn ask(home: &Home) -> std::io::Result<bool> {
    let mut file = File::open(home.lock_path())?;
    let mut says = String::new();
    file.read_to_string(&mut says)?;
    if !says.contains(STARTED_BY_COMMAND) {
        return Ok(false);
    }
    let Some(other) = lock_holder(&file)? else { return Ok(home.is_free()) };
    tracing::info!(pid = other.pid(), "a daemon that a command had started makes way for this one");
    other.signal(TERM)?;
    let looks = END_WITHIN.as_millis() / LOOK_EVERY.as_millis();
    for _ in 0..looks {
        if other.has_ended() != Some(false) && home.is_free() {
            return Ok(true);
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(false)
}
