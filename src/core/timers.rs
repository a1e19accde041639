//! What fires when, on CLOCK_MONOTONIC. The edge asks for the next instant and arms one timer.

use std::collections::{BTreeSet, HashMap};

use super::dir_fuses::FuseId;
use super::vocab::{Mono, RunId};

/// Everything in the program that waits for time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The master timeout of a run: its kill begins.
    Deadline(RunId),
    /// Five minutes before the master timeout, which is armed then.
    Warning(RunId),
    /// The next step of a stop: TERM to the rest, then KILL until nothing is left.
    StopStep(RunId),
    /// Those who asked for a stop get an answer, whatever still lives.
    StopAnswer(RunId),
    /// The leader ended long ago and the shim did not say how: it is stuck.
    ShimStuck(RunId),
    /// Reading the agent's report takes too long.
    ReportLate(RunId),
    /// The agent has been idle, or at work again, for long enough to be told.
    Activity(RunId),
    /// The agent's work is over and it lives on.
    Linger(RunId),
    /// Signs of life of the run are to be looked for.
    Stuck(RunId),
    /// A directory fuse expires.
    DirFuse(FuseId),
    /// An endpoint has a delivery due.
    Endpoint(String),
    /// The oldest ended session is old enough to be forgotten.
    Retention,
}

/// The set of armed timers. Each kind of timer of one owner exists at most once.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    by_time: BTreeSet<(Mono, Timer)>,
    by_timer: HashMap<Timer, Mono>,
}

impl Timers {
    /// Arms, or moves, a timer.
    pub fn set(&mut self, timer: Timer, at: Mono) {
        self.clear(&timer);
        self.by_timer.insert(timer.clone(), at);
        self.by_time.insert((at, timer));
    }

    /// Disarms a timer; nothing happens when it is not armed.
    pub fn clear(&mut self, timer: &Timer) {
        if let Some(at) = self.by_timer.remove(timer) {
            self.by_time.remove(&(at, timer.clone()));
        }
    }

    /// When a timer fires.
    pub fn when(&self, timer: &Timer) -> Option<Mono> {
        self.by_timer.get(timer).copied()
    }

    /// The earliest instant at which anything fires.
    pub fn next(&self) -> Option<Mono> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes the earliest timer that is due.
    pub fn pop_due(&mut self, now: Mono) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.by_time.pop_first()?;
        self.by_timer.remove(&timer);
        Some(timer)
    }
}
