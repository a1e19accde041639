//! Deliveries in the journal: written as they go, and read for who sends them and for who looks at them.
//!
//! Refuses to know which delivery is due: that is the core's, and of an owed one this file has only what a restart needs.

use rusqlite::{OptionalExtension, Row as Found, ToSql, Transaction, params};

use crate::core::record::{DeliveryEnd, DeliveryId, EventKind};
use crate::core::vocab::{RunId, Wall};
use crate::limits;

use super::{JournalReader, Row};

/// What every attempt at a delivery sends.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) event_id: String,
    pub(crate) content_type: String,
    pub(crate) body: String,
}

/// A delivery as it was last written.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) id: DeliveryId,
    pub(crate) run: Option<RunId>,
    pub(crate) kind: EventKind,
    pub(crate) queued: Wall,
    pub(crate) event_id: String,
    /// None: owed.
    pub(crate) over: Option<DeliveryEnd>,
    /// Attempts in all, also of an earlier life of it.
    pub(crate) attempts: u64,
    pub(crate) last_attempt: Option<Wall>,
    pub(crate) last_error: Option<String>,
}

/// One attempt.
#[derive(Clone, Debug)]
pub(crate) struct Tried {
    pub(crate) at: Wall,
    pub(crate) took_ms: u64,
    pub(crate) status: Option<u16>,
    pub(crate) error: Option<String>,
}

/// Which deliveries are looked for. Everything that is set has to fit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) endpoint: Option<String>,
    pub(crate) session: Option<String>,
    pub(crate) seq: Option<u64>,
    pub(crate) event_id: Option<String>,
    /// Queued at this time or later.
    pub(crate) since: Option<Wall>,
    /// `owed`, `delivered`, `dead` or `superseded`; empty: all.
    pub(crate) states: Vec<&'static str>,
}

const COLUMNS: &str = "SELECT seq, endpoint, session, run, kind, queued_us, event_id, over,
    (SELECT count(*) FROM attempt a WHERE a.seq = d.seq AND a.endpoint = d.endpoint),
    (SELECT max(at_us) FROM attempt a WHERE a.seq = d.seq AND a.endpoint = d.endpoint),
    (SELECT error FROM attempt a WHERE a.seq = d.seq AND a.endpoint = d.endpoint ORDER BY n DESC LIMIT 1)
    FROM delivery d";

impl JournalReader {
    /// What to send; none when the delivery was forgotten.
    pub(crate) fn outgoing(&self, id: &DeliveryId) -> rusqlite::Result<Option<Outgoing>> {
        let db = self.lock();
        let mut select = db.prepare_cached(
            "SELECT event_id, content_type, body FROM delivery WHERE seq = ?1 AND endpoint = ?2",
        )?;
        let read = |row: &Found<'_>| {
            Ok(Outgoing { event_id: row.get(0)?, content_type: row.get(1)?, body: row.get(2)? })
        };
        select.query_row(params![id.seq, id.endpoint], read).optional()
    }

    /// The newest deliveries that fit, oldest of them first, at most a page.
    pub(crate) fn deliveries(&self, wanted: &Wanted) -> rusqlite::Result<Vec<Kept>> {
        let mut conditions = vec!["true".to_owned()];
        let mut values: Vec<Box<dyn ToSql>> = Vec::new();
        let mut equal = |column: &str, value: Box<dyn ToSql>| {
            values.push(value);
            conditions.push(format!("{column} ?{}", values.len()));
        };
        if let Some(endpoint) = &wanted.endpoint {
            equal("endpoint =", Box::new(endpoint.clone()));
        }
        if let Some(session) = &wanted.session {
            equal("session =", Box::new(session.clone()));
        }
        if let Some(seq) = wanted.seq {
            equal("seq =", Box::new(seq));
        }
        if let Some(event_id) = &wanted.event_id {
            equal("event_id =", Box::new(event_id.clone()));
        }
        if let Some(since) = wanted.since {
            equal("queued_us >=", Box::new(since.0));
        }
        if !wanted.states.is_empty() {
            let state = |state: &&str| match *state {
                "owed" => "over IS NULL".to_owned(),
                over => format!("over = '{over}'"),
            };
            let states: Vec<_> = wanted.states.iter().map(state).collect();
            conditions.push(format!("({})", states.join(" OR ")));
        }
        let (all, most) = (conditions.join(" AND "), limits::DELIVERIES_PAGE);
        let db = self.lock();
        let mut select = db.prepare_cached(&format!(
            "{COLUMNS} WHERE {all} ORDER BY seq DESC, endpoint DESC LIMIT {most}"
        ))?;
        let rows = select.query_map(rusqlite::params_from_iter(values.iter()), kept)?;
        let mut found: Vec<Kept> = rows.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        found.reverse();
        Ok(found)
    }

    /// The attempts at a delivery, oldest first.
    pub(crate) fn attempts(&self, id: &DeliveryId) -> rusqlite::Result<Vec<Tried>> {
        let db = self.lock();
        let mut select = db.prepare_cached(
            "SELECT at_us, took_ms, status, error FROM attempt WHERE seq = ?1 AND endpoint = ?2 ORDER BY n",
        )?;
        let read = |row: &Found<'_>| {
            Ok(Tried { at: Wall(row.get(0)?), took_ms: row.get(1)?, status: row.get(2)?, error: row.get(3)? })
        };
        select.query_map(params![id.seq, id.endpoint], read)?.collect()
    }
}

/// None for one of a newer version, whose words are not known.
fn kept(row: &Found<'_>) -> rusqlite::Result<Option<Kept>> {
    let (session, number): (Option<String>, Option<u32>) = (row.get(2)?, row.get(3)?);
    let session = session.and_then(|session| session.parse().ok());
    let (kind, over): (String, Option<String>) = (row.get(4)?, row.get(7)?);
    let Ok(kind) = serde_json::from_value(kind.into()) else { return Ok(None) };
    let Ok(over) = over.map(|over| serde_json::from_value(over.into())).transpose() else { return Ok(None) };
    Ok(Some(Kept {
        id: DeliveryId { seq: row.get(0)?, endpoint: row.get(1)? },
        run: session.zip(number).map(|(session, run)| RunId { session, run }),
        kind,
        queued: Wall(row.get(5)?),
        event_id: row.get(6)?,
        over,
        attempts: row.get(8)?,
        last_attempt: row.get::<_, Option<i64>>(9)?.map(Wall),
        last_error: row.get(10)?,
    }))
}

/// Writes a row that is about deliveries.
pub(super) fn write(change: &Transaction<'_>, row: &Row) -> rusqlite::Result<()> {
    match row {
        Row::Owed { id, run, kind, at, outgoing } => {
            let mut insert = change.prepare_cached(
                "INSERT INTO delivery
                     (seq, endpoint, session, run, kind, queued_us, event_id, content_type, body)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            let session = run.map(|run| run.session.to_string());
            let number = run.map(|run| run.run);
            let kind = word(kind);
            insert.execute(params![
                id.seq,
                id.endpoint,
                session,
                number,
                kind,
                at.0,
                outgoing.event_id,
                outgoing.content_type,
                outgoing.body
            ])?;
        }
        Row::Attempt { id, at, took_ms, status, error } => {
            let mut insert = change.prepare_cached(
                "INSERT INTO attempt (seq, endpoint, at_us, took_ms, status, error)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            insert.execute(params![id.seq, id.endpoint, at.0, took_ms, status, error])?;
        }
        Row::Failed { id, attempt, at, retry_in_ms, held, error } => {
            let mut update = change.prepare_cached(
                "UPDATE delivery SET attempts = ?3, last_us = ?4, retry_in_ms = ?5, held = ?6, error = ?7
                 WHERE seq = ?1 AND endpoint = ?2",
            )?;
            update.execute(params![id.seq, id.endpoint, attempt, at.0, retry_in_ms, held, error])?;
        }
        Row::Revived { id } => {
            let mut update = change.prepare_cached(
                "UPDATE delivery SET over = NULL, attempts = 0, last_us = NULL, retry_in_ms = NULL, held = 0,
                     error = NULL
                 WHERE seq = ?1 AND endpoint = ?2",
            )?;
            update.execute(params![id.seq, id.endpoint])?;
        }
        Row::Over { id, at, how } => {
            let mut update = change.prepare_cached(
                "UPDATE delivery SET over = ?3, last_us = ?4 WHERE seq = ?1 AND endpoint = ?2",
            )?;
            update.execute(params![id.seq, id.endpoint, word(how), at.0])?;
        }
        Row::Health { endpoint, body } => {
            let mut insert =
                change.prepare_cached("INSERT OR REPLACE INTO endpoint (name, health) VALUES (?1, ?2)")?;
            insert.execute(params![endpoint, body])?;
        }
        Row::Fact { .. }
        | Row::Event { .. }
        | Row::Forget { .. }
        | Row::Note { .. }
        | Row::NoteGone { .. } => {
            unreachable!("the journal sends only rows of deliveries here")
        }
    }
    Ok(())
}

/// Forgets the deliveries of a session, and those of old events that were about none.
pub(super) fn forget(change: &Transaction<'_>, session: &str, events_before: Wall) -> rusqlite::Result<()> {
    let old = "session IS NULL AND over IS NOT NULL AND queued_us < ?1";
    let mine = "session = ?1";
    for (which, value) in [(mine, &session as &dyn ToSql), (old, &events_before.0)] {
        let attempts = format!(
            "DELETE FROM attempt WHERE (seq, endpoint) IN (SELECT seq, endpoint FROM delivery WHERE {which})"
        );
        change.prepare_cached(&attempts)?.execute([value])?;
        change.prepare_cached(&format!("DELETE FROM delivery WHERE {which}"))?.execute([value])?;
    }
    Ok(())
}

/// The word of a plain enum.
fn word(value: &impl serde::Serialize) -> Option<String> {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned))
}
