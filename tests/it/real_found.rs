//! The real agents, started by somebody else: found, adopted, gone on with. Needs `.ci/install-agents`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use agentctl::sys::ProcessRef;
use agentctl::sys::tree::{Tree, descendants};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::fake_llm::FakeLlm;
use crate::support::outside::is_late;
use crate::support::play::stderr;
use crate::support::real_agent::{Agent, RealAgent};
use crate::support::stage::Place;
use crate::support::wait::until;

/// An agent that somebody started, and what it started itself: a launcher's child outlives its launcher.
struct Started(Child);

impl Started {
    /// KILL to the process alone, as a careless user does; what it leaves is ended behind it.
    fn kill(&mut self) {
        let rest = self.rest();
        self.0.kill().expect("our own child");
        self.0.wait().expect("our own child");
        end(&rest);
    }

    fn rest(&self) -> Vec<ProcessRef> {
        match ProcessRef::of_child(self.0.id()).map(|leader| descendants(&leader)) {
            Ok(Tree::Known(rest)) => rest,
            Ok(_) | Err(_) => Vec::new(),
        }
    }
}

fn end(all: &[ProcessRef]) {
    for process in all {
        // Who has ended by itself needs no signal.
        let _ended = process.signal(9);
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let rest = self.rest();
            let _ended = self.0.kill().and_then(|()| self.0.wait());
            end(&rest);
        }
    }
}

/// Somebody's home, where an agent runs, and a daemon that looks for it.
struct Theirs {
    daemon: Daemon,
    endpoint: Endpoint,
    model: FakeLlm,
    agent: RealAgent,
    kind: Agent,
    home: TempDir,
    _place: Place,
}

impl Theirs {
    fn new(kind: Agent, test: &str) -> Option<Self> {
        let agent = RealAgent::find(kind, test)?;
        let place = Place::take();
        let endpoint = Endpoint::start();
        let daemon = Daemon::builder().config("discover", true).config("webhook_url", endpoint.url()).start();
        let home = tempfile::Builder::new().prefix("theirs-").tempdir().expect("a home");
        // Of a repository: what goes on with an adopted run keeps to codex's own rules, which want one.
        let init = Command::new("git").args(["init", "-q"]).arg(home.path().join("cwd")).status();
        assert!(init.is_ok_and(|status| status.success()), "git makes a repository");
        Some(Self { daemon, endpoint, model: FakeLlm::start(), agent, kind, home, _place: place })
    }

    fn cwd(&self) -> PathBuf {
        self.home.path().join("cwd").canonicalize().expect("a working directory")
    }

    /// Starts the agent as its users do.
    fn start(&self, prompt: &str) -> Started {
        let out = File::create(self.home.path().join("out")).expect("a file");
        let mut command = self.agent.by_hand(prompt);
        command.env_clear().envs(self.agent.env(self.home.path(), self.model.port()));
        if self.kind == Agent::ClaudeCode {
            command.env("IS_SANDBOX", "1");
        }
        command.current_dir(self.cwd()).stdin(Stdio::null()).stdout(out).stderr(Stdio::null());
        Started(command.spawn().expect("the agent starts"))
    }

    /// Its record in a listing.
    #[track_caller]
    fn listed(&self, child: &Started, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        until(what, || {
            let output = self.daemon.run(["list", "--json"]);
            let records: Vec<Value> = serde_json::from_slice(&output.stdout).expect("an array");
            let mut mine = records.into_iter().filter(|record| record["pid"] == child.0.id());
            let record = mine.next().filter(|_| !is_late(&stderr(&output)))?;
            fits(&record).then_some(record)
        })
    }

    #[track_caller]
    fn adopt(&self, child: &Started) -> String {
        let output = until("an adoption", || {
            let output = self.daemon.run(["adopt", &child.0.id().to_string(), "--json"]);
            (output.status.code() == Some(0)).then_some(output)
        });
        let record: Value = serde_json::from_slice(&output.stdout).expect("a record");
        record["id"].as_str().expect("an id").to_owned()
    }

    /// Tokens and dollars of so many steps of the scripted model.
    fn steps(&self, steps: u64) -> (Value, Option<f64>) {
        let (input, dollars) = self.agent.step();
        let tokens =
            json!({"in": input * steps, "out": 50 * steps, "cacheRead": 100 * steps, "cacheWrite": 0});
        (tokens, dollars.map(|dollars| dollars * steps as f64))
    }

    #[track_caller]
    fn used(&self, record: &Value, steps: u64) {
        let (tokens, dollars) = self.steps(steps);
        assert_eq!(record["tokens"], tokens, "{record:#}");
        match (record["cost"].as_f64(), dollars) {
            (Some(told), Some(dollars)) => assert!((told - dollars).abs() < 1e-9, "{record:#}"),
            (told, dollars) => assert_eq!(told, dollars, "{record:#}"),
        }
    }
}

/// Two steps with a tool between that waits to be let on: found, adopted, ended, gone on with.
fn found_and_adopted(kind: Agent) {
    let Some(theirs) = Theirs::new(kind, &format!("{} started outside", kind.adapter())) else { return };
    let gate = theirs.home.path().join("gate");
    let wait = format!("echo > {0}.met; until test -e {0}; do sleep 0.1; done", gate.display());
    // Also where it does not wait for the tool so long, its work is not over before.
    let when = format!("[[when:{}]]", gate.display());
    let mut child = theirs.start(&format!("[[tool:bash:{wait}]] {when} [[reply:done outside]]"));
    let met = theirs.home.path().join("gate.met");
    until("the tool to run", || met.exists().then_some(()));

    let shown = theirs.listed(&child, "an agent that is listed with its conversation", |record| {
        record["nativeId"].is_string() && record["model"].is_string() && record["prompt"].is_string()
    });
    let [model, _] = kind.models();
    for (key, value) in [
        ("origin", json!("discovered")),
        ("adapter", json!(kind.adapter())),
        ("status", json!("running")),
        ("cwd", json!(theirs.cwd())),
        ("model", json!(if kind == Agent::Pi { "fake-1" } else { model })),
        ("outcome", Value::Null),
    ] {
        assert_eq!(shown[key], value, "{key}: {shown:#}");
    }
    assert!(
        shown["prompt"].as_str().is_some_and(|prompt| prompt.starts_with("[[tool:bash:echo")),
        "{shown:#}"
    );

    let id = theirs.adopt(&child);
    assert_eq!(shown["id"], json!(id));
    fs::write(&gate, "").expect("open the gate");
    let status = child.0.wait().expect("our own child");
    let record = theirs.daemon.ended(&id);
    assert_eq!(
        [&record["exitCode"], &record["outcome"], &record["origin"]],
        [&json!(status.code()), &json!("completed"), &json!("adopted")],
        "{status}: {record:#}"
    );
    theirs.used(&record, 2);
    assert_eq!(theirs.daemon.json(["peek", &id, "-n", "1", "--json"]), json!(["done outside"]));
    assert_eq!(theirs.daemon.run(["wait", &id]).status.code(), Some(0));
    let body = theirs.endpoint.wait_about(&id, 1)[0].json();
    assert_eq!((&body["exit_status"], &body["meta"]["exit_known"]), (&json!(0), &json!(true)), "{body}");

    // The next run is ours, and answers for its own step alone.
    let output = theirs
        .daemon
        .command(["resume", &id, "[[reply:again]]", "--json"])
        .current_dir(theirs.cwd())
        .env_clear()
        .envs(theirs.agent.env(theirs.home.path(), theirs.model.port()))
        .env("AGENTCTL_HOME", theirs.daemon.home())
        .env("AGENTCTL_NO_AUTOSTART", "1")
        .output()
        .expect("the command line runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let record = theirs.daemon.ended(&id);
    assert_eq!(
        (&record["run"], &record["outcome"], &record["nativeId"]),
        (&json!(2), &json!("completed"), &shown["nativeId"]),
        "{record:#}"
    );
    theirs.used(&record, 1);
    assert_eq!(theirs.daemon.json(["peek", &id, "-n", "1", "--json"]), json!(["again"]));
}

/// One that waits for its model: killed by somebody, and stopped by us.
fn ended_while_it_waits(kind: Agent) {
    let test = format!("{} started outside, ended while it waits", kind.adapter());
    let Some(theirs) = Theirs::new(kind, &test) else { return };
    let hangs = |name: &str| {
        let asked = theirs.model.requests().len();
        let child = theirs.start(&format!("[[hang]] {name}"));
        until("the agent to ask its model", || (theirs.model.requests().len() > asked).then_some(()));
        child
    };
    let mut killed = hangs("killed");
    let id = theirs.adopt(&killed);
    assert_eq!(theirs.daemon.status(&id)["adapter"], json!(kind.adapter()));
    killed.kill();
    let record = theirs.daemon.ended(&id);
    assert_eq!(
        [&record["outcome"], &record["signal"], &record["exitStatus"]],
        [&json!("failed"), &json!("SIGKILL"), &json!(137)],
        "{record:#}"
    );

    let mut stopped = hangs("stopped");
    let id = theirs.adopt(&stopped);
    let output = theirs.daemon.run(["stop", &id]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let status = stopped.0.wait().expect("our own child");
    let record = theirs.daemon.ended(&id);
    assert_eq!(
        [&record["outcome"], &record["exitCode"], &record["exitStatus"]],
        [&json!("cancelled"), &json!(status.code()), &json!(143)],
        "{status}: {record:#}"
    );
}

#[test]
fn opencode_started_outside() {
    found_and_adopted(Agent::Opencode);
    ended_while_it_waits(Agent::Opencode);
}

#[test]
fn claude_code_started_outside() {
    found_and_adopted(Agent::ClaudeCode);
    ended_while_it_waits(Agent::ClaudeCode);
}

#[test]
fn codex_started_outside() {
    found_and_adopted(Agent::Codex);
    ended_while_it_waits(Agent::Codex);
}

#[test]
fn pi_started_outside() {
    found_and_adopted(Agent::Pi);
    ended_while_it_waits(Agent::Pi);
}
