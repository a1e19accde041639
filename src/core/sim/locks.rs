//! Directories in the simulated world: who asks for which, and that no two who did not force it are ever in one.

use super::super::directory::{DirId, Directory};
use super::super::fuse::Reason;
use super::super::locks::{Claim, IfTaken, LockRequest};
use super::super::record::Record;
use super::super::session::{Spec, Verdict};
use super::super::vocab::{Leftovers, RunId};
use super::super::{Event, Request};
use super::{Leader, Truth, World};

/// Few, so that sessions meet. The second is the first one, bound to another name.
const DIRECTORIES: [(&str, u64); 3] = [("/w", 5), ("/mnt/w", 5), ("/w/below", 6)];

/// The name that is meant by this number.
fn directory(number: usize, boot: u64) -> Directory {
    let (path, ino) = DIRECTORIES[number];
    Directory { path: path.into(), id: Some(DirId { dev: 1, ino, boot: format!("b{boot}") }) }
}

/// Sessions that may run at once.
pub(super) const PLACES: usize = 2;

/// Whether two work in one directory, as far as that can be told: numbers of another boot say nothing.
fn is_one(a: &Truth, b: &Truth) -> bool {
    directory(a.directory, a.dir_boot).is(&directory(b.directory, b.dir_boot))
}

impl World {
    /// Chooses where a run works, and what it does when somebody is there.
    pub(super) fn settle(&mut self, id: RunId, spec: Spec) -> Spec {
        let number = self.dice.below(DIRECTORIES.len());
        let claim = self.claim(id, number);
        Spec { cwd: directory(number, self.boot).path, claim, ..spec }
    }

    pub(super) fn claim(&mut self, id: RunId, number: usize) -> Claim {
        let if_taken = match self.dice.below(4) {
            0 => IfTaken::Force,
            1 => IfTaken::Refuse,
            _ => IfTaken::Queue,
        };
        let (boot, queue) = (self.boot, if_taken == IfTaken::Queue);
        let dir = directory(number, boot).id;
        let truth = self.truth(id);
        (truth.directory, truth.dir_boot, truth.forced) = (number, boot, if_taken == IfTaken::Force);
        (truth.queue, truth.parcel) = (queue, queue);
        Claim { dir, if_taken }
    }

    /// Somebody locks or unlocks a directory by hand.
    pub(super) fn somebody_locks(&mut self) {
        let directory = directory(self.dice.below(DIRECTORIES.len()), self.boot);
        let request = match self.dice.one_in(3) {
            true => LockRequest::Acquire { directory, by: "a".into(), reason: None },
            false => LockRequest::Release(directory),
        };
        self.replies += 1;
        self.lock_replies.insert(self.replies);
        let to = super::ReplyTo(self.replies);
        self.feed(Event::Request(to, Request::Lock(request)));
    }

    /// A leader comes to life: nobody else is where it is, unless one of the two was forced, or started outside.
    pub(super) fn check_alone(&self, id: RunId) {
        let me = &self.runs[&id];
        if me.adopted || me.hidden.is_some() {
            return;
        }
        let alive =
            self.runs.values().filter(|truth| truth.leader == Leader::Alive && truth.hidden.is_none());
        assert!(alive.count() <= PLACES, "{id:?} runs without a place");
        if me.forced {
            return;
        }
        let there = |truth: &Truth| {
            let lives = truth.leader == Leader::Alive
                || (truth.leftovers == Leftovers::Kill
                    && truth.rest > 0
                    && !matches!(truth.leader, Leader::Unborn));
            lives && !truth.forced && !truth.adopted && truth.hidden.is_none()
        };
        let other =
            self.runs.iter().find(|(other, truth)| **other != id && there(truth) && is_one(truth, me));
        assert!(other.is_none(), "{id:?} and {:?} are in one directory", other.map(|(id, _)| id));
    }

    /// The runs that wait, in the order in which the journal has them.
    fn waiting(&self) -> Vec<RunId> {
        let mut waiting = Vec::new();
        for record in &self.journal {
            match record {
                Record::Created { session, run, queued: true, .. } => {
                    waiting.push(RunId { session: *session, run: *run });
                }
                Record::Resumed { run, queued: true, .. } => waiting.push(*run),
                Record::Dequeued { run, .. } | Record::Ended { run, .. } => {
                    waiting.retain(|waits| waits != run);
                }
                _ => {}
            }
        }
        waiting
    }

    /// Whether it is in the line.
    pub(super) fn is_waiting(&self, run: RunId) -> bool {
        self.waiting().contains(&run)
    }

    /// First in, first out.
    pub(super) fn check_order(&self, record: &Record) {
        let Record::Dequeued { run, .. } = record else { return };
        let me = &self.runs[run];
        let waiting = self.waiting();
        let first = waiting.iter().find(|waits| is_one(&self.runs[waits], me));
        // One whose launch was begun already, and is begun again, is in no line any more.
        let again = !waiting.contains(run);
        assert!(again || first == Some(run), "{run:?} overtakes {first:?}");
    }

    /// What was queued is not given up because a daemon died at the wrong moment.
    pub(super) fn check_not_forgotten(&self, run: RunId, verdict: &Verdict) {
        let queued = self.journal.iter().any(|record| match record {
            Record::Created { session, run: number, queued: true, .. } => {
                RunId { session: *session, run: *number } == run
            }
            Record::Resumed { run: resumed, queued: true, .. } => *resumed == run,
            _ => false,
        });
        let stopped = self
            .journal
            .iter()
            .any(|record| matches!(record, Record::StopRequested { run: stopped, .. } if *stopped == run));
        let forgotten = queued && !stopped && verdict.reason == Reason::NeverStarted;
        assert!(!forgotten, "{run:?} was queued and is given up: {verdict:?}");
    }

    /// Nothing is to be in the way for ever.
    pub(super) fn unlock_all(&mut self) {
        let Some(daemon) = &self.daemon else { return };
        let locked: Vec<_> = daemon.manual_locks().map(super::super::locks::ManualLock::place).collect();
        for directory in locked {
            self.replies += 1;
            self.lock_replies.insert(self.replies);
            let to = super::ReplyTo(self.replies);
            self.feed(Event::Request(to, Request::Lock(LockRequest::Release(directory))));
        }
    }

    /// Nothing is begun in a directory that is locked by hand.
    pub(super) fn check_not_locked(&self, record: &Record) {
        let (id, if_taken) = match record {
            Record::Created { session, run, spec, origin, queued: false, .. }
                if spec.hidden().is_none() && *origin == super::Origin::Launched =>
            {
                (RunId { session: *session, run: *run }, spec.claim.if_taken)
            }
            Record::Resumed { run, claim, queued: false, .. } => (*run, claim.if_taken),
            Record::Dequeued { run, .. } if self.is_waiting(*run) => (*run, IfTaken::Queue),
            _ => return,
        };
        if if_taken == IfTaken::Force {
            return;
        }
        let mine = &self.runs[&id];
        let mine = directory(mine.directory, mine.dir_boot);
        let mut locked = std::collections::BTreeMap::new();
        for record in &self.journal {
            match record {
                Record::Locked { lock } => {
                    locked.insert(lock.directory.clone(), lock.place());
                }
                Record::Unlocked { directory, .. } => {
                    locked.remove(directory);
                }
                _ => {}
            }
        }
        let lock = locked.values().find(|lock| lock.is(&mine));
        assert!(lock.is_none(), "{id:?} begins in {lock:?}");
    }
}
