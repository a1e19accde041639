//! `resume`: another run of the same session, in the agent's own conversation. The agent is a script here, in the place
//! of codex, whose totals go on across runs; `agents.rs` has the real ones.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::openmetrics::nothing_owed;
use crate::support::play::{program, stderr, stdout};
use crate::support::wait::until;

/// Notes its arguments and its prompt, says the next total of its conversation, and does what the prompt says.
const CODEX: &str = r#"#!/bin/sh
echo "$@" >> "$HOME/asked"
prompt=$(cat)
echo "$prompt" >> "$HOME/asked"
echo '{"type":"thread.started","thread_id":"thread-1"}'
n=$(($(cat "$HOME/total" 2>/dev/null || echo 0) + 100)); echo $n > "$HOME/total"
eval "$prompt"
echo '{"type":"item.completed","item":{"type":"agent_message","text":"said '$n'"}}'
echo '{"type":"turn.completed","usage":{"input_tokens":'$n',"cached_input_tokens":0,"output_tokens":1}}'
"#;

struct Stage {
    daemon: Daemon,
    endpoint: Endpoint,
    home: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let endpoint = Endpoint::start();
        let daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
        let home = tempfile::tempdir().expect("a home");
        program(&home.path().join("codex"), CODEX);
        Self { daemon, endpoint, home }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.daemon.run_at(self.home.path(), arguments)
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    #[track_caller]
    fn ended(&self, id: &str) -> Value {
        let output = self.run(&["wait", id, "--json"]);
        let records: Value = serde_json::from_slice(&output.stdout).expect("records");
        records[0].clone()
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.home.path().join("asked")).unwrap_or_default()
    }

    fn gate(&self) -> PathBuf {
        self.home.path().join("gate")
    }

    fn wait_at_gate(&self) -> String {
        format!("until test -e {}; do sleep 0.05; done", self.gate().display())
    }
}

#[test]
fn a_resumed_session_is_the_same_with_another_run() {
    let stage = Stage::new();
    let first = stage.json(&["launch", "codex", "--json", "-n", "work", "--model", "m", "-p", "true"]);
    let id = first["id"].as_str().expect("an id").to_owned();
    let first = stage.ended(&id);
    assert_eq!(
        (&first["outcome"], &first["nativeId"], &first["run"]),
        (&json!("completed"), &json!("thread-1"), &json!(1))
    );
    assert_eq!(first["tokens"]["in"], 100);

    let output = stage.run(&["resume", "work", "exit 3"]);
    assert_eq!(
        stdout(&output).split(" (PID").next(),
        Some(&*format!("Resumed session {}", &id[..8])),
        "{output:?}"
    );
    let second = stage.ended(&id);
    let told = |record: &Value| {
        ["id", "run", "outcome", "exitCode", "prompt", "model", "cwd", "nativeId"]
            .map(|key| record[key].clone())
    };
    let cwd = &first["cwd"];
    assert_eq!(
        told(&second),
        [
            json!(id),
            json!(2),
            json!("failed"),
            json!(3),
            json!("exit 3"),
            json!("m"),
            cwd.clone(),
            json!("thread-1")
        ]
    );

    let third = stage.json(&["resume", &id, "true", "--json"]);
    assert_eq!(third["run"], 3);
    let third = stage.ended(&id);
    // The conversation is at 300, of which the first run told 100 and the second nothing: what a run never told comes with the next.
    assert_eq!((&third["outcome"], &third["tokens"]["in"]), (&json!("completed"), &json!(200)));
    let bypass = "--json --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox --model=m";
    let asked = format!(
        "exec {bypass} -\ntrue\nexec resume {bypass} thread-1 -\nexit 3\nexec resume {bypass} thread-1 -\ntrue\n"
    );
    assert_eq!(stage.asked(), asked);
    // Each run has words of its own.
    assert_eq!(stage.json(&["peek", &id, "--json"]), json!(["said 300"]));
    assert_eq!(stage.json(&["peek", &id, "--json", "--run", "1"]), json!(["said 100"]));
    assert_eq!(stdout(&stage.run(&["logs", &id, "--run", "1"])), "said 100\n");
    assert_eq!(stdout(&stage.run(&["logs", "-f", &id, "--run", "1"])), "said 100\n");
    let none = stage.run(&["logs", &id, "--run", "4"]);
    assert!(stderr(&none).contains("has no run \"4\"; its runs are 1 to 3"), "{none:?}");
    assert!(third["logPath"].as_str().is_some_and(|path| path.ends_with("/stdout.3.log")), "{third}");

    nothing_owed(&stage.daemon);
    let runs: Vec<_> =
        stage.endpoint.about(&id).iter().map(|request| request.json()["meta"]["run"].clone()).collect();
    assert_eq!(runs, [1, 2, 3]);
    let events = stdout(&stage.run(&["events", "--since", "0", "--no-follow"]));
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let kinds: Vec<_> = events
        .iter()
        .map(|event| (event["type"].as_str().unwrap_or_default(), event["run"].clone()))
        .collect();
    let expected = [
        ("session.started", 1),
        ("session.stopped", 1),
        ("session.resumed", 2),
        ("session.error", 2),
        ("session.resumed", 3),
        ("session.stopped", 3),
    ];
    assert_eq!(kinds, expected.map(|(kind, run)| (kind, json!(run))));
}

/// Clients that take one session up at the same time.
const AT_ONCE: usize = 8;

#[test]
fn of_several_at_once_one_goes_on_with_its_own_message() {
    let stage = Stage::new();
    let first = stage.json(&["launch", "codex", "--json", "-p", "true"]);
    let id = first["id"].as_str().expect("an id").to_owned();
    stage.ended(&id);
    let env =
        json!({"HOME": stage.home.path(), "PATH": format!("{}:/usr/bin:/bin", stage.home.path().display())});
    for round in 2..6 {
        let ask = |client: usize| {
            let message = format!(": message {round}.{client}");
            let body = json!({"message": message, "queue": true, "env": env}).to_string();
            let (status, answer) = stage.daemon.http("POST", &format!("/v1/sessions/{id}/resume"), "", &body);
            (status, serde_json::from_str::<Value>(&answer).expect("a document"))
        };
        let answers: Vec<_> = std::thread::scope(|scope| {
            let asked: Vec<_> = (0..AT_ONCE).map(|client| scope.spawn(move || ask(client))).collect();
            asked.into_iter().map(|asked| asked.join().expect("a client")).collect()
        });
        let mut taken: Vec<&Value> =
            answers.iter().filter(|(status, _)| *status == 201).map(|(_, record)| record).collect();
        let refused = answers.iter().filter(|(status, _)| *status == 409).count();
        assert!(!taken.is_empty() && taken.len() + refused == AT_ONCE, "{answers:?}");
        // One that came when another had ended went on after it.
        taken.sort_by_key(|record| record["run"].as_u64());
        let own: Vec<_> = taken.iter().map(|record| record["prompt"].as_str().expect("a message")).collect();
        assert_eq!(stage.ended(&id)["run"], taken[taken.len() - 1]["run"]);
        let said = stage.asked();
        let of_round = format!(": message {round}.");
        let said: Vec<_> = said.lines().filter(|line| line.starts_with(&of_round)).collect();
        assert_eq!(said, own);
    }
}

#[test]
fn what_cannot_be_resumed_is_refused_in_words() {
    let stage = Stage::new();
    let refused = |arguments: &[&str]| {
        let output = stage.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        stderr(&output)
    };
    assert!(refused(&["resume", "nobody", "go on"]).contains("Session not found: nobody"));

    let live = stage.json(&["launch", "codex", "--json", "-n", "live", "-p", &stage.wait_at_gate()]);
    until("the agent to be up", || (!stage.daemon.status("live")["nativeId"].is_null()).then_some(()));
    assert!(refused(&["resume", "live", "go on"]).contains("is still running"));
    fs::write(stage.gate(), "").expect("open the gate");
    stage.ended(live["id"].as_str().expect("an id"));
    assert!(refused(&["resume", "live", "  "]).contains("the message to go on with is empty"));

    assert_eq!(stage.run(&["run", "exec", "-n", "plain", "--", "true"]).status.code(), Some(0));
    assert!(refused(&["resume", "plain", "go on"]).contains("adapter exec cannot resume a session"));

    program(&stage.home.path().join("codex"), "#!/bin/sh\nexit 1\n");
    assert_eq!(stage.run(&["run", "codex", "-n", "mute", "-p", "x"]).status.code(), Some(1));
    assert!(refused(&["resume", "mute", "go on"]).contains("before it told the id of its conversation"));
}

#[test]
fn a_resumed_run_survives_the_daemon_and_the_loss_of_its_journal() {
    let mut stage = Stage::new();
    let first = stage.json(&["launch", "codex", "--json", "-p", "true"]);
    let id = first["id"].as_str().expect("an id").to_owned();
    stage.ended(&id);
    let wait = stage.wait_at_gate();
    let pid = stage.json(&["resume", &id, &wait, "--json", "--timeout", "1h"])["pid"].clone();
    until("the agent's id", || (!stage.daemon.status(&id)["nativeId"].is_null()).then_some(()));
    stage.daemon.kill();
    stage.daemon.start();
    let live = stage.daemon.status(&id);
    assert_eq!((&live["run"], &live["status"], &live["pid"]), (&json!(2), &json!("running"), &pid));

    stage.daemon.kill();
    for file in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _not_there = fs::remove_file(stage.daemon.home().join(file));
    }
    stage.daemon.start();
    let live = stage.daemon.status(&id);
    assert_eq!((&live["run"], &live["status"], &live["pid"]), (&json!(2), &json!("running"), &pid));
    assert!(!live["timeoutAt"].is_null() && live["meta"]["rebuilt"].is_string(), "{live}");
    fs::write(stage.gate(), "").expect("open the gate");
    let second = stage.ended(&id);
    // What the first run used is known still.
    assert_eq!(
        (&second["outcome"], &second["run"], &second["tokens"]["in"]),
        (&json!("completed"), &json!(2), &json!(100))
    );
    assert_eq!(stage.json(&["resume", &id, "true", "--json"])["run"], 3);
    assert_eq!(stage.ended(&id)["tokens"]["in"], 100);
}

#[test]
fn right_after_the_end_the_rest_of_the_tree_is_ended_first() {
    let stage = Stage::new();
    let stubborn =
        "(trap '' TERM; touch $HOME/up; exec sleep 300) & until test -e $HOME/up; do sleep 0.05; done";
    let first = stage.json(&["launch", "codex", "--json", "--grace", "1s", "-p", stubborn]);
    let id = first["id"].as_str().expect("an id").to_owned();
    stage.ended(&id);
    let second = stage.json(&["resume", &id, "true", "--json"]);
    assert_eq!(second["run"], 2, "{second}");
    assert_eq!(stage.ended(&id)["outcome"], "completed");

    // Kept on purpose, it may outlive the next run.
    let kept = "sleep 300 >/dev/null 2>&1 &";
    let flags = ["--leftovers", "keep", "--force"];
    let first = stage.json(&[&["launch", "codex", "--json"], &flags[..], &["-p", kept]].concat());
    let id = first["id"].as_str().expect("an id").to_owned();
    stage.ended(&id);
    assert_eq!(stage.json(&["resume", &id, "true", "--json"])["run"], 2);
    assert_eq!(stage.ended(&id)["outcome"], "completed");
    // Nothing of it is anybody's care but this test's.
    let carriers = crate::support::stage::carriers(&id);
    for pid in &carriers {
        let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).expect("a pid")).expect("a pid");
        let process =
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("it lives");
        rustix::process::pidfd_send_signal(process, rustix::process::Signal::KILL).expect("it is ours");
    }
    assert_eq!(carriers.len(), 1);
}
