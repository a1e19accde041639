//! The real opencode, supervised from launch to webhook, against a scripted model. Needs `.ci/install-agents`.
//!
//! A few tests at a time: each start of opencode takes seconds of a whole processor, and what is tested here is
//! supervision, not how slow an agent becomes on a busy machine.

use std::fs;
use std::path::PathBuf;
use std::process::Output;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use agentctl::sys::ProcessRef;
use agentctl::wire::time::parse_rfc3339;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::fake_llm::FakeLlm;
use crate::support::openmetrics::nothing_owed;
use crate::support::orgloop;
use crate::support::real_opencode::RealOpencode;
use crate::support::wait::until;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Tests that run an agent at once. The one that takes a minute by itself is not among them.
const AT_ONCE_MAX: usize = 2;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

struct Place;

impl Place {
    fn take() -> Self {
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
struct Expected<'a> {
    outcome: &'a str,
    reason: &'a str,
    code: Option<u8>,
    signal: Option<&'a str>,
    /// What `run`, `wait` and the webhook say.
    number: u8,
    /// Kinds of evidence that there must be, in time.
    prongs: &'a [&'a str],
    /// What the agent said of it begins like this.
    message: Option<&'a str>,
    /// Steps of the model that the agent accounted for; each is 1000 tokens in, 100 of them cached, and 50 out.
    steps: Option<u64>,
}

const COMPLETED: Expected<'static> = Expected {
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
struct Stage {
    daemon: Daemon,
    endpoint: Endpoint,
    model: FakeLlm,
    opencode: RealOpencode,
    home: TempDir,
    _place: Option<Place>,
}

impl Stage {
    fn new(test: &str) -> Option<Self> {
        let opencode = RealOpencode::find(test)?;
        let place = Place::take();
        Some(Self { _place: Some(place), ..Self::at_any_time(opencode) })
    }

    fn at_any_time(opencode: RealOpencode) -> Self {
        let endpoint = Endpoint::start();
        let daemon =
            Daemon::builder().config("webhook_url", endpoint.url()).config("webhook_secret", SECRET).start();
        let home = tempfile::Builder::new().prefix("opencode-").tempdir().expect("a home for the agent");
        fs::create_dir(home.path().join("cwd")).expect("a working directory");
        Self { daemon, endpoint, model: FakeLlm::start(), opencode, home, _place: None }
    }

    fn cwd(&self) -> PathBuf {
        self.home.path().join("cwd")
    }

    /// `agentctl <verb> opencode` for a prompt, in the agent's own environment and nothing else.
    fn ask(&self, verb: &str, name: &str, prompt: &str, flags: &[&str]) -> Output {
        let arguments = [verb, "opencode", "--json", "--name", name, "-p", prompt];
        self.daemon
            .command(arguments.iter().chain(flags))
            .current_dir(self.cwd())
            .env_clear()
            .envs(self.opencode.env(self.home.path(), self.model.port()))
            .env("AGENTCTL_HOME", self.daemon.home())
            .env("AGENTCTL_NO_AUTOSTART", "1")
            .output()
            .expect("the command line runs")
    }

    #[track_caller]
    fn launch(&self, name: &str, prompt: &str, flags: &[&str]) -> String {
        let output = self.ask("launch", name, prompt, flags);
        let record: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        record["id"].as_str().unwrap_or_else(|| panic!("no id in {record}")).to_owned()
    }

    /// Waits until the model was asked so many times for work, by whatever session.
    #[track_caller]
    fn asked(&self, times: usize) {
        let asked = || self.model.requests().iter().filter(|request| !request.tools.is_empty()).count();
        until("opencode to ask the model", || (asked() >= times).then_some(()));
    }

    /// The leader of a live session, held.
    #[track_caller]
    fn leader(&self, id: &str) -> ProcessRef {
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
    fn watch_to_the_end(&self, id: &str) -> Value {
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
    fn verdict(&self, id: &str, expected: &Expected<'_>) -> Value {
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
            ("adapter", json!("opencode")),
            ("cwd", json!(self.cwd().canonicalize().expect("a working directory"))),
        ];
        for (key, value) in same {
            assert_eq!(record[key], value, "{key}: {}", words());
        }
        if let Some(message) = expected.message {
            let told = record["meta"]["message"].as_str().unwrap_or_default();
            assert!(told.starts_with(message), "{}", words());
        }
        if let Some(steps) = expected.steps {
            let tokens =
                json!({"in": 900 * steps, "out": 50 * steps, "cacheRead": 100 * steps, "cacheWrite": 0});
            assert_eq!(record["tokens"], tokens, "{}", words());
            let cost = record["cost"].as_f64().expect("a cost");
            assert!((cost - 0.001_01 * steps as f64).abs() < 1e-9, "{}", words());
            let native = record["nativeId"].as_str().unwrap_or_default();
            assert!(native.starts_with("ses_"), "{}", words());
        }
        assert_eq!(self.daemon.run(["wait", id]).status.code(), Some(i32::from(expected.number)));

        nothing_owed(&self.daemon);
        let about = self.endpoint.about(id);
        let [request] = about.as_slice() else { panic!("not one webhook: {about:?}") };
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
fn carriers(id: &str) -> Vec<u32> {
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
fn command_of(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&command).replace('\0', " ").trim().to_owned()
}

#[test]
fn success_is_told_with_tokens_cost_and_words() {
    let Some(stage) = Stage::new("opencode under the daemon: success") else { return };
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
    let Some(stage) = Stage::new("opencode under the daemon: natural ends") else { return };
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
    let mut ids = Vec::new();
    for (name, prompt, model, _) in &table {
        let flags: Vec<_> = model.iter().flat_map(|model| ["--model", model]).collect();
        ids.push(stage.launch(name, prompt, &flags));
    }
    for (id, (_, _, _, expected)) in ids.iter().zip(&table) {
        stage.verdict(id, expected);
    }
    assert_eq!(stage.endpoint.received().len(), table.len());
}

#[test]
fn a_minute_of_work_is_never_shown_as_ended_early() {
    let Some(opencode) = RealOpencode::find("opencode under the daemon: a minute of work") else { return };
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
    let Some(stage) = Stage::new("opencode under the daemon: HTTP 500") else { return };
    let id = stage.launch("retries", "[[error:500]]", &["--timeout", "20s", "--grace", "2s"]);
    stage.watch_to_the_end(&id);
    stage.verdict(&id, &TIMED_OUT);
    // It did meet the failing model before, more than once, and printed nothing of it.
    assert!(stage.model.requests().len() > 1, "{:?}", stage.model.requests());
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
    let Some(stage) = Stage::new("opencode under the daemon: silence") else { return };
    let id = stage.launch("hang", "[[hang]]", &["--timeout", "15s"]);
    let began = stage.daemon.status(&id);
    let record = stage.watch_to_the_end(&id);
    assert_eq!(began["timeoutAt"], record["timeoutAt"]);
    let at = |key: &str| record[key].as_str().and_then(parse_rfc3339).expect("a time");
    assert!(at("stoppedAt") >= at("timeoutAt"), "{record}");
    stage.verdict(&id, &TIMED_OUT);
    assert!(!stage.model.requests().is_empty(), "opencode did not come to ask the model");
    assert_eq!(carriers(&id), [0; 0]);
}

#[test]
fn a_killed_opencode_failed_by_sigkill() {
    let Some(stage) = Stage::new("opencode under the daemon: SIGKILL") else { return };
    // One whole step, then silence: what that step used is known, and counts although nobody tells a sum.
    let id = stage.launch("victim", "[[tool:bash:true]] [[error:500]]", &[]);
    stage.asked(2);
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
    let Some(stage) = Stage::new("opencode under the daemon: stop") else { return };
    let prompt = "[[tool:bash:(setsid sleep 300 &) ; sleep 299]]";
    let id = stage.launch("stopped", prompt, &["--grace", "5s"]);
    let runs = |command: &str| carriers(&id).into_iter().find(|pid| command_of(*pid) == command);
    until("the tool's own session", || runs("sleep 300"));
    until("the tool", || runs("sleep 299"));
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
    let Some(stage) = Stage::new("opencode under the daemon: two first starts") else { return };
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
    let Some(mut stage) = Stage::new("opencode under the daemon: the daemon killed") else { return };
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
