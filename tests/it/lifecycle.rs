//! One session from launch to verdict, through the real command line and a real daemon.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::play::{stderr, stdout};

/// Every signal whose default action ends a process, by its public name.
const DEADLY: [(u8, &str); 23] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (10, "SIGUSR1"),
    (11, "SIGSEGV"),
    (12, "SIGUSR2"),
    (13, "SIGPIPE"),
    (14, "SIGALRM"),
    (15, "SIGTERM"),
    (16, "SIGSTKFLT"),
    (24, "SIGXCPU"),
    (25, "SIGXFSZ"),
    (26, "SIGVTALRM"),
    (27, "SIGPROF"),
    (29, "SIGIO"),
    (30, "SIGPWR"),
    (31, "SIGSYS"),
];

#[test]
fn run_prints_the_output_and_exits_with_the_code() {
    let daemon = Daemon::new();
    let output = daemon.run(["run", "--", "sh", "-c", "echo out; echo err >&2; exit 42"]);
    assert_eq!(output.status.code(), Some(42), "{output:?}");
    assert_eq!(stdout(&output), "out\n");
    let stderr = stderr(&output);
    assert!(stderr.starts_with("err\nagentctl: session "), "{stderr}");
    assert!(stderr.contains(" failed, exit code 42 after ") && stderr.contains("exit_file"), "{stderr}");
}

#[test]
fn every_exit_code_arrives_as_it_is_also_over_128() {
    let daemon = Daemon::new();
    let codes = [0_u8, 1, 3, 42, 128, 143, 255];
    let ids = codes.map(|code| (code, daemon.launch(&[], &format!("exit {code}"))));
    for (code, id) in &ids {
        let (status, outcome) = if *code == 0 { ("stopped", "completed") } else { ("error", "failed") };
        let verdict = json!([status, outcome, code, null, format!("exit_code_{code}"), code]);
        ended_as(&daemon, id, &verdict);
        assert_eq!(daemon.code(&["wait", id]), Some((*code).into()));
    }
}

#[test]
fn death_by_every_signal_is_told_by_its_name() {
    let daemon = Daemon::new();
    let ids = DEADLY
        .map(|(number, name)| (number, name, daemon.launch(&[], &format!("kill -{number} $$; exit 99"))));
    for (number, name, id) in &ids {
        let verdict = json!(["error", "failed", null, name, name.to_lowercase(), 128 + number]);
        ended_as(&daemon, id, &verdict);
        assert_eq!(daemon.code(&["wait", id]), Some((128 + number).into()));
    }
}

/// Waits for the verdict, its evidence and its one event.
#[track_caller]
fn ended_as(daemon: &Daemon, id: &str, verdict: &Value) {
    let record = daemon.ended(id);
    assert_eq!(&verdict_of(&record), verdict, "{record:#}");
    // The pidfd may speak after the exit file: then it is appended.
    daemon.until_status(id, "both prongs", |record| {
        let prongs = prongs_of(record);
        ["pidfd", "exit_file"].iter().all(|prong| prongs.contains(*prong))
    });
    daemon.ended_once(id);
}

fn verdict_of(record: &Value) -> Value {
    json!(["status", "outcome", "exitCode", "signal", "reason", "exitStatus"].map(|key| record[key].clone()))
}

fn prongs_of(record: &Value) -> BTreeSet<String> {
    let entries = record["evidence"].as_array().expect("a list").iter();
    entries.map(|entry| entry["prong"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_program_that_does_not_exist_fails_to_launch_with_127() {
    let daemon = Daemon::new();
    let output = daemon.run(["run", "--", "/no/such/program"]);
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    not_launched(&daemon, json!(["error", "launch_failed", null, null, "program_not_found", 127]));
}

#[test]
fn a_file_that_is_no_program_fails_to_launch_with_126() {
    let daemon = Daemon::new();
    let file = daemon.path("plain");
    fs::write(&file, "text").expect("a file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("a mode");
    assert_eq!(daemon.code(&["run", "--", &file]), Some(126));
    not_launched(&daemon, json!(["error", "launch_failed", null, null, "not_executable", 126]));
}

#[test]
fn a_missing_directory_fails_to_launch_with_126() {
    let daemon = Daemon::new();
    assert_eq!(daemon.code(&["run", "--cwd", "/no/such/dir", "--", "true"]), Some(126));
    not_launched(&daemon, json!(["error", "launch_failed", null, null, "cwd_missing", 126]));
}

/// The one session of this daemon has this verdict, says why, and tells it once.
#[track_caller]
fn not_launched(daemon: &Daemon, verdict: Value) {
    let record = daemon.json(["list", "-a", "--json"])[0].clone();
    assert_eq!(verdict_of(&record), verdict, "{record:#}");
    assert!(record["meta"]["message"].is_string(), "{record:#}");
    let id = record["id"].as_str().expect("an id");
    daemon.ended_once(id);
    let output = daemon.run(["launch", "--", "/no/such/program"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    assert!(stderr(&output).contains("was not launched"), "{output:?}");
}

#[test]
fn a_gigabyte_of_output_costs_the_daemon_no_memory() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "head -c 1000000000 /dev/zero; exit 3");
    let record = daemon.ended(&id);
    assert_eq!(record["exitCode"], 3, "{record:#}");
    assert_eq!(fs::metadata(daemon.file(&id, "stdout.log")).expect("a log").len(), 1_000_000_000);
    assert_eq!(daemon.json(["peek", &id, "--json"]).as_array().map(Vec::len), Some(1));
    daemon.stays_small();
}

#[test]
fn a_line_of_ten_megabytes_is_read_like_any_other() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "head -c 10000000 /dev/zero | tr '\\0' x; exit 4");
    assert_eq!(daemon.ended(&id)["exitCode"], 4);
    assert_eq!(daemon.run(["logs", "--raw", &id]).stdout.len(), 10_000_000);
    assert_eq!(daemon.run(["logs", "-f", &id]).stdout.len(), 10_000_000);
    assert_eq!(daemon.code(&["logs", &id]), Some(0));
    daemon.stays_small();
}

#[test]
fn an_agent_whose_only_line_has_ten_megabytes_cannot_be_understood() {
    let daemon = Daemon::new();
    let path = daemon.fake_agent("opencode", "head -c 10000000 /dev/zero | tr '\\0' x");
    let output = daemon.run(["run", "opencode", "-p", "x", "--env", &path, "--env", &home(&daemon)]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let record = daemon.json(["list", "-a", "--json"])[0].clone();
    assert_eq!(record["reason"], "agent_report_unreadable", "{record:#}");
    daemon.stays_small();
}

#[test]
fn a_prompt_of_five_megabytes_reaches_the_agent_whole() {
    let daemon = Daemon::new();
    let path = daemon.fake_agent("opencode", "wc -c; ls -l /proc/self/fd/0 >&2");
    let prompt = daemon.path("prompt");
    fs::write(&prompt, "p".repeat(5_000_000)).expect("a prompt");
    let flags = ["--prompt-file", &prompt, "--env", &path, "--env", &home(&daemon)];
    let output = daemon.run(["run", "opencode"].iter().chain(&flags));
    assert_eq!((output.status.code(), stdout(&output).trim()), (Some(1), "5000000"), "{}", stderr(&output));
    let record = daemon.json(["list", "-a", "--json"])[0].clone();
    assert_eq!(record["prompt"].as_str().map(str::len), Some(200));
}

fn home(daemon: &Daemon) -> String {
    format!("HOME={}", daemon.path("agent-home"))
}

impl Daemon {
    /// Asserts that the daemon never needed much memory; a debug build's size is part of it.
    #[track_caller]
    fn stays_small(&self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("our own child");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        assert!(kilobytes < 60_000, "the daemon used {kilobytes} kB at its peak");
    }
}

#[test]
fn two_hundred_sessions_that_end_in_the_same_instant_all_end_right() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let ids: Vec<_> = (0..200)
        .map(|n: i32| (n % 100, daemon.post_launch(&format!("{}; exit {}", gate.wait(), n % 100))))
        .collect();
    gate.open();
    let mut wait = vec!["wait", "--json", "--timeout", "100s"];
    wait.extend(ids.iter().map(|(_, id)| id.as_str()));
    let records = daemon.json(wait);
    for (at, (code, id)) in ids.iter().enumerate() {
        assert_eq!((&records[at]["id"], &records[at]["exitCode"]), (&json!(id), &json!(code)));
    }
    let events = daemon.events();
    let seqs: Vec<_> = events.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
    assert_eq!(seqs, (1..=400).collect::<Vec<_>>());
    let terminal = events.iter().filter(|event| event["type"] != "session.started");
    let told: BTreeSet<_> = terminal.map(|event| event["sessionId"].to_string()).collect();
    assert_eq!(told.len(), 200);
}

#[test]
fn uring_keeps_the_promise() {
    keeps_the_promise("uring");
}

#[test]
fn epoll_keeps_the_promise() {
    keeps_the_promise("epoll");
}

#[test]
fn portable_keeps_the_promise() {
    keeps_the_promise("portable");
}

#[track_caller]
fn keeps_the_promise(backend: &str) {
    let mut daemon = Daemon::builder().backend(backend).start();
    assert_eq!(daemon.json(["daemon", "status", "--json"])["backend"], backend);
    assert_eq!(daemon.code(&["run", "--", "sh", "-c", "exit 7"]), Some(7));
    let stopped = daemon.launch(&["--grace", "300ms"], "trap '' TERM; while :; do sleep 1; done");
    let over = daemon.launch(&["--timeout", "300ms"], "exec sleep 1000");
    let gate = daemon.gate("gate");
    let survivor = daemon.launch(&[], &format!("{}; exit 9", gate.wait()));
    assert_eq!(daemon.code(&["stop", &stopped]), Some(0));
    let verdict = daemon.ended(&stopped);
    assert_eq!((&verdict["outcome"], &verdict["signal"]), (&json!("cancelled"), &json!("SIGKILL")));
    assert_eq!(daemon.ended(&over)["outcome"], "timed_out");
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.status(&survivor)["status"], "running");
    gate.open();
    assert_eq!(daemon.ended(&survivor)["exitCode"], 9);
    [stopped, over, survivor].iter().for_each(|id| daemon.ended_once(id));
}
