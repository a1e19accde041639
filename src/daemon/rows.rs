//! Records as journal rows, and the bodies of events and deliveries, rendered once when they are committed.

use std::collections::{BTreeMap, HashMap};

use serde_json::json;

use crate::config::webhooks::Format;
use crate::core::dir_fuses::{FuseId, FuseRecord};
use crate::core::record::{DeliveryId, Record};
use crate::core::vocab::{RunId, SessionId, Wall};
use crate::wire::locks::LockView;
use crate::wire::time::rfc3339;
use crate::wire::webhook::Happening;
use crate::wire::{api, webhook};

use super::hub::Line;
use super::journal::{Outgoing, Row};
use super::{Daemon, fuses, removals};

/// What a step's records come to outside the core.
pub(super) struct Rendered {
    pub(super) rows: Vec<Row>,
    pub(super) events: Vec<Line>,
    /// What is sent of deliveries that these records make, for those that go out with them.
    pub(super) outgoing: HashMap<DeliveryId, Outgoing>,
}

/// `at_once`: deliveries that are sent once the records are durable.
pub(super) fn render(daemon: &Daemon, records: &[Record], at_once: &[&DeliveryId]) -> Rendered {
    let rows = Vec::with_capacity(records.len());
    let mut rendered = Rendered { rows, events: Vec::new(), outgoing: HashMap::new() };
    // Deliveries follow the record of their event.
    let mut event = Told { fires_at: None, fuse: None, body: String::new() };
    for record in records {
        let row = match record {
            Record::Created { session, .. }
            | Record::NativeId { session, .. }
            | Record::Rebuilt { session, .. } => fact(*session, record),
            // Of no session: none has this id.
            Record::Imported { .. } => fact(SessionId(uuid::Uuid::nil()), record),
            Record::Started { run, .. }
            | Record::Resumed { run, .. }
            | Record::Dequeued { run, .. }
            | Record::DeadlineSet { run, .. }
            | Record::StopRequested { run, .. }
            | Record::StatusLearned { run, .. }
            | Record::Ended { run, .. }
            | Record::LateEvidence { run, .. }
            | Record::HookEnded { run, .. }
            | Record::TreeSettled { run, .. } => fact(run.session, record),
            Record::Event { seq, kind, run, at, fires_at, endpoint, fuse, lock } => {
                let view = run.and_then(|run| as_recorded(daemon, run));
                let epoch = daemon.hub.epoch();
                let fires = fires_at.map(|at| ("fires_at", json!(rfc3339(at))));
                let endpoint = endpoint.as_ref().map(|endpoint| ("endpoint", json!(endpoint)));
                let mut more: BTreeMap<_, _> = fires.into_iter().chain(endpoint).collect();
                more.extend(fuse.iter().flat_map(|fuse| fuses::told(daemon, *fuse)));
                more.extend(lock.iter().map(|lock| ("lock", json!(LockView::of_manual(lock)))));
                let body = api::event_body(epoch, *seq, *kind, *at, view.as_ref(), more);
                event = Told { fires_at: *fires_at, fuse: *fuse, body: body.clone() };
                rendered.events.push(Line::new(*seq, &body));
                Row::Event { seq: *seq, at: *at, body }
            }
            Record::DeliveryQueued { id, run, kind, at } => {
                let epoch = daemon.hub.epoch();
                let fires_at = event.fires_at;
                let happening = Happening { kind: *kind, run: *run, seq: id.seq, epoch, at: *at, fires_at };
                let outgoing = outgoing(daemon, id, happening, &event);
                if at_once.contains(&id) {
                    rendered.outgoing.insert(id.clone(), outgoing.clone());
                }
                Row::Owed { id: id.clone(), run: *run, kind: *kind, at: *at, outgoing }
            }
            // Its rows are kept like a session's.
            Record::Fuse(FuseRecord::Forgotten { fuse }) => {
                Row::Forget { session: SessionId(fuse.0), events_before: events_before(daemon) }
            }
            Record::Fuse(change) => fact(SessionId(change.fuse().0), record),
            Record::Attempted { id, at, took_ms, status, error } => Row::Attempt {
                id: id.clone(),
                at: *at,
                took_ms: *took_ms,
                status: *status,
                error: error.clone(),
            },
            Record::DeliveryRevived { id, .. } => Row::Revived { id: id.clone() },
            Record::EndpointHealth { endpoint, health } => Row::Health {
                endpoint: endpoint.clone(),
                body: serde_json::to_string(health).expect("plain fields"),
            },
            Record::AttemptFailed { id, attempt, at, retry_in_ms, held, error } => Row::Failed {
                id: id.clone(),
                attempt: *attempt,
                at: *at,
                retry_in_ms: *retry_in_ms,
                held: *held,
                error: error.clone(),
            },
            Record::DeliveryOver { id, at, how } => Row::Over { id: id.clone(), at: *at, how: *how },
            Record::Pruned { session } => {
                rendered.rows.push(Row::Forget { session: *session, events_before: events_before(daemon) });
                Row::Note { name: removals::note_of(*session), body: json(record) }
            }
            Record::Locked { lock } => Row::Note { name: lock_on(&lock.directory), body: json(record) },
            Record::Unlocked { directory, .. } => Row::NoteGone { name: lock_on(directory) },
        };
        rendered.rows.push(row);
    }
    rendered
}

/// What was told of the event that deliveries are of.
struct Told {
    fires_at: Option<Wall>,
    fuse: Option<FuseId>,
    body: String,
}

fn outgoing(daemon: &Daemon, id: &DeliveryId, event: Happening<'_>, told: &Told) -> Outgoing {
    let config = daemon.config.borrow();
    let configured = config.webhook(&id.endpoint);
    let (content_type, body) = match configured.map_or(Format::Agentctl, |webhook| webhook.format) {
        Format::Agentctl => {
            let core = daemon.core.borrow();
            if let Some(fuse) = told.fuse.and_then(|fuse| core.dir_fuses().get(fuse)) {
                let body = crate::wire::fuses::webhook_body(fuse, event.at, &event.id());
                return Outgoing { event_id: event.id(), content_type: webhook::JSON.to_owned(), body };
            }
            let session = event.run.and_then(|run| core.session(run.session));
            let body =
                session.and_then(|session| webhook::body(session, &daemon.view_of(session, true), event));
            // An endpoint is subscribed only to types that its format carries.
            (webhook::JSON, body.unwrap_or_else(|| "{}".to_owned()))
        }
        Format::Cloudevents => {
            let data = serde_json::from_str(&told.body).unwrap_or_default();
            (webhook::CLOUDEVENTS_JSON, webhook::cloudevent(event, &daemon.host_name, &data))
        }
    };
    Outgoing { event_id: event.id(), content_type: content_type.to_owned(), body }
}

fn lock_on(directory: &str) -> String {
    format!("lock {directory}")
}

fn fact(session: SessionId, record: &Record) -> Row {
    Row::Fact { session, body: json(record) }
}

fn json(record: &Record) -> String {
    serde_json::to_string(record).expect("a record has string keys and finite numbers")
}

/// The session as it will be once these records are durable; the body is told only then.
fn as_recorded(daemon: &Daemon, run: RunId) -> Option<api::SessionView> {
    let core = daemon.core.borrow();
    core.session(run.session).map(|session| daemon.view_of(session, true))
}

fn events_before(daemon: &Daemon) -> Wall {
    let kept = i64::try_from(daemon.config.borrow().retention.as_micros()).unwrap_or(i64::MAX);
    Wall(crate::sys::clock::now().wall.0.saturating_sub(kept))
}
