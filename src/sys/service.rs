//! The service manager (systemd, or whatever speaks its protocol): what it hands over, and what it wants to hear.
//!
//! Owns the words of sd_notify(3) and the sockets of sd_listen_fds(3). Refuses to know when they are said. A manager
//! that cannot be told is a warning: supervision does not depend on it.
#![expect(unsafe_code, reason = "an inherited descriptor is taken over once")]

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::{AddressFamily, sockopt};
use sd_notify::NotifyState;

use super::clock;

/// A service manager that started us and listens.
#[derive(Debug)]
pub struct ServiceManager {
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// `None`: a person or a command started us (NOTIFY_SOCKET is not set).
    pub fn find() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        Some(Self { watchdog: sd_notify::watchdog_enabled() })
    }

    /// Requests are answered.
    pub fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// The configuration is being read again; ends with [`Self::ready`].
    pub fn reloading(&self) {
        let since = i128::from(clock::now().mono.0 / 1_000);
        tell(&[NotifyState::Reloading, NotifyState::MonotonicUsec(since)]);
    }

    /// We are about to end, on purpose.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("stopping; sessions live on")]);
    }

    /// How often [`Self::alive`] must be said: half of what the manager allows. `None`: it does not watch.
    pub fn ping_every(&self) -> Option<Duration> {
        self.watchdog.map(|allowed| allowed / 2)
    }

    /// The loop turns, and the ring with it.
    pub fn alive(&self, status: &str) {
        tell(&[NotifyState::Watchdog, NotifyState::Status(status)]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("tell the service manager: {error}");
    }
}

/// Whether the manager listens at our socket already: whoever connects there speaks to nobody but us.
pub fn passes_sockets() -> bool {
    std::env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string())
}

/// The socket that the manager listens at in our place: the first that is a Unix stream socket. Later calls have none.
pub fn inherited_listener() -> io::Result<Option<UnixListener>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    let mut found = None;
    for fd in sd_notify::listen_fds()? {
        // SAFETY: the manager passed this descriptor to this process (LISTEN_PID), nobody else here knows of it, and
        // the swap above lets each be taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let is_ours = sockopt::socket_domain(fd.as_fd())? == AddressFamily::UNIX
            && sockopt::socket_acceptconn(fd.as_fd())?;
        if is_ours && found.is_none() {
            found = Some(UnixListener::from(fd));
        } else {
            tracing::warn!("the service manager passed a descriptor that is not used: {fd:?}");
        }
    }
    Ok(found)
}
