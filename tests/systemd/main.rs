//! The units under a real systemd, booted in namespaces of its own by `tests/systemd/host` (root and a cgroup2 mount).
//!
//! Twenty sessions live through everything that a service manager does to their daemon, and each gets its own verdict.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::{fs, thread};

use serde_json::{Value, json};
use wait::until;

mod upkeep;
#[path = "../it/support/wait.rs"]
mod wait;

/// Sessions that live through it all.
const FLEET: usize = 20;

/// A booted guest; stopped when dropped.
struct Guest {
    name: &'static str,
    _units: tempfile::TempDir,
}

/// Whose daemon it is.
#[derive(Clone, Copy)]
struct Kind {
    /// `systemctl`, and for a user's own manager `--user`.
    systemctl: &'static str,
    service: &'static str,
    /// Whether commands of `systemctl` are the user's.
    by_user: bool,
}

const USER: Kind = Kind { systemctl: "systemctl --user", service: "agentctl.service", by_user: true };

const TEMPLATE: Kind = Kind { systemctl: "systemctl", service: "agentctl@dev1.service", by_user: false };

impl Guest {
    /// `None`, loudly, where there can be none; never in CI.
    fn boot(name: &'static str) -> Option<Self> {
        let cgroup2 = fs::read_to_string("/proc/mounts").is_ok_and(|mounts| mounts.contains(" cgroup2 "));
        if !rustix::process::geteuid().is_root() || !cgroup2 {
            let why = format!("{name}: skipped: a guest needs root and a cgroup2 mount");
            assert!(std::env::var_os("CI").is_none(), "{why}");
            let mut stderr = std::io::stderr();
            let _nobody = writeln!(stderr, "{why}");
            return None;
        }
        let units = tempfile::tempdir().expect("a directory");
        let copy = |from: &str, to: &std::path::Path| {
            fs::create_dir_all(to).expect("a directory");
            for unit in fs::read_dir(from).expect("units").flatten() {
                fs::copy(unit.path(), to.join(unit.file_name())).expect("a unit");
            }
        };
        copy("systemd/system", units.path());
        copy("systemd/user", &units.path().join("user"));
        let guest = Self { name, _units: units };
        guest.host(&["stop"]);
        let program = concat!(env!("CARGO_BIN_EXE_agentctl"), ":/usr/bin/agentctl");
        let shim = concat!(env!("CARGO_BIN_EXE_agentctl-shim"), ":/usr/bin/agentctl-shim");
        guest.well(guest.host(&["boot", "--timeout", "120", "--bin", program, "--bin", shim]));
        guest.well(guest.host(&["units", guest._units.path().to_str().expect("a text")]));
        guest.root("useradd -m -s /bin/bash dev1");
        Some(guest)
    }

    fn host(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("tests/systemd/host");
        command.env("SYSTEMD_HOST_NAME", self.name).args(arguments).stdin(Stdio::null());
        command.output().expect("the host script runs")
    }

    #[track_caller]
    fn well(&self, output: Output) -> String {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let journal = self.host(&["journal", "-b", "-n", "60"]);
            panic!(
                "{:?}\n{text}\n{}\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&journal.stdout)
            );
        }
        text
    }

    /// A script as root in the guest; its stdout. It must succeed.
    #[track_caller]
    fn root(&self, script: &str) -> String {
        self.well(self.host(&["run", "--", "bash", "-c", script]))
    }

    /// A script as the user, whose manager lingers.
    #[track_caller]
    fn user(&self, script: &str) -> String {
        self.well(self.host(&["run", "--user", "dev1", "--", "bash", "-c", script]))
    }

    #[track_caller]
    fn systemctl(&self, kind: Kind, words: &str) -> String {
        let script = format!("{} {words}", kind.systemctl);
        if kind.by_user { self.user(&script) } else { self.root(&script) }
    }

    /// A property of the service.
    #[track_caller]
    fn shows(&self, kind: Kind, property: &str) -> String {
        self.systemctl(kind, &format!("show --value -p {property} {}", kind.service)).trim().to_owned()
    }

    #[track_caller]
    fn json(&self, words: &str) -> Value {
        let text = self.user(&format!("agentctl {words}"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Waits until the service runs with another main process than `old` and answers.
    #[track_caller]
    fn until_another(&self, kind: Kind, old: &str) {
        until("another daemon", || {
            let now = self.shows(kind, "MainPID");
            (now != "0" && now != old && self.shows(kind, "SubState") == "running").then_some(())
        });
    }

    /// The scopes that there are, by the word of the user's manager.
    #[track_caller]
    fn scopes(&self) -> BTreeSet<String> {
        let listed = self.user("systemctl --user list-units --plain --no-legend 'agentctl-*.scope'");
        listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
    }

    /// The ids of all that run, by the daemon's word.
    #[track_caller]
    fn running(&self) -> BTreeSet<String> {
        let listed = self.json("list --json");
        listed
            .as_array()
            .expect("a list")
            .iter()
            .map(|s| s["id"].as_str().expect("an id").to_owned())
            .collect()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.host(&["stop"]);
    }
}

/// Launches the fleet: each waits for the gate and ends with its own number. Nobody started a daemon before.
#[track_caller]
fn launch_fleet(guest: &Guest) -> BTreeSet<String> {
    let script = format!(
        "for n in $(seq {FLEET}); do \
         agentctl launch --force --json --name s$n --timeout 0 -- sh -c \"read _ <gate; exit $n\" || exit; done"
    );
    // Somebody holds the gate: a FIFO without a writer would be at its end.
    guest.root("mkfifo /home/dev1/gate; chown dev1: /home/dev1/gate; systemd-run -q sh -c 'exec sleep 10000 <>/home/dev1/gate'");
    guest.user(&format!("cd; {script} >/dev/null"));
    let fleet = guest.running();
    assert_eq!(fleet.len(), FLEET);
    fleet
}

/// All live, by the daemon's word and by the kernel's.
#[track_caller]
fn all_live(guest: &Guest, fleet: &BTreeSet<String>, after: &str) {
    assert_eq!(&guest.running(), fleet, "after {after}");
    let waiting = guest.root("pgrep -u dev1 -c -f '^sh -c read _ <gate'");
    assert_eq!(waiting.trim(), FLEET.to_string(), "after {after}");
}

/// Everything that a service manager does to a service.
fn torment(guest: &Guest, kind: Kind, fleet: &BTreeSet<String>) {
    let main = || guest.shows(kind, "MainPID");
    let old = main();
    guest.systemctl(kind, &format!("restart {}", kind.service));
    guest.until_another(kind, &old);
    all_live(guest, fleet, "a restart");
    for signal in ["KILL", "ABRT"] {
        let old = main();
        guest.root(&format!("kill -{signal} {old}"));
        guest.until_another(kind, &old);
        all_live(guest, fleet, signal);
    }
    let old = main();
    guest.root(&format!("kill -STOP {old}"));
    guest.until_another(kind, &old);
    all_live(guest, fleet, "a watchdog that was not told");
    for words in ["daemon-reload", "daemon-reexec"] {
        let old = main();
        guest.systemctl(kind, words);
        all_live(guest, fleet, words);
        assert_eq!(main(), old, "{words} does not touch the daemon");
    }
    reloads(guest, kind, fleet);
    guest.systemctl(kind, &format!("stop {}", kind.service));
    assert_eq!(guest.shows(kind, "ActiveState"), "inactive");
    // The socket still listens, and the next command starts the daemon.
    all_live(guest, fleet, "a stop and a command");
    assert_eq!(guest.shows(kind, "ActiveState"), "active");
    guest.systemctl(kind, &format!("stop {}", kind.service));
    guest.systemctl(kind, &format!("start {}", kind.service));
    all_live(guest, fleet, "a stop and a start");
    connections_during_restarts(guest, kind);
    all_live(guest, fleet, "restarts with clients");
}

/// A configuration that is wrong is said in the status, and goes on being said; a good one takes that back. (For
/// `Type=notify` a reload is over for the manager when the signal is sent.)
fn reloads(guest: &Guest, kind: Kind, fleet: &BTreeSet<String>) {
    let old = guest.shows(kind, "MainPID");
    let config =
        guest.json("daemon status --json")["home"].as_str().expect("a home").to_owned() + "/config.json";
    let says = |what: &str, wrong: bool| {
        until(what, || {
            let said = guest.shows(kind, "StatusText");
            let refused =
                said.contains("grace: \"soon\" is no duration") && said.contains("goes on with the one");
            (refused == wrong).then_some(())
        });
    };
    guest.user(&format!("test ! -e {config} && echo '{{\"grace\": \"soon\"}}' >{config}"));
    guest.systemctl(kind, &format!("reload {}", kind.service));
    says("the refusal", true);
    guest.user(&format!("rm {config}"));
    guest.systemctl(kind, &format!("reload {}", kind.service));
    says("the end of the refusal", false);
    all_live(guest, fleet, "a reload");
    assert_eq!(guest.shows(kind, "MainPID"), old, "a reload keeps the daemon");
}

/// A command that comes while nobody listens waits in the socket's backlog and is answered.
fn connections_during_restarts(guest: &Guest, kind: Kind) {
    let restarts = format!("for n in 1 2 3; do {} restart {} || exit; done", kind.systemctl, kind.service);
    thread::scope(|scope| {
        let restarting =
            scope.spawn(|| if kind.by_user { guest.user(&restarts) } else { guest.root(&restarts) });
        guest.user("for n in $(seq 30); do agentctl list --json >/dev/null || exit; done");
        restarting.join().expect("all restarts");
    });
}

/// The gate opens; every session ends with its own code, once.
#[track_caller]
fn ends_right(guest: &Guest, fleet: &BTreeSet<String>) {
    guest.user(&format!("cd; for n in $(seq {FLEET}); do echo >gate; done"));
    for n in 1..=FLEET {
        let script = format!("agentctl wait s{n} --timeout 60s --json; echo $?");
        let text = guest.user(&script);
        let (records, code) = text.trim_end().rsplit_once('\n').expect("a record and a code");
        let records: Value = serde_json::from_str(records).expect("JSON");
        assert_eq!((code, &records[0]["exitCode"]), (n.to_string().as_str(), &json!(n)), "{records:#}");
    }
    let events = guest.user("agentctl events --since 0 --no-follow");
    let events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for id in fleet {
        let ends = events.iter().filter(|event| {
            event["sessionId"] == json!(id)
                && matches!(event["type"].as_str(), Some("session.stopped" | "session.error"))
        });
        assert_eq!(ends.count(), 1, "{id}");
    }
}

/// Who launches a session is told of the logout, the first time. (Not by `user`, which sees to lingering.)
#[track_caller]
fn told_once(guest: &Guest, command: &str, what: &str) {
    let said = |script: &str| guest.root(&format!("runuser -u dev1 -- agentctl {script} 2>&1 >/dev/null"));
    let first = said(&format!("run --force -- {command}"));
    assert!(first.contains(what) && first.contains("sudo loginctl enable-linger dev1"), "{first}");
    let second = said(&format!("launch --force -- {command}"));
    assert_eq!(second, "", "it was said before");
}

/// A watchdog that runs out within the test.
const SHORT_WATCHDOG: &str = "[Service]\nWatchdogSec=1s\n";

#[test]
fn sessions_of_the_user_unit_live_through_everything_that_happens_to_it() {
    let Some(guest) = Guest::boot("agentctl-user") else { return };
    guest.root(&format!(
        "mkdir -p /etc/systemd/user/agentctl.service.d; printf '{}' >/etc/systemd/user/agentctl.service.d/test.conf",
        SHORT_WATCHDOG.replace('\n', "\\n")
    ));
    guest.user("systemctl --user daemon-reload; systemctl --user enable --now agentctl.socket");
    let fleet = launch_fleet(&guest);
    assert!(guest.shows(USER, "StatusText").contains("sessions"), "ready was told");
    torment(&guest, USER, &fleet);
    ends_right(&guest, &fleet);
}

#[test]
fn sessions_of_the_template_live_through_everything_that_happens_to_it() {
    let Some(guest) = Guest::boot("agentctl-template") else { return };
    guest.root(&format!(
        "mkdir -p /etc/systemd/system/agentctl@.service.d; printf '{}' >/etc/systemd/system/agentctl@.service.d/test.conf; \
         systemctl daemon-reload; systemd-analyze verify --man=no agentctl@dev1.service agentctl@dev1.socket; \
         systemctl enable --now agentctl@dev1.socket",
        SHORT_WATCHDOG.replace('\n', "\\n")
    ));
    // The manager of the user refuses scopes: sessions live in cgroups below the unit's.
    guest.root("printf '#!/bin/sh\\necho refused >&2; exit 1' >/usr/local/bin/busctl; chmod 755 /usr/local/bin/busctl");
    let fleet = launch_fleet(&guest);
    let status = guest.user("agentctl daemon status");
    assert!(status.contains("the last one failed: the user's manager refused: refused"), "{status}");
    torment(&guest, TEMPLATE, &fleet);
    // A stop empties the cgroup of a session, and takes it away.
    let id = guest.json("launch --force --json -- sh -c 'setsid sleep 1000 & sleep 1000'")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let count = "find /sys/fs/cgroup/system.slice/system-agentctl.slice -mindepth 2 -type d | wc -l";
    let before: usize = guest.root(count).trim().parse().expect("a number");
    guest.user(&format!("agentctl stop {id}"));
    until("the cgroup to be gone", || (guest.root(count).trim() == (before - 1).to_string()).then_some(()));
    ends_right(&guest, &fleet);
    // It does not refuse any more, and takes processes of a system unit as well.
    guest.root("rm /usr/local/bin/busctl; systemctl restart agentctl@dev1.service");
    let id = guest.json("launch --force --json -- sleep 1000")["id"].as_str().expect("an id").to_owned();
    assert!(guest.scopes().contains(&format!("agentctl-{id}.1.scope")));
    guest.user(&format!("agentctl stop {id}"));
    until("the scope to be gone", || guest.scopes().is_empty().then_some(()));
    // Without lingering, its manager would end at a logout, and they with it: said once, and they stay.
    guest.root("rm /var/lib/systemd/linger/dev1");
    let below = "sh -c 'grep -q agentctl@dev1.service /proc/self/cgroup'";
    told_once(&guest, below, "sessions stay with the daemon: the user's manager ends at the last logout");
    let warned = "journalctl -u agentctl@dev1.service -g 'loginctl enable-linger dev1' -o cat | wc -l";
    assert_eq!(guest.root(warned).trim(), "1");
    // The hardening is worth something, and agents' runtimes survive it.
    let exposure = guest.root("systemd-analyze security --no-pager agentctl@dev1.service | tail -n 1");
    let exposure: f64 = exposure
        .split("level for")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok())
        .expect("a level");
    assert!(exposure <= 5.0, "{exposure}");
    guest.user("agentctl run -- node -e 'process.exit([1, 2, 3].map(n => n * 2)[2] === 6 ? 0 : 1)'");
}

#[test]
fn units_are_installed_for_where_the_program_is_and_leave_sessions_alone_when_removed() {
    let Some(guest) = Guest::boot("agentctl-install") else { return };
    guest.root("rm -r /etc/systemd/user/agentctl.* /etc/systemd/system/agentctl@*; systemctl daemon-reload");
    guest.user("mkdir \"$HOME/my tools\" && cp /usr/bin/agentctl /usr/bin/agentctl-shim \"$HOME/my tools/\"");
    let installed = guest.user("\"$HOME/my tools/agentctl\" daemon install --now");
    for line in [
        "Wrote /home/dev1/.config/systemd/user/agentctl.service",
        "agentctl.socket is active",
        "agentctl.service is active",
    ] {
        assert!(installed.contains(line), "{installed}");
    }
    assert!(!installed.contains("enable-linger"), "it lingers: {installed}");
    let program = format!("readlink /proc/{}/exe", guest.shows(USER, "MainPID"));
    assert_eq!(guest.root(&program).trim(), "/home/dev1/my tools/agentctl");
    let id = guest.json("launch --force --json -- sleep 1000")["id"].as_str().expect("an id").to_owned();
    // Stopped altogether, it is the manager that a command starts it with.
    guest.user("systemctl --user stop agentctl.socket agentctl.service");
    assert!(guest.running().contains(&id));
    assert_eq!(guest.shows(USER, "ActiveState"), "active");
    let removed = guest.user("\"$HOME/my tools/agentctl\" daemon uninstall; ls ~/.config/systemd/user");
    assert!(removed.contains("sessions live on") && !removed.contains("\nagentctl"), "{removed}");
    guest.root("pgrep -u dev1 -f '^sleep 1000'");
    // The daemon that a command now starts finds it again.
    let listed = guest.user("agentctl list --json; agentctl stop --all --force >/dev/null");
    assert!(listed.contains(&id), "{listed}");
    // A start that fails says so, with what to look at; the same command goes on once that is mended.
    guest.user("echo '{\"grace\": \"soon\"}' >~/.agentctl/config.json");
    let refused = guest.user("agentctl daemon install --now 2>&1; test $? = 1");
    assert!(refused.contains("agentctl.service is installed and does not start"), "{refused}");
    assert!(refused.contains("agentctl config check"), "{refused}");
    guest.user("rm ~/.agentctl/config.json; agentctl daemon install --now && agentctl daemon uninstall");
    // Servers: for a user that there is, and one after the other.
    let refused = guest.root("agentctl daemon install --system nobody2 --now 2>&1; test $? = 1");
    assert_eq!(refused, "there is no user nobody2; nothing was installed\n");
    guest.root("! ls /etc/systemd/system/agentctl@* 2>/dev/null; useradd -m dev2");
    let system = guest.root("agentctl daemon install --system dev1 --now");
    assert!(system.contains("agentctl@dev1.service is active"), "{system}");
    guest.root("agentctl daemon install --system dev2 && agentctl daemon uninstall --system dev1");
    guest.root("ls /etc/systemd/system/agentctl@.service; agentctl daemon uninstall --system dev2");
    guest.root("! ls -d /etc/systemd/system/agentctl@* /etc/systemd/system/*.wants/agentctl* 2>/dev/null");
}

#[test]
fn a_unit_takes_over_from_a_daemon_that_a_command_had_started() {
    let Some(guest) = Guest::boot("agentctl-takeover") else { return };
    // In one breath: what a command starts in a transient unit ends with that.
    let script = "agentctl launch --force --json --name kept -- sleep 1000 >/dev/null; cat ~/.agentctl/daemon.lock; \
                  systemctl --user enable -q --now agentctl.socket agentctl.service; agentctl list --json";
    let said = guest.user(script);
    let (lock, listed) = said.split_once('[').expect("a lock file and a list");
    let [first, by, host] = lock.lines().collect::<Vec<_>>()[..] else { panic!("{lock}") };
    assert_eq!((by, host.split(' ').next()), ("started by a command", Some("host")));
    let listed: Value = serde_json::from_str(&format!("[{listed}")).expect("JSON");
    assert_eq!((&listed[0]["name"], &listed[0]["status"]), (&json!("kept"), &json!("running")), "{listed:#}");
    let second = guest.shows(USER, "MainPID");
    assert_ne!(first, second);
    let now = guest.root("cat /home/dev1/.agentctl/daemon.lock");
    assert_eq!(now, format!("{second}\nrun by a service manager\n{host}\n"));
}

/// The unit's own end would kill all that is in it.
const KILLS_ALL: &str = "[Service]\\nKillMode=control-group\\n";

#[test]
fn each_session_is_a_scope_that_outlives_the_daemons_unit_and_ends_with_its_last_process() {
    let Some(guest) = Guest::boot("agentctl-scopes") else { return };
    guest.root(&format!(
        "mkdir -p /etc/systemd/user/agentctl.service.d; printf '{KILLS_ALL}' >/etc/systemd/user/agentctl.service.d/test.conf"
    ));
    guest.user("systemctl --user daemon-reload; systemctl --user enable --now agentctl.socket");
    let fleet = launch_fleet(&guest);
    let all: BTreeSet<_> = fleet.iter().map(|id| format!("agentctl-{id}.1.scope")).collect();
    assert_eq!(guest.scopes(), all);
    let status = guest.user("agentctl daemon status");
    assert!(status.contains("a scope each in agentctl.slice (the daemon is the manager's own)"), "{status}");
    let checks = guest.json("doctor --json");
    let check = checks.as_array().and_then(|all| all.iter().find(|check| check["name"] == "scopes"));
    assert_eq!(check.map(|check| &check["state"]), Some(&json!("ok")), "{checks:#}");
    let tree = guest.user("systemd-cgls --no-pager --full --user-unit agentctl.slice");
    assert!(all.iter().all(|scope| tree.contains(scope)), "{tree}");
    // Neither the shims nor the leaders are the unit's to kill.
    guest.user("systemctl --user stop agentctl.socket agentctl.service");
    assert_eq!(guest.shows(USER, "ActiveState"), "inactive");
    all_live(&guest, &fleet, "a stop of the unit and all in it");
    // A stop ends all that is in the scope, and with it the scope; the others' stay.
    let id = guest.json("launch --force --json -- sh -c 'setsid sleep 1000 & sleep 1000'")["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert!(guest.scopes().contains(&format!("agentctl-{id}.1.scope")));
    guest.user(&format!("agentctl stop {id}"));
    let stopped = guest.json(&format!("status {id} --json"));
    assert_eq!((&stopped["outcome"], &stopped["leftovers"]), (&json!("cancelled"), &json!(0)), "{stopped:#}");
    until("the scope to be gone", || (guest.scopes() == all).then_some(()));
    // A limit that the manager has no controller for is refused before anything is started.
    let refused = guest
        .user("agentctl launch --force --memory-max 1G -- sleep 1000 2>&1; echo $?; agentctl list --json");
    assert!(refused.contains("no controllers memory") && refused.contains("\n1\n"), "{refused}");
    assert_eq!(guest.running(), fleet);
    ends_right(&guest, &fleet);
    until("all scopes to be gone", || guest.scopes().is_empty().then_some(()));
    // Each counted the time of its own processes.
    let record = guest.json("status s1 --json");
    assert!(record["usage"]["cpuSeconds"].as_f64() > Some(0.0), "{record:#}");
    // The manager lives as long as its user is logged in, and so does all of this.
    guest.root("rm /var/lib/systemd/linger/dev1");
    told_once(
        &guest,
        "sh -c 'grep -q agentctl.slice /proc/self/cgroup'",
        "the daemon and all sessions end at your last logout",
    );
    let doctor = guest.root("runuser -u dev1 -- agentctl doctor");
    assert!(doctor.contains("sudo loginctl enable-linger dev1"), "{doctor}");
    // A manager that does not answer costs a launch some seconds, the first one, and nobody a session.
    guest
        .root("printf '#!/bin/sh\\nexec sleep 1000' >/usr/local/bin/busctl; chmod 755 /usr/local/bin/busctl");
    guest.user(
        "for n in 1 2 3; do agentctl run -- sh -c 'grep -q agentctl.service /proc/self/cgroup' || exit; done",
    );
    let status = guest.user("agentctl daemon status");
    assert!(status.contains("the last one failed: busctl: it did not end within 3 s"), "{status}");
}
