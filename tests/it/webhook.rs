//! Webhooks end to end: what is sent, how often, and what survives receivers and daemons that fail.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use agentctl::core::outbox::CONCURRENT_ATTEMPTS_MAX;
use agentctl::sys::clock;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::{Endpoint, Received, Turn};
use crate::support::openmetrics::{Metrics, nothing_owed};
use crate::support::orgloop;
use crate::support::wait::until;

const SECRET: &str = "a plain secret";

/// The first delay of the schedule, less a tenth that spreads retries.
const FIRST_RETRY_AT_LEAST: Duration = Duration::from_millis(4_500);

fn daemon_for(endpoint: &Endpoint) -> Daemon {
    Daemon::builder().config("webhook_url", endpoint.url()).config("webhook_secret", SECRET).start()
}

/// A daemon whose attempts do not end by themselves while a test lasts.
fn patient_daemon_for(endpoint: &Endpoint) -> Daemon {
    let webhook = json!({"name": "patient", "url": endpoint.url(), "timeout": "10m"});
    Daemon::builder().config("webhooks", json!([webhook])).start()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Both requests are one and the same webhook: same id, same bytes. What covers the time may differ.
#[track_caller]
fn assert_same_webhook(first: &Received, again: &Received) {
    assert_eq!(String::from_utf8_lossy(&first.body), String::from_utf8_lossy(&again.body));
    assert!(first.header("webhook-id").is_some(), "{first:?}");
    assert_eq!(first.header("webhook-id"), again.header("webhook-id"));
    assert_eq!(first.path, again.path);
    orgloop::read(again, Some(SECRET));
}

#[test]
fn body_and_headers_are_those_of_the_contract() {
    for secret in ["a plain secret", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
        let endpoint = Endpoint::start();
        let daemon =
            Daemon::builder().config("webhook_url", endpoint.url()).config("webhook_secret", secret).start();
        let here = fs::canonicalize(".").expect("a working directory");
        let here = here.to_str().expect("a path of UTF-8");
        let callback = ["--callback-session", "cb-1", "--callback-agent", "ag-2"];
        let flags = [&["--cwd", here, "--label", "team=core"][..], &callback].concat();
        let id = daemon.launch(&flags, "exit 42");
        let record = daemon.ended(&id);
        let requests = endpoint.wait_for(1);
        let request = &requests[0];
        assert_eq!(request.path, "/webhook/tests?of=agentctl");
        assert_eq!(orgloop::read(request, Some(secret)), ("failed", "failure"));

        let body = request.json();
        let mut expected = [
            "hook_type",
            "session_id",
            "cwd",
            "working_directory",
            "adapter",
            "duration_seconds",
            "exit_status",
            "summary",
            "transcript_path",
            "meta",
            "timestamp",
        ];
        expected.sort_unstable();
        assert_eq!(keys(&body), expected);
        assert_eq!(body["session_id"], id.as_str());
        assert_eq!(body["cwd"], here);
        assert_eq!((&body["working_directory"], &body["cwd"]), (&record["cwd"], &record["cwd"]));
        assert_eq!(body["adapter"], "exec");
        assert!(body["duration_seconds"].is_u64(), "{body}");
        assert_eq!(body["exit_status"], 42);
        assert_eq!(body["transcript_path"], record["logPath"]);
        assert!(daemon.file(&id, "stdout.log").exists());
        let sent = body["timestamp"].as_str().and_then(agentctl::wire::time::parse_rfc3339);
        assert!(sent.is_some_and(|sent| clock::now().wall.since(sent) < Duration::from_secs(60)), "{body}");

        let meta = &body["meta"];
        let fixed = json!({
            "run": 1, "outcome": "failed", "reason": "exit_code_42", "exit_known": true, "exit_code": 42,
            "signal": null, "group": null, "labels": {"team": "core"},
            "openclaw_callback_session_key": "cb-1", "openclaw_callback_agent_id": "ag-2",
        });
        for (key, value) in fixed.as_object().expect("an object") {
            assert_eq!(&meta[key], value, "{key}");
        }
        assert!(meta["usage"]["cpuSeconds"].is_f64() && meta["usage"]["maxRssBytes"].is_u64(), "{meta:#}");
        let events = daemon.events();
        let event = events.iter().find(|event| event["type"] == "session.error").expect("the terminal event");
        assert_eq!(meta["seq"], event["seq"]);
        assert_eq!((&meta["started_at"], &meta["stopped_at"]), (&record["startedAt"], &record["stoppedAt"]));
        let event_id = meta["event_id"].as_str().expect("an event id");
        assert_eq!(request.header("webhook-id"), Some(event_id));

        let verifier = match secret.starts_with("whsec_") {
            true => standardwebhooks::Webhook::new(secret).expect("a whsec_ secret"),
            false => standardwebhooks::Webhook::from_bytes(secret.as_bytes().to_vec()).expect("a secret"),
        };
        let mut headers = hyper::HeaderMap::new();
        for (name, value) in &request.headers {
            let name: hyper::header::HeaderName = name.parse().expect("a header name");
            headers.append(name, value.parse().expect("a header value"));
        }
        verifier.verify(&request.body, &headers).expect("an independent verifier accepts it");
        let mut forged = request.body.clone();
        forged.push(b' ');
        verifier.verify(&forged, &headers).expect_err("and not another body");
    }
}

#[test]
fn without_a_secret_nothing_pretends_to_be_a_signature() {
    let endpoint = Endpoint::start();
    let daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    daemon.launch(&[], "true");
    let requests = endpoint.wait_for(1);
    assert_eq!(orgloop::read(&requests[0], None), ("completed", "success"));
    let signed = |(name, _): &(String, String)| name.contains("signature");
    assert!(!requests[0].headers.iter().any(signed), "{:?}", requests[0].headers);
    assert!(requests[0].header("webhook-id").is_some());
}

#[test]
fn the_environment_beats_the_configuration() {
    let (configured, named) = (Endpoint::start(), Endpoint::start());
    let daemon = Daemon::builder()
        .config("webhook_url", configured.url())
        .config("webhook_secret", "of the file")
        .env("AGENTCTL_WEBHOOK_URL", &named.url())
        .env("AGENTCTL_WEBHOOK_SECRET", "of the environment")
        .start();
    let id = daemon.launch(&[], "true");
    daemon.ended(&id);
    orgloop::read(&named.wait_for(1)[0], Some("of the environment"));
    nothing_owed(&daemon);
    assert_eq!((named.received().len(), configured.received().len()), (1, 0));
}

#[test]
fn each_outcome_is_told_once_and_as_orgloop_needs_it() {
    let endpoint = Endpoint::start();
    let daemon = daemon_for(&endpoint);
    let failed_launch = |flags: &[&str], command: &str| {
        let command = ["--", command];
        let output = daemon.run(["launch", "--json"].iter().chain(flags).chain(&command));
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let record: Value = serde_json::from_slice(&output.stdout).expect("a record all the same");
        record["id"].as_str().expect("an id").to_owned()
    };
    let stopped = daemon.launch(&[], "exec sleep 300");
    assert!(daemon.run(["stop", &stopped]).status.success());
    // id, exit_status, outcome, reason, exit_code, signal
    let table = [
        (daemon.launch(&[], "exit 0"), 0, "completed", "exit_code_0", json!(0), json!(null)),
        (daemon.launch(&[], "exit 3"), 3, "failed", "exit_code_3", json!(3), json!(null)),
        (daemon.launch(&[], "exit 255"), 255, "failed", "exit_code_255", json!(255), json!(null)),
        (daemon.launch(&[], "kill -9 $$"), 137, "failed", "sigkill", json!(null), json!("SIGKILL")),
        (stopped, 143, "cancelled", "stop_requested", json!(null), json!("SIGTERM")),
        (
            daemon.launch(&["--timeout", "200ms"], "exec sleep 300"),
            124,
            "timed_out",
            "deadline",
            json!(null),
            json!("SIGTERM"),
        ),
        (failed_launch(&[], "/no/such"), 127, "launch_failed", "program_not_found", json!(null), json!(null)),
        (failed_launch(&[], "/etc/passwd"), 126, "launch_failed", "not_executable", json!(null), json!(null)),
        (
            failed_launch(&["--cwd", "/no/such"], "true"),
            126,
            "launch_failed",
            "cwd_missing",
            json!(null),
            json!(null),
        ),
    ];
    for (id, ..) in &table {
        daemon.ended(id);
    }
    nothing_owed(&daemon);
    assert_eq!(endpoint.received().len(), table.len());
    let mut event_ids = Vec::new();
    for (id, number, outcome, reason, code, signal) in &table {
        let about = endpoint.about(id);
        let [request] = about.as_slice() else { panic!("not one webhook of {outcome}: {about:?}") };
        let told = orgloop::read(request, Some(SECRET));
        let body = request.json();
        assert_eq!(body["exit_status"], *number, "{body}");
        let meta = &body["meta"];
        assert_eq!((&meta["outcome"], &meta["reason"]), (&json!(outcome), &json!(reason)));
        assert_eq!((&meta["exit_code"], &meta["signal"]), (code, signal), "{body}");
        assert_eq!(meta["exit_known"], *outcome != "launch_failed", "{body}");
        let expected = match number {
            0 => ("completed", "success"),
            1..=128 => ("failed", "failure"),
            _ => ("stopped", "cancelled"),
        };
        assert_eq!(told, expected, "{outcome}");
        event_ids.push(meta["event_id"].as_str().expect("an event id").to_owned());
    }
    event_ids.sort();
    event_ids.dedup();
    assert_eq!(event_ids.len(), table.len());

    let metrics = Metrics::scrape(&daemon);
    for (series, count) in [
        ("agentctl_sessions_active", 0.0),
        ("agentctl_launches_total", 9.0),
        ("agentctl_sessions_total{status=\"completed\"}", 1.0),
        ("agentctl_sessions_total{status=\"failed\"}", 3.0),
        ("agentctl_sessions_total{status=\"stopped\"}", 1.0),
        ("agentctl_sessions_total{status=\"timed_out\"}", 1.0),
        ("agentctl_sessions_total{status=\"launch_failed\"}", 3.0),
        ("agentctl_sessions_total{status=\"lost\"}", 0.0),
        ("agentctl_webhook_deliveries_total", 9.0),
        ("agentctl_webhook_attempts_failed_total", 0.0),
        ("agentctl_webhook_deliveries_dead_total", 0.0),
        ("agentctl_evidence_disagreements_total", 0.0),
        ("agentctl_exit_files_rejected_total", 0.0),
        ("agentctl_journal_writable", 1.0),
        ("agentctl_journal_write_failures_total", 0.0),
    ] {
        assert_eq!(metrics.get(series), count, "{series}");
    }
}

#[test]
fn a_receiver_that_was_down_is_told_after_the_first_retry() {
    let mut endpoint = Endpoint::start();
    endpoint.stop();
    let daemon = daemon_for(&endpoint);
    let before = clock::now().mono;
    let id = daemon.launch(&[], "exit 7");
    daemon.ended(&id);
    until("the first attempt to fail", || {
        (Metrics::scrape(&daemon).get("agentctl_webhook_attempts_failed_total") == 1.0).then_some(())
    });
    endpoint.resume();
    let requests = endpoint.wait_about(&id, 1);
    let waited = requests[0].at.since(before);
    assert!(waited > FIRST_RETRY_AT_LEAST, "only {waited:?}");
    assert_eq!(orgloop::read(&requests[0], Some(SECRET)), ("failed", "failure"));
    nothing_owed(&daemon);
    assert_eq!(endpoint.received().len(), 1);
}

#[test]
fn whatever_is_no_2xx_is_tried_again_with_the_same_bytes() {
    // Path-absolute, so that it leads back to the receiver.
    let elsewhere = "/elsewhere";
    let turns = [
        Turn::status(500),
        Turn::with(302, "Location", elsewhere),
        Turn::with(307, "Location", elsewhere),
        Turn::status(404),
        Turn::status(304),
        Turn::Reset,
        Turn::Close,
        Turn::late(Duration::from_millis(300)),
    ];
    let count = turns.len();
    let endpoint = Endpoint::scripted(turns);
    let daemon = daemon_for(&endpoint);
    let mut ids = Vec::new();
    for turn in 1..=count {
        // One after the other: the first attempt about each session takes its own turn of the script. The last
        // one is accepted, which makes those that wait due at once.
        let id = daemon.launch(&[], "exit 1");
        endpoint.wait_about(&id, 1);
        let failed = || Metrics::scrape(&daemon).get("agentctl_webhook_attempts_failed_total");
        let expected = turn.min(count - 1) as f64;
        until("the attempt to be over", || (failed() == expected).then_some(()));
        ids.push(id);
    }
    let accepted = ids.pop().expect("the last of them");
    for id in &ids {
        let both = endpoint.wait_about(id, 2);
        assert_same_webhook(&both[0], &both[1]);
    }
    nothing_owed(&daemon);
    // A late answer is an answer.
    assert_eq!(endpoint.about(&accepted).len(), 1);
    let all = endpoint.received();
    assert_eq!(all.len(), 2 * ids.len() + 1);
    assert!(all.iter().all(|request| request.path.starts_with("/webhook/")), "a redirect was followed");
}

#[test]
fn a_success_makes_waiting_deliveries_due_save_those_under_a_retry_after() {
    let turns = [
        Turn::with(503, "Retry-After", "8"),
        Turn::with(429, "Retry-After", "2"),
        Turn::status(503),
        Turn::status(204),
    ];
    let endpoint = Endpoint::scripted(turns);
    let daemon = daemon_for(&endpoint);
    let mut ids = Vec::new();
    for count in 1..=4 {
        ids.push(daemon.launch(&[], "true"));
        // The turns are taken in this order.
        endpoint.wait_for(count);
    }
    let waited = |id: &str| {
        let both = endpoint.wait_about(id, 2);
        assert_same_webhook(&both[0], &both[1]);
        both[1].at.since(both[0].at)
    };
    let (held_8s, held_2s, kicked) = (waited(&ids[0]), waited(&ids[1]), waited(&ids[2]));
    assert!(held_8s >= Duration::from_secs(8), "{held_8s:?}");
    // The schedule's five seconds are a lower bound: Retry-After only ever adds patience.
    assert!(held_2s >= FIRST_RETRY_AT_LEAST, "{held_2s:?}");
    // Not an upper bound on time, which a busy machine would break, but on order: it did not wait its turn.
    let order: Vec<_> = endpoint.received().iter().skip(4).map(Received::session).collect();
    assert_eq!(order.first(), Some(&ids[2]), "{order:?}, after {kicked:?}");
    nothing_owed(&daemon);
    assert_eq!(endpoint.received().len(), 7);
}

#[test]
fn silent_receivers_hold_up_neither_other_deliveries_nor_the_daemon() {
    let silent = CONCURRENT_ATTEMPTS_MAX - 1;
    let endpoint = Endpoint::scripted(vec![Turn::Silence; silent]);
    let daemon = patient_daemon_for(&endpoint);
    for count in 1..=silent {
        daemon.launch(&[], "true");
        endpoint.wait_for(count);
    }
    // One place is left, and its attempts are answered.
    for _ in 0..3 {
        let id = daemon.launch(&[], "true");
        endpoint.wait_about(&id, 1);
        assert_eq!(daemon.status(&id)["outcome"], "completed");
    }
    assert_eq!(endpoint.received().len(), silent + 3, "the silent ones are still under way");
    let owed = || Metrics::scrape(&daemon).get("agentctl_deliveries_pending");
    until("the answered ones to be over", || (owed() == silent as f64).then_some(()));
    // The connection's end ends the attempts; the success of another makes them due.
    endpoint.hang_up();
    let failed = || Metrics::scrape(&daemon).get("agentctl_webhook_attempts_failed_total");
    until("the silent attempts to be over", || (failed() == silent as f64).then_some(()));
    daemon.launch(&[], "true");
    nothing_owed(&daemon);
    assert_eq!(endpoint.received().len(), 2 * silent + 4);
}

#[test]
fn no_more_than_eight_attempts_are_under_way_at_once() {
    let endpoint = Endpoint::scripted(vec![Turn::Silence; CONCURRENT_ATTEMPTS_MAX]);
    let daemon = patient_daemon_for(&endpoint);
    for count in 1..=CONCURRENT_ATTEMPTS_MAX {
        daemon.launch(&[], "true");
        endpoint.wait_for(count);
    }
    let ninth = daemon.launch(&[], "true");
    daemon.ended(&ninth);
    // Whatever it would have been sent by is long over when these were answered.
    for _ in 0..10 {
        assert_eq!(daemon.status(&ninth)["outcome"], "completed");
    }
    assert_eq!(endpoint.received().len(), CONCURRENT_ATTEMPTS_MAX);
    endpoint.hang_up();
    endpoint.wait_about(&ninth, 1);
    nothing_owed(&daemon);
}

#[test]
fn a_verdict_whose_webhook_was_not_delivered_survives_the_daemon() {
    let mut endpoint = Endpoint::start();
    endpoint.stop();
    let mut daemon = daemon_for(&endpoint);
    let id = daemon.launch(&[], "exit 5");
    let record = daemon.ended(&id);
    daemon.kill();
    endpoint.resume();
    daemon.start();
    let requests = endpoint.wait_for(1);
    orgloop::read(&requests[0], Some(SECRET));
    let body = requests[0].json();
    assert_eq!((&body["session_id"], &body["exit_status"]), (&json!(id), &json!(5)));
    assert_eq!(body["meta"]["stopped_at"], record["stoppedAt"]);
    nothing_owed(&daemon);
    assert_eq!(endpoint.received().len(), 1);
    assert_eq!(daemon.status(&id)["outcome"], "failed");
}

#[test]
fn an_attempt_cut_by_the_daemons_death_is_repeated_with_the_same_bytes() {
    let endpoint = Endpoint::scripted([Turn::Silence]);
    let mut daemon = daemon_for(&endpoint);
    let id = daemon.launch(&[], "exit 5");
    endpoint.wait_about(&id, 1);
    daemon.kill();
    daemon.start();
    let both = endpoint.wait_about(&id, 2);
    assert_same_webhook(&both[0], &both[1]);
    nothing_owed(&daemon);
    // And once it is accepted and that is committed, as all is before the answer to a launch, a further start repeats
    // nothing.
    daemon.launch(&[], "exec sleep 300");
    daemon.kill();
    daemon.start();
    nothing_owed(&daemon);
    assert_eq!(endpoint.received().len(), 2);
}

#[test]
fn a_failed_attempt_is_remembered_by_the_next_daemon() {
    let endpoint = Endpoint::scripted([Turn::with(503, "Retry-After", "6")]);
    let mut daemon = daemon_for(&endpoint);
    let id = daemon.launch(&[], "exit 5");
    endpoint.wait_about(&id, 1);
    until("the attempt to be recorded", || {
        (Metrics::scrape(&daemon).get("agentctl_webhook_attempts_failed_total") == 1.0).then_some(())
    });
    // The gauge moves with the decision; the daemon's answer to a launch comes after the commit of all before it.
    let after = daemon.launch(&[], "exec sleep 300");
    daemon.kill();
    daemon.start();
    let both = endpoint.wait_about(&id, 2);
    assert_same_webhook(&both[0], &both[1]);
    let waited = both[1].at.since(both[0].at);
    assert!(waited >= Duration::from_millis(5_900), "the receiver's patience was forgotten: {waited:?}");
    assert_eq!(daemon.status(&after)["outcome"], Value::Null);
}

/// Every file below a directory, save those of that name.
fn files(dir: &Path, except: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        match entry.file_type().expect("a file type") {
            kind if kind.is_dir() => found.extend(files(&path, except)),
            kind if kind.is_file() && entry.file_name() != except => found.push(path),
            _ => {}
        }
    }
    found
}

#[test]
fn the_secret_is_nowhere_but_where_it_was_put() {
    const HIDDEN: &str = "5ecret-of-the-webhook";
    let mut endpoint = Endpoint::start();
    let daemon = Daemon::builder()
        .config("webhook_url", endpoint.url())
        .config("webhook_secret", HIDDEN)
        .env("AGENTCTL_WEBHOOK_SECRET", HIDDEN)
        .env("AGENTCTL_LOG", "trace")
        .start();
    let delivered = daemon.launch(&[], "env; exit 3");
    orgloop::read(&endpoint.wait_for(1)[0], Some(HIDDEN));
    endpoint.stop();
    let mut command = daemon.command(["launch", "--json", "--name", "owed", "--", "sh", "-c", "env; exit 4"]);
    command.env("AGENTCTL_WEBHOOK_SECRET", HIDDEN).env("AGENTCTL_WEBHOOK_URL", endpoint.url());
    assert!(command.output().expect("the command line runs").status.success());
    daemon.ended("owed");
    until("the refused attempt in the log", || {
        daemon.log().contains("a webhook was not accepted").then_some(())
    });

    let told = |arguments: &[&str]| {
        let output = daemon.run(arguments);
        assert!(output.status.success(), "{output:?}");
        let all = [output.stdout, output.stderr].concat();
        assert!(!all.is_empty(), "{arguments:?} says nothing");
        (format!("{arguments:?}"), all)
    };
    let mut places = vec![
        told(&["events", "--since", "0", "--no-follow"]),
        told(&["list", "-a"]),
        told(&["list", "-a", "--json"]),
        told(&["status", &delivered]),
        told(&["status", "owed", "--json"]),
        told(&["daemon", "status"]),
        told(&["daemon", "status", "--json"]),
        told(&["doctor"]),
        told(&["webhooks", "endpoints"]),
        told(&["webhooks", "endpoints", "--json"]),
        told(&["webhooks", "list", "--all"]),
        told(&["webhooks", "list", "--json"]),
        told(&["webhooks", "show", "2", "--json"]),
        told(&["webhooks", "show", "4"]),
        told(&["logs", "owed", "--raw"]),
    ];
    let cmdline = format!("/proc/{}/cmdline", daemon.pid());
    places.push((cmdline.clone(), fs::read(&cmdline).expect("our own child's command line")));
    for file in files(daemon.home(), "config.json") {
        places.push((file.display().to_string(), fs::read(&file).unwrap_or_default()));
    }
    assert!(places.iter().any(|(name, text)| name.ends_with("journal.db") && !text.is_empty()), "{places:?}");
    for (name, text) in places {
        let text = String::from_utf8_lossy(&text);
        assert!(!text.contains(HIDDEN), "the secret is in {name}: {text}");
        // The URL may carry a token of its own.
        assert!(!text.contains("of=agentctl"), "the URL is in {name}: {text}");
    }
}

#[test]
fn a_hundred_ends_in_one_instant_are_a_hundred_webhooks() {
    const COUNT: usize = 100;
    let endpoint = Endpoint::start();
    let daemon = daemon_for(&endpoint);
    let gate = daemon.home().join("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status().expect("mkfifo runs");
    assert!(made.success());
    // Open for reading and writing: neither this nor any reader waits for the other.
    let held = File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .open(&gate)
        .expect("the gate");
    let script = format!("exec <{}; echo waits; read line; exit 9", gate.display());
    let mut ids = Vec::new();
    thread::scope(|scope| {
        let launch = || (0..COUNT / 4).map(|_| daemon.launch(&[], &script)).collect::<Vec<_>>();
        let launchers: Vec<_> = (0..4).map(|_| scope.spawn(launch)).collect();
        for launcher in launchers {
            ids.extend(launcher.join().expect("all launches"));
        }
    });
    for id in &ids {
        until("a session to wait at the gate", || (daemon.stdout(id) == "waits\n").then_some(()));
    }
    assert_eq!(Metrics::scrape(&daemon).get("agentctl_sessions_active"), COUNT as f64);
    // The last writer closes: every reader sees the end at once.
    drop(held);
    let received = endpoint.wait_for(COUNT);
    nothing_owed(&daemon);
    assert_eq!(endpoint.received().len(), COUNT);
    let distinct = |of: &dyn Fn(&Received) -> String| {
        let mut all: Vec<_> = received.iter().map(of).collect();
        all.sort();
        all.dedup();
        all
    };
    ids.sort();
    assert_eq!(distinct(&Received::session), ids);
    assert_eq!(distinct(&|request| request.header("webhook-id").unwrap_or_default().to_owned()).len(), COUNT);
    for request in &received {
        assert_eq!(orgloop::read(request, Some(SECRET)), ("failed", "failure"));
    }
    let metrics = Metrics::scrape(&daemon);
    for series in [
        "agentctl_launches_total",
        "agentctl_sessions_total{status=\"failed\"}",
        "agentctl_webhook_deliveries_total",
        "agentctl_session_duration_seconds_count",
    ] {
        assert_eq!(metrics.get(series), COUNT as f64, "{series}");
    }
    assert_eq!(metrics.get("agentctl_webhook_attempts_failed_total"), 0.0);
}
