//! The mood of an agent: waiting for input, or at work again; told once it has lasted.
//!
//! Soft: it rests on the agent's words alone, is read again from its output after a restart, and decides nothing.

use std::time::Duration;

use super::Step;
use super::record::EventKind;
use super::session::Phase;
use super::supervisor::Supervisor;
use super::timers::Timer;
use super::vocab::{Now, RunId};

/// An agent is told to be idle, or active again, once it has been so for this long.
const ACTIVITY_LASTS: Duration = Duration::from_secs(2);

impl Supervisor {
    /// The agent said that it waits, or works again: told when it stays so.
    pub(super) fn activity(&mut self, now: Now, id: RunId) {
        let Some(session) = self.sessions.get(&id.session) else { return };
        let timer = Timer::Activity(id);
        let told = session.progress.idle == session.progress.waits;
        if told || session.run.verdict.is_some() {
            self.timers.clear(&timer);
        } else if self.timers.when(&timer).is_none() {
            self.timers.set(timer, now.mono.after(ACTIVITY_LASTS));
        }
    }

    pub(super) fn activity_lasted(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session).filter(|session| session.run_id() == id)
        else {
            return;
        };
        if session.run.phase() != Phase::Running {
            return;
        }
        session.progress.idle = session.progress.waits;
        let kind = if session.progress.idle { EventKind::Idle } else { EventKind::Active };
        self.publish(now, kind, id, None, out);
    }
}
