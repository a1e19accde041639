//! What is written in the files of a run: one type per file, and how it becomes bytes and back.
//!
//! Owns the formats and their versions. Refuses to know names, places and files; that is the parent module's.

use std::fmt;
use std::io;
use std::path::Path;

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::FileError;
use crate::core::record::Record;
use crate::core::session::Verdict;
use crate::core::vocab::{
    HostId, Leftovers, Mono, Now, ProcessId, RunId, SessionId, Usage, WaitStatus, Wall,
};

/// The largest file that a reader accepts; what a shim writes stays below 4 KiB.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// The same for a launch order: its arguments may hold a prompt.
pub(super) const LAUNCH_BYTES_MAX: u64 = 8 << 20;
/// How long after deadline and grace a shim acts by itself, unless the order says otherwise.
const LATE_MS_DEFAULT: u64 = 5_000;

/// The format version that a file carries: it can only be written right, and only a known one can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Version<const N: u64>;

impl<const N: u64> Serialize for Version<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(N)
    }
}

impl<'de, const N: u64> Deserialize<'de> for Version<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer)? {
            found if found == N => Ok(Self),
            found => Err(D::Error::custom(format_args!("version {found}"))),
        }
    }
}

/// Both clocks, as the files spell them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Running time of the host.
    pub mono_ns: Mono,
    /// Time of day.
    pub wall_us: Wall,
}

impl From<Now> for Stamp {
    fn from(now: Now) -> Self {
        Self { mono_ns: now.mono, wall_us: now.wall }
    }
}

impl From<Stamp> for Now {
    fn from(stamp: Stamp) -> Self {
        Self { wall: stamp.wall_us, mono: stamp.mono_ns }
    }
}

/// `launch.<run>.json`: all that a shim needs to know. File names are relative to the session directory, save the logs
/// of a hook, which lie in that of its session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchOrder {
    /// 1.
    pub v: Version<1>,
    /// Whose run this is.
    pub session: SessionId,
    /// Which run.
    pub run: u32,
    /// The program, searched in the session's PATH, and its arguments.
    pub argv: Vec<String>,
    /// Where the leader starts.
    pub cwd: String,
    /// The leader's file mode mask.
    pub umask: u32,
    /// The leader's soft limit of open files, capped at the hard one; `None` leaves it.
    pub nofile_soft: Option<u64>,
    /// The file that becomes standard input, unlinked once the leader runs; `None` is /dev/null.
    pub stdin: Option<String>,
    /// The file whose lines go to the leader's standard input, a pipe, for as long as the file has its name. A shim that
    /// does not know this gives the leader an empty input, which ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// The file with the whole environment, `K=V` with NUL between, unlinked once the leader runs.
    pub env: String,
    /// Log of standard output, appended to.
    pub stdout: String,
    /// Log of standard error, appended to.
    pub stderr: String,
    /// What becomes of processes that outlive the leader.
    pub leftovers: Leftovers,
    /// How long a process may take to end after TERM.
    pub grace_ms: u64,
    /// The session's own cgroup (absolute path of its directory), where there is one.
    pub cgroup: Option<String>,
    /// The cgroup that counts what the session uses, where that is another one: the scope around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// How long after deadline and grace the shim acts by itself, because the daemon did not.
    #[serde(default = "late_ms_default")]
    pub late_ms: u64,
    /// What is kept of each of the two logs, counted from its end; `None` is all.
    #[serde(default)]
    pub log_bytes_max: Option<u64>,
}

fn late_ms_default() -> u64 {
    LATE_MS_DEFAULT
}

/// By hand: arguments may be prompts or secrets, and a `Debug` text ends up in logs.
impl fmt::Debug for LaunchOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LaunchOrder")
            .field("session", &self.session)
            .field("run", &self.run)
            .field("program", &self.argv.first())
            .field("arguments", &self.argv.len().saturating_sub(1))
            .field("cwd", &self.cwd)
            .field("leftovers", &self.leftovers)
            .field("grace_ms", &self.grace_ms)
            .finish_non_exhaustive()
    }
}

/// `created.<run>.json`: the record that the journal has of the launch, for a daemon that finds no journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreatedFile {
    /// 1.
    pub v: Version<1>,
    /// Whose run this is.
    pub session: SessionId,
    /// Which run.
    pub run: u32,
    /// [`Record::Created`].
    pub record: Record,
}

/// What a daemon needs of `verdict.<run>.json`. The rest of that file is the public record, for people and programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictFile {
    /// Whose run this is.
    pub id: SessionId,
    /// Which run.
    pub run: u32,
    /// The agent's own id of the conversation.
    pub native_id: Option<String>,
    /// As the journal has it.
    pub verdict: Verdict,
}

/// `shim.<run>.json`: who owns the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimIdentity {
    /// 1.
    pub v: Version<1>,
    /// Whose run this is.
    pub session: SessionId,
    /// Which run.
    pub run: u32,
    /// Where the numbers below mean something.
    pub host: HostId,
    /// The shim.
    pub process: ProcessId,
}

/// `leader.<run>.json`: the process that is, or is about to become, the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderIdentity {
    /// 1.
    pub v: Version<1>,
    /// Whose run this is.
    pub session: SessionId,
    /// Which run.
    pub run: u32,
    /// Where the numbers below mean something.
    pub host: HostId,
    /// The leader.
    pub process: ProcessId,
}

/// `deadline`: when the running run must be over; replaced by a new file to extend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// 1.
    pub v: Version<1>,
    /// The instant; `None` is no deadline.
    pub mono_ns: Option<Mono>,
    /// The boot whose running time that is.
    pub boot: String,
}

/// The exit file: how the run ended, as its parent saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitFile {
    /// 1.
    pub v: Version<1>,
    /// Whose run this is.
    pub session: SessionId,
    /// Which run.
    pub run: u32,
    /// Where the numbers below mean something.
    pub host: HostId,
    /// The leader; `None` when the launch failed before there was a process.
    pub leader: Option<ProcessId>,
    /// The leader's raw wait status; `None` when it never became the agent.
    pub status: Option<WaitStatus>,
    /// Why it never became the agent.
    pub launch_error: Option<LaunchError>,
    /// Right after the leader was reaped.
    pub ended: Stamp,
    /// The leader's, with the descendants that it waited for.
    pub usage: Usage,
    /// Whether the shim had a hand in it.
    pub cause: Cause,
    /// Processes of the tree that were alive when the leader ended; `None` when they could not be counted.
    pub leftovers: Option<u32>,
}

/// Why the leader ended, as far as the shim knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Not by the shim.
    Exit,
    /// The shim enforced the deadline.
    Deadline,
    /// A word of a newer shim.
    #[serde(other)]
    Unknown,
}

/// A launch that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchError {
    /// The step that failed.
    pub stage: Stage,
    /// What the kernel said; 0 when it was not the kernel.
    pub errno: i32,
    /// The same for people, with the object.
    pub message: String,
}

/// The steps of a launch, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Reading the launch order.
    Order,
    /// Setting disk space for the exit file aside.
    Reserve,
    /// Opening the log files.
    Log,
    /// Opening the prompt.
    Stdin,
    /// Creating the process.
    Fork,
    /// Entering the cgroup.
    Cgroup,
    /// Setting the limit of open files.
    Limits,
    /// Changing to the working directory.
    Cwd,
    /// Recording the leader's identity.
    Identity,
    /// Reading the environment.
    Env,
    /// Finding the program: ENOENT is not found (also a missing interpreter), EACCES not executable.
    Program,
    /// Executing it, for any other reason.
    Exec,
    /// A word of a newer shim.
    #[serde(other)]
    Unknown,
}

/// `tree.<run>.json`: nothing of the run is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeFile {
    /// 1.
    pub v: Version<1>,
    /// Whose run this is.
    pub session: SessionId,
    /// Which run.
    pub run: u32,
    /// When the last process had been reaped.
    pub gone: Stamp,
    /// All processes of the tree together.
    pub usage: Usage,
    /// Processes other than the leader that the shim had to signal.
    pub killed: u32,
}

/// What a shim tells a listening daemon over the socket that is its standard input: one packet each, best effort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShimMessage {
    /// The leader exists and is about to exec; its pidfd comes with the packet.
    Leader,
    /// The leader has become the agent.
    Running,
    /// The launch failed; the exit file says why.
    Failed,
}

impl ShimMessage {
    /// The packet.
    pub fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Leader => b"leader",
            Self::Running => b"running",
            Self::Failed => b"failed",
        }
    }

    /// The message of a packet; `None` for one of a newer shim.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        [Self::Leader, Self::Running, Self::Failed].into_iter().find(|message| message.as_bytes() == packet)
    }
}

/// What all JSON files here have in common.
pub(super) trait Format: Serialize + DeserializeOwned {
    const VERSION: u64 = 1;
    const BYTES_MAX: u64 = FILE_BYTES_MAX;

    /// The run that the file speaks of, where it speaks of one.
    fn id(&self) -> Option<RunId>;
}

macro_rules! formats_of_a_run {
    ($($format:ty),+) => {$(
        impl Format for $format {
            fn id(&self) -> Option<RunId> {
                Some(RunId { session: self.session, run: self.run })
            }
        }
    )+};
}

impl Format for CreatedFile {
    const BYTES_MAX: u64 = LAUNCH_BYTES_MAX;

    fn id(&self) -> Option<RunId> {
        Some(RunId { session: self.session, run: self.run })
    }
}

formats_of_a_run!(ShimIdentity, LeaderIdentity, ExitFile, TreeFile);

impl Format for LaunchOrder {
    const BYTES_MAX: u64 = LAUNCH_BYTES_MAX;

    fn id(&self) -> Option<RunId> {
        Some(RunId { session: self.session, run: self.run })
    }
}

impl Format for Deadline {
    fn id(&self) -> Option<RunId> {
        None
    }
}

/// One line of JSON. The newline is the mark of completeness: a cut or preallocated file does not end in one.
pub(super) fn encode<T: Format>(content: &T) -> io::Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec(content)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Only the version, to tell another generation from damage.
#[derive(Deserialize)]
struct Head {
    v: u64,
}

pub(super) fn decode<T: Format>(path: &Path, bytes: &[u8]) -> Result<T, FileError> {
    let malformed = |reason: String| FileError::Malformed { path: path.to_owned(), reason };
    if bytes.last() != Some(&b'\n') {
        return Err(malformed("not complete".to_owned()));
    }
    let head: Head = serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))?;
    if head.v != T::VERSION {
        return Err(FileError::WrongVersion { path: path.to_owned(), found: head.v, known: T::VERSION });
    }
    serde_json::from_slice(bytes).map_err(|error| malformed(error.to_string()))
}
