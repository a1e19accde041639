//! pi's sessions, `~/.pi/agent/sessions/--<directory>--/<time>_<id>.jsonl`. As seen with 0.74.2.

use std::path::PathBuf;

use super::super::json::{dollars, texts, typed};
use super::super::pi::tokens;
use super::{Anywhere, EnvLook, Files, Found, Search, Store, Told, fit, no_open_file, option};

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
    look.own_dir("PI_CODING_AGENT_DIR", ".pi/agent").join("sessions")
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
        "session" => told.held(&event["id"], &event["cwd"]),
        "model_change" => told.said_by(&event["modelId"]),
        "message" if message["role"] == "user" => told.asked_in(&message["content"]),
        "message" if message["role"] == "assistant" => {
            told.said_by(&message["model"]);
            told.say_once(&event["id"], texts(&message["content"]));
            let usage = &message["usage"];
            // An answer that failed used nothing.
            if usage.is_object() {
                told.message(&event["id"], tokens(usage), dollars(&usage["cost"]["total"]));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::agent::Tokens;

    #[test]
    fn a_session_tells_prompt_model_tokens_and_cost() {
        let lines = [
            r#"{"type":"session","version":3,"id":"01a2-bb","cwd":"/w"}"#,
            r#"{"type":"model_change","id":"b","provider":"fake","modelId":"fake-1"}"#,
            r#"{"type":"message","id":"c","message":{"role":"user","content":[{"type":"text","text":"fix it"}]}}"#,
            r#"{"type":"message","id":"d","message":{"role":"assistant","model":"fake-2","content":[{"type":"text","text":"on it"}],"usage":{"input":9,"output":5,"cacheRead":1,"cost":{"total":0.25}}}}"#,
            r#"{"type":"message","id":"d","message":{"role":"assistant","model":"fake-2","content":[{"type":"text","text":"on it"}],"usage":{"input":9,"output":5,"cacheRead":1,"cost":{"total":0.25}}}}"#,
            r#"{"type":"message","id":"e","message":{"role":"assistant","model":"fake-2","usage":{"input":9,"output":5,"cacheRead":1,"cost":{"total":0.25}}}}"#,
        ];
        let mut told = Told::default();
        lines.iter().for_each(|line| read(line.as_bytes(), &mut told));
        assert_eq!((told.native_id.as_deref(), told.cwd.as_deref()), (Some("01a2-bb"), Some("/w")));
        assert_eq!((told.prompt.as_deref(), told.model.as_deref()), (Some("fix it"), Some("fake-2")));
        assert_eq!(told.said, ["on it"]);
        let expected = Tokens { r#in: 18, out: 10, cache_read: 2, cache_write: 0 };
        assert_eq!((told.tokens(), told.cost_usd()), (Some(expected), Some(0.5)), "told twice, used once");
    }
}
