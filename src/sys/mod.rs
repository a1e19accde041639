//! The kernel seam: processes, directories, time and cgroups as events on one single-threaded runtime.
//!
//! Owns every system call of the daemon, the choice of backend, and the only `unsafe` of the program besides the
//! shim's. Refuses to know sessions, files and verdicts: it says what happened to a process, a directory or a clock.
//! Fails by saying so: no backend returns `Ok` for a thing undone, and a check that could not be made is `Unknown`.
//!
//! On Linux everything is one verb, "this descriptor is ready", which io_uring and epoll both answer; where neither
//! exists, the portable backend looks once a second. All three pass the same tests (`tests/it/sys.rs`).

pub mod cgroup;
pub mod clock;
#[cfg(target_os = "linux")]
pub mod features;
pub mod host_limits;
#[cfg(target_os = "linux")]
pub mod identity;
pub mod journald;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub mod lock_holder;
#[cfg(target_os = "linux")]
pub mod log_files;
mod own;
mod portable;
mod proc_fs;
mod process;
pub mod service;
#[cfg(target_os = "linux")]
pub mod shim_file;
pub mod shown;
mod start;
#[cfg(target_os = "linux")]
pub mod tool;
pub mod tree;
#[cfg(target_os = "linux")]
mod without;

use std::cell::RefCell;
use std::ffi::OsString;
use std::fmt;
use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, timeout};

#[cfg(target_os = "linux")]
use self::linux::{Interest, Poller, inotify, timer};
use self::portable::Liveness;
use crate::core::vocab::{HostId, Mono};

#[cfg(target_os = "linux")]
pub use self::own::become_subreaper;
pub use self::own::{Nofile, grow_descriptor_table, own_children, raise_nofile};
pub use self::process::{Found, ProcessRef, Sent};
pub use self::start::{Backend, BackendChoice, StartError, Started, UnknownBackend, host_id, run};

/// How long a heartbeat may take; a busy host needs milliseconds.
const HEARTBEAT_MAX: Duration = Duration::from_secs(5);

/// Pause after a wait that failed and must not be given up.
#[cfg(target_os = "linux")]
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The handle to the running backend: cheap to clone, bound to the thread of its runtime.
///
/// Each `on_*` and `watch_*` starts one task that lives as long as what it waits for. There is no cancelling:
/// a callback that is no longer of interest is one that does nothing.
#[derive(Clone)]
pub struct Sys {
    inner: Rc<Inner>,
}

struct Inner {
    started: Started,
    host: HostId,
    backend: Running,
}

/// What the running backend keeps.
enum Running {
    #[cfg(target_os = "linux")]
    Linux {
        poller: Poller,
        /// An eventfd that is always ready, for heartbeats.
        pulse: Rc<OwnedFd>,
        /// Made when the first log is followed.
        growth: RefCell<Option<Rc<inotify::Growth>>>,
    },
    Portable,
}

/// News of a watched directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirNews {
    /// A file of this name was renamed into the directory, or written there. May be told again when the last who had
    /// it open for writing closes it.
    Arrived(OsString),
    /// Names may have been missed: read the directory. Also the very first item, when the watch is in place.
    Rescan {
        /// What made them be missed.
        why: RescanWhy,
    },
    /// The directory cannot be watched at present. Tried again until it can be, which is then told as `Rescan`.
    Blind {
        /// The error, for people.
        why: String,
    },
}

/// Why a directory must be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RescanWhy {
    /// The watch has just begun.
    Started,
    /// More happened at once than the kernel keeps (16,384 events by default).
    Overflow,
    /// The directory was moved, deleted or unmounted, and another one is in its place.
    Replaced,
    /// It could not be watched for a while.
    Restored,
}

impl fmt::Display for RescanWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Started => "the watch has begun",
            Self::Overflow => "events were lost",
            Self::Replaced => "the directory was replaced",
            Self::Restored => "the directory can be watched again",
        })
    }
}

impl Sys {
    /// Which backend runs, and why that one.
    pub fn started(&self) -> &Started {
        &self.inner.started
    }

    /// This boot of this machine, in our pid namespace.
    pub fn host(&self) -> &HostId {
        &self.inner.host
    }

    /// Calls `then` once, when the process has ended (a zombie has), at once if it had before. An error says that it
    /// can no longer be waited for, not that it ended.
    pub fn on_end(&self, process: &ProcessRef, then: impl FnOnce(io::Result<()>) + 'static) {
        match &self.inner.backend {
            #[cfg(target_os = "linux")]
            Running::Linux { poller, .. } => match process.share_pidfd() {
                Some(pidfd) => poller.on_process(pidfd, Interest::In, then),
                None => portable::on_process(*process.id(), &[Liveness::Alive], then),
            },
            Running::Portable => portable::on_process(*process.id(), &[Liveness::Alive], then),
        }
    }

    /// Calls `then` once, when the process was reaped by whoever its parent is: from then on
    /// [`ProcessRef::exit_status`] is complete. `Unsupported`: the kernel does not tell (before Linux 6.9).
    pub fn on_reaped(&self, process: &ProcessRef, then: impl FnOnce(io::Result<()>) + 'static) {
        const UNREAPED: &[Liveness] = &[Liveness::Alive, Liveness::Zombie];
        match &self.inner.backend {
            #[cfg(target_os = "linux")]
            Running::Linux { poller, .. } => match process.share_pidfd() {
                Some(pidfd) => match linux::pidfd::tells_reaping(pidfd.as_fd()) {
                    Ok(true) => poller.on_process(pidfd, Interest::Hup, then),
                    Ok(false) => then(Err(io::ErrorKind::Unsupported.into())),
                    Err(error) => then(Err(error)),
                },
                None => portable::on_process(*process.id(), UNREAPED, then),
            },
            Running::Portable => portable::on_process(*process.id(), UNREAPED, then),
        }
    }

    /// Tells what is renamed into `dir`, for as long as the runtime lives. One that cannot be watched yet is
    /// [`DirNews::Blind`].
    ///
    /// Not noticed by inotify(7): a mount placed over the directory, a writer on the lower side of an overlay, and its
    /// deletion while somebody holds it open. Who expects a name that does not come therefore looks into the directory,
    /// and calls [`DirWatch::look_again`].
    pub fn watch_dir(&self, dir: &Path, on: impl FnMut(DirNews) + 'static) -> DirWatch {
        match &self.inner.backend {
            #[cfg(target_os = "linux")]
            Running::Linux { poller, .. } => {
                DirWatch { how: DirWatchHow::Inotify(inotify::watch_dir(*poller, dir, on)) }
            }
            Running::Portable => {
                portable::watch_dir(dir, on);
                DirWatch { how: DirWatchHow::Polling }
            }
        }
    }

    /// The timer of the daemon: `on_fire` runs each time that an armed instant is reached.
    pub fn timer(&self, on_fire: impl FnMut() + 'static) -> io::Result<Timer> {
        match &self.inner.backend {
            #[cfg(target_os = "linux")]
            Running::Linux { poller, .. } => Ok(Timer { how: TimerHow::Fd(timer::start(*poller, on_fire)?) }),
            Running::Portable => Ok(Timer { how: TimerHow::Sleep(portable::timer(on_fire)) }),
        }
    }

    /// Calls `then` once, when the file at `path` is written to after this call, or goes away. The caller reads the
    /// file once more after this call, because what was written before it is not told. `NotFound`: there is no file.
    pub fn on_growth(&self, path: &Path, then: impl FnOnce() + 'static) -> io::Result<GrowthWatch> {
        match &self.inner.backend {
            #[cfg(target_os = "linux")]
            Running::Linux { poller, growth, .. } => {
                let mut growth = growth.borrow_mut();
                let growth = match &*growth {
                    Some(started) => Rc::clone(started),
                    None => Rc::clone(growth.insert(inotify::Growth::start(*poller)?)),
                };
                Ok(GrowthWatch { _how: GrowthHow::Inotify { _watched: growth.watch(path, Box::new(then))? } })
            }
            Running::Portable => Ok(GrowthWatch {
                _how: GrowthHow::Polling { _task: AbortOnDrop(portable::on_growth(path, then)?) },
            }),
        }
    }

    /// Calls `then` once, when no process is in the cgroup or below it any more, at once if none is. An error says
    /// that this could not be told.
    pub fn on_cgroup_empty(&self, cgroup: &Path, then: impl FnOnce(io::Result<()>) + 'static) {
        match &self.inner.backend {
            #[cfg(target_os = "linux")]
            Running::Linux { poller, .. } => poller.on_cgroup_empty(cgroup, then),
            Running::Portable => portable::on_cgroup_empty(cgroup, then),
        }
    }

    /// Whether a round trip through the backend succeeds in time: the proof for the watchdog that ends still arrive.
    pub async fn heartbeat(&self) -> bool {
        let (tell, told) = oneshot::channel();
        match &self.inner.backend {
            #[cfg(target_os = "linux")]
            Running::Linux { poller, pulse, .. } => {
                let (poller, pulse) = (*poller, Rc::clone(pulse));
                spawn_local(
                    async move { tell.send(poller.ready(pulse.as_fd(), Interest::In).await.is_ok()) },
                );
            }
            Running::Portable => {
                spawn_local(async move {
                    sleep(Duration::from_millis(1)).await;
                    tell.send(true)
                });
            }
        }
        // Around the channel, never around the ring operation: see `linux::Poller::ready`.
        matches!(timeout(HEARTBEAT_MAX, told).await, Ok(Ok(true)))
    }
}

/// A directory that is watched, dropped or not.
pub struct DirWatch {
    how: DirWatchHow,
}

enum DirWatchHow {
    #[cfg(target_os = "linux")]
    Inotify(Rc<inotify::WatchedDir>),
    /// Looks at the path each time.
    Polling,
}

impl DirWatch {
    /// Whether the watched directory is still the one at its path; if not, that one is watched from now on, and
    /// [`DirNews::Rescan`] comes.
    pub fn look_again(&self) {
        match &self.how {
            #[cfg(target_os = "linux")]
            DirWatchHow::Inotify(watched) => watched.look_again(),
            DirWatchHow::Polling => {}
        }
    }
}

/// One timer, armed for at most one instant. Lives as long as the runtime, dropped or not.
pub struct Timer {
    how: TimerHow,
}

enum TimerHow {
    #[cfg(target_os = "linux")]
    Fd(Rc<OwnedFd>),
    Sleep(watch::Sender<Option<Mono>>),
}

impl Timer {
    /// Arms for `at` instead of what was armed before; `None` disarms. An instant that has passed fires at once.
    pub fn arm(&self, at: Option<Mono>) {
        match &self.how {
            #[cfg(target_os = "linux")]
            TimerHow::Fd(timer) => timer::arm(timer, at),
            TimerHow::Sleep(deadline) => {
                deadline.send_replace(at);
            }
        }
    }
}

/// Waits for a file to grow; dropping it forgets the file.
#[must_use = "dropping it forgets the file"]
pub struct GrowthWatch {
    _how: GrowthHow,
}

enum GrowthHow {
    #[cfg(target_os = "linux")]
    Inotify {
        _watched: inotify::Watched,
    },
    Polling {
        _task: AbortOnDrop,
    },
}

/// A task of the portable backend, which has no ring operations and so may be dropped at any time.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
