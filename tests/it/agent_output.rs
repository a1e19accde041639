//! What an agent prints while it runs: shown as text to whoever follows, and held against its budget. The agent is a script
//! in the place of codex or opencode.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::play::{program, stdout};

struct Stage {
    daemon: Daemon,
    home: tempfile::TempDir,
}

impl Stage {
    /// With an agent that is this script.
    fn new(agent: &str, script: &str) -> Self {
        let home = tempfile::tempdir().expect("a home");
        program(&home.path().join(agent), &format!("#!/bin/sh\n{script}"));
        Self { daemon: Daemon::builder().start(), home }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.home.path().display());
        let mut command = self.daemon.command(arguments.iter());
        command.env("HOME", self.home.path()).env("PATH", path).current_dir(self.home.path());
        command.env("AGENTCTL_HOME", self.daemon.home());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the command line runs")
    }

    #[track_caller]
    fn launch(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["launch"], arguments, &["--json", "-p", "x"]].concat());
        let record: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        record["id"].as_str().expect("an id").to_owned()
    }

    fn gate(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

/// A command that follows, read line by line.
struct Follower {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Follower {
    fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the command line runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    #[track_caller]
    fn next(&mut self) -> String {
        self.lines.next().expect("another line").expect("text")
    }

    #[track_caller]
    fn ends(mut self) {
        assert!(self.lines.next().is_none(), "there is more");
        assert_eq!(self.child.wait().expect("it ends").code(), Some(0));
    }
}

const CODEX: &str = r#"
echo '{"type":"thread.started","thread_id":"t"}'
echo '{"type":"item.completed","item":{"type":"agent_message","text":"I begin"}}'
until test -e "$HOME/one"; do sleep 0.05; done
echo '{"type":"item.started","item":{"type":"command_execution","command":"make test"}}'
echo '{"type":"item.completed","item":{"type":"command_execution","exit_code":2,"aggregated_output":"red"}}'
until test -e "$HOME/two"; do sleep 0.05; done
echo '{"type":"item.completed","item":{"type":"agent_message","text":"I end"}}'
echo '{"type":"turn.completed","usage":{"input_tokens":1,"output_tokens":1}}'
"#;

#[test]
fn who_follows_an_agent_reads_what_it_says_and_does_each_thing_once() {
    let mut stage = Stage::new("codex", CODEX);
    let id = stage.launch(&["codex"]);
    let mut follower = Follower::new(stage.command(&["logs", "-f", &id]));
    assert_eq!(follower.next(), "I begin");
    fs::write(stage.gate("one"), "").expect("open the gate");
    assert_eq!(
        [follower.next(), follower.next(), follower.next()],
        ["[shell] make test", "    red", "    (the tool failed)"]
    );
    // The daemon goes and comes; nothing is told twice.
    stage.daemon.kill();
    stage.daemon.start();
    fs::write(stage.gate("two"), "").expect("open the gate");
    assert_eq!(follower.next(), "I end");
    follower.ends();
    let raw = stdout(&stage.run(&["logs", "-f", "--raw", &id]));
    assert_eq!(raw, stage.daemon.stdout(&id));
    assert_eq!(stdout(&stage.run(&["logs", &id])), "I begin\n---\nI end\n");
    let text = stdout(&stage.run(&["logs", "-f", &id]));
    assert_eq!(text, "I begin\n[shell] make test\n    red\n    (the tool failed)\nI end\n");
}

#[test]
fn of_a_huge_log_the_end_is_read() {
    let stage = Stage::new("codex", CODEX);
    for gate in ["one", "two"] {
        fs::write(stage.gate(gate), "").expect("open the gate");
    }
    let id = stage.launch(&["codex"]);
    assert_eq!(stage.run(&["wait", &id]).status.code(), Some(0));
    // A gigabyte of it is a hole: whoever reads it all takes long, and shows more than this.
    let log = stage.daemon.file(&id, "stdout.log");
    let end = fs::read(&log).expect("the log");
    let mut file = fs::File::create(&log).expect("the log");
    file.set_len(1 << 30).expect("a hole");
    let mut file = {
        file.flush().expect("written");
        fs::OpenOptions::new().append(true).open(&log).expect("the log")
    };
    file.write_all(b"\n").and_then(|()| file.write_all(&end)).expect("its end");
    assert_eq!(stage.daemon.json(["peek", &id, "--json"]), json!(["I begin", "I end"]));
    let text = stdout(&stage.run(&["logs", "-f", &id]));
    assert!(text.starts_with("I begin\n") && text.ends_with("I end\n"), "{}", text.len());
}

const OPENCODE: &str = r#"
while :; do
  echo '{"type":"step_finish","sessionID":"ses_1","part":{"reason":"tool-calls","cost":0.5,"tokens":{"input":100,"output":10,"reasoning":0,"cache":{"read":0,"write":0}}}}'
  sleep 0.1
done
"#;

#[test]
fn an_agent_beyond_its_budget_is_stopped_with_its_own_reason() {
    let stage = Stage::new("opencode", OPENCODE);
    for (flags, reason) in [(["--max-tokens", "1000"], "max_tokens"), (["--max-cost", "2.25"], "max_cost")] {
        let id = stage.launch(&[&["opencode"], &flags[..]].concat());
        let record = stage.daemon.ended(&id);
        let told = ["outcome", "reason", "status"].map(|key| record[key].clone());
        assert_eq!(told, [json!("cancelled"), json!(reason), json!("stopped")], "{record:#}");
        let over = if reason == "max_tokens" {
            record["tokens"]["in"].as_u64() >= Some(1000)
        } else {
            record["cost"].as_f64() >= Some(2.5)
        };
        assert!(over, "{record:#}");
    }
    let refused = stage.run(&["launch", "opencode", "-p", "x", "--max-cost=-1"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
}
