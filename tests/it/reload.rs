//! The configuration read again while sessions run: by command and by SIGHUP, good and bad.

use std::fs;

use agentctl::sys::ProcessRef;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::Endpoint;
use crate::support::wait::until;

fn configure(daemon: &Daemon, config: &Value) {
    fs::write(daemon.home().join("config.json"), config.to_string()).expect("a configuration");
}

fn reload(daemon: &Daemon) -> (Option<i32>, String, String) {
    let output = daemon.run(["daemon", "reload"]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_reloaded_endpoint_hears_of_the_next_end_and_defaults_hold_for_the_next_launch() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let before = daemon.launch(&[], &gate.wait());
    let endpoint = Endpoint::start();
    configure(
        &daemon,
        &json!({"metrics_addr": null, "durability": "normal", "webhook_url": endpoint.url(), "timeout": "0"}),
    );
    assert_eq!(reload(&daemon), (Some(0), "Configuration read again\n".into(), String::new()));
    gate.open();
    daemon.ended(&before);
    let after = daemon.launch(&[], "exit 0");
    assert_eq!(daemon.ended(&after)["deadline"], Value::Null, "the timeout is none now");
    for id in [&before, &after] {
        endpoint.wait_about(id, 1);
    }
}

#[test]
fn what_was_owed_to_an_endpoint_that_was_taken_out_goes_out_when_it_is_back() {
    let mut endpoint = Endpoint::start();
    let daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    endpoint.stop();
    let id = daemon.launch(&[], "exit 0");
    daemon.ended(&id);
    configure(&daemon, &json!({"metrics_addr": null, "durability": "normal"}));
    assert_eq!(reload(&daemon).0, Some(0));
    endpoint.resume();
    configure(&daemon, &json!({"metrics_addr": null, "durability": "normal", "webhook_url": endpoint.url()}));
    assert_eq!(reload(&daemon).0, Some(0));
    endpoint.wait_about(&id, 1);
}

#[test]
fn a_configuration_that_is_wrong_changes_nothing_and_is_said_where_it_was_asked() {
    let endpoint = Endpoint::start();
    let daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    configure(&daemon, &json!({"webhok_url": "http://127.0.0.1:1/"}));
    let (code, out, err) = reload(&daemon);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains("did you mean \"webhook_url\"?") && err.contains("goes on with the one"), "{err}");
    let id = daemon.launch(&[], "exit 3");
    endpoint.wait_about(&id, 1);
}

#[test]
fn what_counts_from_the_next_start_is_named() {
    let daemon = Daemon::new();
    configure(&daemon, &json!({"metrics_addr": null, "durability": "full"}));
    let (code, out, _) = reload(&daemon);
    assert_eq!(code, Some(0));
    assert!(out.contains("from the next start of the daemon (agentctl daemon restart): durability"), "{out}");
    assert_eq!(daemon.json(["daemon", "status", "--json"])["durability"], "normal");
}

#[test]
fn a_hangup_reads_the_configuration_again_and_ends_nothing() {
    let daemon = Daemon::new();
    let endpoint = Endpoint::start();
    let process = ProcessRef::of_child(daemon.pid()).expect("our own child");
    let hang_up = || process.signal(1).expect("our own child");
    configure(&daemon, &json!({"retention_days": -1}));
    hang_up();
    until("the bad configuration is told", || daemon.log().contains("retention_days").then_some(()));
    configure(&daemon, &json!({"metrics_addr": null, "durability": "normal", "webhook_url": endpoint.url()}));
    hang_up();
    until("the good one is told", || daemon.log().contains("was read again").then_some(()));
    let id = daemon.launch(&[], "exit 0");
    endpoint.wait_about(&id, 1);
}
