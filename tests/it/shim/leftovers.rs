//! What becomes of the rest of the tree.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use agentctl::core::vocab::{GroupUsage, Leftovers, Usage, WaitStatus};
use agentctl::wire::session_dir::{Cause, FileError, ShimLock};
use inotify::{EventMask, Inotify, WatchMask};

use super::{Session, is_gone};
use crate::support::patience::in_order;

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
    in_order(Duration::from_secs(1), |grace| {
        // Not longer, whatever the order says.
        let grace = grace.min(Duration::from_secs(2));
        let grace_ms = u64::try_from(grace.as_millis()).expect("short");
        let mut shim = Session::gated(script).order(|order| order.grace_ms = grace_ms).start();
        shim.heard("up");
        shim.open("gate");
        let (exit, tree) = shim.finish();
        if tree.gone.mono_ns.since(exit.ended.mono_ns) >= grace {
            return None;
        }
        assert!(shim.log().contains("bye"));
        assert!(exit.leftovers >= Some(1));
        Some(())
    });
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
    let script =
        "setsid sh -c 'trap \"\" TERM; while :; do sleep 5 & echo up; (sleep 0.01); done' & read x <gate";
    let mut shim = Session::gated(script).order(|order| order.grace_ms = 50).start();
    // It is deaf, and has forked.
    shim.heard("up");
    shim.open("gate");
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
    // Who is born in it writes nothing to be moved there.
    let mut moved = Inotify::init().expect("inotify");
    moved.watches().add(group.join("cgroup.procs"), WatchMask::MODIFY).expect("a watch");
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
    // Every cgroup counts CPU time.
    let cpu = |usage: Usage| usage.group.and_then(|group| group.cpu_us);
    assert!(cpu(exit.usage) > Some(0) && cpu(tree.usage) >= cpu(exit.usage), "{exit:?} {tree:?}");
    assert!(!group.exists());
    let mut buffer = [0; 1_024];
    let told = match moved.read_events(&mut buffer) {
        Ok(events) => events.filter(|event| event.mask.contains(EventMask::MODIFY)).count(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            0
        }
    };
    assert_eq!(told, 0, "the leader was moved");
}

/// What the files of a cgroup say is told as it is read; the directory is none, so nothing else depends on the host.
#[test]
fn what_the_cgroup_counted_is_told_at_the_leaders_end_and_at_the_end_of_the_tree() {
    let fake = tempfile::tempdir().expect("a directory");
    let says = |name: &str, text: &str| fs::write(fake.path().join(name), text).expect("a file");
    says("memory.events", "oom 1\noom_kill 1\n");
    says("memory.peak", "4096\n");
    let path = fake.path().to_str().expect("a text").to_owned();
    // The group outlives its leader: what it counts until then is in the last word only.
    let script =
        format!("(trap '' HUP; read x <gate2; echo 8192 >{path}/memory.peak) & read x <gate; kill -9 $$");
    let session = Session::gated(&script)
        .gate("gate2")
        .order(|order| (order.cgroup, order.leftovers) = (Some(path), Leftovers::Keep));
    let mut shim = session.start();
    shim.open("gate");
    let exit = shim.exit();
    shim.open("gate2");
    let (_, tree) = shim.finish();
    let group = |memory_peak_bytes| Some(GroupUsage { cpu_us: None, memory_peak_bytes, oom_kills: Some(1) });
    assert_eq!((exit.status, exit.usage.group), (Some(WaitStatus::killed(9)), group(Some(4_096))));
    assert_eq!(tree.usage.group, group(Some(8_192)));
}
