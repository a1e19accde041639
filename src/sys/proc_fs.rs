//! What /proc says about a process *number*.
//!
//! Owns the parsing of `/proc/PID/stat` and the reading of numbers out of /proc lists. Refuses to say which process
//! the number means: a caller that holds a pidfd asks it afterwards whether the number was still its own. Where
//! there is no /proc every call fails with `NotFound`, which is never evidence that a process is gone.

use std::fs::{self, File};
use std::io::{self, Read};

use crate::core::vocab::WaitStatus;

/// Among the flags: a thread of the kernel (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;

/// The fields of `/proc/PID/stat` that somebody here needs (proc_pid_stat(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Field 3: `R`, `S`, `Z`, ...
    pub state: u8,
    /// Field 4: number of the parent; 0 when it is in another pid namespace.
    pub parent: u32,
    /// Field 6: the session (setsid(2)); 0 when it was made in another pid namespace.
    pub session: u32,
    /// Field 9: the kernel's own flags of the process.
    flags: u32,
    /// Fields 14 to 17, in 10 ms ticks: user and system time of all its threads, and of the children that it waited for.
    pub cpu_ticks: u64,
    /// Field 20: threads, the leader included even when it has ended before the others.
    pub threads: u32,
    /// Field 22: 10 ms ticks since boot.
    pub start_ticks: u64,
    /// Field 52: the wait status of a zombie; 0 as well when we may not see it.
    pub exit: WaitStatus,
}

impl Stat {
    /// Whether the whole process has ended. State `Z` alone says it of the first thread only: a program whose
    /// `main` has called pthread_exit(3) shows `Z` while its other threads work on.
    pub fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X') && self.threads <= 1
    }

    /// Whether it is a thread of the kernel, which never becomes a program.
    pub(super) fn is_of_kernel(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }
}

/// Reads `/proc/PID/stat`. `NotFound` or ESRCH when the number is free (see [`is_gone`]).
pub fn stat(pid: u32) -> io::Result<Stat> {
    let line = read_small(&format!("/proc/{pid}/stat"))?;
    parse(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a stat line that is too short"))
}

/// The users of a process: real, effective, saved, and that of its file accesses (proc_pid_status(5), `Uid`).
pub(super) fn users(pid: u32) -> io::Result<Vec<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    Ok(uids.split_ascii_whitespace().filter_map(|uid| uid.parse().ok()).collect())
}

/// Reads a file of the kernel's that is short and has no length, with a read and another for its end; std asks for its length
/// and begins with 32 bytes.
pub(super) fn read_small(path: &str) -> io::Result<Vec<u8>> {
    let mut content = Vec::with_capacity(1_024);
    File::open(path)?.take(u64::MAX).read_to_end(&mut content)?;
    Ok(content)
}

/// The same, as text.
pub(super) fn read_small_text(path: &str) -> io::Result<String> {
    String::from_utf8(read_small(path)?).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// The command name may hold spaces and parentheses, so fields are counted from its closing one.
fn parse(line: &[u8]) -> Option<Stat> {
    let name_end = line.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<&str> =
        std::str::from_utf8(line.get(name_end + 1..)?).ok()?.split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).copied();
    let ticks = |number: usize| field(number)?.parse::<u64>().ok();
    Some(Stat {
        state: *field(3)?.as_bytes().first()?,
        parent: field(4)?.parse().ok()?,
        session: field(6)?.parse().ok()?,
        flags: field(9)?.parse().ok()?,
        cpu_ticks: [ticks(14)?, ticks(15)?, ticks(16)?, ticks(17)?].into_iter().fold(0, u64::saturating_add),
        threads: field(20)?.parse().ok()?,
        start_ticks: field(22)?.parse().ok()?,
        // Absent before Linux 3.5; 0 already means "not told".
        exit: WaitStatus(field(52).and_then(|text| text.parse().ok()).unwrap_or(0)),
    })
}

/// Whether the process shows us what only they see who may trace it. `/proc/PID/io` asks exactly what the wait status in
/// `stat` asks (ptrace_may_access with PTRACE_MODE_READ_FSCREDS: fs/proc/base.c, fs/proc/array.c), and says no instead
/// of 0. False where the kernel keeps no such file.
pub(super) fn hides_nothing(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/io")).is_ok()
}

/// Whether an error of reading `/proc/PID/...` means that the number is free: the directory is not there, or the
/// process was reaped between open and read.
pub fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Whitespace-separated process numbers, as `children` and `cgroup.procs` list them. A 0 stands for a process of a
/// pid namespace that we cannot see into, and is an error like any other text.
pub(super) fn numbers(text: &str) -> io::Result<Vec<u32>> {
    let number = |word: &str| word.parse().ok().filter(|pid| *pid != 0);
    let read: Option<Vec<u32>> = text.split_ascii_whitespace().map(number).collect();
    read.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, "a list with processes that have no number here")
    })
}

/// The numeric names in a /proc directory: processes in `/proc`, threads in `/proc/PID/task`.
pub(super) fn numeric_names(dir: &str) -> io::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) {
            found.push(number);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZOMBIE: &str = "7 (a) Z (b c) Z 1 7 7 0 -1 4228100 0 0 0 0 1 20 300 4000 20 0 1 0 4242 0 0 18446744073709551615 \
                          0 0 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 10752";

    #[test]
    fn fields_are_counted_behind_a_hostile_command_name() {
        let stat = parse(ZOMBIE.as_bytes()).expect("it parses");
        let expected = Stat {
            state: b'Z',
            parent: 1,
            session: 7,
            flags: 4_228_100,
            cpu_ticks: 4321,
            threads: 1,
            start_ticks: 4242,
            exit: WaitStatus::exited(42),
        };
        assert_eq!(stat, expected);
        assert!(stat.is_zombie() && !stat.is_of_kernel());
    }

    #[test]
    fn a_first_thread_that_ended_early_is_no_zombie() {
        let stat = parse(ZOMBIE.replace("20 0 1 0", "20 0 2 0").as_bytes()).expect("it parses");
        assert!(!stat.is_zombie());
    }

    #[test]
    fn a_short_line_is_an_error_and_not_a_process() {
        assert_eq!(parse(b"7 (a) S 1"), None);
        assert_eq!(parse(b""), None);
        assert!(numbers("1 0 3").is_err());
        assert_eq!(numbers("1\n22\n").expect("two numbers"), [1, 22]);
    }
}
