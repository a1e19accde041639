//! Directory fuses as the API shows them, what may be asked of them, and what the URL of one is told.
//!
//! Owns the public names. Of a URL that a fuse names only the host is shown; path and query may hold a token.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::core::dir_fuses::{CancelCause, DirFuse, FuseEnd};
use crate::core::fuse::Outcome;
use crate::core::session::Session;
use crate::core::vocab::{Wall, millis};

use super::time::rfc3339;

/// Which request below `/v1/fuses`. Directories are named as the client named them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FuseRoute {
    List,
    Set,
    Extend(String),
    Cancel(String),
}

impl FuseRoute {
    /// The route of what follows `/v1/fuses`.
    pub fn of(method: &str, rest: &[&str]) -> Option<Self> {
        match (method, rest) {
            ("GET", []) => Some(Self::List),
            ("POST", []) => Some(Self::Set),
            ("POST", [directory, "extend"]) => Some(Self::Extend((*directory).to_owned())),
            ("POST", [directory, "cancel"]) => Some(Self::Cancel((*directory).to_owned())),
            _ => None,
        }
    }
}

/// What `POST /v1/fuses` takes. No `Debug`: a script or a URL may hold secrets.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SetFuse {
    pub directory: String,
    /// It expires so long from now, milliseconds. Absent: ten minutes.
    pub ttl_ms: Option<u64>,
    #[serde(default)]
    pub on_expire: Actions,
    pub label: Option<String>,
    /// Who sets it; kept and passed on.
    pub session_id: Option<String>,
}

/// What is done when a fuse expires, beside the event.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Actions {
    /// Text for `/bin/sh -c`, run in the directory with a minimal environment, for at most 120 s.
    pub script: Option<String>,
    /// A URL that is told. Shown without path and query.
    pub webhook: Option<String>,
    /// What the event has as its `name`.
    pub event: Option<String>,
}

/// What `POST /v1/fuses/{directory}/extend` takes.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtendFuse {
    /// It expires so long from now, milliseconds. Absent: as long as when it was set.
    pub ttl_ms: Option<u64>,
}

/// A fuse. Every key is there always, null where there is nothing to say.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FuseView {
    pub id: String,
    pub directory: String,
    pub label: Option<String>,
    /// Who set it, by his own word.
    pub session_id: Option<String>,
    pub ttl_ms: u64,
    pub set_at: String,
    pub expires_at: String,
    pub on_expire: Option<Actions>,
    /// `active`, `expired` or `cancelled`.
    pub state: String,
    /// When it expired or was cancelled.
    pub ended_at: Option<String>,
    /// Why it was cancelled: `asked`, `replaced` or `session_started`.
    pub reason: Option<String>,
    /// The session that started in the directory.
    pub used_by: Option<String>,
    /// How its script goes, or went.
    pub script: Option<ScriptView>,
}

/// The script of a fuse that expired.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScriptView {
    /// `running`, `done`, `failed`; `unknown` where nobody can tell how it ended.
    pub state: String,
    /// Null while it runs.
    pub exit_status: Option<u8>,
    pub reason: Option<String>,
    pub message: Option<String>,
    /// What it printed, both streams.
    pub log_path: String,
}

impl FuseView {
    /// `script`: that of the fuse, where it was begun. `shown`: the URL that it names, as far as it is shown.
    pub fn of(fuse: &DirFuse, script: Option<ScriptView>, shown: Option<String>) -> Self {
        let asked = &fuse.spec.on_expire;
        let actions = Actions { script: asked.script.clone(), webhook: shown, event: asked.event.clone() };
        let (state, reason, used_by) = match fuse.end {
            None => ("active", None, None),
            Some((_, FuseEnd::Fired)) => ("expired", None, None),
            Some((_, FuseEnd::Cancelled(why))) => match why {
                CancelCause::Used { session } => ("cancelled", Some(why.word()), Some(session)),
                CancelCause::Asked | CancelCause::Replaced => ("cancelled", Some(why.word()), None),
            },
        };
        Self {
            id: fuse.spec.id.0.to_string(),
            directory: fuse.spec.directory.clone(),
            label: fuse.spec.label.clone(),
            session_id: fuse.spec.setter.clone(),
            ttl_ms: millis(fuse.spec.ttl),
            set_at: rfc3339(fuse.set),
            expires_at: rfc3339(fuse.expires),
            on_expire: (!asked.is_empty()).then_some(actions),
            state: state.to_owned(),
            ended_at: fuse.end.map(|(at, _)| rfc3339(at)),
            reason: reason.map(str::to_owned),
            used_by: used_by.map(|session| session.to_string()),
            script,
        }
    }

    /// What an event says of it: neither script nor URL.
    pub fn told(&self) -> Value {
        let mut told = serde_json::to_value(self).unwrap_or_default();
        if let Some(object) = told.as_object_mut() {
            object.remove("onExpire");
            object.remove("script");
        }
        told
    }
}

impl ScriptView {
    /// `told`: whether its verdict, if any, is durable.
    pub fn of(script: &Session, told: bool, log_path: String) -> Self {
        let verdict = script.run.verdict.as_ref().filter(|_| told);
        let state = verdict.map_or("running", |verdict| match verdict.outcome {
            Outcome::Completed => "done",
            Outcome::Failed | Outcome::Cancelled | Outcome::TimedOut | Outcome::LaunchFailed => "failed",
            Outcome::Lost => "unknown",
        });
        Self {
            state: state.to_owned(),
            exit_status: verdict.map(|verdict| verdict.number()),
            reason: verdict.map(|verdict| verdict.reason.word()),
            message: verdict.and_then(|verdict| verdict.message.clone()),
            log_path,
        }
    }
}

/// What the URL of a fuse is told: the keys of the earlier tool, and the ids by which repeats are known.
pub fn webhook_body(fuse: &DirFuse, at: Wall, event_id: &str) -> String {
    let spec = &fuse.spec;
    let body = json!({
        "type": "fuse.expired",
        "directory": spec.directory,
        "sessionId": spec.setter,
        "label": spec.label,
        "expiredAt": rfc3339(at),
        "name": spec.on_expire.event,
        "fuseId": spec.id.0.to_string(),
        "eventId": event_id,
    });
    body.to_string()
}
