//! Entries of the systemd journal: its native protocol, and what a lifecycle event looks like there.
//!
//! Owns the names of the fields and the message ids, which are for ever: people search by them. Refuses to know where
//! entries are sent. The protocol: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.

use serde_json::Value;

use crate::core::record::EventKind;
use crate::core::vocab::short;

/// Who we are in the journal.
pub const IDENTIFIER: &str = "agentctl";
/// A longer value is cut: an entry has to fit into one datagram.
const VALUE_BYTES_MAX: usize = 8 << 10;

/// One entry, field by field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry(Vec<(String, String)>);

impl Entry {
    /// An entry with its text and priority (0 the gravest, 7 the least, as in syslog(3)).
    pub fn new(message: &str, priority: u8) -> Self {
        let mut entry = Self::default();
        entry.push("MESSAGE", message);
        entry.push("PRIORITY", &priority.to_string());
        entry.push("SYSLOG_IDENTIFIER", IDENTIFIER);
        entry
    }

    /// Adds a field. Its name is made one that journald takes: upper case, `_` for anything else.
    pub fn push(&mut self, name: &str, value: &str) {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name: String =
            name.chars().map(|c| if fits(c) { c.to_ascii_uppercase() } else { '_' }).take(64).collect();
        let end = (0..=value.len().min(VALUE_BYTES_MAX)).rev().find(|end| value.is_char_boundary(*end));
        self.0.push((name, value[..end.unwrap_or(0)].to_owned()));
    }

    /// The datagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, value) in &self.0 {
            bytes.extend_from_slice(name.as_bytes());
            if value.contains('\n') {
                bytes.push(b'\n');
                bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
            } else {
                bytes.push(b'=');
            }
            bytes.extend_from_slice(value.as_bytes());
            bytes.push(b'\n');
        }
        bytes
    }
}

/// The MESSAGE_ID of a type of event.
pub fn message_id(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Queued => "b0f5a5d27a0e4a0c8d7f3c9216e4a871",
        EventKind::Started => "25826efb3c3d433184afc08e7dd9524c",
        EventKind::Resumed => "051f004934a747f0a3687bc1621c58bb",
        EventKind::Idle => "0bafb2118414461c86608f5d958584c7",
        EventKind::Active => "35a7d5a3497d48009c3c34dcd5e3c2f8",
        EventKind::Stuck => "31d99205467d4568b5eec332d7fd428b",
        EventKind::Lingering => "ef88da52381140f29a05ce6b51684886",
        EventKind::Timeout => "93004e8ff4344ba98a4c64aeee46a4fb",
        EventKind::Stopped => "1be87d9c71d643a38dc927216aae0fe4",
        EventKind::Error => "3ceacbf8ace04cb4971c6e8c6136583c",
        EventKind::DeliveryDead => "be24ed0d0e234b6682ee9f05bbd1175a",
        EventKind::EndpointPaused => "1f33008ee3434527b2c55dd7c62442a5",
        EventKind::FuseExpired => "1a53ba05994d463cbeba7fa5592b46d2",
        EventKind::FuseCancelled => "e5f2b7dcff7a42fe8520b5948dfb6e48",
        EventKind::LockAcquired => "8c0c8ff4c84e4b0f9a6a3d8f1c6d3b0e",
        EventKind::LockReleased => "d5b7f0a1e2964c7c8b1f4e0a9d27c635",
    }
}

fn priority(kind: EventKind) -> u8 {
    match kind {
        EventKind::Started
        | EventKind::Resumed
        | EventKind::Idle
        | EventKind::Active
        | EventKind::FuseCancelled
        | EventKind::Queued
        | EventKind::LockAcquired
        | EventKind::LockReleased
        | EventKind::Stopped => 6,
        EventKind::Timeout | EventKind::Stuck | EventKind::Lingering | EventKind::FuseExpired => 5,
        EventKind::Error | EventKind::DeliveryDead | EventKind::EndpointPaused => 4,
    }
}

/// A lifecycle event, given as it is sent to followers. `None`: it is no event that is known.
pub fn of_event(line: &[u8]) -> Option<Entry> {
    let event: Value = serde_json::from_slice(line).ok()?;
    let word = event["type"].as_str()?;
    let kind = EventKind::ALL.into_iter().find(|kind| kind.word() == word)?;
    let session = &event["session"];
    let mut entry = Entry::new(&sentence(kind, &event), priority(kind));
    entry.push("MESSAGE_ID", message_id(kind));
    entry.push("AGENTCTL_EVENT", word);
    let fields = [
        ("AGENTCTL_CURSOR", &event["cursor"]),
        ("AGENTCTL_SESSION_ID", &event["sessionId"]),
        ("AGENTCTL_RUN", &event["run"]),
        ("AGENTCTL_ADAPTER", &event["adapter"]),
        ("AGENTCTL_NAME", &session["name"]),
        ("AGENTCTL_GROUP", &session["group"]),
        ("AGENTCTL_CWD", &session["cwd"]),
        ("AGENTCTL_LEADER_PID", &session["pid"]),
        ("AGENTCTL_OUTCOME", &session["outcome"]),
        ("AGENTCTL_REASON", &session["reason"]),
        ("AGENTCTL_EXIT_CODE", &session["exitCode"]),
        ("AGENTCTL_SIGNAL", &session["signal"]),
        ("AGENTCTL_EXIT_STATUS", &session["exitStatus"]),
        ("AGENTCTL_FIRES_AT", &event["fires_at"]),
        ("AGENTCTL_ENDPOINT", &event["endpoint"]),
        ("AGENTCTL_FUSE", &event["fuse"]["id"]),
        ("AGENTCTL_DIRECTORY", &event["fuse"]["directory"]),
        ("AGENTCTL_DIRECTORY", &event["lock"]["directory"]),
        ("AGENTCTL_LOCKED_BY", &event["lock"]["lockedBy"]),
    ];
    for (name, value) in fields {
        match value {
            Value::Null => {}
            Value::String(text) => entry.push(name, text),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                entry.push(name, &value.to_string());
            }
        }
    }
    Some(entry)
}

fn sentence(kind: EventKind, event: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    let session = &event["session"];
    let id = short(&text(&event["sessionId"]));
    let adapter = text(&event["adapter"]);
    match kind {
        EventKind::Queued => format!("session {id} ({adapter}) waits for its turn"),
        EventKind::Started => format!("session {id} ({adapter}) started"),
        EventKind::Resumed => format!("session {id} ({adapter}) was taken up again"),
        EventKind::Idle => format!("session {id} ({adapter}) waits for input"),
        EventKind::Active => format!("session {id} ({adapter}) works again"),
        EventKind::Stuck => format!("session {id} ({adapter}) shows no sign of life"),
        EventKind::Lingering => {
            format!("session {id} ({adapter}) is done by its own word, and has not exited")
        }
        EventKind::Timeout if event["fires_at"].is_string() => {
            format!("session {id} ({adapter}) is going to be ended at {}", text(&event["fires_at"]))
        }
        EventKind::Timeout => format!("session {id} ({adapter}) is over its time and is being ended"),
        EventKind::Stopped | EventKind::Error => {
            format!("session {id} ({adapter}) {}: {}", text(&session["outcome"]), text(&session["reason"]))
        }
        EventKind::DeliveryDead => {
            format!("a webhook of session {id} to {} was given up", text(&event["endpoint"]))
        }
        EventKind::EndpointPaused => {
            format!("nothing more is sent to the webhook endpoint {}", text(&event["endpoint"]))
        }
        EventKind::FuseExpired => format!("the fuse of {} expired", text(&event["fuse"]["directory"])),
        EventKind::FuseCancelled => {
            let fuse = &event["fuse"];
            format!("the fuse of {} was cancelled: {}", text(&fuse["directory"]), text(&fuse["reason"]))
        }
        EventKind::LockAcquired => {
            let lock = &event["lock"];
            format!("{} was locked by {}", text(&lock["directory"]), text(&lock["lockedBy"]))
        }
        EventKind::LockReleased => {
            let lock = &event["lock"];
            format!(
                "{} was unlocked; it had been locked by {}",
                text(&lock["directory"]),
                text(&lock["lockedBy"])
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(build: impl FnOnce(&mut Entry)) -> Vec<u8> {
        let mut entry = Entry::default();
        build(&mut entry);
        entry.encode()
    }

    #[test]
    fn a_value_of_several_lines_carries_its_length() {
        assert_eq!(bytes(|entry| entry.push("A", "b=c")), b"A=b=c\n");
        assert_eq!(bytes(|entry| entry.push("A", "b\nc")), b"A\n\x03\0\0\0\0\0\0\0b\nc\n");
        assert_eq!(bytes(|entry| entry.push("A", "")), b"A=\n");
    }

    #[test]
    fn names_are_made_to_fit_and_long_values_are_cut_between_characters() {
        assert_eq!(bytes(|entry| entry.push("log.target", "x")), b"LOG_TARGET=x\n");
        let cut = bytes(|entry| entry.push("A", &format!("x{}", "é".repeat(VALUE_BYTES_MAX))));
        assert_eq!(cut.len(), "A=\n".len() + VALUE_BYTES_MAX - 1, "an é has two bytes, and one does not fit");
    }

    #[test]
    fn message_ids_are_unique_and_of_the_right_form() {
        let ids = EventKind::ALL.map(message_id);
        for (at, id) in ids.iter().enumerate() {
            assert!(
                id.len() == 32 && id.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)),
                "{id}"
            );
            assert!(!ids[..at].contains(id), "{id} twice");
        }
    }

    #[test]
    fn an_event_says_who_what_and_how() {
        let line =
            br#"{"type":"session.error","cursor":"e-7","sessionId":"0b0f7a52-6f6e","run":1,"adapter":"exec",
            "session":{"outcome":"failed","reason":"exit_code_42","exitCode":42,"signal":null}}"#;
        let entry = of_event(line).expect("an event");
        let has = |name: &str, value: &str| entry.0.contains(&(name.to_owned(), value.to_owned()));
        assert!(has("MESSAGE", "session 0b0f7a52 (exec) failed: exit_code_42"), "{entry:?}");
        assert!(has("MESSAGE_ID", "3ceacbf8ace04cb4971c6e8c6136583c") && has("PRIORITY", "4"));
        assert!(has("AGENTCTL_SESSION_ID", "0b0f7a52-6f6e") && has("AGENTCTL_EXIT_CODE", "42"));
        assert!(entry.0.iter().all(|(name, _)| name != "AGENTCTL_SIGNAL"), "what is not there is not said");
        assert_eq!(of_event(br#"{"type":"stream.dropped"}"#), None);
    }
}
