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

/// The text blocks of a message's `content`, one after the other: what the assistant said, without its tool calls.
pub(super) fn said(content: &Value) -> Option<AgentEvent> {
    let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let texts =
        blocks.iter().filter(|block| block["type"] == "text").filter_map(|block| block["text"].as_str());
    message_text(&texts.collect::<Vec<_>>().join("\n")).map(AgentEvent::Said)
}
