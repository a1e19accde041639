//! Signals of trouble: agents that live on after their work, and sessions that show no sign of life. The agent is a script
//! in the place of codex.

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::openmetrics::Metrics;
use crate::support::play::{program, stderr, until_gone};
use crate::support::wait::until;

const DONE: &str = r#"echo '{"type":"turn.completed","usage":{"input_tokens":1,"output_tokens":1}}'"#;
const GAVE_UP: &str = r#"echo '{"type":"turn.failed","error":{"message":"no key"}}'"#;
const GOES_ON: &str = r#"echo '{"type":"turn.started"}'"#;
/// Without a child, for as long as it may.
const STAYS: &str = "exec sleep 1000";

impl Daemon {
    /// Launches this script as codex; the id.
    #[track_caller]
    fn codex(&self, flags: &[&str], script: &str) -> String {
        let bin = tempfile::tempdir_in(self.home()).expect("a directory").keep();
        program(&bin.join("codex"), &format!("#!/bin/sh\n{script}\n"));
        let path = format!("PATH={}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
        let arguments = ["launch", "codex", "--json", "-p", "x", "--env", &path];
        let record = self.json(arguments.iter().chain(flags));
        record["id"].as_str().unwrap_or_else(|| panic!("no id in {record}")).to_owned()
    }

    /// How often this was told of a session.
    fn told(&self, id: &str, kind: &str) -> usize {
        self.event_types(id).iter().filter(|told| *told == kind).count()
    }

    #[track_caller]
    fn until_told(&self, id: &str, kind: &str) -> Value {
        until(kind, || {
            self.events().into_iter().find(|event| event["sessionId"] == id && event["type"] == kind)
        })
    }
}

#[test]
fn an_agent_that_lives_on_after_its_work_is_told_to_linger_and_lives() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.codex(&[], &format!("{DONE}\n{}\n{GOES_ON}\n{STAYS}", gate.wait()));
    let event = daemon.until_told(&id, "session.lingering");
    let since = event["session"]["meta"]["lingering"]["since"].as_str().expect("since when").to_owned();
    let record = daemon.status(&id);
    assert_eq!((&record["status"], &record["phase"]), (&json!("idle"), &json!("running")), "{record:#}");
    assert_eq!(record["meta"]["lingering"]["since"], json!(since));
    let listed = daemon.json(["list", "--json"]);
    assert_eq!(listed[0]["meta"]["lingering"]["since"], json!(since));
    let shown = daemon.run(["status", &id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("done by its own word"), "{shown:?}");
    let metrics = Metrics::scrape(&daemon);
    for (series, count) in [("agentctl_sessions_lingering", 1.0), ("agentctl_session_lingering_total", 1.0)] {
        assert_eq!(metrics.get(series), count, "{series}");
    }
    // Found again after a restart, and told again.
    daemon.kill();
    daemon.start();
    until("lingering, again", || (daemon.told(&id, "session.lingering") == 2).then_some(()));
    // It works again.
    gate.open();
    let record = daemon.until_status(&id, "work", |record| record["meta"]["lingering"].is_null());
    assert_eq!(record["phase"], "running", "{record:#}");
    assert_eq!(Metrics::scrape(&daemon).get("agentctl_sessions_lingering"), 0.0);
    daemon.run(["stop", &id]);
    assert_eq!(daemon.ended(&id)["reason"], "stop_requested");
}

#[test]
fn one_that_may_linger_for_so_long_is_ended_politely_and_that_is_no_success() {
    let daemon = Daemon::new();
    // One that is ready to end with a code of its own when it says that it is done.
    let polite = format!("trap 'exit 0' TERM\n{DONE}\nwhile :; do sleep 0.1; done");
    // What it does; its code; the signal; what `wait` exits with; what it said.
    let table = [
        (format!("{DONE}\n{STAYS}"), json!(null), json!("SIGTERM"), 143, "success"),
        (polite, json!(0), json!(null), 143, "success"),
        (format!("{GAVE_UP}\n{STAYS}"), json!(null), json!("SIGTERM"), 143, "a failure (no key)"),
    ];
    for (number, (script, code, signal, status, said)) in table.into_iter().enumerate() {
        let id = daemon.codex(&["--linger", "1s"], &script);
        let leader = daemon.leader(&id);
        let record = daemon.ended(&id);
        let told = ["outcome", "reason", "status", "exitCode", "signal", "exitStatus"]
            .map(|key| record[key].clone());
        let expected = [json!("cancelled"), json!("lingered"), json!("stopped"), code, signal, json!(status)];
        assert_eq!(told, expected, "{number}: {record:#}");
        let message = record["meta"]["message"].as_str().unwrap_or_default();
        assert!(message.contains(&format!("had reported {said} and did not exit")), "{message}");
        assert!(record["evidence"].to_string().contains("did not exit"), "{record:#}");
        until_gone(&leader);
        let mut types = daemon.event_types(&id);
        // Whether it was idle for long enough to be told is chance.
        types.retain(|kind| kind != "session.idle");
        assert_eq!(types, ["session.started", "session.lingering", "session.stopped"]);
    }
}

#[test]
fn one_that_exits_in_time_has_its_own_outcome() {
    let daemon = Daemon::new();
    let id = daemon.codex(&["--linger", "60s"], DONE);
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["reason"]), (&json!("completed"), &json!("exit_code_0")));
    assert_eq!(daemon.told(&id, "session.lingering"), 0);
}

#[test]
fn what_was_configured_holds_for_agents_and_a_flag_beats_it() {
    let daemon = Daemon::builder().config("linger", "1s").start();
    let spared = daemon.codex(&["--linger", "0"], &format!("{DONE}\n{STAYS}"));
    let ended = daemon.codex(&[], &format!("{DONE}\n{STAYS}"));
    assert_eq!(daemon.ended(&ended)["reason"], "lingered");
    daemon.until_told(&spared, "session.lingering");
    assert_eq!(daemon.status(&spared)["phase"], "running");
    // A command says nothing of its work: the configuration does not touch it, and a flag is refused.
    let id = daemon.launch(&[], "exit 0");
    assert_eq!(daemon.ended(&id)["outcome"], "completed");
    let refused = daemon.run(["launch", "exec", "--linger", "1s", "--", "true"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(stderr(&refused).contains("nobody reads what exec prints"), "{refused:?}");
}

#[test]
fn a_session_without_a_sign_of_life_is_told_to_be_stuck_once_and_lives() {
    let endpoint = Endpoint::start();
    let webhook = json!({
        "name": "clouds", "url": endpoint.url(), "format": "cloudevents", "events": ["session.stuck"],
    });
    let daemon = Daemon::builder().config("webhooks", json!([webhook])).start();
    // Launched before it, so looked at as often when it is told.
    let child = daemon.launch(&["--stuck", "1s"], "sleep 1000 & wait");
    let busy = daemon.launch(&["--stuck", "1s"], "while :; do :; done");
    let unwatched = daemon.launch(&[], STAYS);
    let id = daemon.launch(&["--stuck", "1s"], STAYS);
    let event = daemon.until_told(&id, "session.stuck");
    let since = &event["session"]["meta"]["stuck"]["since"];
    assert!(since.is_string(), "{event}");
    let record = daemon.status(&id);
    assert_eq!(
        (&record["meta"]["stuck"]["since"], &record["phase"]),
        (since, &json!("running")),
        "{record:#}"
    );
    for (other, what) in [(&child, "it has a child"), (&busy, "it computes"), (&unwatched, "nobody asked")] {
        assert_eq!(daemon.told(other, "session.stuck"), 0, "{what}");
    }
    let received = endpoint.wait_about(&id, 1);
    assert_eq!(received[0].json()["type"], "session.stuck");
    let metrics = Metrics::scrape(&daemon);
    for (series, count) in [("agentctl_sessions_stuck", 1.0), ("agentctl_session_stuck_total", 1.0)] {
        assert_eq!(metrics.get(series), count, "{series}");
    }
    // Looked at again and again; told once.
    let another = daemon.launch(&["--stuck", "1s"], STAYS);
    daemon.until_told(&another, "session.stuck");
    assert_eq!(daemon.told(&id, "session.stuck"), 1);
    daemon.run(["stop", &id]);
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["meta"]["stuck"]), (&json!("cancelled"), &Value::Null));
}

#[test]
fn the_child_of_a_launcher_is_the_agent_and_a_tool_is_work_under_way() {
    let daemon = Daemon::builder().config("stuck", "1s").start();
    let tool = daemon.codex(&[], "setsid sleep 1000 & wait");
    let launcher = daemon.codex(&[], "sleep 1000 & wait");
    daemon.until_told(&launcher, "session.stuck");
    assert_eq!(daemon.told(&tool, "session.stuck"), 0, "launched before, so looked at as often");
}

#[test]
fn what_it_prints_ends_the_spell_and_the_next_one_is_told_again() {
    let mut daemon = Daemon::builder().config("stuck", "1s").start();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; echo again; {STAYS}", gate.wait()));
    daemon.until_told(&id, "session.stuck");
    gate.open();
    daemon.until_status(&id, "a sign of life", |record| record["meta"]["stuck"].is_null());
    until("stuck, again", || (daemon.told(&id, "session.stuck") == 2).then_some(()));
    // And it is found again after a restart.
    daemon.kill();
    daemon.start();
    until("stuck, after a restart", || (daemon.told(&id, "session.stuck") == 3).then_some(()));
    let refused = daemon.run(["launch", "exec", "--stuck", "10ms", "--", "true"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(stderr(&refused).contains("stuck: 10ms is too short"), "{refused:?}");
}
