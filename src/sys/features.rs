//! What this host can do, found by trying and never by version.
//!
//! Owns the one reading of it, made when it is first asked for. Refuses to change anything on the strength of it:
//! each call elsewhere still handles its own refusal. Nothing here fails; what cannot be found out counts as absent.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;
use std::{io, thread};

use rustix::event::{PollFlags, Timespec};

use super::cgroup::{self, CgroupMode};
use super::linux::{pidfd, uring};
use super::{identity, without};

/// Looked for anew each time, unlike the rest.
pub use super::cgroup::scope::scopes;

/// What this host can do. Each loss is described in the README.
#[derive(Clone, Debug)]
pub struct Features {
    /// Processes can be held by descriptor (Linux 5.3).
    pub pidfd: bool,
    /// A pidfd tells when its process is reaped (Linux 6.9).
    pub reap_notice: bool,
    /// Processes can be found again by handle after a restart, exactly (Linux 6.14).
    pub pidfs_handles: bool,
    /// The kernel keeps the status of a reaped process for those who hold its pidfd (Linux 6.15).
    pub info_exit: bool,
    /// The kernel lists the children of a thread, so that a tree costs what it holds (CONFIG_PROC_CHILDREN).
    pub children_lists: bool,
    /// io_uring polls work; else why not.
    pub io_uring: Result<(), String>,
    /// Whether sessions get cgroups of their own.
    pub cgroup: CgroupMode,
    /// What the testing aid makes this process do without, as it was given; empty: nothing.
    pub without: String,
}

/// Tries everything once; later calls repeat the answer. The first takes a few milliseconds.
pub fn probe() -> &'static Features {
    static FOUND: OnceLock<Features> = OnceLock::new();
    FOUND.get_or_init(|| {
        let own = pidfd::open(std::process::id());
        let of_own = |ask: fn(&std::os::fd::OwnedFd) -> bool| own.as_ref().is_ok_and(ask);
        Features {
            pidfd: own.is_ok(),
            reap_notice: of_own(|fd| pidfd::tells_reaping(fd.as_fd()).unwrap_or(false)),
            pidfs_handles: of_own(|fd| matches!(identity::handle_of(fd.as_fd()), Ok(Some(_)))),
            info_exit: keeps_exit_status().unwrap_or(false),
            children_lists: Path::new("/proc/thread-self/children").exists(),
            io_uring: uring::prove().map_err(|error| uring::explain(&error)),
            cgroup: cgroup::mode(),
            without: without::wanted(),
        }
    })
}

/// Whether the kernel answers PIDFD_INFO_EXIT of something that has ended: a thread, the cheapest thing that can.
fn keeps_exit_status() -> io::Result<bool> {
    const REAPED_WITHIN: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

    let ended = thread::Builder::new().spawn(pidfd::open_this_thread)?.join();
    let Ok(Ok(fd)) = ended else {
        return Ok(false);
    };
    // A joined thread has let go of its stack; the kernel reaps it a moment later.
    let reaped = pidfd::shows(fd.as_fd(), PollFlags::HUP, REAPED_WITHIN)?;
    Ok(reaped && pidfd::exit_info(fd.as_fd())?.is_some())
}
