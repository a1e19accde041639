//! After a start: what an earlier life of the daemon left, found and held again.
//!
//! Gathers [`Found`] in the order that the proof needs (core/reattach.rs) and keeps what it opened on the
//! way. Refuses to conclude anything; a trace that cannot be read is reported as that.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use tokio::task::spawn_local;

use crate::core::Event;
use crate::core::fuse::{Evidence, Prong};
use crate::core::reattach::{Found, OrderFound, Seen, ShimFound};
use crate::core::session::Session;
use crate::core::vocab::{HostId, ProcessId, RunId};
use crate::sys::{Backend, ProcessRef};
use crate::wire::session_dir::{ExitFile, FileError, RunFiles, ShimLock, answer};

use super::old_tool::import::status_left;
use super::perform::{self, Handles};
use super::reach::Reach;
use super::{Daemon, adopted, exit_files, follow, hooks, launch};

/// Looks at every run that is not settled, then lets deadlines begin.
pub(super) async fn recover(daemon: &Rc<Daemon>) {
    let unsettled: Vec<(RunId, Arc<HostId>)> = {
        let core = daemon.core.borrow();
        let unsettled = core.sessions().filter(|session| !session.is_settled() && !session.run.is_queued());
        unsettled.map(|session| (session.run_id(), session.run.host.clone())).collect()
    };
    let count = unsettled.len();
    for (id, host) in unsettled {
        reattach(daemon, id, &host);
        // One long list must not keep requests from being accepted.
        tokio::task::yield_now().await;
    }
    write_missing_verdicts(daemon);
    daemon.take(Event::Recovered);
    daemon.arm_timer();
    exit_files::measure_all(daemon);
    if count > 0 {
        tracing::info!(runs = count, "looked at what was left running");
    }
}

/// A crash may have fallen between a verdict's commit and its file.
fn write_missing_verdicts(daemon: &Rc<Daemon>) {
    let decided: Vec<RunId> = {
        let core = daemon.core.borrow();
        let told = core.sessions().filter(|session| session.run.verdict.is_some() && core.may_tell(session));
        told.map(|session| session.run_id()).collect()
    };
    for id in decided {
        if let Some(session) = daemon.core.borrow().session(id.session) {
            hooks::sweep(daemon, session);
        }
        let files = daemon.home.run_files(id);
        let missing = |path: &std::path::Path| path.try_exists().is_ok_and(|there| !there);
        if missing(&files.verdict_path()) && !missing(files.dir()) {
            exit_files::archive(daemon, id);
        }
    }
}

/// Looks at a run of this life whose launch went astray.
pub(super) fn look_again(daemon: &Rc<Daemon>, id: RunId) {
    let host = daemon.sys.host().clone();
    reattach(daemon, id, &host);
}

fn reattach(daemon: &Rc<Daemon>, id: RunId, host: &HostId) {
    let mut reach = Reach::of_host(daemon, host);
    if reach == Reach::EarlierBoot && shim_found(&daemon.home.run_files(id), reach) == ShimFound::Lives {
        // Of a container in the instant of its end; the next start will tell.
        reach = Reach::OtherNamespace;
    }
    let decided = perform::has_verdict(daemon, id);
    let (found, handles) = match gather(daemon, id, reach, decided) {
        Ok(gathered) => {
            exit_files::answered(daemon, id);
            gathered
        }
        Err(error) => return reattach_later(daemon, id, host, &error),
    };
    if found.begins_again() {
        daemon.take(Event::Evidence(id, Evidence::Withdrawn));
        return;
    }
    let in_the_making = found.shim == ShimFound::Lives && found.leader.is_none() && reach == Reach::Here;
    if found.shim == ShimFound::Lives && handles.shim.is_none() && reach == Reach::Here {
        // It held its lock a moment ago and cannot be held by us: most likely it has just ended.
        spawn_local(perform::shim_ended(Rc::clone(daemon), id, None));
    }
    if let Some(leader) = &handles.leader {
        perform::watch_leader(daemon, id, leader);
    }
    if let Some(shim) = &handles.shim {
        perform::watch_shim(daemon, id, shim);
    }
    daemon.handles.borrow_mut().insert(id, Box::new(handles));
    // Of an earlier agentctl's wrapper, which ends with that: also of one that ended before the host did.
    let left = if found.seen == Seen::Alive { None } else { status_left(daemon, id) };
    if let Some(status) = left {
        daemon.take(Event::Evidence(id, Evidence::KernelStatus(Some(status), Prong::ExitFile)));
    }
    for evidence in found.evidence() {
        daemon.take(Event::Evidence(id, evidence));
    }
    if in_the_making {
        perform::await_leader(daemon, id);
    }
    if let Some(why) = reach.limit() {
        daemon.take(Event::Evidence(id, Evidence::CannotTell(why.to_owned())));
    }
    if reach == Reach::Here {
        launch::check_deadline(daemon, id);
    }
    match adopted_leader(daemon, id) {
        Some(leader) => adopted::look_at(daemon, id, leader),
        None => follow::parse(daemon, id),
    }
}

/// Half a look proves nothing: all of it is done again. Until then the run is what its record says.
fn reattach_later(daemon: &Rc<Daemon>, id: RunId, host: &HostId, error: &FileError) {
    tracing::error!(session = %id.session, "what an earlier life left cannot be read now, and is looked at again: {error}");
    let host = host.clone();
    exit_files::after_a_pause(daemon, id, move |daemon| {
        if !perform::is_over(daemon, id) {
            reattach(daemon, id, &host);
        }
    });
}

/// All that is left of a run. An error is no answer.
fn gather(daemon: &Daemon, id: RunId, reach: Reach, decided: bool) -> Result<(Found, Handles), FileError> {
    let files = daemon.home.run_files(id);
    // The lock first: what is read after it was free is all that will ever be there.
    let shim = shim_found(&files, reach);
    let order = order_found(&files, shim, reach)?;
    let leader = match (files.read_leader(), adopted_leader(daemon, id)) {
        // A crash may have fallen between the record of an adoption and its file.
        (Err(error), Some(recorded)) if launch::is_missing(&error) => Ok(recorded),
        (read, _) => read.map(|leader| leader.process),
    };
    let leader = answer(leader)?;
    let mut handles = Handles { cgroup: cgroup_of(&files), ..Handles::default() };
    let seen = match &leader {
        Ok(leader) => seen(daemon, leader, reach, &mut handles),
        Err(error) if launch::is_missing(error) => Seen::NotAsked,
        Err(error) => Seen::Unknown(error.to_string()),
    };
    let exit = exit_found(&files, shim, decided)?;
    sweep(&files, shim);
    if shim == ShimFound::Lives {
        handles.shim = hold_shim(daemon, &files, reach);
    }
    let found = Found {
        rebooted: reach == Reach::EarlierBoot,
        shim,
        order,
        kept: daemon.core.borrow().session(id.session).is_some_and(Session::may_begin_again),
        leader: leader.ok(),
        seen,
        exit: exit.map(exit_files::report),
        tree: files.read_tree().ok().map(|tree| tree.usage),
    };
    Ok((found, handles))
}

/// The exit file of a run. An error is no answer.
fn exit_found(files: &RunFiles, shim: ShimFound, decided: bool) -> Result<Option<ExitFile>, FileError> {
    match answer(files.read_exit())? {
        Ok(exit) => Ok(Some(exit)),
        Err(error) if launch::is_missing(&error) => {
            exit_files::left_behind(files, shim == ShimFound::Gone, decided)
        }
        Err(_) => Ok(None),
    }
}

/// Who leads a run that somebody else started, by its record.
fn adopted_leader(daemon: &Daemon, id: RunId) -> Option<ProcessId> {
    let core = daemon.core.borrow();
    let run = core.session(id.session).map(|session| &session.run)?;
    run.fuse.leader.filter(|_| run.adopted)
}

/// Environment and prompt of a launch that was interrupted: nobody needs them any more.
fn sweep(files: &RunFiles, shim: ShimFound) {
    perform::sweep_half_written(files, shim == ShimFound::Gone);
    if shim != ShimFound::Gone {
        return;
    }
    for name in [files.env_name(), files.prompt_name(), files.input_name()] {
        match std::fs::remove_file(files.dir().join(&name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("remove {name}: {error}")
            }
            Ok(()) | Err(_) => {}
        }
    }
}

fn shim_found(files: &RunFiles, reach: Reach) -> ShimFound {
    if reach == Reach::OtherMachine {
        return ShimFound::Unknown;
    }
    match files.shim_lock() {
        Ok(ShimLock::Held) => ShimFound::Lives,
        Ok(ShimLock::Free | ShimLock::NoFile) => ShimFound::Gone,
        Err(error) => {
            tracing::error!(session = %files.id().session, "the shim's lock cannot be tried: {error}");
            ShimFound::Unknown
        }
    }
}

fn order_found(files: &RunFiles, shim: ShimFound, reach: Reach) -> Result<OrderFound, FileError> {
    if reach == Reach::OtherMachine {
        return Ok(OrderFound::Unknown);
    }
    Ok(match files.abandon() {
        Ok(true) => OrderFound::Withdrawn,
        Ok(false) => match answer(files.read_claimed())? {
            Ok(_) => OrderFound::Claimed,
            // Nothing was ever written, or it was taken back before.
            Err(_) if shim == ShimFound::Gone => OrderFound::Withdrawn,
            Err(_) => OrderFound::Unknown,
        },
        Err(_) => OrderFound::Unknown,
    })
}

fn seen(daemon: &Daemon, leader: &ProcessId, reach: Reach, handles: &mut Handles) -> Seen {
    match reach {
        Reach::Here => {}
        Reach::EarlierBoot => return Seen::Gone,
        Reach::OtherNamespace | Reach::OtherMachine => return Seen::NotAsked,
    }
    let portable = daemon.sys.started().backend == Backend::Portable;
    match if portable { ProcessRef::find_portable(leader) } else { ProcessRef::find(leader) } {
        crate::sys::Found::Alive(process) => {
            handles.leader = Some(process);
            if portable { Seen::NotAsked } else { Seen::Alive }
        }
        crate::sys::Found::Ended(process) => {
            handles.leader = Some(process);
            Seen::Ended
        }
        crate::sys::Found::Gone => Seen::Gone,
        crate::sys::Found::Unknown(why) => Seen::Unknown(why),
    }
}

fn hold_shim(daemon: &Daemon, files: &RunFiles, reach: Reach) -> Option<ProcessRef> {
    if reach != Reach::Here {
        return None;
    }
    let identity = files.read_shim().ok()?;
    let portable = daemon.sys.started().backend == Backend::Portable;
    let found = if portable {
        ProcessRef::find_portable(&identity.process)
    } else {
        ProcessRef::find(&identity.process)
    };
    match found {
        crate::sys::Found::Alive(process) | crate::sys::Found::Ended(process) => Some(process),
        crate::sys::Found::Gone | crate::sys::Found::Unknown(_) => None,
    }
}

/// The claimed order names the cgroup that was made for the run.
fn cgroup_of(files: &RunFiles) -> Option<PathBuf> {
    files.read_claimed().ok().and_then(|order| order.cgroup).map(PathBuf::from)
}
