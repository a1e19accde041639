//! What is said and heard in ACP, held against the official types of the protocol.
//!
//! `said.jsonl` is every kind of message that agentctl says, as its own tests write it (`acp_tests.rs`);
//! `../fixtures/acp/*.jsonl` is what agents said. A line that is not what the types take fails by its place, and so does one
//! of ours with a key that they do not know: it would be lost on every agent that reads with them.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

use agent_client_protocol_schema::v1::{
    CancelNotification, Error, InitializeRequest, InitializeResponse, LoadSessionRequest, NewSessionRequest,
    NewSessionResponse, PromptRequest, PromptResponse, RequestPermissionRequest, RequestPermissionResponse,
    ResumeSessionRequest, SessionNotification, SetSessionConfigOptionRequest, SetSessionConfigOptionResponse,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Whether the types take it; the value as they write it again.
fn taken<T: Serialize + DeserializeOwned>(value: &Value) -> Result<Value, String> {
    let typed: T = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
    serde_json::to_value(typed).map_err(|error| error.to_string())
}

/// Keys that are in `ours` and were not read.
fn lost(ours: &Value, read: &Value, at: &str, lost_keys: &mut Vec<String>) {
    match (ours, read) {
        (Value::Object(ours), Value::Object(read)) => {
            for (key, value) in ours {
                match read.get(key) {
                    Some(read) => lost(value, read, &format!("{at}.{key}"), lost_keys),
                    // What is the default is not written again.
                    None if matches!(value, Value::Null | Value::Bool(false)) => {}
                    None if value.as_array().is_some_and(Vec::is_empty) => {}
                    None => lost_keys.push(format!("{at}.{key}")),
                }
            }
        }
        (Value::Array(ours), Value::Array(read)) => {
            for (place, (ours, read)) in ours.iter().zip(read).enumerate() {
                lost(ours, read, &format!("{at}[{place}]"), lost_keys);
            }
        }
        (ours, read) if ours == read => {}
        (_, _) => lost_keys.push(at.to_owned()),
    }
}

fn lines(path: &Path) -> Vec<(String, Value)> {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let numbered = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    numbered
        .map(|(number, line)| {
            let place = format!("{}:{}", path.display(), number + 1);
            let value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{place}: {error}"));
            (place, value)
        })
        .collect()
}

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_message_that_we_say_is_what_the_types_take() {
    let said = lines(&here().join("said.jsonl"));
    let mut methods = Vec::new();
    for (place, message) in &said {
        assert_eq!(message["jsonrpc"], "2.0", "{place}");
        let (method, params) = (message["method"].as_str().unwrap_or("an answer"), &message["params"]);
        methods.push(method.to_owned());
        let (ours, read) = match method {
            "initialize" => (params, taken::<InitializeRequest>(params)),
            "session/new" => (params, taken::<NewSessionRequest>(params)),
            "session/load" => (params, taken::<LoadSessionRequest>(params)),
            "session/resume" => (params, taken::<ResumeSessionRequest>(params)),
            "session/set_config_option" => (params, taken::<SetSessionConfigOptionRequest>(params)),
            "session/prompt" => (params, taken::<PromptRequest>(params)),
            "session/cancel" => (params, taken::<CancelNotification>(params)),
            "an answer" if !message["error"].is_null() => (&message["error"], taken::<Error>(&message["error"])),
            "an answer" => (&message["result"], taken::<RequestPermissionResponse>(&message["result"])),
            other => panic!("{place}: {other} is held against nothing"),
        };
        let read = read.unwrap_or_else(|why| panic!("{place}: {why}"));
        let mut keys = Vec::new();
        lost(ours, &read, method, &mut keys);
        assert!(keys.is_empty(), "{place}: the types do not know {}", keys.join(", "));
    }
    methods.sort();
    methods.dedup();
    assert_eq!(methods.len(), 8, "every kind is there: {methods:?}");
}

#[test]
fn what_agents_said_is_what_the_types_take() {
    let folder = here().join("../fixtures/acp");
    let mut kinds = 0;
    for entry in fs::read_dir(&folder).expect("the fixtures").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        for (place, message) in lines(&path) {
            let (id, result) = (message["id"].as_u64(), &message["result"]);
            let read = match message["method"].as_str() {
                Some("session/update") => taken::<SessionNotification>(&message["params"]),
                Some("session/request_permission") => taken::<RequestPermissionRequest>(&message["params"]),
                // An extension of the agent's own.
                Some(method) if method.starts_with('_') => continue,
                Some(method) => panic!("{place}: {method} is held against nothing"),
                None if !message["error"].is_null() => taken::<Error>(&message["error"]),
                // By the ids of our requests, which are the same in every run.
                None => match id {
                    Some(1) => taken::<InitializeResponse>(result),
                    Some(2) => taken::<NewSessionResponse>(result),
                    Some(3) => taken::<SetSessionConfigOptionResponse>(result),
                    Some(4) => taken::<PromptResponse>(result),
                    _ => panic!("{place}: it answers nothing of ours"),
                },
            };
            let _read = read.unwrap_or_else(|why| panic!("{place}: {why}"));
            kinds += 1;
        }
    }
    assert!(kinds > 30, "{kinds} lines are fewer than there were");
}
