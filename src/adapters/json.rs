//! JSON as agents print it: read without complaint, since each version of each agent has its own ideas.
//!
//! Owns what is common to their lines: one object each, numbers that may be floats, ids that must be bounded.

use serde_json::Value;

use super::FAILURE_MAX_CHARS;
use super::stream::{bounded, message_text};
use crate::core::agent::AgentEvent;

/// An id of a conversation is no longer than this; what is longer is none.
const ID_MAX_BYTES: usize = 200;

/// The object in a line, and its `type`. Anything else on stdout (a plugin that prints) says nothing.
pub(super) fn typed(line: &[u8]) -> Option<(String, Value)> {
    let Ok(Value::Object(fields)) = serde_json::from_slice(line) else { return None };
    let kind = fields.get("type")?.as_str()?.to_owned();
    Some((kind, Value::Object(fields)))
}

/// The agent's id of the conversation.
pub(super) fn native_id(value: &Value) -> Option<AgentEvent> {
    // One that begins like an option could become one, when the conversation is resumed.
    let id =
        value.as_str().filter(|id| !id.is_empty() && id.len() <= ID_MAX_BYTES && !id.starts_with('-'))?;
    Some(AgentEvent::NativeId(id.to_owned()))
}

/// A counter. JavaScript has one kind of number and turns NaN into null: both are read without complaint.
pub(super) fn count(value: &Value) -> u64 {
    // A cast from float saturates, and maps what is below zero to zero.
    value.as_u64().or_else(|| value.as_f64().map(|float| float as u64)).unwrap_or(0)
}

/// An amount of money; `None` for what cannot be one.
pub(super) fn dollars(value: &Value) -> Option<f64> {
    value.as_f64().filter(|cost| *cost >= 0.0)
}

/// The words of an error, bounded.
pub(super) fn words(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.trim().is_empty()).map(|text| bounded(text, FAILURE_MAX_CHARS))
}

/// A tool call, as people read it: the command of a shell, the path of a file, else its arguments as they are.
pub(super) fn tool_called(name: &Value, input: &Value) -> AgentEvent {
    let known = ["command", "cmd", "file_path", "filePath", "path", "pattern", "query", "url"];
    let main = known.into_iter().map(|key| &input[key]).find_map(Value::as_str);
    let input = match (main, input) {
        (Some(main), _) => main.to_owned(),
        (None, Value::String(text)) => text.clone(),
        (None, Value::Null) => String::new(),
        (None, input) => input.to_string(),
    };
    AgentEvent::ToolCalled {
        name: bounded(name.as_str().unwrap_or("a tool"), 100),
        input: bounded(&input, FAILURE_MAX_CHARS),
    }
}

/// What a tool answered: a text, or blocks of text.
pub(super) fn tool_answered(ok: bool, output: &Value) -> AgentEvent {
    let blocks = output.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts = blocks.iter().filter_map(|block| block["text"].as_str()).chain(output.as_str());
    AgentEvent::ToolAnswered { ok, output: bounded(&texts.collect::<Vec<_>>().join("\n"), FAILURE_MAX_CHARS) }
}

/// What the assistant said in a message.
pub(super) fn said(content: &Value) -> Option<AgentEvent> {
    texts(content).map(AgentEvent::Said)
}

/// The text blocks of a message's `content`, one after the other, without its tool calls.
pub(super) fn texts(content: &Value) -> Option<String> {
    let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts =
        blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str());
    message_text(&texts.collect::<Vec<_>>().join("\n"))
}
