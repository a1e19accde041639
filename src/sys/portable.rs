//! The backend without kernel help: kill(pid, 0), directory scans and sleeps, at one second each.
//!
//! Owns what macOS builds and `--backend portable` run on. Refuses to give a verdict that it cannot prove: a zombie
//! or a reused number looks alive here unless a /proc shows otherwise, so it may delay an end, never invent one.
//! Fails like the Linux backends, with one loss: files that appear *in* a watched directory count as renamed into it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, test_kill_process, waitpid};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::{DirNews, RescanWhy, cgroup, clock, proc_fs};
use crate::core::vocab::{Mono, ProcessId, WaitStatus};

/// How long anything may go unnoticed here.
const PERIOD: Duration = Duration::from_secs(1);

/// What can be told about a process that is held by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Liveness {
    /// Somebody has the number, and nothing shows that it is not the process meant.
    Alive,
    /// It has ended and waits to be reaped; only told where there is a /proc.
    Zombie,
    /// Nobody has the number, or /proc shows that somebody else has it.
    Gone,
}

/// The process that has this number now. Start time 0 where there is no /proc to tell it.
pub(super) fn identify(pid: u32) -> io::Result<ProcessId> {
    test_kill(pid)?;
    let start_ticks = match proc_fs::stat(pid) {
        Ok(stat) => stat.start_ticks,
        Err(_no_proc) if cfg!(not(target_os = "linux")) => 0,
        Err(error) => return Err(error),
    };
    Ok(ProcessId { pid, handle: None, start_ticks })
}

/// Whether the process is still there. Errors when kill(2) itself fails in an unknown way.
pub(super) fn liveness(id: &ProcessId) -> io::Result<Liveness> {
    match test_kill(id.pid) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Liveness::Gone),
        Err(error) => return Err(error),
    }
    Ok(match proc_fs::stat(id.pid) {
        Ok(stat) if stat.start_ticks != id.start_ticks => Liveness::Gone,
        Ok(stat) if stat.is_zombie() => Liveness::Zombie,
        Ok(_running) => Liveness::Alive,
        // No /proc, one that hides other users, or an end right now: the next look will tell.
        Err(_hidden) => Liveness::Alive,
    })
}

/// `Ok` when somebody has the number, whoever may signal it; ESRCH when nobody has.
fn test_kill(pid: u32) -> io::Result<()> {
    match test_kill_process(number(pid)?) {
        Ok(()) | Err(rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn number(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Signals by number, right after the identity was compared. ESRCH: gone, or known to be somebody else.
pub(super) fn signal(id: &ProcessId, signal: u8) -> io::Result<()> {
    if liveness(id)? == Liveness::Gone {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    let signal = Signal::from_named_raw(i32::from(signal))
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "real-time signals need a pidfd"))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "the portable backend has no pidfd; identity was compared above"
    )]
    let sent = rustix::process::kill_process(number(id.pid)?, signal);
    Ok(sent?)
}

/// Reaps a child by number. A child's number cannot change hands before that, so it is the one meant.
pub(super) fn reap(id: &ProcessId) -> io::Result<Option<WaitStatus>> {
    match waitpid(Some(number(id.pid)?), WaitOptions::NOHANG) {
        Ok(None) | Err(rustix::io::Errno::CHILD) => Ok(None),
        Ok(Some((_pid, status))) => Ok(Some(WaitStatus(status.as_raw().cast_unsigned()))),
        Err(error) => Err(error.into()),
    }
}

/// Calls `then` once the process is no longer in any of the `living` conditions.
pub(super) fn on_process(
    id: ProcessId,
    living: &'static [Liveness],
    then: impl FnOnce(io::Result<()>) + 'static,
) {
    tokio::task::spawn_local(async move {
        let result = loop {
            match liveness(&id) {
                Ok(now) if living.contains(&now) => sleep(PERIOD).await,
                Ok(_over) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        then(result);
    });
}

/// The timer: one task that sleeps until the latest deadline it was told.
pub(super) fn timer(mut on_fire: impl FnMut() + 'static) -> watch::Sender<Option<Mono>> {
    let (sender, mut deadline) = watch::channel::<Option<Mono>>(None);
    tokio::task::spawn_local(async move {
        let mut armed = None;
        loop {
            let left = async {
                match armed {
                    Some(at) => sleep(Mono::since(at, clock::mono())).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = deadline.changed() => match changed {
                    Ok(()) => armed = *deadline.borrow_and_update(),
                    Err(_timer_dropped) => return,
                },
                () = left => {
                    armed = None;
                    on_fire();
                }
            }
        }
    });
    sender
}

/// Calls `then` when the file is no longer as it is now, or can no longer be read.
pub(super) fn on_growth(path: &Path, then: impl FnOnce() + 'static) -> io::Result<AbortHandle> {
    let path = path.to_owned();
    let before = fs::metadata(&path).map(|file| (file.len(), file.mtime(), file.mtime_nsec()))?;
    let task = tokio::task::spawn_local(async move {
        loop {
            sleep(PERIOD).await;
            let now = fs::metadata(&path).map(|file| (file.len(), file.mtime(), file.mtime_nsec()));
            if now.ok() != Some(before) {
                break then();
            }
        }
    });
    Ok(task.abort_handle())
}

/// Calls `then` once the cgroup holds no process.
pub(super) fn on_cgroup_empty(path: &Path, then: impl FnOnce(io::Result<()>) + 'static) {
    let path = path.to_owned();
    tokio::task::spawn_local(async move {
        let result = loop {
            match cgroup::populated(&path) {
                Ok(true) => sleep(PERIOD).await,
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        then(result);
    });
}

/// One reading of a watched directory.
#[derive(PartialEq, Eq)]
struct Scan {
    /// Device and inode of the directory itself.
    dir: (u64, u64),
    /// Inode of each file: a file that is replaced by renaming is a new one.
    files: HashMap<OsString, u64>,
}

fn scan(dir: &Path) -> io::Result<Scan> {
    let itself = fs::metadata(dir)?;
    let mut files = HashMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(file) if !file.is_dir() => files.insert(entry.file_name(), file.ino()),
            // A directory, or a file that is already gone again.
            Ok(_) | Err(_) => None,
        };
    }
    Ok(Scan { dir: (itself.dev(), itself.ino()), files })
}

/// Compares the directory with its last reading, and tells the differences.
pub(super) fn watch_dir(dir: &Path, mut on: impl FnMut(DirNews) + 'static) {
    let dir: PathBuf = dir.to_owned();
    // Read before the first item is told: what comes after this is news, what came before is in the caller's scan.
    let first = scan(&dir);
    tokio::task::spawn_local(async move {
        let mut last = match first {
            Ok(first) => {
                on(DirNews::Rescan { why: RescanWhy::Started });
                Some(first)
            }
            Err(error) => {
                on(DirNews::Blind { why: error.to_string() });
                None
            }
        };
        loop {
            sleep(PERIOD).await;
            match (scan(&dir), last.take()) {
                (Ok(now), Some(before)) if now.dir == before.dir => {
                    for (name, inode) in &now.files {
                        if before.files.get(name) != Some(inode) {
                            on(DirNews::Arrived(name.clone()));
                        }
                    }
                    last = Some(now);
                }
                (Ok(now), before) => {
                    last = Some(now);
                    let why = if before.is_some() { RescanWhy::Replaced } else { RescanWhy::Restored };
                    on(DirNews::Rescan { why });
                }
                (Err(error), Some(_before)) => on(DirNews::Blind { why: error.to_string() }),
                (Err(_still), None) => {}
            }
        }
    });
}
