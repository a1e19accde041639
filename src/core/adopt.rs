//! Adoption: a process that somebody else started becomes a session.
//!
//! Such a run has no shim and never had one: no exit file will come, so its status is the kernel's to tell, or unknown.
//! Everything else - stop, deadline, verdict, recovery - is as for any run. What it leaves behind stays, since it is its
//! owner's; and whether anything is left cannot be told for certain. Refuses to know how the process was found: who it
//! is comes in with the request.

use super::agent::Spent;
use super::record::Record;
use super::refusal::Refusal;
use super::session::{Deadline, Origin, Run, Spec};
use super::supervisor::{Supervisor, WaitFor, Waiter};
use super::vocab::{HostId, Mono, Now, ProcessId, RunId, SessionId, Wall};
use super::{Effect, Reply, ReplyTo, Step};

/// A process that is to become a session.
#[derive(Clone, Debug, PartialEq)]
pub struct Adoption {
    pub session: SessionId,
    pub host: HostId,
    pub spec: Spec,
    /// Who it is: held by the edge when it asks.
    pub leader: ProcessId,
    /// When the process started.
    pub since: Wall,
}

impl Run {
    /// Marks a run that no shim started: the fuse waits for none.
    pub(super) fn without_shim(&mut self) {
        self.adopted = true;
        self.fuse = super::fuse::Fuse::without_shim();
        self.asked.rescan = true;
    }
}

/// Whether the record of a launch is that of a run that somebody else had started; later runs of the session are launched.
pub fn is_adoption(origin: Origin, run: u32) -> bool {
    matches!(origin, Origin::Adopted | Origin::Imported) && run == 1
}

impl Supervisor {
    pub(super) fn adopt(&mut self, now: Now, to: ReplyTo, adoption: Adoption, out: &mut Step) {
        let Adoption { session, host, spec, leader, since } = adoption;
        let refusal = self.not_now().or_else(|| self.no_place(&spec.adapter));
        let refusal = refusal.or_else(|| self.is_supervised(session, &host, &leader));
        if let Some(refusal) = refusal {
            out.reply(to, Reply::Refused(refusal));
            return;
        }
        let deadline = spec.timeout.map(|timeout| Deadline::after(now, timeout));
        let created = Record::Created {
            session,
            at: now,
            host,
            origin: Origin::Adopted,
            spec: Box::new(spec),
            deadline,
            request: None,
            run: 1,
            spent: Spent::default(),
            warnings: Vec::new(),
            queued: false,
        };
        self.record(now, created, out);
        let run = RunId { session, run: 1 };
        self.waiters.entry(session).or_default().push(Waiter { to, what: WaitFor::Launch });
        out.effects.push(Effect::WriteDeadline(run, deadline.map(|deadline| deadline.mono)));
        let age = u64::try_from(now.wall.since(since).as_nanos()).unwrap_or(u64::MAX);
        let began = Now { wall: since.min(now.wall), mono: Mono(now.mono.0.saturating_sub(age)) };
        self.started(now, run, leader, began, out);
        out.effects.push(Effect::Hold(run));
        self.answer(session, out);
    }

    /// The session that the process is already, or was.
    fn is_supervised(&self, id: SessionId, host: &HostId, leader: &ProcessId) -> Option<Refusal> {
        if self.sessions.contains_key(&id) {
            return Some(Refusal::Supervised(id));
        }
        let leads = |run: &Run| {
            run.verdict.is_none()
                && run.host.boot == host.boot
                && run.host.pid_ns == host.pid_ns
                && run.fuse.leader.is_some_and(|known| known.same(leader))
        };
        let supervised = self.sessions.values().find(|session| leads(&session.run))?;
        Some(Refusal::Supervised(supervised.id))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::agent::{AgentEvent, Span, Stored, Tokens};
    use super::super::fuse::{Evidence, ExitHow, ExitReport, LeaderSeen, Outcome, Prong, Reason, Rejection};
    use super::super::record::EventKind;
    use super::super::session::{LeftoverCount, Phase};
    use super::super::vocab::{Leftovers, Usage, WaitStatus};
    use super::super::{Event, Request, Settings};
    use super::*;

    const LEADER: ProcessId = ProcessId { pid: 7, handle: None, start_ticks: 1 };
    const TERM: u8 = 15;
    const KILL: u8 = 9;

    fn at(seconds: u64) -> Now {
        Now {
            wall: Wall(1_700_000_000_000_000 + seconds.cast_signed() * 1_000_000),
            mono: Mono(seconds * 1_000_000_000),
        }
    }

    fn run() -> RunId {
        RunId { session: SessionId(uuid::Uuid::from_u128(1)), run: 1 }
    }

    fn host() -> HostId {
        HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 }
    }

    fn empty() -> Supervisor {
        let mut supervisor = Supervisor::new(Settings { max_sessions: 2, ..Settings::of_test(host()) });
        supervisor.step(at(100), Event::Recovered);
        supervisor
    }

    fn ask(supervisor: &mut Supervisor, number: u128, leader: ProcessId) -> Step {
        let command = Spec::exec(Vec::new(), "/w".into(), Duration::from_secs(5));
        // Its adapter reads output, and there is none.
        let spec = Spec { leftovers: Leftovers::Keep, wants_report: true, ..command };
        let session = SessionId(uuid::Uuid::from_u128(number));
        let adoption = Adoption { session, host: host(), spec, leader, since: at(40).wall };
        supervisor.step(at(100), Event::Request(ReplyTo(1), Request::Adopt(Box::new(adoption))))
    }

    fn adopted() -> Supervisor {
        let mut supervisor = empty();
        ask(&mut supervisor, 1, LEADER);
        supervisor
    }

    fn see(supervisor: &mut Supervisor, seconds: u64, evidence: Evidence) -> Step {
        supervisor.step(at(seconds), Event::Evidence(run(), evidence))
    }

    fn verdict(supervisor: &Supervisor) -> Option<(Outcome, Reason)> {
        let verdict = supervisor.session(run().session)?.run.verdict.as_ref()?;
        Some((verdict.outcome, verdict.reason))
    }

    #[test]
    fn adopting_records_who_it_is_and_since_when_before_anything_is_done() {
        let mut supervisor = empty();
        let step = ask(&mut supervisor, 1, LEADER);
        let started = step.records.iter().find_map(|record| {
            if let Record::Started { leader, at, .. } = record { Some((*leader, *at)) } else { None }
        });
        assert_eq!(started, Some((LEADER, at(40))), "it runs for a minute already");
        let told = |record: &Record| matches!(record, Record::Event { kind: EventKind::Started, .. });
        assert_eq!(step.records.iter().filter(|record| told(record)).count(), 1);
        let expected = [
            Effect::WriteDeadline(run(), None),
            Effect::Hold(run()),
            Effect::Reply(ReplyTo(1), Reply::Launched(run().session)),
        ];
        assert_eq!(step.effects, expected);
        assert!(step.effects.iter().all(|effect| !effect.is_exempt()), "none before it is durable");
        assert_eq!(
            supervisor.session(run().session).map(|session| session.run.phase()),
            Some(Phase::Running)
        );
    }

    #[test]
    fn one_process_is_one_session() {
        let mut supervisor = adopted();
        let refused = |step: &Step| match &step.effects[..] {
            [Effect::Reply(_, Reply::Refused(refusal))] => refusal.clone(),
            other => panic!("{other:?}"),
        };
        let supervised = Refusal::Supervised(run().session);
        assert_eq!(refused(&ask(&mut supervisor, 1, ProcessId { pid: 8, ..LEADER })), supervised);
        assert_eq!(refused(&ask(&mut supervisor, 2, LEADER)), supervised);
        assert_eq!(ask(&mut supervisor, 2, ProcessId { start_ticks: 2, ..LEADER }).records.len(), 3);
        assert_eq!(refused(&ask(&mut supervisor, 3, ProcessId { pid: 9, ..LEADER })), Refusal::TooMany(2));
    }

    #[test]
    fn how_it_ended_is_the_kernels_to_tell_and_unknown_is_no_success() {
        let status = |status| Evidence::KernelStatus(status, Prong::PidfdInfo);
        for (answer, expected) in [
            (Some(WaitStatus::exited(0)), (Outcome::Completed, Reason::ExitCode(0))),
            (Some(WaitStatus::exited(3)), (Outcome::Failed, Reason::ExitCode(3))),
            (Some(WaitStatus::killed(KILL)), (Outcome::Failed, Reason::Signal(KILL))),
            (None, (Outcome::Lost, Reason::StatusUnknown)),
        ] {
            let mut supervisor = adopted();
            let step = see(&mut supervisor, 110, Evidence::LeaderEnded);
            assert_eq!(step.effects, [Effect::AskKernel(run())], "no file is looked for, no report is read");
            assert_eq!(verdict(&supervisor), None);
            let step = see(&mut supervisor, 111, status(answer));
            assert_eq!(verdict(&supervisor), Some(expected));
            assert!(step.effects.contains(&Effect::AskTree(run())));
            let no_kill =
                |effect: &Effect| !matches!(effect, Effect::SignalLeader(..) | Effect::SignalTree(..));
            let left = see(&mut supervisor, 112, Evidence::TreeLeft(2));
            assert!(step.effects.iter().chain(&left.effects).all(no_kill), "what it leaves is its owner's");
            see(&mut supervisor, 113, Evidence::TreeUnknown("adopted".into()));
            let session = supervisor.session(run().session).expect("it is kept");
            assert!(session.is_settled());
            assert_eq!(session.run.leftovers, LeftoverCount::Unknown);
        }
    }

    #[test]
    fn nothing_but_the_kernel_ends_it() {
        let mut supervisor = adopted();
        let exit = ExitReport {
            leader: Some(LEADER),
            how: ExitHow::Status(WaitStatus::exited(0)),
            ended: at(105),
            boot: "b".into(),
            usage: Usage::default(),
            by_deadline: false,
            leftovers: None,
        };
        let step = see(&mut supervisor, 110, Evidence::ExitFile(exit, LeaderSeen::Reaped));
        assert_eq!(step.effects, [Effect::RejectExitFile(run(), Rejection::NoShim)]);
        for silence in [
            Evidence::ShimGone,
            Evidence::Rescanned,
            Evidence::CannotTell("no".into()),
            Evidence::KernelStatus(None, Prong::PidfdInfo),
            Evidence::TreeUnknown("no".into()),
        ] {
            see(&mut supervisor, 111, silence.clone());
            assert_eq!(verdict(&supervisor), None, "{silence:?}");
        }
        see(&mut supervisor, 112, Evidence::LeaderGone);
        assert_eq!(verdict(&supervisor), Some((Outcome::Lost, Reason::StatusUnknown)));
    }

    #[test]
    fn a_stop_goes_on_until_nothing_is_seen_any_more() {
        let mut supervisor = adopted();
        let stop = Request::Stop { session: run().session, force: false };
        let step = supervisor.step(at(110), Event::Request(ReplyTo(2), stop));
        assert!(step.effects.contains(&Effect::SignalLeader(run(), TERM)), "{step:?}");
        let step = supervisor.step(at(115), Event::Timer);
        assert!(step.effects.contains(&Effect::SignalTree(run(), TERM)), "{step:?}");
        let step = supervisor.step(at(117), Event::Timer);
        assert!(step.effects.contains(&Effect::SignalTree(run(), KILL)), "{step:?}");
        see(&mut supervisor, 118, Evidence::LeaderEnded);
        let step = see(
            &mut supervisor,
            118,
            Evidence::KernelStatus(Some(WaitStatus::killed(KILL)), Prong::ProcStat),
        );
        assert!(step.effects.contains(&Effect::AskTree(run())), "{step:?}");
        see(&mut supervisor, 118, Evidence::TreeLeft(1));
        assert_eq!(verdict(&supervisor), None, "one is left");
        see(&mut supervisor, 119, Evidence::TreeUnknown("adopted".into()));
        assert_eq!(verdict(&supervisor), Some((Outcome::Cancelled, Reason::StopRequested)));
    }

    /// What the second run is told to have used, when its agent says that the conversation used 150.
    fn used_by_the_next(supervisor: &mut Supervisor, first: Option<u64>, stored: Option<u64>) -> Option<u64> {
        let tokens = |out| Tokens { out, ..Tokens::default() };
        let total = |span, out| AgentEvent::Total { span, tokens: Some(tokens(out)), cost_usd: None };
        if let Some(first) = first {
            supervisor.step(at(109), Event::Agent(run(), total(Span::Run, first)));
        }
        see(supervisor, 110, Evidence::LeaderEnded);
        see(supervisor, 110, Evidence::KernelStatus(Some(WaitStatus::exited(0)), Prong::ProcStat));
        see(supervisor, 110, Evidence::TreeUnknown("adopted".into()));
        supervisor.step(at(111), Event::Durable(u64::MAX));
        let stored = Box::new(Stored { tokens: stored.map(tokens), cost_usd: None });
        let session = run().session;
        let resume = Request::Resume {
            session,
            host: host(),
            prompt: None,
            timeout: None,
            claim: Default::default(),
            key: None,
            stored,
        };
        supervisor.step(at(120), Event::Request(ReplyTo(2), resume));
        let next = RunId { session, run: 2 };
        supervisor.step(at(121), Event::Agent(next, total(Span::Conversation, 150)));
        let session = supervisor.session(session).expect("it is kept");
        assert_eq!(session.run_id(), next, "it was resumed");
        session.progress.tokens.map(|tokens| tokens.out)
    }

    #[test]
    fn a_later_run_answers_for_what_it_used_itself() {
        for (first, stored, expected) in [
            (Some(100), Some(100), Some(50)),
            // What the store says is newer than any verdict.
            (Some(100), Some(120), Some(30)),
            (None, Some(120), Some(30)),
            (Some(100), None, Some(50)),
            // Nobody knows: that is not told as if it were the run's own.
            (None, None, None),
        ] {
            let told = used_by_the_next(&mut adopted(), first, stored);
            assert_eq!(told, expected, "{first:?}, then {stored:?}");
        }
    }

    #[test]
    fn a_restart_finds_it_as_it_was_and_a_reboot_ends_it() {
        let mut before = empty();
        let records = ask(&mut before, 1, LEADER).records;
        let mut after = empty();
        records.iter().for_each(|record| after.replay(record, at(200)));
        let fuse = |supervisor: &Supervisor| {
            supervisor.session(run().session).map(|session| session.run.fuse.clone())
        };
        assert_eq!(fuse(&after), fuse(&before));
        let step = see(&mut after, 201, Evidence::LeaderEnded);
        assert_eq!(step.effects, [Effect::AskKernel(run())]);

        let mut elsewhere = empty();
        records.iter().for_each(|record| elsewhere.replay(record, at(200)));
        see(&mut elsewhere, 201, Evidence::Rebooted);
        assert_eq!(verdict(&elsewhere), Some((Outcome::Lost, Reason::HostRebooted)));
    }
}
