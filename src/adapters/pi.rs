//! pi (npm `@earendil-works/pi-coding-agent`, before that `@mariozechner/...`): `pi -p --mode json`, the prompt as a file
//! on stdin.
//!
//! Checked against 0.74.2 by running it. In this mode it exits with 0 whatever the API said; and it repeats itself: each
//! delta holds the whole message, and its last line the whole conversation. It has no permission rules to spare or skip.

use serde_json::Value;

use super::found;
use super::json::{count, dollars, native_id, said, tool_answered, tool_called, typed, words};
use super::stream::bounded;
use super::{Adapter, Ask, Program, PromptWay, env_unchanged};
use crate::core::agent::{AgentEvent, StepEnd, Tokens};

pub(super) const PI: Adapter = Adapter {
    name: "pi",
    program: Program::Named("pi"),
    found: found::PI,
    prompt: PromptWay::Stdin,
    argv,
    resume: Some(resume),
    imposes_id: false,
    env: env_unchanged,
    parse: Some(parse),
    first_start: None,
    acp: None,
};

fn argv(ask: &Ask<'_>) -> Vec<String> {
    let mut argv = ["-p", "--mode", "json"].map(str::to_owned).to_vec();
    if let Some(model) = ask.model {
        argv.extend(["--model".to_owned(), model.to_owned()]);
    }
    argv
}

fn resume(ask: &Ask<'_>, native_id: &str) -> Vec<String> {
    let mut argv = argv(ask);
    argv.extend(["--session".to_owned(), native_id.to_owned()]);
    argv
}

/// Deltas are most of the output, and nothing in them counts: they are not even parsed.
const DELTA: &[u8] = br#"{"type":"message_update""#;

pub(super) fn parse(line: &[u8]) -> Vec<AgentEvent> {
    if line.starts_with(DELTA) {
        return Vec::new();
    }
    let Some((kind, event)) = typed(line) else { return Vec::new() };
    let message = &event["message"];
    let of_assistant = message["role"] == "assistant";
    match kind.as_str() {
        "session" => native_id(&event["id"]).into_iter().collect(),
        "turn_start" => vec![AgentEvent::Active],
        "message_end" if of_assistant => {
            let end = AgentEvent::StepEnded(step_end(message));
            used(&message["usage"]).into_iter().chain(said(&message["content"])).chain([end]).collect()
        }
        // The same message again: for a reader who missed the long line before.
        "turn_end" if of_assistant => vec![AgentEvent::StepEnded(step_end(message))],
        "tool_execution_start" => vec![tool_called(&event["toolName"], &event["args"])],
        "tool_execution_end" => vec![tool_answered(event["isError"] != true, &event["result"]["content"])],
        "auto_retry_end" if event["success"] == false => {
            vec![AgentEvent::StepEnded(failed(&event["finalError"]))]
        }
        _ => Vec::new(),
    }
}

/// As its output and its sessions have them.
pub(super) fn tokens(usage: &Value) -> Tokens {
    Tokens {
        r#in: count(&usage["input"]),
        out: count(&usage["output"]),
        cache_read: count(&usage["cacheRead"]),
        cache_write: count(&usage["cacheWrite"]),
    }
}

fn used(usage: &Value) -> Option<AgentEvent> {
    let tokens = tokens(usage);
    let cost_usd = dollars(&usage["cost"]["total"]).unwrap_or(0.0);
    // An answer that failed used nothing.
    (tokens != Tokens::default() || cost_usd > 0.0).then_some(AgentEvent::Used { tokens, cost_usd })
}

fn step_end(message: &Value) -> StepEnd {
    match message["stopReason"].as_str() {
        Some("stop") => StepEnd::Stop,
        Some("toolUse") => StepEnd::ToolCalls,
        Some("error" | "aborted") => failed(&message["errorMessage"]),
        Some(other) => StepEnd::Other(bounded(other, 100)),
        None => StepEnd::Other("none given".to_owned()),
    }
}

fn failed(message: &Value) -> StepEnd {
    StepEnd::Failed(words(message).unwrap_or_else(|| "pi reported an error without words".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argv_by_what_was_asked() {
        assert_eq!(argv(&Ask::default()).join(" "), "-p --mode json");
        let all = Ask { model: Some("fake/fake-1"), safe: true, ..Ask::default() };
        assert_eq!(argv(&all).join(" "), "-p --mode json --model fake/fake-1");
        assert_eq!(resume(&all, "id").join(" "), "-p --mode json --model fake/fake-1 --session id");
    }

    #[test]
    fn an_error_that_a_retry_made_good_is_taken_back() {
        let end = |line: &str| match parse(line.as_bytes()).pop() {
            Some(AgentEvent::StepEnded(end)) => end,
            other => panic!("{other:?}"),
        };
        let ended =
            |rest: &str| end(&format!(r#"{{"type":"message_end","message":{{"role":"assistant",{rest}}}}}"#));
        let failed = |text: &str| StepEnd::Failed(text.to_owned());
        assert_eq!(ended(r#""stopReason":"error","errorMessage":"500 no""#), failed("500 no"));
        assert_eq!(ended(r#""stopReason":"stop""#), StepEnd::Stop);
        assert_eq!(ended(r#""stopReason":"aborted""#), failed("pi reported an error without words"));
        let given_up = r#"{"type":"auto_retry_end","success":false,"finalError":"500 no"}"#;
        assert_eq!(end(given_up), failed("500 no"));
    }
}
