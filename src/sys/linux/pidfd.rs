//! System calls on pidfds.
//!
//! Owns open, signal, poll and PIDFD_GET_INFO, each one kernel call with the kernel's own errno. Refuses to hold
//! anything: descriptors belong to [`crate::sys::process::ProcessRef`], and what an answer means is decided there.
#![expect(
    unsafe_code,
    reason = "PIDFD_GET_INFO and real-time signals to a pidfd are in neither std nor rustix"
)]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::core::vocab::WaitStatus;
use crate::sys::without::{Lack, refuse, without};

/// `f_type` of the file system that pidfds live on since Linux 6.9 (uapi/linux/magic.h: PID_FS_MAGIC).
const PID_FS_MAGIC: i64 = 0x5049_4446;

/// pidfd_open(2). ESRCH: nobody has this number.
pub(in crate::sys) fn open(pid: u32) -> io::Result<OwnedFd> {
    Ok(pidfd_open(number(pid)?, PidfdFlags::empty())?)
}

/// A pidfd of the calling thread, which ends with it and not with the process (PIDFD_THREAD, Linux 6.9).
pub(in crate::sys) fn open_this_thread() -> io::Result<OwnedFd> {
    let flags = PidfdFlags::from_bits_retain(libc::PIDFD_THREAD);
    Ok(pidfd_open(rustix::thread::gettid(), flags)?)
}

fn number(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process number"))
}

/// Whether the descriptor shows one of `events` within `timeout`; zero asks about this moment (poll(2)).
pub(in crate::sys) fn shows(fd: BorrowedFd<'_>, events: PollFlags, timeout: Timespec) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, events)];
    rustix::io::retry_on_intr(|| poll(&mut fds, Some(&timeout)))?;
    let [polled] = fds;
    Ok(polled.revents().intersects(events))
}

/// Whether a pidfd tells when its process is reaped (POLLHUP). It does since pidfds have a file system of their own;
/// before, a wait for it would never end.
pub(in crate::sys) fn tells_reaping(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(!without(Lack::ReapNotice) && rustix::fs::fstatfs(fd)?.f_type == PID_FS_MAGIC)
}

/// pidfd_send_signal(2). ESRCH: the process has been reaped; a zombie accepts any signal.
pub(in crate::sys) fn send(fd: BorrowedFd<'_>, signal: u8) -> io::Result<()> {
    // SAFETY: the call takes four integers here; without a `siginfo_t` the kernel reads no memory of ours.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            libc::c_int::from(signal),
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The wait status of a *reaped* process (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15). `None`: not reaped yet,
/// or a kernel that does not tell. ENOTTY, EINVAL, ESRCH: a kernel that does not know the question.
pub(in crate::sys) fn exit_info(fd: BorrowedFd<'_>) -> io::Result<Option<WaitStatus>> {
    refuse(Lack::InfoExit)?;
    // SAFETY: the struct consists of integers, for which zero is a value.
    let mut info: libc::pidfd_info = unsafe { mem::zeroed() };
    info.mask = u64::from(libc::PIDFD_INFO_EXIT);
    // SAFETY: the request number carries the size of this very struct, which lives through the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::PIDFD_GET_INFO, &raw mut info) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let told = info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0;
    Ok(told.then(|| WaitStatus(info.exit_code.cast_unsigned())))
}
