//! The Linux backends: one verb, "this descriptor is ready", over pidfds, inotify, a timerfd and cgroup.events.
//!
//! Owns the sources that forward readiness to a callback, one long-lived task each. Refuses to cancel: a task ends
//! when its source has, so no ring operation is ever dropped while the program runs. Fails by telling the callback.

mod epoll;
pub(super) mod inotify;
pub(super) mod pidfd;
pub(super) mod timer;
pub(super) mod uring;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::event::{PollFlags, Timespec};
use tokio::task::spawn_local;

use super::cgroup;

/// Who waits for descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Poller {
    /// One-shot polls on a ring.
    Uring,
    /// The epoll instance of tokio.
    Epoll,
}

/// What to wait for (poll(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// Something to read; on a pidfd: the process has ended.
    In,
    /// Hang-up; on a pidfd: the process has been reaped.
    Hup,
    /// Exceptional news: a cgroup.events file has changed since it was read.
    Pri,
}

impl Interest {
    fn flags(self) -> PollFlags {
        match self {
            Self::In => PollFlags::IN,
            Self::Hup => PollFlags::HUP,
            Self::Pri => PollFlags::PRI,
        }
    }

    /// Whether `fd` is ready now. Asked after every notice, which may be early (kernels before 6.16 announce the end
    /// of a process in which a thread executes a program) or about something else (epoll always tells hang-ups).
    fn holds(self, fd: BorrowedFd<'_>) -> io::Result<bool> {
        // What can no longer be waited for, an error or a hang-up, is news to every reader.
        let over = if self == Self::In { PollFlags::HUP | PollFlags::ERR } else { PollFlags::empty() };
        pidfd::shows(fd, self.flags() | over, Timespec::default())
    }
}

impl Poller {
    /// Completes when `fd` is ready, at once if it is already. Never put into `select!` or `timeout`: a ring operation
    /// that is dropped while pending stays in the kernel until its file is gone.
    pub(super) async fn ready(self, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        match self {
            Self::Uring => uring::ready(fd, interest).await,
            // Elsewhere, or each wait on the ring would have room for this longer one.
            Self::Epoll => Box::pin(epoll::ready(fd, interest)).await,
        }
    }

    /// Calls `then` once the process behind `pidfd` has ended (`In`) or was reaped (`Hup`).
    pub(super) fn on_process(
        self,
        pidfd: Arc<OwnedFd>,
        interest: Interest,
        then: impl FnOnce(io::Result<()>) + 'static,
    ) {
        spawn_local(async move { then(self.ready(pidfd.as_fd(), interest).await) });
    }

    /// Calls `then` once the cgroup holds no process.
    pub(super) fn on_cgroup_empty(self, path: &Path, then: impl FnOnce(io::Result<()>) + 'static) {
        let events = File::open(path.join("cgroup.events"));
        spawn_local(async move {
            then(match events {
                Ok(file) => self.until_empty(&file).await,
                Err(error) => Err(error),
            });
        });
    }

    async fn until_empty(self, events: &File) -> io::Result<()> {
        loop {
            // Reading also acknowledges the last change, so the next one cannot be missed.
            let mut text = [0; 256];
            let length = match events.read_at(&mut text, 0) {
                Ok(length) => length,
                // The cgroup was removed, which only an empty one can be.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
                Err(error) => return Err(error),
            };
            let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
            match cgroup::populated_in(&text) {
                Some(false) => return Ok(()),
                Some(true) => self.ready(events.as_fd(), Interest::Pri).await?,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "cgroup.events without `populated`",
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_wait_on_the_ring_is_no_larger_than_it_has_to_be() {
        let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        // Each session has two of them.
        let wait = size_of_val(&Poller::Uring.ready(fd.as_fd(), Interest::In));
        assert!(wait <= 64, "{wait} bytes");
    }
}
