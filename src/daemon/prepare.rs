//! A request for a run, checked and taken apart: what is recorded of it, and what it will need beyond that.
//!
//! What users' file systems tell comes by way of looks.rs. Refuses to record anything, and to start it (launch.rs).

use std::time::Duration;

use hyper::StatusCode;

use crate::adapters::acp::Plan;
use crate::adapters::retired::instead_of;
use crate::adapters::{Ask, FirstStart, Known, PromptWay};
use crate::core::agent::Budget;
use crate::core::directory::{DirId, Directory};
use crate::core::hooks::Hooks;
use crate::core::locks::Claim;
use crate::core::refusal::Refusal;
use crate::core::session::{Origin, Spec};
use crate::core::vocab::{RunId, SessionId};
use crate::core::worktree::Worktree;
use crate::sys;
use crate::wire::api;
use crate::{config, limits};

use super::http::{Fault, refused};
use super::launch::Parcel;
use super::{Daemon, environment, locks, notify, queue, worktrees};

/// Checks a request and takes it apart. The error is for the user: 400.
pub(crate) async fn prepare(
    daemon: &Daemon,
    id: SessionId,
    ask: api::Launch,
) -> Result<(Spec, Parcel), String> {
    let name = ask.adapter.clone().or_else(|| daemon.config.borrow().adapter.clone());
    let name =
        name.ok_or("no adapter is named, and none is configured; name one, such as opencode or exec")?;
    let adapter = adapter(daemon, &name, ask.acp)?;
    check_words(&ask)?;
    let if_taken = queue::if_taken(ask.force, ask.queue)?;
    let looked = looked_at(daemon, &adapter, id, &ask).await?;
    let Looked { directory: Directory { path: cwd, id: dir }, worktree, env, first_start } = looked;
    let config = daemon.config.borrow();
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
        worktree: worktree.map(Box::new),
        thinking: ask.thinking,
        claim: Claim { dir, if_taken },
    };
    Ok((spec, parcel))
}

/// What only the file systems of users tell of a launch.
struct Looked {
    /// One that is not there is launched in all the same: the record then says `cwd_missing`.
    directory: Directory,
    worktree: Option<Worktree>,
    env: Vec<u8>,
    first_start: Option<FirstStart>,
}

async fn looked_at(
    daemon: &Daemon,
    adapter: &Known,
    id: SessionId,
    ask: &api::Launch,
) -> Result<Looked, String> {
    let boot = daemon.sys.host().boot.clone();
    let (adapter, asked_env, safe, worktree) =
        (adapter.clone(), ask.env.clone(), ask.safe, ask.worktree.clone());
    let cwd = ask.cwd.clone().or_else(|| daemon.config.borrow().cwd.clone()).or_else(|| ask.here.clone());
    let named = worktree.as_ref().map_or_else(
        || format!("cwd {}", cwd.as_deref().unwrap_or_default()),
        |worktree| format!("the repository {}", worktree.repo),
    );
    let look = move || {
        let worktree = worktree.as_ref().map(worktrees::check).transpose()?;
        let cwd = worktree.as_ref().map(Worktree::path).or(cwd);
        let cwd = cwd.ok_or("no cwd is given, and none is configured")?;
        let directory = locks::look_at(&cwd, &boot).map_err(|why| format!("cwd {why}"))?;
        let asked = environment::asked(asked_env.as_ref(), worktree.is_some());
        let (env, first_start) = environment::of_session(&adapter, id, asked, safe, &directory.path)?;
        Ok(Looked { directory, worktree, env, first_start })
    };
    daemon.looks.at(&named, look).await.flatten()
}

/// What another run of a session is.
pub(super) struct Resumption {
    pub(super) run: RunId,
    /// What listings show of the message.
    pub(super) prompt: Option<String>,
    pub(super) parcel: Parcel,
    pub(super) timeout: Option<Duration>,
    pub(super) claim: Claim,
}

/// Takes a request to go on with an ended session apart.
pub(super) async fn prepare_resume(
    daemon: &Daemon,
    id: SessionId,
    ask: &api::Resume,
) -> Result<Resumption, Fault> {
    let known = {
        let core = daemon.core.borrow();
        let session = core.session(id);
        session.map(|session| {
            let native = session.native_id.clone().ok_or(session.origin);
            (session.spec.clone(), native, session.run.number + 1)
        })
    };
    let (spec, native, number) = known.ok_or_else(|| refused(&Refusal::NotFound(id.to_string())))?;
    let if_taken = queue::if_taken(ask.force, ask.queue);
    let if_taken = if_taken.map_err(|why| Fault::new(StatusCode::BAD_REQUEST, why))?;
    let parcel = resume_parcel(daemon, id, &spec, native, ask).await;
    let (parcel, dir) = parcel.map_err(|why| Fault::new(StatusCode::CONFLICT, why))?;
    Ok(Resumption {
        run: RunId { session: id, run: number },
        prompt: shown(&ask.message, spec.private),
        parcel,
        timeout: api::optional_ms(ask.timeout_ms, spec.timeout),
        claim: Claim { dir, if_taken },
    })
}

/// What the next run needs, and its directory, which may be another one than at the launch. The error is for the user.
async fn resume_parcel(
    daemon: &Daemon,
    id: SessionId,
    spec: &Spec,
    native: Result<String, Origin>,
    ask: &api::Resume,
) -> Result<(Parcel, Option<DirId>), String> {
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
    let command = adapter.resume_command(&line, native.as_deref().unwrap_or_default());
    let (program, arguments) = command.map_err(|unfit| unfit.to_string())?;
    daemon.places.can_limit(sys::clock::now().mono, &spec.limits)?;
    let native = native.map_err(|origin| {
        let why = if origin == Origin::Imported {
            "an earlier agentctl did not keep".to_owned()
        } else {
            format!("{} ended before it told", spec.adapter)
        };
        let short = id.short();
        format!("session {short} cannot be resumed: {why} the id of its conversation; launch a new one")
    })?;
    let (known, boot) = (adapter.clone(), daemon.sys.host().boot.clone());
    let asked_env = environment::asked(ask.env.as_ref(), spec.worktree.is_some());
    let (cwd, safe) = (spec.cwd.clone(), spec.safe);
    let look = move || {
        let directory = locks::look_at(&cwd, &boot).ok();
        let (env, first_start) = environment::of_session(&known, id, asked_env, safe, &cwd)?;
        Ok::<_, String>((directory.and_then(|found| found.id), env, first_start))
    };
    let (dir, env, first_start) = daemon.looks.at(&format!("cwd {}", spec.cwd), look).await.flatten()?;
    let parcel = Parcel {
        argv: std::iter::once(program).chain(arguments).collect(),
        env,
        prompt: prompt_file(&adapter, &line, &spec.cwd, Some(&native)),
        umask: umask(ask.umask),
        nofile: ask.nofile.unwrap_or(daemon.nofile),
        first_start,
        for_hooks: spec.hooks.on_complete.is_some(),
    };
    Ok((parcel, dir))
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
