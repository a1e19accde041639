//! Agents that the configuration declares: the example of the guide, launched, understood and resumed; and what is said of
//! declarations that cannot work.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::daemon::{self, Daemon};
use crate::support::play::{program, stdout};

/// Prints what the guide's example reads; its prompt says how it ends.
const AGENT: &str = r#"#!/bin/sh
case "$1" in --version) echo "my-agent v3.2.1"; exit;; esac
echo "$@" >> "$HOME/asked"
prompt=$(cat)
echo '{"type":"begin","conversation":{"id":"c-1"}}'
echo '{"type":"message","role":"assistant","content":[{"text":"you said '$prompt'"}]}'
echo '{"type":"usage","usage":{"input":10,"output":2,"usd":0.5}}'
echo '{"type":"usage","usage":{"input":10,"output":2,"usd":0.5}}'
case "$prompt" in
  fail) echo '{"type":"error","error":{"message":"no key"}}';;
  silent) ;;
  *) echo '{"type":"error","error":{"message":"retried"}}'; echo '{"type":"end","ok":true}';;
esac
"#;

/// The first block of JSON in the guide.
fn example() -> Value {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/adapters.md"))
        .expect("the guide");
    let block =
        guide.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of JSON");
    serde_json::from_str(block).expect("the guide's example is JSON")
}

struct Stage {
    daemon: Daemon,
    home: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a home");
        program(&home.path().join("my-agent"), AGENT);
        let daemon = Daemon::builder().config("adapters", example()["adapters"].clone()).start();
        Self { daemon, home }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.daemon.run_at(self.home.path(), arguments)
    }

    /// The record of a run that has ended.
    #[track_caller]
    fn ended(&self, prompt: &str) -> Value {
        let output = self.run(&["run", "my-agent", "-p", prompt, "--json", "--model", "m"]);
        let text = stdout(&output);
        let record = text.find("{\n").map(|at| &text[at..]).unwrap_or_default();
        serde_json::from_str(record).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

#[test]
fn the_guides_example_is_launched_understood_and_resumed() {
    let stage = Stage::new();
    let record = stage.ended("hello");
    let told =
        |record: &Value| ["adapter", "outcome", "reason", "nativeId", "cost"].map(|key| record[key].clone());
    let expected = [json!("my-agent"), json!("completed"), json!("exit_code_0"), json!("c-1"), json!(1.0)];
    assert_eq!(told(&record), expected, "{record:#}");
    assert_eq!(record["tokens"], json!({"in": 20, "out": 4, "cacheRead": 0, "cacheWrite": 0}));
    let id = record["id"].as_str().expect("an id");
    assert_eq!(stage.daemon.json(["peek", id, "--json"]), json!(["you said hello"]));

    for (prompt, reason, message) in
        [("fail", "agent_reported_error", json!("no key")), ("silent", "no_agent_report", Value::Null)]
    {
        let record = stage.ended(prompt);
        let told = (&record["outcome"], &record["reason"], &record["meta"]["message"]);
        assert_eq!(told, (&json!("failed"), &json!(reason), &message));
    }

    assert_eq!(stage.run(&["resume", id, "go on"]).status.code(), Some(0));
    assert_eq!(stage.run(&["wait", id]).status.code(), Some(0));
    let asked = fs::read_to_string(stage.home.path().join("asked")).expect("what it was asked");
    assert_eq!(asked.lines().next(), Some("run --json --model m"));
    assert_eq!(asked.lines().last(), Some("run --json --continue c-1"));
}

#[test]
fn a_list_says_what_there_is_and_what_is_here() {
    let stage = Stage::new();
    let list: Value = serde_json::from_slice(&stage.run(&["adapters", "--json"]).stdout).expect("a list");
    let of = |name: &str| {
        list.as_array().and_then(|list| list.iter().find(|row| row["name"] == name)).expect("a row")
    };
    let mine = of("my-agent");
    assert_eq!(
        (&mine["declared"], &mine["version"], &mine["resumes"]),
        (&json!(true), &json!("3.2.1"), &json!(true))
    );
    assert_eq!(mine["path"], json!(stage.home.path().join("my-agent")));
    assert_eq!((&of("exec")["program"], &of("exec")["readsOutput"]), (&Value::Null, &json!(false)));
    assert_eq!((&of("claude-code")["imposesId"], &of("codex")["prompt"]), (&json!(true), &json!("stdin")));
    let table = stdout(&stage.run(&["adapters"]));
    let row = table.lines().find(|line| line.starts_with("my-agent")).expect("a row");
    assert!(row.contains("3.2.1") && row.contains("resume, declared"), "{table}");
}

#[test]
fn a_prompt_may_be_an_argument_or_a_path() {
    let adapters = json!({
        "by-arg": {"program": "sh", "args": ["-c", "test \"$1\" = \"$2\"", "x", "{prompt}", "two words"], "prompt": "arg"},
        "by-file": {"program": "sh", "args": ["-c", "test \"$(cat \"$1\")\" = \"two words\"", "x", "{prompt_file}"],
                    "prompt": "file"},
    });
    let daemon = Daemon::builder().config("adapters", adapters).start();
    for adapter in ["by-arg", "by-file"] {
        let output = daemon.run(["run", adapter, "-p", "two words"]);
        assert_eq!(output.status.code(), Some(0), "{adapter}: {output:?}");
        assert_eq!(daemon.run(["run", adapter, "-p", "else"]).status.code(), Some(1));
    }
}

#[test]
fn a_declaration_that_cannot_work_is_refused_with_its_place() {
    let home = daemon::home();
    for (adapters, said) in [
        (
            json!({"mine": {"program": "x", "args": ["{modle}"]}}),
            "adapters: mine: args holds {modle}, which stands for nothing",
        ),
        (json!({"codex": {"program": "x"}}), "adapters: codex: codex is built in"),
        (json!({"mine": {"program": "x", "argz": []}}), "has an unknown key \"argz\""),
        (json!({"mine": {"program": "x", "args": [7]}}), "an argument is a text, or a list of texts"),
    ] {
        fs::write(home.path().join("config.json"), json!({"adapters": adapters}).to_string())
            .expect("a config");
        let refusal = daemon::refusal(home.path());
        assert!(refusal.contains(said), "{refusal}");
    }
}
