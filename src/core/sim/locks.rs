//! Directories in the simulated world: who asks for which, and that no two who did not force it are ever in one.

use super::super::directory::{DirId, Directory};
use super::super::locks::{Claim, IfTaken, LockRequest};
use super::super::record::Record;
use super::super::session::Spec;
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

/// Whether two of these names are one directory within a boot.
fn is_one(a: usize, b: usize) -> bool {
    DIRECTORIES[a].1 == DIRECTORIES[b].1
}

impl World {
    /// Chooses where a run works, and what it does when somebody is there.
    pub(super) fn settle(&mut self, id: RunId, spec: Spec) -> Spec {
        let number = self.dice.below(DIRECTORIES.len());
        let claim = self.claim(id, number);
        Spec { cwd: directory(number, self.boot).path, claim, ..spec }
    }

    pub(super) fn claim(&mut self, id: RunId, number: usize) -> Claim {
        let if_taken = if self.dice.one_in(4) { IfTaken::Force } else { IfTaken::Refuse };
        let dir = directory(number, self.boot).id;
        let truth = self.truth(id);
        (truth.directory, truth.forced) = (number, if_taken == IfTaken::Force);
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
        if me.forced || me.adopted || me.hidden.is_some() {
            return;
        }
        let there = |truth: &Truth| {
            let lives = truth.leader == Leader::Alive
                || (truth.leftovers == Leftovers::Kill
                    && truth.rest > 0
                    && !matches!(truth.leader, Leader::Unborn));
            lives && !truth.forced && !truth.adopted && truth.hidden.is_none()
        };
        let other = self
            .runs
            .iter()
            .find(|(other, truth)| **other != id && there(truth) && is_one(truth.directory, me.directory));
        assert!(other.is_none(), "{id:?} and {:?} are in one directory", other.map(|(id, _)| id));
    }

    /// Nothing is begun in a directory that is locked by hand.
    pub(super) fn check_not_locked(&self, record: &Record) {
        let (id, if_taken) = match record {
            Record::Created { session, run, spec, origin, .. }
                if spec.hidden().is_none() && *origin == super::Origin::Launched =>
            {
                (RunId { session: *session, run: *run }, spec.claim.if_taken)
            }
            Record::Resumed { run, claim, .. } => (*run, claim.if_taken),
            _ => return,
        };
        if if_taken == IfTaken::Force {
            return;
        }
        let mine = directory(self.runs[&id].directory, self.boot);
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
