//! The real shim, without any daemon: orders in, processes and files out.
//!
//! Waits on conditions only. Leaders are `/bin/sh` scripts; where a process must live until the test says so, it reads
//! from a FIFO (`gate`) that the test opens.

mod deadline;
mod endings;
mod input;
mod launches;
mod leftovers;
mod logs;
mod memory;
mod ownership;
mod publication;

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use std::{fs, thread};

use agentctl::core::vocab::{Leftovers, Mono, PidHandle, RunId, SessionId};
use agentctl::sys::identity;
use agentctl::wire::session_dir::{
    Deadline, ExitFile, FileError, LaunchOrder, RunFiles, TreeFile, Version, create_private_dir,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

/// How long a condition may take to come true on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn mono() -> Mono {
    let now = clock_gettime(ClockId::Monotonic);
    Mono(u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).expect("a clock that runs"))
}

/// Waits until `look` finds something.
#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = mono();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(mono().since(start) < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A home with one session directory and an order in the making.
struct Session {
    home: TempDir,
    files: RunFiles,
    order: LaunchOrder,
    env: Vec<u8>,
}

impl Session {
    fn new(argv: &[&str]) -> Self {
        let home = tempfile::tempdir().expect("a home");
        let id = RunId { session: SessionId(uuid::Uuid::new_v4()), run: 1 };
        let files = RunFiles::in_home(home.path(), id);
        for dir in [home.path().join("exits"), home.path().join("sessions"), files.dir().to_owned()] {
            create_private_dir(&dir).expect("a directory");
        }
        let order = LaunchOrder {
            v: Version,
            session: id.session,
            run: id.run,
            argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
            cwd: home.path().to_str().expect("a text").to_owned(),
            umask: 0o022,
            nofile_soft: None,
            stdin: None,
            input: None,
            env: files.env_name(),
            stdout: "stdout.log".to_owned(),
            stderr: "stderr.log".to_owned(),
            leftovers: Leftovers::Kill,
            grace_ms: 5_000,
            cgroup: None,
            account: None,
            late_ms: 5_000,
            log_bytes_max: None,
        };
        Self { home, files, order, env: b"PATH=/usr/local/bin:/usr/bin:/bin\0".to_vec() }
    }

    /// A leader that is a shell script.
    fn script(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    /// A script that is to live until [`Shim::open`] opens the gate: `read x <gate` in it waits.
    fn gated(script: &str) -> Self {
        Self::script(script).gate("gate")
    }

    /// A gate more, for a second process.
    fn gate(self, name: &str) -> Self {
        let mode = Mode::from_raw_mode(0o600);
        mknodat(CWD, self.home.path().join(name), FileType::Fifo, mode, 0).expect("a fifo");
        self
    }

    fn order(mut self, change: impl FnOnce(&mut LaunchOrder)) -> Self {
        change(&mut self.order);
        self
    }

    fn env(mut self, entry: &[u8]) -> Self {
        self.env.extend_from_slice(entry);
        self.env.push(0);
        self
    }

    fn deadline(self, at: Option<Mono>) -> Self {
        write_deadline(&self.files, at);
        self
    }

    /// Gives the order, as a daemon does.
    fn write(self) -> Self {
        fs::write(self.files.dir().join(&self.order.env), &self.env).expect("an environment");
        self.files.write_launch(&self.order).expect("an order");
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl-shim"));
        command.arg(self.files.dir()).arg(self.files.id().run.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/tmp");
        command
    }

    fn start(self) -> Shim {
        let session = self.write();
        let child = session.command().spawn().expect("the shim starts");
        Shim { session, child }
    }
}

fn write_deadline(files: &RunFiles, at: Option<Mono>) {
    let boot = identity::host_id().expect("a host").boot;
    files.write_deadline(&Deadline { v: Version, mono_ns: at, boot }).expect("a deadline");
}

/// A running shim. Ends its leader when the test is over.
struct Shim {
    session: Session,
    child: Child,
}

impl Shim {
    fn files(&self) -> &RunFiles {
        &self.session.files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.session.home.path().join(name)
    }

    /// Waits for the shim's end.
    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        until("the end of the shim", || self.child.try_wait().expect("our child"))
    }

    /// Waits for the exit file.
    #[track_caller]
    fn exit(&self) -> ExitFile {
        until("the exit file", || found(self.files().read_exit()))
    }

    /// Waits until the shim has said and done everything.
    #[track_caller]
    fn finish(&mut self) -> (ExitFile, TreeFile) {
        assert_eq!(self.wait().code(), Some(0));
        (self.files().read_exit().expect("an exit file"), self.files().read_tree().expect("a tree file"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.files().dir().join("stdout.log")).unwrap_or_default()
    }

    /// Waits until the script has said `word`.
    #[track_caller]
    fn heard(&self, word: &str) {
        until(word, || self.log().contains(word).then_some(()));
    }

    fn leader_handle(&self) -> Option<PidHandle> {
        until("the leader's identity", || found(self.files().read_leader())).process.handle
    }

    fn signal(&self, signal: Signal) {
        let pidfd = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty()).expect("our child's pidfd");
        pidfd_send_signal(&pidfd, signal).expect("a signal");
    }

    /// Lets the process behind this gate go on.
    fn open(&self, gate: &str) {
        fs::write(self.path(gate), "go\n").expect("an open gate");
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        if let Ok(leader) = self.session.files.read_leader()
            && let Some(handle) = leader.process.handle
            && let Ok(pidfd) = identity::open_handle(handle)
        {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
        if thread::panicking() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// The file once it is there. Any other trouble with it fails the test.
#[track_caller]
fn found<T>(read: Result<T, FileError>) -> Option<T> {
    match read {
        Ok(content) => Some(content),
        Err(FileError::Missing { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Whether this very process has been reaped or is a zombie.
fn is_gone(pid: u32) -> bool {
    identity::stat(pid).map_or(true, |stat| stat.state == b'Z')
}
