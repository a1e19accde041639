//! Answers as OpenAI chat completions.

use std::io;
use std::thread;

use serde_json::{Value, json};

use super::{Answer, Dialect, Next, Reply, error_body};

fn finish_reason(reply: &Reply<'_>) -> &'static str {
    match reply {
        Reply { call: Some(_), .. } => "tool_calls",
        Reply { plan, .. } if plan.length => "length",
        Reply { plan, .. } if plan.refuse => "content_filter",
        _ => "stop",
    }
}

fn usage(reply: &Reply<'_>) -> Value {
    let (input, output) = reply.plan.usage;
    json!({
        "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
        "prompt_tokens_details": {"cached_tokens": input / 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    })
}

fn envelope(reply: &Reply<'_>, object: &str, choices: Value) -> Value {
    let id = format!("chatcmpl-{:012x}", reply.id);
    json!({"id": id, "object": object, "created": 1, "model": reply.model, "choices": choices})
}

fn calls(reply: &Reply<'_>) -> Option<Value> {
    let (name, arguments) = reply.call.as_ref()?;
    let function = json!({"name": name, "arguments": arguments.to_string()});
    Some(
        json!([{"index": 0, "id": format!("call_{:08x}", reply.id), "type": "function", "function": function}]),
    )
}

pub(super) fn at_once(reply: &Reply<'_>, answer: &mut Answer) -> io::Result<Next> {
    thread::sleep(reply.plan.sleep);
    let mut message = json!({"role": "assistant", "content": reply.plan.text()});
    if let Some(calls) = calls(reply) {
        message = json!({"role": "assistant", "content": null, "tool_calls": calls});
    }
    let choices = json!([{"index": 0, "message": message, "finish_reason": finish_reason(reply)}]);
    let mut whole = envelope(reply, "chat.completion", choices);
    whole["usage"] = usage(reply);
    answer.json(200, &whole)
}

fn delta(reply: &Reply<'_>, answer: &mut Answer, delta: Value, finish: Option<&str>) -> io::Result<()> {
    let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    answer.event(&envelope(reply, "chat.completion.chunk", choices).to_string())
}

pub(super) fn stream(reply: &Reply<'_>, answer: &mut Answer) -> io::Result<Next> {
    answer.stream_head()?;
    delta(reply, answer, json!({"role": "assistant", "content": ""}), None)?;
    reply.trickle(|| delta(reply, answer, json!({"content": "."}), None))?;
    if let Some(status) = reply.plan.error_mid {
        answer.event(&error_body(Dialect::Chat, status).to_string())?;
        return answer.stream_end();
    }
    let [first, second] = reply.halves();
    if reply.plan.drop {
        delta(reply, answer, json!({"content": first}), None)?;
        return Ok(Next::Close);
    }
    if let Some(calls) = calls(reply) {
        delta(reply, answer, json!({"tool_calls": calls}), None)?;
    } else {
        delta(reply, answer, json!({"content": first}), None)?;
        delta(reply, answer, json!({"content": second}), None)?;
    }
    delta(reply, answer, json!({}), Some(finish_reason(reply)))?;
    let mut last = envelope(reply, "chat.completion.chunk", json!([]));
    last["usage"] = usage(reply);
    answer.event(&last.to_string())?;
    answer.event("[DONE]")?;
    answer.stream_end()
}
