//! Directory locks: who is refused where, by whom and until when; and the locks that people set.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::namespace::{bind, hanging, in_own_mounts, skipped};
use crate::support::openmetrics::Metrics;
use crate::support::play::{Gate, stderr, stdout};
use crate::support::wait::until;

impl Daemon {
    /// A session that is in `dir` until the gate opens.
    #[track_caller]
    fn sits_in(&self, dir: &Path, flags: &[&str], gate: &Gate) -> String {
        let dir = dir.to_str().expect("a text");
        self.launch(&[&["--cwd", dir], flags].concat(), &gate.wait())
    }

    /// Tries to launch there.
    fn tries(&self, dir: &Path, flags: &[&str]) -> Output {
        let dir = dir.to_str().expect("a text");
        self.run([&["launch", "--cwd", dir], flags, &["--", "true"]].concat())
    }

    #[track_caller]
    fn is_refused(&self, dir: &Path, why: &str) {
        let output = self.tries(dir, &[]);
        let said = (output.status.code(), stdout(&output), stderr(&output));
        assert_eq!(said, (Some(1), String::new(), format!("{why}\n")), "{}", dir.display());
    }

    #[track_caller]
    fn is_free(&self, dir: &Path) {
        let output = self.tries(dir, &[]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }

    /// Type and owner of each lock.
    fn locks(&self) -> Vec<(String, String)> {
        let locks = self.json(["locks", "--json"]);
        let word = |lock: &Value, key: &str| lock[key].as_str().unwrap_or_default().to_owned();
        let locks = locks.as_array().expect("an array");
        let owner = |lock: &Value| word(lock, "lockedBy") + &word(lock, "sessionId");
        locks.iter().map(|lock| (word(lock, "type"), owner(lock))).collect()
    }
}

#[test]
fn a_directory_that_does_not_answer_costs_nobody_but_who_names_it() {
    if !in_own_mounts("locks::a_directory_that_does_not_answer_costs_nobody_but_who_names_it") {
        return;
    }
    let away = tempfile::tempdir().expect("a directory");
    let Some(_hangs) = hanging(away.path()) else {
        return skipped("locks", "no file system can be made here that does not answer");
    };
    let mut daemon = Daemon::new();
    let launch = json!({"adapter": "exec", "command": ["true"], "cwd": away.path()}).to_string();
    let lock = json!({"directory": away.path()}).to_string();
    std::thread::scope(|scope| {
        let daemon = &daemon;
        let asked = [("/v1/sessions", launch.as_str()), ("/v1/locks", lock.as_str())]
            .map(|(path, body)| scope.spawn(move || daemon.http("POST", path, "", body)));
        until("both looks to be under way", || (threads(daemon.pid(), "look") == 2).then_some(()));
        daemon.is_well();
        for asked in asked {
            let (status, said) = asked.join().expect("a client");
            assert!(status == 400 && said.contains("did not answer within 5 s"), "{status}: {said}");
        }
    });
    daemon.is_well();
    // Looks that hang keep nobody from ending.
    daemon.terminate();
    daemon.start();
}

/// How many threads of a process have this name.
fn threads(pid: u32, name: &str) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("a process");
    let names = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|found| found.trim() == name).count()
}

#[test]
fn what_is_no_directory_cannot_be_locked() {
    let daemon = Daemon::new();
    for (directory, why) in [
        (format!("/{}", "x".repeat(4_095)), "a path has at most 4095 bytes"),
        ("/a\nb".to_owned(), "control characters"),
        ("a".to_owned(), "is not an absolute path"),
    ] {
        let body = json!({"directory": directory}).to_string();
        let (status, said) = daemon.http("POST", "/v1/locks", "", &body);
        assert!(status == 400 && said.contains(why), "{status}: {said}");
    }
    assert_eq!(daemon.locks(), []);
}

fn in_use(id: &str) -> String {
    format!("Directory in use by session {}. Use --force to override.", &id[..8])
}

#[test]
fn a_session_has_its_directory_to_itself_by_whatever_name_until_it_has_ended() {
    let mut daemon = Daemon::new();
    let dir = daemon.fresh_dir().canonicalize().expect("a real path");
    let gate = daemon.gate("gate");
    let id = daemon.sits_in(&dir, &[], &gate);
    let link = daemon.home().join("link");
    symlink(&dir, &link).expect("a link");
    let names: [PathBuf; 4] =
        [dir.clone(), link.clone(), dir.join("."), dir.join("..").join(dir.file_name().expect("a name"))];
    for name in &names {
        daemon.is_refused(name, &in_use(&id));
    }
    let trailing = format!("{}//", dir.display());
    daemon.is_refused(Path::new(&trailing), &in_use(&id));
    let run = daemon.run(["run", "--cwd", &trailing, "--", "true"]);
    assert_eq!((run.status.code(), stderr(&run)), (Some(125), format!("{}\n", in_use(&id))));
    let body = json!({"adapter": "exec", "command": ["true"], "cwd": link}).to_string();
    let (status, answer) = daemon.http("POST", "/v1/sessions", "", &body);
    assert_eq!(status, 409, "{answer}");
    assert!(answer.contains(&in_use(&id)), "{answer}");
    assert_eq!(
        daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len),
        Some(1),
        "nothing was recorded"
    );

    // As before after a crash: it is no more than what its records say.
    daemon.kill();
    daemon.start();
    daemon.is_refused(&dir, &in_use(&id));
    assert_eq!(daemon.locks(), [("auto".to_owned(), id.clone())]);
    let lock = &daemon.json(["locks", "--json"])[0];
    let leader = daemon.status(&id)["pid"].clone();
    let expected = json!({"directory": dir, "type": "auto", "pid": leader, "sessionId": id, "lockedBy": null,
        "reason": null, "lockedAt": lock["lockedAt"]});
    assert_eq!(*lock, expected);
    let table = stdout(&daemon.run(["locks"]));
    assert!(
        table.starts_with("Directory") && table.contains("Locked By") && table.contains(&id[..8]),
        "{table}"
    );
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");

    gate.open();
    daemon.ended(&id);
    daemon.is_free(&dir);
}

#[test]
fn force_goes_ahead_and_disturbs_nobody() {
    let daemon = Daemon::new();
    let dir = daemon.fresh_dir();
    let (first, second) = (daemon.gate("first"), daemon.gate("second"));
    let one = daemon.sits_in(&dir, &[], &first);
    let two = daemon.sits_in(&dir, &["--force"], &second);
    assert_eq!(daemon.status(&one)["phase"], json!("running"));
    let mut both = daemon.locks();
    both.sort();
    let mut expected = vec![("auto".to_owned(), one.clone()), ("auto".to_owned(), two.clone())];
    expected.sort();
    assert_eq!(both, expected);
    first.open();
    daemon.ended(&one);
    until("the first to be gone", || (daemon.locks().len() == 1).then_some(()));
    daemon.is_refused(&dir, &in_use(&two));
    second.open();
    daemon.ended(&two);
    until("both to be gone", || daemon.locks().is_empty().then_some(()));
    assert_eq!(stdout(&daemon.run(["locks"])), "No active locks\n");
    daemon.is_free(&dir);
}

#[test]
fn a_directory_is_free_when_nothing_of_the_tree_is_left_or_what_is_left_was_to_be_kept() {
    let daemon = Daemon::new();
    // Its child does not listen to TERM.
    let deaf = daemon.path("deaf");
    let script = format!(
        "sh -c 'trap \"\" TERM; : >{deaf}; while :; do sleep 0.1; done' & until test -e {deaf}; do sleep 0.02; done"
    );
    let (killed, kept) = (daemon.fresh_dir(), daemon.fresh_dir());
    let id = daemon.launch(&["--cwd", killed.to_str().expect("a text"), "--grace", "3s"], &script);
    assert_eq!(daemon.ended(&id)["outcome"], json!("completed"));
    // Who comes then waits for that, and is not refused in the name of one that has ended.
    assert_eq!(daemon.locks(), [("auto".to_owned(), id.clone())]);
    daemon.is_free(&killed);
    assert_eq!(daemon.status(&id)["leftovers"], json!(0));

    let gate = daemon.gate("gate");
    let script = format!("({}) & exit 0", gate.wait());
    let id = daemon.launch(&["--cwd", kept.to_str().expect("a text"), "--leftovers", "keep"], &script);
    daemon.ended(&id);
    daemon.is_free(&kept);
    gate.open();
}

#[test]
fn a_lock_by_hand_holds_over_restarts_until_it_is_released() {
    let mut daemon = Daemon::new();
    let dir = daemon.fresh_dir().canonicalize().expect("a real path");
    let path = dir.to_str().expect("a text");
    let said = |output: &Output| (output.status.code(), stdout(output), stderr(output));
    let locked = daemon.run(["lock", path, "--by", "alice", "--reason", "the release"]);
    assert_eq!(said(&locked), (Some(0), format!("Locked: {path}\n"), String::new()));
    let refusal = "Directory locked by alice: the release. Use --force to override.";
    daemon.is_refused(&dir, refusal);
    daemon.kill();
    daemon.start();
    daemon.is_refused(&dir, refusal);
    let body = json!({"adapter": "exec", "command": ["true"], "cwd": path}).to_string();
    assert_eq!(daemon.http("POST", "/v1/sessions", "", &body).0, 423);
    let again = daemon.run(["lock", &format!("{path}/")]);
    let already = "Already manually locked by alice: the release\n";
    assert_eq!(said(&again), (Some(1), String::new(), already.to_owned()));
    assert_eq!(daemon.tries(&dir, &["--force"]).status.code(), Some(0));
    until("the forced one to be gone", || (daemon.locks().len() == 1).then_some(()));
    let lock = &daemon.json(["locks", "--json"])[0];
    let expected = json!({"directory": path, "type": "manual", "pid": null, "sessionId": null, "lockedBy": "alice",
        "reason": "the release", "lockedAt": lock["lockedAt"]});
    assert_eq!(*lock, expected);

    let unlocked = daemon.run(["unlock", path]);
    assert_eq!(said(&unlocked), (Some(0), format!("Unlocked: {path}\n"), String::new()));
    let again = daemon.run(["unlock", path]);
    assert_eq!((again.status.code(), stdout(&again)), (Some(1), String::new()));
    assert!(stderr(&again).contains(path), "{again:?}");
    daemon.is_free(&dir);
    daemon.kill();
    daemon.start();
    assert!(daemon.locks().iter().all(|(kind, _)| kind == "auto"), "released for good");

    let events = daemon.events();
    let told: Vec<_> = events.iter().filter(|event| event["sessionId"].is_null()).collect();
    let types: Vec<_> = told.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    assert_eq!(types, ["lock.acquired", "lock.released"]);
    for event in told {
        let words = (&event["lock"]["directory"], &event["lock"]["lockedBy"], &event["session"]);
        assert_eq!(words, (&json!(path), &json!("alice"), &Value::Null));
    }
}

#[test]
fn a_lock_by_hand_disturbs_no_session_that_is_there_and_needs_no_reason() {
    let daemon = Daemon::new();
    let dir = daemon.fresh_dir();
    let gate = daemon.gate("gate");
    let id = daemon.sits_in(&dir, &[], &gate);
    let path = dir.to_str().expect("a text");
    assert_eq!(daemon.code(&["lock", path, "--by", "bob"]), Some(0));
    daemon.is_refused(&dir, "Directory locked by bob. Use --force to override.");
    let status = stdout(&daemon.run(["daemon", "status"]));
    assert!(status.contains("Active locks:    2"), "{status}");
    let metrics = Metrics::scrape(&daemon);
    let active = |kind: &str| metrics.get(&format!("agentctl_locks_active{{type=\"{kind}\"}}"));
    assert_eq!((active("auto"), active("manual")), (1.0, 1.0));
    gate.open();
    daemon.ended(&id);
    daemon.is_refused(&dir, "Directory locked by bob. Use --force to override.");
    for wrong in [["lock", path, "--by", ""], ["lock", path, "--reason", "a\nb"]] {
        assert_eq!(daemon.code(&wrong), Some(1), "{wrong:?}");
    }
}

#[test]
fn what_is_taken_above_and_below_is_warned_of_and_the_same_is_said_again() {
    let daemon = Daemon::new();
    let top = daemon.fresh_dir().canonicalize().expect("a real path");
    let (middle, low) = (top.join("middle"), top.join("middle/low"));
    fs::create_dir_all(&low).expect("directories");
    let gate = daemon.gate("gate");
    let id = daemon.sits_in(&low, &[], &gate);
    assert_eq!(daemon.code(&["lock", top.to_str().expect("a text"), "--by", "alice"]), Some(0));
    let output = daemon.tries(&middle, &["--name", "between"]);
    assert_eq!(output.status.code(), Some(0));
    let expected = [
        format!("the directory is inside of another that is taken: {} is locked by alice", top.display()),
        format!(
            "a directory inside of this one is taken: {} is in use by session {}",
            low.display(),
            &id[..8]
        ),
    ];
    let lines: String = expected.iter().map(|warning| format!("agentctl: warning: {warning}\n")).collect();
    assert_eq!(stderr(&output), lines);
    assert_eq!(daemon.status("between")["meta"]["warnings"], json!(expected));
    gate.open();
    let id = daemon.status("between")["id"].as_str().expect("an id").to_owned();
    daemon.ended(&id);
    assert_eq!(daemon.status(&id)["meta"]["warnings"], json!(expected), "as it was when it was launched");
}

#[test]
fn a_bind_mount_is_the_directory_that_it_shows() {
    if !in_own_mounts("locks::a_bind_mount_is_the_directory_that_it_shows") {
        return;
    }
    let daemon = Daemon::new();
    let (dir, other) = (daemon.fresh_dir(), daemon.fresh_dir());
    let _mounted = bind(&dir, &other);
    let gate = daemon.gate("gate");
    let id = daemon.sits_in(&dir, &[], &gate);
    daemon.is_refused(&other, &in_use(&id));
    gate.open();
    daemon.ended(&id);
    until("the directory to be free", || daemon.tries(&other, &[]).status.success().then_some(()));
    assert_eq!(daemon.code(&["lock", other.to_str().expect("a text"), "--by", "alice"]), Some(0));
    daemon.is_refused(&dir, "Directory locked by alice. Use --force to override.");
    assert_eq!(daemon.code(&["unlock", dir.to_str().expect("a text")]), Some(0));
}
