//! `doctor`: what it says of a host and a daemon that are well, and of what is wrong.

use std::fs;

use serde_json::Value;

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::play::stdout;
use crate::support::wait::until;

impl Daemon {
    /// The finding of that name.
    pub(crate) fn finding(&self, name: &str) -> Option<Value> {
        let checks = self.json(["doctor", "--json"]);
        checks.as_array().expect("a list").iter().find(|check| check["name"] == name).cloned()
    }
}

/// The names of all findings that are not well.
fn not_well(checks: &Value) -> Vec<&str> {
    let checks = checks.as_array().expect("a list").iter();
    checks
        .filter(|check| check["state"] == "problem")
        .map(|check| check["name"].as_str().expect("a name"))
        .collect()
}

#[test]
fn a_daemon_that_is_well_has_no_problem() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "exec sleep 1000");
    let output = daemon.run(["doctor", "--json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).expect("pure JSON");
    assert_eq!((output.status.code(), not_well(&checks)), (Some(0), Vec::new()), "{checks:#}");
    for name in [
        "daemon",
        "pidfd",
        "io_uring",
        "cgroups",
        "open files",
        "journal",
        "integrity",
        "disk",
        "webhooks",
        "shim",
    ] {
        assert!(
            checks.as_array().expect("a list").iter().any(|check| check["name"] == name),
            "no {name} in {checks:#}"
        );
    }
    assert_eq!(daemon.finding("sessions").expect("sessions")["found"], "1 supervised, 1 in all");
    assert_eq!(
        daemon.finding("journal").expect("a journal")["state"],
        "note",
        "durability normal is less than there could be"
    );
    let table = stdout(&daemon.run(["doctor"]));
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert!(!table.contains(&id), "ids are named only where something is to be done: {table}");
}

#[test]
fn without_a_daemon_the_host_is_looked_at_all_the_same() {
    let mut daemon = Daemon::new();
    daemon.terminate();
    let output = daemon.run(["doctor", "--json"]);
    let checks: Value = serde_json::from_slice(&output.stdout).expect("pure JSON");
    assert_eq!(output.status.code(), Some(0), "{checks:#}");
    let found = daemon.finding("daemon").expect("the daemon");
    assert_eq!(found["state"], "note", "{found}");
    assert!(daemon.finding("pidfd").is_some() && daemon.finding("integrity").is_none());
    daemon.start();
}

#[test]
fn a_contradicted_exit_file_is_a_problem() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "exec sleep 1000");
    fs::write(daemon.run_files(&id).exit_path(), "garbage").expect("a planted file");
    until("the finding", || daemon.finding("exit files").filter(|found| found["state"] == "problem"));
    assert_eq!(daemon.code(&["doctor"]), Some(1));
    assert_eq!(daemon.status(&id)["status"], "running");
}

#[test]
fn kept_processes_of_an_ended_session_are_named() {
    let daemon = Daemon::new();
    let id = daemon.launch(&["--leftovers", "keep"], "sleep 1000 & exit 0");
    daemon.ended(&id);
    let found = until("the finding", || daemon.finding("leftovers"));
    assert_eq!(found["state"], "note", "{found}");
    assert!(found["found"].as_str().expect("a text").contains(&id[..8]), "{found}");
}

#[test]
fn what_webhooks_wait_for_is_told() {
    let mut endpoint = Endpoint::start();
    endpoint.stop();
    let daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    daemon.ended(&daemon.launch(&[], "exit 0"));
    let found = until("the first failure", || {
        daemon
            .finding("webhooks")
            .filter(|found| found["found"].as_str().is_some_and(|text| text.contains("refused")))
    });
    assert!(found["found"].as_str().expect("a text").starts_with("1 owed"), "{found}");
    assert_eq!(found["state"], "ok", "it has waited for seconds: {found}");
}
