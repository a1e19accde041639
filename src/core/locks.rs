//! Directory locks: who holds which directory, what is refused for that, and the locks that people set by hand.
//!
//! A session's lock is no record of its own. It follows from the session's records: it begins with the launch and ends
//! when nothing of the tree is left (with `leftovers: keep` at the verdict), so it can neither be lost nor left over. A lock
//! by hand is a record, released by a record, and holds until somebody releases it. Hooks hold nothing: they belong to a
//! session that has its directory, or had it. Refuses to know what a directory is (directory.rs) and how it was looked at.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::directory::{DirId, Directory, Whereabouts};
use super::record::{EventKind, Record};
use super::refusal::Refusal;
use super::session::{Session, Spec};
use super::supervisor::Supervisor;
use super::vocab::{Leftovers, Now, SessionId, Wall};
use super::{Reply, ReplyTo, Step};

/// Locks by hand at once.
const LOCKS_MAX: usize = 10_000;
/// Held directories below one that a launch names are warned of by name up to this number.
const NAMED_BELOW_MAX: usize = 3;

/// What a launch is about to take, and what it does when that is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Claim {
    /// The working directory's device and inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<DirId>,
    #[serde(skip_serializing_if = "IfTaken::is_usual")]
    pub if_taken: IfTaken,
}

impl Claim {
    /// Whether it says nothing.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

/// What a launch does when somebody has its directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IfTaken {
    /// It is refused.
    #[default]
    Refuse,
    /// It goes ahead; who was there is not disturbed.
    Force,
    /// It waits for its turn (queue.rs).
    Queue,
}

impl IfTaken {
    fn is_usual(&self) -> bool {
        *self == Self::Refuse
    }
}

/// A lock that somebody set by hand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManualLock {
    /// The real path.
    pub directory: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<DirId>,
    pub by: String,
    pub reason: Option<String>,
    pub at: Wall,
}

impl ManualLock {
    /// Which directory it is on.
    pub fn place(&self) -> Directory {
        Directory { path: self.directory.clone(), id: self.id.clone() }
    }
}

/// What may be asked of locks by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockRequest {
    Acquire { directory: Directory, by: String, reason: Option<String> },
    Release(Directory),
}

/// Who holds which directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    manual: BTreeMap<String, ManualLock>,
    manual_at: Whereabouts<String>,
    /// By session, so that a directory is let go as it was taken.
    held: HashMap<SessionId, Directory>,
    held_at: Whereabouts<SessionId>,
}

impl Locks {
    /// From now on the session holds this directory, or none; the one that it let go.
    fn follow(&mut self, session: SessionId, now: Option<Directory>) -> Option<Directory> {
        if self.held.get(&session) == now.as_ref() {
            return None;
        }
        let before = self.held.remove(&session);
        if let Some(before) = &before {
            self.held_at.remove(before, &session);
        }
        if let Some(now) = now {
            self.held_at.insert(&now, session);
            self.held.insert(session, now);
        }
        before
    }

    fn set(&mut self, lock: &ManualLock) {
        self.manual_at.insert(&lock.place(), lock.directory.clone());
        self.manual.insert(lock.directory.clone(), lock.clone());
    }

    fn unset(&mut self, directory: &str) -> Option<ManualLock> {
        let lock = self.manual.remove(directory)?;
        self.manual_at.remove(&lock.place(), &lock.directory);
        Some(lock)
    }

    fn manual_on(&self, directory: &Directory) -> Option<&ManualLock> {
        self.manual.get(self.manual_at.first(directory)?)
    }

    /// Why somebody who takes no for an answer cannot have a directory. A lock by hand is named first.
    pub(super) fn taken(&self, directory: &Directory) -> Option<Refusal> {
        if let Some(lock) = self.manual_on(directory) {
            return Some(Refusal::Locked { by: lock.by.clone(), reason: lock.reason.clone() });
        }
        self.held_at.first(directory).map(|session| Refusal::InUse(*session))
    }

    /// What somebody who takes this directory should know of those around it.
    fn warnings(&self, path: &str) -> Vec<String> {
        let in_use = |at: &str, session: &SessionId| format!("{at} is in use by session {}", session.short());
        let locked = |at: &str, key: &String| match self.manual.get(key) {
            Some(ManualLock { by, reason: Some(reason), .. }) => format!("{at} is locked by {by}: {reason}"),
            Some(ManualLock { by, reason: None, .. }) => format!("{at} is locked by {by}"),
            None => format!("{at} is locked"),
        };
        let above = self.manual_at.above(path).map(|(at, key)| locked(at, key));
        let above = above.into_iter().chain(self.held_at.above(path).map(|(at, who)| in_use(at, who)));
        let above = above.map(|what| format!("the directory is inside of another that is taken: {what}"));
        let below = self.manual_at.below(path).map(|(at, key)| locked(at, key));
        let mut below = below.chain(self.held_at.below(path).map(|(at, who)| in_use(at, who)));
        let mut warnings: Vec<String> = above.collect();
        for what in below.by_ref().take(NAMED_BELOW_MAX) {
            warnings.push(format!("a directory inside of this one is taken: {what}"));
        }
        if below.next().is_some() {
            warnings.push("more directories inside of this one are taken; see: agentctl locks".into());
        }
        warnings
    }
}

impl Spec {
    /// Where it is to work.
    pub fn directory(&self) -> Directory {
        Directory { path: self.cwd.clone(), id: self.claim.dir.clone() }
    }
}

impl Session {
    /// Where it works; none where that is not known, as of some that were started outside.
    pub fn directory(&self) -> Option<Directory> {
        let known = !self.spec.cwd.is_empty();
        known.then(|| self.spec.directory())
    }

    /// Whether it holds its directory: a function of its records.
    pub fn holds_directory(&self) -> bool {
        let over = match (&self.run.verdict, self.spec.leftovers) {
            (None, _) => false,
            (Some(_), Leftovers::Kill) => self.run.tree_settled,
            (Some(_), Leftovers::Keep) => true,
        };
        !over && !self.is_hidden() && !self.run.is_queued()
    }
}

impl Supervisor {
    /// What a record changed of who holds what.
    pub(super) fn follow_locks(&mut self, id: SessionId) {
        let holds = self.sessions.get(&id).filter(|session| session.holds_directory());
        let directory = holds.and_then(Session::directory);
        if let Some(let_go) = self.locks.follow(id, directory) {
            self.queue.let_go(let_go);
        }
    }

    pub(super) fn apply_lock(&mut self, lock: &ManualLock) {
        self.locks.set(lock);
    }

    pub(super) fn apply_unlock(&mut self, directory: &str) {
        if let Some(lock) = self.locks.unset(directory) {
            self.queue.let_go(lock.place());
        }
    }

    /// What a launch is told of the directories around its own.
    pub(super) fn warnings_for(&self, directory: Option<&Directory>) -> Vec<String> {
        directory.map(|directory| self.locks.warnings(&directory.path)).unwrap_or_default()
    }

    pub(super) fn lock_request(&mut self, now: Now, to: ReplyTo, request: LockRequest, out: &mut Step) {
        let done = match (self.not_now(), request) {
            (Some(refusal), _) => Err(refusal),
            (None, LockRequest::Acquire { directory, by, reason }) => {
                self.acquire(now, directory, by, reason, out)
            }
            (None, LockRequest::Release(directory)) => self.release(now, &directory, out),
        };
        out.reply(to, done.map_or_else(Reply::Refused, |lock| Reply::Lock(Box::new(lock))));
    }

    fn acquire(
        &mut self,
        now: Now,
        directory: Directory,
        by: String,
        reason: Option<String>,
        out: &mut Step,
    ) -> Result<ManualLock, Refusal> {
        if let Some(ManualLock { by, reason, .. }) = self.locks.manual_on(&directory).cloned() {
            return Err(Refusal::AlreadyLocked { by, reason });
        }
        if self.locks.manual.len() >= LOCKS_MAX {
            return Err(Refusal::TooManyLocks(LOCKS_MAX));
        }
        let Directory { path, id } = directory;
        let lock = ManualLock { directory: path, id, by, reason, at: now.wall };
        self.record(now, Record::Locked { lock: lock.clone() }, out);
        self.publish_lock(now, EventKind::LockAcquired, lock.clone(), out);
        Ok(lock)
    }

    fn release(&mut self, now: Now, directory: &Directory, out: &mut Step) -> Result<ManualLock, Refusal> {
        let Some(lock) = self.locks.manual_on(directory).cloned() else {
            return Err(Refusal::NotLocked(directory.path.clone()));
        };
        self.record(now, Record::Unlocked { directory: lock.directory.clone(), at: now.wall }, out);
        self.publish_lock(now, EventKind::LockReleased, lock.clone(), out);
        Ok(lock)
    }

    /// A session that has this directory although its verdict is out: what remains of its tree is being ended.
    pub fn leaving(&self, directory: &Directory) -> Option<SessionId> {
        let Some(Refusal::InUse(id)) = self.locks.taken(directory) else { return None };
        self.sessions.get(&id).filter(|session| session.is_leaving()).map(|_| id)
    }

    /// All locks by hand, by path.
    pub fn manual_locks(&self) -> impl ExactSizeIterator<Item = &ManualLock> {
        self.locks.manual.values()
    }

    /// All sessions that hold a directory, in no order.
    pub fn holders(&self) -> impl ExactSizeIterator<Item = SessionId> {
        self.locks.held.keys().copied()
    }
}
