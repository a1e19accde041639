//! Agents that are talked to in ACP. The agent is a script here, which notes what it is told; `real_acp.rs` has a real one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::play::{Gate, program, stderr, stdout};
use crate::support::wait::until;

/// Notes each line that it is told. Its prompt says what it does; where a gate of a name is there, it waits at it.
const AGENT: &str = r#"#!/bin/sh
say() { printf '%s\n' "$1"; }
gate() { if test -e "$HOME/$1"; then : > "$HOME/$1.met"; read _ < "$HOME/$1"; fi; }
update() { say '{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"acp-1","update":'"$1"'}}'; }
chunk() { update '{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"'"$1"'"}}'; }
answer() { say '{"jsonrpc":"2.0","id":'"$1"',"result":'"$2"'}'; }
fail() { say '{"jsonrpc":"2.0","id":'"$1"',"error":{"code":-32000,"message":"'"$2"'"}}'; }
end() { gate end; answer 4 '{"stopReason":"'"$1"'","usage":{"inputTokens":7,"outputTokens":2,"totalTokens":9}}'; }
ask() { say '{"jsonrpc":"2.0","id":"q-'"$1"'","method":"session/request_permission","params":{"sessionId":"acp-1","toolCall":{"toolCallId":"t"},"options":[{"optionId":"always","name":"Always","kind":"allow_always"},{"optionId":"yes","name":"Yes","kind":"allow_once"},{"optionId":"no","name":"No","kind":"reject_once"}]}}'; }
test "$1" = acp || exit 64
echo "a line for people"
while IFS= read -r line; do
  printf '%s\n' "$line" >> "$HOME/told"
  case "$line" in
  *'"method":"initialize"'*)
    gate initialize
    answer 1 '{"protocolVersion":1,"agentCapabilities":{"loadSession":true}}';;
  *'"method":"session/new"'*|*'"method":"session/load"'*)
    gate session
    if test -e "$HOME/no-key"; then fail 2 'Authentication required'; continue; fi
    answer 2 '{"sessionId":"acp-1","configOptions":[{"id":"pick","category":"model"}]}';;
  *'"method":"session/set_config_option"'*)
    case "$line" in *unheard-of*) fail 3 'no such model';; *) answer 3 '{"configOptions":[]}';; esac;;
  *'"method":"session/prompt"'*)
    gate turn
    case "$line" in
    *refuse*) end refusal;;
    *length*) end max_tokens;;
    *broken*) fail 4 'overloaded';;
    *hang*) ;;
    *crash*) exit 0;;
    *ask*) update '{"sessionUpdate":"tool_call","toolCallId":"t","title":"shell","rawInput":{"command":"rm -r x"}}'; gate ask; ask 1;;
    *) chunk 'hello '; chunk there; end end_turn;;
    esac;;
  *'"id":"q-1"'*)
    case "$line" in *'"optionId":"yes"'*) chunk allowed;; *) chunk denied;; esac
    end end_turn;;
  *'"method":"session/cancel"'*)
    test -e "$HOME/stubborn" || end cancelled;;
  esac
done
gate eof
exit 0
"#;

struct Stage {
    daemon: Daemon,
    endpoint: Endpoint,
    home: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let endpoint = Endpoint::start();
        let adapters = json!({"talker": {"program": "opencode", "args": ["acp"], "protocol": "acp"}});
        let daemon =
            Daemon::builder().config("webhook_url", endpoint.url()).config("adapters", adapters).start();
        let home = tempfile::tempdir().expect("a home");
        program(&home.path().join("opencode"), AGENT);
        Self { daemon, endpoint, home }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.daemon.run_at(self.home.path(), arguments)
    }

    #[track_caller]
    fn launch(&self, prompt: &str, flags: &[&str]) -> String {
        let output = self.run(&[&["launch", "opencode", "--acp", "--json", "-p", prompt], flags].concat());
        let record: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        record["id"].as_str().expect("an id").to_owned()
    }

    #[track_caller]
    fn ended(&self, id: &str) -> Value {
        let record = self.daemon.ended(id);
        until("the webhook", || (!self.endpoint.about(id).is_empty()).then_some(()));
        let hook = self.endpoint.about(id)[0].json();
        assert_eq!(hook["meta"]["outcome"], record["outcome"]);
        for left in ["input.1", "prompt.1"] {
            // The shim tells the end first.
            until(&format!("{left} to be removed"), || (!self.daemon.file(id, left).exists()).then_some(()));
        }
        record
    }

    /// A gate of the agent's.
    fn gate(&self, name: &str) -> Gate {
        Gate::new(self.home.path(), name)
    }

    fn met(&self, name: &str) {
        let mark = self.path(&format!("{name}.met"));
        until("the agent to come to the gate", || mark.exists().then_some(()));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// What the agent was told, by method, answers by their id.
    fn told(&self) -> Vec<String> {
        let told = fs::read_to_string(self.path("told")).unwrap_or_default();
        let message = |line: &str| -> Value { serde_json::from_str(line).expect("whole lines of JSON") };
        let name = |message: Value| match message["method"].as_str() {
            Some(method) => method.to_owned(),
            None => format!("answer {}", message["id"].as_str().unwrap_or_default()),
        };
        told.lines().map(message).map(name).collect()
    }

    /// The ways to say why it ended.
    fn why(record: &Value) -> [Value; 4] {
        [&record["outcome"], &record["reason"], &record["exitCode"], &record["meta"]["message"]]
            .map(Clone::clone)
    }
}

const TURN: [&str; 3] = ["initialize", "session/new", "session/prompt"];

fn completed() -> [Value; 4] {
    [json!("completed"), json!("exit_code_0"), json!(0), Value::Null]
}

fn failed(message: &str) -> [Value; 4] {
    [json!("failed"), json!("agent_reported_error"), json!(0), json!(message)]
}

#[test]
fn a_turn_ends_the_input_and_then_the_agent() {
    let stage = Stage::new();
    let at_turn = stage.gate("turn");
    let id = stage.launch("say it", &["--cwd", stage.home.path().to_str().expect("a path")]);
    stage.met("turn");
    // Known from the first answer on, before the agent has said a word.
    let live = until("the id of the conversation", || {
        Some(stage.daemon.status(&id)).filter(|record| !record["nativeId"].is_null())
    });
    assert_eq!((&live["nativeId"], &live["status"]), (&json!("acp-1"), &json!("running")));
    at_turn.open();
    let record = stage.ended(&id);
    assert_eq!(Stage::why(&record), completed());
    // opencode's are not those of the turn.
    assert_eq!(record["tokens"], Value::Null);
    assert_eq!(stage.told(), TURN);
    assert_eq!(stage.daemon.json(["peek", &id, "--json"]), json!(["hello there"]));
    let shown = stdout(&stage.run(&["logs", "-f", &id]));
    assert!(shown.contains("hello there") && shown.contains("a line for people"), "{shown}");
    let told = fs::read_to_string(stage.path("told")).expect("what it was told");
    let cwd = stage.home.path().canonicalize().expect("a directory");
    assert!(told.contains(&format!("\"cwd\":{}", json!(cwd))), "{told}");
}

#[test]
fn a_stop_reason_other_than_the_end_of_the_turn_is_a_failure() {
    let stage = Stage::new();
    for (prompt, message) in [
        ("refuse", "ended with finish reason `refusal`"),
        ("length", "ended with finish reason `max_tokens`"),
        ("broken", "overloaded (code -32000)"),
    ] {
        let record = stage.ended(&stage.launch(prompt, &[]));
        assert_eq!(Stage::why(&record), failed(message), "{prompt}");
        assert_eq!(record["exitStatus"], 1);
    }
    let record = stage.ended(&stage.launch("crash", &[]));
    assert_eq!(Stage::why(&record)[..2], [json!("failed"), json!("no_agent_report")]);
    fs::write(stage.path("no-key"), "").expect("a file");
    let record = stage.ended(&stage.launch("say it", &[]));
    assert_eq!(Stage::why(&record), failed("Authentication required (code -32000)"));
}

#[test]
fn permissions_are_given_unless_the_launch_was_safe() {
    for (flags, said) in [(&[][..], "allowed"), (&["--safe"], "denied")] {
        let stage = Stage::new();
        let id = stage.launch("ask", flags);
        assert_eq!(Stage::why(&stage.ended(&id)), completed());
        assert_eq!(stage.daemon.json(["peek", &id, "--json"]), json!([said]));
        assert_eq!(stage.told(), [&TURN[..], &["answer q-1"]].concat());
        assert!(stdout(&stage.run(&["logs", "-f", &id])).contains("[shell] rm -r x"));
    }
}

#[test]
fn the_model_is_chosen_in_the_protocol() {
    let stage = Stage::new();
    let record = stage.ended(&stage.launch("say it", &["--model", "big"]));
    assert_eq!(Stage::why(&record), completed());
    let told = fs::read_to_string(stage.path("told")).expect("what it was told");
    assert!(told.contains(r#""configId":"pick","sessionId":"acp-1","value":"big""#), "{told}");
    let record = stage.ended(&stage.launch("say it", &["--model", "unheard-of"]));
    assert_eq!(Stage::why(&record), failed("no such model (code -32000)"));
    assert_eq!(stage.told().iter().filter(|told| *told == "session/prompt").count(), 1);
}

#[test]
fn a_stop_asks_in_the_protocol_before_it_sends_term() {
    let stage = Stage::new();
    let id = stage.launch("hang", &[]);
    until("the prompt to arrive", || (stage.told() == TURN).then_some(()));
    assert_eq!(stage.run(&["stop", &id]).status.code(), Some(0));
    let record = stage.ended(&id);
    // It ended by itself once its turn was cancelled: no signal.
    assert_eq!(Stage::why(&record)[..3], [json!("cancelled"), json!("stop_requested"), json!(0)]);
    assert_eq!(record["exitStatus"], 143);
    assert_eq!(stage.told(), [&TURN[..], &["session/cancel"]].concat());
}

#[test]
fn a_stop_that_is_not_heeded_is_followed_by_term() {
    let stage = Stage::new();
    fs::write(stage.path("stubborn"), "").expect("a file");
    let id = stage.launch("hang", &["--grace", "2s"]);
    until("the prompt to arrive", || (stage.told() == TURN).then_some(()));
    assert_eq!(stage.run(&["stop", &id]).status.code(), Some(0));
    let record = stage.ended(&id);
    assert_eq!((&record["outcome"], &record["signal"]), (&json!("cancelled"), &json!("SIGTERM")));
    assert_eq!(stage.told(), [&TURN[..], &["session/cancel"]].concat());
}

#[test]
fn a_stop_before_the_prompt_is_never_followed_by_it() {
    let stage = Stage::new();
    let at_session = stage.gate("session");
    let id = stage.launch("say it", &[]);
    stage.met("session");
    let stopping = stage.daemon.command(["stop", &id]).spawn().expect("a stop");
    until("the stop", || (stage.daemon.status(&id)["phase"] == "stopping").then_some(()));
    at_session.open();
    assert!(stopping.wait_with_output().expect("a stop").status.success());
    assert_eq!(stage.ended(&id)["outcome"], "cancelled");
    assert_eq!(stage.told(), TURN[..2]);
}

#[test]
fn a_hanging_turn_is_ended_by_the_deadline() {
    let stage = Stage::new();
    let id = stage.launch("hang", &["--timeout", "10m"]);
    until("the turn to begin", || (stage.told() == TURN).then_some(()));
    assert_eq!(stage.daemon.code(&["extend", &id, "1s"]), Some(0));
    let record = stage.ended(&id);
    assert_eq!(Stage::why(&record)[..2], [json!("timed_out"), json!("deadline")]);
    assert_eq!((&record["exitStatus"], &record["signal"]), (&json!(124), &Value::Null));
    assert_eq!(stage.told(), [&TURN[..], &["session/cancel"]].concat());
}

/// The daemon is killed while the agent is at a gate, which is opened while there is none: the next one goes on where
/// the conversation is, and says nothing twice.
fn killed_at(place: &str, prompt: &str, told: &[&str]) {
    let mut stage = Stage::new();
    let gate = stage.gate(place);
    let id = stage.launch(prompt, &[]);
    stage.met(place);
    let pid = stage.daemon.status(&id)["pid"].clone();
    stage.daemon.kill();
    let before = stage.told();
    let length = fs::metadata(stage.daemon.file(&id, "stdout.log")).expect("a log").len();
    gate.open();
    if place != "eof" {
        let log = stage.daemon.file(&id, "stdout.log");
        until("the agent to say more", || (fs::metadata(&log).ok()?.len() > length).then_some(()));
        assert_eq!(stage.told(), before, "nobody is there to tell it more");
    }
    stage.daemon.start();
    let record = stage.ended(&id);
    assert_eq!((Stage::why(&record), &record["pid"]), (completed(), &pid), "{place}");
    assert_eq!((&record["nativeId"], &record["run"]), (&json!("acp-1"), &json!(1)));
    assert_eq!(stage.told(), told, "{place}");
}

#[test]
fn a_daemon_killed_before_the_prompt_says_it_once() {
    killed_at("initialize", "say it", &TURN);
    killed_at("session", "say it", &TURN);
}

#[test]
fn a_daemon_killed_during_the_turn_does_not_say_it_again() {
    killed_at("turn", "say it", &TURN);
    killed_at("ask", "ask", &[&TURN[..], &["answer q-1"]].concat());
}

#[test]
fn a_daemon_killed_at_the_end_of_the_turn_ends_the_input() {
    killed_at("end", "say it", &TURN);
    killed_at("eof", "say it", &TURN);
}

#[test]
fn a_daemon_killed_again_and_again_says_everything_once() {
    let mut stage = Stage::new();
    let id = stage.launch("ask", &[]);
    while stage.daemon.status(&id)["outcome"].is_null() {
        stage.daemon.kill();
        stage.daemon.start();
    }
    assert_eq!(Stage::why(&stage.ended(&id)), completed());
    assert_eq!(stage.told(), [&TURN[..], &["answer q-1"]].concat());
}

#[test]
fn a_conversation_is_taken_up_again() {
    let stage = Stage::new();
    let id = stage.launch("say it", &[]);
    stage.ended(&id);
    let output = stage.run(&["resume", &id, "and more"]);
    assert!(output.status.success(), "{output:?}");
    let record = stage.daemon.ended(&id);
    assert_eq!((Stage::why(&record), &record["run"]), (completed(), &json!(2)));
    assert_eq!(stage.told(), [&TURN[..], &["initialize", "session/load", "session/prompt"]].concat());
    let told = fs::read_to_string(stage.path("told")).expect("what it was told");
    assert!(told.lines().last().is_some_and(|line| line.contains("and more")), "{told}");
}

#[test]
fn declared_agents_speak_it_without_being_asked_and_others_say_that_they_do_not() {
    let stage = Stage::new();
    let output = stage.run(&["run", "talker", "-p", "say it"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stage.told(), TURN);
    let record = stage.daemon.json(["list", "-a", "--json"])[0].clone();
    assert_eq!(record["tokens"], json!({"in": 7, "out": 2, "cacheRead": 0, "cacheWrite": 0}));
    for adapter in ["codex", "exec"] {
        let output = stage.run(&["launch", adapter, "--acp", "-p", "x"]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(&format!("adapter {adapter} does not speak ACP")), "{output:?}");
    }
    let list: Value = serde_json::from_slice(&stage.run(&["adapters", "--json"]).stdout).expect("a list");
    let speaks: Vec<_> = list.as_array().expect("rows").iter().filter(|row| row["acp"] == true).collect();
    assert_eq!(speaks.len(), 4, "{speaks:?}");
}

#[test]
fn what_was_said_is_private_and_gone_at_the_end() {
    let stage = Stage::new();
    let at_turn = stage.gate("turn");
    let id = stage.launch("SECRET", &["--private"]);
    stage.met("turn");
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).expect("a file").permissions().mode() & 0o777
    };
    assert_eq!(mode(&stage.daemon.file(&id, "input.1")), 0o600);
    let prompt = stage.daemon.file(&id, "prompt.1");
    until("the plan to be gone", || (!prompt.exists()).then_some(()));
    let pid = stage.daemon.status(&id)["pid"].as_u64().expect("a pid");
    let line = fs::read(format!("/proc/{pid}/cmdline")).expect("a command line");
    assert!(!String::from_utf8_lossy(&line).contains("SECRET"));
    at_turn.open();
    stage.ended(&id);
    let journal = fs::read(stage.daemon.home().join("journal.db")).expect("a journal");
    assert!(!journal.windows(6).any(|bytes| bytes == b"SECRET"));
}
