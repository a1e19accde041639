//! The journal: records, events and deliveries in one SQLite file, written by one thread.
//!
//! Owns the batching of commits, and the reserve that keeps verdicts writable on a full disk; how the file is opened
//! is `opening.rs`. Refuses to know what a record means. A batch is one transaction; batches become durable in
//! order. When one cannot be written it is kept and tried again, and the daemon is told.

mod deliveries;
mod opening;

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard};

use rusqlite::{Connection, OpenFlags, Transaction, params};
use thiserror::Error;

use crate::config::Durability;
use crate::core::record::{DeliveryEnd, DeliveryId, EventKind, Record};
use crate::core::vocab::{RunId, SessionId, Wall};
use crate::limits;
use crate::sys::clock;

use opening::Opened;
pub use opening::Schema;

pub(crate) use deliveries::{Kept, Outgoing, Wanted};
pub(crate) use opening::{JournalError, Loaded};

/// One change of the file.
#[derive(Clone, Debug)]
pub(crate) enum Row {
    /// A fact of a session.
    Fact { session: SessionId, body: String },
    /// An event with its rendered body.
    Event { seq: u64, at: Wall, body: String },
    /// A delivery that is owed, with what every attempt sends.
    Owed { id: DeliveryId, run: Option<RunId>, kind: EventKind, at: Wall, outgoing: Outgoing },
    /// An attempt, for people.
    Attempt { id: DeliveryId, at: Wall, took_ms: u64, status: Option<u16>, error: Option<String> },
    /// An attempt failed.
    Failed { id: DeliveryId, attempt: u32, at: Wall, retry_in_ms: u64, held: bool, error: String },
    /// A delivery that was over is owed again.
    Revived { id: DeliveryId },
    /// How an endpoint does.
    Health { endpoint: String, body: String },
    /// A delivery is over.
    Over { id: DeliveryId, at: Wall, how: DeliveryEnd },
    /// A session is forgotten, with its deliveries; and events older than `events_before`.
    Forget { session: SessionId, events_before: Wall },
    /// A fact of no session, under a name that no session has: a directory locked by hand, a session whose files are to go.
    Note { name: String, body: String },
    /// It is none any more.
    NoteGone { name: String },
}

/// What the writer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Everything up to this record is durable.
    Upto(u64),
    /// It could not be written, once more; the batch is kept.
    Failing(String),
}

enum Job {
    Commit {
        rows: Vec<Row>,
        upto: u64,
        vital: bool,
    },
    /// Rows that wait for others to be committed with, though not for long.
    Later {
        rows: Vec<Row>,
        upto: u64,
    },
    Flush(Sender<()>),
}

/// The journal, open.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    epoch: String,
    /// Closed before `jobs`, which ends the writer: the last connection folds the log back into the file, and one that only
    /// reads cannot.
    reader: Arc<Mutex<Connection>>,
    jobs: Sender<Job>,
}

/// Reads a journal's records without keeping it open.
pub(super) fn read(path: &Path, each: impl FnMut(Record)) -> Result<(), JournalError> {
    opening::open(path, Durability::Normal, &Schema::default(), each).map(drop)
}

impl Journal {
    /// Opens, and if need be makes or migrates, the file; reads what it holds, giving `each` its records; starts the writer.
    /// `tell` is called on the writer's thread.
    pub(crate) fn open(
        path: &Path,
        durability: Durability,
        schema: &Schema,
        each: impl FnMut(Record),
        tell: impl Fn(Written) + Send + 'static,
    ) -> Result<(Self, Loaded), JournalError> {
        let Opened { db, reader, epoch, loaded } = opening::open(path, durability, schema, each)?;
        let file = FileName::of(path).map_err(JournalError::Thread)?;
        let reserve = Reserve::beside(path);
        let log = log_of(path);
        let (jobs, inbox) = channel();
        // It ends when the journal is dropped and its last batch is written.
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                lay_out_log(&log);
                Writer { db, file, reserve, tell: Box::new(tell) }.run(&inbox)
            })
            .map_err(JournalError::Thread)?;
        let reader = Arc::new(Mutex::new(reader));
        Ok((Self { path: path.to_owned(), epoch, reader, jobs }, loaded))
    }

    /// The random name of this journal, part of every cursor.
    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Hands rows over. `vital`: a verdict is among them, for which the reserve is freed.
    pub(crate) fn commit(&self, rows: Vec<Row>, upto: u64, vital: bool) {
        // The writer ends only when told to; after that nothing is left to say.
        let _ended = self.jobs.send(Job::Commit { rows, upto, vital });
    }

    /// Hands rows over that are worth no commit of their own: they go with the next one, or after a while.
    pub(crate) fn commit_later(&self, rows: Vec<Row>, upto: u64) {
        let _ended = self.jobs.send(Job::Later { rows, upto });
    }

    /// A handle for reading, on a thread that may block.
    pub(crate) fn reader(&self) -> JournalReader {
        JournalReader(Arc::clone(&self.reader))
    }

    /// Returns when what was handed over has been written, or has been tried once more.
    pub(crate) fn flush(&self) {
        let (done, waiting) = channel();
        if self.jobs.send(Job::Flush(done)).is_ok() {
            let _writer_ended = waiting.recv();
        }
    }
}

/// Reads events and bodies; may block.
#[derive(Clone, Debug)]
pub(crate) struct JournalReader(Arc<Mutex<Connection>>);

impl JournalReader {
    /// Events after `after`, oldest first, at most a page of them, and the oldest number that is kept.
    pub(crate) fn events(&self, after: u64) -> rusqlite::Result<Vec<(u64, String)>> {
        let db = self.lock();
        let mut select =
            db.prepare_cached("SELECT seq, body FROM event WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
        let rows =
            select.query_map(params![after, limits::EVENTS_PAGE], |row| Ok((row.get(0)?, row.get(1)?)))?;
        rows.collect()
    }

    /// The oldest event that is kept.
    pub(crate) fn oldest_event(&self) -> rusqlite::Result<Option<u64>> {
        self.lock().query_row("SELECT min(seq) FROM event", [], |row| row.get(0))
    }

    /// Reads the whole file for damage, on a connection of its own: other readers go on meanwhile. What was found,
    /// in SQLite's words.
    pub(crate) fn check(&self) -> rusqlite::Result<Option<String>> {
        let path = self.lock().path().unwrap_or_default().to_owned();
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let found: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        Ok((found != "ok").then_some(found))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A reader that panicked left no half-done change behind: it only reads.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// SQLite's write-ahead log of a journal.
fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// Gives the log its full length before the first commit. A commit that makes its file longer has to commit the
/// file system's journal as well, with whatever other processes changed there in the same moment; one that
/// overwrites laid-out blocks is a write and a flush. What follows a log's last frame is never read (it carries no
/// valid checksum), and SQLite locks other files than this one, so opening it here disturbs nobody.
fn lay_out_log(path: &Path) {
    let laid_out = File::options().write(true).open(path).and_then(|log| {
        let mut at = log.metadata()?.len();
        let zeros = [0; 64 << 10];
        while at < limits::JOURNAL_LOG_BYTES {
            let length =
                zeros.len().min(usize::try_from(limits::JOURNAL_LOG_BYTES - at).unwrap_or(usize::MAX));
            log.write_all_at(&zeros[..length], at)?;
            at += length as u64;
        }
        log.sync_all()
    });
    if let Err(error) = laid_out {
        // It grows by and by instead.
        tracing::debug!("lay out {}: {error}", path.display());
    }
}

/// What is committed together.
struct Batch {
    rows: Vec<Row>,
    upto: u64,
    /// With a verdict in it.
    vital: bool,
    /// Somebody waits until this was tried.
    flushed: Option<Sender<()>>,
}

impl Batch {
    /// Adds what was handed over; false when it may wait for more.
    fn take(&mut self, job: Job) -> bool {
        match job {
            Job::Commit { rows, upto, vital } => {
                self.rows.extend(rows);
                (self.upto, self.vital) = (upto, self.vital || vital);
                true
            }
            Job::Later { rows, upto } => {
                self.rows.extend(rows);
                self.upto = upto;
                false
            }
            Job::Flush(done) => {
                self.flushed = Some(done);
                true
            }
        }
    }
}

/// Lets a batch that is worth no commit of its own wait for one that is.
fn await_company(inbox: &Receiver<Job>, batch: &mut Batch) {
    let until = clock::now().mono.after(limits::COMMIT_LATER_AFTER);
    loop {
        let left = until.since(clock::now().mono);
        if left.is_zero() || batch.rows.len() >= limits::COMMIT_BATCH_MAX {
            return;
        }
        match inbox.recv_timeout(left) {
            Ok(job) => {
                if batch.take(job) {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
        }
    }
}

struct Writer {
    db: Connection,
    /// The file that was opened, by its number.
    file: FileName,
    reserve: Reserve,
    tell: Box<dyn Fn(Written) + Send>,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            let mut batch = Batch { rows: Vec::new(), upto: 0, vital: false, flushed: None };
            if !batch.take(job) {
                await_company(inbox, &mut batch);
            }
            // Whatever arrived while the last commit was under way becomes one transaction.
            while batch.flushed.is_none() && batch.rows.len() < limits::COMMIT_BATCH_MAX {
                let Ok(job) = inbox.try_recv() else { break };
                batch.take(job);
            }
            if batch.rows.is_empty() && batch.upto == 0 {
                // Nothing but somebody who waits for what is durable already.
                if let Some(done) = batch.flushed {
                    let _nobody_waits = done.send(());
                }
                continue;
            }
            self.commit_or_wait(inbox, batch);
        }
    }

    /// Returns once the rows are durable; or after one try, when the daemon waits to end.
    fn commit_or_wait(&mut self, inbox: &Receiver<Job>, mut batch: Batch) {
        while let Err(error) = self.commit(&batch.rows) {
            if batch.vital && error.may_be_full() && self.reserve.free() {
                continue;
            }
            (self.tell)(Written::Failing(error.to_string()));
            if let Some(done) = batch.flushed {
                let _nobody_waits = done.send(());
                return;
            }
            // A verdict may come meanwhile, and for that there is the reserve.
            match inbox.recv_timeout(limits::JOURNAL_RETRY_EVERY) {
                Ok(job) => {
                    batch.take(job);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        self.reserve.refill();
        (self.tell)(Written::Upto(batch.upto));
        if let Some(done) = batch.flushed {
            let _nobody_waits = done.send(());
        }
    }

    fn commit(&mut self, rows: &[Row]) -> Result<(), WriteError> {
        self.file.is_still_there()?;
        let change = self.db.transaction()?;
        for row in rows {
            write(&change, row)?;
        }
        Ok(change.commit()?)
    }
}

/// Why a batch could not be written.
#[derive(Debug, Error)]
enum WriteError {
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
    #[error("{path} was moved, deleted or replaced while the daemon was running, so nothing written to it would be found again; put it back, or restart the daemon, which rebuilds sessions from their directories", path = path.display())]
    Moved { path: PathBuf },
}

impl WriteError {
    /// A full disk, or a full quota, for which SQLite has no word of its own.
    fn may_be_full(&self) -> bool {
        let Self::Sql(error) = self else { return false };
        use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
        matches!(error.sqlite_error_code(), Some(DiskFull | SystemIoFailure))
    }
}

/// A file by its number, to notice that another one, or none, has its name now.
struct FileName {
    path: PathBuf,
    number: (u64, u64),
}

impl FileName {
    fn of(path: &Path) -> std::io::Result<Self> {
        let found = std::fs::metadata(path)?;
        Ok(Self { path: path.to_owned(), number: (found.dev(), found.ino()) })
    }

    fn is_still_there(&self) -> Result<(), WriteError> {
        match std::fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) != self.number => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // One that cannot be looked at is none that was taken away.
            Ok(_) | Err(_) => return Ok(()),
        }
        Err(WriteError::Moved { path: self.path.clone() })
    }
}

fn write(change: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    match row {
        Row::Fact { session, body } => {
            let mut insert = change.prepare_cached("INSERT INTO record (session, body) VALUES (?1, ?2)")?;
            insert.execute(params![session.to_string(), body])?;
        }
        Row::Event { seq, at, body } => {
            let mut insert =
                change.prepare_cached("INSERT INTO event (seq, at_us, body) VALUES (?1, ?2, ?3)")?;
            insert.execute(params![seq, at.0, body])?;
        }
        Row::Owed { .. }
        | Row::Attempt { .. }
        | Row::Failed { .. }
        | Row::Revived { .. }
        | Row::Over { .. }
        | Row::Health { .. } => deliveries::write(change, row)?,
        Row::Note { name, body } => {
            let mut insert = change.prepare_cached("INSERT INTO record (session, body) VALUES (?1, ?2)")?;
            insert.execute(params![name, body])?;
        }
        Row::NoteGone { name } => {
            change.prepare_cached("DELETE FROM record WHERE session = ?1")?.execute(params![name])?;
        }
        Row::Forget { session, events_before } => {
            let session = session.to_string();
            change.prepare_cached("DELETE FROM record WHERE session = ?1")?.execute(params![session])?;
            deliveries::forget(change, &session, *events_before)?;
            // Only from the beginning on: where the clock was set back meanwhile, there would be gaps else.
            let mut forget = change.prepare_cached(
                "DELETE FROM event WHERE seq < coalesce(
                     (SELECT seq FROM event WHERE at_us >= ?1 ORDER BY seq LIMIT 1),
                     (SELECT max(seq) + 1 FROM event))",
            )?;
            forget.execute(params![events_before.0])?;
        }
    }
    Ok(())
}

/// Space kept back on the journal's file system, given up so that verdicts can be written when it is full.
struct Reserve {
    path: PathBuf,
    held: bool,
}

impl Reserve {
    fn beside(journal: &Path) -> Self {
        let mut reserve = Self { path: journal.with_extension("reserve"), held: false };
        reserve.refill();
        reserve
    }

    /// Takes the space again. On a disk that is still full there is nothing to take; a later commit tries again.
    fn refill(&mut self) {
        if self.held {
            return;
        }
        let options = File::options().write(true).create(true).truncate(false).open(&self.path);
        let Ok(file) = options else { return };
        let flags = rustix::fs::FallocateFlags::empty();
        self.held = rustix::fs::fallocate(&file, flags, 0, limits::JOURNAL_RESERVE_BYTES).is_ok();
    }

    /// Whether there was anything to give up.
    fn free(&mut self) -> bool {
        std::mem::replace(&mut self.held, false) && std::fs::remove_file(&self.path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn session(n: u128) -> SessionId {
        SessionId(Uuid::from_u128(n))
    }

    /// What was read.
    struct Held {
        records: Vec<Record>,
        last_seq: u64,
        forgotten: Vec<SessionId>,
    }

    fn open(path: &Path) -> Result<(Journal, Held, Receiver<Written>), JournalError> {
        open_as(&Schema::default(), path)
    }

    fn open_as(schema: &Schema, path: &Path) -> Result<(Journal, Held, Receiver<Written>), JournalError> {
        let (tell, told) = channel();
        let mut records = Vec::new();
        let tell = move |written| drop(tell.send(written));
        let each = |record| records.push(record);
        let (journal, loaded) = Journal::open(path, Durability::Normal, schema, each, tell)?;
        let Loaded { last_seq, forgotten, .. } = loaded;
        Ok((journal, Held { records, last_seq, forgotten }, told))
    }

    fn id(seq: u64) -> DeliveryId {
        DeliveryId { seq, endpoint: "default".into() }
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart_and_numbers_are_never_used_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let (journal, loaded, told) = open(&path).unwrap();
        assert!(loaded.records.is_empty() && loaded.last_seq == 0);
        let epoch = journal.epoch().to_owned();
        let fact = Record::NativeId { session: session(1), id: "ses_1".into() };
        let run = RunId { session: session(1), run: 1 };
        let rows = vec![
            Row::Fact { session: session(1), body: serde_json::to_string(&fact).unwrap() },
            Row::Event { seq: 1, at: Wall(5), body: "{}".into() },
            Row::Owed {
                id: id(1),
                run: Some(run),
                kind: EventKind::Stopped,
                at: Wall(5),
                outgoing: Outgoing {
                    event_id: "evt_1".into(),
                    content_type: "text/plain".into(),
                    body: "b".into(),
                },
            },
            Row::Failed {
                id: id(1),
                attempt: 2,
                at: Wall(6),
                retry_in_ms: 7,
                held: true,
                error: "down".into(),
            },
        ];
        journal.commit(rows, 4, false);
        assert_eq!(told.recv().unwrap(), Written::Upto(4));
        let outgoing = journal.reader().outgoing(&id(1)).unwrap();
        assert_eq!(
            outgoing.map(|outgoing| (outgoing.event_id, outgoing.body)),
            Some(("evt_1".into(), "b".into()))
        );
        let note = serde_json::to_string(&Record::Pruned { session: session(9) }).unwrap();
        let forgotten = vec![
            Row::Forget { session: session(9), events_before: Wall(100) },
            Row::Note { name: "forgotten 9".into(), body: note },
        ];
        journal.commit(forgotten, 5, false);
        journal.flush();
        drop(journal);

        let (journal, loaded, _) = open(&path).unwrap();
        assert_eq!(journal.epoch(), epoch);
        assert_eq!(loaded.last_seq, 1, "also when retention took the event");
        assert_eq!(loaded.records[0], fact);
        assert!(matches!(&loaded.records[2], Record::DeliveryQueued { kind: EventKind::Stopped, .. }));
        assert!(matches!(&loaded.records[4], Record::AttemptFailed { attempt: 2, held: true, .. }));
        assert_eq!(loaded.forgotten, [session(9)]);
        journal.commit(vec![Row::NoteGone { name: "forgotten 9".into() }], 6, false);
        journal.flush();
        drop(journal);
        assert_eq!(open(&path).unwrap().1.forgotten, []);
    }

    #[test]
    fn the_log_has_its_full_length_before_the_first_commit_and_survives_a_crash_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let (journal, _, told) = open(&path).unwrap();
        journal.flush();
        let length = || std::fs::metadata(log_of(&path)).unwrap().len();
        assert_eq!(length(), limits::JOURNAL_LOG_BYTES);
        for n in 1..=50 {
            let fact = Record::NativeId { session: session(n), id: "x".repeat(1_000) };
            let body = serde_json::to_string(&fact).unwrap();
            let upto = u64::try_from(n).unwrap();
            journal.commit(vec![Row::Fact { session: session(n), body }], upto, false);
            assert_eq!(told.recv().unwrap(), Written::Upto(upto));
        }
        assert_eq!(length(), limits::JOURNAL_LOG_BYTES, "fifty commits moved no end of the file");

        // As a crash leaves it: nothing was folded back into the database, and the log is read again.
        let crashed = dir.path().join("crashed.db");
        std::fs::copy(&path, &crashed).unwrap();
        std::fs::copy(log_of(&path), log_of(&crashed)).unwrap();
        let (_crashed, loaded, _) = open(&crashed).unwrap();
        assert_eq!(loaded.records.len(), 50);
    }

    #[test]
    fn what_is_worth_no_commit_of_its_own_goes_with_the_next_one_or_after_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _, told) = open(&dir.path().join("journal.db")).unwrap();
        let event = |seq| vec![Row::Event { seq, at: Wall(5), body: "{}".into() }];
        journal.commit_later(event(1), 1);
        journal.commit_later(event(2), 2);
        journal.commit(event(3), 3, false);
        assert_eq!(told.recv().unwrap(), Written::Upto(3), "one commit for all three");
        journal.commit_later(event(4), 4);
        assert_eq!(told.recv().unwrap(), Written::Upto(4), "nobody came");
        journal.commit_later(event(5), 5);
        journal.flush();
        assert_eq!(told.try_recv().unwrap(), Written::Upto(5), "a flush does not wait");
        journal.flush();
        assert!(told.try_recv().is_err(), "a flush alone makes nothing durable");
        assert_eq!(journal.reader().events(0).unwrap().len(), 5);
    }

    #[test]
    fn a_check_tells_a_whole_file_from_a_damaged_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let (journal, _, _) = open(&path).unwrap();
        let body = "x".repeat(3_000);
        let rows = (1..=100).map(|seq| Row::Event { seq, at: Wall(5), body: body.clone() });
        journal.commit(rows.collect(), 100, false);
        journal.flush();
        assert_eq!(journal.reader().check().unwrap(), None);
        // The last connection folds the log back into the file.
        drop(journal);
        let reader = wait_for_the_end_of_the_writer(&path);
        let file = File::options().write(true).open(&path).unwrap();
        let middle = file.metadata().unwrap().len() / 2 / 4_096 * 4_096;
        file.write_all_at(&[0x5a; 4_096], middle).unwrap();
        assert!(reader.check().unwrap().is_some());
    }

    /// Its thread closes the file a moment after the journal was dropped.
    fn wait_for_the_end_of_the_writer(path: &Path) -> JournalReader {
        while log_of(path).exists() {
            std::thread::yield_now();
        }
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        JournalReader(Arc::new(Mutex::new(db)))
    }

    #[test]
    fn both_connections_keep_few_pages_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let opened = opening::open(&path, Durability::Normal, &Schema::default(), drop).unwrap();
        for db in [&opened.db, &opened.reader] {
            let kept: i64 = db.query_row("PRAGMA cache_size", [], |row| row.get(0)).unwrap();
            assert_eq!(kept, -limits::JOURNAL_CACHE_KIB);
        }
    }

    #[test]
    fn a_full_quota_frees_the_reserve_as_a_full_disk_does() {
        // SQLite knows ENOSPC alone; EDQUOT is a write that failed.
        let failed =
            |code| WriteError::Sql(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        assert!(failed(rusqlite::ffi::SQLITE_FULL).may_be_full());
        assert!(failed(rusqlite::ffi::SQLITE_IOERR_WRITE).may_be_full());
        assert!(!failed(rusqlite::ffi::SQLITE_CORRUPT).may_be_full());
        assert!(!WriteError::Moved { path: PathBuf::new() }.may_be_full());
    }

    /// A journal of this version with a fact and an event, closed; its epoch.
    fn closed_journal(path: &Path) -> String {
        let (journal, _, _) = open(path).unwrap();
        let fact = Record::NativeId { session: session(1), id: "ses_1".into() };
        let body = serde_json::to_string(&fact).unwrap();
        let event = Row::Event { seq: 1, at: Wall(5), body: "{}".into() };
        journal.commit(vec![Row::Fact { session: session(1), body }, event], 2, false);
        journal.flush();
        let epoch = journal.epoch().to_owned();
        drop(journal);
        wait_for_the_end_of_the_writer(path);
        epoch
    }

    fn beside(path: &Path) -> Vec<String> {
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap();
        let mut names: Vec<_> =
            names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.retain(|name| name.ends_with(".bak") || name.ends_with(".part"));
        names
    }

    #[test]
    fn a_migration_keeps_what_was_there_and_a_copy_that_the_older_program_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let epoch = closed_journal(&path);
        let later = Schema::default().then("ALTER TABLE event ADD COLUMN more TEXT");
        let (journal, loaded, told) = open_as(&later, &path).unwrap();
        assert_eq!((journal.epoch(), loaded.records.len(), loaded.last_seq), (epoch.as_str(), 1, 1));
        journal.commit(vec![Row::Event { seq: 2, at: Wall(6), body: "{}".into() }], 3, false);
        assert_eq!(told.recv().unwrap(), Written::Upto(3));
        assert_eq!(journal.reader().events(0).unwrap().len(), 2);
        drop(journal);
        assert!(matches!(open(&path), Err(JournalError::Newer { found: 2, known: 1, .. })));

        let copy = format!("journal.v1.{epoch}.bak");
        assert_eq!(beside(&path), [copy.as_str()]);
        let (journal, loaded, _) = open(&dir.path().join(copy)).unwrap();
        assert_eq!((journal.epoch(), loaded.last_seq), (epoch.as_str(), 1));
    }

    #[test]
    fn a_migration_that_was_cut_off_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        let epoch = closed_journal(&path);
        // Killed while it copied, and killed between copy and commit.
        std::fs::write(dir.path().join(format!("journal.v1.{epoch}.part")), "half a copy").unwrap();
        std::fs::write(dir.path().join(format!("journal.v1.{epoch}.bak")), "an earlier copy").unwrap();
        let other = dir.path().join("journal.v1.0123456789ab.bak");
        std::fs::write(&other, "another journal's").unwrap();
        let later = Schema::default().then("ALTER TABLE event ADD COLUMN more TEXT");
        let (_journal, loaded, _) = open_as(&later, &path).unwrap();
        assert_eq!(loaded.records.len(), 1);
        assert_eq!(beside(&path).len(), 2, "{:?}", beside(&path));
        let (_, loaded, _) = open(&dir.path().join(format!("journal.v1.{epoch}.bak"))).unwrap();
        assert_eq!(loaded.records.len(), 1, "the copy is a whole one");
        assert_eq!(std::fs::read_to_string(other).unwrap(), "another journal's");
    }

    #[test]
    fn a_migration_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        closed_journal(&path);
        let broken = Schema::default().then("DROP TABLE event; ALTER TABLE nothing ADD COLUMN more TEXT");
        assert!(open_as(&broken, &path).is_err());
        let (_journal, loaded, _) = open(&path).unwrap();
        assert_eq!((loaded.records.len(), loaded.last_seq), (1, 1));
    }

    #[test]
    fn a_damaged_foreign_or_newer_file_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.db");
        std::fs::write(&path, "this is no database, and it is long enough to be looked at as one").unwrap();
        assert!(matches!(open(&path), Err(JournalError::Damaged { .. })));
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is no database"));
        std::fs::remove_file(&path).unwrap();

        Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
        assert!(matches!(open(&path), Err(JournalError::Foreign { .. })));
        std::fs::remove_file(&path).unwrap();

        drop(open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(open(&path), Err(JournalError::Newer { found: 99, .. })));
    }
}
