//! Sessions in worktrees of their own: made, used again, refused, and cleaned only when nobody needs them.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::play::{program, stderr, stdout};
use crate::support::repo::{Repo, git};
use crate::support::wait::until;

fn stage() -> (Daemon, TempDir, Repo) {
    let dir = tempfile::tempdir().expect("a directory");
    let repo = Repo::new(dir.path());
    (Daemon::new(), dir, repo)
}

/// A launch of `sh -c script` in a worktree, although the last one there may not be gone to its last process; its record.
#[track_caller]
fn launched(daemon: &Daemon, repo: &Repo, flags: &[&str], script: &str) -> Value {
    let line =
        [&["launch", "--json", "--force", "--worktree", repo.text()], flags, &["--", "sh", "-c", script]]
            .concat();
    daemon.json(line)
}

#[test]
fn a_session_works_in_a_worktree_of_its_own() {
    let (daemon, _dir, repo) = stage();
    let path = repo.beside("fix-it");
    let flags = ["launch", "--worktree", repo.text(), "--branch", "fix/it", "--", "sh", "-c"];
    let output =
        daemon.run([&flags[..], &["git branch --show-current; pwd; umask; stat -c %a README"]].concat());
    let first = format!("Worktree created: {}\nLaunched session ", path.display());
    assert!(stdout(&output).starts_with(&first), "{output:?}");
    let id = daemon.json(["list", "-a", "--json"])[0]["id"].as_str().expect("an id").to_owned();
    let record = daemon.ended(&id);
    let said = daemon.stdout(&id);
    assert_eq!(said, format!("fix/it\n{}\n0022\n644\n", path.display()));
    assert_eq!(record["cwd"], json!(path));
    assert_eq!(record["worktree"], json!({"repo": repo.text(), "branch": "fix/it"}));
    // The branch is kept with its work; a second session goes on there.
    fs::write(path.join("note"), "kept").expect("a file");
    let again = launched(&daemon, &repo, &["--branch", "fix/it"], "cat note");
    let id = again["id"].as_str().expect("an id");
    assert_eq!(daemon.ended(id)["outcome"], "completed");
    assert_eq!(daemon.stdout(id), "kept");
    // From below the repository, and by a relative path, it is the same one.
    fs::create_dir(repo.path.join("sub")).expect("a directory");
    let mut command = daemon.command([
        "launch",
        "--force",
        "--json",
        "--worktree",
        ".",
        "--branch",
        "fix/it",
        "--",
        "true",
    ]);
    let output = command.current_dir(repo.path.join("sub")).output().expect("the command line runs");
    let record: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(record["cwd"], json!(path));
}

#[test]
fn a_new_branch_begins_at_the_base_as_origin_has_it_now() {
    let (daemon, dir, repo) = stage();
    let clone = dir.path().join("clone");
    git(dir.path(), &["clone", "--quiet", repo.text(), clone.to_str().expect("a text")]);
    let newest = repo.commit("NEWS", "two\n");
    let head = |flags: &[&str]| {
        let line = [&["launch", "--json", "--worktree", clone.to_str().expect("a text")], flags];
        let record = daemon.json([&line.concat()[..], &["--", "git", "rev-parse", "HEAD"]].concat());
        let id = record["id"].as_str().unwrap_or_else(|| panic!("{record}"));
        assert_eq!(daemon.ended(id)["outcome"], "completed");
        daemon.stdout(id).trim().to_owned()
    };
    assert_ne!(head(&["--branch", "old"]), newest, "the clone has not heard of it");
    assert_eq!(head(&["--branch", "new", "--base-branch", "main"]), newest);
}

#[test]
fn what_git_refuses_is_a_launch_that_failed_in_its_own_words() {
    let (daemon, dir, repo) = stage();
    let failed = |record: &Value, words: &str| {
        assert_eq!(
            (&record["outcome"], &record["pid"]),
            (&json!("launch_failed"), &Value::Null),
            "{record:#}"
        );
        let said = record["meta"]["message"].as_str().unwrap_or_default();
        assert!(said.contains(words), "{words} is not in: {said}");
    };
    failed(&launched(&daemon, &repo, &["--branch", "main"], "true"), "use another --branch");
    fs::create_dir(repo.beside("taken")).expect("a directory");
    fs::write(repo.beside("taken").join("x"), "").expect("a file");
    failed(&launched(&daemon, &repo, &["--branch", "taken"], "true"), "already exists; move that away");
    let base = launched(&daemon, &repo, &["--branch", "b", "--base-branch", "nowhere"], "true");
    failed(&base, "git worktree add");
    assert!(!repo.beside("b").exists());
    // Half made, as a git leaves it that is killed in the middle.
    launched(&daemon, &repo, &["--branch", "half"], "true");
    fs::write(repo.path.join(".git/worktrees/repo-half/locked"), "initializing").expect("a lock");
    failed(&launched(&daemon, &repo, &["--branch", "half"], "true"), "is half made");
    // Another branch was checked out there meanwhile.
    launched(&daemon, &repo, &["--branch", "mine"], "true");
    git(&repo.beside("mine"), &["checkout", "--quiet", "-b", "other"]);
    failed(&launched(&daemon, &repo, &["--branch", "mine"], "true"), "has other checked out, not mine");

    let ended = daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len);
    for (flags, code, words) in [
        (vec!["--worktree", repo.text()], 2, "--branch is required when using --worktree"),
        (vec!["--branch", "x"], 2, "name the repository"),
        (vec!["--base-branch", "x"], 2, "name both"),
        (vec!["--worktree", repo.text(), "--branch", "-x"], 2, "-x"),
        (vec!["--worktree", repo.text(), "--branch", "a b"], 1, "none that git takes"),
        (vec!["--worktree", "/no/such/repo", "--branch", "x"], 1, "/no/such/repo"),
        (
            vec!["--worktree", dir.path().to_str().expect("a text"), "--branch", "x"],
            1,
            "Not a git repository",
        ),
    ] {
        let output = daemon.run([&["launch"], &flags[..], &["--", "true"]].concat());
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stderr(&output).contains(words), "{words} is not in {output:?}");
    }
    assert_eq!(daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len), ended);
}

#[test]
fn hooks_of_the_repository_do_not_run_and_ours_knows_the_branch() {
    let (daemon, _dir, repo) = stage();
    let mark = daemon.path("mark");
    program(&repo.path.join(".git/hooks/post-checkout"), &format!("#!/bin/sh\ntouch {mark}\n"));
    let flags = ["--branch", "x", "--on-create", "echo $AGENTCTL_BRANCH in $PWD"];
    let record = launched(&daemon, &repo, &flags, "true");
    let id = record["id"].as_str().expect("an id");
    let log = daemon.file(id, "hook.1.on_create.log");
    let expected = format!("x in {}\n", repo.beside("x").display());
    until("the hook", || fs::read_to_string(&log).ok().filter(|said| *said == expected));
    assert!(!Path::new(&mark).exists());
}

#[test]
fn a_git_that_is_not_there_fails_the_launch_and_nothing_else() {
    let (daemon, _dir, repo) = stage();
    let mut line = vec!["launch", "--json", "--worktree", repo.text(), "--branch", "x"];
    line.extend(["--env", "PATH=/nowhere", "--", "/bin/true"]);
    let record = daemon.json(line);
    assert_eq!(record["outcome"], "launch_failed");
    let said = record["meta"]["message"].as_str().unwrap_or_default();
    assert!(said.contains("git is not in the PATH of the session"), "{said}");
    daemon.is_well();
}

#[test]
fn worktrees_are_listed_as_git_knows_them() {
    let (daemon, dir, repo) = stage();
    let home = dir.path().to_str().expect("a text");
    let run = |arguments: &[&str]| {
        let mut command = daemon.command(arguments);
        let output = command.env("HOME", fs::canonicalize(home).expect("a home")).output();
        output.expect("the command line runs")
    };
    launched(&daemon, &repo, &["--branch", "try/x"], "true");
    let head = repo.git(&["rev-parse", "HEAD"]);
    let path = repo.beside("try-x");
    assert_eq!(
        daemon.json(["worktree", "list", repo.text(), "--json"]),
        json!([
            {"path": repo.text(), "branch": "main", "head": head, "bare": false},
            {"path": path, "branch": "try/x", "head": head, "bare": false},
        ])
    );
    let table = stdout(&run(&["worktree", "list", path.to_str().expect("a text")]));
    let head = &head[..8];
    let expected = format!(
        "Path          Branch  HEAD\n------------  ------  --------\n~/repo        main    {head}\n~/repo-try-x  try/x   {head}\n"
    );
    assert_eq!(table, expected);
    let output = run(&["worktree", "list", home]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    assert!(stderr(&output).contains("not a git repository"), "{output:?}");
}

#[test]
fn a_worktree_is_removed_only_when_nobody_needs_it() {
    let (mut daemon, _dir, repo) = stage();
    let path = repo.beside("x");
    let text = path.to_str().expect("a text").to_owned();
    let gate = daemon.gate("gate");
    let record = launched(&daemon, &repo, &["--branch", "x"], &format!("{}; echo new > new", gate.wait()));
    let id = record["id"].as_str().expect("an id").to_owned();
    let refused = |daemon: &Daemon, code: i32, words: &str| {
        let output = daemon.run(["worktree", "clean", &text]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(code), String::new()), "{output:?}");
        assert!(stderr(&output).contains(words), "{words} is not in {output:?}");
        assert!(path.join("README").exists());
    };
    refused(&daemon, 1, &format!("session {} (exec) lives in {text}", &id[..8]));
    gate.open();
    daemon.ended(&id);
    refused(&daemon, 1, &format!("{text} has changes that are not committed (new)"));
    git(&path, &["add", "new"]);
    git(&path, &["commit", "--quiet", "--message", "new"]);
    let head = git(&path, &["rev-parse", "HEAD"]);
    daemon.terminate();
    refused(&daemon, 3, &format!("whether a session lives in {text} cannot be told"));
    daemon.start();
    let main = daemon.run(["worktree", "clean", repo.text()]);
    assert!(stderr(&main).contains("is the repository itself"), "{main:?}");

    let output = daemon.run(["worktree", "clean", &text, "--delete-branch"]);
    let expected = format!("Removed worktree: {text}\nDeleted branch: x\n");
    assert_eq!((output.status.code(), stdout(&output)), (Some(0), expected), "{output:?}");
    assert!(stderr(&output).contains(&format!("git branch x {head}")), "{output:?}");
    assert!(!path.exists() && repo.git(&["branch", "--list", "x"]).is_empty());

    // By force, with all that is in it; the branch stays.
    let gate = daemon.gate("second");
    launched(&daemon, &repo, &["--branch", "y"], &format!("touch new; {}", gate.wait()));
    let path = repo.beside("y");
    until("a new file", || path.join("new").exists().then_some(()));
    let line = ["worktree", "clean", path.to_str().expect("a text"), "--repo", repo.text(), "--force"];
    assert_eq!(daemon.code(&line), Some(0));
    assert!(!path.exists() && !repo.git(&["branch", "--list", "y"]).is_empty());
    gate.open();
}
