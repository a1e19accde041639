//! The deadline without a daemon.

use std::fs;
use std::time::Duration;

use agentctl::core::vocab::Leftovers;
use agentctl::wire::session_dir::{Cause, LaunchOrder};

use rustix::process::Signal;

use super::{Session, mono, write_deadline};

/// An order whose shim acts soon after the deadline.
fn soon(order: &mut LaunchOrder) {
    (order.grace_ms, order.late_ms) = (200, 100);
}

#[test]
fn an_overdue_run_is_ended_by_its_shim_alone() {
    let deadline = mono();
    let session = Session::script("exec sleep 60").order(soon).deadline(Some(deadline));
    let (exit, _) = session.start().finish();
    assert_eq!(exit.status.and_then(|status| status.signal()), Some(15));
    assert_eq!(exit.cause, Cause::Deadline);
    assert!(
        exit.ended.mono_ns >= deadline.after(Duration::from_millis(300)),
        "not before the daemon's time is over"
    );
}

#[test]
fn an_overdue_tree_that_resists_is_killed_whatever_the_policy() {
    let script = "trap '' TERM; setsid sh -c 'echo up; read x <gate' & read x <gate";
    let session = Session::gated(script)
        .order(soon)
        .order(|order| order.leftovers = Leftovers::Keep)
        .deadline(Some(mono()));
    let mut shim = session.start();
    let (exit, tree) = shim.finish();
    assert_eq!((exit.status.and_then(|status| status.signal()), exit.cause), (Some(9), Cause::Deadline));
    assert_eq!(tree.killed, 1);
}

#[test]
fn an_extended_deadline_is_heeded() {
    let start = mono();
    let session = Session::script("echo up; exec sleep 60").order(soon).deadline(Some(start));
    let mut shim = session.start();
    let extended = start.after(Duration::from_millis(1_200));
    write_deadline(shim.files(), Some(extended));
    let (exit, _) = shim.finish();
    assert_eq!(exit.cause, Cause::Deadline);
    assert!(exit.ended.mono_ns >= extended.after(Duration::from_millis(300)));
}

#[test]
fn a_deadline_given_later_or_moved_closer_is_heeded_at_once() {
    let far = mono().after(Duration::from_secs(3_600));
    for first in [None, Some(far)] {
        let session = Session::script("echo up; exec sleep 60").order(soon).deadline(first);
        let mut shim = session.start();
        shim.heard("up");
        write_deadline(shim.files(), Some(mono()));
        shim.signal(Signal::URG);
        let (exit, _) = shim.finish();
        assert_eq!(exit.cause, Cause::Deadline, "first {first:?}");
    }
}

#[test]
fn a_deadline_taken_back_does_nothing() {
    for damage in [false, true] {
        let session = Session::script("sleep 1; exit 8").order(soon).deadline(Some(mono()));
        let mut shim = session.start();
        if damage {
            fs::write(shim.files().deadline_path(), "?").expect("damaged");
        } else {
            write_deadline(shim.files(), None);
        }
        let (exit, _) = shim.finish();
        assert_eq!((exit.status.and_then(|status| status.code()), exit.cause), (Some(8), Cause::Exit));
    }
}
