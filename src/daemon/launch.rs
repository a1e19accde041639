//! From a launch request to a leader that runs: what is refused, what is written down for the shim, and
//! what the shim answers.
//!
//! Owns the session's environment and prompt until they are files; neither is ever in a record, a log or
//! an argument. The daemon itself never forks: starting the agent is the shim's business.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::{spawn_blocking, spawn_local};

use crate::adapters::acp::{self, Plan};
use crate::adapters::retired::instead_of;
use crate::adapters::{Ask, FirstStart, Known, PromptWay};
use crate::core::Event;
use crate::core::agent::Budget;
use crate::core::directory::Directory;
use crate::core::fuse::{Evidence, LaunchError};
use crate::core::hooks::{HiddenOf, HookOf, Hooks};
use crate::core::locks::Claim;
use crate::core::resources::ResourceLimits;
use crate::core::session::{Origin, Session, Spec};
use crate::core::vocab::{Mono, RunId, SessionId};
use crate::sys::cgroup::scope::{Made, Manager};
use crate::sys::shim_file::{ShimMessage, ShimProgram, let_go, next_message};
use crate::sys::{self, ProcessRef};
use crate::wire::session_dir::{self, CreatedFile, DEADLINE_MOVED, Deadline, LaunchOrder, RunFiles, Version};
use crate::wire::{api, session_dir::FileError};
use crate::{config, limits};

use super::home::log_name;
use super::perform::{self, Handles};
use super::place::Chosen;
use super::{Daemon, environment, fuses, hooks, locks, notify, queue, worktrees};

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

/// Keeps first starts of one agent in one home apart.
pub(crate) type Turns = RefCell<HashMap<PathBuf, Arc<Mutex<()>>>>;

/// Checks a request and takes it apart. The error is for the user: 400.
pub(crate) fn prepare(daemon: &Daemon, id: SessionId, ask: api::Launch) -> Result<(Spec, Parcel), String> {
    let config = daemon.config.borrow();
    let name = ask.adapter.clone().or_else(|| config.adapter.clone());
    let name =
        name.ok_or("no adapter is named, and none is configured; name one, such as opencode or exec")?;
    let adapter = adapter(daemon, &name, ask.acp)?;
    check_words(&ask)?;
    let if_taken = queue::if_taken(ask.force, ask.queue)?;
    let worktree = ask.worktree.as_ref().map(worktrees::check).transpose()?;
    let cwd = match &worktree {
        Some(worktree) => Some(worktree.path()),
        None => ask.cwd.clone().or_else(|| config.cwd.clone()).or_else(|| ask.here.clone()),
    };
    let cwd = cwd.ok_or("no cwd is given, and none is configured")?;
    // A directory that is not there is launched all the same: the record then says `cwd_missing`.
    let Directory { path: cwd, id: dir } =
        locks::look_at(&cwd, &daemon.sys.host().boot).map_err(|why| format!("cwd {why}"))?;
    let model = ask.model.clone().or_else(|| config.model.clone());
    let limits = daemon.places.limits_of(sys::clock::now().mono, &ask)?;
    let own_id = id.to_string();
    let line = Ask {
        prompt: ask.prompt.as_deref(),
        model: model.as_deref(),
        title: ask.name.as_deref(),
        session: Some(&own_id),
        command: &ask.command,
        safe: ask.safe,
        thinking: ask.thinking.as_deref(),
    };
    let (program, arguments) = adapter.command(&line).map_err(|unfit| unfit.to_string())?;
    let asked_env = environment::asked(ask.env.as_ref(), worktree.is_some());
    let (env, first_start) = environment::of_session(&adapter, id, asked_env, ask.safe, &cwd)?;
    let reads = adapter.parser().is_some();
    if ask.linger_ms.is_some_and(|ms| ms > 0) && !reads {
        return Err(format!(
            "linger: nobody reads what {name} prints, so nothing tells that its work is over"
        ));
    }
    let stuck = api::optional_ms(ask.stuck_ms, config.stuck);
    let stuck = config::check_stuck(stuck).map_err(|why| format!("stuck: {why}"))?;
    let hooks = Hooks { on_create: ask.on_create.clone(), on_complete: ask.on_complete.clone() };
    let parcel = Parcel {
        argv: std::iter::once(program).chain(arguments).collect(),
        env,
        prompt: prompt_file(&adapter, &line, &cwd, None),
        umask: umask(ask.umask),
        nofile: ask.nofile.unwrap_or(daemon.nofile),
        first_start,
        for_hooks: !hooks.is_empty(),
    };
    // What listings show of the task: an agent's prompt, or the command itself.
    let task = ask.prompt.clone().unwrap_or_else(|| ask.command.join(" "));
    let head = shown(&task, ask.private);
    let spec = Spec {
        adapter: adapter.name().to_owned(),
        command: if ask.private { Vec::new() } else { ask.command },
        cwd,
        model,
        prompt: head,
        name: ask.name,
        group: ask.group,
        spec: ask.spec,
        labels: ask.labels,
        meta: ask.meta,
        timeout: api::optional_ms(ask.timeout_ms, config.timeout),
        grace: ask.grace_ms.map_or(config.grace, Duration::from_millis),
        leftovers: ask.leftovers.unwrap_or(config.leftovers),
        wants_report: reads,
        private: ask.private,
        safe: ask.safe,
        acp: adapter.speaks_acp(),
        native_id: adapter.imposes_id().then_some(own_id),
        hooks,
        hook_of: None,
        fuse_of: None,
        budget: Budget { max_tokens: ask.max_tokens, max_cost: ask.max_cost },
        linger: api::optional_ms(ask.linger_ms, config.linger).filter(|_| reads),
        stuck,
        notify: notify::named(&config, &ask.notify)?,
        limits,
        worktree,
        thinking: ask.thinking,
        claim: Claim { dir, if_taken },
    };
    Ok((spec, parcel))
}

/// Takes a request to go on with an ended session apart: what listings show of the message, and what its next run
/// needs. The error is for the user.
pub(crate) fn prepare_resume(
    daemon: &Daemon,
    session: &Session,
    ask: &api::Resume,
) -> Result<(Option<String>, Parcel), String> {
    let spec = &session.spec;
    let adapter = adapter(daemon, &spec.adapter, spec.acp)?;
    let line = Ask {
        prompt: Some(&ask.message),
        model: spec.model.as_deref(),
        safe: spec.safe,
        thinking: spec.thinking.as_deref(),
        ..Ask::default()
    };
    if ask.message.trim().is_empty() {
        return Err("the message to go on with is empty".into());
    }
    let native = session.native_id.as_deref();
    let command = adapter.resume_command(&line, native.unwrap_or_default());
    let (program, arguments) = command.map_err(|unfit| unfit.to_string())?;
    daemon.places.can_limit(sys::clock::now().mono, &spec.limits)?;
    if native.is_none() {
        let why = if session.origin == Origin::Imported {
            "an earlier agentctl did not keep".to_owned()
        } else {
            format!("{} ended before it told", spec.adapter)
        };
        let short = session.id.short();
        return Err(format!(
            "session {short} cannot be resumed: {why} the id of its conversation; launch a new one"
        ));
    }
    let asked_env = environment::asked(ask.env.as_ref(), spec.worktree.is_some());
    let (env, first_start) = environment::of_session(&adapter, session.id, asked_env, spec.safe, &spec.cwd)?;
    let parcel = Parcel {
        argv: std::iter::once(program).chain(arguments).collect(),
        env,
        prompt: prompt_file(&adapter, &line, &spec.cwd, native),
        umask: umask(ask.umask),
        nofile: ask.nofile.unwrap_or(daemon.nofile),
        first_start,
        for_hooks: spec.hooks.on_complete.is_some(),
    };
    Ok((shown(&ask.message, spec.private), parcel))
}

fn umask(asked: Option<u32>) -> u32 {
    asked.unwrap_or(0o022) & 0o777
}

/// The beginning of a task, as listings show it.
fn shown(task: &str, private: bool) -> Option<String> {
    let head: String = task.chars().take(limits::PROMPT_CHARS_MAX).collect();
    (!private && !head.is_empty()).then_some(head)
}

fn adapter(daemon: &Daemon, name: &str, acp: bool) -> Result<Known, String> {
    let declared = &daemon.config.borrow().adapters;
    let known = Known::find(name, declared).ok_or_else(|| {
        if let Some(why) = instead_of(name) {
            return why.to_owned();
        }
        let all: Vec<_> = Known::all(declared).map(|known| known.name().to_owned()).collect();
        let near = config::nearest(name, all.iter().map(String::as_str));
        let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        format!("Unknown adapter: {name}{hint} (known: {})", all.join(", "))
    })?;
    if acp { known.over_acp().map_err(|unfit| unfit.to_string()) } else { Ok(known) }
}

/// What the prompt's file holds: where it is an argument, there is none; where the agent is talked to, what will be said.
fn prompt_file(adapter: &Known, ask: &Ask<'_>, cwd: &str, resume: Option<&str>) -> Option<String> {
    if adapter.speaks_acp() {
        let plan = Plan {
            cwd: cwd.to_owned(),
            model: ask.model.filter(|_| !adapter.model_in_argv()).map(str::to_owned),
            resume: resume.map(str::to_owned),
            prompt: ask.prompt.unwrap_or_default().to_owned(),
        };
        return Some(plan.encode());
    }
    ask.prompt.filter(|_| adapter.prompt() == PromptWay::Stdin).map(str::to_owned)
}

pub(super) fn check_words(ask: &api::Launch) -> Result<(), String> {
    if let Some(cost) = ask.max_cost.filter(|cost| !cost.is_finite() || *cost < 0.0) {
        return Err(format!("a cost of at most {cost} dollars is no limit"));
    }
    if ask.labels.len() > limits::LABELS_MAX {
        return Err(format!("{} labels are more than {}", ask.labels.len(), limits::LABELS_MAX));
    }
    let words = ask.labels.iter().chain(&ask.meta).flat_map(|(key, value)| [key, value]);
    if let Some(word) = words.into_iter().find(|word| word.chars().count() > limits::LABEL_CHARS_MAX) {
        let shown: String = word.chars().take(20).collect();
        return Err(format!(
            "the label \"{shown}...\" is longer than {} characters",
            limits::LABEL_CHARS_MAX
        ));
    }
    for (what, script) in [("onCreate", &ask.on_create), ("onComplete", &ask.on_complete)] {
        let Some(script) = script else { continue };
        check_script(what, script)?;
    }
    for (what, word) in [("name", &ask.name), ("group", &ask.group)] {
        let Some(word) = word else { continue };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if word.is_empty()
            || word.len() > limits::LABEL_CHARS_MAX
            || !word.chars().all(plain)
            || word.starts_with('-')
        {
            return Err(format!("the {what} \"{word}\" may hold letters, digits and . _ - only"));
        }
    }
    Ok(())
}

pub(super) fn check_script(what: &str, script: &str) -> Result<(), String> {
    let most = limits::HOOK_BYTES_MAX;
    if script.trim().is_empty() || script.contains('\0') || script.len() > most {
        return Err(format!("the script {what} is empty, holds a NUL byte, or is longer than {most} bytes"));
    }
    Ok(())
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
        let Ok(_place) = daemon.launches.acquire().await else { return };
        let Some((mut order, limits)) = order(&daemon, id, &parcel) else { return };
        let repo = hidden.and_then(|of| hooks::repository(&daemon, of));
        let place = daemon.places.choose(sys::clock::now().mono, &limits);
        let files = daemon.home.run_files(id);
        let shim = Arc::clone(&daemon.shim);
        let begun = spawn_blocking(move || {
            if let Some(repo) = repo.filter(|_| !Path::new(&order.cwd).is_dir()) {
                order.cwd = repo;
            }
            begin(&shim, &files, order, &limits, &parcel, &place)
        });
        let begun = begun.await;
        let begun = begun.unwrap_or_else(|panicked| Err(format!("the launch panicked: {panicked}")));
        match begun {
            Ok(begun) => accept(&daemon, id, begun, turn),
            Err(why) => withdraw(&daemon, id, why),
        }
    });
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

async fn take_turn(daemon: &Rc<Daemon>, first: Option<&FirstStart>) -> Option<OwnedMutexGuard<()>> {
    let size = |path: &Path| std::fs::metadata(path).ok().map(|found| found.len());
    let first = first.filter(|first| !first.is_done(size))?;
    let turn = Arc::clone(daemon.first_starts.borrow_mut().entry(first.key.clone()).or_default());
    let guard = turn.lock_owned().await;
    (!first.is_done(size)).then_some(guard)
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
        grace_ms: u64::try_from(spec.grace.as_millis()).unwrap_or(u64::MAX),
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

fn accept(daemon: &Rc<Daemon>, id: RunId, begun: Begun, turn: Option<OwnedMutexGuard<()>>) {
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
    daemon.handles.borrow_mut().insert(id, handles);
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
