//! Claude Code's registry of living processes, `~/.claude/sessions/<pid>.json`, and its transcripts,
//! `~/.claude/projects/<directory>/<id>.jsonl`. As seen with 2.1.330.

use serde_json::Value;

use super::super::claude_code::{config_dir, tokens};
use super::super::json::{dollars, texts, typed};
use super::{
    Anywhere, Files, Found, Registered, Registry, Search, Store, Told, fit, id_of_session, no_open_file, slug,
};

pub(in crate::adapters) const CLAUDE_CODE: Found = Found {
    packages: &["@anthropic-ai/claude-code"],
    id_in: id_of_session,
    store: Some(Store::Files(Files {
        registry: Some(Registry {
            file: |look, pid| config_dir(look).join("sessions").join(format!("{pid}.json")),
            read: registered,
        }),
        dirs: |look, _: &Search<'_>| vec![config_dir(look).join("projects").join(slug(look))],
        anywhere_in: Some(Anywhere { projects: |look| config_dir(look).join("projects"), below: "" }),
        id_of: |name| name.strip_suffix(".jsonl"),
        id_is_cut: false,
        id_of_open: no_open_file,
        read,
    })),
};

fn registered(bytes: &[u8]) -> Option<Registered> {
    let told: Value = serde_json::from_slice(bytes).ok()?;
    Some(Registered {
        native_id: told["sessionId"].as_str().and_then(fit)?,
        start_ticks: told["procStart"].as_str().and_then(|ticks| ticks.parse().ok()),
        idle: told["status"] == "idle",
    })
}

fn read(line: &[u8], told: &mut Told) {
    let Some((kind, event)) = typed(line) else { return };
    told.understood += 1;
    told.held(&event["sessionId"], &event["cwd"]);
    let message = &event["message"];
    match kind.as_str() {
        "user" if event["isSidechain"] != true && event["isMeta"] != true => {
            told.asked_in(&message["content"]);
        }
        "assistant" => {
            if event["isSidechain"] != true {
                told.said_by(&message["model"]);
                told.say(texts(&message["content"]));
            }
            if message["id"].is_string() {
                told.message(&message["id"], tokens(&message["usage"]), None);
            }
        }
        "cost-state" => told.total_usd = dollars(&event["totalCostUSD"]).or(told.total_usd),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::agent::Tokens;

    #[test]
    fn the_registry_names_the_conversation_and_the_process() {
        let told = br#"{"pid":22914,"sessionId":"5555-8555","procStart":"258398","status":"busy"}"#;
        let expected = Registered { native_id: "5555-8555".into(), start_ticks: Some(258_398), idle: false };
        assert_eq!(registered(told), Some(expected));
        assert_eq!(registered(br#"{"sessionId":"../../x"}"#), None);
        assert_eq!(registered(b"{\"sessionId\":"), None);
    }

    #[test]
    fn a_transcript_tells_prompt_model_tokens_and_cost() {
        let lines = [
            r#"{"type":"queue-operation","sessionId":"s1"}"#,
            r#"{"type":"user","isMeta":true,"message":{"content":"caveat"},"cwd":"/w","sessionId":"s1"}"#,
            r#"{"type":"user","message":{"content":"<command-name>/clear</command-name>"}}"#,
            r#"{"type":"user","message":{"content":[{"type":"text","text":"fix it"}]}}"#,
            r#"{"type":"assistant","message":{"id":"m1","model":"opus","content":[{"type":"text","text":"on it"}],"usage":{"input_tokens":3,"output_tokens":1}}}"#,
            r#"{"type":"assistant","message":{"id":"m1","model":"opus","usage":{"input_tokens":3,"output_tokens":5,"cache_read_input_tokens":7}}}"#,
            r#"{"type":"user","message":{"content":"and more"}}"#,
            r#"{"type":"cost-state","totalCostUSD":0.5}"#,
            "half a li",
        ];
        let mut told = Told::default();
        lines.iter().for_each(|line| read(line.as_bytes(), &mut told));
        assert_eq!((told.native_id.as_deref(), told.cwd.as_deref()), (Some("s1"), Some("/w")));
        assert_eq!((told.prompt.as_deref(), told.model.as_deref()), (Some("fix it"), Some("opus")));
        let expected = Tokens { r#in: 3, out: 5, cache_read: 7, cache_write: 0 };
        assert_eq!((told.tokens(), told.cost_usd()), (Some(expected), Some(0.5)));
        assert_eq!(told.said, ["on it"]);
        assert_eq!(told.understood, lines.len() - 1);
    }
}
