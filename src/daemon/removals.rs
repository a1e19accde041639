//! The files of forgotten sessions: taken away together, on one thread, and at the latest when the daemon stops.
//!
//! A directory that still has a session's name when its record is gone is one that the journal lost, for the next start
//! (rebuild.rs). So what counts is its renaming, and deleting it may be left to that start. Refuses to know why a session is
//! forgotten.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{spawn_blocking, spawn_local};

use crate::core::Effect;
use crate::core::vocab::RunId;
use crate::limits;

use super::journal::Written;
use super::{Daemon, Message};

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
    dir: PathBuf,
    condemned: PathBuf,
    /// Of all its runs. Put away with the verdict, most likely; one that is left would be taken for a session that was lost.
    exits: Vec<PathBuf>,
}

impl Removal {
    /// Leaves nothing that has the session's name.
    fn take_away(&self) {
        for exit in &self.exits {
            say_unless_missing(exit, fs::remove_file(exit));
        }
        // Gone at once or not at all: half a directory would be taken for a session that the journal lost.
        say_unless_missing(&self.dir, fs::rename(&self.dir, &self.condemned));
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
        self.removals.waiting.borrow_mut().push(self.removal_of(last));
        if !self.removals.under_way.replace(true) {
            let daemon = Rc::clone(self);
            spawn_local(async move {
                loop {
                    let some = daemon.removals.next();
                    if some.is_empty() {
                        break;
                    }
                    let removed = spawn_blocking(move || {
                        some.iter().for_each(Removal::take_away);
                        some.iter().for_each(|removal| remove_all(&removal.condemned));
                    });
                    let _panicked = removed.await;
                }
                daemon.removals.under_way.set(false);
            });
        }
    }

    fn removal_of(&self, last: RunId) -> Removal {
        let session = last.session;
        let exits = (1..=last.run).map(|run| self.home.run_files(RunId { session, run }).exit_path());
        Removal {
            dir: self.home.session(session),
            condemned: self.home.condemned(session),
            exits: exits.collect(),
        }
    }

    /// The daemon ends, its journal is flushed: nothing that is forgotten keeps its name. `messages`: what the journal has
    /// said last, and nobody has heard.
    pub(super) fn end_removals(&self, messages: &mut UnboundedReceiver<Message>) {
        let mut durable = self.durable.get();
        while let Ok(message) = messages.try_recv() {
            if let Message::Written(Written::Upto(upto)) = message {
                durable = durable.max(upto);
            }
        }
        let pending = self.pending.borrow();
        let effects = pending.iter().filter(|pending| pending.upto <= durable).flat_map(|it| &it.effects);
        let late =
            effects.filter_map(|effect| if let Effect::Remove(last) = effect { Some(*last) } else { None });
        let late: Vec<_> = late.map(|last| self.removal_of(last)).collect();
        self.removals.waiting.take().iter().chain(&late).for_each(Removal::take_away);
    }
}

/// Removes a directory that has no name of a session any more; what a crash leaves of it is swept at the next start.
pub(super) fn remove_all(condemned: &Path) {
    say_unless_missing(condemned, fs::remove_dir_all(condemned));
}

fn say_unless_missing(path: &Path, removed: io::Result<()>) {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("remove {}: {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}
