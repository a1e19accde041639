//! From an event to the deliveries it owes, and from an attempt to what follows; what people may ask of both.
//!
//! Read it after `outbox.rs`, which holds what is owed. Decisions only: nothing in here sends.

use super::dir_fuses::FuseId;
use super::locks::ManualLock;
use super::outbox::{Attempt, AttemptResult, RETRY_DELAYS};
use super::record::{DeliveryEnd, DeliveryId, EventKind, Health, Pause, PauseReason, Record, is_ad_hoc};
use super::refusal::Refusal;
use super::session::Session;
use super::supervisor::Supervisor;
use super::vocab::{Now, RunId, SessionId, Wall};
use super::{Effect, Reply, ReplyTo, Step};

/// A delivery that somebody wants to have sent again, with what its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    pub id: DeliveryId,
    pub run: Option<RunId>,
    pub kind: EventKind,
    /// When it was first queued.
    pub queued: Wall,
}

/// A public event that is about to be.
pub(super) struct News {
    pub(super) kind: EventKind,
    pub(super) run: Option<RunId>,
    pub(super) fires_at: Option<Wall>,
    /// The endpoint that it is about.
    pub(super) endpoint: Option<String>,
    /// The directory fuse that it is about.
    pub(super) fuse: Option<FuseId>,
    /// The lock by hand that it is about.
    pub(super) lock: Option<Box<ManualLock>>,
}

impl News {
    pub(super) fn of_fuse(kind: EventKind, fuse: FuseId) -> Self {
        Self { kind, run: None, fires_at: None, endpoint: None, fuse: Some(fuse), lock: None }
    }
}

impl Supervisor {
    /// Makes the record of a public event of a run, and of what endpoints are owed for it.
    pub(super) fn publish(
        &mut self,
        now: Now,
        kind: EventKind,
        run: RunId,
        fires_at: Option<Wall>,
        out: &mut Step,
    ) {
        self.publish_news(
            now,
            News { kind, run: Some(run), fires_at, endpoint: None, fuse: None, lock: None },
            out,
        );
    }

    /// The same of a lock by hand, which is about no session.
    pub(super) fn publish_lock(&mut self, now: Now, kind: EventKind, lock: ManualLock, out: &mut Step) {
        let lock = Some(Box::new(lock));
        self.publish_news(
            now,
            News { kind, run: None, fires_at: None, endpoint: None, fuse: None, lock },
            out,
        );
    }

    pub(super) fn publish_news(&mut self, now: Now, news: News, out: &mut Step) {
        let session = news.run.and_then(|run| self.sessions.get(&run.session));
        if session.is_some_and(Session::is_hidden) {
            return;
        }
        let hearing = self.hearing(&news);
        let News { kind, run, fires_at, endpoint, fuse, lock } = news;
        let seq = self.seq + 1;
        self.record(now, Record::Event { seq, kind, run, at: now.wall, fires_at, endpoint, fuse, lock }, out);
        for endpoint in hearing {
            let id = DeliveryId { seq, endpoint: endpoint.clone() };
            self.record(now, Record::DeliveryQueued { id, run, kind, at: now.wall }, out);
            self.start_attempts(now, &endpoint, out);
        }
    }

    /// Who is to be told. An endpoint never hears of its own failures: that would be one more.
    fn hearing(&self, news: &News) -> Vec<String> {
        let spec = news.run.and_then(|run| self.sessions.get(&run.session)).map(|session| &session.spec);
        let adapter = spec.map(|spec| spec.adapter.as_str());
        let notify = spec.map(|spec| &spec.notify[..]).unwrap_or_default();
        let named = |name: &str| notify.iter().any(|target| target.endpoint == name);
        let configured = self.settings.endpoints.iter().filter(|endpoint| {
            news.endpoint.as_ref() != Some(&endpoint.name)
                && endpoint.hears(news.kind, adapter, named(&endpoint.name))
        });
        let ad_hoc = notify.iter().filter(|target| target.url.is_some() && news.kind.is_terminal());
        let fuse = news.fuse.filter(|_| news.kind == EventKind::FuseExpired);
        let fuse = fuse.and_then(|fuse| self.dir_fuses().get(fuse)?.spec.on_expire.webhook.as_ref());
        configured
            .map(|endpoint| endpoint.name.clone())
            .chain(ad_hoc.chain(fuse).map(|target| target.endpoint.clone()))
            .collect()
    }

    pub(super) fn attempted(&mut self, now: Now, id: &DeliveryId, attempt: &Attempt, out: &mut Step) {
        self.counters.attempts += 1;
        let usual = RETRY_DELAYS.len() as u32 + 1;
        let attempts_max =
            self.settings.endpoint(&id.endpoint).map_or(usual, |endpoint| endpoint.attempts_max);
        let owed = self.outbox.get(id).map(|delivery| (delivery.run, delivery.kind));
        for record in self.outbox.conclude(id, attempt, now, attempts_max) {
            let died = matches!(&record, Record::DeliveryOver { how: DeliveryEnd::Dead, .. });
            let was_paused = self.outbox.health(&id.endpoint).paused.is_some();
            let paused = matches!(&record, Record::EndpointHealth { health, .. } if health.paused.is_some());
            self.record(now, record, out);
            let about = |kind, run| News {
                kind,
                run,
                fires_at: None,
                endpoint: Some(id.endpoint.clone()),
                fuse: None,
                lock: None,
            };
            // A dead letter about dead letters is no news: two failing endpoints would tell of each other for ever.
            if let Some((run, _)) = owed.filter(|(_, kind)| died && !kind.is_about_deliveries()) {
                self.publish_news(now, about(EventKind::DeliveryDead, run), out);
            }
            if paused && !was_paused {
                self.publish_news(now, about(EventKind::EndpointPaused, None), out);
            }
        }
        if attempt.result == AttemptResult::Accepted {
            self.outbox.make_due(&id.endpoint, now);
        }
        self.start_attempts(now, &id.endpoint, out);
    }

    /// Whether attempts are made at an endpoint: it is known, and not paused.
    pub fn is_served(&self, endpoint: &str) -> bool {
        let known = self.settings.endpoint(endpoint).map_or(is_ad_hoc(endpoint), |endpoint| !endpoint.paused);
        known && self.outbox.health(endpoint).paused.is_none()
    }

    pub(super) fn start_attempts(&mut self, now: Now, endpoint: &str, out: &mut Step) {
        if !self.recovered || !self.is_served(endpoint) {
            return;
        }
        let started = self.outbox.start_due(endpoint, now, &mut self.timers);
        out.effects.extend(started.into_iter().map(Effect::Deliver));
    }

    /// After a start: goes on with what is owed.
    pub(super) fn start_all_attempts(&mut self, now: Now, out: &mut Step) {
        let endpoints: Vec<_> = self.outbox.endpoints().map(str::to_owned).collect();
        for endpoint in endpoints {
            self.start_attempts(now, &endpoint, out);
        }
    }

    /// Sends again: what is owed is due now, what was over is owed again. What the retention took meanwhile, and what
    /// is under way, is passed over.
    pub(super) fn redeliver(&mut self, now: Now, to: ReplyTo, all: Vec<Again>, out: &mut Step) {
        let mut count = 0;
        let mut endpoints: Vec<String> = Vec::new();
        for Again { id, run, kind, queued } in all {
            let forgotten = run.is_some_and(|run| !self.sessions.contains_key(&run.session));
            let done = if self.outbox.get(&id).is_some() {
                self.outbox.make_one_due(&id, now)
            } else if forgotten {
                false
            } else {
                let id = id.clone();
                self.record(now, Record::DeliveryRevived { id, run, kind, at: queued }, out);
                true
            };
            count += usize::from(done);
            if done && !endpoints.contains(&id.endpoint) {
                endpoints.push(id.endpoint);
            }
        }
        out.reply(to, Reply::Redelivered(count));
        for endpoint in endpoints {
            self.start_attempts(now, &endpoint, out);
        }
    }

    /// Pauses or resumes an endpoint. Resumed, it is sent all that waits.
    pub(super) fn set_paused(&mut self, now: Now, to: ReplyTo, name: String, paused: bool, out: &mut Step) {
        let Some(endpoint) = self.settings.endpoint(&name) else {
            out.reply(to, Reply::Refused(Refusal::NoEndpoint(name)));
            return;
        };
        if endpoint.paused && !paused {
            out.reply(to, Reply::Refused(Refusal::PausedByConfiguration(name)));
            return;
        }
        let before = self.outbox.health(&name);
        let health = if paused {
            let asked = Pause { at: now.wall, why: PauseReason::Asked };
            Health { paused: before.paused.or(Some(asked)), ..before.clone() }
        } else {
            // The days of failing are counted anew, or the first failure would pause it again.
            Health::default()
        };
        if health != before {
            self.record(now, Record::EndpointHealth { endpoint: name.clone(), health }, out);
        }
        if !paused {
            self.outbox.make_due(&name, now);
            self.start_attempts(now, &name, out);
        }
        out.reply(to, Reply::Endpoint(name));
    }

    /// What is owed for a session and may still be sent soon. What waits at an endpoint that is paused, or is not
    /// configured any more, does not keep a session beyond its retention.
    pub(super) fn keeps(&self, session: SessionId) -> bool {
        self.outbox.owed_for(session).any(|id| self.is_served(&id.endpoint))
    }

    /// The deliveries that go with a forgotten session.
    pub(super) fn drop_owed(&mut self, now: Now, session: SessionId, out: &mut Step) {
        let owed: Vec<_> = self.outbox.owed_for(session).cloned().collect();
        for id in owed {
            self.record(now, Record::DeliveryOver { id, at: now.wall, how: DeliveryEnd::Dead }, out);
        }
    }
}
