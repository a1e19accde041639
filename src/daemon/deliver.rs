//! One attempt at a delivery: a POST, and what the receiver said.
//!
//! Owns connections, limits and the reading of `Retry-After`. Refuses to know when the next attempt is due,
//! and never follows a redirect. Neither URL nor secret appears in what it reports.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::task::{spawn_blocking, spawn_local};
use tokio::time::timeout;

use crate::config::Webhook;
use crate::core::Event;
use crate::core::outbox::AttemptResult;
use crate::core::record::{DeliveryId, EventKind};
use crate::core::vocab::{RunId, Wall};
use crate::limits;
use crate::sys::clock;
use crate::wire::{time, webhook};

use super::Daemon;

/// Sends requests; keeps connections that may be used again.
pub(crate) type Sender = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client for http and https. Only http until the system's certificates are there.
pub(crate) fn sender() -> Result<Sender, String> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_connect_timeout(Some(limits::WEBHOOK_CONNECT_TIMEOUT));
    let https = HttpsConnectorBuilder::new()
        .with_native_roots()
        .map_err(|error| format!("read the system's certificates: {error}"))?
        .https_or_http()
        .enable_http1()
        .wrap_connector(http);
    let client = Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(Duration::from_secs(5))
        .build(https);
    Ok(client)
}

/// Makes one attempt and reports what came of it.
pub(super) fn attempt(daemon: &Rc<Daemon>, id: DeliveryId) {
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        let result = match request(&daemon, &id).await {
            Ok((request, patience)) => send(&daemon, request, patience).await,
            Err(error) => AttemptResult::Failed { error, retry_after: None },
        };
        if let AttemptResult::Failed { error, .. } = &result {
            tracing::warn!(endpoint = id.endpoint, seq = id.seq, "a webhook was not accepted: {error}");
        }
        daemon.send(Event::Attempted(id, result));
    });
}

async fn request(daemon: &Rc<Daemon>, id: &DeliveryId) -> Result<(Request<Full<Bytes>>, Duration), String> {
    let webhook = daemon.config.borrow().webhooks.iter().find(|webhook| webhook.name == id.endpoint).cloned();
    let webhook = webhook.ok_or("the endpoint is not configured any more")?;
    let owed = daemon.core.borrow().outbox().get(id).map(|delivery| (delivery.run, delivery.kind));
    let (run, kind) = owed.ok_or("the delivery is over")?;
    let (reader, key) = (daemon.journal.reader(), id.clone());
    let body = spawn_blocking(move || reader.body(&key)).await.map_err(|panicked| panicked.to_string())?;
    let body = Bytes::from(body.map_err(|error| format!("read the delivery from the journal: {error}"))?);
    Ok((signed(&webhook, run, kind, body)?, webhook.timeout))
}

fn signed(
    webhook: &Webhook,
    run: RunId,
    kind: EventKind,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, String> {
    let event = webhook::event_id(run, kind);
    let attempted = clock::now().wall;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(&webhook.url)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("agentctl/", env!("CARGO_PKG_VERSION")));
    for (name, value) in webhook::identity_headers(&event, attempted) {
        request = request.header(name, value);
    }
    if let Some(secret) = &webhook.secret {
        for (name, value) in webhook::signature_headers(secret.reveal(), &event, attempted, &body) {
            request = request.header(name, value);
        }
    }
    request.body(Full::new(body)).map_err(|error| format!("make the request: {error}"))
}

async fn send(daemon: &Rc<Daemon>, request: Request<Full<Bytes>>, patience: Duration) -> AttemptResult {
    let failed = |error: String| AttemptResult::Failed { error, retry_after: None };
    let sender = match daemon.sender() {
        Ok(sender) => sender,
        Err(error) => return failed(error),
    };
    match timeout(patience, sender.request(request)).await {
        Err(_) => failed(format!("no answer within {} s", patience.as_secs())),
        Ok(Err(error)) => failed(describe(&error)),
        // The body is not read: nothing in it could change what the status says.
        Ok(Ok(answer)) if answer.status().is_success() => AttemptResult::Accepted,
        Ok(Ok(answer)) => {
            let patience = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
            let asked = answer.headers().get(RETRY_AFTER).filter(|_| patience.contains(&answer.status()));
            AttemptResult::Failed {
                error: format!("HTTP {}", answer.status().as_u16()),
                retry_after: asked.and_then(|value| retry_after(value, clock::now().wall)),
            }
        }
    }
}

/// The innermost cause says what happened; the outer ones only where. No URL is among them.
fn describe(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
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

impl Daemon {
    fn sender(&self) -> Result<Sender, String> {
        let mut kept = self.sender.borrow_mut();
        if let Some(sender) = &*kept {
            return Ok(sender.clone());
        }
        Ok(kept.insert(sender()?).clone())
    }
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
