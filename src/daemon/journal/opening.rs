//! Opening the journal: whose file it is, whether it is sound, its schema, and what it holds.
//!
//! A file that is not what it should be is refused with the way out and left as it was, byte for byte: it may be all
//! that is left of somebody's sessions. Refuses to know how the journal is written from then on.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use thiserror::Error;
use uuid::Uuid;

use crate::config::Durability;
use crate::core::record::{DeliveryId, Record};
use crate::core::vocab::{RunId, SessionId, Wall};
use crate::limits;

/// "agct": marks the file as ours (PRAGMA application_id).
const APPLICATION_ID: i32 = 0x6167_6374;

/// Each entry brings the schema from the version of its index to the next. Never edited, only appended.
const MIGRATIONS: [&str; 1] = [CREATE];

const CREATE: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    -- Durable facts of sessions, in the order in which they became true.
    CREATE TABLE record (
        n INTEGER PRIMARY KEY AUTOINCREMENT,
        session TEXT NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX record_session ON record (session);
    -- The public stream. AUTOINCREMENT: a number is never used again, also after retention.
    CREATE TABLE event (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at_us INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX event_at ON event (at_us);
    CREATE TABLE delivery (
        seq INTEGER NOT NULL,
        endpoint TEXT NOT NULL,
        -- null: the event is about no session
        session TEXT,
        run INTEGER,
        kind TEXT NOT NULL,
        queued_us INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        last_us INTEGER,
        retry_in_ms INTEGER,
        held INTEGER NOT NULL DEFAULT 0,
        error TEXT,
        -- null: owed; else delivered, dead or superseded
        over TEXT,
        event_id TEXT NOT NULL,
        content_type TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (seq, endpoint)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX delivery_owed ON delivery (seq) WHERE over IS NULL;
    CREATE INDEX delivery_dead ON delivery (seq) WHERE over = 'dead';
    CREATE INDEX delivery_session ON delivery (session);
    CREATE INDEX delivery_queued ON delivery (queued_us);
    -- Every attempt, for people.
    CREATE TABLE attempt (
        n INTEGER PRIMARY KEY,
        seq INTEGER NOT NULL,
        endpoint TEXT NOT NULL,
        at_us INTEGER NOT NULL,
        took_ms INTEGER NOT NULL,
        status INTEGER,
        error TEXT
    ) STRICT;
    CREATE INDEX attempt_delivery ON attempt (seq, endpoint);
    CREATE TABLE endpoint (name TEXT PRIMARY KEY, health TEXT NOT NULL) STRICT;
";

/// The schema that a program knows: the steps that lead to it from an empty file. Its version is their number.
#[derive(Clone, Debug)]
pub struct Schema(Vec<String>);

impl Default for Schema {
    /// This program's own.
    fn default() -> Self {
        Self(MIGRATIONS.map(str::to_owned).into())
    }
}

impl Schema {
    /// The schema of a later program, which knows one more step.
    #[must_use]
    pub fn then(mut self, step: impl Into<String>) -> Self {
        self.0.push(step.into());
        self
    }

    fn version(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

/// What a journal held when it was opened, beside its records.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) last_seq: u64,
    /// There was no file, or an empty one.
    pub(crate) fresh: bool,
    /// Sessions that were forgotten, and of which files may be left.
    pub(crate) forgotten: Vec<SessionId>,
}

/// Why a journal cannot be opened. Never answered with a fresh one; the file is as it was.
#[derive(Debug, Error)]
pub(crate) enum JournalError {
    #[error("open the journal {path}: {source}; nothing was changed. Make it readable and writable for this user, or {way_out}", path = path.display(), way_out = way_out(path))]
    Open { path: PathBuf, source: rusqlite::Error },
    #[error("the journal {path} is damaged: {what}; nothing was changed. Restore it from a backup, or {way_out}", path = path.display(), way_out = way_out(path))]
    Damaged { path: PathBuf, what: String },
    #[error("the journal {path} can only be read, not written; nothing was changed. Give this user write access to it and to its file system, or {way_out}", path = path.display(), way_out = way_out(path))]
    ReadOnly { path: PathBuf },
    #[error("the journal {path} is of version {found}, and this agentctl knows versions up to {known}; nothing was changed. Use the newer agentctl, or {way_out}", path = path.display(), way_out = way_out(path))]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{path} is a database, but not a journal of agentctl; nothing was changed. To go on, {way_out}", path = path.display(), way_out = way_out(path))]
    Foreign { path: PathBuf },
    #[error("read the journal {path}: record {n}: {why}; nothing was changed. If a newer agentctl wrote it, use that; else it is damaged: restore it from a backup, or {way_out}", path = path.display(), way_out = way_out(path))]
    Record { path: PathBuf, n: i64, why: String },
    #[error("move {path} aside, which belongs to a journal that is gone: {source}; move it by hand and start again", path = path.display())]
    Stray { path: PathBuf, source: std::io::Error },
    #[error("copy the journal {path} to {copy} before its schema is brought to version {to}: {why}; nothing was changed. Make space there, and start again", path = path.display(), copy = copy.display())]
    Copy { path: PathBuf, copy: PathBuf, to: u32, why: String },
    #[error("start the journal's writer: {0}")]
    Thread(std::io::Error),
}

/// What to do about a journal that cannot be used, as a command that overwrites nothing.
fn way_out(path: &Path) -> String {
    let aside = free_name(&path.with_extension("aside"));
    let (aside, path) = (aside.display(), path.display());
    format!(
        "move it aside and start again: mkdir {aside} && mv {path}* {aside}/ (sessions are then rebuilt from their directories: living ones are supervised on, ended ones keep their verdicts; events and owed webhooks of before are lost)"
    )
}

/// The name itself, or with the first number that makes it free.
fn free_name(wanted: &Path) -> PathBuf {
    let numbered = |n: u32| {
        let mut name = wanted.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    let taken = |path: &PathBuf| path.symlink_metadata().is_ok();
    std::iter::once(wanted.to_owned())
        .chain((2..).map(numbered))
        .find(|path| !taken(path))
        .unwrap_or_default()
}

/// A journal that is sound.
pub(super) struct Opened {
    /// Closed first: only the last connection folds the log back into the file, and this one cannot.
    pub(super) reader: Connection,
    pub(super) db: Connection,
    pub(super) epoch: String,
    pub(super) loaded: Loaded,
}

/// Opens, and if need be makes or migrates, the file; `each` is given its records, in their order.
pub(super) fn open(
    path: &Path,
    durability: Durability,
    schema: &Schema,
    each: impl FnMut(Record),
) -> Result<Opened, JournalError> {
    let failed = |source| unusable(path, source);
    let fresh = std::fs::metadata(path).map_or(true, |found| found.len() == 0);
    if fresh {
        set_strays_aside(path)?;
    }
    let mut db = Connection::open(path).map_err(failed)?;
    // Until it is known to be sound, not even closing it may change it.
    keep_as_it_is(&db, true).map_err(failed)?;
    if db.is_readonly(rusqlite::MAIN_DB).map_err(failed)? {
        return Err(JournalError::ReadOnly { path: path.to_owned() });
    }
    let version = identify(path, &db, schema)?;
    bound_cache(&db).map_err(failed)?;
    check(path, &mut db)?;
    migrate(path, &mut db, version, schema)?;
    let loaded = Loaded { fresh, ..load(path, &db, each)? };
    // What was read once is not read again.
    db.release_memory().map_err(failed)?;
    configure(&db, durability).map_err(failed)?;
    let epoch = epoch(&db).map_err(failed)?;
    keep_as_it_is(&db, false).map_err(failed)?;
    let reader = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(failed)?;
    bound_cache(&reader).map_err(failed)?;
    Ok(Opened { db, reader, epoch, loaded })
}

/// An error of SQLite: what tells of damage, and what only of a file that cannot be reached.
fn unusable(path: &Path, source: rusqlite::Error) -> JournalError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            JournalError::Damaged { path, what: source.to_string() }
        }
        _ => JournalError::Open { path, source },
    }
}

/// SQLite deletes the write-ahead log that lies beside an empty database; it may hold the last commits of one that was
/// moved away without it.
fn set_strays_aside(path: &Path) -> Result<(), JournalError> {
    for end in ["-wal", "-shm", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        let stray = PathBuf::from(name);
        let found = std::fs::metadata(&stray).is_ok_and(|found| found.len() > 0);
        if !found {
            continue;
        }
        let mut aside = stray.clone().into_os_string();
        aside.push(".aside");
        let aside = free_name(Path::new(&aside));
        std::fs::rename(&stray, &aside)
            .map_err(|source| JournalError::Stray { path: stray.clone(), source })?;
        tracing::error!(
            "{} belongs to a journal that is gone; it is kept as {}",
            stray.display(),
            aside.display()
        );
    }
    Ok(())
}

fn keep_as_it_is(db: &Connection, keep: bool) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep).map(drop)
}

/// The version of the schema, 0 for an empty file; refuses what is not ours or not known.
fn identify(path: &Path, db: &Connection, schema: &Schema) -> Result<u32, JournalError> {
    let failed = |source| unusable(path, source);
    let version: u32 = db.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let owner: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(failed)?;
    let tables: u32 =
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
    let known = schema.version();
    if owner != APPLICATION_ID && (tables > 0 || version > 0) {
        return Err(JournalError::Foreign { path: path.to_owned() });
    }
    if version > known {
        return Err(JournalError::Newer { path: path.to_owned(), found: version, known });
    }
    Ok(version)
}

/// Looks at every page, within a time limit: what is damaged beyond it is found when it is read.
fn check(path: &Path, db: &mut Connection) -> Result<(), JournalError> {
    const OPS_BETWEEN_LOOKS: i32 = 10_000;
    let failed = |source| unusable(path, source);
    let begun = crate::sys::clock::now().mono;
    let late = move || crate::sys::clock::now().mono.since(begun) > limits::JOURNAL_CHECK_TIMEOUT;
    db.progress_handler(OPS_BETWEEN_LOOKS, Some(late)).map_err(failed)?;
    let found = db.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    db.progress_handler(0, None::<fn() -> bool>).map_err(failed)?;
    match found {
        Ok(sound) if sound == "ok" => Ok(()),
        Ok(what) => Err(JournalError::Damaged { path: path.to_owned(), what: what.replace('\n', " ") }),
        Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) => {
            let limit = limits::JOURNAL_CHECK_TIMEOUT.as_secs();
            tracing::warn!(
                "the journal is too large to be checked within {limit} s; the rest is not checked"
            );
            Ok(())
        }
        Err(error) => Err(failed(error)),
    }
}

/// Brings the file to the schema's version, in one transaction: one that is cut off has not happened, and is begun
/// again at the next start. What the file held before is kept beside it.
fn migrate(path: &Path, db: &mut Connection, version: u32, schema: &Schema) -> Result<(), JournalError> {
    let failed = |source| unusable(path, source);
    let known = schema.version();
    if version == known {
        return Ok(());
    }
    if version > 0 {
        let copy = keep_a_copy(path, db, version, known)?;
        tracing::info!(
            "the journal is brought from version {version} to {known}; it is kept as {}",
            copy.display()
        );
    }
    let change = db.transaction().map_err(failed)?;
    for step in &schema.0[version as usize..] {
        change.execute_batch(step).map_err(failed)?;
    }
    change.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
    change.pragma_update(None, "user_version", known).map_err(failed)?;
    change.commit().map_err(failed)
}

/// Copies a sound journal, for the way back to the program that wrote it. The copy has its name only when it is whole;
/// what an earlier try was killed over is written anew. Named after the journal's epoch, so that it takes the place of
/// an earlier copy of this journal and never of another's.
fn keep_a_copy(path: &Path, db: &Connection, version: u32, to: u32) -> Result<PathBuf, JournalError> {
    let epoch = epoch(db).map_err(|source| unusable(path, source))?;
    let copy = path.with_extension(format!("v{version}.{epoch}.bak"));
    let part = path.with_extension(format!("v{version}.{epoch}.part"));
    let written = || {
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.to_string()),
            Ok(()) | Err(_) => {}
        }
        let into = db.execute("VACUUM INTO ?1", params![part.to_string_lossy()]);
        into.map_err(|error| error.to_string())?;
        let synced = File::open(&part).and_then(|file| file.sync_all());
        synced.and_then(|()| std::fs::rename(&part, &copy)).map_err(|error| error.to_string())
    };
    match written() {
        Ok(()) => Ok(copy),
        Err(why) => {
            // Half a copy on a disk that may be full; one that stays is written anew.
            drop(std::fs::remove_file(&part));
            Err(JournalError::Copy { path: path.to_owned(), copy, to, why })
        }
    }
}

fn configure(db: &Connection, durability: Durability) -> rusqlite::Result<()> {
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::Normal => "NORMAL",
    };
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", synchronous)?;
    db.busy_timeout(std::time::Duration::from_secs(5))?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// Pages that a connection keeps: the kernel keeps them too, and what it has is a read away.
fn bound_cache(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "cache_size", -limits::JOURNAL_CACHE_KIB)
}

fn epoch(db: &Connection) -> rusqlite::Result<String> {
    let fresh = Uuid::new_v4().simple().to_string();
    db.execute("INSERT OR IGNORE INTO meta (key, value) VALUES ('epoch', ?1)", params![&fresh[..12]])?;
    db.query_row("SELECT value FROM meta WHERE key = 'epoch'", [], |row| row.get(0))
}

/// One record after the other: all of them together take many times what is made of them.
fn load(path: &Path, db: &Connection, mut each: impl FnMut(Record)) -> Result<Loaded, JournalError> {
    let failed = |source| unusable(path, source);
    let mut forgotten = Vec::new();
    let mut select = db.prepare("SELECT n, body FROM record ORDER BY n").map_err(failed)?;
    let mut rows = select.query([]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let n: i64 = row.get(0).map_err(failed)?;
        let body = row.get_ref(1).map_err(failed)?.as_str().map_err(|error| failed(error.into()))?;
        let record = serde_json::from_str(body).map_err(|error| JournalError::Record {
            path: path.to_owned(),
            n,
            why: error.to_string(),
        })?;
        if let Record::Pruned { session } = record {
            forgotten.push(session);
        }
        each(record);
    }
    owed(db, &mut each).map_err(failed)?;
    health(db, &mut each).map_err(failed)?;
    let last_seq = db
        .query_row("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0)", [], |row| {
            row.get(0)
        })
        .map_err(failed)?;
    Ok(Loaded { last_seq, fresh: false, forgotten })
}

/// The deliveries that are owed, as the records that made them.
fn owed(db: &Connection, mut each: impl FnMut(Record)) -> rusqlite::Result<()> {
    let mut select = db.prepare(
        "SELECT seq, endpoint, session, run, kind, queued_us, attempts, last_us, retry_in_ms, held, error
         FROM delivery WHERE over IS NULL ORDER BY seq",
    )?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let id = DeliveryId { seq: row.get(0)?, endpoint: row.get(1)? };
        let session: Option<String> = row.get(2)?;
        let kind: String = row.get(4)?;
        let session = session.map(|session| session.parse()).transpose();
        let (Ok(session), Ok(kind)) = (session, serde_json::from_value(kind.into())) else {
            tracing::error!(seq = id.seq, endpoint = %id.endpoint, "an owed delivery in the journal names no session or no event that is known; it is not sent");
            continue;
        };
        let number: Option<u32> = row.get(3)?;
        let run = session.zip(number).map(|(session, run)| RunId { session, run });
        each(Record::DeliveryQueued { id: id.clone(), run, kind, at: Wall(row.get(5)?) });
        let attempts: u32 = row.get(6)?;
        for attempt in 1..=attempts {
            each(Record::AttemptFailed {
                id: id.clone(),
                attempt,
                at: Wall(row.get(7)?),
                retry_in_ms: row.get(8)?,
                held: row.get(9)?,
                error: row.get::<_, Option<String>>(10)?.unwrap_or_default(),
            });
        }
    }
    Ok(())
}

/// How the endpoints did when the journal was last written.
fn health(db: &Connection, mut each: impl FnMut(Record)) -> rusqlite::Result<()> {
    let mut select = db.prepare("SELECT name, health FROM endpoint")?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    for row in rows {
        let (endpoint, health) = row?;
        match serde_json::from_str(&health) {
            Ok(health) => each(Record::EndpointHealth { endpoint, health }),
            Err(error) => tracing::error!(
                endpoint,
                "what the journal says of an endpoint is not understood ({error}); it is taken for well"
            ),
        }
    }
    Ok(())
}
