//! Deliveries over days of virtual time: outages, pauses, crashes in between, and what people ask for.

use std::time::Duration;

use super::deliveries::Again;
use super::fuse::{Evidence, Prong};
use super::outbox::{Attempt, AttemptResult, CONCURRENT_ATTEMPTS_MAX, Endpoint};
use super::record::{DeliveryEnd, DeliveryId, EventKind, PauseReason, Record};
use super::session::{HiddenText, Notify, Origin, Spec};
use super::vocab::{HostId, Mono, Now, ProcessId, RunId, SessionId, WaitStatus, Wall};
use super::{Effect, Event, Reply, ReplyTo, Request, Settings, Supervisor};

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

fn at(seconds: u64) -> Now {
    let wall = 1_700_000_000_000_000 + seconds.cast_signed() * 1_000_000;
    Now { wall: Wall(wall), mono: Mono(seconds * 1_000_000_000) }
}

fn run(number: u128) -> RunId {
    RunId { session: SessionId(uuid::Uuid::from_u128(number)), run: 1 }
}

fn host() -> HostId {
    HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 }
}

fn endpoint(name: &str, kinds: &[EventKind]) -> Endpoint {
    Endpoint {
        name: name.into(),
        kinds: kinds.to_vec(),
        adapters: Vec::new(),
        attempts_max: 10,
        paused: false,
    }
}

const ENDS: [EventKind; 2] = [EventKind::Stopped, EventKind::Error];

/// A daemon whose every record is durable at once, and receivers that are up or down.
struct World {
    settings: Settings,
    daemon: Supervisor,
    journal: Vec<Record>,
    under_way: Vec<DeliveryId>,
    delivered: Vec<(DeliveryId, u64)>,
    replies: Vec<Reply>,
    now: u64,
}

impl World {
    fn new(endpoints: Vec<Endpoint>) -> Self {
        let settings = Settings { endpoints, max_sessions: 100_000, ..Settings::of_test(host()) };
        let mut daemon = Supervisor::new(settings.clone());
        daemon.step(at(0), Event::Recovered);
        let (journal, under_way, delivered, replies) = Default::default();
        Self { settings, daemon, journal, under_way, delivered, replies, now: 0 }
    }

    fn feed(&mut self, event: Event) {
        let step = self.daemon.step(at(self.now), event);
        self.journal.extend(step.records);
        for effect in step.effects {
            if let Effect::Deliver(id) = effect {
                self.under_way.push(id);
            } else if let Effect::Reply(_, reply) = effect {
                self.replies.push(reply);
            }
        }
        let durable = self.daemon.step(at(self.now), Event::Durable(self.daemon.appended()));
        assert!(durable.records.is_empty());
    }

    /// A session that runs and has ended.
    fn session(&mut self, number: u128, notify: Vec<Notify>) {
        let command = Spec::exec(vec!["true".into()], "/".into(), Duration::from_secs(1));
        let spec = Spec { notify, ..command };
        let (session, spec) = (run(number).session, Box::new(spec));
        let launch = Request::Launch { session, host: host(), origin: Origin::Launched, spec, key: None };
        self.feed(Event::Request(ReplyTo(1), launch));
        let leader = ProcessId { pid: 7, handle: None, start_ticks: 1 };
        self.feed(Event::Evidence(run(number), Evidence::Started(leader)));
        let status = Evidence::KernelStatus(Some(WaitStatus::exited(0)), Prong::PidfdInfo);
        self.feed(Event::Evidence(run(number), status));
        self.feed(Event::Evidence(run(number), Evidence::TreeGone(None)));
    }

    /// Every attempt that is under way ends so.
    fn answer(&mut self, result: &AttemptResult) {
        for id in std::mem::take(&mut self.under_way) {
            if *result == AttemptResult::Accepted {
                self.delivered.push((id.clone(), self.now));
            }
            let attempt = Attempt { took: Duration::ZERO, status: None, result: result.clone() };
            self.feed(Event::Attempted(id, attempt));
        }
    }

    /// Time passes until then; attempts that come due meanwhile end so.
    fn pass_until(&mut self, then: u64, result: &AttemptResult) {
        loop {
            while !self.under_way.is_empty() {
                self.answer(result);
            }
            let next = self.daemon.next_deadline().map(|next| next.0.div_ceil(1_000_000_000));
            let Some(next) = next.filter(|next| *next <= then) else { break };
            self.now = next.max(self.now);
            self.feed(Event::Timer);
        }
        self.now = then;
    }

    /// SIGKILL and a new start: what was under way is forgotten, what was recorded is not.
    fn restart(&mut self) {
        self.under_way.clear();
        self.daemon = Supervisor::new(self.settings.clone());
        for record in &self.journal {
            self.daemon.replay(record, at(self.now));
        }
        self.daemon.replayed(0);
        self.feed(Event::Recovered);
    }

    fn events(&self, wanted: EventKind) -> usize {
        self.journal.iter().filter(|r| matches!(r, Record::Event { kind, .. } if *kind == wanted)).count()
    }

    fn ask(&mut self, request: Request) -> Reply {
        self.replies.clear();
        self.feed(Event::Request(ReplyTo(2), request));
        self.replies.remove(0)
    }
}

fn down() -> AttemptResult {
    AttemptResult::Failed { error: "refused".into(), retry_after: None }
}

#[test]
fn a_receiver_that_is_down_for_an_hour_is_told_of_everything_once_it_is_back() {
    for restarts in [false, true] {
        let mut world = World::new(vec![endpoint("hook", &ENDS)]);
        for number in 1..=30 {
            world.session(number, Vec::new());
            world.pass_until(world.now + 120, &down());
            if restarts && number % 3 == 0 {
                world.restart();
            }
        }
        assert!(world.now == HOUR && world.delivered.is_empty());
        assert_eq!(world.daemon.outbox().len(), 30);
        // It is back. The next attempt that comes by schedule succeeds, and all others with it.
        world.pass_until(2 * HOUR, &AttemptResult::Accepted);
        assert_eq!(world.delivered.len(), 30);
        assert!(world.daemon.outbox().is_empty());
        let first = world.delivered[0].1;
        assert!(world.delivered.iter().all(|(_, when)| *when == first), "{:?}", world.delivered);
        let mut ids: Vec<_> = world.delivered.iter().map(|(id, _)| id).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 30, "each of them once");
    }
}

#[test]
fn ten_thousand_that_waited_are_drained_eight_at_a_time() {
    let mut world = World::new(vec![endpoint("hook", &ENDS)]);
    for number in 1..=10_000 {
        world.session(number, Vec::new());
    }
    let mut most = 0;
    let patient = AttemptResult::Failed { error: "429".into(), retry_after: Some(Duration::from_secs(600)) };
    while world.under_way.len() < world.daemon.outbox().len() {
        most = most.max(world.under_way.len());
        if world.under_way.is_empty() {
            break;
        }
        world.answer(&patient);
    }
    assert_eq!(world.daemon.outbox().len(), 10_000);
    while !world.daemon.outbox().is_empty() {
        let next = world.daemon.next_deadline().expect("something is due");
        world.now = world.now.max(next.0.div_ceil(1_000_000_000));
        world.feed(Event::Timer);
        while !world.under_way.is_empty() {
            most = most.max(world.under_way.len());
            world.answer(&AttemptResult::Accepted);
        }
    }
    assert_eq!((most, world.delivered.len()), (CONCURRENT_ATTEMPTS_MAX, 10_000));
}

#[test]
fn five_days_without_a_success_pause_an_endpoint_and_a_resume_sends_what_waited() {
    let mut world = World::new(vec![
        endpoint("hook", &ENDS),
        endpoint("operator", &[EventKind::EndpointPaused, EventKind::DeliveryDead]),
    ]);
    let mut number = 0;
    while world.now < 6 * DAY {
        number += 1;
        world.session(number, Vec::new());
        let then = world.now + DAY / 2;
        // The operator's endpoint is well all the time.
        while world.now < then {
            let next = world.daemon.next_deadline().map_or(then, |next| next.0.div_ceil(1_000_000_000));
            world.now = next.clamp(world.now, then);
            world.feed(Event::Timer);
            while let Some(id) = world.under_way.pop() {
                let accepted = id.endpoint == "operator";
                if accepted {
                    world.delivered.push((id.clone(), world.now));
                }
                let result = if accepted { AttemptResult::Accepted } else { down() };
                let attempt = Attempt { took: Duration::ZERO, status: None, result };
                world.feed(Event::Attempted(id, attempt));
            }
        }
        if number == 5 {
            world.restart();
        }
    }
    let health = world.daemon.outbox().health("hook");
    let pause = health.paused.expect("it is paused");
    assert_eq!(pause.why, PauseReason::Failing);
    assert!(pause.at >= at(5 * DAY).wall, "{health:?}");
    assert_eq!(world.events(EventKind::EndpointPaused), 1);
    assert!(world.events(EventKind::DeliveryDead) >= 1, "the first ones were given up after three days");
    let operator = world.delivered.len();
    assert_eq!(operator, 1 + world.events(EventKind::DeliveryDead), "the operator was told of each");
    // It stays paused over a restart, and nothing is tried.
    world.restart();
    world.session(100, Vec::new());
    world.pass_until(world.now + 30, &down());
    assert!(world.daemon.outbox().health("hook").paused.is_some());
    let waiting = world.daemon.outbox().count("hook").0;
    assert!(waiting > 1);
    let resumed = world.ask(Request::SetPaused { endpoint: "hook".into(), paused: false });
    assert_eq!(resumed, Reply::Endpoint("hook".into()));
    world.pass_until(world.now + 1, &AttemptResult::Accepted);
    assert_eq!(world.delivered.len() - operator, waiting);
    assert!(world.daemon.outbox().is_empty());
}

#[test]
fn a_paused_endpoint_keeps_no_session_beyond_its_retention() {
    let mut world = World::new(vec![endpoint("hook", &ENDS)]);
    world.ask(Request::SetPaused { endpoint: "hook".into(), paused: true });
    world.session(1, Vec::new());
    world.pass_until(6 * DAY, &down());
    assert_eq!(world.daemon.outbox().len(), 1);
    world.pass_until(8 * DAY, &down());
    assert_eq!((world.daemon.sessions().count(), world.daemon.outbox().len()), (0, 0));
    // Somewhere else it would have been kept until it is dead.
    let mut world = World::new(vec![endpoint("hook", &ENDS)]);
    world.session(1, Vec::new());
    world.now = 8 * DAY;
    world.feed(Event::Timer);
    assert_eq!(world.daemon.sessions().count(), 1);
}

#[test]
fn what_was_given_up_is_sent_again_on_request_and_what_is_under_way_is_left_alone() {
    let mut world = World::new(vec![endpoint("hook", &ENDS)]);
    world.session(1, Vec::new());
    world.pass_until(5 * DAY, &down());
    let dead = world.journal.iter().find_map(|record| {
        if let Record::DeliveryOver { id, how: DeliveryEnd::Dead, .. } = record {
            Some(id.clone())
        } else {
            None
        }
    });
    let id = dead.expect("a dead letter");
    let again = Again { id: id.clone(), run: Some(run(1)), kind: EventKind::Stopped, queued: at(0).wall };
    let unknown = Again { run: Some(run(9)), id: DeliveryId { seq: 99, ..id.clone() }, ..again.clone() };
    let reply = world.ask(Request::Redeliver(vec![again.clone(), unknown]));
    assert_eq!(reply, Reply::Redelivered(1), "a forgotten session's is passed over");
    assert_eq!(world.ask(Request::Redeliver(vec![again])), Reply::Redelivered(0), "it is under way");
    world.restart();
    assert_eq!(world.under_way, [id], "a restart does not forget it");
    world.answer(&AttemptResult::Accepted);
    assert!(world.daemon.outbox().is_empty());
}

#[test]
fn a_launch_names_who_else_is_told_of_its_end() {
    let mut world = World::new(vec![endpoint("all", &ENDS), endpoint("named", &[])]);
    let url = Notify { endpoint: "https://x#1".into(), url: Some(HiddenText("https://x/y".into())) };
    let named = Notify { endpoint: "named".into(), url: None };
    let twice = Notify { endpoint: "all".into(), url: None };
    world.session(1, vec![url, named, twice]);
    world.session(2, Vec::new());
    world.pass_until(1, &AttemptResult::Accepted);
    let told: Vec<_> = world.delivered.iter().map(|(id, _)| id.endpoint.as_str()).collect();
    assert_eq!(told, ["all", "named", "https://x#1", "all"]);
}

#[test]
fn a_url_that_a_launch_named_is_given_up_in_the_end_and_never_paused() {
    let mut world = World::new(Vec::new());
    let url = Notify { endpoint: "https://x#1".into(), url: Some(HiddenText("https://x/y".into())) };
    world.session(1, vec![url]);
    world.restart();
    world.pass_until(6 * DAY, &down());
    assert_eq!(world.events(EventKind::DeliveryDead), 1);
    assert_eq!(world.events(EventKind::EndpointPaused), 0);
    assert!(world.daemon.outbox().is_empty());
}
