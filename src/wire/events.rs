//! The event stream as clients ask for it: which events, from which place, and the words that are no events.
//!
//! Owns the filter and the notices that end a stream. Refuses to know where events come from: it reads rendered lines.

use serde::Deserialize;
use serde_json::json;

use crate::core::record::EventKind;

/// The header of an answer with events that names the place at which it begins, so that a client that has not seen
/// any event yet can come back to that place.
pub const CURSOR_HEADER: &str = "agentctl-cursor";

/// Type of the last line for a reader that took nothing for so long that it was given up.
pub const DROPPED: &str = "stream.dropped";
/// Type of the last line for a reader whose place is not kept any more.
pub const EXPIRED: &str = "stream.expired";

/// Which events a reader wants. An empty list wants all; several words of one list are alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub kinds: Vec<EventKind>,
    pub adapters: Vec<String>,
    /// Whole ids.
    pub sessions: Vec<String>,
    pub groups: Vec<String>,
}

/// What a filter has to know of an event.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    #[serde(rename = "type")]
    kind: Option<String>,
    adapter: Option<String>,
    session_id: Option<String>,
    session: Option<Grouped>,
}

#[derive(Debug, Deserialize)]
struct Grouped {
    group: Option<String>,
}

impl Filter {
    /// The types of a comma-separated list, with or without their `session.`. The error is for the user.
    pub fn kinds_of(list: &str) -> Result<Vec<EventKind>, String> {
        let word = |text: &str| {
            let named =
                |kind: &EventKind| kind.word() == text || kind.word().strip_prefix("session.") == Some(text);
            EventKind::ALL.into_iter().find(named).ok_or_else(|| {
                let known: Vec<_> = EventKind::ALL.into_iter().map(EventKind::word).collect();
                format!("there is no event type \"{text}\"; there are {}", known.join(", "))
            })
        };
        list.split(',').map(str::trim).filter(|text| !text.is_empty()).map(word).collect()
    }

    /// Whether an event, as it is sent, is wanted.
    pub fn wants(&self, line: &[u8]) -> bool {
        if *self == Self::default() {
            return true;
        }
        // A line of ours always parses; of one that did not, nothing could be said, and it is not wanted.
        let Ok(head) = serde_json::from_slice::<Head>(line) else { return false };
        let kind = |found: &str| self.kinds.iter().any(|kind| kind.word() == found);
        let group = head.session.and_then(|session| session.group);
        (self.kinds.is_empty() || head.kind.as_deref().is_some_and(kind))
            && is_among(&self.adapters, head.adapter.as_deref())
            && is_among(&self.sessions, head.session_id.as_deref())
            && is_among(&self.groups, group.as_deref())
    }
}

fn is_among(wanted: &[String], found: Option<&str>) -> bool {
    wanted.is_empty() || found.is_some_and(|found| wanted.iter().any(|wanted| wanted == found))
}

/// The last line of a stream that ends before its time: no event, it has no number.
pub fn notice(kind: &str, cursor: &str, detail: &str) -> String {
    json!({ "type": kind, "cursor": cursor, "detail": detail }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &[u8] =
        br#"{"type":"session.stopped","adapter":"exec","sessionId":"a-b","session":{"group":"g","id":"a-b"}}"#;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn an_event_is_wanted_when_every_list_that_is_not_empty_names_it() {
        let wants = |filter: Filter| filter.wants(LINE);
        assert!(wants(Filter::default()));
        assert!(wants(Filter { kinds: vec![EventKind::Error, EventKind::Stopped], ..Filter::default() }));
        assert!(!wants(Filter { kinds: vec![EventKind::Error], ..Filter::default() }));
        assert!(wants(Filter { groups: words(&["h", "g"]), ..Filter::default() }));
        assert!(!wants(Filter {
            groups: words(&["g"]),
            adapters: words(&["opencode"]),
            ..Filter::default()
        }));
        assert!(wants(Filter { sessions: words(&["a-b"]), ..Filter::default() }));
        assert!(!wants(Filter { sessions: words(&["a"]), ..Filter::default() }), "whole ids only");
    }

    #[test]
    fn an_event_of_no_session_is_of_no_group() {
        let filter = Filter { groups: words(&["g"]), ..Filter::default() };
        assert!(!filter.wants(br#"{"type":"delivery.dead","adapter":null,"sessionId":null,"session":null}"#));
        assert!(!filter.wants(b"not even JSON"));
    }

    #[test]
    fn types_are_named_in_full_or_short_and_a_wrong_one_lists_the_right_ones() {
        let both = Ok(vec![EventKind::Stopped, EventKind::Error]);
        assert_eq!(Filter::kinds_of("session.stopped, error"), both);
        assert_eq!(Filter::kinds_of(""), Ok(Vec::new()));
        let why = Filter::kinds_of("session.gone").unwrap_err();
        assert!(why.contains("session.gone") && why.contains("session.timeout"), "{why}");
    }
}
