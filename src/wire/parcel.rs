//! What a launch that waits for its turn will need: one private file in `queued/`, of the daemon and for later lives of it.
//!
//! There before the launch is recorded, and thrown away once the leader runs or the session has its verdict. It holds the
//! environment and the prompt, so it is in no other place. Refuses to know when a turn comes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::core::vocab::RunId;

use super::session_dir::Version;

/// The file. It may hold secrets: no `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParcelFile {
    pub v: Version<1>,
    pub argv: Vec<String>,
    /// `NAME=value`, each.
    pub env: Vec<String>,
    /// What the prompt's file will hold, where there is to be one.
    pub prompt: Option<String>,
    pub umask: u32,
    pub nofile: u64,
    /// The environment will be kept for hooks.
    #[serde(default)]
    pub for_hooks: bool,
    #[serde(default)]
    pub first_start: Option<FirstStartFile>,
}

/// As `adapters::FirstStart`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstStartFile {
    pub key: PathBuf,
    pub done_when_larger: Vec<(PathBuf, u64)>,
}

/// Name of the file of a run in `queued/`.
pub fn name(run: RunId) -> String {
    format!("{run}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_once_is_read_for_ever() {
        let line = r#"{"v":1,"argv":["sh"],"env":["A=b"],"prompt":null,"umask":18,"nofile":1024}"#;
        let read: ParcelFile = serde_json::from_str(line).unwrap();
        assert!(!read.for_hooks && read.first_start.is_none() && read.env == ["A=b"]);
        let written = serde_json::to_string(&read).unwrap();
        assert!(serde_json::from_str::<ParcelFile>(&written).is_ok_and(|again| again == read));
        assert!(serde_json::from_str::<ParcelFile>(&line.replace("\"v\":1", "\"v\":2")).is_err());
    }
}
