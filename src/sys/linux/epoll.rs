//! The one verb of the epoll backend: plain tokio, for hosts that refuse io_uring.
//!
//! Owns the registration of a descriptor for the length of one wait. Refuses to keep any: a descriptor that is closed
//! is never registered. Fails with the errno of epoll_ctl(2).
#![expect(unsafe_code, reason = "tokio wants a promise that a registered descriptor stays open")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tokio::io::unix::AsyncFd;

use super::Interest;

/// See [`super::Poller::ready`].
pub(super) async fn ready(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
    match register(fd, interest) {
        Ok(registered) => wait(&registered, interest).await,
        // Somebody waits for the same descriptor; an epoll instance takes each number once, so wait for a copy.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let copy = fd.try_clone_to_owned()?;
            wait(&register(copy.as_fd(), interest)?, interest).await
        }
        Err(error) => Err(error),
    }
}

fn register(fd: BorrowedFd<'_>, interest: Interest) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the borrow keeps the descriptor open for as long as the registration lives, and its number never changes.
    let registered = unsafe { AsyncFd::register_with_interest(fd, registration(interest)) };
    Ok(registered?)
}

/// Hang-ups are told whatever one registers for.
fn registration(interest: Interest) -> tokio::io::Interest {
    match interest {
        Interest::In | Interest::Hup => tokio::io::Interest::READABLE,
        Interest::Pri => tokio::io::Interest::PRIORITY,
    }
}

/// The registration is edge-triggered: what is ready at the start is told once, and then each change.
async fn wait(registered: &AsyncFd<BorrowedFd<'_>>, interest: Interest) -> io::Result<()> {
    loop {
        let mut notice = registered.ready(registration(interest)).await?;
        if interest.holds(*registered.get_ref())? {
            return Ok(());
        }
        notice.clear_ready();
    }
}
