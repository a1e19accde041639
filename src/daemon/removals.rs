//! The files of forgotten sessions: taken away together, on one thread.
//!
//! A directory that still has a session's name when its record is gone is one that the journal lost, for the next start
//! (rebuild.rs). So the journal keeps a note of each session that it forgot until no file has the session's name any more;
//! what a crash, or a disk that refuses, left of it is taken away at the next start. Refuses to know why a session is
//! forgotten.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::task::{spawn_blocking, spawn_local};

use crate::core::vocab::{RunId, SessionId};
use crate::limits;

use super::journal::Row;
use super::{Daemon, Home};

/// What is still to be taken away.
#[derive(Debug, Default)]
pub(super) struct Removals {
    waiting: RefCell<Vec<Removal>>,
    under_way: Cell<bool>,
}

impl Removals {
    fn next(&self) -> Vec<Removal> {
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().min(limits::TIDY_AT_ONCE_MAX);
        waiting.drain(..count).collect()
    }
}

/// One session's files.
#[derive(Debug)]
struct Removal {
    session: SessionId,
    dir: PathBuf,
    condemned: PathBuf,
    /// Of all its runs. Put away with the verdict, most likely; one that is left would be taken for a session that was lost.
    exits: Vec<PathBuf>,
}

impl Removal {
    /// Leaves nothing that has the session's name; answers whether that is so.
    fn take_away(&self) -> bool {
        let mut gone = true;
        for exit in &self.exits {
            gone &= is_removed(exit, fs::remove_file(exit));
        }
        // Gone at once or not at all: half a directory would be taken for a session that the journal lost.
        gone & is_removed(&self.dir, fs::rename(&self.dir, &self.condemned))
    }
}

impl Daemon {
    /// Has the files of a forgotten session removed. `last`: the latest of its runs.
    pub(super) fn remove_files(self: &Rc<Self>, last: RunId) {
        let session = last.session;
        for run in (1..=last.run).map(|run| RunId { session, run }) {
            self.pauses.borrow_mut().remove(&run);
            self.handles.borrow_mut().remove(&run);
        }
        for run in self.afterwards.forget(session) {
            self.archiving.borrow_mut().remove(&run);
        }
        self.remove_runs(session, 1..=last.run);
    }

    /// The same, where nothing else is known of the session: of one that an earlier daemon forgot.
    pub(super) fn remove_runs(self: &Rc<Self>, session: SessionId, runs: impl IntoIterator<Item = u32>) {
        let exits = runs.into_iter().map(|run| self.home.run_files(RunId { session, run }).exit_path());
        let removal = Removal {
            session,
            dir: self.home.session(session),
            condemned: self.home.condemned(session),
            exits: exits.collect(),
        };
        self.removals.waiting.borrow_mut().push(removal);
        if !self.removals.under_way.replace(true) {
            let daemon = Rc::clone(self);
            spawn_local(async move {
                loop {
                    let some = daemon.removals.next();
                    if some.is_empty() {
                        break;
                    }
                    let home = daemon.home.clone();
                    let removed = spawn_blocking(move || {
                        let gone = take_away(&home, &some);
                        some.iter().for_each(|removal| remove_all(&removal.condemned));
                        gone
                    });
                    // A panic has been told; the notes stay for the next start.
                    daemon.removed(removed.await.unwrap_or_default());
                }
                daemon.removals.under_way.set(false);
            });
        }
    }

    /// Nothing has the names of these any more: the journal may forget that it forgot them.
    fn removed(&self, gone: Vec<SessionId>) {
        let rows: Vec<_> = gone.into_iter().map(|session| Row::NoteGone { name: note_of(session) }).collect();
        if !rows.is_empty() {
            self.journal.commit_later(rows, self.core.borrow().appended());
        }
    }

    /// The daemon ends: what was waiting keeps no name of a session. What was not even begun is the next start's.
    pub(super) fn end_removals(&self) {
        for removal in self.removals.waiting.take() {
            removal.take_away();
        }
    }
}

/// The name of a forgotten session's note in the journal.
pub(super) fn note_of(session: SessionId) -> String {
    format!("forgotten {session}")
}

/// Answers which sessions are gone for good, also after a loss of power.
fn take_away(home: &Home, removals: &[Removal]) -> Vec<SessionId> {
    let gone = removals.iter().filter(|removal| removal.take_away()).map(|removal| removal.session);
    let gone: Vec<_> = gone.collect();
    for dir in [home.sessions(), home.exits()] {
        if let Err(error) = File::open(&dir).and_then(|dir| dir.sync_all()) {
            tracing::warn!(
                "sync {}: {error}; what is forgotten is looked for at the next start",
                dir.display()
            );
            return Vec::new();
        }
    }
    gone
}

/// Removes a directory that has no name of a session any more; what a crash leaves of it is swept at the next start.
pub(super) fn remove_all(condemned: &Path) {
    is_removed(condemned, fs::remove_dir_all(condemned));
}

/// Whether it is away; says why not.
fn is_removed(path: &Path, removed: io::Result<()>) -> bool {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("remove {}: {error}", path.display());
            false
        }
        Ok(()) | Err(_) => true,
    }
}
