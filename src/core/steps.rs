//! What follows from what for one run: evidence to verdict, stop and deadline to the end of the tree.
//!
//! Read it after `fuse.rs`, which says *whether* a run has ended; this file says what to ask, whom to
//! signal and what to write down on the way there. Decisions only: nothing in here acts.

use std::time::Duration;

use super::evidence_list::note;
use super::fuse::{
    Decision, End, Evidence, Need, Outcome, Prong, Rejection, ShimSeen, StopCause, Taken, TreeSeen,
};
use super::hooks::HookKind;
use super::locks::IfTaken;
use super::queue::Turn;
use super::record::{EventKind, Record};
use super::refusal::Refusal;
use super::session::{Deadline, EvidenceEntry, LeftoverCount, Phase, Session, StopStep};
use super::supervisor::{Settings, Supervisor, WaitFor, Waiter};
use super::timers::Timer;
use super::vocab::{Leftovers, Now, ProcessId, RunId, SessionId, Usage};
use super::{Effect, JournalHealth, Reply, ReplyTo, Step};

/// SIGTERM and SIGKILL, by number.
const TERM: u8 = 15;
const KILL: u8 = 9;

/// How long the rest of a tree has between TERM and KILL, at most.
const REST_GRACE_MAX: Duration = Duration::from_secs(2);
/// How often KILL is repeated while something of the tree is left.
const KILL_EVERY: Duration = Duration::from_secs(1);
/// A stop is answered so long after its grace, whatever still lives.
const STOP_ANSWER_AFTER: Duration = Duration::from_secs(10);
/// The exit file follows the leader's end within milliseconds. Where no news of it comes, the news may be what is
/// missing: it is looked for.
const SHIM_LATE_AFTER: Duration = Duration::from_secs(1);
/// A shim that says nothing so long after its leader ended is stuck.
const SHIM_STUCK_AFTER: Duration = Duration::from_secs(60);
/// And is killed so long after its exit file was looked for once more.
const SHIM_LAST_WORD: Duration = Duration::from_secs(1);
/// Reading the end of a log takes milliseconds; after so long it is unreadable.
const REPORT_LATE_AFTER: Duration = Duration::from_secs(10);
/// The warning of a deadline comes so long before it.
pub(super) const WARNING_AHEAD: Duration = Duration::from_secs(5 * 60);

impl Supervisor {
    pub(super) fn evidence(&mut self, now: Now, id: RunId, evidence: Evidence, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session).filter(|s| s.run.number == id.run) else {
            return;
        };
        if session.run.verdict.is_some() {
            self.late_evidence(now, id, &evidence, out);
            return;
        }
        if evidence == Evidence::Withdrawn && self.begin_again(now, id, out) {
            return;
        }
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let taken = weigh(session, &evidence, now, &self.settings.host.boot);
        note(&mut session.run, &evidence, &taken, now.wall);
        match taken {
            Taken::Rejected(why) => self.rejected(id, &evidence, why, out),
            Taken::Disagrees => self.counters.disagreements += 1,
            Taken::New => self.remember(now, id, &evidence, out),
            Taken::Known => {}
        }
        self.advance(now, id, out);
    }

    fn rejected(&mut self, id: RunId, evidence: &Evidence, why: Rejection, out: &mut Step) {
        if matches!(evidence, Evidence::ExitFile(..)) {
            self.counters.exit_files_rejected += 1;
            out.effects.push(Effect::RejectExitFile(id, why));
        }
    }

    /// Writes down what a restart could not find out again.
    fn remember(&mut self, now: Now, run: RunId, evidence: &Evidence, out: &mut Step) {
        match evidence {
            Evidence::Started(leader) => {
                self.started(now, run, *leader, now, out);
                if self.session_stop_step(run).is_some() {
                    out.effects.push(Effect::SignalLeader(run, TERM));
                }
                self.answer(run.session, out);
            }
            Evidence::KernelStatus(Some(status), via) => {
                self.record(now, Record::StatusLearned { run, status: *status, via: *via, at: now }, out);
            }
            Evidence::Withdrawn
            | Evidence::LaunchFailed(_)
            | Evidence::LeaderEnded
            | Evidence::LeaderGone
            | Evidence::ExitFile(..)
            | Evidence::KernelStatus(None, _)
            | Evidence::OomKilled
            | Evidence::ShimGone
            | Evidence::Rescanned
            | Evidence::TreeGone(_)
            | Evidence::TreeLeft(_)
            | Evidence::TreeUnknown(_)
            | Evidence::Report(_)
            | Evidence::Rebooted
            | Evidence::CannotTell(_) => {}
        }
    }

    fn session_stop_step(&self, run: RunId) -> Option<StopStep> {
        self.sessions.get(&run.session)?.run.stop_step
    }

    /// Takes the verdict if there is one, else asks for what is missing.
    pub(super) fn advance(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get(&id.session) else { return };
        if session.run.verdict.is_some() {
            return;
        }
        let decision = session.run.fuse.decide();
        match decision {
            Decision::End(end) => self.finish(now, id, &end, out),
            Decision::Wait(need) => self.ask(now, id, need, out),
        }
    }

    fn ask(&mut self, now: Now, id: RunId, need: Need, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let run = &mut session.run;
        let shim_gone = run.fuse.shim != ShimSeen::MayLive;
        match need {
            Need::LeaderEnd => {}
            Need::Launch => {
                if shim_gone && !std::mem::replace(&mut run.asked.rescan, true) {
                    out.effects.push(Effect::Rescan(id));
                }
            }
            Need::Status if shim_gone => {
                if !std::mem::replace(&mut run.asked.rescan, true) {
                    out.effects.push(Effect::Rescan(id));
                }
                if !std::mem::replace(&mut run.asked.kernel, true) {
                    out.effects.push(Effect::AskKernel(id));
                }
            }
            Need::Status => self.await_shim(now, id),
            Need::Report => {
                if !std::mem::replace(&mut run.asked.report, true) {
                    out.effects.push(Effect::ReadReport(id));
                    self.timers.set(Timer::ReportLate(id), now.mono.after(REPORT_LATE_AFTER));
                }
            }
            Need::TreeEnd => {
                if matches!(run.stop_step, Some(StopStep::Cancelling | StopStep::Asked)) {
                    self.stop_step(now, id, out);
                }
                self.ask_tree(now, id, out);
            }
        }
    }

    fn await_shim(&mut self, now: Now, id: RunId) {
        let timer = Timer::ShimStuck(id);
        let undecided = self.sessions.get(&id.session).is_some_and(|session| session.run.verdict.is_none());
        if self.timers.when(&timer).is_none() {
            let patience = if undecided { SHIM_LATE_AFTER } else { SHIM_STUCK_AFTER };
            self.timers.set(timer, now.mono.after(patience));
        }
    }

    /// First its exit file is looked for, soon and once more, in case the news of it was lost; then the shim is
    /// killed, which frees the status for the kernel to tell.
    pub(super) fn shim_stuck(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let asked = &mut session.run.asked;
        if session.run.verdict.is_none() && !std::mem::replace(&mut asked.late, true) {
            out.effects.push(Effect::Rescan(id));
            self.timers.set(Timer::ShimStuck(id), now.mono.after(SHIM_STUCK_AFTER));
        } else if std::mem::replace(&mut asked.stuck, true) {
            out.effects.push(Effect::KillShim(id));
        } else {
            out.effects.push(Effect::Rescan(id));
            self.timers.set(Timer::ShimStuck(id), now.mono.after(SHIM_LAST_WORD));
        }
    }

    /// With the shim dead nobody will report the end of the tree unasked.
    fn ask_tree(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let run = &mut session.run;
        if run.tree_settled || matches!(run.fuse.tree, TreeSeen::Gone) {
            return;
        }
        if run.fuse.shim == ShimSeen::MayLive {
            // With `keep` a shim rightly lives as long as what its leader left behind.
            if session.spec.leftovers == Leftovers::Kill || run.stop_step.is_some() {
                self.await_shim(now, id);
            }
        } else if !std::mem::replace(&mut run.asked.tree, true) {
            out.effects.push(Effect::AskTree(id));
        }
    }

    /// The leader runs, or did: one record, its event and the hook that waits for it.
    pub(super) fn started(&mut self, now: Now, run: RunId, leader: ProcessId, at: Now, out: &mut Step) {
        self.record(now, Record::Started { run, leader, at }, out);
        self.publish(now, EventKind::start_of(run), run, None, out);
        self.directory_used(now, run, out);
        self.start_hook(now, run, HookKind::OnCreate, out);
        self.watch_for_life(now, run);
        if self.sessions.get(&run.session).is_some_and(|s| s.spec.claim.if_taken == IfTaken::Queue) {
            out.effects.push(Effect::Discard(run));
        }
    }

    /// The verdict: one record, its event and its deliveries, in one step.
    pub(super) fn finish(&mut self, now: Now, id: RunId, end: &End, out: &mut Step) {
        let Some(session) = self.sessions.get(&id.session) else { return };
        let never_told = session.run.started.is_none();
        if let Some(leader) =
            session.run.fuse.leader.filter(|_| never_told && session.run.fuse.failed.is_none())
        {
            // It ended before anybody heard that it had begun.
            self.started(now, id, leader, now, out);
        }
        let Some(session) = self.sessions.get(&id.session) else { return };
        let keeps_parcel = session.keeps_parcel();
        let verdict = session.verdict(end, now);
        self.record(now, Record::Ended { run: id, verdict: Box::new(verdict) }, out);
        self.publish(now, EventKind::of(end.outcome), id, None, out);
        out.effects.push(Effect::Archive(id));
        if keeps_parcel {
            out.effects.push(Effect::Discard(id));
        }
        self.start_hook(now, id, HookKind::OnComplete, out);
        self.hook_ended(now, id, out);
        if end.outcome == Outcome::LaunchFailed {
            self.refuse_launch(id, out);
        }
        let over = [Timer::ShimStuck, Timer::ReportLate, Timer::Activity, Timer::Linger, Timer::Stuck];
        for timer in over.map(|timer| timer(id)) {
            self.timers.clear(&timer);
        }
        self.settle_tree(now, id, out);
    }

    /// While records cannot be made durable, who launched would wait for as long.
    pub(super) fn refuse_launch(&mut self, id: RunId, out: &mut Step) {
        let JournalHealth::Failing(why) = &self.journal else { return };
        let refusal = Refusal::JournalFailing(why.clone());
        let Some(waiters) = self.waiters.get_mut(&id.session) else { return };
        waiters.retain(|waiter| {
            let launching = waiter.what == WaitFor::Launch;
            if launching {
                out.effects.push(Effect::Reply(waiter.to, Reply::Refused(refusal.clone())));
            }
            !launching
        });
    }

    /// After the verdict: the rest of the tree.
    fn settle_tree(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get(&id.session) else { return };
        let run = &session.run;
        let never_ran = run.fuse.leader.is_none();
        let settled = match run.fuse.tree {
            TreeSeen::Gone => Some(LeftoverCount::Known(0)),
            // A stopped run whose tree cannot be told; or one that never had a tree.
            TreeSeen::Unknown => Some(LeftoverCount::Unknown),
            TreeSeen::NotLooked | TreeSeen::Left(_) if never_ran => Some(LeftoverCount::Known(0)),
            TreeSeen::NotLooked | TreeSeen::Left(_) => None,
        };
        match settled {
            Some(leftovers) => self.tree_settled(now, id, leftovers, None, out),
            None => self.ask_tree(now, id, out),
        }
    }

    fn tree_settled(
        &mut self,
        now: Now,
        run: RunId,
        leftovers: LeftoverCount,
        usage: Option<Usage>,
        out: &mut Step,
    ) {
        if self.sessions.get(&run.session).is_none_or(|session| session.run.tree_settled) {
            return;
        }
        self.record(now, Record::TreeSettled { run, leftovers, usage, at: now }, out);
        self.timers.clear(&Timer::StopStep(run));
        self.timers.clear(&Timer::ShimStuck(run));
        self.arm_retention(now);
        self.answer(run.session, out);
        self.forget_hook(now, run.session, out);
    }

    /// The session is taken up again: what its last run keeps alive is nobody's care any more.
    pub(super) fn leave_tree(&mut self, now: Now, id: SessionId, out: &mut Step) {
        let Some(session) = self.sessions.get(&id) else { return };
        let (run, leftovers) = (session.run_id(), session.run.leftovers);
        self.tree_settled(now, run, leftovers, None, out);
    }

    /// Evidence that comes after the verdict is appended and never changes it.
    fn late_evidence(&mut self, now: Now, id: RunId, evidence: &Evidence, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let policy = session.spec.leftovers;
        let taken = weigh(session, evidence, now, &self.settings.host.boot);
        if taken == Taken::New && *evidence == Evidence::ShimGone {
            // Whatever was asked while it lived was left to it to answer.
            session.run.asked.tree = false;
        }
        if taken == Taken::Disagrees {
            self.counters.disagreements += 1;
        }
        match evidence {
            Evidence::TreeGone(usage) => {
                self.late_entry(now, id, Prong::TreeGone, "nothing of the tree is left", out);
                self.tree_settled(now, id, LeftoverCount::Known(0), *usage, out);
            }
            Evidence::TreeUnknown(why) => {
                self.note_unverified(id, why);
                self.tree_settled(now, id, LeftoverCount::Unknown, None, out);
            }
            Evidence::TreeLeft(count) => self.tree_left(now, id, *count, policy, out),
            Evidence::ShimGone => self.settle_tree(now, id, out),
            Evidence::ExitFile(..) if taken != Taken::Known => {
                let detail = match taken {
                    Taken::Rejected(why) => format!("rejected after the verdict: {why}"),
                    Taken::Disagrees => "a file after the verdict gives another status".to_owned(),
                    Taken::New | Taken::Known => "a file after the verdict".to_owned(),
                };
                self.late_entry(now, id, Prong::ExitFile, &detail, out);
            }
            Evidence::LeaderEnded => {
                self.late_entry(now, id, Prong::Pidfd, "the leader's pidfd is readable", out)
            }
            Evidence::KernelStatus(Some(status), via) if taken == Taken::Disagrees => {
                let detail = format!("the kernel says wait status {:#x}", status.0);
                self.late_entry(now, id, *via, &detail, out);
            }
            Evidence::ExitFile(..)
            | Evidence::KernelStatus(..)
            | Evidence::Withdrawn
            | Evidence::LaunchFailed(_)
            | Evidence::Started(_)
            | Evidence::LeaderGone
            | Evidence::OomKilled
            | Evidence::Rescanned
            | Evidence::Report(_)
            | Evidence::Rebooted
            | Evidence::CannotTell(_) => {}
        }
    }

    fn late_entry(&mut self, now: Now, run: RunId, prong: Prong, detail: &str, out: &mut Step) {
        let entry = EvidenceEntry { prong, at: now.wall, detail: detail.to_owned() };
        let already = self.sessions.get(&run.session).is_some_and(|session| {
            session.run.evidence.iter().any(|old| old.prong == prong && old.detail == entry.detail)
        });
        if !already {
            self.record(now, Record::LateEvidence { run, entry }, out);
        }
    }

    fn note_unverified(&mut self, id: RunId, why: &str) {
        if let Some(session) = self.sessions.get_mut(&id.session) {
            session.run.unverified = Some(why.to_owned());
        }
    }

    fn tree_left(&mut self, now: Now, id: RunId, count: u32, policy: Leftovers, out: &mut Step) {
        // A look that was taken before the tree was seen gone, and is told after, is out of date.
        let Some(session) = self.sessions.get_mut(&id.session).filter(|s| !s.run.tree_settled) else {
            return;
        };
        session.run.leftovers = LeftoverCount::Known(count);
        // The shim does this by itself while it lives; a dead one's duty falls to the daemon.
        let orphaned = session.run.fuse.shim != ShimSeen::MayLive;
        if orphaned && policy == Leftovers::Kill && session.run.stop_step.is_none() {
            session.run.stop_step = Some(StopStep::Asked);
            self.stop_step(now, id, out);
        }
    }

    pub(super) fn stop(&mut self, now: Now, to: ReplyTo, id: SessionId, force: bool, out: &mut Step) {
        let Some(session) = self.sessions.get(&id) else {
            out.reply(to, Reply::Refused(Refusal::NotFound(id.to_string())));
            return;
        };
        let (run, phase, grace) = (session.run_id(), session.run.phase(), session.spec.grace);
        let already = phase == Phase::Ended;
        self.waiters.entry(id).or_default().push(Waiter { to, what: WaitFor::TreeGone { already } });
        let settled = session.is_settled();
        if settled && self.may_tell(session) {
            return self.answer(id, out);
        }
        // Also where nothing is left to end: while its end cannot be recorded, it is not told.
        let at_once = force || settled || phase == Phase::Queued;
        let answer_at = now.mono.after(if at_once { STOP_ANSWER_AFTER } else { grace + STOP_ANSWER_AFTER });
        self.timers.set(Timer::StopAnswer(run), answer_at);
        if phase == Phase::Queued {
            self.cancel_queued(now, run, out);
        } else if !settled {
            self.begin_stop(now, run, StopCause::Requested, force, out);
        }
    }

    fn begin_stop(&mut self, now: Now, id: RunId, cause: StopCause, force: bool, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let grace = session.spec.grace;
        let first = session.run.stop_step.is_none();
        let listens = session.spec.acp && session.run.verdict.is_none();
        if first {
            if session.run.verdict.is_none() {
                self.record(now, Record::StopRequested { run: id, cause, at: now }, out);
            } else {
                session.run.stop_step = Some(StopStep::Asked);
            }
        }
        if force {
            self.force_stop(now, id, out);
        } else if first && listens {
            self.cancel_turn(now, id, out);
            self.advance_stopped(now, id, out);
        } else if first {
            out.effects.push(Effect::SignalLeader(id, TERM));
            self.timers.set(Timer::StopStep(id), now.mono.after(grace));
            self.advance_stopped(now, id, out);
        }
    }

    /// TERM comes when that did not help; the grace is for both.
    fn cancel_turn(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        session.run.stop_step = Some(StopStep::Cancelling);
        out.effects.push(Effect::CancelTurn(id));
        self.timers.set(Timer::StopStep(id), now.mono.after(session.spec.cancel_patience()));
    }

    /// A leader that is gone already needs no grace.
    fn advance_stopped(&mut self, now: Now, id: RunId, out: &mut Step) {
        let ended = self.sessions.get(&id.session).is_some_and(|session| session.run.fuse.ended.is_some());
        if ended {
            self.stop_step(now, id, out);
        }
    }

    fn force_stop(&mut self, now: Now, id: RunId, out: &mut Step) {
        if let Some(session) = self.sessions.get_mut(&id.session) {
            session.run.stop_step = Some(StopStep::Swept);
            self.stop_step(now, id, out);
        }
    }

    /// The next step of a stop.
    pub(super) fn stop_step(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session).filter(|s| s.run.number == id.run) else {
            return;
        };
        if session.run.tree_settled {
            return;
        }
        let grace = session.spec.grace;
        let rest = grace.min(REST_GRACE_MAX);
        let (next, signal, after) = match session.run.stop_step {
            None => return,
            Some(StopStep::Cancelling) if session.run.fuse.ended.is_none() => {
                session.run.stop_step = Some(StopStep::Asked);
                out.effects.push(Effect::SignalLeader(id, TERM));
                self.timers.set(Timer::StopStep(id), now.mono.after(grace - session.spec.cancel_patience()));
                return;
            }
            Some(StopStep::Cancelling | StopStep::Asked) => (StopStep::Swept, TERM, rest),
            Some(StopStep::Swept | StopStep::Killing) => (StopStep::Killing, KILL, KILL_EVERY),
        };
        session.run.stop_step = Some(next);
        out.effects.push(Effect::SignalTree(id, signal));
        self.timers.set(Timer::StopStep(id), now.mono.after(after));
    }

    pub(super) fn deadline_passed(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get(&id.session) else { return };
        match session.run.phase() {
            Phase::Launching | Phase::Running => {
                self.publish(now, EventKind::Timeout, id, None, out);
                self.begin_stop(now, id, StopCause::Deadline, false, out);
            }
            // Its end is known and its status will follow; or the first recorded stop has won.
            Phase::Queued | Phase::Ending | Phase::Stopping | Phase::Ended => {}
        }
    }

    /// Its budget is used up, or its work is over: an end that is near anyway is waited for.
    pub(super) fn end_early(&mut self, now: Now, id: RunId, cause: StopCause, out: &mut Step) {
        let Some(session) = self.sessions.get(&id.session) else { return };
        match session.run.phase() {
            Phase::Launching | Phase::Running => self.begin_stop(now, id, cause, false, out),
            Phase::Queued | Phase::Ending | Phase::Stopping | Phase::Ended => {}
        }
    }

    pub(super) fn warn(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get(&id.session) else { return };
        let Some(deadline) = session.run.deadline else { return };
        self.timers.set(Timer::Deadline(id), deadline.mono);
        if session.run.phase() == Phase::Running {
            self.publish(now, EventKind::Timeout, id, Some(deadline.wall), out);
        }
    }

    pub(super) fn report_late(&mut self, now: Now, id: RunId, out: &mut Step) {
        let why = format!("the output could not be read within {} s", REPORT_LATE_AFTER.as_secs());
        self.evidence(now, id, Evidence::Report(super::agent::AgentReport::Unreadable(why)), out);
    }

    pub(super) fn answer_stop_late(&mut self, id: RunId, out: &mut Step) {
        if self.sessions.get(&id.session).is_some_and(|session| session.run.number != id.run) {
            return;
        }
        let Some(waiters) = self.waiters.get_mut(&id.session) else { return };
        waiters.retain(|waiter| {
            let stopping = matches!(waiter.what, WaitFor::TreeGone { .. });
            if stopping {
                out.effects.push(Effect::Reply(waiter.to, Reply::NotYetStopped(id.session)));
            }
            !stopping
        });
    }

    pub(super) fn extend(
        &mut self,
        now: Now,
        to: ReplyTo,
        id: SessionId,
        by: Option<Duration>,
        out: &mut Step,
    ) {
        let Some(session) = self.sessions.get(&id) else {
            out.reply(to, Reply::Refused(Refusal::NotFound(id.to_string())));
            return;
        };
        let run = session.run_id();
        match session.run.phase() {
            Phase::Launching | Phase::Running => {
                let deadline = by.map(|by| Deadline::after(now, by));
                self.record(now, Record::DeadlineSet { run, deadline }, out);
                out.effects.push(Effect::WriteDeadline(run, deadline.map(|deadline| deadline.mono)));
                out.reply(to, Reply::Extended(id));
            }
            Phase::Queued => out.reply(to, Reply::Refused(Refusal::StillQueued(id))),
            Phase::Stopping => out.reply(to, Reply::Refused(Refusal::Stopping(id))),
            Phase::Ending | Phase::Ended => out.reply(to, Reply::Refused(Refusal::AlreadyEnded(id))),
        }
    }

    /// Answers whoever waits for what is now true and durable.
    pub(super) fn answer(&mut self, id: SessionId, out: &mut Step) {
        let Some(session) = self.sessions.get(&id) else { return };
        let told = self.may_tell(session);
        let ended = session.run.verdict.is_some() && told;
        // That it waits is an answer too.
        let waits = matches!(session.run.turn, Turn::Waits(record) if record <= self.durable);
        let begun = session.run.started.is_some() || ended || waits;
        let settled = ended && session.run.tree_settled;
        let Some(waiters) = self.waiters.get_mut(&id) else { return };
        waiters.retain(|waiter| {
            let reply = match waiter.what {
                WaitFor::Launch if begun => Reply::Launched(id),
                WaitFor::Verdict if ended => Reply::Ended(id),
                WaitFor::TreeGone { already } if settled => Reply::Stopped { session: id, already },
                WaitFor::Launch | WaitFor::Verdict | WaitFor::TreeGone { .. } => return true,
            };
            out.effects.push(Effect::Reply(waiter.to, reply));
            false
        });
        if waiters.is_empty() {
            self.waiters.remove(&id);
        }
    }

    pub(super) fn durable_upto(&mut self, upto: u64, out: &mut Step) {
        self.durable = self.durable.max(upto);
        while let Some((record, run)) = self.unrecorded.front().copied() {
            if record > self.durable {
                break;
            }
            self.unrecorded.pop_front();
            self.answer(run.session, out);
        }
    }

    /// After a start: goes on with what an earlier life had begun.
    pub(super) fn recover(&mut self, now: Now, out: &mut Step) {
        self.recovered = true;
        let unsettled: Vec<_> = self
            .sessions
            .values()
            .filter(|s| !s.is_settled() && !s.run.is_queued())
            .map(Session::run_id)
            .collect();
        for id in unsettled {
            self.resume_stop(now, id, out);
            self.watch_for_life(now, id);
            self.advance(now, id, out);
            if self.sessions.get(&id.session).is_some_and(|s| s.run.verdict.is_some()) {
                self.settle_tree(now, id, out);
                self.count_kept(id, out);
            }
        }
        self.recover_hooks(now, out);
        self.forget_fuses(now, out);
        self.recover_queue();
        self.start_all_attempts(now, out);
        self.arm_retention(now);
    }

    /// How many leftovers are kept is in no record; a living shim tells only when the last has gone.
    fn count_kept(&mut self, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        let kept = session.spec.leftovers == Leftovers::Keep && !session.run.tree_settled;
        if kept && !std::mem::replace(&mut session.run.asked.tree, true) {
            out.effects.push(Effect::AskTree(id));
        }
    }

    /// The crash may have fallen between the record of a stop and its signal: TERM goes out again, and
    /// what is left of the grace is given.
    fn resume_stop(&mut self, now: Now, id: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get(&id.session) else { return };
        let Some(stop) = session.run.fuse.stop.filter(|_| session.run.verdict.is_none()) else { return };
        out.effects.push(Effect::SignalLeader(id, TERM));
        let kill_at = stop.at.after(session.spec.grace).max(now.mono);
        self.timers.set(Timer::StopStep(id), kill_at);
    }

    /// New settings hold for all that is decided from now on; what already was, stays.
    pub(super) fn configured(&mut self, now: Now, settings: Settings, out: &mut Step) {
        self.settings = settings;
        self.queue.stir();
        if !self.recovered {
            return;
        }
        self.forget_old(now, out);
        self.forget_excess(now, out);
        // What waited for an endpoint that was not configured, or paused, can go out.
        self.start_all_attempts(now, out);
    }
}

/// What a piece of evidence is worth: held against the times that it names first, then by the fuse.
fn weigh(session: &mut Session, evidence: &Evidence, now: Now, boot: &str) -> Taken {
    match contradicted(session, evidence, now, boot) {
        Some(why) => Taken::Rejected(why),
        None => session.run.fuse.take(evidence, now),
    }
}

/// What the time of an exit file says against it. Running time is comparable within one boot only.
fn contradicted(session: &Session, evidence: &Evidence, now: Now, boot: &str) -> Option<Rejection> {
    let Evidence::ExitFile(report, _) = evidence else { return None };
    if session.run.adopted {
        return Some(Rejection::NoShim);
    }
    if report.boot != session.run.host.boot {
        return Some(Rejection::OtherBoot);
    }
    (report.boot == boot && report.ended.mono > now.mono).then_some(Rejection::Ahead)
}
