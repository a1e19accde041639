//! What an agent's own store tells of one conversation, asked on demand.
//!
//! On a thread of its own that is waited for a moment: a store that hangs costs what it would have told, never the answer.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::adapters::Known;
use crate::adapters::found::Store;
use crate::core::session::Session;
use crate::core::vocab::RunId;
use crate::limits;
use crate::sys::shown::Shown;

use super::scan::{Conversation, Look, Progress, Whose, in_store};
use super::{files, locked};
use crate::daemon::{Daemon, adopted};

/// Questions to stores that are under way.
#[derive(Default)]
pub(in crate::daemon) struct Questions {
    running: Arc<AtomicUsize>,
}

/// The environment in which a store is looked for.
#[derive(Clone)]
pub(in crate::daemon) enum Env {
    /// That of a process which was looked at.
    Of(Arc<Shown>),
    /// That which a run is to have; else our own.
    Given(Option<BTreeMap<String, String>>),
}

impl Env {
    fn var(&self, name: &str) -> Option<OsString> {
        match self {
            Self::Of(shown) => shown.var(name),
            Self::Given(Some(vars)) => vars.get(name).map(OsString::from),
            Self::Given(None) => std::env::var_os(name),
        }
    }

    fn same_files(&self) -> bool {
        match self {
            Self::Of(shown) => shown.same_files,
            Self::Given(_) => true,
        }
    }
}

/// Whose conversation is asked about.
pub(in crate::daemon) struct Question {
    pub(in crate::daemon) name: String,
    pub(in crate::daemon) adapter: String,
    pub(in crate::daemon) cwd: String,
    pub(in crate::daemon) env: Env,
    pub(in crate::daemon) id: String,
}

impl Question {
    /// About a session that has told its conversation.
    pub(in crate::daemon) fn of(session: &Session, env: Env) -> Option<Self> {
        Some(Self {
            name: format!("session {}", session.id.short()),
            adapter: session.spec.adapter.clone(),
            cwd: session.spec.cwd.clone(),
            env,
            id: session.native_id.clone()?,
        })
    }
}

/// What the store tells, and what could not be read of it. No conversation: it is not there, or there is no store.
pub(in crate::daemon) async fn ask(
    daemon: &Rc<Daemon>,
    question: Question,
) -> (Option<Conversation>, Vec<String>) {
    let known = Known::find(&question.adapter, &daemon.config.borrow().adapters);
    let store = match known {
        Some(Known::BuiltIn(adapter) | Known::Acp(adapter, _)) => adapter.found.store,
        Some(Known::Declared(_)) | None => None,
    };
    let Some(store) = store.filter(|_| question.env.same_files()) else { return (None, Vec::new()) };
    let questions = &daemon.scans.questions;
    if questions.running.load(Ordering::Acquire) >= limits::STORE_QUESTIONS_MAX {
        return (None, vec![format!("{}: other stores have not answered yet", question.name)]);
    }
    questions.running.fetch_add(1, Ordering::AcqRel);
    let running = Arc::clone(&questions.running);
    let progress = Arc::new(Mutex::new(Progress::default()));
    let look = Look::new(limits::STORE_QUESTION_TIMEOUT, Arc::clone(&progress));
    let (tell, told) = oneshot::channel();
    let started = std::thread::Builder::new().name("store".into()).spawn(move || {
        let found = of_store(&look, &question, &store);
        running.fetch_sub(1, Ordering::AcqRel);
        // Who asked may have stopped waiting.
        let _late = tell.send(found);
    });
    if started.is_err() {
        questions.running.fetch_sub(1, Ordering::AcqRel);
    }
    // Around the channel only.
    let found = timeout(limits::STORE_QUESTION_TIMEOUT, told).await;
    let progress = locked(&progress);
    let mut warnings = progress.warnings.clone();
    match found {
        Ok(Ok(found)) => (found, warnings),
        Ok(Err(_)) | Err(_) => {
            let most = limits::STORE_QUESTION_TIMEOUT.as_millis();
            warnings.push(format!("{} did not answer within {most} ms", progress.doing));
            (None, warnings)
        }
    }
}

/// What the store of an agent that was talked to in ACP tells once it has ended: the protocol has no word for some of it.
/// `None`: it keeps none that is known here, or does not answer.
pub(in crate::daemon) async fn of_talk(daemon: &Rc<Daemon>, id: RunId) -> Option<Conversation> {
    let is_talk = daemon.core.borrow().session(id.session).is_some_and(|session| session.spec.acp);
    let question = if is_talk { adopted::question(daemon, id.session)? } else { return None };
    let (conversation, warnings) = ask(daemon, question).await;
    for warning in warnings {
        tracing::warn!(session = %id.session, "what its store says of the turn is not known: {warning}");
    }
    conversation
}

fn of_store(look: &Look, question: &Question, store: &Store) -> Option<Conversation> {
    let vars = |name: &str| question.env.var(name);
    let whose =
        Whose { name: question.name.clone(), cwd: &question.cwd, started: look.began.wall, vars: &vars };
    let mut budget = files::Budget::default();
    in_store(look, &whose, store, Some(&question.id), &|_| true, &mut budget)
}
