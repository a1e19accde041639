//! opencode's database, asked read-only beside the agent that writes it.
//!
//! Owns a few questions in SQL. Waits for nobody longer than a moment; a database that is locked, broken or of another
//! shape is said to be that.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use serde_json::Value;

use crate::adapters::MESSAGE_MAX_BYTES;
use crate::adapters::found::SAID_MAX;
use crate::core::agent::Tokens;
use crate::core::vocab::Mono;
use crate::limits;
use crate::sys::clock;

use super::files::{Unread, open_regular, there, unread};
use super::scan::{Conversation, Look, Whose};

/// How many steps SQLite makes between two looks at the time.
const OPS_BETWEEN_LOOKS: i32 = 1_000;

const COLUMNS: &str =
    "id, model, cost, tokens_input, tokens_output, tokens_reasoning, tokens_cache_read, tokens_cache_write";

/// The conversation of an agent: the one of this id; or the only one of its directory that can be its. None where there
/// is no database.
pub(super) fn conversation(
    look: &Look,
    whose: &Whose<'_>,
    path: &Path,
    id: Option<&str>,
    is_free: &dyn Fn(&str) -> bool,
) -> Result<Option<Conversation>, Unread> {
    look.doing(path.display());
    // A pipe in its place would never answer.
    if there(look, whose, path, open_regular(path))?.is_none() {
        return Ok(None);
    }
    asked(look, whose, path, id, is_free).map_err(|error| {
        unread(look, whose, path, &error);
        Unread
    })
}

fn asked(
    look: &Look,
    whose: &Whose<'_>,
    path: &Path,
    id: Option<&str>,
    is_free: &dyn Fn(&str) -> bool,
) -> rusqlite::Result<Option<Conversation>> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(limits::STORE_BUSY_TIMEOUT)?;
    let over = look.began.mono.after(look.most);
    let late = move || -> bool { now() > over };
    db.progress_handler(OPS_BETWEEN_LOOKS, Some(late))?;
    let found = match id {
        Some(id) => {
            let question = format!("SELECT {COLUMNS} FROM session WHERE id = ?1");
            db.query_row(&question, params![id], row).optional()?
        }
        None => {
            let question = format!(
                "SELECT {COLUMNS} FROM session WHERE directory = ?1 AND parent_id IS NULL AND time_updated >= ?2 \
                 ORDER BY time_updated DESC LIMIT ?3"
            );
            let since = whose.started.0 / 1_000 - 1_000;
            // One more than are looked at: of more than those none is guessed either.
            let most = i64::try_from(limits::STORE_CANDIDATES_MAX + 1).unwrap_or(i64::MAX);
            let mut asked = db.prepare(&question)?;
            let rows = asked.query_map(params![whose.cwd, since, most], row)?;
            let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            let all = rows.len() <= limits::STORE_CANDIDATES_MAX;
            let mut free = rows.into_iter().filter(|found| is_free(&found.native_id));
            // Of several none is guessed.
            free.next().filter(|_| all && free.next().is_none())
        }
    };
    let Some(mut found) = found else { return Ok(None) };
    found.prompt = prompt(&db, &found.native_id)?;
    found.said = said(&db, &found.native_id)?;
    found.finish = finish(&db, &found.native_id)?;
    Ok(Some(found))
}

fn now() -> Mono {
    clock::now().mono
}

fn row(row: &Row<'_>) -> rusqlite::Result<Conversation> {
    let count = |at| row.get::<_, Option<i64>>(at).map(|n| u64::try_from(n.unwrap_or(0)).unwrap_or(0));
    let tokens = Tokens {
        r#in: count(3)?,
        out: count(4)?.saturating_add(count(5)?),
        cache_read: count(6)?,
        cache_write: count(7)?,
    };
    Ok(Conversation {
        native_id: row.get(0)?,
        model: row.get::<_, Option<String>>(1)?.as_deref().and_then(model),
        prompt: None,
        tokens: Some(tokens),
        cost_usd: row.get(2)?,
        said: Vec::new(),
        finish: None,
    })
}

/// `{"id": "m", "providerID": "p"}`, as `p/m`.
fn model(text: &str) -> Option<String> {
    let told: Value = serde_json::from_str(text).ok()?;
    let id = told["id"].as_str()?;
    Some(told["providerID"].as_str().map_or_else(|| id.to_owned(), |provider| format!("{provider}/{id}")))
}

/// The first text of the user's first message.
fn prompt(db: &Connection, id: &str) -> rusqlite::Result<Option<String>> {
    const QUESTION: &str = "SELECT json_extract(part.data, '$.text') FROM message JOIN part ON part.message_id = message.id \
         WHERE message.session_id = ?1 AND json_extract(message.data, '$.role') = 'user' \
         AND json_extract(part.data, '$.type') = 'text' ORDER BY message.time_created, part.id LIMIT 1";
    let text: Option<Option<String>> = db.query_row(QUESTION, params![id], |row| row.get(0)).optional()?;
    Ok(text.flatten().map(unquoted))
}

/// A prompt that came as an argument was given quotes.
pub(super) fn unquoted(text: String) -> String {
    match text.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(bare) => bare.to_owned(),
        None => text,
    }
}

/// Why its last answer ended; of one that has not ended there is nothing yet.
fn finish(db: &Connection, id: &str) -> rusqlite::Result<Option<String>> {
    const QUESTION: &str = "SELECT json_extract(data, '$.finish') FROM message WHERE session_id = ?1 \
         AND json_extract(data, '$.role') = 'assistant' ORDER BY time_created DESC, id DESC LIMIT 1";
    let finish: Option<Option<String>> = db.query_row(QUESTION, params![id], |row| row.get(0)).optional()?;
    Ok(finish.flatten())
}

/// The last texts of the assistant, oldest first. Of one that is still being said there is nothing yet.
fn said(db: &Connection, id: &str) -> rusqlite::Result<Vec<String>> {
    const QUESTION: &str = "SELECT substr(json_extract(part.data, '$.text'), 1, ?2) FROM message JOIN part \
         ON part.message_id = message.id WHERE message.session_id = ?1 \
         AND json_extract(message.data, '$.role') = 'assistant' AND json_extract(part.data, '$.type') = 'text' \
         ORDER BY message.time_created DESC, part.id DESC LIMIT ?3";
    let mut asked = db.prepare(QUESTION)?;
    let rows =
        asked.query_map(params![id, MESSAGE_MAX_BYTES, SAID_MAX], |row| row.get::<_, Option<String>>(0))?;
    let mut texts = Vec::new();
    for text in rows {
        texts.extend(text?.filter(|text| !text.trim().is_empty()));
    }
    texts.reverse();
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_their_provider() {
        assert_eq!(model(r#"{"id":"m","providerID":"p","variant":"x"}"#).as_deref(), Some("p/m"));
        assert_eq!(model(r#"{"id":"m"}"#).as_deref(), Some("m"));
        assert_eq!(model("{}"), None);
        assert_eq!(model("m"), None);
    }
}
