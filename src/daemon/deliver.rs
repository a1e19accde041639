//! One attempt at a delivery: a POST, and what the receiver said.
//!
//! Owns limits and the reading of answers. Refuses to know when the next attempt is due, and never follows a redirect.
//! Neither URL nor secret appears in what it reports.

mod dial;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, PROXY_AUTHORIZATION, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::proxy::matcher::Matcher;
use tokio::sync::Semaphore;
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::timeout;

use crate::config::target::Target;
use crate::config::webhooks::Webhook;
use crate::core::Event;
use crate::core::outbox::{Attempt, AttemptResult};
use crate::core::record::DeliveryId;
use crate::core::vocab::Wall;
use crate::limits;
use crate::sys::clock;
use crate::wire::{time, webhook};

use super::Daemon;
use super::journal::Outgoing;
use dial::{Dial, Sender};

/// What attempts share.
pub(crate) struct Mailer {
    proxies: Arc<Matcher>,
    /// One for each configured endpoint, and one for all URLs that launches named.
    senders: HashMap<Option<String>, (Sender, Dial)>,
    /// Places for attempts at URLs that launches named.
    ad_hoc: Arc<Semaphore>,
}

impl Mailer {
    /// With the proxies that the environment names.
    pub(crate) fn new() -> Self {
        let ad_hoc = Arc::new(Semaphore::new(limits::AD_HOC_ATTEMPTS_MAX));
        Self { proxies: Arc::new(Matcher::from_env()), senders: HashMap::new(), ad_hoc }
    }

    /// The configuration is another one: certificates are read anew, and connections made anew.
    pub(crate) fn forget(&mut self) {
        self.senders.clear();
    }

    /// Made when it is first needed: reading the system's certificates takes a moment.
    fn sender(&mut self, endpoint: &Webhook, ad_hoc: bool, private: bool) -> Result<(Sender, Dial), String> {
        // A socket that a launch named has a sender of its own, which is not kept.
        let key = (!ad_hoc).then(|| endpoint.name.clone());
        let kept = !ad_hoc || endpoint.target.socket().is_none();
        if let Some(sender) = self.senders.get(&key).filter(|_| kept) {
            return Ok(sender.clone());
        }
        let trust = match &endpoint.ca_file {
            Some(path) => dial::trust_file(path),
            None if endpoint.target.is_https() || (ad_hoc && kept) => dial::trust_system(),
            None => dial::trust_nobody(),
        };
        let trust = trust.map_err(|error| error.to_string())?;
        let target = if ad_hoc && kept { None } else { Some(&endpoint.target) };
        let dial = Dial::new(target, private, Arc::clone(&self.proxies));
        let sender = (dial::sender(dial.clone(), trust), dial);
        if kept {
            self.senders.insert(key, sender.clone());
        }
        Ok(sender)
    }
}

/// What was sent, and what came back.
pub(crate) struct Sent {
    pub(crate) took: Duration,
    pub(crate) answer: Result<Answer, String>,
}

/// A receiver's answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    retry_after: Option<Duration>,
    /// The beginning of its body, where it refused.
    pub(crate) words: String,
}

impl Sent {
    fn conclude(self) -> Attempt {
        let failed = |error, retry_after| AttemptResult::Failed { error, retry_after };
        let (status, result) = match self.answer {
            Err(error) => (None, failed(error, None)),
            Ok(answer) => {
                let result = match answer.status {
                    status if status.is_success() => AttemptResult::Accepted,
                    StatusCode::GONE => AttemptResult::Gone { error: answer.refusal() },
                    _ => failed(answer.refusal(), answer.retry_after),
                };
                (Some(answer.status.as_u16()), result)
            }
        };
        Attempt { took: self.took, status, result }
    }
}

impl Answer {
    fn refusal(&self) -> String {
        let status = self.status.as_u16();
        if self.words.is_empty() {
            format!("HTTP {status}")
        } else {
            format!("HTTP {status}: {}", self.words)
        }
    }
}

/// Makes one attempt and reports what came of it. `fresh`: what is sent, where it was rendered a moment ago.
pub(super) fn attempt(daemon: &Rc<Daemon>, id: DeliveryId, fresh: Option<Outgoing>) {
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        let attempt = match prepared(&daemon, &id, fresh).await {
            Ok((endpoint, outgoing)) => send(&daemon, &endpoint, id.is_ad_hoc(), outgoing).await.conclude(),
            Err(error) => Sent { took: Duration::ZERO, answer: Err(error) }.conclude(),
        };
        if let Some(error) = attempt.result.error() {
            tracing::warn!(endpoint = id.endpoint, seq = id.seq, "a webhook was not accepted: {error}");
        }
        daemon.send(Event::Attempted(id, attempt));
    });
}

async fn prepared(
    daemon: &Rc<Daemon>,
    id: &DeliveryId,
    fresh: Option<Outgoing>,
) -> Result<(Webhook, Outgoing), String> {
    let endpoint = endpoint_of(daemon, id)?;
    if let Some(outgoing) = fresh {
        return Ok((endpoint, outgoing));
    }
    let (reader, key) = (daemon.journal.reader(), id.clone());
    let read =
        spawn_blocking(move || reader.outgoing(&key)).await.map_err(|panicked| panicked.to_string())?;
    let read = read.map_err(|error| format!("read the delivery from the journal: {error}"))?;
    Ok((endpoint, read.ok_or("the delivery was forgotten")?))
}

/// The endpoint of a delivery: a configured one, or what the session's launch or a fuse named.
fn endpoint_of(daemon: &Daemon, id: &DeliveryId) -> Result<Webhook, String> {
    let config = daemon.config.borrow();
    if let Some(webhook) = config.webhook(&id.endpoint) {
        return Ok(webhook.clone());
    }
    let core = daemon.core.borrow();
    let run = core.outbox().get(id).and_then(|delivery| delivery.run);
    let session = run.and_then(|run| core.session(run.session));
    let named =
        session.and_then(|session| session.spec.notify.iter().find(|named| named.endpoint == id.endpoint));
    let url = named.and_then(|named| named.url.as_ref()).or_else(|| core.dir_fuses().webhook(&id.endpoint));
    let url = url.ok_or("the endpoint is not configured any more")?;
    let target = Target::parse(&url.0)?;
    // Signed as the one endpoint of the earlier tool, so that a receiver can tell who speaks.
    let known = config.webhook("default");
    Ok(Webhook::plain(
        id.endpoint.clone(),
        target,
        known.map(|known| known.secrets.clone()).unwrap_or_default(),
    ))
}

/// Sends once. `ad_hoc`: to a URL that a launch named.
pub(super) async fn send(daemon: &Daemon, endpoint: &Webhook, ad_hoc: bool, outgoing: Outgoing) -> Sent {
    let places = Arc::clone(&daemon.mailer.borrow().ad_hoc);
    // They are as many as launches like; what waits for a place has not begun.
    let _place = if ad_hoc { places.acquire().await.ok() } else { None };
    let begun = clock::now().mono;
    let answer = exchange(daemon, endpoint, ad_hoc, outgoing).await;
    Sent { took: clock::now().mono.since(begun), answer }
}

async fn exchange(
    daemon: &Daemon,
    endpoint: &Webhook,
    ad_hoc: bool,
    outgoing: Outgoing,
) -> Result<Answer, String> {
    let private = !ad_hoc || daemon.config.borrow().notify_allow_private;
    let (sender, dial) = daemon.mailer.borrow_mut().sender(endpoint, ad_hoc, private)?;
    let mut request = signed(endpoint, outgoing)?;
    if let Some(authorization) = dial.proxy_authorization(request.uri()) {
        request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
    }
    let patience = endpoint.timeout;
    let answered = timeout(patience, sender.request(request)).await;
    let answer = answered
        .map_err(|_| format!("no answer within {}", humantime::format_duration(patience)))?
        .map_err(|error| describe(&error))?;
    Ok(read(answer).await)
}

fn signed(endpoint: &Webhook, outgoing: Outgoing) -> Result<Request<Full<Bytes>>, String> {
    let attempted = clock::now().wall;
    let body = Bytes::from(outgoing.body);
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(endpoint.target.uri())
        .header(CONTENT_TYPE, outgoing.content_type)
        .header(USER_AGENT, concat!("agentctl/", env!("CARGO_PKG_VERSION")));
    for (name, value) in webhook::identity_headers(&outgoing.event_id, attempted) {
        request = request.header(name, value);
    }
    let secrets: Vec<_> = endpoint.secrets.iter().map(|secret| secret.reveal()).collect();
    for (name, value) in webhook::signature_headers(&secrets, &outgoing.event_id, attempted, &body) {
        request = request.header(name, value);
    }
    request.body(Full::new(body)).map_err(|error| format!("make the request: {error}"))
}

/// The status is the answer. Of a refusal's body the beginning is kept for people; any other is read only so that the
/// connection can be used again, while nobody waits for it.
async fn read(answer: Response<Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let status = head.status;
    let patient = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&status);
    let asked = head.headers.get(RETRY_AFTER).filter(|_| patient);
    let retry_after = asked.and_then(|value| retry_after(value, clock::now().wall));
    let words = if body.is_end_stream() {
        String::new()
    } else if status.is_success() {
        spawn_local(beginning(body));
        String::new()
    } else {
        beginning(body).await
    };
    Answer { status, retry_after, words }
}

/// The beginning of a body as one line, after as much of it was read as is worth it.
async fn beginning(mut body: Incoming) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(data) = frame.into_data() else { continue };
            bytes.extend_from_slice(&data);
            if bytes.len() > limits::ANSWER_BYTES_MAX {
                break;
            }
        }
    };
    // What came until then is what there is.
    let _late = timeout(limits::ANSWER_TIMEOUT, reading).await;
    let text = String::from_utf8_lossy(&bytes);
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.take(limits::ANSWER_CHARS_KEPT).collect::<Vec<_>>().join(" ");
    line.chars().take(limits::ANSWER_CHARS_KEPT).collect()
}

/// The first cause below the client's own words that says what happened; those only say where. No URL is among them.
fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
        if let Some(words) = dial::own_words(cause) {
            return words;
        }
    }
    cause.to_string()
}

/// `Retry-After`: seconds, or a date (RFC 9110, 10.2.3).
fn retry_after(value: &HeaderValue, now: Wall) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    time::parse_http_date(text).map(|at| at.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = time::parse_rfc3339("2026-11-22T09:00:00Z").unwrap();
        let parse = |text: &'static str| retry_after(&HeaderValue::from_static(text), now);
        assert_eq!(parse("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse("Sun, 22 Nov 2026 09:01:00 GMT"), Some(Duration::from_secs(60)));
        assert_eq!(parse("Sun, 22 Nov 2026 08:01:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse("soon"), None);
    }
}
