//! The real opencode, talked to in ACP under the daemon, against a scripted model. Needs `.ci/install-agents`.

use std::fs;

use serde_json::{Value, json};

use crate::support::real_agent::Agent;
use crate::support::stage::{COMPLETED, Expected, Stage, carriers};
use crate::support::wait::until;

const ACP: [&str; 3] = ["--acp", "--model", "fake/fake-1"];

/// How often the agent was given a prompt: once a line of the scripted model's first step.
fn prompts(stage: &Stage, text: &str) -> usize {
    let mut asked: Vec<_> = stage.model.requests();
    asked.retain(|request| !request.tools.is_empty());
    let texts = asked.iter().map(|request| request.user_texts());
    texts.map(|texts| texts.iter().filter(|said| said.contains(text)).count()).max().unwrap_or_default()
}

#[test]
fn a_turn_with_a_tool_is_told_and_ended() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode over ACP: success") else { return };
    let prompt = "say \"it\" [[tool:bash:echo acp]] [[reply:done acp]]";
    let id = stage.launch("talked", prompt, &ACP);
    // Cost as the agent tells it of its conversation, tokens by its store.
    let record = stage.verdict(&id, &Expected { steps: Some(2), ..COMPLETED });
    assert!(record["nativeId"].as_str().is_some_and(|native| native.starts_with("ses_")), "{record}");
    assert_eq!(stage.daemon.json(["peek", &id, "--json"]), json!(["done acp"]));
    assert_eq!(prompts(&stage, prompt), 1);
}

#[test]
fn failures_are_told_in_its_words() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode over ACP: failures") else { return };
    for (name, prompt, model, message) in [
        ("key", "[[error:401]]", "fake/fake-1", "fake error 401 (code -32603)"),
        ("model", "hi", "fake/unheard-of", "model not found: fake/unheard-of (code -32602)"),
    ] {
        let id = stage.launch(name, prompt, &["--acp", "--model", model]);
        let failed = Expected { outcome: "failed", reason: "agent_reported_error", number: 1, ..COMPLETED };
        stage.verdict(&id, &Expected { steps: None, message: Some(message), ..failed });
    }
}

#[test]
fn a_daemon_killed_in_the_middle_is_none_of_its_business() {
    let Some(mut stage) = Stage::new(Agent::Opencode, "opencode over ACP: the daemon killed") else { return };
    let gate = stage.home.path().join("gate");
    let wait = format!("echo > {0}.met; until test -e {0}; do sleep 0.1; done", gate.display());
    let prompt = format!("[[tool:bash:{wait}]] [[reply:met]]");
    let id = stage.launch("held", &prompt, &ACP);
    let met = stage.home.path().join("gate.met");
    until("the tool to run", || met.exists().then_some(()));
    let before = stage.daemon.status(&id);
    assert!(before["nativeId"].is_string(), "{before}");
    stage.daemon.kill();
    stage.daemon.start();
    let live = stage.daemon.status(&id);
    assert_eq!(
        (&live["status"], &live["outcome"], &live["pid"]),
        (&json!("running"), &Value::Null, &before["pid"])
    );
    stage.daemon.kill();
    fs::write(&gate, "").expect("open the gate");
    let log = stage.daemon.file(&id, "stdout.log");
    until("the end of the turn", || fs::read_to_string(&log).ok()?.contains("stopReason").then_some(()));
    stage.daemon.start();
    let record = stage.verdict(&id, &Expected { steps: None, prongs: &["exit_file"], ..COMPLETED });
    assert_eq!((&record["pid"], &record["nativeId"]), (&before["pid"], &before["nativeId"]));
    assert_eq!(prompts(&stage, "reply:met"), 1);
}

#[test]
fn a_stop_cancels_the_turn() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode over ACP: stop") else { return };
    let id = stage.launch("stopped", "[[tool:bash:(setsid sleep 300 &) ; sleep 299]]", &ACP);
    stage.until_runs(&id, "sleep 299");
    let output = stage.daemon.run(["stop", &id]);
    assert_eq!((carriers(&id).len(), output.status.code()), (0, Some(0)), "{output:?}");
    let record = stage.daemon.ended(&id);
    assert!(
        stage.daemon.stdout(&id).contains("\"stopReason\":\"cancelled\""),
        "{}",
        stage.daemon.stdout(&id)
    );
    assert_eq!((&record["outcome"], &record["signal"]), (&json!("cancelled"), &Value::Null), "{record:#}");
}

#[test]
fn a_conversation_is_taken_up_again() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode over ACP: resume") else { return };
    let id = stage.launch("again", "[[reply:one]]", &ACP);
    let first = stage.verdict(&id, &Expected { steps: None, ..COMPLETED });
    let output = stage.command(&["resume", &id, "[[reply:two]]"]);
    assert!(output.status.success(), "{output:?}");
    let record = stage.verdict(&id, &COMPLETED);
    assert_eq!((&record["run"], &record["nativeId"]), (&json!(2), &first["nativeId"]));
    assert_eq!(stage.daemon.json(["peek", &id, "-n", "1", "--json"]), json!(["two"]));
}
