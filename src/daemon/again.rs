//! What is asked of a session beside its life: a signal, and the same launch once more.
//!
//! Refuses to guess what was not kept. A signal goes to pidfds only, and is no stop: nothing is recorded of it.

use std::rc::Rc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};

use crate::core::session::{Origin, Session};
use crate::core::vocab::{RunId, SessionId, millis, signal_name};
use crate::limits;
use crate::sys::Sent;
use crate::sys::tree::Tree;
use crate::wire::again::{Rerun, Signal};
use crate::wire::api::Launch;

use super::http::{Fault, Handled, idempotency_key, read_json, refused, request_key, view_answer};
use super::launches::launch_asked;
use super::perform::{self, Signalled, TreeLook};
use super::{Daemon, adopted};

/// SIGKILL, by number: of this the cgroup has its own way, which nothing escapes by forking.
const KILL: u8 = 9;

/// `POST /v1/sessions/{id}/signal`.
pub(super) async fn signal(daemon: &Rc<Daemon>, id: SessionId, request: Request<Incoming>) -> Handled {
    let asked: Signal = read_json(daemon, request).await?.0;
    let number = asked.number().map_err(|why| Fault::new(StatusCode::BAD_REQUEST, why))?;
    let run = daemon.core.borrow().may_signal(id, asked.tree).map_err(|refusal| refused(&refusal))?;
    let (name, short) = (signal_name(number), id.short());
    let failed = |why: String| {
        Fault::new(StatusCode::CONFLICT, format!("{name} was not sent to session {short}: {why}"))
    };
    tracing::info!(session = %id, signal = name, tree = asked.tree, "a signal is sent, as asked for");
    if asked.tree {
        let sent = if adopted::is_adopted(daemon, run) {
            adopted::signal_and_tell(daemon, run, number, true).await
        } else {
            to_tree(daemon, run, number).await
        };
        sent.and_then(Signalled::answer).map_err(failed)?;
    } else {
        to_leader(daemon, run, number).map_err(failed)?;
    }
    view_answer(daemon, StatusCode::OK, id)
}

/// To each process once.
async fn to_tree(daemon: &Daemon, run: RunId, number: u8) -> Result<Signalled, String> {
    let look = TreeLook::of(daemon, run);
    if number == KILL {
        return perform::signal_all(daemon, &look, number).await;
    }
    let mut all = match look.members(daemon).await {
        Tree::Known(members) => members,
        Tree::Unknown(why) => return Err(format!("the tree cannot be seen: {why}")),
    };
    if perform::is_over(daemon, run) {
        return Err("its run has just ended".into());
    }
    let leader = look.leader.clone();
    all.extend(leader.filter(|leader| !all.iter().any(|member| member.id().same(leader.id()))));
    let mut sent = Signalled::default();
    all.iter().for_each(|process| sent.note(process.pid(), process.signal(number)));
    Ok(sent)
}

fn to_leader(daemon: &Daemon, run: RunId, number: u8) -> Result<(), String> {
    let leader = perform::leader_of(daemon, run);
    let leader = leader.ok_or("its leader cannot be reached from here; see: agentctl status")?;
    match leader.signal(number) {
        Ok(Sent::Sent) => Ok(()),
        Ok(Sent::Gone) => Err("its leader has just ended".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// `POST /v1/sessions/{id}/rerun`.
pub(super) async fn rerun(daemon: &Rc<Daemon>, id: SessionId, request: Request<Incoming>) -> Handled {
    let key = idempotency_key(&request)?;
    let (asked, body): (Rerun, Bytes) = read_json(daemon, request).await?;
    let key = request_key(key, &[b"rerun ", id.0.as_bytes(), &body]);
    drop(body);
    let once_more = {
        let core = daemon.core.borrow();
        let session = core.session(id);
        session.map(|session| launch_of(session, asked)).transpose()
    };
    let once_more = once_more.map_err(|why| Fault::new(StatusCode::CONFLICT, why))?;
    let once_more =
        once_more.ok_or_else(|| refused(&crate::core::refusal::Refusal::NotFound(id.to_string())))?;
    launch_asked(daemon, once_more, key).await
}

/// The launch of a session, as far as it is kept. The error is for the user, and says what has to be given again.
fn launch_of(session: &Session, asked: Rerun) -> Result<Launch, String> {
    let spec = &session.spec;
    let short = session.id.short();
    if session.origin == Origin::Adopted {
        return Err(format!(
            "session {short} was adopted, and how it was started is not known; launch it: agentctl launch"
        ));
    }
    let is_command = spec.adapter == "exec";
    // What a rebuilt session has of its launch (core/rebuild.rs) would be another command, and often was an agent's.
    if is_command && spec.private && session.rebuilt.is_some() {
        let known = match spec.command.first() {
            Some(program) => format!("only the program is known: {program}"),
            None => "nothing is known".to_owned(),
        };
        return Err(format!(
            "session {short} was rebuilt from its files, and of what was launched {known}; launch it: agentctl launch"
        ));
    }
    if is_command && spec.command.is_empty() {
        return Err(format!(
            "session {short} was launched with --private, so its command is not kept; launch it: agentctl launch -- CMD"
        ));
    }
    let prompt = if is_command {
        asked.prompt
    } else {
        asked.prompt.map_or_else(|| prompt_of(session), |new| Ok(Some(new)))?
    };
    let or_none = |time: Option<std::time::Duration>| Some(time.map_or(0, millis));
    let mut meta = spec.meta.clone();
    meta.insert("rerunOf".into(), session.id.to_string());
    let named = spec.notify.iter().map(|named| named.url.as_ref().map_or(&named.endpoint, |url| &url.0));
    Ok(Launch {
        adapter: Some(spec.adapter.clone()),
        command: spec.command.clone(),
        prompt,
        // Made again where it was removed meanwhile.
        worktree: spec.worktree.as_deref().filter(|_| asked.cwd.is_none()).cloned(),
        cwd: Some(asked.cwd.unwrap_or_else(|| spec.cwd.clone())),
        env: asked.env,
        umask: asked.umask,
        nofile: asked.nofile,
        model: asked.model.or_else(|| spec.model.clone()),
        name: asked.name.or_else(|| spec.name.clone()),
        group: spec.group.clone(),
        spec: spec.spec.clone(),
        labels: spec.labels.clone(),
        meta,
        timeout_ms: asked.timeout_ms.or(or_none(spec.timeout)),
        grace_ms: Some(millis(spec.grace)),
        leftovers: Some(spec.leftovers),
        max_tokens: spec.budget.max_tokens,
        max_cost: spec.budget.max_cost,
        memory_max_bytes: spec.limits.memory_max_bytes,
        cpu_quota_percent: spec.limits.cpu_quota_percent,
        tasks_max: spec.limits.tasks_max,
        linger_ms: or_none(spec.linger),
        stuck_ms: or_none(spec.stuck),
        private: spec.private,
        force: asked.force,
        safe: spec.safe,
        acp: spec.acp,
        thinking: spec.thinking.clone(),
        on_create: spec.hooks.on_create.clone(),
        on_complete: spec.hooks.on_complete.clone(),
        notify: named.cloned().collect(),
        ..Launch::default()
    })
}

/// The prompt of an agent's session, where it is certain that all of it is kept.
fn prompt_of(session: &Session) -> Result<Option<String>, String> {
    let why = if session.spec.private {
        "was launched with --private, so its prompt is not kept".to_owned()
    } else if session.run.number > 1 {
        "was resumed, and of its first prompt nothing is kept".to_owned()
    } else {
        match &session.spec.prompt {
            Some(prompt) if prompt.chars().count() >= limits::PROMPT_CHARS_MAX => {
                format!("has a prompt of which only {} characters are kept", limits::PROMPT_CHARS_MAX)
            }
            whole => return Ok(whole.clone()),
        }
    };
    let short = session.id.short();
    Err(format!("session {short} {why}; give it again: agentctl rerun {short} -p TEXT"))
}
