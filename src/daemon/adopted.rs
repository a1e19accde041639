//! Runs that somebody else started: their leader held, and what descends from it found while that can be told.
//!
//! There is no shim and no cgroup, so who belongs to the run is known only from parentage, and only while the leader
//! lives: it is gathered before each signal and held by pidfd from then on. That nothing is left is never claimed.
//! Refuses to signal anything of another session, or the daemon, wherever they descend from.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::task::{spawn_blocking, spawn_local};

use crate::core::Event;
use crate::core::agent::{AgentEvent, Span};
use crate::core::fuse::Evidence;
use crate::core::vocab::{ProcessId, RunId, SessionId};
use crate::limits;
use crate::sys::ProcessRef;
use crate::sys::tree::{self, Tree};
use crate::wire::session_dir::{LeaderIdentity, Version};

use super::found::told::{self, Env, Question};
use super::perform::Signalled;
use super::{Daemon, found, perform};

/// Why the tree of such a run cannot be told.
const LEFT_OPEN: &str = "it was adopted or taken over, so whether it left processes behind cannot be told";

/// Whether nobody of ours started this run.
pub(super) fn is_adopted(daemon: &Daemon, id: RunId) -> bool {
    let core = daemon.core.borrow();
    core.session(id.session).is_some_and(|session| session.run_id() == id && session.run.adopted)
}

/// Waits for the leader's end.
pub(super) fn hold(daemon: &Rc<Daemon>, id: RunId) {
    let known = daemon.core.borrow().session(id.session).and_then(|session| session.run.fuse.leader);
    let Some(process) = known else { return };
    look_at(daemon, id, process);
    match perform::leader_of(daemon, id) {
        Some(leader) => perform::watch_leader(daemon, id, &leader),
        None => perform::adopt_leader(daemon, id, &process),
    }
}

/// Writes down who leads a run that somebody else started, for a daemon that has lost its journal. Of others the shim
/// does.
pub(super) fn keep_leader(daemon: &Daemon, id: RunId) {
    if !is_adopted(daemon, id) {
        return;
    }
    let known = daemon.core.borrow().session(id.session).and_then(|session| session.run.fuse.leader);
    let Some(process) = known else { return };
    let identity = LeaderIdentity {
        v: Version,
        session: id.session,
        run: id.run,
        host: daemon.sys.host().clone(),
        process,
    };
    if let Err(error) = daemon.home.run_files(id).write_leader(&identity) {
        tracing::error!(session = %id.session, "write down the leader of an adopted run: {error}");
    }
}

/// Keeps how the leader shows itself: where its conversation is kept cannot be seen any more once it has ended.
pub(super) fn look_at(daemon: &Rc<Daemon>, id: RunId, process: ProcessId) {
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        let seen = found::seen(&daemon, process).await;
        if let Some(handles) = daemon.handles.borrow_mut().get_mut(&id) {
            handles.seen = seen.or(handles.seen.take());
        }
    });
}

/// The same of an agent that is talked to in ACP, unless that was done.
pub(super) fn look_at_once(daemon: &Rc<Daemon>, id: RunId) {
    let handles = daemon.handles.borrow();
    let unseen = handles.get(&id).filter(|handles| handles.seen.is_none());
    if let Some(leader) = unseen.and_then(|handles| handles.leader.as_ref()) {
        look_at(daemon, id, *leader.id());
    }
}

/// A question to the store of an agent that was adopted, or is talked to; `None`: which conversation is its is not known.
pub(super) fn question(daemon: &Daemon, session: SessionId) -> Option<Question> {
    let core = daemon.core.borrow();
    let session = core.session(session)?;
    let seen = daemon.handles.borrow().get(&session.run_id()).and_then(|handles| handles.seen.clone());
    Question::of(session, seen.map_or(Env::Given(None), Env::Of))
}

/// The last word on an adopted run: how it ended, with what its conversation has used by then, if its store tells.
pub(super) fn conclude(daemon: &Rc<Daemon>, id: RunId, how: Evidence) {
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        if let Some(question) = question(&daemon, id.session) {
            let (told, warnings) = told::ask(&daemon, question).await;
            for warning in warnings {
                tracing::warn!(session = %id.session, "what an adopted run used is not known: {warning}");
            }
            if let Some(told) = told {
                let (tokens, cost_usd) = (told.tokens, told.cost_usd);
                daemon.send(Event::Agent(id, AgentEvent::Total { span: Span::Run, tokens, cost_usd }));
                let path = said_path(&daemon, id);
                let kept = spawn_blocking(move || keep_said(&path, told.said)).await;
                if let Ok(Err(error)) = kept {
                    tracing::warn!(session = %id.session, "keep the last messages of an adopted run: {error}");
                }
            }
        }
        daemon.evidence(id, how);
    });
}

/// The last messages of an adopted run that has ended: its store may be nobody's to find any more, or hold later ones.
fn said_path(daemon: &Daemon, id: RunId) -> PathBuf {
    daemon.home.run_files(id).dir().join(format!("said.{}.json", id.run))
}

/// Keeps the last messages, as many as there is room for.
fn keep_said(path: &Path, said: Vec<String>) -> io::Result<()> {
    let mut room = limits::SAID_BYTES_MAX;
    let fitting = said.iter().rev().take_while(|text| {
        room = room.saturating_sub(text.len());
        room > 0
    });
    let said = &said[said.len() - fitting.count()..];
    let new = path.with_extension("new");
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&serde_json::to_vec(said)?)?;
    fs::rename(new, path)
}

/// The last messages of an adopted run that has ended, if they were kept.
pub(super) async fn kept_said(daemon: &Daemon, id: RunId) -> Option<Vec<String>> {
    let path = said_path(daemon, id);
    let read = move || {
        let mut bytes = Vec::new();
        // JSON writes some characters as six.
        let most = 6 * limits::SAID_BYTES_MAX as u64 + 1_000;
        File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    spawn_blocking(read).await.ok().flatten()
}

/// What a blocking job needs to look at what descends from the leader.
struct Kin {
    leader: Option<ProcessRef>,
    /// What was found before, each held.
    known: Vec<ProcessRef>,
    /// Whoever is of another session, or the daemon.
    others: BTreeMap<(u32, u64), Option<SessionId>>,
}

impl Kin {
    fn of(daemon: &Daemon, id: RunId) -> Self {
        let mut others = found::ours(daemon);
        others.retain(|_, session| *session != Some(id.session));
        let handles = daemon.handles.borrow();
        let handles = handles.get(&id);
        Self {
            leader: handles.and_then(|handles| handles.leader.clone()),
            known: handles.map(|handles| handles.kin.clone()).unwrap_or_default(),
            others,
        }
    }

    /// All that live of what descends, or is known to have descended, from the leader; it is not among them.
    fn gather(&self) -> Vec<ProcessRef> {
        let mut all: Vec<ProcessRef> = Vec::new();
        let add = |more: Vec<ProcessRef>, all: &mut Vec<ProcessRef>| {
            for process in more {
                let is_new = !all.iter().any(|known| known.id().same(process.id()));
                if is_new && process.has_ended() != Some(true) {
                    all.push(process);
                }
            }
        };
        add(self.known.clone(), &mut all);
        for root in self.leader.iter().chain(&self.known) {
            // Of one that has ended the children have other parents now: that is why they were gathered before.
            if let Tree::Known(members) = tree::descendants(root) {
                add(members, &mut all);
            }
        }
        match self.spared(&all) {
            Some(spared) => all.retain(|process| !spared.contains(&process.pid())),
            // What has come since may be another session's.
            None => all.retain(|process| {
                !self.is_other(process) && self.known.iter().any(|known| known.id().same(process.id()))
            }),
        }
        all
    }

    fn is_other(&self, process: &ProcessRef) -> bool {
        self.others.contains_key(&(process.pid(), process.id().start_ticks))
    }

    /// Other sessions, and the daemon, if they descend from the leader as well, with all that descends from them. `None`: what
    /// does cannot be told.
    fn spared(&self, all: &[ProcessRef]) -> Option<HashSet<u32>> {
        let mut spared = HashSet::new();
        for root in all.iter().filter(|process| self.is_other(process)) {
            spared.insert(root.pid());
            match tree::descendants(root) {
                Tree::Known(members) => spared.extend(members.iter().map(ProcessRef::pid)),
                Tree::Unknown(_) => return None,
            }
        }
        Some(spared)
    }
}

/// Signals the leader, and with `all` what descends from it, and does not wait for it.
pub(super) fn signal(daemon: &Rc<Daemon>, id: RunId, signal: u8, all: bool) {
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        // Whoever asks for a stop looks for himself whether anything is left.
        let _told = signal_and_tell(&daemon, id, signal, all).await;
    });
}

/// The same, with what became of it; what descends from the leader is held first. `Err`: it cannot be told.
pub(super) async fn signal_and_tell(
    daemon: &Rc<Daemon>,
    id: RunId,
    signal: u8,
    all: bool,
) -> Result<Signalled, String> {
    let kin = Kin::of(daemon, id);
    let done = spawn_blocking(move || {
        let gathered = kin.gather();
        let leader = kin.leader.as_ref().map(|leader| (leader.pid(), leader.signal(signal)));
        let mut sent = Signalled::default();
        gathered.iter().filter(|_| all).for_each(|process| sent.note(process.pid(), process.signal(signal)));
        (gathered, leader, sent)
    });
    match done.await {
        Ok((gathered, leader, mut sent)) => {
            if let Some(handles) = daemon.handles.borrow_mut().get_mut(&id) {
                handles.kin = gathered;
            }
            if let Some((pid, result)) = leader {
                if let Err(error) = &result {
                    daemon.evidence(id, Evidence::CannotTell(format!("signal the leader: {error}")));
                }
                sent.note(pid, result);
            }
            Ok(sent)
        }
        Err(panicked) => {
            tracing::error!("signalling an adopted run panicked: {panicked}");
            Err(panicked.to_string())
        }
    }
}

/// Waits until nothing lives of what was seen to descend from the leader. More than that cannot be said.
pub(super) fn ask_tree(daemon: &Rc<Daemon>, id: RunId) {
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        loop {
            let kin = Kin::of(&daemon, id);
            let left = spawn_blocking(move || kin.gather()).await.unwrap_or_default();
            if left.is_empty() {
                daemon.evidence(id, Evidence::TreeUnknown(LEFT_OPEN.to_owned()));
                return;
            }
            daemon.evidence(id, Evidence::TreeLeft(u32::try_from(left.len()).unwrap_or(u32::MAX)));
            if let Some(handles) = daemon.handles.borrow_mut().get_mut(&id) {
                handles.kin.clone_from(&left);
            }
            perform::all_ended(&daemon, left).await;
        }
    });
}
