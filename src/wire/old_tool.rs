//! The protocol of the earlier agentctl (the one in TypeScript): one JSON object a line, over the same socket path.
//!
//! Owns what a client of that tool is told by this daemon, and how a daemon of that tool is told apart from this one.
//! Refuses to serve that protocol: one question is answered truly, everything else with an error.

use serde::Deserialize;
use serde_json::{Value, json};

use super::api::SERVER_NAME;

/// Asks a daemon of the earlier tool for its state, which changes nothing there.
pub const STATUS_REQUEST: &str = "{\"id\":\"agentctl\",\"method\":\"daemon.status\"}\n";

/// The process number in the answer to [`STATUS_REQUEST`], if a daemon of the earlier tool gave it. This one answers,
/// too, and names its version, which the earlier tool does not.
pub fn pid_of_old_daemon(answer: &[u8]) -> Option<u32> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let result = answer.get("result")?;
    if answer.get("id")? != "agentctl" || result.get("version").is_some() {
        return None;
    }
    result.get("pid")?.as_u64().and_then(|pid| u32::try_from(pid).ok())
}

/// What a daemon says of itself to a client of the earlier tool.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub pid: u32,
    pub uptime_ms: u64,
    pub sessions: usize,
    pub locks: usize,
    pub fuses: usize,
}

/// The one line that a client of the earlier tool gets; `request` is its first line, or the beginning of it.
///
/// The id is its own, since it waits 30 s for a line that has it. `daemon.status` is answered truly: a client that
/// hears no answer to it starts a daemon of the earlier tool, which kills this one.
pub fn answer(request: &[u8], told: Told) -> String {
    let Asked { id, method } = asked(request);
    let answer = match method.as_deref() {
        Some("daemon.status") => json!({
            "id": id,
            "result": {
                "pid": told.pid, "uptime": told.uptime_ms, "sessions": told.sessions,
                "locks": told.locks, "fuses": told.fuses, "version": SERVER_NAME,
            },
        }),
        Some(_) | None => {
            let message = format!(
                "the daemon is {SERVER_NAME}, and this command is of an earlier agentctl: use the newer one (which -a \
                 agentctl), and remove this one: npm uninstall -g @orgloop/agentctl"
            );
            json!({"id": id, "error": {"code": "ERR", "message": message}})
        }
    };
    format!("{answer}\n")
}

#[derive(Default, Deserialize)]
struct Asked {
    #[serde(default)]
    id: Value,
    method: Option<String>,
}

/// Parameters come last, and may be longer than anybody reads here.
fn asked(request: &[u8]) -> Asked {
    if let Ok(asked) = serde_json::from_slice(request) {
        return asked;
    }
    let text = String::from_utf8_lossy(request);
    let head = text.split(",\"params\"").next().unwrap_or_default();
    serde_json::from_str(&format!("{head}}}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLD: Told = Told { pid: 7, uptime_ms: 1, sessions: 2, locks: 3, fuses: 4 };

    fn answered(request: &str) -> Value {
        let line = answer(request.as_bytes(), TOLD);
        assert_eq!(line.matches('\n').count(), 1);
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn every_question_is_answered_with_its_own_id() {
        let status = answered(r#"{"id":"a-1","method":"daemon.status"}"#);
        assert_eq!((&status["id"], &status["result"]["pid"]), (&json!("a-1"), &json!(7)));
        for request in [
            r#"{"id":"a-1","method":"session.list","params":{"all":true}}"#,
            r#"{"id":"a-1","method":"session.launch","params":{"prompt":"cut off in the midd"#,
        ] {
            let refused = answered(request);
            assert_eq!(refused["id"], "a-1");
            let message = refused["error"]["message"].as_str().unwrap();
            assert!(
                message.contains(env!("CARGO_PKG_VERSION")) && message.contains("npm uninstall"),
                "{message}"
            );
        }
        for nonsense in ["{", "{}", "{\"id\":1}", "{\"id\":\"x\",\"method\":{}}"] {
            assert!(answered(nonsense)["error"].is_object(), "{nonsense}");
        }
    }

    #[test]
    fn only_the_earlier_tools_daemon_is_taken_for_one() {
        let theirs = br#"{"id":"agentctl","result":{"pid":42,"uptime":5,"sessions":0,"locks":0,"fuses":0}}"#;
        assert_eq!(pid_of_old_daemon(theirs), Some(42));
        assert_eq!(pid_of_old_daemon(answer(STATUS_REQUEST.as_bytes(), TOLD).as_bytes()), None, "this is us");
        for other in ["", "null", "{}", r#"{"id":"agentctl","error":{}}"#, r#"{"id":"b","result":{"pid":1}}"#]
        {
            assert_eq!(pid_of_old_daemon(other.as_bytes()), None, "{other}");
        }
    }
}
