//! The command line as a contract: what it prints where, and which code it exits with.

use std::process::{Command, Output, Stdio};

use agentctl::sys::ProcessRef;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::play::{output_of, stderr, stdout};
use crate::support::wait::until;

/// Exit code, stdout and stderr.
fn whole(output: &Output) -> (i32, String, String) {
    (output.status.code().expect("an exit code"), stdout(output), stderr(output))
}

fn said(code: i32, out: &str, err: &str) -> (i32, String, String) {
    (code, out.to_owned(), err.to_owned())
}

#[test]
fn an_empty_list_says_so_and_is_an_empty_array() {
    let daemon = Daemon::new();
    assert_eq!(whole(&daemon.run(["list"])), said(0, "No sessions found.\n", ""));
    assert_eq!(whole(&daemon.run(["list", "--json"])), said(0, "[]\n", ""));
    assert_eq!(whole(&daemon.run(["list", "-a", "--json"])), said(0, "[]\n", ""));
}

#[test]
fn the_table_shows_a_session_a_line() {
    let daemon = Daemon::new();
    let launched = daemon.json(["launch", "--json", "--cwd", "/usr", "--", "sleep", "1000"]);
    let id = launched["id"].as_str().expect("an id");
    let pid = daemon.status(id)["pid"].to_string();
    let width = pid.len().max(3);
    let table = stdout(&daemon.run(["list"]));
    let age = table
        .split_whitespace()
        .find(|word| word.ends_with('s') && word[..1].parse::<u8>().is_ok())
        .expect("an age");
    let expected = format!(
        "ID        Status   Adapter  Model  CWD   {:width$}  Started  Prompt\n\
         --------  -------  -------  -----  ----  {}  -------  ----------\n\
         {}  running  exec     -      /usr  {:width$}  {age} ago   sleep 1000\n",
        "PID",
        "-".repeat(width),
        &id[..8],
        pid
    );
    assert_eq!(table, expected);
}

#[test]
fn a_directory_with_a_line_break_in_its_name_takes_one_line() {
    let daemon = Daemon::new();
    let parent = TempDir::new().expect("a directory");
    let dir = parent.path().join("a\nb\tc");
    std::fs::create_dir(&dir).expect("a directory");
    let dir = dir.to_str().expect("a text");
    let launched = daemon.json(["launch", "--json", "--cwd", dir, "--", "sleep", "1000"]);
    let id = launched["id"].as_str().expect("an id");
    let table = stdout(&daemon.run(["list"]));
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("a b c"), "{table}");
    let details = stdout(&daemon.run(["status", id]));
    assert!(details.lines().any(|line| line.starts_with("CWD") && line.ends_with("a b c")), "{details}");
}

#[test]
fn a_piped_table_fits_80_columns() {
    let daemon = Daemon::new();
    let deep = daemon.path(&"deep/".repeat(20));
    std::fs::create_dir_all(&deep).expect("a directory");
    let gate = daemon.gate("gate");
    daemon.launch(&["--cwd", &deep, "--name", &"n".repeat(90), "--model", &"m".repeat(40)], &gate.wait());
    let table = stdout(&daemon.run(["list"]));
    let longest = table.lines().map(|line| line.chars().count()).max();
    assert!(longest <= Some(80), "{table}");
}

#[test]
fn list_json_is_a_bare_array_of_whole_records() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let live = daemon.launch(&["--label", "team=red"], &gate.wait());
    let over = daemon.launch(&[], "exit 1");
    daemon.ended(&over);
    let ids = |list: Value| -> Vec<Value> {
        list.as_array().expect("an array").iter().map(|s| s["id"].clone()).collect()
    };
    assert_eq!(ids(daemon.json(["list", "--json"])), [json!(live)]);
    assert_eq!(ids(daemon.json(["list", "-a", "--json"])), [json!(live), json!(over)]);
    assert_eq!(ids(daemon.json(["list", "--status", "error", "--json"])), [json!(over)]);
    assert_eq!(ids(daemon.json(["list", "--label", "team=red", "--json"])), [json!(live)]);
    assert_eq!(ids(daemon.json(["list", "--label", "team=blue", "--json"])), Vec::<Value>::new());
    let keys = [
        "id",
        "run",
        "origin",
        "adapter",
        "status",
        "phase",
        "outcome",
        "exitCode",
        "signal",
        "reason",
        "evidence",
        "startedAt",
        "stoppedAt",
        "timeoutAt",
        "pid",
        "cwd",
        "model",
        "prompt",
        "group",
        "name",
        "spec",
        "nativeId",
        "logPath",
        "tokens",
        "cost",
        "usage",
        "limits",
        "leftovers",
        "meta",
    ];
    let record = daemon.status(&live);
    let missing: Vec<_> = keys.iter().filter(|key| record.get(key).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} in {record:#}");
}

#[test]
fn an_unknown_session_is_an_answer_of_no() {
    let daemon = Daemon::new();
    for verb in ["status", "logs", "peek", "stop"] {
        assert_eq!(
            whole(&daemon.run([verb, "nosuch"])),
            said(1, "", "Session not found: nosuch\n"),
            "{verb}"
        );
    }
    assert_eq!(whole(&daemon.run(["extend", "nosuch", "1h"])), said(1, "", "Session not found: nosuch\n"));
    assert_eq!(whole(&daemon.run(["wait", "nosuch"])), said(125, "", "Session not found: nosuch\n"));
}

#[test]
fn wrong_usage_exits_with_2_and_prints_nothing_on_stdout() {
    let daemon = Daemon::new();
    for words in [
        &["nosuch"][..],
        &["list", "--nosuch"],
        &["status"],
        &["stop"],
        &["wait"],
        &["launch", "--timeout", "soon", "--", "true"],
        &["launch", "--env", "NOVALUE", "--", "true"],
        &["launch", "--leftovers", "maybe", "--", "true"],
        &["list", "--status", "dead"],
        &[],
    ] {
        let output = daemon.run(words);
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (Some(2), String::new()),
            "{words:?}: {output:?}"
        );
        assert!(!stderr(&output).is_empty());
    }
}

#[test]
fn without_a_daemon_every_command_exits_with_3_and_names_the_remedy() {
    let mut daemon = Daemon::new();
    daemon.kill();
    for words in [
        &["list"][..],
        &["status", "x"],
        &["stop", "x"],
        &["launch", "--", "true"],
        &["events"],
        &["daemon", "status"],
    ] {
        let (code, out, err) = whole(&daemon.run(words));
        assert_eq!((code, out.as_str()), (3, ""), "{words:?}: {err}");
        assert!(err.contains("agentctl daemon start"), "{words:?}: {err}");
    }
    for words in [&["wait", "x"][..], &["run", "--", "true"]] {
        let (code, out, err) = whole(&daemon.run(words));
        assert_eq!((code, out.as_str()), (125, ""), "{words:?}: {err}");
        assert!(err.contains("agentctl daemon start"), "{words:?}: {err}");
    }
}

#[test]
fn wait_gives_up_with_124_and_the_session_lives_on() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &gate.wait());
    assert_eq!(daemon.code(&["wait", &id, "--timeout", "200ms"]), Some(124));
    assert_eq!(daemon.status(&id)["status"], "running");
}

#[test]
fn wait_of_several_exits_with_the_first_that_is_not_0_in_the_order_named() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let slow = daemon.launch(&[], &format!("{}; exit 5", gate.wait()));
    let [good, bad] = ["exit 0", "exit 6"].map(|script| daemon.launch(&[], script));
    daemon.ended(&bad);
    gate.open();
    assert_eq!(daemon.code(&["wait", &good, &slow, &bad]), Some(5));
    assert_eq!(daemon.code(&["wait", &bad, &slow]), Some(6));
    let records = daemon.json(["wait", "--json", &bad, &good, &slow]);
    let order: Vec<_> =
        records.as_array().expect("a list").iter().map(|record| record["id"].clone()).collect();
    assert_eq!(order, [json!(bad), json!(good), json!(slow)]);
}

#[test]
fn wait_any_returns_with_the_first_end() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let never = daemon.launch(&[], &gate.wait());
    let soon = daemon.launch(&[], "exit 8");
    assert_eq!(daemon.code(&["wait", "--any", &never, &soon]), Some(8));
}

#[test]
fn sessions_are_named_by_id_unique_prefix_or_name() {
    let daemon = Daemon::new();
    let id = daemon.launch(&["--name", "build"], "exit 0");
    for name in [&id, &id[..8], &id[..4], "build"] {
        assert_eq!(daemon.status(name)["id"], json!(id), "{name}");
    }
    assert_eq!(daemon.code(&["status", &id[..3]]), Some(1), "a prefix has 4 characters or more");
}

#[test]
fn an_ambiguous_prefix_lists_its_candidates() {
    let daemon = Daemon::new();
    // Ids are random: launch until two begin alike in 4 digits would take long, so names are made alike.
    let [one, two] = ["same", "same"].map(|name| daemon.launch(&["--name", name], "exit 0"));
    // Of sessions with one name the one that still runs would be meant.
    for id in [&one, &two] {
        daemon.ended(id);
    }
    let (code, out, err) = whole(&daemon.run(["status", "same"]));
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains(&one[..8]) && err.contains(&two[..8]), "{err}");
}

#[test]
fn events_of_another_journal_are_gone_and_the_current_cursor_is_named() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "exit 0");
    daemon.ended(&id);
    let events = daemon.events();
    let latest = events.last().expect("an event")["cursor"].as_str().expect("a cursor");
    let (code, out, err) = whole(&daemon.run(["events", "--since", "0123456789ab-1", "--no-follow"]));
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    assert!(err.contains(latest), "{err}");
    assert_eq!(daemon.http("GET", "/v1/events?since=0123456789ab-1", "", "").0, 410);
}

#[test]
fn events_after_a_cursor_are_those_and_no_others() {
    let mut daemon = Daemon::new();
    let ids = [0, 1].map(|code| daemon.launch(&[], &format!("exit {code}")));
    ids.iter().for_each(|id| drop(daemon.ended(id)));
    let all = daemon.events();
    assert_eq!(all.len(), 4, "{all:#?}");
    let cursor = all[1]["cursor"].as_str().expect("a cursor");
    for _ in 0..2 {
        let rest = stdout(&daemon.run(["events", "--since", cursor, "--no-follow"]));
        let rest: Vec<Value> = rest.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(rest, all[2..]);
        daemon.kill();
        daemon.start();
    }
}

#[test]
fn events_follow_what_happens_and_end_quietly_with_their_reader() {
    let daemon = Daemon::new();
    let first = daemon.launch(&[], "exit 0");
    daemon.ended(&first);
    let agentctl = env!("CARGO_BIN_EXE_agentctl");
    let script = format!(
        "{agentctl} events --since 0 --no-follow | head -n 1; {agentctl} events --since 0 | head -n 3"
    );
    let mut command = Command::new("sh");
    command
        .args(["-c", &script])
        .env("AGENTCTL_HOME", daemon.home())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("a shell");
    // The third event is still to come; each more lets the follower find that nobody reads any more, whenever it began.
    until("head to have its lines", || {
        daemon.ended(&daemon.launch(&[], "exit 0"));
        child.try_wait().expect("our own child")
    });
    let output = child.wait_with_output().expect("our own child");
    assert_eq!((stdout(&output).lines().count(), stderr(&output)), (4, String::new()));
}

#[test]
fn a_closed_pipe_is_no_panic() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "echo hello");
    daemon.ended(&id);
    for words in [
        &["list", "-a"][..],
        &["list", "-a", "--json"],
        &["status", &id],
        &["logs", &id],
        &["logs", "--raw", &id],
        &["completions", "bash"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = daemon.command(words).stdout(writer).output().expect("the command line runs");
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()), "{words:?}");
    }
}

/// `run` of a script, as a child that is known to have launched it under this name.
fn running(daemon: &Daemon, name: &str, flags: &[&str], script: &str) -> (std::process::Child, String) {
    let words = [&["run", "--name", name], flags, &["--", "sh", "-c", script]].concat();
    let child = daemon.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let id = until("the session", || {
        let record: Value = serde_json::from_slice(&daemon.run(["status", name, "--json"]).stdout).ok()?;
        (record["phase"] == "running").then(|| record["id"].as_str().expect("an id").to_owned())
    });
    // The script has begun, so `run` follows it, with its handlers in place.
    until("the script to begin", || daemon.stdout(&id).contains("up").then_some(()));
    (child, id)
}

fn signal(child: &std::process::Child, number: u8) {
    ProcessRef::of_child(child.id()).expect("our own child").signal(number).expect("a signal");
}

#[test]
fn an_interrupted_run_stops_its_session() {
    let daemon = Daemon::new();
    for number in [2, 15] {
        let gate = daemon.gate(&format!("gate{number}"));
        let (mut child, id) =
            running(&daemon, &format!("r{number}"), &[], &format!("echo up; {}", gate.wait()));
        hears(&mut child, "up");
        signal(&child, number);
        let output = output_of("run to end", child);
        assert_eq!(output.status.code(), Some(143), "{output:?}");
        assert!(stderr(&output).contains("stopping session"), "{output:?}");
        assert_eq!(daemon.status(&id)["outcome"], "cancelled");
    }
}

/// Waits until the child has printed a line.
#[track_caller]
fn hears(child: &mut std::process::Child, line: &str) {
    use std::io::Read;
    let stdout = child.stdout.as_mut().expect("a pipe");
    let mut seen = vec![0; line.len() + 1];
    stdout.read_exact(&mut seen).expect("a line");
    assert_eq!(String::from_utf8_lossy(&seen), format!("{line}\n"));
}

#[test]
fn a_second_interrupt_kills() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let script = format!("trap '' TERM; echo up; {}", gate.wait());
    let (mut child, id) = running(&daemon, "r", &["--grace", "1h"], &script);
    hears(&mut child, "up");
    signal(&child, 2);
    daemon.until_status(&id, "the stop", |record| record["phase"] == "stopping");
    signal(&child, 2);
    assert_eq!(output_of("run to end", child).status.code(), Some(137));
    assert_eq!(daemon.status(&id)["outcome"], "cancelled");
}

#[test]
fn a_run_that_is_hung_up_or_killed_leaves_its_session_running() {
    let daemon = Daemon::new();
    for number in [1, 9] {
        let gate = daemon.gate(&format!("gate{number}"));
        let (mut child, id) =
            running(&daemon, &format!("r{number}"), &[], &format!("echo up; {}; exit 3", gate.wait()));
        hears(&mut child, "up");
        signal(&child, number);
        output_of("run to end", child);
        assert_eq!(daemon.status(&id)["phase"], "running");
        gate.open();
        assert_eq!(daemon.ended(&id)["exitCode"], 3);
    }
}

#[test]
fn run_follows_over_a_restart_of_the_daemon() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let (mut child, _) = running(&daemon, "r", &[], &format!("echo up; {}; echo late; exit 9", gate.wait()));
    hears(&mut child, "up");
    daemon.kill();
    daemon.start();
    gate.open();
    let output = output_of("run to end", child);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(9), "late\n"), "{output:?}");
    assert!(stderr(&output).contains("failed, exit code 9"), "{output:?}");
}

#[test]
fn wait_and_logs_follow_over_a_restart_of_the_daemon() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("echo one; {}; echo two; exit 9", gate.wait()));
    let wait = daemon.command(["wait", &id]).stderr(Stdio::null()).spawn().expect("it runs");
    let mut logs = daemon.command(["logs", "-f", &id]).stdout(Stdio::piped()).spawn().expect("it runs");
    hears(&mut logs, "one");
    // One that had not asked yet would find nobody there.
    until("both to be connected", || (daemon.connections() == 2).then_some(()));
    daemon.kill();
    daemon.start();
    gate.open();
    assert_eq!(stdout(&output_of("logs to end", logs)), "two\n");
    assert_eq!(output_of("wait to end", wait).status.code(), Some(9));
}

/// A home whose daemon, if the command line started one, ends with the test.
struct Alone(TempDir);

impl Alone {
    fn new() -> Self {
        let home = tempfile::Builder::new().prefix("agentctl-").tempdir().expect("a home");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(home.path(), private).expect("a private home");
        let alone = Self(home);
        std::fs::write(alone.0.path().join("config.json"), r#"{"metrics_addr": null, "discover": false}"#)
            .expect("a configuration");
        alone
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
        command.args(words).env("AGENTCTL_HOME", self.0.path()).stdin(Stdio::null());
        for name in ["AGENTCTL_SESSION_ID", "AGENTCTL_SOCKET", "AGENTCTL_NO_AUTOSTART"] {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("the command line runs")
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.run(&["daemon", "stop"]);
    }
}

#[test]
fn a_command_starts_the_daemon_that_it_needs_and_the_daemon_can_be_stopped_and_restarted() {
    let alone = Alone::new();
    let output = alone.run(&["run", "--", "sh", "-c", "exit 4"]);
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    let status = stdout(&alone.run(&["daemon", "status"]));
    assert!(status.starts_with("Daemon running (PID "), "{status}");
    let restart = alone.run(&["daemon", "restart"]);
    assert_eq!(restart.status.code(), Some(0), "{restart:?}");
    let list: Value = serde_json::from_slice(&alone.run(&["list", "-a", "--json"]).stdout).expect("a list");
    assert_eq!(list[0]["exitCode"], 4);
    assert_eq!(whole(&alone.run(&["daemon", "stop"])), said(0, "Daemon stopped\n", ""));
    assert_eq!(
        alone
            .command(&["daemon", "status"])
            .env("AGENTCTL_NO_AUTOSTART", "1")
            .output()
            .expect("it runs")
            .status
            .code(),
        Some(3)
    );
}

#[test]
fn commands_at_once_start_one_daemon() {
    let alone = Alone::new();
    let children: Vec<_> = (0..6)
        .map(|_| {
            alone
                .command(&["list", "--json"])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("it runs")
        })
        .collect();
    for child in children {
        let output = output_of("list to end", child);
        assert_eq!(whole(&output), said(0, "[]\n", ""));
    }
}

#[test]
fn no_daemon_is_started_from_inside_a_session() {
    let alone = Alone::new();
    let output = alone.command(&["list"]).env("AGENTCTL_SESSION_ID", "x").output().expect("it runs");
    let (code, out, err) = whole(&output);
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("inside a session") && err.contains("agentctl daemon start"), "{err}");
    assert!(!alone.0.path().join("agentctl.sock").exists());
}

#[test]
fn a_daemon_that_cannot_start_says_why_through_the_command() {
    let alone = Alone::new();
    std::fs::write(alone.0.path().join("config.json"), "{").expect("a configuration");
    let (code, out, err) = whole(&alone.run(&["list"]));
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("is broken at line 1"), "{err}");
}

#[test]
fn completions_are_printed_for_shells() {
    let daemon = Daemon::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = daemon.run(["completions", shell]);
        assert!(output.status.success() && stdout(&output).contains("agentctl"), "{shell}");
    }
}

#[test]
fn a_launch_with_the_same_key_is_the_same_session() {
    let daemon = Daemon::new();
    let launch =
        |body: &Value| daemon.http("POST", "/v1/sessions", "Idempotency-Key: once\r\n", &body.to_string());
    let body = json!({"adapter": "exec", "command": ["sh", "-c", "exit 3"], "cwd": "/"});
    let ids = [0, 1].map(|_| {
        let (status, answer) = launch(&body);
        assert_eq!(status, 201, "{answer}");
        serde_json::from_str::<Value>(&answer).expect("a record")["id"].clone()
    });
    assert_eq!(ids[0], ids[1]);
    let (status, answer) = launch(&json!({"adapter": "exec", "command": ["true"], "cwd": "/"}));
    assert_eq!(status, 422, "{answer}");
    assert_eq!(daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn the_same_key_means_the_same_session_after_a_crash_too() {
    let mut daemon = Daemon::new();
    let body = json!({"adapter": "exec", "command": ["true"], "cwd": "/"}).to_string();
    let launch = |daemon: &Daemon| daemon.http("POST", "/v1/sessions", "Idempotency-Key: once\r\n", &body);
    assert_eq!(launch(&daemon).0, 201);
    daemon.kill();
    daemon.start();
    assert_eq!(launch(&daemon).0, 201);
    assert_eq!(daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn stop_selects_by_label_and_all() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let [red, blue] = ["team=red", "team=blue"].map(|label| daemon.launch(&["--label", label], &gate.wait()));
    assert_eq!(
        whole(&daemon.run(["stop", "--label", "team=red"])),
        said(0, &format!("Stopped session {}\n", &red[..8]), "")
    );
    assert_eq!(daemon.status(&blue)["status"], "running");
    assert_eq!(daemon.code(&["stop", "--all"]), Some(0));
    assert_eq!(daemon.status(&blue)["outcome"], "cancelled");
}

#[test]
fn prune_forgets_what_has_ended_and_nothing_else() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let live = daemon.launch(&[], &gate.wait());
    let over = daemon.launch(&[], "exit 0");
    daemon.until_status(&over, "the end of its tree", |record| {
        record["evidence"].to_string().contains("tree_gone")
    });
    assert_eq!(whole(&daemon.run(["prune"])), said(0, "Pruned 1 dead/stale sessions\n", ""));
    let left = daemon.json(["list", "-a", "--json"]);
    assert_eq!((left.as_array().map(Vec::len), &left[0]["id"]), (Some(1), &json!(live)));
    until("its files to go", || (!daemon.file(&over, "").exists()).then_some(()));
}

#[test]
fn each_command_has_a_manual_page_and_each_shell_a_script() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().to_str().expect("a text");
    let made =
        Command::new(env!("CARGO_BIN_EXE_agentctl")).args(["generate", path]).output().expect("it runs");
    assert!(made.status.success(), "{made:?}");
    for (page, word) in [
        ("agentctl.1", "agentctl\\-launch"),
        ("agentctl-launch.1", "prompt"),
        ("agentctl-daemon-run.1", "backend"),
    ] {
        let text = std::fs::read_to_string(directory.path().join("man1").join(page)).expect(page);
        assert!(text.contains(word), "{page}: {text}");
    }
    for script in ["agentctl.bash", "_agentctl", "agentctl.fish"] {
        let text = std::fs::read_to_string(directory.path().join("completions").join(script)).expect(script);
        assert!(text.contains("launch"), "{script}");
    }
}
