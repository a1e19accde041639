//! Signals of trouble: an agent that lives on after its work, and a run that shows no sign of life.
//!
//! Soft, as the agent's mood is (activity.rs): told, shown, counted, and no evidence of anything. Silence never ends a
//! run. One that lingers is ended only where its launch asked for that, and only on a word of the agent's that is
//! still its last when its output is read once more: no answer, no end.

use std::time::Duration;

use super::fuse::StopCause;
use super::record::EventKind;
use super::session::{Phase, Session};
use super::supervisor::Supervisor;
use super::timers::Timer;
use super::vocab::{Now, RunId};
use super::{Effect, Step};

/// An agent that still lives so long after its last word is told to linger. Real ones are gone within a second or two.
const LINGERS_AFTER: Duration = Duration::from_secs(5);
/// So many percent of the time count as no processor time. Agents that wait for a model which never answers were measured
/// to use up to 1.7, one that reads its answer word by word 16 and more.
const STILL_PERCENT: u32 = 3;

/// What a run shows of its life at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sample {
    Seen(Signs),
    /// It could not be told; says why. Not the same as no sign.
    Unknown(String),
}

/// The signs of life of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signs {
    /// Bytes that it has printed.
    pub output_bytes: u64,
    /// Processor time of the leader and its helpers, and of the children that they have waited for.
    pub cpu: Duration,
    /// Living processes of its tree that the agent itself is made of, beside the leader.
    pub helpers: u32,
    /// The others: work under way.
    pub others: u32,
}

impl Signs {
    /// Whether nothing of the run has moved since `before`, which was `earlier`, and nobody works for it.
    fn are_still(&self, before: &Self, earlier: Duration) -> bool {
        let nobody = self.others == 0 && before.others == 0;
        // With a helper that ended, its share is gone.
        let little =
            self.cpu.checked_sub(before.cpu).is_some_and(|used| used <= earlier * STILL_PERCENT / 100);
        nobody && little && self.helpers == before.helpers && self.output_bytes == before.output_bytes
    }
}

/// The agent has said that its work is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    pub since: Now,
    /// It was told that it lingers.
    pub told: bool,
    /// It is to be ended, if this is still its last word.
    pub asked: bool,
}

/// The last look at a run's signs of life that differed from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quiet {
    pub since: Now,
    pub signs: Signs,
    /// It was told that the run is stuck.
    pub told: bool,
}

impl Session {
    /// Since when the agent has lived on after its work, if it is told to linger.
    pub fn lingers_since(&self) -> Option<Now> {
        let over = self.progress.over.filter(|over| over.told && self.run.phase() == Phase::Running)?;
        Some(over.since)
    }

    /// Since when, at the latest, no sign of life was seen, if the run is told to be stuck.
    pub fn stuck_since(&self) -> Option<Now> {
        let quiet =
            self.progress.quiet.as_ref().filter(|quiet| quiet.told && self.run.phase() == Phase::Running)?;
        Some(quiet.since)
    }
}

impl Supervisor {
    fn running(&mut self, id: RunId) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&id.session)?;
        (session.run_id() == id && session.run.phase() == Phase::Running).then_some(session)
    }

    /// The agent said that its work is over; or, asked for its last word, that it still is.
    pub(super) fn work_over(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session).filter(|s| s.run.verdict.is_none()) else {
            return;
        };
        match session.progress.over {
            None => {
                session.progress.over = Some(Over { since: now, told: false, asked: false });
                let patience = session.spec.linger.map_or(LINGERS_AFTER, |linger| linger.min(LINGERS_AFTER));
                self.timers.set(Timer::Linger(id), now.mono.after(patience));
            }
            Some(Over { asked: true, .. }) => self.end_early(now, id, StopCause::Lingered, out),
            Some(Over { asked: false, .. }) => {}
        }
    }

    /// It works again, or waits for more work.
    pub(super) fn work_goes_on(&mut self, id: RunId) {
        if let Some(session) = self.sessions.get_mut(&id.session) {
            session.progress.over = None;
        }
        self.timers.clear(&Timer::Linger(id));
    }

    /// It has lived on for a while. Before it is ended for that, its output is read up to its end.
    pub(super) fn lingered(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.running(id) else { return };
        let linger = session.spec.linger;
        let Some(over) = &mut session.progress.over else { return };
        let first = !std::mem::replace(&mut over.told, true);
        let end_at = linger.map(|linger| over.since.mono.after(linger));
        over.asked = end_at.is_some_and(|at| at <= now.mono);
        if over.asked {
            out.effects.push(Effect::ReadOn(id));
        } else if let Some(at) = end_at {
            self.timers.set(Timer::Linger(id), at);
        }
        if first {
            self.counters.lingering += 1;
            self.publish(now, EventKind::Lingering, id, None, out);
        }
    }

    /// From here on the run's signs of life are looked at, once in the time that its launch names.
    pub(super) fn watch_for_life(&mut self, now: Now, id: RunId) {
        if let Some(after) = self.running(id).and_then(|session| session.spec.stuck) {
            self.timers.set(Timer::Stuck(id), now.mono.after(after));
        }
    }

    pub(super) fn look_for_life(&mut self, id: RunId, out: &mut Step) {
        if self.running(id).is_some() {
            out.effects.push(Effect::Sample(id));
        }
    }

    /// What the look came to. Only two looks that both succeeded, with nothing moved between them, say that it is stuck.
    pub(super) fn sampled(&mut self, now: Now, id: RunId, sample: &Sample, out: &mut Step) {
        let Some(session) = self.running(id) else { return };
        let mut newly_stuck = false;
        let quiet = match (sample, session.progress.quiet.as_deref()) {
            (Sample::Unknown(_), _) => None,
            (Sample::Seen(signs), Some(quiet))
                if signs.are_still(&quiet.signs, now.mono.since(quiet.since.mono)) =>
            {
                newly_stuck = !quiet.told;
                Some(Quiet { told: true, ..*quiet })
            }
            (Sample::Seen(signs), _) => Some(Quiet { since: now, signs: *signs, told: false }),
        };
        session.progress.quiet = quiet.map(Box::new);
        self.watch_for_life(now, id);
        if newly_stuck {
            self.counters.stuck += 1;
            self.publish(now, EventKind::Stuck, id, None, out);
        }
    }
}
