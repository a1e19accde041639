//! Several sessions by one launch: each in a worktree of its own, all recorded or none, whoever is killed meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::play::{Gate, program, stderr, stdout};
use crate::support::repo::{Repo, git};
use crate::support::wait::until;

/// A daemon, a user with programs of their own, and their repository.
struct Stage {
    daemon: Daemon,
    home: PathBuf,
    repo: Repo,
    _dir: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::with(Daemon::new())
    }

    fn with(daemon: Daemon) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let home = fs::canonicalize(dir.path()).expect("a directory");
        let repo = Repo::new(&home);
        Self { daemon, home, repo, _dir: dir }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.daemon.run_at(&self.home, arguments)
    }

    /// Launches so many `sh -c script` in worktrees, and more flags.
    fn launch(&self, count: usize, flags: &[&str], script: &str) -> Output {
        let adapters = ["--adapter", "exec"].repeat(count);
        let line =
            [&["launch", "--cwd", self.repo.text()], &adapters[..], flags, &["--", "sh", "-c", script]];
        self.run(&line.concat())
    }

    /// All sessions, in the order of their ids.
    fn all(&self) -> Vec<Value> {
        let mut all = self.daemon.json(["list", "-a", "--json"]).as_array().expect("an array").clone();
        all.sort_by_key(|record| record["id"].to_string());
        all
    }

    /// A git that notes each worktree that is asked of it, and waits at the gate from this one on.
    fn git_that_waits(&self, from: usize) -> Gate {
        let gate = Gate::new(&self.home, "gate");
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *\" worktree add \"*) echo x >> \"$HOME/adds\"\n\
             [ $(wc -l < \"$HOME/adds\") -lt {from} ] || {};; esac\n\
             PATH=/usr/local/bin:/usr/bin:/bin exec git \"$@\"\n",
            gate.wait()
        );
        program(&self.home.join("git"), &script);
        gate
    }

    fn adds(&self) -> usize {
        fs::read_to_string(self.home.join("adds")).unwrap_or_default().lines().count()
    }
}

fn text<'a>(record: &'a Value, key: &str) -> &'a str {
    record[key].as_str().unwrap_or_else(|| panic!("no {key} in {record:#}"))
}

#[test]
fn several_adapters_are_a_group_of_sessions_in_worktrees() {
    let stage = Stage::new();
    let gate = stage.daemon.gate("gate");
    let output = stage.launch(3, &["-M", "m-x"], &format!("pwd; {}", gate.wait()));
    let all = stage.all();
    let group = text(&all[0], "group");
    let hex = group.strip_prefix("g-").expect("a name of a group");
    assert!(hex.len() == 6 && hex.chars().all(|c| c.is_ascii_hexdigit()), "{group}");
    let ids: Vec<_> = all.iter().map(|record| text(record, "id")).collect();
    let line = |suffix: &str, model: &str, id: &str| {
        format!("  exec{model}  → ~/repo-try-{group}-{suffix}  ({})\n", &id[..8])
    };
    let expected = format!(
        "\nLaunched 3 sessions (group: {group}):\n{}{}{}",
        line("exec-default", "", ids[0]),
        line("exec-default-2", "", ids[1]),
        line("exec-x", " (m-x)", ids[2])
    );
    assert_eq!((stdout(&output), output.status.code()), (expected, Some(0)), "{output:?}");
    for record in &all {
        let (cwd, branch) = (text(record, "cwd"), text(&record["worktree"], "branch"));
        until("the session to say where it works", || {
            (stage.daemon.stdout(text(record, "id")) == format!("{cwd}\n")).then_some(())
        });
        assert_eq!(git(Path::new(cwd), &["branch", "--show-current"]), branch);
    }
    // Selected by its group, everywhere.
    let other = stage.daemon.launch(&[], &gate.wait());
    assert_eq!(stage.daemon.json(["list", "--group", group, "--json"]).as_array().map(Vec::len), Some(3));
    assert!(stdout(&stage.run(&["list"])).lines().next().is_some_and(|head| head.contains("Group")));
    assert_eq!(stage.daemon.code(&["stop", "--group", group]), Some(0));
    let waited = stage.run(&["wait", "--group", group, "--json"]);
    assert_eq!(waited.status.code(), Some(143));
    let records: Value = serde_json::from_slice(&waited.stdout).expect("records");
    let told: Vec<_> =
        records.as_array().expect("an array").iter().map(|record| text(record, "id")).collect();
    assert_eq!(told, ids, "in the order of the slots");
    assert_eq!(stage.daemon.status(&other)["status"], "running");
    let events = stdout(&stage.run(&["events", "--since", "0", "--no-follow", "--group", group]));
    assert_eq!(events.lines().count(), 6, "{events}");
    assert_eq!(stage.daemon.code(&["wait", "--group", "g-000000"]), Some(125));
    gate.open();
    let labelled = stage.daemon.launch(&["--label", "a=b"], "exit 4");
    assert_eq!(stage.daemon.code(&["wait", "--label", "a=b"]), Some(4), "{labelled}");
}

#[test]
fn a_group_that_finds_no_room_for_all_is_refused_and_waits_with_queue() {
    let mut stage = Stage::with(Daemon::builder().config("adapter_max_sessions", json!({"exec": 2})).start());
    let gate = stage.daemon.gate("gate");
    let running = stage.daemon.launch(&[], &gate.wait());
    let refused = stage.launch(2, &[], "pwd");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(stderr(&refused).contains("already supervises 2 sessions of exec, their limit"), "{refused:?}");
    assert_eq!(stage.all().len(), 1, "none of it is there");

    let output = stage.launch(3, &["--queue"], &format!("{}; pwd", gate.wait()));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let all = stage.all();
    let group: Vec<&Value> = all.iter().filter(|record| record["id"] != json!(running)).collect();
    let phases = |daemon: &Daemon| -> Vec<Value> {
        group.iter().map(|record| daemon.status(text(record, "id"))["phase"].clone()).collect()
    };
    let kept = |daemon: &Daemon| fs::read_dir(daemon.home().join("queued")).expect("a directory").count();
    until("the first to run", || (phases(&stage.daemon) == ["running", "queued", "queued"]).then_some(()));
    until("what the first needed to be gone", || (kept(&stage.daemon) == 2).then_some(()));
    stage.daemon.kill();
    stage.daemon.start();
    assert_eq!(
        (phases(&stage.daemon), kept(&stage.daemon)),
        (vec![json!("running"), json!("queued"), json!("queued")], 2)
    );
    // One of them is called off, and the others come up.
    assert_eq!(stage.daemon.code(&["stop", text(group[1], "id")]), Some(0));
    gate.open();
    for (record, outcome) in group.iter().zip(["completed", "cancelled", "completed"]) {
        let ended = stage.daemon.ended(text(record, "id"));
        assert_eq!(ended["outcome"], json!(outcome), "{ended:#}");
    }
    let last = group[2];
    assert_eq!(stage.daemon.stdout(text(last, "id")), format!("{}\n", text(last, "cwd")));
    until("nothing to be kept", || (kept(&stage.daemon) == 0).then_some(()));
}

#[test]
fn a_session_that_does_not_start_is_told_and_the_others_run() {
    let stage = Stage::new();
    fs::create_dir(stage.repo.beside("taken")).expect("a directory");
    fs::write(stage.repo.beside("taken").join("x"), "").expect("a file");
    let matrix = stage.home.join("m.yaml");
    fs::write(&matrix, "matrix:\n  - adapter: exec\n  - adapter: exec\n    branch: taken\n").expect("a file");
    let line = ["launch", "--matrix", "m.yaml", "--cwd", "repo", "--", "true"];
    let output = stage.run(&line);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = stdout(&output);
    assert!(said.starts_with("\nLaunched 1 sessions (group: g-"), "{said}");
    assert!(said.contains("  ✗ exec — git worktree add for ") && said.contains("already exists"), "{said}");
    assert!(stderr(&output).contains("1 of 2 sessions did not start"), "{output:?}");
    let outcomes = || -> Vec<Value> { stage.all().iter().map(|record| record["outcome"].clone()).collect() };
    until("the other's end", || (outcomes() == [json!("completed"), json!("launch_failed")]).then_some(()));
    let output = stage.run(&[&["launch", "--json"], &line[1..]].concat());
    let records: Value = serde_json::from_slice(&output.stdout).expect("records");
    assert_eq!((records.as_array().map(Vec::len), output.status.code()), (Some(2), Some(1)));
    assert_eq!(records[1]["outcome"], "launch_failed");
}

#[test]
fn what_cannot_be_launched_as_asked_leaves_nothing_behind() {
    let stage = Stage::new();
    fs::create_dir(stage.home.join("plain")).expect("a directory");
    fs::write(
        stage.home.join("twice.yaml"),
        "matrix:\n  - {adapter: exec, branch: x}\n  - {adapter: exec, branch: x}\n",
    )
    .expect("a file");
    fs::write(stage.home.join("bad.yaml"), "matrix:\n  - adaptor: exec\n").expect("a file");
    let two = ["--adapter", "exec", "--adapter", "exec"];
    let table: [(Vec<&str>, i32, &str); 11] = [
        (
            [&two[..2], &["--adapter", "nosuch", "--cwd", "repo", "-p", "x"]].concat(),
            1,
            "session 1 of 2 (exec): adapter exec needs a command",
        ),
        (
            ["-A", "codex", "-A", "nosuch", "--cwd", "repo", "-p", "x"].to_vec(),
            1,
            "session 2 of 2 (nosuch): Unknown adapter: nosuch",
        ),
        (["-A", "codex", "-A", "pi"].to_vec(), 2, "Missing required option: -p, --prompt <text>"),
        ([&two[..], &["--cwd", "plain", "--", "true"]].concat(), 1, "Not a git repository"),
        ([&two[..], &["--branch", "x", "--", "true"]].concat(), 2, "--branch x is one session's"),
        (
            [&two[..], &["--name", "x", "--", "true"]].concat(),
            1,
            "the name of one session cannot be that of 2",
        ),
        ([&["codex"], &two[..], &["-p", "x"]].concat(), 2, "codex and --adapter both name adapters"),
        (
            ["--matrix", "twice.yaml", "--cwd", "repo", "--", "true"].to_vec(),
            1,
            "share the worktree of session 1",
        ),
        (
            ["--matrix", "bad.yaml", "-p", "x"].to_vec(),
            1,
            "bad.yaml: line 2, column 5: unknown key \"adaptor\"; did you mean \"adapter\"?",
        ),
        (["--matrix", "none.yaml", "-p", "x"].to_vec(), 1, "none.yaml"),
        ([&["--matrix", "twice.yaml"], &two[..], &["-p", "x"]].concat(), 2, "--matrix names adapters"),
    ];
    for (flags, code, words) in table {
        let output = stage.run(&[&["launch"], &flags[..]].concat());
        assert_eq!((output.status.code(), stdout(&output)), (Some(code), String::new()), "{output:?}");
        assert!(stderr(&output).contains(words), "{words} is not in {output:?}");
    }
    let output = stage.run(&[&["run"], &two[..], &["--", "true"]].concat());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("run follows one session"), "{output:?}");
    assert_eq!(stage.all(), Vec::<Value>::new());
    assert_eq!(stage.repo.git(&["worktree", "list"]).lines().count(), 1);
}

#[test]
fn a_command_line_that_is_killed_leaves_all_of_the_group_or_nothing() {
    let stage = Stage::new();
    let body = json!({"launch": {"command": ["/bin/true"], "cwd": stage.repo.text()}, "slots": [{"adapter": "exec"}, {"adapter": "exec"}]});
    let body = body.to_string();
    // Cut off before all is said.
    let head = format!("POST /v1/groups HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    stage.daemon.raw(format!("{head}{}", &body[..body.len() - 1]).as_bytes());
    assert_eq!(stage.all(), Vec::<Value>::new());
    // Killed while the first worktree is being made.
    let gate = stage.git_that_waits(1);
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", stage.home.display());
    let adapters = ["--adapter", "exec"].repeat(5);
    let mut command = stage.daemon.command([&["launch"], &adapters[..], &["--", "sh", "-c", "pwd"]].concat());
    command.env("HOME", &stage.home).env("PATH", path).current_dir(&stage.repo.path);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command line runs");
    until("the first worktree to be begun", || (stage.adds() > 0).then_some(()));
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    let all = stage.all();
    assert_eq!(all.len(), 5);
    gate.open();
    assert_eq!(stage.daemon.code(&["wait", "--group", text(&all[0], "group")]), Some(0));
    for record in stage.all() {
        assert_eq!(stage.daemon.stdout(text(&record, "id")), format!("{}\n", text(&record, "cwd")));
    }
}

#[test]
fn a_request_that_is_repeated_is_the_same_group() {
    let stage = Stage::new();
    let body = json!({"launch": {"command": ["/bin/true"], "here": stage.repo.text()}, "slots": [{"adapter": "exec"}, {"adapter": "exec"}]});
    let ask = |body: &Value| {
        let (status, answer) =
            stage.daemon.http("POST", "/v1/groups", "Idempotency-Key: k1\r\n", &body.to_string());
        (status, serde_json::from_str::<Value>(&answer).unwrap_or_else(|_| panic!("{answer}")))
    };
    let names = |answer: &Value| {
        let ids: Vec<_> = (0..2).map(|at| answer["slots"][at]["session"]["id"].clone()).collect();
        (answer["group"].clone(), ids)
    };
    let (status, first) = ask(&body);
    let (again, second) = ask(&body);
    assert_eq!((status, again, names(&first)), (201, 201, names(&second)));
    assert_eq!(stage.all().len(), 2);
    let mut other = body;
    other["slots"] = json!([{"adapter": "exec"}]);
    assert_eq!(ask(&other).0, 422);
    assert_eq!(ask(&json!({"launch": {}, "slots": []})).0, 400);
}

#[test]
fn a_daemon_that_is_killed_while_worktrees_are_made_leaves_no_session_half_made() {
    let mut stage = Stage::new();
    let gate = stage.git_that_waits(3);
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", stage.home.display());
    let adapters = ["--adapter", "exec"].repeat(6);
    let mut command = stage.daemon.command([&["launch"], &adapters[..], &["--", "sh", "-c", "pwd"]].concat());
    command.env("HOME", &stage.home).env("PATH", path).current_dir(&stage.repo.path);
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command line runs");
    until("the third worktree to be begun", || (stage.adds() == 3).then_some(()));
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    stage.daemon.kill();
    stage.daemon.start();
    gate.open();
    let all = stage.all();
    assert_eq!(all.len(), 6);
    let group = text(&all[0], "group").to_owned();
    stage.run(&["wait", "--group", &group, "--timeout", "120s"]);
    let mut outcomes = Vec::new();
    for record in stage.all() {
        let (id, outcome) = (text(&record, "id"), text(&record, "outcome"));
        let said = if outcome == "completed" { format!("{}\n", text(&record, "cwd")) } else { String::new() };
        assert_eq!(stage.daemon.stdout(id), said, "{record:#}");
        stage.daemon.ended_once(id);
        outcomes.push(outcome.to_owned());
    }
    assert_eq!(outcomes[2..], ["launch_failed"; 4], "{outcomes:?}");
    assert!(outcomes[..2].iter().all(|outcome| ["completed", "launch_failed"].contains(&outcome.as_str())));
    assert!(outcomes.iter().any(|outcome| outcome == "completed"), "{outcomes:?}");
}

/// Notes where it works and what it was told; its model says how it ends, and a recording what it prints.
const AGENT: &str = r#"#!/bin/sh
{ pwd; git branch --show-current; cat; } > worked
echo "$@" > asked
case "$*" in *m-fails*) exit 3;; *m-killed*) kill -9 $$;; esac
cat "$HOME/$(basename "$0").jsonl"
"#;

#[test]
fn a_matrix_of_20_sessions_over_4_adapters_in_one_repository() {
    let stage = Stage::new();
    let adapters = [
        ("claude-code", "claude", "cc"),
        ("codex", "codex", "codex"),
        ("opencode", "opencode", "opencode"),
        ("pi", "pi", "pi"),
    ];
    for (adapter, name, _) in adapters {
        program(&stage.home.join(name), AGENT);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(adapter);
        let recorded =
            ["success.jsonl", "success-2.1.330.jsonl", "success-2.1.197.jsonl"].map(|file| folder.join(file));
        let recorded = recorded.iter().find(|file| file.exists()).expect("a recording of a success");
        fs::copy(recorded, stage.home.join(format!("{name}.jsonl"))).expect("a copy");
    }
    let models = ["m-one", "m-two", "m-fails", "m-killed", "m-five"];
    let mut matrix = "prompt: do it\ncwd: ~/repo\nhooks:\n  on_complete: echo $AGENTCTL_BRANCH $AGENTCTL_OUTCOME >> $HOME/hooks\nmatrix:\n".to_owned();
    for (adapter, ..) in adapters {
        matrix +=
            &format!("  - adapter: {adapter}\n    model: [{}]\n    thinking: high\n", models.join(", "));
    }
    fs::write(stage.home.join("m.yaml"), matrix).expect("a file");
    let output = stage.run(&["launch", "--matrix", "m.yaml"]);
    let said = stdout(&output);
    assert_eq!((output.status.code(), said.lines().count()), (Some(0), 22), "{output:?}");
    assert!(said.starts_with("\nLaunched 20 sessions (group: g-"), "{said}");
    let group = text(&stage.all()[0], "group").to_owned();
    // The first that is not 0, in the order of the slots.
    let waited = stage.run(&["wait", "--group", &group, "--json", "--timeout", "300s"]);
    assert_eq!(waited.status.code(), Some(3), "{}", stderr(&waited));
    let records: Value = serde_json::from_slice(&waited.stdout).expect("records");
    let records = records.as_array().expect("an array");
    assert_eq!(records.len(), 20);
    let mut hooks = Vec::new();
    for (record, (at, model)) in records.iter().zip(models.iter().cycle().enumerate()) {
        let (adapter, _, short) = adapters[at / models.len()];
        let branch = format!("try/{group}/{short}-{}", model.trim_start_matches("m-"));
        let path = stage.repo.beside(&branch.replace('/', "-"));
        let (outcome, reason) = match *model {
            "m-fails" => ("failed", "exit_code_3"),
            "m-killed" => ("failed", "sigkill"),
            _ => ("completed", "exit_code_0"),
        };
        let told = ["adapter", "model", "cwd", "outcome", "reason", "group", "thinking"]
            .map(|key| record[key].clone());
        let expected = [
            json!(adapter),
            json!(model),
            json!(path),
            json!(outcome),
            json!(reason),
            json!(group),
            json!("high"),
        ];
        assert_eq!(told, expected, "{record:#}");
        let worked = fs::read_to_string(path.join("worked")).expect("it worked there");
        assert_eq!(worked, format!("{}\n{branch}\ndo it", path.display()));
        let asked = fs::read_to_string(path.join("asked")).expect("it was asked");
        assert!(asked.contains("high"), "{asked}");
        stage.daemon.ended_once(text(record, "id"));
        hooks.push(format!("{branch} {outcome}"));
    }
    assert_eq!(stage.repo.git(&["worktree", "list"]).lines().count(), 21);
    hooks.sort();
    until("all hooks", || {
        let said = fs::read_to_string(stage.home.join("hooks")).unwrap_or_default();
        let mut lines: Vec<_> = said.lines().map(str::to_owned).collect();
        lines.sort();
        (lines == hooks).then_some(())
    });
}
