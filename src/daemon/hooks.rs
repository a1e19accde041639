//! Hooks at the edge: what a script gets to run with, where its output goes, and when its environment is thrown away.
//!
//! The environment of the session's launch is kept in a private file of its directory while a hook may still need it.
//! Refuses to decide when a hook runs (core/hooks.rs) and how (launch.rs: like any other session).

use std::io;
use std::path::{Path, PathBuf};

use crate::core::fuse::Outcome;
use crate::core::hooks::{HiddenOf, HookKind, HookOf};
use crate::core::session::{Session, Verdict};
use crate::core::vocab::{RunId, SessionId};
use crate::wire::session_dir;

use super::{Daemon, fuses};

/// The launch's environment, in the session's directory.
const ENV_FILE: &str = "hooks.env";

/// What a session is a part of, if it is hidden.
pub(super) fn hidden_of(daemon: &Daemon, session: SessionId) -> Option<HiddenOf> {
    daemon.core.borrow().session(session)?.spec.hidden()
}

/// Where a hook runs whose session's worktree could not be made.
pub(super) fn repository(daemon: &Daemon, of: HiddenOf) -> Option<String> {
    let HiddenOf::Hook(of) = of else { return None };
    let core = daemon.core.borrow();
    core.session(of.run.session)?.spec.worktree.as_ref().map(|worktree| worktree.repo.clone())
}

/// Where the output of a hook goes: both streams, into the session's own directory.
pub(super) fn log_path(daemon: &Daemon, of: HookOf) -> PathBuf {
    daemon.home.session(of.run.session).join(session_dir::hook_log_name(of.run.run, of.kind.word()))
}

/// Keeps the environment of a launch for its hooks.
pub(super) fn keep_environment(session_dir: &Path, env: &[u8]) -> io::Result<()> {
    session_dir::write_atomic(session_dir, ENV_FILE, env, session_dir::FILE_MODE)
}

/// The environment of a hook, as the shim takes it. Blocks.
pub(super) fn environment(session_dir: &Path, vars: &[(&'static str, String)]) -> Result<Vec<u8>, String> {
    let path = session_dir.join(ENV_FILE);
    let mut env = std::fs::read(&path)
        .map_err(|error| format!("read the environment of the launch, {}: {error}", path.display()))?;
    for (key, value) in vars {
        env.extend([key.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    Ok(env)
}

/// The variables that a hook has beside those of the session (README, "Hooks").
pub(super) fn variables(daemon: &Daemon, of: HookOf) -> Vec<(&'static str, String)> {
    let core = daemon.core.borrow();
    let Some(session) = core.session(of.run.session) else { return Vec::new() };
    let log = daemon.home.log(of.run, "stdout");
    let mut vars = vec![
        ("AGENTCTL_HOOK", of.kind.word().to_owned()),
        ("AGENTCTL_HOOK_ID", of.id().to_string()),
        ("AGENTCTL_RUN", of.run.run.to_string()),
        ("AGENTCTL_ADAPTER", session.spec.adapter.clone()),
        ("AGENTCTL_CWD", session.spec.cwd.clone()),
        ("AGENTCTL_LOG", log.to_string_lossy().into_owned()),
    ];
    let branch = session.spec.worktree.as_ref().map(|worktree| worktree.branch.clone());
    let optional = [
        ("AGENTCTL_BRANCH", &branch),
        ("AGENTCTL_GROUP", &session.spec.group),
        ("AGENTCTL_MODEL", &session.spec.model),
        ("AGENTCTL_NAME", &session.spec.name),
    ];
    vars.extend(optional.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))));
    if let Some(verdict) = session.run.verdict.as_ref().filter(|_| of.kind == HookKind::OnComplete) {
        vars.extend([
            ("AGENTCTL_EXIT_CODE", verdict.number().to_string()),
            ("AGENTCTL_OUTCOME", verdict.outcome.word().to_owned()),
            ("AGENTCTL_REASON", verdict.reason.word()),
            ("AGENTCTL_STATUS", verdict.outcome.status().word().to_owned()),
        ]);
    }
    vars
}

/// A verdict was put away: of a hook, or of a session whose hooks may all be over now.
pub(super) fn verdict_archived(daemon: &Daemon, id: RunId) {
    let core = daemon.core.borrow();
    let Some(session) = core.session(id.session) else { return };
    let of = match session.spec.hidden() {
        Some(HiddenOf::Hook(of)) => of,
        Some(HiddenOf::Fuse(fuse)) => return fuses::script_ended(daemon, fuse, session),
        None => return sweep(daemon, session),
    };
    if let Some(verdict) = &session.run.verdict {
        say(daemon, of, verdict);
    }
    if let Some(session) = core.session(of.run.session) {
        sweep(daemon, session);
    }
}

fn say(daemon: &Daemon, of: HookOf, verdict: &Verdict) {
    let (session, hook, log) = (of.run.session, of.kind.word(), log_path(daemon, of));
    let (log, reason) = (log.display(), verdict.reason.word());
    match verdict.outcome {
        Outcome::Completed => tracing::info!(%session, hook, "a hook is done"),
        Outcome::Lost => tracing::error!(
            %session,
            hook,
            "hook_unknown: a hook was started and nobody can tell how it ended ({reason}); it is not repeated, see {log}"
        ),
        Outcome::Failed | Outcome::Cancelled | Outcome::TimedOut | Outcome::LaunchFailed => {
            let why = verdict.message.as_deref().unwrap_or(&reason);
            tracing::warn!(%session, hook, "a hook failed: {why}; see {log}");
        }
    }
}

/// Throws the environment away once no hook needs it.
pub(super) fn sweep(daemon: &Daemon, session: &Session) {
    if session.spec.hooks.is_empty() || !session.hooks_are_over() {
        return;
    }
    let path = daemon.home.session(session.id).join(ENV_FILE);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("remove {}: {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}
