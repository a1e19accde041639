//! What inotify, clocks and boots can hide from the daemon: news lost, directories moved, deleted, unmounted or mounted
//! over, bursts, deadlines in the daemon's absence, reboots. No verdict is wrong for it, and none waits for ever.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use agentctl::sys::clock;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::namespace::{Mounted, bind, in_own_limits, in_own_mounts, own_setting, small_disk};
use crate::support::patience::{in_order, until_so_many};
use crate::support::play::{output_of, stdout, until_gone};
use crate::support::wait::until;

/// A missed exit file is looked for a second after the leader's end; a busy machine may take some more.
const SOON: Duration = Duration::from_secs(20);

impl Daemon {
    pub(crate) fn exits(&self) -> std::path::PathBuf {
        self.home().join("exits")
    }

    /// A session runs and ends with its own code, told by its exit file, without anybody's patience running out.
    #[track_caller]
    pub(crate) fn still_sees(&self, code: u8) -> Value {
        let begun = clock::now().mono;
        let id = self.launch(&[], &format!("exit {code}"));
        let record = self.ended(&id);
        assert!(clock::now().mono.since(begun) < SOON, "{record:#}\n{}", self.log());
        assert_eq!(record["exitCode"], code, "{record:#}\n{}", self.log());
        let prongs = record["evidence"].to_string();
        assert!(prongs.contains("exit_file"), "{record:#}\n{}", self.log());
        self.ended_once(&id);
        record
    }

    /// Waits until its log says so.
    #[track_caller]
    pub(crate) fn until_said(&self, words: &str) {
        until(words, || self.log().contains(words).then_some(()));
    }
}

#[test]
fn more_exit_files_than_inotify_queues_lose_nobody() {
    for backend in ["uring", "epoll"] {
        let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .expect("a limit");
        let daemon = Daemon::builder().env("AGENTCTL_LOG", "debug").backend(backend).start();
        let gate = daemon.gate("gate");
        let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
        daemon.signal(libc::SIGSTOP);
        let (one, other) = (daemon.exits().join("one"), daemon.exits().join("other"));
        fs::write(&one, "").expect("a file");
        for _ in 0..=queue / 2 {
            fs::rename(&one, &other).expect("renamed");
            fs::rename(&other, &one).expect("renamed back");
        }
        // Published when the queue is full: no event of its own.
        gate.open();
        until("the exit file", || daemon.run_files(&id).exit_path().exists().then_some(()));
        daemon.signal(libc::SIGCONT);
        let record = daemon.ended(&id);
        assert_eq!(record["exitCode"], 7, "{record:#}");
        daemon.until_said("exits/ is read again: events were lost");
        daemon.ended_once(&id);
        fs::remove_file(&one).expect("our own file");
        daemon.still_sees(3);
    }
}

impl Daemon {
    pub(crate) fn signal(&self, number: i32) {
        let process = agentctl::sys::ProcessRef::of_child(self.pid()).expect("our own child");
        process.signal(u8::try_from(number).expect("a signal")).expect("our own child");
    }
}

#[test]
fn exits_moved_away_is_made_again() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    fs::rename(daemon.exits(), daemon.home().join("moved")).expect("moved");
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    daemon.ended_once(&id);
    daemon.until_said("exits/ cannot be watched");
    until("a new exits/", || daemon.exits().exists().then_some(()));
    daemon.still_sees(3);
}

#[test]
fn exits_deleted_is_made_again_and_what_was_in_it_is_not_needed() {
    let daemon = Daemon::new();
    let (gate, later) = (daemon.gate("gate"), daemon.gate("later"));
    let first = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let second = daemon.launch(&[], &format!("{}; exit 8", later.wait()));
    let shim = daemon.shim(&first);
    // Published while the daemon does not look, and gone before it does.
    daemon.signal(libc::SIGSTOP);
    gate.open();
    until("the exit file", || daemon.run_files(&first).exit_path().exists().then_some(()));
    fs::remove_dir_all(daemon.exits()).expect("deleted");
    later.open();
    until_gone(&shim);
    daemon.signal(libc::SIGCONT);
    // The kernel still tells the first one; the shim of the second waits for its directory.
    assert_eq!(daemon.ended(&first)["exitCode"], 7, "{}", daemon.log());
    assert_eq!(daemon.ended(&second)["exitCode"], 8, "{}", daemon.log());
    for id in [&first, &second] {
        daemon.ended_once(id);
    }
    daemon.until_said("exits/ cannot be watched");
    daemon.still_sees(3);
}

#[test]
fn exits_unmounted_under_the_daemon_changes_no_verdict() {
    if !in_own_mounts("blind_spots::exits_unmounted_under_the_daemon_changes_no_verdict") {
        return;
    }
    let mut daemon = Daemon::new();
    daemon.kill();
    let disk = small_disk(&daemon.exits(), 1 << 20);
    daemon.start();
    // On a file system of its own it is as good as any.
    daemon.still_sees(3);
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    drop(disk);
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    daemon.ended_once(&id);
    daemon.still_sees(4);
}

#[test]
fn a_mount_over_exits_which_inotify_does_not_tell_is_noticed_at_the_next_end() {
    if !in_own_mounts(
        "blind_spots::a_mount_over_exits_which_inotify_does_not_tell_is_noticed_at_the_next_end",
    ) {
        return;
    }
    let daemon = Daemon::builder().env("AGENTCTL_LOG", "debug").start();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let over: Vec<Mounted> = {
        let elsewhere = daemon.home().join("elsewhere");
        fs::create_dir(&elsewhere).expect("a directory");
        vec![bind(&elsewhere, &daemon.exits())]
    };
    gate.open();
    let record = daemon.ended(&id);
    assert_eq!(record["exitCode"], 7, "{record:#}\n{}", daemon.log());
    daemon.ended_once(&id);
    daemon.until_said("exits/ is read again: the directory was replaced");
    daemon.still_sees(3);
    drop(over);
    daemon.still_sees(4);
}

#[test]
fn a_daemon_that_gets_no_inotify_at_all_still_knows_every_end() {
    let test = "blind_spots::a_daemon_that_gets_no_inotify_at_all_still_knows_every_end";
    if !in_own_limits(test) {
        return;
    }
    // Of this user namespace only.
    own_setting("/proc/sys/user/max_inotify_instances", "0");
    let mut daemon = Daemon::new();
    daemon.until_said("exits/ cannot be watched");
    daemon.still_sees(3);
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; echo words; exit 7", gate.wait()));
    // Without a watch on the log it is looked at once a second.
    let follow = daemon.command(["logs", "-f", &id]).stdout(Stdio::piped()).spawn().expect("it runs");
    gate.open();
    let followed = output_of("the end of the log", follow);
    assert_eq!((followed.status.code(), stdout(&followed)), (Some(0), "words\n".to_owned()));
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    daemon.kill();
    daemon.start();
    own_setting("/proc/sys/user/max_inotify_instances", "128");
    daemon.still_sees(4);
}

#[test]
fn a_deadline_that_passes_while_the_daemon_is_down_for_good_is_enforced_by_the_shim() {
    in_order(Duration::from_secs(1), enforced_by_the_shim);
}

/// Nothing, where the deadline came before the daemon was killed.
fn enforced_by_the_shim(time: Duration) -> Option<()> {
    let mut daemon = Daemon::new();
    let flags = ["--timeout", "10m", "--grace", "100ms"];
    let id = daemon.launch(&flags, "trap '' TERM; echo up; while :; do sleep 1; done");
    until("the trap", || daemon.stdout(&id).contains("up").then_some(()));
    let (leader, shim) = (daemon.leader(&id), daemon.shim(&id));
    daemon.killed_before_deadlines(&[&id], time)?;
    until_gone(&leader);
    until_gone(&shim);
    let exit = daemon.run_files(&id).read_exit().expect("an exit file");
    assert_eq!(exit.cause, agentctl::wire::session_dir::Cause::Deadline);
    daemon.start();
    let record = daemon.ended(&id);
    assert_eq!(
        (&record["outcome"], &record["signal"]),
        (&json!("timed_out"), &json!("SIGKILL")),
        "{record:#}"
    );
    assert!(record["evidence"].to_string().contains("\"deadline\""), "{record:#}");
    daemon.ended_once(&id);
    Some(())
}

#[test]
fn an_end_before_a_deadline_is_its_own_also_when_both_lie_in_the_daemons_absence() {
    in_order(Duration::from_secs(1), ended_before_its_deadline);
}

/// Nothing, where the deadline came before the daemon was killed or the session ended.
fn ended_before_its_deadline(time: Duration) -> Option<()> {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&["--timeout", "10m"], &format!("{}; exit 4", gate.wait()));
    let due = daemon.killed_before_deadlines(&[&id], time)?;
    gate.open();
    daemon.exit_before(&id, due[0])?;
    until("the deadline to pass", || (clock::now().wall > due[0]).then_some(()));
    daemon.start();
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(4)), "{record:#}");
    assert_eq!(daemon.event_types(&id), ["session.started", "session.error"]);
    Some(())
}

/// Shows another boot id from now on, in this mount namespace only.
pub(crate) fn reboot(scratch: &Path, id: &str) -> Mounted {
    let file = scratch.join("boot_id");
    fs::write(&file, format!("{id}\n")).expect("a boot id");
    bind(&file, Path::new("/proc/sys/kernel/random/boot_id"))
}

#[test]
fn after_a_reboot_exit_files_count_and_what_left_none_is_lost() {
    if !in_own_mounts("blind_spots::after_a_reboot_exit_files_count_and_what_left_none_is_lost") {
        return;
    }
    let mut daemon = Daemon::new();
    let (gate, never) = (daemon.gate("gate"), daemon.gate("never"));
    let told = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let untold = daemon.launch(&["--timeout", "1h"], &never.wait());
    let stopping = daemon.launch(&["--grace", "1h"], &format!("trap '' TERM; echo up; {}", never.wait()));
    until("the trap", || daemon.stdout(&stopping).contains("up").then_some(()));
    let mut stop = daemon.command(["stop", &stopping]).spawn().expect("the command line runs");
    daemon.until_status(&stopping, "the stop", |record| record["phase"] == "stopping");
    let down: Vec<_> = [&untold, &stopping].iter().map(|id| (daemon.shim(id), daemon.leader(id))).collect();
    daemon.kill();
    stop.wait().expect("our own child");
    gate.open();
    until("the exit file", || daemon.run_files(&told).exit_path().exists().then_some(()));
    // The power fails: nobody writes an exit file any more.
    for (shim, leader) in &down {
        for process in [shim, leader] {
            process.signal(9).expect("a signal");
            until_gone(process);
        }
    }
    let _boot = reboot(daemon.home(), "11111111-2222-4333-8444-555555555555");
    daemon.start();
    let record = daemon.ended(&told);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(7)), "{record:#}");
    for id in [&untold, &stopping] {
        let record = daemon.ended(id);
        let verdict = (&record["outcome"], &record["reason"], &record["exitCode"], &record["exitStatus"]);
        assert_eq!(
            verdict,
            (&json!("lost"), &json!("host_rebooted"), &Value::Null, &json!(125)),
            "{record:#}"
        );
        assert_eq!(record["meta"]["stoppedAtNote"], "no later than");
    }
    for id in [&told, &untold, &stopping] {
        daemon.ended_once(id);
    }
    daemon.still_sees(3);
}

#[test]
fn after_a_reboot_without_a_journal_it_is_the_same() {
    if !in_own_mounts("blind_spots::after_a_reboot_without_a_journal_it_is_the_same") {
        return;
    }
    let mut daemon = Daemon::new();
    let (gate, never) = (daemon.gate("gate"), daemon.gate("never"));
    let told = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let untold = daemon.launch(&["--timeout", "1h"], &never.wait());
    let (shim, leader) = (daemon.shim(&untold), daemon.leader(&untold));
    daemon.kill();
    gate.open();
    until("the exit file", || daemon.run_files(&told).exit_path().exists().then_some(()));
    for process in [&shim, &leader] {
        process.signal(9).expect("a signal");
        until_gone(process);
    }
    for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
        fs::remove_file(daemon.home().join(name)).expect("a file of the journal");
    }
    let _boot = reboot(daemon.home(), "11111111-2222-4333-8444-555555555555");
    daemon.start();
    assert_eq!(daemon.ended(&told)["exitCode"], 7);
    let record = daemon.ended(&untold);
    assert_eq!(
        (&record["outcome"], &record["reason"]),
        (&json!("lost"), &json!("host_rebooted")),
        "{record:#}"
    );
    for id in [&told, &untold] {
        daemon.ended_once(id);
    }
}

#[test]
fn a_burst_of_ten_thousand_exits_gives_each_its_own_verdict() {
    const SESSIONS: u32 = 10_000;
    let mut daemon = Daemon::new();
    let model = daemon.launch(&[], "exit 0");
    daemon.ended(&model);
    let read = |name: &str| -> Value {
        let text = until(name, || fs::read(daemon.file(&model, name)).ok());
        serde_json::from_slice(&text).expect("JSON")
    };
    let (created, leader, exit) = (read("created.1.json"), read("leader.1.json"), read("exit.1.json"));
    let tree = read("tree.1.json");
    daemon.terminate();
    // What ten thousand sessions leave that all ended while the daemon was down, and no journal that knows them.
    for number in 1..=SESSIONS {
        let id = uuid::Uuid::from_u128(0x4000_8000_0000_0000_0000_0000 + u128::from(number)).to_string();
        let dir = daemon.home().join("sessions").join(&id);
        fs::create_dir(&dir).expect("a directory");
        let write = |path: &Path, model: &Value, change: &dyn Fn(&mut Value)| {
            let mut content = model.clone();
            content["session"] = json!(id);
            change(&mut content);
            fs::write(path, format!("{content}\n")).expect("a file");
        };
        let own = |content: &mut Value| content["record"]["session"] = json!(id);
        write(&dir.join("created.1.json"), &created, &own);
        write(&dir.join("leader.1.json"), &leader, &|_| ());
        write(&dir.join("tree.1.json"), &tree, &|_| ());
        let code = |content: &mut Value| content["status"] = json!((number % 256) << 8);
        write(&daemon.exits().join(format!("{id}.1.json")), &exit, &code);
    }
    daemon.start();
    let all = || daemon.json(["list", "-a", "--json"]).as_array().cloned().expect("an array");
    let ended = || all().iter().filter(|record| record["phase"] == "ended").count();
    until_so_many("verdicts", SESSIONS as usize + 1, ended);
    let list = all();
    assert_eq!(list.len(), SESSIONS as usize + 1);
    for record in list.iter().filter(|record| record["id"] != model.as_str()) {
        let id = uuid::Uuid::parse_str(record["id"].as_str().expect("an id")).expect("an id");
        let number = u32::try_from(id.as_u128() & 0xffff).expect("small");
        assert_eq!(record["exitCode"], number % 256, "{record:#}");
    }
    let events = daemon.events();
    let mut told: Vec<_> = events
        .iter()
        .filter(|event| matches!(event["type"].as_str(), Some("session.stopped" | "session.error")))
        .map(|event| event["sessionId"].to_string())
        .collect();
    let count = told.len();
    told.sort_unstable();
    told.dedup();
    assert_eq!((count, told.len()), (SESSIONS as usize + 1, SESSIONS as usize + 1), "one end each");
    daemon.still_sees(3);
}
