//! opencode (npm `opencode-ai`): `opencode run --format json`, the prompt as a file on stdin.
//!
//! Checked against 1.18.33 by running it; 1.1.65 prints the same events and counts two things differently,
//! noted where it matters. Knows nothing of its databases: those are for finding sessions, not for running them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::acp::{self, Acp};
use super::found;
use super::json::{count, dollars, native_id, tool_answered, tool_called, typed};
use super::stream::{bounded, message_text};
use super::{Adapter, Ask, EnvLook, FAILURE_MAX_CHARS, FirstStart, Program, PromptWay, env_unchanged};
use crate::core::agent::{AgentEvent, StepEnd, Tokens};

pub(super) const OPENCODE: Adapter = Adapter {
    name: "opencode",
    program: Program::Named("opencode"),
    found: found::OPENCODE,
    prompt: PromptWay::Stdin,
    argv,
    resume: Some(resume),
    imposes_id: false,
    // Inherited OPENCODE, OPENCODE_PID and AGENT (a launch from inside an opencode tool) do no harm.
    env: env_unchanged,
    parse: Some(parse),
    first_start: Some(first_start),
    acp: Some(Acp { argv: acp_argv, model_in_argv: false, parse: acp::parse_without_tokens }),
};

/// Values are joined by `=`, so that a title such as `--auto` stays a title.
fn argv(ask: &Ask<'_>) -> Vec<String> {
    let mut argv = vec!["run".to_owned(), "--format".to_owned(), "json".to_owned()];
    if let Some(model) = ask.model {
        argv.push(format!("--model={model}"));
    }
    // Without a title opencode asks the model for one: a request whose tokens it reports nowhere.
    if let Some(title) = ask.title.filter(|title| !title.is_empty()) {
        argv.push(format!("--title={title}"));
    }
    // A rule that says `ask` would end a headless run at its first match, with exit code 0; rules that say
    // `deny` stay in force. Versions before the SQLite store (1.1.65) refuse the flag; `safe` spares it.
    if !ask.safe {
        argv.push("--auto".to_owned());
    }
    argv
}

/// Model and permissions are the protocol's there, and a title it does not take.
fn acp_argv(_: &Ask<'_>) -> Vec<String> {
    vec!["acp".to_owned()]
}

fn resume(ask: &Ask<'_>, native_id: &str) -> Vec<String> {
    // The conversation has its title.
    let mut argv = argv(&Ask { title: None, ..*ask });
    argv.push(format!("--session={native_id}"));
    argv
}

/// Where its conversations are kept.
pub(super) fn database(look: &EnvLook<'_>) -> Option<PathBuf> {
    let data = look.data_home().join("opencode");
    let database = match look.var("OPENCODE_DB") {
        // Each run has a database of its own: nothing to share.
        Some(name) if name == ":memory:" => return None,
        Some(name) => data.join(name),
        None => data.join("opencode.db"),
    };
    Some(look.cwd.join(database))
}

/// opencode creates its database at the first start, in one transaction that takes about 50 ms. Two that try
/// at once can collide on a busy machine, and one then exits with 1. The main file stays at one page for as
/// long as the contents are in the write-ahead log.
fn first_start(look: &EnvLook<'_>) -> Option<FirstStart> {
    let key = database(look)?;
    let mut log = key.clone().into_os_string();
    log.push("-wal");
    let done_when_larger = vec![(Path::new(&log).to_owned(), 0), (key.clone(), 4096)];
    Some(FirstStart { key, done_when_larger })
}

/// One line of stdout: `{type, timestamp, sessionID, part | error}`. Anything else on stdout (a plugin that
/// prints) says nothing. Each line repeats the native id; the reader keeps the first.
fn parse(line: &[u8]) -> Vec<AgentEvent> {
    let Some((kind, event)) = typed(line) else { return Vec::new() };
    let mut events: Vec<AgentEvent> = native_id(&event["sessionID"]).into_iter().collect();
    let part = &event["part"];
    match kind.as_str() {
        "step_start" => events.push(AgentEvent::Active),
        "text" => events.extend(part["text"].as_str().and_then(message_text).map(AgentEvent::Said)),
        "step_finish" => {
            if part["tokens"].is_object() {
                let cost_usd = dollars(&part["cost"]).unwrap_or(0.0);
                events.push(AgentEvent::Used { tokens: tokens(&part["tokens"]), cost_usd });
            }
            events.push(AgentEvent::StepEnded(step_end(part["reason"].as_str())));
        }
        "tool_use" => {
            let state = &part["state"];
            events.push(tool_called(&part["tool"], &state["input"]));
            let exit = state["metadata"]["exit"].as_i64().unwrap_or(0);
            let output = if state["error"].is_string() { &state["error"] } else { &state["output"] };
            events.push(tool_answered(state["status"] != "error" && exit == 0, output));
        }
        "error" => events.push(AgentEvent::Failed(failure(&event["error"]))),
        // Reasoning, and what later versions add: no bearing on tokens, messages or the outcome.
        _ => {}
    }
    events
}

fn step_end(reason: Option<&str>) -> StepEnd {
    match reason {
        Some("stop") => StepEnd::Stop,
        Some("tool-calls") => StepEnd::ToolCalls,
        Some(other) => StepEnd::Other(bounded(other, 100)),
        None => StepEnd::Other("none given".to_owned()),
    }
}

/// `input` never includes what came from the cache. `output` includes reasoning in 1.1.65 and does not in
/// 1.18; `total`, where there is one, tells which: it is the sum of the parts without counting any twice.
pub(super) fn tokens(tokens: &Value) -> Tokens {
    let (input, output, reasoning) =
        (count(&tokens["input"]), count(&tokens["output"]), count(&tokens["reasoning"]));
    let (cache_read, cache_write) = (count(&tokens["cache"]["read"]), count(&tokens["cache"]["write"]));
    let without_reasoning =
        [input, output, cache_read, cache_write].into_iter().fold(0_u64, u64::saturating_add);
    let counted_in_output = tokens["total"].is_number() && count(&tokens["total"]) == without_reasoning;
    let out = if counted_in_output { output } else { output.saturating_add(reasoning) };
    Tokens { r#in: input, out, cache_read, cache_write }
}

/// `APIError: fake error 401 (status 401)`. Some versions put the message one level higher, plugins throw
/// plain strings, and `ref` is what the agent's own log calls an error that it does not describe.
fn failure(error: &Value) -> String {
    let data = &error["data"];
    let message = [&data["message"], &error["message"], error].into_iter().find_map(Value::as_str);
    let text = match (error["name"].as_str(), message) {
        (Some(name), Some(message)) => format!("{name}: {message}"),
        (Some(word), None) | (None, Some(word)) => word.to_owned(),
        (None, None) => "opencode reported an error without words".to_owned(),
    };
    let mut known = String::new();
    if let Some(status) = data["statusCode"].as_u64() {
        known.push_str(&format!(" (status {status})"));
    }
    if let Some(reference) = data["ref"].as_str() {
        known.push_str(&format!(" ({})", bounded(reference, 100)));
    }
    // A long message is cut so that the status behind it survives.
    format!("{}{known}", bounded(&text, FAILURE_MAX_CHARS - known.chars().count()))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn argv_by_what_was_asked() {
        let joined = |ask: Ask<'_>| argv(&ask).join(" ");
        assert_eq!(joined(Ask::default()), "run --format json --auto");
        assert_eq!(joined(Ask { safe: true, ..Ask::default() }), "run --format json");
        let all = Ask { model: Some("fake/fake-1"), title: Some("--x y"), ..Ask::default() };
        assert_eq!(joined(all), "run --format json --model=fake/fake-1 --title=--x y --auto");
        assert_eq!(joined(Ask { title: Some(""), ..Ask::default() }), "run --format json --auto");
        let again = resume(&all, "ses_1").join(" ");
        assert_eq!(again, "run --format json --model=fake/fake-1 --auto --session=ses_1");
    }

    fn failed(error: &str) -> String {
        let line = format!(r#"{{"type":"error","error":{error}}}"#);
        match parse(line.as_bytes()).as_slice() {
            [AgentEvent::Failed(text)] => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn errors_are_told_in_one_line() {
        let api = r#"{"name":"APIError","data":{"message":"no key","statusCode":401,"isRetryable":false}}"#;
        assert_eq!(failed(api), "APIError: no key (status 401)");
        assert_eq!(failed(r#"{"name":"E","data":{"message":"m","ref":"err_1"}}"#), "E: m (err_1)");
        assert_eq!(failed(r#"{"name":"E","message":"m"}"#), "E: m");
        assert_eq!(failed(r#"{"name":"E"}"#), "E");
        assert_eq!(failed(r#""boom""#), "boom");
        assert_eq!(failed("null"), "opencode reported an error without words");
        let long = failed(&format!(
            r#"{{"name":"E","data":{{"message":"{}","statusCode":500}}}}"#,
            "ä".repeat(9000)
        ));
        assert_eq!(long.chars().count(), FAILURE_MAX_CHARS);
        assert!(long.ends_with("ä… (status 500)"));
    }

    #[test]
    fn reasoning_is_counted_once_in_either_generation() {
        let read = |text: &str| tokens(&serde_json::from_str(text).unwrap());
        let new = r#"{"total":1050,"input":900,"output":45,"reasoning":5,"cache":{"write":0,"read":100}}"#;
        let old = r#"{"total":1050,"input":900,"output":50,"reasoning":5,"cache":{"write":0,"read":100}}"#;
        let expected = Tokens { r#in: 900, out: 50, cache_read: 100, cache_write: 0 };
        assert_eq!(read(new), expected);
        assert_eq!(read(old), expected);
        let odd = r#"{"input":-3,"output":2.0,"reasoning":null,"cache":7}"#;
        assert_eq!(read(odd), Tokens { out: 2, ..Tokens::default() });
    }

    #[test]
    fn the_database_is_where_opencode_puts_it() {
        let found = |database: Option<&'static str>| {
            let vars = move |name: &str| match name {
                "HOME" => Some(OsString::from("/h")),
                "OPENCODE_DB" => database.map(OsString::from),
                _ => None,
            };
            let (passwd_home, cwd) = (Path::new("/root"), Path::new("/work"));
            let exists = &|_: &Path| false;
            first_start(&EnvLook { vars: &vars, exists, passwd_home, cwd, root: false, safe: false })
        };
        let key = |database| found(database).map(|first| first.key);
        assert_eq!(key(None), Some(PathBuf::from("/h/.local/share/opencode/opencode.db")));
        assert_eq!(key(Some("")), key(None));
        assert_eq!(key(Some("own.db")), Some(PathBuf::from("/h/.local/share/opencode/own.db")));
        assert_eq!(key(Some("/tmp/x.db")), Some(PathBuf::from("/tmp/x.db")));
        assert_eq!(key(Some(":memory:")), None);
    }

    #[test]
    fn a_database_of_one_page_and_an_empty_log_is_not_set_up_yet() {
        let vars = |_: &str| None;
        let (exists, passwd_home, cwd) = (&|_: &Path| false, Path::new("/h"), Path::new("/"));
        let look = EnvLook { vars: &vars, exists, passwd_home, cwd, root: false, safe: false };
        let first = first_start(&look).unwrap();
        let done = |main: Option<u64>, log: Option<u64>| {
            first.is_done(|file| if file.to_string_lossy().ends_with("-wal") { log } else { main })
        };
        assert!(!done(None, None));
        assert!(!done(Some(4096), Some(0)));
        assert!(done(Some(4096), Some(251_352)));
        assert!(done(Some(300_000), None), "after a checkpoint there is no log any more");
    }
}
