//! Process numbers that are used again, and orphans that nobody reaps: in pid namespaces of the tests' own, whose PID 1
//! the test itself is.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use agentctl::sys::ProcessRef;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::namespace::{in_own_pids, own_setting};
use crate::support::play::{Gate, program, until_gone};
use crate::support::wait::until;

const WITHOUT: &str = "AGENTCTL_SYS_WITHOUT";
const KILL: u8 = 9;
const STOP: u8 = 19;
const CONT: u8 = 18;

/// A process that has nothing to do with any session, writes down every signal that it gets, and is ended with the test.
struct Stranger {
    child: Child,
    heard: PathBuf,
    _gate: Gate,
}

impl Stranger {
    /// One whose program has this name, under exactly this number.
    #[track_caller]
    fn under(number: u32, name: &str, daemon: &Daemon) -> Self {
        let dir = tempfile::tempdir_in(daemon.home()).expect("a directory").keep();
        let (gate, heard, up) = (Gate::new(&dir, "gate"), dir.join("heard"), dir.join("up"));
        let script = format!(
            "for signal in HUP INT QUIT TERM USR1 USR2 URG CONT; do trap \"echo $signal >>{}\" $signal; done\n\
             echo up >{}\nwhile :; do {} || :; done",
            heard.display(),
            up.display(),
            gate.wait()
        );
        let path = dir.join(name);
        program(&path, &format!("#!/bin/sh\n{script}\n"));
        // Other threads and processes of the namespace take numbers as well.
        for _ in 0..1_000 {
            own_setting("/proc/sys/kernel/ns_last_pid", &(number - 1).to_string());
            let mut command = Command::new(&path);
            let mut child = command.stdin(Stdio::null()).spawn().expect("it runs");
            if child.id() == number {
                until("the stranger to listen", || up.exists().then_some(()));
                let comm = fs::read_to_string(format!("/proc/{number}/comm")).expect("a name");
                assert_eq!(comm.trim_end(), name);
                return Self { child, heard, _gate: gate };
            }
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
        panic!("number {number} is not to be had");
    }

    #[track_caller]
    fn is_untouched(&mut self) {
        assert!(self.child.try_wait().expect("our own child").is_none(), "a stranger was killed");
        assert!(!self.heard.exists(), "a stranger was signalled: {:?}", fs::read_to_string(&self.heard));
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ended_already = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Ends it and, as PID 1 should, reaps it: its number is free.
#[track_caller]
fn kill_and_reap(process: &ProcessRef) {
    process.signal(KILL).expect("a signal");
    reap(process);
}

#[track_caller]
fn reap(process: &ProcessRef) {
    until_gone(process);
    until("an orphan to come to us", || process.reap().expect("asked"));
    assert!(!fs::exists(format!("/proc/{}", process.pid())).expect("asked"), "its number is free");
}

#[track_caller]
fn assert_lost(record: &Value) {
    let verdict = (&record["outcome"], &record["exitCode"], &record["signal"], &record["exitStatus"]);
    assert_eq!(verdict, (&json!("lost"), &Value::Null, &Value::Null, &json!(125)), "{record:#}");
}

#[test]
fn a_stranger_under_the_leaders_number_is_never_taken_for_it_nor_signalled() {
    if !in_own_pids("identity::a_stranger_under_the_leaders_number_is_never_taken_for_it_nor_signalled") {
        return;
    }
    for (without, backend) in [("", "uring"), ("pidfs,info_exit,reap_notice", "epoll"), ("", "portable")] {
        let mut daemon = Daemon::builder().env(WITHOUT, without).backend(backend).start();
        let gate = daemon.gate("gate");
        let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
        let (shim, leader) = (daemon.shim(&id), daemon.leader(&id));
        daemon.kill();
        kill_and_reap(&shim);
        gate.open();
        reap(&leader);
        let mut stranger = Stranger::under(leader.pid(), "sh", &daemon);
        daemon.start();
        assert_lost(&daemon.ended(&id));
        assert_eq!(daemon.code(&["stop", &id, "--force"]), Some(0), "{}", daemon.log());
        stranger.is_untouched();
        daemon.ended_once(&id);
    }
}

#[test]
fn a_stranger_under_the_shims_number_is_never_taken_for_it_nor_signalled() {
    if !in_own_pids("identity::a_stranger_under_the_shims_number_is_never_taken_for_it_nor_signalled") {
        return;
    }
    for (without, backend) in [("", "uring"), ("pidfs,info_exit,reap_notice", "epoll")] {
        let mut daemon = Daemon::builder().env(WITHOUT, without).backend(backend).start();
        let gate = daemon.gate("gate");
        let id = daemon.launch(&["--timeout", "1h", "--grace", "200ms"], &gate.wait());
        let shim = daemon.shim(&id);
        daemon.kill();
        kill_and_reap(&shim);
        let mut stranger = Stranger::under(shim.pid(), "agentctl-shim", &daemon);
        daemon.start();
        daemon.both_live(&[&id]);
        // A living shim is told of a deadline that is moved; a stuck one is killed.
        assert_eq!(daemon.code(&["extend", &id, "2h"]), Some(0));
        assert_eq!(daemon.code(&["stop", &id]), Some(0), "{}", daemon.log());
        assert_eq!(daemon.status(&id)["outcome"], "cancelled");
        stranger.is_untouched();
        daemon.ended_once(&id);
    }
}

#[test]
fn a_number_used_again_while_the_daemon_does_not_look_is_a_strangers() {
    if !in_own_pids("identity::a_number_used_again_while_the_daemon_does_not_look_is_a_strangers") {
        return;
    }
    for (without, backend) in [("", "uring"), ("pidfs,info_exit,reap_notice", "epoll")] {
        let daemon = Daemon::builder().env(WITHOUT, without).backend(backend).start();
        let gate = daemon.gate("gate");
        let never = daemon.gate("never");
        let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
        let stopped = daemon.launch(&["--grace", "1h"], &format!("trap '' TERM; echo up; {}", never.wait()));
        until("the trap", || daemon.stdout(&stopped).contains("up").then_some(()));
        let leaders = [daemon.leader(&id), daemon.leader(&stopped)];
        let mut stop = daemon.command(["stop", &stopped]).spawn().expect("the command line runs");
        daemon.until_status(&stopped, "the stop", |record| record["phase"] == "stopping");
        let itself = ProcessRef::of_child(daemon.pid()).expect("our own child");
        itself.signal(STOP).expect("stopped");
        gate.open();
        leaders[1].signal(KILL).expect("a signal");
        let mut strangers: Vec<_> = leaders
            .iter()
            .map(|leader| {
                let number = leader.pid();
                let free = || (!fs::exists(format!("/proc/{number}")).unwrap_or(true)).then_some(());
                until("the shim to reap its leader", free);
                Stranger::under(number, "sh", &daemon)
            })
            .collect();
        // What was to be signalled is signalled now, if anybody is.
        itself.signal(CONT).expect("continued");
        assert_eq!(daemon.ended(&id)["exitCode"], 7, "{}", daemon.log());
        assert_eq!(stop.wait().expect("our own child").code(), Some(0));
        let record = daemon.status(&stopped);
        let verdict = (&record["outcome"], &record["signal"]);
        assert_eq!(verdict, (&json!("cancelled"), &json!("SIGKILL")), "{record:#}");
        assert_eq!(daemon.code(&["stop", &id, &stopped, "--force"]), Some(0));
        strangers.iter_mut().for_each(Stranger::is_untouched);
    }
}

#[test]
fn zombies_that_nobody_reaps_tell_how_they_ended() {
    if !in_own_pids("identity::zombies_that_nobody_reaps_tell_how_they_ended") {
        return;
    }
    let ends = [
        ("exit 7", json!(["failed", 7, null])),
        ("exit 0", json!(["completed", 0, null])),
        ("kill -KILL $$", json!(["failed", null, "SIGKILL"])),
    ];
    for without in ["", "info_exit", "pidfs,info_exit,reap_notice"] {
        let mut daemon = Daemon::builder().env(WITHOUT, without).start();
        let (gate, later) = (daemon.gate("gate"), daemon.gate("later"));
        let launch = |gate: &Gate| -> Vec<String> {
            ends.iter().map(|(end, _)| daemon.launch(&[], &format!("{}; {end}", gate.wait()))).collect()
        };
        let (down, up) = (launch(&gate), launch(&later));
        let shims: Vec<_> = down.iter().chain(&up).map(|id| daemon.shim(id)).collect();
        let leaders: Vec<_> = down.iter().map(|id| daemon.leader(id)).collect();
        daemon.kill();
        // From here on shims and leaders are orphans of ours, and we reap none.
        for shim in &shims[..ends.len()] {
            shim.signal(KILL).expect("a signal");
            until_gone(shim);
        }
        gate.open();
        leaders.iter().for_each(until_gone);
        daemon.start();
        for shim in &shims[ends.len()..] {
            shim.signal(KILL).expect("a signal");
            until_gone(shim);
        }
        let up_ids: Vec<&str> = up.iter().map(String::as_str).collect();
        for (id, (end, verdict)) in down.iter().zip(&ends) {
            let record = daemon.ended(id);
            let found = json!([record["outcome"], record["exitCode"], record["signal"]]);
            assert_eq!(&found, verdict, "{end} without {without:?}: {record:#}");
            assert!(record["evidence"].to_string().contains("proc_stat"), "{record:#}");
        }
        daemon.both_live(&up_ids);
        later.open();
        for (id, (end, verdict)) in up.iter().zip(&ends) {
            let record = daemon.ended(id);
            let found = json!([record["outcome"], record["exitCode"], record["signal"]]);
            assert_eq!(&found, verdict, "{end} without {without:?}: {record:#}");
        }
        down.iter().chain(&up).for_each(|id| daemon.ended_once(id));
    }
}
