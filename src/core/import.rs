//! A session of the earlier agentctl becomes one of ours: the records that it comes to.
//!
//! That tool's word on how a session ended is worth nothing (it said "stopped" of sessions that ran, and never knew an
//! exit code), so it is kept as a note. What counts is the process, when it is certainly the session's, and the exit
//! file of the wrapper that it put around opencode. What cannot be told is left out, and said: neither an end nor a life
//! is made up. Nothing of it is news: nothing is told, nothing counted. Refuses to know the tool's files (wire/old_home.rs).

use std::collections::BTreeMap;
use std::time::Duration;

use super::agent::{Spent, Tokens};
use super::dir_fuses::{FuseRecord, FuseSpec};
use super::directory::DirId;
use super::fuse::{EndTime, Outcome, Prong, Reason};
use super::locks::Claim;
use super::record::Record;
use super::session::{EvidenceEntry, LeftoverCount, Origin, Spec, Verdict};
use super::vocab::{HostId, Leftovers, Mono, Now, ProcessId, RunId, SessionId, WaitStatus, Wall};

/// An agent that ran for less is told as failed by the earlier tool's wrapper: it writes 1 for 0.
const REWRITTEN_WITHIN: Duration = Duration::from_secs(7);

/// What the earlier tool kept of a session. Every text is cut to its limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OldSession {
    pub id: String,
    pub adapter: String,
    /// Its word for it; empty where it had none.
    pub status: String,
    pub started: Option<Wall>,
    pub stopped: Option<Wall>,
    pub cwd: String,
    /// Of a session that runs, the directory itself.
    pub dir: Option<DirId>,
    pub model: Option<String>,
    pub prompt: Option<String>,
    pub group: Option<String>,
    pub spec: Option<String>,
    pub pid: Option<u32>,
    pub tokens: Option<(u64, u64)>,
    pub cost_usd: Option<f64>,
    /// Where what it printed is.
    pub log: Option<String>,
    /// Callback keys.
    pub meta: BTreeMap<String, String>,
}

/// The process that had the session's number, as the kernel shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// No number was kept.
    NoNumber,
    /// Nobody has the number, or somebody who cannot be it.
    Gone,
    /// It, certainly.
    Itself(ProcessId, Wall),
    /// The process of this number is as like it, and leads another session already.
    Anothers(u32, SessionId),
    /// Whether it is cannot be told, and why.
    CannotTell(String),
}

/// The exit file of the wrapper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldExit {
    pub code: u8,
    pub at: Wall,
}

/// What became of a session, with its records.
#[derive(Clone, Debug, PartialEq)]
pub enum Imported {
    /// It runs, and is supervised from now on.
    Live(Vec<Record>),
    /// It has ended.
    Ended(Vec<Record>),
    /// It cannot be told; why, for people.
    LeftOut(String),
}

/// What one of the earlier tool's files came to. Kept for good: what was taken once is not taken again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenOver {
    pub at: Wall,
    pub taken: u32,
    pub left_out: u32,
}

/// What the edge knows beside the session.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    pub host: &'a HostId,
    pub now: Now,
    pub grace: Duration,
}

/// Decides. `id`: ours; `resumes`: whether the old id is the agent's own; `reports`: whether later runs have their output
/// read.
pub fn import(
    old: &OldSession,
    id: SessionId,
    seen: &Seen,
    exit: Option<OldExit>,
    (resumes, reports): (bool, bool),
    here: Here<'_>,
) -> Imported {
    let run = RunId { session: id, run: 1 };
    let created = |began: Now| Record::Created {
        session: id,
        at: began,
        host: here.host.clone(),
        origin: Origin::Imported,
        spec: Box::new(spec(old, id, resumes, reports, here.grace)),
        deadline: None,
        request: None,
        run: 1,
        spent: Spent::default(),
        warnings: Vec::new(),
        queued: false,
    };
    match (seen, exit) {
        (Seen::Itself(leader, since), _) => {
            let began = here.at((*since).min(here.now.wall));
            Imported::Live(vec![created(began), Record::Started { run, leader: *leader, at: began }])
        }
        (_, Some(exit)) => {
            let verdict = known_end(old, exit, here);
            Imported::Ended(ended(created(here.began(old, exit.at)), run, verdict, here.now))
        }
        (Seen::Gone, None) => {
            let verdict = unknown_end(old, here.now);
            Imported::Ended(ended(created(here.began(old, here.now.wall)), run, verdict, here.now))
        }
        (Seen::NoNumber, None) if matches!(old.status.as_str(), "running" | "idle" | "pending" | "") => {
            Imported::LeftOut("no process number was kept, so whether it runs cannot be told".into())
        }
        (Seen::NoNumber, None) => {
            let verdict = unknown_end(old, here.now);
            Imported::Ended(ended(created(here.began(old, here.now.wall)), run, verdict, here.now))
        }
        (Seen::CannotTell(why), None) => Imported::LeftOut(why.clone()),
        (Seen::Anothers(pid, other), None) => {
            Imported::LeftOut(format!("its process {pid} is that of session {} already", other.short()))
        }
    }
}

/// A fuse that somebody set burns on, to the time that it had. One that was due before is not lit: what it does was meant for
/// then, and switching over is nobody's word for it. `Err`: why it is left out, for people.
pub fn fuse(spec: FuseSpec, expires: Wall, now: Now) -> Result<Record, &'static str> {
    if expires <= now.wall {
        return Err("it was due before, and what it does is not done now");
    }
    let set = Wall(expires.0.saturating_sub(i64::try_from(spec.ttl.as_micros()).unwrap_or(i64::MAX)));
    Ok(Record::Fuse(FuseRecord::Set { fuse: Box::new(spec), at: set.min(now.wall), expires }))
}

impl Here<'_> {
    /// Both clocks at a time of this boot; before it, or in the future, as near as there is.
    fn at(&self, wall: Wall) -> Now {
        let ago = u64::try_from(self.now.wall.since(wall).as_nanos()).unwrap_or(u64::MAX);
        Now { wall, mono: Mono(self.now.mono.0.saturating_sub(ago)) }
    }

    fn began(&self, old: &OldSession, no_later_than: Wall) -> Now {
        self.at(old.started.unwrap_or(no_later_than).min(no_later_than))
    }
}

fn ended(created: Record, run: RunId, verdict: Verdict, now: Now) -> Vec<Record> {
    let settled = Record::TreeSettled { run, leftovers: LeftoverCount::Unknown, usage: None, at: now };
    vec![created, Record::Ended { run, verdict: Box::new(verdict) }, settled]
}

fn spec(old: &OldSession, id: SessionId, resumes: bool, reports: bool, grace: Duration) -> Spec {
    let mut meta = old.meta.clone();
    let mut note = |key: &str, value: String| {
        meta.insert(key.to_owned(), value);
    };
    if id.to_string() != old.id {
        note("oldId", old.id.clone());
    }
    if !old.status.is_empty() {
        note("oldStatus", old.status.clone());
    }
    if let Some(log) = &old.log {
        note("oldLog", log.clone());
    }
    Spec {
        adapter: old.adapter.clone(),
        model: old.model.clone(),
        prompt: old.prompt.clone(),
        group: old.group.clone(),
        spec: old.spec.clone(),
        meta,
        claim: Claim { dir: old.dir.clone(), ..Claim::default() },
        // As of what was adopted: what it leaves behind is its owner's, and a later run asks before it acts.
        leftovers: Leftovers::Keep,
        wants_report: reports,
        safe: true,
        native_id: resumes.then(|| old.id.clone()),
        ..Spec::exec(Vec::new(), old.cwd.clone(), grace)
    }
}

fn known_end(old: &OldSession, exit: OldExit, here: Here<'_>) -> Verdict {
    let status = WaitStatus::exited(exit.code);
    let lasted = old.started.map(|started| exit.at.since(started));
    let rewritten = exit.code == 1 && lasted.is_none_or(|lasted| lasted <= REWRITTEN_WITHIN);
    let message = rewritten.then(|| {
        "an earlier agentctl wrote this code down, and writes 1 for an exit 0 within 5 s, too".to_owned()
    });
    let detail = exit_file_says(exit.code);
    Verdict {
        outcome: if exit.code == 0 { Outcome::Completed } else { Outcome::Failed },
        reason: Reason::ExitCode(exit.code),
        status: Some(status),
        ended: Some(EndTime { at: here.at(exit.at), exact: false }),
        evidence: vec![EvidenceEntry { prong: Prong::ExitFile, at: exit.at, detail }],
        ..verdict(old, message, here.now)
    }
}

fn unknown_end(old: &OldSession, now: Now) -> Verdict {
    let message =
        "how and when it ended is not known: it ran under an earlier agentctl, whose word is no evidence";
    verdict(old, Some(message.to_owned()), now)
}

/// Of an end of which nothing is known. Decided now: it is kept as long as any that ends today.
fn verdict(old: &OldSession, message: Option<String>, now: Now) -> Verdict {
    let tokens = |(r#in, out)| Tokens { r#in, out, ..Tokens::default() };
    Verdict {
        outcome: Outcome::Lost,
        reason: Reason::StatusUnknown,
        status: None,
        ended: None,
        decided: now,
        evidence: Vec::new(),
        usage: None,
        message,
        tokens: old.tokens.map(tokens),
        cost_usd: old.cost_usd,
    }
}

/// A line of evidence.
pub(super) fn exit_file_says(code: u8) -> String {
    format!("exit code {code}, by the exit file of an earlier agentctl")
}

#[cfg(test)]
mod tests {
    use super::super::agent::Tokens;
    use super::super::dir_fuses::{FuseId, OnExpire};
    use super::super::record::EventKind;
    use super::super::session::{Phase, Status};
    use super::super::{Effect, Event, Settings, Supervisor};
    use super::*;

    const LEADER: ProcessId = ProcessId { pid: 7, handle: None, start_ticks: 1 };
    const STARTED: Wall = Wall(1_773_289_304_000_000);
    const NOW: Now = Now { wall: Wall(1_773_300_000_000_000), mono: Mono(900_000_000_000_000) };

    fn id() -> SessionId {
        SessionId(uuid::Uuid::from_u128(0xd7b6_3b65))
    }

    fn host() -> HostId {
        HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 }
    }

    fn old(status: &str) -> OldSession {
        OldSession {
            id: id().to_string(),
            adapter: "opencode".into(),
            status: status.into(),
            started: Some(STARTED),
            stopped: Some(Wall(STARTED.0 + 10_000_000)),
            cwd: "/w".into(),
            prompt: Some("fix it".into()),
            tokens: Some((3, 4)),
            ..OldSession::default()
        }
    }

    fn imported(old: &OldSession, seen: &Seen, exit: Option<OldExit>) -> Imported {
        let host = host();
        let here = Here { host: &host, now: NOW, grace: Duration::from_secs(10) };
        import(old, id(), seen, exit, (false, true), here)
    }

    fn supervisor() -> Supervisor {
        Supervisor::new(Settings { max_sessions: 2, ..Settings::of_test(host()) })
    }

    /// After the records were taken, and everything was looked at.
    fn after(records: Vec<Record>) -> Supervisor {
        let mut supervisor = supervisor();
        let live = |record: &Record| if let Record::Started { run, .. } = record { Some(*run) } else { None };
        let files =
            records.iter().filter_map(live).map(|run| Effect::WriteDeadline(run, None)).collect::<Vec<_>>();
        let step = supervisor.step(NOW, Event::Imported(records));
        let told = |record: &Record| matches!(record, Record::Event { .. } | Record::DeliveryQueued { .. });
        assert!(!step.records.iter().any(told), "it is no news");
        assert_eq!(step.effects, files, "of what runs, once it is recorded");
        supervisor.step(NOW, Event::Recovered);
        supervisor
    }

    fn exit(code: u8, after_seconds: i64) -> Option<OldExit> {
        Some(OldExit { code, at: Wall(STARTED.0 + after_seconds * 1_000_000) })
    }

    #[test]
    fn what_the_earlier_tool_called_stopped_is_no_end() {
        for status in ["running", "stopped", "completed", "error", "idle", ""] {
            let Imported::Live(records) = imported(&old(status), &Seen::Itself(LEADER, STARTED), None) else {
                panic!("{status}: its process lives");
            };
            let supervisor = after(records);
            let session = supervisor.session(id()).unwrap();
            assert_eq!((session.run.phase(), session.origin), (Phase::Running, Origin::Imported));
            assert_eq!(session.run.fuse.leader, Some(LEADER));
            assert_eq!(session.spec.meta.get("oldStatus").map_or("", String::as_str), status);
        }
    }

    #[test]
    fn an_end_has_the_code_of_its_exit_file_or_none() {
        for (seen, exit, outcome, reason, number) in [
            (Seen::Gone, exit(0, 60), Outcome::Completed, Reason::ExitCode(0), 0),
            (Seen::Gone, exit(42, 60), Outcome::Failed, Reason::ExitCode(42), 42),
            (Seen::NoNumber, exit(137, 60), Outcome::Failed, Reason::ExitCode(137), 137),
            (Seen::CannotTell("?".into()), exit(1, 60), Outcome::Failed, Reason::ExitCode(1), 1),
            (Seen::Gone, None, Outcome::Lost, Reason::StatusUnknown, 125),
            (Seen::NoNumber, None, Outcome::Lost, Reason::StatusUnknown, 125),
        ] {
            let Imported::Ended(records) = imported(&old("completed"), &seen, exit) else {
                panic!("{seen:?} {exit:?}");
            };
            let supervisor = after(records);
            let session = supervisor.session(id()).unwrap();
            let verdict = session.run.verdict.as_ref().unwrap();
            assert_eq!((verdict.outcome, verdict.reason, verdict.number()), (outcome, reason, number));
            assert_eq!(verdict.tokens, Some(Tokens { r#in: 3, out: 4, ..Tokens::default() }));
            assert!(session.is_settled());
            assert_eq!(supervisor.counters().clone(), super::super::counters::Counters::default());
            assert_eq!(supervisor.live(), 0);
            if verdict.status.is_none() {
                assert_eq!(session.status(true), Status::Stopped);
                assert_eq!(verdict.ended, None, "when it ended is not known either");
            }
        }
    }

    #[test]
    fn a_code_that_may_have_been_rewritten_says_so() {
        let message = |exit| {
            let Imported::Ended(records) = imported(&old("stopped"), &Seen::Gone, exit) else {
                panic!("it has ended");
            };
            let supervisor = after(records);
            supervisor.session(id()).unwrap().run.verdict.as_ref().unwrap().message.clone()
        };
        assert!(message(exit(1, 3)).is_some_and(|said| said.contains("writes 1 for an exit 0")));
        assert_eq!(message(exit(1, 60)), None);
        assert_eq!(message(exit(42, 1)), None);
    }

    #[test]
    fn what_cannot_be_told_is_left_out() {
        let unsure = Seen::CannotTell("PID 7 may be it".into());
        for status in ["running", "stopped"] {
            assert_eq!(imported(&old(status), &unsure, None), Imported::LeftOut("PID 7 may be it".into()));
        }
        assert!(matches!(imported(&old("running"), &Seen::NoNumber, None), Imported::LeftOut(_)));
        let left_out = imported(&old("running"), &Seen::Anothers(7, id()), None);
        assert_eq!(left_out, Imported::LeftOut("its process 7 is that of session 00000000 already".into()));
    }

    #[test]
    fn its_wrapper_has_the_last_word_and_one_event_tells_of_it() {
        let Imported::Live(records) = imported(&old("stopped"), &Seen::Itself(LEADER, STARTED), None) else {
            panic!("it lives");
        };
        let mut supervisor = after(records);
        let run = RunId { session: id(), run: 1 };
        let see =
            |supervisor: &mut Supervisor, evidence| supervisor.step(NOW, Event::Evidence(run, evidence));
        use super::super::fuse::Evidence;
        let step = see(&mut supervisor, Evidence::LeaderEnded);
        assert_eq!(step.effects, [Effect::AskKernel(run)]);
        let said = Evidence::KernelStatus(Some(WaitStatus::exited(42)), Prong::ExitFile);
        let step = see(&mut supervisor, said);
        let events = step
            .records
            .iter()
            .filter(|record| matches!(record, Record::Event { kind: EventKind::Error, .. }));
        assert_eq!(events.count(), 1);
        let session = supervisor.session(id()).unwrap();
        let evidence: Vec<_> =
            session.run.evidence.iter().map(|entry| (entry.prong, entry.detail.as_str())).collect();
        assert_eq!(evidence[0].0, Prong::Pidfd);
        assert_eq!(evidence[1], (Prong::ExitFile, "exit code 42, by the exit file of an earlier agentctl"));
        assert_eq!(session.run.verdict.as_deref().map(Verdict::number), Some(42));
    }

    #[test]
    fn a_fuse_burns_on_and_one_that_was_due_is_not_lit() {
        let id = FuseId(uuid::Uuid::from_u128(1));
        let spec = || FuseSpec {
            id,
            directory: "/w".into(),
            ttl: Duration::from_secs(600),
            label: None,
            setter: None,
            on_expire: OnExpire { script: Some("rm -rf build".into()), ..OnExpire::default() },
        };
        let in_a_minute = Wall(NOW.wall.0 + 60_000_000);
        let supervisor = after(vec![fuse(spec(), in_a_minute, NOW).unwrap()]);
        let burning = supervisor.dir_fuses().get(id).unwrap();
        assert_eq!((burning.expires, burning.end), (in_a_minute, None));
        assert_eq!(burning.set, Wall(in_a_minute.0 - 600_000_000));
        assert!(supervisor.next_deadline().is_some_and(|at| at <= NOW.mono.after(Duration::from_secs(60))));
        for due in [NOW.wall, Wall(0)] {
            assert!(fuse(spec(), due, NOW).is_err());
        }
    }

    #[test]
    fn what_was_taken_over_is_known_after_a_restart() {
        let mut supervisor = supervisor();
        let record = Record::Imported { at: NOW.wall, file: "state.json".into(), taken: 2, left_out: 1 };
        supervisor.replay(&record, NOW);
        let taken = TakenOver { at: NOW.wall, taken: 2, left_out: 1 };
        assert_eq!(supervisor.imported().get("state.json"), Some(&taken));
    }
}
