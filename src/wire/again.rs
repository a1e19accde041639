//! Launching the same once more, signals by request, and what is forgotten: requests and answers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::vocab::signal_number;

/// What `POST /v1/sessions/{id}/rerun` takes: what is not kept, and what is to be another. The rest is as it was.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rerun {
    /// Absent: the earlier one, where all of it is kept.
    pub prompt: Option<String>,
    /// As at a launch.
    pub env: Option<BTreeMap<String, String>>,
    pub umask: Option<u32>,
    pub nofile: Option<u64>,
    pub cwd: Option<String>,
    pub model: Option<String>,
    pub name: Option<String>,
    /// Milliseconds; 0: none.
    pub timeout_ms: Option<u64>,
    /// Also where the directory is taken.
    #[serde(default)]
    pub force: bool,
}

/// What `POST /v1/sessions/{id}/signal` takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signal {
    /// A name with or without its `SIG`, or a number. Absent: TERM.
    pub signal: Option<Value>,
    /// To everything of its tree, not to the leader alone.
    #[serde(default)]
    pub tree: bool,
}

impl Signal {
    /// The number of the signal. The error is for the user.
    pub fn number(&self) -> Result<u8, String> {
        let name = match &self.signal {
            None | Some(Value::Null) => "TERM".to_owned(),
            Some(Value::String(name)) => name.clone(),
            Some(other) => other.to_string(),
        };
        parse_signal(&name)
    }
}

/// A signal's number, by name or number. The error is for the user.
pub fn parse_signal(text: &str) -> Result<u8, String> {
    signal_number(text).ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        format!("\"{shown}\" is no signal such as TERM, SIGUSR1 or 9")
    })
}

/// What `POST /v1/prune` takes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prune {
    /// Only what ended so long ago, milliseconds.
    pub older_than_ms: Option<u64>,
    /// Only say what would be forgotten.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was forgotten.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// So many.
    pub pruned: usize,
    /// Ended, and still needed: they owe webhooks, or a hook of theirs runs.
    pub kept: usize,
    pub sessions: Vec<String>,
    /// Nothing was forgotten: this is what would be.
    pub dry_run: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_a_name_or_a_number() {
        let number = |signal: Value| Signal { signal: Some(signal), tree: false }.number();
        assert_eq!(Signal::default().number(), Ok(15));
        for (signal, expected) in
            [("term".into(), 15), ("SIGUSR1".into(), 10), (9.into(), 9), ("9".into(), 9)]
        {
            assert_eq!(number(signal), Ok(expected));
        }
        for wrong in [0.into(), 65.into(), "SIGNOPE".into(), Value::Bool(true), "".into()] {
            let why = number(wrong).unwrap_err();
            assert!(why.contains("is no signal"), "{why}");
        }
    }
}
