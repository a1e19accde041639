//! A listing of thousands of sessions, as cheaply as it can be shown.
//!
//! Owns which parts of a record the table needs, and how JSON that came in one line is laid out. Refuses to keep what is
//! not shown.

use std::borrow::Cow;

use serde::Deserialize;

/// The parts of a record that the table shows.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Line<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) origin: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) adapter: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) status: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) phase: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) started_at: Cow<'a, str>,
    pub(crate) pid: Option<u32>,
    #[serde(borrow)]
    pub(crate) cwd: Cow<'a, str>,
    pub(crate) model: Option<Cow<'a, str>>,
    pub(crate) prompt: Option<Cow<'a, str>>,
    pub(crate) group: Option<Cow<'a, str>>,
    pub(crate) name: Option<Cow<'a, str>>,
}

/// JSON that is known to be valid, a key or an element a line, as serde_json writes it for people.
pub(crate) fn reindent(json: &[u8]) -> Vec<u8> {
    let mut laid_out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped, mut opened) = (0_usize, false, false, false);
    for &byte in json {
        if in_string {
            laid_out.push(byte);
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        let closes = matches!(byte, b'}' | b']');
        if closes {
            depth -= 1;
        }
        // Nothing is between the brackets of what is empty.
        if opened != closes {
            line_break(&mut laid_out, depth);
        }
        opened = matches!(byte, b'{' | b'[');
        if opened {
            depth += 1;
        }
        laid_out.push(byte);
        match byte {
            b'"' => in_string = true,
            b':' => laid_out.push(b' '),
            b',' => line_break(&mut laid_out, depth),
            _ => {}
        }
    }
    laid_out.push(b'\n');
    laid_out
}

fn line_break(laid_out: &mut Vec<u8>, depth: usize) {
    laid_out.push(b'\n');
    for _ in 0..depth {
        laid_out.extend_from_slice(b"  ");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_empty_stays_on_its_line() {
        for text in ["[]", "{}", "7", "\"a\\\"b]{\"", "[[],{}]", "{\"a\":[{}],\"b\":{\"c\":[1,[2]]}}"] {
            check(&serde_json::from_str(text).expect("valid"));
        }
    }

    fn check(value: &Value) {
        let pretty = format!("{}\n", serde_json::to_string_pretty(value).expect("plain"));
        assert_eq!(String::from_utf8_lossy(&reindent(value.to_string().as_bytes())), pretty);
        assert_eq!(String::from_utf8_lossy(&reindent(pretty.as_bytes())), pretty, "whatever it was before");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\\\\"{}\\[\\],: ]*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map("[a\\\\\"]*", inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_is_laid_out_as_serde_json_lays_it_out(value in values()) {
            check(&value);
        }
    }

    #[test]
    fn a_line_needs_no_more_than_it_shows() {
        let record = json!([{"id": "7a", "origin": "launched", "adapter": "exec", "status": "running",
            "startedAt": "2026-01-01T00:00:00.000Z", "pid": 7, "cwd": "/a\"b", "meta": {"new": [1]}}]);
        let text = record.to_string();
        let lines: Vec<Line<'_>> = serde_json::from_str(&text).expect("a line");
        assert!(matches!(lines[0].id, Cow::Borrowed("7a")));
        assert_eq!((lines[0].cwd.as_ref(), lines[0].pid), ("/a\"b", Some(7)));
    }
}
