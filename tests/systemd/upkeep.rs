//! What else becomes of a service: starts that take time or fail, commands that replace the daemon, ends that happen while
//! there is none; and what the manager has to say against the units themselves.

use std::thread;

use serde_json::{Value, json};

use crate::wait::until;
use crate::{Guest, Kind, TEMPLATE, USER};

#[test]
fn nothing_is_to_be_said_against_the_units() {
    let Some(guest) = Guest::boot("agentctl-verify") else { return };
    let said = guest.root("systemd-analyze verify --man=no agentctl@dev1.service agentctl@dev1.socket 2>&1");
    assert_eq!(said, "");
    let said = guest.user("systemd-analyze --user verify --man=no agentctl.service agentctl.socket 2>&1");
    assert_eq!(said, "");
}

#[test]
fn the_user_unit_is_kept_up() {
    let Some(guest) = Guest::boot("agentctl-upkeep") else { return };
    guest.user("systemctl --user enable -q --now agentctl.socket");
    is_kept_up(&guest, USER);
    // The manager stops its own service when the user's command asks for it.
    let said = guest.user("agentctl daemon stop");
    assert!(said.contains("the next command starts it again"), "{said}");
    assert_eq!(guest.shows(USER, "ActiveState"), "inactive");
    guest.user("agentctl daemon stop; test $? = 3");
    assert_eq!(
        guest.shows(USER, "ActiveState"),
        "inactive",
        "a daemon that is stopped is not started for it"
    );
    assert_eq!(guest.running().len(), 1);
}

#[test]
fn the_template_is_kept_up() {
    let Some(guest) = Guest::boot("agentctl-upkeep-template") else { return };
    guest.root("systemctl enable -q --now agentctl@dev1.socket");
    is_kept_up(&guest, TEMPLATE);
    let said = guest.user("agentctl daemon stop 2>&1; test $? = 1");
    assert!(said.contains("has started the daemon again"), "{said}");
    assert_eq!(guest.running().len(), 1);
}

/// One session lives on.
fn is_kept_up(guest: &Guest, kind: Kind) {
    let id = guest.json("launch --force --json --timeout 0 -- sleep 10000")["id"].clone();
    a_start_is_told_when_requests_are_answered(guest, kind);
    a_refused_configuration_fails_the_start(guest, kind);
    an_end_without_a_daemon_is_told(guest, kind);
    let old = guest.shows(kind, "MainPID");
    let said = guest.user("agentctl daemon restart");
    let new = guest.shows(kind, "MainPID");
    assert!(new != old && said == format!("Daemon restarted (PID {new})\n"), "{old}, then {new}: {said}");
    assert_eq!(guest.json("list --json")[0]["id"], id);
}

fn a_start_is_told_when_requests_are_answered(guest: &Guest, kind: Kind) {
    let Kind { systemctl, service, .. } = kind;
    let directory = if kind.by_user {
        "/etc/systemd/user/agentctl.service.d"
    } else {
        "/etc/systemd/system/agentctl@.service.d"
    };
    guest.systemctl(kind, &format!("stop {service}"));
    let waits = "/bin/sh -c 'until [ -e /home/dev1/go ]; do sleep 0.05; done; exec agentctl daemon run'";
    guest.root(&format!(
        "mkdir -p {directory}; printf '%s\\n' '[Service]' 'ExecStart=' \"ExecStart={waits}\" >{directory}/wait.conf"
    ));
    guest.systemctl(kind, &format!("daemon-reload; {systemctl} start --no-block {service}"));
    until("the start to begin", || (guest.shows(kind, "ActiveState") == "activating").then_some(()));
    thread::scope(|scope| {
        let words = format!(
            "start {service} && test -e /home/dev1/go && {systemctl} show --value -p StatusText {service}"
        );
        let starting = scope.spawn(move || guest.systemctl(kind, &words));
        let asking = scope.spawn(|| guest.user("agentctl list --json && test -e ~/go"));
        assert_eq!(guest.shows(kind, "SubState"), "start");
        guest.user("touch ~/go");
        let status = starting.join().expect("a start");
        assert!(status.contains("1 sessions"), "it comes with the word that it is ready: {status}");
        asking.join().expect("who came too early is answered");
    });
    guest.root(&format!("rm -r {directory} /home/dev1/go"));
    guest.systemctl(kind, "daemon-reload");
}

/// It is said where it was asked; once it is good the daemon comes by itself.
fn a_refused_configuration_fails_the_start(guest: &Guest, kind: Kind) {
    let Kind { systemctl, service, .. } = kind;
    let status = guest.json("daemon status --json");
    let config = status["home"].as_str().expect("a home").to_owned() + "/config.json";
    guest.systemctl(kind, &format!("stop {service}"));
    guest.user(&format!("test ! -e {config} && echo '{{\"grace\": \"soon\"}}' >{config}"));
    let said = guest
        .systemctl(kind, &format!("start {service} 2>&1; test $? = 1 && {systemctl} status {service}; true"));
    assert!(said.contains("failed"), "{said}");
    let journal = guest.root("journalctl --no-pager -o cat -g 'is no duration'");
    assert!(journal.contains("grace: \"soon\" is no duration"), "{journal}");
    guest.user(&format!("rm {config}"));
    until("the daemon", || (guest.shows(kind, "ActiveState") == "active").then_some(()));
}

fn an_end_without_a_daemon_is_told(guest: &Guest, kind: Kind) {
    guest.user(
        "cd; mkfifo late; agentctl launch --force --json --name late -- sh -c 'read _ <late; exit 33' >/dev/null",
    );
    guest.systemctl(kind, &format!("stop {}", kind.service));
    guest.user("cd; echo >late; rm late");
    until("the end", || {
        guest.root("pgrep -u dev1 -c -f '^sh -c read _ <late'; true").starts_with('0').then_some(())
    });
    assert_eq!(guest.shows(kind, "ActiveState"), "inactive");
    let told = guest.user("agentctl wait late --json; echo $?");
    let (records, code) = told.trim_end().rsplit_once('\n').expect("a record and a code");
    let records: Value = serde_json::from_str(records).expect("JSON");
    assert_eq!((code, &records[0]["exitCode"]), ("33", &json!(33)), "{records:#}");
}
