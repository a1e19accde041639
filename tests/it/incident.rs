//! The incident that this program exists to end, replayed: two agents work for long, while every place where one
//! could look for them is empty, broken, or does not answer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentctl::sys::clock;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::openmetrics::nothing_owed;
use crate::support::orgloop;
use crate::support::play::until_later;
use crate::support::wait::until;

const SECRET: &str = "not told to anybody";

/// Between the two launches, as it was.
const APART: Duration = Duration::from_secs(8);

/// An agent that works until its gate opens, writes down when it ended, and whose every listing fails the first time
/// and never answers again. Its first line says that it has begun; it keeps no store.
const AGENT: &str = r#"
    home=@HOME@
    if [ "$1" != run ]; then
        echo "$*" >>"$home/listings"
        [ -e "$home/failed" ] && exec sleep 1000
        : >"$home/failed"
        echo "Error: database is locked" >&2
        exit 1
    fi
    read -r name
    echo '{"type":"step_start","sessionID":"ses_'$name'","part":{}}'
    read -r _ <"$home/$name"
    [ "$name" = first ] && echo '{"type":"step_finish","sessionID":"ses_first","part":{"reason":"stop"}}'
    date +%s%6N >"$home/$name.stamp"
    [ "$name" = first ] && exit 0
    exit 22
"#;

/// A store whose every part misleads who reads it: a database that never opens, a listing that is no JSON, a directory
/// of sessions that holds none.
fn hide_stores(home: &Path) {
    let store = home.join(".local/share/opencode");
    fs::create_dir_all(store.join("storage/session/global")).expect("a store");
    fs::write(store.join("storage/session/index.json"), "{").expect("a broken listing");
    mknodat(CWD, store.join("opencode.db"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a fifo");
}

#[test]
fn two_agents_that_no_listing_shows_run_to_their_own_ends() {
    let endpoint = Endpoint::start();
    let mut daemon =
        Daemon::builder().config("webhook_url", endpoint.url()).config("webhook_secret", SECRET).start();
    let path = daemon.fake_agent("opencode", &AGENT.replace("@HOME@", &daemon.path("")));
    hide_stores(daemon.home());
    let launch = |daemon: &Daemon, name: &str| {
        let home = format!("HOME={}", daemon.path(""));
        let flags = ["launch", "opencode", "--json", "-p", name, "--env", &path, "--env", &home];
        let id = daemon.json(flags)["id"].as_str().expect("an id").to_owned();
        until("the agent to begin", || daemon.stdout(&id).contains("step_start").then_some(()));
        id
    };
    let (gate_1, gate_2) = (daemon.gate("first"), daemon.gate("second"));

    let begun = clock::now().mono;
    let first = launch(&daemon, "first");
    daemon.both_live(&[&first]);
    until_later(begun, APART);
    let second = launch(&daemon, "second");
    daemon.both_live(&[&first, &second]);
    daemon.terminate();
    daemon.start();
    daemon.both_live(&[&first, &second]);
    daemon.kill();
    daemon.start();
    daemon.both_live(&[&first, &second]);
    assert!(endpoint.received().is_empty(), "nobody was told of an end");

    gate_2.open();
    daemon.ended_at_its_own_time(&second, "second", 22);
    daemon.both_live(&[&first]);
    gate_1.open();
    daemon.ended_at_its_own_time(&first, "first", 0);
    for (id, told, code) in [(&first, ("stopped", "success"), 0), (&second, ("error", "failure"), 22)] {
        daemon.ended_once(id);
        let requests = endpoint.wait_about(id, 1);
        assert_eq!(
            (orgloop::read(&requests[0], Some(SECRET)).1, &requests[0].json()["exit_status"]),
            (told.1, &json!(code))
        );
    }
    nothing_owed(&daemon);
    assert_eq!(endpoint.received().len(), 2, "each end was told once");
    assert!(!daemon.home().join("listings").exists(), "no verdict asked an agent for its listing");
}
