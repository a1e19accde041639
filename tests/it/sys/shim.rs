//! Starting the shim, and hearing what it says.

use std::fs;
use std::io::{ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use agentctl::sys::ProcessRef;
use agentctl::sys::shim_file::{ShimMessage, ShimProgram, next_message};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg,
    socketpair,
};

use super::{PATIENCE, Sleeper};
use crate::support::play::copied_program;

/// `cat`, under our shim's name, complains about its arguments and fails.
#[test]
fn a_shim_is_started_from_the_file_that_was_opened() {
    let home = tempfile::tempdir().expect("a directory");
    let installed = home.path().join("agentctl-shim");
    copied_program("/bin/cat", &installed);
    let program = ShimProgram::open(&installed).expect("opened");
    fs::remove_file(&installed).expect("upgraded");

    let (shim, socket) = program.spawn(home.path(), 7, false).expect("started");
    let closed = next_message(socket.as_fd(), PATIENCE).expect("heard");
    assert!(matches!(closed, ShimMessage::Closed), "{closed:?}");
    let status = std::iter::from_fn(|| Some(shim.reap().expect("our child"))).flatten().next();
    assert_eq!(status.and_then(|status| status.code()), Some(1));
    let log = fs::read_to_string(home.path().join("shim.log")).expect("a log");
    let expected = format!(
        "agentctl-shim: {}: Is a directory\nagentctl-shim: 7: No such file or directory\n",
        home.path().display()
    );
    assert_eq!(log, expected);
}

#[test]
fn a_missing_shim_is_an_error() {
    assert_eq!(
        ShimProgram::open(Path::new("/nonexistent")).expect_err("missing").kind(),
        ErrorKind::NotFound
    );
}

fn say(socket: &OwnedFd, word: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(descriptors.is_empty() || control.push(SendAncillaryMessage::ScmRights(descriptors)));
    sendmsg(socket, &[IoSlice::new(word)], &mut control, SendFlags::empty()).expect("said");
}

#[test]
fn the_words_of_a_shim_are_heard_in_order() {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a pair");
    let hear = |timeout| next_message(ours.as_fd(), timeout);
    assert_eq!(hear(Duration::ZERO).expect_err("silence").kind(), ErrorKind::TimedOut);

    let leader = Sleeper::start();
    let process = ProcessRef::of_child(leader.0.id()).expect("held");
    say(&theirs, b"leader", &[process.pidfd().expect("on Linux")]);
    say(&theirs, b"running", &[]);
    say(&theirs, b"failed", &[]);
    say(&theirs, b"leader", &[]);
    say(&theirs, b"something longer than any word", &[]);
    drop(theirs);

    let ShimMessage::Leader(pidfd) = hear(PATIENCE).expect("heard") else { panic!("the leader comes first") };
    assert_eq!(ProcessRef::known(*process.id(), pidfd).expect("the leader").pid(), leader.0.id());
    assert!(matches!(hear(PATIENCE).expect("heard"), ShimMessage::Running));
    assert!(matches!(hear(PATIENCE).expect("heard"), ShimMessage::Failed));
    assert_eq!(hear(PATIENCE).expect_err("a leader without a pidfd").kind(), ErrorKind::InvalidData);
    assert_eq!(hear(PATIENCE).expect_err("no word").kind(), ErrorKind::InvalidData);
    assert!(matches!(hear(PATIENCE).expect("heard"), ShimMessage::Closed));
}
