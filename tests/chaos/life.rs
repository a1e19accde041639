//! The lives that sessions lead: each is planned from the seed, and lived by this same program as the session's leader.
//!
//! A leader says hello to the observer and goes on only when that holds its pidfd. So does every child that is to
//! outlive it. Right before its end it writes the time down. Refuses to know that agentctl exists, but for its id.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use agentctl::sys::{ProcessRef, clock};
use fastrand::Rng;
use serde_json::{Value, json};

/// A session that lost its observer ends with this, which no plan does.
const ORPHANED: u8 = 199;
/// The child of a session that keeps its leftovers ends by itself, so.
pub(crate) const KEPT_CHILD_CODE: u8 = 9;
/// Directories that hold one session at a time.
pub(crate) const ROOMS: usize = 6;
/// Ends a life, and is neither handled nor ignored by the Rust runtime.
const SIGNALS: [u8; 11] = [1, 2, 3, 6, 9, 10, 12, 14, 15, 24, 31];

/// What becomes of one session.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) index: usize,
    pub(crate) until: Until,
    pub(crate) end: End,
    pub(crate) child: Option<Kid>,
    /// TERM does nothing to it.
    pub(crate) deaf: bool,
    /// Its master timeout.
    pub(crate) timeout: Option<Duration>,
    /// Somebody is going to stop it.
    pub(crate) stop: Option<Stop>,
    /// One of [`ROOMS`], and how it gets in; none lives where everybody does.
    pub(crate) room: Option<(usize, Entry)>,
}

/// What a launch does about a directory that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It is refused, and asks again.
    Refused,
    /// It waits for its turn.
    Queued,
    /// It does not care.
    Forced,
}

/// How long it lives once it was let go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Time(Duration),
    /// Until the observer ends all of a burst together.
    Burst,
}

/// How it ends when nobody ends it earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Code(u8),
    Signal(u8),
}

/// A process that outlives its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kid {
    /// Ends at TERM.
    Docile,
    /// Needs KILL.
    Deaf,
    /// May stay (`leftovers: keep`), and ends by itself.
    Kept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Asked,
    Forced,
}

impl Plan {
    pub(crate) fn random(index: usize, dice: &mut Rng) -> Self {
        let deaf = dice.u8(..8) == 0;
        let signals = SIGNALS.iter().filter(|signal| !deaf || **signal != 15);
        let signals: Vec<u8> = signals.copied().collect();
        let end = match dice.u8(..10) {
            0..4 => End::Code(0),
            4..8 => End::Code(dice.u8(1..ORPHANED)),
            _ => End::Signal(signals[dice.usize(..signals.len())]),
        };
        let until = match dice.u8(..10) {
            0..2 => Until::Burst,
            2 => Until::Time(Duration::ZERO),
            _ => Until::Time(Duration::from_millis(dice.u64(1..3_000))),
        };
        let child = match dice.u8(..10) {
            0 => Some(Kid::Docile),
            1 => Some(Kid::Deaf),
            2 => Some(Kid::Kept),
            _ => None,
        };
        let stop = match dice.u8(..12) {
            0 => Some(Stop::Asked),
            1 => Some(Stop::Forced),
            _ => None,
        };
        let timed = dice.u8(..10) == 0 && matches!(until, Until::Time(_));
        let timeout = timed.then(|| Duration::from_millis(dice.u64(500..2_500)));
        let entry = match dice.u8(..10) {
            0..2 => Some(Entry::Queued),
            2 => Some(Entry::Refused),
            3 => Some(Entry::Forced),
            _ => None,
        };
        let room = entry.map(|entry| (dice.usize(..ROOMS), entry));
        Self { index, until, end, child, deaf, timeout, stop, room }
    }

    /// A life without any trouble.
    pub(crate) fn calm(index: usize) -> Self {
        let until = Until::Time(Duration::from_millis(20));
        let end = End::Code(u8::try_from(index % 100).unwrap_or_default());
        Self { index, until, end, child: None, deaf: false, timeout: None, stop: None, room: None }
    }

    /// The body of its launch. `program`: this one; `socket`: the observer's; `rooms`: the directory of the rooms.
    pub(crate) fn launch(&self, program: &str, socket: &str, rooms: &str, entry: Entry) -> Value {
        let until = match self.until {
            Until::Time(time) => time.as_millis().to_string(),
            Until::Burst => "burst".to_owned(),
        };
        let end = match self.end {
            End::Code(code) => format!("code:{code}"),
            End::Signal(signal) => format!("signal:{signal}"),
        };
        let child = match self.child {
            None => "none",
            Some(Kid::Docile) => "docile",
            Some(Kid::Deaf) => "deaf",
            Some(Kid::Kept) => "kept",
        };
        let index = self.index.to_string();
        let room = match self.room {
            None => "-".to_owned(),
            Some((room, _)) if entry == Entry::Forced => format!("!{room}"),
            Some((room, _)) => room.to_string(),
        };
        let cwd = self.room.map_or_else(|| "/".to_owned(), |(room, _)| format!("{rooms}/{room}"));
        let life = [program, "life", socket, &index, &until, &end, child, &room];
        let command: Vec<&str> = if self.deaf {
            let wrapper = ["sh", "-c", "trap '' TERM; exec \"$@\"", "sh"];
            wrapper.iter().chain(&life).copied().collect()
        } else {
            life.into()
        };
        let leftovers = if self.child == Some(Kid::Kept) { "keep" } else { "kill" };
        let timeout = self.timeout.map_or(0, |time| time.as_millis());
        json!({
            "adapter": "exec", "command": command, "cwd": cwd,
            "force": entry == Entry::Forced, "queue": entry == Entry::Queued, "graceMs": 300, "leftovers": leftovers,
            "timeoutMs": u64::try_from(timeout).unwrap_or(u64::MAX), "name": format!("life-{index}"),
        })
    }
}

/// Lives one: the arguments are what [`Plan::launch`] made of it.
pub(crate) fn live(arguments: &[String]) -> io::Result<ExitCode> {
    let [socket, index, until, end, child, room] = arguments else {
        return Err(io::Error::other("a life takes six arguments"));
    };
    let id = std::env::var("AGENTCTL_SESSION_ID").map_err(io::Error::other)?;
    let mut observer = greet(socket, &format!("hello {index} {id} {until} {room}"))?;
    if child != "none" {
        bear(socket, index, child)?;
    }
    if let Ok(millis) = until.parse() {
        // Zero would be no time limit at all.
        observer.set_read_timeout(Some(Duration::from_millis(millis).max(Duration::from_micros(1))))?;
    }
    match observer.read(&mut [0; 8]) {
        Ok(0) => return Ok(ExitCode::from(ORPHANED)),
        Ok(_told_to_end) => {}
        Err(time_over) if matches!(time_over.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
        }
        Err(error) => return Err(error),
    }
    let (kind, number) =
        end.split_once(':').ok_or_else(|| io::Error::other("an end is code:N or signal:N"))?;
    let number: u8 = number.parse().map_err(io::Error::other)?;
    let me = ProcessRef::of_child(std::process::id())?;
    let now = clock::now();
    observer.write_all(format!("stamp {} {}\n", now.mono.0, now.wall.0).as_bytes())?;
    if kind == "code" {
        return Ok(ExitCode::from(number));
    }
    me.signal(number)?;
    std::thread::sleep(Duration::from_secs(600));
    Err(io::Error::other("the signal did nothing"))
}

/// Starts a child that outlives this process, and waits until the observer holds it.
fn bear(socket: &str, index: &str, kind: &str) -> io::Result<()> {
    let me = std::env::current_exe()?;
    let mut command = Command::new(me);
    command.args(["kid", socket, index, kind]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    let up = child.stdout.take().ok_or_else(|| io::Error::other("no pipe from the child"))?;
    let mut line = String::new();
    BufReader::new(up).read_line(&mut line)?;
    if line == "up\n" { Ok(()) } else { Err(io::Error::other("the child did not come up")) }
}

/// The child: known to the observer, it becomes what it is to be.
pub(crate) fn outlive(arguments: &[String]) -> io::Result<ExitCode> {
    let [socket, index, kind] = arguments else {
        return Err(io::Error::other("a child takes three arguments"));
    };
    drop(greet(socket, &format!("child {index} {kind}"))?);
    let script = match kind.as_str() {
        "docile" => "echo up; exec sleep 1000".to_owned(),
        "deaf" => "trap '' TERM; echo up; exec sleep 1000".to_owned(),
        _kept => format!("echo up; sleep 0.7; exit {KEPT_CHILD_CODE}"),
    };
    Err(Command::new("sh").args(["-c", &script]).exec())
}

/// Says who this is; returns when the observer holds its pidfd.
fn greet(socket: &str, words: &str) -> io::Result<UnixStream> {
    let mut observer = UnixStream::connect(socket)?;
    observer.write_all(format!("{words}\n").as_bytes())?;
    let mut answer = [0; 3];
    observer.read_exact(&mut answer)?;
    Ok(observer)
}
