//! The variables of a session: those that were sent, without what is not the session's, and with what its adapter adds.
//!
//! Refuses to know where they come from and where they are kept; they are in no record and no log.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::adapters::{EnvLook, FirstStart, Known};
use crate::core::vocab::SessionId;
use crate::wire::git::REPOSITORY_VARS;

/// Variables that belong to the daemon or to a service manager, never to a session.
fn is_ours(key: &str) -> bool {
    const NAMES: [&str; 4] = ["NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "INVOCATION_ID", "JOURNAL_STREAM"];
    let agentctl = key.starts_with("AGENTCTL_") && key != "AGENTCTL_HOME";
    agentctl || key.starts_with("WATCHDOG_") || key.starts_with("LISTEN_") || NAMES.contains(&key)
}

/// The variables that were sent. In a worktree none that names another repository: of whoever launched from a git hook.
pub(super) fn asked(sent: Option<&BTreeMap<String, String>>, in_worktree: bool) -> BTreeMap<String, String> {
    let mut env = sent.cloned().unwrap_or_else(minimal);
    if in_worktree {
        env.retain(|key, _| !REPOSITORY_VARS.contains(&key.as_str()));
    }
    env
}

/// What a session gets of them, as the shim takes it, and what the adapter makes of its first start.
pub(super) fn of_session(
    adapter: &Known,
    id: SessionId,
    mut env: BTreeMap<String, String>,
    safe: bool,
    cwd: &str,
) -> Result<(Vec<u8>, Option<FirstStart>), String> {
    // As the caller has it: what is meant for us (AGENTCTL_...) is not the session's, and an adapter may look at it.
    let asked = env.clone();
    env.retain(|key, _| !is_ours(key));
    if let Some((key, _)) =
        env.iter().find(|(key, value)| key.is_empty() || key.contains(['=', '\0']) || value.contains('\0'))
    {
        return Err(format!(
            "the environment variable \"{key}\" has a name or value that no process can have"
        ));
    }
    let home = daemon_home();
    let vars = |name: &str| asked.get(name).map(OsString::from);
    let look = EnvLook {
        vars: &vars,
        exists: &|path: &Path| path.exists(),
        passwd_home: &home,
        cwd: Path::new(cwd),
        root: rustix::process::geteuid().is_root(),
        safe,
    };
    let change = adapter.env(&look);
    for key in change.unset {
        env.remove(key);
    }
    for (key, value) in change.set {
        env.insert(key.to_owned(), value);
    }
    env.insert("AGENTCTL_SESSION_ID".into(), id.to_string());
    Ok((environ(&env), adapter.first_start(&look)))
}

/// Variables as the shim takes them.
pub(super) fn environ(env: &BTreeMap<String, String>) -> Vec<u8> {
    env.iter().flat_map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes(), b"\0"].concat()).collect()
}

/// What a launch without an environment gets, from the daemon's own.
pub(super) fn minimal() -> BTreeMap<String, String> {
    let kept = ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"];
    kept.into_iter().filter_map(|key| Some((key.to_owned(), std::env::var(key).ok()?))).collect()
}

pub(super) fn daemon_home() -> PathBuf {
    std::env::home_dir().unwrap_or_else(|| PathBuf::from("/"))
}
