//! The requests for runs: a launch, and a session that is taken up again.
//!
//! Owns the way of a request from its body to its answer. Refuses to know what a launch consists of (prepare.rs), who has to
//! wait (core/queue.rs), and how what it needs is kept until then (queue.rs).

use std::rc::Rc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use uuid::Uuid;

use crate::core::Request as Ask;
use crate::core::agent::Stored;
use crate::core::directory::Directory;
use crate::core::locks::IfTaken;
use crate::core::record::RequestKey;
use crate::core::session::{Origin, Session};
use crate::core::vocab::{RunId, SessionId};
use crate::wire::api;

use super::found::told::{self, Env, Question};
use super::http::{Fault, Handled, ask, idempotency_key, read_json, request_key};
use super::prepare::{self, Resumption};
use super::queue::{self, Need};
use super::{Daemon, found};

/// `POST /v1/sessions`.
pub(super) async fn launch_session(daemon: &Rc<Daemon>, request: Request<Incoming>) -> Handled {
    let key = idempotency_key(&request)?;
    let (asked, body): (api::Launch, Bytes) = read_json(daemon, request).await?;
    let key = request_key(key, &[&body]);
    drop(body);
    launch_asked(daemon, asked, key).await
}

/// Launches what is asked for, and answers with its record.
pub(super) async fn launch_asked(
    daemon: &Rc<Daemon>,
    asked: api::Launch,
    key: Option<RequestKey>,
) -> Handled {
    let session = SessionId(Uuid::new_v4());
    let prepared = prepare::prepare(daemon, session, asked).await;
    let (spec, parcel) = prepared.map_err(|why| Fault::new(StatusCode::BAD_REQUEST, why))?;
    let need = Need { run: RunId { session, run: 1 }, parcel, if_taken: spec.claim.if_taken };
    after_the_last(daemon, &spec.directory(), spec.claim.if_taken).await;
    let host = daemon.sys.host().clone();
    let wish = Ask::Launch { session, host, origin: Origin::Launched, spec: Box::new(spec), key };
    let asking = Rc::clone(daemon);
    let answer = queue::hand_in(daemon, vec![need], async move { ask(&asking, wish).await }).await?;
    advised(daemon, answer)
}

/// `POST /v1/sessions/{id}/resume`.
pub(super) async fn resume_session(
    daemon: &Rc<Daemon>,
    id: SessionId,
    request: Request<Incoming>,
) -> Handled {
    let key = idempotency_key(&request)?;
    let (resume, body): (api::Resume, Bytes) = read_json(daemon, request).await?;
    let key = request_key(key, &[b"resume ", id.0.as_bytes(), &body]);
    drop(body);
    // Who comes right after the end finds the rest of the tree being ended: that is helped along and awaited.
    let leaving = daemon.core.borrow().session(id).is_some_and(Session::is_leaving);
    if leaving {
        ask(daemon, Ask::Stop { session: id, force: false }).await?;
    }
    // What a run needs is kept by the run's number, which two at once would both take for theirs.
    let turn = daemon.resumes.take(id).await;
    let stored = Box::new(stored(daemon, id, &resume).await);
    let Resumption { run, prompt, parcel, timeout, claim } =
        prepare::prepare_resume(daemon, id, &resume).await?;
    let directory = daemon.core.borrow().session(id).and_then(Session::directory);
    if let Some(directory) = directory {
        after_the_last(daemon, &Directory { id: claim.dir.clone(), ..directory }, claim.if_taken).await;
    }
    let need = Need { run, parcel, if_taken: claim.if_taken };
    let host = daemon.sys.host().clone();
    let claim = Box::new(claim);
    let wish = Ask::Resume { session: id, host, prompt, timeout, claim, key, stored };
    let asking = Rc::clone(daemon);
    let asking = async move {
        let answer = ask(&asking, wish).await;
        drop(turn);
        answer
    };
    let answer = queue::hand_in(daemon, vec![need], asking).await?;
    advised(daemon, answer)
}

/// Who comes right after an end finds what remains of that tree being ended, and the directory taken for that long. It is
/// helped along and awaited; who would wait in the line anyway does so.
async fn after_the_last(daemon: &Rc<Daemon>, directory: &Directory, if_taken: IfTaken) {
    let leaving = || daemon.core.borrow().leaving(directory).filter(|_| if_taken == IfTaken::Refuse);
    let mut before = None;
    // One that does not go, whatever is answered, is what the launch is refused for.
    while let Some(session) = leaving().filter(|session| before != Some(*session)) {
        before = Some(session);
        let _gone_or_not = ask(daemon, Ask::Stop { session, force: false }).await;
    }
}

/// A launch, with what there is to know before a logout.
pub(super) fn advised(daemon: &Daemon, answer: Handled) -> Handled {
    let mut answer = answer?;
    let advice = daemon.places.advice(crate::sys::clock::now().mono);
    found::warn(&mut answer, advice.as_slice());
    Ok(answer)
}

/// What the agent's store says that the conversation has used, which is what its totals go on from.
async fn stored(daemon: &Rc<Daemon>, id: SessionId, resume: &api::Resume) -> Stored {
    let env = Env::Given(resume.env.clone());
    let question = daemon.core.borrow().session(id).and_then(|session| Question::of(session, env));
    let Some(question) = question else { return Stored::default() };
    let (conversation, warnings) = told::ask(daemon, question).await;
    for warning in warnings {
        tracing::warn!(session = %id, "what was used before is not known from the agent's store: {warning}");
    }
    conversation.map_or_else(Stored::default, |told| Stored { tokens: told.tokens, cost_usd: told.cost_usd })
}
