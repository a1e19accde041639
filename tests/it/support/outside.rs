//! Agents that somebody else starts: fake programs, a fake home with stores in it, and a daemon that looks for them.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use agentctl::sys::ProcessRef;
use serde_json::Value;

use super::daemon::{Builder, Daemon};
use super::play::{Gate, program, stderr};
use super::wait::until;

/// A daemon, and a home in which others start agents.
pub(crate) struct Outside {
    pub(crate) daemon: Daemon,
    /// Where they are at home.
    pub(crate) home: PathBuf,
    /// Where they work.
    pub(crate) cwd: PathBuf,
}

/// An agent that runs, as our child and nobody's session.
pub(crate) struct Agent {
    child: Child,
    gate: Option<Gate>,
    pub(crate) process: ProcessRef,
}

impl Outside {
    pub(crate) fn new() -> Self {
        Self::with(|daemon| daemon)
    }

    pub(crate) fn with(change: impl FnOnce(Builder) -> Builder) -> Self {
        let daemon = change(Daemon::builder().config("discover", true)).start();
        let real = fs::canonicalize(daemon.home()).expect("a home");
        let (home, cwd) = (real.join("their-home"), real.join("their-work"));
        for dir in [&home, &cwd, &real.join("their-bin")] {
            fs::create_dir(dir).expect("a directory");
        }
        Self { daemon, home, cwd }
    }

    /// A file in their home.
    pub(crate) fn store(&self, path: &str, content: &str) -> PathBuf {
        let path = self.home.join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a store");
        fs::write(&path, content).expect("a file");
        path
    }

    /// Starts a script of that name, which waits for its gate after `before` and then does `after`.
    #[track_caller]
    pub(crate) fn start(&self, name: &str, arguments: &[&str], before: &str, after: &str) -> Agent {
        let dir = tempfile::tempdir_in(self.daemon.home()).expect("a directory").keep();
        let (gate, path, up) = (Gate::new(&dir, "gate"), dir.join(name), dir.join("up"));
        let script = format!("{before}\necho up >{}\n{}\n{after}", up.display(), gate.wait());
        program(&path, &format!("#!/bin/sh\n{script}\n"));
        // As the kernel would, save that a script that another thread's child still has open can be run.
        let child = self.command("/bin/sh").arg(&path).args(arguments).spawn().expect("it runs");
        until("an agent to run", || up.exists().then_some(()));
        let process = ProcessRef::of_child(child.id()).expect("our own child");
        Agent { child, gate: Some(gate), process }
    }

    /// A program of theirs, not yet run.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_remove("AGENTCTL_SESSION_ID").env("HOME", &self.home).env_remove("XDG_DATA_HOME");
        for name in ["CLAUDE_CONFIG_DIR", "CODEX_HOME", "PI_CODING_AGENT_DIR", "OPENCODE_DB"] {
            command.env_remove(name);
        }
        command.current_dir(&self.cwd).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// The listed record of a process.
    #[track_caller]
    pub(crate) fn listed(&self, pid: u32) -> Option<Value> {
        let (records, _) = self.list();
        records.into_iter().find(|record| record["pid"] == pid)
    }

    /// A listing whose look was over in time, and its warnings.
    #[track_caller]
    pub(crate) fn list(&self) -> (Vec<Value>, String) {
        until("a look that is over in time", || {
            let output = self.daemon.run(["list", "--json"]);
            assert_eq!(output.status.code(), Some(0), "{output:?}");
            let records = serde_json::from_slice(&output.stdout).expect("an array");
            Some((records, stderr(&output))).filter(|(_, warnings)| !is_late(warnings))
        })
    }

    /// The same, which must be there.
    #[track_caller]
    pub(crate) fn shown(&self, agent: &Agent) -> Value {
        self.listed(agent.pid()).unwrap_or_else(|| panic!("it is not listed\n{}", self.daemon.log()))
    }
}

/// Whether a listing may lack what it would show on a host that is less busy.
pub(crate) fn is_late(warnings: &str) -> bool {
    ["was not over within", "was given up after", "still hangs at"].iter().any(|late| warnings.contains(late))
}

impl Agent {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on to its end; nobody reaps it.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        self.gate.take().expect("it has not ended yet").open();
        until("an agent to end", || (self.process.has_ended() == Some(true)).then_some(()));
    }

    /// Reaps it, once it has ended.
    #[track_caller]
    pub(crate) fn reap(&mut self) {
        self.child.wait().expect("our own child");
    }

    #[track_caller]
    pub(crate) fn is_alive(&self) {
        assert_eq!(self.process.has_ended(), Some(false), "it has ended");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended_already = self.child.kill().and_then(|()| self.child.wait());
    }
}
