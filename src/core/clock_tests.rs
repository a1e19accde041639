//! The wall clock stepped by an hour and back, under a running session: nothing but what people read may change.

use std::time::Duration;

use super::fuse::{Evidence, Outcome};
use super::rebuild::{OrderTrace, Trace, Traces, rebuild};
use super::record::{EventKind, Record};
use super::session::Session;
use super::vocab::{HostId, Leftovers, Mono, Now, ProcessId, RunId, SessionId, WaitStatus, Wall};
use super::{Effect, Event, Settings, Step, Supervisor};

const HOUR: i64 = 3_600_000_000;

fn at(seconds: u64, stepped: i64) -> Now {
    let wall = 1_700_000_000_000_000 + seconds.cast_signed() * 1_000_000 + stepped;
    Now { wall: Wall(wall), mono: Mono(seconds * 1_000_000_000) }
}

fn run() -> RunId {
    RunId { session: SessionId(uuid::Uuid::from_u128(1)), run: 1 }
}

/// A supervisor with one running session whose deadline is 100 s after its start.
fn running() -> Supervisor {
    recorded().0
}

/// The same, with its records.
fn recorded() -> (Supervisor, Vec<Record>) {
    let kinds = vec![EventKind::Stopped, EventKind::Error];
    let mut supervisor = Supervisor::new(Settings {
        endpoints: vec![super::outbox::Endpoint {
            name: "hook".into(),
            kinds,
            adapters: Vec::new(),
            attempts_max: 10,
            paused: false,
        }],
        ..Settings::of_test(HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 })
    });
    let order = OrderTrace {
        command: vec!["x".into()],
        cwd: "/".into(),
        leftovers: Leftovers::Kill,
        grace: Duration::from_secs(5),
    };
    let traces = Traces {
        run: run(),
        created: Trace::Missing,
        order: Trace::Says(order),
        leader: Trace::Says(ProcessId { pid: 7, handle: None, start_ticks: 1 }),
        host: None,
        deadline: Trace::Missing,
        verdict: Trace::Missing,
        exit: None,
        tree: None,
        since: at(0, 0),
    };
    let here = HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 };
    let records = rebuild(&traces, &here, at(0, 0)).expect("a running session");
    let mut recorded = supervisor.step(at(0, 0), Event::Rebuilt(records)).records;
    recorded.extend(supervisor.step(at(0, 0), Event::Recovered).records);
    let by = Some(Duration::from_secs(100));
    let extend = super::Request::Extend { session: run().session, by };
    recorded.extend(supervisor.step(at(0, 0), Event::Request(super::ReplyTo(1), extend)).records);
    (supervisor, recorded)
}

fn session(supervisor: &Supervisor) -> &Session {
    supervisor.session(run().session).expect("it is there")
}

fn kills(step: &Step) -> bool {
    step.effects.iter().any(|effect| matches!(effect, Effect::SignalLeader(..) | Effect::SignalTree(..)))
}

#[test]
fn a_clock_set_by_an_hour_and_back_moves_no_deadline() {
    for stepped in [HOUR, -HOUR] {
        let mut supervisor = running();
        for (seconds, by) in [(10, stepped), (20, 0), (99, stepped)] {
            assert!(!kills(&supervisor.step(at(seconds, by), Event::Timer)), "{seconds} s, {by}");
            assert_eq!(supervisor.next_deadline(), Some(Mono(100_000_000_000)));
        }
        assert!(kills(&supervisor.step(at(100, stepped), Event::Timer)), "{stepped}");
    }
}

#[test]
fn a_clock_set_back_makes_no_end_that_came_first_a_timeout() {
    let mut supervisor = running();
    // It ends at 50 s, and its end is heard of only after the deadline, with the clock an hour early.
    let status = Evidence::KernelStatus(Some(WaitStatus::exited(3)), super::fuse::Prong::PidfdInfo);
    let step = supervisor.step(at(50, -HOUR), Event::Evidence(run(), status));
    let verdict = step
        .records
        .iter()
        .find_map(|record| if let Record::Ended { verdict, .. } = record { Some(verdict) } else { None });
    assert_eq!(verdict.map(|verdict| verdict.outcome), Some(Outcome::Failed), "{step:?}");
    assert!(!kills(&supervisor.step(at(101, HOUR), Event::Timer)));
    assert_eq!(
        session(&supervisor).run.verdict.as_ref().map(|verdict| verdict.outcome),
        Some(Outcome::Failed)
    );
}

#[test]
fn a_replay_arms_the_deadline_of_what_lives_and_none_of_what_has_ended() {
    let (mut supervisor, mut records) = recorded();
    let replayed = |records: &[Record]| {
        let here = HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 };
        let mut again = Supervisor::new(Settings::of_test(here));
        records.iter().for_each(|record| again.replay(record, at(60, 0)));
        again.timers.next()
    };
    assert_eq!(replayed(&records), Some(Mono(100_000_000_000)));
    let status = Evidence::KernelStatus(Some(WaitStatus::exited(3)), super::fuse::Prong::PidfdInfo);
    records.extend(supervisor.step(at(50, 0), Event::Evidence(run(), status)).records);
    assert!(records.iter().any(|record| matches!(record, Record::Ended { .. })));
    assert_eq!(replayed(&records), None);
}

#[test]
fn an_agent_is_told_to_be_idle_once_it_has_been_so_for_two_seconds() {
    use super::agent::AgentEvent::{Active, Idle};
    let mut supervisor = running();
    let mut told: Vec<EventKind> = Vec::new();
    let mut step = |seconds, event| {
        let records = supervisor.step(at(seconds, 0), event).records;
        let kinds = records
            .into_iter()
            .filter_map(|record| if let Record::Event { kind, .. } = record { Some(kind) } else { None });
        told.extend(kinds);
        let idle = supervisor.sessions().next().expect("a session").status(true).word();
        (told.len(), idle)
    };
    let says = |mood| Event::Agent(run(), mood);
    // A mood that passes is none.
    assert_eq!(step(1, says(Idle)), (0, "running"));
    assert_eq!(step(2, says(Active)), (0, "running"));
    assert_eq!(step(3, says(Idle)), (0, "running"));
    assert_eq!(step(4, Event::Timer), (0, "running"), "it waits since a second");
    assert_eq!(step(5, Event::Timer), (1, "idle"));
    assert_eq!(step(6, says(Idle)), (1, "idle"));
    assert_eq!(step(9, says(Active)), (1, "idle"));
    assert_eq!(step(11, Event::Timer), (2, "running"));
    assert_eq!(told, [EventKind::Idle, EventKind::Active]);
}
