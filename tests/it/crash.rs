//! Whatever crashes: the daemon, the shim, both. Every run keeps its one true verdict.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use agentctl::core::vocab::Wall;
use agentctl::sys::{ProcessRef, clock};
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::patience::in_order;
use crate::support::play::{Gate, goes_on, is_gone, micros, until_gone, written_pid};
use crate::support::wait::until;

const KILL: u8 = 9;

#[test]
fn two_sessions_outlive_restarts_and_each_gets_its_own_verdict_at_its_own_time() {
    let mut daemon = Daemon::new();
    let (one, two) = (daemon.gate("one"), daemon.gate("two"));
    let first = daemon.launch(&["--name", "first"], &ends_with(&daemon, &one, "first", 11));
    // Started apart: the second only when the first has long been seen running.
    daemon.both_live(&[&first]);
    daemon.terminate();
    daemon.start();
    let second = daemon.launch(&["--name", "second"], &ends_with(&daemon, &two, "second", 22));
    daemon.both_live(&[&first, &second]);
    daemon.terminate();
    daemon.start();
    daemon.both_live(&[&first, &second]);
    daemon.kill();
    daemon.start();
    daemon.both_live(&[&first, &second]);
    one.open();
    daemon.ended_at_its_own_time(&first, "first", 11);
    daemon.both_live(&[&second]);
    daemon.kill();
    daemon.start();
    daemon.both_live(&[&second]);
    two.open();
    daemon.ended_at_its_own_time(&second, "second", 22);
    [first, second].iter().for_each(|id| daemon.ended_once(id));
}

/// Waits, writes down the time, and ends.
fn ends_with(daemon: &Daemon, gate: &Gate, name: &str, code: u8) -> String {
    format!("{}; date +%s%6N >{}; exit {code}", gate.wait(), daemon.path(&format!("{name}.stamp")))
}

impl Daemon {
    /// All views agree that these sessions, and no others, run.
    #[track_caller]
    pub(crate) fn both_live(&self, ids: &[&str]) {
        let listed = self.json(["list", "--json"]);
        let mut listed: Vec<_> = listed.as_array().expect("a list").iter().map(|s| s["id"].clone()).collect();
        let mut wanted: Vec<_> = ids.iter().map(|id| json!(id)).collect();
        listed.sort_by_key(Value::to_string);
        wanted.sort_by_key(Value::to_string);
        assert_eq!(listed, wanted);
        let all = self.json(["list", "-a", "--json"]);
        let table = self.run(["list", "-a"]);
        for id in ids {
            let of_all =
                all.as_array().expect("a list").iter().find(|session| session["id"] == *id).expect("listed");
            for record in [of_all, &self.status(id)] {
                let seen = (&record["status"], &record["phase"], &record["outcome"], &record["stoppedAt"]);
                assert_eq!(
                    seen,
                    (&json!("running"), &json!("running"), &Value::Null, &Value::Null),
                    "{record:#}"
                );
            }
            assert!(String::from_utf8_lossy(&table.stdout).contains(&id[..8]));
        }
    }

    /// Its own code, and its own time: between what the session itself wrote down and this moment.
    #[track_caller]
    pub(crate) fn ended_at_its_own_time(&self, id: &str, name: &str, code: u8) {
        self.ended(id);
        self.ended_before(clock::now().wall, id, name, code);
    }

    /// The same, of one that was seen to have ended by then.
    #[track_caller]
    fn ended_before(&self, seen: Wall, id: &str, name: &str, code: u8) {
        let record = self.ended(id);
        assert_eq!(record["exitCode"], code, "{record:#}");
        let stamp = fs::read_to_string(self.path(&format!("{name}.stamp"))).expect("a stamp");
        let stamp: i64 = stamp.trim().parse().expect("a number");
        // Records tell milliseconds.
        let own = stamp / 1_000 * 1_000..=seen.0;
        assert!(own.contains(&micros(&record["stoppedAt"])), "not within {own:?}: {record:#}");
        assert!(record["meta"]["stoppedAtNote"].is_null(), "{record:#}");
    }
}

#[test]
fn sessions_that_end_while_the_daemon_is_down_keep_code_and_time() {
    let mut daemon = Daemon::new();
    let (gate, later) = (daemon.gate("gate"), daemon.gate("later"));
    let names: Vec<_> = (1..=8_u8).map(|n| (n, format!("s{n}"))).collect();
    let down: Vec<_> = names
        .iter()
        .map(|(n, name)| (*n, name, daemon.launch(&[], &ends_with(&daemon, &gate, name, *n))))
        .collect();
    let live = daemon.launch(&[], &ends_with(&daemon, &later, "live", 99));
    daemon.kill();
    gate.open();
    for (_, name, id) in &down {
        until("the exit file", || daemon.run_files(id).exit_path().exists().then_some(()));
        assert!(fs::metadata(daemon.path(&format!("{name}.stamp"))).is_ok());
    }
    // The next daemon notices later than this.
    let seen = clock::now().wall;
    daemon.start();
    for (code, name, id) in &down {
        let record = daemon.status(id);
        // Known with the first answer; told as soon as it is committed.
        let known = matches!(record["phase"].as_str(), Some("ending" | "ended"));
        assert!(known, "right after the restart: {record:#}");
        daemon.ended_before(seen, id, name, *code);
        daemon.ended_once(id);
    }
    daemon.both_live(&[&live]);
    later.open();
    daemon.ended_at_its_own_time(&live, "live", 99);
}

#[test]
fn a_killed_shim_does_not_end_its_session_and_the_kernel_tells_the_code() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    daemon.kill_shim(&id);
    daemon.both_live(&[&id]);
    gate.open();
    let record = daemon.ended(&id);
    assert_eq!((&record["exitCode"], &record["outcome"]), (&json!(7), &json!("failed")), "{record:#}");
    daemon.ended_once(&id);
}

#[test]
fn a_shim_killed_after_a_restart_leaves_the_code_to_the_kernel_too() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    daemon.kill();
    daemon.start();
    daemon.kill_shim(&id);
    daemon.both_live(&[&id]);
    gate.open();
    let record = daemon.ended(&id);
    assert_eq!(record["exitCode"], 7, "{record:#}\n{}", daemon.log());
    daemon.ended_once(&id);
}

#[test]
fn a_shim_killed_while_the_daemon_is_down_still_leaves_a_running_session() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    daemon.kill_with_shim(&id);
    daemon.start();
    daemon.both_live(&[&id]);
    gate.open();
    let record = daemon.ended(&id);
    assert_eq!(record["exitCode"], 7, "{record:#}\n{}", daemon.log());
}

#[test]
fn a_code_that_nobody_saw_is_lost_and_never_invented() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let leader = daemon.leader(&id);
    daemon.kill_with_shim(&id);
    gate.open();
    until_gone(&leader);
    daemon.start();
    let record = daemon.ended(&id);
    // Where nobody has reaped it yet, its zombie tells.
    if record["outcome"] == "lost" {
        let verdict =
            (&record["exitCode"], &record["signal"], &record["exitStatus"], &record["meta"]["stoppedAtNote"]);
        assert_eq!(verdict, (&Value::Null, &Value::Null, &json!(125), &json!("no later than")), "{record:#}");
    } else {
        assert_eq!(record["exitCode"], 7, "{record:#}");
    }
    daemon.ended_once(&id);
}

#[test]
fn shim_and_leader_killed_together_is_death_by_that_signal() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &gate.wait());
    let leader = daemon.leader(&id);
    let shim = daemon.shim(&id);
    shim.signal(KILL).expect("a signal");
    leader.signal(KILL).expect("a signal");
    let record = daemon.ended(&id);
    assert_eq!((&record["signal"], &record["exitStatus"]), (&json!("SIGKILL"), &json!(137)), "{record:#}");
    daemon.ended_once(&id);
}

#[test]
fn a_stop_works_on_the_tree_of_a_dead_shim() {
    let daemon = Daemon::new();
    let (gate, pid) = (daemon.gate("gate"), daemon.path("pid"));
    let child =
        format!("(setsid sh -c 'trap \"\" TERM; echo $$ >{pid}; {}' &); {}", gate.wait(), gate.wait());
    let id = daemon.launch(&["--grace", "300ms"], &child);
    let child = written_pid(&pid);
    daemon.kill_shim(&id);
    let output = daemon.run(["stop", &id]);
    assert!(output.status.success() && is_gone(child), "{output:?}\n{}", daemon.log());
    let record = daemon.status(&id);
    assert_eq!(
        (&record["outcome"], &record["signal"]),
        (&json!("cancelled"), &json!("SIGTERM")),
        "{record:#}"
    );
}

impl Daemon {
    /// Kills the shim and waits until the daemon knows.
    #[track_caller]
    pub(crate) fn kill_shim(&self, id: &str) -> ProcessRef {
        let shim = self.shim(id);
        shim.signal(KILL).expect("a signal");
        // The daemon reaps its own child, or PID 1 does.
        until_gone(&shim);
        shim
    }
}

#[test]
fn a_stop_goes_on_after_the_daemon_was_killed_in_it() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    in_order(Duration::from_secs(2), |grace| {
        let flags = ["--grace", &format!("{}ms", grace.as_millis())];
        let id = daemon.launch(&flags, &format!("trap '' TERM; echo up; {}", gate.wait()));
        until("the trap", || daemon.stdout(&id).contains("up").then_some(()));
        let (leader, asked) = (daemon.leader(&id), clock::now().mono);
        let mut stop =
            daemon.command(["stop", &id]).stderr(Stdio::null()).spawn().expect("the command line runs");
        daemon.until_stopping(&id);
        daemon.kill();
        stop.wait().expect("our own child");
        let interrupted = goes_on(&leader, asked, grace);
        daemon.start();
        let record = daemon.ended(&id);
        assert_eq!(
            (&record["outcome"], &record["signal"]),
            (&json!("cancelled"), &json!("SIGKILL")),
            "{record:#}"
        );
        until_gone(&leader);
        daemon.ended_once(&id);
        interrupted
    });
}

#[test]
fn a_stop_that_came_through_while_the_daemon_was_down_is_still_a_stop() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&["--grace", "1h"], &format!("trap '' TERM; echo up; {}; exit 5", gate.wait()));
    until("the trap", || daemon.stdout(&id).contains("up").then_some(()));
    let mut stop =
        daemon.command(["stop", &id]).stderr(Stdio::null()).spawn().expect("the command line runs");
    daemon.until_status(&id, "the stop", |record| record["phase"] == "stopping");
    daemon.kill();
    stop.wait().expect("our own child");
    gate.open();
    until("the exit file", || daemon.run_files(&id).exit_path().exists().then_some(()));
    daemon.start();
    let record = daemon.ended(&id);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("cancelled"), &json!(5)), "{record:#}");
}

#[test]
fn a_planted_exit_file_of_a_living_session_is_put_aside() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let forged = daemon.forged_exit(&id, 3);
    daemon.plant(&id, &forged);
    daemon.both_live(&[&id]);
    let record = daemon.status(&id);
    assert!(record["evidence"].to_string().contains("rejected"), "{record:#}");
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
    daemon.ended_once(&id);
}

#[test]
fn an_exit_file_of_another_leader_is_put_aside_also_at_a_start() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    let mut forged: Value = serde_json::from_slice(&daemon.forged_exit(&id, 3)).expect("JSON");
    forged["leader"]["pid"] = json!(4_000_000);
    daemon.kill();
    fs::write(daemon.run_files(&id).exit_path(), format!("{forged}\n")).expect("a file");
    daemon.start();
    daemon.put_aside(&id);
    daemon.both_live(&[&id]);
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
}

#[test]
fn a_garbled_exit_file_is_put_aside() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    daemon.plant(&id, b"{\"v\":1,\"status\":0");
    daemon.both_live(&[&id]);
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
}

#[test]
fn a_garbled_exit_file_is_put_aside_also_at_a_start() {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    daemon.kill();
    fs::write(daemon.run_files(&id).exit_path(), "garbage").expect("a file");
    daemon.start();
    daemon.put_aside(&id);
    daemon.both_live(&[&id]);
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7);
}

#[test]
fn files_in_exits_that_belong_to_nobody_are_left_alone() {
    let mut daemon = Daemon::new();
    for name in ["0b5cb4a8-4f0e-4f1e-9d0b-0123456789ab.1.json", "notes.txt", ".hidden", "x.1.json"] {
        fs::write(daemon.home().join("exits").join(name), "?").expect("a file");
    }
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.code(&["run", "--", "sh", "-c", "exit 4"]), Some(4));
    assert!(daemon.home().join("exits/notes.txt").exists());
}

impl Daemon {
    /// The exit file that this session's own shim would write, had its leader ended with this code.
    #[track_caller]
    pub(crate) fn forged_exit(&self, id: &str, code: u8) -> Vec<u8> {
        let model = self.launch(&[], &format!("exit {code}"));
        self.ended(&model);
        let text = until("an archived exit file", || fs::read(self.file(&model, "exit.1.json")).ok());
        let mut exit: Value = serde_json::from_slice(&text).expect("JSON");
        let leader = fs::read(self.file(id, "leader.1.json")).expect("an identity");
        let leader: Value = serde_json::from_slice(&leader).expect("JSON");
        exit["session"] = json!(id);
        exit["leader"] = leader["process"].clone();
        format!("{exit}\n").into_bytes()
    }

    /// Publishes such a file, as a shim does, and waits until it is put aside.
    #[track_caller]
    fn plant(&self, id: &str, bytes: &[u8]) {
        let path = self.run_files(id).exit_path();
        let beside = self.home().join("planted");
        fs::write(&beside, bytes).expect("a file");
        fs::rename(beside, path).expect("a file in exits/");
        self.put_aside(id);
    }

    #[track_caller]
    fn put_aside(&self, id: &str) {
        let path = self.run_files(id).exit_path();
        let aside = format!("{}.rejected", path.display());
        until("the file to be put aside", || fs::metadata(&aside).ok());
        assert!(!path.exists());
    }
}

#[test]
fn what_ended_by_itself_before_its_deadline_is_not_timed_out_by_a_late_daemon() {
    in_order(Duration::from_secs(1), found_by_a_late_daemon);
}

/// Nothing, where a deadline came before the daemon was killed or the early one ended.
fn found_by_a_late_daemon(time: Duration) -> Option<()> {
    let mut daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let early = daemon.launch(&["--timeout", "10m"], &format!("{}; exit 4", gate.wait()));
    let late = daemon.launch(&["--timeout", "10m"], "exec sleep 1000");
    let due = daemon.killed_before_deadlines(&[&early, &late], time)?;
    gate.open();
    daemon.exit_before(&early, due[0])?;
    until("the deadlines to pass", || (clock::now().wall > due[1]).then_some(()));
    daemon.start();
    let record = daemon.ended(&early);
    assert_eq!((&record["outcome"], &record["exitCode"]), (&json!("failed"), &json!(4)), "{record:#}");
    let record = daemon.ended(&late);
    assert_eq!((&record["outcome"], &record["exitStatus"]), (&json!("timed_out"), &json!(124)), "{record:#}");
    assert_eq!(daemon.event_types(&early), ["session.started", "session.error"]);
    assert_eq!(daemon.event_types(&late), ["session.started", "session.timeout", "session.error"]);
    Some(())
}

#[test]
fn launches_cut_off_by_a_crash_are_either_sessions_or_failures_and_never_ghosts() {
    let mut daemon = Daemon::new();
    let (gate, marks) = (daemon.gate("gate"), daemon.path("marks"));
    fs::create_dir(&marks).expect("a directory");
    let script = format!("touch {marks}/$AGENTCTL_SESSION_ID; {}; exit 6", gate.wait());
    for _ in 0..3 {
        let before = daemon.json(["list", "-a", "--json"]).as_array().map_or(0, Vec::len);
        let launch = ["launch", "--", "sh", "-c", &script];
        let mut cut: Vec<_> = (0..4)
            .map(|_| {
                daemon.command(launch).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs")
            })
            .collect();
        until("a launch to be recorded", || {
            let list = daemon.run(["list", "-a", "--json"]);
            let list: Value = serde_json::from_slice(&list.stdout).ok()?;
            (list.as_array()?.len() > before).then_some(())
        });
        daemon.kill();
        daemon.start();
        // Each asks again under its key, so all four come to be.
        cut.iter_mut().for_each(|child| drop(child.wait()));
    }
    gate.open();
    let ids: Vec<String> = daemon
        .json(["list", "-a", "--json"])
        .as_array()
        .expect("a list")
        .iter()
        .map(|session| session["id"].as_str().expect("an id").to_owned())
        .collect();
    for id in &ids {
        let record = daemon.ended(id);
        let ran = fs::metadata(format!("{marks}/{id}")).is_ok();
        let expected = if ran { json!(["failed", 6]) } else { json!(["launch_failed", null]) };
        assert_eq!(json!([record["outcome"], record["exitCode"]]), expected, "{record:#}");
        daemon.ended_once(id);
    }
    assert_eq!(
        fs::read_dir(&marks).expect("marks").count(),
        ids.iter().filter(|id| fs::metadata(format!("{marks}/{id}")).is_ok()).count()
    );
}
