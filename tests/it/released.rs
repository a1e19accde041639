//! Homes as released versions left them, recorded once (`tests/fixtures/home/record`) and read for ever: journal, files
//! of shims, webhooks that are owed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::wait::until;

const HOMES: &str = "tests/fixtures/home";
const EARLIER_BOOT: &str = "11111111-2222-4333-8444-555555555555";

/// Copies what was recorded, with this home and machine in the place of those.
fn lay_out(from: &Path, to: &Path, words: &[(&str, &str)]) {
    for entry in fs::read_dir(from).expect("a recorded home").flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            fs::create_dir_all(&target).expect("a directory");
            lay_out(&path, &target, words);
            continue;
        }
        let mut text = fs::read_to_string(&path).expect("a recorded file");
        for (word, real) in words {
            text = text.replace(word, real);
        }
        if path.file_name().is_some_and(|name| name == "journal.sql") {
            let journal = Connection::open(to.join("journal.db")).expect("a new file");
            journal.execute_batch(&text).expect("the recorded journal");
        } else {
            fs::write(&target, text).expect("a file");
        }
    }
}

/// A daemon in such a home, after a reboot of the machine.
fn daemon_in(recorded: &Path, endpoint: &Endpoint) -> Daemon {
    let mut daemon = Daemon::builder()
        .config("webhook_url", endpoint.url())
        .config("webhook_secret", "a plain secret")
        .config("retention_days", 36_500)
        .start();
    daemon.terminate();
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        let _absent = fs::remove_file(daemon.home().join(name));
    }
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let home = daemon.home().to_str().expect("a text").to_owned();
    let words = [("@HOME@", home.as_str()), ("@MACHINE@", machine.trim()), ("@BOOT@", EARLIER_BOOT)];
    lay_out(recorded, daemon.home(), &words);
    daemon.start();
    daemon
}

#[test]
fn a_home_of_every_released_version_is_understood() {
    let recorded = fs::read_dir(HOMES).expect("recorded homes").flatten();
    let recorded: Vec<_> = recorded.map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    assert!(!recorded.is_empty());
    for home in recorded {
        let version = home.display();
        let endpoint = Endpoint::start();
        let daemon = daemon_in(&home, &endpoint);
        let verdicts = until("all verdicts", || {
            let listed = daemon.json(["list", "-a", "--json"]);
            let verdicts: BTreeMap<String, Value> = listed
                .as_array()
                .expect("a list")
                .iter()
                .map(|record| {
                    let verdict =
                        json!([record["outcome"], record["exitCode"], record["signal"], record["reason"]]);
                    (record["name"].as_str().expect("a name").to_owned(), verdict)
                })
                .collect();
            verdicts.values().all(|verdict| !verdict[0].is_null()).then_some(verdicts)
        });
        let expected = [
            ("cancelled", json!(["cancelled", null, "SIGTERM", "stop_requested"])),
            ("completed", json!(["completed", 0, null, "exit_code_0"])),
            ("failed", json!(["failed", 42, null, "exit_code_42"])),
            ("killed", json!(["failed", null, "SIGKILL", "sigkill"])),
            ("not-found", json!(["launch_failed", null, null, "program_not_found"])),
            // It ran when the machine went down.
            ("running", json!(["lost", null, null, "host_rebooted"])),
            ("timed-out", json!(["timed_out", null, "SIGTERM", "deadline"])),
            // Its shim had published the end, and no daemon had come to read it.
            ("untold", json!(["failed", 7, null, "exit_code_7"])),
        ];
        let expected: BTreeMap<_, _> = expected.map(|(name, verdict)| (name.to_owned(), verdict)).into();
        assert_eq!(verdicts, expected, "{version}: {}", daemon.log());
        let completed = daemon.status("completed");
        assert_eq!((&completed["meta"]["labels"]["team"], &completed["run"]), (&json!("core"), &json!(1)));
        let out = daemon.run(["logs", "completed"]);
        assert!(String::from_utf8_lossy(&out.stdout).contains("out"), "{version}: {out:?}");
        for record in daemon.json(["list", "-a", "--json"]).as_array().expect("a list") {
            let id = record["id"].as_str().expect("an id");
            daemon.ended_once(id);
            assert!(record["meta"]["rebuilt"].is_null(), "{version}: the journal knew it: {record:#}");
        }
        // Each is owed one, also those that were told in vain by the other version.
        let told = endpoint.wait_for(verdicts.len());
        let sessions: std::collections::BTreeSet<_> =
            told.iter().map(|request| request.json()["session_id"].to_string()).collect();
        assert_eq!(sessions.len(), verdicts.len(), "{version}");
    }
}
