//! Launches of several sessions at once: what is asked, and what came of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::api::Launch;

/// What `POST /v1/groups` takes.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LaunchGroup {
    /// What all have in common. It names no group, no name and no worktree: those are each session's own.
    pub launch: Launch,
    /// The repository in whose worktrees they work. Absent: the one that the directory of `launch` is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Where new branches begin, unless the slot says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Without worktrees: all in the directory of `launch`, as far as its lock lets them.
    #[serde(default)]
    pub in_place: bool,
    /// One a session.
    pub slots: Vec<Slot>,
}

impl std::fmt::Debug for LaunchGroup {
    /// Without what may hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LaunchGroup").field("launch", &self.launch).field("slots", &self.slots).finish()
    }
}

/// What one session has of its own. What is absent is as in `launch`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Slot {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Absent: `try/<group>/<adapter>`, with the model where an adapter comes twice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safe: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub acp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<f64>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupAnswer {
    pub group: String,
    /// In the order in which they were asked for.
    pub slots: Vec<SlotAnswer>,
}

/// What came of one session.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlotAnswer {
    pub adapter: String,
    pub model: Option<String>,
    /// Its record; null where it was refused, and nothing is recorded.
    pub session: Option<Value>,
    /// Why it was refused, or did not start; null where it runs or will.
    pub error: Option<String>,
}
