//! What OrgLoop's connectors make of a webhook and of a listing, as measured by feeding them, and what they need to be
//! right.

use std::collections::BTreeMap;
use std::process::Output;
use std::time::Duration;

use agentctl::wire::time::parse_rfc3339;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::endpoint::Received;

/// What the connector tells of an end: `phase` and `outcome`.
pub(crate) type Told = (&'static str, &'static str);

/// Checks one request against the connector's rules and reads it as the connector does.
#[track_caller]
pub(crate) fn read(request: &Received, secret: Option<&str>) -> Told {
    assert_eq!(request.method, "POST");
    assert_eq!(request.header("content-type"), Some("application/json"));
    if let Some(secret) = secret {
        let hex = hex_hmac(secret.as_bytes(), &request.body);
        // The prefix is part of it; lower case; and the connector looks at this header first.
        assert_eq!(request.header("x-hub-signature-256"), Some(format!("sha256={hex}").as_str()));
        assert_eq!(request.header("x-signature"), Some(format!("sha256={hex}").as_str()));
        assert_eq!(request.header("x-agentctl-signature"), Some(hex.as_str()));
    }
    let body = request.json();
    assert!(body.is_object(), "{body}");
    assert!(body["session_id"].as_str().is_some_and(|id| !id.is_empty()), "{body}");
    // Any other word but `start` is taken for a successful end.
    assert_eq!(body["hook_type"], "session.stopped", "{body}");
    let Value::Number(status) = &body["exit_status"] else { panic!("no number, no failure: {body}") };
    let status = status.as_i64().unwrap_or_else(|| panic!("no integer: {body}"));
    assert!((0..=255).contains(&status), "{body}");
    assert_eq!(status == 0, body["meta"]["outcome"] == "completed", "0 is success and nothing else: {body}");
    match status {
        0 => ("completed", "success"),
        1..=128 => ("failed", "failure"),
        _ => ("stopped", "cancelled"),
    }
}

/// HMAC-SHA256 by the letter of RFC 2104, apart from the library that signs.
pub(crate) fn hex_hmac(key: &[u8], message: &[u8]) -> String {
    let mut block = [0_u8; 64];
    match key.len() {
        0..=64 => block[..key.len()].copy_from_slice(key),
        _ => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let pad = |with: u8| block.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_hmac_is_that_of_rfc_4231() {
    let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(hex_hmac(b"Jefe", b"what do ya want for nothing?"), expected);
    let long = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
    let key = [0xaa; 131];
    assert_eq!(hex_hmac(&key, b"Test Using Larger Than Block-Size Key - Hash Key First"), long);
}

/// The connector that polls `list --json`: what it remembers of sessions from one poll to the next.
#[derive(Debug, Default)]
pub(crate) struct Poller(BTreeMap<String, String>);

impl Poller {
    /// Node's limit of what a child may print; the connector takes more for no sessions at all.
    pub(crate) const OUTPUT_BYTES_MAX: usize = 1 << 20;
    /// It kills a listing that takes longer, and takes that for no sessions, too.
    pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

    /// One poll: what it tells, as pairs of a session's id and a word.
    #[track_caller]
    pub(crate) fn poll(&mut self, output: &Output) -> Vec<(String, &'static str)> {
        assert_eq!(output.status.code(), Some(0), "it takes this for no sessions: {output:?}");
        assert!(output.stdout.len() <= Self::OUTPUT_BYTES_MAX, "{} bytes", output.stdout.len());
        let found: Vec<Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("it takes this for no sessions: {error}: {output:?}"));
        let now: BTreeMap<String, String> = found.iter().map(understood).collect();
        assert_eq!(now.len(), found.len(), "an id came twice");
        let is_live = |status: &str| ["running", "idle"].contains(&status);
        let ended = |status: &str| if status == "error" { "failed" } else { "stopped" };
        let mut told = Vec::new();
        for (id, status) in &now {
            let word = match self.0.get(id) {
                None if is_live(status) => "started",
                None => ended(status),
                Some(before) if before == status => continue,
                Some(_) if is_live(status) => "active",
                Some(_) => ended(status),
            };
            told.push((id.clone(), word));
        }
        let vanished = self.0.keys().filter(|id| !now.contains_key(*id));
        told.extend(vanished.map(|id| (id.clone(), "stopped")));
        self.0 = now;
        told
    }
}

/// Id and status of an element that is as it must be.
#[track_caller]
fn understood(session: &Value) -> (String, String) {
    let text = |key: &str| session[key].as_str().unwrap_or_else(|| panic!("no {key}: {session}")).to_owned();
    let optional = |key: &str, fine: fn(&Value) -> bool| {
        let value = &session[key];
        assert!(value.is_null() || fine(value), "{key}: {session}");
    };
    assert!(!text("id").is_empty() && !text("adapter").is_empty(), "{session}");
    assert!(["running", "idle", "stopped", "error"].contains(&text("status").as_str()), "{session}");
    assert!(parse_rfc3339(&text("startedAt")).is_some(), "{session}");
    optional("stoppedAt", |value| value.as_str().is_some_and(|time| parse_rfc3339(time).is_some()));
    for key in ["cwd", "spec", "model", "prompt", "group"] {
        optional(key, Value::is_string);
    }
    optional("tokens", |tokens| tokens["in"].is_u64() && tokens["out"].is_u64());
    optional("cost", Value::is_number);
    optional("pid", Value::is_u64);
    assert!(session["meta"].is_object(), "{session}");
    (text("id"), text("status"))
}
