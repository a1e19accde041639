//! A long past for a home, made of copies of one real session: what tens of thousands of launches would leave behind,
//! in seconds. The daemon must not run meanwhile.

use std::path::Path;

use rusqlite::{Connection, params};
use uuid::Uuid;

use crate::Outcome;

/// The journal of a home, written to as fast as can be: it is thrown away later.
pub(crate) struct History {
    db: Connection,
    /// Whose records are copied.
    model: String,
    records: Vec<String>,
    /// Its terminal event.
    event: (u64, String),
    next_seq: u64,
}

impl History {
    pub(crate) fn open(home: &Path) -> Outcome<Self> {
        let db = Connection::open(home.join("journal.db"))?;
        db.pragma_update(None, "synchronous", "OFF")?;
        let ended = "SELECT session FROM record WHERE body LIKE '%\"t\":\"tree_settled\"%' LIMIT 1";
        let model: String = db.query_row(ended, [], |row| row.get(0))?;
        let mut select = db.prepare("SELECT body FROM record WHERE session = ?1 ORDER BY n")?;
        let records = select.query_map([&model], |row| row.get(0))?.collect::<Result<_, _>>()?;
        drop(select);
        let of_it = "SELECT seq, body FROM event WHERE body LIKE ?1 ORDER BY seq DESC LIMIT 1";
        let event = db.query_row(of_it, [format!("%{model}%")], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let next_seq = db.query_row("SELECT max(seq) + 1 FROM event", [], |row| row.get(0))?;
        Ok(Self { db, model, records, event, next_seq })
    }

    /// Ended sessions, each with its terminal event.
    pub(crate) fn sessions(&mut self, count: usize) -> Outcome<()> {
        self.copies(count, false)
    }

    /// The same, each with a delivery that is owed.
    pub(crate) fn owing_sessions(&mut self, count: usize) -> Outcome<()> {
        self.copies(count, true)
    }

    fn copies(&mut self, count: usize, owing: bool) -> Outcome<()> {
        let change = self.db.transaction()?;
        for _ in 0..count {
            let id = Uuid::new_v4().to_string();
            let mut insert = change.prepare_cached("INSERT INTO record (session, body) VALUES (?1, ?2)")?;
            for body in &self.records {
                insert.execute(params![id, body.replace(&self.model, &id)])?;
            }
            let body = numbered(&self.event, self.next_seq).replace(&self.model, &id);
            change
                .prepare_cached(
                    "INSERT INTO event (seq, at_us, body) SELECT ?1, at_us, ?2 FROM event WHERE seq = ?3",
                )?
                .execute(params![self.next_seq, body, self.event.0])?;
            if owing {
                change
                    .prepare_cached(
                        "INSERT INTO delivery (seq, endpoint, session, run, kind, queued_us, event_id, content_type, body)
                         SELECT ?1, endpoint, ?2, run, kind, queued_us, event_id || '-' || ?1, content_type,
                             replace(body, ?3, ?2) FROM delivery WHERE session = ?3 LIMIT 1",
                    )?
                    .execute(params![self.next_seq, id, self.model])?;
            }
            self.next_seq += 1;
        }
        Ok(change.commit()?)
    }

    /// Events of the one session.
    pub(crate) fn events(&mut self, count: usize) -> Outcome<()> {
        let change = self.db.transaction()?;
        let mut insert = change
            .prepare("INSERT INTO event (seq, at_us, body) SELECT ?1, at_us, ?2 FROM event WHERE seq = ?3")?;
        for _ in 0..count {
            insert.execute(params![self.next_seq, numbered(&self.event, self.next_seq), self.event.0])?;
            self.next_seq += 1;
        }
        drop(insert);
        Ok(change.commit()?)
    }
}

/// The event under another number.
fn numbered((old, body): &(u64, String), new: u64) -> String {
    body.replace(&format!("-{old}\""), &format!("-{new}\""))
        .replace(&format!("\"seq\":{old},"), &format!("\"seq\":{new},"))
}
