//! Long listings: sent in pieces while they are rendered, whole all the same, and none of anybody else's waiting.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::fake_llm::read_chunks;
use crate::support::play::stdout;
use crate::support::wait::until;

/// Sessions with a record of some 13 kB each: more together than all buffers on the way to a reader hold.
const MANY: usize = 120;

/// A daemon with that many that have ended, and their ids, the newest first.
fn with_many() -> (Daemon, Vec<Value>) {
    let daemon = Daemon::new();
    let meta: serde_json::Map<String, Value> =
        (0..60).map(|number| (format!("key{number}"), json!("x".repeat(200)))).collect();
    let body = json!({"adapter": "exec", "command": ["true"], "cwd": "/", "force": true, "meta": meta});
    let body = body.to_string();
    let mut ids: Vec<Value> = (0..MANY)
        .map(|_| {
            let (status, record) = daemon.http("POST", "/v1/sessions", "", &body);
            assert_eq!(status, 201, "{record}");
            serde_json::from_str::<Value>(&record).expect("a record")["id"].clone()
        })
        .collect();
    until("all to have ended, and their trees", || {
        let list = daemon.json(["list", "-a", "--json"]);
        let over = |record: &Value| record["phase"] == "ended" && record["leftovers"] == json!(0);
        list.as_array().expect("an array").iter().all(over).then_some(())
    });
    ids.reverse();
    (daemon, ids)
}

fn ids(list: &Value) -> Vec<Value> {
    list.as_array().expect("an array").iter().map(|record| record["id"].clone()).collect()
}

#[test]
fn a_long_listing_is_whole_and_one_that_is_read_slowly_keeps_nobody_waiting() {
    let (daemon, newest_first) = with_many();
    let listed = daemon.run(["list", "-a", "--json"]);
    assert!(listed.status.success() && listed.stdout.len() > 1 << 20, "{} bytes", listed.stdout.len());
    let list: Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!(ids(&list), newest_first);
    assert_eq!(list[7], daemon.status(newest_first[7].as_str().expect("an id")));
    let table = stdout(&daemon.run(["list", "-a"]));
    assert_eq!(table.lines().count(), 2 + MANY, "{table}");

    // A reader that asks and then does not read.
    let mut slow = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
    slow.write_all(b"GET /v1/sessions?all=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("asked");
    let mut answer = vec![0; 1_000];
    slow.read_exact(&mut answer).expect("the beginning of an answer");
    daemon.is_well();
    // What is forgotten before its turn comes is left out; what was sent stays sent.
    let pruned = daemon.json(["prune", "--json"]);
    assert!(pruned["pruned"].as_u64() >= Some(MANY as u64), "{pruned}");
    slow.read_to_end(&mut answer).expect("the rest");
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let list = read_chunks(&mut &answer[body..]).expect("an answer to its end");
    let listed = ids(&serde_json::from_slice(&list).expect("JSON"));
    assert_eq!(listed, newest_first[..listed.len()], "a beginning of what was asked for");
    assert!((1..MANY).contains(&listed.len()), "{}", listed.len());
}
