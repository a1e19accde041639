//! Codex (npm `@openai/codex`): `codex exec --json -`, the prompt as a file on stdin.
//!
//! Checked against 0.169.0 by running it. The program is a Node wrapper whose native child may survive it: the shim ends
//! that as a leftover. Its `error` events are retries as often as ends.

use serde_json::Value;

use super::found;
use super::json::{count, native_id, tool_answered, tool_called, typed, words};
use super::stream::message_text;
use super::{Adapter, Ask, Program, PromptWay, env_unchanged};
use crate::core::agent::{AgentEvent, Span, StepEnd, Tokens};

pub(super) const CODEX: Adapter = Adapter {
    name: "codex",
    program: Program::Named("codex"),
    found: found::CODEX,
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
    let mut argv = vec!["exec".to_owned()];
    argv.extend(flags(ask));
    argv.push("-".to_owned());
    argv
}

fn resume(ask: &Ask<'_>, native_id: &str) -> Vec<String> {
    let mut argv = vec!["exec".to_owned(), "resume".to_owned()];
    argv.extend(flags(ask));
    argv.extend([native_id.to_owned(), "-".to_owned()]);
    argv
}

/// Values are joined by `=`, so that a model such as `--last` stays a model.
fn flags(ask: &Ask<'_>) -> Vec<String> {
    let mut argv = vec!["--json".to_owned()];
    // Nobody answers when it asks, and a directory that nobody trusted would end the run at once.
    if !ask.safe {
        argv.push("--skip-git-repo-check".to_owned());
        argv.push("--dangerously-bypass-approvals-and-sandbox".to_owned());
    }
    if let Some(model) = ask.model {
        argv.push(format!("--model={model}"));
    }
    argv
}

fn parse(line: &[u8]) -> Vec<AgentEvent> {
    let Some((kind, event)) = typed(line) else { return Vec::new() };
    let item = &event["item"];
    match kind.as_str() {
        "thread.started" => native_id(&event["thread_id"]).into_iter().collect(),
        "turn.started" => vec![AgentEvent::Active],
        "item.completed" if item["type"] == "agent_message" => {
            item["text"].as_str().and_then(message_text).map(AgentEvent::Said).into_iter().collect()
        }
        "item.started" if item["type"] == "command_execution" => vec![tool_called(&"shell".into(), item)],
        "item.completed" if item["type"] == "command_execution" => {
            vec![tool_answered(item["exit_code"] == 0, &item["aggregated_output"])]
        }
        "item.completed" if item["type"] == "file_change" => {
            let paths = item["changes"].as_array().into_iter().flatten().filter_map(|it| it["path"].as_str());
            vec![tool_called(&"edit".into(), &paths.collect::<Vec<_>>().join(" ").into())]
        }
        "turn.completed" => {
            let usage = &event["usage"];
            let span = Span::Conversation;
            let total = usage.is_object().then(|| tokens(usage));
            let total = total.map(|tokens| AgentEvent::Total { span, tokens: Some(tokens), cost_usd: None });
            total.into_iter().chain([AgentEvent::StepEnded(StepEnd::Stop)]).collect()
        }
        "turn.failed" => {
            let why = failure(&event["error"]["message"]);
            vec![AgentEvent::Over, AgentEvent::StepEnded(StepEnd::Failed(why))]
        }
        // What it goes on after ("Reconnecting... 1/5") a later event takes back.
        "error" => vec![AgentEvent::StepEnded(StepEnd::Failed(failure(&event["message"])))],
        // Warnings (items of type `error`), plans: no bearing on tokens, messages or the outcome.
        _ => Vec::new(),
    }
}

/// Its `input_tokens` include what came from the cache; `output_tokens` include reasoning. Rollouts have the same.
pub(super) fn tokens(usage: &Value) -> Tokens {
    let cached = count(&usage["cached_input_tokens"]);
    Tokens {
        r#in: count(&usage["input_tokens"]).saturating_sub(cached),
        out: count(&usage["output_tokens"]),
        cache_read: cached,
        cache_write: count(&usage["cache_write_input_tokens"]),
    }
}

/// Some errors are the provider's JSON, which has the words inside.
fn failure(message: &Value) -> String {
    let inner = message.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    inner
        .and_then(|inner| words(&inner["error"]["message"]))
        .or_else(|| words(message))
        .unwrap_or_else(|| "codex reported an error without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argv_by_what_was_asked() {
        let joined = |ask: Ask<'_>| argv(&ask).join(" ");
        let bypass = "--skip-git-repo-check --dangerously-bypass-approvals-and-sandbox";
        assert_eq!(joined(Ask::default()), format!("exec --json {bypass} -"));
        let all = Ask { model: Some("gpt-5"), safe: true, ..Ask::default() };
        assert_eq!(joined(all), "exec --json --model=gpt-5 -");
        assert_eq!(resume(&all, "id").join(" "), "exec resume --json --model=gpt-5 id -");
    }

    #[test]
    fn errors_are_told_in_plain_words() {
        let told = |text: &str| failure(&Value::from(text));
        assert_eq!(told(r#"{"error":{"message":"no key"}}"#), "no key");
        assert_eq!(told("boom"), "boom");
        assert_eq!(told(r#"{"error":7}"#), r#"{"error":7}"#);
        assert_eq!(failure(&Value::Null), "codex reported an error without words");
    }
}
