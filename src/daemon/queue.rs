//! Launches that wait, at the edge: what they will need, kept in files until their turn comes, and thrown away after it.
//!
//! The file is there before the core is asked, so a launch that is recorded as queued can be begun by any later life of the
//! daemon; one of which nothing came is thrown away at once, and what a crash has left of it at the next start. Refuses to
//! decide whose turn it is (core/queue.rs).

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use hyper::StatusCode;
use serde_json::{Value, json};
use tokio::task::{spawn_blocking, spawn_local};

use crate::adapters::FirstStart;
use crate::config::Durability;
use crate::core::locks::IfTaken;
use crate::core::queue::WaitsFor;
use crate::core::session::Session;
use crate::core::vocab::{RunId, SessionId};
use crate::wire::api::{self, SessionView};
use crate::wire::parcel::{self, FirstStartFile, ParcelFile};
use crate::wire::session_dir::{self, ShimLock, Version};
use crate::wire::time::rfc3339;

use super::http::Fault;
use super::launch::Parcel;
use super::{Daemon, blocking, hooks};

/// A shim of an earlier life that finds its order taken back is gone within milliseconds.
const SHIM_LOOKS_MAX: u32 = 100;
const SHIM_LOOK_EVERY: Duration = Duration::from_millis(20);

/// A run that is asked for, and what it will need.
pub(super) struct Need {
    pub(super) run: RunId,
    pub(super) parcel: Parcel,
    pub(super) if_taken: IfTaken,
}

/// Asks for runs: keeps what they will need until `ask` has its answer, and throws away what nothing comes of. All of it
/// happens whether the client stays or not.
pub(super) async fn hand_in<T: 'static>(
    daemon: &Rc<Daemon>,
    needs: Vec<Need>,
    ask: impl Future<Output = T> + 'static,
) -> Result<T, Fault> {
    let daemon = Rc::clone(daemon);
    let handed = spawn_local(async move {
        let runs: Vec<RunId> = needs.iter().map(|need| need.run).collect();
        let answer = match hold(&daemon, needs).await {
            Ok(()) => Ok(ask.await),
            Err(fault) => Err(fault),
        };
        for run in runs {
            settle(&daemon, run);
        }
        answer
    });
    handed.await.unwrap_or_else(|_| {
        let why = "the launch broke off; see: agentctl list -a";
        Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, why))
    })
}

async fn hold(daemon: &Rc<Daemon>, needs: Vec<Need>) -> Result<(), Fault> {
    for Need { run, parcel, if_taken } in needs {
        if if_taken == IfTaken::Queue {
            keep(daemon, run, &parcel).await?;
        }
        daemon.parcels.borrow_mut().insert(run, parcel);
    }
    Ok(())
}

/// After the core was asked. Of a run that was refused, or is an earlier request's, nothing is needed; one that waits has
/// its file, and no place in memory.
fn settle(daemon: &Rc<Daemon>, run: RunId) {
    let waits = {
        let core = daemon.core.borrow();
        let session = core.session(run.session).filter(|session| session.run.number >= run.run);
        session.map(|session| session.run_id() == run && session.run.is_queued())
    };
    match waits {
        None => discard(daemon, run),
        Some(true) => {
            daemon.parcels.borrow_mut().remove(&run);
        }
        Some(false) => {}
    }
}

/// Keeps what the launch will need. The error is for the user.
async fn keep(daemon: &Rc<Daemon>, run: RunId, parcel: &Parcel) -> Result<(), Fault> {
    let env = parcel.env.split(|byte| *byte == 0).filter(|var| !var.is_empty());
    let file = ParcelFile {
        v: Version,
        argv: parcel.argv.clone(),
        env: env.map(|var| String::from_utf8_lossy(var).into_owned()).collect(),
        prompt: parcel.prompt.clone(),
        umask: parcel.umask,
        nofile: parcel.nofile,
        for_hooks: parcel.for_hooks,
        first_start: parcel.first_start.as_ref().map(|first| FirstStartFile {
            key: first.key.clone(),
            done_when_larger: first.done_when_larger.clone(),
        }),
    };
    let dir = daemon.home.queued();
    let synced = daemon.config.borrow().durability == Durability::Full;
    let written = blocking(move || {
        let bytes = serde_json::to_vec(&file).map_err(io::Error::other)?;
        let name = parcel::name(run);
        session_dir::write_atomic(&dir, &name, &bytes, session_dir::FILE_MODE)?;
        if synced {
            // As durable as the record that counts on it.
            File::open(dir.join(name))?.sync_all()?;
            File::open(&dir)?.sync_all()?;
        }
        Ok(())
    });
    written.await.map_err(|error| {
        let why = format!(
            "what the launch will need cannot be kept in {}: {error}; it is not queued",
            daemon.home.queued().display()
        );
        Fault::new(StatusCode::INSUFFICIENT_STORAGE, why)
    })
}

/// What was kept. Blocks.
pub(super) fn kept(dir: &Path, run: RunId) -> Result<Parcel, String> {
    let path = dir.join(parcel::name(run));
    let read = fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<ParcelFile>(&bytes)?));
    let file =
        read.map_err(|error| format!("read what the queued launch needs, {}: {error}", path.display()))?;
    Ok(Parcel {
        argv: file.argv,
        env: file.env.iter().flat_map(|var| [var.as_bytes(), b"\0"].concat()).collect(),
        prompt: file.prompt,
        umask: file.umask,
        nofile: file.nofile,
        first_start: file
            .first_start
            .map(|first| FirstStart { key: first.key, done_when_larger: first.done_when_larger }),
        for_hooks: file.for_hooks,
    })
}

/// The parcel of a run whose turn has come, and its directory made ready for another order: an earlier life may have given
/// one that no shim claimed.
pub(super) async fn unpack(daemon: &Rc<Daemon>, run: RunId) -> Result<Parcel, String> {
    let (dir, files) = (daemon.home.queued(), daemon.home.run_files(run));
    for _ in 0..SHIM_LOOKS_MAX {
        match files.shim_lock() {
            Ok(ShimLock::Held) => tokio::time::sleep(SHIM_LOOK_EVERY).await,
            Ok(ShimLock::Free | ShimLock::NoFile) | Err(_) => break,
        }
    }
    let unpacked = spawn_blocking(move || {
        files.forget_unclaimed().map_err(|error| format!("take back an earlier launch order: {error}"))?;
        kept(&dir, run)
    });
    unpacked.await.unwrap_or_else(|panicked| Err(panicked.to_string()))
}

/// Throws away what a launch needed. A hook at the end of a session that never began still needs its environment.
pub(super) fn discard(daemon: &Rc<Daemon>, run: RunId) {
    daemon.parcels.borrow_mut().remove(&run);
    let path = daemon.home.queued().join(parcel::name(run));
    let for_hook = daemon.core.borrow().session(run.session).is_some_and(|session| {
        session.run_id() == run
            && session.run.verdict.is_some()
            && session.run.started.is_none()
            && session.spec.hooks.on_complete.is_some()
    });
    if for_hook && let Ok(parcel) = kept(&daemon.home.queued(), run) {
        let dir = daemon.home.session(run.session);
        if let Err(error) = hooks::keep_environment(&dir, &parcel.env) {
            tracing::warn!(session = %run.session, "keep the environment for hooks: {error}");
        }
    }
    remove(&path);
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("remove {}: {error}", path.display());
        }
        Ok(()) | Err(_) => {}
    }
}

/// At a start, when all records are known: files of launches that were never recorded, or have begun, or are over.
pub(super) fn sweep(daemon: &Daemon) {
    if daemon.rebuilt.borrow().unread.is_some() {
        // Whose they are cannot be told.
        return;
    }
    let core = daemon.core.borrow();
    let needed: std::collections::HashSet<String> = core
        .sessions()
        .filter(|session| session.keeps_parcel())
        .map(|session| parcel::name(session.run_id()))
        .collect();
    let entries = match fs::read_dir(daemon.home.queued()) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!("look into {}: {error}", daemon.home.queued().display());
            return;
        }
    };
    for entry in entries.flatten() {
        let stray = entry.file_name().to_str().is_none_or(|name| !needed.contains(name));
        if stray {
            remove(&entry.path());
        }
    }
}

/// What a queued session waits for, for its record.
pub(super) fn show(daemon: &Daemon, session: &Session, view: &mut SessionView) {
    if !session.run.is_queued() || session.run.verdict.is_some() {
        return;
    }
    let waits_for = daemon.core.borrow().waits_for(session);
    let other = |id: &SessionId| json!(id.to_string());
    let (text, id) = match &waits_for {
        WaitsFor::Lock { by, reason: Some(reason) } => {
            (format!("the directory is locked by {by}: {reason}"), Value::Null)
        }
        WaitsFor::Lock { by, reason: None } => (format!("the directory is locked by {by}"), Value::Null),
        WaitsFor::Session(id) => (format!("the directory is in use by session {}", id.short()), other(id)),
        WaitsFor::Line(id) => {
            (format!("session {} was queued before it for the directory", id.short()), other(id))
        }
        WaitsFor::Place(most) => {
            (format!("{most} sessions run, the most that may (max_sessions)"), Value::Null)
        }
        WaitsFor::PlaceOfAdapter(most) => {
            let adapter = &session.spec.adapter;
            let text = format!("{most} sessions of {adapter} run, the most that may (adapter_max_sessions)");
            (text, Value::Null)
        }
        WaitsFor::Nothing => ("it is about to begin".to_owned(), Value::Null),
    };
    let since = rfc3339(session.run.begun.wall);
    view.meta.insert("queued".into(), json!({"since": since, "waitsFor": text, "sessionId": id}));
}

/// What a request says of a directory that is taken; the error is for the user.
pub(super) fn if_taken(force: bool, queue: bool) -> Result<IfTaken, String> {
    api::if_taken(force, queue)
        .ok_or_else(|| "force and queue exclude each other: one goes ahead, the other waits".to_owned())
}
