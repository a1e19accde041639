//! Exit files that lie, are damaged, come twice, or cannot be published: none ends a run that lives, none changes a
//! verdict, none hides one.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;

use agentctl::core::vocab::Mono;
use agentctl::sys::{ProcessRef, clock, features};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::namespace::{in_own_mounts, read_only, skipped, small_disk};
use crate::support::play::{until_gone, until_later};
use crate::support::wait::until;

const KILL: u8 = 9;

impl Daemon {
    /// What was put aside of a session's exit files, by number.
    fn aside(&self, id: &str, number: u32) -> PathBuf {
        let path = self.run_files(id).exit_path();
        let suffix = if number == 1 { String::new() } else { format!(".{number}") };
        PathBuf::from(format!("{}.rejected{suffix}", path.display()))
    }

    /// Puts a file in the place of a session's exit file, whole, whatever is there.
    #[track_caller]
    fn publish(&self, id: &str, bytes: &[u8]) {
        let beside = self.home().join("planted");
        fs::write(&beside, bytes).expect("a file");
        fs::rename(beside, self.run_files(id).exit_path()).expect("a file in exits/");
    }

    /// Does so, and waits until it is the `number`th that was put aside.
    #[track_caller]
    fn rejects(&self, id: &str, number: u32, bytes: &[u8]) {
        self.publish(id, bytes);
        let aside = until("the file to be put aside", || fs::read(self.aside(id, number)).ok());
        assert_eq!(aside, bytes, "it is kept as it was");
        assert!(!self.run_files(id).exit_path().exists());
    }

    /// The true exit file that the shim has published, while the daemon does not look.
    #[track_caller]
    fn published(&self, id: &str) -> Value {
        until("the exit file", || {
            serde_json::from_slice(&fs::read(self.run_files(id).exit_path()).ok()?).ok()
        })
    }
}

#[test]
fn damaged_exit_files_of_a_living_session_are_put_aside_and_reported() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let whole = daemon.forged_exit(&id, 3);
    let other_version = String::from_utf8_lossy(&whole).replacen("\"v\":1", "\"v\":99", 1);
    assert_ne!(other_version.as_bytes(), whole);
    let cases: [&[u8]; 7] = [
        b"",
        b"\0\0\0\0",
        b"no JSON at all",
        &whole[..whole.len() / 2],
        &whole[..whole.len() - 3],
        b"[]",
        other_version.as_bytes(),
    ];
    for (number, bytes) in (1..).zip(cases) {
        daemon.rejects(&id, number, bytes);
        let record = daemon.until_status(&id, "a note", |record| !record["meta"]["unverified"].is_null());
        assert!(record["meta"]["unverified"].to_string().contains("put aside"), "{record:#}");
        daemon.both_live(&[&id]);
    }
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    daemon.ended_once(&id);
}

#[test]
fn the_exit_file_of_another_session_is_put_aside() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let other = daemon.launch(&[], "exit 3");
    daemon.ended(&other);
    let exit = until("an archived exit file", || fs::read(daemon.file(&other, "exit.1.json")).ok());
    daemon.rejects(&id, 1, &exit);
    daemon.both_live(&[&id]);
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    daemon.ended_once(&id);
}

/// What a planted file may say of itself, and the word of its rejection.
type Lie = (&'static str, fn(&mut Value), &'static str);

/// Lies that need no knowledge of the leader's end.
const LIES: [Lie; 4] = [
    ("it ended", |_| (), "the kernel shows the leader alive"),
    (
        "it never began",
        |exit| {
            exit["status"] = Value::Null;
            exit["leader"] = Value::Null;
            exit["launch_error"] = json!({"stage": "program", "errno": 2, "message": "no such program"});
        },
        "the kernel shows the leader alive",
    ),
    (
        "it ended in another boot",
        |exit| exit["host"]["boot"] = json!("11111111-2222-4333-8444-555555555555"),
        "another boot",
    ),
    (
        "it ended tomorrow",
        |exit| {
            exit["ended"]["mono_ns"] =
                json!(exit["ended"]["mono_ns"].as_u64().map(|ns| ns + 86_400_000_000_000))
        },
        "still to come",
    ),
];

#[test]
fn lies_about_a_living_leader_are_put_aside_and_reported() {
    for backend in ["uring", "epoll"] {
        let daemon = Daemon::builder().backend(backend).start();
        let gate = daemon.gate("gate");
        let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
        let forged: Value = serde_json::from_slice(&daemon.forged_exit(&id, 0)).expect("JSON");
        for (number, (what, lie, why)) in (1..).zip(LIES) {
            let mut exit = forged.clone();
            lie(&mut exit);
            daemon.rejects(&id, number, format!("{exit}\n").as_bytes());
            let record = daemon.status(&id);
            let told = record["evidence"].to_string();
            assert!(told.contains("rejected") && told.contains(why), "{what}: {record:#}");
            daemon.both_live(&[&id]);
        }
        assert_eq!(daemon.code(&["doctor"]), Some(1), "somebody writes into exits/");
        gate.open();
        assert_eq!(daemon.ended(&id)["exitCode"], 7);
        daemon.ended_once(&id);
    }
}

#[test]
fn lies_about_a_living_leader_are_put_aside_also_at_a_start() {
    for (what, lie, _) in LIES {
        let mut daemon = Daemon::new();
        let gate = daemon.gate("gate");
        let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
        let mut exit: Value = serde_json::from_slice(&daemon.forged_exit(&id, 0)).expect("JSON");
        lie(&mut exit);
        daemon.kill();
        daemon.publish(&id, format!("{exit}\n").as_bytes());
        daemon.start();
        until(what, || daemon.aside(&id, 1).exists().then_some(()));
        daemon.both_live(&[&id]);
        gate.open();
        assert_eq!(daemon.ended(&id)["exitCode"], 7, "{what}");
        daemon.ended_once(&id);
    }
}

#[test]
fn a_lie_in_the_place_of_the_true_file_is_seen_through() {
    if !features::probe().info_exit {
        skipped(
            "exit_files::a_lie_in_the_place_of_the_true_file_is_seen_through",
            "the kernel keeps no status",
        );
        return;
    }
    let lies: [Lie; 3] = [
        ("another code", |exit| exit["status"] = json!(0), "the kernel says another wait status"),
        LIES[2],
        LIES[3],
    ];
    for (what, lie, why) in lies {
        let daemon = Daemon::new();
        let gate = daemon.gate("gate");
        let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
        let shim = daemon.shim(&id);
        // Both the end and the lie fall where the daemon does not look.
        daemon.signal(libc::SIGSTOP);
        gate.open();
        let mut exit = daemon.published(&id);
        until_gone(&shim);
        lie(&mut exit);
        daemon.publish(&id, format!("{exit}\n").as_bytes());
        daemon.signal(libc::SIGCONT);
        let record = daemon.ended(&id);
        assert_eq!(
            (&record["outcome"], &record["exitCode"]),
            (&json!("failed"), &json!(7)),
            "{what}: {record:#}"
        );
        let told = record["evidence"].to_string();
        assert!(told.contains(why) && told.contains("pidfd_info"), "{what}: {record:#}");
        until("the file to be put aside", || daemon.aside(&id, 1).exists().then_some(()));
        daemon.ended_once(&id);
    }
}

#[test]
fn an_exit_file_that_comes_twice_changes_nothing() {
    let mut daemon = Daemon::new();
    let id = daemon.launch(&[], "exit 7");
    daemon.ended(&id);
    let settled = |record: &Value| record["evidence"].to_string().contains("tree_gone");
    let verdict = daemon.until_status(&id, "the end of the tree", settled);
    let archived = daemon.file(&id, "exit.1.json");
    let exit = until("an archived exit file", || fs::read(&archived).ok());
    // The same once more, while the daemon runs and while it does not.
    daemon.publish(&id, &exit);
    until("it to be put away", || (!daemon.run_files(&id).exit_path().exists()).then_some(()));
    daemon.kill();
    daemon.publish(&id, &exit);
    daemon.start();
    until("it to be put away", || (!daemon.run_files(&id).exit_path().exists()).then_some(()));
    assert_eq!(fs::read(&archived).expect("kept"), exit);
    assert!(!daemon.aside(&id, 1).exists());
    assert_eq!(daemon.status(&id)["evidence"], verdict["evidence"], "it tells nothing new");
    daemon.ended_once(&id);
}

#[test]
fn another_exit_file_after_the_verdict_is_put_aside_reported_and_changes_nothing() {
    let mut daemon = Daemon::new();
    let id = daemon.launch(&[], "exit 7");
    daemon.ended(&id);
    let archived = daemon.file(&id, "exit.1.json");
    let exit = until("an archived exit file", || fs::read(&archived).ok());
    let mut lie: Value = serde_json::from_slice(&exit).expect("JSON");
    lie["status"] = json!(0);
    let lie = format!("{lie}\n");
    daemon.rejects(&id, 1, lie.as_bytes());
    let record = daemon.until_status(&id, "the report", |record| {
        record["evidence"].to_string().contains("after the verdict")
    });
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(7)), "{record:#}");
    daemon.kill();
    daemon.publish(&id, lie.as_bytes());
    daemon.start();
    until("the second one to be put aside", || daemon.aside(&id, 2).exists().then_some(()));
    assert_eq!(daemon.status(&id)["exitCode"], 7);
    assert_eq!(fs::read(&archived).expect("kept"), exit, "the true one stays");
    daemon.ended_once(&id);
}

#[test]
fn an_exit_file_for_a_verdict_that_the_kernel_gave_is_held_against_it() {
    if !features::probe().info_exit {
        skipped(
            "exit_files::an_exit_file_for_a_verdict_that_the_kernel_gave_is_held_against_it",
            "no status is kept",
        );
        return;
    }
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let forged = daemon.forged_exit(&id, 0);
    daemon.kill_shim(&id);
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    daemon.rejects(&id, 1, &forged);
    assert_eq!(daemon.status(&id)["exitCode"], 7);
    assert!(!daemon.file(&id, "exit.1.json").exists(), "a lie is not put where the truth would be");
    daemon.ended_once(&id);
}

/// No file can be opened in a daemon that has its limit of descriptors reached. That says nothing about any file.
#[test]
fn an_exit_file_that_cannot_be_read_for_now_is_read_later() {
    let daemon = Daemon::builder().env("AGENTCTL_SYS_WITHOUT", "info_exit").start();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let shim = daemon.shim(&id);
    let limits = |most| {
        let pid = Pid::from_raw(daemon.pid().cast_signed());
        let now = getrlimit(Resource::Nofile);
        prlimit(pid, Resource::Nofile, Rlimit { current: most, maximum: now.maximum }).expect("our own child")
    };
    let before = limits(Some(3)).current;
    gate.open();
    until("the shim to end", || shim.has_ended().filter(|ended| *ended));
    until("word of the file", || daemon.log().contains("an exit file cannot be read now").then_some(()));
    assert!(daemon.run_files(&id).exit_path().exists(), "{}", daemon.log());
    limits(before);
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(7)), "{record:#}");
    until("the file to be put away", || daemon.file(&id, "exit.1.json").exists().then_some(()));
    assert!(!daemon.aside(&id, 1).exists(), "{}", daemon.log());
    daemon.ended_once(&id);
}

#[test]
fn a_verdict_that_could_not_be_written_down_is_with_the_next_one() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    // Nothing can be renamed to it.
    let in_the_way = daemon.file(&id, "verdict.1.json");
    fs::create_dir_all(in_the_way.join("full")).expect("a directory");
    gate.open();
    daemon.ended(&id);
    until("the failure", || daemon.log().contains("verdict.1.json: ").then_some(()));
    assert!(daemon.run_files(&id).exit_path().exists());
    fs::remove_dir_all(&in_the_way).expect("our own");
    daemon.ended(&daemon.launch(&[], "exit 0"));
    until("both to be put away", || daemon.file(&id, "exit.1.json").exists().then_some(()));
    assert!(in_the_way.is_file() && !daemon.run_files(&id).exit_path().exists());
}

/// As a child that hangs on its way to becoming the leader holds it.
#[test]
fn a_lock_that_outlives_the_shim_for_long_keeps_the_directory_for_no_longer() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let lock = File::open(daemon.file(&id, "shim.1.json")).expect("the shim's file");
    let inode = format!(":{} ", lock.metadata().expect("a file").ino());
    let held = thread::spawn(move || flock(&lock, FlockOperation::LockExclusive).map(|()| lock));
    until("somebody to wait for the lock", || {
        let locks = fs::read_to_string("/proc/locks").expect("locks");
        locks.lines().any(|line| line.contains("->") && line.contains(&inode)).then_some(())
    });
    daemon.kill_shim(&id);
    gate.open();
    let held = held.join().expect("a lock").expect("the lock");
    until("the lock to be tried in vain", || daemon.log().contains("lock is still held").then_some(()));
    let taken = || daemon.json(["locks", "--json"]).to_string().contains(&id);
    assert!(taken(), "whether anything of it lives is not known");
    drop(held);
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    until("the directory to be free", || (!taken()).then_some(()));
    daemon.ended_once(&id);
}

impl Daemon {
    /// A session that ends when its exit file cannot be published is known all the same, with its own code and time.
    #[track_caller]
    fn ends_unpublished(&mut self, id: &str, code: u8) {
        let record = self.ended(id);
        assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(code)), "{record:#}");
        assert!(record["meta"]["stoppedAtNote"].is_null(), "by the shim's own stamp: {record:#}");
        assert!(!self.run_files(id).exit_path().exists());
        self.ended_once(id);
    }
}

#[test]
fn exits_unwritable_when_the_leader_ends_hides_no_verdict() {
    if !in_own_mounts("exit_files::exits_unwritable_when_the_leader_ends_hides_no_verdict") {
        return;
    }
    let mut daemon = Daemon::new();
    let (gate, later) = (daemon.gate("gate"), daemon.gate("later"));
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let down = daemon.launch(&[], &format!("{}; exit 8", later.wait()));
    let shims = [daemon.shim(&id), daemon.shim(&down)];
    let unwritable = read_only(&daemon.exits());
    gate.open();
    daemon.ends_unpublished(&id, 7);
    // And where the end falls into the daemon's absence.
    daemon.kill();
    later.open();
    let unpublished = until("an unpublished file", || daemon.run_files(&down).read_unpublished_exit().ok());
    daemon.start();
    daemon.ends_unpublished(&down, 8);
    assert_eq!(unpublished.status.and_then(|status| status.code()), Some(8));
    // Their shims wait for it to be writable again, and then have nothing left to do.
    drop(unwritable);
    for (id, shim) in [&id, &down].into_iter().zip(&shims) {
        until_gone(shim);
        until("its file to be put away", || daemon.file(id, "exit.1.json").exists().then_some(()));
        daemon.ended_once(id);
    }
    daemon.still_sees(3);
}

#[test]
fn exits_full_when_the_leader_ends_hides_no_verdict() {
    if !in_own_mounts("exit_files::exits_full_when_the_leader_ends_hides_no_verdict") {
        return;
    }
    let mut daemon = Daemon::new();
    daemon.kill();
    let _disk = small_disk(&daemon.exits(), 1 << 16);
    daemon.start();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let shim = daemon.shim(&id);
    let filler = daemon.exits().join("filler");
    let mut size = 1 << 16;
    while size > 0 {
        let mut more = fs::read(&filler).unwrap_or_default();
        more.resize(more.len() + size, 0);
        size = if fs::write(&filler, &more).is_ok() { size } else { size / 2 };
    }
    gate.open();
    daemon.ends_unpublished(&id, 7);
    fs::remove_file(&filler).expect("our own file");
    until_gone(&shim);
    daemon.still_sees(3);
}

/// A session that has ended with 7 while its shim is stopped; and when it had not yet.
#[track_caller]
fn ended_under_a_stopped_shim(daemon: &Daemon) -> (String, ProcessRef, Mono) {
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let (shim, leader) = (daemon.shim(&id), daemon.leader(&id));
    shim.signal(19).expect("stopped");
    let lived = clock::now().mono;
    gate.open();
    until_gone(&leader);
    (id, shim, lived)
}

#[test]
fn a_shim_that_is_stopped_owes_the_verdict_until_it_goes_on() {
    let mut daemon = Daemon::new();
    let (id, shim, _) = ended_under_a_stopped_shim(&daemon);
    let ended = clock::now().mono;
    let waiting = |daemon: &Daemon| {
        let record = daemon.until_status(&id, "the end to be seen", |record| record["phase"] == "ending");
        let seen = (&record["status"], &record["outcome"], &record["exitCode"]);
        assert_eq!(seen, (&json!("running"), &Value::Null, &Value::Null), "{record:#}");
    };
    waiting(&daemon);
    // Longer than it takes to look for an exit file that nobody told of, and over a restart.
    until_later(ended, std::time::Duration::from_millis(2_500));
    waiting(&daemon);
    daemon.kill();
    daemon.start();
    waiting(&daemon);
    shim.signal(18).expect("continued");
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(7)), "{record:#}");
    daemon.ended_once(&id);
}

#[test]
fn a_shim_that_is_stopped_for_good_is_killed_after_a_minute_which_frees_the_status() {
    let daemon = Daemon::new();
    let (id, shim, lived) = ended_under_a_stopped_shim(&daemon);
    let record = daemon.ended(&id);
    let waited = clock::now().mono.since(lived);
    assert!(waited >= std::time::Duration::from_secs(60), "{waited:?} is no patience: {record:#}");
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(7)), "{record:#}");
    assert_eq!(shim.has_ended(), Some(true));
    daemon.ended_once(&id);
}

#[test]
fn a_killed_leader_is_told_by_its_shim() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &gate.wait());
    daemon.leader(&id).signal(KILL).expect("a signal");
    let record = daemon.ended(&id);
    assert_eq!(
        (&record["outcome"], &record["signal"], &record["exitStatus"]),
        (&json!("failed"), &json!("SIGKILL"), &json!(137)),
        "{record:#}"
    );
    assert!(record["evidence"].to_string().contains("exit_file"), "{record:#}");
    daemon.ended_once(&id);
}

#[test]
fn a_daemon_that_is_told_to_stop_has_put_every_verdict_away() {
    let mut daemon = Daemon::new();
    let ids: Vec<_> = (0..3).map(|_| daemon.launch(&[], "exit 3")).collect();
    for id in &ids {
        // The answer comes with the verdict, and no command is as soon as that.
        let mut waiting = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
        let request = format!("GET /v1/sessions/{id}/wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        waiting.write_all(request.as_bytes()).expect("asked");
        let mut answer = String::new();
        waiting.read_to_string(&mut answer).expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    daemon.terminate();
    for id in &ids {
        assert!(daemon.file(id, "verdict.1.json").exists(), "{}", daemon.log());
    }
    assert_eq!(fs::read_dir(daemon.home().join("exits")).expect("a directory").count(), 0);
}
