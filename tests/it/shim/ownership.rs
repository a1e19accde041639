//! Who owns a run, who lives, and who the leader is.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use agentctl::sys::identity;
use agentctl::wire::session_dir::{FileError, ShimLock, ShimMessage};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use super::{Session, Shim, found, is_gone, mono, until};
use crate::support::patience::in_order;

#[test]
fn an_abandoned_launch_starts_nothing() {
    let session = Session::script("echo ran").write();
    assert!(session.files.abandon().expect("asked"));
    let child = session.command().spawn().expect("the shim starts");
    let mut shim = Shim { session, child };
    assert_eq!(shim.wait().code(), Some(0));
    assert!(!shim.files().dir().join("stdout.log").exists());
    assert_eq!(shim.files().shim_lock().expect("asked"), ShimLock::NoFile);
    assert!(matches!(shim.files().read_exit(), Err(FileError::Missing { .. })));
}

#[test]
fn shim_and_daemon_never_both_get_a_launch() {
    // Spread over more than the time that a shim takes to come this far.
    in_order(2 * time_to_claim(), |spread| {
        let claims = (0..ROUNDS).filter(|round| is_claimed_before(spread * *round / ROUNDS)).count();
        // Else one side has won every race.
        (1..ROUNDS as usize).contains(&claims).then_some(())
    });
}

const ROUNDS: u32 = 50;

/// How long a shim takes to claim a launch that nobody else wants.
fn time_to_claim() -> Duration {
    let session = Session::script("echo ran").write();
    let child = session.command().spawn().expect("the shim starts");
    let start = mono();
    let mut shim = Shim { session, child };
    until("the claim", || found(shim.files().read_claimed()));
    let took = mono().since(start);
    assert_eq!(shim.wait().code(), Some(0));
    took
}

/// Whether the shim had claimed a launch that was abandoned so long after its start. One of both got it, never both.
#[track_caller]
fn is_claimed_before(abandoned_after: Duration) -> bool {
    let session = Session::script("echo ran").write();
    let child = session.command().spawn().expect("the shim starts");
    let start = mono();
    while mono().since(start) < abandoned_after {}
    let abandoned = session.files.abandon().expect("asked");
    let mut shim = Shim { session, child };
    assert_eq!(shim.wait().code(), Some(0));
    let ran = fs::read(shim.files().dir().join("stdout.log")).is_ok();
    assert_ne!(abandoned, ran);
    assert_ne!(abandoned, shim.files().read_exit().is_ok());
    ran
}

#[test]
fn a_second_shim_leaves_the_run_alone() {
    let mut shim = Session::gated("echo ran; read x <gate").start();
    shim.heard("ran");
    shim.session.files.write_launch(&shim.session.order).expect("the order again");
    let mut second = shim.session.command().spawn().expect("the shim starts");
    assert_eq!(second.wait().expect("our child").code(), Some(0));
    assert_eq!(shim.files().shim_lock().expect("asked"), ShimLock::Held);
    shim.open("gate");
    shim.finish();
    assert_eq!(shim.log(), "ran\n");
}

#[test]
fn the_lock_is_held_while_the_shim_lives() {
    let mut shim = Session::gated("echo ran; read x <gate").start();
    shim.heard("ran");
    assert_eq!(shim.files().shim_lock().expect("asked"), ShimLock::Held);
    let identity = shim.files().read_shim().expect("an identity");
    assert_eq!(identity.process.pid, shim.child.id());
    assert_eq!(identity.process.start_ticks, identity::start_ticks(shim.child.id()).expect("start time"));
    let comm = fs::read_to_string(format!("/proc/{}/comm", shim.child.id())).expect("a name");
    assert_eq!(comm, "agentctl-shim\n");

    shim.child.kill().expect("killed");
    shim.wait();
    assert_eq!(shim.files().shim_lock().expect("asked"), ShimLock::Free);
    let leader = shim.files().read_leader().expect("an identity");
    assert!(!is_gone(leader.process.pid), "the leader lives on without its shim");
}

#[test]
fn a_shim_is_deaf() {
    let mut shim = Session::gated("echo ran; read x <gate; exit 4").start();
    shim.heard("ran");
    let deaf =
        [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT, Signal::PIPE, Signal::USR1, Signal::USR2];
    for signal in
        deaf.into_iter().chain([Signal::ALARM, Signal::TSTP, Signal::IO, Signal::CHILD, Signal::XCPU])
    {
        shim.signal(signal);
    }
    shim.open("gate");
    assert_eq!(shim.finish().0.status.and_then(|status| status.code()), Some(4));
}

#[test]
fn the_recorded_leader_is_the_real_one() {
    let mut shim = Session::gated("echo pid $$ end; read x <gate").start();
    shim.heard("end");
    let leader = shim.files().read_leader().expect("an identity");
    assert_eq!(leader.host, identity::host_id().expect("a host"));
    assert_eq!(shim.log(), format!("pid {} end\n", leader.process.pid));
    let pid = Pid::from_raw(leader.process.pid.cast_signed()).expect("a number");
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("alive");
    assert_eq!(identity::of_pidfd(leader.process.pid, pidfd.as_fd()).expect("alive"), leader.process);
    // Session leaders both, each of its own session.
    let session = |pid| rustix::process::getsid(Some(pid)).expect("alive");
    assert_eq!(session(pid), pid);
    assert_eq!(session(Pid::from_child(&shim.child)), Pid::from_child(&shim.child));
    shim.open("gate");
    let (exit, _) = shim.finish();
    assert_eq!((exit.leader, exit.host), (Some(leader.process), leader.host));
}

/// One packet, and the descriptor that came with it; an empty packet is the end.
fn receive(socket: &OwnedFd) -> (Option<ShimMessage>, Option<OwnedFd>) {
    let mut packet = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut packet)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC).expect("a packet");
    let fd = ancillary.drain().find_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message { fds.next() } else { None }
    });
    (ShimMessage::parse(&packet[..received.bytes]), fd)
}

fn start_with_socket(session: Session) -> (Shim, OwnedFd) {
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("a socket");
    let session = session.write();
    let child = session.command().stdin(theirs).spawn().expect("the shim starts");
    (Shim { session, child }, ours)
}

#[test]
fn a_listening_daemon_gets_the_leader_then_the_news_then_the_end() {
    let (mut shim, socket) = start_with_socket(Session::gated("read x <gate"));
    let (message, pidfd) = receive(&socket);
    assert_eq!(message, Some(ShimMessage::Leader));
    let pidfd = pidfd.expect("the leader's pidfd");
    let leader = shim.files().read_leader().expect("written before it was sent");
    assert_eq!(identity::of_pidfd(leader.process.pid, pidfd.as_fd()).expect("alive"), leader.process);
    assert_eq!(receive(&socket).0, Some(ShimMessage::Running));
    assert!(matches!(receive(&socket), (None, None)), "the shim has hung up");
    shim.open("gate");
    shim.finish();
}

#[test]
fn a_listening_daemon_hears_of_a_failure_after_the_exit_file() {
    let (mut shim, socket) = start_with_socket(Session::new(&["no-such-program"]));
    assert_eq!(receive(&socket).0, Some(ShimMessage::Leader));
    assert_eq!(receive(&socket).0, Some(ShimMessage::Failed));
    assert!(shim.files().read_exit().is_ok());
    assert_eq!(receive(&socket).0, None);
    shim.finish();
}

#[test]
fn a_dead_daemon_does_not_matter() {
    let (mut shim, socket) = start_with_socket(Session::script("exit 6"));
    drop(socket);
    assert_eq!(shim.finish().0.status.and_then(|status| status.code()), Some(6));
}
