//! More patience than one condition has: for what races with a clock, and for much that comes one by one.

use std::time::Duration;

use super::wait::until;

/// How often an order of events is tried for: at the last the first time is 16 times as long.
const TRIES: u32 = 5;

/// Tries what races with a clock, with twice the time whenever the order of events was not the one meant. That is for
/// `attempt` to notice, which then has nothing.
#[track_caller]
pub(crate) fn in_order<T>(first: Duration, mut attempt: impl FnMut(Duration) -> Option<T>) -> T {
    let times = (0..TRIES).map(|tried| first * 2_u32.pow(tried));
    for time in times.clone() {
        if let Some(done) = attempt(time) {
            return done;
        }
    }
    panic!("the order of events was never the one meant, within {:?}", times.collect::<Vec<_>>());
}

/// Waits until there are so many: patience begins anew with each more.
#[track_caller]
pub(crate) fn until_so_many(what: &str, count: usize, mut look: impl FnMut() -> usize) {
    let mut seen = 0;
    while seen < count {
        seen = until(&format!("more {what} than {seen}"), || Some(look()).filter(|now| *now > seen));
    }
    assert_eq!(seen, count, "{what}");
}
