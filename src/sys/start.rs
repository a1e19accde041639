//! Choosing a backend and building its runtime.
//!
//! Owns the order of preference and the words in which a refusal is explained. Refuses to fall back from what was
//! asked for by name; `auto` falls back from io_uring to epoll and, on Linux, no further. Fails with [`StartError`]
//! before anything has run.

use std::future::Future;
use std::io;
use std::rc::Rc;
use std::str::FromStr;
use std::{cell::RefCell, fmt};

#[cfg(target_os = "linux")]
use rustix::event::{EventfdFlags, eventfd};
use tokio::task::LocalSet;

#[cfg(target_os = "linux")]
use super::linux::{self, Poller};
#[cfg(target_os = "linux")]
use super::without::{self, UnknownLack};
use super::{Inner, Running, Sys};
use crate::core::vocab::HostId;

/// Which backend is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The best that the host allows: io_uring, else epoll; portable where there is no Linux.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
    /// A look once a second; what other systems get.
    Portable,
}

impl BackendChoice {
    /// All of them, for help texts and messages.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Uring, Self::Epoll, Self::Portable];

    /// As it is written in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Uring => "uring",
            Self::Epoll => "epoll",
            Self::Portable => "portable",
        }
    }
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a backend.
#[derive(Debug, thiserror::Error)]
#[error("no backend is called {0:?}: auto, uring, epoll or portable")]
pub struct UnknownBackend(String);

impl FromStr for BackendChoice {
    type Err = UnknownBackend;

    fn from_str(text: &str) -> Result<Self, UnknownBackend> {
        Self::ALL
            .into_iter()
            .find(|choice| choice.name() == text)
            .ok_or_else(|| UnknownBackend(text.to_owned()))
    }
}

/// Which backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring.
    Uring,
    /// epoll.
    Epoll,
    /// A look once a second.
    Portable,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
            Self::Portable => "portable",
        })
    }
}

/// What was started, for `daemon status` and `doctor`.
#[derive(Clone, Debug)]
pub struct Started {
    /// The backend.
    pub backend: Backend,
    /// Why this one: "io_uring is available", or what was refused and by whom.
    pub why: String,
}

/// Why no backend could be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// io_uring was asked for by name, and the host refuses it.
    #[error("cannot use the uring backend: {why}; allow it, or choose backend auto or epoll")]
    UringRefused {
        /// The refusal, with the setting to change.
        why: String,
    },
    /// The backend does not exist on this system.
    #[error("backend {0} exists on Linux only")]
    LinuxOnly(BackendChoice),
    /// The runtime could not be built.
    #[error("cannot build the runtime of the {backend} backend")]
    Runtime {
        /// Whose runtime.
        backend: Backend,
        /// The error of the failed call.
        source: io::Error,
    },
    /// The testing aid was not understood.
    #[cfg(target_os = "linux")]
    #[error(transparent)]
    Without(#[from] UnknownLack),
    /// Without knowing the boot, nothing recorded about a process could ever be compared.
    #[error("cannot tell which boot of which host this is")]
    Host(#[source] io::Error),
}

/// Builds the runtime of the chosen backend, runs `main` on it and drops it with all its tasks.
pub fn run<T>(choice: BackendChoice, main: impl AsyncFnOnce(Sys) -> T) -> Result<T, StartError> {
    #[cfg(target_os = "linux")]
    without::check()?;
    let host = host_id().map_err(StartError::Host)?;
    match choice {
        BackendChoice::Portable => run_portable(host, "asked for".to_owned(), main),
        #[cfg(not(target_os = "linux"))]
        BackendChoice::Auto => run_portable(host, "the only one on this system".to_owned(), main),
        #[cfg(not(target_os = "linux"))]
        BackendChoice::Uring | BackendChoice::Epoll => Err(StartError::LinuxOnly(choice)),
        #[cfg(target_os = "linux")]
        BackendChoice::Epoll => run_epoll(host, "asked for".to_owned(), main),
        #[cfg(target_os = "linux")]
        BackendChoice::Auto | BackendChoice::Uring => match linux::uring::runtime() {
            Ok(runtime) => {
                let started = Started { backend: Backend::Uring, why: "io_uring is available".to_owned() };
                Ok(runtime.block_on(main(on_linux(started, host, Poller::Uring)?)))
            }
            Err(error) => match (choice, linux::uring::explain(&error)) {
                (BackendChoice::Uring, why) => Err(StartError::UringRefused { why }),
                (_, why) => run_epoll(host, format!("{why}; using epoll"), main),
            },
        },
    }
}

#[cfg(target_os = "linux")]
fn run_epoll<T>(host: HostId, why: String, main: impl AsyncFnOnce(Sys) -> T) -> Result<T, StartError> {
    let started = Started { backend: Backend::Epoll, why };
    let sys = on_linux(started, host, Poller::Epoll)?;
    on_tokio(Backend::Epoll, main(sys))
}

fn run_portable<T>(host: HostId, why: String, main: impl AsyncFnOnce(Sys) -> T) -> Result<T, StartError> {
    let started = Started { backend: Backend::Portable, why };
    let sys = Sys { inner: Rc::new(Inner { started, host, backend: Running::Portable }) };
    on_tokio(Backend::Portable, main(sys))
}

/// A single-threaded tokio runtime with timers and I/O.
fn on_tokio<T>(backend: Backend, main: impl Future<Output = T>) -> Result<T, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::Runtime { backend, source })?;
    Ok(LocalSet::new().block_on(&runtime, main))
}

#[cfg(target_os = "linux")]
fn on_linux(started: Started, host: HostId, poller: Poller) -> Result<Sys, StartError> {
    let pulse = eventfd(1, EventfdFlags::CLOEXEC)
        .map_err(|error| StartError::Runtime { backend: started.backend, source: error.into() })?;
    let backend = Running::Linux { poller, pulse: Rc::new(pulse), growth: RefCell::new(None) };
    Ok(Sys { inner: Rc::new(Inner { started, host, backend }) })
}

/// This boot of this machine, and our pid namespace.
#[cfg(target_os = "linux")]
pub fn host_id() -> io::Result<HostId> {
    super::identity::host_id()
}

/// Other systems have no boot id to read; made up, it would make processes of different boots look the same.
#[cfg(not(target_os = "linux"))]
pub fn host_id() -> io::Result<HostId> {
    Err(io::ErrorKind::Unsupported.into())
}
