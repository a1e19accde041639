//! Programs that are run to their end for an answer: bounded in time and in what they may say.
//!
//! Owns the pipes and the end of what takes too long, with all that it started. Refuses to know what is run. Never a part of
//! a session: those have a shim.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thiserror::Error;

use super::tree::{self, Tree};
use super::{ProcessRef, clock};

/// One read of a pipe.
const CHUNK_BYTES: usize = 64 << 10;
/// What is killed needs so long at most to be gone.
const GONE_MAX: Duration = Duration::from_secs(5);

/// What a program came to that ended by itself.
#[derive(Debug)]
pub struct Ran {
    pub success: bool,
    /// Its exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ToolError {
    #[error("it could not be started: {0}")]
    Start(io::Error),
    #[error("it did not end within {} s", .0.as_secs())]
    TimedOut(Duration),
    #[error("it said more than {0} bytes")]
    TooMuch(usize),
    #[error("what it said could not be read: {0}")]
    Read(io::Error),
    #[error("it was ended, since nobody waits for it any more")]
    Unwanted,
}

/// Ends, when it is dropped, the programs that were run on it; none is begun after that.
#[derive(Debug)]
pub struct Leash {
    ours: PipeReader,
    _held: PipeWriter,
}

impl Leash {
    pub fn new() -> io::Result<Self> {
        let (ours, held) = io::pipe()?;
        Ok(Self { ours, _held: held })
    }

    /// For a thread that runs programs.
    pub fn end(&self) -> io::Result<LeashEnd> {
        self.ours.try_clone().map(LeashEnd)
    }
}

/// Tells whether the [`Leash`] is still held.
#[derive(Debug)]
pub struct LeashEnd(PipeReader);

/// Runs a program to its end, without standard input. Blocks.
pub fn run(command: &mut Command, limit: Duration, bytes_max: usize) -> Result<Ran, ToolError> {
    carry_out(command.stdin(Stdio::null()), limit, bytes_max, None)
}

/// Runs a program to its end on a leash. With a standard input it has that open for as long as it lives, and with it a lock
/// on that file. Blocks.
pub fn run_on(
    leash: &LeashEnd,
    command: &mut Command,
    stdin: Option<File>,
    limit: Duration,
    bytes_max: usize,
) -> Result<Ran, ToolError> {
    let stdin = stdin.map_or_else(Stdio::null, Stdio::from);
    carry_out(command.stdin(stdin), limit, bytes_max, Some(leash))
}

fn carry_out(
    command: &mut Command,
    limit: Duration,
    bytes_max: usize,
    leash: Option<&LeashEnd>,
) -> Result<Ran, ToolError> {
    if leash.is_some_and(|leash| leash.is_let_go_within(Duration::ZERO)) {
        return Err(ToolError::Unwanted);
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    // What it has as standard input is its own from here on.
    command.stdin(Stdio::null());
    let mut child = child.map_err(ToolError::Start)?;
    let heard = hear(&mut child, limit, bytes_max, leash);
    if heard.is_err() {
        end(&mut child);
    }
    let status = child.wait().map_err(ToolError::Read)?;
    let [stdout, stderr] = heard?;
    Ok(Ran { success: status.success(), code: status.code(), stdout, stderr })
}

impl LeashEnd {
    /// Whether it is let go, or is within this time. Blocks.
    pub fn is_let_go_within(&self, time: Duration) -> bool {
        let time = Timespec::try_from(time).unwrap_or_default();
        poll(&mut [self.wait()], Some(&time)).is_ok_and(|ready| ready > 0)
    }

    /// Ready once it was let go: nobody ever writes.
    fn wait(&self) -> PollFd<'_> {
        PollFd::new(&self.0, PollFlags::IN)
    }
}

/// Both streams, until they are closed or the program has ended: what it leaves behind may hold them open.
fn hear(
    child: &mut Child,
    limit: Duration,
    bytes_max: usize,
    leash: Option<&LeashEnd>,
) -> Result<[Vec<u8>; 2], ToolError> {
    let until = clock::now().mono.after(limit);
    // Without one (a sandbox) the ends of the streams must do.
    let process = ProcessRef::of_child(child.id()).ok();
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(ToolError::Read(io::ErrorKind::BrokenPipe.into()));
    };
    let mut heard = [Vec::new(), Vec::new()];
    let mut open = [true, true];
    while open != [false, false] {
        let ended = process.as_ref().is_some_and(|process| process.has_ended() == Some(true));
        let left = if ended { Duration::ZERO } else { until.since(clock::now().mono) };
        let mut waits: Vec<PollFd<'_>> = Vec::new();
        for (at, stream) in [stdout.as_fd(), stderr.as_fd()].into_iter().enumerate() {
            if open[at] {
                waits.push(PollFd::from_borrowed_fd(stream, PollFlags::IN));
            }
        }
        let streams = waits.len();
        if let Some(pidfd) = process.as_ref().filter(|_| !ended).and_then(ProcessRef::pidfd) {
            waits.push(PollFd::from_borrowed_fd(pidfd, PollFlags::IN));
        }
        waits.extend(leash.map(LeashEnd::wait));
        let timeout = Timespec::try_from(left).map_err(|_| ToolError::TimedOut(limit))?;
        let count = match poll(&mut waits, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled.map_err(|error| ToolError::Read(error.into()))?,
        };
        if count == 0 {
            if ended {
                break;
            }
            return Err(ToolError::TimedOut(limit));
        }
        if leash.is_some() && waits.last().is_some_and(|wait| !wait.revents().is_empty()) {
            return Err(ToolError::Unwanted);
        }
        let ready: Vec<bool> = waits[..streams].iter().map(|wait| !wait.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        for at in 0..2 {
            if open[at] && ready.next() == Some(true) {
                let stream: &mut dyn Read = if at == 0 { &mut stdout } else { &mut stderr };
                open[at] = read_some(stream, &mut heard[at]).map_err(ToolError::Read)?;
            }
            if heard[at].len() > bytes_max {
                return Err(ToolError::TooMuch(bytes_max));
            }
        }
    }
    // It has closed its streams and may live on; its end is what counts.
    if let Some(pidfd) = process.as_ref().and_then(ProcessRef::pidfd) {
        let timeout = Timespec::try_from(until.since(clock::now().mono)).ok();
        let mut waits = vec![PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
        waits.extend(leash.map(LeashEnd::wait));
        match poll(&mut waits, timeout.as_ref()) {
            Ok(0) => return Err(ToolError::TimedOut(limit)),
            Ok(_) if waits[0].revents().is_empty() => return Err(ToolError::Unwanted),
            // Its end is waited for in any case.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(heard)
}

/// False at the end of the stream.
fn read_some(stream: &mut dyn Read, to: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = vec![0; CHUNK_BYTES];
    match stream.read(&mut chunk) {
        Ok(0) => Ok(false),
        Ok(count) => {
            to.extend_from_slice(&chunk[..count]);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(true),
        Err(error) => Err(error),
    }
}

/// Kills it with all that it started, as far as that can be told.
fn end(child: &mut Child) {
    let Ok(process) = ProcessRef::of_child(child.id()) else {
        let _gone = child.kill();
        return;
    };
    let members = match tree::descendants(&process) {
        Tree::Known(members) => members,
        Tree::Unknown(_) => Vec::new(),
    };
    let _gone = process.signal(9);
    for member in &members {
        let _gone = member.signal(9);
    }
    // Ours to reap, where we adopt orphans.
    let until = clock::now().mono.after(GONE_MAX);
    for member in &members {
        while clock::now().mono < until
            && matches!(member.reap(), Ok(None))
            && member.has_ended() == Some(false)
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let _not_ours = member.reap();
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_on_a_leash_ends_when_that_is_let_go_and_none_is_begun_after_it() {
        let leash = Leash::new().expect("a leash");
        let end = leash.end().expect("its end");
        let bounds = (Duration::from_secs(60), 1_000);
        let ran = run_on(&end, &mut shell("echo well"), None, bounds.0, bounds.1).expect("it runs");
        assert_eq!(ran.stdout, b"well\n");
        let (mut alive, held) = io::pipe().expect("a pipe");
        let held = Some(File::from(OwnedFd::from(held)));
        let (begin, begun) = std::sync::mpsc::channel();
        let slow = std::thread::spawn(move || {
            begin.send(()).expect("somebody waits");
            run_on(&end, &mut shell("sleep 1000 & wait"), held, bounds.0, bounds.1)
        });
        begun.recv().expect("it begins");
        drop(leash);
        assert!(matches!(slow.join().expect("no panic"), Err(ToolError::Unwanted)));
        // All that had it open is gone, the child of the child too.
        assert_eq!(alive.read(&mut [0]).expect("an end"), 0);
    }
}
