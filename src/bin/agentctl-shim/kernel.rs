//! The system calls that neither std nor rustix offers: all the unsafe code of the shim.
//!
//! Owns no state and no policy. Everything here assumes that the shim has one thread.
#![expect(unsafe_code, reason = "fork, wait4, signals: raw libc calls, each with its reason")]

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;
use std::{io, mem, panic, ptr, slice};

use agentctl::core::vocab::{Mono, Now, Usage, WaitStatus, Wall};
use agentctl::wire::session_dir::DEADLINE_MOVED;
use rustix::process::Pid;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// The largest signal number of Linux.
const SIGNAL_MAX: c_int = 64;

/// What the shim sleeps for besides its alarms: the end of a child, news from the daemon, and something written where the
/// logs are.
const AWAITED: [c_int; 3] = [libc::SIGCHLD, DEADLINE_MOVED as c_int, libc::SIGIO];

/// Signals that keep their meaning in the shim: its own faults.
const FAULTS: [c_int; 7] =
    [libc::SIGILL, libc::SIGTRAP, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, libc::SIGSYS];

/// Where the C library hands over. Not by way of std, whose own beginning reads our memory map, looks at our descriptors and
/// makes a second stack to tell of overflows on: a dozen calls and a page, of each shim. Arguments come as they were given.
#[cfg_attr(test, expect(dead_code, reason = "tests have a main of their own"))]
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(count: c_int, arguments: *const *const c_char) -> c_int {
    // SAFETY: the C library hands over so many pointers, which stay for ever.
    let arguments = unsafe { slice::from_raw_parts(arguments, usize::try_from(count).unwrap_or(0)) };
    // SAFETY: each is a string of C, which stays for ever as well.
    let text = |argument: &*const c_char| unsafe { CStr::from_ptr(*argument) };
    let owned = |argument| OsStr::from_bytes(text(argument).to_bytes()).to_owned();
    let arguments: Vec<_> = arguments.iter().map(owned).collect();
    // A fault of ours has been told when it comes here; unwinding into C would add a core dump.
    let taken = panic::catch_unwind(|| crate::begin(&arguments)).unwrap_or(false);
    c_int::from(!taken)
}

/// Both clocks, now.
pub(crate) fn now() -> Now {
    let nanos = |time: Timespec| i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    let mono = nanos(clock_gettime(ClockId::Monotonic));
    let wall = nanos(clock_gettime(ClockId::Realtime)) / 1_000;
    Now { wall: Wall(i64::try_from(wall).unwrap_or(0)), mono: Mono(u64::try_from(mono).unwrap_or(0)) }
}

/// Opens what is missing of the standard three, which would be the numbers of files of ours, and closes whatever the parent
/// leaked to us beside them.
pub(crate) fn standard_descriptors_only() {
    // SAFETY: a string of C, and no memory of ours.
    while matches!(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) }, 0..=2) {}
    // SAFETY: called first of all, before this program has opened anything else, so nothing of ours is closed.
    // A failure (before Linux 5.9) leaves the leaks of a daemon that opens everything close-on-exec: none.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Makes standard input what `fd` is.
pub(crate) fn replace_stdin(fd: BorrowedFd<'_>) {
    // SAFETY: descriptor 0 stays open, which is all that std relies on. A failure leaves it as it was.
    unsafe { libc::dup2(fd.as_raw_fd(), libc::STDIN_FILENO) };
}

/// Makes the shim deaf to everything but KILL, STOP and its own faults: what is blocked stays pending and is never taken, but
/// for the awaited ones, by [`wait_for_signal`]. Not ignored each by itself: that would be one call for each signal.
pub(crate) fn block_signals() {
    let mut set = empty_signal_set();
    // SAFETY: `set` is initialised. libc's own two signals stay out of it, and nobody sends them to one thread.
    unsafe { libc::sigfillset(&raw mut set) };
    for fault in FAULTS {
        // SAFETY: `set` is initialised and these are signals.
        unsafe { libc::sigdelset(&raw mut set, fault) };
    }
    // SAFETY: `set` is initialised; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    // A daemon whose parent ignored SIGCHLD would otherwise make the kernel throw every wait status away, and one of the others
    // that is ignored would not wake us.
    for signal in AWAITED {
        // SAFETY: SIG_DFL runs no code of ours, and the signal is blocked.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Why a sleep was over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Woken {
    /// The daemon has written another deadline, or has said more to the agent.
    Told,
    /// A file beside the logs, or one of them, was written to.
    Written,
    /// A child has ended, time is over, or nothing has happened: the caller looks for itself.
    ToLook,
}

/// Sleeps until a child ends, the daemon tells something or a log is written to, or until `timeout` is over.
pub(crate) fn wait_for_signal(timeout: Option<Duration>) -> Woken {
    let set = awaited_signals();
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both pointers live through the call, a null timeout waits for ever, and no details are asked for.
    let signal = unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), timeout) };
    match signal {
        libc::SIGIO => Woken::Written,
        signal if signal == c_int::from(DEADLINE_MOVED) => Woken::Told,
        _ => Woken::ToLook,
    }
}

fn awaited_signals() -> libc::sigset_t {
    let mut set = empty_signal_set();
    for signal in AWAITED {
        // SAFETY: `set` is initialised and these are signals.
        unsafe { libc::sigaddset(&raw mut set, signal) };
    }
    set
}

fn empty_signal_set() -> libc::sigset_t {
    // SAFETY: a sigset_t is plain bits, and all of them zero is a valid, empty set.
    unsafe { mem::zeroed() }
}

/// Gives a future leader the signals of a fresh login: every disposition default, none blocked.
pub(crate) fn reset_signals() {
    // All zero is SIG_DFL without flags in every layout of the kernel's `struct sigaction`, which is at most
    // this large. Not through libc, which keeps 32 and 33 to itself.
    let default = [0_u64; 4];
    let mask_bytes = size_of::<u64>();
    for signal in 1..=SIGNAL_MAX {
        let old: *mut u64 = ptr::null_mut();
        // SAFETY: the kernel reads one `struct sigaction` from `default` and writes nothing. It refuses KILL and STOP.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, mask_bytes) };
    }
    let none = empty_signal_set();
    // SAFETY: `none` is initialised; the old mask is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The new process. It must end in exec or [`exit_child`].
    Child,
    /// The shim, and its child.
    Parent(Pid),
}

/// Forks.
pub(crate) fn fork() -> io::Result<Fork> {
    // SAFETY: the shim has one thread, so no lock can be held by a thread that the child lacks.
    side_of(i64::from(unsafe { libc::fork() }))
}

/// Forks a child that is born in a cgroup. One that moves there itself waits until every processor has passed through the
/// scheduler: 10 to 20 ms, of each launch. Fails before Linux 5.7, under sandboxes that deny clone3(2), and where the
/// directory is no cgroup or not ours to enter.
pub(crate) fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Fork> {
    // Not from libc, which has it in 32 bits.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    // `struct clone_args` up to its last field; zero is the absence of each.
    let mut args = [0_u64; 11];
    let (flags, exit_signal, group) = (0, 4, 10);
    args[flags] = CLONE_INTO_CGROUP;
    args[exit_signal] = u64::from(libc::SIGCHLD.unsigned_abs());
    args[group] = u64::from(cgroup.as_raw_fd().unsigned_abs());
    // SAFETY: as `fork`, whose memory and descriptors this shares in the same way: the stack is the parent's, copied. The C
    // library does not hear of the child, which asks it for no thread of its own before it executes or ends.
    side_of(unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) })
}

fn side_of(answer: i64) -> io::Result<Fork> {
    match i32::try_from(answer) {
        Ok(0) => Ok(Fork::Child),
        Ok(pid) if pid > 0 => Pid::from_raw(pid).map(Fork::Parent).ok_or_else(io::Error::last_os_error),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Ends a child that did not become the leader, without the cleaning up that is the shim's business.
pub(crate) fn exit_child() -> ! {
    // SAFETY: ends the process at once and returns to nobody.
    unsafe { libc::_exit(127) }
}

/// Ends a child that is not reaped yet, for the one case that there is no pidfd of it.
pub(crate) fn kill_unreaped(child: Pid) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the number is our own unreaped child's: it cannot be reused"
    )]
    // SAFETY: kill(2) takes two numbers.
    unsafe {
        libc::kill(child.as_raw_pid(), libc::SIGKILL)
    };
}

/// What wait(2) has to say.
pub(crate) enum Reap {
    /// A child was reaped.
    Ended {
        /// Which.
        pid: Pid,
        /// How it ended.
        status: WaitStatus,
        /// What it used, with the descendants that it waited for.
        usage: Usage,
    },
    /// There are children, and all are alive.
    Living,
    /// There is no child left.
    NoChildren,
}

/// Reaps one ended child, if there is one.
pub(crate) fn reap_any() -> Reap {
    wait(-1, libc::WNOHANG)
}

/// Waits for the end of one child.
pub(crate) fn reap(child: Pid) -> Reap {
    wait(child.as_raw_pid(), 0)
}

fn wait(pid: libc::pid_t, options: c_int) -> Reap {
    let mut status = 0;
    let mut usage = no_usage();
    loop {
        // SAFETY: both out-pointers live through the call.
        let reaped = unsafe { libc::wait4(pid, &raw mut status, options, &raw mut usage) };
        if let Some(pid) = Pid::from_raw(reaped.max(0)) {
            return Reap::Ended { pid, status: WaitStatus(status.cast_unsigned()), usage: usage_of(&usage) };
        }
        if reaped == 0 {
            return Reap::Living;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return Reap::NoChildren;
        }
    }
}

/// What all reaped descendants used together.
pub(crate) fn children_usage() -> Usage {
    let mut usage = no_usage();
    // SAFETY: the out-pointer lives through the call; on failure the zeros stay.
    unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    usage_of(&usage)
}

fn no_usage() -> libc::rusage {
    // SAFETY: an rusage is plain numbers, for which zero is a value.
    unsafe { mem::zeroed() }
}

fn usage_of(usage: &libc::rusage) -> Usage {
    let micros = |time: libc::timeval| time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_usec.unsigned_abs();
    Usage {
        cpu_us: micros(usage.ru_utime) + micros(usage.ru_stime),
        max_rss_bytes: usage.ru_maxrss.unsigned_abs() * 1_024,
        group: None,
    }
}

/// Gives the memory of what was dropped back to the kernel: the launch is over, and the shim will sleep for hours.
pub(crate) fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the allocator only gives up pages that hold nothing allocated.
    unsafe {
        libc::malloc_trim(0)
    };
}
