//! Gemini CLI's chats, `~/.gemini/tmp/<project>/chats/session-<time>-<beginning of the id>.jsonl`. As seen with 0.61.0.
//!
//! A project's directory has a name that only the agent's own index tells; each chat holds the SHA-256 of the directory.

use std::path::PathBuf;

use super::super::json::{count, typed};
use super::super::stream::message_text;
use super::{Anywhere, EnvLook, Files, Found, Search, Store, Told, id_of_session, no_open_file};
use crate::core::agent::Tokens;
use serde_json::Value;

pub(in crate::adapters) const GEMINI: Found = Found {
    packages: &["@google/gemini-cli"],
    id_in: id_of_session,
    store: Some(Store::Files(Files {
        registry: None,
        dirs: |_, _: &Search<'_>| Vec::new(),
        anywhere_in: Some(Anywhere { projects, below: "chats" }),
        id_of: |name| {
            name.strip_prefix("session-")?.strip_suffix(".jsonl")?.rsplit_once('-').map(|(_, id)| id)
        },
        id_is_cut: true,
        id_of_open: no_open_file,
        read,
    })),
};

fn projects(look: &EnvLook<'_>) -> PathBuf {
    let home = look.var("GEMINI_CLI_HOME").map_or_else(|| look.home(), |own| look.cwd.join(own));
    home.join(".gemini/tmp")
}

fn read(line: &[u8], told: &mut Told) {
    if let Some((kind, event)) = typed(line) {
        told.understood += 1;
        message(&kind, &event, told);
        return;
    }
    let Ok(event @ Value::Object(_)) = serde_json::from_slice::<Value>(line) else { return };
    if let Some(hash) = event["projectHash"].as_str() {
        told.understood += 1;
        told.cwd_sha256 = Some(hash.to_owned());
        told.held(&event["sessionId"], &Value::Null);
    }
    // What was said before a chat was gone on with comes again in one piece.
    for message_again in event["$set"]["messages"].as_array().into_iter().flatten() {
        let kind = message_again["type"].as_str().unwrap_or_default();
        message(kind, message_again, told);
    }
}

fn message(kind: &str, event: &Value, told: &mut Told) {
    match kind {
        "user" => {
            let blocks = event["content"].as_array().into_iter().flatten();
            blocks.for_each(|block| told.asked(block["text"].as_str()));
            told.asked(event["content"].as_str());
        }
        "gemini" => {
            told.said_by(&event["model"]);
            let id = &event["id"];
            told.say_once(id, event["content"].as_str().and_then(message_text));
            if event["tokens"].is_object() {
                told.message(id, tokens(&event["tokens"]), None);
            }
        }
        _ => {}
    }
}

/// `input` includes what came from the cache; `output` is without thoughts.
fn tokens(told: &Value) -> Tokens {
    let cached = count(&told["cached"]);
    Tokens {
        r#in: count(&told["input"]).saturating_sub(cached),
        out: count(&told["output"]).saturating_add(count(&told["thoughts"])),
        cache_read: cached,
        cache_write: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_tells_prompt_model_tokens_and_whose_it_is() {
        let lines = [
            r#"{"sessionId":"2531f862-4868-4af9-a550-334533e18600","projectHash":"f4fa","kind":"main"}"#,
            r#"{"$set":{"messages":[{"id":"a","type":"user","content":[{"text":"<session_context>"}]}]}}"#,
            r#"{"id":"b","type":"user","content":[{"text":"fix it"}]}"#,
            r#"{"id":"c","type":"gemini","content":"on it","tokens":{"input":1000,"output":50,"cached":100,"thoughts":7},"model":"m"}"#,
            r#"{"id":"c","type":"gemini","content":"on it","tokens":{"input":1000,"output":50,"cached":100,"thoughts":7},"model":"m"}"#,
            r#"{"$set":{"lastUpdated":"2026-11-22T09:17:52.082Z"}}"#,
        ];
        let mut told = Told::default();
        lines.iter().for_each(|line| read(line.as_bytes(), &mut told));
        assert_eq!(told.native_id.as_deref(), Some("2531f862-4868-4af9-a550-334533e18600"));
        assert_eq!((told.prompt.as_deref(), told.model.as_deref()), (Some("fix it"), Some("m")));
        assert_eq!(
            (told.cwd_sha256.as_deref(), told.said.iter().map(String::as_str).collect::<Vec<_>>()),
            (Some("f4fa"), vec!["on it"])
        );
        let expected = Tokens { r#in: 900, out: 57, cache_read: 100, cache_write: 0 };
        assert_eq!(told.tokens(), Some(expected), "told twice, used once");
    }

    #[test]
    fn a_name_holds_the_beginning_of_the_id() {
        let Some(Store::Files(files)) = GEMINI.store else { panic!("files") };
        assert_eq!((files.id_of)("session-2026-11-26T11-50-734960f3.jsonl"), Some("734960f3"));
        assert_eq!((files.id_of)("logs.json"), None);
    }
}
