//! pi's sessions, `~/.pi/agent/sessions/--<directory>--/<time>_<id>.jsonl`. As seen with 0.74.2.

use std::path::PathBuf;

use super::super::json::{count, dollars, texts, typed, words};
use super::{Anywhere, EnvLook, Files, Found, Search, Store, Told, fit, no_open_file, option};
use crate::core::agent::Tokens;

pub(in crate::adapters) const PI: Found = Found {
    packages: &["@earendil-works/pi-coding-agent", "@mariozechner/pi-coding-agent"],
    id_in: |arguments| option(arguments, &["--session"]).and_then(fit),
    store: Some(Store::Files(Files {
        registry: None,
        dirs: |look, _: &Search<'_>| vec![sessions(look).join(slug(look))],
        anywhere_in: Some(Anywhere { projects: sessions, below: "" }),
        id_of: |name| name.strip_suffix(".jsonl")?.rsplit_once('_').map(|(_, id)| id),
        id_is_cut: false,
        id_of_open: no_open_file,
        read,
    })),
};

fn sessions(look: &EnvLook<'_>) -> PathBuf {
    let own = look.var("PI_CODING_AGENT_DIR");
    own.map_or_else(|| look.home().join(".pi/agent"), |own| look.cwd.join(own)).join("sessions")
}

fn slug(look: &EnvLook<'_>) -> String {
    let cwd = look.cwd.to_string_lossy();
    format!("--{}--", cwd.trim_start_matches('/').replace(['/', '\\', ':'], "-"))
}

fn read(line: &[u8], told: &mut Told) {
    let Some((kind, event)) = typed(line) else { return };
    told.understood += 1;
    let message = &event["message"];
    match kind.as_str() {
        "session" => {
            told.native_id = event["id"].as_str().and_then(fit).or(told.native_id.take());
            told.cwd = words(&event["cwd"]).or(told.cwd.take());
        }
        "model_change" => told.said_by(&event["modelId"]),
        "message" if message["role"] == "user" => {
            let block = message["content"].as_array().into_iter().flatten().find(|it| it["type"] == "text");
            told.asked(message["content"].as_str().or_else(|| block?["text"].as_str()));
        }
        "message" if message["role"] == "assistant" => {
            told.said_by(&message["model"]);
            told.say(texts(&message["content"]));
            let usage = &message["usage"];
            let tokens = Tokens {
                r#in: count(&usage["input"]),
                out: count(&usage["output"]),
                cache_read: count(&usage["cacheRead"]),
                cache_write: count(&usage["cacheWrite"]),
            };
            told.message(event["id"].as_str().unwrap_or_default(), tokens);
            if let Some(cost) = dollars(&usage["cost"]["total"]) {
                told.cost_usd = Some(told.cost_usd.unwrap_or(0.0) + cost);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_tells_prompt_model_tokens_and_cost() {
        let lines = [
            r#"{"type":"session","version":3,"id":"01a2-bb","cwd":"/w"}"#,
            r#"{"type":"model_change","id":"b","provider":"fake","modelId":"fake-1"}"#,
            r#"{"type":"message","id":"c","message":{"role":"user","content":[{"type":"text","text":"fix it"}]}}"#,
            r#"{"type":"message","id":"d","message":{"role":"assistant","model":"fake-2","content":[{"type":"text","text":"on it"}],"usage":{"input":9,"output":5,"cacheRead":1,"cost":{"total":0.25}}}}"#,
            r#"{"type":"message","id":"e","message":{"role":"assistant","model":"fake-2","usage":{"input":9,"output":5,"cacheRead":1,"cost":{"total":0.25}}}}"#,
        ];
        let mut told = Told::default();
        lines.iter().for_each(|line| read(line.as_bytes(), &mut told));
        assert_eq!((told.native_id.as_deref(), told.cwd.as_deref()), (Some("01a2-bb"), Some("/w")));
        assert_eq!((told.prompt.as_deref(), told.model.as_deref()), (Some("fix it"), Some("fake-2")));
        assert_eq!(told.said, ["on it"]);
        let expected = Tokens { r#in: 18, out: 10, cache_read: 2, cache_write: 0 };
        assert_eq!((told.tokens(true), told.cost_usd), (Some(expected), Some(0.5)));
    }
}
