//! A home seen from elsewhere, and daemons in strange places: another pid namespace, another machine, another path, the
//! inside of a session, a host that goes down.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentctl::sys::{ProcessRef, clock};
use serde_json::{Value, json};

use crate::blind_spots::reboot;
use crate::support::daemon::{Daemon, refusal};
use crate::support::namespace::{Mounted, bind, in_own_mounts, in_own_pids};
use crate::support::patience::in_order;
use crate::support::play::{Gate, is_gone, stderr, until_gone, written_pid};
use crate::support::wait::until;

const KILL: u8 = 9;
const TERM: u8 = 15;
const OTHER_BOOT: &str = "11111111-2222-4333-8444-555555555555";

/// A daemon started through this is PID 1 of a pid namespace of its own.
const OTHER_PIDS: [&str; 6] = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

impl Daemon {
    /// Not ended, and why that cannot be told.
    #[track_caller]
    fn cannot_tell(&self, id: &str, why: &str) {
        let record = self.status(id);
        assert_eq!((&record["status"], &record["outcome"]), (&json!("running"), &Value::Null), "{record:#}");
        assert!(record["meta"]["unverified"].to_string().contains(why), "{record:#}\n{}", self.log());
    }
}

#[test]
fn from_another_pid_namespace_only_exit_files_and_free_locks_count() {
    if !in_own_mounts("elsewhere::from_another_pid_namespace_only_exit_files_and_free_locks_count") {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut daemon = Daemon::new();
    let (gate, later) = (daemon.gate("gate"), daemon.gate("later"));
    let ends = daemon.launch(&[], &format!("{}; exit 5", gate.wait()));
    let lives =
        daemon.launch(&["--grace", "1h"], &format!("trap '' TERM; echo up; {}; exit 6", later.wait()));
    let orphan = daemon.launch(&[], &format!("{}; exit 7", later.wait()));
    let dies = daemon.launch(&[], &later.wait());
    until("the trap", || daemon.stdout(&lives).contains("up").then_some(()));
    let all = [&ends, &lives, &orphan, &dies];
    let (shim, leader) = (daemon.shim(&dies), daemon.leader(&dies));
    let orphaned = daemon.shim(&orphan);
    daemon.kill();
    daemon.through(&OTHER_PIDS);
    daemon.start();
    let why = "another pid namespace";
    all.iter().for_each(|id| daemon.cannot_tell(id, why));
    // There the kernel says of a living leader what it says of one that never was.
    orphaned.signal(KILL).expect("a signal");
    shim.signal(KILL).expect("a signal");
    leader.signal(KILL).expect("a signal");
    [&orphaned, &shim, &leader].into_iter().for_each(until_gone);
    daemon.kill();
    daemon.start();
    all.iter().for_each(|id| daemon.cannot_tell(id, why));
    gate.open();
    let record = daemon.ended(&ends);
    assert_eq!(record["exitCode"], 5, "its exit file counts: {record:#}");
    // A stop from there finds nobody, and says nothing else.
    let mut stop = daemon.command(["stop", &lives]).spawn().expect("the command line runs");
    daemon.until_status(&lives, "the stop", |record| record["phase"] == "stopping");
    // Back where they were started.
    daemon.kill();
    daemon.through(&[]);
    stop.wait().expect("our own child");
    daemon.start();
    let record = daemon.status(&lives);
    assert_eq!((&record["phase"], &record["outcome"]), (&json!("stopping"), &Value::Null), "{record:#}");
    let record = daemon.ended(&dies);
    let known = record["outcome"] == "lost" || record["signal"] == "SIGKILL";
    assert!(known, "{record:#}");
    assert_eq!(daemon.status(&orphan)["status"], "running");
    later.open();
    assert_eq!(daemon.ended(&orphan)["exitCode"], 7, "{}", daemon.log());
    let record = daemon.ended(&lives);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("cancelled"), &json!(6)), "{record:#}");
    all.iter().for_each(|id| daemon.ended_once(id));
}

/// Shows another machine id from now on, in this mount namespace only; `None` where there is none to cover.
fn another_machine(scratch: &Path) -> Option<Mounted> {
    let at = Path::new("/etc/machine-id");
    let id = scratch.join("machine-id");
    fs::write(&id, "0123456789abcdef0123456789abcdef\n").expect("a machine id");
    at.exists().then(|| bind(&id, at))
}

#[test]
fn another_machine_id_in_the_same_boot_changes_nothing() {
    if !in_own_mounts("elsewhere::another_machine_id_in_the_same_boot_changes_nothing") {
        return;
    }
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let stopped = daemon.launch(&["--grace", "200ms"], "exec sleep 1000");
    daemon.kill();
    // As in a container that was made again, with the home on a volume.
    let Some(_machine) = another_machine(daemon.home()) else { return };
    daemon.start();
    daemon.both_live(&[&id, &stopped]);
    assert!(daemon.status(&id)["meta"]["unverified"].is_null());
    assert_eq!(daemon.code(&["stop", &stopped]), Some(0));
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    [&id, &stopped].into_iter().for_each(|id| daemon.ended_once(id));
}

#[test]
fn a_home_whose_daemon_is_on_another_machine_is_refused_and_taken_over_on_request() {
    let test = "elsewhere::a_home_whose_daemon_is_on_another_machine_is_refused_and_taken_over_on_request";
    if !in_own_mounts(test) {
        return;
    }
    in_order(Duration::from_secs(1), taken_over);
}

/// Nothing, where the deadline came before the daemon was killed.
fn taken_over(time: Duration) -> Option<()> {
    let mut daemon = Daemon::new();
    let (gate, later) = (daemon.gate("gate"), daemon.gate("later"));
    let ends = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let lives = daemon.launch(&[], &format!("{}; exit 8", later.wait()));
    let timed = daemon.launch(&["--timeout", "10m", "--grace", "1h"], "exec sleep 1000");
    let leader = daemon.leader(&timed);
    let due = daemon.killed_before_deadlines(&[&timed], time)?;
    let Some(machine) = another_machine(daemon.home()) else { return Some(()) };
    let boot = reboot(daemon.home(), OTHER_BOOT);
    let said = refusal(daemon.home());
    let lock = daemon.home().join("daemon.lock");
    assert!(said.contains("another machine") && said.contains(&format!("rm {}", lock.display())), "{said}");
    fs::remove_file(&lock).expect("the way out");
    daemon.start();
    for id in [&ends, &lives, &timed] {
        daemon.cannot_tell(id, "another machine");
    }
    gate.open();
    assert_eq!(daemon.ended(&ends)["exitCode"], 7, "an exit file counts wherever it was written");
    // Deadlines count the running time of the other machine, which is not known here.
    let passed = due[0].after(Duration::from_millis(500));
    until("the deadline to pass", || (clock::now().wall > passed).then_some(()));
    for id in [&lives, &timed] {
        daemon.cannot_tell(id, "another machine");
        assert_eq!(daemon.event_types(id), ["session.started"]);
    }
    assert_eq!(leader.has_ended(), Some(false));
    // A daemon that stopped in order leaves a home that any machine may take.
    daemon.terminate();
    drop((machine, boot));
    daemon.start();
    later.open();
    let record = daemon.ended(&lives);
    assert_eq!(record["exitCode"], 8, "{record:#}");
    assert_eq!(daemon.ended(&timed)["outcome"], "timed_out", "where its clock is, its deadline counts");
    [&ends, &lives, &timed].into_iter().for_each(|id| daemon.ended_once(id));
    Some(())
}

#[test]
fn a_home_is_the_same_over_a_bind_mount() {
    if !in_own_mounts("elsewhere::a_home_is_the_same_over_a_bind_mount") {
        return;
    }
    let elsewhere = tempfile::tempdir().expect("a directory");
    let mut daemon = Daemon::builder().start();
    let (gate, later) = (daemon.gate("gate"), daemon.gate("later"));
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let stopped = daemon.launch(&["--grace", "200ms"], "exec sleep 1000");
    let _bound = bind(daemon.home(), elsewhere.path());
    let said = refusal(elsewhere.path());
    assert!(said.contains("already runs"), "one daemon for one home, by whatever path: {said}");
    daemon.kill();
    daemon.set_env("AGENTCTL_HOME", elsewhere.path().to_str().expect("a text"));
    daemon.start();
    daemon.both_live(&[&id, &stopped]);
    // Its shim publishes by the other path.
    gate.open();
    let record = daemon.ended(&id);
    assert_eq!(record["exitCode"], 7, "{record:#}");
    assert!(record["evidence"].to_string().contains("exit_file"), "{record:#}");
    assert_eq!(daemon.code(&["stop", &stopped]), Some(0));
    let new = daemon.launch(&[], &format!("{}; exit 8", later.wait()));
    daemon.kill();
    let here = daemon.home().to_owned();
    daemon.set_env("AGENTCTL_HOME", here.to_str().expect("a text"));
    daemon.start();
    daemon.both_live(&[&new]);
    later.open();
    assert_eq!(daemon.ended(&new)["exitCode"], 8);
    [&id, &stopped, &new].into_iter().for_each(|id| daemon.ended_once(id));
}

#[test]
fn a_daemon_is_not_born_inside_a_session() {
    let daemon = Daemon::new();
    let inner = tempfile::tempdir_in(daemon.home()).expect("a home");
    let program = env!("CARGO_BIN_EXE_agentctl");
    for words in ["daemon run", "daemon start", "daemon start --foreground", "daemon restart"] {
        let script = format!("AGENTCTL_HOME={} {program} {words}; echo code $?", inner.path().display());
        let id = daemon.launch(&[], &script);
        assert_eq!(daemon.ended(&id)["exitCode"], 0);
        let said = fs::read_to_string(daemon.file(&id, "stderr.log")).expect("a log");
        assert!(
            said.contains("inside a session") && said.contains("unset AGENTCTL_SESSION_ID"),
            "{words}: {said}"
        );
        assert_eq!(daemon.stdout(&id), "code 1\n", "{words}: {said}");
    }
    assert!(!inner.path().join("journal.db").exists());
    // Nor is the one outside taken away from there.
    let id = daemon.launch(&[], &format!("{program} daemon restart; echo code $?"));
    daemon.ended(&id);
    assert_eq!(daemon.stdout(&id), "code 1\n");
    daemon.is_well();
}

#[test]
fn a_daemon_that_an_agent_starts_all_the_same_ends_with_its_session_and_loses_no_code() {
    let outer = Daemon::new();
    let mut inner = Daemon::new();
    inner.terminate();
    let (gate, up) = (outer.gate("gate"), outer.path("up"));
    let program = env!("CARGO_BIN_EXE_agentctl");
    let script = format!(
        "unset AGENTCTL_SESSION_ID; export AGENTCTL_HOME={}; {program} daemon start >&2 || exit 9; \
         {program} launch -- sh -c 'trap \"exit 5\" TERM; echo up; while :; do sleep 0.05; done' >&2 || exit 9; \
         {program} launch --force -- sleep 1000 >&2 || exit 9; echo up >{up}; {}; exit 7",
        inner.home().display(),
        gate.wait()
    );
    let id = outer.launch(&[], &script);
    until("the inner daemon", || Path::new(&up).exists().then_some(()));
    let listed = inner.json(["list", "--json"]);
    let ids: Vec<String> = listed
        .as_array()
        .expect("a list")
        .iter()
        .map(|session| session["id"].as_str().expect("an id").into())
        .collect();
    assert_eq!(ids.len(), 2, "{listed:#}");
    until("the trap", || ids.iter().any(|id| inner.stdout(id).contains("up")).then_some(()));
    let itself: u32 = fs::read_to_string(inner.home().join("daemon.lock"))
        .ok()
        .and_then(|text| text.lines().next()?.parse().ok())
        .expect("its number");
    gate.open();
    assert_eq!(outer.ended(&id)["exitCode"], 7);
    outer.until_status(&id, "the end of the tree", |record| {
        record["evidence"].to_string().contains("tree_gone")
    });
    assert!(is_gone(itself), "it belonged to the session");
    // Its own sessions were in that tree as well; each ended in its own way.
    inner.start();
    let mut ends: Vec<_> = ids
        .iter()
        .map(|id| {
            let record = inner.ended(id);
            inner.ended_once(id);
            json!([record["outcome"], record["exitCode"], record["signal"]]).to_string()
        })
        .collect();
    ends.sort();
    assert_eq!(ends, [r#"["failed",5,null]"#, r#"["failed",null,"SIGTERM"]"#], "{}", inner.log());
}

/// Every process of this pid namespace but the test.
fn everybody() -> Vec<ProcessRef> {
    let entries = fs::read_dir("/proc").expect("a /proc of our own").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|pid| *pid != std::process::id())
        .filter_map(|pid| ProcessRef::of_child(pid).ok())
        .collect()
}

#[test]
fn a_host_that_goes_down_with_sessions_running_knows_their_codes_at_its_next_boot() {
    let test = "elsewhere::a_host_that_goes_down_with_sessions_running_knows_their_codes_at_its_next_boot";
    if !in_own_pids(test) {
        return;
    }
    for without_journal in [false, true] {
        let mut daemon = Daemon::new();
        let never: Gate = daemon.gate("never");
        let heeds = daemon.launch(&[], "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done");
        let dies = daemon.launch(&[], "exec sleep 1000");
        let pid = daemon.path("pid");
        // Something that it left behind does not heed TERM; its shim ends it.
        let leaves = daemon.launch(
            &["--grace", "200ms"],
            &format!(
                "(setsid sh -c 'trap \"\" TERM; echo $$ >{pid}; {}' &); trap 'exit 6' TERM; echo up; \
                 while :; do sleep 0.05; done",
                never.wait()
            ),
        );
        let deaf = daemon.launch(&[], &format!("trap '' TERM; echo up; {}", never.wait()));
        for id in [&heeds, &leaves, &deaf] {
            until("the trap", || daemon.stdout(id).contains("up").then_some(()));
        }
        written_pid(&pid);
        let shims: Vec<_> = [&heeds, &dies, &leaves].iter().map(|id| daemon.shim(id)).collect();
        // What systemd and every other init do: TERM to everybody, then patience, then KILL.
        for process in everybody() {
            process.signal(TERM).expect("a signal");
        }
        shims.iter().for_each(until_gone);
        daemon.is_over();
        for process in everybody() {
            process.signal(KILL).expect("a signal");
            until_gone(&process);
        }
        if without_journal {
            for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
                let _absent = fs::remove_file(daemon.home().join(name));
            }
        }
        let _boot = reboot(daemon.home(), OTHER_BOOT);
        daemon.start();
        for (id, verdict) in [
            (&heeds, json!(["failed", 5, null])),
            (&dies, json!(["failed", null, "SIGTERM"])),
            (&leaves, json!(["failed", 6, null])),
            // It was killed together with its shim: how is unknown, and never 0.
            (&deaf, json!(["lost", null, null])),
        ] {
            let record = daemon.ended(id);
            let found = json!([record["outcome"], record["exitCode"], record["signal"]]);
            assert_eq!(found, verdict, "without journal: {without_journal}: {record:#}\n{}", daemon.log());
            if !without_journal {
                daemon.ended_once(id);
            }
        }
        assert_eq!(stderr(&daemon.run(["list"])), "");
        daemon.is_well();
    }
}
