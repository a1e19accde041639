//! Qwen Code (npm `@qwen-code/qwen-code`): `qwen --output-format stream-json`, the prompt as a file on stdin, the
//! conversation under our session's id.
//!
//! By recorded output of 0.24.4. It prints Claude Code's events; what it used it tells over the whole conversation.

use super::acp::{self, Acp};
use super::claude_code;
use super::found;
use super::json::{count, typed};
use super::{Adapter, Ask, Program, PromptWay, env_unchanged, resumed_by_id};
use crate::core::agent::{AgentEvent, Span, Tokens};

pub(super) const QWEN: Adapter = Adapter {
    name: "qwen",
    program: Program::Named("qwen"),
    found: found::QWEN,
    prompt: PromptWay::Stdin,
    argv,
    resume: Some(resume),
    imposes_id: true,
    env: env_unchanged,
    parse: Some(parse),
    first_start: None,
    // What each request used is in its messages, never what a turn did.
    acp: Some(Acp { argv: acp_argv, model_in_argv: true, parse: acp::parse }),
};

fn argv(ask: &Ask<'_>) -> Vec<String> {
    let mut argv = vec!["--output-format=stream-json".to_owned()];
    if !ask.safe {
        argv.push("--approval-mode=yolo".to_owned());
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

/// It asks for what it may do in the protocol.
fn acp_argv(ask: &Ask<'_>) -> Vec<String> {
    let model = ask.model.map(|model| format!("--model={model}"));
    ["--acp".to_owned()].into_iter().chain(model).collect()
}

/// `input_tokens` include what came from the cache.
fn parse(line: &[u8]) -> Vec<AgentEvent> {
    let Some((kind, event)) = typed(line) else { return Vec::new() };
    let mut events = claude_code::read(&kind, &event);
    let usage = &event["usage"];
    if kind == "result" && usage.is_object() {
        let cached = count(&usage["cache_read_input_tokens"]);
        let tokens = Tokens {
            r#in: count(&usage["input_tokens"]).saturating_sub(cached),
            out: count(&usage["output_tokens"]),
            cache_read: cached,
            cache_write: 0,
        };
        events.push(AgentEvent::Total { span: Span::Conversation, tokens: Some(tokens), cost_usd: None });
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn argv_by_what_was_asked() {
        assert_eq!(argv(&Ask::default()).join(" "), "--output-format=stream-json --approval-mode=yolo");
        let all = Ask { model: Some("m"), session: Some("id"), safe: true, ..Ask::default() };
        assert_eq!(argv(&all).join(" "), "--output-format=stream-json --model=m --session-id=id");
        assert_eq!(resume(&all, "native").join(" "), "--output-format=stream-json --model=m --resume=native");
        assert_eq!(acp_argv(&all).join(" "), "--acp --model=m");
    }
}
