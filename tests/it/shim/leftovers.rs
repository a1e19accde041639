//! What becomes of the rest of the tree.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentctl::core::vocab::Leftovers;
use agentctl::wire::session_dir::{Cause, FileError, ShimLock};

use super::{Session, is_gone};

#[test]
fn leftovers_are_killed_wherever_they_hide() {
    // In its own session, deaf to TERM, adopted, and with a child of its own.
    let script = "setsid sh -c 'trap \"\" TERM; sh -c \"trap \\\"\\\" TERM; echo deep; read x <gate\" & \
                  echo up $$ end; wait' & read x <gate2; exit 3";
    let session = Session::gated(script).gate("gate2").order(|order| order.grace_ms = 100);
    let mut shim = session.start();
    shim.heard("deep");
    shim.heard("end");
    let log = shim.log();
    let pid: u32 =
        log.split("up ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a pid");
    shim.open("gate2");
    let (exit, tree) = shim.finish();
    assert_eq!(exit.status.and_then(|status| status.code()), Some(3));
    assert_eq!((exit.leftovers, tree.killed, exit.cause), (Some(2), 2, Cause::Exit));
    assert!(
        tree.gone.mono_ns.since(exit.ended.mono_ns) >= Duration::from_millis(100),
        "they had their grace"
    );
    assert!(is_gone(pid));
}

#[test]
fn leftovers_that_heed_term_are_not_killed() {
    let script = "setsid sh -c 'trap \"echo bye; exit\" TERM; echo up; while :; do sleep 0.05; done' & \
                  read x <gate";
    let mut shim = Session::gated(script).start();
    shim.heard("up");
    shim.open("gate");
    let (exit, tree) = shim.finish();
    assert!(shim.log().contains("bye"));
    assert!(exit.leftovers >= Some(1));
    assert!(tree.gone.mono_ns.since(exit.ended.mono_ns) < Duration::from_secs(2));
}

#[test]
fn a_daemonising_leader_with_keep_is_waited_for() {
    let session = Session::gated("setsid sh -c 'read x <gate; echo late' & echo up")
        .order(|order| order.leftovers = Leftovers::Keep);
    let mut shim = session.start();
    let exit = shim.exit();
    assert_eq!((exit.status.and_then(|status| status.code()), exit.leftovers), (Some(0), Some(1)));
    assert_eq!(shim.files().shim_lock().expect("asked"), ShimLock::Held);
    assert!(matches!(shim.files().read_tree(), Err(FileError::Missing { .. })));
    shim.open("gate");
    let (again, tree) = shim.finish();
    assert_eq!((again, tree.killed), (exit, 0));
    assert!(shim.log().contains("late"));
}

#[test]
fn a_tree_that_keeps_forking_is_ended() {
    let script = "setsid sh -c 'trap \"\" TERM; while :; do (trap \"\" TERM; sleep 0.2) & (sleep 0.01); done' & \
                  echo up; sleep 0.3; exit 0";
    let mut shim = Session::script(script).order(|order| order.grace_ms = 50).start();
    let (_, tree) = shim.finish();
    assert!(tree.killed > 1, "{tree:?}");
}

#[test]
fn the_cgroup_of_the_session_is_entered_and_removed() {
    // Needs a writable cgroup v2 somewhere.
    let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(Path::new)
        .into_iter()
        .find(|root| root.join("cgroup.procs").exists() && root.join("cgroup.controllers").exists());
    let group = root.map(|root| root.join(format!("agentctl-test-{}", uuid::Uuid::new_v4())));
    let Some(group) = group.filter(|group| fs::create_dir(group).is_ok()) else { return };
    let path = group.to_str().expect("a text").to_owned();
    let script = "cat /proc/self/cgroup; (trap '' TERM; echo up; read x <gate2) & read x <gate";
    let session =
        Session::gated(script).gate("gate2").order(|order| (order.cgroup, order.grace_ms) = (Some(path), 50));
    let mut shim = session.start();
    shim.heard("up");
    shim.open("gate");
    let (exit, tree) = shim.finish();
    let name = group.file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(shim.log().contains(&format!("0::/{name}")), "{}", shim.log());
    assert_eq!((exit.leftovers, tree.killed), (Some(1), 1));
    assert!(!group.exists());
}
