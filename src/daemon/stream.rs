//! `GET /v1/events`: from a cursor through what is kept into what happens, without a gap between.
//!
//! A reader keeps its own place and costs no queue (hub.rs). One that takes nothing for a while is told, dropped and
//! may come back with its cursor; one whose place is not kept any more is told that (410, or a last line). Refuses to
//! know what an event means.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CONNECTION, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use tokio::sync::{Notify, mpsc};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::{sleep, timeout};

use crate::limits;
use crate::wire::api;
use crate::wire::events::{self, Filter};

use super::Daemon;
use super::http::{Fault, Handled, Query, flow, resolve};
use super::hub::{Line, Next};

/// Rung to break off the connection that a request came on; a part of the request.
#[derive(Clone, Debug, Default)]
pub(super) struct BreakOff(pub(super) Arc<Notify>);

/// Where a reader is, and how it is spoken to.
struct Reader {
    daemon: Rc<Daemon>,
    filter: Filter,
    sse: bool,
    to: mpsc::Sender<io::Result<Bytes>>,
    /// The last event that it was sent, or that was passed over for it.
    place: u64,
}

/// Why a stream is over.
enum Over {
    /// All that was asked for is sent, or the reader has left.
    Done,
    /// It took nothing for too long.
    Slow,
    /// What comes next for it was forgotten.
    Expired,
    Failed(io::Error),
}

/// Answers a request for events.
pub(super) async fn answer(daemon: &Rc<Daemon>, request: &Request<Incoming>) -> Handled {
    let query = Query::of(request);
    let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let sse = accept.contains("text/event-stream");
    let filter = filter(daemon, &query)?;
    let resumed = request.headers().get("last-event-id").and_then(|value| value.to_str().ok());
    let place = match resumed.or_else(|| query.get("since")) {
        None => daemon.hub.latest(),
        Some(text) => place(daemon, text).await?,
    };
    let follow = query.get("follow").is_none_or(|_| query.flag("follow"));
    let (to, lines) = mpsc::channel(limits::EVENTS_UNREAD_MAX + 1);
    // The last word has a place of its own: it must not wait behind what nobody reads.
    let last_word = to.clone().try_reserve_owned();
    let last_word = last_word.map_err(|_| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, "no place"))?;
    let break_off = request.extensions().get::<BreakOff>().cloned().unwrap_or_default();
    let mut reader = Reader { daemon: Rc::clone(daemon), filter, sse, to, place };
    let mut answer = flow(if sse { "text/event-stream" } else { "application/x-ndjson" }, lines);
    // The connection may have to be broken off, so nothing else is to come on it.
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    if let Ok(cursor) = HeaderValue::from_str(&reader.cursor()) {
        answer.headers_mut().insert(HeaderName::from_static(events::CURSOR_HEADER), cursor);
    }
    spawn_local(async move {
        let over = reader.send_all(follow).await;
        let cursor = reader.cursor();
        let last = match over {
            Over::Done => return,
            Over::Failed(error) => Err(error),
            Over::Slow => {
                let seconds = limits::EVENTS_READER_PATIENCE.as_secs();
                tracing::info!("a reader of events took nothing for {seconds} s and is dropped at {cursor}");
                let detail = format!("nothing was read for {seconds} s; come back with since={cursor}");
                Ok(reader.last_line(events::DROPPED, &cursor, &detail))
            }
            Over::Expired => {
                let now = api::cursor(reader.daemon.hub.epoch(), reader.daemon.hub.latest());
                let detail =
                    format!("the events after {cursor} are not kept any more; the stream is at {now}");
                Ok(reader.last_line(events::EXPIRED, &now, &detail))
            }
        };
        last_word.send(last);
        drop(reader);
        // What it was told it may still fetch; then its connection makes room for others.
        sleep(limits::EVENTS_READER_PATIENCE).await;
        break_off.0.notify_one();
    });
    Ok(answer)
}

fn filter(daemon: &Daemon, query: &Query) -> Result<Filter, Fault> {
    let bad = |why: String| Fault::new(StatusCode::BAD_REQUEST, why);
    let words = |key| query.all(key).map(str::to_owned).collect();
    let mut kinds = Vec::new();
    for list in query.all("type") {
        kinds.extend(Filter::kinds_of(list).map_err(bad)?);
    }
    let mut sessions = Vec::new();
    for name in query.all("session") {
        // The events of a session outlive it: a whole id needs no session.
        let whole = name.parse::<crate::core::vocab::SessionId>().ok();
        sessions.push(whole.map_or_else(|| resolve(daemon, name), Ok)?.to_string());
    }
    Ok(Filter { kinds, adapters: words("adapter"), sessions, groups: words("group") })
}

/// The place that a cursor names, if everything after it is still there.
async fn place(daemon: &Rc<Daemon>, text: &str) -> Result<u64, Fault> {
    let epoch = daemon.hub.epoch();
    let latest = daemon.hub.latest();
    let now = api::cursor(epoch, latest);
    let gone = |why: &str| Fault::new(StatusCode::GONE, format!("{why}; the stream is at {now}"));
    let seq = match api::parse_cursor(text, epoch) {
        Ok(Some(seq)) => seq,
        Ok(None) => {
            let detail = format!("\"{text}\" is no cursor; it looks like {now}");
            return Err(Fault::new(StatusCode::BAD_REQUEST, detail));
        }
        Err(other) => return Err(gone(&format!("the cursor {text} belongs to another journal ({other})"))),
    };
    if seq > latest {
        return Err(gone(&format!("the cursor {text} lies ahead of the stream")));
    }
    let reader = daemon.journal.reader();
    let failed =
        |why: String| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("read the journal: {why}"));
    let oldest =
        spawn_blocking(move || reader.oldest_event()).await.map_err(|error| failed(error.to_string()))?;
    // Nothing kept: the next one will be the first.
    let oldest = oldest.map_err(|error| failed(error.to_string()))?.unwrap_or(latest + 1);
    match seq {
        // All that is kept.
        0 => Ok(oldest - 1),
        seq if seq + 1 < oldest => Err(gone(&format!("the events after {text} are not kept any more"))),
        seq => Ok(seq),
    }
}

impl Reader {
    fn cursor(&self) -> String {
        api::cursor(self.daemon.hub.epoch(), self.place)
    }

    async fn send_all(&mut self, follow: bool) -> Over {
        let mut bell = self.daemon.hub.bell();
        let until = if follow { u64::MAX } else { self.daemon.hub.latest() };
        while self.place < until {
            bell.mark_unchanged();
            let lines = match self.daemon.hub.after(self.place) {
                Next::Lines(lines) => lines,
                Next::Older => match self.older().await {
                    Ok(lines) => lines,
                    Err(over) => return over,
                },
                Next::Nothing => {
                    tokio::select! {
                        rung = bell.changed() => if rung.is_err() { return Over::Done },
                        () = self.to.closed() => return Over::Done,
                    }
                    continue;
                }
            };
            for line in lines.into_iter().take_while(|line| line.seq <= until) {
                if line.seq != self.place + 1 {
                    return Over::Expired;
                }
                if self.filter.wants(&line.bytes)
                    && let Err(over) = self.send(self.frame(&line)).await
                {
                    return over;
                }
                self.place = line.seq;
            }
        }
        Over::Done
    }

    async fn send(&self, frame: Bytes) -> Result<(), Over> {
        match timeout(limits::EVENTS_READER_PATIENCE, self.to.send(Ok(frame))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_left)) => Err(Over::Done),
            Err(_) => Err(Over::Slow),
        }
    }

    /// From the journal; what is not durable yet is in memory only, so nothing is told too early.
    async fn older(&self) -> Result<Vec<Line>, Over> {
        let (reader, place) = (self.daemon.journal.reader(), self.place);
        let read = spawn_blocking(move || reader.events(place)).await;
        let read = read.map_err(io::Error::other).and_then(|read| read.map_err(io::Error::other));
        let latest = self.daemon.hub.latest();
        let lines = read.map_err(Over::Failed)?.into_iter().filter(|(seq, _)| *seq <= latest);
        let lines: Vec<_> = lines.map(|(seq, body)| Line::new(seq, &body)).collect();
        if lines.is_empty() { Err(Over::Expired) } else { Ok(lines) }
    }

    fn frame(&self, line: &Line) -> Bytes {
        if !self.sse {
            return line.bytes.clone();
        }
        let cursor = api::cursor(self.daemon.hub.epoch(), line.seq);
        let data = String::from_utf8_lossy(&line.bytes);
        Bytes::from(format!("id: {cursor}\ndata: {data}\n"))
    }

    fn last_line(&self, kind: &str, cursor: &str, detail: &str) -> Bytes {
        let notice = events::notice(kind, cursor, detail);
        Bytes::from(if self.sse {
            format!("event: {kind}\ndata: {notice}\n\n")
        } else {
            format!("{notice}\n")
        })
    }
}
