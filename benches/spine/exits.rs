//! From a leader's last instruction to the event on an open stream, beside a raw epoll on its pidfd.
//!
//! Both watchers see the same exits, so each exit gives a pair, and the difference of a pair is the daemon's share.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use agentctl::limits;
use rusqlite::Connection;
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

use crate::Outcome;
use crate::daemon::{Client, Daemon};
use crate::proc::mono_ns;
use crate::report::{Report, Spread};

/// The argument that makes this program a leader.
pub(crate) const DIE_WHEN_TOLD: &str = "--die-when-told";

/// Between two exits, so that nothing of the last one is still at work.
pub(crate) const CALM: Duration = Duration::from_millis(20);

/// Neither watcher may take so long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The leader: waits for a byte, writes down the time, ends.
pub(crate) fn die_when_told(gate: &str, stamp: &str) -> Outcome<()> {
    let stamp = File::options().write(true).open(stamp)?;
    File::open(gate)?.read_exact(&mut [0])?;
    stamp.write_all_at(&mono_ns().to_le_bytes(), 0)?;
    Ok(())
}

/// What a watcher saw, and when.
pub(crate) type Seen<T> = Receiver<(T, u64)>;

pub(crate) fn measure(daemon: &Daemon, durability: &str, count: usize, report: &mut Report) -> Outcome<()> {
    let floor = Floor::start()?;
    let events = follow(daemon)?;
    let mut client = daemon.client()?;
    let mut committer = Committer::beside(daemon.home())?;
    let scratch = tempfile::tempdir_in("/dev/shm")?;
    let (mut raw, mut told, mut more, mut commits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..count {
        let leader = Leader::launch(&mut client, scratch.path(), n)?;
        let watched = floor.watch(leader.pid, n)?;
        let gate = leader.end()?;
        let floor_at = wait_for(&floor.seen, &n)?;
        let event_at = wait_for(&events, &leader.id)?;
        drop((watched, gate));
        let died = leader.died()?;
        raw.push(floor_at.saturating_sub(died));
        told.push(event_at.saturating_sub(died));
        more.push(event_at.saturating_sub(floor_at));
        thread::sleep(CALM);
        commits.push(committer.commit()?);
    }
    judge(durability, [raw, told, more, commits].map(Spread::of), report);
    Ok(())
}

/// A session whose leader ends when it is told to, and writes down when.
pub(crate) struct Leader {
    pub(crate) id: String,
    pub(crate) pid: Pid,
    gate: PathBuf,
    stamp: PathBuf,
}

impl Leader {
    /// The `n`th of this directory.
    pub(crate) fn launch(client: &mut Client, scratch: &Path, n: usize) -> Outcome<Self> {
        let gate = scratch.join(format!("gate.{n}"));
        let stamp = scratch.join(format!("stamp.{n}"));
        mknodat(CWD, &gate, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        fs::write(&stamp, [0; 8])?;
        let program = std::env::current_exe()?;
        let record = client.launch(&[text(&program)?, DIE_WHEN_TOLD, text(&gate)?, text(&stamp)?])?;
        let id = record["id"].as_str().ok_or("a record with an id")?.to_owned();
        let pid = record["pid"].as_i64().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        Ok(Self { id, pid: pid.ok_or("a pid")?, gate, stamp })
    }

    /// Lets it end, once nothing of what was before is still at work. The answer is held until it has.
    pub(crate) fn end(&self) -> Outcome<File> {
        let mut gate = File::options().read(true).write(true).open(&self.gate)?;
        thread::sleep(CALM);
        gate.write_all(b"x")?;
        Ok(gate)
    }

    /// When it ended, by its own reading of the clock.
    pub(crate) fn died(&self) -> Outcome<u64> {
        let mut died = [0; 8];
        File::open(&self.stamp)?.read_exact(&mut died)?;
        Ok(u64::from_le_bytes(died))
    }
}

fn judge(durability: &str, [raw, told, more, commit]: [Spread; 4], report: &mut Report) {
    let name = |what: &str| format!("{durability}: {what}");
    report.times(&name("exit -> raw epoll on the pidfd"), &raw);
    report.times(&name("exit -> event on an open stream"), &told);
    report.times(&name("one full commit of SQLite here"), &commit);
    let (aim, words) = match durability {
        "normal" => (1_000_000, "p50 <= 1 ms".to_owned()),
        _ => {
            let aim = 1_000_000 + commit.p50;
            (aim, format!("p50 <= 1 ms + a commit = {:.2} ms", aim as f64 / 1e6))
        }
    };
    report.times_with_aim(&name("event after the raw watcher, per exit"), &more, words, more.p50 <= aim);
}

fn text(path: &Path) -> Outcome<&str> {
    path.to_str().ok_or_else(|| "a path that is text".into())
}

pub(crate) fn wait_for<T: PartialEq>(seen: &Seen<T>, wanted: &T) -> Outcome<u64> {
    loop {
        let (what, at) = seen.recv_timeout(PATIENCE).map_err(|_| "an exit was not seen")?;
        if what == *wanted {
            return Ok(at);
        }
    }
}

/// The floor: nothing but epoll on pidfds.
pub(crate) struct Floor {
    epoll: Arc<OwnedFd>,
    pub(crate) seen: Seen<usize>,
}

impl Floor {
    pub(crate) fn start() -> Outcome<Self> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let (tell, seen) = channel();
        let watching = Arc::clone(&epoll);
        // Ends with the program: it waits in the kernel.
        thread::spawn(move || {
            if let Err(error) = Self::run(watching.as_fd(), &tell) {
                eprintln!("the raw watcher ended: {error}");
            }
        });
        Ok(Self { epoll, seen })
    }

    fn run(epoll: impl AsFd, tell: &Sender<(usize, u64)>) -> Outcome<()> {
        let mut events = Vec::with_capacity(8);
        loop {
            rustix::io::retry_on_intr(|| epoll::wait(&epoll, spare_capacity(&mut events), None))?;
            let at = mono_ns();
            for event in events.drain(..) {
                let number = event.data;
                if tell.send((usize::try_from(number.u64())?, at)).is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Watches once; the process is forgotten when the answer is dropped.
    pub(crate) fn watch(&self, pid: Pid, number: usize) -> Outcome<OwnedFd> {
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        epoll::add(&*self.epoll, &pidfd, epoll::EventData::new_u64(number as u64), flags)?;
        Ok(pidfd)
    }
}

/// Reads the stream of events: the time of each session's terminal one.
fn follow(daemon: &Daemon) -> Outcome<Seen<String>> {
    let mut stream = daemon.client()?.into_events()?;
    let (tell, seen) = channel();
    thread::spawn(move || {
        let mut line = Vec::new();
        let mut ended: HashMap<String, u64> = HashMap::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            let at = mono_ns();
            // Lines between the events are the sizes of chunks.
            if let Ok(event @ Value::Object(_)) = serde_json::from_slice::<Value>(&line)
                && let (Some("session.stopped" | "session.error"), Some(id)) =
                    (event["type"].as_str(), event["sessionId"].as_str())
                && (ended.insert(id.to_owned(), at).is_some() || tell.send((id.to_owned(), at)).is_err())
            {
                eprintln!("a second terminal event of {id}, or nobody listens");
                return;
            }
            line.clear();
        }
    });
    Ok(seen)
}

/// What one durable commit costs in this directory, at the least.
pub(crate) struct Committer {
    db: Connection,
    body: String,
}

impl Committer {
    pub(crate) fn beside(home: &Path) -> Outcome<Self> {
        let db = Connection::open(home.join("floor.db"))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.execute_batch("CREATE TABLE floor (n INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT")?;
        // A log of full length, as the journal has: the least that a commit can cost.
        let log = File::options().append(true).open(home.join("floor.db-wal"))?;
        (&log).write_all(&vec![0; usize::try_from(limits::JOURNAL_LOG_BYTES)?])?;
        log.sync_all()?;
        // As much as a verdict and its event.
        Ok(Self { db, body: json!({ "body": "x".repeat(2_000) }).to_string() })
    }

    pub(crate) fn commit(&mut self) -> Outcome<u64> {
        let begun = mono_ns();
        self.db.prepare_cached("INSERT INTO floor (body) VALUES (?1)")?.execute([&self.body])?;
        Ok(mono_ns() - begun)
    }
}
