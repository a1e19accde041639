//! Records as journal rows, and the bodies of events and deliveries, rendered once when they are committed.

use crate::core::record::Record;
use crate::core::vocab::{RunId, SessionId, Wall};
use crate::wire::{api, webhook};

use super::Daemon;
use super::hub::Line;
use super::journal::Row;

/// What a step's records come to outside the core.
pub(super) struct Rendered {
    pub(super) rows: Vec<Row>,
    pub(super) events: Vec<Line>,
}

pub(super) fn render(daemon: &Daemon, records: &[Record]) -> Rendered {
    let mut rendered = Rendered { rows: Vec::with_capacity(records.len()), events: Vec::new() };
    for record in records {
        let row = match record {
            Record::Created { session, .. }
            | Record::NativeId { session, .. }
            | Record::Rebuilt { session, .. } => fact(*session, record),
            Record::Started { run, .. }
            | Record::Resumed { run, .. }
            | Record::DeadlineSet { run, .. }
            | Record::StopRequested { run, .. }
            | Record::StatusLearned { run, .. }
            | Record::Ended { run, .. }
            | Record::LateEvidence { run, .. }
            | Record::HookEnded { run, .. }
            | Record::TreeSettled { run, .. } => fact(run.session, record),
            Record::Event { seq, kind, run, at, fires_at } => {
                let view = run.and_then(|run| as_recorded(daemon, run));
                let body = api::event_body(daemon.hub.epoch(), *seq, *kind, *at, *fires_at, view.as_ref());
                rendered.events.push(Line::new(*seq, &body));
                Row::Event { seq: *seq, at: *at, body }
            }
            Record::DeliveryQueued { id, run, kind, at } => {
                let core = daemon.core.borrow();
                let session = core.session(run.session);
                let body = session.and_then(|session| {
                    webhook::body(session, &daemon.view_of(session, true), *kind, id.seq, *at)
                });
                // An endpoint is subscribed only to types that its format carries.
                let body = body.unwrap_or_else(|| "{}".to_owned());
                Row::Owed { id: id.clone(), run: *run, kind: *kind, at: *at, body }
            }
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
                Row::Forget { session: *session, events_before: events_before(daemon) }
            }
        };
        rendered.rows.push(row);
    }
    rendered
}

fn fact(session: SessionId, record: &Record) -> Row {
    let body = serde_json::to_string(record).expect("a record has string keys and finite numbers");
    Row::Fact { session, body }
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
