//! What a session inherits: what the shell that launched it would have given the command, and nothing else.

use std::process::{Command, Output, Stdio};

use crate::support::daemon::Daemon;
use crate::support::play::stdout;
use crate::support::wait::until;

/// Odd values that a careless copy would break.
const ODD: [(&str, &str); 7] = [
    ("EMPTY", ""),
    ("TWO_LINES", "first\nsecond"),
    ("EQUATION", "a=b=c"),
    ("QUOTES", "it's \"so\" $HOME `x` \\"),
    ("BLANKS", "  around  "),
    ("UMLAUT", "żółw"),
    ("lower.dotted", "x"),
];

/// Everything that a process inherits. The queue of signals counts those of the whole user.
const SHOW: &str = "env | sort; umask; ulimit -Sn; pwd; grep Sig /proc/self/status | grep -v SigQ";

fn with_odd_environment(command: &mut Command) -> &mut Command {
    let path = std::env::var("PATH").expect("a PATH");
    command.env_clear().env("PATH", path).envs(ODD).current_dir("/usr").stdin(Stdio::null())
}

/// The plain shell after the same preparations, with the session's two variables.
fn plain(daemon: &Daemon, id: &str, prepare: &str) -> String {
    let script = format!("{prepare}\n{SHOW}");
    let mut command = Command::new("env");
    with_odd_environment(&mut command).env("AGENTCTL_HOME", daemon.home()).env("AGENTCTL_SESSION_ID", id);
    // Whoever runs the tests may have blocked or ignored some: the plain shell of a terminal has not.
    let output = command.args(["--default-signal", "sh", "-c", &script]).output();
    let output = output.expect("a shell");
    assert!(output.status.success(), "{output:?}");
    // Signal 32 is glibc's own and env(1) cannot reset it; a session starts without it ignored.
    stdout(&output).replace("SigIgn:\t0000000080000000", "SigIgn:\t0000000000000000")
}

/// The same in a session; its output and its id.
fn launched(daemon: &Daemon, flags: &str, prepare: &str) -> (String, String) {
    let agentctl = env!("CARGO_BIN_EXE_agentctl");
    let script = format!("{prepare}\nexec {agentctl} run --json {flags} -- sh -c '{SHOW}'");
    let mut command = Command::new("sh");
    with_odd_environment(&mut command);
    command.env("AGENTCTL_HOME", daemon.home()).env("AGENTCTL_NO_AUTOSTART", "1");
    let output: Output = command.args(["-c", &script]).output().expect("a shell");
    assert!(output.status.success(), "{output:?}");
    let list = daemon.json(["list", "-a", "--json"]);
    let id = list[0]["id"].as_str().expect("an id").to_owned();
    (daemon.stdout(&id), id)
}

#[track_caller]
fn the_same(prepare: &str) {
    let daemon = Daemon::new();
    let (session, id) = launched(&daemon, "", prepare);
    assert_eq!(session, plain(&daemon, &id, prepare));
}

#[test]
fn a_session_inherits_what_the_plain_shell_does() {
    the_same("umask 022");
}

#[test]
fn no_file_is_left_open_for_a_session_but_its_three() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "ls /proc/self/fd; readlink /proc/self/fd/0");
    daemon.ended(&id);
    // The fourth is the directory that ls lists.
    assert_eq!(daemon.stdout(&id), "0\n1\n2\n3\n/dev/null\n");
}

#[test]
fn umask_and_limit_of_files_are_those_of_the_client() {
    the_same("umask 077; ulimit -Sn 500");
    the_same("umask 002; ulimit -Sn 300");
}

#[test]
fn the_logs_are_private_whatever_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::new();
    let (_, id) = launched(&daemon, "", "umask 000");
    for name in ["stdout.log", "stderr.log", "verdict.1.json"] {
        let path = daemon.file(&id, name);
        let mode = until(name, || std::fs::metadata(&path).ok()).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} has mode {mode:o}");
    }
}

#[test]
fn env_flags_beat_the_environment() {
    let daemon = Daemon::new();
    let (session, _) = launched(&daemon, "--env EMPTY=full --env NEW=1=2", "EMPTY=old; export EMPTY");
    assert!(session.contains("\nEMPTY=full\n") && session.contains("\nNEW=1=2\n"), "{session}");
}

#[test]
fn what_belongs_to_the_daemon_or_a_service_manager_is_not_passed_on() {
    let daemon = Daemon::builder().env("FROM_THE_DAEMON", "1").start();
    let names = [
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "LISTEN_PID",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "AGENTCTL_WEBHOOK_SECRET",
        "AGENTCTL_WEBHOOK_URL",
        "CREDENTIALS_DIRECTORY",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "AGENTCTL_NO_AUTOSTART",
    ];
    let prepare: String = names.iter().map(|name| format!("export {name}=x\n")).collect();
    let (session, _) = launched(&daemon, "", &prepare);
    for name in names.iter().chain(&["FROM_THE_DAEMON"]) {
        assert!(!session.lines().any(|line| line.starts_with(&format!("{name}="))), "{name} in\n{session}");
    }
}

#[test]
fn environment_and_prompt_are_gone_from_the_disk_once_the_leader_runs() {
    let daemon = Daemon::new();
    let gate = daemon.gate("gate");
    let id = daemon.launch(&["--env", "TOKEN=hunter2"], &gate.wait());
    // The shim says that the leader runs, and then removes it.
    until("the environment to be removed", || (!daemon.file(&id, "env.1").exists()).then_some(()));
    for entry in std::fs::read_dir(daemon.file(&id, "")).expect("a directory").flatten() {
        let text = std::fs::read(entry.path()).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains("hunter2"), "{}", entry.path().display());
    }
    for name in ["journal.db", "journal.db-wal", "test.log"] {
        let text = std::fs::read(daemon.home().join(name)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&text).contains("hunter2"), "{name}");
    }
}
