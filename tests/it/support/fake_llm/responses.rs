//! Answers as OpenAI Responses.

use std::io;
use std::thread;

use serde_json::{Value, json};

use super::{Answer, Next, Reply};

fn item(reply: &Reply<'_>) -> Value {
    match &reply.call {
        Some((name, arguments)) => json!({
            "type": "function_call", "id": format!("fc_{:08x}", reply.id), "call_id": format!("call_{:08x}", reply.id),
            "name": name, "arguments": arguments.to_string(), "status": "completed",
        }),
        None => json!({
            "type": "message", "id": format!("msg_{:08x}", reply.id), "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": reply.plan.text(), "annotations": []}],
        }),
    }
}

/// The response, as it is at first.
fn begun(reply: &Reply<'_>) -> Value {
    json!({
        "id": format!("resp_{:016x}", reply.id), "object": "response", "created_at": 1, "model": reply.model,
        "status": "in_progress", "output": [], "error": null, "incomplete_details": null, "usage": null,
        "instructions": null, "metadata": {}, "parallel_tool_calls": false, "temperature": 1.0,
        "tool_choice": "auto", "tools": [], "top_p": 1.0,
    })
}

fn done(reply: &Reply<'_>) -> Value {
    let (input, output) = reply.plan.usage;
    let mut response = begun(reply);
    response["status"] = "completed".into();
    response["output"] = json!([item(reply)]);
    response["usage"] = json!({
        "input_tokens": input, "input_tokens_details": {"cached_tokens": input / 10},
        "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": input + output,
    });
    response
}

pub(super) fn at_once(reply: &Reply<'_>, answer: &mut Answer) -> io::Result<Next> {
    thread::sleep(reply.plan.sleep);
    answer.json(200, &done(reply))
}

pub(super) fn stream(reply: &Reply<'_>, answer: &mut Answer) -> io::Result<Next> {
    answer.stream_head()?;
    answer.named("response.created", json!({"response": begun(reply)}))?;
    reply.trickle(|| answer.named("response.in_progress", json!({"response": begun(reply)})))?;
    if reply.plan.error_mid.is_some() {
        let mut failed = begun(reply);
        failed["status"] = "failed".into();
        failed["error"] = json!({"code": "server_error", "message": "fake error mid stream"});
        answer.named("response.failed", json!({"response": failed}))?;
        return answer.stream_end();
    }
    let whole = item(reply);
    let mut empty = whole.clone();
    empty["status"] = "in_progress".into();
    empty[if reply.call.is_some() { "arguments" } else { "content" }] =
        if reply.call.is_some() { json!("") } else { json!([]) };
    let place = json!({"output_index": 0, "content_index": 0, "item_id": whole["id"]});
    let with = |key: &str, value: &Value| {
        let mut event = place.clone();
        event[key] = value.clone();
        event
    };
    answer.named("response.output_item.added", json!({"output_index": 0, "item": empty}))?;
    if let Some((_, arguments)) = &reply.call {
        let arguments = Value::from(arguments.to_string());
        answer.named("response.function_call_arguments.delta", with("delta", &arguments))?;
        if reply.plan.drop {
            return Ok(Next::Close);
        }
        answer.named("response.function_call_arguments.done", with("arguments", &arguments))?;
    } else {
        let empty = json!({"type": "output_text", "text": "", "annotations": []});
        answer.named("response.content_part.added", with("part", &empty))?;
        let [first, second] = reply.halves();
        answer.named("response.output_text.delta", with("delta", &first.into()))?;
        if reply.plan.drop {
            return Ok(Next::Close);
        }
        answer.named("response.output_text.delta", with("delta", &second.into()))?;
        answer.named("response.output_text.done", with("text", &reply.plan.text().into()))?;
        answer.named("response.content_part.done", with("part", &whole["content"][0]))?;
    }
    answer.named("response.output_item.done", json!({"output_index": 0, "item": whole}))?;
    let mut last = done(reply);
    if reply.plan.length {
        last["status"] = "incomplete".into();
        last["incomplete_details"] = json!({"reason": "max_output_tokens"});
        answer.named("response.incomplete", json!({"response": last}))?;
    } else {
        answer.named("response.completed", json!({"response": last}))?;
    }
    answer.stream_end()
}
