//! Waiting for a condition, with a bound that only a hang reaches.

use std::thread;
use std::time::Duration;

use agentctl::sys::clock;

/// How long a condition may take to come true on a busy machine. Eight real agents that start at once need a minute there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);

/// Waits until `look` finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    until_or(|| format!("waited in vain for {what}"), look)
}

/// The same, with words of its own where it is in vain.
#[track_caller]
pub(crate) fn until_or<T>(words: impl Fn() -> String, mut look: impl FnMut() -> Option<T>) -> T {
    let start = clock::now().mono;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock::now().mono.since(start) < PATIENCE, "{}", words());
        thread::sleep(Duration::from_millis(5));
    }
}
