//! The supervisor: holds all sessions, routes each event to what it concerns, and applies records.
//!
//! [`Supervisor::step`] decides; `Supervisor::apply` is the one mutator of durable state, used live
//! and on replay. What a step decides about a run lives in `steps.rs`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::adopt::is_adoption;
use super::agent::{AgentEvent, Spent, Stored};
use super::counters::Counters;
use super::dir_fuses::DirFuses;
use super::fuse::Outcome;
use super::hooks::{HiddenOf, HookState};
use super::import::TakenOver;
use super::locks::Locks;
use super::outbox::{Endpoint, Outbox};
use super::queue::{Queue, Turn};
use super::record::{Record, RequestKey};
use super::refusal::Refusal;
use super::session::{EvidenceEntry, Origin, Progress, Run, Session, Spec, StopStep};
use super::sessions::Sessions;
use super::timers::{Timer, Timers};
use super::vocab::{HostId, Mono, Now, RunId, SessionId, Wall};
use super::{Effect, Event, JournalHealth, Reply, ReplyTo, Request, Step};

/// What the core needs to know of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub endpoints: Vec<Endpoint>,
    /// Ended sessions are kept so long.
    pub retention: Duration,
    /// Files of ended sessions together, bytes; beyond it the oldest go first.
    pub disk_max_bytes: u64,
    /// Sessions supervised at once.
    pub max_sessions: usize,
    /// Sessions of an adapter that run at once, where they are limited.
    pub adapter_max_sessions: BTreeMap<String, usize>,
    /// Where hooks are started: this boot of this host.
    pub host: HostId,
}

impl Settings {
    /// Nobody is told, and there is room for ten.
    #[cfg(test)]
    pub(super) fn of_test(host: HostId) -> Self {
        Self {
            endpoints: Vec::new(),
            retention: Duration::from_secs(7 * 24 * 3600),
            disk_max_bytes: u64::MAX,
            max_sessions: 10,
            adapter_max_sessions: BTreeMap::new(),
            host,
        }
    }

    /// The configured endpoint of this name.
    pub(super) fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }
}

/// All state. Everything durable in it is rebuilt by applying the records in order.
#[derive(Debug)]
pub struct Supervisor {
    pub(super) settings: Settings,
    pub(super) sessions: Sessions,
    pub(super) keys: HashMap<Arc<str>, (Arc<str>, SessionId)>,
    pub(super) outbox: Outbox,
    pub(super) dir_fuses: DirFuses,
    pub(super) timers: Timers,
    pub(super) waiters: HashMap<SessionId, Vec<Waiter>>,
    /// The last event's number.
    pub(super) seq: u64,
    /// Records made so far, and how many of them are durable.
    pub(super) appended: u64,
    pub(super) durable: u64,
    /// Verdicts that are not durable yet, in order of their records.
    pub(super) unrecorded: VecDeque<(u64, RunId)>,
    pub(super) journal: JournalHealth,
    pub(super) recovered: bool,
    /// Ended and settled sessions by the time of their end: the next to be forgotten comes first.
    pub(super) settled: BTreeSet<(Wall, SessionId)>,
    pub(super) sizes: HashMap<SessionId, u64>,
    pub(super) bytes: u64,
    pub(super) live: usize,
    pub(super) locks: Locks,
    pub(super) queue: Queue,
    pub(super) counters: Counters,
    /// Where the last run was begun: most often where the next one is, and then they share it.
    last_host: Arc<HostId>,
    /// Files of the earlier agentctl that were taken over.
    imported: BTreeMap<String, TakenOver>,
}

/// Somebody who waits for something about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiter {
    pub(super) to: ReplyTo,
    pub(super) what: WaitFor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitFor {
    Launch,
    Verdict,
    TreeGone { already: bool },
}

impl Supervisor {
    /// An empty supervisor.
    pub fn new(settings: Settings) -> Self {
        Self {
            sessions: Sessions::default(),
            keys: HashMap::new(),
            outbox: Outbox::default(),
            dir_fuses: DirFuses::default(),
            timers: Timers::default(),
            waiters: HashMap::new(),
            seq: 0,
            appended: 0,
            durable: 0,
            unrecorded: VecDeque::new(),
            journal: JournalHealth::Well,
            recovered: false,
            settled: BTreeSet::new(),
            sizes: HashMap::new(),
            bytes: 0,
            live: 0,
            locks: Locks::default(),
            queue: Queue::default(),
            counters: Counters::default(),
            last_host: Arc::new(settings.host.clone()),
            settings,
            imported: BTreeMap::new(),
        }
    }

    /// Applies a record read from the journal at start.
    pub fn replay(&mut self, record: &Record, now: Now) {
        self.appended += 1;
        self.durable = self.appended;
        self.apply(record, now);
    }

    /// After the replay: what was told before the start is durable, and events go on from `seq`.
    pub fn replayed(&mut self, last_seq: u64) {
        self.seq = self.seq.max(last_seq);
        self.unrecorded.clear();
        self.counters = Counters::default();
    }

    /// Decides. The answer's records must be durable before its effects are carried out.
    pub fn step(&mut self, now: Now, event: Event) -> Step {
        let mut out = Step::default();
        self.compare_clocks(now);
        match event {
            Event::Request(to, request) => self.request(now, to, request, &mut out),
            Event::Together(requests) => self.together(now, requests, &mut out),
            Event::Abandoned(to) => self.abandon(to),
            Event::Evidence(run, evidence) => self.evidence(now, run, evidence, &mut out),
            Event::Agent(run, said) => self.agent(now, run, &said, &mut out),
            Event::Sampled(run, sample) => self.sampled(now, run, &sample, &mut out),
            Event::Attempted(id, attempt) => self.attempted(now, &id, &attempt, &mut out),
            Event::Timer => {}
            Event::Durable(upto) => self.durable_upto(upto, &mut out),
            Event::Journal(health) => {
                self.counters.journal_failures += u64::from(health != JournalHealth::Well);
                self.journal = health;
                self.refuse_failed_launches(&mut out);
                self.refuse_unrecorded_queued(now, &mut out);
                self.queue.stir();
            }
            Event::Rebuilt(records) => self.rebuilt(now, records, &mut out),
            Event::Imported(records) => self.taken_over(now, records, &mut out),
            Event::Recovered => self.recover(now, &mut out),
            Event::Sized(session, bytes) => self.sized(now, session, bytes, &mut out),
            Event::Configured(settings) => self.configured(now, settings, &mut out),
        }
        self.fire_due(now, &mut out);
        self.call_up(now, &mut out);
        out
    }

    /// The next instant at which something is to be done without any event; the edge arms its one
    /// timer with it after each step.
    pub fn next_deadline(&self) -> Option<Mono> {
        if self.recovered { self.timers.next() } else { None }
    }

    fn fire_due(&mut self, now: Now, out: &mut Step) {
        // Deadlines last: whatever ended during an absence is known before a deadline is acted on.
        if !self.recovered {
            return;
        }
        while let Some(timer) = self.timers.pop_due(now.mono) {
            match timer {
                Timer::Deadline(run) => self.deadline_passed(now, run, out),
                Timer::Warning(run) => self.warn(now, run, out),
                Timer::StopStep(run) => self.stop_step(now, run, out),
                Timer::StopAnswer(run) => self.answer_stop_late(run, out),
                Timer::ShimStuck(run) => self.shim_stuck(now, run, out),
                Timer::ReportLate(run) => self.report_late(now, run, out),
                Timer::Activity(run) => self.activity_lasted(now, run, out),
                Timer::Linger(run) => self.lingered(now, run, out),
                Timer::Stuck(run) => self.look_for_life(run, out),
                Timer::DirFuse(id) => self.fuse_due(now, id, out),
                Timer::Endpoint(name) => self.start_attempts(now, &name, out),
                Timer::Retention => self.forget_old(now, out),
            }
        }
    }

    pub(super) fn request(&mut self, now: Now, to: ReplyTo, request: Request, out: &mut Step) {
        match request {
            Request::Launch { session, host, origin, spec, key } => {
                self.launch(now, to, session, host, origin, spec, key, out);
            }
            Request::Resume { session, host, prompt, timeout, claim, key, stored } => {
                self.resume(now, to, session, host, prompt, timeout, *claim, key, *stored, out);
            }
            Request::Adopt(adoption) => self.adopt(now, to, *adoption, out),
            Request::Stop { session, force } => self.stop(now, to, session, force, out),
            Request::Extend { session, by } => self.extend(now, to, session, by, out),
            Request::Wait { session } => self.wait(to, session, out),
            Request::Fuse(request) => self.fuse_request(now, to, request, out),
            Request::Prune { older_than, dry_run } => self.prune(now, to, older_than, dry_run, out),
            Request::Redeliver(all) => self.redeliver(now, to, all, out),
            Request::SetPaused { endpoint, paused } => self.set_paused(now, to, endpoint, paused, out),
            Request::Lock(request) => self.lock_request(now, to, request, out),
        }
    }

    fn wait(&mut self, to: ReplyTo, session: SessionId, out: &mut Step) {
        if !self.sessions.contains_key(&session) {
            out.reply(to, Reply::Refused(Refusal::NotFound(session.to_string())));
            return;
        }
        self.waiters.entry(session).or_default().push(Waiter { to, what: WaitFor::Verdict });
        self.answer(session, out);
    }

    /// Records of earlier lives, made durable now. They are no news: nothing is told and nothing is counted.
    fn rebuilt(&mut self, now: Now, records: Vec<Record>, out: &mut Step) {
        let counters = std::mem::take(&mut self.counters);
        for record in records {
            self.record(now, record, out);
        }
        self.counters = counters;
    }

    /// What an earlier tool had: what runs of it gets its files once that is recorded.
    fn taken_over(&mut self, now: Now, records: Vec<Record>, out: &mut Step) {
        let live = |record: &Record| if let Record::Started { run, .. } = record { Some(*run) } else { None };
        let live: Vec<_> = records.iter().filter_map(live).collect();
        self.rebuilt(now, records, out);
        out.effects.extend(live.into_iter().map(|run| Effect::WriteDeadline(run, None)));
    }

    /// Launches that failed a moment before it was known that this cannot be recorded.
    fn refuse_failed_launches(&mut self, out: &mut Step) {
        let failed = |run: &RunId| {
            let verdict = self.sessions.get(&run.session).and_then(|session| session.run.verdict.as_ref());
            verdict.is_some_and(|verdict| verdict.outcome == Outcome::LaunchFailed)
        };
        let failed: Vec<_> = self.unrecorded.iter().map(|(_, run)| *run).filter(failed).collect();
        for run in failed {
            self.refuse_launch(run, out);
        }
    }

    fn abandon(&mut self, to: ReplyTo) {
        self.waiters.retain(|_, waiters| {
            waiters.retain(|waiter| waiter.to != to);
            !waiters.is_empty()
        });
    }

    fn agent(&mut self, now: Now, id: RunId, said: &AgentEvent, out: &mut Step) {
        let Some(session) = self.sessions.get_mut(&id.session).filter(|s| s.run.number == id.run) else {
            return;
        };
        // Whatever it says is a sign of life.
        session.progress.quiet = None;
        match said {
            AgentEvent::NativeId(native) if session.native_id.as_ref() != Some(native) => {
                self.record(now, Record::NativeId { session: id.session, id: native.clone() }, out);
            }
            AgentEvent::NativeId(_)
            | AgentEvent::Used { .. }
            | AgentEvent::Total { .. }
            | AgentEvent::Said(_)
            | AgentEvent::SaidMore(_)
            | AgentEvent::ToolCalled { .. }
            | AgentEvent::ToolAnswered { .. }
            | AgentEvent::Failed(_)
            | AgentEvent::StepEnded(_) => {
                session.absorb(said);
                if let Some(cause) = session.over_budget() {
                    self.end_early(now, id, cause, out);
                }
            }
            AgentEvent::Over => {
                session.absorb(said);
                self.activity(now, id);
                self.work_over(now, id, out);
            }
            AgentEvent::Idle | AgentEvent::Active => {
                session.absorb(said);
                self.activity(now, id);
                self.work_goes_on(id);
            }
        }
    }

    /// Makes a record: numbered, applied at once, durable later.
    pub(super) fn record(&mut self, now: Now, record: Record, out: &mut Step) {
        self.appended += 1;
        self.apply(&record, now);
        if let Some(run) = told_once_durable(&record) {
            self.unrecorded.push_back((self.appended, run));
        }
        out.records.push(record);
    }

    /// The one mutator of durable state.
    fn apply(&mut self, record: &Record, now: Now) {
        match record {
            Record::Created {
                session,
                at,
                host,
                origin,
                spec,
                deadline,
                request,
                run,
                spent,
                warnings,
                queued,
            } => {
                let mut first = Run::new(*run, *at, host.shared(&mut self.last_host), spec.wants_report);
                first.warnings.clone_from(warnings);
                first.turn = if *queued { Turn::Waits(self.appended) } else { Turn::None };
                if is_adoption(*origin, *run) {
                    first.without_shim();
                }
                self.apply_created(*session, first, *origin, spec, request.as_ref());
                if let Some(session) = self.sessions.get_mut(session) {
                    session.spent = *spent;
                }
                self.set_deadline(RunId { session: *session, run: *run }, *deadline);
                self.follow(*session);
            }
            Record::Resumed {
                run,
                at,
                host,
                prompt,
                timeout,
                deadline,
                request,
                stored,
                claim,
                warnings,
                queued,
            } => {
                self.apply_resumed(*run, *at, host, request.as_ref(), *stored);
                if let Some(session) = self.sessions.get_mut(&run.session) {
                    session.spec.prompt.clone_from(prompt);
                    session.spec.timeout = *timeout;
                    session.spec.claim.clone_from(claim);
                    session.run.warnings.clone_from(warnings);
                    session.run.turn = if *queued { Turn::Waits(self.appended) } else { Turn::None };
                }
                self.set_deadline(*run, *deadline);
                self.follow(run.session);
            }
            Record::Dequeued { run, deadline, .. } => {
                self.apply_to_run(*run, record);
                self.set_deadline(*run, *deadline);
                self.follow(run.session);
            }
            Record::DeadlineSet { run, deadline } => self.set_deadline(*run, *deadline),
            Record::NativeId { session, id } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.native_id = Some(id.clone());
                }
            }
            Record::Started { run, .. }
            | Record::StopRequested { run, .. }
            | Record::StatusLearned { run, .. }
            | Record::Ended { run, .. }
            | Record::LateEvidence { run, .. }
            | Record::TreeSettled { run, .. } => {
                self.apply_to_run(*run, record);
                self.follow(run.session);
            }
            Record::Event { seq, .. } => self.seq = *seq,
            Record::DeliveryQueued { id, run, kind, at } => {
                self.counters.deliveries += 1;
                self.outbox.queue(id, *run, *kind, *at, now);
            }
            Record::AttemptFailed { id, attempt, at, retry_in_ms, held, error } => {
                self.counters.attempts_failed += 1;
                let retry_in = Duration::from_millis(*retry_in_ms);
                self.outbox.failed(id, *attempt, *at, retry_in, *held, error, now);
            }
            Record::DeliveryOver { id, how, .. } => {
                self.counters.deliveries_dead += u64::from(*how == super::record::DeliveryEnd::Dead);
                self.outbox.over(id);
            }
            Record::HookEnded { run, hook, verdict } => {
                let of = super::hooks::HookOf { run: *run, kind: *hook };
                self.apply_hook(of, HookState::Ended(verdict.clone()));
            }
            Record::Attempted { .. } => {}
            Record::DeliveryRevived { id, run, kind, at } => self.outbox.queue(id, *run, *kind, *at, now),
            Record::Fuse(record) => self.apply_fuse(record, now),
            Record::EndpointHealth { endpoint, health } => self.outbox.set_health(endpoint, health),
            Record::Rebuilt { session, note, .. } => {
                if let Some(session) = self.sessions.get_mut(session) {
                    session.rebuilt = Some(note.clone());
                }
            }
            Record::Imported { at, file, taken, left_out } => {
                let taken = TakenOver { at: *at, taken: *taken, left_out: *left_out };
                self.imported.insert(file.clone(), taken);
            }
            Record::Pruned { session } => {
                self.apply_pruned(*session);
                self.follow(*session);
            }
            Record::Locked { lock } => self.apply_lock(lock),
            Record::Unlocked { directory, .. } => self.apply_unlock(directory),
        }
    }

    /// What a record of a session changed of who holds what, and of who waits for what.
    fn follow(&mut self, id: SessionId) {
        self.follow_locks(id);
        self.follow_queue(id);
    }

    fn apply_created(
        &mut self,
        id: SessionId,
        run: Run,
        origin: Origin,
        spec: &Spec,
        request: Option<&RequestKey>,
    ) {
        let since = run.begun.wall;
        let session = Session {
            id,
            origin,
            spec: spec.clone(),
            run,
            native_id: spec.native_id.clone(),
            progress: Progress::default(),
            spent: Spent::default(),
            request: request.cloned(),
            rebuilt: None,
        };
        self.sessions.insert(session);
        match spec.hidden() {
            Some(HiddenOf::Hook(of)) => self.apply_hook(of, HookState::Running { since }),
            Some(HiddenOf::Fuse(_)) => {}
            None => self.live += 1,
        }
        if let Some(request) = request {
            self.keys.insert(request.key.clone(), (request.digest.clone(), id));
        }
    }

    fn apply_resumed(
        &mut self,
        id: RunId,
        at: Now,
        host: &HostId,
        request: Option<&RequestKey>,
        stored: Stored,
    ) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        if let Some(verdict) = &session.run.verdict {
            self.settled.remove(&(verdict.decided.wall, id.session));
        }
        let run = Run::new(id.run, at, host.shared(&mut self.last_host), session.spec.wants_report);
        session.take_up(run, stored);
        session.request = request.cloned();
        self.live += 1;
        if let Some(request) = request {
            self.keys.insert(request.key.clone(), (request.digest.clone(), id.session));
        }
    }

    fn apply_to_run(&mut self, id: RunId, record: &Record) {
        let appended = self.appended;
        let Some(session) = self.sessions.get_mut(&id.session).filter(|session| session.run.number == id.run)
        else {
            return;
        };
        let run = &mut session.run;
        match record {
            Record::Dequeued { at, host, .. } => {
                run.came(appended);
                run.begun = *at;
                run.host = host.shared(&mut self.last_host);
            }
            Record::Started { leader, at, .. } => {
                run.fuse.leader = Some(*leader);
                run.started = Some(*at);
            }
            Record::StopRequested { cause, at, .. } => {
                run.fuse.stop = Some(super::fuse::StopMark { cause: *cause, at: at.mono });
                run.stop_step = Some(StopStep::Asked);
                let detail = cause.detail().to_owned();
                run.evidence.push(EvidenceEntry { prong: cause.prong(), at: at.wall, detail });
            }
            Record::StatusLearned { status, at, .. } => {
                run.fuse.status = Some(*status);
                run.fuse.ended.get_or_insert(super::fuse::EndTime { at: *at, exact: false });
            }
            Record::Ended { verdict, .. } => {
                run.evidence.clone_from(&verdict.evidence);
                run.usage = verdict.usage;
                run.verdict = Some(verdict.clone());
                run.verdict_record = appended;
                let lasted = verdict.decided.wall.since(run.begun.wall);
                self.timers.clear(&Timer::Warning(id));
                self.timers.clear(&Timer::Deadline(id));
                match session.spec.hidden() {
                    Some(HiddenOf::Hook(of)) => self.apply_hook(of, HookState::Ended(verdict.clone())),
                    Some(HiddenOf::Fuse(_)) => {}
                    None => {
                        self.counters.ended(verdict, lasted);
                        self.live -= 1;
                    }
                }
            }
            Record::LateEvidence { entry, .. } => run.evidence.push(entry.clone()),
            Record::TreeSettled { leftovers, usage, .. } => {
                run.leftovers = *leftovers;
                run.usage = usage.map(|usage| usage.after(run.usage)).or(run.usage);
                run.tree_settled = true;
                run.stop_step = None;
                if let Some(verdict) = run.verdict.as_ref().filter(|_| session.spec.hidden().is_none()) {
                    self.settled.insert((verdict.decided.wall, id.session));
                }
            }
            Record::Created { .. }
            | Record::Resumed { .. }
            | Record::DeadlineSet { .. }
            | Record::NativeId { .. }
            | Record::Event { .. }
            | Record::DeliveryQueued { .. }
            | Record::Attempted { .. }
            | Record::AttemptFailed { .. }
            | Record::DeliveryOver { .. }
            | Record::HookEnded { .. }
            | Record::DeliveryRevived { .. }
            | Record::EndpointHealth { .. }
            | Record::Fuse(_)
            | Record::Rebuilt { .. }
            | Record::Imported { .. }
            | Record::Locked { .. }
            | Record::Unlocked { .. }
            | Record::Pruned { .. } => unreachable!("apply() sends only the records of a run here"),
        }
    }

    fn set_deadline(&mut self, id: RunId, deadline: Option<super::session::Deadline>) {
        let Some(session) = self.sessions.get_mut(&id.session) else { return };
        session.run.deadline = deadline;
        self.timers.clear(&Timer::Warning(id));
        self.timers.clear(&Timer::Deadline(id));
        // Running time of another boot, or of another machine, says nothing about this one's.
        let Some(deadline) = deadline.filter(|_| session.run.host.boot == self.settings.host.boot) else {
            return;
        };
        let warning = Mono(deadline.mono.0.saturating_sub(super::steps::WARNING_AHEAD.as_nanos() as u64));
        // One after the other: the warning arms the deadline.
        if warning > session.run.begun.mono {
            self.timers.set(Timer::Warning(id), warning);
        } else {
            self.timers.set(Timer::Deadline(id), deadline.mono);
        }
    }
}

/// Questions, which change nothing.
impl Supervisor {
    /// A session.
    pub fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// All sessions, by id; hooks, which are hidden sessions, among them.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// The sessions that users know, by id.
    pub fn shown(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values().filter(|session| !session.is_hidden())
    }

    /// Whether the verdict of a session, if any, is durable and may be told.
    pub fn may_tell(&self, session: &Session) -> bool {
        session.run.verdict_record <= self.durable
    }

    /// Finds a session by its id, a unique prefix of 4 or more characters, or its name. Exact beats
    /// prefix beats name; of several sessions with one name the one that has not ended is meant.
    pub fn resolve(&self, text: &str) -> Result<SessionId, Refusal> {
        let shown = |id: &SessionId| self.sessions.get(id).is_some_and(|session| !session.is_hidden());
        if let Some(id) = text.parse().ok().filter(shown) {
            return Ok(id);
        }
        let by_prefix = self.by_prefix(text);
        let found = if by_prefix.is_empty() { self.by_name(text) } else { by_prefix };
        match found[..] {
            [] => Err(Refusal::NotFound(text.to_owned())),
            [one] => Ok(one),
            [..] => Err(Refusal::Ambiguous { prefix: text.to_owned(), candidates: found }),
        }
    }

    fn by_prefix(&self, text: &str) -> Vec<SessionId> {
        if text.len() < 4 || text.len() > 36 || !text.is_ascii() {
            return Vec::new();
        }
        // The least id with this prefix: missing digits are zeros.
        let mut least = String::from("00000000-0000-0000-0000-000000000000");
        least.replace_range(..text.len(), text);
        let Ok(least) = least.parse::<SessionId>() else { return Vec::new() };
        let from_there = self.sessions.from(least).take_while(|found| found.id.to_string().starts_with(text));
        from_there.filter(|session| !session.is_hidden()).map(|session| session.id).collect()
    }

    fn by_name(&self, text: &str) -> Vec<SessionId> {
        let named = self.sessions.values().filter(|session| session.spec.name.as_deref() == Some(text));
        let (live, ended): (Vec<_>, Vec<_>) = named.partition(|session| session.run.verdict.is_none());
        let chosen = if live.is_empty() { ended } else { live };
        chosen.into_iter().map(|session| session.id).collect()
    }

    /// Files of the earlier agentctl that were taken over.
    pub fn imported(&self) -> &BTreeMap<String, TakenOver> {
        &self.imported
    }

    /// Deliveries that are owed.
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// Counters since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sessions without a verdict.
    pub fn live(&self) -> usize {
        self.live
    }

    /// The last event's number.
    pub fn last_seq(&self) -> u64 {
        self.seq
    }

    /// How many records were made in all, durable or not.
    pub fn appended(&self) -> u64 {
        self.appended
    }

    /// Whether records can be made durable.
    pub fn journal(&self) -> &JournalHealth {
        &self.journal
    }

    /// The configuration in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }
}

/// The run that somebody waits to be told of: its end, or that it waits for its turn.
fn told_once_durable(record: &Record) -> Option<RunId> {
    if let Record::Created { session, run, queued: true, .. } = record {
        return Some(RunId { session: *session, run: *run });
    }
    if let Record::Ended { run, .. } | Record::Resumed { run, queued: true, .. } = record {
        return Some(*run);
    }
    None
}

impl Step {
    pub(super) fn reply(&mut self, to: ReplyTo, reply: Reply) {
        self.effects.push(Effect::Reply(to, reply));
    }
}
