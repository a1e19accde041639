//! Deliveries that are owed: which, to whom, when next.
//!
//! Owns the schedule, the bound on concurrent attempts of an endpoint, and the rules of overtaking.
//! Refuses to know URLs, secrets or bodies. A delivery enters in the same transaction as its event, so
//! it cannot be forgotten; it leaves when a receiver said 2xx, when it was overtaken, or as a dead letter.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::record::{DeliveryEnd, DeliveryId, EventKind, Record};
use super::timers::{Timer, Timers};
use super::vocab::{Mono, Now, RunId, SessionId, Wall};

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

/// A place that events are delivered to, as far as the core cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub name: String,
    /// The event types that it hears of.
    pub kinds: Vec<EventKind>,
}

/// A delivery that is owed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub run: RunId,
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

/// What became of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttemptResult {
    /// 2xx.
    Accepted,
    /// Anything else, with how long the receiver wants to be left alone.
    Failed { error: String, retry_after: Option<Duration> },
}

/// All deliveries that are owed.
#[derive(Clone, Debug, Default)]
pub struct Outbox {
    owed: BTreeMap<DeliveryId, Delivery>,
    queues: HashMap<String, Queue>,
    /// What is owed for each session, so that no question about one walks over all.
    by_session: HashMap<SessionId, BTreeSet<DeliveryId>>,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    waiting: BTreeSet<(Mono, DeliveryId)>,
    in_flight: usize,
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

    /// Enters a delivery, due at once.
    pub fn queue(&mut self, id: &DeliveryId, run: RunId, kind: EventKind, at: Wall, now: Now) {
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
        self.by_session.entry(run.session).or_default().insert(id.clone());
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
        queue.waiting.insert((delivery.due, id.clone()));
    }

    /// Takes a delivery out for good.
    pub fn over(&mut self, id: &DeliveryId) {
        let Some(mut delivery) = self.owed.remove(id) else { return };
        release(self.queues.entry(id.endpoint.clone()).or_default(), &mut delivery, id);
        if let Some(owed) = self.by_session.get_mut(&delivery.run.session) {
            owed.remove(id);
            if owed.is_empty() {
                self.by_session.remove(&delivery.run.session);
            }
        }
    }

    /// A success shows that the endpoint is back: what waits there is due now, save what a
    /// `Retry-After` holds.
    pub fn make_due(&mut self, endpoint: &str, now: Now) {
        let Some(queue) = self.queues.get_mut(endpoint) else { return };
        let later: Vec<_> = queue
            .waiting
            .range((now.mono.after(Duration::from_nanos(1)), DeliveryId::least())..)
            .cloned()
            .collect();
        for (due, id) in later {
            let Some(delivery) = self.owed.get_mut(&id) else { continue };
            if !delivery.held {
                queue.waiting.remove(&(due, id.clone()));
                delivery.due = now.mono;
                queue.waiting.insert((now.mono, id));
            }
        }
    }

    /// What a terminal delivery that arrived has overtaken: earlier events of the same session at the
    /// same endpoint.
    pub fn overtaken_by(&self, id: &DeliveryId, run: RunId) -> Vec<DeliveryId> {
        let owed = self.by_session.get(&run.session).into_iter().flatten();
        let overtaken = owed.filter(|other| {
            other.seq < id.seq
                && other.endpoint == id.endpoint
                && self.owed.get(*other).is_some_and(|delivery| !delivery.kind.is_terminal())
        });
        overtaken.cloned().collect()
    }

    /// The delivery with this id.
    pub fn get(&self, id: &DeliveryId) -> Option<&Delivery> {
        self.owed.get(id)
    }

    /// Whether a session has deliveries that are owed.
    pub fn owes(&self, run: RunId) -> bool {
        self.by_session.contains_key(&run.session)
    }

    /// Takes the attempts that may start now, and arms the endpoint's timer for the rest.
    pub fn start_due(&mut self, endpoint: &str, now: Now, timers: &mut Timers) -> Vec<DeliveryId> {
        let Some(queue) = self.queues.get_mut(endpoint) else { return Vec::new() };
        let mut started = Vec::new();
        while queue.in_flight < CONCURRENT_ATTEMPTS_MAX {
            let Some((due, _)) = queue.waiting.first() else { break };
            if *due > now.mono {
                break;
            }
            let Some((_, id)) = queue.waiting.pop_first() else { break };
            if let Some(delivery) = self.owed.get_mut(&id) {
                delivery.in_flight = true;
                queue.in_flight += 1;
                started.push(id);
            }
        }
        let timer = Timer::Endpoint(endpoint.to_owned());
        match queue.waiting.first() {
            // With all places taken, the end of an attempt calls again; no timer is needed.
            Some((due, _)) if queue.in_flight < CONCURRENT_ATTEMPTS_MAX => timers.set(timer, *due),
            Some(_) | None => timers.clear(&timer),
        }
        started
    }

    /// The records that the end of an attempt makes. An attempt before its time, for another's success, uses up none of
    /// the schedule: a receiver that takes some and refuses others would be through with it within seconds.
    pub fn conclude(&self, id: &DeliveryId, result: &AttemptResult, now: Now) -> Vec<Record> {
        let Some(delivery) = self.owed.get(id) else { return Vec::new() };
        let at = now.wall;
        let over = |id: &DeliveryId, how| Record::DeliveryOver { id: id.clone(), at, how };
        match result {
            AttemptResult::Accepted => {
                let mut records = vec![over(id, DeliveryEnd::Delivered)];
                if delivery.kind.is_terminal() {
                    let overtaken = self.overtaken_by(id, delivery.run);
                    records.extend(overtaken.iter().map(|id| over(id, DeliveryEnd::Superseded)));
                }
                records
            }
            AttemptResult::Failed { error, retry_after } => {
                let (attempt, delay) = if delivery.scheduled > now.mono {
                    (delivery.failed, Some(delivery.scheduled.since(now.mono)))
                } else {
                    (delivery.failed + 1, retry_delay(id, delivery.failed + 1))
                };
                let Some(delay) = delay else { return vec![over(id, DeliveryEnd::Dead)] };
                let asked = retry_after.map(|patience| patience.min(RETRY_AFTER_MAX));
                vec![Record::AttemptFailed {
                    id: id.clone(),
                    attempt,
                    at,
                    retry_in_ms: u64::try_from(asked.map_or(delay, |asked| asked.max(delay)).as_millis())
                        .unwrap_or(u64::MAX),
                    held: asked.is_some(),
                    error: error.clone(),
                }]
            }
        }
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
        queue.waiting.remove(&(delivery.due, id.clone()));
    }
}

/// The delay after the `attempt`th failure, spread by a tenth either way so that many deliveries that
/// failed together do not return together; `None` when attempts are used up. The spread is a function
/// of the delivery, since the core has no dice.
fn retry_delay(id: &DeliveryId, attempt: u32) -> Option<Duration> {
    let base = RETRY_DELAYS.get(usize::try_from(attempt).ok()?.checked_sub(1)?)?;
    let mut hash = id.seq.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(u64::from(attempt));
    for byte in id.endpoint.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let spread = (hash >> 33) % 2001; // 0 ..= 2000: tenths of a per mille around 1000
    Some(base.mul_f64(0.9 + spread as f64 / 10_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(seconds: u64) -> Now {
        Now { wall: Wall(i64::try_from(seconds).unwrap() * 1_000_000), mono: Mono(seconds * 1_000_000_000) }
    }

    fn run(number: u128) -> RunId {
        RunId { session: SessionId(uuid::Uuid::from_u128(number)), run: 1 }
    }

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
        let failure = AttemptResult::Failed { error: "500".into(), retry_after: None };
        let mut at = now(0);
        for (base, attempt) in RETRY_DELAYS.into_iter().zip(1..) {
            let records = outbox.conclude(&id(7), &failure, at);
            let [Record::AttemptFailed { retry_in_ms, held: false, .. }] = records[..] else {
                panic!("{records:?}")
            };
            let ratio = retry_in_ms as f64 / base.as_millis() as f64;
            assert!((0.899..=1.101).contains(&ratio), "{ratio}");
            let retry_in = Duration::from_millis(retry_in_ms);
            outbox.failed(&id(7), attempt, at.wall, retry_in, false, "500", at);
            at = Now { wall: at.wall.after(retry_in), mono: at.mono.after(retry_in) };
        }
        let records = outbox.conclude(&id(7), &failure, at);
        assert!(matches!(records[..], [Record::DeliveryOver { how: DeliveryEnd::Dead, .. }]));
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
        let failure = AttemptResult::Failed { error: "500".into(), retry_after: None };
        for seconds in 1..=50 {
            outbox.make_due("default", now(seconds));
            let records = outbox.conclude(&id(1), &failure, now(seconds));
            let [Record::AttemptFailed { attempt: 1, retry_in_ms, held: false, at, .. }] = records[..] else {
                panic!("{records:?}")
            };
            outbox.failed(&id(1), 1, at, Duration::from_millis(retry_in_ms), false, "500", now(seconds));
            assert_eq!(outbox.get(&id(1)).unwrap().due, now(300).mono, "the schedule goes on as it was");
        }
        let records = outbox.conclude(&id(1), &failure, now(300));
        assert!(matches!(records[..], [Record::AttemptFailed { attempt: 2, .. }]), "{records:?}");
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
        let records = outbox.conclude(&id(3), &AttemptResult::Accepted, now(0));
        assert_eq!(records.len(), 2, "{records:?}");
        assert!(
            matches!(&records[1], Record::DeliveryOver { id, how: DeliveryEnd::Superseded, .. } if id.seq == 1)
        );
    }
}
