//! Deliveries that are owed: which, to whom, when next; and how each endpoint does.
//!
//! Owns the schedule, the bound on concurrent attempts of an endpoint, and the rules of overtaking and of pausing.
//! Refuses to know URLs, secrets or bodies. A delivery enters in the same transaction as its event, so
//! it cannot be forgotten; it leaves when a receiver said 2xx, when it was overtaken, or as a dead letter.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::record::{DeliveryEnd, DeliveryId, EventKind, Health, Pause, PauseReason, Record, is_ad_hoc};
use super::timers::{Timer, Timers};
use super::vocab::{Mono, Now, RunId, SessionId, Wall, millis};

/// Time from one attempt to the next (Standard Webhooks 1.0.0, with its first retry after 5 s).
pub const RETRY_DELAYS: [Duration; 9] = [
    Duration::from_secs(5),
    Duration::from_secs(5 * 60),
    Duration::from_secs(30 * 60),
    Duration::from_secs(2 * 3600),
    Duration::from_secs(5 * 3600),
    Duration::from_secs(10 * 3600),
    Duration::from_secs(14 * 3600),
    Duration::from_secs(20 * 3600),
    Duration::from_secs(24 * 3600),
];

/// Attempts under way at once at one endpoint.
pub const CONCURRENT_ATTEMPTS_MAX: usize = 8;

/// A receiver may ask for at most this much patience with `Retry-After`.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// An endpoint at which nothing has succeeded for so long is paused at its next failure.
pub const PAUSE_AFTER: Duration = Duration::from_secs(5 * 24 * 3600);

/// A place that events are delivered to, as far as the core cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub name: String,
    /// The event types that it hears of.
    pub kinds: Vec<EventKind>,
    /// Only sessions of these adapters; empty: of all.
    pub adapters: Vec<String>,
    /// After so many attempts a delivery is given up.
    pub attempts_max: u32,
    /// By configuration: what there is to send waits.
    pub paused: bool,
}

impl Endpoint {
    /// Whether it hears of an event. `adapter`: of the session that the event is about; `named`: its launch
    /// named this endpoint, so it is told of the end whatever it hears of otherwise.
    pub fn hears(&self, kind: EventKind, adapter: Option<&str>, named: bool) -> bool {
        let takes = self.adapters.is_empty()
            || adapter.is_none_or(|adapter| self.adapters.iter().any(|taken| taken == adapter));
        (self.kinds.contains(&kind) && (takes || named)) || (named && kind.is_terminal())
    }
}

/// A delivery that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// None: its event is about no session.
    pub run: Option<RunId>,
    pub kind: EventKind,
    pub queued: Wall,
    /// Attempts of the schedule that failed so far.
    pub failed: u32,
    pub due: Mono,
    /// When the schedule has the next attempt; another delivery's success may make it due before.
    pub scheduled: Mono,
    /// Under a `Retry-After`: another delivery's success does not make it due.
    pub held: bool,
    pub in_flight: bool,
    pub last_error: Option<String>,
}

/// An attempt that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub took: Duration,
    /// What the receiver answered, if it did.
    pub status: Option<u16>,
    pub result: AttemptResult,
}

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// 2xx.
    Accepted,
    /// 410: the receiver wants nothing more, ever.
    Gone { error: String },
    /// Anything else, with how long the receiver wants to be left alone.
    Failed { error: String, retry_after: Option<Duration> },
}

impl AttemptResult {
    /// Why it was not accepted.
    pub fn error(&self) -> Option<&str> {
        match self {
            Self::Accepted => None,
            Self::Gone { error } | Self::Failed { error, .. } => Some(error),
        }
    }
}

/// All deliveries that are owed, and how the endpoints do.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    owed: BTreeMap<DeliveryId, Delivery>,
    queues: HashMap<String, Queue>,
    /// What is owed for each session, so that no question about one walks over all.
    by_session: HashMap<SessionId, BTreeSet<DeliveryId>>,
    health: BTreeMap<String, Health>,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    waiting: BTreeSet<(Mono, DeliveryId)>,
    /// Apart from those, so that a success does not walk over them.
    held: BTreeSet<(Mono, DeliveryId)>,
    in_flight: usize,
}

impl Queue {
    fn of(&mut self, held: bool) -> &mut BTreeSet<(Mono, DeliveryId)> {
        if held { &mut self.held } else { &mut self.waiting }
    }

    /// When the next one is due, and whether it is one that was held.
    fn next(&self) -> Option<(Mono, bool)> {
        let first = |set: &BTreeSet<(Mono, DeliveryId)>| set.first().map(|(due, _)| *due);
        match (first(&self.waiting), first(&self.held)) {
            (Some(waiting), Some(held)) if held < waiting => Some((held, true)),
            (Some(waiting), _) => Some((waiting, false)),
            (None, held) => held.map(|held| (held, true)),
        }
    }
}

impl Outbox {
    /// How many deliveries are owed.
    pub fn len(&self) -> usize {
        self.owed.len()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.owed.is_empty()
    }

    /// The deliveries that are owed, oldest event first.
    pub fn iter(&self) -> impl Iterator<Item = (&DeliveryId, &Delivery)> {
        self.owed.iter()
    }

    /// The endpoints that something is owed to.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.queues.keys().map(String::as_str)
    }

    /// How many deliveries an endpoint is owed, and how many of them are under way.
    pub fn count(&self, endpoint: &str) -> (usize, usize) {
        self.queues.get(endpoint).map_or((0, 0), |queue| {
            (queue.waiting.len() + queue.held.len() + queue.in_flight, queue.in_flight)
        })
    }

    /// How an endpoint does.
    pub fn health(&self, endpoint: &str) -> Health {
        self.health.get(endpoint).cloned().unwrap_or_default()
    }

    /// Notes how an endpoint does.
    pub fn set_health(&mut self, endpoint: &str, health: &Health) {
        if *health == Health::default() {
            self.health.remove(endpoint);
        } else {
            self.health.insert(endpoint.to_owned(), health.clone());
        }
    }

    /// Enters a delivery, due at once.
    pub fn queue(&mut self, id: &DeliveryId, run: Option<RunId>, kind: EventKind, at: Wall, now: Now) {
        let delivery = Delivery {
            run,
            kind,
            queued: at,
            failed: 0,
            due: now.mono,
            scheduled: now.mono,
            held: false,
            in_flight: false,
            last_error: None,
        };
        self.queues.entry(id.endpoint.clone()).or_default().waiting.insert((now.mono, id.clone()));
        if let Some(run) = run {
            self.by_session.entry(run.session).or_default().insert(id.clone());
        }
        self.owed.insert(id.clone(), delivery);
    }

    /// Notes a failed attempt, of the schedule or beside it: `attempt` of the schedule have failed by now. `at` is when
    /// this one did, so that a replay after hours of absence waits only for what is left of the delay.
    #[expect(clippy::too_many_arguments, reason = "the parts of one record, taken apart once")]
    pub fn failed(
        &mut self,
        id: &DeliveryId,
        attempt: u32,
        at: Wall,
        retry_in: Duration,
        held: bool,
        error: &str,
        now: Now,
    ) {
        let Some(delivery) = self.owed.get_mut(id) else { return };
        let queue = self.queues.entry(id.endpoint.clone()).or_default();
        release(queue, delivery, id);
        delivery.failed = attempt;
        delivery.held = held;
        delivery.last_error = Some(error.to_owned());
        delivery.scheduled = now.mono.after(retry_in.saturating_sub(now.wall.since(at)));
        delivery.due = delivery.scheduled;
        queue.of(held).insert((delivery.due, id.clone()));
    }

    /// Takes a delivery out for good.
    pub fn over(&mut self, id: &DeliveryId) {
        let Some(mut delivery) = self.owed.remove(id) else { return };
        if let Some(queue) = self.queues.get_mut(&id.endpoint) {
            release(queue, &mut delivery, id);
            if queue.next().is_none() && queue.in_flight == 0 {
                self.queues.remove(&id.endpoint);
            }
        }
        let Some(run) = delivery.run else { return };
        if let Some(owed) = self.by_session.get_mut(&run.session) {
            owed.remove(id);
            if owed.is_empty() {
                self.by_session.remove(&run.session);
            }
        }
    }

    /// A success shows that the endpoint is back: what waits there is due now, save what a
    /// `Retry-After` holds.
    pub fn make_due(&mut self, endpoint: &str, now: Now) {
        let Some(queue) = self.queues.get_mut(endpoint) else { return };
        let later = queue.waiting.split_off(&(now.mono.after(Duration::from_nanos(1)), DeliveryId::least()));
        for (_, id) in later {
            if let Some(delivery) = self.owed.get_mut(&id) {
                delivery.due = now.mono;
                queue.waiting.insert((now.mono, id));
            }
        }
    }

    /// Somebody asked for it: due now, also when a `Retry-After` held it. False when it is not owed, or under way.
    pub fn make_one_due(&mut self, id: &DeliveryId, now: Now) -> bool {
        let (Some(delivery), Some(queue)) = (self.owed.get_mut(id), self.queues.get_mut(&id.endpoint)) else {
            return false;
        };
        if delivery.in_flight {
            return false;
        }
        release(queue, delivery, id);
        (delivery.due, delivery.held) = (now.mono, false);
        queue.waiting.insert((now.mono, id.clone()));
        true
    }

    /// What a terminal delivery that arrived has overtaken: earlier events of the same session at the
    /// same endpoint.
    pub fn overtaken_by(&self, id: &DeliveryId, session: SessionId) -> Vec<DeliveryId> {
        let owed = self.by_session.get(&session).into_iter().flatten();
        let overtaken = owed.filter(|other| {
            other.seq < id.seq
                && other.endpoint == id.endpoint
                && self.owed.get(*other).is_some_and(|delivery| {
                    !delivery.kind.is_terminal() && !delivery.kind.is_about_deliveries()
                })
        });
        overtaken.cloned().collect()
    }

    /// The delivery with this id.
    pub fn get(&self, id: &DeliveryId) -> Option<&Delivery> {
        self.owed.get(id)
    }

    /// What is owed for a session.
    pub fn owed_for(&self, session: SessionId) -> impl Iterator<Item = &DeliveryId> {
        self.by_session.get(&session).into_iter().flatten()
    }

    /// Takes the attempts that may start now, and arms the endpoint's timer for the rest.
    pub fn start_due(&mut self, endpoint: &str, now: Now, timers: &mut Timers) -> Vec<DeliveryId> {
        let Some(queue) = self.queues.get_mut(endpoint) else { return Vec::new() };
        let mut started = Vec::new();
        while queue.in_flight < CONCURRENT_ATTEMPTS_MAX {
            let Some((_, held)) = queue.next().filter(|(due, _)| *due <= now.mono) else { break };
            let Some((_, id)) = queue.of(held).pop_first() else { break };
            if let Some(delivery) = self.owed.get_mut(&id) {
                delivery.in_flight = true;
                queue.in_flight += 1;
                started.push(id);
            }
        }
        let timer = Timer::Endpoint(endpoint.to_owned());
        match queue.next() {
            // With all places taken, the end of an attempt calls again; no timer is needed.
            Some((due, _)) if queue.in_flight < CONCURRENT_ATTEMPTS_MAX => timers.set(timer, due),
            Some(_) | None => timers.clear(&timer),
        }
        started
    }

    /// The records that the end of an attempt makes, of the delivery and of its endpoint's health. An attempt before its
    /// time, for another's success, uses up none of the schedule: a receiver that takes some and refuses others would be
    /// through with it within seconds.
    pub fn conclude(&self, id: &DeliveryId, attempt: &Attempt, now: Now, attempts_max: u32) -> Vec<Record> {
        let Some(delivery) = self.owed.get(id) else { return Vec::new() };
        let at = now.wall;
        let over = |id: &DeliveryId, how| Record::DeliveryOver { id: id.clone(), at, how };
        let mut records = vec![Record::Attempted {
            id: id.clone(),
            at,
            took_ms: millis(attempt.took),
            status: attempt.status,
            error: attempt.result.error().map(str::to_owned),
        }];
        let early = delivery.scheduled > now.mono;
        let number = delivery.failed + u32::from(!early);
        let failed = |delay: Duration, held: bool, error: &str| Record::AttemptFailed {
            id: id.clone(),
            attempt: number,
            at,
            retry_in_ms: millis(delay),
            held,
            error: error.to_owned(),
        };
        let next = if early {
            Some(delivery.scheduled.since(now.mono))
        } else {
            retry_delay(id, number).filter(|_| number < attempts_max)
        };
        match (&attempt.result, next) {
            (AttemptResult::Accepted, _) => {
                records.push(over(id, DeliveryEnd::Delivered));
                if let Some(run) = delivery.run.filter(|_| delivery.kind.is_terminal()) {
                    let overtaken = self.overtaken_by(id, run.session);
                    records.extend(overtaken.iter().map(|id| over(id, DeliveryEnd::Superseded)));
                }
            }
            // Nobody can resume what the configuration does not know.
            (AttemptResult::Gone { .. }, _) if id.is_ad_hoc() => records.push(over(id, DeliveryEnd::Dead)),
            (AttemptResult::Gone { error }, delay) => {
                records.push(failed(delay.unwrap_or_default(), false, error));
            }
            (AttemptResult::Failed { error, retry_after }, Some(delay)) => {
                let asked = retry_after.map(|patience| patience.min(RETRY_AFTER_MAX));
                let delay = asked.map_or(delay, |asked| asked.max(delay));
                records.push(failed(delay, asked.is_some(), error));
            }
            (AttemptResult::Failed { .. }, None) => records.push(over(id, DeliveryEnd::Dead)),
        }
        records.extend(self.health_after(&id.endpoint, &attempt.result, at));
        records
    }

    /// The record of an endpoint's health, where an attempt changed it.
    fn health_after(&self, endpoint: &str, result: &AttemptResult, at: Wall) -> Option<Record> {
        if is_ad_hoc(endpoint) {
            return None;
        }
        let before = self.health(endpoint);
        let mut health = before.clone();
        match result {
            AttemptResult::Accepted => health.failing_since = None,
            AttemptResult::Gone { .. } | AttemptResult::Failed { .. } => {
                let since = *health.failing_since.get_or_insert(at);
                let why = match result {
                    AttemptResult::Gone { .. } => Some(PauseReason::Gone),
                    AttemptResult::Failed { .. } if at.since(since) >= PAUSE_AFTER => {
                        Some(PauseReason::Failing)
                    }
                    AttemptResult::Failed { .. } | AttemptResult::Accepted => None,
                };
                // The first reason stays: it is the one that somebody has to look into.
                health.paused = health.paused.or(why.map(|why| Pause { at, why }));
            }
        }
        (health != before).then(|| Record::EndpointHealth { endpoint: endpoint.to_owned(), health })
    }
}

impl DeliveryId {
    fn least() -> Self {
        Self { seq: 0, endpoint: String::new() }
    }
}

fn release(queue: &mut Queue, delivery: &mut Delivery, id: &DeliveryId) {
    if delivery.in_flight {
        delivery.in_flight = false;
        queue.in_flight = queue.in_flight.saturating_sub(1);
    } else {
        queue.of(delivery.held).remove(&(delivery.due, id.clone()));
    }
}

/// The delay after the `attempt`th failure, spread by a tenth either way so that many deliveries that
/// failed together do not return together. Beyond the schedule its last delay is kept. The spread is a function
/// of the delivery, since the core has no dice.
fn retry_delay(id: &DeliveryId, attempt: u32) -> Option<Duration> {
    let step = usize::try_from(attempt).ok()?.checked_sub(1)?.min(RETRY_DELAYS.len() - 1);
    let mut hash = id.seq.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(attempt));
    for byte in id.endpoint.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let spread = (hash >> 33) % 2001; // 0 ..= 2000: tenths of a per mille around 1000
    Some(RETRY_DELAYS[step].mul_f64(0.9 + spread as f64 / 10_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(seconds: u64) -> Now {
        Now { wall: Wall(i64::try_from(seconds).unwrap() * 1_000_000), mono: Mono(seconds * 1_000_000_000) }
    }

    fn run(number: u128) -> Option<RunId> {
        Some(RunId { session: SessionId(uuid::Uuid::from_u128(number)), run: 1 })
    }

    fn attempt(result: AttemptResult) -> Attempt {
        Attempt { took: Duration::from_millis(3), status: None, result }
    }

    fn failure() -> Attempt {
        attempt(AttemptResult::Failed { error: "500".into(), retry_after: None })
    }

    const MAX: u32 = RETRY_DELAYS.len() as u32 + 1;

    fn id(seq: u64) -> DeliveryId {
        DeliveryId { seq, endpoint: "default".into() }
    }

    #[test]
    fn attempts_of_an_endpoint_are_bounded_and_go_on_when_one_ends() {
        let (mut outbox, mut timers) = (Outbox::default(), Timers::default());
        for seq in 1..=20 {
            outbox.queue(&id(seq), run(u128::from(seq)), EventKind::Stopped, Wall(0), now(0));
        }
        assert_eq!(outbox.start_due("default", now(0), &mut timers).len(), CONCURRENT_ATTEMPTS_MAX);
        assert!(outbox.start_due("default", now(0), &mut timers).is_empty());
        outbox.over(&id(1));
        assert_eq!(outbox.start_due("default", now(0), &mut timers), vec![id(9)]);
    }

    #[test]
    fn delays_follow_the_schedule_within_a_tenth_and_then_the_letter_is_dead() {
        let mut outbox = Outbox::default();
        outbox.queue(&id(7), run(1), EventKind::Stopped, Wall(0), now(0));
        let failure = failure();
        let mut at = now(0);
        for (base, number) in RETRY_DELAYS.into_iter().zip(1..) {
            let records = outbox.conclude(&id(7), &failure, at, MAX);
            let [_, Record::AttemptFailed { retry_in_ms, held: false, .. }, _] = records[..] else {
                panic!("{records:?}")
            };
            let ratio = retry_in_ms as f64 / base.as_millis() as f64;
            assert!((0.899..=1.101).contains(&ratio), "{ratio}");
            let retry_in = Duration::from_millis(retry_in_ms);
            outbox.failed(&id(7), number, at.wall, retry_in, false, "500", at);
            at = Now { wall: at.wall.after(retry_in), mono: at.mono.after(retry_in) };
        }
        let records = outbox.conclude(&id(7), &failure, at, MAX);
        assert!(matches!(records[1], Record::DeliveryOver { how: DeliveryEnd::Dead, .. }));
        // With more attempts than the schedule has, it goes on at its last pace; with fewer it ends sooner.
        let records = outbox.conclude(&id(7), &failure, at, MAX + 1);
        assert!(matches!(records[1], Record::AttemptFailed { retry_in_ms: 70_000_000.., .. }), "{records:?}");
        outbox.queue(&id(8), run(1), EventKind::Stopped, Wall(0), now(0));
        let records = outbox.conclude(&id(8), &failure, now(0), 1);
        assert!(matches!(records[1], Record::DeliveryOver { how: DeliveryEnd::Dead, .. }));
    }

    #[test]
    fn an_endpoint_is_paused_by_410_or_by_five_days_without_success() {
        let mut outbox = Outbox::default();
        outbox.queue(&id(1), run(1), EventKind::Stopped, Wall(0), now(0));
        let mut after = |result: &Attempt, seconds: u64| {
            let records = outbox.conclude(&id(1), result, now(seconds), MAX);
            let health = records.iter().find_map(|record| {
                if let Record::EndpointHealth { health, .. } = record { Some(health.clone()) } else { None }
            });
            if let Some(health) = &health {
                outbox.set_health("default", health);
            }
            health
        };
        let days = |days: u64| days * 24 * 3600;
        let first = after(&failure(), 10).expect("the first failure is noted");
        assert_eq!(first, Health { failing_since: Some(now(10).wall), paused: None });
        assert_eq!(after(&failure(), days(5)), None, "not quite five days");
        let accepted = attempt(AttemptResult::Accepted);
        assert_eq!(after(&accepted, days(5) + 5), Some(Health::default()), "a success ends it");
        assert!(after(&failure(), days(6)).is_some());
        let paused = after(&failure(), days(11)).expect("five days").paused;
        assert_eq!(paused, Some(Pause { at: now(days(11)).wall, why: PauseReason::Failing }));
        let gone = attempt(AttemptResult::Gone { error: "HTTP 410".into() });
        assert_eq!(after(&gone, days(11)), None, "the first reason stays");
        outbox.set_health("default", &Health::default());
        let records = outbox.conclude(&id(1), &gone, now(0), MAX);
        assert!(
            matches!(&records[2], Record::EndpointHealth { health: Health { paused: Some(pause), .. }, .. }
            if pause.why == PauseReason::Gone)
        );
        assert!(matches!(records[1], Record::AttemptFailed { .. }), "the delivery waits for the resume");
    }

    #[test]
    fn a_url_of_one_launch_that_is_gone_is_a_dead_letter() {
        let mut outbox = Outbox::default();
        let id = DeliveryId { seq: 1, endpoint: "url:x".into() };
        outbox.queue(&id, run(1), EventKind::Stopped, Wall(0), now(0));
        let gone = attempt(AttemptResult::Gone { error: "HTTP 410".into() });
        let records = outbox.conclude(&id, &gone, now(0), MAX);
        assert!(
            matches!(records[..], [_, Record::DeliveryOver { how: DeliveryEnd::Dead, .. }]),
            "{records:?}"
        );
    }

    #[test]
    fn an_endpoint_hears_of_what_it_asked_for_and_of_ends_that_name_it() {
        let hears = |kinds: &[EventKind], adapters: &[&str], kind, adapter, named| {
            let endpoint = Endpoint {
                name: "e".into(),
                kinds: kinds.to_vec(),
                adapters: adapters.iter().map(|name| (*name).to_owned()).collect(),
                attempts_max: MAX,
                paused: false,
            };
            endpoint.hears(kind, adapter, named)
        };
        use EventKind::{EndpointPaused, Started, Stopped};
        assert!(hears(&[Stopped], &[], Stopped, Some("codex"), false));
        assert!(!hears(&[Stopped], &[], Started, Some("codex"), true));
        assert!(!hears(&[Stopped], &["pi"], Stopped, Some("codex"), false));
        assert!(hears(&[Stopped], &["pi"], Stopped, Some("codex"), true), "it was named");
        assert!(hears(&[], &[], Stopped, Some("codex"), true));
        assert!(!hears(&[], &[], Stopped, Some("codex"), false));
        assert!(hears(&[EndpointPaused], &["pi"], EndpointPaused, None, false), "it is of no adapter");
    }

    #[test]
    fn one_that_is_asked_for_is_due_at_once_unless_it_is_under_way() {
        let (mut outbox, mut timers) = (Outbox::default(), Timers::default());
        outbox.queue(&id(1), run(1), EventKind::Stopped, Wall(0), now(0));
        assert_eq!(outbox.start_due("default", now(0), &mut timers), [id(1)]);
        assert!(!outbox.make_one_due(&id(1), now(0)));
        outbox.failed(&id(1), 1, Wall(0), Duration::from_secs(60), true, "429", now(0));
        assert!(outbox.make_one_due(&id(1), now(1)));
        assert_eq!(outbox.start_due("default", now(1), &mut timers), [id(1)]);
        assert!(!outbox.make_one_due(&id(2), now(1)));
    }

    #[test]
    fn a_success_makes_the_rest_due_save_what_the_receiver_held() {
        let (mut outbox, mut timers) = (Outbox::default(), Timers::default());
        for seq in 1..=3 {
            outbox.queue(&id(seq), run(u128::from(seq)), EventKind::Stopped, Wall(0), now(0));
        }
        assert_eq!(outbox.start_due("default", now(0), &mut timers).len(), 3);
        outbox.failed(&id(1), 1, Wall(0), Duration::from_secs(300), false, "down", now(0));
        outbox.failed(&id(2), 1, Wall(0), Duration::from_secs(60), true, "429", now(0));
        outbox.over(&id(3));
        outbox.make_due("default", now(1));
        assert_eq!(outbox.start_due("default", now(1), &mut timers), vec![id(1)]);
        assert_eq!(timers.when(&Timer::Endpoint("default".into())), Some(now(60).mono));
    }

    #[test]
    fn attempts_before_their_time_use_up_none_of_the_schedule() {
        let mut outbox = Outbox::default();
        outbox.queue(&id(1), run(1), EventKind::Stopped, Wall(0), now(0));
        outbox.failed(&id(1), 1, Wall(0), Duration::from_secs(300), false, "500", now(0));
        for seconds in 1..=50 {
            outbox.make_due("default", now(seconds));
            let records = outbox.conclude(&id(1), &failure(), now(seconds), MAX);
            let [_, Record::AttemptFailed { attempt: 1, retry_in_ms, held: false, at, .. }, _] = records[..]
            else {
                panic!("{records:?}")
            };
            outbox.failed(&id(1), 1, at, Duration::from_millis(retry_in_ms), false, "500", now(seconds));
            assert_eq!(outbox.get(&id(1)).unwrap().due, now(300).mono, "the schedule goes on as it was");
        }
        let records = outbox.conclude(&id(1), &failure(), now(300), MAX);
        assert!(matches!(records[1], Record::AttemptFailed { attempt: 2, .. }), "{records:?}");
    }

    #[test]
    fn after_an_absence_only_the_rest_of_the_delay_is_waited_for() {
        let mut outbox = Outbox::default();
        outbox.queue(&id(1), run(1), EventKind::Stopped, Wall(0), now(0));
        outbox.failed(&id(1), 1, now(100).wall, Duration::from_secs(300), false, "down", now(250));
        assert_eq!(outbox.get(&id(1)).unwrap().due, now(400).mono);
    }

    #[test]
    fn a_terminal_delivery_that_arrived_supersedes_the_start_of_its_session() {
        let mut outbox = Outbox::default();
        outbox.queue(&id(1), run(1), EventKind::Started, Wall(0), now(0));
        outbox.queue(&id(2), run(2), EventKind::Started, Wall(0), now(0));
        outbox.queue(&id(3), run(1), EventKind::Stopped, Wall(0), now(0));
        let records = outbox.conclude(&id(3), &attempt(AttemptResult::Accepted), now(0), MAX);
        assert_eq!(records.len(), 3, "{records:?}");
        assert!(
            matches!(&records[2], Record::DeliveryOver { id, how: DeliveryEnd::Superseded, .. } if id.seq == 1)
        );
    }
}
