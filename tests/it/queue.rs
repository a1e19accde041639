//! `--queue`: one at a time and in order, over restarts, kills and a lost journal; visible, and cancellable.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::{catch_unwind, resume_unwind};
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::openmetrics::Metrics;
use crate::support::play::{Gate, output_of, stderr, stdout};
use crate::support::wait::until;

impl Daemon {
    /// Launches with `--queue` in `dir`; the record.
    #[track_caller]
    fn queues(&self, dir: &Path, flags: &[&str], script: &str) -> Value {
        let dir = dir.to_str().expect("a text");
        let command = ["--", "sh", "-c", script];
        self.json([&["launch", "--json", "--queue", "--cwd", dir], flags, &command[..]].concat())
    }

    #[track_caller]
    fn holds(&self, dir: &Path, gate: &Gate) -> String {
        self.launch(&["--cwd", dir.to_str().expect("a text")], &gate.wait())
    }

    /// What is kept of launches that wait.
    fn parcels(&self) -> usize {
        fs::read_dir(self.home().join("queued")).expect("a directory").count()
    }

    fn phase(&self, id: &str) -> String {
        self.status(id)["phase"].as_str().expect("a phase").to_owned()
    }
}

fn id_of(record: &Value) -> String {
    record["id"].as_str().unwrap_or_else(|| panic!("no id in {record}")).to_owned()
}

#[test]
fn a_queued_launch_is_shown_waits_over_kills_and_begins_with_all_that_it_was_given() {
    let mut daemon = Daemon::new();
    let dir = daemon.fresh_dir();
    let gate = daemon.gate("gate");
    let holder = daemon.holds(&dir, &gate);
    let flags = ["--env", "MINE=yes", "--timeout", "1h", "--on-complete", "echo $MINE"];
    let record = daemon.queues(&dir, &flags, "echo $MINE; pwd; exit 3");
    let id = id_of(&record);
    let words = ["status", "phase", "timeoutAt", "pid"].map(|key| record[key].clone());
    assert_eq!(words, [json!("running"), json!("queued"), Value::Null, Value::Null]);
    let waits = format!("the directory is in use by session {}", &holder[..8]);
    assert_eq!(record["meta"]["queued"]["waitsFor"], json!(waits));
    assert_eq!(record["meta"]["queued"]["sessionId"], json!(holder));

    // In the table and with -a, and not in what programs take for what runs.
    let table = stdout(&daemon.run(["list"]));
    assert!(table.lines().any(|line| line.starts_with(&id[..8]) && line.contains("queued")), "{table}");
    let ids = |flags: &[&str]| {
        let list = daemon.json([&["list", "--json"], flags].concat());
        let mut ids: Vec<_> = list.as_array().expect("an array").iter().map(id_of).collect();
        ids.sort();
        ids
    };
    let mut both = vec![holder.clone(), id.clone()];
    both.sort();
    assert_eq!((ids(&[]), ids(&["-a"])), (vec![holder.clone()], both));
    let shown = stdout(&daemon.run(["status", &id]));
    assert!(shown.contains("running (queued)") && shown.contains(&waits), "{shown}");
    assert!(stdout(&daemon.run(["daemon", "status"])).contains("Queued sessions: 1"));
    assert_eq!(Metrics::scrape(&daemon).get("agentctl_sessions_queued"), 1.0);
    assert_eq!(daemon.event_types(&id), ["session.queued"]);
    let extend = daemon.run(["extend", &id, "2h"]);
    assert_eq!(extend.status.code(), Some(1));
    assert!(stderr(&extend).contains("is queued"), "{extend:?}");

    // Its environment is in a private file of its own, in no record, and survives the daemon.
    assert_eq!(daemon.parcels(), 1);
    daemon.kill();
    daemon.start();
    assert_eq!((daemon.phase(&id), daemon.parcels()), ("queued".into(), 1));
    gate.open();
    let ended = daemon.ended(&id);
    assert_eq!((&ended["outcome"], &ended["exitCode"]), (&json!("failed"), &json!(3)));
    assert!(ended["timeoutAt"].is_string(), "{ended}");
    assert!(ended["meta"].get("queued").is_none());
    let real = dir.canonicalize().expect("a real path");
    assert_eq!(daemon.stdout(&id), format!("yes\n{}\n", real.display()));
    until("what was kept to be gone", || (daemon.parcels() == 0).then_some(()));
    assert_eq!(daemon.event_types(&id), ["session.queued", "session.started", "session.error"]);
}

#[test]
fn a_queued_launch_is_cancelled_at_once_and_nothing_of_it_was_ever_started() {
    let mut daemon = Daemon::new();
    let dir = daemon.fresh_dir();
    let gate = daemon.gate("gate");
    let holder = daemon.holds(&dir, &gate);
    let ran = daemon.path("ran");
    let script = format!(": >{ran}");
    let first = id_of(&daemon.queues(&dir, &["--env", "MINE=yes", "--on-complete", "echo $MINE"], &script));
    let second = id_of(&daemon.queues(&dir, &[], "exit 5"));
    assert_eq!(stdout(&daemon.run(["stop", &first])), format!("Stopped session {}\n", &first[..8]));
    let record = daemon.status(&first);
    let words = ["status", "phase", "outcome", "reason", "exitStatus", "exitCode", "pid"];
    let expected = json!(["stopped", "ended", "cancelled", "stop_requested", 143, null, null]);
    assert_eq!(json!(words.map(|key| record[key].clone())), expected);
    assert_eq!(daemon.event_types(&first), ["session.queued", "session.stopped"]);
    let hook = until("its hook", || {
        let hook = daemon.status(&first)["meta"]["hooks"]["on_complete"].clone();
        (hook["state"] == json!("done")).then_some(hook)
    });
    assert_eq!(fs::read_to_string(hook["logPath"].as_str().expect("a path")).expect("its output"), "yes\n");
    assert_eq!(daemon.parcels(), 1, "that of the other");
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.phase(&holder), "running");
    gate.open();
    assert_eq!(daemon.ended(&second)["exitCode"], json!(5));
    assert!(!Path::new(&ran).exists());
}

#[test]
fn run_with_queue_waits_for_its_turn_and_exits_with_the_verdict() {
    let daemon = Daemon::new();
    let dir = daemon.fresh_dir();
    let gate = daemon.gate("gate");
    daemon.holds(&dir, &gate);
    let arguments =
        ["run", "--queue", "--cwd", dir.to_str().expect("a text"), "--", "sh", "-c", "echo it is; exit 4"];
    let child: Child = daemon
        .command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command line runs");
    until("it to wait", || (daemon.json(["list", "-a", "--json"]).as_array()?.len() == 2).then_some(()));
    gate.open();
    let output = output_of("run to end", child);
    assert_eq!((output.status.code(), stdout(&output)), (Some(4), "it is\n".to_owned()), "{output:?}");
    assert!(stderr(&output).contains("is queued: the directory is in use"), "{output:?}");
}

#[test]
fn nobody_overtakes_who_is_queued_and_a_lock_by_hand_is_waited_for_too() {
    let daemon = Daemon::new();
    let dir = daemon.fresh_dir();
    let path = dir.to_str().expect("a text");
    assert_eq!(daemon.code(&["lock", path, "--by", "alice", "--reason", "the release"]), Some(0));
    let gate = daemon.gate("gate");
    let first = id_of(&daemon.queues(&dir, &[], &gate.wait()));
    let waits = daemon.status(&first)["meta"]["queued"]["waitsFor"].clone();
    assert_eq!(waits, json!("the directory is locked by alice: the release"));
    let second = id_of(&daemon.queues(&dir, &[], "true"));
    assert_eq!(daemon.code(&["launch", "--queue", "--force", "--cwd", path, "--", "true"]), Some(2));
    assert_eq!(daemon.code(&["unlock", path]), Some(0));
    daemon.until_status(&first, "the first to begin", |record| record["phase"] == json!("running"));
    assert_eq!(daemon.phase(&second), "queued");
    assert_eq!(daemon.status(&second)["meta"]["queued"]["sessionId"], json!(first));
    gate.open();
    daemon.ended(&second);
}

#[test]
fn limits_of_concurrency_queue_in_the_same_way() {
    let daemon = Daemon::builder().config("adapter_max_sessions", json!({"exec": 1})).start();
    let gate = daemon.gate("gate");
    let running = daemon.launch(&[], &gate.wait());
    let refused = daemon.run(["launch", "--", "true"]);
    let why = "the daemon already supervises 1 sessions of exec, their limit; stop one first, wait with --queue, or raise adapter_max_sessions\n";
    assert_eq!((refused.status.code(), stderr(&refused).as_str()), (Some(1), why));
    let order = daemon.path("order");
    let ids: Vec<_> = (0..3)
        .map(|n| id_of(&daemon.queues(&daemon.fresh_dir(), &[], &format!("echo {n} >>{order}"))))
        .collect();
    let waits = daemon.status(&ids[2])["meta"]["queued"]["waitsFor"].clone();
    assert_eq!(waits, json!("1 sessions of exec run, the most that may (adapter_max_sessions)"));
    gate.open();
    daemon.ended(&running);
    for id in &ids {
        daemon.ended(id);
    }
    assert_eq!(fs::read_to_string(&order).expect("what they wrote"), "0\n1\n2\n");
    assert!(stdout(&daemon.run(["config", "show"])).contains("adapter_max_sessions  file     exec 1"));
}

#[test]
fn a_queued_launch_outlives_the_journal_and_strays_are_swept() {
    let mut daemon = Daemon::new();
    let dir = daemon.fresh_dir();
    let gate = daemon.gate("gate");
    let holder = daemon.holds(&dir, &gate);
    let order = daemon.path("order");
    let ids: Vec<_> =
        (0..4).map(|n| id_of(&daemon.queues(&dir, &[], &format!("echo {n} >>{order}")))).collect();
    daemon.kill();
    for end in ["", "-wal", "-shm"] {
        let _none = fs::remove_file(daemon.home().join(format!("journal.db{end}")));
    }
    let stray = daemon.home().join("queued/0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11.1.json");
    fs::write(&stray, "a launch that was never recorded").expect("a file");
    daemon.start();
    assert!(!stray.exists());
    assert_eq!((daemon.parcels(), daemon.phase(&ids[3])), (4, "queued".into()));
    gate.open();
    daemon.ended(&holder);
    for id in &ids {
        assert_eq!(daemon.ended(id)["outcome"], json!("completed"));
    }
    assert_eq!(fs::read_to_string(&order).expect("what they wrote"), "0\n1\n2\n3\n");
}

/// Sessions at each of which a daemon is held that recovers: more than a request has turns to take until what it needs is
/// kept.
const HELD_AT: usize = 12;

#[test]
fn a_request_that_comes_during_a_recovery_keeps_what_it_needs() {
    let mut daemon = Daemon::new();
    let dir = daemon.fresh_dir();
    let gate = daemon.gate("gate");
    let holder = daemon.holds(&dir, &gate);
    let mut others: Vec<_> = (0..HELD_AT).map(|_| daemon.launch(&[], "exec sleep 1000")).collect();
    others.sort();
    daemon.kill();
    // Opening one waits for whoever opens its other end.
    let held: Vec<_> = others
        .iter()
        .map(|id| {
            let file = daemon.file(id, "shim.1.json");
            fs::remove_file(&file).expect("its shim's file");
            let _gate = Gate::new(file.parent().expect("a directory"), "shim.1.json");
            file
        })
        .collect();
    let command = ["sh", "-c", "echo $MINE"];
    let body = json!({"adapter": "exec", "command": command, "cwd": dir, "queue": true, "env": {"MINE": "yes", "PATH": "/usr/bin:/bin"}});
    let (socket, parcels) = (daemon.socket(), daemon.home().join("queued"));
    let record = thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut client = until("a daemon that listens", || UnixStream::connect(&socket).ok());
            send(&mut client, "", &body.to_string()).expect("a request");
            let (last, first) = held.split_last().expect("some");
            let open = |file| fs::File::options().write(true).open(file).expect("our own fifo");
            first.iter().for_each(|file| drop(open(file)));
            let kept = || fs::read_dir(&parcels).ok().is_some_and(|mut kept| kept.next().is_some());
            let waited = catch_unwind(|| until("what it needs to be kept", || kept().then_some(())));
            // Whatever came of it: nobody is to wait for ever.
            drop(open(last));
            waited.unwrap_or_else(|panic| resume_unwind(panic));
            answer_of(client).expect("an answer")
        });
        daemon.start();
        asked.join().expect("a client")
    });
    assert_eq!((record.0, &record.1["phase"]), (201, &json!("queued")), "{}", record.1);
    assert_eq!(daemon.parcels(), 1);
    gate.open();
    daemon.ended(&holder);
    let id = id_of(&record.1);
    assert_eq!(daemon.ended(&id)["outcome"], json!("completed"), "{:#}", daemon.status(&id));
    assert_eq!(daemon.stdout(&id), "yes\n");
}

#[test]
fn of_what_is_refused_nothing_is_kept_whether_the_client_stays_or_not() {
    let daemon = Daemon::new();
    let body = |queue: bool| {
        json!({"adapter": "exec", "command": ["true"], "cwd": daemon.fresh_dir(), "queue": queue}).to_string()
    };
    let headers = "Idempotency-Key: one\r\n";
    assert_eq!(daemon.http("POST", "/v1/sessions", headers, &body(false)).0, 201);
    for _ in 0..20 {
        let body = body(true);
        assert_eq!(daemon.http("POST", "/v1/sessions", headers, &body).0, 422);
        let mut left = UnixStream::connect(daemon.socket()).expect("a daemon");
        let length = body.len();
        let head = "POST /v1/sessions HTTP/1.1\r\nHost: x\r\n";
        write!(left, "{head}{headers}Content-Length: {length}\r\n\r\n{body}").expect("a request");
    }
    daemon.is_well();
    until("nothing to be kept", || (daemon.parcels() == 0).then_some(()));
}

/// The launches at once.
const CROWD: usize = 500;
const CLIENTS: usize = 20;

/// Each session proves by itself that it is alone: it makes a file that must not be there, and takes it away at its end.
#[test]
fn five_hundred_launches_for_one_directory_run_one_at_a_time_in_order_and_none_is_lost_across_kills() {
    let mut daemon = Daemon::new();
    let dir = daemon.fresh_dir().canonicalize().expect("a real path");
    let script = "set -C; true 2>/dev/null >alone || { echo $AGENTCTL_SESSION_ID >>../broken; exit 9; }; \
                  echo $AGENTCTL_SESSION_ID >>../order; rm alone";
    let body = json!({"adapter": "exec", "command": ["/bin/sh", "-c", script], "cwd": dir, "queue": true})
        .to_string();
    let answered = std::sync::atomic::AtomicUsize::new(0);
    let socket = daemon.socket();
    let ask = |key: usize| loop {
        let headers = format!("Content-Type: application/json\r\nIdempotency-Key: crowd-{key}\r\n");
        match http_at(&socket, &headers, &body) {
            Some((201, record)) => return record["id"].as_str().expect("an id").to_owned(),
            // Away, or still reading its records.
            None | Some((503, _)) => thread::sleep(std::time::Duration::from_millis(20)),
            Some((status, problem)) => panic!("{status}: {problem}"),
        }
    };
    let mut kills = 0;
    let ids: Vec<String> = thread::scope(|scope| {
        let (ask, answered) = (&ask, &answered);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || {
                    let mine = (client..CROWD).step_by(CLIENTS);
                    mine.map(|key| {
                        let id = ask(key);
                        answered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        id
                    })
                    .collect::<Vec<_>>()
                })
            })
            .collect();
        // Killed again and again while they come, and while they go.
        while answered.load(std::sync::atomic::Ordering::Relaxed) < CROWD {
            let before = answered.load(std::sync::atomic::Ordering::Relaxed);
            until("some to be answered", || {
                let now = answered.load(std::sync::atomic::Ordering::Relaxed);
                (now >= CROWD || now > before + CROWD / 10).then_some(())
            });
            daemon.kill();
            daemon.start();
            kills += 1;
        }
        clients.into_iter().flat_map(|client| client.join().expect("a client")).collect()
    });
    assert_eq!(ids.len(), CROWD);
    let order = dir.parent().expect("a parent").join("order");
    let lines = || fs::read_to_string(&order).unwrap_or_default().lines().count();
    let mut seen = 0;
    while lines() < CROWD {
        until("more of them", || (lines() >= CROWD || lines() > seen + CROWD / 5).then_some(()));
        seen = lines();
        daemon.kill();
        daemon.start();
        kills += 1;
    }
    assert!(kills > 5, "{kills} kills");
    assert!(!order.with_file_name("broken").exists(), "two were there at once");
    for id in &ids {
        let record = daemon.ended(id);
        let words = (&record["outcome"], &record["exitCode"]);
        assert_eq!(words, (&json!("completed"), &json!(0)), "{record:#}");
    }
    // In the order in which they were recorded: those that waited by their events, and each exactly once.
    let ran: Vec<String> =
        fs::read_to_string(&order).expect("their words").lines().map(str::to_owned).collect();
    let mut sorted = ran.clone();
    sorted.sort();
    let mut all = ids.clone();
    all.sort();
    assert_eq!(sorted, all, "each of them once");
    let events = daemon.events();
    let queued: Vec<&str> = events
        .iter()
        .filter(|event| event["type"] == "session.queued")
        .filter_map(|event| event["sessionId"].as_str())
        .collect();
    let waited: std::collections::HashSet<&str> = queued.iter().copied().collect();
    let ran: Vec<&str> = ran.iter().map(String::as_str).filter(|id| waited.contains(id)).collect();
    assert_eq!(ran, queued, "first in, first out");
    assert!(queued.len() > CROWD / 2, "{} waited", queued.len());
}

/// One launch by hand; none where the daemon is away.
fn http_at(socket: &Path, headers: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = UnixStream::connect(socket).ok()?;
    send(&mut stream, headers, body).ok()?;
    answer_of(stream)
}

fn send(stream: &mut UnixStream, headers: &str, body: &str) -> io::Result<()> {
    let request = format!(
        "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())
}

fn answer_of(mut stream: UnixStream) -> Option<(u16, Value)> {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, serde_json::from_str(body).ok()?))
}
