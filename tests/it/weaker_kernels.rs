//! Kernels, containers and limits that give less: every promise holds that does not need what is missing, and what gets
//! weaker is said by `doctor`.
//!
//! What is missing is simulated by `AGENTCTL_SYS_WITHOUT`, at the calls themselves, and by seccomp where a container does
//! it so.

use std::fs;

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, home, refusal_with};
use crate::support::namespace::{Denied, under_seccomp};
use crate::support::play::{is_gone, stderr, stdout, until_gone, written_pid};
use crate::support::wait::until;

const WITHOUT: &str = "AGENTCTL_SYS_WITHOUT";
/// Linux 6.14, 6.13, 5.10, and everything at once.
const HOSTS: [&str; 5] = [
    "info_exit",
    "pidfs,info_exit",
    "pidfs,info_exit,reap_notice,io_uring",
    "inotify",
    "pidfs,info_exit,reap_notice,io_uring,inotify",
];
fn lacking(what: &str) -> Daemon {
    Daemon::builder().env(WITHOUT, what).start()
}

/// All that every host must be able to do.
#[track_caller]
fn keeps_its_promises(daemon: &mut Daemon) {
    let (one, two) = (daemon.gate("one"), daemon.gate("two"));
    let first = daemon.launch(&[], &format!("{}; exit 11", one.wait()));
    let second = daemon.launch(&[], &format!("{}; exit 22", two.wait()));
    let down = daemon.launch(&[], &format!("{}; exit 33", one.wait()));
    daemon.both_live(&[&first, &second, &down]);
    daemon.kill();
    one.open();
    for id in [&first, &down] {
        until("the exit file", || daemon.run_files(id).exit_path().exists().then_some(()));
    }
    daemon.start();
    assert_eq!(daemon.ended(&first)["exitCode"], 11, "{}", daemon.log());
    assert_eq!(daemon.ended(&down)["exitCode"], 33, "{}", daemon.log());
    daemon.both_live(&[&second]);
    two.open();
    assert_eq!(daemon.ended(&second)["exitCode"], 22, "{}", daemon.log());
    // Its tree is found and ended, also one that was started before this life of the daemon.
    let pid = daemon.path("pid");
    let never = daemon.gate("never");
    let script =
        format!("(setsid sh -c 'trap \"\" TERM; echo $$ >{pid}; {}' &); {}", never.wait(), never.wait());
    let stopped = daemon.launch(&["--grace", "200ms"], &script);
    let child = written_pid(&pid);
    daemon.kill();
    daemon.start();
    assert_eq!(daemon.code(&["stop", &stopped]), Some(0), "{}", daemon.log());
    assert!(is_gone(child));
    assert_eq!(daemon.status(&stopped)["outcome"], "cancelled");
    let timed = daemon.launch(&["--timeout", "300ms", "--grace", "100ms"], "exec sleep 1000");
    assert_eq!(daemon.ended(&timed)["outcome"], "timed_out");
    for id in [&first, &second, &down, &stopped, &timed] {
        daemon.ended_once(id);
    }
}

#[test]
fn weaker_hosts_keep_every_promise_that_needs_no_more() {
    for what in HOSTS {
        keeps_its_promises(&mut lacking(what));
    }
}

#[test]
fn a_killed_shim_does_not_end_its_session_on_a_weaker_host() {
    for what in HOSTS {
        let daemon = lacking(what);
        let gate = daemon.gate("gate");
        let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
        daemon.kill_shim(&id);
        daemon.both_live(&[&id]);
        gate.open();
        // The orphan came to the daemon, which reaps it.
        assert_eq!(daemon.ended(&id)["exitCode"], 7, "{what}: {}", daemon.log());
        daemon.ended_once(&id);
    }
}

/// Unknown, and told as that.
#[track_caller]
fn assert_lost(record: &Value) {
    let verdict = (
        &record["outcome"],
        &record["exitCode"],
        &record["signal"],
        &record["exitStatus"],
        &record["status"],
    );
    let lost = (&json!("lost"), &Value::Null, &Value::Null, &json!(125), &json!("stopped"));
    assert_eq!(verdict, lost, "{record:#}");
    assert_eq!(record["meta"]["stoppedAtNote"], "no later than", "{record:#}");
}

#[test]
fn a_code_that_no_kernel_kept_is_lost_and_never_0() {
    for what in ["info_exit", "pidfs,info_exit,reap_notice"] {
        for code in [0, 7] {
            let mut daemon = lacking(what);
            let gate = daemon.gate("gate");
            let id = daemon.launch(&[], &format!("{}; exit {code}", gate.wait()));
            let leader = daemon.leader(&id);
            daemon.kill_with_shim(&id);
            gate.open();
            until_gone(&leader);
            // By PID 1, or by this program where another test has made it adopt orphans.
            until("the leader to be reaped", || {
                let by_us = leader.reap().expect("asked").is_some();
                (by_us || !fs::exists(format!("/proc/{}", leader.pid())).expect("asked")).then_some(())
            });
            daemon.start();
            assert_lost(&daemon.ended(&id));
            daemon.ended_once(&id);
        }
    }
}

#[test]
fn a_shim_killed_after_a_restart_is_lost_or_told_by_a_zombie_and_never_0() {
    for what in ["info_exit", "pidfs,info_exit,reap_notice,io_uring"] {
        let mut daemon = lacking(what);
        let gate = daemon.gate("gate");
        let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
        daemon.kill();
        daemon.start();
        daemon.kill_shim(&id);
        daemon.both_live(&[&id]);
        gate.open();
        let record = daemon.ended(&id);
        if record["outcome"] == "lost" {
            assert_lost(&record);
        } else {
            assert_eq!(record["exitCode"], 7, "{what}: {record:#}");
            assert!(record["evidence"].to_string().contains("proc_stat"), "{what}: {record:#}");
        }
        daemon.ended_once(&id);
    }
}

#[test]
fn without_io_uring_epoll_is_used_and_said() {
    let daemon = lacking("io_uring");
    let health = daemon.json(["daemon", "status", "--json"]);
    assert_eq!(health["backend"], "epoll", "{health:#}");
    assert!(health["backendWhy"].as_str().is_some_and(|why| why.contains("io_uring refused")), "{health:#}");
    daemon.is_well();
}

#[test]
fn a_backend_that_the_host_refuses_is_not_replaced_in_silence() {
    let home = home();
    let said = refusal_with(home.path(), &[(WITHOUT, "io_uring")], &["--backend", "uring"]);
    assert!(said.contains("cannot use the uring backend") && said.contains("epoll"), "{said}");
}

#[test]
fn without_inotify_ends_are_seen_within_a_second_or_so() {
    for backend in ["uring", "epoll"] {
        let daemon = Daemon::builder().env(WITHOUT, "inotify").backend(backend).start();
        daemon.until_said("exits/ cannot be watched");
        daemon.still_sees(3);
    }
}

#[test]
fn doctor_says_what_gets_weaker() {
    let daemon = lacking("pidfs,info_exit,reap_notice,io_uring,inotify");
    for (name, state, word) in [
        ("pidfs handles", "note", "start time"),
        ("exit status", "note", "lost"),
        ("reap notice", "note", "not told"),
        ("io_uring", "note", "epoll"),
        ("inotify", "problem", "looked for"),
        ("testing aid", "note", WITHOUT),
    ] {
        let found = daemon.finding(name).unwrap_or_else(|| panic!("no finding {name}"));
        let told = found["found"].as_str().is_some_and(|found| found.contains(word));
        assert!(found["state"] == state && told, "{found:#}");
    }
    assert_eq!(daemon.code(&["doctor"]), Some(1), "no inotify instance is a problem");
    let strong = lacking("");
    assert!(strong.finding("testing aid").is_none());
}

#[test]
fn what_is_to_be_done_without_is_known_or_refused_and_no_session_hears_of_it() {
    let home = home();
    let said = refusal_with(home.path(), &[(WITHOUT, "pidfs,io-uring")], &[]);
    assert!(said.contains("\"io-uring\"") && said.contains("info_exit"), "{said}");
    let daemon = lacking("pidfs");
    let id = daemon.launch(&[], "env");
    assert_eq!(daemon.ended(&id)["exitCode"], 0);
    assert!(!daemon.stdout(&id).contains(WITHOUT), "{}", daemon.stdout(&id));
    let leader = fs::read_to_string(daemon.file(&id, "leader.1.json")).expect("an identity");
    assert!(!leader.contains("handle"), "the shim was told: {leader}");
}

#[test]
fn under_a_containers_seccomp_filter_everything_is_as_exact() {
    let test = "weaker_kernels::under_a_containers_seccomp_filter_everything_is_as_exact";
    // What containers deny by default to those without CAP_DAC_READ_SEARCH; the errno differs by runtime.
    if !under_seccomp(test, &[Denied::IoUring, Denied::OpenByHandle]) {
        return;
    }
    let mut daemon = Daemon::new();
    let health = daemon.json(["daemon", "status", "--json"]);
    assert_eq!(health["backend"], "epoll", "{health:#}");
    keeps_its_promises(&mut daemon);
    let ring = daemon.finding("io_uring").expect("a finding");
    assert!(ring["found"].to_string().contains("seccomp"), "{ring:#}");
    let handles = daemon.finding("pidfs handles").expect("a finding");
    assert_eq!(handles["state"], "ok", "handles are compared, if not opened: {handles:#}");
    let gate = daemon.gate("gate");
    let id = daemon.launch(&[], &format!("{}; exit 7", gate.wait()));
    daemon.kill();
    daemon.start();
    daemon.kill_shim(&id);
    daemon.both_live(&[&id]);
    gate.open();
    assert_eq!(daemon.ended(&id)["exitCode"], 7, "{}", daemon.log());
    let table = daemon.run(["doctor"]);
    assert_eq!(table.status.code(), Some(0), "{}{}", stdout(&table), stderr(&table));
}
