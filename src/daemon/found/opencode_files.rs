//! opencode's conversations before it had a database: a file for each session, message and part. As seen with 1.1.65.
//!
//! `storage/session/<project>/<id>.json`, `storage/message/<session>/<id>.json`, `storage/part/<message>/<id>.json`. Ids
//! of messages and parts are in the order of their time.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::adapters::found::{Opencode, SAID_MAX};
use crate::core::agent::Tokens;

use super::files::{Budget, modified_since, names, note_of};
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
    let mut sessions =
        projects.iter().flat_map(|project| names(look, whose, project, budget)).collect::<Vec<_>>();
    let id = match id {
        Some(id) => {
            sessions.retain(|path| stem(path) == Some(id));
            sessions.first().map(|_| id.to_owned())
        }
        None => {
            sessions.retain(|path| stem(path).is_some_and(is_free) && modified_since(path, whose.started));
            let is_its = |session: &Value| session["directory"] == whose.cwd && session["parentID"].is_null();
            let mut its = sessions
                .iter()
                .filter(|path| note_of(look, whose, path, budget).is_some_and(|it| is_its(&it)));
            // Of several none is guessed.
            let first = its.next().and_then(|path| stem(path)).map(str::to_owned);
            if its.next().is_some() { None } else { first }
        }
    };
    Some(told(look, whose, (store, storage), id?, budget))
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
    let mut messages = names(look, whose, &storage.join("message").join(&id), budget);
    messages.sort();
    let mut found =
        Conversation { tokens: Some(Tokens::default()), cost_usd: Some(0.0), ..Conversation::default() };
    let mut spoken = Vec::new();
    for path in &messages {
        let message = if look.is_late() { None } else { note_of(look, whose, path, budget) };
        // A sum of a part would be a lie.
        let Some(message) = message else {
            (found.tokens, found.cost_usd) = (None, None);
            continue;
        };
        let texts = |budget: &mut Budget| texts(look, whose, storage, path, budget);
        if message["role"] == "user" && found.prompt.is_none() {
            found.prompt = texts(budget).into_iter().next().map(unquoted);
        }
        if message["role"] == "assistant" {
            spoken.push(path);
            found.finish = message["finish"].as_str().map(str::to_owned);
            found.model = model(&message).or(found.model.take());
            found.tokens = found.tokens.map(|sum| sum.plus((store.tokens)(&message["tokens"])));
            found.cost_usd = found.cost_usd.map(|sum| sum + message["cost"].as_f64().unwrap_or(0.0));
        }
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
    let mut parts: Vec<PathBuf> = names(look, whose, &storage.join("part").join(id), budget);
    parts.sort();
    let notes = parts.iter().filter_map(|path| note_of(look, whose, path, budget));
    let texts = notes
        .filter(|part| part["type"] == "text")
        .filter_map(|part| part["text"].as_str().map(str::to_owned));
    texts.filter(|text| !text.trim().is_empty()).collect()
}

fn model(message: &Value) -> Option<String> {
    let id = message["modelID"].as_str()?;
    Some(message["providerID"].as_str().map_or_else(|| id.to_owned(), |provider| format!("{provider}/{id}")))
}
