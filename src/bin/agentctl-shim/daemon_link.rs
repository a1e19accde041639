//! The socket to the daemon that started us, on standard input: it makes a launch faster to notice, nothing else.
//!
//! The daemon may be deaf, dead or another kind of file, so every send may fail and no failure matters. Refuses to
//! receive anything but that it may begin: the shim takes orders from files only.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use agentctl::wire::session_dir::ShimMessage;
use rustix::fs::{Mode, OFlags, open};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::stdio::stdin;

use crate::kernel;

/// Waits until the daemon has found us a place to live, or is gone; then the launch order, if there is one, is ours to
/// take all the same.
pub(crate) fn wait_for_word() {
    let _ = rustix::io::retry_on_intr(|| rustix::net::recv(stdin(), &mut [0; 8], RecvFlags::empty()));
}

/// Tells the daemon.
pub(crate) fn send(message: ShimMessage) {
    send_with(message, &[]);
}

/// Tells the daemon, and hands it a pidfd.
pub(crate) fn send_pidfd(message: ShimMessage, pidfd: BorrowedFd<'_>) {
    send_with(message, &[pidfd]);
}

fn send_with(message: ShimMessage, fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return;
    }
    let packet = [IoSlice::new(message.as_bytes())];
    let _ = sendmsg(stdin(), &packet, &mut ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Hangs up, so that the daemon holds nothing for a run that is under way.
pub(crate) fn close() {
    if let Ok(null) = open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        kernel::replace_stdin(null.as_fd());
    }
}
