//! Full disks and full quotas: launches are refused, stops and deadlines still kill, no verdict is lost or told early.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, home};
use crate::support::namespace::{in_own_mounts, small_disk};
use crate::support::openmetrics::Metrics;
use crate::support::play::{stderr, stdout, until_gone};
use crate::support::wait::until;

#[test]
fn a_full_disk_refuses_launches_and_loses_no_verdict() {
    if !in_own_mounts("disk::a_full_disk_refuses_launches_and_loses_no_verdict") {
        return;
    }
    let dir = home();
    let disk = dir.path();
    let _disk = small_disk(disk, 16 << 20);
    let daemon = Daemon::builder().within(disk).start();
    let gate = daemon.gate("gate");
    let ends = daemon.launch(&["--name", "ends"], &format!("{}; exit 5", gate.wait()));
    let late = daemon.gate("late");
    let unrecorded = daemon.launch(&["--name", "unrecorded"], &format!("{}; exit 6", late.wait()));
    let stopped = daemon.launch(&["--name", "stopped", "--grace", "300ms"], "exec sleep 1000");
    let (leader, shim) = (daemon.leader(&stopped), daemon.shim(&stopped));
    let timed = daemon.launch(&["--timeout", "1h"], "exec sleep 1000");
    let overdue = daemon.leader(&timed);
    let filler = disk.join("filler");
    until_full(&daemon, &filler);
    assert!(stdout(&daemon.run(["daemon", "status"])).contains("cannot be written"));
    // Running sessions and reads go on; the reserve is there for verdicts.
    assert_eq!(daemon.status(&ends)["status"], "running");
    gate.open();
    let record = daemon.ended(&ends);
    assert_eq!(record["exitCode"], 5, "{record:#}");
    // And now not even the reserve.
    until_full(&daemon, &filler);
    let mut stop =
        daemon.command(["stop", &stopped]).stderr(Stdio::piped()).spawn().expect("the command line runs");
    // Its deadline comes while nothing can be written at all.
    let mut extend = daemon.command(["extend", &timed, "100ms"]).spawn().expect("the command line runs");
    until_gone(&leader);
    late.open();
    for id in [&unrecorded, &stopped] {
        let record = daemon.until_status(id, "its end", |record| !record["meta"]["unrecorded"].is_null());
        let seen = (&record["status"], &record["phase"], &record["outcome"]);
        assert_eq!(seen, (&json!("running"), &json!("ending"), &Value::Null), "{record:#}");
        assert_eq!(daemon.code(&["wait", id, "--timeout", "300ms"]), Some(124), "nothing terminal is told");
    }
    until_gone(&shim);
    // Stops and deadlines kill all the same: the tree is gone, whatever can be written.
    until_gone(&overdue);
    until("the stop to be answered", || stop.try_wait().expect("our own child"));
    let answer = stop.wait_with_output().expect("our own child");
    assert_eq!(answer.status.code(), Some(1), "{answer:?}");
    assert!(stderr(&answer).contains("has ended, and its end cannot be recorded yet"), "{answer:?}");
    assert_eq!(daemon.event_types(&stopped), ["session.started"]);
    fs::remove_file(&filler).expect("space again");
    assert_eq!(extend.wait().expect("our own child").code(), Some(0));
    for (id, outcome, key, value) in [
        (&unrecorded, "failed", "exitCode", json!(6)),
        (&stopped, "cancelled", "signal", json!("SIGTERM")),
        (&timed, "timed_out", "signal", json!("SIGTERM")),
    ] {
        let record = daemon.ended(id);
        assert_eq!((&record["outcome"], &record[key]), (&json!(outcome), &value), "{record:#}");
    }
    for id in [&ends, &unrecorded, &stopped, &timed] {
        daemon.ended_once(id);
    }
    daemon.is_well();
}

/// Full for good: what a refused launch or a file that did not fit had taken comes back a moment later, and is taken too.
/// The journal has tried again in vain since there was nothing more to take.
#[track_caller]
fn until_full(daemon: &Daemon, filler: &Path) {
    let failures = || Metrics::scrape(daemon).get("agentctl_journal_write_failures_total");
    let mut failed_full = None;
    until("the disk to stay full", || {
        let taken = fill(filler);
        if !is_refused(daemon) || taken > 0 {
            failed_full = None;
            return None;
        }
        let failed = failures();
        // One may have been under way when the last byte was taken.
        (failed >= *failed_full.get_or_insert(failed) + 2.0).then_some(())
    });
}

/// Whether a launch is refused for the journal's sake. The journal has some space of its own: launches use it up, which fail
/// and say why, unless enough has just come back for one.
#[track_caller]
fn is_refused(daemon: &Daemon) -> bool {
    let output = daemon.run(["launch", "--", "true"]);
    let why = stderr(&output);
    match output.status.code() {
        Some(0) => false,
        Some(1) if !why.trim().is_empty() => why.contains("disk is full"),
        _ => panic!("{output:?}"),
    }
}

/// Takes all the space there is, and says how much that was.
fn fill(filler: &Path) -> u64 {
    let mut file = fs::File::options().append(true).create(true).open(filler).expect("a filler");
    let length = |file: &fs::File| file.metadata().expect("our own file").len();
    let before = length(&file);
    for size in [1 << 16, 1 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    length(&file) - before
}

#[test]
fn a_log_on_a_full_disk_is_the_agents_own_trouble() {
    if !in_own_mounts("disk::a_log_on_a_full_disk_is_the_agents_own_trouble") {
        return;
    }
    let dir = home();
    let _disk = small_disk(dir.path(), 16 << 20);
    let daemon = Daemon::builder().within(dir.path()).start();
    // It gets ENOSPC for its words, no signal, and its code is its own.
    let id = daemon.launch(&[], "yes | head -c 64m; code=$?; yes >&2; exit 9");
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(9)), "{record:#}");
    assert!(fs::metadata(daemon.file(&id, "stdout.log")).expect("a log").len() > 1 << 20);
    daemon.ended_once(&id);
    // Its files are what fills the disk; forgetting the session makes room.
    until("room again", || {
        let _count = daemon.run(["prune"]);
        (!daemon.file(&id, "stdout.log").exists()).then_some(())
    });
    until("launches again", || (daemon.code(&["run", "--", "sh", "-c", "exit 7"]) == Some(7)).then_some(()));
}
