//! Becoming the one shim of a run.
//!
//! Owns the order of the two steps: first the lock that proves us alive, then the launch. In this order whoever
//! finds a claimed launch finds our lock too, so no launch is ever claimed by nobody.

use std::fs::File;
use std::os::fd::AsFd;
use std::{io, process};

use agentctl::core::vocab::{HostId, ProcessId};
use agentctl::sys::identity;
use agentctl::wire::session_dir::{RunFiles, ShimIdentity, Version};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// The lock of `shim.<run>.json`, held until this value, or the process, is gone.
pub(crate) struct Ownership {
    file: File,
}

impl Ownership {
    /// Whether somebody has removed the file, and with it the session: nobody will look for us any more.
    pub(crate) fn is_deleted(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0)
    }
}

/// Takes the run. `None`: it is another shim's, or the daemon has given the launch up.
pub(crate) fn take(files: &RunFiles, host: &HostId) -> io::Result<Option<Ownership>> {
    let id = files.id();
    let identity = ShimIdentity {
        v: Version,
        session: id.session,
        run: id.run,
        host: host.clone(),
        process: own_identity()?,
    };
    let Some(file) = files.own(&identity)? else { return Ok(None) };
    if files.claim()? {
        return Ok(Some(Ownership { file }));
    }
    files.disown()?;
    Ok(None)
}

/// The name of the calling process.
fn own_identity() -> io::Result<ProcessId> {
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty())?;
    identity::of_pidfd(process::id(), pidfd.as_fd())
}
