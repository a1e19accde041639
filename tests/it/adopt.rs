//! Adoption: what somebody else started is supervised from then on, and its end is told like any other.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use agentctl::sys::{ProcessRef, clock};
use agentctl::wire::found::id_of_conversation;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::openmetrics::nothing_owed;
use crate::support::outside::{Agent, Outside, is_late};
use crate::support::patience::in_order;
use crate::support::play::{goes_on, program, stderr, stdout, until_gone, written_pid};
use crate::support::wait::until;

impl Outside {
    /// Adopts it by its number; the id.
    #[track_caller]
    fn adopt(&self, agent: &Agent, flags: &[&str]) -> String {
        let pid = agent.pid().to_string();
        let record = self.daemon.json(["adopt", &pid, "--json"].iter().chain(flags));
        assert_eq!(
            (&record["origin"], &record["pid"]),
            (&json!("adopted"), &json!(agent.pid())),
            "{record:#}"
        );
        record["id"].as_str().expect("an id").to_owned()
    }
}

const STOP: u8 = 19;
const CONT: u8 = 18;

/// The prongs of a record.
fn prongs(record: &Value) -> Vec<&str> {
    let evidence = record["evidence"].as_array().expect("a list");
    evidence.iter().map(|entry| entry["prong"].as_str().expect("a word")).collect()
}

#[track_caller]
fn ended_as(record: &Value, outcome: &str, reason: &str, code: &Value, number: u8) {
    let found = [&record["outcome"], &record["reason"], &record["exitCode"], &record["exitStatus"]];
    assert_eq!(found, [&json!(outcome), &json!(reason), code, &json!(number)], "{record:#}");
}

#[test]
fn an_adopted_agent_is_a_session_with_an_exit_code_an_event_and_a_webhook() {
    let endpoint = Endpoint::start();
    let outside = Outside::with(|daemon| daemon.config("webhook_url", endpoint.url()));
    let mut agent =
        outside.start("claude", &["--resume", "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11"], "", "exit 42");
    let shown = outside.shown(&agent);
    let id = shown["id"].as_str().expect("an id").to_owned();
    assert_eq!(id, id_of_conversation("claude-code", "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11").to_string());
    let output = until("a look that is over in time", || {
        let output = outside.daemon.run(["adopt", &id[..8], "--name", "mine", "--label", "team=a"]);
        Some(output).filter(|output| !is_late(&stderr(output)))
    });
    let expected = format!("Adopted session {} (claude-code, PID {})\n", &id[..8], agent.pid());
    assert_eq!((stdout(&output), stderr(&output)), (expected, String::new()));

    let record = outside.daemon.status(&id);
    for (key, value) in json!({
        "id": id, "origin": "adopted", "adapter": "claude-code", "status": "running", "phase": "running",
        "pid": agent.pid(), "cwd": outside.cwd, "nativeId": "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11",
        "name": "mine", "logPath": null, "timeoutAt": null, "meta": {"labels": {"team": "a"}},
        "startedAt": shown["startedAt"],
    })
    .as_object()
    .expect("an object")
    {
        assert_eq!(&record[key], value, "{key}: {record:#}");
    }
    let listed = outside.daemon.json(["list", "--json"]);
    let mine: Vec<_> =
        listed.as_array().expect("an array").iter().filter(|it| it["pid"] == agent.pid()).collect();
    assert_eq!(mine.len(), 1, "it is listed once: {listed:#}");
    for (command, why) in [
        (&["logs", "-f", &id][..], "it was adopted, and what it prints goes where it was started"),
        (&["peek", &id], "its conversation is in no store of claude-code that is known here"),
    ] {
        let output = outside.daemon.run(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}");
        assert!(stderr(&output).contains(why), "{output:?}");
    }
    let again = outside.daemon.json(["adopt", &agent.pid().to_string(), "--json"]);
    assert_eq!(again["id"], json!(id), "asked again, it is the same");

    agent.end();
    let record = outside.daemon.ended(&id);
    ended_as(&record, "failed", "exit_code_42", &json!(42), 42);
    assert_eq!(prongs(&record)[..2], ["pidfd", "proc_stat"], "nobody has reaped it");
    assert_eq!(record["meta"]["stoppedAtNote"], "no later than");
    agent.reap();
    assert_eq!(outside.daemon.event_types(&id), ["session.started", "session.error"]);
    let body = endpoint.wait_about(&id, 1)[0].json();
    assert_eq!(
        [&body["exit_status"], &body["meta"]["exit_known"], &body["transcript_path"], &body["adapter"]],
        [&json!(42), &json!(true), &Value::Null, &json!("claude-code")]
    );
    let record =
        outside.daemon.until_status(&id, "its tree to be given up", |it| it["leftovers"] == "unknown");
    assert!(record["meta"]["unverified"].as_str().is_some_and(|why| why.contains("adopted")), "{record:#}");
    // What still owes a webhook is kept.
    nothing_owed(&outside.daemon);
    assert_eq!(outside.daemon.code(&["prune"]), Some(0));
    assert_eq!(outside.daemon.code(&["status", &id]), Some(1));
}

#[test]
fn a_reaped_process_shows_its_status_or_is_lost_and_never_a_success() {
    let (told, endpoint) = (Outside::new(), Endpoint::start());
    let untold = Outside::with(|daemon| {
        daemon.config("webhook_url", endpoint.url()).env("AGENTCTL_SYS_WITHOUT", "info_exit")
    });
    let reaped_unseen = |outside: &Outside| {
        let mut agent = outside.start("claude", &[], "", "exit 0");
        let id = outside.adopt(&agent, &[]);
        let daemon = ProcessRef::of_child(outside.daemon.pid()).expect("our own child");
        // Held, it cannot look at the zombie.
        daemon.signal(STOP).expect("a signal");
        agent.end();
        agent.reap();
        daemon.signal(CONT).expect("a signal");
        let record = outside.daemon.ended(&id);
        outside.daemon.ended_once(&id);
        (id, record)
    };
    let (_, record) = reaped_unseen(&told);
    ended_as(&record, "completed", "exit_code_0", &json!(0), 0);
    assert_eq!(prongs(&record)[..2], ["pidfd", "pidfd_info"]);

    let (id, record) = reaped_unseen(&untold);
    ended_as(&record, "lost", "status_unknown", &Value::Null, 125);
    let body = endpoint.wait_about(&id, 1)[0].json();
    assert_eq!([&body["exit_status"], &body["meta"]["exit_known"]], [&json!(125), &json!(false)]);
}

#[test]
fn a_daemon_that_was_killed_holds_it_again() {
    let mut outside = Outside::new();
    let mut agent = outside.start("claude", &[], "", "exit 7");
    let id = outside.adopt(&agent, &[]);
    outside.daemon.kill();
    outside.daemon.start();
    assert_eq!(outside.daemon.status(&id)["phase"], "running");
    agent.end();
    ended_as(&outside.daemon.ended(&id), "failed", "exit_code_7", &json!(7), 7);
    agent.reap();
    outside.daemon.ended_once(&id);
}

#[test]
fn an_end_while_no_daemon_ran_is_told_as_far_as_it_can_be() {
    let mut outside = Outside::new();
    let mut zombie = outside.start("claude", &[], "", "exit 7");
    let mut reaped = outside.start("codex", &[], "", "exit 0");
    let ids = [outside.adopt(&zombie, &[]), outside.adopt(&reaped, &[])];
    outside.daemon.kill();
    zombie.end();
    reaped.end();
    reaped.reap();
    outside.daemon.start();
    ended_as(&outside.daemon.ended(&ids[0]), "failed", "exit_code_7", &json!(7), 7);
    ended_as(&outside.daemon.ended(&ids[1]), "lost", "status_unknown", &Value::Null, 125);
    zombie.reap();
    for id in &ids {
        outside.daemon.ended_once(id);
    }
}

#[test]
fn a_lost_journal_does_not_lose_it() {
    let mut outside = Outside::new();
    let mut agent = outside.start("claude", &[], "", "exit 7");
    let id = outside.adopt(&agent, &["--name", "mine"]);
    outside.daemon.kill();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _not_there = fs::remove_file(outside.daemon.home().join(name));
    }
    outside.daemon.start();
    let record = outside.daemon.status(&id);
    let found = [&record["origin"], &record["name"], &record["phase"]];
    assert_eq!(found, [&json!("adopted"), &json!("mine"), &json!("running")], "{record:#}");
    agent.end();
    ended_as(&outside.daemon.ended(&id), "failed", "exit_code_7", &json!(7), 7);
}

#[test]
fn a_stop_ends_it_and_what_descends_from_it_and_says_what_it_cannot_tell() {
    let outside = Outside::new();
    let (deaf, far) = (outside.daemon.path("deaf"), outside.daemon.path("far"));
    // A leader that hears no TERM, and one that left its session and hears none either.
    let before = format!(
        "trap '' TERM\nsetsid sh -c 'trap \"\" TERM; echo $$ >{far}; while :; do sleep 60; done' &\necho $$ >{deaf}"
    );
    let mut agent = outside.start("claude", &[], &before, "");
    let far = ProcessRef::of_child(written_pid(&far)).expect("it runs");
    let id = outside.adopt(&agent, &["--grace", "100ms"]);
    let stopped = outside.daemon.json(["stop", &id, "--json"]);
    ended_as(&stopped[0], "cancelled", "stop_requested", &Value::Null, 137);
    assert_eq!([&stopped[0]["signal"], &stopped[0]["leftovers"]], [&json!("SIGKILL"), &json!("unknown")]);
    until_gone(&far);
    agent.reap();
    outside.daemon.ended_once(&id);

    // TERM is enough for most.
    let mut agent = outside.start("codex", &[], "", "");
    let id = outside.adopt(&agent, &["--timeout", "1s"]);
    let record = outside.daemon.ended(&id);
    ended_as(&record, "timed_out", "deadline", &Value::Null, 124);
    assert_eq!(record["signal"], "SIGTERM");
    agent.reap();
}

#[test]
fn a_stop_that_a_crash_interrupted_goes_on() {
    let mut outside = Outside::new();
    in_order(Duration::from_millis(300), |grace| {
        let mut agent = outside.start("claude", &[], "trap '' TERM", "");
        let id = outside.adopt(&agent, &["--grace", &format!("{}ms", grace.as_millis())]);
        let asked = clock::now().mono;
        let mut stop = outside.daemon.command(["stop", &id]);
        let mut stop = stop.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        outside.daemon.until_stopping(&id);
        outside.daemon.kill();
        let interrupted = goes_on(&agent.process, asked, grace);
        outside.daemon.start();
        ended_as(&outside.daemon.ended(&id), "cancelled", "stop_requested", &Value::Null, 137);
        agent.reap();
        until("the stop to be answered", || stop.try_wait().expect("our own child"));
        interrupted
    });
}

#[test]
fn what_must_not_be_adopted_is_refused_in_words() {
    let outside = Outside::new();
    let gate = outside.daemon.gate("gate");
    let session = outside.daemon.launch(&[], &gate.wait());
    let leader = outside.daemon.leader(&session).pid();
    let says = |target: &str, words: &str| {
        let output = outside.daemon.run(["adopt", target]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{target}");
        assert!(stderr(&output).contains(words), "{target}: {}", stderr(&output));
    };
    says("1", "it is everybody's");
    says("0", "it is everybody's");
    says(&outside.daemon.pid().to_string(), "is the daemon itself");
    says(&std::process::id().to_string(), "the daemon descends from it");
    says(&leader.to_string(), &format!("belongs to session {}", &session[..8]));
    says(&outside.daemon.shim(&session).pid().to_string(), &format!("belongs to session {}", &session[..8]));
    says(&session[..8], "is, or was, session");
    says("4194305", "there is no process 4194305 of yours");
    says("no-such-id", "no agent that was started outside has the id no-such-id");
    if rustix::process::geteuid().is_root() {
        let mut command = outside.command("/bin/sleep");
        let mut theirs = command.arg("60").uid(65_534).current_dir("/").spawn().expect("it runs");
        let pid = theirs.id();
        until("another user's process", || {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
            status.contains("Uid:\t65534").then_some(())
        });
        says(&pid.to_string(), "of yours");
        theirs.kill().expect("our own child");
        theirs.wait().expect("our own child");
    }
    let mut zombie = outside.start("claude", &[], "", "");
    zombie.end();
    says(&zombie.pid().to_string(), "has ended");
    let (status, _) = outside.daemon.http("POST", "/v1/sessions/1/adopt", "", "{\"nam\": 1}");
    assert_eq!(status, 400);
    gate.open();
    outside.daemon.ended(&session);
}

#[test]
fn any_process_of_ours_can_be_adopted_by_its_number() {
    let outside = Outside::with(|daemon| daemon.backend("epoll").config("discover", false));
    let mut agent = outside.start("make", &["all", "SECRET=x"], "", "exit 2");
    let id = outside.adopt(&agent, &["--group", "builds"]);
    let record = outside.daemon.status(&id);
    assert_eq!([&record["adapter"], &record["group"]], [&json!("exec"), &json!("builds")]);
    assert!(!record.to_string().contains("SECRET"), "arguments can hold secrets: {record:#}");
    agent.end();
    ended_as(&outside.daemon.ended(&id), "failed", "exit_code_2", &json!(2), 2);
    agent.reap();
    assert!(!journal(&outside.daemon).contains("SECRET"));
    // One that no listing shows, since an old session's mark is on it, is known by its command line.
    let (native, pid) = ("0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c13", outside.daemon.path("pid"));
    let gate = outside.daemon.gate("marked");
    let path = outside.home.join("claude");
    program(&path, &format!("#!/bin/sh\necho $$ >{pid}\n{}\n", gate.wait()));
    let mut marked = outside.command("/bin/sh");
    marked.arg(&path).args(["--resume", native]).env("AGENTCTL_SESSION_ID", native);
    let mut marked = marked.spawn().expect("it runs");
    let record = outside.daemon.json(["adopt", &written_pid(&pid).to_string(), "--json"]);
    assert_eq!(
        [&record["adapter"], &record["nativeId"]],
        [&json!("claude-code"), &json!(native)],
        "{record:#}"
    );
    gate.open();
    outside.daemon.ended(record["id"].as_str().expect("an id"));
    marked.wait().expect("our own child");
}

fn journal(daemon: &Daemon) -> String {
    let files =
        ["journal.db", "journal.db-wal"].map(|name| fs::read(daemon.home().join(name)).unwrap_or_default());
    String::from_utf8_lossy(&files.concat()).into_owned()
}

#[test]
fn a_conversation_that_was_a_session_before_can_be_adopted_again() {
    let outside = Outside::new();
    let native = ["--resume", "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c12"];
    let mut first = outside.start("claude", &native, "", "exit 0");
    let id = outside.adopt(&first, &[]);
    first.end();
    outside.daemon.ended(&id);
    first.reap();
    let second = outside.start("claude", &native, "", "exit 0");
    let other = outside.adopt(&second, &[]);
    assert_ne!(id, other);
    assert_eq!(outside.daemon.status(&id)["outcome"], "completed");
}

#[test]
fn its_conversation_is_gone_on_with_as_a_run_of_our_own() {
    const THREAD: &str = "01a20287-ab6b-7fa1-8031-1521fdc9368d";
    let outside = Outside::new();
    let mut agent = outside.start("codex", &["exec", "resume", THREAD], "", "exit 0");
    let id = outside.adopt(&agent, &[]);
    let resume = || outside.daemon.run_at(&outside.home, &["resume", &id, "and now the lints", "--json"]);
    assert!(stderr(&resume()).contains("is still running"), "{:?}", resume());
    agent.end();
    outside.daemon.ended(&id);
    agent.reap();
    let asked = outside.home.join("asked");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >{}\ncat >/dev/null\necho '{}'\necho '{}'\n",
        asked.display(),
        json!({"type": "item.completed", "item": {"type": "agent_message", "text": "done"}}),
        json!({"type": "turn.completed", "usage": {"input_tokens": 1, "output_tokens": 1}}),
    );
    program(&outside.home.join("codex"), &script);
    let resumed = resume();
    assert_eq!(resumed.status.code(), Some(0), "{resumed:?}");
    let record = outside.daemon.ended(&id);
    ended_as(&record, "completed", "exit_code_0", &json!(0), 0);
    assert_eq!([&record["run"], &record["origin"]], [&json!(2), &json!("adopted")]);
    assert!(prongs(&record).contains(&"exit_file"), "this run has a shim: {record:#}");
    // How the user had let it work is not known: it asks, as it would.
    assert_eq!(fs::read_to_string(&asked).expect("it ran"), format!("exec resume --json {THREAD} -\n"));
    assert_eq!(outside.daemon.json(["peek", &id, "--json"]), json!(["done"]));
    assert_eq!(outside.daemon.code(&["peek", &id, "--run", "1"]), Some(1));
}

#[test]
fn every_backend_sees_its_end() {
    for backend in ["uring", "epoll", "portable"] {
        let mut outside = Outside::with(|daemon| daemon.backend(backend));
        let mut agent = outside.start("claude", &[], "", "exit 9");
        let id = outside.adopt(&agent, &[]);
        outside.daemon.kill();
        outside.daemon.start();
        agent.end();
        ended_as(&outside.daemon.ended(&id), "failed", "exit_code_9", &json!(9), 9);
        agent.reap();
        outside.daemon.ended_once(&id);
    }
}
