//! The API of endpoints and deliveries: what is there, what is to be sent again, and a test.
//!
//! Refuses to decide: what is asked goes to the core, and what is over is read from the journal.

use std::rc::Rc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use crate::config::webhooks::{Format, Webhook};
use crate::core::Request as Ask;
use crate::core::Supervisor;
use crate::core::deliveries::Again;
use crate::core::record::{DeliveryEnd, DeliveryId};
use crate::core::vocab::{Now, millis};
use crate::sys::clock;
use crate::wire::deliveries::{
    AttemptView, DeliveryDetails, DeliveryView, EndpointView, Redeliver, TestView,
};
use crate::wire::time::{parse_rfc3339, rfc3339};
use crate::wire::webhook;

use super::http::{Answer, Fault, Handled, Query, ask, json_answer, read_json};
use super::journal::{JournalReader, Kept, Outgoing, Wanted};
use super::{Daemon, deliver};

/// `GET /v1/webhooks`.
pub(super) fn endpoints(daemon: &Daemon) -> Response<Answer> {
    let core = daemon.core.borrow();
    let config = daemon.config.borrow();
    let views: Vec<_> = config.webhooks.iter().map(|webhook| endpoint_view(&core, webhook)).collect();
    json_answer(StatusCode::OK, &views)
}

/// The answer to a change of one endpoint.
pub(super) fn endpoint(daemon: &Daemon, name: &str) -> Handled {
    let webhook = find(daemon, name)?;
    Ok(json_answer(StatusCode::OK, &endpoint_view(&daemon.core.borrow(), &webhook)))
}

fn find(daemon: &Daemon, name: &str) -> Result<Webhook, Fault> {
    let found = daemon.config.borrow().webhook(name).cloned();
    found.ok_or_else(|| super::http::refused(&crate::core::refusal::Refusal::NoEndpoint(name.to_owned())))
}

fn endpoint_view(core: &Supervisor, webhook: &Webhook) -> EndpointView {
    let health = core.outbox().health(&webhook.name);
    let (pending, in_flight) = core.outbox().count(&webhook.name);
    let paused_why = match health.paused {
        Some(pause) => Some(pause.why.word()),
        None => webhook.paused.then_some("configured"),
    };
    EndpointView {
        name: webhook.name.clone(),
        url: webhook.target.shown(),
        format: webhook.format.word().to_owned(),
        events: webhook.kinds.iter().map(|kind| kind.word().to_owned()).collect(),
        adapters: webhook.adapters.clone(),
        secrets: webhook.secrets.len(),
        state: if paused_why.is_some() { "paused" } else { "active" }.to_owned(),
        paused_why: paused_why.map(str::to_owned),
        paused_at: health.paused.map(|pause| rfc3339(pause.at)),
        failing_since: health.failing_since.map(rfc3339),
        pending,
        in_flight,
        timeout_seconds: webhook.timeout.as_secs_f64(),
        max_attempts: webhook.attempts_max,
    }
}

/// `GET /v1/deliveries`: the newest, oldest of them first.
pub(super) async fn list(daemon: &Rc<Daemon>, query: &Query) -> Handled {
    let mut wanted = Wanted { endpoint: query.get("endpoint").map(str::to_owned), ..Wanted::default() };
    if let Some(text) = query.get("session") {
        let id = daemon.core.borrow().resolve(text).map_err(|refusal| super::http::refused(&refusal))?;
        wanted.session = Some(id.to_string());
    }
    wanted.states = query.all("state").map(state_of).collect::<Result<_, _>>()?;
    let kept = look(daemon, wanted).await?;
    let core = daemon.core.borrow();
    let now = clock::now();
    let views: Vec<_> = kept.iter().map(|kept| delivery_view(&core, kept, now)).collect();
    Ok(json_answer(StatusCode::OK, &views))
}

fn state_of(word: &str) -> Result<&'static str, Fault> {
    ["owed", "delivered", "dead", "superseded"].into_iter().find(|state| *state == word).ok_or_else(|| {
        let detail = format!("there is no state \"{word}\"; it is owed, delivered, dead or superseded");
        Fault::new(StatusCode::BAD_REQUEST, detail)
    })
}

/// `GET /v1/deliveries/{id}`.
pub(super) async fn show(daemon: &Rc<Daemon>, id: &str) -> Handled {
    let kept = resolve(daemon, id).await?;
    let (tried, sent) = (kept.id.clone(), kept.id.clone());
    let attempts = reading(daemon, move |reader| reader.attempts(&tried)).await?;
    let outgoing = reading(daemon, move |reader| reader.outgoing(&sent)).await?;
    let attempts = attempts.into_iter().map(|tried| AttemptView {
        at: rfc3339(tried.at),
        duration_ms: tried.took_ms,
        status: tried.status,
        error: tried.error,
    });
    let details = DeliveryDetails {
        delivery: delivery_view(&daemon.core.borrow(), &kept, clock::now()),
        attempts: attempts.collect(),
        body: outgoing.map(|outgoing| outgoing.body).unwrap_or_default(),
    };
    Ok(json_answer(StatusCode::OK, &details))
}

/// What the journal says of a delivery, with what the core knows of one that is owed.
fn delivery_view(core: &Supervisor, kept: &Kept, now: Now) -> DeliveryView {
    let owed = core.outbox().get(&kept.id);
    let served = core.is_served(&kept.id.endpoint);
    let state = match (owed, kept.over) {
        (Some(owed), _) if owed.in_flight => "sending",
        (Some(_), _) if served => "pending",
        (Some(_), _) | (None, None) if !served => "paused",
        (Some(_), _) | (None, None) => "pending",
        (None, Some(DeliveryEnd::Delivered)) => "delivered",
        (None, Some(DeliveryEnd::Dead)) => "dead",
        (None, Some(DeliveryEnd::Superseded)) => "superseded",
    };
    let next = owed.filter(|owed| served && !owed.in_flight);
    DeliveryView {
        id: written(&kept.id),
        event_id: kept.event_id.clone(),
        endpoint: kept.id.endpoint.clone(),
        r#type: kept.kind.word().to_owned(),
        session_id: kept.run.map(|run| run.session.to_string()),
        run: kept.run.map(|run| run.run),
        state: state.to_owned(),
        attempts: kept.attempts,
        queued_at: rfc3339(kept.queued),
        last_attempt_at: kept.last_attempt.map(rfc3339),
        next_attempt_at: next.map(|owed| rfc3339(now.wall.after(owed.due.since(now.mono)))),
        last_error: kept.last_error.clone(),
    }
}

/// `POST /v1/deliveries/redeliver`.
pub(super) async fn redeliver(daemon: &Rc<Daemon>, request: Request<Incoming>) -> Handled {
    let (wanted, _): (Redeliver, Bytes) = read_json(daemon, request).await?;
    let kept = match (&wanted.ids[..], wanted.failed, &wanted.since) {
        ([_, ..], false, None) => {
            let mut all = Vec::new();
            for id in &wanted.ids {
                all.push(resolve(daemon, id).await?);
            }
            all
        }
        ([], true, None) => failed(daemon, wanted.endpoint.as_deref()).await?,
        ([], false, Some(since)) => {
            let since = parse_rfc3339(since).ok_or_else(|| {
                Fault::new(
                    StatusCode::BAD_REQUEST,
                    format!("\"{since}\" is no time such as 2026-11-22T09:00:00Z"),
                )
            })?;
            let states = vec!["owed", "delivered", "dead"];
            let endpoint = wanted.endpoint.clone();
            look(daemon, Wanted { endpoint, since: Some(since), states, ..Wanted::default() }).await?
        }
        _ => {
            let detail = "name deliveries in `ids`, or set `failed`, or give `since`: one of the three";
            return Err(Fault::new(StatusCode::BAD_REQUEST, detail));
        }
    };
    let again = kept
        .into_iter()
        .map(|kept| Again { id: kept.id, run: kept.run, kind: kept.kind, queued: kept.queued })
        .collect();
    ask(daemon, Ask::Redeliver(again)).await
}

/// What was given up, and what is owed and has failed.
async fn failed(daemon: &Rc<Daemon>, endpoint: Option<&str>) -> Result<Vec<Kept>, Fault> {
    let states = vec!["owed", "dead"];
    let wanted = Wanted { endpoint: endpoint.map(str::to_owned), states, ..Wanted::default() };
    let mut kept = look(daemon, wanted).await?;
    let core = daemon.core.borrow();
    let has_failed = |id: &DeliveryId| core.outbox().get(id).is_none_or(|owed| owed.failed > 0);
    kept.retain(|kept| has_failed(&kept.id));
    Ok(kept)
}

/// The delivery that a text means: an event's number, with `.` and the endpoint where several were told of it; or the
/// event's id, as the receiver saw it.
async fn resolve(daemon: &Rc<Daemon>, text: &str) -> Result<Kept, Fault> {
    let (first, endpoint) = match text.split_once('.') {
        Some((first, endpoint)) => (first, Some(endpoint.to_owned())),
        None => (text, None),
    };
    let wanted = match first.parse() {
        Ok(seq) => Wanted { seq: Some(seq), endpoint, ..Wanted::default() },
        Err(_) if first.starts_with("evt_") => {
            Wanted { event_id: Some(first.to_owned()), endpoint, ..Wanted::default() }
        }
        Err(_) => {
            let detail = format!(
                "\"{text}\" is no delivery; it looks like 42, 42.default or evt_... (agentctl webhooks list --all)"
            );
            return Err(Fault::new(StatusCode::BAD_REQUEST, detail));
        }
    };
    let mut found = look(daemon, wanted).await?;
    match (found.pop(), &found[..]) {
        (Some(one), []) => Ok(one),
        (None, _) => {
            let detail = format!(
                "there is no delivery {text}; agentctl webhooks list --all shows those that are kept"
            );
            Err(Fault::new(StatusCode::NOT_FOUND, detail))
        }
        (Some(last), rest) => {
            let all: Vec<_> = rest.iter().chain([&last]).map(|kept| written(&kept.id)).collect();
            let detail = format!("{text} is ambiguous; it could be: {}", all.join(", "));
            Err(Fault::new(StatusCode::CONFLICT, detail))
        }
    }
}

fn written(id: &DeliveryId) -> String {
    format!("{}.{}", id.seq, id.endpoint)
}

async fn look(daemon: &Rc<Daemon>, wanted: Wanted) -> Result<Vec<Kept>, Fault> {
    reading(daemon, move |reader| reader.deliveries(&wanted)).await
}

/// Reads the journal, where it disturbs nobody.
async fn reading<T: Send + 'static, E: std::fmt::Display + Send + 'static>(
    daemon: &Daemon,
    read: impl FnOnce(JournalReader) -> Result<T, E> + Send + 'static,
) -> Result<T, Fault> {
    let broken =
        |why: String| Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("read the journal: {why}"));
    let reader = daemon.journal.reader();
    let read = spawn_blocking(move || read(reader)).await.map_err(|panicked| broken(panicked.to_string()))?;
    read.map_err(|error| broken(error.to_string()))
}

/// `POST /v1/webhooks/{name}/test`: sends something that no receiver takes for an end, once, also to a paused endpoint.
pub(super) async fn test(daemon: &Rc<Daemon>, name: &str) -> Handled {
    let endpoint = find(daemon, name)?;
    let nonce = Uuid::new_v4().to_string();
    let (event_id, plain, event) = webhook::test_bodies(&nonce, &daemon.host_name, clock::now().wall);
    let (content_type, body) = match endpoint.format {
        Format::Agentctl => (webhook::JSON, plain),
        Format::Cloudevents => (webhook::CLOUDEVENTS_JSON, event),
    };
    let outgoing = Outgoing { event_id: event_id.clone(), content_type: content_type.to_owned(), body };
    let sent = deliver::send(daemon, &endpoint, false, outgoing).await;
    let status = sent.answer.as_ref().ok().map(|answer| answer.status);
    let words = match sent.answer {
        Ok(answer) => (!answer.words.is_empty()).then_some(answer.words),
        Err(error) => Some(error),
    };
    let view = TestView {
        endpoint: endpoint.name,
        event_id,
        accepted: status.is_some_and(|status| status.is_success()),
        status: status.map(|status| status.as_u16()),
        duration_ms: millis(sent.took),
        answer: words,
    };
    Ok(json_answer(StatusCode::OK, &view))
}
