//! Sessions in worktrees of their own: made, used again, refused, and cleaned only when nobody needs them.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::daemon::Daemon;
use crate::support::play::{Gate, program, stderr, stdout};
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

/// Waits until no session holds a directory.
fn until_free(daemon: &Daemon) {
    until("all directories to be free", || (daemon.json(["locks", "--json"]) == json!([])).then_some(()));
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
    let line = ["launch", "--force", "--worktree", repo.text(), "--branch", "fix/it", "--", "true"];
    let first = format!("Worktree used again: {}\nLaunched session ", path.display());
    let output = daemon.run(line);
    assert!(stdout(&output).starts_with(&first), "{output:?}");
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
    let words = format!("at '{}'; use another --branch", repo.text());
    let main = launched(&daemon, &repo, &["--branch", "main"], "true");
    failed(&main, &words);
    assert!(!main["meta"]["message"].to_string().contains("clean"), "{main}");
    fs::create_dir(repo.beside("taken")).expect("a directory");
    fs::write(repo.beside("taken").join("x"), "").expect("a file");
    failed(&launched(&daemon, &repo, &["--branch", "taken"], "true"), "already exists; move that away");
    let base = launched(&daemon, &repo, &["--branch", "b", "--base-branch", "nowhere"], "true");
    failed(&base, "--base-branch is to name a branch that is there");
    assert!(!repo.beside("b").exists());
    // Half made, as a git leaves it that is killed in the middle.
    launched(&daemon, &repo, &["--branch", "half"], "true");
    fs::write(repo.path.join(".git/worktrees/repo-half/locked"), "initializing").expect("a lock");
    failed(&launched(&daemon, &repo, &["--branch", "half"], "true"), "is half made");
    // Its directory was removed by hand: git is told of that with the command that is named.
    launched(&daemon, &repo, &["--branch", "gone"], "true");
    fs::remove_dir_all(repo.beside("gone")).expect("a directory");
    let gone = repo.beside("gone").to_str().expect("a text").to_owned();
    let words = format!("to forget it: agentctl worktree clean {gone} --repo {}", repo.text());
    failed(&launched(&daemon, &repo, &["--branch", "gone"], "true"), &words);
    let output = daemon.run(["worktree", "clean", &gone]);
    assert!(stderr(&output).contains("name that with --repo"), "{output:?}");
    until_free(&daemon);
    let output = daemon.run(["worktree", "clean", &gone, "--repo", repo.text()]);
    assert_eq!(stdout(&output), format!("Removed worktree: {gone}\n"), "{output:?}");
    let again = launched(&daemon, &repo, &["--branch", "gone"], "true");
    assert_eq!(daemon.ended(again["id"].as_str().expect("an id"))["outcome"], "completed");
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
    // Nor what watches its files.
    let watcher = repo.path.join(".git/watcher");
    program(&watcher, &format!("#!/bin/sh\ntouch {mark}\n"));
    repo.git(&["config", "core.fsmonitor", watcher.to_str().expect("a text")]);
    let _git_here = fs::remove_file(&mark);
    let flags = ["--branch", "x", "--on-create", "echo $AGENTCTL_BRANCH in $PWD"];
    let record = launched(&daemon, &repo, &flags, "true");
    let id = record["id"].as_str().expect("an id");
    let log = daemon.file(id, "hook.1.on_create.log");
    let expected = format!("x in {}\n", repo.beside("x").display());
    until("the hook", || fs::read_to_string(&log).ok().filter(|said| *said == expected));
    assert!(!Path::new(&mark).exists());
    daemon.ended(id);
    let path = repo.beside("x");
    assert_eq!(daemon.code(&["worktree", "clean", path.to_str().expect("a text")]), Some(0));
    assert!(!Path::new(&mark).exists());
}

#[test]
fn what_is_left_of_a_session_is_waited_for() {
    let (daemon, _dir, repo) = stage();
    // Its child does not listen to TERM.
    let deaf = daemon.path("deaf");
    let script = format!(
        "sh -c 'trap \"\" TERM; echo $$ >{deaf}.new; mv {deaf}.new {deaf}; while :; do sleep 0.1; done' & until test -e {deaf}; do sleep 0.02; done"
    );
    let record = launched(&daemon, &repo, &["--branch", "x", "--grace", "1s"], &script);
    let id = record["id"].as_str().expect("an id");
    daemon.ended(id);
    let pid = fs::read_to_string(&deaf).expect("its child");
    let path = repo.beside("x");
    assert_eq!(daemon.code(&["worktree", "clean", path.to_str().expect("a text")]), Some(0));
    assert!(!path.exists());
    assert!(!Path::new("/proc").join(pid.trim()).exists(), "nobody's directory was taken away");
}

#[test]
fn a_hook_of_a_session_that_has_ended_has_its_worktree() {
    let (daemon, _dir, repo) = stage();
    let gate = daemon.gate("gate");
    let record = launched(&daemon, &repo, &["--branch", "x", "--on-complete", &gate.wait()], "true");
    let id = record["id"].as_str().expect("an id");
    daemon.ended(id);
    let path = repo.beside("x");
    let text = path.to_str().expect("a text");
    let output = daemon.run(["worktree", "clean", text]);
    let words = format!("a hook of session {} still runs in {text}; wait for it", &id[..8]);
    assert!(stderr(&output).contains(&words) && path.exists(), "{output:?}");
    gate.open();
    assert_eq!(daemon.code(&["worktree", "clean", text]), Some(0));
}

#[test]
fn what_only_a_worktree_has_is_not_lost_in_silence() {
    let (daemon, _dir, repo) = stage();
    repo.commit(".gitignore", "target/\n.env\n");
    let script = "mkdir target && touch target/a target/b .env";
    let record = launched(&daemon, &repo, &["--branch", "x"], script);
    daemon.ended(record["id"].as_str().expect("an id"));
    let path = repo.beside("x");
    let text = path.to_str().expect("a text");
    git(&path, &["checkout", "--quiet", "--detach"]);
    fs::write(path.join("README"), "two\n").expect("a file");
    git(&path, &["commit", "--quiet", "--all", "--message", "on no branch"]);
    let head = git(&path, &["rev-parse", "HEAD"]);
    let output = daemon.run(["worktree", "clean", text]);
    let words = format!("commits (1) that are on none; to keep them: git -C {text} branch NAME {head}; or");
    assert!(stderr(&output).contains(&words) && path.exists(), "{output:?}");
    git(&path, &["branch", "kept"]);
    let output = daemon.run(["worktree", "clean", text]);
    assert_eq!(stdout(&output), format!("Removed worktree: {text}\n"), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("removed with it, since git ignores them: .env, target/\n"), "{said}");
    assert!(said.contains(&format!("its last commit was {head}")), "{said}");
    // What the user has git keep, git keeps.
    launched(&daemon, &repo, &["--branch", "y"], "true");
    let path = repo.beside("y");
    repo.git(&["worktree", "lock", "--reason", "on a stick", path.to_str().expect("a text")]);
    let output = daemon.run(["worktree", "clean", "--force", path.to_str().expect("a text")]);
    assert!(stderr(&output).contains("locked (on a stick)") && path.exists(), "{output:?}");
}

#[test]
fn variables_that_name_another_repository_do_not_reach_the_session() {
    let (daemon, dir, repo) = stage();
    let other = dir.path().join("other");
    git(dir.path(), &["init", "--quiet", other.to_str().expect("a text")]);
    let script =
        "git rev-parse --show-toplevel && echo $GIT_INDEX_FILE$GIT_WORK_TREE$GIT_DIR && git config a.b";
    let mut command = daemon.command(["launch", "--json", "--worktree", repo.text(), "--branch", "x"]);
    command.args(["--", "sh", "-c", script]).env("GIT_DIR", other.join(".git"));
    command.env("GIT_WORK_TREE", &other).env("GIT_INDEX_FILE", other.join(".git/index"));
    // Configuration is no repository.
    command.env("GIT_CONFIG_COUNT", "1").env("GIT_CONFIG_KEY_0", "a.b").env("GIT_CONFIG_VALUE_0", "c");
    let output = command.output().expect("the command line runs");
    let record: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let id = record["id"].as_str().expect("an id");
    daemon.ended(id);
    assert_eq!(daemon.stdout(id), format!("{}\n\nc\n", repo.beside("x").display()));
}

#[test]
fn the_users_own_ssh_is_used_and_any_other_asks_nobody() {
    let (daemon, dir, repo) = stage();
    let log = dir.path().join("log");
    let bin = dir.path().to_str().expect("a text");
    for name in ["ssh", "own-ssh", "env-ssh"] {
        let script = format!("#!/bin/sh\necho \"{name} $*\" >> {}\nexit 1\n", log.display());
        program(&dir.path().join(name), &script);
    }
    repo.git(&["remote", "add", "origin", "ssh://nowhere.invalid/x"]);
    let path = format!("PATH={bin}:/usr/local/bin:/usr/bin:/bin");
    let mut number = 0;
    let mut asked = |env: &[&str]| {
        let _none = fs::remove_file(&log);
        number += 1;
        let branch = format!("b{number}");
        let flags = [&["--branch", &branch, "--base-branch", "main", "--env", &path], env].concat();
        assert_eq!(launched(&daemon, &repo, &flags, "true")["outcome"], "launch_failed");
        fs::read_to_string(&log).expect("an ssh was run")
    };
    let said = asked(&[]);
    assert!(said.starts_with("ssh ") && said.contains("BatchMode=yes"), "{said}");
    let said = asked(&["--env", "GIT_SSH_COMMAND=env-ssh"]);
    assert!(said.starts_with("env-ssh ") && !said.contains("BatchMode"), "{said}");
    repo.git(&["config", "core.sshCommand", "own-ssh -i my-key"]);
    let said = asked(&[]);
    assert!(said.starts_with("own-ssh -i my-key") && !said.contains("BatchMode"), "{said}");
}

#[test]
fn a_git_of_before_2_36_will_do() {
    let (daemon, dir, repo) = stage();
    let old = "#!/bin/sh\ncase \" $* \" in *' list '*' -z '*) echo \"error: unknown switch \\`z'\" >&2; exit 129;; esac\n\
        PATH=/usr/local/bin:/usr/bin:/bin exec git \"$@\"\n";
    program(&dir.path().join("git"), old);
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", dir.path().display());
    let env = format!("PATH={path}");
    for _ in 0..2 {
        let record = launched(&daemon, &repo, &["--branch", "x", "--env", &env], "true");
        assert_eq!(daemon.ended(record["id"].as_str().expect("an id"))["outcome"], "completed", "{record:#}");
    }
    let mut command = daemon.command(["worktree", "list", repo.text(), "--json"]);
    let output = command.env("PATH", path).output().expect("the command line runs");
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!((&listed[1]["path"], &listed[1]["branch"]), (&json!(repo.beside("x")), &json!("x")));
}

/// A checkout of which each file waits at the gate; who is at it is in `pids`: the filter, the checkout, and git.
fn slow_checkout(daemon: &Daemon, repo: &Repo) -> Gate {
    let gate = daemon.gate("checkout");
    let (filter, pids) = (daemon.path("filter"), daemon.path("pids"));
    let script = format!(
        "#!/bin/sh\necho $$ $PPID $(cut -d' ' -f4 /proc/$PPID/stat) > {pids}.new\nmv {pids}.new {pids}\n{}\nexec cat\n",
        gate.wait()
    );
    program(Path::new(&filter), &script);
    repo.commit(".gitattributes", "slow filter=slow\n");
    repo.commit("slow", "whole\n");
    repo.git(&["config", "filter.slow.smudge", &filter]);
    gate
}

/// Those who are at the checkout, once they are.
fn at_it(daemon: &Daemon) -> Vec<String> {
    let pids = until("a checkout that waits", || fs::read_to_string(daemon.path("pids")).ok());
    pids.split_whitespace().map(str::to_owned).collect()
}

/// Launches in the background, and whoever launches goes away.
fn launch_and_leave(daemon: &Daemon, repo: &Repo, flags: &[&str]) {
    let line = [&["launch", "--worktree", repo.text(), "--branch", "x"], flags, &["--", "cat", "slow"]];
    let mut command = daemon.command(line.concat());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
    at_it(daemon);
    child.kill().expect("our own child");
    child.wait().expect("our own child");
}

#[track_caller]
fn is_whole(daemon: &Daemon, id: &str) {
    assert_eq!(daemon.ended(id)["outcome"], "completed", "{:#}", daemon.status(id));
    assert_eq!(daemon.stdout(id), "whole\n");
    assert_eq!(fs::read_dir(daemon.home().join("worktrees")).expect("notes").count(), 0);
}

#[test]
fn a_worktree_that_was_left_half_made_is_made_anew() {
    let (mut daemon, _dir, repo) = stage();
    let gate = slow_checkout(&daemon, &repo);
    launch_and_leave(&daemon, &repo, &[]);
    daemon.kill();
    // git first, so that nobody cleans up.
    let pids = at_it(&daemon);
    let killed = Command::new("kill").arg("-9").args(pids.iter().rev()).status().expect("kill runs");
    assert!(killed.success());
    gate.open();
    daemon.start();
    let all = daemon.json(["list", "-a", "--json"]);
    let first = daemon.ended(all[0]["id"].as_str().expect("an id"));
    assert_eq!(first["outcome"], "launch_failed");
    assert!(!repo.beside("x").join("slow").exists(), "it is half made");
    let line = ["launch", "--json", "--worktree", repo.text(), "--branch", "x", "--", "cat", "slow"];
    is_whole(&daemon, daemon.json(line)["id"].as_str().expect("an id"));
}

#[test]
fn a_git_that_outlives_the_daemon_is_waited_for_by_the_next() {
    let (mut daemon, _dir, repo) = stage();
    let gate = slow_checkout(&daemon, &repo);
    let path = repo.beside("x");
    let text = path.to_str().expect("a text");
    // One that was queued is begun again.
    assert_eq!(daemon.code(&["lock", text]), Some(0));
    let line =
        ["launch", "--queue", "--json", "--worktree", repo.text(), "--branch", "x", "--", "cat", "slow"];
    let id = daemon.json(line)["id"].as_str().expect("an id").to_owned();
    assert_eq!(daemon.code(&["unlock", text]), Some(0));
    at_it(&daemon);
    daemon.kill();
    daemon.start();
    until("it to be begun again", || (daemon.status(&id)["phase"] == "launching").then_some(()));
    gate.open();
    is_whole(&daemon, &id);
}

#[test]
fn a_daemon_that_stops_does_not_wait_for_git() {
    let (mut daemon, _dir, repo) = stage();
    let gate = slow_checkout(&daemon, &repo);
    launch_and_leave(&daemon, &repo, &[]);
    let pids = at_it(&daemon);
    daemon.terminate();
    assert!(!Path::new("/proc").join(&pids[2]).exists(), "nobody is at it any more");
    gate.open();
    daemon.start();
    let line = ["launch", "--json", "--worktree", repo.text(), "--branch", "x", "--", "cat", "slow"];
    is_whole(&daemon, daemon.json(line)["id"].as_str().expect("an id"));
}

#[test]
fn a_worktree_that_failed_is_told_to_the_hook_with_the_sessions_environment() {
    let (daemon, _dir, repo) = stage();
    let hook = "echo $AGENTCTL_OUTCOME $OURS; pwd";
    let flags = ["--branch", "main", "--env", "OURS=of-the-launch", "--on-complete", hook];
    let record = launched(&daemon, &repo, &flags, "true");
    let id = record["id"].as_str().expect("an id");
    assert_eq!(record["outcome"], "launch_failed");
    let log = daemon.file(id, "hook.1.on_complete.log");
    // In the repository, since there is no worktree.
    let expected = format!("launch_failed of-the-launch\n{}\n", repo.text());
    until("the hook", || fs::read_to_string(&log).ok().filter(|said| *said == expected));
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
    assert_eq!(daemon.code(&["lock", &text, "--by", "ann", "--reason", "mine"]), Some(0));
    refused(&daemon, 1, &format!("{text} is locked by ann: mine; unlock it first (agentctl unlock {text})"));
    assert_eq!(daemon.code(&["unlock", &text]), Some(0));
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
