//! `adopt`: whom the user means, whether that may be, and the process held before the core is asked.

use std::rc::Rc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use tokio::task::spawn_blocking;

use crate::adapters::Known;
use crate::adapters::found::{option, recognise};
use crate::core::Request as Ask;
use crate::core::adopt::Adoption;
use crate::core::directory::DirId;
use crate::core::locks::Claim;
use crate::core::refusal::Refusal;
use crate::core::session::Spec;
use crate::core::vocab::{Leftovers, RunId, SessionId};
use crate::sys::shown::{self, Ancestry, Shown};
use crate::sys::{Backend, Found as Held, ProcessRef};
use crate::wire::api::{Launch, optional_ms};
use crate::wire::found::{Adopt, Found, id_of_conversation, id_of_process};

use super::super::http::{Fault, Handled, ask, read_json, refused, view_answer};
use super::super::{Daemon, locks, perform::Handles, prepare};
use super::{look, named, ours};

/// Answers a request to adopt what `target` names: a PID, or the id of an agent that a listing shows.
pub(in crate::daemon) async fn adopt(
    daemon: &Rc<Daemon>,
    target: &str,
    request: Request<Incoming>,
) -> Handled {
    let asked: Adopt = read_json(daemon, request).await?.0;
    // Asked again, perhaps because the answer was lost.
    if let Some(session) = adopted_before(daemon, target) {
        return view_answer(daemon, StatusCode::OK, session);
    }
    let found = match target.parse::<u32>() {
        Ok(pid) => by_pid(daemon, pid).await?,
        Err(_) => by_id(daemon, target).await?,
    };
    let pid = found.process.pid;
    may_be_adopted(daemon, pid)?;
    let leader = hold(daemon, &found)?;
    let run = RunId { session: found.id, run: 1 };
    // Where it cannot be told, its directory goes by its path alone.
    let looked = locks::look(daemon, &found.cwd).await;
    let spec = spec(daemon, &found, looked.ok().and_then(|looked| looked.id), asked)?;
    let adoption = Adoption {
        session: found.id,
        host: daemon.sys.host().clone(),
        spec,
        leader: *leader.id(),
        since: found.started,
    };
    // Held from here on: a stop that comes right behind finds it.
    let mine = daemon.core.borrow().session(run.session).is_none();
    if mine {
        let handles = Handles { leader: Some(leader), ..Handles::default() };
        daemon.handles.borrow_mut().insert(run, Box::new(handles));
    }
    let answer = ask(daemon, Ask::Adopt(Box::new(adoption))).await;
    if mine && daemon.core.borrow().session(run.session).is_none() {
        daemon.handles.borrow_mut().remove(&run);
    }
    answer
}

/// The living session that the target was made before.
fn adopted_before(daemon: &Daemon, target: &str) -> Option<SessionId> {
    let core = daemon.core.borrow();
    let pid = target.parse::<u32>().ok();
    let named = if pid.is_none() { core.resolve(target).ok() } else { None };
    let mut adopted = core.shown().filter(|session| session.run.adopted && session.run.verdict.is_none());
    let meant = adopted.find(|session| match pid {
        Some(pid) => {
            session.run.fuse.ended.is_none()
                && session.run.fuse.leader.is_some_and(|leader| leader.pid == pid)
        }
        None => named == Some(session.id),
    });
    meant.map(|session| session.id)
}

async fn by_id(daemon: &Rc<Daemon>, text: &str) -> Result<Found, Fault> {
    let supervised = daemon.core.borrow().resolve(text);
    match supervised {
        Ok(id) => Err(refused(&Refusal::Supervised(id))),
        Err(Refusal::NotFound(_)) => named(daemon, text).await?.map_err(|unread| {
            let unread = unread.first().map(|warning| format!(" ({warning})")).unwrap_or_default();
            let none = "no agent that was started outside has the id";
            let why = format!("{none} {text}; agentctl list shows them, or name a PID{unread}");
            Fault::new(StatusCode::NOT_FOUND, why)
        }),
        Err(refusal) => Err(refused(&refusal)),
    }
}

/// An agent that a look finds, with what its store tells; else any process of ours, as a command.
async fn by_pid(daemon: &Rc<Daemon>, pid: u32) -> Result<Found, Fault> {
    may_be_adopted(daemon, pid)?;
    let listed = look(daemon).await.found.iter().find(|found| found.process.pid == pid).cloned();
    if let Some(found) = listed {
        return Ok(found);
    }
    let by_number = daemon.sys.started().backend == Backend::Portable;
    let seen = spawn_blocking(move || shown::look(pid, by_number)).await;
    let nobody = |why: String| Fault::new(StatusCode::NOT_FOUND, why);
    let shown = match seen {
        Ok(Ok(Some(shown))) => shown,
        Ok(Ok(None)) => {
            let why = format!(
                "there is no process {pid} of yours that could be adopted: it is not there, has ended, is another \
                 user's, or is the kernel's"
            );
            return Err(nobody(why));
        }
        Ok(Err(error)) => return Err(nobody(format!("look at process {pid}: {error}"))),
        Err(panicked) => return Err(nobody(format!("look at process {pid}: {panicked}"))),
    };
    Ok(as_it_shows_itself(daemon, &shown))
}

/// A process that no look listed (it was late, or the process carries an old session's mark): by its command line, or a
/// command.
fn as_it_shows_itself(daemon: &Daemon, shown: &Shown) -> Found {
    let known: Vec<Known> = Known::all(&daemon.config.borrow().adapters).collect();
    let running = recognise(&known, || shown.exe.clone(), &shown.argv);
    let native_id = running.as_ref().and_then(|running| match &running.adapter {
        Known::BuiltIn(adapter) | Known::Acp(adapter, _) => (adapter.found.id_in)(&running.arguments),
        Known::Declared(_) => None,
    });
    let adapter = running.as_ref().map_or("exec", |running| running.adapter.name()).to_owned();
    let of_conversation = native_id.as_ref().map(|native| id_of_conversation(&adapter, native));
    let is_free = |id: &SessionId| daemon.core.borrow().session(*id).is_none();
    let of_process = id_of_process(daemon.sys.host(), shown.process.id());
    let model = running.as_ref().and_then(|running| option(&running.arguments, &["--model", "-m"]));
    Found {
        id: of_conversation.filter(is_free).unwrap_or(of_process),
        process: *shown.process.id(),
        started: shown.started,
        cwd: shown.cwd.as_ref().map(|cwd| cwd.to_string_lossy().into_owned()).unwrap_or_default(),
        model: model.map(str::to_owned),
        prompt: None,
        native_id,
        tokens: None,
        cost_usd: None,
        idle: false,
        adapter,
    }
}

/// Not the init process, not the daemon, nobody it descends from, nobody of a session.
fn may_be_adopted(daemon: &Daemon, pid: u32) -> Result<(), Fault> {
    let no = |why: String| Err(Fault::new(StatusCode::CONFLICT, why));
    let me = std::process::id();
    let mut ancestry = Ancestry::default();
    if pid <= 1 {
        return no(format!("process {pid} is not adopted: it is everybody's"));
    }
    if pid == me {
        return no(format!("process {pid} is the daemon itself, and is not adopted"));
    }
    if ancestry.of(me).iter().any(|(ancestor, _)| *ancestor == pid) {
        return no(format!(
            "process {pid} is not adopted: the daemon descends from it, and a stop would end both; start the daemon \
             elsewhere (agentctl daemon install --now)"
        ));
    }
    let ours = ours(daemon);
    match ancestry.of(pid).iter().find_map(|ancestor| ours.get(ancestor)) {
        Some(Some(session)) => {
            no(format!("process {pid} is not adopted: it belongs to session {}", session.short()))
        }
        Some(None) => no(format!("process {pid} is not adopted: the daemon started it")),
        None => Ok(()),
    }
}

/// Exactly the process that was looked at, held.
fn hold(daemon: &Daemon, found: &Found) -> Result<ProcessRef, Fault> {
    let pid = found.process.pid;
    let held = match daemon.sys.started().backend {
        Backend::Portable => ProcessRef::find_portable(&found.process),
        Backend::Uring | Backend::Epoll => ProcessRef::find(&found.process),
    };
    match held {
        Held::Alive(process) => Ok(process),
        Held::Ended(_) | Held::Gone => {
            Err(Fault::new(StatusCode::NOT_FOUND, format!("process {pid} has ended meanwhile")))
        }
        Held::Unknown(why) => {
            Err(Fault::new(StatusCode::CONFLICT, format!("process {pid} cannot be held: {why}")))
        }
    }
}

fn spec(daemon: &Daemon, found: &Found, dir: Option<DirId>, asked: Adopt) -> Result<Spec, Fault> {
    let Adopt { name, group, labels, timeout_ms, grace_ms } = asked;
    let words = Launch { name, group, labels, ..Launch::default() };
    prepare::check_words(&words).map_err(|why| Fault::new(StatusCode::BAD_REQUEST, why))?;
    let config = daemon.config.borrow();
    let adapter = Known::find(&found.adapter, &config.adapters);
    Ok(Spec {
        model: found.model.clone(),
        prompt: found.prompt.clone(),
        name: words.name,
        group: words.group,
        labels: words.labels,
        timeout: optional_ms(timeout_ms, None),
        // What it leaves behind is its owner's.
        leftovers: Leftovers::Keep,
        // Of a later run, which is ours; how this one was allowed to work is not known, so that one asks.
        wants_report: adapter.is_some_and(|adapter| adapter.parser().is_some()),
        safe: true,
        native_id: found.native_id.clone(),
        claim: Claim { dir, ..Claim::default() },
        adapter: found.adapter.clone(),
        ..Spec::exec(
            Vec::new(),
            found.cwd.clone(),
            grace_ms.map_or(config.grace, std::time::Duration::from_millis),
        )
    })
}
