//! The API: a request taken apart, asked of the core or read from its state, and answered.
//!
//! Every body is bounded in size and time, every id is checked before it is used, every error is a problem
//! document (RFC 9457) that names the object and the next step. Refuses to decide anything about sessions.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, SERVER};
use hyper::{Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::{SemaphorePermit, mpsc};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::adapters::{Known, PromptWay, Readable, Tail, last_messages};
use crate::core::adopt::is_adoption;
use crate::core::record::RequestKey;
use crate::core::refusal::Refusal;
use crate::core::session::Session;
use crate::core::vocab::{RunId, SessionId};
use crate::core::{JournalHealth, Reply, Request as Ask};
use crate::limits;
use crate::wire::again::{Prune, Pruned};
use crate::wire::api::{self, Problem};
use crate::wire::hex;
use crate::wire::route::{NoRoute, Route};

use super::listing::Listing;
use super::log_files::{self, Beginning, LogTail};
use super::{
    Daemon, adopted, again, doctor, follow, found, fuses, groups, health, launches, listing, locks, reload,
    scrape, stream, webhooks,
};

/// A body of an answer: whole, or as it comes.
pub(super) enum Answer {
    Whole(Full<Bytes>),
    Listing(Listing),
    Flow(mpsc::Receiver<io::Result<Bytes>>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Self::Whole(body) => match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
                Poll::Ready(Some(Err(never))) => match never {},
                Poll::Ready(None) => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            },
            Self::Listing(listing) => listing.poll(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk)))),
            Self::Flow(body) => body.poll_recv(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Listing(_) | Self::Flow(_) => false,
        }
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Listing(_) | Self::Flow(_) => hyper::body::SizeHint::default(),
        }
    }
}

pub(super) const JSON: &str = "application/json";

/// An error for the client.
pub(super) struct Fault {
    pub(super) status: StatusCode,
    detail: String,
}

pub(super) type Handled = Result<Response<Answer>, Fault>;

impl Fault {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }
}

/// Answers one request.
pub(super) async fn handle(daemon: Rc<Daemon>, request: Request<Incoming>) -> Response<Answer> {
    let mut answer = route(&daemon, request).await.unwrap_or_else(|fault| problem(&fault));
    answer.headers_mut().insert(SERVER, HeaderValue::from_static(api::SERVER_NAME));
    answer
}

async fn route(daemon: &Rc<Daemon>, request: Request<Incoming>) -> Handled {
    let route = Route::of(request.method().as_str(), request.uri().path()).map_err(|none| match none {
        NoRoute::NotUtf8 => Fault::new(StatusCode::BAD_REQUEST, "the path is not UTF-8"),
        NoRoute::Unknown => {
            let asked = format!("there is no {} {}", request.method(), request.uri().path());
            Fault::new(StatusCode::NOT_FOUND, asked)
        }
    })?;
    let session = route.session().map(str::to_owned);
    let question = if let Route::Session(_) = route {
        Some(found::About::Itself)
    } else if let Route::Messages(_) = route {
        count_of(&Query::of(&request)).ok().map(found::About::Said)
    } else {
        None
    };
    let answer = answer_to(daemon, route, request).await;
    match (answer, session) {
        // Not a session of ours; perhaps an agent that was started outside.
        (Err(fault), Some(text)) if fault.status == StatusCode::NOT_FOUND => {
            found::in_place_of(daemon, fault, &text, question).await
        }
        (answer, _) => answer,
    }
}

async fn answer_to(daemon: &Rc<Daemon>, route: Route, request: Request<Incoming>) -> Handled {
    match route {
        Route::Metrics => Ok(scrape::answer(daemon)),
        Route::Health => Ok(json_answer(StatusCode::OK, &health::of(daemon))),
        Route::Doctor => Ok(doctor::answer(daemon).await),
        Route::Config => {
            let settings = daemon.config.borrow().settings();
            Ok(json_answer(StatusCode::OK, &json!({"home": daemon.home.path(), "settings": settings})))
        }
        Route::Shutdown => {
            daemon.stop.notify_one();
            Ok(json_answer(StatusCode::ACCEPTED, &json!({"stopping": true})))
        }
        Route::Reload => match reload::reload(daemon) {
            Ok(reloaded) => Ok(json_answer(StatusCode::OK, &reloaded)),
            Err(why) => Err(Fault::new(StatusCode::UNPROCESSABLE_ENTITY, why)),
        },
        Route::Events => stream::answer(daemon, &request).await,
        Route::List => Ok(listing::answer(daemon, Query::of(&request)).await),
        Route::Adapters => Ok(json_answer(StatusCode::OK, &known_adapters(daemon))),
        Route::Launch => launches::launch_session(daemon, request).await,
        Route::LaunchGroup => groups::launch(daemon, request).await,
        Route::Prune => {
            let prune: Prune = read_json(daemon, request).await?.0;
            let older_than = prune.older_than_ms.map(Duration::from_millis);
            ask(daemon, Ask::Prune { older_than, dry_run: prune.dry_run }).await
        }
        Route::Session(id) => view_answer(daemon, StatusCode::OK, resolve(daemon, &id)?),
        Route::Adopt(target) => found::adopt::adopt(daemon, &target, request).await,
        Route::Wait(id) => ask(daemon, Ask::Wait { session: resolve(daemon, &id)? }).await,
        Route::Log(id) => log(daemon, resolve(daemon, &id)?, &Query::of(&request)).await,
        Route::Messages(id) => messages(daemon, resolve(daemon, &id)?, &Query::of(&request)).await,
        Route::Resume(id) => {
            let session = resolve(daemon, &id)?;
            launches::resume_session(daemon, session, request).await
        }
        Route::Stop(id) => {
            let session = resolve(daemon, &id)?;
            let stop: api::Stop = read_json(daemon, request).await?.0;
            ask(daemon, Ask::Stop { session, force: stop.force }).await
        }
        Route::Extend(id) => {
            let session = resolve(daemon, &id)?;
            let extend: api::Extend = read_json(daemon, request).await?.0;
            let by = (extend.by_ms > 0).then(|| Duration::from_millis(extend.by_ms));
            ask(daemon, Ask::Extend { session, by }).await
        }
        Route::Signal(id) => again::signal(daemon, resolve(daemon, &id)?, request).await,
        Route::Rerun(id) => again::rerun(daemon, resolve(daemon, &id)?, request).await,
        Route::Endpoints => Ok(webhooks::endpoints(daemon)),
        Route::PauseEndpoint(endpoint) => ask(daemon, Ask::SetPaused { endpoint, paused: true }).await,
        Route::ResumeEndpoint(endpoint) => ask(daemon, Ask::SetPaused { endpoint, paused: false }).await,
        Route::TestEndpoint(name) => webhooks::test(daemon, &name).await,
        Route::Deliveries => webhooks::list(daemon, &Query::of(&request)).await,
        Route::Redeliver => webhooks::redeliver(daemon, request).await,
        Route::Delivery(id) => webhooks::show(daemon, &id).await,
        Route::Fuse(route) => fuses::answer(daemon, route, request).await,
        Route::Locks => Ok(locks::list(daemon)),
        Route::Lock => locks::acquire(daemon, request).await,
        Route::Unlock(directory) => locks::release(daemon, directory).await,
    }
}

/// The parameters after the `?`.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        let query = request.uri().query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| !matches!(value, "0" | "false"))
    }
}

pub(super) async fn read_json<T: DeserializeOwned>(
    daemon: &Daemon,
    request: Request<Incoming>,
) -> Result<(T, Bytes), Fault> {
    let (bytes, _place) = timeout(limits::BODY_TIMEOUT, read_body(daemon, request.into_body()))
        .await
        .map_err(|_| Fault::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"))??;
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    let value = serde_json::from_slice(text).map_err(|error| {
        Fault::new(StatusCode::BAD_REQUEST, format!("the body is not what is expected: {error}"))
    })?;
    Ok((value, bytes))
}

/// A body, bounded by itself and together with all others; its place among those goes with the permit.
async fn read_body(
    daemon: &Daemon,
    mut body: Incoming,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), Fault> {
    let too_large = || {
        let most = limits::BODY_BYTES_MAX;
        Fault::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {most} bytes"))
    };
    // Said in advance: not a byte of it is read.
    if body.size_hint().lower() > limits::BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    let mut held: Option<SemaphorePermit<'_>> = None;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| Fault::new(StatusCode::BAD_REQUEST, format!("read the body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        bytes.extend_from_slice(&data);
        if bytes.len() > limits::BODY_BYTES_MAX {
            return Err(too_large());
        }
        let owed = bytes.len().saturating_sub(limits::BODY_BYTES_FREE)
            - held.as_ref().map_or(0, SemaphorePermit::num_permits);
        let more = daemon.bodies.try_acquire_many(u32::try_from(owed).unwrap_or(u32::MAX)).map_err(|_| {
            Fault::new(StatusCode::SERVICE_UNAVAILABLE, "too many large bodies are being read; try again")
        })?;
        match &mut held {
            Some(held) => held.merge(more),
            None => held = Some(more),
        }
    }
    Ok((bytes.into(), held))
}

pub(super) fn resolve(daemon: &Daemon, text: &str) -> Result<SessionId, Fault> {
    daemon.core.borrow().resolve(text).map_err(|refusal| refused(&refusal))
}

pub(super) fn refused(refusal: &Refusal) -> Fault {
    let status = match refusal {
        Refusal::NotFound(_) | Refusal::NoEndpoint(_) | Refusal::NoFuse(_) | Refusal::NotLocked(_) => {
            StatusCode::NOT_FOUND
        }
        Refusal::Locked { .. } => StatusCode::LOCKED,
        Refusal::PausedByConfiguration(_)
        | Refusal::Ambiguous { .. }
        | Refusal::TooManyFuses(_)
        | Refusal::Supervised(_)
        | Refusal::AlreadyEnded(_)
        | Refusal::NotStarted(_)
        | Refusal::NobodyToSignal(_)
        | Refusal::StillRuns(_)
        | Refusal::StillEnding(_)
        | Refusal::InUse(_)
        | Refusal::Shared(_)
        | Refusal::Awaited(_)
        | Refusal::StillQueued(_)
        | Refusal::AlreadyLocked { .. }
        | Refusal::Stopping(_) => StatusCode::CONFLICT,
        Refusal::KeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Refusal::JournalFailing(_) => StatusCode::INSUFFICIENT_STORAGE,
        // Not 503, which says that the same may be asked again in a moment, as clients do.
        Refusal::TooMany(_)
        | Refusal::NoRoom { .. }
        | Refusal::TooManyOf { .. }
        | Refusal::QueueFull(_)
        | Refusal::TooManyLocks(_) => StatusCode::TOO_MANY_REQUESTS,
        Refusal::Recovering => StatusCode::SERVICE_UNAVAILABLE,
    };
    Fault::new(status, refusal.to_string())
}

pub(super) async fn ask(daemon: &Rc<Daemon>, request: Ask) -> Handled {
    let reply = daemon.ask(request).await;
    let reply = reply
        .ok_or_else(|| Fault::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait; try again"))?;
    match reply {
        Reply::Launched(id) => view_answer(daemon, StatusCode::CREATED, id),
        Reply::Ended(id) | Reply::Stopped { session: id, .. } | Reply::Extended(id) => {
            view_answer(daemon, StatusCode::OK, id)
        }
        Reply::NotYetStopped(id) => Err(Fault::new(StatusCode::GATEWAY_TIMEOUT, still_there(daemon, id))),
        Reply::Redelivered(redelivered) => {
            Ok(json_answer(StatusCode::OK, &crate::wire::deliveries::Redelivered { redelivered }))
        }
        Reply::Fuse(id) => fuses::fuse(daemon, id),
        Reply::Endpoint(name) => webhooks::endpoint(daemon, &name),
        Reply::Lock(lock) => Ok(locks::answer(&lock)),
        Reply::Pruned(done) => {
            let sessions: Vec<_> = done.sessions.iter().map(ToString::to_string).collect();
            let (pruned, kept, dry_run) = (sessions.len(), done.kept, done.dry_run);
            Ok(json_answer(StatusCode::OK, &Pruned { pruned, kept, sessions, dry_run }))
        }
        Reply::Refused(refusal) => Err(refused(&refusal)),
    }
}

fn still_there(daemon: &Daemon, id: SessionId) -> String {
    if let Some(why) = unrecorded(daemon, id) {
        let id = id.short();
        return format!(
            "session {id} has ended, and its end cannot be recorded yet ({why}); how it ended is told once that is done"
        );
    }
    let pid = daemon.view(id).and_then(|view| view.pid);
    match pid {
        Some(pid) => {
            let id = id.short();
            format!("session {id} has not ended yet; its leader is PID {pid}; the daemon goes on ending it")
        }
        None => format!("session {} has not ended yet; the daemon goes on ending it", id.short()),
    }
}

/// Why an end that is known may not be told.
fn unrecorded(daemon: &Daemon, id: SessionId) -> Option<String> {
    let core = daemon.core.borrow();
    let session = core.session(id)?;
    match core.journal() {
        JournalHealth::Failing(why) if session.run.verdict.is_some() && !core.may_tell(session) => {
            Some(why.clone())
        }
        JournalHealth::Failing(_) | JournalHealth::Well => None,
    }
}

/// The client's key for a request that it may repeat.
pub(super) fn idempotency_key(request: &Request<Incoming>) -> Result<Option<String>, Fault> {
    let key = request.headers().get("idempotency-key");
    let key = key.map(|value| value.to_str().unwrap_or_default().to_owned());
    if key.as_ref().is_some_and(|key| key.is_empty() || key.chars().count() > limits::KEY_CHARS_MAX) {
        let most = limits::KEY_CHARS_MAX;
        return Err(Fault::new(
            StatusCode::BAD_REQUEST,
            format!("an idempotency key has 1 to {most} characters"),
        ));
    }
    Ok(key)
}

/// The key with the digest of what was asked under it.
pub(super) fn request_key(key: Option<String>, asked: &[&[u8]]) -> Option<RequestKey> {
    let key = key?;
    let mut digest = Sha256::new();
    asked.iter().for_each(|part| digest.update(part));
    let digest = hex(&digest.finalize()[..16]);
    Some(RequestKey { key: key.into(), digest: digest.into() })
}

pub(super) fn view_answer(daemon: &Daemon, status: StatusCode, id: SessionId) -> Handled {
    let view = daemon.view(id).ok_or_else(|| refused(&Refusal::NotFound(id.to_string())))?;
    Ok(json_answer(status, &view))
}

fn known_adapters(daemon: &Daemon) -> Vec<api::AdapterView> {
    let view = |known: Known| api::AdapterView {
        name: known.name().to_owned(),
        declared: matches!(known, Known::Declared(_)),
        program: known.program().map(str::to_owned),
        prompt: match known.prompt() {
            PromptWay::Refused => "none",
            PromptWay::Stdin => "stdin",
            PromptWay::Argument => "argument",
        }
        .to_owned(),
        reads_output: known.parser().is_some(),
        resumes: known.resumes(),
        imposes_id: known.imposes_id(),
        acp: known.can_speak_acp(),
    };
    Known::all(&daemon.config.borrow().adapters).map(view).collect()
}

async fn log(daemon: &Rc<Daemon>, id: SessionId, query: &Query) -> Handled {
    let stream = query.get("stream").unwrap_or("stdout");
    if !matches!(stream, "stdout" | "stderr") {
        let detail = format!("there is no stream \"{stream}\"; it is stdout or stderr");
        return Err(Fault::new(StatusCode::BAD_REQUEST, detail));
    }
    let path = daemon.home.log(printing_run(daemon, id, query)?, stream);
    let from = match query.get("from").map(str::parse::<u64>) {
        None => 0,
        Some(Ok(from)) => from,
        Some(Err(_)) => return Err(Fault::new(StatusCode::BAD_REQUEST, "`from` is a number of bytes")),
    };
    // As people read it, where there is somebody who understands it; else as it is.
    let parser = daemon.parser_of(id);
    let parser = parser.filter(|_| query.flag("text") && stream == "stdout");
    let length = log_files::length(&path).await.unwrap_or(0);
    let begins = log_files::beginning(&path, from).await;
    let begins = begins.unwrap_or(Beginning { at: from, dropped: 0 });
    let (from, cut) = match length.saturating_sub(limits::LOG_TEXT_TAIL_BYTES) {
        tail if tail > begins.at && query.flag("tail") && parser.is_some() => (tail, true),
        _ => (begins.at, false),
    };
    let (to, chunks) = mpsc::channel(4);
    spawn_local(follow::stream(Rc::clone(daemon), id, path, from, query.flag("follow"), to));
    let mut answer = match parser {
        None => flow("application/octet-stream", chunks),
        Some(parser) => {
            let readable = if cut { Readable::from_mid_line(parser) } else { Readable::new(parser) };
            let (to, pieces) = mpsc::channel(4);
            spawn_local(follow::readable(readable, from, chunks, to));
            flow("application/x-ndjson", pieces)
        }
    };
    answer.headers_mut().insert(HeaderName::from_static(api::LOG_FROM_HEADER), begins.at.into());
    name_dropped(&mut answer, begins.dropped);
    Ok(answer)
}

/// Says how much of a log is not kept any more.
fn name_dropped(answer: &mut Response<Answer>, dropped: u64) {
    if dropped > 0 {
        answer.headers_mut().insert(HeaderName::from_static(api::LOG_DROPPED_HEADER), dropped.into());
    }
}

/// The run that is asked about: the current one, unless another is named.
fn run_of(daemon: &Daemon, id: SessionId, query: &Query) -> Result<RunId, Fault> {
    let core = daemon.core.borrow();
    let current =
        core.session(id).map(Session::run_id).ok_or_else(|| refused(&Refusal::NotFound(id.to_string())))?;
    let Some(text) = query.get("run") else { return Ok(current) };
    let asked = text.parse::<u32>().ok().filter(|run| (1..=current.run).contains(run));
    let run = asked.ok_or_else(|| {
        let detail =
            format!("session {} has no run \"{text}\"; its runs are 1 to {}", id.short(), current.run);
        Fault::new(StatusCode::BAD_REQUEST, detail)
    })?;
    Ok(RunId { session: id, run })
}

fn is_adopted_run(daemon: &Daemon, run: RunId) -> bool {
    let core = daemon.core.borrow();
    core.session(run.session).is_some_and(|session| is_adoption(session.origin, run.run))
}

/// Where an earlier agentctl has put what a session prints.
fn old_log(daemon: &Daemon, id: SessionId) -> Option<String> {
    daemon.core.borrow().session(id)?.spec.meta.get("oldLog").cloned()
}

/// The same, refused where what it prints is not ours.
fn printing_run(daemon: &Daemon, id: SessionId, query: &Query) -> Result<RunId, Fault> {
    let run = run_of(daemon, id, query)?;
    if is_adopted_run(daemon, run) {
        let short = id.short();
        let detail = match old_log(daemon, id) {
            Some(log) => {
                format!("session {short} has no log here: it was launched by an earlier agentctl, into {log}")
            }
            None => format!(
                "session {short} has no log: it was adopted, and what it prints goes where it was started, not to agentctl"
            ),
        };
        return Err(Fault::new(StatusCode::CONFLICT, detail));
    }
    Ok(run)
}

/// How many messages are asked for.
fn count_of(query: &Query) -> Result<usize, Fault> {
    let count = query.get("n").map_or(Ok(20), str::parse::<usize>);
    count.map_err(|_| Fault::new(StatusCode::BAD_REQUEST, "`n` is a number of messages"))
}

async fn messages(daemon: &Rc<Daemon>, id: SessionId, query: &Query) -> Handled {
    let count = count_of(query)?;
    let run = run_of(daemon, id, query)?;
    if is_adopted_run(daemon, run) {
        if let Some(said) = adopted::kept_said(daemon, run).await {
            return Ok(json_answer(StatusCode::OK, &said[said.len().saturating_sub(count)..]));
        }
        if let Some(question) = adopted::question(daemon, id) {
            let said = found::said(daemon, question, count).await;
            return said.map_err(|fault| match old_log(daemon, id) {
                Some(log) => Fault {
                    detail: format!("{}; an earlier agentctl kept its log: {log}", fault.detail),
                    ..fault
                },
                None => fault,
            });
        }
    }
    let parser = daemon.parser_of(id);
    let path = daemon.home.log(printing_run(daemon, id, query)?, "stdout");
    let LogTail { bytes, whole, dropped } = match log_files::tail(&path, limits::PEEK_TAIL_BYTES_MAX).await {
        Ok(tail) => tail,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            LogTail { whole: true, ..LogTail::default() }
        }
        Err(error) => {
            let detail = format!("read {}: {error}", path.display());
            return Err(Fault::new(StatusCode::INTERNAL_SERVER_ERROR, detail));
        }
    };
    let texts = match parser {
        Some(parser) => {
            let tail = if whole { Tail::Whole(&bytes) } else { Tail::Cut(&bytes) };
            last_messages(tail, |line| parser.read(line), count)
        }
        // A command says lines; of a part of its log the first is the rest of one.
        None => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<_> = text.lines().skip(usize::from(!whole)).collect();
            vec![lines[lines.len().saturating_sub(count)..].join("\n")]
        }
    };
    let mut answer = json_answer(StatusCode::OK, &texts);
    name_dropped(&mut answer, dropped);
    Ok(answer)
}

pub(super) fn json_answer<T: serde::Serialize + ?Sized>(status: StatusCode, value: &T) -> Response<Answer> {
    let body = serde_json::to_vec(value).expect("our answers have string keys");
    whole(status, JSON, body.into())
}

pub(super) fn whole(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Answer> {
    let mut answer = of_body(kind, Answer::Whole(Full::new(body)));
    *answer.status_mut() = status;
    answer
}

pub(super) fn flow(kind: &'static str, chunks: mpsc::Receiver<io::Result<Bytes>>) -> Response<Answer> {
    of_body(kind, Answer::Flow(chunks))
}

pub(super) fn of_body(kind: &'static str, body: Answer) -> Response<Answer> {
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn problem(fault: &Fault) -> Response<Answer> {
    let problem = Problem {
        title: fault.status.canonical_reason().unwrap_or("error").to_owned(),
        status: fault.status.as_u16(),
        detail: fault.detail.clone(),
    };
    let body = serde_json::to_vec(&problem).expect("three plain fields");
    whole(fault.status, "application/problem+json", body.into())
}
