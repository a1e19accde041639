//! A shim, a future leader, or both, killed at every system call of a launch: what came of it is a session that runs, one
//! that ended in its own way, or a launch that failed, and never anything else.

use std::collections::HashMap;
use std::fs;
use std::process::Stdio;
use std::time::Duration;

use agentctl::core::vocab::{RunId, SessionId};
use agentctl::sys::{Found, ProcessRef, clock, features};
use agentctl::wire::session_dir::{RunFiles, create_private_dir};
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::namespace::skipped;
use crate::support::play::Gate;
use crate::support::trace::{Victim, killed_at};
use crate::support::wait::{PATIENCE, until};

/// A session directory as a daemon leaves it between its order and the shim.
struct Order {
    id: String,
    files: RunFiles,
    mark: String,
}

impl Daemon {
    /// An order for a leader that leaves a mark, waits for the gate and exits with 6; like that of `model`.
    fn order(&self, model: &str, marks: &str, gate: &Gate) -> Order {
        // Of no other run of this test on this host either, whose daemon would know the process by its mark.
        let session = SessionId(uuid::Uuid::new_v4());
        let (id, files) = (session.to_string(), RunFiles::in_home(self.home(), RunId { session, run: 1 }));
        create_private_dir(files.dir()).expect("a directory");
        let created = fs::read(self.file(model, "created.1.json")).expect("a record");
        let mut created: Value = serde_json::from_slice(&created).expect("JSON");
        created["session"] = json!(id);
        created["record"]["session"] = json!(id);
        fs::write(files.dir().join("created.1.json"), created.to_string()).expect("a file");
        let mut order = self.run_files(model).read_claimed().expect("an order");
        let mark = format!("{marks}/{id}");
        let script = format!("echo ran >{mark}; {}; exit 6", gate.wait());
        order.session = session;
        order.cgroup = None;
        order.argv = vec!["/bin/sh".into(), "-c".into(), script];
        let env = format!("PATH=/usr/bin:/bin\0AGENTCTL_SESSION_ID={id}\0");
        fs::write(files.dir().join(&order.env), env).expect("an environment");
        files.write_launch(&order).expect("an order");
        Order { id, files, mark }
    }
}

#[test]
fn killed_at_any_system_call_of_a_launch_it_is_a_session_an_end_or_a_failure() {
    let mut daemon = Daemon::new();
    let model = daemon.launch(&[], "exit 0");
    daemon.ended(&model);
    let (gate, marks) = (daemon.gate("gate"), daemon.path("marks"));
    fs::create_dir(&marks).expect("a directory");
    daemon.kill();
    let mut number = 0;
    let mut orders = HashMap::new();
    let mut points = Vec::new();
    for victim in [Victim::Parent, Victim::Child, Victim::Both] {
        for point in 1.. {
            number += 1;
            let order = daemon.order(&model, &marks, &gate);
            let dir = order.files.dir().to_str().expect("a text").to_owned();
            let start = Gate::new(daemon.home(), &format!("start{number}"));
            let begun =
                || fs::exists(&order.mark).unwrap_or(false) && !order.files.dir().join("env.1").exists();
            let traced =
                killed_at(start, env!("CARGO_BIN_EXE_agentctl-shim"), &[&dir, "1"], victim, point, begun);
            let Some((traced, mut shim)) = traced else {
                skipped("launch_points", "this host lets nobody be traced");
                return;
            };
            // Reaped by the tracer, unless it goes on as our child.
            let _reaped_already = shim.try_wait();
            let whole = traced.whole;
            orders.insert(order.id.clone(), (order, victim, point, traced.child_killed, whole));
            if whole {
                points.push(point - 1);
                break;
            }
        }
    }
    // A launch makes some two hundred, half of them the future leader's.
    let traced = points[0] > 150 && points[1] > 70 && points[2] > 150;
    assert!(traced, "the launch was not traced to its end: {points:?}");
    let all_killed = orders
        .values()
        .all(|(_, victim, _, child_killed, whole)| *victim != Victim::Child || *child_killed || *whole);
    assert!(all_killed, "a future leader was not killed at its own system call");
    daemon.start();
    // Taken only when all that was left is looked at: an agent that ended before would be one that nobody held.
    daemon.launch(&[], "exit 0");
    let records = |daemon: &Daemon| -> HashMap<String, Value> {
        let list = daemon.json(["list", "-a", "--json"]);
        let list = list.as_array().expect("a list").clone();
        list.into_iter().map(|record| (record["id"].as_str().expect("an id").to_owned(), record)).collect()
    };
    // Those whose leader lives run, whatever became of their shim.
    let living: Vec<&String> = orders
        .values()
        .filter(|(order, ..)| {
            order
                .files
                .read_leader()
                .is_ok_and(|leader| matches!(ProcessRef::find(&leader.process), Found::Alive(_)))
        })
        .map(|(order, ..)| &order.id)
        .collect();
    assert!(living.len() > 3, "none of {} lives", orders.len());
    let now = records(&daemon);
    for id in &living {
        let record = &now[*id];
        assert_eq!((&record["status"], &record["outcome"]), (&json!("running"), &Value::Null), "{record:#}");
    }
    gate.open();
    let ended = until("all ends", || {
        let records = records(&daemon);
        orders.keys().all(|id| records[id]["phase"] == "ended").then_some(records)
    });
    let mut outcomes: HashMap<String, u32> = HashMap::new();
    for (order, victim, point, child_killed, whole) in orders.values() {
        let record = &ended[&order.id];
        let told = (&record["outcome"], &record["exitCode"], &record["signal"]);
        let ran = fs::exists(&order.mark).expect("asked");
        let own_end = (&json!("failed"), &json!(6), &Value::Null);
        let killed = (&json!("failed"), &Value::Null, &json!("SIGKILL"));
        let failed = (&json!("launch_failed"), &Value::Null, &Value::Null);
        let lost = (&json!("lost"), &Value::Null, &Value::Null);
        let right = if *whole {
            told == own_end
        } else if *child_killed {
            // Killed before it was the agent: it never ran.
            !ran && match victim {
                Victim::Child => told == killed,
                Victim::Both | Victim::Parent => [killed, failed, lost].contains(&told),
            }
        } else if ran {
            // It ran and nobody killed it; where the kernel keeps no status, its own may be lost.
            told == own_end || (!features::probe().info_exit && told == lost)
        } else {
            told == failed
        };
        assert!(right, "{victim:?} killed at call {point}, ran: {ran}: {record:#}\n{}", daemon.log());
        *outcomes.entry(record["outcome"].to_string()).or_default() += 1;
    }
    assert!(outcomes.len() >= 2, "{outcomes:?}");
    let terminal =
        |event: &Value| matches!(event["type"].as_str(), Some("session.stopped" | "session.error"));
    let mut told: HashMap<String, u32> = HashMap::new();
    for event in daemon.events().iter().filter(|event| terminal(event)) {
        *told.entry(event["sessionId"].as_str().expect("an id").to_owned()).or_default() += 1;
    }
    for id in orders.keys() {
        assert_eq!(told.get(id), Some(&1), "told once");
    }
}

#[test]
fn shims_killed_during_launches_under_a_daemon_leave_no_client_waiting_and_no_ghost() {
    let daemon = Daemon::new();
    let (gate, marks) = (daemon.gate("gate"), daemon.path("marks"));
    fs::create_dir(&marks).expect("a directory");
    let script = format!("echo ran >{marks}/$AGENTCTL_SESSION_ID; {}; exit 6", gate.wait());
    for round in 0..40_u32 {
        let launch = ["launch", "--", "sh", "-c", &script];
        let known = children(&daemon);
        let client = daemon.command(launch).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut client = client.expect("the command line runs");
        // Both without sleeping: all of it is over in milliseconds.
        let begun = clock::now().mono;
        let shim = loop {
            match children(&daemon).into_iter().find(|pid| !known.contains(pid)) {
                Some(shim) => break shim,
                None => assert!(clock::now().mono.since(begun) < PATIENCE, "no shim is started"),
            }
        };
        let seen = clock::now().mono;
        while clock::now().mono.since(seen) < Duration::from_micros(u64::from(round) * 150) {}
        // Gone already if the launch was over. Its agent is then the daemon's child, and must not be the next round's
        // "shim".
        if let Ok(shim) = ProcessRef::of_child(shim) {
            let _gone = shim.signal(9);
            until("the shim's end", || (shim.has_ended() == Some(true)).then_some(()));
        }
        until("the client's answer", || client.try_wait().expect("our own child"));
    }
    let list = daemon.json(["list", "-a", "--json"]);
    let ids: Vec<_> = list
        .as_array()
        .expect("a list")
        .iter()
        .map(|record| record["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(ids.len(), 40);
    gate.open();
    for id in &ids {
        let record = daemon.ended(id);
        let ran = fs::exists(format!("{marks}/{id}")).expect("asked");
        let expected = if ran { json!(["failed", 6]) } else { json!(["launch_failed", null]) };
        assert_eq!(json!([record["outcome"], record["exitCode"]]), expected, "{record:#}\n{}", daemon.log());
        daemon.ended_once(id);
    }
    daemon.is_well();
}

/// The numbers of the daemon's children.
fn children(daemon: &Daemon) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("a daemon").flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}
