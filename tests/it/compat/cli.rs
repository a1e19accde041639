//! Each row of the earlier tool's table of commands, run against a real daemon with fake agents: stdout, stderr and exit
//! code, whole. Exit codes are ours: 1 the answer is no, 2 usage, 3 no daemon.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::play::program;
use crate::support::repo::Repo;
use crate::support::transcript::Transcript;

/// Says that it succeeded, and waits in between when it is asked to.
const OPENCODE: &str = r#"#!/bin/sh
read -r prompt
echo '{"type":"step_start","sessionID":"ses_1","part":{}}'
echo '{"type":"text","sessionID":"ses_1","part":{"type":"text","text":"I will '"$prompt"'."}}'
[ "$prompt" = wait ] && read -r _ <"$HOME/gate"
echo '{"type":"text","sessionID":"ses_1","part":{"type":"text","text":"Done."}}'
echo '{"type":"step_finish","sessionID":"ses_1","part":{"reason":"stop","cost":0.25,"tokens":{"input":900,"output":50,"cache":{"read":0,"write":0}}}}'
"#;

/// Lives until it is told to end.
const CODEX: &str = r#"#!/bin/sh
cat >/dev/null
echo '{"type":"thread.started","thread_id":"t-1"}'
exec sleep 1000
"#;

struct Course<'a> {
    daemon: &'a Daemon,
    said: Transcript<'a>,
}

impl<'a> Course<'a> {
    fn new(daemon: &'a Daemon) -> Self {
        let said = Transcript::new(daemon);
        program(&said.home().join("opencode"), OPENCODE);
        program(&said.home().join("codex"), CODEX);
        Self { daemon, said }
    }

    fn run(&mut self, words: &[&str]) -> String {
        self.said.run(words)
    }

    /// Launches, and waits until its agent has told its own id; the first characters of ours.
    fn launch(&mut self, words: &[&str]) -> String {
        let said = self.run(&[&["launch"], words].concat());
        let id = said.split(' ').nth(2).unwrap_or_else(|| panic!("no id: {said}")).to_owned();
        self.daemon.until_status(&id, "the agent's own id", |record| !record["nativeId"].is_null());
        id
    }

    /// Until all is known that will be.
    fn over(&self, id: &str) -> Value {
        self.daemon.until_status(id, "the end of its tree", |record| {
            record["evidence"].to_string().contains("tree_gone")
        })
    }

    #[track_caller]
    fn is(self, name: &str) {
        self.said.is(name);
    }
}

#[test]
fn version_and_mistakes() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    course.run(&["--version"]);
    course.run(&["-V"]);
    course.run(&["nosuch"]);
    course.run(&["lst"]);
    course.run(&["list", "--nosuch"]);
    course.run(&["status"]);
    course.is("version_and_mistakes");
}

#[test]
fn list() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    course.run(&["list"]);
    course.run(&["list", "--json"]);
    let over = course.launch(&["opencode", "-p", "fix it"]);
    course.over(&over);
    course.launch(&["codex", "-p", "go on", "--model", "gpt-5"]);
    for words in [
        &["list"][..],
        &["list", "-a"],
        &["list", "--all"],
        &["list", "--status", "running"],
        &["list", "--status", "stopped"],
        &["list", "--status", "error"],
        &["list", "--adapter", "codex"],
        &["list", "-a", "--adapter", "opencode"],
        &["list", "--group", "g-000000"],
        &["list", "--json"],
        &["list", "--status", "error", "--json"],
    ] {
        course.run(words);
    }
    course.is("list");
}

#[test]
fn status() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let live = course.launch(&["codex", "-p", "go on", "--cwd", "/usr"]);
    let over = course.launch(&["opencode", "-p", "fix it"]);
    course.over(&over);
    course.run(&["status", &live]);
    course.run(&["status", &live, "--adapter", "claude-code"]);
    course.run(&["status", &live, "--json"]);
    course.run(&["status", &over]);
    course.run(&["status", "nosuch"]);
    course.is("status");
}

#[test]
fn peek_and_logs() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let id = course.launch(&["opencode", "-p", "fix it"]);
    course.over(&id);
    for words in [
        &["peek", &id][..],
        &["peek", &id, "-n", "1"],
        &["peek", &id, "--lines", "1", "--adapter", "opencode"],
        &["logs", &id],
        &["logs", &id, "-n", "1", "--adapter", "opencode"],
        &["logs", &id, "--raw"],
        &["peek", "nosuch"],
        &["logs", "nosuch"],
    ] {
        course.run(words);
    }
    course.is("peek_and_logs");
}

#[test]
fn stop_and_resume() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let [one, two] = [("one", "/usr"), ("two", "/etc")]
        .map(|(name, cwd)| course.launch(&["codex", "-p", name, "--name", name, "--cwd", cwd]));
    course.run(&["stop", &one]);
    course.run(&["stop", &two, "--force", "--adapter", "codex"]);
    course.run(&["stop", "nosuch"]);
    let over = course.launch(&["opencode", "-p", "fix it"]);
    course.over(&over);
    course.run(&["resume", &over, "and the lints", "--adapter", "opencode"]);
    daemon.ended(&over);
    course.run(&["peek", &over]);
    course.run(&["resume", "nosuch", "and the lints"]);
    course.is("stop_and_resume");
}

#[test]
fn launch() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let one = course.launch(&["opencode", "-p", "fix it"]);
    course.launch(&["opencode", "--prompt", "fix it", "--model", "m", "--cwd", "/usr"]);
    course.over(&one);
    course.run(&["launch"]);
    course.run(&["launch", "opencode"]);
    course.run(&["launch", "-p", "fix it"]);
    course.run(&["launch", "nosuch", "-p", "fix it"]);
    course.run(&["launch", "opencode", "-p", "fix it", "--cwd", "/nosuch"]);
    course.run(&["launch", "claude-code", "-p", "fix it"]);
    let meta = course.launch(&[
        "opencode",
        "-p",
        "fix it",
        "--callback-session",
        "agent:main:1",
        "--callback-agent",
        "main",
    ]);
    let record = daemon.status(&meta);
    assert_eq!(record["meta"]["openclaw_callback_session_key"], "agent:main:1");
    assert_eq!(record["meta"]["openclaw_callback_agent_id"], "main");
    course.is("launch");
}

#[test]
fn launch_with_files_and_an_issue() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let home = course.said.home().to_owned();
    program(&home.join("gh"), "#!/bin/sh\necho '{\"title\":\"It breaks\",\"body\":\"badly\"}'\n");
    program(&home.join("opencode"), &format!("#!/bin/sh\ntee {}/told\n", home.display()));
    fs::write(home.join("plan.md"), "the plan").expect("a file");
    fs::write(home.join("a.txt"), "a").expect("a file");
    fs::write(home.join("large.txt"), "0123456789").expect("a file");
    let said = course.run(&[
        "launch", "opencode", "-p", "do it", "--spec", "plan.md", "--file", "a.txt", "--issue", "7",
        "--repo", "o/r",
    ]);
    let id = said.split(' ').nth(2).expect("an id").to_owned();
    course.over(&id);
    let told = fs::read_to_string(home.join("told")).expect("what the agent was told");
    let files =
        "--- File: plan.md ---\nthe plan\n--- End File ---\n\n--- File: a.txt ---\na\n--- End File ---";
    assert_eq!(told, format!("{files}\n\n## GitHub Issue #7: It breaks\n\nbadly\n\n---\n\ndo it"));
    course.run(&["launch", "opencode", "-p", "do it", "--file", "nosuch.txt"]);
    course.run(&["launch", "opencode", "-p", "do it", "--file", "large.txt", "--max-file-size", "5"]);
    course.is("launch_with_files");
}

#[test]
fn worktrees() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let repo = Repo::new(course.said.home());
    let head = repo.git(&["rev-parse", "HEAD"]);
    course.said.mask(&head, "<head>");
    course.said.mask(&head[..8], "<head>");
    course.run(&["worktree", "list", "repo"]);
    course.run(&["launch", "opencode", "-p", "fix it", "--worktree", "repo"]);
    let said =
        course.run(&["launch", "opencode", "-p", "fix it", "--worktree", "repo", "--branch", "fix/it"]);
    let id = said.lines().last().and_then(|line| line.split(' ').nth(2)).expect("an id").to_owned();
    course.over(&id);
    course.run(&["worktree", "list", "repo"]);
    course.run(&["worktree", "list", "repo", "--json"]);
    course.run(&["worktree", "clean", "repo-fix-it", "--delete-branch"]);
    course.run(&["worktree", "list", "repo"]);
    course.run(&["worktree", "list", "/usr"]);
    course.is("worktrees");
}

#[test]
fn locks() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    course.run(&["locks"]);
    course.run(&["locks", "--json"]);
    course.run(&["lock", ".", "--by", "alice", "--reason", "a release"]);
    course.run(&["lock", ".", "--by", "bob"]);
    course.run(&["launch", "opencode", "-p", "fix it"]);
    course.run(&["locks"]);
    course.run(&["locks", "--json"]);
    course.run(&["unlock", "."]);
    course.run(&["unlock", "."]);
    let id = course.launch(&["codex", "-p", "go on", "--cwd", "/usr"]);
    course.run(&["launch", "opencode", "-p", "fix it", "--cwd", "/usr"]);
    let over = course.launch(&["opencode", "-p", "fix it", "--cwd", "/usr", "--force"]);
    course.over(&over);
    course.run(&["locks", "--json"]);
    course.run(&["stop", &id]);
    course.is("locks");
}

#[test]
fn fuses() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    course.run(&["fuses"]);
    course.run(&["fuses", "--json"]);
    course.run(&["fuse", "set", "/usr", "300d", "--label", "clean up"]);
    course.run(&["fuses"]);
    course.run(&["fuses", "--json"]);
    course.is("fuses");
}

#[test]
fn events() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let id = course.launch(&["opencode", "-p", "fix it"]);
    course.over(&id);
    let said = course.run(&["events", "--json", "--since", "0", "--no-follow", "--type", "started"]);
    for line in said.lines() {
        let event: Value = serde_json::from_str(line).expect("a line of JSON");
        for key in ["type", "adapter", "sessionId", "timestamp", "session"] {
            assert!(!event[key].is_null(), "{key}: {event}");
        }
    }
    course.is("events");
}

#[test]
fn prune() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    course.run(&["prune"]);
    let id = course.launch(&["opencode", "-p", "fix it"]);
    course.over(&id);
    course.run(&["prune"]);
    course.run(&["list", "-a"]);
    course.is("prune");
}

#[test]
fn kill() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let id = course.launch(&["codex", "-p", "go on"]);
    course.run(&["kill", "-s", "CONT", &id]);
    course.run(&["kill", "--signal", "SIGCONT", "--tree", &id]);
    course.run(&["kill", "-s", "NOPE", &id]);
    course.run(&["kill", "nosuch"]);
    course.run(&["kill", &id]);
    daemon.ended(&id);
    course.run(&["kill", &id]);
    course.is("kill");
}

#[test]
fn rerun() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let first = course.launch(&["opencode", "-p", "fix it"]);
    course.over(&first);
    for words in
        [&["rerun", &first][..], &["rerun", &first, "-p", "and the lints", "--name", "again", "--model", "m"]]
    {
        let said = course.run(words);
        let id = said.split(' ').nth(2).unwrap_or_else(|| panic!("no id: {said}")).to_owned();
        course.over(&id);
    }
    course.run(&["peek", "again"]);
    course.run(&["rerun", "nosuch"]);
    course.is("rerun");
}

#[test]
fn groups() {
    let daemon = Daemon::new();
    let mut course = Course::new(&daemon);
    let home = course.said.home().to_owned();
    Repo::new(&home);
    fs::write(
        home.join("matrix.yml"),
        "prompt: fix it\ncwd: ~/repo\nmatrix:\n  - adapter: codex\n    model: [gpt-5, o3]\n  - adapter: opencode\n    branch: mine\n",
    )
    .expect("a file");
    for words in [
        &["launch", "--adapter", "codex", "--adapter", "opencode", "-p", "fix it", "--cwd", "repo"][..],
        &["launch", "--matrix", "matrix.yml"],
    ] {
        let said = course.run(words);
        let group = said.split("(group: ").nth(1).and_then(|rest| rest.split(')').next());
        course.said.mask(group.unwrap_or_else(|| panic!("no group: {said}")), "<group>");
    }
    course.run(&["launch", "--adapter", "codex", "--adapter", "nosuch", "-p", "fix it", "--cwd", "repo"]);
    course.run(&["launch", "--matrix", "nosuch.yml"]);
    course.run(&["launch", "--adapter", "codex", "--adapter", "opencode", "-p", "fix it", "--cwd", "/usr"]);
    course.is("groups");
}

/// Exit code, stdout, stderr, as they are.
fn of_daemon(daemon: &Daemon, words: &[&str]) -> (Option<i32>, String, String) {
    let output = daemon.run([&["daemon"], words].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn daemon_commands() {
    let mut daemon = Daemon::new();
    let (code, out, err) = of_daemon(&daemon, &["status"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    assert!(out.starts_with(&format!("Daemon running (PID {})\n", daemon.pid())), "{out}");
    for line in ["  Uptime:          ", "  Active sessions: 0\n"] {
        assert!(out.contains(line), "{out}");
    }
    let already = format!("Daemon already running (PID {})\n", daemon.pid());
    assert_eq!(of_daemon(&daemon, &["start", "--supervised"]), (Some(0), already, String::new()));
    assert_eq!(of_daemon(&daemon, &["stop"]), (Some(0), "Daemon stopped\n".into(), String::new()));
    daemon.is_over();
    let remedy = "Daemon not running. Start with: agentctl daemon start\n";
    assert_eq!(of_daemon(&daemon, &["stop"]), (Some(3), String::new(), remedy.into()));
    let (code, out, err) = of_daemon(&daemon, &["status"]);
    assert_eq!((code, out.as_str()), (Some(3), ""), "{err}");
    assert!(err.contains("agentctl daemon start"), "{err}");
}

/// Whoever has these programs and this home, and no service manager that runs.
fn of_user(home: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_agentctl"));
    for name in ["AGENTCTL_HOME", "AGENTCTL_SESSION_ID", "AGENTCTL_SOCKET", "AGENTCTL_NO_AUTOSTART", "USER"] {
        command.env_remove(name);
    }
    command.env_remove("XDG_RUNTIME_DIR").env_remove("XDG_CONFIG_HOME").env("HOME", home);
    command.env("PATH", format!("{}:/usr/bin:/bin", home.display())).current_dir(home);
    let output = command.args(words).output().expect("the command line runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(home.to_str().expect("a text"), "~");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_restart_is_a_start_in_the_same_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = fs::canonicalize(dir.path()).expect("a directory");
    let pid = |said: &str| {
        let pid = said.strip_prefix("Daemon started (PID ").and_then(|rest| rest.strip_suffix(")\n"));
        pid.and_then(|pid| pid.parse::<u32>().ok()).unwrap_or_else(|| panic!("{said}"))
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let port = port.expect("a port").port();
    let health = || -> Value {
        let (code, out, err) = of_user(&home, &["daemon", "status", "--json"]);
        assert_eq!(code, Some(0), "{err}");
        serde_json::from_str(&out).expect("JSON")
    };
    let (code, first, err) = of_user(&home, &["daemon", "start", "--metrics-port", &port.to_string()]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{first}");
    for _ in 0..2 {
        let (code, said, err) = of_user(&home, &["daemon", "restart"]);
        assert_eq!((code, err.as_str()), (Some(0), ""), "{said}");
        assert_ne!(pid(&said), pid(&first));
        assert_eq!((&health()["pid"], &health()["metricsPort"]), (&json!(pid(&said)), &json!(port)));
        std::net::TcpStream::connect(("127.0.0.1", port)).expect("metrics");
    }
    assert_eq!(of_user(&home, &["daemon", "stop"]), (Some(0), "Daemon stopped\n".into(), String::new()));
    // None runs: it is started.
    let (code, said, err) = of_user(&home, &["daemon", "restart"]);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{said}");
    assert_eq!((&health()["pid"], &health()["metricsPort"]), (&json!(pid(&said)), &json!(null)));
    assert_eq!(of_user(&home, &["daemon", "stop"]).0, Some(0));
}

#[test]
fn units_are_installed_and_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    let home = fs::canonicalize(dir.path()).expect("a directory");
    for name in ["systemctl", "loginctl"] {
        program(&home.join(name), "#!/bin/sh\necho \"$0 $*\" >>\"$HOME/asked\"\n");
    }
    let units = "~/.config/systemd/user";
    let (code, said, err) = of_user(&home, &["daemon", "install"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(
        said.starts_with(&format!(
            "Wrote {units}/agentctl.socket\nWrote {units}/agentctl.service\nEnabled agentctl.socket and agentctl.service\n"
        )),
        "{said}"
    );
    let removed = format!(
        "Disabled agentctl.socket and agentctl.service; sessions live on\nRemoved {units}/agentctl.socket\nRemoved {units}/agentctl.service\n"
    );
    assert_eq!(of_user(&home, &["daemon", "uninstall"]), (Some(0), removed, String::new()));
    let nothing = format!("nothing of agentctl daemon install is in {units}\n");
    assert_eq!(of_user(&home, &["daemon", "uninstall"]), (Some(1), String::new(), nothing));
    let asked = fs::read_to_string(home.join("asked")).expect("what was asked");
    assert!(asked.lines().all(|line| !line.contains("start ")), "{asked}");
    assert!(!home.join(".agentctl").exists(), "nothing was started");
}

#[test]
fn a_metrics_port_beats_the_configuration() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let mut daemon = Daemon::new();
    daemon.kill();
    daemon.argument(&format!("--metrics-port={port}"));
    daemon.start();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).expect("metrics");
    use std::io::{Read, Write};
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("agentctl_sessions_active 0"), "{answer}");
}

#[test]
fn there_is_a_golden_file_of_nothing_that_is_not_tested() {
    let tests = fs::read_to_string("tests/it/compat/cli.rs").expect("this file");
    for entry in fs::read_dir("tests/fixtures/compat").expect("golden files").flatten() {
        let name = entry.path().file_stem().expect("a name").to_string_lossy().into_owned();
        assert!(tests.contains(&format!(".is(\"{name}\")")), "{name} is of no test");
    }
}
