//! Where in the text of a configuration something is, and which key was meant by one that is none.
//!
//! Owns the names of all keys. Refuses to know what they mean.

use serde_json::Value;

use super::nearest;

/// The keys of the file.
pub(super) const KEYS: [&str; 22] = [
    "adapter",
    "model",
    "cwd",
    "timeout",
    "grace",
    "leftovers",
    "linger",
    "stuck",
    "webhook_url",
    "webhook_secret",
    "webhooks",
    "notify_allow_private",
    "metrics_addr",
    "durability",
    "backend",
    "retention_days",
    "disk_max",
    "log_max",
    "max_sessions",
    "adapter_max_sessions",
    "discover",
    "adapters",
];

/// Those of an endpoint in `webhooks`.
const OF_WEBHOOKS: [&str; 14] = [
    "name",
    "url",
    "secret",
    "secrets",
    "secret_file",
    "secret_env",
    "secret_credential",
    "events",
    "adapters",
    "format",
    "timeout",
    "max_attempts",
    "paused",
    "ca_file",
];

/// Those of a declaration in `adapters`.
const OF_ADAPTERS: [&str; 6] = ["program", "args", "resume", "prompt", "events", "protocol"];

/// Those of a rule in its `events`.
const OF_RULES: [&str; 11] = [
    "when",
    "session_id",
    "said",
    "success",
    "failed",
    "tokens_in",
    "tokens_out",
    "cache_read",
    "cache_write",
    "cost",
    "total",
];

/// Line and column, both from 1.
pub(super) type Place = (usize, usize);

/// A key that is none.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub(super) key: String,
    pub(super) nearest: Option<String>,
    pub(super) place: Option<Place>,
}

/// The first key of a JSON text that is none.
pub(super) fn unknown_key(text: &str) -> Option<Unknown> {
    let whole: Value = serde_json::from_str(text).ok()?;
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let adapters: Vec<Value> =
        whole["adapters"].as_object().into_iter().flat_map(|all| all.values().cloned()).collect();
    let rules: Vec<Value> = adapters.iter().flat_map(|adapter| list(&adapter["events"])).collect();
    let webhooks = list(&whole["webhooks"]);
    let top = [whole];
    let rooms: [(&[Value], &[&str], Option<usize>); 4] = [
        (&top, &KEYS, Some(1)),
        (&webhooks, &OF_WEBHOOKS, None),
        (&adapters, &OF_ADAPTERS, None),
        (&rules, &OF_RULES, None),
    ];
    rooms.into_iter().find_map(|(objects, known, depth)| {
        let keys = objects.iter().filter_map(Value::as_object).flat_map(|object| object.keys());
        let key = keys.into_iter().find(|key| !known.contains(&key.as_str()))?;
        Some(Unknown {
            key: key.clone(),
            nearest: nearest(key, known.iter().copied()),
            place: place_of(text, key, depth),
        })
    })
}

/// Where a key stands, in the whole file (depth 1) or in anything in it.
pub(super) fn place_of(text: &str, key: &str, depth: Option<usize>) -> Option<Place> {
    let (mut line, mut column, mut inside) = (1, 0, 0_usize);
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        column += 1;
        match char {
            '\n' => (line, column) = (line + 1, 0),
            '{' | '[' => inside += 1,
            '}' | ']' => inside = inside.saturating_sub(1),
            '"' => {
                let place = (line, column);
                let word = string_at(&text[at + 1..])?;
                let after = text[at + 1 + word.len() + 1..].trim_start();
                if word == key && after.starts_with(':') && depth.is_none_or(|depth| depth == inside) {
                    return Some(place);
                }
                // No line ends within a string of JSON.
                for _ in 0..=word.chars().count() {
                    chars.next();
                    column += 1;
                }
            }
            _ => {}
        }
    }
    None
}

/// What stands before the closing quote, as it is written.
fn string_at(text: &str) -> Option<&str> {
    let mut escaped = false;
    let end = text.find(|char| {
        let closes = char == '"' && !escaped;
        escaped = char == '\\' && !escaped;
        closes
    })?;
    Some(&text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_where_they_stand() {
        let text = "{\n  \"a\": \"\\\"b\\\": ü\", \"é\": {\"b\": [\"c\"]},\n\t\"c\" : 1, \"b\": 2}";
        for (key, depth, expected) in [
            ("a", Some(1), Some((2, 3))),
            ("é", Some(1), Some((2, 20))),
            ("b", None, Some((2, 26))),
            ("c", None, Some((3, 2))),
            ("b", Some(1), Some((3, 11))),
            ("ü", None, None),
        ] {
            assert_eq!(place_of(text, key, depth), expected, "{key}");
        }
    }

    #[test]
    fn a_key_that_is_none_is_found_at_every_depth_with_the_one_that_was_meant() {
        let table = [
            (r#"{"grase": "1s"}"#, "grase", Some("grace"), (1, 2)),
            (
                r#"{"webhooks": [{"name": "a", "max_attemps": 3}]}"#,
                "max_attemps",
                Some("max_attempts"),
                (1, 29),
            ),
            (r#"{"adapters": {"mine": {"progam": "x"}}}"#, "progam", Some("program"), (1, 24)),
            (r#"{"adapters": {"mine": {"events": [{"sad": "x"}]}}}"#, "sad", Some("said"), (1, 36)),
            (r#"{"zzz": 1}"#, "zzz", None, (1, 2)),
        ];
        for (text, key, nearest, place) in table {
            let found = unknown_key(text).expect(text);
            let expected =
                Unknown { key: key.to_owned(), nearest: nearest.map(str::to_owned), place: Some(place) };
            assert_eq!(found, expected);
        }
        assert_eq!(unknown_key(r#"{"grace": 1, "adapters": {"any name": {}}}"#), None);
        assert_eq!(unknown_key("{"), None);
    }

    /// What serde says that it expects, for keys that are in no list of ours.
    #[test]
    fn the_lists_are_those_of_the_types() {
        let expected = |text: &str| {
            let error = serde_json::from_str::<super::super::RawConfig>(text).expect_err(text).to_string();
            let list = error.split("expected one of ").nth(1).expect("a list").to_owned();
            let names: Vec<String> = list.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            names
        };
        assert_eq!(expected(r#"{"?": 1}"#), KEYS);
        assert_eq!(expected(r#"{"webhooks": [{"?": 1}]}"#), OF_WEBHOOKS);
        assert_eq!(expected(r#"{"adapters": {"x": {"?": 1}}}"#), OF_ADAPTERS);
        assert_eq!(expected(r#"{"adapters": {"x": {"events": [{"?": 1}]}}}"#), OF_RULES);
    }
}
