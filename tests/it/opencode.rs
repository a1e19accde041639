//! The real opencode under the daemon: what `agents.rs` does not ask of every agent. Needs `.ci/install-agents`.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use agentctl::wire::time::parse_rfc3339;
use serde_json::{Value, json};

use crate::support::real_agent::{Agent, RealAgent};
use crate::support::stage::{COMPLETED, Expected, Stage, carriers, command_of};
use crate::support::wait::until;

#[test]
fn success_is_told_with_tokens_cost_and_words() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode under the daemon: success") else { return };
    let output = stage.ask("run", "hello", "[[reply:hello there]]", &["--model", "fake/fake-1"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(" completed") && stderr.contains("exit_file"), "{stderr}");
    let id = stage.daemon.status("hello")["id"].as_str().expect("an id").to_owned();
    let record = stage.verdict(&id, &COMPLETED);
    assert_eq!(
        (&record["model"], &record["prompt"]),
        (&json!("fake/fake-1"), &json!("[[reply:hello there]]"))
    );
    assert_eq!(stage.daemon.json(["peek", &id, "--json"]), json!(["hello there"]));
    assert!(String::from_utf8_lossy(&stage.daemon.run(["peek", &id]).stdout).contains("hello there"));
    assert_eq!(stage.endpoint.received()[0].json()["summary"], "[[reply:hello there]]");
}

#[test]
fn ends_by_itself_in_every_way_that_takes_no_time() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode under the daemon: natural ends") else { return };
    let failed = Expected { outcome: "failed", ..COMPLETED };
    let table = [
        ("tool", "[[tool:bash:exit 3]] [[reply:so what]]", None, Expected { steps: Some(2), ..COMPLETED }),
        (
            "model",
            "hi",
            Some("fake/unheard-of"),
            Expected {
                reason: "exit_code_1",
                code: Some(1),
                number: 1,
                message: Some("UnknownError: Unexpected server error. Check server logs for details. (err_"),
                steps: None,
                ..failed
            },
        ),
        (
            "key",
            "[[error:401]]",
            None,
            Expected {
                reason: "exit_code_1",
                code: Some(1),
                number: 1,
                message: Some("APIError: fake error 401 (status 401)"),
                steps: None,
                ..failed
            },
        ),
        (
            "length",
            "[[length]] [[reply:cut o]]",
            None,
            Expected {
                reason: "agent_reported_error",
                code: Some(0),
                number: 1,
                message: Some("ended with finish reason `length`"),
                ..failed
            },
        ),
    ];
    // One after the other: of many that start at once in one home, one may end with "database is locked".
    for (name, prompt, model, expected) in &table {
        let flags: Vec<_> = model.iter().flat_map(|model| ["--model", model]).collect();
        stage.verdict(&stage.launch(name, prompt, &flags), expected);
    }
    assert_eq!(stage.endpoint.received().len(), table.len());
}

#[test]
fn a_minute_of_work_is_never_shown_as_ended_early() {
    let Some(opencode) = RealAgent::find(Agent::Opencode, "opencode under the daemon: a minute of work")
    else {
        return;
    };
    let stage = Stage::at_any_time(opencode);
    let prompt = "[[sleep:21]] [[tool:bash:sleep 20]] [[reply:after a minute]]";
    let id = stage.launch("long", prompt, &[]);
    let record = thread::scope(|scope| {
        let other = scope.spawn(|| {
            stage.asked(1);
            // Comes and goes in the same directory while the first one works.
            let id = stage.launch("other", "[[reply:short]]", &[]);
            stage.verdict(&id, &COMPLETED);
            assert_eq!(stage.daemon.status("long")["status"], "running");
        });
        let record = stage.watch_to_the_end(&id);
        other.join().expect("the other session");
        record
    });
    let at = |key: &str| record[key].as_str().and_then(parse_rfc3339).expect("a time");
    assert!(at("stoppedAt").since(at("startedAt")) >= Duration::from_secs(60), "{record}");
    stage.verdict(&id, &Expected { steps: Some(2), ..COMPLETED });
    assert_eq!(stage.daemon.json(["peek", &id, "-n", "1", "--json"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn silent_retries_after_http_500_are_work_until_the_deadline_ends_them() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode under the daemon: HTTP 500") else { return };
    let id = stage.launch("retries", "[[error:500]]", &["--timeout", "10m", "--grace", "2s"]);
    // It meets the failing model more than once, and prints nothing of it.
    stage.asked(2);
    stage.daemon.json(["extend", &id, "2s", "--json"]);
    stage.watch_to_the_end(&id);
    stage.verdict(&id, &TIMED_OUT);
    assert_eq!(stage.daemon.stdout(&id), "");
}

const TIMED_OUT: Expected<'static> = Expected {
    outcome: "timed_out",
    reason: "deadline",
    code: None,
    signal: Some("SIGTERM"),
    number: 124,
    prongs: &["deadline", "exit_file", "pidfd"],
    message: None,
    steps: None,
};

#[test]
fn a_model_that_never_answers_is_ended_by_the_deadline() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode under the daemon: silence") else { return };
    let id = stage.launch("hang", "[[hang]]", &["--timeout", "10m"]);
    stage.asked(1);
    let began = stage.daemon.json(["extend", &id, "2s", "--json"]);
    let record = stage.watch_to_the_end(&id);
    assert_eq!(began["timeoutAt"], record["timeoutAt"]);
    let at = |key: &str| record[key].as_str().and_then(parse_rfc3339).expect("a time");
    assert!(at("stoppedAt") >= at("timeoutAt"), "{record}");
    stage.verdict(&id, &TIMED_OUT);
    assert_eq!(carriers(&id), [0; 0]);
}

#[test]
fn a_killed_opencode_failed_by_sigkill() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode under the daemon: SIGKILL") else { return };
    // One whole step, then silence: what that step used is known, and counts although nobody tells a sum.
    let id = stage.launch("victim", "[[tool:bash:true]] [[error:500]]", &[]);
    stage.asked(2);
    // It may ask for the next step before it has written the end of the last.
    until("the step to be written", || stage.daemon.stdout(&id).contains("\"step_finish\"").then_some(()));
    let leader = stage.leader(&id);
    assert!(command_of(leader.pid()).contains("opencode run --format json"), "{}", command_of(leader.pid()));
    leader.signal(9).expect("a live leader");
    stage.verdict(
        &id,
        &Expected {
            outcome: "failed",
            reason: "sigkill",
            code: None,
            signal: Some("SIGKILL"),
            number: 137,
            ..COMPLETED
        },
    );
}

#[test]
fn stop_ends_a_tool_that_left_its_session_too() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode under the daemon: stop") else { return };
    let prompt = "[[tool:bash:(setsid sleep 300 &) ; sleep 299]]";
    let id = stage.launch("stopped", prompt, &["--grace", "5s"]);
    stage.until_runs(&id, "sleep 300");
    stage.until_runs(&id, "sleep 299");
    let output = stage.daemon.run(["stop", &id]);
    // Nobody is left at the moment of the answer, not some time after it.
    assert_eq!(carriers(&id), [0; 0], "{output:?}");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let expected = Expected {
        outcome: "cancelled",
        reason: "stop_requested",
        code: None,
        signal: Some("SIGTERM"),
        number: 143,
        prongs: &["stop", "exit_file", "pidfd", "tree_gone"],
        steps: None,
        ..COMPLETED
    };
    let record = stage.verdict(&id, &expected);
    assert_eq!(record["leftovers"], 0);
    // Read at the end, however short the session was: without it nobody can resume what was stopped.
    assert!(record["nativeId"].as_str().is_some_and(|native| native.starts_with("ses_")), "{record}");
}

#[test]
fn two_first_starts_in_a_fresh_home_both_complete() {
    let Some(stage) = Stage::new(Agent::Opencode, "opencode under the daemon: two first starts") else {
        return;
    };
    let (one, two) = thread::scope(|scope| {
        let one = scope.spawn(|| stage.launch("one", "[[reply:1]]", &[]));
        let two = scope.spawn(|| stage.launch("two", "[[reply:2]]", &[]));
        (one.join().expect("a launch"), two.join().expect("a launch"))
    });
    let (one, two) = (stage.verdict(&one, &COMPLETED), stage.verdict(&two, &COMPLETED));
    assert_ne!(one["nativeId"], two["nativeId"]);
}

#[test]
fn the_daemons_death_is_none_of_opencodes_business() {
    let Some(mut stage) = Stage::new(Agent::Opencode, "opencode under the daemon: the daemon killed") else {
        return;
    };
    let gate = |name: &str| stage.home.path().join(name);
    let (away, back) = (gate("away"), gate("back"));
    let wait_for = |path: &PathBuf| {
        format!(
            "[[tool:bash:echo > {0}.met; until test -e {0}; do sleep 0.1; done]] [[reply:met]]",
            path.display()
        )
    };
    // One ends while there is no daemon, the other under the next one.
    let first = stage.launch("away", &wait_for(&away), &[]);
    let second = stage.launch("back", &wait_for(&back), &[]);
    for met in ["away.met", "back.met"] {
        until("both tools to run", || stage.home.path().join(met).exists().then_some(()));
    }
    let pids = [&first, &second].map(|id| stage.daemon.status(id)["pid"].clone());
    stage.daemon.kill();
    fs::write(&away, "").expect("open the gate");
    let exit = stage.daemon.home().join("exits").join(format!("{first}.1.json"));
    until("the exit file of the first", || exit.exists().then_some(()));
    stage.daemon.start();
    let twice = Expected { steps: Some(2), ..COMPLETED };
    let record = stage.verdict(&first, &Expected { prongs: &["exit_file"], ..twice });
    assert_eq!(record["pid"], pids[0]);
    let live = stage.daemon.status(&second);
    assert_eq!((&live["status"], &live["outcome"]), (&json!("running"), &Value::Null));
    assert_eq!(live["pid"], pids[1]);
    fs::write(&back, "").expect("open the gate");
    stage.verdict(&second, &twice);
    assert_eq!(stage.endpoint.received().len(), 2);
}
