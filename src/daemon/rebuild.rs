//! At a start: session directories that the journal does not know, read and handed to the core.
//!
//! The journal may be new because it was lost, older than its home because a backup was restored, or short of its last
//! commits. Whatever the cause, a directory in `sessions/` or an exit file in `exits/` is a session, and is recorded
//! before anything else happens. Refuses to decide what the files are worth (core/rebuild.rs), and to delete any.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use crate::core::Event;
use crate::core::rebuild::{
    self, DeadlineTrace, ExitTrace, Hopeless, OrderTrace, Trace, Traces, TreeTrace, VerdictTrace,
};
use crate::core::record::Record;
use crate::core::vocab::{HostId, Now, RunId, SessionId, Wall};
use crate::limits;
use crate::sys;
use crate::wire::session_dir::{self, ExitFile, FileError, LaunchOrder, RunFiles};

use super::journal::Loaded;
use super::{Daemon, Message, removals};

/// What came of it, for `daemon status`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rebuilt {
    /// The journal was missing, and a new one was made.
    pub(crate) fresh: bool,
    /// Sessions, or ends of sessions, that the journal did not know and knows now.
    pub(crate) sessions: usize,
    /// What is there and could not be made use of, and why.
    pub(crate) hopeless: Vec<(SessionId, String)>,
    /// `sessions/` or `exits/` could not be read.
    pub(crate) unread: Option<String>,
}

/// Hands the core what the journal lost, and has removed what it forgot and still has files.
pub(super) fn rebuild(daemon: &Rc<Daemon>, loaded: &Loaded) {
    let mut rebuilt = Rebuilt { fresh: loaded.fresh, ..Rebuilt::default() };
    let now = sys::clock::now();
    let mut sessions = Vec::new();
    match unknown(daemon) {
        Ok(mut found) => {
            for session in &loaded.forgotten {
                daemon.remove_runs(*session, found.remove(session).unwrap_or_default());
            }
            for (session, runs) in found {
                match of_session(daemon, session, &runs, now) {
                    Ok(more) => {
                        rebuilt.sessions += 1;
                        sessions.push(more);
                    }
                    Err(Hopeless(why)) => rebuilt.hopeless.push((session, why)),
                }
            }
        }
        Err(error) => rebuilt.unread = Some(error.to_string()),
    }
    // As they were recorded once: whoever waits for his turn keeps his place.
    sessions.sort_by_key(|records| created_at(records));
    let mut records: Vec<Record> = sessions.into_iter().flatten().collect();
    let ends = missed_ends(daemon, now);
    rebuilt.sessions += ends.len();
    records.extend(ends.into_iter().flatten());
    say(daemon, &rebuilt);
    *daemon.rebuilt.borrow_mut() = rebuilt;
    if !records.is_empty() {
        daemon.take(Event::Rebuilt(records));
    }
}

/// Before anybody can ask: what was rebuilt or taken over has its place in the journal, so that the first answer tells
/// it as every later one does. A journal that cannot be written, or hangs, keeps nobody waiting.
pub(super) async fn until_recorded(daemon: &Rc<Daemon>, messages: &mut UnboundedReceiver<Message>) {
    let upto = daemon.core.borrow().appended();
    let recorded = async {
        while daemon.durable.get() < upto && !daemon.journal_fails() {
            let Some(message) = messages.recv().await else { break };
            daemon.receive(message);
        }
    };
    if timeout(limits::FIRST_COMMIT_TIMEOUT, recorded).await.is_err() {
        tracing::warn!("what was found at this start is not in the journal yet; it is told as not recorded");
    }
}

fn created_at(records: &[Record]) -> Option<(Wall, crate::core::vocab::Mono)> {
    let Some(Record::Created { at, .. }) = records.first() else { return None };
    Some((at.wall, at.mono))
}

fn say(daemon: &Daemon, rebuilt: &Rebuilt) {
    let lost = rebuilt.sessions > 0 || !rebuilt.hopeless.is_empty();
    if rebuilt.fresh && lost {
        tracing::error!(
            "the journal {} was missing; a new one was made (epoch {}). Events, owed webhooks, locks by hand and fuses of before are lost",
            daemon.journal.path().display(),
            daemon.journal.epoch()
        );
    }
    if rebuilt.sessions > 0 {
        tracing::error!(
            sessions = rebuilt.sessions,
            "sessions that the journal did not know were rebuilt from their directories; each says so in meta.rebuilt"
        );
    }
    for (session, why) in &rebuilt.hopeless {
        tracing::error!(%session, "a session that the journal does not know cannot be rebuilt, its files stay: {why}");
    }
    if let Some(why) = &rebuilt.unread {
        tracing::error!("whether the journal knows all sessions cannot be told: {why}");
    }
}

/// The sessions that have files and no record, with the numbers of their runs.
fn unknown(daemon: &Daemon) -> io::Result<BTreeMap<SessionId, BTreeSet<u32>>> {
    let core = daemon.core.borrow();
    let mut found: BTreeMap<SessionId, BTreeSet<u32>> = BTreeMap::new();
    for entry in fs::read_dir(daemon.home.sessions())? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if super::Home::is_condemned(&name) {
            removals::remove_all(&entry.path());
        } else if let Ok(session) = name.parse::<SessionId>()
            && core.session(session).is_none()
            && entry.file_type()?.is_dir()
        {
            found.insert(session, runs_in(&entry.path())?);
        }
    }
    for entry in fs::read_dir(daemon.home.exits())? {
        let name = entry?.file_name();
        let id = name.to_str().and_then(session_dir::parse_exit_file_name);
        if let Some(id) = id.filter(|id| core.session(id.session).is_none()) {
            found.entry(id.session).or_default().insert(id.run);
        }
    }
    Ok(found)
}

/// The numbers in `<kind>.<run>.json`.
fn runs_in(dir: &std::path::Path) -> io::Result<BTreeSet<u32>> {
    let mut runs = BTreeSet::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".json")?.rsplit_once('.'));
        runs.extend(number.and_then(|(_, number)| number.parse::<u32>().ok()).filter(|number| *number > 0));
    }
    Ok(runs)
}

fn of_session(
    daemon: &Daemon,
    session: SessionId,
    runs: &BTreeSet<u32>,
    now: Now,
) -> Result<Vec<Record>, Hopeless> {
    // The last one is what the session is; what came before it is in its files alone.
    let Some(run) = runs.last().copied() else { return Err(Hopeless("it holds no file of a run".into())) };
    let here = daemon.sys.host();
    let files = daemon.home.run_files(RunId { session, run });
    let records = rebuild::rebuild(&gather(&files, here, now), here, now)?;
    // An exit file may be all that is left: its verdict needs a place.
    match session_dir::create_private_dir(files.dir()) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Hopeless(format!("make {}: {error}", files.dir().display())))
        }
        Ok(()) | Err(_) => Ok(records),
    }
}

/// Runs that the journal knows and whose end it lost: their verdict was durable and is written down.
fn missed_ends(daemon: &Daemon, now: Now) -> Vec<Vec<Record>> {
    let core = daemon.core.borrow();
    let open = core.sessions().filter(|session| session.run.verdict.is_none());
    let missed = open.filter_map(|session| {
        let id = session.run_id();
        match verdict(&daemon.home.run_files(id)) {
            Trace::Says(found) => Some(rebuild::missed_end(id, &found, now)),
            Trace::Missing | Trace::Damaged(_) => None,
        }
    });
    missed.collect()
}

fn gather(files: &RunFiles, here: &HostId, now: Now) -> Traces {
    let exit = trace(files.read_exit());
    let exit = match exit {
        Trace::Says(exit) => Some(exit),
        Trace::Missing | Trace::Damaged(_) => files.read_archived_exit().ok(),
    };
    let order = match trace(files.read_claimed()) {
        Trace::Missing => trace(files.read_launch()),
        claimed @ (Trace::Damaged(_) | Trace::Says(_)) => claimed,
    };
    let (leader, shim) = (trace(files.read_leader()), files.read_shim().ok());
    let host = match (&leader, &shim, &exit) {
        (Trace::Says(leader), _, _) => Some(leader.host.clone()),
        (_, Some(shim), _) => Some(shim.host.clone()),
        (_, _, Some(exit)) => Some(exit.host.clone()),
        (_, None, None) => None,
    };
    let same_boot = host.as_ref().is_none_or(|host| host.boot == here.boot);
    let deadline = trace(files.read_deadline());
    Traces {
        run: files.id(),
        created: trace(files.read_created()).map(|created| created.record),
        order: order.map(order_trace),
        leader: leader.map(|leader| leader.process),
        host,
        deadline: deadline.map(|deadline| DeadlineTrace { at: deadline.mono_ns, boot: deadline.boot }),
        verdict: verdict(files),
        exit: exit.as_ref().map(exit_trace),
        tree: files.read_tree().ok().map(|tree| TreeTrace { gone: tree.gone.into(), usage: tree.usage }),
        since: since(files, same_boot, now),
    }
}

fn verdict(files: &RunFiles) -> Trace<VerdictTrace> {
    trace(files.read_verdict()).map(|file| VerdictTrace { verdict: file.verdict, native_id: file.native_id })
}

fn order_trace(order: LaunchOrder) -> OrderTrace {
    let LaunchOrder { argv, cwd, leftovers, grace_ms, .. } = order;
    OrderTrace { command: argv, cwd, leftovers, grace: Duration::from_millis(grace_ms) }
}

fn exit_trace(exit: &ExitFile) -> ExitTrace {
    ExitTrace { leader: exit.leader, never_ran: exit.status.is_none() }
}

/// When the leader was made, else when the launch was ordered. A boot's running time is that of this one or none.
fn since(files: &RunFiles, same_boot: bool, now: Now) -> Now {
    let names = [format!("leader.{}.json", files.id().run), format!("claimed.{}.json", files.id().run)];
    let times = names.iter().filter_map(|name| {
        let changed = fs::metadata(files.dir().join(name)).ok()?.modified().ok()?;
        let since_epoch = changed.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(Wall(i64::try_from(since_epoch.as_micros()).unwrap_or(now.wall.0)))
    });
    let wall = times.into_iter().next().unwrap_or(now.wall);
    let ago = u64::try_from(now.wall.since(wall).as_nanos()).unwrap_or(u64::MAX);
    let mono = if same_boot { now.mono.0.saturating_sub(ago) } else { 0 };
    Now { wall, mono: crate::core::vocab::Mono(mono) }
}

fn trace<T>(read: Result<T, FileError>) -> Trace<T> {
    match read {
        Ok(found) => Trace::Says(found),
        Err(FileError::Missing { .. }) => Trace::Missing,
        Err(error) => Trace::Damaged(error.to_string()),
    }
}
