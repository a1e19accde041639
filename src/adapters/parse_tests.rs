//! Every adapter's parser against bytes that no agent printed: nothing makes it panic or tell impossible amounts.

use proptest::prelude::*;
use serde_json::Value;

use super::{ALL, Parse};
use crate::core::agent::AgentEvent;

/// The keys and words of all agents.
const WORDS: &str = "type|sessionID|session_id|thread_id|id|part|error|text|step_start|step_finish|tool_use|stop|tokens|\
    cache|read|write|total|input|output|reasoning|cost|reason|name|data|message|statusCode|ref|subtype|system|init|\
    assistant|result|is_error|success|stop_reason|end_turn|usage|input_tokens|output_tokens|total_cost_usd|content|role|\
    item|agent_message|thread.started|turn.completed|turn.failed|item.completed|session|message_end|turn_end|stopReason|\
    errorMessage|auto_retry_end|finalError|stats|cached|status|delta|method|params|session/update|update|sessionUpdate|\
    sessionId|usage_update|amount|tool_call|rawInput|title|agent_message_chunk|";

/// JSON with those words in all the wrong places.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(WORDS.split('|').collect::<Vec<_>>()).prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        let fields = prop::collection::vec((word.clone(), inner.clone()), 0..6);
        prop_oneof![
            prop::collection::vec(inner, 0..4).prop_map(Value::from),
            fields.prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn parsers() -> impl Iterator<Item = Parse> {
    let headless = ALL.iter().filter_map(|adapter| adapter.parse);
    headless.chain(ALL.iter().filter_map(|adapter| Some(adapter.acp.as_ref()?.parse)))
}

fn possible(told: &AgentEvent) -> bool {
    match told {
        AgentEvent::Used { cost_usd, .. } => cost_usd.is_finite() && *cost_usd >= 0.0,
        AgentEvent::Total { cost_usd, .. } => cost_usd.is_none_or(|cost| cost.is_finite() && cost >= 0.0),
        AgentEvent::NativeId(id) => !id.is_empty() && id.len() <= 200,
        AgentEvent::Said(_)
        | AgentEvent::SaidMore(_)
        | AgentEvent::ToolCalled { .. }
        | AgentEvent::ToolAnswered { .. }
        | AgentEvent::Failed(_)
        | AgentEvent::StepEnded(_)
        | AgentEvent::Over
        | AgentEvent::Idle
        | AgentEvent::Active => true,
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for parse in parsers() {
            parse(&bytes);
        }
    }

    #[test]
    fn any_json_is_read_without_panic(mut event in any_json(), kind in prop::sample::select(WORDS.split('|').collect::<Vec<_>>())) {
        if let Value::Object(fields) = &mut event {
            fields.insert("type".to_owned(), Value::from(kind));
        }
        let line = event.to_string();
        for parse in parsers() {
            for told in parse(line.as_bytes()) {
                prop_assert!(possible(&told), "{told:?}");
            }
        }
    }
}
