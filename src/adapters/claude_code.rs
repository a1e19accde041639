//! Claude Code (npm `@anthropic-ai/claude-code`): `claude -p --output-format stream-json`, the prompt as a file on
//! stdin, the conversation under our session's id.
//!
//! Checked against 2.1.330 by running it. Exit codes lie here: SIGINT gives 0, and an API error is a `result` of subtype
//! `success`; what counts is `is_error`. Qwen Code prints the same events and is read in `qwen.rs` with this parser.

use std::path::PathBuf;

use serde_json::Value;

use super::found;
use super::json::{count, dollars, native_id, said, tool_answered, tool_called, typed, words};
use super::stream::bounded;
use super::{Adapter, Ask, EnvChange, EnvLook, Program, PromptWay, resumed_by_id};
use crate::core::agent::{AgentEvent, Span, StepEnd, Tokens};

pub(super) const CLAUDE_CODE: Adapter = Adapter {
    name: "claude-code",
    program: Program::Named("claude"),
    found: found::CLAUDE_CODE,
    prompt: PromptWay::Stdin,
    argv,
    resume: Some(resume),
    imposes_id: true,
    env,
    parse: Some(parse),
    first_start: None,
    acp: None,
};

/// Values are joined by `=`, so that a model such as `--continue` stays a model.
fn argv(ask: &Ask<'_>) -> Vec<String> {
    let mut argv = ["-p", "--output-format", "stream-json", "--verbose"].map(str::to_owned).to_vec();
    if let Some(id) = ask.session {
        argv.push(format!("--session-id={id}"));
    }
    if let Some(model) = ask.model {
        argv.push(format!("--model={model}"));
    }
    // Nobody answers when it asks: tools that need approval would be denied, and the run still a success.
    if !ask.safe {
        argv.push("--dangerously-skip-permissions".to_owned());
    }
    argv
}

fn resume(ask: &Ask<'_>, native_id: &str) -> Vec<String> {
    resumed_by_id(argv, ask, native_id)
}

/// What makes Claude Code pay by API key, or elsewhere, instead of by the subscription that it is logged in to.
const API_KEY: [&str; 3] = ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL"];

/// Where its settings and its conversations are.
pub(super) fn config_dir(look: &EnvLook<'_>) -> PathBuf {
    look.own_dir("CLAUDE_CONFIG_DIR", ".claude")
}

fn env(look: &EnvLook<'_>) -> EnvChange {
    let mut change = EnvChange::default();
    // A launch from inside another Claude Code is one of its own.
    change.unset.extend(["CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SSE_PORT"]);
    let credentials = config_dir(look).join(".credentials.json");
    let logged_in = look.var("CLAUDE_CODE_OAUTH_TOKEN").is_some() || (look.exists)(&credentials);
    // A key that happens to be in the environment would silently be billed instead of the subscription.
    if logged_in && look.var("AGENTCTL_CLAUDE_USE_API_KEY").is_none_or(|value| value != "1") {
        change.unset.extend(API_KEY);
    }
    // As root it refuses to skip its rules, unless it is told that this is a sandbox, in this spelling only.
    if look.root && !look.safe {
        change.set.push(("IS_SANDBOX", "1".to_owned()));
    }
    change
}

/// `usage` of a result is of this run; `total_cost_usd` is of the conversation, with the runs that were resumed.
fn parse(line: &[u8]) -> Vec<AgentEvent> {
    let Some((kind, event)) = typed(line) else { return Vec::new() };
    let mut events = read(&kind, &event);
    if kind == "result" {
        let usage = &event["usage"];
        if usage.is_object() {
            let tokens = Some(tokens(usage));
            events.push(AgentEvent::Total { span: Span::Run, tokens, cost_usd: None });
        }
        if let Some(cost) = dollars(&event["total_cost_usd"]) {
            events.push(AgentEvent::Total { span: Span::Conversation, tokens: None, cost_usd: Some(cost) });
        }
    }
    events
}

/// As its output and its transcripts have them.
pub(super) fn tokens(usage: &Value) -> Tokens {
    Tokens {
        r#in: count(&usage["input_tokens"]),
        out: count(&usage["output_tokens"]),
        cache_read: count(&usage["cache_read_input_tokens"]),
        cache_write: count(&usage["cache_creation_input_tokens"]),
    }
}

/// Everything in an event but what was used.
pub(super) fn read(kind: &str, event: &Value) -> Vec<AgentEvent> {
    let mut events: Vec<AgentEvent> = native_id(&event["session_id"]).into_iter().collect();
    match kind {
        "system" if event["subtype"] == "init" => events.push(AgentEvent::Active),
        // What a subagent says is said to the agent.
        "assistant" if event["parent_tool_use_id"].is_null() => {
            let content = &event["message"]["content"];
            events.extend(said(content));
            events.extend(blocks(content, "tool_use").map(|call| tool_called(&call["name"], &call["input"])));
        }
        "user" if event["parent_tool_use_id"].is_null() => {
            let answers = blocks(&event["message"]["content"], "tool_result");
            events
                .extend(answers.map(|answer| tool_answered(answer["is_error"] != true, &answer["content"])));
        }
        "result" => events.extend([AgentEvent::Over, AgentEvent::StepEnded(step_end(event))]),
        // Retries, states: no bearing on messages or the outcome.
        _ => {}
    }
    events
}

fn blocks<'a>(content: &'a Value, kind: &'static str) -> impl Iterator<Item = &'a Value> {
    content.as_array().into_iter().flatten().filter(move |block| block["type"] == kind)
}

/// One result follows another where background work reported back: the last one counts.
fn step_end(result: &Value) -> StepEnd {
    let text = |key: &str| result[key].as_str().unwrap_or_default();
    if result["is_error"] == false && text("subtype") == "success" {
        return match text("stop_reason") {
            // Absent in Qwen Code and in older versions.
            "" | "end_turn" | "stop_sequence" => StepEnd::Stop,
            other => StepEnd::Other(bounded(other, 100)),
        };
    }
    let told = words(&result["result"])
        .or_else(|| words(&result["errors"][0]))
        .or_else(|| words(&result["error"]["message"]));
    match (told, text("terminal_reason"), text("subtype")) {
        (Some(told), ..) => StepEnd::Failed(told),
        (None, "", subtype) => StepEnd::Other(bounded(subtype, 100)),
        (None, reason, _) => StepEnd::Other(bounded(reason, 100)),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use super::*;

    #[test]
    fn argv_by_what_was_asked() {
        let joined = |ask: Ask<'_>| argv(&ask).join(" ");
        let always = "-p --output-format stream-json --verbose";
        assert_eq!(joined(Ask::default()), format!("{always} --dangerously-skip-permissions"));
        let all = Ask { session: Some("id"), model: Some("opus"), safe: true, ..Ask::default() };
        assert_eq!(joined(all), format!("{always} --session-id=id --model=opus"));
        assert_eq!(resume(&all, "native").join(" "), format!("{always} --model=opus --resume=native"));
    }

    fn change(vars: &[(&str, &str)], credentials: Option<&str>, root: bool, safe: bool) -> EnvChange {
        let of =
            |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
        let exists = |path: &Path| Some(path) == credentials.map(Path::new);
        let (passwd_home, cwd) = (Path::new("/h"), Path::new("/w"));
        env(&EnvLook { vars: &of, exists: &exists, passwd_home, cwd, root, safe })
    }

    #[test]
    fn a_subscription_is_not_replaced_by_a_key_that_lies_around() {
        let stripped = |vars: &[(&str, &str)], credentials| {
            change(vars, credentials, false, false).unset.contains(&"ANTHROPIC_API_KEY")
        };
        assert!(!stripped(&[], None), "without a login the key is all there is");
        assert!(stripped(&[], Some("/h/.claude/.credentials.json")));
        assert!(stripped(&[("CLAUDE_CONFIG_DIR", "own")], Some("/w/own/.credentials.json")));
        assert!(stripped(&[("CLAUDE_CODE_OAUTH_TOKEN", "t")], None));
        let wanted = [("AGENTCTL_CLAUDE_USE_API_KEY", "1")];
        assert!(!stripped(&wanted, Some("/h/.claude/.credentials.json")));
    }

    #[test]
    fn root_skips_the_rules_in_a_sandbox_only() {
        let set = vec![("IS_SANDBOX", "1".to_owned())];
        assert_eq!(change(&[], None, true, false).set, set);
        assert_eq!(change(&[], None, true, true).set, []);
        assert_eq!(change(&[], None, false, false).set, []);
    }

    #[test]
    fn how_a_result_ends() {
        let end = |text: &str| step_end(&serde_json::from_str(text).unwrap());
        assert_eq!(end(r#"{"subtype":"success","is_error":false,"stop_reason":"end_turn"}"#), StepEnd::Stop);
        assert_eq!(end(r#"{"subtype":"success","is_error":false}"#), StepEnd::Stop);
        let other = |word: &str| StepEnd::Other(word.to_owned());
        assert_eq!(
            end(r#"{"subtype":"success","is_error":false,"stop_reason":"max_tokens"}"#),
            other("max_tokens")
        );
        let failed = StepEnd::Failed("no".to_owned());
        assert_eq!(end(r#"{"subtype":"success","is_error":true,"result":"no"}"#), failed);
        assert_eq!(end(r#"{"subtype":"error_max_turns","is_error":true}"#), other("error_max_turns"));
        assert_eq!(end(r#"{"subtype":"error_during_execution","errors":["no"]}"#), failed);
        assert_eq!(end("{}"), other(""));
    }
}
