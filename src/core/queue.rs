//! Launches that wait: for their directory, or for one of the places that `max_sessions` and `adapter_max_sessions` give.
//!
//! A queued run is a run that is recorded and not begun. Its place in the line is that of its record, so the order is the
//! same after a restart, and nobody is ever forgotten. Who stands first in the line of a directory that is free is *ready*;
//! of all that are ready the earliest goes, unless its adapter has no place left. Nothing is searched: what a directory that
//! was let go costs is a look at the head of its line. Refuses to know what a launch needs when its turn has come.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::directory::{Directory, Whereabouts};
use super::fuse::{End, EndTime, Evidence, LaunchError, Outcome, Reason, StopCause};
use super::locks::{Claim, IfTaken};
use super::record::Record;
use super::refusal::Refusal;
use super::session::{Deadline, Phase, Run, Session};
use super::supervisor::Supervisor;
use super::vocab::{Now, RunId, SessionId};
use super::{Effect, JournalHealth, Step};

/// Launches that wait at once.
const QUEUED_MAX: usize = 10_000;

/// A place in the line: the number of the record that asked for it.
pub(super) type Ticket = u64;

/// Where a run stands that was asked to wait if it must.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It was not asked to wait, or did not have to.
    None,
    /// It waits, in the place of this record.
    Waits(u64),
    /// It waited, and its launch was begun.
    Came(u64),
}

/// What a queued session waits for at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// A lock by hand.
    Lock { by: String, reason: Option<String> },
    /// A session that has the directory.
    Session(SessionId),
    /// One that is queued for the same directory, and was first.
    Line(SessionId),
    /// Fewer sessions than this.
    Place(usize),
    /// Fewer sessions of its adapter.
    PlaceOfAdapter(usize),
    /// Nothing: it is about to begin.
    Nothing,
}

/// Who waits, and who takes a place.
#[derive(Clone, Debug, Default)]
pub(super) struct Queue {
    waiting: BTreeMap<Ticket, SessionId>,
    tickets: HashMap<SessionId, (Ticket, Option<Directory>)>,
    lines: Whereabouts<Ticket>,
    /// First in the line of a directory that was free when this was looked at, by adapter.
    ready: BTreeMap<String, BTreeSet<Ticket>>,
    /// Sessions that run, with their adapters, and their number by adapter.
    placed: HashMap<SessionId, String>,
    of_adapter: HashMap<String, usize>,
    /// Directories whose line may move.
    moved: Vec<Directory>,
    /// Somebody who is ready may find a place.
    stirred: bool,
}

/// Launches that come before one in the same step, and are not recorded yet.
#[derive(Debug, Default)]
pub(super) struct Beside<'a> {
    /// The directories that they take, or wait for.
    directories: Vec<Directory>,
    /// The adapters of those that begin at once.
    begun: Vec<&'a str>,
    waiting: usize,
}

impl<'a> Beside<'a> {
    /// One more, which waits or begins.
    pub(super) fn add(&mut self, directory: Directory, adapter: &'a str, waits: bool) {
        self.directories.push(directory);
        if waits {
            self.waiting += 1;
        } else {
            self.begun.push(adapter);
        }
    }

    fn has_taken(&self, directory: &Directory) -> Option<Refusal> {
        let taken = self.directories.iter().any(|other| other.is(directory));
        taken.then(|| Refusal::Shared(directory.path.clone()))
    }
}

impl Queue {
    fn follow(&mut self, id: SessionId, waits: Option<(Ticket, Option<Directory>)>) {
        if self.tickets.get(&id) == waits.as_ref() {
            return;
        }
        if let Some((ticket, directory)) = self.tickets.remove(&id) {
            self.waiting.remove(&ticket);
            if let Some(directory) = directory {
                self.lines.remove(&directory, &ticket);
                self.moved.push(directory);
            }
        }
        if let Some((ticket, directory)) = waits {
            self.waiting.insert(ticket, id);
            if let Some(directory) = &directory {
                self.lines.insert(directory, ticket);
                self.moved.push(directory.clone());
            }
            self.tickets.insert(id, (ticket, directory));
        }
    }

    fn follow_place(&mut self, id: SessionId, adapter: Option<&str>) {
        if self.placed.get(&id).map(String::as_str) == adapter {
            return;
        }
        if let Some(adapter) = self.placed.remove(&id) {
            self.stirred = true;
            let count = self.of_adapter.get_mut(&adapter);
            if let Some(count) = count.filter(|count| **count > 1) {
                *count -= 1;
            } else {
                self.of_adapter.remove(&adapter);
            }
        }
        if let Some(adapter) = adapter {
            self.placed.insert(id, adapter.to_owned());
            *self.of_adapter.entry(adapter.to_owned()).or_default() += 1;
        }
    }

    /// Somebody let a directory go.
    pub(super) fn let_go(&mut self, directory: Directory) {
        self.moved.push(directory);
    }

    /// More may be allowed than before.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    fn of_adapter(&self, adapter: &str) -> usize {
        self.of_adapter.get(adapter).copied().unwrap_or(0)
    }
}

impl Run {
    /// Its turn has come, if it has not before.
    pub(super) fn came(&mut self, record: Ticket) {
        self.turn = match self.turn {
            Turn::Waits(ticket) | Turn::Came(ticket) => Turn::Came(ticket),
            Turn::None => Turn::Came(record),
        };
    }

    /// Whether it waits for its turn.
    pub fn is_queued(&self) -> bool {
        matches!(self.turn, Turn::Waits(_))
    }
}

impl Session {
    /// Whether what the launch of its current run needs is kept in a file: it waits, or its turn has come and the leader
    /// does not run yet.
    pub fn keeps_parcel(&self) -> bool {
        self.spec.claim.if_taken == IfTaken::Queue && self.run.started.is_none() && self.run.verdict.is_none()
    }
}

impl Supervisor {
    /// What a record changed of who waits, and of who takes a place.
    pub(super) fn follow_queue(&mut self, id: SessionId) {
        let session = self.sessions.get(&id);
        let waits = session.filter(|session| session.run.verdict.is_none()).and_then(|session| {
            let Turn::Waits(ticket) = session.run.turn else { return None };
            Some((ticket, session.directory()))
        });
        let placed = session.filter(|session| {
            session.run.verdict.is_none() && !session.run.is_queued() && !session.is_hidden()
        });
        let adapter = placed.map(|session| session.spec.adapter.as_str());
        self.queue.follow_place(id, adapter);
        if let (Some((ticket, None)), Some(session)) = (&waits, session) {
            // It is in no line: all that it waits for is a place.
            self.queue.ready.entry(session.spec.adapter.clone()).or_default().insert(*ticket);
            self.queue.stirred = true;
        }
        self.queue.follow(id, waits);
    }

    /// Sessions that take a place.
    pub(super) fn placed(&self) -> usize {
        self.queue.placed.len()
    }

    /// Why there is no place for one session more.
    pub(super) fn no_place(&self, adapter: &str) -> Option<Refusal> {
        self.no_place_beside(adapter, &Beside::default())
    }

    fn no_place_beside(&self, adapter: &str, beside: &Beside<'_>) -> Option<Refusal> {
        let most = self.settings.max_sessions;
        if self.placed() + beside.begun.len() >= most {
            return Some(Refusal::TooMany(most));
        }
        let most = *self.settings.adapter_max_sessions.get(adapter)?;
        let of_adapter = beside.begun.iter().filter(|begun| **begun == adapter).count();
        let full = self.queue.of_adapter(adapter) + of_adapter >= most;
        full.then(|| Refusal::TooManyOf { adapter: adapter.to_owned(), most })
    }

    /// Whether a launch that has a directory in mind has to wait, after those beside it; or why it is refused.
    pub(super) fn has_to_wait(
        &self,
        directory: Option<&Directory>,
        claim: &Claim,
        adapter: &str,
        beside: &Beside<'_>,
    ) -> Result<bool, Refusal> {
        let taken = directory
            .and_then(|directory| self.locks.taken(directory).or_else(|| beside.has_taken(directory)));
        let first = directory.and_then(|directory| self.queue.lines.first(directory));
        let awaited =
            first.and_then(|ticket| self.queue.waiting.get(ticket)).map(|first| Refusal::Awaited(*first));
        let no_place = self.no_place_beside(adapter, beside);
        match claim.if_taken {
            IfTaken::Force => no_place.map_or(Ok(false), Err),
            IfTaken::Refuse => taken.or(awaited).or(no_place).map_or(Ok(false), Err),
            IfTaken::Queue => {
                let waits = taken.or(awaited).or(no_place).is_some();
                if waits && self.queue.waiting.len() + beside.waiting >= QUEUED_MAX {
                    return Err(Refusal::QueueFull(QUEUED_MAX));
                }
                Ok(waits)
            }
        }
    }

    /// Begins whoever can be begun, in order. Costs nothing when nothing has moved.
    pub(super) fn call_up(&mut self, now: Now, out: &mut Step) {
        if !self.recovered || self.journal != JournalHealth::Well {
            return;
        }
        loop {
            for directory in std::mem::take(&mut self.queue.moved) {
                self.look_at_line(&directory);
            }
            // Whoever is begun lets the line behind him move up, to a directory that he holds now.
            if !std::mem::take(&mut self.queue.stirred) {
                return;
            }
            self.call_up_ready(now, out);
        }
    }

    fn call_up_ready(&mut self, now: Now, out: &mut Step) {
        while let Some((adapter, ticket)) = self.next_ready() {
            if let Some(ready) = self.queue.ready.get_mut(&adapter) {
                ready.remove(&ticket);
                if ready.is_empty() {
                    self.queue.ready.remove(&adapter);
                }
            }
            let id = self.queue.waiting.get(&ticket).copied();
            if let Some(id) = id.filter(|_| self.is_first(ticket)) {
                self.begin_queued(now, id, out);
            }
        }
    }

    /// The head of a line is ready when its directory is free.
    fn look_at_line(&mut self, directory: &Directory) {
        for ticket in self.queue.lines.firsts(directory) {
            let session = self.queue.waiting.get(&ticket).and_then(|id| self.sessions.get(id));
            let Some(adapter) = session.map(|session| session.spec.adapter.clone()) else { continue };
            if self.is_first(ticket) {
                self.queue.ready.entry(adapter).or_default().insert(ticket);
                self.queue.stirred = true;
            }
        }
    }

    /// Whether nobody has its directory, and nobody asked for it before. Looked at again when its turn has come, since
    /// somebody may have forced his way meanwhile.
    fn is_first(&self, ticket: Ticket) -> bool {
        let Some(id) = self.queue.waiting.get(&ticket) else { return false };
        let Some((_, directory)) = self.queue.tickets.get(id) else { return false };
        directory.as_ref().is_none_or(|directory| {
            self.locks.taken(directory).is_none() && self.queue.lines.first(directory) == Some(&ticket)
        })
    }

    /// The earliest of those that are ready, among adapters that have a place left.
    fn next_ready(&self) -> Option<(String, Ticket)> {
        let heads = self.queue.ready.iter().filter_map(|(adapter, ready)| Some((ready.first()?, adapter)));
        let placed = heads.filter(|(_, adapter)| self.no_place(adapter).is_none());
        placed.min().map(|(ticket, adapter)| (adapter.clone(), *ticket))
    }

    /// Its turn has come. From here on it is a launch like any other; its time counts from here.
    fn begin_queued(&mut self, now: Now, id: SessionId, out: &mut Step) {
        let Some(session) = self.sessions.get(&id) else { return };
        let run = session.run_id();
        let deadline = session.spec.timeout.map(|timeout| Deadline::after(now, timeout));
        let host = self.settings.host.clone();
        self.record(now, Record::Dequeued { run, at: now, host, deadline }, out);
        out.effects.push(Effect::WriteDeadline(run, deadline.map(|deadline| deadline.mono)));
        out.effects.push(Effect::Spawn(run));
    }

    /// The turn of a run had come, and the daemon died before any shim claimed its launch. Nobody waits for an answer who
    /// could try again, and all that it takes is still there: it is begun again, not given up.
    pub(super) fn begin_again(&mut self, now: Now, run: RunId, out: &mut Step) -> bool {
        let session = self.sessions.get(&run.session).filter(|session| session.run_id() == run);
        let again = session.is_some_and(Session::may_begin_again);
        if again {
            self.begin_queued(now, run.session, out);
        }
        again
    }

    /// A queued run is given up: nothing of it was ever started.
    pub(super) fn cancel_queued(&mut self, now: Now, run: RunId, out: &mut Step) {
        self.record(now, Record::StopRequested { run, cause: StopCause::Requested, at: now }, out);
        let end = End {
            outcome: Outcome::Cancelled,
            reason: Reason::StopRequested,
            ended: Some(EndTime { at: now, exact: true }),
            status: None,
        };
        self.finish(now, run, &end, out);
    }

    /// Those that were queued a moment before it was known that this cannot be recorded.
    pub(super) fn refuse_unrecorded_queued(&mut self, now: Now, out: &mut Step) {
        let JournalHealth::Failing(why) = &self.journal else { return };
        let error = LaunchError::Setup(format!("the journal could not be written: {why}"));
        let durable = self.durable;
        let unrecorded: Vec<SessionId> = self.queue.waiting.range(durable + 1..).map(|(_, id)| *id).collect();
        for id in unrecorded {
            let Some(run) = self.sessions.get(&id).map(Session::run_id) else { continue };
            self.evidence(now, run, Evidence::LaunchFailed(error.clone()), out);
        }
    }

    /// After a start: every line is looked at once.
    pub(super) fn recover_queue(&mut self) {
        let all = self.queue.tickets.values().filter_map(|(_, directory)| directory.clone());
        let all: Vec<Directory> = all.collect();
        self.queue.moved.extend(all);
        self.queue.stirred = true;
    }

    /// What a queued session waits for.
    pub fn waits_for(&self, session: &Session) -> WaitsFor {
        let Turn::Waits(ticket) = session.run.turn else { return WaitsFor::Nothing };
        if let Some(directory) = session.directory() {
            match self.locks.taken(&directory) {
                Some(Refusal::Locked { by, reason }) => return WaitsFor::Lock { by, reason },
                Some(Refusal::InUse(session)) => return WaitsFor::Session(session),
                Some(_) | None => {}
            }
            let first = self.queue.lines.first(&directory).filter(|first| **first != ticket);
            if let Some(first) = first.and_then(|first| self.queue.waiting.get(first)) {
                return WaitsFor::Line(*first);
            }
        }
        match self.no_place(&session.spec.adapter) {
            Some(Refusal::TooManyOf { most, .. }) => WaitsFor::PlaceOfAdapter(most),
            Some(_) => WaitsFor::Place(self.settings.max_sessions),
            None => WaitsFor::Nothing,
        }
    }

    /// Sessions that wait for their turn.
    pub fn queued(&self) -> usize {
        self.queue.waiting.len()
    }

    /// Whether the launch of a run is to happen although its last record cannot be made durable at present: it waited, its
    /// client has been told, and nobody is there who could be refused.
    pub fn is_promised(&self, run: RunId) -> bool {
        let session = self.sessions.get(&run.session).filter(|session| session.run_id() == run);
        session
            .is_some_and(|session| matches!(session.run.turn, Turn::Came(ticket) if ticket <= self.durable))
    }
}

impl Session {
    /// Whether its current run is one whose launch nobody has seen begin, and which is not to be given up for that.
    pub fn may_begin_again(&self) -> bool {
        self.keeps_parcel() && self.run.phase() == Phase::Launching
    }
}
