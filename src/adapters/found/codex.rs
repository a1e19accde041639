//! Codex's rollouts, `~/.codex/sessions/YYYY/MM/DD/rollout-<time>-<id>.jsonl`, and the lock that a thread's writer has
//! open. As seen with 0.169.0.

use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use uuid::Uuid;

use super::super::codex::tokens;
use super::super::json::typed;
use super::super::stream::message_text;
use super::{EnvLook, Files, Found, Search, Store, Told, fit};
use crate::core::vocab::Wall;

pub(in crate::adapters) const CODEX: Found = Found {
    packages: &["@openai/codex"],
    id_in,
    store: Some(Store::Files(Files {
        registry: None,
        dirs,
        anywhere_in: None,
        id_of: |name| id_at_end(name.strip_prefix("rollout-")?.strip_suffix(".jsonl")?),
        id_is_cut: false,
        id_of_open,
        read,
    })),
};

/// The most days of rollouts that are looked through. Of a process that is older none is: it could have begun on any.
const DAYS_MAX: usize = 10;

/// `codex resume ID`, `codex exec resume [flags] ID [prompt]`.
fn id_in(arguments: &[String]) -> Option<String> {
    let resumed = arguments.iter().position(|word| word == "resume")?;
    let id = arguments[resumed + 1..].iter().find(|word| is_id(word))?;
    fit(id)
}

fn is_id(text: &str) -> bool {
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}

fn id_at_end(stem: &str) -> Option<&str> {
    let id = stem.get(stem.len().checked_sub(36)?..)?;
    is_id(id).then_some(id)
}

fn id_of_open(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let lock = path.parent()?.ends_with("thread-writer-locks").then(|| name.strip_suffix(".lock")).flatten();
    let rollout = || id_at_end(name.strip_prefix("rollout-")?.strip_suffix(".jsonl")?);
    lock.filter(|id| is_id(id)).or_else(rollout)
}

/// A day each, by the local time of its beginning. The id holds that time, so that also an old one is found.
fn dirs(look: &EnvLook<'_>, search: &Search<'_>) -> Vec<PathBuf> {
    let sessions = look.own_dir("CODEX_HOME", ".codex").join("sessions");
    let (from, to) = match search.native_id.and_then(begun) {
        Some(at) => (day(at), day(at)),
        None => (day(search.started), day(search.now)),
    };
    let (Some(from), Some(to)) = (from, to) else { return Vec::new() };
    // The local day can be the one before or after.
    let mut days = Vec::new();
    let mut at = to.saturating_add(1.day());
    while at >= from.saturating_sub(1.day()) {
        if days.len() == DAYS_MAX {
            return Vec::new();
        }
        days.push(sessions.join(format!("{:04}/{:02}/{:02}", at.year(), at.month(), at.day())));
        at = at.saturating_sub(1.day());
    }
    days
}

/// When a conversation began, by its id (a UUID v7).
fn begun(id: &str) -> Option<Wall> {
    let id = Uuid::try_parse(id).ok().filter(|id| id.get_version_num() == 7)?;
    let ms = id.as_bytes()[..6].iter().fold(0_i64, |ms, byte| ms << 8 | i64::from(*byte));
    Some(Wall(ms * 1_000))
}

fn day(at: Wall) -> Option<Date> {
    Some(Timestamp::from_microsecond(at.0).ok()?.to_zoned(TimeZone::UTC).date())
}

fn read(line: &[u8], told: &mut Told) {
    let Some((kind, event)) = typed(line) else { return };
    told.understood += 1;
    let payload = &event["payload"];
    match kind.as_str() {
        "session_meta" => told.held(&payload["id"], &payload["cwd"]),
        "turn_context" => told.said_by(&payload["model"]),
        "response_item" if payload["type"] == "message" && payload["role"] == "user" => {
            let content = payload["content"].as_array();
            content.into_iter().flatten().for_each(|block| told.asked(block["text"].as_str()));
        }
        "response_item" if payload["type"] == "message" && payload["role"] == "assistant" => {
            let blocks = payload["content"].as_array().into_iter().flatten();
            let texts: Vec<_> = blocks.filter_map(|block| block["text"].as_str()).collect();
            told.say(message_text(&texts.join("\n")));
        }
        "event_msg" if payload["type"] == "user_message" => told.asked(payload["message"].as_str()),
        "event_msg" if payload["type"] == "token_count" => {
            let total = &payload["info"]["total_token_usage"];
            if total.is_object() {
                told.total = Some(tokens(total));
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::agent::Tokens;

    const ID: &str = "01a20287-ab6b-7fa1-8031-1521fdc9368c";

    #[test]
    fn the_id_is_in_arguments_file_names_and_open_files() {
        let id_in = |line: &str| id_in(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(id_in(&format!("exec resume --json {ID} go")).as_deref(), Some(ID));
        assert_eq!(id_in(&format!("exec {ID}")), None);
        assert_eq!(id_in("resume --last"), None);
        let rollout = format!("/h/.codex/sessions/2026/11/22/rollout-2026-11-22T09-12-55-{ID}.jsonl");
        assert_eq!(id_of_open(Path::new(&rollout)), Some(ID));
        assert_eq!(id_of_open(Path::new(&format!("/h/.codex/thread-writer-locks/{ID}.lock"))), Some(ID));
        assert_eq!(id_of_open(Path::new(&format!("/tmp/{ID}.lock"))), None);
        assert_eq!(id_of_open(Path::new("/h/rollout-x.jsonl")), None);
    }

    #[test]
    fn days_are_those_of_the_conversation_or_of_the_process() {
        let home = Path::new("/h");
        let look = EnvLook {
            vars: &|_| None,
            exists: &|_| false,
            passwd_home: home,
            cwd: Path::new("/w"),
            root: false,
            safe: false,
        };
        let days = |native_id, started: i64, now: i64| {
            let at = |days: i64| Wall(days * 86_400_000_000);
            dirs(&look, &Search { native_id, started: at(started), now: at(now) })
        };
        let named = |day: &str| PathBuf::from(format!("/h/.codex/sessions/{day}"));
        assert_eq!(days(Some(ID), 0, 1), ["2026/11/23", "2026/11/22", "2026/11/21"].map(named));
        assert_eq!(days(None, 30, 31), ["1970/02/02", "1970/02/01", "1970/01/31", "1970/01/30"].map(named));
        assert_eq!(days(None, 0, 7).len(), DAYS_MAX);
        assert_eq!(days(None, 0, 20_000), [""; 0].map(named));
    }

    #[test]
    fn a_rollout_tells_prompt_model_and_the_last_total() {
        let lines = [
            r#"{"type":"session_meta","payload":{"id":"01a20287-ab6b-7fa1-8031-1521fdc9368c","cwd":"/w"}}"#,
            r#"{"type":"turn_context","payload":{"model":"gpt-5"}}"#,
            r#"{"type":"response_item","payload":{"type":"message","role":"user","content":[{"text":"<environment_context>"}]}}"#,
            r#"{"type":"event_msg","payload":{"type":"user_message","message":"fix it"}}"#,
            r#"{"type":"event_msg","payload":{"type":"agent_message","message":"on it"}}"#,
            r#"{"type":"response_item","payload":{"type":"message","role":"assistant","content":[{"type":"output_text","text":"on it"}]}}"#,
            r#"{"type":"event_msg","payload":{"type":"token_count","info":null}}"#,
            r#"{"type":"event_msg","payload":{"type":"token_count","info":{"total_token_usage":{"input_tokens":10,"cached_input_tokens":4,"output_tokens":5}}}}"#,
        ];
        let mut told = Told::default();
        lines.iter().for_each(|line| read(line.as_bytes(), &mut told));
        assert_eq!((told.native_id.as_deref(), told.cwd.as_deref()), (Some(ID), Some("/w")));
        assert_eq!((told.prompt.as_deref(), told.model.as_deref()), (Some("fix it"), Some("gpt-5")));
        assert_eq!(told.said, ["on it"]);
        let expected = Tokens { r#in: 6, out: 5, cache_read: 4, cache_write: 0 };
        assert_eq!(told.tokens(), Some(expected), "the last total");
    }
}
