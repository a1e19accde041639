//! Qwen Code's chats, `~/.qwen/projects/<directory>/chats/<id>.jsonl`. As seen with 0.24.4.

use std::path::PathBuf;

use super::super::json::{count, typed};
use super::super::stream::message_text;
use super::{Anywhere, EnvLook, Files, Found, Search, Store, Told, id_of_session, no_open_file, slug};
use crate::core::agent::Tokens;

pub(in crate::adapters) const QWEN: Found = Found {
    packages: &["@qwen-code/qwen-code"],
    id_in: id_of_session,
    store: Some(Store::Files(Files {
        registry: None,
        dirs: |look, _: &Search<'_>| vec![projects(look).join(slug(look)).join("chats")],
        anywhere_in: Some(Anywhere { projects, below: "chats" }),
        id_of: |name| name.strip_suffix(".jsonl"),
        id_is_cut: false,
        id_of_open: no_open_file,
        read,
    })),
};

fn projects(look: &EnvLook<'_>) -> PathBuf {
    let own = if look.var("QWEN_RUNTIME_DIR").is_some() { "QWEN_RUNTIME_DIR" } else { "QWEN_HOME" };
    look.own_dir(own, ".qwen").join("projects")
}

fn read(line: &[u8], told: &mut Told) {
    let Some((kind, event)) = typed(line) else { return };
    told.understood += 1;
    told.held(&event["sessionId"], &event["cwd"]);
    let parts = || event["message"]["parts"].as_array().into_iter().flatten();
    match kind.as_str() {
        "user" => parts().for_each(|part| told.asked(part["text"].as_str())),
        "assistant" => {
            told.said_by(&event["model"]);
            let spoken = parts().filter(|part| part["thought"] != true);
            let texts: Vec<_> = spoken.filter_map(|part| part["text"].as_str()).collect();
            told.say(message_text(&texts.join("\n")));
        }
        // Each answer of a model, also those that are no message: what its own total counts.
        "system" if event["systemPayload"]["uiEvent"]["event.name"] == "qwen-code.api_response" => {
            let answer = &event["systemPayload"]["uiEvent"];
            let cached = count(&answer["cached_content_token_count"]);
            let tokens = Tokens {
                r#in: count(&answer["input_token_count"]).saturating_sub(cached),
                out: count(&answer["output_token_count"]),
                cache_read: cached,
                cache_write: 0,
            };
            told.message(&event["uuid"], tokens, None);
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_tells_prompt_model_tokens_and_messages() {
        let lines = [
            r#"{"uuid":"a","sessionId":"s","type":"user","cwd":"/w","message":{"role":"user","parts":[{"text":"fix it"}]}}"#,
            r#"{"uuid":"b","sessionId":"s","type":"system","subtype":"ui_telemetry","systemPayload":{"uiEvent":{"event.name":"qwen-code.api_response","input_token_count":1000,"output_token_count":50,"cached_content_token_count":100,"thoughts_token_count":5}}}"#,
            r#"{"uuid":"c","sessionId":"s","type":"assistant","model":"m","message":{"parts":[{"text":"hm","thought":true},{"text":"on it"},{"functionCall":{}}]},"usageMetadata":{"promptTokenCount":1000}}"#,
            r#"{"uuid":"d","sessionId":"s","type":"assistant","model":"m","message":{"parts":[{"functionCall":{}}]}}"#,
        ];
        let mut told = Told::default();
        lines.iter().for_each(|line| read(line.as_bytes(), &mut told));
        assert_eq!((told.native_id.as_deref(), told.cwd.as_deref()), (Some("s"), Some("/w")));
        assert_eq!((told.prompt.as_deref(), told.model.as_deref()), (Some("fix it"), Some("m")));
        assert_eq!(told.said, ["on it"]);
        let expected = Tokens { r#in: 900, out: 50, cache_read: 100, cache_write: 0 };
        assert_eq!(told.tokens(), Some(expected));
    }
}
