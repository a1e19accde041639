//! What the daemon settles about its own process: adopting orphans, its descriptors, its children.
//!
//! Owns these calls. Refuses to decide when they are made. Each failure leaves the process as it was.

use std::fs::File;
use std::io;

use rustix::io::fcntl_dupfd_cloexec;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{ProcessRef, proc_fs};

/// Descriptors that a daemon of some thousand sessions has, two for each; 130 kB of the kernel's memory.
const DESCRIPTORS_AHEAD: i32 = 16_384;

/// The soft limit of open files (RLIMIT_NOFILE), before and after; [`u64::MAX`] is "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nofile {
    /// As inherited: what agents are given back.
    pub before: u64,
    /// As it is now.
    pub now: u64,
}

/// Makes this process the parent of descendants whose own parent ends, instead of a PID 1 that may take a second
/// to reap (PR_SET_CHILD_SUBREAPER, prctl(2)). Not inherited by children.
#[cfg(target_os = "linux")]
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Raises the soft limit of open files to the hard one; where that is refused, it stays (setrlimit(2)).
pub fn raise_nofile() -> Nofile {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    Nofile { before: limit.current.unwrap_or(u64::MAX), now: now.unwrap_or(u64::MAX) }
}

/// Has the kernel make the table of this process's descriptors for thousands of them. Called while there is one thread: in a
/// process with several, whoever opens the descriptor that makes the table grow waits until every processor has passed through
/// the scheduler, 10 to 50 ms, and so does whoever opens one meanwhile. The table never shrinks.
pub fn grow_descriptor_table(limit: Nofile) -> io::Result<()> {
    let last = i32::try_from(limit.now).unwrap_or(i32::MAX).min(DESCRIPTORS_AHEAD) - 1;
    drop(fcntl_dupfd_cloexec(File::open("/dev/null")?, last)?);
    Ok(())
}

/// All children of this process, zombies and adopted orphans included. Nobody but us reaps them, so as long as the
/// caller reaps on one thread only, each number still means the process that was listed.
pub fn own_children() -> io::Result<Vec<ProcessRef>> {
    let mut children = Vec::new();
    for thread in proc_fs::numeric_names("/proc/self/task")? {
        let listed = match std::fs::read_to_string(format!("/proc/self/task/{thread}/children")) {
            Ok(text) => proc_fs::numbers(&text)?,
            // The thread has just ended; its children moved to another one.
            Err(error) if proc_fs::is_gone(&error) && thread != std::process::id() => continue,
            Err(error) => return Err(error),
        };
        for pid in listed {
            match ProcessRef::of_child(pid) {
                Ok(child) => children.push(child),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(children)
}
