//! What a task is put together from, and what of it is refused.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::play::{program, stderr, stdout};
use crate::support::repo::git;

/// A daemon that knows an agent which prints what it was told, and a user in a home with that agent in the PATH.
struct Stage {
    daemon: Daemon,
    home: TempDir,
}

impl Stage {
    fn new() -> Self {
        let home = tempfile::tempdir().expect("a home");
        program(&home.path().join("echo-agent"), "#!/bin/sh\nexec cat\n");
        let adapters = json!({"echo": {"program": "echo-agent", "args": []}});
        let daemon = Daemon::builder().config("adapters", adapters).start();
        Self { daemon, home }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.daemon.run_at(self.home.path(), arguments)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.home.path().join(name), content).expect("a file");
    }

    /// What the agent was told, and its record.
    #[track_caller]
    fn told(&self, flags: &[&str]) -> (String, Value) {
        // The last one may not be gone to its last process.
        let line = [&["launch", "echo", "--json", "--force"], flags].concat();
        let output = self.run(&line);
        let record: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        let id = record["id"].as_str().expect("an id").to_owned();
        self.daemon.ended(&id);
        (self.daemon.stdout(&id), record)
    }

    /// Exit code and complaint of a launch that is refused, and leaves nothing behind.
    #[track_caller]
    fn refused(&self, flags: &[&str]) -> (Option<i32>, String) {
        let line = [&["launch", "echo"], flags].concat();
        let output = self.run(&line);
        assert_eq!(stdout(&output), "", "{output:?}");
        assert_eq!(self.daemon.json(["list", "-a", "--json"]), json!([]));
        (output.status.code(), stderr(&output))
    }
}

#[test]
fn specification_files_and_prompt_are_told_in_this_order() {
    let stage = Stage::new();
    stage.write("spec.md", "the plan");
    stage.write("a b.txt", "A");
    let (told, record) = stage.told(&["--file", "a b.txt", "--spec", "spec.md", "-p", "do it"]);
    let expected = "--- File: spec.md ---\nthe plan\n--- End File ---\n\n--- File: a b.txt ---\nA\n--- End File ---\n\ndo it";
    assert_eq!(told, expected);
    assert_eq!(record["spec"], "spec.md");
    // A plan is a task; `$(...)` and quotes are text.
    stage.write("spec.md", "`id` $(id) \"'");
    let (told, _) = stage.told(&["--spec", "spec.md"]);
    assert_eq!(told, "--- File: spec.md ---\n`id` $(id) \"'\n--- End File ---");
}

#[test]
fn a_prompt_comes_from_standard_input_or_a_file() {
    let stage = Stage::new();
    stage.write("task", "from a file");
    assert_eq!(stage.told(&["--prompt-file", "task"]).0, "from a file");
    let mut command = stage.daemon.command(["run", "echo", "-p", "-"]);
    let path = format!("{}:/usr/bin:/bin", stage.home.path().display());
    command.env("PATH", path).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the command line runs");
    child.stdin.take().expect("its input").write_all("über stdin".as_bytes()).expect("a prompt");
    assert_eq!(stdout(&child.wait_with_output().expect("its output")), "über stdin");
}

#[test]
fn what_cannot_be_told_whole_is_not_told_at_all() {
    let stage = Stage::new();
    stage.write("big", "x".repeat(51_201));
    stage.write("fits", "x".repeat(51_200));
    stage.write("binary", b"a\xffb");
    let no = |flags: &[&str], code: i32, words: &str| {
        let (found, said) = stage.refused(flags);
        assert_eq!(found, Some(code), "{said}");
        assert!(said.contains(words), "{words} is not in: {said}");
    };
    no(&[], 2, "Missing required option: -p, --prompt <text>");
    no(&["--file", "fits"], 2, "Missing required option: -p, --prompt <text>");
    no(&["-p", "x", "--file", "none"], 1, "File not found: none");
    no(&["-p", "x", "--file", "big"], 1, "File exceeds size limit (51201 bytes > 51200 bytes): big");
    no(&["-p", "x", "--file", "fits", "--max-file-size", "50"], 1, "51200 bytes > 50 bytes");
    no(&["-p", "x", "--file", "binary"], 1, "binary is not UTF-8 text (byte 1)");
    no(&["-p", "x", "--file", "."], 1, "is a directory");
    no(&["-p", "x", "--spec", "none"], 1, "File not found: none");
    no(&["-p", "x", "--repo", "o/r"], 2, "--issue");
    no(&["-p", "x", "--no-such-flag"], 2, "--no-such-flag");
    no(&["-p", "x", "--adapter", "echo"], 2, "two adapters for one session");
    let (told, _) = stage.told(&["-p", "x", "--file", "fits", "--max-file-size", "50K"]);
    assert!(told.len() > 51_200);
}

/// Prints an issue, and notes what it was asked.
const GH: &str = r#"#!/bin/sh
printf '%s\n' "$@" > "$HOME/asked"
case "$3" in
  7) echo '{"title":"It breaks","body":"Often."}';;
  8) echo "GraphQL: Could not resolve to an issue" >&2; echo more >&2; exit 1;;
  9) echo 'no json';;
esac
"#;

#[test]
fn an_issue_is_read_by_gh_and_told_before_the_prompt() {
    let stage = Stage::new();
    let (code, said) = stage.refused(&["-p", "fix", "--issue", "7", "--repo", "o/r"]);
    // Where the host has a gh of its own, it does not know o/r.
    assert_eq!(code, Some(1), "{said}");
    program(&stage.home.path().join("gh"), GH);
    for (number, words) in [
        ("8", "Failed to fetch issue #8 from o/r: GraphQL: Could not resolve to an issue\n"),
        ("9", "Failed to fetch issue #9 from o/r: gh is not understood"),
    ] {
        let (code, said) = stage.refused(&["-p", "fix", "--issue", number, "--repo", "o/r"]);
        assert_eq!(code, Some(1));
        assert!(said.contains(words), "{said}");
    }
    let (code, said) = stage.refused(&["-p", "fix", "--issue", "7"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("Could not determine GitHub repo: no 'origin' remote found. Use --repo <owner/repo>.")
    );
    let (code, _) = stage.refused(&["-p", "fix", "--issue", "7", "--repo", "-x/y"]);
    assert_eq!(code, Some(2));

    let home = stage.home.path();
    git(home, &["init", "--quiet"]);
    git(home, &["remote", "add", "origin", "git@github.com:o/r.git"]);
    stage.write("a", "A");
    let (told, _) = stage.told(&["-p", "fix", "--issue", "7", "--file", "a"]);
    let issue = "## GitHub Issue #7: It breaks\n\nOften.\n\n---\n\nfix";
    assert_eq!(told, format!("--- File: a ---\nA\n--- End File ---\n\n{issue}"));
    let asked = fs::read_to_string(home.join("asked")).expect("gh was asked");
    assert_eq!(asked, "issue\nview\n7\n--repo\no/r\n--json\ntitle,body\n");
    assert_eq!(stage.told(&["--issue", "7"]).0, "## GitHub Issue #7: It breaks\n\nOften.");
}

#[test]
fn the_configuration_fills_what_a_launch_leaves_out() {
    let home = tempfile::tempdir().expect("a home");
    let work = tempfile::tempdir().expect("a directory");
    let work = fs::canonicalize(work.path()).expect("a directory");
    program(&home.path().join("echo-agent"), "#!/bin/sh\nexec cat\n");
    let daemon = Daemon::builder()
        .config("adapters", json!({"echo": {"program": "echo-agent", "args": []}}))
        .config("adapter", "echo")
        .config("model", "m1")
        .config("cwd", work.to_str().expect("a text"))
        .start();
    let launched = |flags: &[&str]| -> Value {
        let output =
            daemon.run_at(home.path(), &[&["launch", "--json", "--force", "-p", "x"], flags].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"))
    };
    let told = |record: &Value| ["adapter", "model", "cwd"].map(|key| record[key].clone());
    assert_eq!(told(&launched(&[])), [json!("echo"), json!("m1"), json!(work)]);
    let real = fs::canonicalize(home.path()).expect("a directory");
    let named = launched(&["-A", "echo", "-M", "m2", "--cwd", "."]);
    assert_eq!(told(&named), [json!("echo"), json!("m2"), json!(real)]);
    // `run` follows what happens here.
    let output = daemon.run_at(home.path(), &["run", "--force", "--", "pwd"]);
    assert_eq!(stdout(&output), format!("{}\n", real.display()));
}

#[test]
fn callback_keys_are_in_the_record() {
    let stage = Stage::new();
    let flags = ["-p", "x", "--callback-session", "k", "--callback-agent", "7"];
    let (_, record) = stage.told(&flags);
    assert_eq!(record["meta"]["openclaw_callback_session_key"], "k");
    assert_eq!(record["meta"]["openclaw_callback_agent_id"], "7");
    assert!(Path::new(record["cwd"].as_str().expect("a path")).is_absolute());
}
