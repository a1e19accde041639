//! The words everyone shares: ids, clocks, wait statuses, the identity of a process.
//!
//! Owns plain data and the arithmetic on it. Refuses to know where a value comes from: nothing here
//! reads a clock, a file or the kernel. Depends on nothing else of ours, so every module may use it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A time in whole milliseconds, as it crosses a boundary.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The first eight characters of an id that came as text, as tables and messages show it.
pub fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// The id of a session, for life: a random UUID v4 for launched ones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub Uuid);

impl SessionId {
    /// The first eight characters, as tables and messages show it.
    pub fn short(self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SessionId {
    type Err = uuid::Error;

    /// Only the hyphenated lower-case form: an id is also a directory name, so it has one spelling.
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        let id = Uuid::try_parse(text)?;
        if id.as_hyphenated().to_string() == text {
            Ok(Self(id))
        } else {
            Err(Uuid::try_parse("not the canonical spelling").expect_err("this text is no UUID"))
        }
    }
}

/// One execution of a session: the unit of the promise. Runs are numbered from 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId {
    /// The session that is executed.
    pub session: SessionId,
    /// 1, and one more for each resume.
    pub run: u32,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.session, self.run)
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// CLOCK_MONOTONIC in nanoseconds: running time of this boot of the host, without suspend.
/// Comparable only within one boot id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mono(pub u64);

impl Mono {
    /// This instant moved later, saturating at the end of time.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// Time since `earlier`; zero when it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// CLOCK_REALTIME in microseconds since the epoch: what people read; never used to order events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wall(pub i64);

impl Wall {
    /// Time since `earlier`; zero when the clock was set back meanwhile.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This instant moved later.
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// Both clocks, read together. Time is an argument everywhere but at the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// For people.
    pub wall: Wall,
    /// For deadlines and order.
    pub mono: Mono,
}

/// A raw wait status as the kernel reports it (wait(2)), kept undecoded until someone asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WaitStatus(pub u32);

impl WaitStatus {
    /// The status of a process that called `exit(code)`.
    pub fn exited(code: u8) -> Self {
        Self(u32::from(code) << 8)
    }

    /// The status of a process that signal `number` ended.
    pub fn killed(number: u8) -> Self {
        Self(u32::from(number & 0x7f))
    }

    /// The exit code, 0-255, when the process exited by itself.
    pub fn code(self) -> Option<u8> {
        (self.0 & 0x7f == 0).then_some((self.0 >> 8 & 0xff) as u8)
    }

    /// The number of the signal that ended the process; the core-dump bit is dropped.
    pub fn signal(self) -> Option<u8> {
        match (self.0 & 0x7f) as u8 {
            0 | 0x7f => None,
            number => Some(number),
        }
    }

    /// Whether both tell the same end; whether memory was dumped makes no difference.
    pub fn same_end(self, other: Self) -> bool {
        (self.code(), self.signal()) == (other.code(), other.signal())
    }

    /// Whether this is the status of an ended process at all (a stopped one is none).
    pub fn is_end(self) -> bool {
        self.code().is_some() || self.signal().is_some()
    }
}

/// Signals by number and name, 1-31 as on x86-64 and aarch64 Linux (signal(7)).
const SIGNALS: [&str; 31] = [
    "SIGHUP",
    "SIGINT",
    "SIGQUIT",
    "SIGILL",
    "SIGTRAP",
    "SIGABRT",
    "SIGBUS",
    "SIGFPE",
    "SIGKILL",
    "SIGUSR1",
    "SIGSEGV",
    "SIGUSR2",
    "SIGPIPE",
    "SIGALRM",
    "SIGTERM",
    "SIGSTKFLT",
    "SIGCHLD",
    "SIGCONT",
    "SIGSTOP",
    "SIGTSTP",
    "SIGTTIN",
    "SIGTTOU",
    "SIGURG",
    "SIGXCPU",
    "SIGXFSZ",
    "SIGVTALRM",
    "SIGPROF",
    "SIGWINCH",
    "SIGIO",
    "SIGPWR",
    "SIGSYS",
];

/// `SIGKILL` for 9; real-time signals are `SIGRTMIN+n`, counted from the kernel's 34 as glibc does.
pub fn signal_name(number: u8) -> String {
    match number {
        1..=31 => SIGNALS[usize::from(number) - 1].to_owned(),
        34.. => format!("SIGRTMIN+{}", number - 34),
        _ => format!("SIG{number}"),
    }
}

/// The number of `TERM`, `SIGTERM`, `sigterm` or `15`.
pub fn signal_number(name: &str) -> Option<u8> {
    if let Ok(number) = name.parse::<u8>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    SIGNALS.iter().position(|known| *known == full).and_then(|at| u8::try_from(at + 1).ok())
}

/// Where pids and monotonic times mean something: this boot of this machine, in this pid namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostId {
    /// `/etc/machine-id`, or empty where there is none.
    pub machine: String,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
    /// Inode of `/proc/self/ns/pid`; 0 where there is none.
    pub pid_ns: u64,
}

impl HostId {
    /// This place, in the memory of the last one where that is the same.
    pub fn shared(&self, last: &mut Arc<Self>) -> Arc<Self> {
        if **last != *self {
            *last = Arc::new(self.clone());
        }
        Arc::clone(last)
    }

    /// Whether it is certainly another machine: both have a name, and neither shares a boot.
    pub fn is_another_machine_than(&self, other: &Self) -> bool {
        let named = !self.machine.is_empty() && !other.machine.is_empty();
        named && self.machine != other.machine && self.boot != other.boot
    }
}

/// The kernel's own name of a process: a pidfs file handle (name_to_handle_at(2) on a pidfd, Linux 6.9+).
/// Unique within a boot; opening it gives exactly that process or ESTALE, never another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PidHandle {
    /// `handle_type` of the file handle (254 as measured on 6.18).
    pub kind: i32,
    /// The eight bytes of the handle.
    pub bytes: u64,
}

/// What identifies a process within one boot and pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process number: for people and for /proc; never enough to signal or to judge.
    pub pid: u32,
    /// The exact name, where the kernel has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<PidHandle>,
    /// Field 22 of /proc/PID/stat: 10 ms ticks since boot. Weak (reuse within a tick is common),
    /// but all there is before Linux 6.9.
    pub start_ticks: u64,
}

impl ProcessId {
    /// Whether both name the same process, judged by the strongest name that both have.
    pub fn same(&self, other: &Self) -> bool {
        match (self.handle, other.handle) {
            (Some(mine), Some(theirs)) => mine == theirs && self.pid == other.pid,
            _ => self.pid == other.pid && self.start_ticks == other.start_ticks,
        }
    }
}

/// What a process and its waited-for descendants used, as rusage tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// User and system time, microseconds.
    pub cpu_us: u64,
    /// Largest resident set of any one process, bytes.
    pub max_rss_bytes: u64,
    /// What their cgroup tells of all of them, where they have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupUsage>,
}

/// What the cgroup of a run tells of all that was ever in it. `None`: it does not say, which is never 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupUsage {
    /// User and system time, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<u64>,
    /// The most memory that all had together, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// Processes that the kernel killed for want of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_kills: Option<u64>,
}

impl Usage {
    /// CPU time by the best witness: the cgroup counts also those that nobody waited for.
    pub fn cpu_time_us(&self) -> u64 {
        self.group.and_then(|group| group.cpu_us).unwrap_or(self.cpu_us)
    }

    /// This later reading; what it does not say is as an earlier one said.
    pub fn after(self, earlier: Option<Self>) -> Self {
        let Some(before) = earlier.and_then(|earlier| earlier.group) else { return self };
        let now = self.group.unwrap_or_default();
        let group = GroupUsage {
            cpu_us: now.cpu_us.or(before.cpu_us),
            memory_peak_bytes: now.memory_peak_bytes.or(before.memory_peak_bytes),
            oom_kills: now.oom_kills.or(before.oom_kills),
        };
        Self { group: Some(group), ..self }
    }

    /// Whether the kernel is known to have killed any of them for want of memory.
    pub fn oom_killed(&self) -> bool {
        self.group.and_then(|group| group.oom_kills).is_some_and(|count| count > 0)
    }
}

/// What becomes of processes that the leader leaves behind when it ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leftovers {
    /// TERM, a short grace, KILL.
    #[default]
    Kill,
    /// They stay, and are counted until they are gone.
    Keep,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_decode_as_wait_2_says() {
        assert_eq!(WaitStatus(0x2a00).code(), Some(42));
        assert_eq!(WaitStatus(0x2a00).signal(), None);
        assert_eq!(WaitStatus(0x0009).signal(), Some(9));
        assert_eq!(WaitStatus(0x008b).signal(), Some(11), "the core-dump bit is dropped");
        assert_eq!(WaitStatus(0x8f00).code(), Some(143), "a natural code over 128 stays a code");
        assert!(!WaitStatus(0x137f).is_end(), "stopped by SIGSTOP is no end");
    }

    #[test]
    fn signals_have_names_both_ways() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(36), "SIGRTMIN+2");
        for number in 1..=31 {
            assert_eq!(signal_number(&signal_name(number)), Some(number));
        }
        assert_eq!(signal_number("term"), Some(15));
        assert_eq!(signal_number("0"), None);
        assert_eq!(signal_number("SIGNOPE"), None);
    }

    #[test]
    fn a_later_reading_forgets_nothing_that_an_earlier_one_knew() {
        let group =
            |cpu_us, memory_peak_bytes, oom_kills| Some(GroupUsage { cpu_us, memory_peak_bytes, oom_kills });
        let usage = |group| Usage { cpu_us: 1, max_rss_bytes: 2, group };
        let first = usage(group(Some(5), Some(6), Some(1)));
        assert_eq!(usage(None).after(Some(first)), first, "the cgroup was gone by then");
        let later = usage(group(Some(7), None, Some(2)));
        assert_eq!(later.after(Some(first)), usage(group(Some(7), Some(6), Some(2))));
        assert_eq!(usage(None).after(None), usage(None), "nothing is invented");
        assert_eq!((usage(None).cpu_time_us(), first.cpu_time_us()), (1, 5));
    }

    #[test]
    fn an_id_has_one_spelling() {
        let text = "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11";
        assert!(text.parse::<SessionId>().is_ok());
        assert!(text.to_uppercase().parse::<SessionId>().is_err());
        assert!("../../x".parse::<SessionId>().is_err());
        assert!(text.replace('-', "").parse::<SessionId>().is_err());
    }
}
