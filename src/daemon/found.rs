//! Agents that were started outside: one bounded look on demand, and nothing between two of them.
//!
//! A look reads /proc, then the stores of the agents that it found, on a thread of its own: whatever hangs there hangs
//! alone, and costs a warning. What is found is shown and forgotten; nothing of it is recorded, watched or judged.
//! Refuses to show what runs inside a session: that is the session's.

pub(super) mod adopt;
mod files;
mod opencode;
mod opencode_files;
mod scan;
pub(super) mod told;

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::adapters::Known;
use crate::core::fuse::ShimSeen;
use crate::core::vocab::{ProcessId, SessionId};
use crate::limits;
use crate::sys::shown::{self, Ancestry, Numbered, Shown};
use crate::sys::{Backend, ProcessRef};
use crate::wire::api::SessionView;
use crate::wire::found::{Found, WARNING_HEADER};

use super::Daemon;
use super::http::{Answer, Fault, Handled, json_answer};
use told::{Env, Question};

/// What one look came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) found: Vec<Found>,
    /// Those among them whose stores did not answer.
    mute: Vec<ProcessId>,
    pub(super) warnings: Vec<String>,
}

impl Seen {
    /// An agent whose store does not answer this time keeps the id that it had: it is the same process.
    fn keep_names(&mut self, before: &Self) {
        let mute = |found: &&mut Found| found.native_id.is_none() && self.mute.contains(&found.process);
        for found in self.found.iter_mut().filter(mute) {
            let known = before.found.iter().find(|known| known.process.same(&found.process));
            if let Some(known) = known.filter(|known| known.native_id.is_some()) {
                found.id = known.id;
                found.native_id.clone_from(&known.native_id);
            }
        }
    }
}

/// The looks of this daemon: one at a time, shared by all who asked before it began.
#[derive(Default)]
pub(crate) struct Scans {
    begun: Cell<u64>,
    last: tokio::sync::Mutex<Option<(u64, Rc<Seen>)>>,
    /// Of the last look: whether it goes on, and what it has found and does.
    running: Arc<AtomicBool>,
    progress: Cell<Option<Arc<Mutex<scan::Progress>>>>,
    of_kernel: Arc<Mutex<HashSet<Numbered>>>,
    /// About one conversation.
    questions: told::Questions,
}

/// Looks once. Who asks while a look is under way gets the next one, since something may have started meanwhile.
pub(super) async fn look(daemon: &Rc<Daemon>) -> Rc<Seen> {
    let scans = &daemon.scans;
    let asked_after = scans.begun.get();
    let mut last = scans.last.lock().await;
    if let Some((number, seen)) = &*last
        && *number > asked_after
    {
        return Rc::clone(seen);
    }
    scans.begun.set(scans.begun.get() + 1);
    let number = scans.begun.get();
    let mut seen = run(daemon).await;
    if let Some((_, before)) = &*last {
        seen.keep_names(before);
    }
    let seen = Rc::new(seen);
    *last = Some((number, Rc::clone(&seen)));
    seen
}

async fn run(daemon: &Rc<Daemon>) -> Seen {
    let scans = &daemon.scans;
    if scans.running.load(Ordering::Acquire) {
        let hanging = scans.progress.take();
        let doing = hanging.as_ref().map(|progress| locked(progress).doing.clone()).unwrap_or_default();
        scans.progress.set(hanging);
        let warning =
            format!("an earlier look for agents started outside still hangs at {doing}; none are listed");
        return Seen { warnings: vec![warning], ..Seen::default() };
    }
    let progress = Arc::new(Mutex::new(scan::Progress::default()));
    scans.progress.set(Some(Arc::clone(&progress)));
    scans.running.store(true, Ordering::Release);
    let (tell, told) = oneshot::channel::<()>();
    let (job, running) = (job(daemon, Arc::clone(&progress)), Arc::clone(&scans.running));
    let started = std::thread::Builder::new().name("found".into()).spawn(move || {
        scan::scan(&job);
        running.store(false, Ordering::Release);
        // Who asked may have stopped waiting.
        let _late = tell.send(());
    });
    if let Err(error) = started {
        scans.running.store(false, Ordering::Release);
        let warning = format!("agents started outside are not listed: start a thread: {error}");
        return Seen { warnings: vec![warning], ..Seen::default() };
    }
    // Around the channel only.
    let in_time = matches!(timeout(limits::FOUND_TIMEOUT, told).await, Ok(Ok(())));
    let so_far = locked(&progress);
    let mut warnings = so_far.warnings.clone();
    if !in_time {
        let most = limits::FOUND_TIMEOUT.as_millis();
        warnings.push(format!(
            "the look for agents started outside was not over within {most} ms, at {}; some may be missing, or be told \
             incompletely",
            so_far.doing
        ));
    }
    let mute = so_far.found.iter().filter(|agent| !agent.answered).map(|agent| agent.found.process);
    Seen {
        found: so_far.found.iter().map(|agent| agent.found.clone()).collect(),
        mute: mute.collect(),
        warnings,
    }
}

/// A panic elsewhere leaves what was found as good as it was.
fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a look has to know of us.
fn job(daemon: &Daemon, progress: Arc<Mutex<scan::Progress>>) -> scan::Job {
    let core = daemon.core.borrow();
    let known: Vec<Known> = Known::all(&daemon.config.borrow().adapters).collect();
    let mut told = HashSet::new();
    let mut untold: HashMap<(String, String), usize> = HashMap::new();
    for session in core.shown() {
        let adapter = session.spec.adapter.clone();
        match &session.native_id {
            Some(native) => {
                told.insert((adapter, native.clone()));
            }
            None if session.run.verdict.is_none() => {
                *untold.entry((adapter, session.spec.cwd.clone())).or_default() += 1;
            }
            None => {}
        }
    }
    scan::Job {
        known,
        ours: ours(daemon),
        held: held(daemon),
        of_kernel: Arc::clone(&daemon.scans.of_kernel),
        taken: core.sessions().map(|session| session.id).collect(),
        told,
        untold,
        host: daemon.sys.host().clone(),
        by_number: daemon.sys.started().backend == Backend::Portable,
        look: scan::Look::new(limits::FOUND_TIMEOUT_OF_LOOK, progress),
    }
}

/// Our own processes and the roots of our sessions' trees, by number and start time, with the session that each is of.
pub(super) fn ours(daemon: &Daemon) -> BTreeMap<(u32, u64), Option<SessionId>> {
    let core = daemon.core.borrow();
    let mut ours = BTreeMap::new();
    if let Some(myself) = Ancestry::default().one(std::process::id()) {
        ours.insert(myself, None);
    }
    for session in core.sessions().filter(|session| !session.is_settled()) {
        if let Some(leader) = session.run.fuse.leader {
            ours.insert((leader.pid, leader.start_ticks), Some(session.id));
        }
    }
    for (run, handles) in daemon.handles.borrow().iter() {
        for held in [&handles.leader, &handles.shim].into_iter().flatten() {
            ours.insert((held.pid(), held.id().start_ticks), Some(run.session));
        }
    }
    ours
}

/// The numbers of processes of ours that are held and, as far as we know, have not ended.
fn held(daemon: &Daemon) -> HashSet<u32> {
    let (core, handles) = (daemon.core.borrow(), daemon.handles.borrow());
    let mut held = HashSet::from([std::process::id()]);
    for (run, handles) in handles.iter() {
        let Some(session) = core.session(run.session) else { continue };
        if session.run.number != run.run || session.run.verdict.is_some() {
            continue;
        }
        let fuse = &session.run.fuse;
        let leader = handles.leader.as_ref().filter(|_| fuse.ended.is_none());
        let shim = handles.shim.as_ref().filter(|_| fuse.shim == ShimSeen::MayLive);
        held.extend([leader, shim].into_iter().flatten().map(ProcessRef::pid));
    }
    held
}

/// Tells of what an answer lacks, or of what comes with it.
pub(super) fn warn(answer: &mut Response<Answer>, warnings: &[String]) {
    for warning in warnings.iter().take(limits::WARNINGS_MAX) {
        let shown = warning.chars().take(limits::WARNING_CHARS_MAX);
        let shown: String = shown.map(|c| if c.is_control() { ' ' } else { c }).collect();
        if let Ok(value) = HeaderValue::from_bytes(shown.as_bytes()) {
            answer.headers_mut().append(WARNING_HEADER, value);
        }
    }
}

/// What may be asked about an agent that is only shown.
pub(super) enum About {
    /// Its record.
    Itself,
    /// So many of its last messages.
    Said(usize),
}

/// What is said in place of "not found": what was asked of the agent that was meant, or that it must be adopted first.
pub(super) async fn in_place_of(
    daemon: &Rc<Daemon>,
    fault: Fault,
    text: &str,
    asked: Option<About>,
) -> Handled {
    let Ok(found) = named(daemon, text).await? else { return Err(fault) };
    match asked {
        Some(About::Itself) => return Ok(json_answer(StatusCode::OK, &SessionView::of_found(&found))),
        Some(About::Said(count)) => return said(daemon, question(daemon, &found).await?, count).await,
        None => {}
    }
    let id = found.id.short();
    Err(Fault::new(
        StatusCode::CONFLICT,
        format!(
            "{id} was started outside and is only shown; to have it supervised, run: agentctl adopt {id}"
        ),
    ))
}

/// A question to the store of an agent that was found, which is looked at again for that.
async fn question(daemon: &Rc<Daemon>, found: &Found) -> Result<Question, Fault> {
    let short = found.id.short();
    let unknown = || {
        let why = format!("{short} was started outside, and which conversation is its is not known");
        Fault::new(StatusCode::CONFLICT, why)
    };
    let id = found.native_id.clone().ok_or_else(unknown)?;
    let shown = seen(daemon, found.process)
        .await
        .ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("{short} has ended meanwhile")))?;
    let (adapter, cwd) = (found.adapter.clone(), found.cwd.clone());
    Ok(Question { name: format!("{adapter} {short}"), adapter, cwd, env: Env::Of(shown), id })
}

/// A process as it shows itself now; `None`: it has ended, or cannot be looked at.
pub(super) async fn seen(daemon: &Rc<Daemon>, process: ProcessId) -> Option<Arc<Shown>> {
    let by_number = daemon.sys.started().backend == Backend::Portable;
    let looked = spawn_blocking(move || shown::look(process.pid, by_number)).await;
    let shown = looked.ok()?.ok()??;
    shown.process.id().same(&process).then(|| Arc::new(shown))
}

/// The answer with the last messages that an agent's store holds.
pub(super) async fn said(daemon: &Rc<Daemon>, question: Question, count: usize) -> Handled {
    let (name, adapter) = (question.name.clone(), question.adapter.clone());
    let (conversation, warnings) = told::ask(daemon, question).await;
    let Some(conversation) = conversation else {
        let why = warnings.first().map_or_else(
            || format!("{name}: its conversation is in no store of {adapter} that is known here"),
            |warning| format!("{name}: its messages cannot be read: {warning}"),
        );
        return Err(Fault::new(StatusCode::CONFLICT, why));
    };
    let said = &conversation.said[conversation.said.len().saturating_sub(count)..];
    let mut answer = json_answer(StatusCode::OK, said);
    warn(&mut answer, &warnings);
    Ok(answer)
}

/// The agent started outside that `text` names: by its id, or a unique prefix of 4 or more characters. Else what could
/// not be looked at.
pub(super) async fn named(daemon: &Rc<Daemon>, text: &str) -> Result<Result<Found, Vec<String>>, Fault> {
    if text.len() < 4 || !daemon.config.borrow().discover {
        return Ok(Err(Vec::new()));
    }
    let seen = look(daemon).await;
    let mut hits = seen.found.iter().filter(|found| found.id.to_string().starts_with(text));
    match (hits.next(), hits.next()) {
        (Some(_), Some(_)) => Err(Fault::new(
            StatusCode::CONFLICT,
            format!("{text} is ambiguous among the agents that agentctl list shows; give more of the id"),
        )),
        (hit, _) => Ok(hit.cloned().ok_or_else(|| seen.warnings.clone())),
    }
}
