//! Directory locks as the API shows them, and what may be asked of them.
//!
//! Owns the public names, which are those of the earlier tool. Refuses to decide who holds what.

use serde::{Deserialize, Serialize};

use crate::core::locks::ManualLock;
use crate::core::session::Session;

use super::time::rfc3339;

/// A directory that is taken: one element of `GET /v1/locks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LockView {
    /// The real path.
    pub directory: String,
    /// `auto`: by a session, for as long as it lives. `manual`: until it is released.
    pub r#type: String,
    /// The session's leader.
    pub pid: Option<u32>,
    pub session_id: Option<String>,
    pub locked_by: Option<String>,
    pub reason: Option<String>,
    pub locked_at: String,
}

impl LockView {
    /// A lock by hand.
    pub fn of_manual(lock: &ManualLock) -> Self {
        Self {
            directory: lock.directory.clone(),
            r#type: "manual".into(),
            pid: None,
            session_id: None,
            locked_by: Some(lock.by.clone()),
            reason: lock.reason.clone(),
            locked_at: rfc3339(lock.at),
        }
    }

    /// The lock of a session that holds its directory.
    pub fn of_session(session: &Session) -> Self {
        Self {
            directory: session.spec.cwd.clone(),
            r#type: "auto".into(),
            pid: session.run.fuse.leader.map(|leader| leader.pid),
            session_id: Some(session.id.to_string()),
            locked_by: None,
            reason: None,
            locked_at: rfc3339(session.run.begun.wall),
        }
    }
}

/// What `POST /v1/locks` takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Acquire {
    /// An absolute path.
    pub directory: String,
    /// Who locks. Absent: the user that the daemon runs as.
    pub by: Option<String>,
    pub reason: Option<String>,
}
