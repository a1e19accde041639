//! Directory fuses, as tables: when one fires, what cancels it, and what a restart and the clocks do to it.

use std::time::Duration;

use super::dir_fuses::{
    BURNING_MAX, CancelCause, FuseEnd, FuseId, FuseRecord, FuseRequest, FuseSpec, OVER_MAX, OnExpire,
};
use super::fuse::Evidence;
use super::record::{EventKind, Record};
use super::refusal::Refusal;
use super::session::{HiddenText, Notify, Origin, Spec};
use super::vocab::{HostId, Mono, Now, ProcessId, RunId, SessionId, Wall};
use super::{Effect, Event, Reply, ReplyTo, Request, Settings, Step, Supervisor};

const HOUR: u64 = 3_600;
const YEAR: u64 = 365 * 24 * HOUR;

/// A supervisor, and all that it recorded.
struct Stage {
    supervisor: Supervisor,
    journal: Vec<Record>,
    effects: Vec<Effect>,
    fuses: u128,
}

/// Wall clock and running time, each in seconds.
fn at(wall: u64, running: u64) -> Now {
    let wall = Wall(1_700_000_000_000_000 + wall.cast_signed() * 1_000_000);
    Now { wall, mono: Mono(running * 1_000_000_000) }
}

fn host() -> HostId {
    HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 }
}

fn supervisor() -> Supervisor {
    Supervisor::new(Settings::of_test(host()))
}

impl Stage {
    fn new() -> Self {
        let mut stage = Self { supervisor: supervisor(), journal: Vec::new(), effects: Vec::new(), fuses: 0 };
        stage.step(at(0, 0), Event::Recovered);
        stage
    }

    fn step(&mut self, now: Now, event: Event) -> Step {
        let step = self.supervisor.step(now, event);
        self.journal.extend(step.records.iter().cloned());
        self.effects.extend(step.effects.iter().cloned());
        step
    }

    fn ask(&mut self, now: Now, request: FuseRequest) -> Reply {
        let step = self.step(now, Event::Request(ReplyTo(1), Request::Fuse(request)));
        let reply = |effect| if let Effect::Reply(_, reply) = effect { Some(reply) } else { None };
        step.effects.into_iter().find_map(reply).expect("an answer")
    }

    fn set(&mut self, now: Now, directory: &str, seconds: u64, on_expire: OnExpire) -> FuseId {
        self.fuses += 1;
        let id = FuseId(uuid::Uuid::from_u128(self.fuses));
        let (directory, ttl) = (directory.to_owned(), Duration::from_secs(seconds));
        let spec = FuseSpec { id, directory, ttl, label: None, setter: None, on_expire };
        assert_eq!(self.ask(now, FuseRequest::Set(Box::new(spec))), Reply::Fuse(id));
        id
    }

    /// The daemon dies and another one begins.
    fn restart(&mut self, now: Now) -> Step {
        let mut next = supervisor();
        self.journal.iter().for_each(|record| next.replay(record, now));
        next.replayed(0);
        self.supervisor = next;
        self.step(now, Event::Recovered)
    }

    fn end(&self, id: FuseId) -> Option<FuseEnd> {
        self.supervisor.dir_fuses().get(id).and_then(|fuse| fuse.end).map(|(_, end)| end)
    }

    fn told(&self) -> Vec<(EventKind, Option<FuseId>)> {
        let told = |record: &Record| {
            if let Record::Event { kind, fuse, .. } = record { Some((*kind, *fuse)) } else { None }
        };
        self.journal.iter().filter_map(told).collect()
    }

    fn run(&mut self, now: Now, number: u128, directory: &str) -> RunId {
        let run = RunId { session: SessionId(uuid::Uuid::from_u128(1_000_000 + number)), run: 1 };
        let spec = Spec::exec(vec!["x".into()], directory.into(), Duration::from_secs(3));
        let launch = Request::Launch {
            session: run.session,
            host: host(),
            origin: Origin::Launched,
            spec: Box::new(spec),
            key: None,
        };
        self.step(now, Event::Request(ReplyTo(2), launch));
        run
    }
}

fn nothing() -> OnExpire {
    OnExpire::default()
}

fn everything() -> OnExpire {
    let url = Some(HiddenText("https://x/token".into()));
    OnExpire {
        script: Some("rm -rf .".into()),
        webhook: Some(Notify { endpoint: "https://x#1".into(), url }),
        event: Some("cleanup".into()),
    }
}

#[test]
fn it_fires_once_at_its_time_with_all_that_follows_in_one_step() {
    let mut stage = Stage::new();
    let id = stage.set(at(0, 0), "/a", 100, everything());
    assert_eq!(stage.supervisor.next_deadline(), Some(Mono(100_000_000_000)));
    assert_eq!(stage.step(at(99, 99), Event::Timer), Step::default());
    let step = stage.step(at(100, 100), Event::Timer);
    assert!(matches!(step.records[0], Record::Fuse(FuseRecord::Fired { fuse, .. }) if fuse == id));
    assert_eq!(stage.told(), [(EventKind::FuseExpired, Some(id))]);
    let script = RunId { session: id.script(), run: 1 };
    assert!(matches!(&step.records[..], [.., Record::Created { session, .. }] if *session == script.session));
    let sent = |effect: &&Effect| matches!(effect, Effect::Deliver(id) if id.endpoint == "https://x#1");
    assert_eq!(step.effects.iter().filter(sent).count(), 1, "{step:?}");
    assert!(step.effects.contains(&Effect::Spawn(script)));
    assert_eq!(stage.step(at(101, 101), Event::Timer), Step::default());
    assert!(stage.restart(at(200, 200)).records.is_empty(), "it has fired");
    assert_eq!(stage.supervisor.counters().fuses_expired, 0, "counted since the start");
    // Nobody outside knows the session that its script is.
    assert_eq!(stage.supervisor.shown().count(), 0);
    assert_eq!(stage.supervisor.live(), 0);
}

#[test]
fn an_overdue_one_fires_at_the_start_once_all_else_has_been_looked_at() {
    let mut stage = Stage::new();
    let id = stage.set(at(0, 0), "/a", 100, nothing());
    // Another boot, whose running time is less than that of the first.
    let now = at(5_000, 10);
    let mut next = supervisor();
    stage.journal.iter().for_each(|record| next.replay(record, now));
    next.replayed(0);
    assert_eq!(next.next_deadline(), None);
    assert_eq!(next.step(now, Event::Timer), Step::default(), "not before that");
    let step = next.step(now, Event::Recovered);
    assert!(matches!(step.records[0], Record::Fuse(FuseRecord::Fired { fuse, .. }) if fuse == id));
}

/// Wall clock, running time, and whether it has fired by then.
type Looks = &'static [(u64, u64, bool)];

#[test]
fn the_wall_clock_decides_whatever_the_running_time_says() {
    let table: [(&str, Looks); 4] = [
        ("the host sleeps for an hour", &[(10, 10, false), (10 + HOUR, 10, true)]),
        ("the clock is set far ahead", &[(20 * YEAR, 10, true)]),
        (
            "the clock is set back by a day, and runs on from there",
            &[
                (24 * HOUR + 50, 50, false),
                (100, 24 * HOUR + 100, false),
                (24 * HOUR + 99, 48 * HOUR + 99, false),
                (24 * HOUR + 100, 48 * HOUR + 100, true),
            ],
        ),
        ("a drift of less than a second is none", &[(99, 99, false), (100, 100, true)]),
    ];
    for (what, steps) in table {
        let mut stage = Stage::new();
        let begin = if what.contains("back") { 24 * HOUR } else { 0 };
        let id = stage.set(at(begin, 0), "/a", 100, nothing());
        for (wall, running, fired) in steps {
            stage.step(at(*wall, *running), Event::Timer);
            assert_eq!(stage.end(id).is_some(), *fired, "{what}: {wall} s, {running} s running");
        }
    }
}

#[test]
fn a_time_of_years_is_waited_for() {
    let mut stage = Stage::new();
    let id = stage.set(at(0, 0), "/a", 100 * YEAR, nothing());
    stage.step(at(99 * YEAR, 99 * YEAR), Event::Timer);
    assert_eq!(stage.end(id), None);
    stage.restart(at(99 * YEAR, 5));
    assert_eq!(stage.end(id), None);
    stage.step(at(100 * YEAR, 5 + YEAR), Event::Timer);
    assert_eq!(stage.end(id), Some(FuseEnd::Fired));
}

#[test]
fn a_directory_has_one_and_what_is_not_there_is_neither_extended_nor_cancelled() {
    let mut stage = Stage::new();
    let first = stage.set(at(0, 0), "/a", 100, nothing());
    let other = stage.set(at(0, 0), "/b", 100, nothing());
    let second = stage.set(at(10, 10), "/a", 50, nothing());
    assert_eq!(stage.end(first), Some(FuseEnd::Cancelled(CancelCause::Replaced)));
    let extend =
        |ttl: Option<u64>| FuseRequest::Extend { directory: "/a".into(), ttl: ttl.map(Duration::from_secs) };
    assert_eq!(stage.ask(at(20, 20), extend(Some(200))), Reply::Fuse(second));
    assert_eq!(stage.ask(at(30, 30), extend(None)), Reply::Fuse(second));
    let expires = stage.supervisor.dir_fuses().get(second).map(|fuse| fuse.expires);
    assert_eq!(expires, Some(at(230, 0).wall), "by what it was extended by last");
    stage.step(at(100, 100), Event::Timer);
    assert_eq!((stage.end(second), stage.end(other)), (None, Some(FuseEnd::Fired)));
    let cancel = || FuseRequest::Cancel { directory: "/a".into() };
    assert_eq!(stage.ask(at(110, 110), cancel()), Reply::Fuse(second));
    let no = Reply::Refused(Refusal::NoFuse("/a".into()));
    assert_eq!(stage.ask(at(110, 110), cancel()), no);
    assert_eq!(stage.ask(at(110, 110), extend(None)), no);
    assert_eq!(Refusal::NoFuse("/a".into()).to_string(), "No active fuse for directory: /a");
    stage.restart(at(1_000, 1_000));
    let kinds: Vec<_> = stage.told().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [EventKind::FuseCancelled, EventKind::FuseExpired, EventKind::FuseCancelled]);
}

#[test]
fn a_session_that_starts_in_the_directory_cancels_it_and_one_that_does_not_start_does_not() {
    let mut stage = Stage::new();
    let (here, below) =
        (stage.set(at(0, 0), "/a", 100, nothing()), stage.set(at(0, 0), "/a/b", 100, nothing()));
    let run = stage.run(at(1, 1), 1, "/a");
    assert_eq!(stage.end(here), None, "it may still fail");
    stage.step(at(2, 2), Event::Evidence(run, Evidence::Withdrawn));
    assert!(stage.supervisor.session(run.session).is_some_and(|session| session.run.verdict.is_some()));
    assert_eq!(stage.end(here), None);
    let run = stage.run(at(3, 3), 2, "/a");
    let leader = ProcessId { pid: 7, handle: None, start_ticks: 1 };
    stage.step(at(4, 4), Event::Evidence(run, Evidence::Started(leader)));
    let used = FuseEnd::Cancelled(CancelCause::Used { session: run.session });
    assert_eq!((stage.end(here), stage.end(below)), (Some(used), None), "this very directory");
    // Neither does a stop, nor does a fuse ever touch a session.
    let again = stage.set(at(5, 5), "/a", 10, everything());
    stage.effects.clear();
    stage.step(at(6, 6), Event::Request(ReplyTo(3), Request::Stop { session: run.session, force: false }));
    assert_eq!(stage.end(again), None);
    stage.effects.clear();
    stage.step(at(15, 8), Event::Timer);
    assert_eq!(stage.end(again), Some(FuseEnd::Fired));
    let touches = |effect: &Effect| matches!(effect, Effect::SignalLeader(..) | Effect::SignalTree(..));
    assert!(!stage.effects.iter().any(touches), "{:?}", stage.effects);
    assert!(stage.supervisor.session(run.session).is_some_and(|session| session.run.verdict.is_none()));
}

#[test]
fn what_is_over_is_forgotten_by_age_and_number_but_not_while_it_is_needed() {
    let mut stage = Stage::new();
    let first = stage.set(at(0, 0), "/first", 1, everything());
    stage.step(at(1, 1), Event::Timer);
    for number in 0..OVER_MAX as u64 + 5 {
        stage.set(at(2 + number, 2 + number), "/a", 1_000, nothing());
        assert!(stage.supervisor.dir_fuses().over().count() <= OVER_MAX + 1, "{number}");
    }
    assert!(stage.end(first).is_some(), "its script has no verdict yet");
    assert!(stage.supervisor.session(first.script()).is_some());
    // All that is over is old by now, and again only what is needed is kept.
    let now = at(8 * 24 * HOUR, 8 * 24 * HOUR);
    stage.set(now, "/b", 1_000, nothing());
    let over: Vec<_> = stage.supervisor.dir_fuses().over().map(|fuse| fuse.spec.id).collect();
    assert_eq!(over.first(), Some(&first));
    assert!(over.len() <= 2, "{over:?}");
    stage.restart(now);
    assert_eq!(stage.supervisor.dir_fuses().over().count(), over.len());
}

#[test]
fn there_is_a_limit_and_it_is_said() {
    let mut stage = Stage::new();
    for number in 0..BURNING_MAX {
        stage.set(at(0, 0), &format!("/{number}"), 100, nothing());
    }
    let spec = FuseSpec {
        id: FuseId(uuid::Uuid::from_u128(77_777)),
        directory: "/more".into(),
        ttl: Duration::from_secs(1),
        label: None,
        setter: None,
        on_expire: nothing(),
    };
    let reply = stage.ask(at(0, 0), FuseRequest::Set(Box::new(spec)));
    assert_eq!(reply, Reply::Refused(Refusal::TooManyFuses(BURNING_MAX)));
    // One that takes the place of another is no more than before.
    stage.set(at(0, 0), "/7", 100, nothing());
}

#[test]
fn a_directory_has_one_fuse_whatever_the_records_say() {
    let mut stage = Stage::new();
    let first = stage.set(at(0, 0), "/w", 100, OnExpire::default());
    let second = FuseId(uuid::Uuid::from_u128(99));
    let fuse = Box::new(FuseSpec {
        id: second,
        directory: "/w".into(),
        ttl: Duration::from_secs(500),
        label: None,
        setter: None,
        on_expire: OnExpire::default(),
    });
    let set = Record::Fuse(FuseRecord::Set { fuse, at: at(10, 10).wall, expires: at(510, 510).wall });
    stage.step(at(10, 10), Event::Rebuilt(vec![set]));
    assert_eq!(stage.end(first), Some(FuseEnd::Cancelled(CancelCause::Replaced)));
    stage.step(at(200, 200), Event::Timer);
    assert_eq!(stage.end(first), Some(FuseEnd::Cancelled(CancelCause::Replaced)), "it does not fire");
    stage.step(at(520, 520), Event::Timer);
    assert_eq!(stage.end(second), Some(FuseEnd::Fired));
}

#[test]
fn what_is_over_is_known_for_as_long_as_its_own_step_even_where_nothing_is_kept() {
    let mut stage = Stage::new();
    stage.supervisor.settings.retention = Duration::ZERO;
    let [cancelled, fires, also] =
        ["/a", "/b", "/c"].map(|directory| stage.set(at(0, 0), directory, 100, OnExpire::default()));
    let directory = "/a".to_owned();
    stage.ask(at(1, 1), FuseRequest::Cancel { directory });
    assert!(stage.end(cancelled).is_some(), "its answer and its event are still to be made");
    stage.step(at(100, 100), Event::Timer);
    assert_eq!([fires, also].map(|id| stage.end(id)), [Some(FuseEnd::Fired); 2]);
    assert_eq!(stage.end(cancelled), None, "by then it is forgotten");
}
