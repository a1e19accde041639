//! Hooks: with what they run, that they run at most once, and that a crash in between is never covered up.

use std::fs;
use std::path::Path;

use agentctl::core::hooks::{HookKind, HookOf};
use agentctl::core::vocab::RunId;
use agentctl::wire::session_dir::RunFiles;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::play::{alive, stdout, until_gone};
use crate::support::wait::until;

impl Daemon {
    /// Waits until a hook has come so far.
    #[track_caller]
    fn hook(&self, id: &str, kind: HookKind, state: &str) -> Value {
        let found = |record: &Value| record["meta"]["hooks"][kind.word()]["state"] == json!(state);
        self.until_status(id, state, found)["meta"]["hooks"][kind.word()].clone()
    }

    /// What a hook printed.
    fn hook_output(&self, id: &str, kind: HookKind) -> String {
        fs::read_to_string(self.file(id, &format!("hook.1.{}.log", kind.word()))).unwrap_or_default()
    }

    /// The files of the hidden session that a hook is.
    fn hook_files(&self, id: &str, kind: HookKind) -> RunFiles {
        let run = RunId { session: id.parse().expect("an id"), run: 1 };
        RunFiles::in_home(self.home(), RunId { session: HookOf { run, kind }.id(), run: 1 })
    }
}

#[test]
fn a_hook_knows_how_its_session_ended_and_leaves_no_trace_but_its_output() {
    let daemon = Daemon::new();
    let script = "env | grep ^AGENTCTL_ | sort; echo $MINE in $PWD; echo oops >&2";
    let cwd = daemon.path("work");
    fs::create_dir(&cwd).expect("a directory");
    let flags = ["--on-complete", script, "--env", "MINE=yes", "--cwd", &cwd, "--name", "n1"];
    let id = daemon.launch(&flags, "exit 42");
    let hook = daemon.hook(&id, HookKind::OnComplete, "done");
    assert_eq!((&hook["exitStatus"], &hook["reason"]), (&json!(0), &json!("exit_code_0")), "{hook:#}");
    let output = fs::read_to_string(hook["logPath"].as_str().expect("a path")).expect("its output");
    let log = daemon.file(&id, "stdout.log");
    for line in [
        format!("AGENTCTL_SESSION_ID={id}"),
        "AGENTCTL_HOOK=on_complete".into(),
        "AGENTCTL_EXIT_CODE=42".into(),
        "AGENTCTL_OUTCOME=failed".into(),
        "AGENTCTL_REASON=exit_code_42".into(),
        "AGENTCTL_STATUS=error".into(),
        "AGENTCTL_ADAPTER=exec".into(),
        "AGENTCTL_NAME=n1".into(),
        "AGENTCTL_RUN=1".into(),
        format!("AGENTCTL_CWD={cwd}"),
        format!("AGENTCTL_LOG={}", log.display()),
        format!("yes in {cwd}"),
        "oops".into(),
    ] {
        assert!(output.lines().any(|found| found == line), "{line} is not in\n{output}");
    }
    // It is a session that nobody sees, and then none at all.
    let hidden = daemon.hook_files(&id, HookKind::OnComplete);
    until("the hook to be forgotten", || (!hidden.dir().exists()).then_some(()));
    assert_eq!(daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len), Some(1));
    assert_eq!(daemon.event_types(&id), ["session.started", "session.error"]);
    assert_eq!(daemon.events().len(), 2, "a hook makes no events");
    assert_eq!(fs::read_dir(daemon.home().join("exits")).expect("exits").count(), 0);
    until("the environment to be thrown away", || (!daemon.file(&id, "hooks.env").exists()).then_some(()));
    assert!(stdout(&daemon.run(["status", &id])).contains("on_complete: done (exit_code_0)"));
}

#[test]
fn a_hook_that_fails_says_so_and_harms_nobody() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let flags = ["--on-create", "echo $AGENTCTL_HOOK $AGENTCTL_EXIT_CODE; exit 3"];
    let id = daemon.launch(&flags, &format!("{}; exit 0", gate.wait()));
    let hook = daemon.hook(&id, HookKind::OnCreate, "failed");
    assert_eq!((&hook["exitStatus"], &hook["reason"]), (&json!(3), &json!("exit_code_3")));
    assert_eq!(daemon.hook_output(&id, HookKind::OnCreate), "on_create\n", "there is no code yet");
    let status = daemon.json(["daemon", "status", "--json"]);
    assert_eq!((&daemon.status(&id)["status"], &status["sessions"]), (&json!("running"), &json!(1)));
    until("a line in the log", || daemon.log().contains("a hook failed").then_some(()));
    gate.open();
    assert_eq!(daemon.ended(&id)["outcome"], "completed");
    until("the environment to be thrown away", || (!daemon.file(&id, "hooks.env").exists()).then_some(()));
}

#[test]
fn a_launch_that_fails_has_its_verdict_and_so_its_hook() {
    let daemon = Daemon::new();
    let output =
        daemon.run(["launch", "--on-complete", "echo $AGENTCTL_EXIT_CODE", "--", "/no/such/program"]);
    assert_eq!(output.status.code(), Some(1));
    let id = daemon.json(["list", "-a", "--json"])[0]["id"].as_str().expect("an id").to_owned();
    daemon.hook(&id, HookKind::OnComplete, "done");
    assert_eq!(daemon.hook_output(&id, HookKind::OnComplete), "127\n");
}

#[test]
fn a_hook_outlives_the_daemon_and_runs_once() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let script = format!("echo begun; {}; echo over", gate.wait());
    let id = daemon.launch(&["--on-complete", &script], "exit 0");
    until("the hook to begin", || {
        daemon.hook_output(&id, HookKind::OnComplete).contains("begun").then_some(())
    });
    daemon.hook(&id, HookKind::OnComplete, "running");
    daemon.kill();
    daemon.start();
    daemon.hook(&id, HookKind::OnComplete, "running");
    daemon.run(["prune"]);
    assert_eq!(daemon.status(&id)["id"], json!(id), "its directory is still needed");
    daemon.kill();
    gate.open();
    daemon.start();
    daemon.hook(&id, HookKind::OnComplete, "done");
    assert_eq!(daemon.hook_output(&id, HookKind::OnComplete), "begun\nover\n");
    let hidden = daemon.hook_files(&id, HookKind::OnComplete);
    until("the hook to be forgotten", || (!hidden.dir().exists()).then_some(()));
    // A later life knows it from the record of its session alone.
    daemon.kill();
    daemon.start();
    daemon.hook(&id, HookKind::OnComplete, "done");
    assert_eq!(daemon.hook_output(&id, HookKind::OnComplete), "begun\nover\n");
    daemon.run(["prune"]);
    assert_eq!(daemon.json(["list", "-a", "--json"]), json!([]));
}

#[test]
fn a_hook_whose_end_nobody_saw_is_unknown_and_not_repeated() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let script = format!("echo begun; {}", gate.wait());
    let id = daemon.launch(&["--on-complete", &script], "exit 0");
    until("the hook to begin", || {
        daemon.hook_output(&id, HookKind::OnComplete).contains("begun").then_some(())
    });
    let files = daemon.hook_files(&id, HookKind::OnComplete);
    let shim = alive(&files.read_shim().expect("a shim").process);
    let leader = alive(&files.read_leader().expect("a leader").process);
    daemon.kill();
    for process in [shim, leader] {
        process.signal(9).expect("our own");
        // Reaped as well, and held by nobody: then the kernel does not know it any more.
        until("it to be reaped", || {
            // By us, where another test has made this process the one that orphans go to.
            let _somebody_elses = process.reap();
            (!Path::new(&format!("/proc/{}", process.pid())).exists()).then_some(())
        });
    }
    daemon.start();
    let hook = daemon.hook(&id, HookKind::OnComplete, "hook_unknown");
    assert_ne!(hook["exitStatus"], json!(0), "unknown is never success: {hook:#}");
    until("a line in the log", || daemon.log().contains("hook_unknown").then_some(()));
    daemon.kill();
    daemon.start();
    daemon.hook(&id, HookKind::OnComplete, "hook_unknown");
    assert_eq!(daemon.hook_output(&id, HookKind::OnComplete), "begun\n");
    assert_eq!(daemon.status(&id)["outcome"], "completed");
}

#[test]
fn a_hook_is_no_part_of_its_session_even_without_a_shim() {
    let daemon = Daemon::new();
    let (session, hook) = (daemon.gate("session"), daemon.gate("hook"));
    let id = daemon.launch(&["--on-create", &format!("{}; echo over", hook.wait())], &session.wait());
    daemon.hook(&id, HookKind::OnCreate, "running");
    // From now on only the environment tells whose a process is, where there is no cgroup.
    let shim = daemon.shim(&id);
    shim.signal(9).expect("our own");
    until_gone(&shim);
    session.open();
    daemon.ended(&id);
    daemon.until_status(&id, "the tree to be gone", |record| {
        record["evidence"]
            .as_array()
            .is_some_and(|list| list.iter().any(|entry| entry["prong"] == "tree_gone"))
    });
    assert_eq!(daemon.status(&id)["meta"]["hooks"]["on_create"]["state"], "running");
    hook.open();
    daemon.hook(&id, HookKind::OnCreate, "done");
    assert_eq!(daemon.hook_output(&id, HookKind::OnCreate), "over\n");
}

#[test]
fn a_script_that_is_none_is_refused() {
    let daemon = Daemon::new();
    for flag in ["--on-create", "--on-complete"] {
        assert_eq!(daemon.code(&["launch", flag, " ", "--", "true"]), Some(1));
    }
    assert_eq!(daemon.json(["list", "-a", "--json"]), json!([]));
}
