//! Requests and answers of the API, and the session record as everybody outside sees it.
//!
//! Owns the public names and shapes (contract, sections 4, 7 and 8). A record has every key always,
//! null where nothing is known. Refuses to decide anything: it translates.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::core::agent::Tokens;
use crate::core::hooks::{HookKind, HookState};
use crate::core::locks::IfTaken;
use crate::core::record::EventKind;
use crate::core::resources::ResourceLimits;
use crate::core::session::{LeftoverCount, Session, Verdict};
use crate::core::vocab::{Leftovers, Usage, Wall};

use super::session_dir::hook_log_name;
use super::time::rfc3339;

/// How the daemon names itself in every answer; a client of another version says so.
pub const SERVER_NAME: &str = concat!("agentctl/", env!("CARGO_PKG_VERSION"));

/// In an answer with a log or its last messages: how many bytes it has lost in front of what is kept of it (`log_max`). Not
/// there where that is nothing.
pub const LOG_DROPPED_HEADER: &str = "agentctl-log-dropped";
/// In an answer with a log: the place where reading begins, which is later than `from` where that is not kept any more.
pub const LOG_FROM_HEADER: &str = "agentctl-log-from";

/// What `POST /v1/sessions` takes.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Launch {
    /// Absent: the configured default.
    pub adapter: Option<String>,
    /// Program and arguments, for `exec`.
    #[serde(default)]
    pub command: Vec<String>,
    pub prompt: Option<String>,
    /// Absent: the configured default, else `here`.
    pub cwd: Option<String>,
    /// Where the caller is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub here: Option<String>,
    /// In place of `cwd`: a worktree, made where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<Worktree>,
    /// The environment of the session. Absent: a minimal one (PATH, HOME, USER, LOGNAME, SHELL, LANG of
    /// the daemon).
    pub env: Option<BTreeMap<String, String>>,
    /// Absent: 022.
    pub umask: Option<u32>,
    /// Soft limit of open files. Absent: the one that the daemon was started with.
    pub nofile: Option<u64>,
    pub model: Option<String>,
    pub name: Option<String>,
    pub group: Option<String>,
    pub spec: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// Master timeout, milliseconds; 0: none. Absent: the configured default.
    pub timeout_ms: Option<u64>,
    pub grace_ms: Option<u64>,
    pub leftovers: Option<Leftovers>,
    /// The run is stopped when it has told that it used more tokens, in all four counters together.
    pub max_tokens: Option<u64>,
    /// The run is stopped when it has told that it cost more dollars.
    pub max_cost: Option<f64>,
    /// What its processes may use together; refused where nothing enforces it.
    pub memory_max_bytes: Option<u64>,
    /// Percent of one CPU: 200 is two of them.
    pub cpu_quota_percent: Option<u32>,
    /// Processes and threads.
    pub tasks_max: Option<u64>,
    /// The run is ended when the agent lives on for so long after it has said that its work is over, milliseconds; 0:
    /// never. Absent: the configured default.
    pub linger_ms: Option<u64>,
    /// The run is told to be stuck when it shows no sign of life for so long, milliseconds; 0: never. Absent: the
    /// configured default.
    pub stuck_ms: Option<u64>,
    /// Keep the prompt out of listings, journal and webhooks.
    #[serde(default)]
    pub private: bool,
    /// Leave the agent's own permission rules in force.
    #[serde(default)]
    pub safe: bool,
    /// Speak to the agent in ACP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acp: bool,
    /// How much the agent is to think, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Text for `/bin/sh -c`, run once the leader runs.
    pub on_create: Option<String>,
    /// The same, once the verdict is durable.
    pub on_complete: Option<String>,
    /// Who is to hear of the end: names of endpoints, or URLs.
    #[serde(default)]
    pub notify: Vec<String>,
    /// Go ahead although somebody has the directory.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// Wait for the directory, or for a place among the sessions that may run at once, instead of being refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queue: bool,
}

impl std::fmt::Debug for Launch {
    /// Without the environment and the prompt: both may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launch")
            .field("adapter", &self.adapter)
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

/// What `POST /v1/sessions/{id}/resume` takes. Directory, model, permission mode and name stay as they were.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resume {
    /// What is said to the agent next.
    pub message: String,
    /// As at launch.
    pub env: Option<BTreeMap<String, String>>,
    pub umask: Option<u32>,
    pub nofile: Option<u64>,
    /// Master timeout of the new run, milliseconds; 0: none. Absent: that of the launch.
    pub timeout_ms: Option<u64>,
    /// As at launch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queue: bool,
}

impl std::fmt::Debug for Resume {
    /// Without the environment and the message: both may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resume").field("timeout_ms", &self.timeout_ms).finish_non_exhaustive()
    }
}

/// What `POST /v1/sessions/{id}/stop` takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    #[serde(default)]
    pub force: bool,
}

/// What `POST /v1/sessions/{id}/extend` takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Extend {
    /// The new deadline, counted from now, in milliseconds; 0 removes it.
    pub by_ms: u64,
}

/// One element of `GET /v1/adapters`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AdapterView {
    pub name: String,
    /// By the configuration; else built in.
    pub declared: bool,
    /// What is started; null where the user names it.
    pub program: Option<String>,
    /// How the prompt reaches it: `stdin`, `argument` or `none`.
    pub prompt: String,
    /// Whether its output is read: outcome, tokens, messages. Else its exit code alone counts.
    pub reads_output: bool,
    pub resumes: bool,
    /// Whether its conversation has the session's id.
    pub imposes_id: bool,
    /// Whether it can be spoken to in ACP.
    #[serde(default)]
    pub acp: bool,
}

/// Every error of the API, as `application/problem+json` (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Problem {
    pub title: String,
    pub status: u16,
    pub detail: String,
}

/// One line of `GET /v1/doctor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    pub state: CheckState,
    /// What was found, and what it means.
    pub found: String,
    /// The next step, where there is one.
    pub advice: Option<String>,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// Works, with less than there could be.
    Note,
    /// Something is wrong.
    Problem,
    /// It could not be found out; neither good nor bad.
    Unknown,
}

impl Check {
    pub fn new(name: &str, state: CheckState, found: impl Into<String>) -> Self {
        Self { name: name.to_owned(), state, found: found.into(), advice: None }
    }

    /// With the next step.
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// What the processes of a session may use together.
pub type Limits = ResourceLimits;

/// A directory of its own for a session.
pub type Worktree = crate::core::worktree::Worktree;

/// A word of a closed list, as the daemon has it or as it was read.
pub type Word = Cow<'static, str>;

/// The session record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionView {
    pub id: String,
    pub run: u32,
    pub origin: Word,
    pub adapter: String,
    pub status: Word,
    pub phase: Word,
    pub outcome: Option<Word>,
    pub exit_code: Option<u8>,
    pub signal: Option<String>,
    pub reason: Option<String>,
    pub evidence: Vec<EvidenceView>,
    pub started_at: String,
    pub stopped_at: Option<String>,
    pub timeout_at: Option<String>,
    pub pid: Option<u32>,
    pub cwd: String,
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub group: Option<String>,
    pub name: Option<String>,
    pub spec: Option<String>,
    pub native_id: Option<String>,
    /// Null where what it prints goes elsewhere.
    pub log_path: Option<String>,
    pub tokens: Option<Tokens>,
    pub cost: Option<f64>,
    pub usage: Option<UsageView>,
    /// What its processes may use together; null: all there is.
    pub limits: Option<Limits>,
    /// The worktree that `cwd` is; null where it was not made for it.
    pub worktree: Option<Worktree>,
    pub thinking: Option<String>,
    pub leftovers: Value,
    /// The number that `run` and `wait` exit with; null until the verdict.
    pub exit_status: Option<u8>,
    pub meta: Map<String, Value>,
}

/// One line of the evidence.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EvidenceView {
    pub prong: Word,
    pub at: String,
    pub detail: String,
}

/// What the run used.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageView {
    pub cpu_seconds: f64,
    /// Of any one process.
    pub max_rss_bytes: u64,
    /// Of all together, by their cgroup; null where that does not say.
    pub memory_peak_bytes: Option<u64>,
    /// Processes that the kernel killed for want of memory; null where nobody counts.
    pub oom_kills: Option<u64>,
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        let group = usage.group.unwrap_or_default();
        Self {
            cpu_seconds: usage.cpu_time_us() as f64 / 1e6,
            max_rss_bytes: usage.max_rss_bytes,
            memory_peak_bytes: group.memory_peak_bytes,
            oom_kills: group.oom_kills,
        }
    }
}

impl SessionView {
    /// The record of a session. `told`: whether its verdict, if any, is durable and may be told.
    pub fn of(session: &Session, told: bool, log_path: Option<String>) -> Self {
        let run = &session.run;
        let verdict = run.verdict.as_deref().filter(|_| told);
        let phase = if run.verdict.is_some() && !told { "ending" } else { run.phase().word() };
        let started = run.started.unwrap_or(run.begun).wall;
        let ended = verdict.map(|verdict| verdict.ended.map_or(verdict.decided.wall, |end| end.wall()));
        Self {
            id: session.id.to_string(),
            run: run.number,
            origin: session.origin.word().into(),
            adapter: session.spec.adapter.clone(),
            status: session.status(told).word().into(),
            phase: phase.into(),
            outcome: verdict.map(|verdict| verdict.outcome.word().into()),
            exit_code: verdict.and_then(Verdict::exit_code),
            signal: verdict.and_then(Verdict::signal),
            reason: verdict.map(|verdict| verdict.reason.word()),
            evidence: run.evidence.iter().map(EvidenceView::of).collect(),
            started_at: rfc3339(started),
            stopped_at: ended.map(rfc3339),
            timeout_at: run.deadline.map(|deadline| rfc3339(deadline.wall)),
            pid: run.fuse.leader.map(|leader| leader.pid),
            cwd: session.spec.cwd.clone(),
            model: session.spec.model.clone(),
            prompt: session.spec.prompt.clone(),
            group: session.spec.group.clone(),
            name: session.spec.name.clone(),
            spec: session.spec.spec.clone(),
            native_id: session.native_id.clone(),
            log_path: log_path.clone(),
            tokens: verdict.and_then(|verdict| verdict.tokens).or(session.progress.tokens),
            cost: verdict.and_then(|verdict| verdict.cost_usd).or(session.progress.cost_usd),
            usage: run.usage.map(UsageView::from),
            limits: Some(session.spec.limits).filter(|limits| !limits.is_none()),
            worktree: session.spec.worktree.as_deref().cloned(),
            thinking: session.spec.thinking.clone(),
            leftovers: match run.leftovers {
                LeftoverCount::Known(count) => json!(count),
                LeftoverCount::Unknown => json!("unknown"),
            },
            exit_status: verdict.map(Verdict::number),
            meta: meta_of(session, verdict, told, log_path.as_deref().unwrap_or_default()),
        }
    }
}

fn meta_of(session: &Session, verdict: Option<&Verdict>, told: bool, log: &str) -> Map<String, Value> {
    let run = &session.run;
    let mut meta: Map<String, Value> =
        session.spec.meta.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    if !session.spec.labels.is_empty() {
        meta.insert("labels".into(), json!(session.spec.labels));
    }
    if !run.hooks.is_empty() {
        let hooks = run
            .hooks
            .iter()
            .map(|(kind, state)| (kind.word().to_owned(), hook(run.number, *kind, state, log)));
        meta.insert("hooks".into(), Value::Object(hooks.collect()));
    }
    if let Some(note) = &session.rebuilt {
        meta.insert("rebuilt".into(), json!(note));
    }
    let mut warnings = run.warnings.clone();
    let overdrawn = session.overdrawn().filter(|_| verdict.is_some());
    warnings.extend(overdrawn.map(|over| format!("{}, and told so too late for a stop", over.detail())));
    if !warnings.is_empty() {
        meta.insert("warnings".into(), json!(warnings));
    }
    if let Some(why) = &run.unverified {
        meta.insert("unverified".into(), json!(why));
    }
    for (key, since) in [("lingering", session.lingers_since()), ("stuck", session.stuck_since())] {
        if let Some(since) = since {
            meta.insert(key.into(), json!({ "since": rfc3339(since.wall) }));
        }
    }
    if run.verdict.is_some() && !told {
        meta.insert("unrecorded".into(), json!("the end is known and cannot be made durable yet"));
    }
    if let Some(message) = verdict.and_then(|verdict| verdict.message.as_ref()) {
        meta.insert("message".into(), json!(message));
    }
    if verdict.is_some_and(|verdict| !verdict.ended.is_some_and(|end| end.exact)) {
        meta.insert("stoppedAtNote".into(), json!("no later than"));
    }
    meta
}

/// A hook of a run; its output lies beside the log of its session.
fn hook(run: u32, kind: HookKind, state: &HookState, log: &str) -> Value {
    let log = Path::new(log).with_file_name(hook_log_name(run, kind.word()));
    match state {
        HookState::Running { since } => {
            json!({ "state": state.word(), "startedAt": rfc3339(*since), "logPath": log })
        }
        HookState::Ended(verdict) => json!({
            "state": state.word(),
            "exitStatus": verdict.number(),
            "reason": verdict.reason.word(),
            "message": verdict.message,
            "endedAt": rfc3339(verdict.ended.map_or(verdict.decided.wall, |end| end.wall())),
            "logPath": log,
        }),
    }
}

impl EvidenceView {
    fn of(entry: &crate::core::session::EvidenceEntry) -> Self {
        Self { prong: entry.prong.word().into(), at: rfc3339(entry.at), detail: entry.detail.clone() }
    }
}

/// An event of the public stream.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct EventView<'a> {
    cursor: String,
    seq: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    adapter: Option<&'a str>,
    session_id: Option<&'a str>,
    run: Option<u32>,
    timestamp: String,
    session: Option<&'a SessionView>,
    #[serde(flatten)]
    more: BTreeMap<&'a str, Value>,
}

/// The body of an event of the public stream, one line of JSON. `more`: keys that only some types have.
pub fn event_body(
    epoch: &str,
    seq: u64,
    kind: EventKind,
    at: Wall,
    session: Option<&SessionView>,
    more: BTreeMap<&str, Value>,
) -> String {
    let event = EventView {
        cursor: cursor(epoch, seq),
        seq,
        kind: kind.word(),
        adapter: session.map(|session| session.adapter.as_str()),
        session_id: session.map(|session| session.id.as_str()),
        run: session.map(|session| session.run),
        timestamp: rfc3339(at),
        session,
        more,
    };
    serde_json::to_string(&event).expect("string keys and plain values")
}

/// A place in the event stream of one journal.
pub fn cursor(epoch: &str, seq: u64) -> String {
    format!("{epoch}-{seq}")
}

/// Reads a cursor; a bare number means the current epoch. `Err` holds the epoch of another journal.
pub fn parse_cursor(text: &str, epoch: &str) -> Result<Option<u64>, String> {
    let (named, number) = match text.rsplit_once('-') {
        Some((named, number)) => (Some(named), number),
        None => (None, text),
    };
    match (named, number.parse()) {
        (Some(named), Ok(_)) if named != epoch => Err(named.to_owned()),
        (_, Ok(seq)) => Ok(Some(seq)),
        (_, Err(_)) => Ok(None),
    }
}

/// What a request says of a directory that is taken; none where it contradicts itself.
pub fn if_taken(force: bool, queue: bool) -> Option<IfTaken> {
    match (force, queue) {
        (false, false) => Some(IfTaken::Refuse),
        (true, false) => Some(IfTaken::Force),
        (false, true) => Some(IfTaken::Queue),
        (true, true) => None,
    }
}

/// What a duration in a request means: absent stays absent, 0 is none.
pub fn optional_ms(ms: Option<u64>, default: Option<Duration>) -> Option<Duration> {
    match ms {
        None => default,
        Some(0) => None,
        Some(ms) => Some(Duration::from_millis(ms)),
    }
}
