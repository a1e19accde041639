//! Sessions that are launched and sessions that are taken up again: what is refused, and what is recorded before
//! anything starts.

use std::time::Duration;

use super::agent::{Spent, Stored};
use super::directory::Directory;
use super::locks::Claim;
use super::record::{Record, RequestKey};
use super::refusal::Refusal;
use super::session::{Deadline, Origin, Spec};
use super::supervisor::{Supervisor, WaitFor, Waiter};
use super::vocab::{HostId, Now, RunId, SessionId};
use super::{Effect, JournalHealth, Reply, ReplyTo, Step};

impl Supervisor {
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, taken apart once")]
    pub(super) fn launch(
        &mut self,
        now: Now,
        to: ReplyTo,
        session: SessionId,
        host: HostId,
        origin: Origin,
        spec: Box<Spec>,
        key: Option<RequestKey>,
        out: &mut Step,
    ) {
        if self.asked_before(to, key.as_ref(), out) {
            return;
        }
        let directory = Directory { path: spec.cwd.clone(), id: spec.claim.dir.clone() };
        let refusal = self.no_launch_now();
        let refusal = refusal.or_else(|| self.not_to_be_had(Some(&directory), &spec.claim));
        if let Some(refusal) = refusal {
            out.reply(to, Reply::Refused(refusal));
            return;
        }
        let warnings = self.warnings_for(Some(&directory));
        self.counters.launches += 1;
        let deadline = spec
            .timeout
            .map(|timeout| Deadline { mono: now.mono.after(timeout), wall: now.wall.after(timeout) });
        self.record(
            now,
            Record::Created {
                session,
                at: now,
                host,
                origin,
                spec,
                deadline,
                request: key,
                run: 1,
                spent: Spent::default(),
                warnings,
            },
            out,
        );
        self.begin_launch(to, RunId { session, run: 1 }, deadline, out);
    }

    /// A request that is repeated gets the answer of the first.
    fn asked_before(&mut self, to: ReplyTo, key: Option<&RequestKey>, out: &mut Step) -> bool {
        let Some((digest, earlier)) = key.and_then(|key| self.keys.get(&key.key)) else { return false };
        let (same, earlier) = (key.is_some_and(|key| key.digest == *digest), *earlier);
        if same {
            self.await_launch(to, earlier, out);
        } else {
            out.reply(to, Reply::Refused(Refusal::KeyReused));
        }
        true
    }

    /// Why nothing can be launched at present.
    pub(super) fn no_launch_now(&self) -> Option<Refusal> {
        match &self.journal {
            JournalHealth::Failing(why) => Some(Refusal::JournalFailing(why.clone())),
            JournalHealth::Well if !self.recovered => Some(Refusal::Recovering),
            JournalHealth::Well if self.live >= self.settings.sessions_max => {
                Some(Refusal::TooMany(self.settings.sessions_max))
            }
            JournalHealth::Well => None,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one request, taken apart once")]
    pub(super) fn resume(
        &mut self,
        now: Now,
        to: ReplyTo,
        id: SessionId,
        host: HostId,
        prompt: Option<String>,
        timeout: Option<Duration>,
        claim: Claim,
        key: Option<RequestKey>,
        stored: Stored,
        out: &mut Step,
    ) {
        if self.asked_before(to, key.as_ref(), out) {
            return;
        }
        let directory = self
            .sessions
            .get(&id)
            .and_then(|session| Some(Directory { id: claim.dir.clone(), ..session.directory()? }));
        let refusal = match self.sessions.get(&id) {
            None => Some(Refusal::NotFound(id.to_string())),
            Some(session) if session.run.verdict.is_none() || !self.may_tell(session) => {
                Some(Refusal::StillRuns(id))
            }
            // What a run leaves behind on purpose may outlive the next one; what is being ended may not.
            Some(session) if !session.may_be_left() => Some(Refusal::StillEnding(id)),
            Some(_) => self.no_launch_now().or_else(|| self.not_to_be_had(directory.as_ref(), &claim)),
        };
        if let Some(refusal) = refusal {
            out.reply(to, Reply::Refused(refusal));
            return;
        }
        let warnings = self.warnings_for(directory.as_ref());
        self.leave_tree(now, id, out);
        let Some(session) = self.sessions.get(&id) else { return };
        self.counters.launches += 1;
        let run = RunId { session: id, run: session.run.number + 1 };
        let deadline =
            timeout.map(|timeout| Deadline { mono: now.mono.after(timeout), wall: now.wall.after(timeout) });
        let record = Record::Resumed {
            run,
            at: now,
            host,
            prompt,
            timeout,
            deadline,
            request: key,
            stored,
            claim,
            warnings,
        };
        self.record(now, record, out);
        self.begin_launch(to, run, deadline, out);
    }

    fn begin_launch(&mut self, to: ReplyTo, run: RunId, deadline: Option<Deadline>, out: &mut Step) {
        self.waiters.entry(run.session).or_default().push(Waiter { to, what: WaitFor::Launch });
        out.effects.push(Effect::WriteDeadline(run, deadline.map(|deadline| deadline.mono)));
        out.effects.push(Effect::Spawn(run));
    }

    fn await_launch(&mut self, to: ReplyTo, session: SessionId, out: &mut Step) {
        self.waiters.entry(session).or_default().push(Waiter { to, what: WaitFor::Launch });
        self.answer(session, out);
    }
}
