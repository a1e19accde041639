//! A process and its first child under ptrace(2), to be killed at exactly one of their system calls.
#![expect(unsafe_code, reason = "ptrace(2) is in neither std nor rustix; no test but these needs it")]

use std::collections::HashMap;
use std::io;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use agentctl::sys::{ProcessRef, clock};
use rustix::process::{Pid, WaitOptions, wait};

use super::play::Gate;
use super::wait::PATIENCE;

const KILL: u8 = 9;
/// Whoever makes no system call for so long, having done what was to be done, waits in one.
const ASLEEP: Duration = Duration::from_millis(30);

/// Whom to kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Parent,
    Child,
    Both,
}

/// What became of a traced life.
#[derive(Debug, Default)]
pub(crate) struct Traced {
    /// System calls that came to their end since the program was executed: the child's own if that is to be killed, else
    /// of both together.
    pub(crate) calls: u32,
    /// The child was killed.
    pub(crate) child_killed: bool,
    /// The point was reached, or all of it was over before: from here on nothing is traced.
    killed: bool,
    /// All was over before the point was reached.
    pub(crate) whole: bool,
}

/// One traced pair. Everything happens on the thread that made it.
struct Pair {
    parent: Pid,
    program: PathBuf,
    /// The parent has become it.
    has_begun: bool,
    child: Option<Pid>,
    /// The child was made, and has not been heard of.
    is_to_come: bool,
    traced: Vec<Pid>,
    inside: HashMap<Pid, bool>,
    done: Traced,
}

/// Runs `program` with `arguments` until its child has executed a program of its own and `over` says so, or, at the end
/// of its system call number `point` (of the child's, if that is the victim), kills. Whoever is left lives on, untraced.
/// `None`: this host traces nobody.
pub(crate) fn killed_at(
    gate: Gate,
    program: &str,
    arguments: &[&str],
    victim: Victim,
    point: u32,
    over: impl Fn() -> bool,
) -> Option<(Traced, Child)> {
    let script = format!("{}; exec \"$0\" \"$@\"", gate.wait());
    let mut command = Command::new("sh");
    command.args(["-c", &script, program]).args(arguments);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("sh starts");
    let parent = Pid::from_child(&child);
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_EXITKILL;
    if ptrace(libc::PTRACE_SEIZE, parent, options).is_err() {
        child.kill().and_then(|()| child.wait()).expect("our own child");
        return None;
    }
    gate.open();
    let mut pair = Pair {
        parent,
        child: None,
        program: std::fs::canonicalize(program).expect("a program"),
        has_begun: false,
        is_to_come: false,
        traced: vec![parent],
        inside: HashMap::new(),
        done: Traced::default(),
    };
    let begun = clock::now().mono;
    let mut last_news = begun;
    // Of this thread only: other tests wait for children of their own. And of any process group: both leave ours.
    let news = libc::__WALL | libc::__WNOTHREAD | libc::WNOHANG;
    let news = WaitOptions::from_bits_retain(news.cast_unsigned());
    while pair.is_to_come || !pair.traced.is_empty() {
        match wait(news) {
            Ok(None) => {
                let idle = clock::now().mono.since(last_news) > ASLEEP;
                if idle && !pair.done.killed && over() {
                    // It waits for something to happen: nothing is left to be tried.
                    ptrace(libc::PTRACE_INTERRUPT, parent, 0).expect("a living parent");
                    (pair.done.killed, pair.done.whole) = (true, true);
                }
                std::thread::yield_now();
            }
            Ok(Some((pid, status))) => {
                pair.take(pid, status.as_raw(), victim, point);
                last_news = clock::now().mono;
            }
            Err(error) => panic!("wait for a traced process: {error}"),
        }
        assert!(clock::now().mono.since(begun) < PATIENCE, "a traced launch hangs: {:?}", pair.done);
    }
    assert!(pair.done.killed, "it ended before its time: {:?}", pair.done);
    Some((pair.done, child))
}

impl Pair {
    /// One wait status of ptrace(2): an end, or a stop with its signal in the second byte and its event in the third.
    fn take(&mut self, pid: Pid, status: i32, victim: Victim, point: u32) {
        const SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80;

        if status & 0xff != 0x7f {
            self.forget(pid);
            return;
        }
        if !self.traced.contains(&pid) {
            self.child.get_or_insert(pid);
            self.is_to_come = false;
            self.traced.push(pid);
        }
        match (status >> 8 & 0xff, status >> 16) {
            (SYSTEM_CALL, _) => {
                let inside = self.inside.entry(pid).or_default();
                *inside = !*inside;
                let ended = !*inside;
                let counts = self.has_begun && (victim != Victim::Child || Some(pid) == self.child);
                if ended && counts && !self.done.killed {
                    self.done.calls += 1;
                    if self.done.calls == point {
                        self.kill(victim);
                    }
                }
                self.go_on(pid, 0);
            }
            (signal, 0) => self.go_on(pid, signal),
            (_, libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE) => {
                // Its own first stop may have come before this news.
                self.is_to_come = self.child.is_none();
                self.go_on(pid, 0);
            }
            (_, libc::PTRACE_EVENT_EXEC) if Some(pid) == self.child => {
                // It has become what it was to be.
                self.forget(pid);
                let _killed_meanwhile = ptrace(libc::PTRACE_DETACH, pid, 0);
            }
            (_, libc::PTRACE_EVENT_EXEC) => {
                // Those of the shell that waits for the gate do not count; execve(2) itself is yet to return.
                let exe = std::fs::read_link(format!("/proc/{}/exe", pid.as_raw_pid()));
                self.has_begun = exe.is_ok_and(|exe| exe == self.program);
                self.inside.insert(pid, true);
                self.go_on(pid, 0);
            }
            (_, _stop_of_another_kind) => self.go_on(pid, 0),
        }
    }

    fn kill(&mut self, victim: Victim) {
        self.done.killed = true;
        if victim != Victim::Parent
            && let Some(child) = self.child.filter(|child| self.traced.contains(child))
        {
            self.done.child_killed = signalled(child);
        }
        if victim != Victim::Child {
            signalled(self.parent);
        }
    }

    /// To the next system call; after the killing, alone.
    fn go_on(&mut self, pid: Pid, signal: i32) {
        let gone = if self.done.killed {
            self.forget(pid);
            ptrace(libc::PTRACE_DETACH, pid, signal)
        } else {
            ptrace(libc::PTRACE_SYSCALL, pid, signal)
        };
        if let Err(error) = gone
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            panic!("let a traced process go on: {error}");
        }
    }

    fn forget(&mut self, pid: Pid) {
        self.traced.retain(|traced| *traced != pid);
    }
}

fn signalled(pid: Pid) -> bool {
    let process = ProcessRef::of_child(pid.as_raw_pid().cast_unsigned());
    let sent = process.and_then(|process| process.signal(KILL));
    if let Err(error) = &sent {
        let _nobody = writeln!(io::stderr(), "kill {pid:?}: {error}");
    }
    sent.is_ok()
}

/// A request whose argument is a number.
fn ptrace(request: libc::c_uint, pid: Pid, argument: i32) -> io::Result<()> {
    let address: *mut libc::c_void = std::ptr::null_mut();
    // SAFETY: of the requests made here the kernel reads the numbers alone, and no memory of ours.
    let result = unsafe { libc::ptrace(request, pid.as_raw_pid(), address, libc::c_long::from(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
