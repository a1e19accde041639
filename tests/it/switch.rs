//! Switching over from the earlier agentctl: its home, its daemon, its clients.

mod doubt;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use agentctl::core::vocab::Wall;
use agentctl::sys::ProcessRef;
use agentctl::wire::time::rfc3339;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, home, refusal};
use crate::support::endpoint::Endpoint;
use crate::support::play::{Gate, stderr, stdout};
use crate::support::wait::until;

/// Answers as a daemon of the earlier tool does: each line that is JSON, and nothing else.
fn old_daemon_at(home: &Path, pid: u32) {
    let listener = UnixListener::bind(home.join("agentctl.sock")).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    let Ok(request) = serde_json::from_str::<Value>(&line) else { continue };
                    let result = json!({"pid": pid, "uptime": 5, "sessions": 0, "locks": 0, "fuses": 0});
                    let answer = json!({"id": request["id"], "result": result});
                    if writeln!(&stream, "{answer}").is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A process whose command line is the earlier tool's, until it is dropped.
struct Node(Child);

impl Node {
    /// Of whoever has `home` as the tool's.
    fn start(home: &Path, arguments: &[&str]) -> Self {
        let user = home.join("user");
        fs::create_dir_all(&user).expect("a directory");
        std::os::unix::fs::symlink(home, user.join(".agentctl")).expect("a link");
        Self::start_at(&user, home, arguments)
    }

    /// Of a user who is at home in `user`.
    fn start_at(user: &Path, dir: &Path, arguments: &[&str]) -> Self {
        let script = dir.join("cli.js");
        fs::write(&script, "read -r _\n").expect("a script");
        let child = Command::new("/bin/sh")
            .arg0("node")
            .arg(&script)
            .args(arguments)
            .env("HOME", user)
            .stdin(Stdio::piped())
            .spawn()
            .expect("it runs");
        Self(child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ended_already = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a home").permissions().mode() & 0o777
}

fn command(home: &Path, arguments: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command.args(arguments).env_remove("AGENTCTL_SESSION_ID").env_remove("AGENTCTL_SOCKET");
    command
        .env("AGENTCTL_HOME", home)
        .env("AGENTCTL_NO_AUTOSTART", "1")
        .output()
        .expect("the command line runs")
}

#[test]
fn no_daemon_starts_beside_one_of_the_earlier_tool_that_answers() {
    let home = home();
    old_daemon_at(home.path(), 4242);
    let said = refusal(home.path());
    assert!(said.contains("an earlier agentctl runs for") && said.contains("kill 4242 ("), "{said}");
    assert!(home.path().join("agentctl.sock").exists(), "its socket stays");
    assert!(!home.path().join("journal.db").exists(), "nothing was begun");

    // The earlier tool's daemon never answers HTTP, and must not keep a command waiting.
    fs::write(home.path().join("agentctl.pid"), "4242").expect("a file");
    for (arguments, code) in [(&["list"][..], 1), (&["daemon", "status"], 1), (&["daemon", "stop"], 1)] {
        let output = command(home.path(), arguments);
        assert_eq!((output.status.code(), stdout(&output)), (Some(code), String::new()), "{arguments:?}");
        assert!(stderr(&output).contains("kill 4242 ("), "{output:?}");
    }
}

#[test]
fn its_supervisor_alone_is_refused_too_and_a_number_that_is_another_process_is_not() {
    let home = home();
    let supervisor = Node::start(home.path(), &["daemon", "start", "--supervised"]);
    fs::write(home.path().join("supervisor.pid"), supervisor.0.id().to_string()).expect("a file");
    // Left behind, and somebody else's by now.
    fs::write(home.path().join("agentctl.pid"), std::process::id().to_string()).expect("a file");
    let said = refusal(home.path());
    assert!(said.contains(&format!("kill {} (", supervisor.0.id())), "{said}");
    assert!(!said.contains(&std::process::id().to_string()), "{said}");
    for arguments in [&["list"][..], &["daemon", "status"], &["daemon", "stop"]] {
        let output = command(home.path(), arguments);
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{arguments:?}");
        let said = stderr(&output);
        assert!(said.contains(&format!("kill {} (", supervisor.0.id())), "{said}");
        assert!(!said.contains("agentctl daemon start"), "{said}");
    }

    let mut daemon = Daemon::new();
    daemon.terminate();
    for file in ["agentctl.pid", "supervisor.pid"] {
        fs::write(daemon.home().join(file), std::process::id().to_string()).expect("a file");
    }
    daemon.start();
    daemon.is_well();
}

#[test]
fn without_a_daemon_nothing_works_and_its_variable_keeps_one_from_being_started() {
    let home = home();
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command.args(["list"]).env_remove("AGENTCTL_SESSION_ID").env_remove("AGENTCTL_SOCKET");
    command
        .env_remove("AGENTCTL_NO_AUTOSTART")
        .env("AGENTCTL_HOME", home.path())
        .env("AGENTCTL_NO_DAEMON", "1");
    let output = command.output().expect("the command line runs");
    assert_eq!((output.status.code(), stdout(&output)), (Some(3), String::new()), "{output:?}");
    assert!(
        stderr(&output).contains("AGENTCTL_NO_DAEMON=1 keeps this command from starting one"),
        "{output:?}"
    );
    assert!(!home.path().join("daemon.lock").exists(), "none was started");
}

#[test]
fn its_home_is_made_private_and_another_directory_is_left_as_it_is() {
    let mut daemon = Daemon::new();
    daemon.terminate();
    fs::set_permissions(daemon.home(), fs::Permissions::from_mode(0o755)).expect("our own");
    let said = refusal(daemon.home());
    assert!(said.contains("can be entered by other users (mode 755)"), "{said}");
    assert_eq!(mode(daemon.home()), 0o755);

    fs::write(daemon.home().join("state.json"), r#"{"sessions": {}, "version": 1}"#).expect("a file");
    daemon.start();
    assert_eq!(mode(daemon.home()), 0o700);
    assert!(daemon.log().contains("as an earlier agentctl left it"), "{}", daemon.log());
}

#[test]
fn its_configuration_does_not_keep_a_daemon_from_starting() {
    let daemon = Daemon::builder()
        .config("adapter", "claude-code")
        .config("timeout", 7_200_000)
        .config("webhook_url", "")
        .config("webhook_secret", "")
        .start();
    daemon.is_well();
    assert!(daemon.log().contains("give it a unit"), "{}", daemon.log());
    let checked = daemon.run(["config", "check"]);
    assert_eq!(checked.status.code(), Some(0));
    assert!(stderr(&checked).contains("\"timeout\": \"90m\""), "{checked:?}");
}

#[test]
fn its_clients_are_answered_so_that_they_neither_wait_nor_start_a_daemon_of_theirs() {
    let daemon = Daemon::new();
    let ask = |request: &str| -> Value {
        let answer = String::from_utf8(daemon.raw(request.as_bytes())).expect("text");
        assert_eq!(answer.matches('\n').count(), 1, "{answer}");
        serde_json::from_str(&answer).expect("JSON")
    };
    let status = ask("{\"id\":\"a-1\",\"method\":\"daemon.status\"}\n");
    assert_eq!((&status["id"], &status["result"]["pid"]), (&json!("a-1"), &json!(daemon.pid())));
    let refused = ask("{\"id\":\"a-2\",\"method\":\"session.list\",\"params\":{}}\n");
    assert_eq!(refused["id"], "a-2");
    assert!(refused["error"]["message"].as_str().is_some_and(|said| said.contains("earlier agentctl")));
    daemon.is_well();
}

#[test]
fn what_is_no_adapter_any_more_is_refused_with_what_to_do_instead() {
    let daemon = Daemon::new();
    for (name, instead) in
        [("openclaw", "gateway"), ("slate", "launch exec -- slate"), ("codex-acp", "\"protocol\": \"acp\"")]
    {
        let output = daemon.run(["launch", name, "-p", "x"]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{name}");
        assert!(stderr(&output).contains(instead), "{output:?}");
    }
}

/// A home of the earlier tool, laid out anew, and a daemon that has not been started in it.
fn old_home() -> Daemon {
    let mut daemon = Daemon::new();
    daemon.terminate();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _absent = fs::remove_file(daemon.home().join(name));
    }
    fs::set_permissions(daemon.home(), fs::Permissions::from_mode(0o755)).expect("our own");
    fs::create_dir(daemon.home().join("opencode-sessions")).expect("a directory");
    fs::copy("tests/fixtures/oldhome/state.json", daemon.home().join("state.json")).expect("a recorded file");
    let exit = "opencode-sessions/d7b63b65-5f0e-4c1b-9a55-0f6b1c2d3e4f.exit";
    fs::copy(format!("tests/fixtures/oldhome/{exit}"), daemon.home().join(exit)).expect("a recorded file");
    daemon
}

/// A session that the earlier tool would have launched: its wrapper runs, as it runs them, and waits for its gate.
struct Wrapped {
    wrapper: Child,
    gate: Option<Gate>,
    process: ProcessRef,
}

const LIVE: &str = "3c623816-0d4a-4e9e-8f6a-6b1c2d3e4f50";

impl Wrapped {
    /// As `state.json` has it, with this word for it.
    fn start(home: &Path, status: &str) -> Self {
        let dir = home.join("opencode-sessions");
        let (gate, exit) = (Gate::new(home, "gate"), dir.join(format!("{LIVE}.exit")));
        let script = dir.join(format!("wrapper-{LIVE}.sh"));
        let agent =
            format!("sh -c '{}; exit 42'\nEC=$?\necho \"$EC\" > {}\nexit $EC\n", gate.wait(), exit.display());
        fs::write(&script, format!("#!/bin/sh\n{agent}")).expect("a script");
        let wrapper = Command::new("/bin/sh").arg(&script).stdin(Stdio::null()).spawn().expect("it runs");
        let process = ProcessRef::of_child(wrapper.id()).expect("our own child");
        let path = home.join("state.json");
        let mut state: Value =
            serde_json::from_str(&fs::read_to_string(&path).expect("a state")).expect("JSON");
        let session = &mut state["sessions"][LIVE];
        (session["pid"], session["status"]) = (json!(wrapper.id()), json!(status));
        fs::write(&path, state.to_string()).expect("a state");
        Self { wrapper, gate: Some(gate), process }
    }

    /// Lets it go on to its end, and reaps it.
    fn end(&mut self) {
        self.gate.take().expect("it runs").open();
        self.wrapper.wait().expect("our own child");
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        if let Some(gate) = self.gate.take() {
            gate.open();
        }
        let _ended_already = self.wrapper.kill().and_then(|()| self.wrapper.wait());
    }
}

#[track_caller]
fn holds(record: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&record[key], value, "{key}: {record:#}");
    }
}

#[test]
fn its_history_is_taken_over_once_and_told_to_nobody() {
    let endpoint = Endpoint::start();
    let mut daemon = old_home();
    let config = json!({"metrics_addr": null, "discover": false, "webhook_url": endpoint.url()});
    fs::write(daemon.home().join("config.json"), config.to_string()).expect("a configuration");
    let before = fs::read(daemon.home().join("state.json")).expect("a file");
    daemon.start();
    holds(
        &daemon.status("d7b63b65"),
        &json!({
            "id": "d7b63b65-5f0e-4c1b-9a55-0f6b1c2d3e4f", "origin": "imported", "adapter": "opencode", "status": "error",
            "outcome": "failed", "reason": "exit_code_42", "exitCode": 42, "startedAt": "2026-03-12T04:21:44.105Z",
            "cwd": "/home/dev/project", "group": "g-a1b2c3", "prompt": "open a pull request", "cost": 0.25,
            "logPath": null,
        }),
    );
    // That tool's word is no evidence: not of a life, and not of an end.
    holds(
        &daemon.status(LIVE),
        &json!({"outcome": "lost", "exitCode": null, "exitStatus": 125, "status": "stopped"}),
    );
    let codex = daemon.status("01a20287-ab6b-7fa1-8031-1521fdc9368c");
    holds(&codex, &json!({"outcome": "lost", "nativeId": "01a20287-ab6b-7fa1-8031-1521fdc9368c"}));
    assert_eq!(codex["meta"]["oldStatus"], "completed");
    for how in [&["logs", "01a20287"][..], &["logs", "--raw", "01a20287"]] {
        let logs = daemon.run(how);
        assert_eq!(logs.status.code(), Some(1));
        let said = stderr(&logs);
        assert!(said.contains("/home/dev/.codex/agentctl/sessions/launch-1773223200000.log"), "{logs:?}");
    }
    let all = daemon.json(["list", "-a", "--json"]);
    let openclaw = all.as_array().expect("an array").iter().find(|it| it["adapter"] == "openclaw");
    assert_eq!(openclaw.expect("it is listed")["meta"]["oldId"], "agent:main:main");
    assert_eq!(all.as_array().map(Vec::len), Some(4), "{all:#}");

    let status = stdout(&daemon.run(["daemon", "status"]));
    assert!(
        status.contains("Earlier tool:    taken over from an earlier agentctl: 4 sessions, none of them"),
        "{status}"
    );
    assert!(
        status.contains("left out: pi session 6f1e0c9a-1111-4222-8333-444455556666: no process number"),
        "{status}"
    );
    assert!(status.contains("left out: session broken: it is not understood"), "{status}");
    let doctor = stdout(&daemon.run(["doctor"]));
    let doctor = doctor.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(doctor.contains("state.json on ") && doctor.contains("4 taken, 3 left out"), "{doctor}");
    assert!(doctor.contains("taken-over.log in the home names what was left out"), "{doctor}");
    let shown = stdout(&daemon.run(["status", "01a20287"]));
    assert!(shown.contains("/launch-1773223200000.log (of an earlier agentctl)\n"), "{shown}");
    let table = stdout(&daemon.run(["list", "-a"]));
    let row: Vec<_> =
        table.lines().find(|line| line.contains(" openclaw ")).expect("a row").split_whitespace().collect();
    assert_eq!(
        row[1..7],
        ["stopped", "openclaw", "-", "imported", "-", "-"],
        "no directory is a dash: {table}"
    );
    let resumed = daemon.run(["resume", "d7b63b65", "go on"]);
    assert!(stderr(&resumed).contains("an earlier agentctl did not keep the id"), "{resumed:?}");
    assert_eq!(daemon.events(), Vec::<Value>::new());

    daemon.terminate();
    daemon.start();
    assert!(!stdout(&daemon.run(["daemon", "status"])).contains("Earlier tool"), "once");
    assert_eq!(daemon.json(["list", "-a", "--json"]), all, "nothing twice, and nothing changed");
    assert_eq!(daemon.code(&["prune"]), Some(0));
    daemon.terminate();
    daemon.start();
    assert_eq!(daemon.json(["list", "-a", "--json"]), json!([]), "what was forgotten stays so");
    assert_eq!(fs::read(daemon.home().join("state.json")).expect("a file"), before, "the original stays");
    assert_eq!(endpoint.received().len(), 0);
}

#[test]
fn a_session_that_it_called_stopped_and_that_runs_is_supervised_to_its_true_end() {
    let endpoint = Endpoint::start();
    let mut daemon = old_home();
    let config = json!({"metrics_addr": null, "discover": false, "webhook_url": endpoint.url()});
    fs::write(daemon.home().join("config.json"), config.to_string()).expect("a configuration");
    let mut wrapped = Wrapped::start(daemon.home(), "stopped");
    daemon.start();
    let pid = wrapped.wrapper.id();
    holds(
        &daemon.status(LIVE),
        &json!({"origin": "imported", "status": "running", "phase": "running", "pid": pid, "outcome": null}),
    );
    assert!(daemon.log().contains("4 sessions, 1 of them running"), "{}", daemon.log());
    // Through a daemon that is killed, and through a journal that is lost.
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.status(LIVE)["phase"], "running");
    daemon.kill();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _absent = fs::remove_file(daemon.home().join(name));
    }
    daemon.start();
    holds(&daemon.status(LIVE), &json!({"origin": "imported", "phase": "running", "pid": pid}));
    assert_eq!(daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len), Some(4), "and nothing twice");

    wrapped.end();
    let record = daemon.ended(LIVE);
    holds(&record, &json!({"outcome": "failed", "reason": "exit_code_42", "exitCode": 42, "exitStatus": 42}));
    let evidence = record["evidence"].as_array().expect("a list");
    let of_file = evidence.iter().find(|entry| entry["prong"] == "exit_file").expect("the exit file");
    assert_eq!(of_file["detail"], "exit code 42, by the exit file of an earlier agentctl");
    assert_eq!(daemon.event_types(LIVE), ["session.error"]);
    let body = endpoint.wait_about(LIVE, 1)[0].json();
    assert_eq!((&body["exit_status"], &body["meta"]["exit_known"]), (&json!(42), &json!(true)));
    until("the verdict to be written down", || daemon.file(LIVE, "verdict.1.json").exists().then_some(()));
    daemon.terminate();
    daemon.start();
    daemon.ended_once(LIVE);
}

#[test]
fn a_wrapper_that_ends_while_no_daemon_runs_has_left_its_word() {
    let mut daemon = old_home();
    let mut wrapped = Wrapped::start(daemon.home(), "running");
    daemon.start();
    assert_eq!(daemon.status(LIVE)["phase"], "running");
    daemon.kill();
    wrapped.end();
    daemon.start();
    holds(&daemon.ended(LIVE), &json!({"outcome": "failed", "exitCode": 42}));
}

#[test]
fn such_a_session_can_be_stopped_with_its_agent() {
    let mut daemon = old_home();
    let wrapped = Wrapped::start(daemon.home(), "running");
    daemon.start();
    let output = daemon.run(["stop", LIVE]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(wrapped.process.has_ended(), Some(true));
    holds(&daemon.status(LIVE), &json!({"outcome": "cancelled", "status": "stopped"}));
}

#[test]
fn a_number_that_is_anothers_is_not_taken_for_the_session() {
    let mut daemon = old_home();
    let path = daemon.home().join("state.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a state")).expect("JSON");
    // This process: no wrapper, and much younger than the session.
    state["sessions"][LIVE]["pid"] = json!(std::process::id());
    // As old as its session, and no codex.
    let codex = "01a20287-ab6b-7fa1-8031-1521fdc9368c";
    let started =
        fs::metadata(format!("/proc/{}", std::process::id())).expect("we run").modified().expect("a time");
    let started = started.duration_since(std::time::UNIX_EPOCH).expect("a time of now").as_micros();
    let started = rfc3339(Wall(i64::try_from(started).expect("a time of now")));
    (state["sessions"][codex]["pid"], state["sessions"][codex]["startedAt"]) =
        (json!(std::process::id()), json!(started));
    fs::write(&path, state.to_string()).expect("a state");
    daemon.start();
    holds(&daemon.status(LIVE), &json!({"outcome": "lost"}));
    assert_eq!(daemon.code(&["status", codex]), Some(1), "neither an end nor a life is made up");
    let left_out = format!("whether it is process {} cannot be told", std::process::id());
    assert!(daemon.log().contains(&left_out), "{}", daemon.log());
    assert!(daemon.log().contains(&format!("agentctl adopt {}", std::process::id())), "{}", daemon.log());
}

#[test]
fn a_long_history_is_whole_at_the_first_answer() {
    let mut daemon = old_home();
    let path = daemon.home().join("state.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a state")).expect("JSON");
    let ended = state["sessions"]["01a20287-ab6b-7fa1-8031-1521fdc9368c"].clone();
    let ids: Vec<String> = (0..3_000).map(|n| format!("01a20287-ab6b-7fa1-8031-{n:012}")).collect();
    for id in &ids {
        let mut session = ended.clone();
        session["id"] = json!(id);
        state["sessions"][id] = session;
    }
    fs::write(&path, state.to_string()).expect("a state");
    daemon.start();
    let listed = daemon.json(["list", "-a", "--json"]);
    let listed = listed.as_array().expect("a list");
    assert!(listed.len() > ids.len(), "{}", listed.len());
    let untold: Vec<&Value> = listed.iter().filter(|session| session["outcome"].is_null()).collect();
    assert!(untold.is_empty(), "{} of {}: {:#}", untold.len(), listed.len(), untold[0]);
}

#[test]
fn a_state_that_is_broken_is_said_and_read_once_it_is_whole() {
    let mut daemon = old_home();
    let path = daemon.home().join("state.json");
    let whole = fs::read(&path).expect("a file");
    fs::write(&path, &whole[..100]).expect("half a file");
    daemon.start();
    daemon.is_well();
    let status = stdout(&daemon.run(["daemon", "status"]));
    assert!(status.contains("state.json is not taken over: it is no JSON"), "{status}");
    daemon.terminate();
    fs::write(&path, whole).expect("the file");
    daemon.start();
    assert!(stdout(&daemon.run(["daemon", "status"])).contains("4 sessions, none of them running"));
}

#[test]
fn whoever_starts_the_daemon_says_once_what_it_took_over() {
    let home = old_home();
    let list = || {
        let mut command = home.command(["list", "-a", "--json"]);
        command.env_remove("AGENTCTL_NO_AUTOSTART").output().expect("the command line runs")
    };
    let first = list();
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    assert!(
        stderr(&first).starts_with("agentctl: taken over from an earlier agentctl: 4 sessions, none"),
        "{first:?}"
    );
    assert_eq!(stderr(&list()), "");
    assert_eq!(home.run(["daemon", "stop"]).status.code(), Some(0));
}

/// Puts one of its files into a home, with these words in the place of those.
fn lay_out(home: &Path, name: &str, words: &[(&str, &Path)]) {
    let mut text = fs::read_to_string(format!("tests/fixtures/oldhome/{name}")).expect("a recorded file");
    for (word, path) in words {
        text = text.replace(word, path.to_str().expect("a text"));
    }
    fs::write(home.join(name), text).expect("a file");
}

#[test]
fn its_fuses_burn_on_and_one_that_was_due_is_named_and_not_fired() {
    let mut daemon = old_home();
    let (later, overdue) = (daemon.home().join("later"), daemon.home().join("overdue"));
    for dir in [&later, &overdue] {
        fs::create_dir(dir).expect("a directory");
    }
    lay_out(daemon.home(), "fuses.json", &[("@LATER@", &later), ("@OVERDUE@", &overdue)]);
    daemon.start();
    let fuses = daemon.json(["fuses", "--json"]);
    assert_eq!(fuses.as_array().map(Vec::len), Some(1), "{fuses:#}");
    let real = fs::canonicalize(&later).expect("a directory");
    holds(
        &fuses[0],
        &json!({"directory": real, "ttlMs": 600_000, "expiresAt": "2126-03-12T04:31:44.105Z", "label": "clean up"}),
    );
    assert_eq!(fuses[0]["onExpire"]["script"], "touch fired");
    let status = stdout(&daemon.run(["daemon", "status"]));
    assert!(status.contains("4 sessions, none of them running; 1 fuse; its files"), "{status}");
    assert!(
        status.contains("due 2026-03-12T04:31:44.105Z: it was due before, and what it does is not"),
        "{status}"
    );
    assert!(status.contains("left out: fuse of /home/dev/mono-x: it is not understood"), "{status}");
    assert_eq!(daemon.events(), Vec::<Value>::new(), "nothing was fired");

    // What was cancelled here stays so, also when the journal is lost.
    assert_eq!(daemon.code(&["fuse", "cancel", real.to_str().expect("a text")]), Some(0));
    let id = daemon.launch(&[], "exit 0");
    daemon.ended(&id);
    until("the verdict to be written down", || daemon.file(&id, "verdict.1.json").exists().then_some(()));
    daemon.terminate();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _absent = fs::remove_file(daemon.home().join(name));
    }
    daemon.start();
    assert_eq!(daemon.json(["fuses", "--json"]), json!([]));
    daemon.terminate();
    daemon.start();
    assert_eq!(daemon.json(["fuses", "--json"]), json!([]));
}

#[test]
fn its_locks_by_hand_hold_and_a_session_that_runs_has_its_directory() {
    let mut daemon = old_home();
    let _wrapped = Wrapped::start(daemon.home(), "running");
    let real = fs::canonicalize(daemon.home()).expect("a home");
    let path = daemon.home().join("state.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a state")).expect("JSON");
    state["sessions"][LIVE]["cwd"] = json!(real);
    fs::write(&path, state.to_string()).expect("a state");
    lay_out(daemon.home(), "locks.json", &[]);
    daemon.start();
    let status = stdout(&daemon.run(["daemon", "status"]));
    assert!(status.contains("4 sessions, 1 of them running; 2 locks; its files"), "{status}");
    assert!(status.contains("left out: lock of number 4: it is not understood"), "{status}");
    let locks = daemon.json(["locks", "--json"]);
    let of = |directory: &Path| {
        let mut all = locks.as_array().expect("an array").iter();
        all.find(|lock| lock["directory"] == json!(directory)).unwrap_or_else(|| panic!("{locks:#}")).clone()
    };
    holds(
        &of(Path::new("/tmp")),
        &json!({"type": "manual", "lockedBy": "ann", "reason": "release", "lockedAt": "2026-03-12T04:00:00.000Z"}),
    );
    holds(&of(Path::new("/nowhere/at/all")), &json!({"type": "manual", "lockedBy": "unknown"}));
    holds(&of(&real), &json!({"type": "auto", "sessionId": LIVE}));
    assert_eq!(locks.as_array().map(Vec::len), Some(3), "an ended session has none: {locks:#}");
    let cwd = real.to_str().expect("a text");
    let refused = daemon.run(["launch", "--cwd", cwd, "--", "true"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains(&format!("in use by session {}", &LIVE[..8])), "{refused:?}");
    assert_eq!(daemon.code(&["unlock", "/tmp"]), Some(0));
    daemon.terminate();
    daemon.start();
    assert_eq!(
        daemon.json(["locks", "--json"]).as_array().map(Vec::len),
        Some(2),
        "what was unlocked stays so"
    );
}
