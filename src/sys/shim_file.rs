//! The shim's program file, the starting of shims, and the three words that one says to the daemon.
//!
//! Owns the open file (so that an upgrade on disk never mixes versions) and the socket pair of each launch. Refuses to
//! know the launch protocol in the session's directory: that belongs to `wire`. A shim that cannot be started is an
//! error of that launch; a shim that says nothing has only lost us a shortcut, its files say the same.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketFlags,
    SocketType, recvmsg, socketpair,
};

use super::linux::pidfd;
use super::{ProcessRef, without};

/// The name of the program, beside ours.
const NAME: &str = "agentctl-shim";
/// The argument of a shim that is to wait for a word before it takes its launch.
const HELD: &str = "held";

/// Where the shim is looked for: beside the running program. Opened, to know that it can be.
pub fn beside_me() -> io::Result<std::path::PathBuf> {
    let path = std::env::current_exe()?.with_file_name(NAME);
    ShimProgram::open(&path).map(|_opened| path)
}

/// The shim's program, opened once when the daemon starts.
#[derive(Debug)]
pub struct ShimProgram {
    file: OwnedFd,
}

impl ShimProgram {
    /// Opens the shim that was installed with the running program. `NotFound`: there is none beside it.
    pub fn open_beside_me() -> io::Result<Self> {
        Self::open(&std::env::current_exe()?.with_file_name(NAME))
    }

    /// Opens the shim at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Readable, not O_PATH: a program that nobody may read can still be executed, but is not what we installed.
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { file })
    }

    /// Starts `agentctl-shim SESSION_DIR RUN` with an environment of our testing aid alone and, as its standard input, one end of a
    /// socket pair; the other end is ours. It is our child, and nobody waits for it but whoever holds the reference.
    ///
    /// An error does not prove that no shim runs (it may be one of opening its pidfd): whether the launch was taken is
    /// told by its file, which shim and daemon both have to rename.
    ///
    /// Blocks until the shim has been executed (milliseconds), so it is called from a blocking thread. Nothing here
    /// may make `Command` fork: with a daemon of 200 MB that took 91 ms instead of 0.3 (`pre_exec`, `uid`, `gid`).
    ///
    /// One that is `held` takes the launch only when it is told to ([`let_go`]) or our end of the socket is closed.
    pub fn spawn(&self, session_dir: &Path, run: u32, held: bool) -> io::Result<(ProcessRef, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = Command::new(self.as_path())
            .arg0(NAME)
            .arg(session_dir)
            .arg(run.to_string())
            .args(held.then_some(HELD))
            .env_clear()
            .env(without::VARIABLE, without::wanted())
            .stdin(theirs)
            .stdout(Stdio::null())
            .stderr(open_log(session_dir)?)
            .spawn()?;
        Ok((ProcessRef::of_child(child.id())?, ours))
    }

    /// The open file by a name: resolved in the child before its close-on-exec descriptors go.
    fn as_path(&self) -> OsString {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

/// What a shim complains about before it has anywhere else to write.
fn open_log(session_dir: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(session_dir.join("shim.log"))
}

/// Lets a held shim take its launch. One that is gone will tell by its end.
pub fn let_go(socket: BorrowedFd<'_>) {
    let _gone = rustix::net::send(socket, b"go", SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// What a shim says, in this order.
#[derive(Debug)]
pub enum ShimMessage {
    /// The leader exists and has not executed anything yet; its pidfd (see [`ProcessRef::known`]).
    Leader(OwnedFd),
    /// The leader has executed the agent.
    Running,
    /// The launch failed; the files say how.
    Failed,
    /// The shim closed its end: it is gone, or has nothing more to say.
    Closed,
}

/// The next word of the shim, waiting at most `timeout`. Blocks, so it is called from a blocking thread. `TimedOut`:
/// it said nothing; `InvalidData`: it said something that is no word of ours.
pub fn next_message(socket: BorrowedFd<'_>, timeout: Duration) -> io::Result<ShimMessage> {
    let timeout = Timespec::try_from(timeout).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    if !pidfd::shows(socket, PollFlags::IN | PollFlags::HUP, timeout)? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut text = [0; 16];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = match recvmsg(socket, &mut [IoSliceMut::new(&mut text)], &mut control, flags) {
        // The other end was closed with something of ours unread.
        Err(rustix::io::Errno::CONNRESET) => return Ok(ShimMessage::Closed),
        result => result?,
    };
    let descriptor = control.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message { descriptors.next() } else { None }
    });
    let whole = !received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    match (text.get(..received.bytes).unwrap_or_default(), descriptor) {
        (b"leader", Some(leader)) if whole => Ok(ShimMessage::Leader(leader)),
        (b"running", None) if whole => Ok(ShimMessage::Running),
        (b"failed", None) if whole => Ok(ShimMessage::Failed),
        (b"", None) => Ok(ShimMessage::Closed),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the shim said something unknown")),
    }
}
