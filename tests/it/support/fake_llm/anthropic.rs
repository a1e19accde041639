//! Answers as Anthropic messages.

use std::io;
use std::thread;

use serde_json::{Value, json};

use super::{Answer, Dialect, Next, Reply, error_body};

fn stop_reason(reply: &Reply<'_>) -> &'static str {
    match reply {
        Reply { call: Some(_), .. } => "tool_use",
        Reply { plan, .. } if plan.length => "max_tokens",
        Reply { plan, .. } if plan.refuse => "refusal",
        _ => "end_turn",
    }
}

fn message(reply: &Reply<'_>) -> Value {
    let (input, output) = reply.plan.usage;
    let block = match &reply.call {
        Some((name, input)) => {
            json!({"type": "tool_use", "id": format!("toolu_{:012x}", reply.id), "name": name, "input": input})
        }
        None => json!({"type": "text", "text": reply.plan.text()}),
    };
    json!({
        "id": format!("msg_{:016x}", reply.id), "type": "message", "role": "assistant", "model": reply.model,
        "content": [block], "stop_reason": stop_reason(reply), "stop_sequence": null,
        "usage": {
            "input_tokens": input, "output_tokens": output,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": input / 10,
        },
    })
}

pub(super) fn at_once(reply: &Reply<'_>, answer: &mut Answer) -> io::Result<Next> {
    thread::sleep(reply.plan.sleep);
    answer.json(200, &message(reply))
}

pub(super) fn stream(reply: &Reply<'_>, answer: &mut Answer) -> io::Result<Next> {
    let whole = message(reply);
    let mut begun = whole.clone();
    begun["content"] = json!([]);
    begun["stop_reason"] = Value::Null;
    begun["usage"]["output_tokens"] = 1.into();
    answer.stream_head()?;
    answer.named("message_start", json!({"message": begun}))?;
    reply.trickle(|| answer.named("ping", json!({})))?;
    if let Some(status) = reply.plan.error_mid {
        answer.named("error", error_body(Dialect::Anthropic, status))?;
        return answer.stream_end();
    }
    let mut block = whole["content"][0].clone();
    let start = |block: &Value| json!({"index": 0, "content_block": block});
    let delta = |delta: Value| json!({"index": 0, "delta": delta});
    if let Some((_, input)) = &reply.call {
        block["input"] = json!({});
        answer.named("content_block_start", start(&block))?;
        let input = json!({"type": "input_json_delta", "partial_json": input.to_string()});
        answer.named("content_block_delta", delta(input))?;
    } else {
        block["text"] = "".into();
        answer.named("content_block_start", start(&block))?;
        let [first, second] = reply.halves();
        answer.named("content_block_delta", delta(json!({"type": "text_delta", "text": first})))?;
        if reply.plan.drop {
            return Ok(Next::Close);
        }
        answer.named("content_block_delta", delta(json!({"type": "text_delta", "text": second})))?;
    }
    if reply.plan.drop {
        return Ok(Next::Close);
    }
    answer.named("content_block_stop", json!({"index": 0}))?;
    let stop = json!({"stop_reason": stop_reason(reply), "stop_sequence": null});
    let usage = json!({"output_tokens": reply.plan.usage.1});
    answer.named("message_delta", json!({"delta": stop, "usage": usage}))?;
    answer.named("message_stop", json!({}))?;
    answer.stream_end()
}
