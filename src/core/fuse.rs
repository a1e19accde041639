//! The fuse of one run: what has been seen so far, and what follows from it.
//!
//! A value without behaviour of its own: [`Fuse::take`] adds a piece of evidence, [`Fuse::decide`] says
//! what all of it means. It can be printed, replayed and tested over every order of its evidence. It
//! refuses to know how evidence is gathered, what time it is, or that a supervisor exists.
//!
//! The three prongs (contract, section 1): the kernel says *that* the leader ended, the exit file (or
//! the kernel again) says *how*, the deadline starts a kill. Absence is no prong: nothing in here turns
//! a missing answer into an end.

use serde::{Deserialize, Serialize};

use super::agent::AgentReport;
use super::vocab::{Mono, Now, ProcessId, Usage, WaitStatus, Wall};

/// SIGKILL, by number.
const KILL: u8 = 9;

/// One thing seen about a run. Closed: whatever ends a session is in this list.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// The launch order was taken back before any shim claimed it: nothing ever ran.
    Withdrawn,
    /// The leader could not be started.
    LaunchFailed(LaunchError),
    /// The shim made the leader and wrote down who it is.
    Started(ProcessId),
    /// The leader's pidfd became readable: it has ended by now.
    LeaderEnded,
    /// The leader's handle names no process any more (ESTALE): it ended and was reaped.
    LeaderGone,
    /// The shim's exit file, with what the kernel shows of the leader at this moment.
    ExitFile(ExitReport, LeaderSeen),
    /// What the kernel answers when asked for the status; `None`: it does not say, and never will.
    KernelStatus(Option<WaitStatus>, Prong),
    /// With no shim left to say so: the run's cgroup counts processes that the kernel killed for want of memory.
    OomKilled,
    /// The shim is proved dead: the lock that it held is free.
    ShimGone,
    /// exits/ was read after the shim's death and holds nothing for this run.
    Rescanned,
    /// No process of the tree is left.
    TreeGone(Option<Usage>),
    /// So many processes are left.
    TreeLeft(u32),
    /// Whether processes are left cannot be told.
    TreeUnknown(String),
    /// What the agent's output says of the outcome.
    Report(AgentReport),
    /// The host booted since this run was started.
    Rebooted,
    /// A check could not be made; the run goes on.
    CannotTell(String),
}

/// What an exit file says. Written by the shim right after it reaped the leader.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitReport {
    /// Who ended; must be this run's leader.
    pub leader: Option<ProcessId>,
    /// How.
    pub how: ExitHow,
    /// When, by the shim's clocks right after the reap.
    pub ended: Now,
    /// The boot of the host in which that was.
    pub boot: String,
    /// What it used.
    pub usage: Usage,
    /// Whether the shim's own late timer ended it.
    pub by_deadline: bool,
    /// Processes of the tree still there at that moment.
    pub leftovers: Option<u32>,
}

/// The content of an exit report.
#[derive(Clone, Debug, PartialEq)]
pub enum ExitHow {
    /// The raw wait status.
    Status(WaitStatus),
    /// It never came to run.
    NotLaunched(LaunchError),
}

/// The leader as the kernel shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderSeen {
    /// A living process: an exit file that says otherwise lies.
    Alive,
    /// Ended and not reaped. The shim publishes after it reaped, so an exit file found now is not its.
    Zombie,
    /// Ended and reaped.
    Reaped,
    /// Ended and reaped with this status, which the kernel keeps for whoever holds the process.
    ReapedWith(WaitStatus),
    /// No handle on it, or none was ever had.
    Unknown,
}

/// Why a leader could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LaunchError {
    /// No such program, or no interpreter for it.
    ProgramNotFound(String),
    /// The program exists and may not be executed.
    NotExecutable(String),
    /// The working directory does not exist or cannot be entered.
    CwdMissing(String),
    /// The order was withdrawn: the daemon went away between record and spawn.
    NeverStarted,
    /// Anything else, with the step that failed.
    Setup(String),
}

/// A source of evidence, by its public name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prong {
    ExitFile,
    Pidfd,
    PidfdInfo,
    ProcStat,
    Deadline,
    Stop,
    Reboot,
    TreeGone,
}

/// When the leader ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndTime {
    /// By both clocks.
    pub at: Now,
    /// True: the shim's stamp. False: the time of notice, so "no later than".
    pub exact: bool,
}

/// Why a run is being stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// Somebody asked.
    Requested,
    /// The master timeout.
    Deadline,
    /// It used more tokens than it may.
    MaxTokens,
    /// It cost more than it may.
    MaxCost,
    /// Its work was over by its own word, and it lived on for longer than it may.
    Lingered,
}

/// The first recorded stop of a run; later ones change nothing but the force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopMark {
    /// Who or what.
    pub cause: StopCause,
    /// When it was recorded.
    pub at: Mono,
}

/// The shim, as far as known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShimSeen {
    /// Nothing proves it dead: the status may still come.
    #[default]
    MayLive,
    /// Dead, and exits/ not yet read again.
    Gone,
    /// Dead, and exits/ read afterwards: no exit file will come any more.
    GoneAndRescanned,
}

/// The kernel's answer about the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KernelSeen {
    /// Not answered.
    #[default]
    Open,
    /// It does not say.
    Silent,
}

/// The tree, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TreeSeen {
    /// Nobody has looked since the leader ended.
    #[default]
    NotLooked,
    /// So many are left.
    Left(u32),
    /// None is left.
    Gone,
    /// It cannot be told.
    Unknown,
}

/// The agent's own words on the outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReportSeen {
    /// The adapter looks at the code alone.
    #[default]
    NotWanted,
    /// To be read from the output once the leader ended.
    Wanted,
    /// Read.
    Given(AgentReport),
}

/// All that is known of one run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fuse {
    /// Who the leader is, once the shim wrote it down.
    pub leader: Option<ProcessId>,
    /// That it ended, and when.
    pub ended: Option<EndTime>,
    /// How it ended. The first answer stays.
    pub status: Option<WaitStatus>,
    /// That it never started.
    pub failed: Option<LaunchError>,
    pub shim: ShimSeen,
    pub kernel: KernelSeen,
    pub stop: Option<StopMark>,
    pub tree: TreeSeen,
    pub report: ReportSeen,
    /// The host booted since.
    pub rebooted: bool,
    /// The kernel killed something of the run for want of memory, by its cgroup's count at the leader's end.
    pub oom_killed: bool,
}

/// What a piece of evidence did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It told something new.
    New,
    /// It confirms, or adds nothing.
    Known,
    /// The kernel or the record contradicts it: it does not count.
    Rejected(Rejection),
    /// It gives another status than one already known: a bug of somebody's, to be said loudly.
    Disagrees,
}

/// Why a piece of evidence does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the kernel shows the leader alive")]
    LeaderLives,
    #[error("the leader has not been reaped yet")]
    LeaderNotReaped,
    #[error("the kernel says another wait status")]
    OtherStatus,
    #[error("its wait status is not that of an ended process")]
    NoEnd,
    #[error("it names another leader")]
    OtherLeader,
    #[error("it names no leader")]
    NoLeader,
    #[error("a leader that ended had been launched")]
    HadLed,
    #[error("it is of another boot of the host")]
    OtherBoot,
    #[error("it tells of an end that is still to come")]
    Ahead,
    #[error("no shim started this run")]
    NoShim,
}

impl Rejection {
    /// Whether the next look may find what it was held against changed, and the file right.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::LeaderLives | Self::LeaderNotReaped)
    }
}

/// What the evidence so far means.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// No verdict yet: this is missing.
    Wait(Need),
    /// The verdict.
    End(End),
}

/// What a verdict waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Need {
    /// The shim's word that there is a leader.
    Launch,
    /// The leader's end: the normal state of a running session.
    LeaderEnd,
    /// How it ended.
    Status,
    /// The agent's own report.
    Report,
    /// The end of the rest of the tree (only of a stopped run).
    TreeEnd,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    pub outcome: Outcome,
    pub reason: Reason,
    /// `None` for a launch that failed.
    pub ended: Option<EndTime>,
    /// `None`: unknown, which is never 0.
    pub status: Option<WaitStatus>,
}

/// The outcome of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Exit 0, and the agent did not report a failure.
    Completed,
    /// It ended by itself in another way.
    Failed,
    /// A stop came first.
    Cancelled,
    /// The deadline came first.
    TimedOut,
    /// It never ran.
    LaunchFailed,
    /// It ended; how is unknowable.
    Lost,
}

/// The reason of an outcome, as told to people and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    ExitCode(u8),
    Signal(u8),
    Deadline,
    StopRequested,
    MaxTokens,
    MaxCost,
    Lingered,
    ProgramNotFound,
    NotExecutable,
    CwdMissing,
    NeverStarted,
    LaunchSetup,
    AgentReportedError,
    NoAgentReport,
    AgentReportUnreadable,
    HostRebooted,
    StatusUnknown,
    OomKilled,
}

impl Fuse {
    /// The fuse of a run that is about to be launched.
    pub fn new(report: ReportSeen) -> Self {
        Self { report, ..Self::default() }
    }

    /// The fuse of a run that no shim started: no exit file will come, and nobody reports.
    pub fn without_shim() -> Self {
        Self { shim: ShimSeen::GoneAndRescanned, ..Self::default() }
    }

    /// Adds one piece of evidence, seen at `now`. What is known already is never overwritten.
    pub fn take(&mut self, evidence: &Evidence, now: Now) -> Taken {
        match evidence {
            Evidence::Withdrawn => self.take_failure(&LaunchError::NeverStarted),
            Evidence::LaunchFailed(error) => self.take_failure(error),
            Evidence::Started(leader) => self.take_leader(leader),
            Evidence::LeaderEnded | Evidence::LeaderGone => {
                fresh(self.ended.is_none(), || self.ended = Some(EndTime { at: now, exact: false }))
            }
            Evidence::ExitFile(report, seen) => self.take_exit_file(report, *seen),
            Evidence::KernelStatus(answer, _) => self.take_kernel_status(*answer, now),
            Evidence::OomKilled => fresh(!self.oom_killed, || self.oom_killed = true),
            Evidence::ShimGone => fresh(self.shim == ShimSeen::MayLive, || self.shim = ShimSeen::Gone),
            Evidence::Rescanned => self.take_rescan(),
            Evidence::TreeGone(_) => self.take_tree(TreeSeen::Gone),
            Evidence::TreeLeft(count) => self.take_tree(TreeSeen::Left(*count)),
            Evidence::TreeUnknown(_) => self.take_tree(TreeSeen::Unknown),
            Evidence::Report(report) => fresh(self.report == ReportSeen::Wanted, || {
                self.report = ReportSeen::Given(report.clone());
            }),
            Evidence::Rebooted => self.take_reboot(now),
            Evidence::CannotTell(_) => Taken::Known,
        }
    }

    fn take_failure(&mut self, error: &LaunchError) -> Taken {
        if self.status.is_some() {
            return Taken::Rejected(Rejection::HadLed);
        }
        fresh(self.failed.is_none(), || self.failed = Some(error.clone()))
    }

    fn take_leader(&mut self, leader: &ProcessId) -> Taken {
        match &self.leader {
            None => {
                self.leader = Some(*leader);
                Taken::New
            }
            Some(known) if known.same(leader) => Taken::Known,
            Some(_) => Taken::Rejected(Rejection::OtherLeader),
        }
    }

    fn take_exit_file(&mut self, report: &ExitReport, seen: LeaderSeen) -> Taken {
        // A leader that lives was launched, whatever the file says of it.
        let by_kernel = match seen {
            LeaderSeen::Alive => return Taken::Rejected(Rejection::LeaderLives),
            LeaderSeen::Zombie => return Taken::Rejected(Rejection::LeaderNotReaped),
            LeaderSeen::ReapedWith(status) => Some(status),
            LeaderSeen::Reaped | LeaderSeen::Unknown => None,
        };
        let status = match &report.how {
            ExitHow::NotLaunched(error) => return self.take_failure(error),
            ExitHow::Status(status) => *status,
        };
        if !status.is_end() {
            return Taken::Rejected(Rejection::NoEnd);
        }
        if by_kernel.is_some_and(|kernel| !kernel.same_end(status)) {
            return Taken::Rejected(Rejection::OtherStatus);
        }
        match (&self.leader, &report.leader) {
            (Some(known), Some(named)) if !known.same(named) => {
                return Taken::Rejected(Rejection::OtherLeader);
            }
            (Some(_), None) => return Taken::Rejected(Rejection::NoLeader),
            (None, Some(named)) => self.leader = Some(*named),
            (None, None) => return Taken::Rejected(Rejection::NoLeader),
            (Some(_), Some(_)) => {}
        }
        if self.status.is_some_and(|known| known != status) {
            return Taken::Disagrees;
        }
        let new = self.status.is_none();
        self.status = Some(status);
        self.oom_killed |= report.usage.oom_killed();
        if !self.ended.is_some_and(|end| end.exact) {
            self.ended = Some(EndTime { at: report.ended, exact: true });
        }
        if report.by_deadline && self.stop.is_none() {
            self.stop = Some(StopMark { cause: StopCause::Deadline, at: report.ended.mono });
        }
        if new { Taken::New } else { Taken::Known }
    }

    /// Whoever reads exits/ again also looks for the leader's identity, which is written before the
    /// leader becomes the agent; so with a dead shim and no leader there never was one.
    fn take_rescan(&mut self) -> Taken {
        if self.shim == ShimSeen::MayLive {
            return Taken::Known;
        }
        let new = self.shim == ShimSeen::Gone;
        self.shim = ShimSeen::GoneAndRescanned;
        if self.leader.is_none() && self.ended.is_none() {
            let error = LaunchError::Setup("the shim died before it started the leader".to_owned());
            self.failed.get_or_insert(error);
        }
        if new { Taken::New } else { Taken::Known }
    }

    fn take_kernel_status(&mut self, answer: Option<WaitStatus>, now: Now) -> Taken {
        match answer {
            None => fresh(self.kernel == KernelSeen::Open, || self.kernel = KernelSeen::Silent),
            Some(status) if !status.is_end() => Taken::Rejected(Rejection::NoEnd),
            Some(status) if self.status.is_some_and(|known| known != status) => Taken::Disagrees,
            Some(status) => {
                let new = self.status.is_none();
                self.status = Some(status);
                self.ended.get_or_insert(EndTime { at: now, exact: false });
                if new { Taken::New } else { Taken::Known }
            }
        }
    }

    fn take_tree(&mut self, seen: TreeSeen) -> Taken {
        // Gone is final: a later look that cannot tell does not bring a process back.
        fresh(self.tree != TreeSeen::Gone && self.tree != seen, || self.tree = seen)
    }

    fn take_reboot(&mut self, now: Now) -> Taken {
        fresh(!self.rebooted, || {
            self.rebooted = true;
            self.kernel = KernelSeen::Silent;
            self.tree = TreeSeen::Gone;
            if self.shim == ShimSeen::MayLive {
                self.shim = ShimSeen::Gone;
            }
            self.ended.get_or_insert(EndTime { at: now, exact: false });
        })
    }

    /// Whether it is proved that the status will never be known.
    pub fn is_lost(&self) -> bool {
        self.ended.is_some()
            && self.status.is_none()
            && self.shim == ShimSeen::GoneAndRescanned
            && self.kernel == KernelSeen::Silent
    }

    /// What the evidence so far means.
    pub fn decide(&self) -> Decision {
        if let Some(error) = &self.failed {
            return Decision::End(End {
                outcome: Outcome::LaunchFailed,
                reason: error.reason(),
                ended: self.ended,
                status: None,
            });
        }
        let Some(ended) = self.ended else {
            return Decision::Wait(if self.leader.is_some() { Need::LeaderEnd } else { Need::Launch });
        };
        if self.status.is_none() && !self.is_lost() {
            return Decision::Wait(Need::Status);
        }
        let unknown_by_reboot = self.rebooted && self.status.is_none();
        match self.stop {
            Some(stop) if stop.at <= ended.at.mono && !unknown_by_reboot => self.decide_stopped(stop, ended),
            _ => self.decide_natural(ended),
        }
    }

    fn decide_stopped(&self, stop: StopMark, ended: EndTime) -> Decision {
        if matches!(self.tree, TreeSeen::NotLooked | TreeSeen::Left(_)) {
            return Decision::Wait(Need::TreeEnd);
        }
        if self.report == ReportSeen::Wanted {
            return Decision::Wait(Need::Report);
        }
        let (outcome, reason) = match stop.cause {
            StopCause::Requested => (Outcome::Cancelled, Reason::StopRequested),
            StopCause::MaxTokens => (Outcome::Cancelled, Reason::MaxTokens),
            StopCause::MaxCost => (Outcome::Cancelled, Reason::MaxCost),
            StopCause::Lingered => (Outcome::Cancelled, Reason::Lingered),
            StopCause::Deadline => (Outcome::TimedOut, Reason::Deadline),
        };
        Decision::End(End { outcome, reason, ended: Some(ended), status: self.status })
    }

    fn decide_natural(&self, ended: EndTime) -> Decision {
        let end =
            |outcome, reason| Decision::End(End { outcome, reason, ended: Some(ended), status: self.status });
        // Also where the status alone decides: the same look finds the native id, without which nobody can resume
        // the session, and what it used.
        if self.report == ReportSeen::Wanted {
            return Decision::Wait(Need::Report);
        }
        let Some(status) = self.status else {
            let reason = if self.rebooted { Reason::HostRebooted } else { Reason::StatusUnknown };
            return end(Outcome::Lost, reason);
        };
        let code = match (status.code(), status.signal()) {
            (Some(code), _) => code,
            // Nobody asked for this end, or it would be a stopped one: the kernel's own is the likeliest.
            (None, Some(KILL)) if self.oom_killed => return end(Outcome::Failed, Reason::OomKilled),
            (None, Some(signal)) => return end(Outcome::Failed, Reason::Signal(signal)),
            (None, None) => unreachable!("take() admits only the status of an ended process"),
        };
        match (&self.report, code) {
            (ReportSeen::Wanted, _) => Decision::Wait(Need::Report),
            (ReportSeen::NotWanted, 0) => end(Outcome::Completed, Reason::ExitCode(0)),
            (ReportSeen::NotWanted | ReportSeen::Given(_), 1..) => {
                end(Outcome::Failed, Reason::ExitCode(code))
            }
            (ReportSeen::Given(report), 0) => match report {
                AgentReport::Success => end(Outcome::Completed, Reason::ExitCode(0)),
                AgentReport::Error(_) => end(Outcome::Failed, Reason::AgentReportedError),
                AgentReport::Missing => end(Outcome::Failed, Reason::NoAgentReport),
                AgentReport::Unreadable(_) => end(Outcome::Failed, Reason::AgentReportUnreadable),
            },
        }
    }
}

impl LaunchError {
    /// The reason that a verdict gives for it.
    pub fn reason(&self) -> Reason {
        match self {
            Self::ProgramNotFound(_) => Reason::ProgramNotFound,
            Self::NotExecutable(_) => Reason::NotExecutable,
            Self::CwdMissing(_) => Reason::CwdMissing,
            Self::NeverStarted => Reason::NeverStarted,
            Self::Setup(_) => Reason::LaunchSetup,
        }
    }

    /// The words for people.
    pub fn message(&self) -> String {
        match self {
            Self::ProgramNotFound(what) => format!("program not found: {what}"),
            Self::NotExecutable(what) => format!("not executable: {what}"),
            Self::CwdMissing(what) => format!("cannot enter the working directory: {what}"),
            Self::NeverStarted => "the daemon went away before the launch was begun; nothing ran".to_owned(),
            Self::Setup(what) => what.clone(),
        }
    }
}

impl EndTime {
    /// The wall-clock time, for people.
    pub fn wall(&self) -> Wall {
        self.at.wall
    }
}

fn fresh(new: bool, change: impl FnOnce()) -> Taken {
    if new {
        change();
        Taken::New
    } else {
        Taken::Known
    }
}
