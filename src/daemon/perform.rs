//! Effects carried out, one call per arm, and the kernel's news turned into evidence.
//!
//! Refuses to decide: what is found is reported as it is, and what cannot be found out is reported as that.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::{spawn_blocking, spawn_local};

use crate::core::agent::AgentReport;
use crate::core::fuse::{Evidence, Prong};
use crate::core::record::DeliveryId;
use crate::core::session::Run;
use crate::core::vocab::{ProcessId, RunId};
use crate::core::{Effect, Event};
use crate::sys::shown::Shown;
use crate::sys::tree::marks::{Ask, Mark};
use crate::sys::tree::{self, Tree};
use crate::sys::{Found, ProcessRef, Sent, cgroup};
use crate::wire::session_dir::{RunFiles, ShimLock};

use super::journal::Outgoing;
use super::old_tool::import::status_left;
use super::reach::Reach;
use super::turns::Turn;
use super::{Daemon, adopted, deliver, exit_files, follow, hooks, launch, life, queue, reach};

/// Looks for a leader that a shim is about to make: at first so soon, then ever less often, at most so often.
const LEADER_LOOK_FIRST: std::time::Duration = std::time::Duration::from_millis(10);
const LEADER_LOOK_LAST: std::time::Duration = std::time::Duration::from_secs(1);

/// A shim between its death and its child's exec keeps its lock for a moment: so many looks, so soon one after the other.
/// Then ever less often, at most so often: the child may hang on its way, and the lock cannot be tried now and then.
const LOCK_LOOKS_SOON: u32 = 100;
const LOCK_LOOK_FIRST: std::time::Duration = std::time::Duration::from_millis(20);
const LOCK_LOOK_LAST: std::time::Duration = std::time::Duration::from_secs(60);

/// A shim of whose end the kernel cannot tell is looked at so often.
const UNWATCHED_LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// What the daemon holds of a run's processes.
#[derive(Default)]
pub(crate) struct Handles {
    pub(super) leader: Option<ProcessRef>,
    pub(super) shim: Option<ProcessRef>,
    pub(super) cgroup: Option<PathBuf>,
    /// Of an adopted run: what was seen to descend from its leader.
    pub(super) kin: Vec<ProcessRef>,
    /// The same, and of one that is talked to: how its leader showed itself while it lived.
    pub(super) seen: Option<Arc<Shown>>,
    /// Keeps other first starts waiting.
    pub(super) turn: Option<Turn>,
}

impl Daemon {
    /// Carries out one effect, or starts to. `outgoing`: what deliveries send, where it was rendered a moment ago.
    pub(super) fn perform(self: &Rc<Self>, effect: Effect, outgoing: &mut HashMap<DeliveryId, Outgoing>) {
        match effect {
            Effect::Spawn(id) => launch::start(self, id),
            Effect::Hold(id) => adopted::hold(self, id),
            Effect::CancelTurn(id) => follow::cancel_turn(self, id),
            Effect::SignalLeader(id, signal) => signal_leader(self, id, signal),
            Effect::SignalTree(id, signal) => signal_tree(self, id, signal),
            Effect::KillShim(id) => kill_shim(self, id),
            Effect::Rescan(id) => exit_files::rescan(self, id),
            Effect::AskKernel(id) => ask_kernel(self, id),
            Effect::ReadReport(id) => follow::read_report(self, id),
            Effect::ReadOn(id) => follow::read_on(self, id),
            Effect::Sample(id) => life::sample(self, id),
            Effect::AskTree(id) => ask_tree(self, id),
            Effect::WriteDeadline(id, at) => {
                launch::write_deadline(self, id, at);
                adopted::keep_leader(self, id);
            }
            Effect::RejectExitFile(id, why) => exit_files::reject_exit_file(self, id, why),
            Effect::Archive(id) => exit_files::archive(self, id),
            Effect::Deliver(id) => {
                let fresh = outgoing.remove(&id);
                deliver::attempt(self, id, fresh);
            }
            Effect::Discard(id) => queue::discard(self, id),
            Effect::Remove(last) => self.remove_files(last),
            Effect::Reply(to, reply) => self.answer(to, reply),
        }
    }

    pub(super) fn evidence(&self, id: RunId, evidence: Evidence) {
        self.send(Event::Evidence(id, evidence));
    }
}

/// Tells the core when the leader has ended.
pub(super) fn watch_leader(daemon: &Rc<Daemon>, id: RunId, leader: &ProcessRef) {
    let telling = Rc::clone(daemon);
    daemon.sys.on_end(leader, move |ended| match ended {
        Ok(()) => {
            look_for_oom_kills(&telling, id);
            telling.evidence(id, Evidence::LeaderEnded);
        }
        Err(error) => {
            tracing::error!(session = %id.session, "the leader cannot be watched: {error}");
            telling.evidence(id, Evidence::CannotTell(format!("the leader cannot be watched: {error}")));
        }
    });
}

/// The shim tells of the cgroup's count; where it is gone nobody else does. At once: a scope goes with its last process.
fn look_for_oom_kills(daemon: &Daemon, id: RunId) {
    let shim = daemon.handles.borrow().get(&id).and_then(|handles| handles.shim.clone());
    if shim.is_some_and(|shim| shim.has_ended() != Some(true)) {
        return;
    }
    let Ok(order) = daemon.home.run_files(id).read_claimed() else { return };
    let account = order.account.or(order.cgroup).map(PathBuf::from);
    let counted = account.and_then(|path| cgroup::control::usage(&path)).and_then(|usage| usage.oom_kills);
    if counted.is_some_and(|count| count > 0) {
        daemon.evidence(id, Evidence::OomKilled);
    }
}

/// Tells the core when the shim has ended, with its last word first.
pub(super) fn watch_shim(daemon: &Rc<Daemon>, id: RunId, shim: &ProcessRef) {
    let (telling, held) = (Rc::clone(daemon), shim.clone());
    daemon.sys.on_end(shim, move |ended| match ended {
        Ok(()) => {
            spawn_local(async move {
                // A stop's verdict may wait for this; one that is there already is told first.
                if has_verdict(&telling, id) {
                    telling.until_ends_are_told().await;
                }
                shim_ended(telling, id, Some(held)).await;
            });
        }
        Err(error) => {
            tracing::error!(session = %id.session, "the shim cannot be watched, it is looked at instead: {error}");
            spawn_local(async move {
                while held.has_ended() != Some(true) && !is_over(&telling, id) {
                    tokio::time::sleep(UNWATCHED_LOOK_EVERY).await;
                }
                shim_ended(telling, id, Some(held)).await;
            });
        }
    });
}

pub(super) fn has_verdict(daemon: &Daemon, id: RunId) -> bool {
    let core = daemon.core.borrow();
    core.session(id.session).is_some_and(|found| found.run.number == id.run && found.run.verdict.is_some())
}

/// The shim has ended, or seems to have: its last word, and the proof by its lock.
pub(super) async fn shim_ended(daemon: Rc<Daemon>, id: RunId, shim: Option<ProcessRef>) {
    if let Some(shim) = shim
        && let Err(error) = shim.reap()
    {
        tracing::warn!(session = %id.session, "reap the shim: {error}");
    }
    daemon.release_turn(id);
    let_go_if_settled(&daemon, id);
    if daemon.lock_looks.borrow_mut().insert(id) {
        until_lock_is_free(&daemon, id).await;
        daemon.lock_looks.borrow_mut().remove(&id);
    }
}

/// The proof that the shim is gone, and its last word with it.
async fn until_lock_is_free(daemon: &Daemon, id: RunId) {
    let files = daemon.home.run_files(id);
    let mut pause = LOCK_LOOK_FIRST;
    let mut looks = 0_u32;
    // Its child holds the lock as well until it has become the leader.
    loop {
        let lock = files.shim_lock();
        if let Ok(ShimLock::Free | ShimLock::NoFile) = lock {
            sweep_half_written(&files, true);
            if let Ok(tree) = files.read_tree() {
                daemon.evidence(id, Evidence::TreeGone(Some(tree.usage)));
            }
            daemon.evidence(id, Evidence::ShimGone);
            return;
        }
        looks = looks.saturating_add(1);
        if looks == LOCK_LOOKS_SOON {
            let why = match lock {
                Err(error) => format!("try the shim's lock: {error}"),
                Ok(_) => "the shim has ended and its lock is still held".to_owned(),
            };
            tracing::warn!(session = %id.session, "{why}; it is tried again");
            daemon.evidence(id, Evidence::CannotTell(why));
        }
        if looks >= LOCK_LOOKS_SOON {
            pause = (pause * 2).min(LOCK_LOOK_LAST);
        }
        tokio::time::sleep(pause).await;
        if is_over(daemon, id) {
            return;
        }
    }
}

/// Whether nothing of a run is open any more, or it is not the session's latest.
pub(super) fn is_over(daemon: &Daemon, id: RunId) -> bool {
    let over = |run: &Run| run.number != id.run || (run.verdict.is_some() && run.tree_settled);
    daemon.core.borrow().session(id.session).is_none_or(|session| over(&session.run))
}

pub(super) fn sweep_half_written(files: &RunFiles, shim_is_dead: bool) {
    match files.sweep_half_written(shim_is_dead) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("sweep {}: {error}", files.dir().display());
        }
        Ok(()) | Err(_) => {}
    }
}

/// Whatever was held of a run that is settled: a daemon that lives for months ends many.
pub(super) fn let_go_if_settled(daemon: &Daemon, id: RunId) {
    if is_over(daemon, id) {
        daemon.handles.borrow_mut().remove(&id);
    }
}

/// The leader by its own file, when its pidfd did not come over the socket.
pub(super) fn leader_by_file(daemon: &Daemon, id: RunId) -> Option<ProcessRef> {
    let leader = daemon.home.run_files(id).read_leader().ok()?;
    match reach::find(daemon, id, &leader.process) {
        Found::Alive(process) | Found::Ended(process) => Some(process),
        Found::Gone | Found::Unknown(_) => None,
    }
}

pub(super) fn leader_of(daemon: &Daemon, id: RunId) -> Option<ProcessRef> {
    daemon.handles.borrow().get(&id)?.leader.clone()
}

fn signal_leader(daemon: &Rc<Daemon>, id: RunId, signal: u8) {
    if adopted::is_adopted(daemon, id) {
        adopted::signal(daemon, id, signal, false);
        return;
    }
    let Some(leader) = leader_of(daemon, id) else { return };
    if let Err(error) = leader.signal(signal) {
        daemon.evidence(id, Evidence::CannotTell(format!("signal the leader: {error}")));
    }
}

/// What is needed to look at a tree.
pub(super) struct TreeLook {
    pub(super) leader: Option<ProcessRef>,
    own: Own,
    mark: Mark,
    reach: Reach,
}

/// What a run has of its own that tells its tree, at the cost of that tree alone.
#[derive(Clone)]
struct Own {
    shim: Option<ProcessRef>,
    cgroup: Option<PathBuf>,
    files: RunFiles,
}

impl Own {
    /// Everything of the tree; `None`: nothing is left to tell it by. Blocks.
    fn members(&self) -> Option<Tree> {
        if let Some(cgroup) = &self.cgroup {
            match cgroup::members(cgroup) {
                // The shim removes the cgroup when it is empty, so a missing one says what the shim said.
                Tree::Unknown(_) if !cgroup.exists() => {}
                seen @ (Tree::Known(_) | Tree::Unknown(_)) => return Some(seen),
            }
        }
        let lives = |shim: &&ProcessRef| shim.has_ended() == Some(false);
        match self.shim.as_ref().filter(lives).map(|shim| (shim, tree::descendants(shim))) {
            // It ended meanwhile.
            Some((shim, Tree::Unknown(_))) if shim.has_ended() == Some(true) => {}
            Some((_, seen)) => return Some(seen),
            None => {}
        }
        // Its last word is that wait(2) has nobody left.
        self.files.read_tree().is_ok().then(|| Tree::Known(Vec::new()))
    }
}

impl TreeLook {
    pub(super) fn of(daemon: &Daemon, id: RunId) -> Self {
        let handles = daemon.handles.borrow();
        let handles = handles.get(&id);
        Self {
            leader: handles.and_then(|handles| handles.leader.clone()),
            own: Own {
                shim: handles.and_then(|handles| handles.shim.clone()),
                cgroup: handles.and_then(|handles| handles.cgroup.clone()),
                files: daemon.home.run_files(id),
            },
            mark: match hooks::hidden_of(daemon, id.session) {
                Some(_) => Mark::Hook(id.session.to_string()),
                None => Mark::Session(id.session.to_string()),
            },
            reach: Reach::of_run(daemon, id),
        }
    }

    /// Everything of the tree, as far as it can be told.
    pub(super) async fn members(&self, daemon: &Daemon) -> Tree {
        let own = self.own.clone();
        let seen = match spawn_blocking(move || own.members()).await {
            Ok(Some(seen)) => seen,
            Ok(None) => {
                let not_before = self.leader.as_ref().map_or(0, |leader| leader.id().start_ticks);
                daemon.marks.find(Ask { mark: self.mark.clone(), not_before }).await
            }
            Err(panicked) => Tree::Unknown(panicked.to_string()),
        };
        match seen {
            // What is not seen from here may be there all the same.
            Tree::Known(members) if members.is_empty() => match self.reach.limit() {
                Some(limit) => Tree::Unknown(limit.to_owned()),
                None => Tree::Known(members),
            },
            seen @ (Tree::Known(_) | Tree::Unknown(_)) => seen,
        }
    }
}

fn signal_tree(daemon: &Rc<Daemon>, id: RunId, signal: u8) {
    if adopted::is_adopted(daemon, id) {
        adopted::signal(daemon, id, signal, true);
        return;
    }
    let look = TreeLook::of(daemon, id);
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        if let Err(why) = signal_all(&daemon, &look, signal).await {
            daemon.evidence(id, Evidence::CannotTell(why));
        }
    });
}

/// What became of one signal to several processes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Signalled {
    /// So many times the kernel took it.
    sent: usize,
    /// Those that it did not take it for, and why.
    failed: Vec<String>,
}

impl Signalled {
    pub(super) fn note(&mut self, pid: u32, sent: io::Result<Sent>) {
        match sent {
            Ok(Sent::Sent) => self.sent += 1,
            // It has ended in the meantime, which is no failure; and nothing was sent.
            Ok(Sent::Gone) => {}
            // One that may not be signalled is found again by whoever looks whether the tree is gone.
            Err(error) => {
                tracing::warn!(pid, "signal a process of a tree: {error}");
                self.failed.push(format!("process {pid}: {error}"));
            }
        }
    }

    /// For whoever asked: all that live got it. Else why that cannot be said.
    pub(super) fn answer(self) -> Result<(), String> {
        match (self.sent, self.failed.as_slice()) {
            (1.., []) => Ok(()),
            (0, []) => Err("none of its processes is there any more".into()),
            (0, failed) => Err(failed.join("; ")),
            (1.., failed) => {
                Err(format!("others of its processes got it, and not {}", failed.join("; not ")))
            }
        }
    }
}

pub(super) async fn signal_all(daemon: &Daemon, look: &TreeLook, signal: u8) -> Result<Signalled, String> {
    let mut done = Signalled::default();
    if signal == 9
        && let Some(cgroup) = look.own.cgroup.clone()
    {
        // Whoever is killed there is not seen below.
        let killed = spawn_blocking(move || kill_cgroup(&cgroup)).await;
        done.sent += usize::from(killed.map_err(|panicked| panicked.to_string())?);
    }
    if let Some(leader) = &look.leader {
        let sent = leader.signal(signal).map_err(|error| format!("signal the leader: {error}"))?;
        done.note(leader.pid(), Ok(sent));
    }
    match look.members(daemon).await {
        // Found by the mark of the session: it may have been settled meanwhile, and these be its next run's.
        Tree::Known(_) if is_over(daemon, look.own.files.id()) => Ok(done),
        Tree::Known(members) => {
            members.iter().for_each(|member| done.note(member.pid(), member.signal(signal)));
            Ok(done)
        }
        Tree::Unknown(why) => Err(format!("the tree cannot be seen: {why}")),
    }
}

/// Whether anybody was there to be killed. Blocks.
fn kill_cgroup(cgroup: &Path) -> bool {
    let lives = cgroup::populated(cgroup).unwrap_or(false);
    match cgroup::kill(cgroup) {
        Ok(()) => return lives,
        Err(error) if cgroup.exists() => tracing::warn!("kill the cgroup {}: {error}", cgroup.display()),
        Err(_) => {}
    }
    false
}

fn kill_shim(daemon: &Rc<Daemon>, id: RunId) {
    let shim = daemon.handles.borrow().get(&id).and_then(|handles| handles.shim.clone());
    let Some(shim) = shim else { return };
    tracing::error!(session = %id.session, pid = shim.pid(), "the shim does not move although its leader ended; it is killed");
    match shim.signal(9) {
        Ok(Sent::Sent) => {}
        // Nobody was told of its end, as it seems.
        Ok(Sent::Gone) => drop(spawn_local(shim_ended(Rc::clone(daemon), id, Some(shim)))),
        Err(error) => daemon.evidence(id, Evidence::CannotTell(format!("kill the shim: {error}"))),
    }
}

/// A shim that nobody listens to has claimed its launch and not made its leader yet: it writes down who that
/// is before it may run. Ends with the launch, one way or the other.
pub(super) fn await_leader(daemon: &Rc<Daemon>, id: RunId) {
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        let files = daemon.home.run_files(id);
        let mut pause = LEADER_LOOK_FIRST;
        while is_launching(&daemon, id) {
            if let Ok(leader) = files.read_leader() {
                adopt_leader(&daemon, id, &leader.process);
                daemon.evidence(id, Evidence::Started(leader.process));
                return;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LEADER_LOOK_LAST);
        }
    });
}

fn is_launching(daemon: &Daemon, id: RunId) -> bool {
    let core = daemon.core.borrow();
    let run = core.session(id.session).map(|session| &session.run);
    run.is_some_and(|run| run.number == id.run && run.verdict.is_none() && run.fuse.leader.is_none())
}

/// Holds and watches a leader that is known by its identity.
pub(super) fn adopt_leader(daemon: &Rc<Daemon>, id: RunId, leader: &ProcessId) {
    match reach::find(daemon, id, leader) {
        Found::Alive(process) | Found::Ended(process) => {
            watch_leader(daemon, id, &process);
            daemon.handles.borrow_mut().entry(id).or_default().leader = Some(process);
        }
        Found::Gone => daemon.evidence(id, Evidence::LeaderGone),
        Found::Unknown(why) => daemon.evidence(id, Evidence::CannotTell(why)),
    }
}

/// The status from the kernel: ours to reap, or reaped by another, or hidden for ever.
fn ask_kernel(daemon: &Rc<Daemon>, id: RunId) {
    look_for_oom_kills(daemon, id);
    // Taken before anything is waited for: a zombie shows it only until its parent reaps it.
    let answer = move |daemon: &Rc<Daemon>, status, prong| {
        let how = Evidence::KernelStatus(status, prong);
        if adopted::is_adopted(daemon, id) {
            adopted::conclude(daemon, id, how)
        } else {
            daemon.evidence(id, how)
        }
    };
    if let Some(status) = status_left(daemon, id) {
        answer(daemon, Some(status), Prong::ExitFile);
        return;
    }
    let Some(leader) = leader_of(daemon, id) else {
        answer(daemon, None, Prong::PidfdInfo);
        return;
    };
    match leader.reap() {
        Ok(Some(status)) => {
            answer(daemon, Some(status), Prong::PidfdInfo);
            return;
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(session = %id.session, "reap an orphaned leader: {error}"),
    }
    if let Some(status) = leader.zombie_status() {
        answer(daemon, Some(status), Prong::ProcStat);
        return;
    }
    let telling = Rc::clone(daemon);
    let reaped = leader.clone();
    daemon.sys.on_reaped(&leader, move |_told| {
        // Without news of the reap (an old kernel) the answer is what it is now.
        answer(&telling, reaped.exit_status(), Prong::PidfdInfo);
    });
}

/// Looks at the tree until nothing is left of it: once now, and again whenever all that was seen has ended.
fn ask_tree(daemon: &Rc<Daemon>, id: RunId) {
    if adopted::is_adopted(daemon, id) {
        adopted::ask_tree(daemon, id);
        return;
    }
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        loop {
            let look = TreeLook::of(&daemon, id);
            let left = match look.members(&daemon).await {
                Tree::Known(left) if !left.is_empty() => left,
                nothing @ (Tree::Known(_) | Tree::Unknown(_)) => {
                    report_end_of_tree(&daemon, id, look.own.shim.as_ref(), nothing);
                    return;
                }
            };
            daemon.evidence(id, Evidence::TreeLeft(u32::try_from(left.len()).unwrap_or(u32::MAX)));
            all_ended(&daemon, left).await;
        }
    });
}

/// Nothing is seen of a tree, or nothing can be. The shim's own word, that wait(2) has nobody left, beats both.
fn report_end_of_tree(daemon: &Daemon, id: RunId, shim: Option<&ProcessRef>, seen: Tree) {
    if shim.is_some_and(|shim| shim.has_ended() == Some(false)) {
        // It lives and will say so itself.
        return;
    }
    let evidence = match (daemon.home.run_files(id).read_tree(), seen) {
        (Ok(tree), _) => Evidence::TreeGone(Some(tree.usage)),
        (Err(_), Tree::Unknown(why)) => Evidence::TreeUnknown(why),
        (Err(_), Tree::Known(_)) => {
            remove_cgroup(daemon, id);
            Evidence::TreeGone(None)
        }
    };
    daemon.evidence(id, evidence);
}

/// A dead shim does not remove its cgroup.
fn remove_cgroup(daemon: &Daemon, id: RunId) {
    let cgroup = daemon.handles.borrow().get(&id).and_then(|handles| handles.cgroup.clone());
    if let Some(path) = cgroup.filter(|path| path.exists())
        && let Err(error) = cgroup::remove(&path)
    {
        tracing::warn!("remove the cgroup {}: {error}", path.display());
    }
}

pub(super) async fn all_ended(daemon: &Daemon, processes: Vec<ProcessRef>) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut waiting: HashSet<u32> = HashSet::new();
    for process in processes {
        waiting.insert(process.pid());
        let (tell, orphan) = (tell.clone(), process.clone());
        daemon.sys.on_end(&process, move |_ended| {
            // An orphan that came to us as subreaper is ours to reap.
            let _somebody_elses = orphan.reap();
            let _over = tell.send(orphan.pid());
        });
    }
    drop(tell);
    while !waiting.is_empty() {
        let Some(pid) = told.recv().await else { return };
        waiting.remove(&pid);
    }
}

/// The report of an agent whose output cannot be read.
pub(super) fn unreadable(error: &dyn std::fmt::Display) -> Evidence {
    Evidence::Report(AgentReport::Unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use crate::core::vocab::{SessionId, Usage};
    use crate::sys::clock;
    use crate::wire::session_dir::{TreeFile, Version, create_private_dir};

    use super::*;

    #[test]
    fn the_last_word_of_a_shim_spares_a_look_at_all_processes() {
        let home = tempfile::tempdir().expect("a directory");
        create_private_dir(&home.path().join("sessions")).expect("made");
        let id = RunId { session: SessionId(Uuid::new_v4()), run: 1 };
        let files = RunFiles::in_home(home.path(), id);
        create_private_dir(files.dir()).expect("made");
        let own = Own { shim: None, cgroup: None, files };
        assert!(own.members().is_none(), "its shim died without a word");
        let (session, run, gone) = (id.session, id.run, clock::now().into());
        let tree = TreeFile { v: Version, session, run, gone, usage: Usage::default(), killed: 0 };
        own.files.write_tree(&tree).expect("written");
        assert!(matches!(own.members(), Some(Tree::Known(none)) if none.is_empty()));
    }

    #[test]
    fn a_signal_is_sent_when_somebody_got_it_and_nobody_was_left_out() {
        let told = |each: Vec<io::Result<Sent>>| {
            let mut signalled = Signalled::default();
            (7..).zip(each).for_each(|(pid, sent)| signalled.note(pid, sent));
            signalled.answer()
        };
        let refused = || Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(told(vec![Ok(Sent::Sent), Ok(Sent::Gone)]), Ok(()));
        for (each, why) in [
            (vec![], "none of its processes is there any more"),
            (vec![Ok(Sent::Gone)], "none of its processes is there any more"),
            (vec![refused()], "process 7: permission denied"),
            (
                vec![Ok(Sent::Sent), refused()],
                "others of its processes got it, and not process 8: permission denied",
            ),
        ] {
            assert_eq!(told(each), Err(why.to_owned()));
        }
    }
}
