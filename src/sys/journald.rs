//! The socket of the systemd journal.
//!
//! Owns the question whether we log there, and the sending of one datagram. Never waits: a journal that does not take
//! an entry loses it and the loss is counted. Supervision does not depend on it.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where journald listens.
const SOCKET: &str = "/run/systemd/journal/socket";
/// Names another socket, and says that it is to be used whatever standard error is.
const SOCKET_VARIABLE: &str = "AGENTCTL_JOURNAL_SOCKET";

/// A way into the journal.
#[derive(Debug)]
pub struct Journald {
    socket: UnixDatagram,
    lost: AtomicU64,
}

impl Journald {
    /// The journal that our standard error goes to: JOURNAL_STREAM names its device and inode (systemd.exec(5)).
    /// `None`: we log to a terminal or a file.
    pub fn find() -> Option<Self> {
        if let Some(path) = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()) {
            return Self::at(Path::new(&path)).ok();
        }
        let stream = std::env::var("JOURNAL_STREAM").ok()?;
        let ours = rustix::fs::fstat(io::stderr()).ok()?;
        if stream != format!("{}:{}", ours.st_dev, ours.st_ino) {
            return None;
        }
        Self::at(Path::new(SOCKET)).ok()
    }

    /// The journal that listens at `path`.
    pub fn at(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(path)?;
        Ok(Self { socket, lost: AtomicU64::new(0) })
    }

    /// Sends an entry, if the journal takes it at once. Whether it did.
    pub fn send(&self, datagram: &[u8]) -> bool {
        let sent = self.socket.send(datagram).is_ok();
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// How many entries were lost since the last time that this was asked.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}
