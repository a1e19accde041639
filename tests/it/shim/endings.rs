//! How the leader ended, exactly, also when many end at once.

use std::fs::File;
use std::io::Read as _;
use std::thread;
use std::time::Duration;

use agentctl::core::vocab::signal_name;
use agentctl::sys::identity;
use agentctl::wire::session_dir::{Cause, FileError};
use rustix::process::{Signal, pidfd_send_signal};

use super::{PATIENCE, Session, found, mono, until};

#[test]
fn exit_codes_arrive_exactly() {
    for code in [0, 1, 3, 42, 128, 143, 255] {
        let (exit, tree) = Session::script(&format!("exit {code}")).start().finish();
        assert_eq!(exit.status.and_then(|status| status.code()), Some(code));
        assert_eq!((exit.cause, exit.leftovers, exit.launch_error), (Cause::Exit, Some(0), None));
        assert!(exit.usage.max_rss_bytes > 100_000, "{:?}", exit.usage);
        assert!(tree.gone.mono_ns >= exit.ended.mono_ns && tree.killed == 0);
    }
}

#[test]
fn deaths_by_signal_arrive_exactly() {
    // Those left out stop, continue or do nothing.
    for number in (1..=31).filter(|number| ![17, 18, 19, 20, 21, 22, 23, 28].contains(number)) {
        let session = Session::script(&format!("ulimit -c 0; kill -{number} $$"));
        let (exit, _) = session.start().finish();
        assert_eq!(exit.status.and_then(|status| status.signal()), Some(number), "{}", signal_name(number));
    }
}

#[test]
fn a_stopped_leader_has_not_ended() {
    let mut shim = Session::gated("kill -STOP $$; echo continued; read x <gate; exit 9").start();
    let pid = until("the leader", || found(shim.files().read_leader())).process.pid;
    until("the stop", || identity::stat(pid).ok().filter(|stat| stat.state == b'T'));
    assert!(matches!(shim.files().read_exit(), Err(FileError::Missing { .. })));
    let leader = identity::open_handle(shim.leader_handle().expect("a handle")).expect("the leader");
    pidfd_send_signal(&leader, Signal::CONT).expect("a signal");
    shim.heard("continued");
    shim.open("gate");
    assert_eq!(shim.finish().0.status.and_then(|status| status.code()), Some(9));
}

#[test]
fn two_hundred_runs_at_once_keep_their_codes() {
    let mut shims: Vec<_> = (0..200_u32)
        .map(|number| Session::script(&format!("(sleep 0.05); exit {}", number % 256)).start())
        .collect();
    for (number, shim) in shims.iter_mut().enumerate() {
        let (exit, _) = shim.finish();
        assert_eq!(exit.status.and_then(|status| status.code()).map(usize::from), Some(number % 256));
    }
}

#[test]
fn a_waiting_shim_does_not_wake_up() {
    let mut shim =
        Session::gated("echo ran; read x <gate").deadline(Some(mono().after(PATIENCE * 100))).start();
    shim.heard("ran");
    let switches = || {
        let mut status = String::new();
        let path = format!("/proc/{}/status", shim.child.id());
        File::open(path).and_then(|mut file| file.read_to_string(&mut status)).expect("a status");
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).expect("a count");
        (status.contains("State:\tS"), line.to_owned())
    };
    let before = until("sleep", || Some(switches()).filter(|(asleep, _)| *asleep));
    // The one place where time itself is the condition: nothing may happen in it.
    thread::sleep(Duration::from_millis(1_500));
    assert_eq!(switches(), before);
    shim.open("gate");
    shim.finish();
}
