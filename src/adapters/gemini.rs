//! Gemini CLI (npm `@google/gemini-cli`): `gemini -o stream-json`, the prompt as a file on stdin, the conversation under
//! our session's id.
//!
//! By recorded output of 0.61.0. Its launcher starts a second node and ignores TERM: it is told to be one process. A failed
//! request ends it with the HTTP status modulo 256, so codes over 128 are no signals.

use serde_json::Value;

use super::acp::{self, Acp};
use super::found;
use super::json::{count, native_id, tool_answered, tool_called, typed, words};
use super::stream::bounded;
use super::{Adapter, Ask, EnvChange, EnvLook, Program, PromptWay, resumed_by_id};
use crate::core::agent::{AgentEvent, Span, StepEnd, Tokens};

pub(super) const GEMINI: Adapter = Adapter {
    name: "gemini",
    program: Program::Named("gemini"),
    found: found::GEMINI,
    prompt: PromptWay::Stdin,
    argv,
    resume: Some(resume),
    imposes_id: true,
    env,
    parse: Some(parse),
    first_start: None,
    // What a turn used is beside the protocol's own words, and without what came from a cache.
    acp: Some(Acp { argv: acp_argv, model_in_argv: true, parse: acp::parse }),
};

fn argv(ask: &Ask<'_>) -> Vec<String> {
    let mut argv = vec!["-o=stream-json".to_owned()];
    // Nobody answers when it asks, and a directory that nobody trusted would end the run at once.
    if !ask.safe {
        argv.extend(["--skip-trust".to_owned(), "-y".to_owned()]);
    }
    if let Some(model) = ask.model {
        argv.push(format!("--model={model}"));
    }
    if let Some(id) = ask.session {
        argv.push(format!("--session-id={id}"));
    }
    argv
}

fn resume(ask: &Ask<'_>, native_id: &str) -> Vec<String> {
    resumed_by_id(argv, ask, native_id)
}

/// It asks for what it may do in the protocol; only a directory that nobody trusted would end it before that.
fn acp_argv(ask: &Ask<'_>) -> Vec<String> {
    let mut argv = vec!["--acp".to_owned()];
    if !ask.safe {
        argv.push("--skip-trust".to_owned());
    }
    argv.extend(ask.model.map(|model| format!("--model={model}")));
    argv
}

fn env(_: &EnvLook<'_>) -> EnvChange {
    EnvChange { set: vec![("GEMINI_CLI_NO_RELAUNCH", "true".to_owned())], unset: Vec::new() }
}

fn parse(line: &[u8]) -> Vec<AgentEvent> {
    let Some((kind, event)) = typed(line) else { return Vec::new() };
    match kind.as_str() {
        "init" => native_id(&event["session_id"]).into_iter().chain([AgentEvent::Active]).collect(),
        // Pieces of a message, never the whole one.
        "message" if event["role"] == "assistant" => {
            event["content"].as_str().map(|text| AgentEvent::SaidMore(text.to_owned())).into_iter().collect()
        }
        "tool_use" => vec![tool_called(&event["tool_name"], &event["parameters"])],
        "tool_result" => vec![tool_answered(event["status"] == "success", &event["output"])],
        "result" => {
            let stats = &event["stats"];
            let tokens =
                stats.is_object().then(|| tokens(stats)).filter(|tokens| *tokens != Tokens::default());
            let total = AgentEvent::Total { span: Span::Run, tokens, cost_usd: None };
            [total, AgentEvent::Over, AgentEvent::StepEnded(step_end(&event))].into()
        }
        // What later versions add.
        _ => Vec::new(),
    }
}

/// `input_tokens` include what came from the cache, `input` does not. A router's request is counted with the real one.
fn tokens(stats: &Value) -> Tokens {
    let (input, cached) = (count(&stats["input_tokens"]), count(&stats["cached"]));
    Tokens {
        r#in: input.saturating_sub(cached),
        out: count(&stats["output_tokens"]),
        cache_read: cached,
        cache_write: 0,
    }
}

fn step_end(result: &Value) -> StepEnd {
    match (result["status"].as_str(), words(&result["error"]["message"])) {
        (Some("success"), _) => StepEnd::Stop,
        (_, Some(told)) => StepEnd::Failed(told),
        (status, None) => StepEnd::Other(bounded(status.unwrap_or("none given"), 100)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argv_by_what_was_asked() {
        assert_eq!(argv(&Ask::default()).join(" "), "-o=stream-json --skip-trust -y");
        let all = Ask { model: Some("m"), session: Some("id"), safe: true, ..Ask::default() };
        assert_eq!(argv(&all).join(" "), "-o=stream-json --model=m --session-id=id");
        assert_eq!(resume(&all, "native").join(" "), "-o=stream-json --model=m --resume=native");
        assert_eq!(acp_argv(&Ask::default()).join(" "), "--acp --skip-trust");
        assert_eq!(acp_argv(&all).join(" "), "--acp --model=m");
    }
}
