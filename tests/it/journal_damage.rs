//! The journal missing, cut, overwritten, foreign, newer, older or read-only: never a silent fresh start over a damaged
//! one, and never a session, a verdict or a webhook too many or too few when it is made anew.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::daemon::{Daemon, refusal};
use crate::support::endpoint::Endpoint;
use crate::support::namespace::{in_own_mounts, read_only};
use crate::support::play::{stderr, stdout, until_gone};
use crate::support::wait::until;

/// A daemon that is down, with a session that lives and one that has ended; the whole journal is in one file.
struct Lost {
    daemon: Daemon,
    live: String,
    ended: String,
}

impl Lost {
    fn new() -> Self {
        let mut daemon = Daemon::new();
        let ended = daemon.launch(&[], "exit 4");
        daemon.ended(&ended);
        daemon.archived(&ended);
        let live = daemon.launch(&["--name", "survivor"], "exec sleep 1000");
        daemon.kill();
        daemon.journal_in_one_file();
        Self { daemon, live, ended }
    }

    fn journal(&self) -> PathBuf {
        self.daemon.journal()
    }

    /// The daemon refuses, says `expected`, and leaves everything as it is. Its own way out then works.
    #[track_caller]
    fn refused_with(mut self, expected: &str) {
        let before = files(self.daemon.home());
        let said = refusal(self.daemon.home());
        let path = self.journal().display().to_string();
        for word in [expected, path.as_str(), "nothing was changed"] {
            assert!(said.contains(word), "{word} is not in: {said}");
        }
        assert_eq!(files(self.daemon.home()), before, "{said}");
        let command = said.split("start again: ").nth(1).and_then(|rest| rest.split(" (").next());
        let command = command.unwrap_or_else(|| panic!("no way out in: {said}"));
        let done = Command::new("sh").args(["-c", command]).output().expect("a shell");
        assert!(done.status.success(), "{command}: {done:?}");
        self.daemon.start();
        self.is_rebuilt();
    }

    /// Both sessions are there again, as what they are.
    #[track_caller]
    fn is_rebuilt(&self) {
        let live = self.daemon.status(&self.live);
        assert_eq!((&live["status"], &live["name"]), (&json!("running"), &json!("survivor")), "{live:#}");
        // Its records are durable a moment after the daemon answers; until then nothing is told of its end.
        let ended = self.daemon.ended(&self.ended);
        assert_eq!((&ended["outcome"], &ended["exitCode"]), (&json!("failed"), &json!(4)), "{ended:#}");
        for record in [&live, &ended] {
            assert!(!record["meta"]["rebuilt"].is_null(), "{record:#}");
        }
        let leader = self.daemon.leader(&self.live);
        assert_eq!(self.daemon.code(&["stop", &self.live]), Some(0));
        until_gone(&leader);
        assert_eq!(self.daemon.status(&self.live)["outcome"], "cancelled");
    }
}

impl Daemon {
    fn journal(&self) -> PathBuf {
        self.home().join("journal.db")
    }

    /// Takes the write-ahead log into the file, as a clean end does.
    #[track_caller]
    fn journal_in_one_file(&self) {
        let db = Connection::open(self.journal()).expect("a journal");
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("a checkpoint");
    }

    fn remove_journal(&self) {
        for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
            let _not_there = fs::remove_file(self.home().join(name));
        }
    }

    /// Waits until the verdict of a session is beside its logs.
    #[track_caller]
    fn archived(&self, id: &str) -> Value {
        let verdict = until("the verdict file", || fs::read(self.file(id, "verdict.1.json")).ok());
        until("the exit file beside it", || fs::metadata(self.file(id, "exit.1.json")).ok());
        serde_json::from_slice(&verdict).expect("JSON")
    }

    fn epoch(&self) -> String {
        let health = self.json(["daemon", "status", "--json"]);
        health["epoch"].as_str().expect("an epoch").to_owned()
    }
}

/// The content of all files of the journal, and the names in the home.
fn files(home: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(home).expect("a home").flatten();
    let names = entries.map(|entry| entry.file_name().into_string().expect("a text"));
    // The index of the write-ahead log is made by whoever reads it, and holds nothing.
    let names = names.filter(|name| name != "journal.db-shm" && name != "test.log" && name != "daemon.lock");
    names
        .map(|name| {
            let content = if name.starts_with("journal.db") {
                fs::read(home.join(&name)).unwrap_or_default()
            } else {
                Vec::new()
            };
            (name, content)
        })
        .filter(|(name, content)| name != "journal.db-wal" || !content.is_empty())
        .collect()
}

#[test]
fn a_journal_that_is_no_database_is_refused_and_left_alone() {
    let lost = Lost::new();
    fs::write(lost.journal(), vec![b'x'; 50_000]).expect("damage");
    lost.refused_with("file is not a database");
}

#[test]
fn a_journal_of_zeros_is_refused_and_left_alone() {
    let lost = Lost::new();
    let length = fs::metadata(lost.journal()).expect("a journal").len();
    fs::write(lost.journal(), vec![0; usize::try_from(length).expect("small")]).expect("damage");
    lost.refused_with("is damaged");
}

#[test]
fn a_truncated_journal_is_refused_and_left_alone() {
    for keep in [0.6, 0.02] {
        let lost = Lost::new();
        let file = fs::File::options().write(true).open(lost.journal()).expect("a journal");
        let length = file.metadata().expect("a journal").len();
        file.set_len((length as f64 * keep) as u64).expect("damage");
        lost.refused_with("is damaged");
    }
}

#[test]
fn a_corrupted_page_is_found_before_anything_is_written() {
    let lost = Lost::new();
    let mut bytes = fs::read(lost.journal()).expect("a journal");
    let pages = bytes.len() / 4096;
    assert!(pages > 4, "{pages} pages");
    // Not the first page, which every reader looks at.
    bytes[4096 * 2..4096 * 3].iter_mut().enumerate().for_each(|(at, byte)| *byte = (at * 7) as u8);
    fs::write(lost.journal(), bytes).expect("damage");
    lost.refused_with("is damaged");
}

#[test]
fn damage_below_a_write_ahead_log_leaves_the_log_as_it_was() {
    let mut daemon = Daemon::new();
    daemon.is_well();
    daemon.kill();
    daemon.journal_in_one_file();
    daemon.start();
    daemon.is_well();
    daemon.kill();
    let mut bytes = fs::read(daemon.journal()).expect("a journal");
    let (first, last) = (4096 * 5, bytes.len());
    bytes[first..last].fill(0x55);
    fs::write(daemon.journal(), &bytes).expect("damage");
    let before = files(daemon.home());
    assert!(before["journal.db-wal"].len() > 4096, "there is a log: {:?}", before.keys());
    let said = refusal(daemon.home());
    assert!(said.contains("is damaged"), "{said}");
    assert_eq!(files(daemon.home()), before);
    daemon.remove_journal();
    daemon.start();
    assert_eq!(daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len), Some(2));
}

#[test]
fn a_journal_of_a_newer_version_is_refused_and_left_alone() {
    let lost = Lost::new();
    let db = Connection::open(lost.journal()).expect("a journal");
    db.pragma_update(None, "user_version", 99).expect("a version");
    drop(db);
    lost.refused_with("is of version 99, and this agentctl knows versions up to 1");
}

#[test]
fn a_record_of_a_newer_version_is_refused_and_left_alone() {
    let lost = Lost::new();
    let db = Connection::open(lost.journal()).expect("a journal");
    db.execute("UPDATE record SET body = '{\"t\":\"from_the_future\"}' WHERE n = 2", []).expect("a record");
    drop(db);
    lost.refused_with("record 2: unknown variant `from_the_future`");
}

#[test]
fn a_database_of_somebody_else_is_refused_and_left_alone() {
    let lost = Lost::new();
    fs::remove_file(lost.journal()).expect("a journal");
    let db = Connection::open(lost.journal()).expect("a database");
    db.execute_batch("CREATE TABLE mine (x)").expect("a table");
    drop(db);
    lost.refused_with("is a database, but not a journal of agentctl");
}

#[test]
fn a_journal_that_cannot_be_opened_is_refused_and_left_alone() {
    let lost = Lost::new();
    fs::remove_file(lost.journal()).expect("a journal");
    // Root opens every file, but no directory as one.
    fs::create_dir(lost.journal()).expect("a directory");
    fs::write(lost.journal().join("inside"), "").expect("a file");
    lost.refused_with("unable to open database file");
}

#[test]
fn a_read_only_journal_is_refused_and_left_alone() {
    if !in_own_mounts("journal_damage::a_read_only_journal_is_refused_and_left_alone") {
        return;
    }
    let mut lost = Lost::new();
    let mounted = read_only(&lost.journal());
    let before = files(lost.daemon.home());
    let said = refusal(lost.daemon.home());
    assert!(said.contains("can only be read, not written; nothing was changed"), "{said}");
    assert_eq!(files(lost.daemon.home()), before);
    drop(mounted);
    lost.daemon.start();
    assert_eq!(lost.daemon.status(&lost.live)["status"], "running");
    assert!(
        lost.daemon.status(&lost.live)["meta"]["rebuilt"].is_null(),
        "the journal was sound all the time"
    );
}

#[test]
fn an_empty_journal_beside_sessions_is_a_missing_one() {
    let mut lost = Lost::new();
    fs::write(lost.journal(), "").expect("an empty file");
    lost.daemon.start();
    assert!(lost.daemon.log().contains("was missing; a new one was made"), "{}", lost.daemon.log());
    lost.is_rebuilt();
}

#[test]
fn the_write_ahead_log_of_a_journal_that_was_moved_without_it_is_kept() {
    let mut daemon = Daemon::new();
    let live = daemon.launch(&[], "exec sleep 1000");
    daemon.kill();
    let log = fs::read(daemon.home().join("journal.db-wal")).expect("a log");
    assert!(!log.is_empty());
    fs::remove_file(daemon.journal()).expect("a journal");
    daemon.start();
    assert_eq!(daemon.status(&live)["status"], "running");
    assert_eq!(fs::read(daemon.home().join("journal.db-wal.aside")).expect("the log"), log);
}

#[test]
fn what_was_forgotten_does_not_come_back_where_the_daemon_stops_right_after() {
    let mut daemon = Daemon::new();
    let ids: Vec<String> = (0..60).map(|_| daemon.launch(&["--force"], "exit 0")).collect();
    ids.iter().for_each(|id| drop(daemon.ended(id)));
    until("all to be forgotten", || {
        daemon.run(["prune"]);
        daemon.json(["list", "-a", "--json"]).as_array().expect("a list").is_empty().then_some(())
    });
    daemon.terminate();
    daemon.start();
    assert_eq!(daemon.json(["list", "-a", "--json"]), json!([]));
    assert!(!daemon.log().contains("were rebuilt"), "{}", daemon.log());
    until("nothing to be left", || {
        let left = |dir: &str| {
            let entries = fs::read_dir(daemon.home().join(dir)).expect("a directory").flatten();
            let names = entries.map(|entry| entry.file_name().into_string().expect("a text"));
            names.filter(|name| ids.iter().any(|id| name.contains(id.as_str()))).count()
        };
        (left("sessions") + left("exits") == 0).then_some(())
    });
}

#[test]
fn what_was_forgotten_does_not_come_back_where_its_files_could_not_be_removed() {
    let mut daemon = Daemon::new();
    let id = daemon.launch(&[], "exit 0");
    daemon.ended(&id);
    let dir = daemon.home().join("sessions").join(&id);
    // Where it is moved to before it is deleted.
    let in_the_way = daemon.home().join(format!("sessions/.forgotten-{id}"));
    fs::create_dir_all(in_the_way.join("full")).expect("a directory");
    until("it to be forgotten", || {
        daemon.run(["prune"]);
        daemon.json(["list", "-a", "--json"]).as_array().expect("a list").is_empty().then_some(())
    });
    until("the try", || daemon.log().contains(&format!("remove {}", dir.display())).then_some(()));
    daemon.kill();
    // As a crash right after the commit leaves it, too.
    let exit = daemon.run_files(&id).exit_path();
    fs::write(&exit, "{}").expect("a file");
    assert!(dir.exists());
    daemon.start();
    assert_eq!(daemon.json(["list", "-a", "--json"]), json!([]));
    assert!(!daemon.log().contains("were rebuilt"), "{}", daemon.log());
    until("its files to be gone", || {
        [&dir, &in_the_way, &exit].iter().all(|path| !path.exists()).then_some(())
    });
    let db = Connection::open(daemon.home().join("journal.db")).expect("the journal");
    until("no note to be left", || {
        let count = "SELECT count(*) FROM record WHERE session LIKE 'forgotten%'";
        (db.query_row(count, [], |row| row.get::<_, u32>(0)).expect("records") == 0).then_some(())
    });
}

#[test]
fn without_a_journal_sessions_are_rebuilt_and_nothing_is_told_twice() {
    let endpoint = Endpoint::start();
    let mut daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    let done = daemon.launch(&["--name", "done", "--label", "k=v"], "echo out; exit 3");
    daemon.ended(&done);
    let settled = |record: &Value| record["evidence"].to_string().contains("tree_gone");
    let verdict = daemon.until_status(&done, "the end of its tree", settled);
    endpoint.wait_about(&done, 1);
    let filed = daemon.archived(&done);
    for key in ["status", "outcome", "exitCode", "reason", "stoppedAt"] {
        assert_eq!(filed[key], verdict[key], "the verdict file says what is told: {filed:#}");
    }
    let (gate, later) = (daemon.gate("gate"), daemon.gate("later"));
    let down = daemon.launch(&["--name", "down"], &format!("{}; exit 5", gate.wait()));
    let flags = ["--name", "live", "--label", "a=b", "--timeout", "2h", "--callback-session", "cb"];
    let live = daemon.launch(&flags, &format!("{}; exit 6", later.wait()));
    assert_eq!(daemon.code(&["extend", &live, "5h"]), Some(0));
    let before = daemon.status(&live);
    until("the new deadline in its file", || {
        let at = daemon.run_files(&live).read_deadline().ok()?.mono_ns?;
        (at.since(agentctl::sys::clock::now().mono) > Duration::from_secs(4 * 3600)).then_some(())
    });
    let epoch = daemon.epoch();
    daemon.kill();
    gate.open();
    until("the exit file", || daemon.run_files(&down).exit_path().exists().then_some(()));
    daemon.remove_journal();
    daemon.start();

    // Said loudly, everywhere.
    assert_ne!(daemon.epoch(), epoch);
    let log = daemon.log();
    assert!(log.contains("ERROR") && log.contains("was missing; a new one was made"), "{log}");
    let status = stdout(&daemon.run(["daemon", "status"]));
    assert!(
        status.contains("the journal was missing; 3 sessions that it did not know were rebuilt"),
        "{status}"
    );

    // The living one is the same session with the same deadline, and supervised.
    let after = daemon.status(&live);
    for key in ["id", "status", "phase", "pid", "cwd", "name", "prompt", "adapter", "group", "origin"] {
        assert_eq!(after[key], before[key], "{key}");
    }
    assert_eq!(after["meta"]["labels"], json!({"a": "b"}));
    let of_deadline = |record: &Value| crate::support::play::micros(&record["timeoutAt"]);
    assert!(of_deadline(&after).abs_diff(of_deadline(&before)) < 1_000_000, "{after:#}");
    assert!(after["meta"]["rebuilt"].as_str().is_some_and(|note| note.contains("rebuilt")), "{after:#}");
    later.open();
    assert_eq!(daemon.ended(&live)["exitCode"], 6);
    daemon.ended_once(&live);

    // What ended meanwhile gets its verdict, which nobody has heard yet.
    assert_eq!(daemon.ended(&down)["exitCode"], 5);
    daemon.ended_once(&down);

    // What had ended is what it was, and is not told again.
    let again = daemon.status(&done);
    for key in ["outcome", "exitCode", "reason", "stoppedAt", "status", "usage", "exitStatus"] {
        assert_eq!(again[key], verdict[key], "{key}");
    }
    // Evidence that came after the verdict may be missing; none is added.
    let words = |record: &Value| -> Vec<String> {
        let list = record["evidence"].as_array().expect("a list");
        list.iter().map(|entry| format!("{}: {}", entry["prong"], entry["detail"])).collect()
    };
    let (now, then) = (words(&again), words(&verdict));
    assert!(!now.is_empty() && now.iter().all(|entry| then.contains(entry)), "{now:?} {then:?}");
    assert_eq!(daemon.event_types(&done), Vec::<String>::new());
    endpoint.wait_about(&live, 1);
    endpoint.wait_about(&down, 1);
    for id in [&done, &down, &live] {
        assert_eq!(endpoint.about(id).len(), 1, "one webhook for each end");
    }

    // And all of it stays so.
    daemon.terminate();
    daemon.start();
    assert_eq!(daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len), Some(3));
    assert!(
        !stdout(&daemon.run(["daemon", "status"])).contains("Rebuilt:"),
        "this start had nothing to rebuild"
    );
}

#[test]
fn the_deadline_of_a_rebuilt_session_ends_it() {
    let mut daemon = Daemon::new();
    let id = daemon.launch(&["--timeout", "3s"], "exec sleep 1000");
    daemon.kill();
    daemon.remove_journal();
    daemon.start();
    let record = daemon.ended(&id);
    assert_eq!(
        (&record["outcome"], &record["signal"]),
        (&json!("timed_out"), &json!("SIGTERM")),
        "{record:#}"
    );
    daemon.ended_once(&id);
}

#[test]
fn a_session_whose_own_record_is_damaged_too_is_rebuilt_from_the_shims_files() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&["--name", "nameless"], &format!("{}; exit 9", gate.wait()));
    let before = daemon.status(&id);
    daemon.kill();
    daemon.remove_journal();
    fs::write(daemon.file(&id, "created.1.json"), "{\"v\":1,").expect("damage");
    daemon.start();
    let record = daemon.status(&id);
    assert_eq!((&record["pid"], &record["cwd"]), (&before["pid"], &before["cwd"]), "{record:#}");
    let note = record["meta"]["rebuilt"].as_str().expect("a note");
    assert!(note.contains("its record of creation is damaged"), "{note}");
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 9);
    // Of its command the program is left, and what that would do without the rest nobody asked for.
    let again = daemon.run(["rerun", &id]);
    assert_eq!((again.status.code(), stdout(&again)), (Some(1), String::new()), "{again:?}");
    let words = format!(
        "session {} was rebuilt from its files, and of what was launched only the program is known: sh",
        &id[..8]
    );
    assert!(stderr(&again).starts_with(&words) && stderr(&again).contains("agentctl launch"), "{again:?}");
}

#[test]
fn a_verdict_file_that_is_damaged_too_leaves_the_end_to_the_exit_file() {
    let mut lost = Lost::new();
    lost.daemon.remove_journal();
    fs::write(lost.daemon.file(&lost.ended, "verdict.1.json"), "{}").expect("damage");
    lost.daemon.start();
    let record = lost.daemon.ended(&lost.ended);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(4)), "{record:#}");
    let note = record["meta"]["rebuilt"].as_str().expect("a note");
    assert!(note.contains("verdict file is damaged"), "{note}");
    lost.daemon.ended_once(&lost.ended);
}

#[test]
fn an_exit_file_without_its_directory_is_told_all_the_same() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 8", gate.wait()));
    let shim = daemon.shim(&id);
    daemon.kill();
    gate.open();
    until_gone(&shim);
    daemon.remove_journal();
    fs::remove_dir_all(daemon.home().join("sessions").join(&id)).expect("a directory");
    daemon.start();
    assert_eq!(daemon.ended(&id)["exitCode"], 8);
    daemon.ended_once(&id);
}

#[test]
fn a_directory_that_tells_of_no_run_is_left_and_named() {
    let mut daemon = Daemon::new();
    daemon.is_well();
    daemon.terminate();
    let id = "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11";
    let dir = daemon.home().join("sessions").join(id);
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("stdout.log"), "words").expect("a log");
    daemon.start();
    let status = stdout(&daemon.run(["daemon", "status"]));
    assert!(status.contains(&format!("Not rebuilt:     {id}: it holds no file of a run")), "{status}");
    assert_eq!(fs::read(dir.join("stdout.log")).expect("a log"), b"words");
    assert_eq!(daemon.json(["list", "-a", "--json"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn an_older_journal_is_brought_up_to_its_directories() {
    let endpoint = Endpoint::start();
    let mut daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    let gate = daemon.gate("gate");
    let known = daemon.launch(&[], &format!("{}; exit 2", gate.wait()));
    daemon.kill();
    daemon.journal_in_one_file();
    let backup = fs::read(daemon.journal()).expect("a journal");
    daemon.start();
    let unknown = daemon.launch(&[], "exec sleep 1000");
    gate.open();
    daemon.ended(&known);
    endpoint.wait_about(&known, 1);
    daemon.archived(&known);
    daemon.kill();
    daemon.remove_journal();
    fs::write(daemon.journal(), backup).expect("a backup");
    daemon.start();
    let record = daemon.ended(&known);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(2)), "{record:#}");
    assert!(
        record["meta"]["rebuilt"].as_str().is_some_and(|note| note.contains("verdict file")),
        "{record:#}"
    );
    assert_eq!(daemon.status(&unknown)["status"], "running");
    assert_eq!(daemon.code(&["stop", &unknown]), Some(0));
    endpoint.wait_about(&unknown, 1);
    assert_eq!(endpoint.about(&known).len(), 1, "it was told before");
}

#[test]
fn a_journal_that_goes_away_under_the_daemon_is_noticed_before_anything_is_told() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let stopped = daemon.launch(&["--grace", "300ms"], "exec sleep 1000");
    let leader = daemon.leader(&stopped);
    daemon.remove_journal();
    let refused = until("a launch to be refused", || {
        let output = daemon.run(["launch", "--", "true"]);
        stderr(&output).contains("journal.db was moved, deleted or replaced").then_some(output)
    });
    assert_eq!(refused.status.code(), Some(1));
    gate.open();
    let record = daemon.until_status(&id, "its end", |record| !record["meta"]["unrecorded"].is_null());
    assert_eq!(record["status"], "running", "{record:#}");
    let mut stop = daemon.command(["stop", &stopped]).spawn().expect("the command line runs");
    until_gone(&leader);
    daemon.kill();
    stop.wait().expect("our own child");
    daemon.start();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    assert_eq!(daemon.ended(&stopped)["signal"], "SIGTERM");
    daemon.is_well();
}

#[test]
fn a_forgotten_session_does_not_come_back() {
    let mut daemon = Daemon::new();
    let id = daemon.launch(&[], "exit 1");
    daemon.ended(&id);
    daemon.archived(&id);
    let dir = daemon.home().join("sessions").join(&id);
    until("the tree to be settled and forgotten", || {
        let _count = daemon.run(["prune"]);
        (!dir.exists()).then_some(())
    });
    // A crash in the middle of the deletion leaves a directory of another name.
    let left = daemon.home().join(format!("sessions/.forgotten-{id}"));
    daemon.kill();
    fs::create_dir_all(left.join("rest")).expect("a directory");
    daemon.start();
    assert!(!left.exists());
    assert_eq!(daemon.json(["list", "-a", "--json"]), json!([]));
}
