//! Agents that were started outside: their ids for ever, their record, and what is sent to adopt one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use uuid::{Uuid, uuid};

use crate::core::agent::Tokens;
use crate::core::vocab::{HostId, ProcessId, SessionId, Wall};

use super::api::SessionView;
use super::time::rfc3339;

/// Ids of sessions that nobody launched are UUIDs v5 in this namespace.
const NAMESPACE: Uuid = uuid!("0f6d3a52-4f0b-4c8e-9a56-7d1c2b9e8a14");

/// The header of an answer, once for each thing that could not be looked at.
pub const WARNING_HEADER: &str = "agentctl-warning";

/// The id of an agent's conversation.
pub fn id_of_conversation(adapter: &str, native_id: &str) -> SessionId {
    id(&[adapter, native_id])
}

/// The id of an agent whose conversation is not known: of the process itself.
pub fn id_of_process(host: &HostId, process: &ProcessId) -> SessionId {
    id(&[&host.boot, &process.pid.to_string(), &process.start_ticks.to_string()])
}

fn id(parts: &[&str]) -> SessionId {
    SessionId(Uuid::new_v5(&NAMESPACE, parts.join("\0").as_bytes()))
}

/// An agent that runs and was started outside.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    pub id: SessionId,
    pub adapter: String,
    pub process: ProcessId,
    pub started: Wall,
    /// Empty: it could not be seen.
    pub cwd: String,
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub native_id: Option<String>,
    pub tokens: Option<Tokens>,
    pub cost_usd: Option<f64>,
    /// Whether the agent says that it waits for input.
    pub idle: bool,
}

impl Found {
    /// The public word.
    pub fn status(&self) -> &'static str {
        if self.idle { "idle" } else { "running" }
    }
}

impl SessionView {
    /// The record of an agent that was started outside: what is known of it, and no verdict ever.
    pub fn of_found(found: &Found) -> Self {
        Self {
            id: found.id.to_string(),
            run: 1,
            origin: "discovered".into(),
            adapter: found.adapter.clone(),
            status: found.status().into(),
            phase: "running".into(),
            outcome: None,
            exit_code: None,
            signal: None,
            reason: None,
            evidence: Vec::new(),
            started_at: rfc3339(found.started),
            stopped_at: None,
            timeout_at: None,
            pid: Some(found.process.pid),
            cwd: found.cwd.clone(),
            model: found.model.clone(),
            prompt: found.prompt.clone(),
            group: None,
            name: None,
            spec: None,
            native_id: found.native_id.clone(),
            log_path: None,
            tokens: found.tokens,
            cost: found.cost_usd,
            usage: None,
            limits: None,
            worktree: None,
            thinking: None,
            leftovers: json!("unknown"),
            exit_status: None,
            meta: Map::<String, Value>::new(),
        }
    }
}

/// What `POST /v1/sessions/{id or pid}/adopt` takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Adopt {
    pub name: Option<String>,
    pub group: Option<String>,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Deadline from now, milliseconds. Absent or 0: none.
    pub timeout_ms: Option<u64>,
    pub grace_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_same_for_ever() {
        let conversation = id_of_conversation("codex", "01a20287-ab6b-7fa1-8031-1521fdc9368c");
        assert_eq!(conversation.to_string(), "b141909c-d42a-5eff-88de-05e3ccc04252");
        let host = HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 };
        let process = ProcessId { pid: 7, handle: None, start_ticks: 99 };
        assert_eq!(id_of_process(&host, &process).to_string(), "d42304c1-a8a3-53c1-b357-065fef8070ba");
        assert_ne!(id_of_conversation("pi", "x"), id_of_conversation("pi-rust", "x"));
    }
}
