//! The real daemon in a home of its own, and a client of a few lines that costs next to nothing.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use agentctl::sys::ProcessRef;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Outcome;
use crate::proc::mono_ns;

/// How long anything may take.
const PATIENCE_NS: u64 = 60_000_000_000;

/// A running daemon. Dropping it ends its sessions and itself.
pub(crate) struct Daemon {
    home: TempDir,
    child: Child,
}

impl Daemon {
    pub(crate) fn start(durability: &str) -> Outcome<Self> {
        Self::start_with(json!({"metrics_addr": null, "durability": durability}))
    }

    pub(crate) fn start_with(config: Value) -> Outcome<Self> {
        let home = tempfile::Builder::new().prefix("agentctl-bench-").tempdir()?;
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700))?;
        let child = spawn(home.path(), &config)?;
        let daemon = Self { home, child };
        daemon.first_answer()?;
        Ok(daemon)
    }

    /// Ends the daemon, not its sessions, lets `between` have the home, and starts the next one: how long its first
    /// answer took.
    pub(crate) fn restart(
        &mut self,
        config: &Value,
        between: impl FnOnce(&Path) -> Outcome<()>,
    ) -> Outcome<u64> {
        ProcessRef::of_child(self.pid())?.signal(15)?;
        self.child.wait()?;
        between(self.home())?;
        let begun = mono_ns();
        self.child = spawn(self.home(), config)?;
        self.first_answer()?;
        Ok(mono_ns() - begun)
    }

    fn first_answer(&self) -> Outcome<()> {
        let answers = || self.client().and_then(|mut client| client.get("/v1/health")).is_ok();
        wait_until("the daemon answers", answers)
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home().join("agentctl.sock")
    }

    pub(crate) fn client(&self) -> Outcome<Client> {
        Client::connect(self.socket())
    }

    /// The command line against this daemon, not yet run.
    pub(crate) fn command(&self) -> Command {
        command(self.home())
    }
}

/// Looks every millisecond.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) -> Outcome<()> {
    let begun = mono_ns();
    while !is_so() {
        if mono_ns() - begun > PATIENCE_NS {
            return Err(format!("waited too long until {what}").into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // What fails here leaves processes behind, which is said; the figures are taken already.
        if let Err(error) = self.command().args(["stop", "--all", "--force"]).output() {
            eprintln!("stop the sessions: {error}");
        }
        let ended = ProcessRef::of_child(self.pid()).and_then(|process| process.signal(15));
        if let Err(error) = ended.map(|_| ()).and_then(|()| self.child.wait().map(|_| ())) {
            eprintln!("end the daemon: {error}");
        }
    }
}

fn spawn(home: &Path, config: &Value) -> Outcome<Child> {
    fs::write(home.join("config.json"), config.to_string())?;
    Ok(command(home).args(["daemon", "run"]).spawn()?)
}

fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command
        .env_clear()
        .envs(std::env::vars_os().filter(|(key, _)| !key.to_string_lossy().starts_with("AGENTCTL_")))
        .env("AGENTCTL_HOME", home)
        .env("AGENTCTL_NO_AUTOSTART", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// One connection that stays open, or is made again where the daemon has closed it, which it does with silent ones.
pub(crate) struct Client {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    fn connect(socket: PathBuf) -> Outcome<Self> {
        let stream = BufReader::new(UnixStream::connect(&socket)?);
        Ok(Self { socket, stream })
    }

    pub(crate) fn get(&mut self, path: &str) -> Outcome<Value> {
        self.request("GET", path, "")
    }

    /// Launches a command; its record once the leader runs.
    pub(crate) fn launch(&mut self, command: &[&str]) -> Outcome<Value> {
        let body = json!({"adapter": "exec", "command": command, "cwd": "/", "force": true});
        self.request("POST", "/v1/sessions", &body.to_string())
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, body: &str) -> Outcome<Value> {
        let length = body.len();
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
        let sent = self.stream.get_mut().write_all(request.as_bytes());
        let mut status = if sent.is_ok() { self.line()? } else { String::new() };
        if status.is_empty() {
            *self = Self::connect(self.socket.clone())?;
            self.stream.get_mut().write_all(request.as_bytes())?;
            status = self.line()?;
        }
        let (mut length, mut chunked) = (0, false);
        loop {
            let header = self.line()?.to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            chunked |= header == "transfer-encoding: chunked";
        }
        let answer = if chunked { self.chunks()? } else { self.bytes(length)? };
        if status.split(' ').nth(1).is_none_or(|code| !code.starts_with('2')) {
            return Err(format!("{method} {path}: {status}: {}", String::from_utf8_lossy(&answer)).into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }

    /// A long listing.
    fn chunks(&mut self) -> Outcome<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let length = usize::from_str_radix(&self.line()?, 16)?;
            body.append(&mut self.bytes(length)?);
            self.line()?;
            if length == 0 {
                return Ok(body);
            }
        }
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// The open stream of events, past its head.
    pub(crate) fn into_events(self) -> Outcome<BufReader<UnixStream>> {
        self.into_stream("/v1/events")
    }

    /// The same, with what is kept after a cursor.
    pub(crate) fn into_events_since(self, cursor: &str) -> Outcome<BufReader<UnixStream>> {
        self.into_stream(&format!("/v1/events?since={cursor}"))
    }

    fn into_stream(mut self, path: &str) -> Outcome<BufReader<UnixStream>> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.stream.get_mut().write_all(request.as_bytes())?;
        while !self.line()?.is_empty() {}
        Ok(self.stream)
    }
}
