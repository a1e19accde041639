//! What follows a verdict and nobody waits for: its file and the exit file's way beside it, and how much a session takes.
//!
//! Done together and on one thread, once no verdict has come for a while: a session's end is to be told before anybody
//! tidies up after another one. What a crash leaves of it is found by the next start, in `exits/` (exit_files.rs).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::sleep;

use crate::core::Event;
use crate::core::vocab::{RunId, SessionId};
use crate::limits;

use super::Daemon;
use super::exit_files::{Put, PutAway, VerdictBytes, exit_file, size_of, verdict_file};

/// No verdict for so long: there is calm.
const CALM: Duration = Duration::from_millis(5);

/// The same for work that a launch in the same directory may be waiting for.
const SHORT_CALM: Duration = Duration::from_millis(1);

/// What is still to be done.
#[derive(Debug, Default)]
pub(super) struct Afterwards {
    verdicts: Cell<u64>,
    under_way: Cell<bool>,
    archives: RefCell<Vec<Archive>>,
    /// What could not be written down, as on a full disk: tried again with the next verdict, and at the end.
    failed: RefCell<VecDeque<PutAway>>,
    sizes: RefCell<BTreeSet<SessionId>>,
}

/// A verdict that is durable, and not in its file yet.
#[derive(Debug)]
struct Archive {
    run: RunId,
    /// What goes there, where the record is about to be another run's.
    file: Option<VerdictBytes>,
}

impl Afterwards {
    /// A verdict is on its way.
    pub(super) fn verdict(&self) {
        self.verdicts.set(self.verdicts.get() + 1);
    }

    /// Forgets a session; answers the runs whose verdict will have no file.
    pub(super) fn forget(&self, session: SessionId) -> Vec<RunId> {
        self.sizes.borrow_mut().remove(&session);
        self.failed.borrow_mut().retain(|put_away| put_away.files.id().session != session);
        let mut archives = self.archives.borrow_mut();
        archives.extract_if(.., |archive| archive.run.session == session).map(|archive| archive.run).collect()
    }

    fn is_empty(&self) -> bool {
        self.archives.borrow().is_empty() && self.sizes.borrow().is_empty()
    }

    /// What is tried again with so many others, which tell whether it is time.
    fn again(&self, others: usize) -> Vec<PutAway> {
        let mut failed = self.failed.borrow_mut();
        let count = if others == 0 { 0 } else { failed.len().min(limits::TIDY_AT_ONCE_MAX) };
        failed.drain(..count).collect()
    }

    fn next_archives(&self) -> Vec<Archive> {
        let mut archives = self.archives.borrow_mut();
        let count = archives.len().min(limits::TIDY_AT_ONCE_MAX);
        archives.drain(..count).collect()
    }
}

/// Those that failed before, up to the first that fails again: on a disk that is still full the others would too. Blocks.
fn put_away_again(again: Vec<PutAway>) -> Vec<Put> {
    let mut again = again.into_iter();
    let mut done = Vec::new();
    while !matches!(done.last(), Some(Put::Nothing(_))) {
        let Some(next) = again.next() else { break };
        done.push(next.carry_out());
    }
    done.extend(again.map(Put::Nothing));
    done
}

impl Daemon {
    /// Has the verdict of a run put away.
    pub(super) fn archive_afterwards(self: &Rc<Self>, run: RunId) {
        self.afterwards.archives.borrow_mut().push(Archive { run, file: None });
        self.begin_afterwards();
    }

    /// Has sessions measured.
    pub(super) fn measure_afterwards(self: &Rc<Self>, sessions: impl IntoIterator<Item = SessionId>) {
        self.afterwards.sizes.borrow_mut().extend(sessions);
        self.begin_afterwards();
    }

    fn begin_afterwards(self: &Rc<Self>) {
        if !self.afterwards.is_empty() && !self.afterwards.under_way.replace(true) {
            let daemon = Rc::clone(self);
            spawn_local(async move {
                while !daemon.afterwards.is_empty() {
                    daemon.until_no_verdict_for(CALM).await;
                    daemon.do_some_afterwards().await;
                }
                daemon.afterwards.under_way.set(false);
            });
        }
    }

    /// Until no verdict has come for `span`, though not for ever.
    async fn until_no_verdict_for(&self, span: Duration) {
        for _ in 0..limits::CALM_LOOKS_MAX {
            let before = self.afterwards.verdicts.get();
            sleep(span).await;
            if self.afterwards.verdicts.get() == before && self.pending.borrow().is_empty() {
                return;
            }
        }
    }

    /// Until what is known of ends has been told.
    pub(super) async fn until_ends_are_told(&self) {
        self.until_no_verdict_for(SHORT_CALM).await;
    }

    /// Which sessions are to be measured, beside these whose verdict is put away.
    fn sessions_to_measure(&self, archives: &[Archive]) -> BTreeSet<SessionId> {
        let core = self.core.borrow();
        let mut sizes = self.afterwards.sizes.take();
        sizes.retain(|id| core.session(*id).is_some_and(|it| it.is_settled() && it.spec.hook_of.is_none()));
        // Others may still be written to, and are then cut: they are measured when that is over.
        let over =
            |id: &SessionId| core.session(*id).is_none_or(|it| it.is_settled() || it.spec.hook_of.is_some());
        sizes.extend(archives.iter().map(|archive| archive.run.session).filter(over));
        sizes
    }

    fn what_is_put_away(&self, Archive { run, file }: Archive) -> PutAway {
        let file = file.or_else(|| verdict_file(self, run));
        PutAway { files: self.home.run_files(run), dir: self.home.session(run.session), file }
    }

    async fn do_some_afterwards(self: &Rc<Self>) {
        let archives = self.afterwards.next_archives();
        let sizes = self.sessions_to_measure(&archives);
        let runs: Vec<_> = archives.iter().map(|archive| archive.run).collect();
        let again = self.afterwards.again(archives.len());
        let archives: Vec<_> = archives.into_iter().map(|archive| self.what_is_put_away(archive)).collect();
        let sizes: Vec<_> = sizes.into_iter().map(|id| (id, self.home.session(id))).collect();
        let done = spawn_blocking(move || {
            let mut left: Vec<_> = archives.into_iter().map(PutAway::carry_out).collect();
            left.extend(put_away_again(again));
            (left, sizes.into_iter().map(|(id, dir)| (id, size_of(&dir))).collect::<Vec<_>>())
        });
        let (left, sizes) = done.await.unwrap_or_default();
        for run in runs {
            self.archiving.borrow_mut().remove(&run);
        }
        for put in left {
            match put {
                Put::Away => {}
                Put::Beside(run) => exit_file(self, run),
                Put::Nothing(put_away) => {
                    // Unless it was forgotten meanwhile.
                    if self.core.borrow().session(put_away.files.id().session).is_some() {
                        self.afterwards.failed.borrow_mut().push_back(put_away);
                    }
                }
            }
        }
        for (id, bytes) in sizes {
            self.send(Event::Sized(id, bytes));
        }
    }

    /// The record of this session is about to be that of its next run: what its verdict's file says is taken from it now.
    pub(super) fn keep_verdict(&self, session: SessionId) {
        for archive in self.afterwards.archives.borrow_mut().iter_mut() {
            if archive.run.session == session && archive.file.is_none() {
                archive.file = verdict_file(self, archive.run);
            }
        }
    }

    /// The daemon ends: every verdict is put away.
    pub(super) fn end_afterwards(&self) {
        let archives =
            self.afterwards.archives.take().into_iter().map(|archive| self.what_is_put_away(archive));
        for put_away in archives.chain(self.afterwards.failed.take()) {
            // What is left is met by the next start.
            let _left = put_away.carry_out();
        }
    }
}
