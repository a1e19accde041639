//! What becomes of the processes around a leader: those that it leaves behind, and those that will not go.

use std::time::Duration;

use agentctl::core::vocab::Wall;
use agentctl::sys::{ProcessRef, clock};
use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::patience::in_order;
use crate::support::play::{Gate, is_gone, micros, until_gone, written_pid};
use crate::support::wait::until;

/// How much later one deadline is than another that must not count.
const AFTER: Duration = Duration::from_millis(500);

/// A child in a session of its own that writes its number to `pid` and lives until the gate opens. Builtins only:
/// a helper such as mv could still be there when the leader ends, and be counted.
fn daemonized(pid: &str, gate: &Gate, first: &str) -> String {
    format!("(setsid sh -c '{first} echo $$ >{pid}; {}' &); until [ -s {pid} ]; do :; done", gate.wait())
}

#[test]
fn a_leader_that_daemonizes_is_over_at_its_own_end_and_the_rest_is_killed() {
    let daemon = Daemon::new();
    let (gate, pid) = (daemon.gate("gate"), daemon.path("pid"));
    let id = daemon.launch(&[], &format!("{}; exit 5", daemonized(&pid, &gate, "")));
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(5)));
    let record = daemon.until_status(&id, "the end of the tree", |record| {
        record["evidence"].to_string().contains("tree_gone")
    });
    assert!(is_gone(written_pid(&pid)), "{record:#}");
    assert_eq!((&record["leftovers"], &record["exitCode"]), (&json!(0), &json!(5)));
    daemon.ended_once(&id);
}

#[test]
fn with_leftovers_keep_the_rest_lives_and_is_counted_until_it_is_gone() {
    let daemon = Daemon::new();
    let (gate, pid) = (daemon.gate("gate"), daemon.path("pid"));
    let id = daemon.launch(&["--leftovers", "keep"], &format!("{}; exit 5", daemonized(&pid, &gate, "")));
    assert_eq!(daemon.ended(&id)["exitCode"], 5);
    daemon.until_status(&id, "the leftover to be counted", |record| record["leftovers"] == 1);
    assert!(!is_gone(written_pid(&pid)));
    gate.open();
    daemon.until_status(&id, "the leftover to be gone", |record| record["leftovers"] == 0);
    daemon.ended_once(&id);
}

#[test]
fn kept_leftovers_survive_a_restart_and_are_still_counted() {
    let mut daemon = Daemon::new();
    let (gate, pid) = (daemon.gate("gate"), daemon.path("pid"));
    let id = daemon.launch(&["--leftovers", "keep"], &format!("{}; exit 0", daemonized(&pid, &gate, "")));
    daemon.ended(&id);
    daemon.kill();
    daemon.start();
    daemon.until_status(&id, "the leftover to be counted", |record| record["leftovers"] == 1);
    gate.open();
    daemon.until_status(&id, "the leftover to be gone", |record| record["leftovers"] == 0);
}

#[test]
fn grandchildren_do_not_keep_a_run_alive() {
    let daemon = Daemon::new();
    let (gate, pid) = (daemon.gate("gate"), daemon.path("pid"));
    let script = format!(
        "sh -c 'trap \"\" TERM; echo $$ >{pid}; {}' & until [ -s {pid} ]; do :; done; exit 6",
        gate.wait()
    );
    let id = daemon.launch(&["--grace", "300ms"], &script);
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(6)));
    until("the grandchild to be killed", || is_gone(written_pid(&pid)).then_some(()));
}

#[test]
fn stop_returns_when_also_a_child_that_left_and_ignores_term_is_gone() {
    let daemon = Daemon::new();
    let (gate, pid) = (daemon.gate("gate"), daemon.path("pid"));
    let id = daemon.launch(
        &["--grace", "300ms"],
        &format!("{}; {}", daemonized(&pid, &gate, "trap \"\" TERM;"), gate.wait()),
    );
    let child = written_pid(&pid);
    let output = daemon.run(["stop", &id]);
    assert!(output.status.success() && is_gone(child), "{output:?}");
    let record = daemon.status(&id);
    let verdict = json!([
        record["status"],
        record["outcome"],
        record["signal"],
        record["reason"],
        record["exitStatus"]
    ]);
    assert_eq!(verdict, json!(["stopped", "cancelled", "SIGTERM", "stop_requested", 143]), "{record:#}");
    assert_eq!(daemon.code(&["wait", &id]), Some(143));
    daemon.ended_once(&id);
}

#[test]
fn stop_kills_a_leader_that_ignores_term_after_its_grace() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&["--grace", "300ms"], &format!("trap '' TERM; echo up; {}", gate.wait()));
    until("the trap", || daemon.stdout(&id).contains("up").then_some(()));
    assert_eq!(daemon.code(&["stop", &id]), Some(0));
    let record = daemon.status(&id);
    assert_eq!(
        (&record["outcome"], &record["signal"], &record["exitStatus"]),
        (&json!("cancelled"), &json!("SIGKILL"), &json!(137))
    );
}

#[test]
fn stop_force_does_not_wait_for_the_grace() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&["--grace", "1h"], &format!("trap '' TERM; echo up; {}", gate.wait()));
    until("the trap", || daemon.stdout(&id).contains("up").then_some(()));
    assert_eq!(daemon.code(&["stop", &id, "--force"]), Some(0));
    assert_eq!(daemon.status(&id)["signal"], "SIGKILL");
}

#[test]
fn a_second_stop_with_force_overtakes_the_first() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&["--grace", "1h"], &format!("trap '' TERM; echo up; {}", gate.wait()));
    until("the trap", || daemon.stdout(&id).contains("up").then_some(()));
    let mut first = daemon.command(["stop", &id]).spawn().expect("the command line runs");
    daemon.until_status(&id, "the stop", |record| record["phase"] == "stopping");
    assert_eq!(daemon.code(&["stop", &id, "--force"]), Some(0));
    assert_eq!(first.wait().expect("our own child").code(), Some(0));
    daemon.ended_once(&id);
}

#[test]
fn a_leader_that_ends_well_when_asked_to_is_cancelled_with_its_own_code() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let script = format!("trap 'exit 0' TERM; echo up; {} & wait", gate.wait());
    let id = daemon.launch(&[], &script);
    until("the trap", || daemon.stdout(&id).contains("up").then_some(()));
    assert_eq!(daemon.code(&["stop", &id]), Some(0));
    let record = daemon.status(&id);
    assert_eq!(
        (&record["outcome"], &record["exitCode"], &record["exitStatus"]),
        (&json!("cancelled"), &json!(0), &json!(143))
    );
}

#[test]
fn stopping_what_has_ended_changes_nothing() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "exit 3");
    daemon.ended(&id);
    assert_eq!(daemon.code(&["stop", &id]), Some(0));
    assert_eq!(daemon.status(&id)["outcome"], "failed");
    daemon.ended_once(&id);
}

#[test]
fn the_deadline_ends_the_whole_tree_and_is_told_before_its_kill() {
    let daemon = Daemon::new();
    let (gate, pid) = (daemon.gate("gate"), daemon.path("pid"));
    let flags = ["--timeout", "10m", "--grace", "300ms"];
    let id =
        daemon.launch(&flags, &format!("{}; {}", daemonized(&pid, &gate, "trap \"\" TERM;"), gate.wait()));
    let child = written_pid(&pid);
    assert_eq!(daemon.code(&["extend", &id, "1s"]), Some(0));
    let record = daemon.ended(&id);
    let verdict = json!([
        record["status"],
        record["outcome"],
        record["signal"],
        record["reason"],
        record["exitStatus"]
    ]);
    assert_eq!(verdict, json!(["error", "timed_out", "SIGTERM", "deadline", 124]), "{record:#}");
    assert!(is_gone(child), "the verdict of a deadline comes when the tree is gone");
    assert_eq!(daemon.code(&["wait", &id]), Some(124));
    assert_eq!(daemon.event_types(&id), ["session.started", "session.timeout", "session.error"]);
}

#[test]
fn an_extended_deadline_is_the_one_that_counts() {
    in_order(Duration::from_secs(2), extended);
}

/// A session that ends with 8, and whose first deadline, in so much time, was extended; nothing, where that came too late.
fn kept(daemon: &Daemon, gate: &Gate, first: Duration) -> Option<String> {
    let flags = ["--timeout", &millis(first), "--grace", "100ms"];
    let id = daemon.launch(&flags, &format!("{}; exit 8", gate.wait()));
    let due = Wall(micros(&daemon.status(&id)["timeoutAt"]));
    let extended = daemon.code(&["extend", &id, "1h"]);
    if clock::now().wall >= due {
        return None;
    }
    assert_eq!(extended, Some(0));
    Some(id)
}

fn millis(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// Nothing, where the first deadline came before it was extended.
fn extended(first: Duration) -> Option<()> {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = kept(&daemon, &gate, first)?;
    let short = daemon.launch(&["--timeout", "1h"], "exec sleep 1000");
    assert_eq!(daemon.code(&["extend", &short, &millis(first + AFTER)]), Some(0));
    // Its own deadline was later than the first one of the other.
    assert_eq!(daemon.ended(&short)["outcome"], "timed_out");
    assert_eq!(daemon.status(&id)["status"], "running");
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 8);
    Some(())
}

#[test]
fn a_moved_deadline_holds_without_a_daemon() {
    in_order(Duration::from_secs(2), moved);
}

/// Nothing, where a deadline came before it was extended, or before the daemon was killed.
fn moved(first: Duration) -> Option<()> {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let kept = kept(&daemon, &gate, first)?;
    let id = daemon.launch(&["--timeout", "0", "--grace", "100ms"], "exec sleep 1000");
    let leader: ProcessRef = daemon.leader(&id);
    daemon.killed_before_deadlines(&[&id], first + AFTER)?;
    // The shim's time is later than the one that the other had at first.
    until_gone(&leader);
    daemon.start();
    assert_eq!(daemon.status(&kept)["status"], "running");
    gate.open();
    assert_eq!(daemon.ended(&kept)["exitCode"], 8);
    let record = daemon.ended(&id);
    let verdict = (&record["outcome"], &record["signal"], &record["exitStatus"]);
    assert_eq!(verdict, (&json!("timed_out"), &json!("SIGTERM"), &json!(124)), "{record:#}");
    Some(())
}

#[test]
fn a_stopped_process_of_the_tree_does_not_hold_up_a_stop() {
    let daemon = Daemon::new();
    let id = daemon.launch(&["--grace", "300ms"], "kill -STOP $$; exit 1");
    let leader: ProcessRef = daemon.leader(&id);
    assert_eq!(daemon.code(&["stop", &id]), Some(0));
    until_gone(&leader);
    assert_eq!(daemon.status(&id)["outcome"], "cancelled");
}
