//! Properties over arbitrary input, against the real thing: requests to a daemon's socket, and journals that are damaged
//! at random. The fuzz targets in `fuzz/` look at the same readers for longer.

use std::cell::Cell;
use std::fs;
use std::sync::OnceLock;

use agentctl::daemon::records_in;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::daemon::Daemon;

/// Few, since each is a conversation or a file; the same in every run.
fn cases(count: u32) -> TestRunner {
    let config = Config { cases: count, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(
        config,
        prop::test_runner::TestRng::deterministic_rng(prop::test_runner::RngAlgorithm::ChaCha),
    )
}

/// Bytes that are nearly requests.
fn nearly_a_request() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "G\0T", "", "post"]);
    let place = prop::sample::select(vec![
        "/v1/sessions",
        "/v1/sessions/abcd",
        "/v1/sessions/%ff/stop",
        "/v1/sessions/x/extend",
        "/v1/events?since=",
        "/v1/health",
        "/metrics",
        "/v1/sessions/../log",
        "*",
        "http://x/v1/health",
        "/v1/sessions/a/messages?n=",
    ]);
    let head = prop::sample::select(vec![
        "Content-Length: 5\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Idempotency-Key: \r\n",
        "Accept: text/event-stream\r\n",
        "Last-Event-ID: x-1\r\n",
        "X: \u{fffd}\r\n",
        "Expect: 100-continue\r\n",
        "",
    ]);
    let body = prop::sample::select(vec![
        "{}",
        "{\"adapter\":7}",
        "5\r\nhello\r\n0\r\n\r\n",
        "{\"byMs\":1e99}",
        "[[[[",
        "\0",
    ]);
    let noise = prop::collection::vec(any::<u8>(), 0..20);
    (method, place, head, body, noise, 0_usize..300).prop_map(|(method, place, head, body, noise, cut)| {
        let text = format!("{method} {place} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n{body}");
        let mut bytes = text.into_bytes();
        bytes.splice(cut.min(bytes.len())..cut.min(bytes.len()), noise);
        bytes
    })
}

#[test]
fn no_request_is_answered_by_a_fault_of_the_server_or_ends_the_daemon() {
    let daemon = Daemon::new();
    let checked = cases(300).run(&nearly_a_request(), |bytes| {
        let answer = daemon.raw(&bytes);
        let status =
            String::from_utf8_lossy(&answer).split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
        prop_assert!(status.is_none_or(|code| code < 500), "{:?}", String::from_utf8_lossy(&answer));
        Ok(())
    });
    checked.unwrap_or_else(|found| panic!("{found}\n{}", daemon.log()));
    daemon.is_well();
}

#[test]
fn a_journal_with_any_bytes_changed_is_read_or_refused_and_then_unchanged() {
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    let whole = WHOLE.get_or_init(|| fs::read("fuzz/corpus/journal/golden.db").expect("a journal"));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("journal.db");
    fs::write(&path, whole).expect("a journal");
    let all = records_in(&path).expect("it is whole");
    assert!(all > 5, "{all} records");
    let damage =
        (0..whole.len(), prop::collection::vec(any::<u8>(), 1..64), prop::option::of(0..whole.len()));
    let refused = Cell::new(0);
    let checked = cases(300).run(&damage, |(at, bytes, length)| {
        let mut damaged = whole.clone();
        let end = (at + bytes.len()).min(damaged.len());
        damaged[at..end].copy_from_slice(&bytes[..end - at]);
        damaged.truncate(length.filter(|length| *length > 0).unwrap_or(damaged.len()));
        for name in ["journal.db-wal", "journal.db-shm"] {
            let _not_there = fs::remove_file(dir.path().join(name));
        }
        fs::write(&path, &damaged).expect("a journal");
        if records_in(&path).is_err() {
            refused.set(refused.get() + 1);
            prop_assert!(fs::read(&path).expect("a journal") == damaged, "a refused journal was changed");
        }
        Ok(())
    });
    checked.unwrap_or_else(|found| panic!("{found}"));
    assert!(refused.get() > 100, "only {refused:?} of 300 were refused");
}
