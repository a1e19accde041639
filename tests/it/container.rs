//! The daemon as the main process of a container (`packaging/oci`): PID 1 of its pid namespace, without io_uring and
//! without handles to be opened, as the default seccomp profile has it.

use std::process::Command;

use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::namespace::{Denied, skipped, under_seccomp};
use crate::support::play::{stderr, stdout};
use crate::support::wait::until;

const CONTAINER: [&str; 6] = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/// `None`, said aloud, where there can be no such daemon.
fn contained(test: &str) -> Option<Daemon> {
    let container = Command::new(CONTAINER[0]).args(&CONTAINER[1..]).arg("true").output();
    if !container.is_ok_and(|container| container.status.success()) {
        skipped(test, "this host gives no namespaces of one's own");
        return None;
    }
    let mut daemon = Daemon::new();
    daemon.kill();
    daemon.through(&CONTAINER);
    daemon.start();
    Some(daemon)
}

#[test]
fn the_main_process_of_a_container_keeps_its_promises_without_io_uring() {
    let test = "container::the_main_process_of_a_container_keeps_its_promises_without_io_uring";
    if !under_seccomp(test, &[Denied::IoUring, Denied::OpenByHandle]) {
        return;
    }
    let Some(daemon) = contained(test) else { return };
    let health = daemon.json(["daemon", "status", "--json"]);
    assert_eq!((&health["pid"], &health["backend"]), (&json!(1), &json!("epoll")), "{health:#}");
    let output = daemon.run(["run", "--", "sh", "-c", "echo hi; exit 42"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(42), "hi\n"), "{}", stderr(&output));
    // PID 1 reaps whatever a session leaves to it, and takes no orphan's end for that of a session.
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("(setsid sleep 0.01 &); {}; exit 7", gate.wait()));
    let timed = daemon.launch(&["--timeout", "300ms", "--grace", "100ms"], "trap '' TERM; sleep 1000");
    assert_eq!(daemon.ended(&timed)["outcome"], "timed_out");
    assert_eq!(daemon.status(&id)["status"], "running");
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7, "{}", daemon.log());
    let stopped = daemon.launch(&[], "exec sleep 1000");
    assert_eq!(daemon.code(&["stop", &stopped]), Some(0));
    for id in [&id, &timed, &stopped] {
        daemon.ended_once(id);
    }
    until("no zombie", || {
        let listed = daemon.run(["run", "--", "sh", "-c", "ps -e -o stat= | grep -c Z"]);
        (stdout(&listed).trim() == "0").then_some(())
    });
}

#[test]
fn what_ran_in_a_container_has_ended_with_it() {
    let test = "container::what_ran_in_a_container_has_ended_with_it";
    if !under_seccomp(test, &[Denied::IoUring, Denied::OpenByHandle]) {
        return;
    }
    let Some(mut daemon) = contained(test) else { return };
    let killed = daemon.launch(&[], "exec sleep 1000");
    daemon.kill();
    // Again on the same volume: in another pid namespace.
    daemon.start();
    let stopped = daemon.launch(&[], "exec sleep 1000");
    assert_lost(&daemon, &killed);
    assert_eq!(daemon.code(&["daemon", "stop"]), Some(0));
    daemon.is_over();
    // The home is a directory of the host.
    daemon.through(&[]);
    daemon.start();
    assert_lost(&daemon, &stopped);
    [&killed, &stopped].into_iter().for_each(|id| daemon.ended_once(id));
}

#[track_caller]
fn assert_lost(daemon: &Daemon, id: &str) {
    let record = daemon.ended(id);
    let verdict = json!([record["outcome"], record["exitCode"], record["reason"]]);
    assert_eq!(verdict, json!(["lost", null, "host_rebooted"]), "{record:#}\n{}", daemon.log());
}
