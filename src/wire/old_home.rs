//! The files of the earlier agentctl, read entry by entry: sessions, locks, fuses, and what it wrote about launches.
//!
//! They are foreign bytes: an entry that is not understood is skipped and named, every text is cut to its limit, and
//! nothing in them is fatal. Refuses to judge what they say (core/import.rs).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::core::import::OldSession;
use crate::core::vocab::Wall;

use super::time::parse_rfc3339;

/// Characters of an id, a name, a word.
const WORD_CHARS_MAX: usize = 200;
/// Characters of a path.
const PATH_CHARS_MAX: usize = 4_096;
/// Callback keys, the only ones of `meta` that mean something to others.
const CALLBACKS: [&str; 2] = ["openclaw_callback_session_key", "openclaw_callback_agent_id"];

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Entries<T> {
    pub read: Vec<T>,
    /// What was not understood, for people.
    pub skipped: Vec<String>,
}

/// The sessions of `state.json`. `Err`: it is no such file; why, for people.
pub fn sessions(bytes: &[u8]) -> Result<Entries<OldSession>, String> {
    let state: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON: {error}"))?;
    let Some(sessions) = state.get("sessions").and_then(Value::as_object) else {
        return Err("it has no object \"sessions\"".to_owned());
    };
    let mut entries = Entries { read: Vec::new(), skipped: Vec::new() };
    for (key, value) in sessions {
        match value.as_object().and_then(|record| session(key, record)) {
            Some(session) => entries.read.push(session),
            None => {
                entries.skipped.push(format!("session {}: it is not understood", cut(key, WORD_CHARS_MAX)))
            }
        }
    }
    Ok(entries)
}

/// `None`: it names no adapter, or is empty.
fn session(key: &str, record: &Map<String, Value>) -> Option<OldSession> {
    let meta = record.get("meta").and_then(Value::as_object);
    let callback = |name: &&str| Some(((*name).to_owned(), word(meta?, name)?));
    let tokens = record.get("tokens").and_then(|tokens| Some((count(tokens, "in")?, count(tokens, "out")?)));
    Some(OldSession {
        id: Some(cut(key, WORD_CHARS_MAX)).filter(|id| !id.is_empty())?,
        adapter: word(record, "adapter")?,
        status: word(record, "status").unwrap_or_default(),
        started: time(record, "startedAt"),
        stopped: time(record, "stoppedAt"),
        cwd: path(record, "cwd").unwrap_or_default(),
        model: word(record, "model"),
        prompt: text(record, "prompt", WORD_CHARS_MAX),
        group: word(record, "group"),
        spec: path(record, "spec"),
        pid: pid(record),
        tokens,
        cost_usd: record.get("cost").and_then(Value::as_f64).filter(|cost| cost.is_finite() && *cost >= 0.0),
        log: meta.and_then(|meta| path(meta, "logPath")),
        dir: None,
        meta: CALLBACKS.iter().filter_map(callback).collect::<BTreeMap<_, _>>(),
    })
}

/// A lock that somebody set by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldLock {
    pub directory: String,
    pub by: Option<String>,
    pub reason: Option<String>,
    pub at: Option<Wall>,
}

/// The locks by hand in `locks.json`; those of sessions follow from sessions. The file of the tool before that one
/// (`~/.openclaw/locks/locks.json`) has locks by hand only, and does not say so.
pub fn locks(bytes: &[u8]) -> Result<Entries<OldLock>, String> {
    let by_hand = |entry: &Map<String, Value>| entry.get("type").is_none_or(|kind| kind == "manual");
    list(bytes, "lock", by_hand, |entry| {
        Some(OldLock {
            directory: path(entry, "directory")?,
            by: word(entry, "lockedBy").or_else(|| word(entry, "by")),
            reason: word(entry, "reason"),
            at: time(entry, "lockedAt"),
        })
    })
}

/// A fuse that somebody set. No `Debug`: a script or a URL may hold secrets.
#[derive(Clone, PartialEq)]
pub struct OldFuse {
    pub directory: String,
    pub expires: Wall,
    pub ttl_ms: Option<u64>,
    pub setter: Option<String>,
    pub label: Option<String>,
    pub script: Option<String>,
    pub webhook: Option<String>,
    pub event: Option<String>,
}

/// The fuses of people in `fuses.json`; those that the tool lit for each of its sessions did nothing, and are none.
pub fn fuses(bytes: &[u8]) -> Result<Entries<OldFuse>, String> {
    let of_people = |entry: &Map<String, Value>| {
        !word(entry, "label").is_some_and(|label| label.starts_with("lifecycle:"))
    };
    list(bytes, "fuse", of_people, |entry| {
        // Of its first versions, which knew one action only, and named what that was done to.
        if entry.contains_key("clusterName") {
            return None;
        }
        let action = |key: &str| {
            let text = entry.get("onExpire")?.as_object()?.get(key)?.as_str()?;
            Some(text.to_owned()).filter(|text| !text.is_empty())
        };
        Some(OldFuse {
            directory: path(entry, "directory")?,
            expires: time(entry, "expiresAt")?,
            ttl_ms: entry.get("ttlMs").and_then(Value::as_u64),
            setter: word(entry, "sessionId"),
            label: word(entry, "label"),
            script: action("script"),
            webhook: action("webhook"),
            event: entry.get("onExpire").and_then(Value::as_object).and_then(|of| word(of, "event")),
        })
    })
}

/// The entries of a list, as far as they are `wanted`; the last one of a directory counts.
fn list<T>(
    bytes: &[u8],
    what: &str,
    wanted: impl Fn(&Map<String, Value>) -> bool,
    read: impl Fn(&Map<String, Value>) -> Option<T>,
) -> Result<Entries<T>, String> {
    let all: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON: {error}"))?;
    let all = all.as_array().ok_or_else(|| "it is no list".to_owned())?;
    let mut entries = Entries { read: Vec::new(), skipped: Vec::new() };
    for (at, entry) in all.iter().enumerate() {
        let entry = entry.as_object();
        if entry.is_some_and(|entry| !wanted(entry)) {
            continue;
        }
        match entry.and_then(&read) {
            Some(understood) => entries.read.push(understood),
            None => {
                let of = entry.and_then(|entry| path(entry, "directory"));
                let of = of.unwrap_or_else(|| format!("number {}", at + 1));
                entries.skipped.push(format!("{what} of {of}: it is not understood"));
            }
        }
    }
    Ok(entries)
}

/// What the tool wrote beside the state when it launched a session; `adapter`: whose directory it is in. `None`: it is no
/// such file.
pub fn launched(bytes: &[u8], adapter: &str) -> Option<OldSession> {
    let file: Value = serde_json::from_slice(bytes).ok()?;
    let file = file.as_object()?;
    Some(OldSession {
        id: word(file, "sessionId")?,
        adapter: word(file, "adapter").unwrap_or_else(|| adapter.to_owned()),
        started: time(file, "launchedAt"),
        cwd: path(file, "cwd").unwrap_or_default(),
        model: word(file, "model"),
        prompt: text(file, "prompt", WORD_CHARS_MAX),
        group: word(file, "group"),
        pid: pid(file),
        log: path(file, "logPath"),
        ..OldSession::default()
    })
}

/// The content of an exit file. `None`: it is no exit code.
pub fn exit_code(bytes: &[u8]) -> Option<u8> {
    std::str::from_utf8(bytes).ok()?.trim().parse().ok()
}

fn word(of: &Map<String, Value>, key: &str) -> Option<String> {
    text(of, key, WORD_CHARS_MAX).filter(|text| !text.is_empty() && !text.contains(char::is_control))
}

fn path(of: &Map<String, Value>, key: &str) -> Option<String> {
    text(of, key, PATH_CHARS_MAX).filter(|text| !text.is_empty() && !text.contains('\0'))
}

fn text(of: &Map<String, Value>, key: &str, most: usize) -> Option<String> {
    of.get(key)?.as_str().map(|text| cut(text, most))
}

fn time(of: &Map<String, Value>, key: &str) -> Option<Wall> {
    parse_rfc3339(of.get(key)?.as_str()?)
}

fn pid(of: &Map<String, Value>) -> Option<u32> {
    of.get("pid")?.as_u64().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 1)
}

fn count(of: &Value, key: &str) -> Option<u64> {
    of.get(key)?.as_u64()
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATE: &[u8] = include_bytes!("../../tests/fixtures/oldhome/state.json");

    #[test]
    fn a_state_file_is_read_entry_by_entry() {
        let Entries { read, skipped } = sessions(STATE).unwrap();
        assert_eq!(
            skipped,
            ["session broken: it is not understood", "session no-adapter: it is not understood"]
        );
        assert_eq!(read.len(), 5, "{read:#?}");
        let first = read.iter().find(|session| session.id.starts_with("d7b63b65")).unwrap();
        assert_eq!(
            (first.adapter.as_str(), first.status.as_str(), first.pid),
            ("opencode", "stopped", Some(4_194_001))
        );
        assert_eq!(first.started, parse_rfc3339("2026-03-12T04:21:44.105Z"));
        assert_eq!(first.tokens, Some((1_200, 340)));
        assert_eq!(first.meta.get(CALLBACKS[1]).map(String::as_str), Some("agent-7"));
        assert!(!first.meta.contains_key("adapterOpts"), "what means nothing to others stays behind");
    }

    #[test]
    fn what_is_no_state_file_is_said_and_an_exit_file_holds_one_code() {
        for (bytes, why) in
            [("", "no JSON"), ("[]", "no object"), ("{\"sessions\": []}", "no object"), ("null", "no object")]
        {
            let said = sessions(bytes.as_bytes()).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
        assert_eq!(exit_code(b"42\n"), Some(42));
        for other in ["", "\n", "-1", "256", "1 2", "x"] {
            assert_eq!(exit_code(other.as_bytes()), None, "{other:?}");
        }
        let file = br#"{"sessionId": "u", "pid": 77, "startTime": "Thu Nov 26 11:48:23 2026", "launchedAt": "2026-11-26T11:48:23.000Z"}"#;
        let launched = launched(file, "opencode").unwrap();
        assert_eq!((launched.pid, launched.adapter.as_str()), (Some(77), "opencode"));
        assert!(launched.started.is_some());
    }

    #[test]
    fn locks_and_fuses_are_those_of_people() {
        let locks = locks(include_bytes!("../../tests/fixtures/oldhome/locks.json")).unwrap();
        let by: Vec<_> =
            locks.read.iter().map(|lock| (lock.directory.as_str(), lock.by.as_deref())).collect();
        assert_eq!(by, [("/tmp", Some("ann")), ("/nowhere/at/all", None)]);
        assert_eq!(locks.skipped, ["lock of number 4: it is not understood"]);
        let fuses = fuses(include_bytes!("../../tests/fixtures/oldhome/fuses.json")).unwrap();
        assert_eq!(fuses.read.len(), 2);
        assert_eq!(fuses.read[0].script.as_deref(), Some("touch fired"));
        assert_eq!(fuses.read[0].ttl_ms, Some(600_000));
        assert_eq!(fuses.skipped, ["fuse of /home/dev/mono-x: it is not understood"]);
        for (bytes, why) in [("{}", "no list"), ("[", "no JSON")] {
            assert!(super::locks(bytes.as_bytes()).unwrap_err().contains(why));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_fatal_and_no_text_is_longer_than_its_limit(at in 0..STATE.len(), noise in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut bytes = STATE.to_vec();
            let end = (at + noise.len()).min(bytes.len());
            bytes.splice(at..end, noise);
            if let Ok(entries) = sessions(&bytes) {
                for session in entries.read {
                    prop_assert!(!session.id.is_empty() && session.id.chars().count() <= WORD_CHARS_MAX);
                    prop_assert!(session.pid != Some(0) && session.pid != Some(1));
                }
            }
            let _none = launched(&bytes, "x");
            let (_none, _none_either) = (locks(&bytes), fuses(&bytes));
            let _none = exit_code(&bytes);
        }
    }
}
