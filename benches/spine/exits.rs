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
use tempfile::TempDir;

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
    Watch::over(daemon)?.exits(count)?.judge((durability, durability), report);
    Ok(())
}

/// Both watchers of one daemon's sessions.
pub(crate) struct Watch {
    floor: Floor,
    events: Seen<String>,
    client: Client,
    committer: Committer,
    scratch: TempDir,
    next: usize,
}

/// Exits as they were seen, each list in their order.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) raw: Vec<u64>,
    pub(crate) told: Vec<u64>,
    /// How much later than the raw watcher the event was there.
    pub(crate) more: Vec<u64>,
    pub(crate) commits: Vec<u64>,
}

impl Taken {
    /// `name`: what the lines of the table begin with.
    pub(crate) fn judge(&self, (durability, name): (&str, &str), report: &mut Report) {
        let [raw, told, more, commit] =
            [&self.raw, &self.told, &self.more, &self.commits].map(|values| Spread::of(values.clone()));
        let name = |what: &str| format!("{name}: {what}");
        report.times(&name("exit -> raw epoll on the pidfd"), &raw);
        report.times(&name("exit -> event on an open stream"), &told);
        report.times(&name("one full commit of SQLite here"), &commit);
        let (most, words) = match durability {
            "normal" => (300_000, "p50 <= 0.3 ms".to_owned()),
            _ => {
                let most = commit.p50 + 500_000;
                (most, format!("p50 <= a commit + 0.5 ms = {:.2} ms", most as f64 / 1e6))
            }
        };
        report.times_with_aim(&name("event after the raw watcher, per exit"), &more, words, more.p50 <= most);
    }
}

impl Watch {
    pub(crate) fn over(daemon: &Daemon) -> Outcome<Self> {
        Ok(Self {
            floor: Floor::start()?,
            events: follow(daemon)?,
            client: daemon.client()?,
            committer: Committer::beside(daemon.home())?,
            scratch: tempfile::tempdir_in("/dev/shm")?,
            next: 0,
        })
    }

    /// One at a time.
    pub(crate) fn exits(&mut self, count: usize) -> Outcome<Taken> {
        let mut taken = Taken::default();
        for _ in 0..count {
            self.next += 1;
            let leader = Leader::launch(&mut self.client, self.scratch.path(), self.next)?;
            let watched = self.floor.watch(leader.pid, self.next)?;
            let gate = leader.end()?;
            let floor_at = wait_for(&self.floor.seen, &self.next)?;
            let event_at = wait_for(&self.events, &leader.id)?;
            drop((watched, gate));
            let died = leader.died()?;
            taken.raw.push(floor_at.saturating_sub(died));
            taken.told.push(event_at.saturating_sub(died));
            taken.more.push(event_at.saturating_sub(floor_at));
            thread::sleep(CALM);
            taken.commits.push(self.committer.commit()?);
        }
        Ok(taken)
    }

    /// All at the same moment: when the last of them was seen, by each watcher, counted from the first to end.
    pub(crate) fn burst(&mut self, count: usize) -> Outcome<(u64, u64)> {
        let gate = self.scratch.path().join(format!("gate.of.{}", self.next));
        mknodat(CWD, &gate, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        let (mut leaders, mut watched) = (Vec::new(), Vec::new());
        for _ in 0..count {
            self.next += 1;
            let leader = Leader::at_gate(&mut self.client, self.scratch.path(), self.next, gate.clone())?;
            watched.push(self.floor.watch(leader.pid, self.next)?);
            leaders.push(leader);
        }
        thread::sleep(Duration::from_secs(1));
        let mut gate = File::options().read(true).write(true).open(&gate)?;
        gate.write_all(&vec![b'x'; count])?;
        let (mut raw, mut told) = (0, 0);
        for _ in 0..count {
            raw = raw.max(self.floor.seen.recv_timeout(PATIENCE)?.1);
        }
        for _ in 0..count {
            told = told.max(self.events.recv_timeout(PATIENCE)?.1);
        }
        let died = leaders.iter().map(Leader::died).collect::<Outcome<Vec<_>>>()?;
        let first = died.into_iter().min().unwrap_or_default();
        Ok((raw.saturating_sub(first), told.saturating_sub(first)))
    }
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
        mknodat(CWD, &gate, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        Self::at_gate(client, scratch, n, gate)
    }

    /// The same, at a gate that is there already.
    fn at_gate(client: &mut Client, scratch: &Path, n: usize, gate: PathBuf) -> Outcome<Self> {
        let stamp = scratch.join(format!("stamp.{n}"));
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
        stamp_in(&self.stamp)
    }
}

/// Until a session has its verdict.
pub(crate) fn wait_for_end(daemon: &Daemon, id: &str) -> Outcome<()> {
    daemon.client()?.get(&format!("/v1/sessions/{id}/wait")).map(|_| ())
}

/// The time that a leader wrote down.
pub(crate) fn stamp_in(path: &Path) -> Outcome<u64> {
    let mut died = [0; 8];
    File::open(path)?.read_exact(&mut died)?;
    Ok(u64::from_le_bytes(died))
}

pub(crate) fn text(path: &Path) -> Outcome<&str> {
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
            {
                if ended.insert(id.to_owned(), at).is_some() {
                    eprintln!("a second terminal event of {id}");
                }
                if tell.send((id.to_owned(), at)).is_err() {
                    return;
                }
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
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS floor (n INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT",
        )?;
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
