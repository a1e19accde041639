//! A real agent, supervised from launch to webhook, against a scripted model.
//!
//! A few tests at a time: each start of an agent takes seconds of a whole processor, and what is tested here is
//! supervision, not how slow an agent becomes on a busy machine.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use agentctl::sys::ProcessRef;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::daemon::Daemon;
use super::endpoint::Endpoint;
use super::fake_llm::{FakeLlm, Seen};
use super::openmetrics::nothing_owed;
use super::orgloop;
use super::real_agent::{Agent, RealAgent};
use super::wait::{until, until_or};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Tests that run an agent at once. The one that takes a minute by itself is not among them.
const AT_ONCE_MAX: usize = 2;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

pub(crate) struct Place;

impl Place {
    pub(crate) fn take() -> Self {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken >= AT_ONCE_MAX {
            taken = FREED.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += 1;
        Self
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_one();
    }
}

/// How a session must have ended, in its record and in its webhook.
#[derive(Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) outcome: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) code: Option<u8>,
    pub(crate) signal: Option<&'a str>,
    /// What `run`, `wait` and the webhook say.
    pub(crate) number: u8,
    /// Kinds of evidence that there must be, in time.
    pub(crate) prongs: &'a [&'a str],
    /// What the agent said of it holds this.
    pub(crate) message: Option<&'a str>,
    /// Steps of the model that the run accounts for; each is 1000 tokens in, 100 of them cached, and 50 out.
    pub(crate) steps: Option<u64>,
}

pub(crate) const COMPLETED: Expected<'static> = Expected {
    outcome: "completed",
    reason: "exit_code_0",
    code: Some(0),
    signal: None,
    number: 0,
    prongs: &["exit_file", "pidfd"],
    message: None,
    steps: Some(1),
};

/// One home of the agent with its model, a daemon, and somebody who hears of ends.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    pub(crate) endpoint: Endpoint,
    pub(crate) model: FakeLlm,
    agent: RealAgent,
    pub(crate) home: TempDir,
    _place: Option<Place>,
}

impl Stage {
    pub(crate) fn new(agent: Agent, test: &str) -> Option<Self> {
        let agent = RealAgent::find(agent, test)?;
        let place = Place::take();
        Some(Self { _place: Some(place), ..Self::at_any_time(agent) })
    }

    pub(crate) fn at_any_time(agent: RealAgent) -> Self {
        let endpoint = Endpoint::start();
        let daemon =
            Daemon::builder().config("webhook_url", endpoint.url()).config("webhook_secret", SECRET).start();
        let home = tempfile::Builder::new().prefix("agent-").tempdir().expect("a home for the agent");
        fs::create_dir(home.path().join("cwd")).expect("a working directory");
        Self { daemon, endpoint, model: FakeLlm::start(), agent, home, _place: None }
    }

    pub(crate) fn cwd(&self) -> PathBuf {
        self.home.path().join("cwd")
    }

    /// `agentctl <verb> <adapter>` for a prompt, in the agent's own environment and nothing else. All of them work in one
    /// directory, which that of the first would lock.
    pub(crate) fn ask(&self, verb: &str, name: &str, prompt: &str, flags: &[&str]) -> Output {
        let arguments = [verb, self.agent.adapter(), "--json", "--force", "--name", name, "-p", prompt];
        self.command(&[&arguments, flags].concat())
    }

    /// `agentctl` with these arguments, in the agent's own environment and nothing else.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.daemon
            .command(arguments)
            .current_dir(self.cwd())
            .env_clear()
            .envs(self.agent.env(self.home.path(), self.model.port()))
            .env("AGENTCTL_HOME", self.daemon.home())
            .env("AGENTCTL_NO_AUTOSTART", "1")
            .output()
            .expect("the command line runs")
    }

    #[track_caller]
    pub(crate) fn launch(&self, name: &str, prompt: &str, flags: &[&str]) -> String {
        let output = self.ask("launch", name, prompt, flags);
        let record: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        record["id"].as_str().unwrap_or_else(|| panic!("no id in {record}")).to_owned()
    }

    /// Waits until the model was asked so many times for work, by whatever session.
    #[track_caller]
    pub(crate) fn asked(&self, times: usize) {
        let asked = || self.model.requests().iter().filter(|request| !request.tools.is_empty()).count();
        until("the agent to ask the model", || (asked() >= times).then_some(()));
    }

    /// Waits until the model was asked for work with these words of the user's.
    #[track_caller]
    pub(crate) fn asked_with(&self, words: &str) {
        until("the agent to ask the model", || self.was_asked_with(words).then_some(()));
    }

    /// The same, or until the session has ended without.
    #[track_caller]
    pub(crate) fn until_begun(&self, id: &str, words: &str) {
        let begun = || self.was_asked_with(words) || self.has_ended(id);
        until("the agent to ask the model", || begun().then_some(()));
    }

    fn was_asked_with(&self, words: &str) -> bool {
        let is_it =
            |request: &Seen| !request.tools.is_empty() && request.user_texts().join(" ").contains(words);
        self.model.requests().iter().any(is_it)
    }

    /// Waits until a process of the session is of this command.
    #[track_caller]
    pub(crate) fn until_runs(&self, id: &str, command: &str) {
        let commands = || carriers(id).into_iter().map(command_of).collect::<Vec<_>>();
        let words = || {
            let stderr = fs::read_to_string(self.daemon.file(id, "stderr.log")).unwrap_or_default();
            let (record, stdout) = (self.daemon.status(id), self.daemon.stdout(id));
            format!("{command} does not run, but {:?}: {record:#}\n{stdout}\n{stderr}", commands())
        };
        until_or(words, || {
            let runs = commands().iter().any(|running| running == command);
            assert!(runs || !self.has_ended(id), "{}", words());
            runs.then_some(())
        });
    }

    fn has_ended(&self, id: &str) -> bool {
        self.daemon.file(id, "verdict.1.json").exists()
    }

    /// The leader of a live session, held.
    #[track_caller]
    pub(crate) fn leader(&self, id: &str) -> ProcessRef {
        let pid = self.daemon.status(id)["pid"].as_u64().expect("a live session has a pid");
        let fd = rustix::process::pidfd_open(
            rustix::process::Pid::from_raw(i32::try_from(pid).expect("a pid")).expect("a pid"),
            rustix::process::PidfdFlags::empty(),
        );
        let leader = ProcessRef::from_pidfd(u32::try_from(pid).expect("a pid"), fd.expect("a live leader"));
        let leader = leader.expect("a live leader");
        assert!(carriers(id).contains(&leader.pid()), "the pid is that of somebody else");
        leader
    }

    /// Looks in every way, again and again, until the session is shown as ended; each time that it is shown so, its
    /// leader must have ended. The record.
    #[track_caller]
    pub(crate) fn watch_to_the_end(&self, id: &str) -> Value {
        let leader = self.leader(id);
        let in_list = |arguments: &[&str]| {
            let list = self.daemon.json(arguments);
            let list = list.as_array().expect("an array");
            list.iter().find(|record| record["id"] == id).cloned()
        };
        loop {
            let (plain, all) = (in_list(&["list", "--json"]), in_list(&["list", "-a", "--json"]));
            let status = self.daemon.status(id);
            let shown = [plain, all, Some(status.clone())];
            let live = |record: &Option<Value>| {
                record
                    .as_ref()
                    .is_some_and(|record| record["status"] == "running" && record["outcome"].is_null())
            };
            let all_live = shown.iter().all(live);
            // Asked after looking: a living leader was alive at each look.
            if leader.has_ended() == Some(false) {
                assert!(all_live, "shown as ended while it lives: {shown:?}");
            }
            if !status["outcome"].is_null() {
                return status;
            }
            thread::sleep(Duration::from_millis(250));
        }
    }

    /// Checks the verdict of a session and its webhook; the record.
    #[track_caller]
    pub(crate) fn verdict(&self, id: &str, expected: &Expected<'_>) -> Value {
        self.daemon.ended(id);
        let record = until("all evidence", || {
            let record = self.daemon.status(id);
            let prongs: Vec<_> =
                record["evidence"].as_array()?.iter().map(|entry| entry["prong"].clone()).collect();
            expected.prongs.iter().all(|prong| prongs.contains(&json!(prong))).then_some(record)
        });
        let stderr = fs::read_to_string(self.daemon.file(id, "stderr.log")).unwrap_or_default();
        let words = || format!("{record:#}\n{}\n{stderr}", self.daemon.stdout(id));
        let same = [
            ("outcome", json!(expected.outcome)),
            ("reason", json!(expected.reason)),
            ("exitCode", json!(expected.code)),
            ("signal", json!(expected.signal)),
            ("exitStatus", json!(expected.number)),
            ("phase", json!("ended")),
            ("adapter", json!(self.agent.adapter())),
            ("cwd", json!(self.cwd().canonicalize().expect("a working directory"))),
        ];
        for (key, value) in same {
            assert_eq!(record[key], value, "{key}: {}", words());
        }
        if let Some(message) = expected.message {
            let told = record["meta"]["message"].as_str().unwrap_or_default();
            assert!(told.contains(message), "{}", words());
        }
        if let Some(steps) = expected.steps {
            let (input, dollars) = self.agent.step();
            let tokens =
                json!({"in": input * steps, "out": 50 * steps, "cacheRead": 100 * steps, "cacheWrite": 0});
            assert_eq!(record["tokens"], tokens, "{}", words());
            match dollars {
                Some(dollars) => {
                    let cost = record["cost"].as_f64().expect("a cost");
                    assert!((cost - dollars * steps as f64).abs() < 1e-9, "{}", words());
                }
                None => assert_eq!(record["cost"], Value::Null, "{}", words()),
            }
            assert!(record["nativeId"].as_str().is_some_and(|native| !native.is_empty()), "{}", words());
        }
        assert_eq!(self.daemon.run(["wait", id]).status.code(), Some(i32::from(expected.number)));

        nothing_owed(&self.daemon);
        let about = self.endpoint.about(id);
        assert_eq!(record["run"], about.len(), "one webhook a run: {about:?}");
        let request = about.last().expect("a webhook");
        orgloop::read(request, Some(SECRET));
        let body = request.json();
        let meta = &body["meta"];
        assert_eq!((&body["exit_status"], &body["adapter"]), (&record["exitStatus"], &record["adapter"]));
        for (key, of_record) in
            [("outcome", "outcome"), ("reason", "reason"), ("exit_code", "exitCode"), ("signal", "signal")]
        {
            assert_eq!(meta[key], record[of_record], "{key} of {body}");
        }
        record
    }
}

/// The processes that carry the session's id in their environment.
pub(crate) fn carriers(id: &str) -> Vec<u32> {
    let mark = format!("AGENTCTL_SESSION_ID={id}");
    let carries = |pid: &u32| {
        // Whoever ended meanwhile carries nothing any more.
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
    };
    let entries = fs::read_dir("/proc").expect("a /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(carries).collect()
}

/// What a process was started as.
pub(crate) fn command_of(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned()
}
