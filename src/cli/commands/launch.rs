//! `launch` and `run`: what the user's shell would have given the command, sent along.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use hyper::Method;
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, umask};
use serde::Serialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::core::vocab::{Leftovers, millis};
use crate::limits;
use crate::wire::api::{Launch, Resume, SessionView, Stop, Worktree};

use super::super::assembly::{self, Parts};
use super::super::client::{Client, RETRY_PAUSE, Unanswered, decode, encode, may_retry, segment, whole};
use super::super::render;
use super::super::slots::Slot;
use super::super::{Failure, LaunchArgs, ResumeArgs, RunArgs};
use super::worktree as trees;
use super::{groups, logs, say_warnings, view, wait};

/// Everything under `run` and `wait` that is not the session's own end.
const ITSELF: u8 = 125;

pub(super) async fn launch(args: LaunchArgs) -> Result<u8, Failure> {
    if groups::are_asked(&args) {
        return groups::launch(args).await;
    }
    let client = Client::find()?;
    let json = args.json;
    let before = args.worktree.as_deref().and_then(trees::paths);
    let record = send(&client, "/v1/sessions", &request(args, true)?).await?;
    told(record, json, "launched", "Launched", before.as_deref())
}

pub(super) async fn resume(args: ResumeArgs) -> Result<u8, Failure> {
    let client = Client::find()?;
    let path = format!("/v1/sessions/{}/resume", segment(&args.id));
    let request = Resume {
        message: assembly::read_prompt(Some(&args.message), None)?.unwrap_or_default(),
        env: Some(environment(args.env)),
        umask: Some(current_umask()),
        nofile: getrlimit(Resource::Nofile).current,
        timeout_ms: args.timeout.map(millis),
        force: args.force,
        queue: args.queue,
    };
    let record = send(&client, &path, &request).await?;
    told(record, args.json, "resumed", "Resumed", None)
}

/// Tells what came of a launch. `before`: the worktrees of the repository that were there already, if that is known.
pub(super) fn told(
    record: Value,
    json: bool,
    done: &str,
    word: &str,
    before: Option<&[String]>,
) -> Result<u8, Failure> {
    if json {
        render::json(&record)?;
    }
    let session = view(record)?;
    warn(&session);
    if session.outcome.as_deref() == Some("launch_failed") {
        let why = session.meta.get("message").and_then(Value::as_str).unwrap_or("the launch failed");
        return Err(Failure::new(1, format!("session {} was not {done}: {why}", &session.id[..8])));
    }
    if let Some(why) = render::waits_for(&session) {
        if !json {
            render::out(&format!("Queued session {}: {why}\n", &session.id[..8]))?;
        }
    } else if !json {
        if let Some(worktree) = session.worktree.as_ref().filter(|_| session.run == 1) {
            let path = worktree.path();
            let what = match before {
                Some(before) if before.contains(&path) => "Worktree used again",
                Some(_) => "Worktree created",
                None => "Worktree",
            };
            render::out(&format!("{what}: {path}\n"))?;
        }
        let pid = session.pid.map_or("unknown".into(), |pid| pid.to_string());
        render::out(&format!("{word} session {} (PID: {pid})\n", &session.id[..8]))?;
    }
    Ok(0)
}

/// What the daemon wants known of the directories around.
pub(super) fn warn(session: &SessionView) {
    let warnings = session.meta.get("warnings").and_then(Value::as_array).into_iter().flatten();
    for warning in warnings.filter_map(Value::as_str) {
        render::say(&format!("agentctl: warning: {warning}"));
    }
}

pub(super) async fn run(args: RunArgs) -> Result<u8, Failure> {
    let itself = |failure: Failure| Failure::new(ITSELF, failure.message);
    let client = Client::find().map_err(itself)?;
    let json = args.launch.json;
    if groups::are_asked(&args.launch) {
        let text = "run follows one session; for several use: agentctl launch, then agentctl wait --group";
        return Err(Failure::new(2, text));
    }
    let request = request(args.launch, false)?;
    let record = send(&client, "/v1/sessions", &request).await.map_err(itself)?;
    drop(request);
    let session = view(record).map_err(itself)?;
    warn(&session);
    if let Some(why) = render::waits_for(&session) {
        render::say(&format!("agentctl: session {} is queued: {why}", &session.id[..8]));
    }
    let ended = follow(&client, &session).await.map_err(itself)?;
    render::say(&render::verdict_line(&ended));
    if json {
        render::json(&ended)?;
    }
    Ok(ended.exit_status.unwrap_or(ITSELF))
}

async fn follow(client: &Client, session: &SessionView) -> Result<SessionView, Failure> {
    let client = Rc::new(client.without_autostart());
    let output = |stream: &'static str| logs::follow_raw(Rc::clone(&client), session.id.clone(), stream);
    let watch = async {
        let (stdout, stderr, ended) =
            tokio::join!(output("stdout"), output("stderr"), wait::ended(&client, &session.id));
        stdout?;
        stderr?;
        ended
    };
    tokio::select! {
        ended = watch => ended,
        failure = stop_on_signals(&client, &session.id) => Err(failure),
    }
}

/// INT or TERM stops the session, a second one forces; returns only when that fails.
async fn stop_on_signals(client: &Client, id: &str) -> Failure {
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    let mut force = false;
    loop {
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
        }
        let how = if force { "killing" } else { "stopping" };
        render::say(&format!("agentctl: {how} session {}", &id[..8]));
        let path = format!("/v1/sessions/{}/stop", segment(id));
        let body = encode(Some(&Stop { force })).unwrap_or_default();
        let client = client.clone();
        // The stop is answered when the tree is gone; a second signal must not wait for that.
        tokio::spawn(async move {
            if let Err(why) = client.send(Method::POST, &path, body, None).await {
                render::say(&format!("agentctl: {}", client.failure(why).message));
            }
        });
        force = true;
    }
}

/// Sends a launch or a resume. A lost answer is asked for again under the same key, so nothing is launched twice.
pub(super) async fn send<T: Serialize>(client: &Client, path: &str, request: &T) -> Result<Value, Failure> {
    let body = encode(Some(request))?;
    let key = Uuid::new_v4().to_string();
    let tries = limits::RECONNECT_TIMEOUT.as_millis() / RETRY_PAUSE.as_millis();
    let mut failed = None;
    for _ in 0..tries {
        let asking = if failed.is_none() { client.clone() } else { client.without_autostart() };
        let answer = match asking.send(Method::POST, path, body.clone(), Some(&key)).await {
            Ok(answer) => {
                say_warnings(&answer, "agentctl: ");
                whole(answer).await
            }
            Err(why) => Err(why),
        };
        match answer {
            Ok(bytes) => return decode(&bytes),
            // Nobody was there to begin with: that is an answer.
            Err(why @ Unanswered::Nobody(_)) if failed.is_none() && !client.has_met_one() => {
                return Err(client.failure(why));
            }
            Err(why) if may_retry(&why) => {
                failed = Some(client.failure(why));
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Err(why) => return Err(client.failure(why)),
        }
    }
    Err(failed.unwrap_or_else(|| Failure::new(3, "the daemon does not answer")))
}

/// What is asked of the daemon. `may_default`: a directory that is not named may be the configured one.
pub(super) fn request(args: LaunchArgs, may_default: bool) -> Result<Launch, Failure> {
    let usage = |message: String| Failure::new(2, message);
    let command: Vec<String> = args
        .command
        .into_iter()
        .map(|word| word.into_string().map_err(|word| usage(format!("the argument {word:?} is not UTF-8"))))
        .collect::<Result<_, _>>()?;
    let mut slots = args.slots.0.into_iter();
    let Slot { adapter, model } = slots.next().unwrap_or_default();
    if slots.next().is_some() {
        return Err(usage("several --adapter are several sessions; this command takes one".into()));
    }
    let adapter = match (args.adapter, adapter) {
        (Some(one), Some(other)) => {
            return Err(usage(format!(
                "{one} and --adapter {other} are two adapters for one session; name one"
            )));
        }
        (positional, flag) => positional.or(flag),
    };
    let adapter = adapter.or_else(|| (!command.is_empty()).then(|| "exec".to_owned()));
    let here = std::env::current_dir();
    let here = here.map_err(|error| usage(format!("find the working directory: {error}")))?;
    let named = args.cwd.as_ref().map(|cwd| here.join(cwd));
    let worktree = worktree(args.worktree.as_deref(), args.branch, args.base_branch, &here)?;
    let parts = Parts {
        prompt: args.prompt,
        prompt_file: args.prompt_file,
        spec: args.spec.clone(),
        files: args.file,
        file_bytes_max: args.max_file_size,
        issue: args.issue,
        repo: args.repo,
    };
    let prompt = assembly::assemble(&parts, named.as_deref().unwrap_or(&here))?;
    if prompt.is_none() && command.is_empty() && adapter.as_ref().is_none_or(|name| name != "exec") {
        return Err(usage("Missing required option: -p, --prompt <text>".into()));
    }
    let (cwd, here) = match named {
        None if may_default => (None, Some(utf8(&here)?)),
        None => (Some(utf8(&here)?), None),
        Some(cwd) => (Some(utf8(&cwd)?), None),
    };
    let mut meta = BTreeMap::new();
    for (key, value) in [
        ("openclaw_callback_session_key", args.callback_session),
        ("openclaw_callback_agent_id", args.callback_agent),
    ] {
        meta.extend(value.map(|value| (key.to_owned(), value)));
    }
    Ok(Launch {
        adapter,
        command,
        prompt,
        cwd,
        here,
        worktree,
        env: Some(environment(args.env)),
        umask: Some(current_umask()),
        nofile: getrlimit(Resource::Nofile).current,
        model,
        name: args.name,
        group: None,
        spec: args.spec.as_deref().map(utf8).transpose()?,
        labels: args.label.into_iter().collect(),
        meta,
        timeout_ms: args.timeout.map(millis),
        grace_ms: args.grace.map(millis),
        leftovers: args
            .leftovers
            .map(|policy| if policy == "keep" { Leftovers::Keep } else { Leftovers::Kill }),
        max_tokens: args.max_tokens,
        max_cost: args.max_cost,
        memory_max_bytes: args.memory_max,
        cpu_quota_percent: args.cpu_quota,
        tasks_max: args.tasks_max,
        linger_ms: args.linger.map(millis),
        stuck_ms: args.stuck.map(millis),
        private: args.private,
        safe: args.safe,
        acp: args.acp,
        thinking: args.thinking,
        on_create: args.on_create,
        on_complete: args.on_complete,
        notify: args.notify,
        force: args.force,
        queue: args.queue,
    })
}

fn worktree(
    repo: Option<&Path>,
    branch: Option<String>,
    base: Option<String>,
    here: &Path,
) -> Result<Option<Worktree>, Failure> {
    match (repo, branch) {
        (Some(repo), Some(branch)) => Ok(Some(Worktree { repo: utf8(&here.join(repo))?, branch, base })),
        (Some(_), None) => Err(Failure::new(2, "--branch is required when using --worktree")),
        (None, Some(_)) => {
            Err(Failure::new(2, "--branch is the branch of a --worktree; name the repository"))
        }
        (None, None) if base.is_some() => {
            Err(Failure::new(2, "--base-branch is where the --branch of a --worktree begins; name both"))
        }
        (None, None) => Ok(None),
    }
}

pub(super) fn utf8(path: &Path) -> Result<String, Failure> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failure::new(2, format!("the path {path:?} is not UTF-8")))
}

pub(super) fn environment(extra: Vec<(String, String)>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let mut skipped = Vec::new();
    for (key, value) in std::env::vars_os() {
        match (key.into_string(), value.into_string()) {
            (Ok(key), Ok(value)) => {
                env.insert(key, value);
            }
            (Ok(key), Err(_)) => skipped.push(key),
            (Err(key), _) => skipped.push(key.to_string_lossy().into_owned()),
        }
    }
    if !skipped.is_empty() {
        render::say(&format!("agentctl: not passed on, since not UTF-8: {}", skipped.join(", ")));
    }
    env.extend(extra);
    env
}

/// The mask can only be read by setting it; nothing else runs in this process yet.
pub(super) fn current_umask() -> u32 {
    let mask = umask(Mode::from_raw_mode(0o077));
    umask(mask);
    mask.as_raw_mode()
}
