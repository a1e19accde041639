//! What the files of a session mean when the journal does not know it: the records that it should have.
//!
//! The edge gathers [`Traces`]; what they are worth is decided here. A session is rebuilt from the words of the
//! daemon that launched it, else from the shim's; its verdict, once written down, is taken as it is and is not
//! told again. What cannot be known any more is said in a note that stays with the session. Refuses to invent:
//! a directory that tells of no run is hopeless, and stays as it is.

use std::time::Duration;

use super::agent::Spent;
use super::fuse::{Outcome, Prong};
use super::locks::IfTaken;
use super::record::Record;
use super::session::{Deadline, EvidenceEntry, LeftoverCount, Origin, Spec, Verdict};
use super::vocab::{HostId, Leftovers, Mono, Now, ProcessId, RunId, Usage};

/// What a file says, or why it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Trace<T> {
    /// There is none.
    #[default]
    Missing,
    /// It is there and cannot be understood.
    Damaged(String),
    /// It says this.
    Says(T),
}

impl<T> Trace<T> {
    /// The same of what it says.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Trace<U> {
        match self {
            Self::Missing => Trace::Missing,
            Self::Damaged(why) => Trace::Damaged(why),
            Self::Says(found) => Trace::Says(change(found)),
        }
    }
}

/// Everything that was found of a session that the journal does not know.
#[derive(Clone, Debug, PartialEq)]
pub struct Traces {
    pub run: RunId,
    /// The record of the launch, as the daemon of that time wrote it down.
    pub created: Trace<Record>,
    /// The launch order, claimed or not.
    pub order: Trace<OrderTrace>,
    /// Who the leader is.
    pub leader: Trace<ProcessId>,
    /// Where it ran, by the shim, the leader or the exit file.
    pub host: Option<HostId>,
    /// The deadline file.
    pub deadline: Trace<DeadlineTrace>,
    /// The verdict, written down after it had become durable.
    pub verdict: Trace<VerdictTrace>,
    /// An exit file: that a leader ended, or never began.
    pub exit: Option<ExitTrace>,
    /// The shim's last word.
    pub tree: Option<TreeTrace>,
    /// When the directory was made, as far as its files tell.
    pub since: Now,
}

impl Traces {
    /// Whether a file says that the run was begun.
    fn tell_of_a_launch(&self) -> bool {
        matches!(self.order, Trace::Says(_)) || matches!(self.leader, Trace::Says(_)) || self.exit.is_some()
    }

    /// Whether any file but the record of its creation says that there was a run.
    fn tell_of_a_run(&self) -> bool {
        self.tell_of_a_launch() || matches!(self.verdict, Trace::Says(_))
    }
}

/// What is needed of a launch order.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderTrace {
    pub command: Vec<String>,
    pub cwd: String,
    pub leftovers: Leftovers,
    pub grace: Duration,
}

/// What the deadline file says.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadlineTrace {
    pub at: Option<Mono>,
    pub boot: String,
}

/// What the verdict file says.
#[derive(Clone, Debug, PartialEq)]
pub struct VerdictTrace {
    pub verdict: Verdict,
    pub native_id: Option<String>,
}

/// What is needed of an exit file.
#[derive(Clone, Debug, PartialEq)]
pub struct ExitTrace {
    pub leader: Option<ProcessId>,
    /// It says that the leader never became the agent.
    pub never_ran: bool,
}

/// What the shim's last word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeTrace {
    pub gone: Now,
    pub usage: Usage,
}

/// Nothing can be made of it; why, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hopeless(pub String);

/// The records of a session, in the order in which they became true. `here` is the host of this daemon.
pub fn rebuild(traces: &Traces, here: &HostId, now: Now) -> Result<Vec<Record>, Hopeless> {
    let mut note =
        vec!["the journal did not know this session; it was rebuilt from its directory".to_owned()];
    let mut created = creation(traces, here, &mut note)?;
    let Record::Created { session, host, deadline, run, queued, spec, .. } = &mut created else {
        return Err(Hopeless("its record of creation is a record of something else".into()));
    };
    if *session != traces.run.session {
        return Err(Hopeless(format!("its record of creation is that of session {session}")));
    }
    if *run != traces.run.run {
        return Err(Hopeless(format!("its record of creation is that of run {run}")));
    }
    // What was written down when it began to wait knows neither that its turn came, nor when, nor on which boot.
    let came = spec.claim.if_taken == IfTaken::Queue && traces.tell_of_a_launch();
    *queued &= came || !traces.tell_of_a_run();
    let host = if came { begun_on(traces, here) } else { host.clone() };
    let latest = latest_deadline(traces, &host, *deadline, now, &mut note);
    let turn = came.then_some(Record::Dequeued { run: traces.run, at: traces.since, host, deadline: latest });
    *deadline = latest.filter(|_| turn.is_none());
    let mut records = vec![created];
    records.extend(turn);
    records.extend(beginning(traces));
    records.extend(ending(traces, &mut note));
    records.push(Record::Rebuilt { session: traces.run.session, at: now.wall, note: note.join("; ") });
    Ok(records)
}

/// What a verdict file adds to a session that the journal knows as not ended: the journal has lost its last
/// commits.
pub fn missed_end(run: RunId, found: &VerdictTrace, now: Now) -> Vec<Record> {
    let verdict = Box::new(found.verdict.clone());
    let note = "the journal had lost the end of this run; it was taken from its verdict file".to_owned();
    vec![Record::Ended { run, verdict }, Record::Rebuilt { session: run.session, at: now.wall, note }]
}

fn creation(traces: &Traces, here: &HostId, note: &mut Vec<String>) -> Result<Record, Hopeless> {
    let why = match &traces.created {
        Trace::Says(created) => return Ok(created.clone()),
        Trace::Missing => "missing".to_owned(),
        Trace::Damaged(why) => format!("damaged ({why})"),
    };
    if !traces.tell_of_a_run() {
        return Err(Hopeless(format!("its record of creation is {why}, and no other file tells of a run")));
    }
    note.push(format!(
        "its record of creation is {why}, so its adapter, name, group, labels and callback keys are not known, and its outcome is that of the exit code alone"
    ));
    let order = match &traces.order {
        Trace::Says(order) => order.clone(),
        Trace::Missing | Trace::Damaged(_) => {
            note.push("its launch order is gone too, so its command and directory are not known".into());
            OrderTrace {
                command: Vec::new(),
                cwd: "/".into(),
                leftovers: Leftovers::Keep,
                grace: Duration::from_secs(10),
            }
        }
    };
    Ok(Record::Created {
        session: traces.run.session,
        at: traces.since,
        host: begun_on(traces, here),
        origin: Origin::Launched,
        spec: Box::new(bare_spec(order)),
        deadline: None,
        request: None,
        run: traces.run.run,
        spent: Spent::default(),
        warnings: Vec::new(),
        queued: false,
    })
}

/// Where the run was begun. Without a word of the shim only the deadline file tells the boot.
fn begun_on(traces: &Traces, here: &HostId) -> HostId {
    match (&traces.host, &traces.deadline) {
        (Some(host), _) => host.clone(),
        (None, Trace::Says(deadline)) => HostId { boot: deadline.boot.clone(), ..here.clone() },
        (None, Trace::Missing | Trace::Damaged(_)) => here.clone(),
    }
}

fn bare_spec(order: OrderTrace) -> Spec {
    // No more than the program: the rest may be a prompt that was to stay out of the journal.
    let program = order.command.into_iter().take(1).collect();
    Spec { leftovers: order.leftovers, private: true, ..Spec::exec(program, order.cwd, order.grace) }
}

/// The file is newer than the record: it was replaced whenever the deadline was moved.
fn latest_deadline(
    traces: &Traces,
    host: &HostId,
    recorded: Option<Deadline>,
    now: Now,
    note: &mut Vec<String>,
) -> Option<Deadline> {
    match &traces.deadline {
        Trace::Says(file) if file.boot == host.boot => file.at.map(|mono| {
            let from_now = mono.since(now.mono);
            let ago = now.mono.since(mono);
            let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
            let wall = now.wall.after(from_now);
            Deadline { mono, wall: super::vocab::Wall(wall.0.saturating_sub(ago)) }
        }),
        Trace::Says(_) => recorded,
        Trace::Missing | Trace::Damaged(_) => {
            if recorded.is_none() && !matches!(traces.created, Trace::Says(_)) {
                note.push("its deadline is not known, and it has none now".into());
            }
            recorded
        }
    }
}

fn beginning(traces: &Traces) -> Option<Record> {
    let by_exit = traces.exit.as_ref().and_then(|exit| exit.leader);
    let leader = match &traces.leader {
        Trace::Says(leader) => Some(*leader),
        Trace::Missing | Trace::Damaged(_) => by_exit,
    }?;
    let failed = match &traces.verdict {
        Trace::Says(found) => found.verdict.outcome == Outcome::LaunchFailed,
        Trace::Missing | Trace::Damaged(_) => traces.exit.as_ref().is_some_and(|exit| exit.never_ran),
    };
    (!failed).then_some(Record::Started { run: traces.run, leader, at: traces.since })
}

fn ending(traces: &Traces, note: &mut Vec<String>) -> Vec<Record> {
    let run = traces.run;
    let found = match &traces.verdict {
        Trace::Says(found) => found,
        Trace::Damaged(why) => {
            note.push(format!("its verdict file is damaged ({why}), so its end is judged and told again"));
            return Vec::new();
        }
        Trace::Missing => return Vec::new(),
    };
    let mut records = Vec::new();
    if let Some(id) = &found.native_id {
        records.push(Record::NativeId { session: run.session, id: id.clone() });
    }
    records.push(Record::Ended { run, verdict: Box::new(found.verdict.clone()) });
    if let Some(TreeTrace { gone, usage }) = traces.tree {
        let known = found.verdict.evidence.iter().any(|entry| entry.prong == Prong::TreeGone);
        let detail = "nothing of the tree is left".to_owned();
        let entry = EvidenceEntry { prong: Prong::TreeGone, at: gone.wall, detail };
        records.extend((!known).then_some(Record::LateEvidence { run, entry }));
        let leftovers = LeftoverCount::Known(0);
        records.push(Record::TreeSettled { run, leftovers, usage: Some(usage), at: gone });
    }
    note.push("its end was told before and is not told again".into());
    records
}

#[cfg(test)]
mod tests {
    use super::super::fuse::{EndTime, Reason};
    use super::super::vocab::{SessionId, WaitStatus, Wall};
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn run() -> RunId {
        RunId { session: SessionId(uuid::Uuid::from_u128(7)), run: 1 }
    }

    fn at(seconds: u64) -> Now {
        Now { wall: Wall(seconds.cast_signed() * 1_000_000), mono: Mono(seconds * SECOND) }
    }

    fn host(boot: &str) -> HostId {
        HostId { machine: "m".into(), boot: boot.into(), pid_ns: 1 }
    }

    fn leader() -> ProcessId {
        ProcessId { pid: 42, handle: None, start_ticks: 7 }
    }

    fn order() -> OrderTrace {
        let command = vec!["sleep".into(), "9".into()];
        OrderTrace { command, cwd: "/w".into(), leftovers: Leftovers::Kill, grace: Duration::from_secs(3) }
    }

    fn created() -> Record {
        let mut spec = bare_spec(order());
        (spec.adapter, spec.wants_report, spec.name) = ("opencode".into(), true, Some("n".into()));
        Record::Created {
            session: run().session,
            at: at(10),
            host: host("b"),
            origin: Origin::Launched,
            spec: Box::new(spec),
            deadline: Some(Deadline { mono: Mono(100 * SECOND), wall: Wall(100_000_000) }),
            request: None,
            run: 1,
            spent: Spent::default(),
            warnings: Vec::new(),
            queued: false,
        }
    }

    fn nothing() -> Traces {
        Traces {
            run: run(),
            created: Trace::Missing,
            order: Trace::Missing,
            leader: Trace::Missing,
            host: None,
            deadline: Trace::Missing,
            verdict: Trace::Missing,
            exit: None,
            tree: None,
            since: at(10),
        }
    }

    fn verdict() -> VerdictTrace {
        let verdict = Verdict {
            outcome: Outcome::Failed,
            reason: Reason::ExitCode(3),
            status: Some(WaitStatus::exited(3)),
            ended: Some(EndTime { at: at(20), exact: true }),
            decided: at(20),
            evidence: Vec::new(),
            usage: None,
            message: None,
            tokens: None,
            cost_usd: None,
        };
        VerdictTrace { verdict, native_id: Some("ses_1".into()) }
    }

    fn built(traces: &Traces) -> Vec<Record> {
        rebuild(traces, &host("b"), at(50)).expect("it can be rebuilt")
    }

    fn note(records: &[Record]) -> &str {
        let Some(Record::Rebuilt { note, .. }) = records.last() else { panic!("no note: {records:?}") };
        note
    }

    fn first(records: &[Record]) -> (&Spec, &HostId, Option<Deadline>) {
        let Record::Created { spec, host, deadline, .. } = &records[0] else {
            panic!("no creation: {records:?}");
        };
        (spec, host, *deadline)
    }

    #[test]
    fn a_running_session_is_what_it_was() {
        let traces = Traces {
            created: Trace::Says(created()),
            order: Trace::Says(order()),
            leader: Trace::Says(leader()),
            host: Some(host("b")),
            ..nothing()
        };
        let records = built(&traces);
        assert_eq!(records[0], created());
        assert!(matches!(records[1], Record::Started { leader: of, .. } if of == leader()));
        assert_eq!(records.len(), 3, "{records:?}");
        assert!(note(&records).contains("rebuilt from its directory"));
    }

    #[test]
    fn a_run_that_waited_is_of_the_host_and_time_of_its_start() {
        let mut waits = created();
        let Record::Created { spec, deadline, queued, host: at_host, .. } = &mut waits else { return };
        spec.claim.if_taken = IfTaken::Queue;
        (*deadline, *queued, *at_host) = (None, true, host("earlier"));
        let waiting = Traces { created: Trace::Says(waits.clone()), ..nothing() };
        assert_eq!(built(&waiting)[0], waits, "its turn has not come");
        let file = |boot: &str| Trace::Says(DeadlineTrace { at: Some(Mono(90 * SECOND)), boot: boot.into() });
        let begun = Traces { order: Trace::Says(order()), deadline: file("b"), since: at(30), ..waiting };
        let by_leader = Traces { leader: Trace::Says(leader()), host: Some(host("b")), ..begun.clone() };
        for traces in [begun.clone(), by_leader] {
            let records = built(&traces);
            let deadline = Some(Deadline { mono: Mono(90 * SECOND), wall: at(90).wall });
            let came = Record::Dequeued { run: run(), at: at(30), host: host("b"), deadline };
            assert_eq!(records[..2], [waits.clone(), came]);
        }
        // Called off while it waited.
        let cancelled = Traces { order: Trace::Missing, verdict: Trace::Says(verdict()), ..begun };
        let called = |record: &Record| matches!(record, Record::Dequeued { .. });
        assert!(!built(&cancelled).iter().any(called));
    }

    #[test]
    fn the_deadline_file_beats_the_record_unless_it_is_of_another_boot() {
        let mut traces = Traces { created: Trace::Says(created()), ..nothing() };
        let moved = |at, boot: &str| Trace::Says(DeadlineTrace { at, boot: boot.into() });
        for (file, mono) in [
            (moved(Some(Mono(300 * SECOND)), "b"), Some(300)),
            (moved(Some(Mono(20 * SECOND)), "b"), Some(20)),
            (moved(None, "b"), None),
            (moved(Some(Mono(300 * SECOND)), "another"), Some(100)),
            (Trace::Damaged("x".into()), Some(100)),
            (Trace::Missing, Some(100)),
        ] {
            traces.deadline = file;
            let deadline = first(&built(&traces)).2;
            let expected = mono.map(|s: u64| Deadline { mono: Mono(s * SECOND), wall: at(s).wall });
            assert_eq!(deadline, expected, "{traces:?}");
        }
    }

    #[test]
    fn an_end_that_was_written_down_is_taken_as_it_is() {
        let traces = Traces {
            created: Trace::Says(created()),
            leader: Trace::Says(leader()),
            verdict: Trace::Says(verdict()),
            tree: Some(TreeTrace { gone: at(21), usage: Usage::default() }),
            ..nothing()
        };
        let records = built(&traces);
        let ended = Record::Ended { run: run(), verdict: Box::new(verdict().verdict) };
        assert!(records.contains(&ended), "{records:?}");
        assert!(records.contains(&Record::NativeId { session: run().session, id: "ses_1".into() }));
        assert!(matches!(records[4..6], [Record::LateEvidence { .. }, Record::TreeSettled { .. }]));
        let events = records.iter().filter(|record| matches!(record, Record::Event { .. }));
        assert_eq!(events.count(), 0, "it was told before");
        assert!(note(&records).contains("not told again"));
    }

    #[test]
    fn without_its_record_of_creation_a_session_is_what_the_shim_was_told() {
        let traces = Traces {
            created: Trace::Damaged("cut off".into()),
            order: Trace::Says(order()),
            leader: Trace::Says(leader()),
            host: Some(host("earlier")),
            ..nothing()
        };
        let records = built(&traces);
        let (spec, at_host, deadline) = first(&records);
        assert_eq!((&spec.command[..], spec.cwd.as_str()), (&["sleep".to_owned()][..], "/w"));
        assert!(!spec.wants_report);
        assert_eq!((at_host, deadline), (&host("earlier"), None));
        for said in ["damaged (cut off)", "exit code alone", "deadline is not known"] {
            assert!(note(&records).contains(said), "{}", note(&records));
        }
    }

    #[test]
    fn an_exit_file_alone_is_a_session_too_and_nothing_at_all_is_hopeless() {
        let exit = ExitTrace { leader: Some(leader()), never_ran: false };
        let traces = Traces { exit: Some(exit), host: Some(host("b")), ..nothing() };
        let records = built(&traces);
        assert!(matches!(records[1], Record::Started { .. }), "{records:?}");
        let never = ExitTrace { leader: Some(leader()), never_ran: true };
        let records = built(&Traces { exit: Some(never), ..traces });
        assert!(!records.iter().any(|record| matches!(record, Record::Started { .. })), "{records:?}");
        let hopeless = rebuild(&nothing(), &host("b"), at(50)).expect_err("nothing was found");
        assert!(hopeless.0.contains("missing"), "{hopeless:?}");
        let other = RunId { session: SessionId(uuid::Uuid::from_u128(8)), run: 1 };
        let strange = Traces { run: other, created: Trace::Says(created()), ..nothing() };
        assert!(rebuild(&strange, &host("b"), at(50)).is_err(), "the record of another session");
    }
}
