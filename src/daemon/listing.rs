//! `GET /v1/sessions`: our own sessions and what else runs, rendered while the answer is on its way.
//!
//! Who is listed and in which order is settled when the answer begins; each record is that of the moment when its turn
//! comes. So thousands of records cost a reader who is slow, or the loop, no more than one chunk at a time. Whoever was
//! forgotten meanwhile, or does not fit the question any more, is left out, as it would be a moment later. Refuses to look
//! for anything itself (found.rs).

use std::cmp::Reverse;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::{Response, StatusCode};

use crate::core::Supervisor;
use crate::core::session::Session;
use crate::core::vocab::SessionId;
use crate::limits;
use crate::wire::api::SessionView;

use super::Daemon;
use super::found::{self, Seen};
use super::http::{Answer, JSON, Query, of_body, whole};

/// The answer to a listing.
pub(super) async fn answer(daemon: &Rc<Daemon>, query: Query) -> Response<Answer> {
    // Before our own are read: one that is adopted meanwhile is then among them, and left out here.
    let seen = if wants_found(daemon, &query) { found::look(daemon).await } else { Rc::default() };
    let mut listing = Listing::of(daemon, query, Rc::clone(&seen));
    let first = listing.chunk();
    // Most are short: their length is told, and one write sends them.
    let mut answer = if listing.is_over() {
        whole(StatusCode::OK, JSON, first.into())
    } else {
        listing.ready = Some(first.into());
        of_body(JSON, Answer::Listing(listing))
    };
    found::warn(&mut answer, &seen.warnings);
    answer
}

/// What is still to be sent of a listing.
pub(super) struct Listing {
    daemon: Rc<Daemon>,
    query: Query,
    seen: Rc<Seen>,
    places: std::vec::IntoIter<Listed>,
    /// Rendered and not sent yet.
    ready: Option<Bytes>,
    begun: bool,
}

/// One line of a listing.
#[derive(Clone, Copy)]
enum Listed {
    Ours(SessionId),
    /// By its index.
    Found(usize),
}

impl Listing {
    fn of(daemon: &Rc<Daemon>, query: Query, seen: Rc<Seen>) -> Self {
        let core = daemon.core.borrow();
        let ours = core.shown().filter(|session| wanted(&query, &core, session));
        // Running first, then the newest.
        let mut listed: Vec<_> = ours
            .map(|session| {
                let ended = session.run.verdict.is_some();
                ((ended, Reverse(session.run.begun.wall.0)), Listed::Ours(session.id))
            })
            .collect();
        let found = seen.found.iter().enumerate().filter(|(_, found)| {
            core.session(found.id).is_none()
                && query.get("status").is_none_or(|status| status == found.status())
                && query.get("adapter").is_none_or(|adapter| adapter == found.adapter)
        });
        listed.extend(found.map(|(index, found)| ((false, Reverse(found.started.0)), Listed::Found(index))));
        drop(core);
        listed.sort_by_key(|(place, _)| *place);
        let places = listed.into_iter().map(|(_, one)| one).collect::<Vec<_>>().into_iter();
        Self { daemon: Rc::clone(daemon), query, seen, places, ready: None, begun: false }
    }

    fn is_over(&self) -> bool {
        self.places.len() == 0
    }

    /// The next records, with what is around them.
    fn chunk(&mut self) -> Vec<u8> {
        // A record has about a kilobyte, and the last one may be longer than what was left.
        let room = (self.places.len() + 4) * 1_024;
        let mut chunk = Vec::with_capacity(room.min(limits::LIST_CHUNK_BYTES + 4_096));
        if !self.begun {
            chunk.push(b'[');
        }
        while chunk.len() < limits::LIST_CHUNK_BYTES
            && let Some(one) = self.places.next()
        {
            let Some(view) = self.view(one) else { continue };
            if self.begun {
                chunk.push(b',');
            }
            self.begun = true;
            serde_json::to_writer(&mut chunk, &view).expect("our answers have string keys");
        }
        if self.is_over() {
            chunk.push(b']');
        }
        chunk
    }

    fn view(&self, one: Listed) -> Option<SessionView> {
        match one {
            Listed::Ours(id) => {
                let core = self.daemon.core.borrow();
                let session = core.session(id).filter(|session| wanted(&self.query, &core, session))?;
                Some(self.daemon.view_of(session, core.may_tell(session)))
            }
            Listed::Found(index) => self.seen.found.get(index).map(SessionView::of_found),
        }
    }

    /// What comes next. Between two chunks whatever else waits has its turn, and what is there is sent.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(chunk) = self.ready.take() {
            return Poll::Ready(Some(chunk));
        }
        if self.is_over() {
            return Poll::Ready(None);
        }
        self.ready = Some(self.chunk().into());
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Whether the session is among those that are asked for.
fn wanted(query: &Query, core: &Supervisor, session: &Session) -> bool {
    let status = session.status(core.may_tell(session)).word();
    let live = matches!(status, "running" | "idle");
    (live || query.flag("all") || query.get("status").is_some())
        && query.get("status").is_none_or(|asked| asked == status)
        && query.get("adapter").is_none_or(|adapter| adapter == session.spec.adapter)
        && query.get("group").is_none_or(|group| Some(group) == session.spec.group.as_deref())
        && query.all("label").all(|label| has_label(session, label))
        && (query.get("queued").is_none_or(|value| !matches!(value, "0" | "false"))
            || !session.run.is_queued())
}

/// Whether anything that was started outside could be in the answer.
fn wants_found(daemon: &Daemon, query: &Query) -> bool {
    let live = query.get("status").is_none_or(|status| matches!(status, "running" | "idle"));
    let ours_only = query.get("group").is_some() || query.get("label").is_some();
    let asked = query.get("discovered").is_none_or(|value| !matches!(value, "0" | "false"));
    live && !ours_only && asked && daemon.config.borrow().discover
}

fn has_label(session: &Session, label: &str) -> bool {
    match label.split_once('=') {
        Some((key, value)) => session.spec.labels.get(key).is_some_and(|found| found == value),
        None => session.spec.labels.contains_key(label),
    }
}
