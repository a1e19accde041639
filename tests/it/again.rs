//! What is asked of a session beside its life: signals by request, the same launch once more, and being forgotten.

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::play::{stderr, stdout};
use crate::support::wait::until;

/// Says that it is ready, and waits for signals.
const WAITS: &str = "echo ready; while :; do sleep 0.02; done";

fn ready(daemon: &Daemon, id: &str) {
    until("the session to be ready", || daemon.stdout(id).contains("ready").then_some(()));
}

/// It ended so, and nobody had asked for a stop.
#[track_caller]
fn ended_by_itself(daemon: &Daemon, id: &str, reason: &str) {
    let record = daemon.ended(id);
    assert_eq!((&record["outcome"], &record["reason"]), (&json!("failed"), &json!(reason)), "{record:#}");
    let stopped = |entry: &Value| entry["prong"] == "stop";
    assert!(!record["evidence"].as_array().is_some_and(|all| all.iter().any(stopped)), "{record:#}");
}

#[test]
fn a_signal_goes_to_the_leader_and_what_becomes_of_it_is_its_own_doing() {
    let daemon = Daemon::new();
    let traps =
        daemon.launch(&["--name", "traps"], &format!("trap 'exit 5' USR1; trap 'echo hup' HUP; {WAITS}"));
    let plain = daemon.launch(&[], WAITS);
    for id in [&traps, &plain] {
        ready(&daemon, id);
    }
    assert_eq!(
        stdout(&daemon.run(["kill", "-s", "SIGHUP", "traps"])),
        format!("Sent SIGHUP to session {}\n", &traps[..8])
    );
    until("the trap", || daemon.stdout(&traps).contains("hup").then_some(()));
    assert_eq!(daemon.status(&traps)["status"], "running");
    // Several; the ones that can be signalled are.
    let several = daemon.run(["kill", "nobody", &traps, "--signal", "10"]);
    assert_eq!(several.status.code(), Some(1));
    assert_eq!(stderr(&several), "Session not found: nobody\n");
    ended_by_itself(&daemon, &traps, "exit_code_5");
    let records = daemon.json(["kill", &plain, "--json"]);
    assert_eq!(records[0]["id"], json!(plain), "{records:#}");
    ended_by_itself(&daemon, &plain, "sigterm");
    let over = daemon.run(["kill", &plain]);
    let words = format!("session {plain} has ended; there is nobody to signal\n");
    assert_eq!((over.status.code(), stderr(&over)), (Some(1), words));
    for wrong in [&["kill"][..], &["kill", "-s", "NOPE", "x"], &["kill", "-s", "0", "x"]] {
        let output = daemon.run(wrong);
        assert_eq!((output.status.code(), stdout(&output)), (Some(2), String::new()), "{wrong:?}");
    }
    assert!(daemon.log().contains("a signal is sent, as asked for"));
}

#[test]
fn a_signal_to_the_tree_reaches_what_the_leader_started() {
    let daemon = Daemon::new();
    let script = "(trap 'echo child; exit' USR2; echo up; while :; do sleep 0.02; done) & trap 'echo leader' USR2; \
                  echo ready; while :; do sleep 0.02; done";
    let id = daemon.launch(&["--leftovers", "keep"], script);
    ready(&daemon, &id);
    until("the other trap", || daemon.stdout(&id).contains("up").then_some(()));
    daemon.run(["kill", "-s", "USR2", &id]);
    until("the leader's trap", || daemon.stdout(&id).contains("leader").then_some(()));
    assert!(!daemon.stdout(&id).contains("child"));
    daemon.run(["kill", "-s", "USR2", "--tree", &id]);
    until("both", || {
        let said = daemon.stdout(&id);
        (said.contains("child") && said.matches("leader").count() > 1).then_some(())
    });
    assert_eq!(daemon.stdout(&id).matches("leader").count(), 2, "each process gets it once");
    daemon.run(["kill", "-s", "KILL", "--tree", &id]);
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["signal"]), (&json!("failed"), &json!("SIGKILL")), "{record:#}");
    daemon.until_status(&id, "its tree to be gone", |record| record["leftovers"] == json!(0));
}

#[test]
fn the_same_is_launched_once_more_with_what_is_kept_and_the_environment_of_now() {
    let daemon = Daemon::new();
    let script = "echo $0 $MINE in $PWD; exit 3";
    let cwd = daemon.path("work");
    std::fs::create_dir(&cwd).expect("a directory");
    let flags =
        ["--cwd", &cwd, "--env", "MINE=then", "--label", "team=core", "--timeout", "90s", "--name", "n1"];
    let first = daemon.launch(&[&flags[..], &["--on-complete", "true", "--grace", "3s"]].concat(), script);
    daemon.ended(&first);
    // The directory is let go a moment after an end.
    let again = daemon.json(["rerun", "n1", "--env", "MINE=now", "--force", "--json"]);
    let second = again["id"].as_str().expect("an id").to_owned();
    assert_ne!(first, second);
    let record = daemon.ended(&second);
    for (key, value) in [
        ("adapter", json!("exec")),
        ("cwd", json!(cwd)),
        ("name", json!("n1")),
        ("exitCode", json!(3)),
        ("run", json!(1)),
    ] {
        assert_eq!(record[key], value, "{record:#}");
    }
    assert_eq!(
        (&record["meta"]["rerunOf"], &record["meta"]["labels"]),
        (&json!(first), &json!({"team": "core"}))
    );
    assert!(
        record["timeoutAt"].is_string() && record["meta"]["hooks"]["on_complete"].is_object(),
        "{record:#}"
    );
    assert_eq!(daemon.stdout(&second), format!("sh now in {cwd}\n"));
    assert_eq!(daemon.status(&first)["meta"]["rerunOf"], json!(null));
    // Of its copy, and with other words.
    let other = daemon.path("other");
    std::fs::create_dir(&other).expect("a directory");
    let third = daemon.json(["rerun", &second, "--cwd", &other, "--name", "n3", "--timeout", "0", "--json"]);
    let id = third["id"].as_str().expect("an id");
    assert_eq!((&third["timeoutAt"], &third["name"]), (&json!(null), &json!("n3")), "{third:#}");
    assert_eq!(daemon.ended(id)["meta"]["rerunOf"], json!(second));
    assert_eq!(daemon.stdout(id), format!("sh in {other}\n"));
    let said = stdout(&daemon.run(["rerun", "n3", "--force"]));
    assert!(said.starts_with("Launched session ") && said.contains("(PID: "), "{said}");
}

#[test]
fn a_prompt_that_is_not_kept_whole_has_to_be_given_again() {
    let daemon = Daemon::new();
    let path = daemon.fake_agent("opencode", "cat; exit 0");
    let launch = |flags: &[&str]| {
        let record = daemon.json([&["launch", "opencode", "--json", "--env", &path], flags].concat());
        let id = record["id"].as_str().expect("an id").to_owned();
        daemon.ended(&id);
        id
    };
    let rerun =
        |id: &str, flags: &[&str]| daemon.run([&["rerun", id, "--force", "--env", &path], flags].concat());
    let short = launch(&["-p", "short and whole"]);
    assert!(rerun(&short, &["--name", "again"]).status.success());
    assert_eq!(daemon.status("again")["prompt"], "short and whole");
    let long = launch(&["-p", &"x".repeat(200)]);
    let private = launch(&["-p", "secret", "--private"]);
    for (id, why) in [(&long, "only 200 characters are kept"), (&private, "its prompt is not kept")] {
        let no = rerun(id, &[]);
        assert_eq!((no.status.code(), stdout(&no)), (Some(1), String::new()));
        let said = stderr(&no);
        assert!(said.contains(why) && said.contains(&format!("agentctl rerun {} -p", &id[..8])), "{said}");
    }
    assert!(rerun(&private, &["-p", "given again", "--name", "p2"]).status.success());
    let record = daemon.status("p2");
    assert_eq!(
        (&record["prompt"], &record["meta"]["rerunOf"]),
        (&json!(null), &json!(private)),
        "still private"
    );
    assert_eq!(daemon.code(&["rerun", "nobody"]), Some(1));
}

#[test]
fn what_has_ended_is_forgotten_by_age_or_only_named_and_what_is_owed_is_kept() {
    let mut receiver = Endpoint::start();
    let daemon = Daemon::builder().config("webhook_url", receiver.url()).start();
    let told = daemon.launch(&[], "exit 0");
    daemon.ended(&told);
    crate::support::openmetrics::nothing_owed(&daemon);
    receiver.stop();
    let owed = daemon.launch(&[], "exit 1");
    daemon.ended(&owed);
    for id in [&told, &owed] {
        daemon.until_status(id, "the tree to be gone", |record| record["leftovers"] == json!(0));
    }
    let count = || daemon.json(["list", "-a", "--json"]).as_array().map_or(0, Vec::len);
    assert_eq!(stdout(&daemon.run(["prune", "--older-than", "1h"])), "Pruned 0 dead/stale sessions\n");
    let dry = daemon.run(["prune", "--dry-run"]);
    assert_eq!(stdout(&dry), format!("Would prune 1 dead/stale sessions\n{told}\n"));
    assert!(stderr(&dry).starts_with("1 more have ended and are kept"), "{dry:?}");
    assert_eq!(count(), 2);
    let pruned = daemon.json(["prune", "--json"]);
    assert_eq!(pruned, json!({"pruned": 1, "kept": 1, "sessions": [told], "dryRun": false}));
    assert_eq!(count(), 1);
    receiver.resume();
    until("what is owed", || {
        daemon.run(["webhooks", "retry", "--failed"]);
        receiver.about(&owed).first().map(drop)
    });
    crate::support::openmetrics::nothing_owed(&daemon);
    assert_eq!(daemon.json(["prune", "--json"])["sessions"], json!([owed]));
}

#[test]
fn an_event_has_the_keys_of_the_earlier_tool_and_those_that_came_after() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "exit 4");
    daemon.ended(&id);
    let output = daemon.run(["events", "--json", "--since", "0", "--no-follow"]);
    let lines = stdout(&output);
    let last: Value = serde_json::from_str(lines.lines().last().expect("a line")).expect("JSON");
    for (key, value) in [
        ("type", json!("session.error")),
        ("adapter", json!("exec")),
        ("sessionId", json!(id)),
        ("run", json!(1)),
    ] {
        assert_eq!(last[key], value, "{last:#}");
    }
    assert!(last["timestamp"].is_string() && last["cursor"].is_string() && last["seq"].is_u64(), "{last:#}");
    assert_eq!((&last["session"]["id"], &last["session"]["status"]), (&json!(id), &json!("error")));
}
