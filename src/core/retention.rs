//! What is forgotten, and when: by request, by age, and where the files take too much of the disk.
//!
//! Refuses to forget what has not ended, what is not settled, and what still owes a delivery that is on its way.

use std::time::Duration;

use super::record::Record;
use super::supervisor::Supervisor;
use super::timers::Timer;
use super::vocab::{Now, RunId, SessionId, Wall};
use super::{Effect, Reply, ReplyTo, Step};

/// What a request to forget came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pruned {
    pub sessions: Vec<SessionId>,
    /// Ended, and still needed.
    pub kept: usize,
    /// Nothing was forgotten.
    pub dry_run: bool,
}

impl Supervisor {
    pub(super) fn prune(
        &mut self,
        now: Now,
        to: ReplyTo,
        older_than: Option<Duration>,
        dry_run: bool,
        out: &mut Step,
    ) {
        let old = |ended: Wall| older_than.is_none_or(|age| now.wall.since(ended) >= age);
        let ended = self.settled.iter().filter(|(ended, _)| old(*ended)).map(|(_, id)| *id);
        let (sessions, kept): (Vec<_>, Vec<_>) = ended.partition(|id| self.forgettable(*id).is_some());
        for session in sessions.iter().filter(|_| !dry_run) {
            self.forget(now, *session, out);
        }
        out.reply(to, Reply::Pruned(Pruned { sessions, kept: kept.len(), dry_run }));
    }

    pub(super) fn sized(&mut self, now: Now, id: SessionId, bytes: u64, out: &mut Step) {
        if !self.sessions.contains_key(&id) {
            return;
        }
        let before = self.sizes.insert(id, bytes).unwrap_or(0);
        self.bytes = self.bytes - before + bytes;
        self.forget_hook(now, id, out);
        self.forget_excess(now, out);
    }

    /// The oldest go first, until the rest fits. While all fits, the settled are not even looked through.
    pub(super) fn forget_excess(&mut self, now: Now, out: &mut Step) {
        if self.bytes <= self.settings.disk_max_bytes {
            return;
        }
        let fuses: Vec<_> = self.dir_fuses().over().map(|fuse| fuse.spec.id).collect();
        for fuse in fuses {
            if self.bytes <= self.settings.disk_max_bytes {
                return;
            }
            self.forget_fuse(now, fuse, out);
        }
        let oldest_first: Vec<_> = self.settled.iter().map(|(_, id)| *id).collect();
        for oldest in oldest_first {
            if self.bytes <= self.settings.disk_max_bytes {
                break;
            }
            self.forget(now, oldest, out);
        }
    }

    pub(super) fn arm_retention(&mut self, now: Now) {
        let Some((ended, _)) = self.settled.first() else { return };
        let age = now.wall.since(*ended);
        self.timers.set(Timer::Retention, now.mono.after(self.settings.retention.saturating_sub(age)));
    }

    pub(super) fn forget_old(&mut self, now: Now, out: &mut Step) {
        self.forget_fuses(now, out);
        let retention = self.settings.retention;
        let old: Vec<_> =
            self.settled.iter().take_while(|(ended, _)| now.wall.since(*ended) >= retention).collect();
        let old: Vec<_> = old.into_iter().map(|(_, id)| *id).collect();
        let mut kept = false;
        for id in old {
            kept |= !self.forget(now, id, out);
        }
        if kept {
            // One that owes deliveries is looked at again tomorrow, not in a loop.
            self.timers.set(Timer::Retention, now.mono.after(Duration::from_secs(24 * 3600)));
        } else {
            self.arm_retention(now);
        }
    }

    /// Forgets a session that has ended, is settled and owes nothing that is on its way.
    pub(super) fn forget(&mut self, now: Now, id: SessionId, out: &mut Step) -> bool {
        let Some(last) = self.forgettable(id) else { return false };
        self.drop_owed(now, id, out);
        self.record(now, Record::Pruned { session: id }, out);
        out.effects.push(Effect::Remove(last));
        true
    }

    pub(super) fn apply_pruned(&mut self, id: SessionId) {
        let Some(session) = self.sessions.remove(&id) else { return };
        if let Some(verdict) = &session.run.verdict {
            self.settled.remove(&(verdict.decided.wall, id));
        }
        if let Some(request) = &session.request {
            self.keys.remove(&request.key);
        }
        // Those of its earlier runs are known by their session alone.
        if session.run.number > 1 {
            self.keys.retain(|_, (_, session)| *session != id);
        }
        self.bytes -= self.sizes.remove(&id).unwrap_or(0);
    }

    /// The latest run of a session, where nothing is on its way that needs it.
    fn forgettable(&self, id: SessionId) -> Option<RunId> {
        let session = self.sessions.get(&id)?;
        let run = session.run_id();
        let settled = session.is_settled() && self.may_tell(session);
        (settled && !self.keeps(session.id) && !self.has_hook(run)).then_some(run)
    }
}
