//! Where it happens: a home, a directory with the installed programs, and ways to ask the daemon.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::life::ROOMS;

/// Read by the later build alone: up to which version it knows the journal's schema.
pub(crate) const SCHEMA: &str = "AGENTCTL_CHAOS_SCHEMA";

/// The build under test, and the one that knows later schemas.
const AGENTCTL: &str = "agentctl-built";
const LATER: &str = "agentctl-later";

pub(crate) struct Rig {
    home: TempDir,
    bin: TempDir,
    cli: PathBuf,
    program: PathBuf,
    installed: AtomicUsize,
}

impl Rig {
    pub(crate) fn new(webhook: &str) -> io::Result<Self> {
        let home = tempfile::Builder::new().prefix("chaos-").tempdir()?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700))?;
        let config = json!({
            "metrics_addr": null, "durability": "normal", "webhook_url": webhook, "webhook_secret": "storm",
        });
        fs::write(home.path().join("config.json"), config.to_string())?;
        let bin = tempfile::Builder::new().prefix("chaos-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let this = std::env::current_exe()?;
        let builds = [(AGENTCTL, Path::new(env!("CARGO_BIN_EXE_agentctl"))), (LATER, &this)];
        for (name, build) in builds {
            // Copies, since whoever builds meanwhile replaces the originals; two of each, so that what is installed is
            // always another file than what was.
            for copy in ["0", "1"] {
                fs::copy(build, bin.path().join(format!("{name}.{copy}")))?;
            }
        }
        for room in 0..ROOMS {
            fs::create_dir_all(bin.path().join("rooms").join(room.to_string()))?;
        }
        fs::copy(env!("CARGO_BIN_EXE_agentctl-shim"), bin.path().join("agentctl-shim"))?;
        let copy = |name: &str| bin.path().join(format!("{name}.0"));
        let (cli, program) = (copy(AGENTCTL), copy(LATER));
        Ok(Self { home, bin, cli, program, installed: AtomicUsize::new(0) })
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// This program, which is also the leader of every session, and the later builds of agentctl.
    pub(crate) fn program(&self) -> String {
        self.program.display().to_string()
    }

    /// The directory of the [`ROOMS`].
    pub(crate) fn rooms(&self) -> String {
        self.bin.path().join("rooms").display().to_string()
    }

    /// What the daemons said.
    pub(crate) fn log(&self) -> PathBuf {
        self.bin.path().join("daemon.log")
    }

    /// Keeps everything, for whoever looks into a failure.
    pub(crate) fn keep(self) -> [PathBuf; 2] {
        [self.home.keep(), self.bin.keep()]
    }

    /// Replaces the installed program by the build that knows the schema up to this version, as a package manager
    /// does: by a rename.
    pub(crate) fn install(&self, schema: u32) -> io::Result<()> {
        let copy = self.installed.fetch_add(1, Ordering::Relaxed) % 2;
        let build = if schema == 1 { AGENTCTL } else { LATER };
        let beside = self.bin.path().join("new");
        fs::hard_link(self.bin.path().join(format!("{build}.{copy}")), &beside)?;
        fs::rename(beside, self.bin.path().join("agentctl"))
    }

    /// Starts the installed daemon.
    pub(crate) fn spawn(&self, schema: u32) -> io::Result<Child> {
        let log = File::options().append(true).create(true).open(self.log())?;
        let mut command = Command::new(self.bin.path().join("agentctl"));
        self.surround(&mut command).args(["daemon", "run"]).env("NO_COLOR", "1");
        if schema > 1 {
            command.env(SCHEMA, schema.to_string());
        }
        command.stdout(Stdio::null()).stderr(log).spawn()
    }

    /// The command line, not yet run; it never starts a daemon.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.cli);
        self.surround(&mut command).args(arguments).env("AGENTCTL_NO_AUTOSTART", "1");
        command
    }

    fn surround<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        for name in ["AGENTCTL_SESSION_ID", "AGENTCTL_SOCKET", "AGENTCTL_LOG", "AGENTCTL_WEBHOOK_URL"] {
            command.env_remove(name);
        }
        command.env("AGENTCTL_HOME", self.home()).stdin(Stdio::null())
    }

    /// Runs the command line.
    pub(crate) fn run(&self, arguments: &[&str]) -> io::Result<Output> {
        self.command(arguments).output()
    }

    /// Runs the command line; its stdout as JSON. `None`: it failed, as it may while the daemon is away.
    pub(crate) fn json(&self, arguments: &[&str]) -> Option<Value> {
        let output = self.run(arguments).ok().filter(|output| output.status.success())?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// One request by hand: status and body.
    pub(crate) fn http(
        &self,
        method: &str,
        path: &str,
        headers: &str,
        body: &str,
    ) -> io::Result<(u16, Value)> {
        let mut stream = UnixStream::connect(self.home().join("agentctl.sock"))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes())?;
        stream.write_all(body.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(cut)?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(cut)?;
        Ok((status, serde_json::from_str(body)?))
    }

    /// The daemon's word on itself.
    pub(crate) fn health(&self) -> Option<Value> {
        self.http("GET", "/v1/health", "", "").ok().map(|(_, health)| health)
    }
}
