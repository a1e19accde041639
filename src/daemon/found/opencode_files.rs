//! opencode's conversations before it had a database: a file for each session, message and part. As seen with 1.1.65.
//!
//! `storage/session/<project>/<id>.json`, `storage/message/<session>/<id>.json`, `storage/part/<message>/<id>.json`. Ids
//! of messages and parts are in the order of their time.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::adapters::found::{Opencode, SAID_MAX};
use crate::core::agent::Tokens;

use super::files::{Budget, Names, names, names_in, note_of, written_since};
use super::opencode::unquoted;
use super::scan::{Conversation, Look, Whose};

/// The conversation of an agent: the one of this id; or the only one of its directory that can be its.
pub(super) fn conversation(
    look: &Look,
    whose: &Whose<'_>,
    store: &Opencode,
    id: Option<&str>,
    is_free: &dyn Fn(&str) -> bool,
    budget: &mut Budget,
) -> Option<Conversation> {
    let storage = &look.env(whose, store.storage);
    let projects = names(look, whose, &storage.join("session"), budget);
    let sessions = names_in(look, whose, &projects, budget);
    let id = match id {
        Some(id) => sessions.paths.iter().any(|path| stem(path) == Some(id)).then(|| id.to_owned()),
        None if sessions.all => only_one(look, whose, &sessions.paths, is_free, budget),
        None => None,
    };
    Some(told(look, whose, (store, storage), id?, budget))
}

/// The only session that can be meant. Of several none is guessed, and any that could not be read might be it.
fn only_one(
    look: &Look,
    whose: &Whose<'_>,
    sessions: &[PathBuf],
    is_free: &dyn Fn(&str) -> bool,
    budget: &mut Budget,
) -> Option<String> {
    let mut only = None;
    for path in sessions {
        let Some(id) = stem(path).filter(|id| is_free(id)) else { continue };
        if !written_since(look, whose, path).ok()? {
            continue;
        }
        let Some(session) = note_of(look, whose, path, budget).ok()? else { continue };
        let is_its = session["directory"] == whose.cwd && session["parentID"].is_null();
        if is_its && only.replace(id.to_owned()).is_some() {
            return None;
        }
    }
    only
}

fn stem(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(".json")
}

fn told(
    look: &Look,
    whose: &Whose<'_>,
    (store, storage): (&Opencode, &Path),
    id: String,
    budget: &mut Budget,
) -> Conversation {
    let Names { paths: mut messages, all } = names(look, whose, &storage.join("message").join(&id), budget);
    messages.sort();
    let mut found =
        Conversation { tokens: Some(Tokens::default()), cost_usd: Some(0.0), ..Conversation::default() };
    let (mut spoken, mut all_read) = (Vec::new(), all);
    for path in &messages {
        let Ok(Some(message)) = note_of(look, whose, path, budget) else {
            all_read = false;
            continue;
        };
        // Whose first words were not read has none.
        if message["role"] == "user" && all_read && found.prompt.is_none() {
            found.prompt = texts(look, whose, storage, path, budget).into_iter().next().map(unquoted);
        }
        if message["role"] == "assistant" {
            spoken.push(path);
            found.finish = message["finish"].as_str().map(str::to_owned);
            found.model = model(&message).or(found.model.take());
            found.tokens = found.tokens.map(|sum| sum.plus((store.tokens)(&message["tokens"])));
            found.cost_usd = found.cost_usd.zip(message["cost"].as_f64()).map(|(sum, cost)| sum + cost);
        }
    }
    if !all_read {
        // A sum of a part would be a lie, and which answer was the last is not known.
        (found.tokens, found.cost_usd, found.finish) = (None, None, None);
    }
    for path in spoken.iter().rev().take(SAID_MAX) {
        if look.is_late() || found.said.len() >= SAID_MAX {
            break;
        }
        found.said.extend(texts(look, whose, storage, path, budget).into_iter().rev());
    }
    found.said.reverse();
    Conversation { native_id: id, ..found }
}

/// The texts of a message.
fn texts(look: &Look, whose: &Whose<'_>, storage: &Path, message: &Path, budget: &mut Budget) -> Vec<String> {
    let Some(id) = stem(message) else { return Vec::new() };
    let mut parts = names(look, whose, &storage.join("part").join(id), budget).paths;
    parts.sort();
    let notes = parts.iter().filter_map(|path| note_of(look, whose, path, budget).ok().flatten());
    let texts = notes
        .filter(|part| part["type"] == "text")
        .filter_map(|part| part["text"].as_str().map(str::to_owned));
    texts.filter(|text| !text.trim().is_empty()).collect()
}

fn model(message: &Value) -> Option<String> {
    let id = message["modelID"].as_str()?;
    Some(message["providerID"].as_str().map_or_else(|| id.to_owned(), |provider| format!("{provider}/{id}")))
}
