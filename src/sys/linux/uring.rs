//! The runtime and the one verb of the io_uring backend. The only file that names io-uring or tokio-uring.
//!
//! Owns the rules that keep tokio-uring 0.5 sound, each from a reproduced fault: only one-shot polls, which lend the
//! kernel no memory; their data is `()`, so that nothing of ours is dropped by its driver; the runtime is made by
//! `Runtime::new`, which reports a refusal instead of panicking; no operation is dropped while the program runs.
//! Refuses reads, writes and timeouts on the ring. Fails with the errno of the refused or completed operation.
#![expect(unsafe_code, reason = "the proof needs a ring of its own, and pushing to one is unsafe")]

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};
use tokio_uring::{OneshotOutputTransform, Runtime, UnsubmittedOneshot};

use super::Interest;
use crate::sys::without::{Lack, refuse};

/// Submissions between two parks of the thread; more are flushed early.
const SUBMISSIONS: u32 = 256;

/// Completions that fit before the kernel keeps the rest on its slow list: a mass death.
const COMPLETIONS: u32 = 32_768;

/// A single-threaded tokio runtime with a ring beside it. Errors when the host refuses one: see [`explain`].
pub(in crate::sys) fn runtime() -> io::Result<Runtime> {
    prove()?;
    let mut ring = tokio_uring::uring_builder();
    ring.setup_cqsize(COMPLETIONS);
    Runtime::new(tokio_uring::builder().entries(SUBMISSIONS).uring_builder(&ring))
}

/// Makes a small ring and completes one poll on it: a sandbox may allow the one and not the other.
pub(in crate::sys) fn prove() -> io::Result<()> {
    refuse(Lack::IoUring)?;
    let mut ring = IoUring::new(2)?;
    let ready = eventfd(1, EventfdFlags::CLOEXEC)?;
    let poll = poll_entry(ready.as_raw_fd(), Interest::In);
    // SAFETY: a poll refers to no memory, and its descriptor outlives the ring's only operation, completed below.
    let pushed = unsafe { ring.submission().push(&poll) };
    pushed.map_err(io::Error::other)?;
    rustix::io::retry_on_intr(|| {
        ring.submit_and_wait(1)
            .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
    })?;
    let completed = ring.completion().next().ok_or(io::ErrorKind::UnexpectedEof)?;
    result_of(&completed)
}

/// Why a ring was refused, naming what to change.
pub(in crate::sys) fn explain(error: &io::Error) -> String {
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let cause = match (error.raw_os_error(), disabled.trim()) {
        (Some(libc::EPERM), "2") => "kernel.io_uring_disabled=2".to_owned(),
        (Some(libc::EPERM), "1") => "kernel.io_uring_disabled=1 and not in kernel.io_uring_group".to_owned(),
        (Some(libc::EPERM | libc::EACCES), _) => "by seccomp or a security module".to_owned(),
        (Some(libc::ENOSYS), _) => "not in this kernel, or hidden by seccomp".to_owned(),
        (Some(libc::ENOMEM), _) => "RLIMIT_MEMLOCK is too low".to_owned(),
        _ => "unexpected".to_owned(),
    };
    format!("io_uring refused: {error} ({cause})")
}

/// See [`super::Poller::ready`].
pub(super) async fn ready(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
    loop {
        UnsubmittedOneshot::new((), Completed, poll_entry(fd.as_raw_fd(), interest)).submit().await?;
        if interest.holds(fd)? {
            return Ok(());
        }
    }
}

/// A one-shot poll: tests the level when it is armed, so what is ready already completes at once.
fn poll_entry(fd: RawFd, interest: Interest) -> squeue::Entry {
    opcode::PollAdd::new(Fd(fd), u32::from(interest.flags().bits())).build()
}

/// Turns a completion into a result; holds nothing, because the driver drops it.
struct Completed;

impl OneshotOutputTransform for Completed {
    type Output = io::Result<()>;
    type StoredData = ();

    fn transform_oneshot_output(self, _nothing: (), completed: cqueue::Entry) -> io::Result<()> {
        result_of(&completed)
    }
}

/// A completion carries the events that occurred, or a negative errno.
fn result_of(completed: &cqueue::Entry) -> io::Result<()> {
    if completed.result() < 0 { Err(io::Error::from_raw_os_error(-completed.result())) } else { Ok(()) }
}
