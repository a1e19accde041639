//! Sessions that are launched and sessions that are taken up again: what is refused, and what is recorded before
//! anything starts.

use std::time::Duration;

use super::agent::{Spent, Stored};
use super::directory::Directory;
use super::locks::Claim;
use super::queue::Beside;
use super::record::{EventKind, Record, RequestKey};
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
        let directory = spec.directory();
        let queued = match self.may_launch(Some(&directory), &spec.claim, &spec.adapter) {
            Ok(queued) => queued,
            Err(refusal) => return out.reply(to, Reply::Refused(refusal)),
        };
        let warnings = self.warnings_for(Some(&directory));
        self.counters.launches += 1;
        let deadline = spec.timeout.filter(|_| !queued).map(|timeout| Deadline::after(now, timeout));
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
                queued,
            },
            out,
        );
        self.begin_launch(now, to, RunId { session, run: 1 }, deadline, out);
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

    /// Why nothing can be launched, and no lock be changed, at present.
    pub(super) fn not_now(&self) -> Option<Refusal> {
        match &self.journal {
            JournalHealth::Failing(why) => Some(Refusal::JournalFailing(why.clone())),
            JournalHealth::Well if !self.recovered => Some(Refusal::Recovering),
            JournalHealth::Well => None,
        }
    }

    /// Whether a launch has to wait for its turn, or why it is refused.
    fn may_launch(
        &self,
        directory: Option<&Directory>,
        claim: &Claim,
        adapter: &str,
    ) -> Result<bool, Refusal> {
        match self.not_now() {
            Some(refusal) => Err(refusal),
            None => self.has_to_wait(directory, claim, adapter, &Beside::default()),
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
        let may = match self.sessions.get(&id) {
            None => Err(Refusal::NotFound(id.to_string())),
            Some(session) if session.run.verdict.is_none() || !self.may_tell(session) => {
                Err(Refusal::StillRuns(id))
            }
            // What a run leaves behind on purpose may outlive the next one; what is being ended may not.
            Some(session) if !session.may_be_left() => Err(Refusal::StillEnding(id)),
            Some(session) => self.may_launch(directory.as_ref(), &claim, &session.spec.adapter),
        };
        let queued = match may {
            Ok(queued) => queued,
            Err(refusal) => return out.reply(to, Reply::Refused(refusal)),
        };
        let warnings = self.warnings_for(directory.as_ref());
        self.leave_tree(now, id, out);
        let Some(session) = self.sessions.get(&id) else { return };
        self.counters.launches += 1;
        let run = RunId { session: id, run: session.run.number + 1 };
        let deadline = timeout.filter(|_| !queued).map(|timeout| Deadline::after(now, timeout));
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
            queued,
        };
        self.record(now, record, out);
        self.begin_launch(now, to, run, deadline, out);
    }

    fn begin_launch(
        &mut self,
        now: Now,
        to: ReplyTo,
        run: RunId,
        deadline: Option<Deadline>,
        out: &mut Step,
    ) {
        self.waiters.entry(run.session).or_default().push(Waiter { to, what: WaitFor::Launch });
        // Also of one that waits: so it gets its directory, and in it its record.
        out.effects.push(Effect::WriteDeadline(run, deadline.map(|deadline| deadline.mono)));
        let waits = self.sessions.get(&run.session).is_some_and(|session| session.run.is_queued());
        if waits {
            self.publish(now, EventKind::Queued, run, None, out);
        } else {
            out.effects.push(Effect::Spawn(run));
        }
    }

    fn await_launch(&mut self, to: ReplyTo, session: SessionId, out: &mut Step) {
        self.waiters.entry(session).or_default().push(Waiter { to, what: WaitFor::Launch });
        self.answer(session, out);
    }
}
