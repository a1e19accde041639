//! From a launch that is recorded to a leader that runs: what is written down for the shim, and what the shim answers.
//!
//! Owns the session's environment and prompt until they are files; neither is ever in a record, a log or
//! an argument. The daemon itself never forks: starting the agent is the shim's business.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{spawn_blocking, spawn_local};

use crate::adapters::FirstStart;
use crate::adapters::acp;
use crate::core::Event;
use crate::core::fuse::{Evidence, LaunchError};
use crate::core::hooks::{HiddenOf, HookOf};
use crate::core::resources::ResourceLimits;
use crate::core::session::Session;
use crate::core::vocab::{Mono, RunId, millis};
use crate::limits;
use crate::sys::cgroup::scope::{Made, Manager};
use crate::sys::shim_file::{ShimMessage, ShimProgram, let_go, next_message};
use crate::sys::{self, ProcessRef};
use crate::wire::session_dir::FileError;
use crate::wire::session_dir::{self, CreatedFile, DEADLINE_MOVED, Deadline, LaunchOrder, RunFiles, Version};

use super::home::log_name;
use super::perform::{self, Handles};
use super::place::Chosen;
use super::turns::Turn;
use super::{Daemon, fuses, hooks, queue, worktrees};

/// The shim's own timer acts so long after deadline and grace, when the daemon has not.
const SHIM_LATE_MS: u64 = 5_000;

/// A shim that was killed is reaped within milliseconds.
const DISMISS_LOOKS_MAX: u32 = 1_000;
const DISMISS_LOOK_EVERY: Duration = Duration::from_millis(1);

/// A first start that prints nothing holds others up for at most so long.
const FIRST_START_MAX: Duration = Duration::from_secs(10);

/// What a launch needs beyond its record. Secrets may be in it: no `Debug`.
pub(crate) struct Parcel {
    pub(super) argv: Vec<String>,
    pub(super) env: Vec<u8>,
    /// Of an agent that is talked to: the plan of the conversation, with the prompt in it.
    pub(super) prompt: Option<String>,
    pub(super) umask: u32,
    pub(super) nofile: u64,
    pub(super) first_start: Option<FirstStart>,
    /// Its hooks will need the environment.
    pub(super) for_hooks: bool,
}

/// Starts the shim of a run. Called once the record of the launch is durable.
pub(super) fn start(daemon: &Rc<Daemon>, id: RunId) {
    let parcel = daemon.parcels.borrow_mut().remove(&id);
    let hidden = hooks::hidden_of(daemon, id.session);
    let waited = daemon.core.borrow().session(id.session).is_some_and(Session::keeps_parcel);
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        let parcel = match (parcel, hidden) {
            (Some(parcel), _) => parcel,
            (None, Some(of)) => match hidden_parcel(&daemon, of).await {
                Ok(parcel) => parcel,
                Err(why) => return withdraw(&daemon, id, why),
            },
            (None, None) if waited => match queue::unpack(&daemon, id).await {
                Ok(parcel) => parcel,
                Err(why) => return withdraw(&daemon, id, why),
            },
            // Only a start of the daemon finds no parcel, and there reattach.rs decides.
            (None, None) => return,
        };
        let parcel = match keep_for_hooks(&daemon, id, parcel).await {
            Ok(parcel) => parcel,
            Err(why) => return withdraw(&daemon, id, why),
        };
        if let Err(why) = worktrees::of_run(&daemon, id, &parcel).await {
            return withdraw(&daemon, id, why);
        }
        let turn = take_turn(&daemon, parcel.first_start.as_ref()).await;
        let elsewhere = match hidden {
            Some(of) => in_place_of_its_worktree(&daemon, id, of).await,
            None => None,
        };
        let Ok(_place) = daemon.launches.acquire().await else { return };
        let Some((mut order, limits)) = order(&daemon, id, &parcel) else { return };
        order.cwd = elsewhere.unwrap_or(order.cwd);
        let place = daemon.places.choose(sys::clock::now().mono, &limits);
        let files = daemon.home.run_files(id);
        let shim = Arc::clone(&daemon.shim);
        let begun = spawn_blocking(move || begin(&shim, &files, order, &limits, &parcel, &place));
        let begun = begun.await;
        let begun = begun.unwrap_or_else(|panicked| Err(format!("the launch panicked: {panicked}")));
        match begun {
            Ok(begun) => accept(&daemon, id, begun, turn),
            Err(why) => withdraw(&daemon, id, why),
        }
    });
}

/// Where a hook runs whose session's worktree is gone: in the repository. Before it has a place among the launches, for that
/// directory may be on a server that is away; then the hook is left to hang there by itself.
async fn in_place_of_its_worktree(daemon: &Daemon, id: RunId, of: HiddenOf) -> Option<String> {
    let repo = hooks::repository(daemon, of)?;
    let cwd = daemon.core.borrow().session(id.session).map(|hook| hook.spec.cwd.clone())?;
    let gone = daemon.looks.at(&format!("cwd {cwd}"), move || !Path::new(&cwd).is_dir()).await;
    (gone == Ok(true)).then_some(repo)
}

/// What hooks will need, whatever comes of the launch.
async fn keep_for_hooks(daemon: &Daemon, id: RunId, parcel: Parcel) -> Result<Parcel, String> {
    if !parcel.for_hooks {
        return Ok(parcel);
    }
    let dir = daemon.home.session(id.session);
    let kept = spawn_blocking(move || hooks::keep_environment(&dir, &parcel.env).map(|()| parcel)).await;
    let kept = kept.map_err(|panicked| panicked.to_string())?;
    kept.map_err(|error| format!("keep the environment for hooks: {error}"))
}

/// What a hidden session needs: its script is in its record.
async fn hidden_parcel(daemon: &Rc<Daemon>, of: HiddenOf) -> Result<Parcel, String> {
    let (id, env) = match of {
        HiddenOf::Hook(of) => (of.id(), hook_environment(daemon, of).await?),
        HiddenOf::Fuse(fuse) => (fuse.script(), fuses::environment(daemon, fuse)),
    };
    let argv = daemon.core.borrow().session(id).map(|hidden| hidden.spec.command.clone());
    Ok(Parcel {
        argv: argv.ok_or("its record is gone")?,
        env,
        prompt: None,
        umask: 0o077,
        nofile: daemon.nofile,
        first_start: None,
        for_hooks: false,
    })
}

/// Kept in the directory of the hook's session.
async fn hook_environment(daemon: &Rc<Daemon>, of: HookOf) -> Result<Vec<u8>, String> {
    let vars = hooks::variables(daemon, of);
    let dir = daemon.home.session(of.run.session);
    let env = spawn_blocking(move || hooks::environment(&dir, &vars)).await;
    env.map_err(|panicked| panicked.to_string())?
}

/// Keeps first starts of one agent in one home apart.
async fn take_turn(daemon: &Rc<Daemon>, first: Option<&FirstStart>) -> Option<Turn> {
    let first = first?;
    if is_done(daemon, first).await {
        return None;
    }
    let turn = daemon.first_starts.take(first.key.clone()).await;
    (!is_done(daemon, first).await).then_some(turn)
}

/// Where that cannot be told, it may have to be done.
async fn is_done(daemon: &Daemon, first: &FirstStart) -> bool {
    let size = |path: &Path| std::fs::metadata(path).ok().map(|found| found.len());
    let (named, first) = (first.key.display().to_string(), first.clone());
    daemon.looks.at(&named, move || first.is_done(size)).await.unwrap_or(false)
}

/// All but the place, and what may be used there. `None`: the session is gone.
fn order(daemon: &Daemon, id: RunId, parcel: &Parcel) -> Option<(LaunchOrder, ResourceLimits)> {
    let core = daemon.core.borrow();
    let spec = &core.session(id.session)?.spec;
    let files = daemon.home.run_files(id);
    let logs = match spec.hidden() {
        Some(HiddenOf::Hook(of)) => {
            [(); 2].map(|()| hooks::log_path(daemon, of).to_string_lossy().into_owned())
        }
        Some(HiddenOf::Fuse(_)) => [(); 2].map(|()| log_name(id.run, "stdout")),
        None => ["stdout", "stderr"].map(|stream| log_name(id.run, stream)),
    };
    let [stdout, stderr] = logs;
    let order = LaunchOrder {
        v: Version,
        session: id.session,
        run: id.run,
        argv: parcel.argv.clone(),
        cwd: spec.cwd.clone(),
        umask: parcel.umask,
        nofile_soft: Some(parcel.nofile),
        stdin: parcel.prompt.as_ref().filter(|_| !spec.acp).map(|_| files.prompt_name()),
        input: spec.acp.then(|| files.input_name()),
        env: files.env_name(),
        stdout,
        stderr,
        leftovers: spec.leftovers,
        grace_ms: millis(spec.grace),
        cgroup: None,
        account: None,
        late_ms: SHIM_LATE_MS,
        log_bytes_max: daemon.config.borrow().log_max_bytes.filter(|_| daemon.makes_holes.is_ok()),
    };
    Some((order, spec.limits))
}

/// What came of starting a shim.
struct Begun {
    shim: ProcessRef,
    leader: Option<ProcessRef>,
    cgroup: Option<PathBuf>,
    /// How the scope went, where one was to be made.
    scope: Option<Result<(), String>>,
    /// It said that the launch failed; the exit file says why.
    failed: bool,
}

/// On a blocking thread: the files, the shim, and what it says until the leader runs.
fn begin(
    shim: &ShimProgram,
    files: &RunFiles,
    mut order: LaunchOrder,
    limits: &ResourceLimits,
    parcel: &Parcel,
    place: &Chosen,
) -> Result<Begun, String> {
    let doing = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    let dir = files.dir();
    session_dir::write_atomic(dir, &order.env, &parcel.env, session_dir::FILE_MODE)
        .map_err(doing("write the session's environment"))?;
    if let Some(prompt) = &parcel.prompt {
        session_dir::write_atomic(dir, &files.prompt_name(), prompt.as_bytes(), session_dir::FILE_MODE)
            .map_err(doing("write the prompt"))?;
    }
    if let Some(input) = &order.input {
        let opening = acp::opening() + "\n";
        session_dir::write_atomic(dir, input, opening.as_bytes(), session_dir::FILE_MODE)
            .map_err(doing("write the agent's input"))?;
    }
    let (shim, socket, scope) = match &place.manager {
        None => {
            settle_below(&mut order, place, files.id(), limits)?;
            files.write_launch(&order).map_err(doing("write the launch order"))?;
            let (shim, socket) = shim.spawn(dir, order.run, false).map_err(doing("start the shim"))?;
            (shim, socket, None)
        }
        Some(manager) => {
            let (shim, socket) = shim.spawn(dir, order.run, true).map_err(doing("start the shim"))?;
            let scope = settle_in_scope(&mut order, manager, place, shim.pid(), limits);
            let ordered = scope.and_then(|scope| {
                files.write_launch(&order).map_err(doing("write the launch order")).map(|()| scope)
            });
            match ordered {
                Ok(scope) => {
                    let_go(socket.as_fd());
                    (shim, socket, Some(scope))
                }
                Err(why) => {
                    dismiss(&shim);
                    return Err(why);
                }
            }
        }
    };
    let cgroup = order.cgroup.as_ref().map(PathBuf::from);
    let mut begun = Begun { shim, leader: None, cgroup, scope, failed: false };
    loop {
        match next_message(socket.as_fd(), limits::SHIM_READY_TIMEOUT) {
            Ok(ShimMessage::Leader(pidfd)) => {
                let leader = files.read_leader().map(|leader| ProcessRef::known(leader.process, pidfd));
                match leader {
                    Ok(Ok(leader)) => begun.leader = Some(leader),
                    Ok(Err(error)) => tracing::warn!(session = %order.session, "the leader's pidfd: {error}"),
                    Err(error) => tracing::warn!(session = %order.session, "the leader's identity: {error}"),
                }
            }
            Ok(ShimMessage::Running | ShimMessage::Closed) => return Ok(begun),
            Ok(ShimMessage::Failed) => return Ok(Begun { leader: None, failed: true, ..begun }),
            // It may still come: the files and the shim's own life will tell.
            Err(error) => {
                tracing::warn!(session = %order.session, "no word from the shim: {error}");
                return Ok(begun);
            }
        }
    }
}

/// In a cgroup below ours, or in ours.
fn settle_below(
    order: &mut LaunchOrder,
    place: &Chosen,
    id: RunId,
    limits: &ResourceLimits,
) -> Result<(), String> {
    order.cgroup = place.own_cgroup(id, limits)?.map(|path| path.to_string_lossy().into_owned());
    Ok(())
}

/// In a scope of the manager's, or else as if there were none, and why. `Err`: nowhere, for nobody keeps the limits.
fn settle_in_scope(
    order: &mut LaunchOrder,
    manager: &Manager,
    place: &Chosen,
    shim: u32,
    limits: &ResourceLimits,
) -> Result<Result<(), String>, String> {
    let id = RunId { session: order.session, run: order.run };
    match manager.make(id, shim, limits) {
        Ok(Made { scope, session }) => {
            order.cgroup = Some(session.to_string_lossy().into_owned());
            order.account = Some(scope.to_string_lossy().into_owned());
            Ok(Ok(()))
        }
        Err(why) => match settle_below(order, place, id, limits) {
            Ok(()) => Ok(Err(why)),
            Err(other) => Err(format!("{why}; {other}")),
        },
    }
}

/// Ends a shim that was held and has no launch to take.
fn dismiss(shim: &ProcessRef) {
    let _gone = shim.signal(9);
    for _ in 0..DISMISS_LOOKS_MAX {
        if !matches!(shim.reap(), Ok(None)) {
            return;
        }
        std::thread::sleep(DISMISS_LOOK_EVERY);
    }
}

fn accept(daemon: &Rc<Daemon>, id: RunId, begun: Begun, turn: Option<Turn>) {
    let Begun { shim, leader, cgroup, scope, failed } = begun;
    match scope {
        Some(Ok(())) => daemon.places.scope_made(),
        Some(Err(why)) => daemon.places.scope_failed(sys::clock::now().mono, why),
        None => {}
    }
    let leader = if failed { None } else { leader.or_else(|| perform::leader_by_file(daemon, id)) };
    perform::watch_shim(daemon, id, &shim);
    if let Some(leader) = &leader {
        perform::watch_leader(daemon, id, leader);
    }
    let leader_id = leader.as_ref().map(|leader| *leader.id());
    let handles = Handles { leader, shim: Some(shim), cgroup, turn, ..Handles::default() };
    daemon.handles.borrow_mut().insert(id, Box::new(handles));
    release_turn_later(daemon, id);
    if let Some(leader) = leader_id {
        daemon.send(Event::Evidence(id, Evidence::Started(leader)));
        super::follow::parse(daemon, id);
    } else if !failed {
        perform::await_leader(daemon, id);
        super::follow::parse(daemon, id);
    }
}

/// A first start gives up its turn when the agent has said something (perform.rs), or after a while.
fn release_turn_later(daemon: &Rc<Daemon>, id: RunId) {
    let held = daemon.handles.borrow().get(&id).is_some_and(|handles| handles.turn.is_some());
    if held {
        let daemon = Rc::clone(daemon);
        spawn_local(async move {
            tokio::time::sleep(FIRST_START_MAX).await;
            daemon.release_turn(id);
        });
    }
}

impl Daemon {
    /// The next first start may begin.
    pub(super) fn release_turn(&self, id: RunId) {
        if let Some(handles) = self.handles.borrow_mut().get_mut(&id) {
            handles.turn = None;
        }
    }
}

/// No shim was started, or nobody knows: whoever renames the order first decides.
fn withdraw(daemon: &Rc<Daemon>, id: RunId, why: String) {
    tracing::error!(session = %id.session, "{why}");
    let files = daemon.home.run_files(id);
    match files.abandon() {
        // A shim came all the same: it owns the launch, and its files say how it went.
        Ok(false) if files.read_claimed().is_ok() => super::reattach::look_again(daemon, id),
        Ok(_) => daemon.send(Event::Evidence(id, Evidence::LaunchFailed(LaunchError::Setup(why)))),
        Err(error) => {
            let why = format!("{why}; and the launch order could not be taken back: {error}");
            daemon.send(Event::Evidence(id, Evidence::CannotTell(why)));
        }
    }
}

/// Writes the deadline where the shim reads it, and tells a shim that lives.
pub(super) fn write_deadline(daemon: &Daemon, id: RunId, at: Option<Mono>) {
    let files = daemon.home.run_files(id);
    let deadline = Deadline { v: Version, mono_ns: at, boot: daemon.sys.host().boot.clone() };
    let made = match session_dir::create_private_dir(files.dir()) {
        // A deadline that is moved, or a later run: the session has its directory.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    if made.is_ok() && !files.has_created() {
        keep_record(daemon, &files);
    }
    let written = made.and_then(|()| files.write_deadline(&deadline));
    if let Err(error) = written {
        // The daemon's own timer is the normal path; the shim's late one is lost.
        tracing::error!(session = %id.session, "write the deadline for the shim: {error}");
        return;
    }
    tell_shim(daemon, id, "its deadline");
}

/// Tells a shim that lives that one of its files has changed.
pub(super) fn tell_shim(daemon: &Daemon, id: RunId, what: &str) {
    let shim = daemon.handles.borrow().get(&id).and_then(|handles| handles.shim.clone());
    if let Some(shim) = shim
        && let Err(error) = shim.signal(DEADLINE_MOVED)
    {
        tracing::warn!(session = %id.session, "tell the shim of {what}: {error}");
    }
}

/// Writes the deadline of a living run again if a crash fell between its record and its file.
pub(super) fn check_deadline(daemon: &Daemon, id: RunId) {
    let recorded = {
        let core = daemon.core.borrow();
        let Some(session) = core.session(id.session).filter(|s| s.run_id() == id && s.run.verdict.is_none())
        else {
            return;
        };
        session.run.deadline.map(|deadline| deadline.mono)
    };
    let written = daemon.home.run_files(id).read_deadline();
    if written.is_ok_and(|deadline| deadline.mono_ns != recorded) {
        write_deadline(daemon, id, recorded);
    }
}

/// The record of the launch beside the journal, from which the session can be rebuilt without it.
fn keep_record(daemon: &Daemon, files: &RunFiles) {
    let id = files.id();
    let Some(record) = daemon.core.borrow().session(id.session).map(Session::created) else { return };
    let created = CreatedFile { v: Version, session: id.session, run: id.run, record };
    if let Err(error) = files.write_created(&created) {
        tracing::error!(session = %id.session, "write the record of the launch beside the journal: {error}");
    }
}

/// Whether an error says that a file is simply not there.
pub(super) fn is_missing(error: &FileError) -> bool {
    matches!(error, FileError::Missing { .. })
}
