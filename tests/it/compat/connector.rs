//! OrgLoop's connector `agent-ctl` against our `list --json`, through the whole life of sessions and whatever is wrong
//! with the stores of agents on this host.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use agentctl::sys::clock;
use rusqlite::Connection;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::orgloop::Poller;
use crate::support::outside::Outside;
use crate::support::wait::until;

impl Daemon {
    /// As the connector runs it: under the earlier name, for so long at most.
    fn polled(&self, poller: &mut Poller) -> Vec<(String, &'static str)> {
        let begun = clock::now().mono;
        let mut command = Command::new(env!("CARGO_BIN_EXE_agent-ctl"));
        command.args(["list", "--json"]).env_remove("AGENTCTL_SESSION_ID").env_remove("AGENTCTL_SOCKET");
        let output = command.env("AGENTCTL_HOME", self.home()).output().expect("it runs");
        assert!(clock::now().mono.since(begun) < Poller::PATIENCE);
        poller.poll(&output)
    }
}

#[test]
fn each_session_starts_once_and_stops_once_whatever_becomes_of_the_daemon() {
    let mut daemon = Daemon::new();
    let mut poller = Poller::default();
    let none: Vec<(String, &str)> = Vec::new();
    assert_eq!(daemon.polled(&mut poller), none);
    let (gate_1, gate_2) = (daemon.gate("gate1"), daemon.gate("gate2"));
    let one = daemon.launch(&["--cwd", "/tmp", "--callback-session", "k"], &gate_1.wait());
    let two = daemon.launch(&["--cwd", "/usr"], &format!("{}; exit 3", gate_2.wait()));
    let mut started = daemon.polled(&mut poller);
    started.sort();
    let mut both = vec![(one.clone(), "started"), (two.clone(), "started")];
    both.sort();
    assert_eq!(started, both);
    assert_eq!(daemon.polled(&mut poller), none);
    daemon.kill();
    // Nobody answers: the command starts a daemon, since it must not say that there are no sessions.
    assert_eq!(daemon.polled(&mut poller), none);
    daemon.is_anothers();
    gate_2.open();
    daemon.ended(&two);
    assert_eq!(daemon.polled(&mut poller), [(two, "stopped")]);
    assert_eq!(daemon.polled(&mut poller), none);
    daemon.run(["stop", &one]);
    assert_eq!(daemon.polled(&mut poller), [(one, "stopped")]);
    assert_eq!(daemon.polled(&mut poller), none);
}

/// A daemon that answers with this body, to one request.
fn answering(socket: &Path, body: String) -> thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("a socket");
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut seen = Vec::new();
        let mut byte = [0];
        while !seen.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).expect("a request");
            seen.push(byte[0]);
        }
        let version = env!("CARGO_PKG_VERSION");
        let length = body.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nServer: agentctl/{version}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).expect("a reader");
    })
}

#[test]
fn a_thousand_live_sessions_are_no_more_than_the_connector_reads() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&["--cwd", "/tmp"], &gate.wait());
    let mut record = daemon.status(&id);
    record["prompt"] = json!("p".repeat(200));
    record["cwd"] = json!(format!("/home/somebody/{}", "work/".repeat(10)));
    record["model"] = json!("anthropic/claude-opus-4-6");
    let records: Vec<Value> = (0..1_000)
        .map(|number| {
            let mut record = record.clone();
            record["id"] = json!(format!("00000000-0000-4000-8000-{number:012}"));
            record
        })
        .collect();
    let socket = daemon.home().join("other.sock");
    let served = answering(&socket, json!(records).to_string());
    let mut command = daemon.command(["list", "--json"]);
    let output = command.env("AGENTCTL_SOCKET", &socket).output().expect("it runs");
    served.join().expect("it has answered");
    let told = Poller::default().poll(&output);
    assert_eq!(told.len(), 1_000);
    assert!(told.iter().all(|(_, word)| *word == "started"));
}

/// The sooner of some tries, on a machine that may be busy.
#[track_caller]
fn within_a_second(what: &str, list: impl Fn() -> Output) -> Output {
    until(what, || {
        let begun = clock::now().mono;
        let output = list();
        assert!(clock::now().mono.since(begun) < Poller::PATIENCE, "{what}");
        (clock::now().mono.since(begun) < Duration::from_secs(1)).then_some(output)
    })
}

#[test]
fn a_store_that_is_huge_locked_or_mute_holds_up_no_listing() {
    let outside = Outside::new();
    let gate = outside.daemon.gate("gate");
    let id = outside.daemon.launch(&["--cwd", "/tmp"], &gate.wait());
    let claude = outside.start("claude", &[], "", "");
    let opencode = outside.start("opencode", &[], "", "");
    let list = |what: &str| {
        let output = within_a_second(what, || outside.daemon.run(["list", "--json"]));
        let told = Poller::default().poll(&output);
        assert!(told.contains(&(id.clone(), "started")), "{what}: {told:?}");
        let table = within_a_second(what, || outside.daemon.run(["list"]));
        assert_eq!(table.status.code(), Some(0), "{what}: {table:?}");
        within_a_second(what, || outside.daemon.run(["status", &id, "--json"]));
    };
    let db = outside.store(".local/share/opencode/opencode.db", "");
    fs::remove_file(&db).expect("a file");
    mknodat(CWD, &db, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a fifo");
    list("a pipe in place of a database");
    fs::remove_file(&db).expect("a fifo");
    let locked = Connection::open(&db).expect("a database");
    locked
        .execute_batch("CREATE TABLE session (id); PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE")
        .expect("a lock");
    list("a database that somebody has locked");
    let huge = outside.home.join(".claude/projects/-huge");
    fs::create_dir_all(&huge).expect("a store");
    for number in 0..100_000 {
        File::create(huge.join(format!("{number}.jsonl"))).expect("a file");
    }
    list("a store of a hundred thousand files");
    claude.is_alive();
    opencode.is_alive();
}
