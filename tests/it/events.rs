//! The event stream: replay and follow without a gap, filters, readers that are slow, places that are gone.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::play::{micros, stderr, stdout};
use crate::support::wait::until;

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}")))
        .collect()
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["seq"].as_u64().unwrap_or_else(|| panic!("{event}"))).collect()
}

impl Daemon {
    /// A session that ends at once; its id.
    fn short_session(&self) -> String {
        let id = self.launch(&[], "exit 0");
        self.ended(&id);
        id
    }

    /// What `events --no-follow` prints with these flags.
    #[track_caller]
    fn past(&self, flags: &[&str]) -> Vec<Value> {
        let output = self.run(["events", "--no-follow"].iter().chain(flags));
        assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
        lines(&stdout(&output))
    }

    /// Sockets that the daemon holds.
    fn sockets(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("our own child").flatten();
        let targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count()
    }

    /// Changes the journal behind the daemon's back, while none runs.
    fn change_journal(&self, sql: &str) {
        Connection::open(self.home().join("journal.db")).expect("a journal").execute_batch(sql).expect(sql);
    }
}

fn end(mut follower: Child) {
    follower.kill().expect("our own child");
    follower.wait().expect("our own child");
}

#[test]
fn filters_choose_by_type_adapter_session_and_group() {
    let daemon = Daemon::new();
    let plain = daemon.short_session();
    let body = json!({"adapter": "exec", "command": ["false"], "cwd": "/", "force": true, "group": "g-1"})
        .to_string();
    let (status, record) = daemon.http("POST", "/v1/sessions", "", &body);
    assert_eq!(status, 201, "{record}");
    let record: Value = serde_json::from_str(&record).expect("a record");
    let grouped = record["id"].as_str().expect("an id");
    daemon.ended(grouped);
    let types = |flags: &[&str]| -> Vec<String> {
        let events = daemon.past(flags);
        events.iter().map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
    };
    assert_eq!(types(&["--group", "g-1"]), ["session.started", "session.error"]);
    assert_eq!(types(&["--session", &plain[..8]]), ["session.started", "session.stopped"]);
    assert_eq!(types(&["--type", "stopped,session.error"]), ["session.stopped", "session.error"]);
    assert_eq!(types(&["--type", "error", "--session", &plain]), [""; 0]);
    assert_eq!(types(&["--adapter", "opencode"]), [""; 0]);
    assert_eq!(types(&["--adapter", "opencode", "--adapter", "exec"]).len(), 4);

    let unknown = daemon.run(["events", "--no-follow", "--type", "session.gone"]);
    assert_eq!((unknown.status.code(), stdout(&unknown)), (Some(1), String::new()));
    assert!(stderr(&unknown).contains("session.timeout"), "{unknown:?}");
    assert_eq!(daemon.http("GET", "/v1/events?session=nobody", "", "").0, 404);
    // The events of a session outlive it.
    daemon.run(["prune"]);
    assert_eq!(types(&["--session", &plain]).len(), 2);
}

#[test]
fn a_browser_goes_on_after_the_last_id_it_has_seen() {
    let daemon = Daemon::new();
    daemon.short_session();
    daemon.short_session();
    let sse = "Accept: text/event-stream\r\n";
    let (status, body) = daemon.http("GET", "/v1/events?since=0&follow=0", sse, "");
    assert_eq!(status, 200);
    // Where a stream begins is told before there is any event.
    let head = daemon.http_whole("GET", "/v1/events?follow=0", "", "").to_lowercase();
    let latest = daemon.events()[3]["cursor"].to_string();
    assert!(head.contains(&format!("agentctl-cursor: {}", latest.trim_matches('"'))), "{head}");
    let ids: Vec<_> = body.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    assert_eq!(ids.len(), 4, "{body}");
    assert_eq!(body.matches("\n\n").count(), 4, "each event ends with an empty line: {body}");
    let resumed = format!("{sse}Last-Event-ID: {}\r\n", ids[2]);
    // A browser repeats the address that it was given first.
    let (_, rest) = daemon.http("GET", "/v1/events?since=0&follow=0", &resumed, "");
    assert!(rest.contains(&format!("id: {}\n", ids[3])) && !rest.contains(ids[2]), "{rest}");
}

#[test]
fn a_follower_goes_on_over_restarts_of_the_daemon_without_a_gap() {
    let mut daemon = Daemon::new();
    daemon.short_session();
    let out = File::create(daemon.home().join("followed")).expect("a file");
    let mut follower = daemon.command(["events"]);
    let follower = follower.stdout(out).stderr(Stdio::inherit()).spawn().expect("it runs");
    let followed = |daemon: &Daemon| {
        let text = fs::read_to_string(daemon.home().join("followed")).unwrap_or_default();
        // The last line may be half written.
        lines(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    };
    until("the follower to follow", || {
        daemon.short_session();
        (!followed(&daemon).is_empty()).then_some(())
    });
    for how in [Daemon::kill, Daemon::terminate] {
        how(&mut daemon);
        daemon.start();
        let last = daemon.short_session();
        until("the follower to be back", || {
            let ended =
                |event: &Value| event["sessionId"] == json!(last) && event["type"] == "session.stopped";
            followed(&daemon).iter().any(ended).then_some(())
        });
    }
    end(follower);
    let (told, all) = (seqs(&followed(&daemon)), seqs(&daemon.events()));
    assert_eq!(told[..], all[all.len() - told.len()..], "from its start on, each once");
}

#[test]
fn a_reader_that_does_not_read_is_told_dropped_and_welcome_back() {
    let daemon = Daemon::new();
    // Each event carries the labels: a few hundred fill every buffer on the way.
    let labels: serde_json::Map<String, Value> =
        (0..60).map(|n| (format!("{n:0>190}"), json!("v".repeat(190)))).collect();
    let body = json!({"adapter": "exec", "command": ["true"], "cwd": "/", "force": true, "labels": labels})
        .to_string();
    for _ in 0..40 {
        assert_eq!(daemon.http("POST", "/v1/sessions", "", &body).0, 201);
    }
    until("all to end", || (daemon.json(["list", "--json"]) == json!([])).then_some(()));
    let all = daemon.events();
    let before = daemon.sockets();
    let mut deaf = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
    let mut late = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
    for reader in [&mut deaf, &mut late] {
        reader.write_all(b"GET /v1/events?since=0 HTTP/1.1\r\nHost: x\r\n\r\n").expect("a request");
    }
    let said = |count| {
        let said = daemon.log().matches("took nothing for 10 s and is dropped").count();
        (said == count).then_some(())
    };
    until("both to be given up", || said(2));
    daemon.is_well();

    // One reads at last: whole events, then what became of it.
    let mut got = String::new();
    late.read_to_string(&mut got).expect("the rest of it");
    let events: Vec<Value> = got
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let (last, events) = events.split_last().expect("a last line");
    assert_eq!(last["type"], "stream.dropped", "{last}");
    assert_eq!(seqs(events), (1..=events.len() as u64).collect::<Vec<_>>());
    assert!(events.len() < all.len(), "the buffers held everything: this test proves nothing");
    let cursor = last["cursor"].as_str().expect("a cursor");
    assert_eq!(events.last().expect("an event")["cursor"], json!(cursor));
    let rest = daemon.past(&["--since", cursor]);
    assert_eq!(seqs(&rest)[0], events.len() as u64 + 1);

    // The other one never reads, and its connection makes room for others.
    until("its connection to be closed", || (daemon.sockets() <= before).then_some(()));
    drop(deaf);
}

#[test]
fn what_is_not_kept_any_more_is_gone_and_not_passed_over() {
    let mut daemon = Daemon::new();
    daemon.short_session();
    daemon.short_session();
    let all = daemon.events();
    daemon.terminate();
    // The clock was set back between the two sessions: only what lies before everything that is kept is forgotten.
    daemon.change_journal("UPDATE event SET at_us = 0 WHERE seq IN (1, 2, 4)");
    daemon.start();
    daemon.run(["prune"]);
    assert_eq!(seqs(&daemon.events()), [3, 4]);
    let gone = all[0]["cursor"].as_str().expect("a cursor");
    let output = daemon.run(["events", "--since", gone]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    assert!(stderr(&output).contains("not kept any more"), "{output:?}");
    assert_eq!(daemon.http("GET", &format!("/v1/events?since={gone}"), "", "").0, 410);
    assert_eq!(seqs(&daemon.past(&["--since", all[1]["cursor"].as_str().expect("a cursor")])), [3, 4]);

    daemon.short_session();
    daemon.terminate();
    daemon.change_journal("UPDATE event SET at_us = 0");
    daemon.start();
    daemon.run(["prune"]);
    assert_eq!(daemon.past(&["--since", "0"]), [json!(null); 0], "nothing is kept, and that is no error");
    assert_eq!(daemon.http("GET", "/v1/events?since=4", "", "").0, 410);
    daemon.short_session();
    assert_eq!(seqs(&daemon.events()), [7, 8], "numbers are never used again");
}

#[test]
fn a_timeout_is_told_before_the_kill() {
    let daemon = Daemon::new();
    let id =
        daemon.launch(&["--timeout", "300ms"], "trap 'sleep 0.2; exit 3' TERM; while :; do sleep 0.05; done");
    let record = daemon.ended(&id);
    assert_eq!(record["outcome"], "timed_out", "{record:#}");
    assert_eq!(daemon.event_types(&id), ["session.started", "session.timeout", "session.error"]);
    let timeout = daemon.past(&["--session", &id, "--type", "timeout"]).remove(0);
    assert!(micros(&timeout["timestamp"]) < micros(&record["stoppedAt"]), "{timeout:#}");
    assert_eq!(timeout["session"]["status"], "running");
}
