//! Limits of memory, CPU and tasks: kept where the session's cgroup has the controllers, else refused before anything
//! is started. The hosts of this suite mostly lack the controllers; `sys::cgroup::control` tests what is written.

use std::fs;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::play::{stderr, stdout};

const ALL: [&str; 6] = ["--memory-max", "4G", "--cpu-quota", "200%", "--tasks-max", "500"];

#[track_caller]
fn nothing_was_started(daemon: &Daemon) {
    assert_eq!(daemon.json(["list", "-a", "--json"]), json!([]));
    assert_eq!(fs::read_dir(daemon.home().join("sessions")).map_or(0, Iterator::count), 0);
}

/// The record of a session that was launched with all limits, or the refusal.
fn limited(daemon: &Daemon, script: &str) -> Result<Value, String> {
    let output = daemon.run(["launch", "--json"].into_iter().chain(ALL).chain(["--", "sh", "-c", script]));
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).expect("a record")),
        Some(1) => Err(stderr(&output)),
        other => panic!("{other:?}: {}", stderr(&output)),
    }
}

#[test]
fn limits_are_kept_or_refused_and_never_ignored() {
    let daemon = Daemon::new();
    match limited(&daemon, "exec sleep 1000") {
        Err(why) => {
            assert!(why.contains("cannot be kept") && why.contains("without them"), "{why}");
            let names_it = why.contains("cgroup.controllers")
                || why.contains("cgroup.subtree_control")
                || why.contains("no cgroup of their own");
            assert!(names_it, "{why}");
            nothing_was_started(&daemon);
            let refused = daemon.run(["run"].into_iter().chain(ALL).chain(["--", "true"]));
            assert_eq!((refused.status.code(), stdout(&refused).as_str()), (Some(125), ""));
            nothing_was_started(&daemon);
        }
        Ok(record) => {
            let all = json!({"memoryMaxBytes": 4_u64 << 30, "cpuQuotaPercent": 200, "tasksMax": 500});
            let id = record["id"].as_str().expect("an id").to_owned();
            assert_eq!(daemon.status(&id)["limits"], all);
            let shown = stdout(&daemon.run(["status", &id]));
            assert!(shown.contains("Limits     memory 4G, cpu 200%, tasks 500\n"), "{shown}");
            let order = daemon.run_files(&id).read_claimed().expect("an order");
            let cgroup = order.cgroup.expect("a cgroup");
            let read = |name: &str| fs::read_to_string(format!("{cgroup}/{name}")).expect("a limit");
            assert_eq!(
                (read("memory.max").trim(), read("cpu.max").trim(), read("pids.max").trim()),
                ("4294967296", "200000 100000", "500")
            );
        }
    }
    // Without limits all is as ever.
    let id = daemon.launch(&[], "exec sleep 1000");
    assert_eq!(daemon.status(&id)["limits"], Value::Null);
}

#[test]
fn the_portable_backend_keeps_no_limits_and_says_so() {
    let daemon = Daemon::builder().backend("portable").start();
    let why = limited(&daemon, "true").expect_err("nobody would keep them");
    assert!(why.contains("the portable backend has no cgroups"), "{why}");
    nothing_was_started(&daemon);
}

#[test]
fn amounts_that_mean_nothing_are_refused_with_how_to_write_them() {
    let daemon = Daemon::new();
    for (flag, value, hint) in [
        ("--memory-max", "4GB", "1000 or 1024"),
        ("--memory-max", "much", "512M or 4G"),
        ("--memory-max", "99999999T", "too large"),
        ("--cpu-quota", "2", "200%, which is two CPUs"),
        ("--cpu-quota", "-5%", "200%, which is two CPUs"),
        ("--tasks-max", "many", "--tasks-max"),
    ] {
        let output = daemon.run(["launch", &format!("{flag}={value}"), "--", "true"]);
        let (code, said) = (output.status.code(), stderr(&output));
        assert_eq!((code, stdout(&output).as_str()), (Some(2), ""), "{flag} {value}");
        assert!(said.contains(hint), "{flag} {value}: {said}");
    }
    for (flag, value, hint) in [
        ("--memory-max", "4K", "below 1M"),
        ("--cpu-quota", "0%", "200% is two"),
        ("--tasks-max", "0", "0 tasks"),
    ] {
        let output = daemon.run(["launch", flag, value, "--", "true"]);
        assert_eq!(output.status.code(), Some(1), "{flag} {value}");
        assert!(stderr(&output).contains(hint), "{}", stderr(&output));
    }
    let body = r#"{"adapter": "exec", "command": ["true"], "cwd": "/", "tasksMax": 0}"#;
    let (status, answer) = daemon.http("POST", "/v1/sessions", "", body);
    assert!(status == 400 && answer.contains("0 tasks"), "{status} {answer}");
    nothing_was_started(&daemon);
}
