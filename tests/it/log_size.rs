//! `log_max` as users see it: the disk is spared, the end is there, what is gone is told, outcomes stay what they are.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};

use agentctl::sys::log_files::{first_data, prove_holes};
use serde_json::json;

use crate::support::daemon::{Builder, Daemon};
use crate::support::play::{stderr, stdout};
use crate::support::wait::until;

/// The least that may be configured.
const KEPT: u64 = 64_000_000;
/// Lines of 100 bytes: three times that much.
const MANY: u64 = 2_000_000;
/// And half as much again.
const LINES: u64 = 1_000_000;

/// Numbered lines of 100 bytes.
fn numbers(from: u64, to: u64) -> String {
    format!("seq -f %099.0f {from} {to}")
}

fn number_of(line: &str) -> u64 {
    assert_eq!(line.len(), 99, "a whole line: {line}");
    line.parse().unwrap_or_else(|_| panic!("a number: {line}"))
}

fn keeping_little() -> Builder {
    Daemon::builder().config("log_max", "64MB")
}

/// `None`: the file system makes no holes, so there is nothing to test.
fn start() -> Option<Daemon> {
    let daemon = keeping_little().start();
    prove_holes(daemon.home()).ok().map(|()| daemon)
}

impl Daemon {
    /// What a session's log takes on the disk.
    fn on_disk(&self, id: &str) -> u64 {
        fs::metadata(self.file(id, "stdout.log")).map_or(0, |found| found.blocks() * 512)
    }

    /// The head of the answer to a GET.
    #[track_caller]
    fn head_of(&self, path: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("a daemon that listens");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("more of the head");
            head.push(byte[0]);
        }
        String::from_utf8(head).expect("a head is text")
    }

    /// Waits until the log has this length and was cut.
    #[track_caller]
    fn cut_at(&self, id: &str, length: u64) {
        until("a log that is cut", || {
            let found = fs::metadata(self.file(id, "stdout.log")).ok()?;
            (found.len() == length && self.on_disk(id) <= KEPT + KEPT / 8).then_some(())
        });
    }
}

/// The lines of a log as it was read: whole ones, one after the other, up to `last`.
#[track_caller]
fn assert_end_of(read: &Output, last: u64) -> u64 {
    let text = stdout(read);
    let mut expected = None;
    for line in text.lines() {
        let number = number_of(line);
        assert_eq!(number, expected.unwrap_or(number));
        expected = Some(number + 1);
    }
    assert_eq!(expected, Some(last + 1));
    text.len() as u64
}

#[test]
fn a_log_that_grows_without_end_is_cut_and_readers_are_told() {
    let Some(daemon) = start() else { return };
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; {}; exit 0", numbers(1, MANY), gate.wait()));
    daemon.cut_at(&id, 100 * MANY);
    assert_eq!(daemon.status(&id)["status"], "running");
    let read = daemon.run(["logs", "--raw", &id]);
    assert!(assert_end_of(&read, MANY) >= KEPT / 4 * 3);
    let told = stderr(&read);
    assert!(
        told.contains("agentctl: the first 1") && told.contains("MB of the log are not kept any more"),
        "{told}"
    );
    for verb in ["logs", "peek"] {
        let read = daemon.run([verb, &id, "-n", "3"]);
        assert_eq!(stdout(&read).lines().map(number_of).collect::<Vec<_>>(), [MANY - 2, MANY - 1, MANY]);
        assert!(stderr(&read).contains("are not kept any more"), "{read:?}");
    }
    let head = first_data(File::open(daemon.file(&id, "stdout.log")).expect("a log"), 0).expect("told");
    let line = head.expect("some data").div_ceil(100) * 100;
    let head = daemon.head_of(&format!("/v1/sessions/{id}/log?from=7"));
    for header in ["agentctl-log-from", "agentctl-log-dropped"] {
        assert!(head.contains(&format!("\r\n{header}: {line}\r\n")), "{head}");
    }
    // Its other log has lost nothing, and nothing is said.
    assert_eq!(stderr(&daemon.run(["logs", "--stderr", &id])), "");
    gate.open();
    assert_eq!(daemon.ended(&id)["outcome"], "completed");
    assert_end_of(&daemon.run(["logs", "--raw", &id]), MANY);
    // The next run of the same daemon is a small one; its log is whole.
    let small = daemon.run(["run", "--", "seq", "1", "3"]);
    assert!(stdout(&small) == "1\n2\n3\n" && !stderr(&small).contains("log_max"), "{small:?}");
}

#[test]
fn a_reader_that_falls_behind_goes_on_at_what_is_kept_and_is_told() {
    let Some(daemon) = start() else { return };
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; {}", numbers(1, LINES), gate.wait()));
    let mut follower = daemon
        .command(["logs", "-f", "--raw", &id])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command line runs");
    // It reads nothing of ours until the log is cut, so it is stuck near the beginning.
    let mut out = follower.stdout.take().expect("a pipe");
    let mut first = [0; 100];
    out.read_exact(&mut first).expect("a line");
    daemon.cut_at(&id, 100 * LINES);
    gate.open();
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("text");
    let output = follower.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let told = stderr(&output);
    assert!(
        told.contains("were dropped before they were read") || told.contains("are not kept any more"),
        "{told}"
    );
    let lines: Vec<&str> = rest.lines().rev().take(300_000).collect();
    for (line, number) in lines.iter().zip((1..=LINES).rev()) {
        assert_eq!(number_of(line), number);
    }
    assert!(!rest.contains('\0'));
}

/// Says much that is not its own format, then how it went.
fn opencode(wait: &str, last: &str) -> String {
    format!(
        "echo '{{\"type\":\"step_start\",\"sessionID\":\"ses_1\",\"part\":{{}}}}'\n\
         {wait}\n{}\n\
         echo '{{\"type\":\"text\",\"sessionID\":\"ses_1\",\"part\":{{\"text\":\"all done\"}}}}'\n{last}",
        numbers(1, LINES)
    )
}

const STOP: &str = r#"echo '{"type":"step_finish","sessionID":"ses_1","part":{"reason":"stop","cost":0.5,"tokens":{"input":100,"output":10,"reasoning":0,"cache":{"read":0,"write":0}}}}'"#;

#[test]
fn an_agent_whose_log_was_cut_is_judged_by_its_own_last_words() {
    for (last, outcome, reason) in [(STOP, "completed", "exit_code_0"), ("true", "failed", "no_agent_report")]
    {
        let Some(mut daemon) = start() else { return };
        let gate = daemon.gate("gate");
        let path = daemon.fake_agent("opencode", &opencode(&gate.wait(), last));
        let output = daemon.run(["launch", "opencode", "-p", "x", "--json", "--env", &path]);
        let record: serde_json::Value = serde_json::from_slice(&output.stdout).expect("a record");
        let id = record["id"].as_str().expect("an id").to_owned();
        // Nobody but the shim is there while it writes, and its head is gone when somebody reads it.
        daemon.kill();
        gate.open();
        until("a log that is cut", || {
            let whole =
                fs::metadata(daemon.file(&id, "stdout.log")).is_ok_and(|found| found.len() > 100 * LINES);
            (whole && daemon.on_disk(&id) <= KEPT + KEPT / 8).then_some(())
        });
        daemon.start();
        let record = daemon.ended(&id);
        let told = ["outcome", "reason", "nativeId"].map(|key| record[key].clone());
        assert_eq!(told, [json!(outcome), json!(reason), json!("ses_1")], "{record:#}");
        let read = daemon.run(["peek", &id]);
        assert_eq!(stdout(&read), "all done\n");
        assert!(stderr(&read).contains("are not kept any more"), "{read:?}");
        daemon.ended_once(&id);
    }
}

#[test]
fn where_no_holes_are_made_logs_are_whole_and_it_is_said() {
    for (lacking, found, whole) in
        [("holes", "not kept to 64.0 MB", true), ("dir_notify", "only once a run is over", false)]
    {
        let daemon = keeping_little().env("AGENTCTL_SYS_WITHOUT", lacking).start();
        if prove_holes(daemon.home()).is_err() {
            return;
        }
        let check = daemon.finding("logs").expect("a finding");
        assert!(
            check["state"] == "note" && check["found"].as_str().is_some_and(|text| text.contains(found)),
            "{check}"
        );
        assert_eq!(daemon.log().matches("logs are not kept to log_max").count(), usize::from(whole));
        let id = daemon.launch(&[], &numbers(1, LINES));
        assert_eq!(daemon.ended(&id)["outcome"], "completed");
        if whole {
            let read = daemon.run(["logs", "--raw", &id]);
            assert_eq!((assert_end_of(&read, LINES), stderr(&read)), (100 * LINES, String::new()));
        } else {
            daemon.cut_at(&id, 100 * LINES);
        }
    }
}

#[test]
fn what_counts_against_disk_max_is_on_the_disk_also_after_a_restart() {
    let little = keeping_little().config("disk_max", "150MB").start();
    if prove_holes(little.home()).is_err() {
        return;
    }
    let mut daemon = little;
    let settled = |daemon: &Daemon, id: &str| {
        daemon.until_status(id, "the tree to be gone", |record| {
            let evidence = record["evidence"].as_array().cloned().unwrap_or_default();
            evidence.iter().any(|entry| entry["prong"] == "tree_gone")
        })
    };
    // By their lengths the two are too much, by what is left of the second they are not.
    let first = daemon.launch(&[], &numbers(1, 600_000));
    settled(&daemon, &first);
    let second = daemon.launch(&[], &numbers(1, LINES));
    settled(&daemon, &second);
    let kept = |daemon: &Daemon| daemon.json(["list", "-a", "--json"]).as_array().map_or(0, Vec::len);
    daemon.is_well();
    assert_eq!(kept(&daemon), 3, "{}", daemon.log());
    daemon.kill();
    daemon.start();
    // A daemon that had not measured them again would not know that they are too much now.
    let config = json!({"metrics_addr": null, "durability": "normal", "disk_max": "60MB"});
    fs::write(daemon.home().join("config.json"), config.to_string()).expect("a configuration");
    assert_eq!(daemon.code(&["daemon", "reload"]), Some(0));
    until("the oldest to be forgotten", || (kept(&daemon) < 3).then_some(()));
}
