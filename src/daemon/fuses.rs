//! Directory fuses at the edge: which directory a path means, what a script runs with, and how a fuse is shown.
//!
//! Refuses to decide when a fuse fires and what cancels it (core/dir_fuses.rs), and how a script is run (launch.rs: it
//! is a hidden session like a hook).

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::config::target::Target;
use crate::core::Request as Ask;
use crate::core::dir_fuses::{DirFuse, FuseId, FuseRequest, FuseSpec, OnExpire};
use crate::core::fuse::Outcome;
use crate::core::session::Session;
use crate::core::vocab::RunId;
use crate::limits;
use crate::wire::fuses::{Actions, ExtendFuse, FuseRoute, FuseView, ScriptView, SetFuse};

use super::http::{Answer, Fault, Handled, Query, ask, json_answer, read_json};
use super::{Daemon, notify, prepare};

/// As long as the earlier tool's, where nothing is said.
const TTL_USUAL: Duration = Duration::from_secs(600);

/// Everything below `/v1/fuses`.
pub(super) async fn answer(daemon: &Rc<Daemon>, route: FuseRoute, request: Request<Incoming>) -> Handled {
    match route {
        FuseRoute::List => Ok(list(daemon, Query::of(&request).flag("all"))),
        FuseRoute::Set => {
            let wanted: SetFuse = read_json(daemon, request).await?.0;
            let spec = spec(daemon, wanted).await.map_err(wrong)?;
            ask(daemon, Ask::Fuse(FuseRequest::Set(Box::new(spec)))).await
        }
        FuseRoute::Extend(directory) => {
            let wanted: ExtendFuse = read_json(daemon, request).await?.0;
            let ttl = wanted.ttl_ms.map(ttl).transpose().map_err(wrong)?;
            let directory = meant(daemon, directory).await;
            ask(daemon, Ask::Fuse(FuseRequest::Extend { directory, ttl })).await
        }
        FuseRoute::Cancel(directory) => {
            let directory = meant(daemon, directory).await;
            ask(daemon, Ask::Fuse(FuseRequest::Cancel { directory })).await
        }
    }
}

fn wrong(why: String) -> Fault {
    Fault::new(StatusCode::BAD_REQUEST, why)
}

fn list(daemon: &Daemon, all: bool) -> Response<Answer> {
    let core = daemon.core.borrow();
    let over = core.dir_fuses().over().filter(|_| all);
    let views: Vec<_> = over.chain(core.dir_fuses().burning()).map(|fuse| view(daemon, fuse)).collect();
    json_answer(StatusCode::OK, &views)
}

/// The answer about one fuse.
pub(super) fn fuse(daemon: &Daemon, id: FuseId) -> Handled {
    let core = daemon.core.borrow();
    let fuse = core.dir_fuses().get(id);
    let fuse = fuse.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, "the fuse is over and forgotten"))?;
    Ok(json_answer(StatusCode::OK, &view(daemon, fuse)))
}

fn view(daemon: &Daemon, fuse: &DirFuse) -> FuseView {
    let core = daemon.core.borrow();
    let script = core
        .session(fuse.spec.id.script())
        .map(|script| ScriptView::of(script, core.may_tell(script), log_path(daemon, fuse.spec.id)));
    let url = fuse.spec.on_expire.webhook.as_ref().and_then(|webhook| webhook.url.as_ref());
    let shown =
        url.map(|url| Target::parse(&url.0).map_or_else(|_| "(not understood)".into(), |url| url.shown()));
    FuseView::of(fuse, script, shown)
}

/// What an event about a fuse has beside the keys of every event.
pub(super) fn told(daemon: &Daemon, id: FuseId) -> Vec<(&'static str, Value)> {
    let core = daemon.core.borrow();
    let Some(fuse) = core.dir_fuses().get(id) else { return Vec::new() };
    let name = fuse.spec.on_expire.event.as_ref().map(|name| ("name", json!(name)));
    name.into_iter().chain([("fuse", view(daemon, fuse).told())]).collect()
}

/// Both streams of a script go there.
fn log_path(daemon: &Daemon, id: FuseId) -> String {
    daemon.home.log(RunId { session: id.script(), run: 1 }, "stdout").to_string_lossy().into_owned()
}

/// Checks a request. The error is for the user.
async fn spec(daemon: &Daemon, wanted: SetFuse) -> Result<FuseSpec, String> {
    let SetFuse { directory, ttl_ms, on_expire, label, session_id } = wanted;
    let ttl = ttl_ms.map_or(Ok(TTL_USUAL), ttl)?;
    for (what, text) in [("label", &label), ("name of the event", &on_expire.event), ("session", &session_id)]
    {
        let Some(text) = text else { continue };
        let most = limits::LABEL_CHARS_MAX;
        if text.is_empty() || text.chars().count() > most || text.chars().any(char::is_control) {
            return Err(format!("the {what} is empty, longer than {most} characters, or no single line"));
        }
    }
    let on_expire = actions(daemon, on_expire)?;
    let directory = directory_of(daemon, directory).await?;
    Ok(FuseSpec { id: FuseId(Uuid::new_v4()), directory, ttl, label, setter: session_id, on_expire })
}

fn ttl(ms: u64) -> Result<Duration, String> {
    let ttl = Duration::from_millis(ms);
    if ttl.is_zero() || ttl > limits::FUSE_TTL_MAX {
        let years = limits::FUSE_TTL_MAX.as_secs() / (365 * 24 * 3_600);
        return Err(format!("the time of a fuse is more than 0 and at most {years} years"));
    }
    Ok(ttl)
}

pub(super) fn actions(daemon: &Daemon, wanted: Actions) -> Result<OnExpire, String> {
    let Actions { script, webhook, event } = wanted;
    if let Some(script) = &script {
        prepare::check_script("of the fuse", script)?;
    }
    let config = daemon.config.borrow();
    let webhook = webhook.map(|url| notify::ad_hoc(&config, &url)).transpose();
    let webhook = webhook.map_err(|why| format!("webhook: {why}"))?;
    Ok(OnExpire { script, webhook, event })
}

/// The directory itself, whatever it was called.
async fn directory_of(daemon: &Daemon, asked: String) -> Result<String, String> {
    if !Path::new(&asked).is_absolute() || asked.contains('\0') {
        return Err(format!("the directory \"{asked}\" is not an absolute path"));
    }
    let named = asked.clone();
    let look = move || {
        let real = std::fs::canonicalize(&asked).map_err(|error| format!("{asked}: {error}"))?;
        if !real.is_dir() {
            return Err(format!("{asked} is not a directory"));
        }
        real.into_os_string().into_string().map_err(|_| format!("the real path of {asked} is not UTF-8"))
    };
    daemon.looks.at(&named, look).await.flatten()
}

/// The directory that a fuse was set for may be gone by now; then its parent tells what was meant.
async fn meant(daemon: &Daemon, asked: String) -> String {
    let known = |directory: &str| {
        daemon.core.borrow().dir_fuses().burning().any(|fuse| fuse.spec.directory == directory)
    };
    if known(&asked) {
        return asked;
    }
    let fallback = asked.clone();
    let look = move || {
        let path = Path::new(&asked);
        let real = std::fs::canonicalize(path).or_else(|error| match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => std::fs::canonicalize(parent).map(|parent| parent.join(name)),
            (None, _) | (_, None) => Err(error),
        });
        // A path without its trailing slashes.
        real.unwrap_or_else(|_| path.components().collect::<PathBuf>())
    };
    let found =
        daemon.looks.at(&fallback, look).await.ok().and_then(|path| path.into_os_string().into_string().ok());
    found.unwrap_or(fallback)
}

/// What a script runs with, as the shim takes it: nothing of whoever set the fuse, which may have been weeks ago.
pub(super) fn environment(daemon: &Daemon, id: FuseId) -> Vec<u8> {
    let mut env = super::environment::minimal();
    let core = daemon.core.borrow();
    let script = id.script().to_string();
    let mut set = vec![
        ("AGENTCTL_HOME", daemon.home.path().to_string_lossy().into_owned()),
        // What is started here ends with it, as in any session.
        ("AGENTCTL_SESSION_ID", script.clone()),
        ("AGENTCTL_HOOK", "fuse".to_owned()),
        ("AGENTCTL_HOOK_ID", script),
    ];
    if let Some(fuse) = core.dir_fuses().get(id) {
        set.push(("AGENTCTL_FUSE_DIRECTORY", fuse.spec.directory.clone()));
        set.extend(fuse.spec.label.clone().map(|label| ("AGENTCTL_FUSE_LABEL", label)));
        set.extend(fuse.spec.setter.clone().map(|setter| ("AGENTCTL_FUSE_SESSION_ID", setter)));
    }
    env.extend(set.into_iter().map(|(key, value)| (key.to_owned(), value)));
    super::environment::environ(&env)
}

/// The verdict of a script is durable.
pub(super) fn script_ended(daemon: &Daemon, id: FuseId, script: &Session) {
    let Some(verdict) = &script.run.verdict else { return };
    let (directory, log) = (&script.spec.cwd, log_path(daemon, id));
    let reason = verdict.reason.word();
    match verdict.outcome {
        Outcome::Completed => tracing::info!(directory, "the script of a fuse is done"),
        Outcome::Lost => tracing::error!(
            directory,
            "the script of a fuse was started and nobody can tell how it ended ({reason}); it is not repeated, see {log}"
        ),
        Outcome::Failed | Outcome::Cancelled | Outcome::TimedOut | Outcome::LaunchFailed => {
            let why = verdict.message.as_deref().unwrap_or(&reason);
            tracing::warn!(directory, "the script of a fuse failed: {why}; see {log}");
        }
    }
}
