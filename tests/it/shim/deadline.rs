//! The deadline without a daemon.

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use agentctl::core::vocab::{Leftovers, Mono};
use agentctl::wire::session_dir::{Cause, LaunchOrder};
use inotify::{Inotify, WatchMask};
use rustix::process::Signal;

use super::{Session, Shim, found, mono, until, write_deadline};
use crate::support::patience::in_order;

/// How long after the deadline such a shim acts.
const SOON: Duration = Duration::from_millis(300);

/// An order whose shim acts soon after the deadline.
fn soon(order: &mut LaunchOrder) {
    (order.grace_ms, order.late_ms) = (200, 100);
}

/// A shim that has read this deadline.
fn knowing(deadline: Mono, session: Session) -> Shim {
    let session = session.order(soon).deadline(Some(deadline));
    let mut readers = Inotify::init().expect("inotify");
    readers.watches().add(session.files.deadline_path(), WatchMask::CLOSE_NOWRITE).expect("a watch");
    let shim = session.start();
    let mut buffer = [0; 1_024];
    until("the deadline to be read", || match readers.read_events(&mut buffer) {
        Ok(mut events) => events.next().map(drop),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            None
        }
    });
    shim
}

/// Whether it is still too early for a shim to act on this deadline.
fn in_time(deadline: Mono) -> Option<()> {
    (mono() < deadline.after(SOON)).then_some(())
}

#[test]
fn an_overdue_run_is_ended_by_its_shim_alone() {
    let deadline = mono();
    let session = Session::script("exec sleep 60").order(soon).deadline(Some(deadline));
    let (exit, _) = session.start().finish();
    assert_eq!(exit.status.and_then(|status| status.signal()), Some(15));
    assert_eq!(exit.cause, Cause::Deadline);
    assert!(exit.ended.mono_ns >= deadline.after(SOON), "not before the daemon's time is over");
}

#[test]
fn an_overdue_tree_that_resists_is_killed_whatever_the_policy() {
    let script = "trap '' TERM; setsid sh -c 'echo up; read x <gate' & read x <gate";
    let session = Session::gated(script).order(soon).order(|order| order.leftovers = Leftovers::Keep);
    let mut shim = session.start();
    // Both resist from now on.
    shim.heard("up");
    write_deadline(shim.files(), Some(mono()));
    shim.signal(Signal::URG);
    let (exit, tree) = shim.finish();
    assert_eq!((exit.status.and_then(|status| status.signal()), exit.cause), (Some(9), Cause::Deadline));
    assert_eq!(tree.killed, 1);
}

#[test]
fn an_extended_deadline_is_heeded() {
    in_order(Duration::from_millis(500), |lead| {
        let first = mono().after(lead);
        let mut shim = knowing(first, Session::script("exec sleep 60"));
        let extended = first.after(Duration::from_millis(1_200));
        write_deadline(shim.files(), Some(extended));
        in_time(first)?;
        let (exit, _) = shim.finish();
        assert_eq!(exit.cause, Cause::Deadline);
        assert!(exit.ended.mono_ns >= extended.after(SOON));
        Some(())
    });
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
        in_order(Duration::from_millis(500), |lead| taken_back(lead, damage));
    }
}

fn taken_back(lead: Duration, damage: bool) -> Option<()> {
    let first = mono().after(lead);
    let mut shim = knowing(first, Session::gated("read x <gate; exit 8"));
    if damage {
        fs::write(shim.files().deadline_path(), "?").expect("damaged");
    } else {
        write_deadline(shim.files(), None);
    }
    in_time(first)?;
    // Long after it would have acted.
    let over = first.after(SOON * 3);
    until("time to pass", || (mono() >= over).then_some(()));
    assert_eq!(found(shim.files().read_exit()), None);
    shim.open("gate");
    let (exit, _) = shim.finish();
    assert_eq!((exit.status.and_then(|status| status.code()), exit.cause), (Some(8), Cause::Exit));
    Some(())
}
