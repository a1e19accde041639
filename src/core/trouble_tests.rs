//! Lingering and stuck, as tables: what is seen when, and what is told and done then.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for a few of many variants")]

use std::time::Duration;

use super::agent::AgentEvent::{self, Active, Idle, Over};
use super::agent::{Budget, Tokens};
use super::fuse::{Evidence, Outcome, Prong, Reason, StopCause};
use super::record::{EventKind, Record};
use super::session::{Origin, Session, Spec};
use super::trouble::{Sample, Signs};
use super::vocab::{HostId, Mono, Now, ProcessId, RunId, SessionId, WaitStatus, Wall};
use super::{Effect, Event, ReplyTo, Request, Settings, Step, Supervisor};

/// A supervisor with one running session, and all that it told.
struct Stage {
    supervisor: Supervisor,
    told: Vec<EventKind>,
    samples: u32,
}

fn run() -> RunId {
    RunId { session: SessionId(uuid::Uuid::from_u128(1)), run: 1 }
}

fn at(ms: u64) -> Now {
    Now { wall: Wall(1_700_000_000_000_000 + ms.cast_signed() * 1_000), mono: Mono(ms * 1_000_000) }
}

fn seconds(count: u64) -> Option<Duration> {
    Some(Duration::from_secs(count))
}

impl Stage {
    fn new(linger: Option<Duration>, stuck: Option<Duration>) -> Self {
        Self::with(|spec| Spec { linger, stuck, ..spec })
    }

    fn with(change: impl FnOnce(Spec) -> Spec) -> Self {
        let host = HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 };
        let supervisor = Supervisor::new(Settings::of_test(host.clone()));
        let mut stage = Self { supervisor, told: Vec::new(), samples: 0 };
        stage.step(0, Event::Recovered);
        let spec = Spec::exec(vec!["x".into()], "/".into(), Duration::from_secs(3));
        let spec = change(Spec { wants_report: true, ..spec });
        let launch = Request::Launch {
            session: run().session,
            host,
            origin: Origin::Launched,
            spec: Box::new(spec),
            key: None,
        };
        stage.step(0, Event::Request(ReplyTo(1), launch));
        let leader = ProcessId { pid: 7, handle: None, start_ticks: 1 };
        stage.step(0, Event::Evidence(run(), Evidence::Started(leader)));
        stage.told.clear();
        stage
    }

    fn step(&mut self, ms: u64, event: Event) -> Step {
        let step = self.supervisor.step(at(ms), event);
        self.told.extend(step.records.iter().filter_map(|record| match record {
            Record::Event { kind, .. } => Some(*kind),
            _ => None,
        }));
        self.samples += u32::from(step.effects.contains(&Effect::Sample(run())));
        step
    }

    fn says(&mut self, ms: u64, word: AgentEvent) -> Step {
        self.step(ms, Event::Agent(run(), word))
    }

    fn passes(&mut self, ms: u64) -> Step {
        self.step(ms, Event::Timer)
    }

    fn seen(&mut self, ms: u64, output_bytes: u64, cpu_ms: u64, (helpers, others): (u32, u32)) -> Step {
        let cpu = Duration::from_millis(cpu_ms);
        self.step(ms, Event::Sampled(run(), Sample::Seen(Signs { output_bytes, cpu, helpers, others })))
    }

    /// What of lingering and stuck was told so far.
    fn troubles(&self) -> Vec<EventKind> {
        let trouble = |kind: &EventKind| matches!(kind, EventKind::Lingering | EventKind::Stuck);
        self.told.iter().copied().filter(trouble).collect()
    }

    fn session(&self) -> &Session {
        self.supervisor.session(run().session).expect("it is there")
    }
}

fn asks(step: &Step) -> bool {
    step.effects.contains(&Effect::ReadOn(run()))
}

fn stop_of(step: &Step) -> Option<StopCause> {
    step.records.iter().find_map(|record| match record {
        Record::StopRequested { cause, .. } => Some(*cause),
        _ => None,
    })
}

#[test]
fn an_agent_that_lives_on_after_its_work_is_told_once_and_never_ended_unasked() {
    let mut stage = Stage::new(None, None);
    stage.says(1_000, Over);
    stage.passes(5_900);
    assert_eq!((stage.troubles().len(), stage.session().lingers_since()), (0, None));
    let step = stage.passes(6_000);
    assert!(step.records.iter().all(|record| matches!(record, Record::Event { .. })), "{step:?}");
    assert_eq!(stage.troubles(), [EventKind::Lingering]);
    assert_eq!(stage.session().lingers_since(), Some(at(1_000)));
    let step = stage.passes(1_000_000);
    assert_eq!((step.effects.len(), stop_of(&step)), (0, None), "nobody asked for its end");
    assert_eq!(stage.supervisor.next_deadline(), None, "and nobody wakes up for it any more");
    // It works again after all, and is done again.
    stage.says(1_001_000, Active);
    assert_eq!(stage.session().lingers_since(), None);
    stage.says(1_002_000, Over);
    stage.passes(1_010_000);
    assert_eq!(stage.troubles(), [EventKind::Lingering; 2]);
}

#[test]
fn what_takes_the_last_word_back_is_no_lingering() {
    for word in [Active, Idle] {
        let mut stage = Stage::new(seconds(5), None);
        stage.says(1_000, Over);
        stage.says(5_000, word.clone());
        let step = stage.passes(60_000);
        assert_eq!((stage.troubles().len(), asks(&step), stop_of(&step)), (0, false, None), "{word:?}");
    }
}

#[test]
fn it_is_ended_politely_once_its_last_word_is_confirmed() {
    let mut stage = Stage::new(seconds(30), None);
    stage.says(1_000, Over);
    assert!(!asks(&stage.passes(6_000)));
    assert_eq!(stage.troubles(), [EventKind::Lingering]);
    assert!(!asks(&stage.passes(30_900)));
    let step = stage.passes(31_000);
    assert!(asks(&step) && stop_of(&step).is_none(), "first its output is read to its end: {step:?}");
    let step = stage.says(31_001, Over);
    assert_eq!(stop_of(&step), Some(StopCause::Lingered));
    assert_eq!(step.effects, [Effect::SignalLeader(run(), 15)], "TERM to the leader first");
    let step = stage.passes(34_001);
    assert_eq!(step.effects, [Effect::SignalTree(run(), 15)], "then as a stop does");
    assert_eq!(stage.troubles().len(), 1);
}

#[test]
fn without_its_word_it_is_not_ended() {
    // Nobody reads its output any more: no answer.
    let mut stage = Stage::new(seconds(30), None);
    stage.says(1_000, Over);
    stage.passes(6_000);
    assert!(asks(&stage.passes(31_000)));
    assert_eq!(stop_of(&stage.passes(1_000_000)), None);
    // It has begun to work in the very moment.
    let mut stage = Stage::new(seconds(30), None);
    stage.says(1_000, Over);
    stage.passes(6_000);
    assert!(asks(&stage.passes(31_000)));
    assert_eq!(stop_of(&stage.says(31_001, Active)), None);
    assert_eq!(stop_of(&stage.says(31_002, Over)), None, "this is another last word");
    assert_eq!(stage.session().progress.over.map(|over| over.since), Some(at(31_002)));
}

#[test]
fn one_that_may_not_linger_at_all_is_told_to_before_it_is_ended() {
    let mut stage = Stage::new(Some(Duration::from_millis(500)), None);
    stage.says(1_000, Over);
    assert!(asks(&stage.passes(1_500)));
    assert_eq!(stage.troubles(), [EventKind::Lingering]);
    assert_eq!(stop_of(&stage.says(1_501, Over)), Some(StopCause::Lingered));
}

#[test]
fn the_end_of_one_that_lingered_is_ours_and_says_what_the_agent_had_said() {
    use super::agent::AgentReport::{Error, Missing, Success};
    let reports = [
        (Success, "reported success"),
        (Error(Some("no key".into())), "reported a failure (no key)"),
        (Missing, "reported the end of its work"),
    ];
    for (report, said) in reports {
        // However it answers the TERM.
        for status in [WaitStatus::killed(15), WaitStatus::exited(143), WaitStatus::exited(0)] {
            let mut stage = Stage::new(seconds(5), None);
            stage.says(1_000, Over);
            stage.passes(6_000);
            stage.says(6_001, Over);
            for evidence in [
                Evidence::KernelStatus(Some(status), Prong::PidfdInfo),
                Evidence::TreeGone(None),
                Evidence::Report(report.clone()),
            ] {
                stage.step(6_100, Event::Evidence(run(), evidence));
            }
            let verdict = stage.session().run.verdict.clone().expect("a verdict");
            assert_eq!((verdict.outcome, verdict.reason), (Outcome::Cancelled, Reason::Lingered));
            assert!(verdict.message.as_ref().is_some_and(|text| text.contains(said)), "{verdict:?}");
            assert_ne!(verdict.number(), 0, "an end that was ours is no success");
        }
    }
}

/// What was printed, the processor time in milliseconds, helpers and others.
type Look = (u64, u64, (u32, u32));

/// A look that is answered at once, every ten seconds; how often trouble was told after each.
#[track_caller]
fn looks(stage: &mut Stage, table: &[(Look, usize)]) {
    for (number, ((output, cpu_ms, others), told)) in table.iter().enumerate() {
        let ms = (number as u64 + 1) * 10_000;
        assert!(stage.passes(ms - 1).effects.is_empty(), "nobody looks between");
        let before = stage.samples;
        stage.passes(ms);
        assert_eq!(stage.samples, before + 1, "one look at {ms} ms");
        let step = stage.seen(ms, *output, *cpu_ms, *others);
        assert!(step.effects.is_empty() && stop_of(&step).is_none(), "never a kill: {step:?}");
        assert_eq!(stage.troubles().len(), *told, "after look {number}");
    }
}

#[test]
fn a_run_is_stuck_when_two_looks_in_a_row_saw_nothing_move() {
    let mut stage = Stage::new(None, seconds(10));
    let (alone, helped, busy) = ((0, 0), (1, 0), (0, 1));
    let table = [
        ((10, 500, alone), 0),
        // It printed; it computed; a child lives; the child has gone.
        ((20, 500, alone), 0),
        ((20, 900, alone), 0),
        ((20, 900, busy), 0),
        ((20, 900, alone), 0),
        // Nothing. An event loop that waits takes a little.
        ((20, 1_200, alone), 1),
        // Once per spell; the time that counts for nothing grows with it.
        ((20, 1_500, alone), 1),
        ((20, 1_800, alone), 1),
        // It lives; and is stuck again.
        ((21, 1_800, alone), 1),
        ((21, 1_800, alone), 2),
        // A child that does nothing is somebody all the same.
        ((21, 1_800, busy), 2),
        ((21, 1_800, busy), 2),
        // A process of the agent's own is not; but one that came or went is news, and so is one for another.
        ((21, 1_800, helped), 2),
        ((21, 1_800, helped), 3),
        ((21, 1_800, alone), 3),
        ((21, 1_700, alone), 3),
        ((21, 1_700, alone), 4),
    ];
    looks(&mut stage, &table);
    assert_eq!(stage.samples as usize, table.len());
    assert_eq!(stage.supervisor.counters().stuck, 4);
}

#[test]
fn what_cannot_be_read_is_not_stuck() {
    let mut stage = Stage::new(None, seconds(10));
    let unknown = || Event::Sampled(run(), Sample::Unknown("permission denied".into()));
    stage.passes(10_000);
    stage.seen(10_000, 5, 5, (0, 0));
    stage.passes(20_000);
    stage.step(20_000, unknown());
    stage.passes(30_000);
    stage.seen(30_000, 5, 5, (0, 0));
    assert_eq!(stage.troubles().len(), 0, "what was between the looks is not known");
    stage.passes(40_000);
    stage.seen(40_000, 5, 5, (0, 0));
    assert_eq!((stage.troubles().len(), stage.session().stuck_since()), (1, Some(at(30_000))));
    stage.passes(50_000);
    stage.step(50_000, unknown());
    assert_eq!(stage.session().stuck_since(), None, "nor does it stay so");
}

#[test]
fn a_word_of_the_agent_ends_the_spell_and_silence_of_a_run_that_is_over_is_none() {
    let mut stage = Stage::new(None, seconds(10));
    for ms in [10_000, 20_000] {
        stage.passes(ms);
        stage.seen(ms, 5, 5, (0, 0));
    }
    assert_eq!(stage.session().stuck_since(), Some(at(10_000)));
    stage.says(21_000, Active);
    assert_eq!(stage.session().stuck_since(), None);
    stage.passes(30_000);
    // It ended while it was looked at.
    stage.step(30_001, Event::Evidence(run(), Evidence::LeaderEnded));
    stage.seen(30_002, 5, 5, (0, 0));
    assert!(stage.passes(100_000).effects.iter().all(|effect| !matches!(effect, Effect::Sample(_))));
    assert_eq!(stage.troubles(), [EventKind::Stuck]);
}

#[test]
fn nobody_looks_where_nobody_asked() {
    let mut stage = Stage::new(None, None);
    stage.passes(1_000_000);
    assert_eq!((stage.samples, stage.supervisor.next_deadline()), (0, None));
}

#[test]
fn a_budget_that_was_overdrawn_by_words_that_came_too_late_is_told_with_the_end() {
    let budget = Budget { max_tokens: Some(100), max_cost: None };
    let mut stage = Stage::with(|spec| Spec { budget, ..spec });
    let used = |out| AgentEvent::Used { tokens: Tokens { out, ..Tokens::default() }, cost_usd: 0.5 };
    assert_eq!((stop_of(&stage.says(1_000, used(100))), stage.session().overdrawn()), (None, None));
    stage.step(2_000, Event::Evidence(run(), Evidence::LeaderEnded));
    assert_eq!(stop_of(&stage.says(2_001, used(1))), None, "there is nobody to be stopped");
    assert_eq!(stage.session().overdrawn(), None, "it has no verdict yet");
    stage.step(2_002, Event::Evidence(run(), Evidence::Report(super::agent::AgentReport::Success)));
    stage.step(
        2_003,
        Event::Evidence(run(), Evidence::KernelStatus(Some(WaitStatus::exited(0)), Prong::PidfdInfo)),
    );
    let verdict = stage.session().run.verdict.clone().expect("a verdict");
    assert_eq!(verdict.outcome, Outcome::Completed);
    assert_eq!(stage.session().overdrawn(), Some(StopCause::MaxTokens));
}
