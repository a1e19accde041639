//! Whoever used the earlier tool of this name goes on as before.

mod cli;
mod connector;
mod faults;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::daemon::Daemon;
use crate::support::play::{copied_program, program, stderr, stdout};

const RENAMED: &str = "agent-ctl is now agentctl; this name goes on working, with the same arguments\n";

/// Exit code, stdout and stderr.
fn whole(output: &Output) -> (i32, String, String) {
    (output.status.code().expect("an exit code"), stdout(output), stderr(output))
}

impl Daemon {
    /// Runs the command line under its earlier name, from that file.
    fn run_as(&self, program: &Path, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(program);
        command.args(words).env_remove("AGENTCTL_SESSION_ID").env_remove("AGENTCTL_SOCKET");
        command.env("AGENTCTL_HOME", self.home()).env("AGENTCTL_NO_AUTOSTART", "1");
        whole(&command.output().expect("it runs"))
    }
}

#[test]
fn the_earlier_name_does_the_same_and_says_that_it_is_the_earlier_one() {
    let daemon = Daemon::new();
    let name = Path::new(env!("CARGO_BIN_EXE_agent-ctl"));
    assert_eq!(daemon.run_as(name, &["list", "--json"]), (0, "[]\n".into(), RENAMED.into()));
    // Whatever an argument is, and whatever the code.
    let script = ["run", "--", "sh", "-c", "printf '%s|' \"$@\"; exit 7", "sh", "a b", "", "--help"];
    let (code, out, err) = daemon.run_as(name, &script);
    assert_eq!((code, out.as_str()), (7, "a b||--help|"), "{err}");
    assert!(err.starts_with(RENAMED) && err.contains("exit code 7"), "{err}");
    let (code, out, err) = daemon.run_as(name, &["nosuch"]);
    assert_eq!((code, out.as_str()), (2, ""), "{err}");
    // OrgLoop's connector knows it under a path of its user's own.
    let link = daemon.home().join("agent-ctl");
    symlink(name, &link).expect("a link");
    assert_eq!(daemon.run_as(&link, &["list", "--json"]), (0, "[]\n".into(), RENAMED.into()));
}

#[test]
fn the_earlier_name_alone_starts_no_other_agentctl() {
    let daemon = Daemon::new();
    let alone = daemon.home().join("alone");
    fs::create_dir(&alone).expect("a directory");
    copied_program(env!("CARGO_BIN_EXE_agent-ctl"), &alone.join("agent-ctl"));
    let other = daemon.home().join("other");
    fs::create_dir(&other).expect("a directory");
    program(&other.join("agentctl"), "#!/bin/sh\necho '[]'\n");
    let mut command = Command::new(alone.join("agent-ctl"));
    command.args(["list", "--json"]).env("PATH", format!("{}:/usr/bin:/bin", other.display()));
    let (code, out, err) = whole(&command.output().expect("it runs"));
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    let missing = alone.join("agentctl");
    assert!(err.contains(missing.to_str().expect("a text")) && err.contains("install agentctl"), "{err}");
}
