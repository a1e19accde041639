//! Full disks and full quotas: launches are refused, stops and deadlines still kill, no verdict is lost or told early.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, home};
use crate::support::namespace::{in_own_mounts, small_disk};
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
    let leader = daemon.leader(&stopped);
    let filler = disk.join("filler");
    fill(&filler);
    until("launches to be refused for the journal's sake", || {
        let output = daemon.run(["launch", "--", "true"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let why = stderr(&output);
        assert!(!why.trim().is_empty(), "{output:?}");
        why.contains("disk is full").then_some(())
    });
    assert!(stdout(&daemon.run(["daemon", "status"])).contains("cannot be written"));
    // Running sessions and reads go on; the reserve is there for verdicts.
    assert_eq!(daemon.status(&ends)["status"], "running");
    gate.open();
    let record = daemon.ended(&ends);
    assert_eq!(record["exitCode"], 5, "{record:#}");
    // And now not even the reserve.
    fill(&filler);
    let mut stop = daemon.command(["stop", &stopped]).spawn().expect("the command line runs");
    until_gone(&leader);
    late.open();
    let record =
        daemon.until_status(&unrecorded, "its end", |record| !record["meta"]["unrecorded"].is_null());
    assert_eq!((&record["status"], &record["outcome"]), (&json!("running"), &Value::Null), "{record:#}");
    for id in [&unrecorded, &stopped] {
        assert_eq!(daemon.code(&["wait", id, "--timeout", "300ms"]), Some(124), "nothing terminal is told");
    }
    assert!(stop.try_wait().expect("our own child").is_none(), "the stop is not answered before its record");
    fs::remove_file(&filler).expect("space again");
    assert_eq!(daemon.ended(&unrecorded)["exitCode"], 6);
    let record = daemon.ended(&stopped);
    assert_eq!(
        (&record["outcome"], &record["signal"]),
        (&json!("cancelled"), &json!("SIGTERM")),
        "{record:#}"
    );
    assert_eq!(stop.wait().expect("our own child").code(), Some(0));
    for id in [&ends, &unrecorded, &stopped] {
        daemon.ended_once(id);
    }
    daemon.is_well();
}

/// Takes all the space there is.
fn fill(filler: &Path) {
    let mut file = fs::File::options().append(true).create(true).open(filler).expect("a filler");
    for size in [1 << 16, 1 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
