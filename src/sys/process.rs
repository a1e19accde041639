//! One process, held so that it can never be mistaken for another.
//!
//! Owns [`ProcessRef`]: an identity with, on Linux, the pidfd that pins it. Refuses to judge what an end means, and to
//! signal or reap by number; the portable form without a pidfd compares the identity again right before every use.
//! Fails by saying so: a question that could not be asked is `None`, `Unknown` or an error, never "gone".

use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(target_os = "linux")]
use std::sync::Arc;
use std::time::Duration;

#[cfg(target_os = "linux")]
use rustix::event::{PollFlags, Timespec};
#[cfg(target_os = "linux")]
use rustix::process::{WaitId, WaitIdOptions, WaitIdStatus, waitid};

use super::portable::Liveness;
#[cfg(target_os = "linux")]
use super::{
    identity,
    linux::pidfd,
    without::{Lack, without},
};
use super::{portable, proc_fs};
#[cfg(target_os = "linux")]
use crate::core::vocab::PidHandle;
use crate::core::vocab::{ProcessId, WaitStatus};

/// A process, living or ended. Clones share one descriptor.
#[derive(Clone, Debug)]
pub struct ProcessRef {
    id: ProcessId,
    held: Held,
}

#[derive(Clone, Debug)]
enum Held {
    /// By a pidfd: exact for as long as it is open.
    #[cfg(target_os = "linux")]
    Pidfd(Arc<OwnedFd>),
    /// By number and start time: the portable form, which may take an ended process for a living one.
    Number,
}

/// What became of a process that was known by its identity only.
#[derive(Debug)]
pub enum Found {
    /// It runs.
    Alive(ProcessRef),
    /// It has ended, but nobody has reaped it yet: its status can still be had.
    Ended(ProcessRef),
    /// It has ended and was reaped.
    Gone,
    /// The question could not be answered; says why. No evidence of anything.
    Unknown(String),
}

/// What a process has used so far, and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Processor time of all its threads, and of the children that it has waited for, to 10 ms.
    pub cpu: Duration,
    /// The kernel's session that it is in (setsid(2)).
    pub session: u32,
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The kernel took it (which a zombie does as well).
    Sent,
    /// The process has been reaped; there was nobody to signal.
    Gone,
}

impl ProcessRef {
    /// Our own child, not yet reaped: its number cannot have been reused, so this is free of races.
    /// ESRCH: it has been reaped, or never was.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        Self::at_number(pid)
    }

    /// Whoever has the number `pid` now; the caller checks afterwards that it is whom it meant. ESRCH: nobody has it.
    #[cfg(target_os = "linux")]
    pub(super) fn at_number(pid: u32) -> io::Result<Self> {
        Self::from_pidfd(pid, pidfd::open(pid)?)
    }

    /// Whoever has the number `pid` now.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn at_number(pid: u32) -> io::Result<Self> {
        Self::by_number(pid)
    }

    /// The process that `fd` holds, whose number is `pid`. ESRCH: the number is not, or no longer, its own.
    #[cfg(target_os = "linux")]
    pub fn from_pidfd(pid: u32, fd: OwnedFd) -> io::Result<Self> {
        let id = identity::of_pidfd(pid, fd.as_fd())?;
        Ok(Self { id, held: Held::Pidfd(Arc::new(fd)) })
    }

    /// The process `id`, of which somebody sent us a pidfd: works after the reap too, when /proc no longer knows the
    /// number. ESRCH: the pidfd is of another process, or of a reaped one on a kernel without handles.
    #[cfg(target_os = "linux")]
    pub fn known(id: ProcessId, fd: OwnedFd) -> io::Result<Self> {
        let same = match (id.handle, identity::handle_of(fd.as_fd())?) {
            (Some(told), Some(held)) => told == held,
            _ => identity::of_pidfd(id.pid, fd.as_fd())?.same(&id),
        };
        if same {
            Ok(Self { id, held: Held::Pidfd(Arc::new(fd)) })
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    }

    /// The process that has the number `pid` now, held by number: the portable form of [`Self::of_child`].
    pub fn by_number(pid: u32) -> io::Result<Self> {
        Ok(Self { id: portable::identify(pid)?, held: Held::Number })
    }

    /// Finds a process by its recorded identity, which the caller knows to be of this boot and pid namespace.
    ///
    /// With a pidfs handle the answer is exact, also where it may only be compared and not opened (a container without
    /// CAP_DAC_READ_SEARCH). Without one (before Linux 6.14) number and start time are compared, which is
    /// probabilistic: a number that was reused within the same 10 ms tick passes for the original.
    #[cfg(target_os = "linux")]
    pub fn find(id: &ProcessId) -> Found {
        let opened = match id.handle {
            Some(handle) => match open_by_handle(id, handle) {
                Err(error) if is_denied(&error) => open_by_number(id),
                opened => opened,
            },
            None => open_by_number(id),
        };
        let process = match opened {
            Ok(Some(process)) => process,
            Ok(None) => return Found::Gone,
            Err(error) => return Found::Unknown(format!("cannot open process {}: {error}", id.pid)),
        };
        match (process.is_reaped(), process.has_ended()) {
            (Some(true), _) => Found::Gone,
            (Some(false), Some(false)) => Found::Alive(process),
            (Some(false), Some(true)) => Found::Ended(process),
            (None, _) | (_, None) => Found::Unknown(format!("cannot poll process {}", id.pid)),
        }
    }

    /// Finds a process by its recorded identity.
    #[cfg(not(target_os = "linux"))]
    pub fn find(id: &ProcessId) -> Found {
        Self::find_portable(id)
    }

    /// The same for the portable backend: `Alive` may be a zombie or a reused number, `Gone` is certain.
    pub fn find_portable(id: &ProcessId) -> Found {
        let process = Self { id: *id, held: Held::Number };
        match portable::liveness(id) {
            Ok(Liveness::Alive) => Found::Alive(process),
            Ok(Liveness::Zombie) => Found::Ended(process),
            Ok(Liveness::Gone) => Found::Gone,
            Err(error) => Found::Unknown(format!("cannot ask for process {}: {error}", id.pid)),
        }
    }

    /// Its identity: valid within this boot and pid namespace.
    pub fn id(&self) -> &ProcessId {
        &self.id
    }

    /// Its number, for people and for /proc.
    pub fn pid(&self) -> u32 {
        self.id.pid
    }

    /// The descriptor that pins it; `None` in the portable form.
    #[cfg(target_os = "linux")]
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.held {
            Held::Pidfd(fd) => Some(fd.as_fd()),
            Held::Number => None,
        }
    }

    /// A share of the descriptor for a task that outlives this reference.
    #[cfg(target_os = "linux")]
    pub(super) fn share_pidfd(&self) -> Option<Arc<OwnedFd>> {
        match &self.held {
            Held::Pidfd(fd) => Some(Arc::clone(fd)),
            Held::Number => None,
        }
    }

    /// Whether it has ended, reaped or not; `None` when that could not be told. The portable form may say `false` of
    /// a process that has ended, never `true` of a living one.
    pub fn has_ended(&self) -> Option<bool> {
        match &self.held {
            #[cfg(target_os = "linux")]
            Held::Pidfd(fd) => {
                pidfd::shows(fd.as_fd(), PollFlags::IN | PollFlags::HUP, Timespec::default()).ok()
            }
            Held::Number => portable::liveness(&self.id).ok().map(|now| now != Liveness::Alive),
        }
    }

    /// Whether it was reaped, as far as its pidfd shows (POLLHUP). A handle goes on to open as long as anybody is in
    /// the session or the process group that the process led, so being able to open it proves nothing (measured).
    #[cfg(target_os = "linux")]
    fn is_reaped(&self) -> Option<bool> {
        match &self.held {
            Held::Pidfd(_) if without(Lack::ReapNotice) => Some(false),
            Held::Pidfd(fd) => pidfd::shows(fd.as_fd(), PollFlags::HUP, Timespec::default()).ok(),
            Held::Number => portable::liveness(&self.id).ok().map(|now| now == Liveness::Gone),
        }
    }

    /// Whether its number still names it in /proc, zombie or not: what was read there before this said `true` was
    /// about this process. The portable form compares start times.
    pub(super) fn owns_number(&self) -> io::Result<bool> {
        match &self.held {
            #[cfg(target_os = "linux")]
            Held::Pidfd(fd) => Ok(identity::pid_of(fd.as_fd())? == Some(self.id.pid)),
            Held::Number => Ok(portable::liveness(&self.id)? != Liveness::Gone),
        }
    }

    /// What it has used, and its session.
    pub fn activity(&self) -> io::Result<Activity> {
        let stat = proc_fs::stat(self.id.pid)?;
        if self.owns_number()? {
            let cpu = Duration::from_millis(stat.cpu_ticks.saturating_mul(10));
            Ok(Activity { cpu, session: stat.session })
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    }

    /// Sends signal `number`, 1 to 64 (pidfd_send_signal(2)). EPERM: it is another user's; EINVAL: no such signal.
    pub fn signal(&self, number: u8) -> io::Result<Sent> {
        if !(1..=64).contains(&number) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let result = match &self.held {
            #[cfg(target_os = "linux")]
            Held::Pidfd(fd) => pidfd::send(fd.as_fd(), number),
            Held::Number => portable::signal(&self.id, number),
        };
        match result {
            Ok(()) => Ok(Sent::Sent),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(Sent::Gone),
            Err(error) => Err(error),
        }
    }

    /// The status of the process once it was reaped, by whomever: PIDFD_GET_INFO, Linux 6.15. `None`: the kernel does
    /// not say (not reaped yet, too old, or the portable form).
    pub fn exit_status(&self) -> Option<WaitStatus> {
        match &self.held {
            #[cfg(target_os = "linux")]
            Held::Pidfd(fd) => pidfd::exit_info(fd.as_fd()).ok().flatten(),
            Held::Number => None,
        }
    }

    /// The status of the process while it is a zombie: field 52 of /proc/PID/stat. `None`: it is no zombie, or we may
    /// not see it. The kernel hides the field as 0, so 0 is believed only of a process that hides nothing from us.
    pub fn zombie_status(&self) -> Option<WaitStatus> {
        let stat = proc_fs::stat(self.id.pid).ok()?;
        let told = stat.is_zombie() && (stat.exit.0 != 0 || proc_fs::hides_nothing(self.id.pid));
        let ours = self.owns_number().ok()? && stat.start_ticks == self.id.start_ticks;
        (ours && told).then_some(stat.exit)
    }

    /// Reaps it if it is a zombie and ours to reap: a child, or an orphan that we adopted as subreaper (waitid(2)).
    /// `Ok(None)`: it runs, or its parent is somebody else.
    pub fn reap(&self) -> io::Result<Option<WaitStatus>> {
        match &self.held {
            #[cfg(target_os = "linux")]
            Held::Pidfd(fd) => {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                match waitid(WaitId::PidFd(fd.as_fd()), options) {
                    Ok(status) => Ok(status.as_ref().and_then(raw_status)),
                    Err(rustix::io::Errno::CHILD) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Held::Number => portable::reap(&self.id),
        }
    }
}

/// `None`: the handle is stale, so the process has been reaped. One that opens may have been reaped as well.
#[cfg(target_os = "linux")]
fn open_by_handle(id: &ProcessId, handle: PidHandle) -> io::Result<Option<ProcessRef>> {
    match identity::open_handle(handle) {
        Ok(fd) => Ok(Some(ProcessRef { id: *id, held: Held::Pidfd(Arc::new(fd)) })),
        // ESTALE is the rule; ESRCH is the answer when the reap happens during the call.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ESTALE | libc::ESRCH)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether handles may not be opened here, whoever they name.
#[cfg(target_os = "linux")]
fn is_denied(error: &io::Error) -> bool {
    const DENIED: [i32; 4] = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|errno| DENIED.contains(&errno))
}

/// `None`: nobody has the number, or another process: one of another handle, or that started at another time. All
/// prove that ours was reaped.
#[cfg(target_os = "linux")]
fn open_by_number(id: &ProcessId) -> io::Result<Option<ProcessRef>> {
    // ESRCH comes as well when the number changes hands under the call: then ours is gone either way.
    match ProcessRef::at_number(id.pid) {
        Ok(now) if now.id.same(id) => Ok(Some(now)),
        Ok(_another) => Ok(None),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(error) => Err(error),
    }
}

/// waitid(2) tells code and signal apart; wait(2) and everyone else pack them into one number.
#[cfg(target_os = "linux")]
fn raw_status(status: &WaitIdStatus) -> Option<WaitStatus> {
    /// "Has dumped core", the one bit between signal and code.
    const DUMPED: u32 = 0x80;

    if let Some(code) = status.exit_status() {
        return Some(WaitStatus((code.cast_unsigned() & 0xff) << 8));
    }
    let signal = status.terminating_signal()?.cast_unsigned();
    Some(WaitStatus(if status.dumped() { signal | DUMPED } else { signal }))
}
