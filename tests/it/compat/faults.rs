//! The faults of the earlier tool, as they were measured on it, and the tests that would fail if we had one of them. Those
//! that are nowhere else are below.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use agentctl::sys::ProcessRef;
use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::endpoint::{Endpoint, Turn};
use crate::support::openmetrics::{Metrics, nothing_owed};
use crate::support::orgloop;
use crate::support::play::program;
use crate::support::wait::until;

/// What it did, and the tests that hold us to the contrary, by file and name.
const FAULTS: &[(&str, &[&str])] = &[
    (
        "two sessions: both stopped in one sweep",
        &["incident::two_agents_that_no_listing_shows_run_to_their_own_ends"],
    ),
    (
        "second session in the same directory",
        &["compat/faults::nothing_that_happens_in_its_directory_stops_a_session"],
    ),
    (
        "a second launch there that fails",
        &["compat/faults::nothing_that_happens_in_its_directory_stops_a_session"],
    ),
    (
        "the older of two is stopped",
        &["compat/faults::nothing_that_happens_in_its_directory_stops_a_session"],
    ),
    (
        "a fuse of the user's on the directory; a fuse that runs out",
        &[
            "compat/faults::nothing_that_happens_in_its_directory_stops_a_session",
            "fuses::a_fuse_that_fires_leaves_the_session_in_its_directory_alone",
        ],
    ),
    (
        "the wrapper is killed, the agent lives",
        &[
            "crash::a_killed_shim_does_not_end_its_session_and_the_kernel_tells_the_code",
            "crash::a_shim_killed_while_the_daemon_is_down_still_leaves_a_running_session",
        ],
    ),
    ("the agent exits, a grandchild lives", &["tree::grandchildren_do_not_keep_a_run_alive"]),
    (
        "a restart kills what is older than five minutes",
        &[
            "crash::two_sessions_outlive_restarts_and_each_gets_its_own_verdict_at_its_own_time",
            "compat/faults::a_restart_signals_no_session_and_no_bystander",
        ],
    ),
    (
        "a reused pid",
        &[
            "identity::a_stranger_under_the_leaders_number_is_never_taken_for_it_nor_signalled",
            "identity::a_number_used_again_while_the_daemon_does_not_look_is_a_strangers",
        ],
    ),
    ("a PID 1 that reaps nobody", &["identity::zombies_that_nobody_reaps_tell_how_they_ended"]),
    (
        "exit codes are 0, whatever happened",
        &[
            "webhook::each_outcome_is_told_once_and_as_orgloop_needs_it",
            "lifecycle::death_by_every_signal_is_told_by_its_name",
        ],
    ),
    ("exit 0 of a short run is rewritten to 1", &["compat/faults::a_run_of_no_time_has_its_own_code"]),
    (
        "no binary: 0; no directory: the daemon dies",
        &["compat/faults::what_cannot_start_is_told_and_hurts_nobody"],
    ),
    (
        "a receiver that is down is never told",
        &[
            "webhook::a_receiver_that_was_down_is_told_after_the_first_retry",
            "webhook::a_verdict_whose_webhook_was_not_delivered_survives_the_daemon",
        ],
    ),
    (
        "a prune right after the end loses the webhook",
        &["compat/faults::a_prune_right_after_the_end_loses_no_webhook"],
    ),
    (
        "an end while the daemon is down has code 0 and the time of its start",
        &["crash::sessions_that_end_while_the_daemon_is_down_keep_code_and_time"],
    ),
    (
        "killed right after a launch: the session is unknown",
        &[
            "crash::launches_cut_off_by_a_crash_are_either_sessions_or_failures_and_never_ghosts",
            "launch_points::killed_at_any_system_call_of_a_launch_it_is_a_session_an_end_or_a_failure",
        ],
    ),
    (
        "it kills its own supervisor, and bystanders by their command line",
        &["compat/faults::a_restart_signals_no_session_and_no_bystander"],
    ),
    (
        "doubles under many listings",
        &[
            "webhook::a_hundred_ends_in_one_instant_are_a_hundred_webhooks",
            "compat/connector::each_session_starts_once_and_stops_once_whatever_becomes_of_the_daemon",
        ],
    ),
    (
        "a session that it launched cannot be stopped, peeked at or resumed",
        &["compat/cli::stop_and_resume", "compat/cli::peek_and_logs"],
    ),
    ("metrics stay at 0", &["compat/faults::metrics_have_the_earlier_names_and_count"]),
    (
        "the home is open to everybody, also under umask 000",
        &[
            "compat/faults::under_any_umask_the_home_is_its_owners_alone",
            "environment::the_logs_are_private_whatever_the_umask",
            "robustness::a_home_that_others_can_enter_is_refused_with_the_remedy",
        ],
    ),
    (
        "null on the socket kills it; other garbage",
        &[
            "compat/faults::null_and_endless_lines_on_the_socket_hurt_nobody",
            "robustness::garbage_on_the_socket_is_a_bad_request",
        ],
    ),
    (
        "a line without an end holds up everybody and fills the memory",
        &["compat/faults::null_and_endless_lines_on_the_socket_hurt_nobody"],
    ),
    ("an id `__proto__`", &["compat/faults::null_and_endless_lines_on_the_socket_hurt_nobody"]),
    ("500 idle connections", &["robustness::a_thousand_idle_connections_leave_room_for_work"]),
    ("500 listings at once", &["found::many_lists_at_once_share_their_looks"]),
    (
        "a listing costs a process each, and seconds",
        &["compat/connector::a_store_that_is_huge_locked_or_mute_holds_up_no_listing"],
    ),
    (
        "two launches in one millisecond share a log",
        &["compat/faults::launches_of_one_instant_have_a_log_each"],
    ),
];

#[test]
fn each_fault_is_guarded_by_tests_that_there_are() {
    for (fault, tests) in FAULTS {
        assert!(!tests.is_empty(), "{fault}");
        for test in *tests {
            let (file, name) = test.split_once("::").expect("file::name");
            let text = fs::read_to_string(format!("tests/it/{file}.rs")).unwrap_or_default();
            assert!(text.contains(&format!("#[test]\nfn {name}(")), "{fault}: there is no {test}");
        }
    }
}

impl Daemon {
    /// It runs, is listed, and nobody was told of an end.
    #[track_caller]
    fn runs(&self, id: &str, after: &str) {
        assert_eq!(self.status(id)["status"], "running", "after {after}\n{}", self.log());
        let listed = self.json(["list", "--json"]);
        let listed = listed.as_array().expect("an array");
        assert!(listed.iter().any(|session| session["id"] == id), "it is not listed after {after}");
        let types = self.event_types(id);
        assert!(
            !types.iter().any(|kind| kind == "session.stopped" || kind == "session.error"),
            "after {after}: {types:?}"
        );
    }
}

#[test]
fn nothing_that_happens_in_its_directory_stops_a_session() {
    let mut daemon = Daemon::new();
    let work = daemon.path("work");
    fs::create_dir(&work).expect("a directory");
    let (gate_1, gate_2) = (daemon.gate("gate1"), daemon.gate("gate2"));
    let flags = ["--cwd", &work, "--force"];
    let older = daemon.launch(&["--cwd", &work], &gate_1.wait());
    let younger = daemon.launch(&flags, &format!("{}; exit 5", gate_2.wait()));
    daemon.runs(&older, "a second launch in its directory");
    for failing in [
        &[&["launch", "nosuch", "-p", "x"], &flags[..]].concat(),
        &[&["launch"], &flags[..], &["--", "/nosuch/program"]].concat(),
    ] {
        assert_eq!(daemon.code(failing), Some(1), "{failing:?}");
        daemon.runs(&older, "a launch that failed");
        daemon.runs(&younger, "a launch that failed");
    }
    let fuse = daemon.json(["fuse", "set", &work, "1ms", "--json"]);
    until("the fuse to fire", || {
        let fuses = daemon.json(["fuses", "--all", "--json"]);
        let fired = fuses.as_array()?.iter().any(|one| one["id"] == fuse["id"] && one["state"] != "active");
        fired.then_some(())
    });
    daemon.runs(&older, "a fuse that fired");
    daemon.runs(&younger, "a fuse that fired");
    assert_eq!(daemon.code(&["stop", &older]), Some(0));
    for _ in 0..20 {
        daemon.runs(&younger, "the older one's stop");
    }
    daemon.terminate();
    daemon.start();
    daemon.runs(&younger, "a restart");
    daemon.kill();
    daemon.start();
    daemon.runs(&younger, "a crash");
    gate_2.open();
    assert_eq!(daemon.ended(&younger)["exitCode"], 5);
    daemon.ended_once(&younger);
}

#[test]
fn a_restart_signals_no_session_and_no_bystander() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &gate.wait());
    // Whose command line has both words that it looked for, and whose number is in the files that it believed.
    let notes = daemon.path("notes on agentctl daemon --supervised.md");
    let mut bystander = std::process::Command::new("sleep")
        .arg0(&notes)
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .expect("a bystander");
    let process = ProcessRef::of_child(bystander.id()).expect("our own child");
    for name in ["supervisor.pid", "agentctl.pid"] {
        fs::write(daemon.home().join(name), bystander.id().to_string()).expect("a file");
    }
    for _ in 0..2 {
        daemon.kill();
        daemon.start();
        daemon.terminate();
        daemon.start();
    }
    assert_eq!(process.has_ended(), Some(false), "the bystander has ended");
    daemon.runs(&id, "restarts");
    bystander.kill().and_then(|()| bystander.wait()).expect("our own child");
}

#[test]
fn a_run_of_no_time_has_its_own_code() {
    let daemon = Daemon::new();
    for code in [0, 1, 42] {
        assert_eq!(daemon.code(&["run", "--", "sh", "-c", &format!("exit {code}")]), Some(code));
    }
}

#[test]
fn what_cannot_start_is_told_and_hurts_nobody() {
    let endpoint = Endpoint::start();
    let daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    for (flags, code) in [
        (&["--cwd", "/nosuch", "--", "true"][..], 126),
        (&["--cwd", "/etc/passwd", "--", "true"], 126),
        (&["--", "/nosuch/program"], 127),
        (&["--", "/etc/passwd"], 126),
    ] {
        assert_eq!(daemon.code(&[&["run"], flags].concat()), Some(code), "{flags:?}");
    }
    let told: Vec<_> =
        endpoint.wait_for(4).iter().map(|request| request.json()["exit_status"].clone()).collect();
    assert!(told.iter().all(|status| *status == 126 || *status == 127), "{told:?}");
    daemon.is_well();
}

#[test]
fn a_prune_right_after_the_end_loses_no_webhook() {
    let endpoint = Endpoint::scripted([Turn::status(500)]);
    let daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    let id = daemon.launch(&[], "exit 3");
    daemon.ended(&id);
    let pruned = || assert_eq!(daemon.code(&["prune"]), Some(0));
    pruned();
    until("the receiver to be told again", || {
        pruned();
        (endpoint.about(&id).len() >= 2).then_some(())
    });
    let again = &endpoint.about(&id)[1];
    assert_eq!(orgloop::read(again, None), ("failed", "failure"));
    assert_eq!(again.json()["exit_status"], 3);
    nothing_owed(&daemon);
}

#[test]
fn metrics_have_the_earlier_names_and_count() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    daemon.code(&["run", "--", "true"]);
    daemon.code(&["run", "--", "false"]);
    let stopped = daemon.launch(&["--cwd", "/tmp"], &gate.wait());
    daemon.code(&["stop", &stopped]);
    daemon.launch(&["--cwd", "/usr"], &gate.wait());
    let metrics = Metrics::scrape(&daemon);
    for (series, value) in [
        ("agentctl_sessions_active", 1.0),
        ("agentctl_fuses_active", 0.0),
        ("agentctl_fuses_expired_total", 0.0),
        ("agentctl_sessions_total{status=\"completed\"}", 1.0),
        ("agentctl_sessions_total{status=\"failed\"}", 1.0),
        ("agentctl_sessions_total{status=\"stopped\"}", 1.0),
        ("agentctl_session_duration_seconds_count", 3.0),
        ("agentctl_session_duration_seconds_bucket{le=\"60.0\"}", 3.0),
        ("agentctl_session_duration_seconds_bucket{le=\"+Inf\"}", 3.0),
    ] {
        assert!((metrics.get(series) - value).abs() < f64::EPSILON, "{series}: {}", metrics.get(series));
    }
    for bound in ["300.0", "600.0", "1800.0", "3600.0", "7200.0"] {
        metrics.get(&format!("agentctl_session_duration_seconds_bucket{{le=\"{bound}\"}}"));
    }
}

/// Everything below, itself too.
fn everything(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(everything(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn under_any_umask_the_home_is_its_owners_alone() {
    for mask in ["000", "002", "022"] {
        let mut daemon = Daemon::new();
        daemon.terminate();
        daemon.through(&["sh", "-c", &format!("umask {mask}; exec \"$@\""), "sh"]);
        let before = everything(daemon.home());
        daemon.start();
        let gate = daemon.gate("gate");
        let path = daemon.fake_agent("opencode", &format!("cat; echo said; {}", gate.wait()));
        daemon.run(["launch", "opencode", "-p", "not for others", "--cwd", "/tmp", "--env", &path]);
        daemon.run(["run", "--cwd", "/usr", "--", "true"]);
        for path in everything(daemon.home()) {
            let ours = before.contains(&path)
                || path.starts_with(daemon.home().join("bin"))
                || path.ends_with("gate");
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            let mode = found.permissions().mode() & 0o7777;
            assert!(ours || mode & 0o077 == 0, "{mask}: {} has mode {mode:o}", path.display());
        }
        let mode = fs::metadata(daemon.home()).expect("a home").permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{mask}");
    }
}

#[test]
fn null_and_endless_lines_on_the_socket_hurt_nobody() {
    const CHUNK: usize = 1 << 20;
    let daemon = Daemon::new();
    for line in
        ["null\n", "42\n", "[]\n", "\"x\"\n", "{\n", "{\"id\":null}\n", "{\"method\":\"__proto__\"}\n"]
    {
        daemon.raw(line.as_bytes());
    }
    for id in ["__proto__", "constructor", "hasOwnProperty"] {
        assert_eq!(daemon.http("GET", &format!("/v1/sessions/{id}"), "", "").0, 404, "{id}");
    }
    // A hundred megabytes without a line break, of each kind of client.
    for first in ["{", "G"] {
        let mut stream = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
        let chunk = first.repeat(CHUNK);
        let taken = (0..100).take_while(|_| stream.write_all(chunk.as_bytes()).is_ok()).count();
        assert!(taken < 100, "it has taken all of it");
    }
    daemon.is_well();
}

#[test]
fn launches_of_one_instant_have_a_log_each() {
    let daemon = Daemon::new();
    let bin = daemon.path("say");
    program(Path::new(&bin), "#!/bin/sh\necho said $$\n");
    let children: Vec<_> = (0..10)
        .map(|number| {
            let dir = daemon.path(&format!("work{number}"));
            fs::create_dir(&dir).expect("a directory");
            let words = ["launch", "--json", "--cwd", &dir, "--", &bin];
            daemon.command(words).stdout(Stdio::piped()).spawn().expect("it runs")
        })
        .collect();
    let mut logs: Vec<String> = Vec::new();
    for child in children {
        let output = child.wait_with_output().expect("our own child");
        let record: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a record");
        let id = record["id"].as_str().expect("an id");
        assert_eq!(daemon.ended(id)["exitCode"], json!(0));
        logs.push(daemon.stdout(id));
    }
    assert!(logs.iter().all(|log| log.lines().count() == 1), "{logs:?}");
    logs.sort();
    logs.dedup();
    assert_eq!(logs.len(), 10, "{logs:?}");
}
