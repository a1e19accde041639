//! A session and its run: what was asked, what is known, what the world may be told of it.
//!
//! Owns the public words (`status`, `phase`, `reason`) and the one function that maps state to each of
//! them; nothing else invents status strings. Refuses to know how a session is stored or shown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::agent::{AgentEvent, AgentReport, Budget, Span, Spent, Stored, Tokens};
use super::dir_fuses::FuseId;
use super::fuse::{End, EndTime, Fuse, Outcome, Prong, Reason, ReportSeen, StopCause, TreeSeen};
use super::hooks::{HookKind, HookOf, HookState, Hooks};
use super::locks::Claim;
use super::queue::Turn;
use super::record::{Record, RequestKey};
use super::resources::ResourceLimits;
use super::trouble::{Over, Quiet};
use super::vocab::{HostId, Leftovers, Mono, Now, RunId, SessionId, Usage, WaitStatus, Wall, signal_name};
use super::worktree::Worktree;

/// What was asked for at launch, as far as it is kept. The environment and the whole prompt are not:
/// they exist only as files until the leader runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    /// Name of the adapter.
    pub adapter: String,
    /// The program and its arguments for `exec`; empty for agents, whose adapter makes them.
    #[serde(default)]
    pub command: Vec<String>,
    /// Working directory, real path.
    pub cwd: String,
    pub model: Option<String>,
    /// At most 200 characters of the prompt; none for `--private`.
    pub prompt: Option<String>,
    pub name: Option<String>,
    pub group: Option<String>,
    /// Path of a specification file, as given.
    pub spec: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Callback keys and the like, passed through to `meta`.
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
    /// The master timeout; `None` = none.
    pub timeout: Option<Duration>,
    /// Between TERM and KILL.
    pub grace: Duration,
    pub leftovers: Leftovers,
    /// Whether the adapter reads the agent's own report for the outcome.
    pub wants_report: bool,
    /// Whether prompt text is kept out of records.
    #[serde(default)]
    pub private: bool,
    /// Whether the agent's own permission rules are in force.
    #[serde(default)]
    pub safe: bool,
    /// Whether the agent is spoken to in ACP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub acp: bool,
    /// What each run may use.
    #[serde(default)]
    pub budget: Budget,
    /// An agent whose work is over is ended when it lives on for so long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linger: Option<Duration>,
    /// A run that shows no sign of life for so long is told to be stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck: Option<Duration>,
    /// The id that the agent's conversation was given at launch, for agents that take one.
    #[serde(default)]
    pub native_id: Option<String>,
    /// Scripts of the user's at its start and its end.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
    /// It is itself such a script.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook_of: Option<HookOf>,
    /// It is what a directory fuse does when it fires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuse_of: Option<FuseId>,
    /// Who is to hear of the end, beside those who hear of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Notify>,
    /// What its processes may use together.
    #[serde(default, skip_serializing_if = "ResourceLimits::is_none")]
    pub limits: ResourceLimits,
    /// The worktree that `cwd` is, where it was made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worktree: Option<Box<Worktree>>,
    /// How much the agent is to think, in its own words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    /// Its directory, and what it does when that is taken.
    #[serde(default, skip_serializing_if = "Claim::is_plain")]
    pub claim: Claim,
}

/// Somebody whom a launch named to be told of the end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// The endpoint's name.
    pub endpoint: String,
    /// Its URL, where the configuration does not know it.
    pub url: Option<HiddenText>,
}

/// A text that may hold a token: kept, and shown nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HiddenText(pub String);

impl std::fmt::Debug for HiddenText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// An agent that is asked in its protocol to end its turn has half of the grace for it, at most so long.
const CANCEL_MAX: Duration = Duration::from_secs(5);

impl Spec {
    /// How long an agent may take to end its turn before TERM.
    pub fn cancel_patience(&self) -> Duration {
        (self.grace / 2).min(CANCEL_MAX)
    }

    /// A command, and nothing else asked: no deadline, leftovers are killed.
    pub fn exec(command: Vec<String>, cwd: String, grace: Duration) -> Self {
        Self {
            adapter: "exec".into(),
            command,
            cwd,
            model: None,
            prompt: None,
            name: None,
            group: None,
            spec: None,
            labels: BTreeMap::new(),
            meta: BTreeMap::new(),
            timeout: None,
            grace,
            leftovers: Leftovers::Kill,
            wants_report: false,
            private: false,
            safe: false,
            acp: false,
            budget: Budget::default(),
            linger: None,
            stuck: None,
            native_id: None,
            hooks: Hooks::default(),
            hook_of: None,
            fuse_of: None,
            notify: Vec::new(),
            limits: ResourceLimits::default(),
            worktree: None,
            thinking: None,
            claim: Claim::default(),
        }
    }
}

/// Where a session comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Launched,
    Discovered,
    Adopted,
    Imported,
}

/// The phase of a run, finer than its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    Queued,
    Launching,
    Running,
    Stopping,
    Ending,
    Ended,
}

/// What a listing calls a session: these four words, and nothing else, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Running,
    Idle,
    Stopped,
    Error,
}

/// One line of the evidence list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceEntry {
    pub prong: Prong,
    pub at: Wall,
    pub detail: String,
}

/// The one terminal record of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub outcome: Outcome,
    pub reason: Reason,
    /// `None`: unknown, or never launched. Unknown is never 0.
    pub status: Option<WaitStatus>,
    pub ended: Option<EndTime>,
    /// When the verdict was taken.
    pub decided: Now,
    /// In order of arrival, up to the verdict.
    pub evidence: Vec<EvidenceEntry>,
    /// What the leader used.
    pub usage: Option<Usage>,
    /// Words for people: the agent's error, or why the launch failed.
    pub message: Option<String>,
    pub tokens: Option<Tokens>,
    pub cost_usd: Option<f64>,
}

/// Processes of the tree that outlived the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftoverCount {
    Known(u32),
    Unknown,
}

/// How far a stop has come. Each step is taken once, by its timer or by the leader's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StopStep {
    /// The agent was asked in its protocol to end its turn.
    Cancelling,
    /// TERM went to the leader.
    Asked,
    /// TERM went to all that is left.
    Swept,
    /// KILL goes to all that is left, again and again.
    Killing,
}

/// The current run.
#[derive(Clone, Debug)]
pub struct Run {
    pub number: u32,
    /// When the launch was recorded.
    pub begun: Now,
    /// Where: pids and monotonic times mean something only there.
    pub host: Arc<HostId>,
    /// Somebody else started it; it has no shim, and its output is not ours.
    pub adopted: bool,
    /// When the leader was started.
    pub started: Option<Now>,
    pub fuse: Fuse,
    /// The evidence list so far.
    pub evidence: Vec<EvidenceEntry>,
    pub verdict: Option<Box<Verdict>>,
    /// Number of the record that holds the verdict, to tell what is durable.
    pub verdict_record: u64,
    /// When the master timeout fires, on this boot's CLOCK_MONOTONIC.
    pub deadline: Option<Deadline>,
    pub stop_step: Option<StopStep>,
    pub usage: Option<Usage>,
    pub leftovers: LeftoverCount,
    /// The tree is known to be gone, or nobody can tell any more; durable.
    pub tree_settled: bool,
    /// What was said of the directories around its own.
    pub warnings: Vec<String>,
    pub turn: Turn,
    /// Why a check could not be made.
    pub unverified: Option<String>,
    /// Hooks whose start is recorded.
    pub hooks: BTreeMap<HookKind, HookState>,
    /// Questions already put to the edge, so that each is asked once per daemon life.
    pub asked: Asked,
}

/// A deadline, by both clocks: one decides, the other is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    pub mono: Mono,
    pub wall: Wall,
}

impl Deadline {
    /// So long after this instant.
    pub fn after(now: Now, time: Duration) -> Self {
        Self { mono: now.mono.after(time), wall: now.wall.after(time) }
    }
}

/// Questions put to the edge in this life of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub rescan: bool,
    pub kernel: bool,
    pub report: bool,
    pub tree: bool,
    /// The shim's exit file was looked for, unasked by any news of it.
    pub late: bool,
    pub stuck: bool,
}

/// What the output stream told so far. Soft: read again from the log after a restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    pub tokens: Option<Tokens>,
    pub cost_usd: Option<f64>,
    /// Whether the agent waits for input, by its last word.
    pub waits: bool,
    /// The same, once it has lasted: what is told.
    pub idle: bool,
    /// Its work is over, by its last word.
    pub over: Option<Over>,
    /// Its signs of life, where they are looked for.
    pub quiet: Option<Box<Quiet>>,
}

/// One supervised agent.
#[derive(Clone, Debug)]
pub struct Session {
    pub id: SessionId,
    pub origin: Origin,
    pub spec: Spec,
    pub run: Run,
    pub native_id: Option<String>,
    pub progress: Progress,
    /// What earlier runs used.
    pub spent: Spent,
    /// The client's idempotency key.
    pub request: Option<RequestKey>,
    /// The journal had lost it: what was rebuilt from its files, and what is not known any more.
    pub rebuilt: Option<String>,
}

impl Run {
    /// A run that is about to be launched.
    pub fn new(number: u32, begun: Now, host: Arc<HostId>, wants_report: bool) -> Self {
        let report = if wants_report { ReportSeen::Wanted } else { ReportSeen::NotWanted };
        Self {
            number,
            begun,
            host,
            adopted: false,
            started: None,
            fuse: Fuse::new(report),
            evidence: Vec::new(),
            verdict: None,
            verdict_record: 0,
            deadline: None,
            stop_step: None,
            usage: None,
            leftovers: LeftoverCount::Known(0),
            tree_settled: false,
            warnings: Vec::new(),
            turn: Turn::None,
            unverified: None,
            hooks: BTreeMap::new(),
            asked: Asked::default(),
        }
    }

    /// The phase, a function of what is known: there is no second place to contradict it.
    pub fn phase(&self) -> Phase {
        if self.verdict.is_some() {
            Phase::Ended
        } else if self.is_queued() {
            Phase::Queued
        } else if self.fuse.stop.is_some() {
            Phase::Stopping
        } else if self.fuse.ended.is_some() {
            Phase::Ending
        } else if self.fuse.leader.is_some() {
            Phase::Running
        } else {
            Phase::Launching
        }
    }
}

impl Session {
    /// The id of the current run.
    pub fn run_id(&self) -> RunId {
        RunId { session: self.id, run: self.run.number }
    }

    /// The record that made it, for whoever has to rebuild the session without the journal.
    pub fn created(&self) -> Record {
        Record::Created {
            session: self.id,
            at: self.run.begun,
            host: HostId::clone(&self.run.host),
            origin: self.origin,
            spec: Box::new(self.spec.clone()),
            deadline: self.run.deadline,
            request: self.request.clone(),
            run: self.run.number,
            spent: self.spent,
            warnings: self.run.warnings.clone(),
            queued: self.run.is_queued(),
        }
    }

    /// The public status. `told` says whether a verdict may be told: not before it is durable.
    pub fn status(&self, told: bool) -> Status {
        match &self.run.verdict {
            Some(verdict) if told => verdict.outcome.status(),
            Some(_) => Status::Running,
            None if self.progress.idle && self.run.phase() == Phase::Running => Status::Idle,
            None => Status::Running,
        }
    }

    /// Adds what the agent said of itself.
    pub fn absorb(&mut self, event: &AgentEvent) {
        match event {
            AgentEvent::NativeId(id) => self.native_id = Some(id.clone()),
            AgentEvent::Used { tokens, cost_usd } => {
                self.progress.tokens = Some(self.progress.tokens.unwrap_or_default().plus(*tokens));
                self.progress.cost_usd = Some(self.progress.cost_usd.unwrap_or(0.0) + cost_usd);
            }
            AgentEvent::Total { span: Span::Conversation, .. } if self.spent.unknown => {}
            AgentEvent::Total { span, tokens, cost_usd } => {
                let before = if *span == Span::Conversation { self.spent } else { Spent::default() };
                let tokens = tokens.map(|tokens| tokens.minus(before.tokens));
                let cost_usd = cost_usd.map(|cost| (cost - before.cost_usd).max(0.0));
                self.progress.tokens = tokens.or(self.progress.tokens);
                self.progress.cost_usd = cost_usd.or(self.progress.cost_usd);
            }
            AgentEvent::Idle | AgentEvent::Over => self.progress.waits = true,
            AgentEvent::Active => self.progress.waits = false,
            AgentEvent::Said(_)
            | AgentEvent::SaidMore(_)
            | AgentEvent::ToolCalled { .. }
            | AgentEvent::ToolAnswered { .. }
            | AgentEvent::Failed(_)
            | AgentEvent::StepEnded(_) => {}
        }
    }

    /// Which budget the run has used up, by what the agent has told so far.
    pub fn over_budget(&self) -> Option<StopCause> {
        let Budget { max_tokens, max_cost } = self.spec.budget;
        let verdict = self.run.verdict.as_ref();
        let tokens = verdict.and_then(|verdict| verdict.tokens).or(self.progress.tokens);
        let cost_usd = verdict.and_then(|verdict| verdict.cost_usd).or(self.progress.cost_usd);
        let over_tokens = |max| tokens.is_some_and(|tokens| tokens.sum() > max);
        let over_cost = |max| cost_usd.is_some_and(|cost| cost > max);
        if max_tokens.is_some_and(over_tokens) {
            return Some(StopCause::MaxTokens);
        }
        max_cost.is_some_and(over_cost).then_some(StopCause::MaxCost)
    }

    /// The budget that a run has overdrawn which ended before that was known.
    pub fn overdrawn(&self) -> Option<StopCause> {
        let verdict = self.run.verdict.as_ref()?;
        let stopped = matches!(verdict.reason, Reason::MaxTokens | Reason::MaxCost);
        self.over_budget().filter(|_| !stopped)
    }

    /// Takes it up again with another run: what the last one used is spent, its words are forgotten. `stored`: what the
    /// agent itself says was used by then, which also holds what was never told, and what others used.
    pub fn take_up(&mut self, run: Run, stored: Stored) {
        if let Some(verdict) = &self.run.verdict {
            let (tokens, cost_usd) = (verdict.tokens.unwrap_or_default(), verdict.cost_usd.unwrap_or(0.0));
            let by_verdicts = self.spent;
            self.spent = Spent {
                tokens: stored.tokens.unwrap_or(by_verdicts.tokens.plus(tokens)),
                cost_usd: stored.cost_usd.unwrap_or(by_verdicts.cost_usd + cost_usd),
                unknown: stored.is_nothing()
                    && (by_verdicts.unknown || (self.run.adopted && verdict.tokens.is_none())),
            };
        }
        self.progress = Progress::default();
        self.run = run;
    }

    /// The verdict that `end` and everything gathered so far make.
    pub fn verdict(&self, end: &End, now: Now) -> Verdict {
        // What an agent said before a signal ended it does not explain that end.
        let by_itself = matches!(end.outcome, Outcome::Completed | Outcome::Failed)
            && end.status.is_some_and(|status| status.code().is_some());
        let message = match (&self.run.fuse.failed, &self.run.fuse.report) {
            (Some(error), _) => Some(error.message()),
            (None, _) if end.reason == Reason::OomKilled => Some(self.spec.limits.exceeded().to_owned()),
            (None, report) if end.reason == Reason::Lingered => Some(lingered(report)),
            (None, _) if !by_itself => None,
            (None, ReportSeen::Given(AgentReport::Error(text))) => text.clone(),
            (None, ReportSeen::Given(AgentReport::Unreadable(why))) => Some(why.clone()),
            (None, ReportSeen::Given(AgentReport::Success | AgentReport::Missing))
            | (None, ReportSeen::NotWanted | ReportSeen::Wanted) => None,
        };
        Verdict {
            outcome: end.outcome,
            reason: end.reason,
            status: end.status,
            ended: end.ended,
            decided: now,
            evidence: self.run.evidence.clone(),
            usage: self.run.usage,
            message,
            tokens: self.progress.tokens,
            cost_usd: self.progress.cost_usd,
        }
    }

    /// Whether nothing of the last run's tree is waited for: it is gone, or is kept on purpose.
    pub fn may_be_left(&self) -> bool {
        self.is_settled() || (self.spec.leftovers == Leftovers::Keep && self.run.stop_step.is_none())
    }

    /// Whether its verdict is out, and what remains of its tree is being ended.
    pub fn is_leaving(&self) -> bool {
        self.run.verdict.is_some() && !self.may_be_left()
    }

    /// Whether anything of the session may still change or need care.
    pub fn is_settled(&self) -> bool {
        self.run.verdict.is_some() && self.run.tree_settled
    }
}

impl Verdict {
    /// The session's number (contract, section 5): what `run` and `wait` exit with. Always an integer,
    /// and 0 only for a success.
    pub fn number(&self) -> u8 {
        match self.outcome {
            Outcome::Completed => 0,
            Outcome::TimedOut => 124,
            Outcome::Lost => 125,
            Outcome::LaunchFailed if self.reason == Reason::ProgramNotFound => 127,
            Outcome::LaunchFailed => 126,
            Outcome::Failed => self.natural_number().filter(|number| *number != 0).unwrap_or(1),
            Outcome::Cancelled => self.natural_number().filter(|number| *number != 0).unwrap_or(143),
        }
    }

    fn natural_number(&self) -> Option<u8> {
        let status = self.status?;
        status.code().or_else(|| status.signal().map(|signal| 128 + signal))
    }

    /// The leader's exit code, when it exited and the code is known.
    pub fn exit_code(&self) -> Option<u8> {
        self.status.and_then(WaitStatus::code)
    }

    /// The name of the signal that ended the leader.
    pub fn signal(&self) -> Option<String> {
        self.status.and_then(WaitStatus::signal).map(signal_name)
    }
}

impl Outcome {
    /// The public status of a run with this outcome.
    pub fn status(self) -> Status {
        match self {
            Self::Completed | Self::Cancelled | Self::Lost => Status::Stopped,
            Self::Failed | Self::TimedOut | Self::LaunchFailed => Status::Error,
        }
    }

    /// The public word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::LaunchFailed => "launch_failed",
            Self::Lost => "lost",
        }
    }
}

impl Status {
    /// The public word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }
}

impl Phase {
    /// The public word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Launching => "launching",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Ending => "ending",
            Self::Ended => "ended",
        }
    }
}

impl Origin {
    /// The public word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Launched => "launched",
            Self::Discovered => "discovered",
            Self::Adopted => "adopted",
            Self::Imported => "imported",
        }
    }
}

impl Prong {
    /// The public word.
    pub fn word(self) -> &'static str {
        match self {
            Self::ExitFile => "exit_file",
            Self::Pidfd => "pidfd",
            Self::PidfdInfo => "pidfd_info",
            Self::ProcStat => "proc_stat",
            Self::Deadline => "deadline",
            Self::Stop => "stop",
            Self::Reboot => "reboot",
            Self::TreeGone => "tree_gone",
        }
    }
}

impl StopCause {
    /// The prong that a stop of this cause is evidence of.
    pub fn prong(self) -> Prong {
        match self {
            Self::Requested | Self::MaxTokens | Self::MaxCost | Self::Lingered => Prong::Stop,
            Self::Deadline => Prong::Deadline,
        }
    }
}

impl StopCause {
    /// What the evidence list says of it.
    pub fn detail(self) -> &'static str {
        match self {
            Self::Requested => "a stop was requested",
            Self::MaxTokens => "it used more tokens than it may",
            Self::MaxCost => "it cost more than it may",
            Self::Lingered => "its work was over by its own word, and it did not exit",
            Self::Deadline => "the deadline passed",
        }
    }
}

impl Reason {
    /// The public word, such as `exit_code_42` or `sigterm`.
    pub fn word(self) -> String {
        match self {
            Self::ExitCode(code) => format!("exit_code_{code}"),
            Self::Signal(number) => signal_name(number).to_ascii_lowercase(),
            Self::Deadline => "deadline".into(),
            Self::StopRequested => "stop_requested".into(),
            Self::MaxTokens => "max_tokens".into(),
            Self::MaxCost => "max_cost".into(),
            Self::Lingered => "lingered".into(),
            Self::ProgramNotFound => "program_not_found".into(),
            Self::NotExecutable => "not_executable".into(),
            Self::CwdMissing => "cwd_missing".into(),
            Self::NeverStarted => "never_started".into(),
            Self::LaunchSetup => "launch_setup".into(),
            Self::AgentReportedError => "agent_reported_error".into(),
            Self::NoAgentReport => "no_agent_report".into(),
            Self::AgentReportUnreadable => "agent_report_unreadable".into(),
            Self::HostRebooted => "host_rebooted".into(),
            Self::StatusUnknown => "status_unknown".into(),
            Self::OomKilled => "oom_killed".into(),
        }
    }
}

/// What an agent said that was ended because it lived on: its word is told, and makes no success of an end that was ours.
fn lingered(report: &ReportSeen) -> String {
    let said = match report {
        ReportSeen::Given(AgentReport::Success) => "success".to_owned(),
        ReportSeen::Given(AgentReport::Error(Some(text))) => format!("a failure ({text})"),
        ReportSeen::Given(AgentReport::Error(None)) => "a failure".to_owned(),
        ReportSeen::Given(AgentReport::Missing | AgentReport::Unreadable(_))
        | ReportSeen::NotWanted
        | ReportSeen::Wanted => "the end of its work".to_owned(),
    };
    format!("the agent had reported {said} and did not exit, so it was ended")
}

impl From<&TreeSeen> for LeftoverCount {
    fn from(seen: &TreeSeen) -> Self {
        match seen {
            TreeSeen::Left(count) => Self::Known(*count),
            TreeSeen::Gone => Self::Known(0),
            TreeSeen::NotLooked | TreeSeen::Unknown => Self::Unknown,
        }
    }
}
