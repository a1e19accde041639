//! The launch as the shim sees it: open everything, fork, hear from the child whether it became the agent.
//!
//! Owns the failure report of a launch. Refuses to know what the child does in between (`leader`) and what a failure
//! leads to (`supervise`). Whatever fails, the answer is a [`Launched`]: nothing is left half started.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agentctl::core::vocab::{HostId, Leftovers, ProcessId};
use agentctl::sys::identity;
use agentctl::wire::session_dir::{
    FILE_MODE, FileError, LaunchError, LaunchOrder, RunFiles, ShimMessage, Stage, settle_mode,
};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::exit_slot::ExitSlot;
use crate::input::Input;
use crate::kernel::{self, Fork};
use crate::logs::Logs;
use crate::{daemon_link, leader};

/// The longest description of a failure, so that the exit file fits into its reserved space.
const MESSAGE_CHARS_MAX: usize = 500;

/// The outcome of a launch.
pub(crate) struct Launched {
    /// What is still needed of the order.
    pub(crate) policy: Policy,
    /// The running agent, or why there is none.
    pub(crate) leader: Result<Leader, Failed>,
    /// The logs, where they are to be kept to a size.
    pub(crate) logs: Option<Logs>,
    /// What goes to its standard input, where it is talked to.
    pub(crate) input: Option<Input>,
}

/// How the run is to end.
pub(crate) struct Policy {
    /// What becomes of processes that outlive the leader.
    pub(crate) leftovers: Leftovers,
    /// How long TERM may take.
    pub(crate) grace: Duration,
    /// How long after deadline and grace we act, because the daemon did not.
    pub(crate) late: Duration,
    /// The session's cgroup.
    pub(crate) cgroup: Option<PathBuf>,
    /// The cgroup that counts what the session uses.
    pub(crate) account: Option<PathBuf>,
}

/// A running leader.
pub(crate) struct Leader {
    /// Its number: ours to use until we reap it.
    pub(crate) pid: Pid,
    /// Itself.
    pub(crate) pidfd: OwnedFd,
    /// Its name.
    pub(crate) identity: ProcessId,
}

/// A launch that came to nothing.
pub(crate) struct Failed {
    /// Why.
    pub(crate) error: LaunchError,
    /// The process that was to become the leader, if it came to that. It has been reaped.
    pub(crate) process: Option<ProcessId>,
}

/// A step that failed, as the child can say it.
pub(crate) struct Failure {
    /// Which.
    pub(crate) stage: Stage,
    /// What the kernel said.
    pub(crate) errno: i32,
}

impl Failure {
    /// For `map_err`.
    pub(crate) fn at<E: Into<io::Error>>(stage: Stage) -> impl FnOnce(E) -> Self {
        move |error| {
            // Errors without a number are std's own about a NUL byte in a name.
            let errno = error.into().raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
            Self { stage, errno }
        }
    }
}

/// What the leader gets as its standard three.
pub(crate) struct Redirections {
    /// /dev/null, the prompt, or the pipe of whom it is talked to by.
    pub(crate) stdin: File,
    /// Log.
    pub(crate) stdout: File,
    /// Log.
    pub(crate) stderr: File,
}

/// Carries out the claimed order.
pub(crate) fn launch(files: &RunFiles, host: &HostId) -> Launched {
    let order = match files.read_claimed() {
        Ok(order) => order,
        Err(error) => return unreadable(&error),
    };
    let (leader, input, logs) = match start(files, host, &order) {
        Ok((leader, input, logs)) => (Ok(leader), input, logs),
        Err(failed) => (Err(failed), None, None),
    };
    // First: somebody waits for it.
    if leader.is_ok() {
        daemon_link::send(ShimMessage::Running);
    }
    // The leader holds its copy, or will never need one.
    for secret in [Some(&order.env), order.stdin.as_ref()].into_iter().flatten() {
        let _ = fs::remove_file(files.dir().join(secret));
    }
    if leader.is_err() && order.input.is_some() {
        let _ = files.remove_input();
    }
    if leader.is_ok() {
        daemon_link::close();
    }
    Launched { policy: Policy::of(order), leader, logs, input }
}

fn unreadable(error: &FileError) -> Launched {
    let error = LaunchError { stage: Stage::Order, errno: 0, message: shortened(&error.to_string()) };
    let policy = Policy {
        leftovers: Leftovers::Kill,
        grace: Duration::ZERO,
        late: Duration::ZERO,
        cgroup: None, // and nobody to end in it
        account: None,
    };
    Launched { policy, leader: Err(Failed { error, process: None }), logs: None, input: None }
}

impl Policy {
    fn of(order: LaunchOrder) -> Self {
        Self {
            leftovers: order.leftovers,
            grace: Duration::from_millis(order.grace_ms),
            late: Duration::from_millis(order.late_ms),
            account: order.account.or_else(|| order.cgroup.clone()).map(PathBuf::from),
            cgroup: order.cgroup.map(PathBuf::from),
        }
    }
}

type Started = (Leader, Option<Input>, Option<Logs>);

fn start(files: &RunFiles, host: &HostId, order: &LaunchOrder) -> Result<Started, Failed> {
    let failed = |failure: Failure, process| Failed { error: explain(&failure, files, order), process };
    let prepared = prepare(files, order).map_err(|failure| failed(failure, None))?;
    let Prepared { redirections, input, report: (reader, writer) } = prepared;
    let (forked, to_enter) = fork(order);
    let child = match forked.map_err(Failure::at(Stage::Fork)) {
        Ok(Fork::Child) => leader::become_leader_or_exit(files, host, order, to_enter, redirections, writer),
        Ok(Fork::Parent(child)) => child,
        Err(failure) => return Err(failed(failure, None)),
    };
    drop(writer);
    let Redirections { stdout, stderr, .. } = redirections;
    let leader = adopt(child).map_err(|failure| {
        kernel::kill_unreaped(child);
        kernel::reap(child);
        failed(failure, None)
    })?;
    match read_report(reader) {
        None => {
            let dir = files.dir().join(&order.stdout);
            let dir = dir.parent().unwrap_or_else(|| files.dir());
            let keep = |max| Logs::keep([stdout, stderr], dir, max, kernel::now().mono);
            Ok((leader, input, order.log_bytes_max.map(keep)))
        }
        Some(failure) => {
            kernel::reap(child);
            Err(failed(failure, Some(leader.identity)))
        }
    }
}

/// In its cgroup, if it has one; or else there is one that the child is to enter by itself, which also says why it cannot.
fn fork(order: &LaunchOrder) -> (io::Result<Fork>, Option<&Path>) {
    let Some(cgroup) = order.cgroup.as_deref().map(Path::new) else { return (kernel::fork(), None) };
    match File::open(cgroup).and_then(|dir| kernel::fork_into(dir.as_fd())) {
        Ok(side) => (Ok(side), None),
        Err(_) => (kernel::fork(), Some(cgroup)),
    }
}

type ReportPipe = (OwnedFd, OwnedFd);

/// What a launch needs that can fail to be had.
struct Prepared {
    redirections: Redirections,
    input: Option<Input>,
    report: ReportPipe,
}

/// Everything that can fail before there is a process.
fn prepare(files: &RunFiles, order: &LaunchOrder) -> Result<Prepared, Failure> {
    if order.argv.is_empty() {
        return Err(Failure { stage: Stage::Program, errno: Errno::NOENT.raw_os_error() });
    }
    ExitSlot::of(files).reserve().map_err(Failure::at(Stage::Reserve))?;
    files.reserve_tree().map_err(Failure::at(Stage::Reserve))?;
    let log = |name: &str| open_log(&files.dir().join(name)).map_err(Failure::at(Stage::Log));
    let stdin = match (&order.input, &order.stdin) {
        (Some(input), _) => {
            Input::open(&files.dir().join(input)).map(|(ours, leaders)| (Some(ours), leaders))
        }
        (None, Some(prompt)) => File::open(files.dir().join(prompt)).map(|file| (None, file)),
        (None, None) => File::open("/dev/null").map(|null| (None, null)),
    };
    let (input, stdin) = stdin.map_err(Failure::at(Stage::Stdin))?;
    let redirections = Redirections { stdin, stdout: log(&order.stdout)?, stderr: log(&order.stderr)? };
    let report = pipe_with(PipeFlags::CLOEXEC).map_err(Failure::at(Stage::Fork))?;
    Ok(Prepared { redirections, input, report })
}

fn open_log(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)?;
    settle_mode(&file, FILE_MODE)?;
    Ok(file)
}

/// The name of our child, which cannot be anyone else's before we reap it.
fn adopt(child: Pid) -> Result<Leader, Failure> {
    let pidfd = pidfd_open(child, PidfdFlags::empty()).map_err(Failure::at(Stage::Identity))?;
    let number = child.as_raw_pid().cast_unsigned();
    let identity = identity::of_pidfd(number, pidfd.as_fd()).map_err(Failure::at(Stage::Identity))?;
    Ok(Leader { pid: child, pidfd, identity })
}

/// Tells the shim why its child did not become the leader.
pub(crate) fn write_report(writer: OwnedFd, failure: &Failure) {
    if let Ok(report) = serde_json::to_vec(&(failure.stage, failure.errno)) {
        let _ = File::from(writer).write_all(&report);
    }
}

/// Waits until the child has become the leader, which closes the pipe without a word, or says why it did not.
fn read_report(reader: OwnedFd) -> Option<Failure> {
    let mut report = Vec::new();
    File::from(reader).read_to_end(&mut report).ok()?;
    // Not for the parser to find out: its error counts lines, with instructions that it asks the processor for, which is an
    // exit to the hypervisor for each.
    if report.is_empty() {
        return None;
    }
    let (stage, errno) = serde_json::from_slice(&report).ok()?;
    Some(Failure { stage, errno })
}

/// The failure with its object, for people.
fn explain(failure: &Failure, files: &RunFiles, order: &LaunchOrder) -> LaunchError {
    let file = |name: &str| files.dir().join(name).display().to_string();
    let program = || order.argv.first().map_or("no program given", String::as_str).to_owned();
    let object = match failure.stage {
        Stage::Order => "launch order".to_owned(),
        Stage::Reserve => files.unpublished_exit_path().display().to_string(),
        Stage::Log => format!("{} or {}", file(&order.stdout), order.stderr),
        Stage::Stdin => {
            order.input.as_deref().or(order.stdin.as_deref()).map_or("/dev/null".to_owned(), file)
        }
        Stage::Fork => "new process".to_owned(),
        Stage::Cgroup => order.cgroup.clone().unwrap_or_default(),
        Stage::Limits => "limit of open files".to_owned(),
        Stage::Cwd => order.cwd.clone(),
        Stage::Identity => "identity of the leader".to_owned(),
        Stage::Env => file(&order.env),
        Stage::Program | Stage::Exec | Stage::Unknown => program(),
    };
    let reason = io::Error::from_raw_os_error(failure.errno);
    LaunchError {
        stage: failure.stage,
        errno: failure.errno,
        message: shortened(&format!("{object}: {reason}")),
    }
}

/// The end of a long message tells more than its beginning, which is a path.
fn shortened(message: &str) -> String {
    let excess = message.chars().count().saturating_sub(MESSAGE_CHARS_MAX);
    message.chars().skip(excess).collect()
}
