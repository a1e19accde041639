//! Who a process is, in terms that survive a restart of the reader: boot, pid namespace, pidfs handle, start time.
//!
//! Owns the few kernel calls that read and resolve such names, for the daemon and the shim alike. Refuses to
//! judge: whether two names are the same process is [`ProcessId::same`]'s business, and what follows from a
//! process being gone is the core's. Every function fails with the kernel's own errno and changes nothing.
#![expect(unsafe_code, reason = "file handles of pidfds: neither std nor rustix has these two calls")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::core::vocab::{HostId, PidHandle, ProcessId};

use super::proc_fs::read_small_text;
use super::without::{Lack, refuse, without};

pub use super::proc_fs::{Stat, is_gone, stat};

/// Pidfs as the place to resolve a handle in, without any pidfd at hand (uapi/linux/fcntl.h).
const FD_PIDFS_ROOT: RawFd = -10002;

/// A pidfs handle as measured: the 64-bit inode number.
const HANDLE_BYTES: usize = size_of::<u64>();

/// `struct file_handle` with room for one pidfs handle.
#[repr(C)]
struct FileHandle {
    bytes: u32,
    kind: i32,
    handle: [u8; HANDLE_BYTES],
}

/// This boot of this machine, and the pid namespace of the caller.
pub fn host_id() -> io::Result<HostId> {
    let boot = read_small_text("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
    let machine = read_small_text("/etc/machine-id").map(|id| id.trim().to_owned()).unwrap_or_default();
    let pid_ns =
        fs::read_link("/proc/self/ns/pid").ok().and_then(|link| namespace(link.to_str()?)).unwrap_or(0);
    Ok(HostId { machine, boot, pid_ns })
}

/// The inode number in the link of a namespace (namespaces(7)): cheaper read than followed.
fn namespace(link: &str) -> Option<u64> {
    link.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// The full name of the process that `pidfd` holds. Fails with ESRCH when `pid` is not, or no longer, its number:
/// what /proc says about a number is believed only if the pidfd still owns that number afterwards.
pub fn of_pidfd(pid: u32, pidfd: BorrowedFd<'_>) -> io::Result<ProcessId> {
    let start_ticks = start_ticks(pid).map_err(|error| {
        let gone = error.kind() == io::ErrorKind::NotFound;
        if gone { io::Error::from_raw_os_error(libc::ESRCH) } else { error }
    })?;
    let handle = handle_of(pidfd)?;
    if pid_of(pidfd)? != Some(pid) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(ProcessId { pid, handle, start_ticks })
}

/// The number of the process that `pidfd` holds, in our pid namespace; `None` once it has been reaped.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let info = read_small_text(&format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    // -1 is a reaped process, 0 one of another pid namespace; a descriptor without the line is no pidfd.
    match number.and_then(|text| text.trim().parse::<i64>().ok()) {
        Some(number) => Ok(u32::try_from(number).ok().filter(|pid| *pid != 0)),
        None => Err(io::Error::from_raw_os_error(libc::EBADF)),
    }
}

/// Field 22 of `/proc/PID/stat`: when the process started, in 10 ms ticks since boot.
pub fn start_ticks(pid: u32) -> io::Result<u64> {
    stat(pid).map(|stat| stat.start_ticks)
}

/// The pidfs handle of a process; `None` where the kernel (before 6.14) or a sandbox gives none.
pub fn handle_of(pidfd: BorrowedFd<'_>) -> io::Result<Option<PidHandle>> {
    if without(Lack::Pidfs) {
        return Ok(None);
    }
    let mut handle = FileHandle { bytes: HANDLE_BYTES as u32, kind: 0, handle: [0; HANDLE_BYTES] };
    let mut mount_id = 0;
    // SAFETY: `FileHandle` has the layout of `struct file_handle` and says how many bytes follow its head;
    // the path is a NUL-terminated literal; both out-pointers live through the call.
    let result = unsafe {
        libc::name_to_handle_at(
            pidfd.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    };
    if result == 0 && handle.bytes as usize == HANDLE_BYTES {
        return Ok(Some(PidHandle { kind: handle.kind, bytes: u64::from_ne_bytes(handle.handle) }));
    }
    if result == 0 {
        return Ok(None);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EPERM | libc::EOVERFLOW) => Ok(None),
        _ => Err(error),
    }
}

/// A pidfd of exactly the process that `handle` names, living or zombie. ESTALE: it has been reaped (or never was
/// one of this boot); any other error says nothing about the process. EPERM: a container without CAP_DAC_READ_SEARCH.
pub fn open_handle(handle: PidHandle) -> io::Result<OwnedFd> {
    refuse(Lack::Pidfs)?;
    match open_handle_in(FD_PIDFS_ROOT, handle) {
        // The kernel has handles but not yet the shorthand for their root: any pidfd will do, so take our own.
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => {
            let own =
                rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
            open_handle_in(own.as_fd().as_raw_fd(), handle)
        }
        result => result,
    }
}

fn open_handle_in(root: RawFd, handle: PidHandle) -> io::Result<OwnedFd> {
    let mut handle =
        FileHandle { bytes: HANDLE_BYTES as u32, kind: handle.kind, handle: handle.bytes.to_ne_bytes() };
    // SAFETY: `FileHandle` has the layout of `struct file_handle` and lives through the call; `root` is only a number
    // to the kernel, which checks it.
    let fd = unsafe { libc::open_by_handle_at(root, (&raw mut handle).cast(), libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_handle_opens_its_process_until_that_is_reaped() {
        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let pid = child.id();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd");
        let id = of_pidfd(pid, pidfd.as_fd()).expect("an identity");
        assert_eq!(id.start_ticks, start_ticks(pid).expect("start ticks"));
        assert_eq!(pid_of(pidfd.as_fd()).expect("a number"), Some(pid));
        if let Some(handle) = id.handle {
            let again = open_handle(handle).expect("the handle opens");
            assert_eq!(handle_of(again.as_fd()).expect("a handle"), Some(handle));
        }

        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(of_pidfd(pid, pidfd.as_fd()).expect_err("gone").raw_os_error(), Some(libc::ESRCH));
        if let Some(handle) = id.handle {
            assert_eq!(open_handle(handle).expect_err("gone").raw_os_error(), Some(libc::ESTALE));
        }
    }

    #[test]
    fn this_host_has_a_name() {
        let host = host_id().expect("a host id");
        assert_eq!(host.boot.len(), 36);
        let found = fs::metadata("/proc/self/ns/pid").expect("the namespace");
        assert_eq!(host.pid_ns, std::os::unix::fs::MetadataExt::ino(&found));
    }
}
