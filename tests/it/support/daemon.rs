//! A real daemon in a home of its own, and the real command line against it.
//!
//! Dropping it ends every session and the daemon; nothing that a test started outlives it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use agentctl::sys::ProcessRef;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::play::{stderr, stdout};
use super::wait::until;

/// A daemon that is about to be started.
pub(crate) struct Builder {
    config: Value,
    env: Vec<(String, String)>,
    arguments: Vec<String>,
    parent: PathBuf,
}

/// A running daemon.
pub(crate) struct Daemon {
    home: TempDir,
    /// A directory for each launch: one would lock the other out of theirs.
    work: TempDir,
    works: AtomicU32,
    child: Option<Child>,
    env: Vec<(String, String)>,
    arguments: Vec<String>,
    through: Vec<String>,
}

impl Builder {
    /// A configuration key.
    pub(crate) fn config(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config[key] = value.into();
        self
    }

    /// A variable of the daemon's environment.
    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// `uring`, `epoll` or `portable`.
    pub(crate) fn backend(mut self, name: &str) -> Self {
        self.arguments.extend(["--backend".into(), name.into()]);
        self
    }

    /// Its home is made in this directory.
    pub(crate) fn within(mut self, parent: &Path) -> Self {
        self.parent = parent.to_owned();
        self
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(self) -> Daemon {
        let home = tempfile::Builder::new().prefix("agentctl-").tempdir_in(&self.parent).expect("a home");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("a private home");
        fs::write(home.path().join("config.json"), self.config.to_string()).expect("a configuration");
        let mut daemon = Daemon {
            home,
            work: tempfile::Builder::new().prefix("agentctl-work-").tempdir().expect("a directory"),
            works: AtomicU32::new(0),
            child: None,
            env: self.env,
            arguments: self.arguments,
            through: Vec::new(),
        };
        daemon.start();
        daemon
    }
}

impl Daemon {
    /// Without metrics port; commits are as safe as against a crash of any process, and fast. What else runs on this
    /// host is not looked for.
    pub(crate) fn builder() -> Builder {
        Builder {
            config: json!({"metrics_addr": null, "durability": "normal", "discover": false}),
            env: Vec::new(),
            arguments: Vec::new(),
            parent: std::env::temp_dir(),
        }
    }

    pub(crate) fn new() -> Self {
        Self::builder().start()
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home().join("agentctl.sock")
    }

    /// How many connections there are to it: to each belongs a socket of its path that is connected (proc(5), net/unix).
    pub(crate) fn connections(&self) -> usize {
        let sockets = fs::read_to_string("/proc/net/unix").expect("the host's sockets");
        let path = self.socket();
        let of_ours = |line: &&str| {
            let words: Vec<&str> = line.split_ascii_whitespace().collect();
            words.get(5) == Some(&"03") && words.get(7).is_some_and(|named| Path::new(named) == path)
        };
        sockets.lines().filter(of_ours).count()
    }

    /// The daemon's process number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running daemon").id()
    }

    /// Starts the daemon (again) and waits until it answers.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "the daemon runs already");
        let log =
            File::options().append(true).create(true).open(self.home().join("test.log")).expect("a log");
        let mut line = self.through.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_agentctl")]);
        let child = Command::new(line.next().expect("a program"))
            .args(line)
            .args(["daemon", "run"])
            .args(&self.arguments)
            .env_remove("AGENTCTL_SESSION_ID")
            .env("AGENTCTL_HOME", self.home())
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        self.child = Some(child);
        until("the daemon to answer", || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().expect("our own child"));
            assert!(ended.is_none(), "the daemon ended at once:\n{}", self.log());
            self.run(["daemon", "status"]).status.success().then_some(())
        });
    }

    /// What the daemons of this home said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home().join("test.log")).unwrap_or_default()
    }

    /// Later starts are made by this program, with these first arguments, that ends the daemon when it is killed.
    pub(crate) fn through(&mut self, words: &[&str]) {
        self.through = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// A variable of the environment of later starts.
    pub(crate) fn set_env(&mut self, key: &str, value: &str) {
        self.env.push((key.into(), value.into()));
    }

    /// One more argument of later starts.
    pub(crate) fn argument(&mut self, word: &str) {
        self.arguments.push(word.to_owned());
    }

    /// SIGKILL, reaped.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("a running daemon");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        if !self.through.is_empty() {
            let lock = File::open(self.home().join("daemon.lock")).expect("a lock file");
            until("the daemon to be gone", || lock.try_lock_shared().ok());
        }
    }

    /// Another daemon than the one that was killed runs now: a command has started it.
    pub(crate) fn is_anothers(&mut self) {
        assert_eq!(self.run(["daemon", "stop"]).status.code(), Some(0));
        self.start();
    }

    /// Waits until it has ended by itself.
    pub(crate) fn is_over(&mut self) {
        let mut child = self.child.take().expect("a running daemon");
        until("the end of the daemon", || child.try_wait().expect("our own child"));
    }

    /// SIGTERM, reaped.
    pub(crate) fn terminate(&mut self) {
        let mut child = self.child.take().expect("a running daemon");
        let process = ProcessRef::of_child(child.id()).expect("our own child");
        process.signal(15).expect("our own child");
        child.wait().expect("our own child");
    }

    /// A directory where nobody is yet.
    pub(crate) fn fresh_dir(&self) -> PathBuf {
        let number = self.works.fetch_add(1, Ordering::Relaxed);
        let dir = self.work.path().join(number.to_string());
        fs::create_dir(&dir).expect("a directory");
        dir
    }

    /// The command line, not yet run; it never starts a daemon. A launch is made in a directory of its own.
    pub(crate) fn command<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
        let mut arguments = arguments.into_iter().peekable();
        if arguments
            .peek()
            .is_some_and(|verb| ["launch", "run"].iter().any(|launch| verb.as_ref() == *launch))
        {
            command.current_dir(self.fresh_dir());
        }
        command
            .args(arguments)
            .env_remove("AGENTCTL_SESSION_ID")
            .env_remove("AGENTCTL_SOCKET")
            .env("AGENTCTL_HOME", self.home())
            .env("AGENTCTL_NO_AUTOSTART", "1")
            .stdin(Stdio::null());
        command
    }

    /// Runs the command line.
    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Output {
        self.command(arguments).output().expect("the command line runs")
    }

    /// Runs the command line; its stdout as JSON.
    #[track_caller]
    pub(crate) fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Value {
        let output = self.run(arguments);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Launches `sh -c script` with more launch flags before it; the id.
    #[track_caller]
    pub(crate) fn launch(&self, flags: &[&str], script: &str) -> String {
        let command = ["--", "sh", "-c", script];
        let arguments = ["launch", "--json"].iter().chain(flags).chain(&command);
        let record = self.json(arguments);
        record["id"].as_str().unwrap_or_else(|| panic!("no id in {record}")).to_owned()
    }

    /// The record of a session.
    #[track_caller]
    pub(crate) fn status(&self, id: &str) -> Value {
        self.json(["status", id, "--json"])
    }

    /// Waits for the verdict; the record.
    #[track_caller]
    pub(crate) fn ended(&self, id: &str) -> Value {
        let output = self.run(["wait", id, "--json", "--timeout", "120s"]);
        let records: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{error}: {output:?}\n{}", self.log()));
        records[0].clone()
    }

    /// All events that are kept.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        let output = self.run(["events", "--since", "0", "--no-follow"]);
        let lines = String::from_utf8(output.stdout).expect("JSON is UTF-8");
        lines.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// A file of a session.
    pub(crate) fn file(&self, id: &str, name: &str) -> PathBuf {
        self.home().join("sessions").join(id).join(name)
    }

    /// What a session printed.
    pub(crate) fn stdout(&self, id: &str) -> String {
        fs::read_to_string(self.file(id, "stdout.log")).unwrap_or_default()
    }

    /// Sends raw bytes to the socket and no more; the answer, until the daemon closes. One that takes it time may never come:
    /// who has closed his side counts as gone.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        use std::io::Read;
        let mut stream =
            std::os::unix::net::UnixStream::connect(self.socket()).expect("a daemon that listens");
        // The daemon may answer, and close, before all is written.
        let _early_answer = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut answer = Vec::new();
        let _closed_early = stream.read_to_end(&mut answer);
        answer
    }
}

impl Daemon {
    /// It still does its work.
    #[track_caller]
    pub(crate) fn is_well(&self) {
        assert_eq!(self.code(&["run", "--", "sh", "-c", "exit 7"]), Some(7), "{}", self.log());
    }
}

/// A home for a daemon that will not start.
pub(crate) fn home() -> TempDir {
    let home = tempfile::Builder::new().prefix("agentctl-").tempdir().expect("a home");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).expect("a private home");
    home
}

/// What a daemon says that refuses to start: exit 1, and nothing on stdout.
#[track_caller]
pub(crate) fn refusal(home: &Path) -> String {
    refusal_with(home, &[], &[])
}

/// The same, with more in its environment and more arguments.
#[track_caller]
pub(crate) fn refusal_with(home: &Path, env: &[(&str, &str)], arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command.args(["daemon", "run"]).args(arguments).env_remove("AGENTCTL_SESSION_ID");
    command.envs(env.iter().copied());
    let output = command.env("AGENTCTL_HOME", home).env("NO_COLOR", "1").output();
    let output = output.expect("the daemon runs");
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{output:?}");
    stderr(&output)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.is_none() && !std::thread::panicking() {
            self.start();
        }
        if self.child.is_some() {
            self.run(["stop", "--all", "--force"]);
            self.kill();
        }
        if std::thread::panicking() {
            let mut stderr = std::io::stderr();
            let _nobody = writeln!(stderr, "---- the daemon's log ----\n{}", self.log());
        }
    }
}
