//! Requests to the daemon over its Unix socket, and starting a daemon where none answers.
//!
//! Owns the search for the socket, the limits of patience, and the words for a daemon that does not answer.

use std::cmp::Ordering;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{self, AtomicBool};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::daemon::Home;
use crate::daemon::OldDaemon;
use crate::limits;
use crate::wire::api::{Problem, SERVER_NAME};

use super::{Failure, render, units};

/// The earlier agentctl did without a daemon then. Here it only keeps one from being started.
const NO_DAEMON: &str = "AGENTCTL_NO_DAEMON";

/// A variable, if it is set and not empty.
pub(crate) fn set(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Whether a variable that is a switch is on: it is `1`.
fn is_on(name: &str) -> bool {
    set(name).is_some_and(|value| value == "1")
}

/// Whether this command runs in a session.
fn is_inside() -> bool {
    set("AGENTCTL_SESSION_ID").is_some()
}

/// Where instances of the system's template listen, each in a directory of its user's name.
const SYSTEM_SOCKETS: &str = "/run/agentctl";

/// Where the daemon is asked.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    /// The home whose daemon may be started; none when a socket was named or found elsewhere.
    home: Option<Home>,
    autostart: bool,
    /// Whether a daemon of another version is worth a word.
    tells_versions: bool,
    /// Whether somebody has listened: who is not there then is on his way back.
    met: Arc<AtomicBool>,
}

/// Why a request has no answer to show.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Nobody listens.
    Nobody(io::Error),
    /// The connection broke, and asking again is safe.
    Broken(String),
    /// The connection broke, and what was asked may have been done: it is not asked twice. `look`: what tells.
    Perhaps { why: String, look: String },
    /// The daemon said no.
    Refused(Problem),
}

impl Client {
    /// Finds the socket: `$AGENTCTL_SOCKET`, `$AGENTCTL_HOME`, the system's, the user's.
    pub(crate) fn find() -> Result<Self, Failure> {
        let inside = is_inside();
        let forbidden = is_on("AGENTCTL_NO_AUTOSTART") || is_on(NO_DAEMON);
        if let Some(socket) = set("AGENTCTL_SOCKET") {
            return Ok(Self::new(socket.into(), None, false));
        }
        if set("AGENTCTL_HOME").is_none()
            && let Some(user) = set("USER")
        {
            let system = Path::new(SYSTEM_SOCKETS).join(user).join("agentctl.sock");
            if system.exists() {
                return Ok(Self::new(system, None, false));
            }
        }
        let home = Home::from_env().map_err(|error| Failure::new(1, error.to_string()))?;
        let autostart = !inside && !forbidden;
        Ok(Self::new(home.socket(), Some(home), autostart))
    }

    fn new(socket: PathBuf, home: Option<Home>, autostart: bool) -> Self {
        Self { socket, home, autostart, tells_versions: true, met: Arc::default() }
    }

    /// Whether a daemon has listened before.
    pub(crate) fn has_met_one(&self) -> bool {
        self.met.load(atomic::Ordering::Relaxed)
    }

    /// The socket, for messages.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The home, when the daemon is the user's own.
    pub(crate) fn home(&self) -> Option<&Home> {
        self.home.as_ref()
    }

    /// The same daemon, never started by us.
    pub(crate) fn without_autostart(&self) -> Self {
        Self { autostart: false, ..self.clone() }
    }

    /// The same, for who is about to replace a daemon of whatever version.
    pub(crate) fn of_any_version(&self) -> Self {
        Self { tells_versions: false, ..self.clone() }
    }

    /// One request; starts a daemon first where that is allowed and none answers.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
    ) -> Result<Response<Incoming>, Unanswered> {
        match self.send_to_one_that_lives(&method, path, body.clone(), key).await {
            Err(Unanswered::Nobody(_)) if self.autostart => {
                if let Err(why) = self.start(None).await {
                    self.started_by_another(why).await?;
                }
                self.send_to_one_that_lives(&method, path, body, key).await
            }
            answer => answer,
        }
    }

    /// A daemon that is being restarted breaks off before it answers: its successor is asked what may be asked twice.
    async fn send_to_one_that_lives(
        &self,
        method: &Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let once = if key.is_some() { None } else { done_once(method, path) };
        let mut again = ASK_AGAIN_MAX;
        let mut broke_off = None;
        loop {
            match self.send_once(method, path, body.clone(), key).await {
                Err(Unanswered::Broken(why)) if let Some(look) = &once => {
                    return Err(Unanswered::Perhaps { why, look: look.clone() });
                }
                Err(Unanswered::Broken(why)) if again > 0 => {
                    again -= 1;
                    broke_off = Some(why);
                    sleep(RETRY_PAUSE).await;
                }
                // There was one, and its successor may be on its way: who waits for that must not take this for an
                // answer. Where one may be started, that is as good.
                Err(Unanswered::Nobody(nobody)) => {
                    return Err(match broke_off {
                        Some(why) if !self.autostart => Unanswered::Broken(why),
                        Some(_) | None => Unanswered::Nobody(nobody),
                    });
                }
                answer => return answer,
            }
        }
    }

    /// Another command may have started a daemon in the same moment: then that one answers soon.
    async fn started_by_another(&self, why: String) -> Result<(), Unanswered> {
        let mut tries = limits::DAEMON_START_TIMEOUT.as_millis() / RETRY_PAUSE.as_millis();
        while tries > 0 && self.home.as_ref().is_some_and(|home| !home.is_free()) {
            if UnixStream::connect(&self.socket).await.is_ok() {
                return Ok(());
            }
            sleep(RETRY_PAUSE).await;
            tries -= 1;
        }
        Err(Unanswered::Nobody(io::Error::other(why)))
    }

    async fn send_once(
        &self,
        method: &Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
    ) -> Result<Response<Incoming>, Unanswered> {
        let stream = timeout(limits::CONNECT_TIMEOUT, UnixStream::connect(&self.socket)).await;
        let stream = stream.map_err(|_| Unanswered::Nobody(io::ErrorKind::TimedOut.into()))?;
        let stream = stream.map_err(Unanswered::Nobody)?;
        self.met.store(true, atomic::Ordering::Relaxed);
        let broken = |error: hyper::Error| Unanswered::Broken(error.to_string());
        let mut http = http1::Builder::new();
        let conversation = http.max_buf_size(limits::READ_BUFFER_BYTES).handshake(TokioIo::new(stream));
        let (mut sender, connection) = conversation.await.map_err(broken)?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(hyper::header::HOST, "agentctl");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::new(body.unwrap_or_default()));
        let request = request.map_err(|error| Unanswered::Broken(error.to_string()))?;
        let answering = sender.send_request(request);
        tokio::pin!(answering);
        let answer = match timeout(limits::OLD_DAEMON_PATIENCE, &mut answering).await {
            Ok(answer) => answer,
            // An earlier agentctl's daemon never answers what it does not understand.
            Err(_) => match self.old_daemon().await {
                Some(old) => return Err(Unanswered::Refused(spoken_to_in_vain(&old))),
                None => answering.await,
            },
        };
        let answer = answer.map_err(broken)?;
        if self.tells_versions {
            compare_versions(&answer);
        }
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let bytes = whole(answer).await?;
        Err(Unanswered::Refused(serde_json::from_slice(&bytes).unwrap_or_else(|_| Problem {
            title: "error".into(),
            status: status.as_u16(),
            detail: String::from_utf8_lossy(&bytes).into_owned(),
        })))
    }

    /// Once, by whoever started the daemon: what it took over from an earlier agentctl.
    async fn say_what_was_taken_over(&self) {
        let Ok(answer) = self.send_once(&Method::GET, "/v1/health", None, None).await else { return };
        let health = whole(answer).await.ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        let lines = health.as_ref().and_then(|health| health["imported"].as_array());
        for line in lines.into_iter().flatten().filter_map(Value::as_str) {
            render::say(&format!("agentctl: {line}"));
        }
    }

    /// The daemon of the earlier tool, if it is who listens.
    async fn old_daemon(&self) -> Option<OldDaemon> {
        let home = self.home.clone()?;
        spawn_blocking(move || home.listening_old_daemon()).await.ok().flatten()
    }

    /// A request whose answer is JSON.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl serde::Serialize>,
    ) -> Result<T, Failure> {
        let once = done_once(&method, path);
        let answer = self.send(method, path, encode(body)?, None).await.map_err(|why| self.failure(why))?;
        let bytes = whole(answer).await.map_err(|why| match (why, once) {
            (Unanswered::Broken(why), Some(look)) => self.failure(Unanswered::Perhaps { why, look }),
            (why, _) => self.failure(why),
        })?;
        decode(&bytes)
    }

    /// The failure that an unanswered request is.
    pub(crate) fn failure(&self, why: Unanswered) -> Failure {
        let socket = self.socket.display();
        match why {
            Unanswered::Refused(problem) => Failure::new(1, problem.detail),
            Unanswered::Broken(error) => Failure::new(
                3,
                format!("the daemon at {socket} broke off: {error}; see: agentctl daemon status"),
            ),
            Unanswered::Perhaps { why, look } => Failure::new(
                3,
                format!(
                    "the daemon at {socket} broke off before it answered ({why}); whether it was done is not known; look: {look}"
                ),
            ),
            // Which may be about to start its daemon again: none of ours will start beside it.
            Unanswered::Nobody(_) if let Some(old) = self.home().and_then(Home::old_daemon) => {
                Failure::new(1, old.to_string())
            }
            Unanswered::Nobody(error) if is_inside() => Failure::new(
                3,
                format!(
                    "no daemon answers at {socket} ({error}), and none is started from inside a session, since it \
                     would end with it; outside, run: agentctl daemon start"
                ),
            ),
            Unanswered::Nobody(error) if self.home.is_some() && is_on(NO_DAEMON) => Failure::new(
                3,
                format!(
                    "no daemon answers at {socket} ({error}), and {NO_DAEMON}=1 keeps this command from starting one; \
                     nothing works without a daemon here. Unset it, or run: agentctl daemon start"
                ),
            ),
            Unanswered::Nobody(error) => {
                let run = self.system_instance().map_or("agentctl daemon start".to_owned(), |user| {
                    format!("sudo systemctl start agentctl@{user}.socket")
                });
                Failure::new(3, format!("no daemon answers at {socket} ({error}); run: {run}"))
            }
        }
    }

    /// Whose instance of the system's template the socket is of.
    fn system_instance(&self) -> Option<&str> {
        let rest = self.socket.strip_prefix(SYSTEM_SOCKETS).ok()?;
        self.home.is_none().then(|| rest.parent()?.to_str()).flatten()
    }

    /// Starts a daemon of this home and waits until it answers.
    pub(crate) async fn start(&self, metrics_port: Option<u16>) -> Result<u32, String> {
        let home = self.home.clone().ok_or("the socket belongs to a daemon that a service manager starts")?;
        // Where a unit is enabled, the daemon is the service manager's to start.
        let of_unit = std::env::var_os("AGENTCTL_HOME").is_none();
        let started = spawn_blocking(move || match of_unit.then(units::start_enabled).flatten() {
            Some(started) if metrics_port.is_none() => started,
            Some(_) => {
                Err("the daemon is started by its unit, and serves metrics where config.json says: set \
                            metrics_addr there"
                    .to_owned())
            }
            None => start_daemon(&home, metrics_port),
        });
        match timeout(limits::DAEMON_START_TIMEOUT, started).await {
            Ok(Ok(Ok(pid))) => {
                self.say_what_was_taken_over().await;
                Ok(pid)
            }
            Ok(Ok(Err(why))) => Err(why),
            Ok(Err(panicked)) => Err(panicked.to_string()),
            Err(_) => {
                Err(format!("the daemon did not answer within {} s", limits::DAEMON_START_TIMEOUT.as_secs()))
            }
        }
    }
}

fn start_daemon(home: &Home, metrics_port: Option<u16>) -> Result<u32, String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    // Before anything is made in the home.
    if let Some(old) = home.old_daemon() {
        return Err(old.to_string());
    }
    match std::fs::DirBuilder::new().mode(0o700).create(home.path()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(format!("make {}: {error}", home.path().display()));
        }
        Ok(()) | Err(_) => {}
    }
    let log = home.path().join("daemon.log");
    let log = std::fs::File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log)
        .map_err(|error| format!("open {}: {error}", log.display()))?;
    let program = std::env::current_exe().map_err(failed("find this program"))?;
    let mut child = Command::new(program)
        .args(["daemon", "run", "--detach"])
        .args(metrics_port.map(|port| format!("--metrics-port={port}")))
        .env("AGENTCTL_HOME", home.path())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed("start the daemon"))?;
    let pid = child.id();
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed("hear from the daemon"))?;
    }
    match line.trim() {
        "ready" => Ok(pid),
        "" => Err(format!("the daemon ended at once; see {}", home.path().join("daemon.log").display())),
        why => Err(why.to_owned()),
    }
}

fn spoken_to_in_vain(old: &OldDaemon) -> Problem {
    Problem {
        title: "an earlier agentctl".into(),
        status: StatusCode::HTTP_VERSION_NOT_SUPPORTED.as_u16(),
        detail: old.to_string(),
    }
}

/// Says once when the daemon is of another version.
fn compare_versions(answer: &Response<Incoming>) {
    static SAID: AtomicBool = AtomicBool::new(false);
    let daemon = answer.headers().get(hyper::header::SERVER).and_then(|name| name.to_str().ok());
    // Not folded into the comparison: packaging/test-deb makes a later version of this program by its text alone.
    let command = std::hint::black_box(SERVER_NAME);
    if let Some(said) = of_another_version(daemon, command)
        && !SAID.swap(true, atomic::Ordering::Relaxed)
    {
        render::say(&said);
    }
}

/// What is said of a daemon with this name; nothing when it is of the command's version.
fn of_another_version(daemon: Option<&str>, command: &str) -> Option<String> {
    let Some(daemon) = daemon else {
        return Some(format!(
            "the daemon does not tell its version, this command is {command}; run: agentctl daemon restart"
        ));
    };
    let numbers = |name: &str| -> Vec<u64> {
        let parts = name.rsplit('/').next().unwrap_or_default().split(|c: char| !c.is_ascii_digit());
        parts.map_while(|part| part.parse().ok()).collect()
    };
    if daemon == command {
        return None;
    }
    let (is, remedy) = match numbers(daemon).cmp(&numbers(command)) {
        Ordering::Greater => ("newer than", "use the newer agentctl (which -a agentctl)"),
        Ordering::Less => ("older than", "sessions do not notice when you run: agentctl daemon restart"),
        Ordering::Equal => ("another version than", "run: agentctl daemon restart"),
    };
    Some(format!("the daemon ({daemon}) is {is} this command ({command}); {remedy}"))
}

/// The whole lines of an answer, as they come; what is behind the last line break is not told.
pub(crate) struct Lines {
    body: Incoming,
    unfinished: Vec<u8>,
}

impl Lines {
    pub(crate) fn of(answer: Response<Incoming>) -> Self {
        Self { body: answer.into_body(), unfinished: Vec::new() }
    }

    /// The next one, with its line break. `None`: the answer is over.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>, Unanswered> {
        loop {
            if let Some(end) = self.unfinished.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.unfinished.drain(..=end).collect()));
            }
            let Some(bytes) = piece(&mut self.body).await? else { return Ok(None) };
            self.unfinished.extend_from_slice(&bytes);
        }
    }
}

/// The next bytes of a body, as they come. `None`: it is over.
pub(crate) async fn piece(body: &mut Incoming) -> Result<Option<Bytes>, Unanswered> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Unanswered::Broken(error.to_string()))?;
        if let Ok(bytes) = frame.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The whole body of an answer.
pub(crate) async fn whole(answer: Response<Incoming>) -> Result<Bytes, Unanswered> {
    let body = answer.into_body().collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| Unanswered::Broken(error.to_string()))
}

pub(crate) fn encode(body: Option<&impl serde::Serialize>) -> Result<Option<Bytes>, Failure> {
    let encoded = body.map(serde_json::to_vec).transpose();
    encoded
        .map(|bytes| bytes.map(Bytes::from))
        .map_err(|error| Failure::new(1, format!("encode a request: {error}")))
}

pub(crate) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Failure> {
    serde_json::from_slice(bytes).map_err(|error| {
        let hint = "the daemon may be of another version; run: agentctl daemon restart";
        Failure::new(1, format!("the daemon's answer is not understood: {error}; {hint}"))
    })
}

/// A path segment of the user's words.
pub(crate) fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// What tells whether a request was done, of those that are not asked twice: a second signal is one more, and a second
/// `unlock` finds nothing to do. Reading is asked as often as it takes, and so is what comes to the same in the end.
fn done_once(method: &Method, path: &str) -> Option<String> {
    if *method == Method::GET {
        return None;
    }
    let path = path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches("/v1/").split('/').collect();
    let look = match parts[..] {
        ["sessions", _, "stop" | "extend" | "adopt"]
        | ["reload"]
        | ["webhooks", _, "pause" | "resume"]
        | ["fuses", _, "extend"] => return None,
        ["sessions", id, _] => {
            let id = percent_encoding::percent_decode_str(id).decode_utf8_lossy();
            format!("agentctl status {id}")
        }
        ["fuses", ..] => "agentctl fuses".to_owned(),
        ["locks", ..] => "agentctl locks".to_owned(),
        ["deliveries", ..] | ["webhooks", ..] => "agentctl webhooks list".to_owned(),
        ["sessions" | "prune", ..] => "agentctl list -a".to_owned(),
        _ => "agentctl daemon status".to_owned(),
    };
    Some(look)
}

/// Whether asking again may help: the daemon restarts, or its answer was lost.
pub(crate) fn may_retry(why: &Unanswered) -> bool {
    match why {
        Unanswered::Nobody(_) | Unanswered::Broken(_) => true,
        Unanswered::Perhaps { .. } => false,
        Unanswered::Refused(problem) => problem.status == StatusCode::SERVICE_UNAVAILABLE.as_u16(),
    }
}

/// How long a broken conversation is taken up again: through a restart of the daemon, and not for ever.
pub(crate) struct Patience {
    tries: u128,
    first: bool,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { tries: limits::RECONNECT_TIMEOUT.as_millis() / RETRY_PAUSE.as_millis(), first: true }
    }

    /// Returns after a pause when it is worth asking again; else the failure. Nobody there at the very first
    /// is an answer. While a connection holds, tries are not used up: a long session is no silent daemon.
    pub(crate) async fn after(&mut self, client: &Client, why: Unanswered) -> Result<(), Failure> {
        let nobody = matches!(why, Unanswered::Nobody(_));
        if (self.first && nobody && !client.has_met_one()) || !may_retry(&why) || self.tries == 0 {
            return Err(client.failure(why));
        }
        self.first = false;
        self.tries -= u128::from(nobody);
        sleep(RETRY_PAUSE).await;
        Ok(())
    }
}

/// A daemon that breaks off every answer is asked so often again.
const ASK_AGAIN_MAX: u32 = 5;

/// The pause between two looks for a restarted daemon.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_of_another_version_is_told_with_the_remedy() {
        let said = |daemon| of_another_version(daemon, "agentctl/0.10.0");
        assert_eq!(said(Some("agentctl/0.10.0")), None);
        for (daemon, word, remedy) in [
            (Some("agentctl/0.9.12"), "older than", "agentctl daemon restart"),
            (Some("agentctl/0.11.0"), "newer than", "which -a agentctl"),
            (Some("agentctl/1.0.0"), "newer than", "which -a agentctl"),
            (Some("agentctl/0.10.0-rc1"), "another version than", "agentctl daemon restart"),
            (None, "does not tell its version", "agentctl daemon restart"),
        ] {
            let text = said(daemon).unwrap();
            assert!(text.contains(word) && text.contains(remedy), "{text}");
        }
    }
}
