//! Directory fuses: timers of directories, such as "clean this up in three days unless somebody works here again".
//!
//! A directory has one fuse at most. It fires once, with its event, its deliveries and the start of its script in one
//! commit, or it is cancelled: by request, by another fuse of its directory, or by a session that starts there.
//! Refuses to touch a session: a fuse is no deadline of one, and ends none. (`fuse.rs` is another thing: what is known
//! of a run.)
//!
//! A fuse is an appointment, so the wall clock decides, over reboots too; the monotonic timer is only how to wait for
//! it. Where the clocks have moved against each other (the host slept, or somebody set the time), the wait is worked
//! out anew at the next event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::deliveries::News;
use super::record::{EventKind, Record};
use super::refusal::Refusal;
use super::session::{HiddenText, Notify, Session, Spec};
use super::supervisor::Supervisor;
use super::timers::Timer;
use super::vocab::{Now, RunId, SessionId, Wall};
use super::{Reply, ReplyTo, Step};

/// A script may take so long.
pub const SCRIPT_TIMEOUT: Duration = Duration::from_secs(120);
/// And has so long between TERM and KILL.
const SCRIPT_GRACE: Duration = Duration::from_secs(5);
/// Fuses that burn at once.
pub const BURNING_MAX: usize = 1_000;
/// Fuses that are over and shown; the oldest are forgotten first.
pub const OVER_MAX: usize = 100;
/// The clocks may move against each other by so much before waits are worked out anew, microseconds.
const DRIFT_MAX_US: u64 = 1_000_000;

/// The id of a fuse: random, made by whoever asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FuseId(pub Uuid);

impl FuseId {
    /// The hidden session that its script is: a function of the fuse, so there can be no second one.
    pub fn script(self) -> SessionId {
        SessionId(Uuid::new_v5(&self.0, b"fuse.script"))
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FuseSpec {
    pub id: FuseId,
    /// Real path, where there was a directory.
    pub directory: String,
    /// From now, when it is set; also what it is extended by where nothing else is said.
    pub ttl: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Who set it, by his own word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setter: Option<String>,
    #[serde(default, skip_serializing_if = "OnExpire::is_empty")]
    pub on_expire: OnExpire,
}

/// What is done beside the event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OnExpire {
    /// Text for `/bin/sh -c`, run in the directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// A URL that is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Notify>,
    /// A name for the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
}

impl OnExpire {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a fuse will not fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelCause {
    /// Somebody asked.
    Asked,
    /// Its directory was given another fuse.
    Replaced,
    /// A session started in its directory.
    Used { session: SessionId },
}

impl CancelCause {
    /// The public word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Replaced => "replaced",
            Self::Used { .. } => "session_started",
        }
    }
}

/// How a fuse is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FuseEnd {
    Fired,
    Cancelled(CancelCause),
}

/// What is recorded of a fuse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "what")]
pub enum FuseRecord {
    /// It burns.
    Set { fuse: Box<FuseSpec>, at: Wall, expires: Wall },
    /// It burns for longer, or for less.
    Extended { fuse: FuseId, at: Wall, ttl: Duration, expires: Wall },
    /// It expired. Its event and what follows from it are in the records beside this one.
    Fired { fuse: FuseId, at: Wall },
    /// It will not fire.
    Cancelled { fuse: FuseId, at: Wall, why: CancelCause },
    /// It was over and is not shown any more.
    Forgotten { fuse: FuseId },
}

impl FuseRecord {
    /// Whose record it is.
    pub fn fuse(&self) -> FuseId {
        match self {
            Self::Set { fuse, .. } => fuse.id,
            Self::Extended { fuse, .. }
            | Self::Fired { fuse, .. }
            | Self::Cancelled { fuse, .. }
            | Self::Forgotten { fuse } => *fuse,
        }
    }
}

/// What may be asked about the fuse of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FuseRequest {
    /// Set one; it takes the place of another.
    Set(Box<FuseSpec>),
    /// Let it expire so long from now; `None`: as long as when it was set.
    Extend {
        directory: String,
        ttl: Option<Duration>,
    },
    Cancel {
        directory: String,
    },
}

/// A fuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirFuse {
    pub spec: FuseSpec,
    pub set: Wall,
    pub expires: Wall,
    /// When and how it was over.
    pub end: Option<(Wall, FuseEnd)>,
}

/// All fuses: those that burn, and some that are over.
#[derive(Clone, Debug, Default)]
pub struct DirFuses {
    all: BTreeMap<FuseId, DirFuse>,
    burning: BTreeMap<String, FuseId>,
    over: BTreeSet<(Wall, FuseId)>,
    /// How far the wall clock was ahead of the monotonic one when the waits were worked out, microseconds.
    ahead: i64,
}

impl DirFuses {
    /// A fuse, burning or over.
    pub fn get(&self, id: FuseId) -> Option<&DirFuse> {
        self.all.get(&id)
    }

    /// Those that burn, by directory.
    pub fn burning(&self) -> impl Iterator<Item = &DirFuse> {
        self.burning.values().filter_map(|id| self.all.get(id))
    }

    /// Those that are over and still shown, oldest first.
    pub fn over(&self) -> impl Iterator<Item = &DirFuse> {
        self.over.iter().filter_map(|(_, id)| self.all.get(id))
    }

    /// How many burn.
    pub fn count(&self) -> usize {
        self.burning.len()
    }

    /// The URL behind an endpoint that fuses name. Its name is a function of it, so any of them will do.
    pub fn webhook(&self, endpoint: &str) -> Option<&HiddenText> {
        let named = self.all.values().filter_map(|fuse| fuse.spec.on_expire.webhook.as_ref());
        named.filter(|named| named.endpoint == endpoint).find_map(|named| named.url.as_ref())
    }

    fn end(&mut self, id: FuseId, at: Wall, end: FuseEnd) {
        let Some(fuse) = self.all.get_mut(&id) else { return };
        fuse.end = Some((at, end));
        self.over.insert((at, id));
        if self.burning.get(&fuse.spec.directory) == Some(&id) {
            self.burning.remove(&fuse.spec.directory);
        }
    }
}

/// How far the wall clock is ahead of the monotonic one, microseconds.
fn ahead(now: Now) -> i64 {
    now.wall.0.saturating_sub(i64::try_from(now.mono.0 / 1_000).unwrap_or(i64::MAX))
}

impl Supervisor {
    /// All fuses.
    pub fn dir_fuses(&self) -> &DirFuses {
        &self.dir_fuses
    }

    pub(super) fn fuse_request(&mut self, now: Now, to: ReplyTo, request: FuseRequest, out: &mut Step) {
        let answered = match request {
            FuseRequest::Set(spec) => self.set_fuse(now, spec, out),
            FuseRequest::Extend { directory, ttl } => self.extend_fuse(now, &directory, ttl, out),
            FuseRequest::Cancel { directory } => match self.dir_fuses.burning.get(&directory).copied() {
                Some(id) => {
                    self.cancel_fuse(now, id, CancelCause::Asked, out);
                    Ok(id)
                }
                None => Err(Refusal::NoFuse(directory)),
            },
        };
        match answered {
            Ok(id) => {
                out.reply(to, Reply::Fuse(id));
                self.forget_fuses(now, out);
            }
            Err(refusal) => out.reply(to, Reply::Refused(refusal)),
        }
    }

    fn set_fuse(&mut self, now: Now, fuse: Box<FuseSpec>, out: &mut Step) -> Result<FuseId, Refusal> {
        // One that is due by now fires first: nothing is set while that is still looked into.
        if !self.recovered {
            return Err(Refusal::Recovering);
        }
        let before = self.dir_fuses.burning.get(&fuse.directory).copied();
        if before.is_none() && self.dir_fuses.count() >= BURNING_MAX {
            return Err(Refusal::TooManyFuses(BURNING_MAX));
        }
        if let Some(before) = before {
            self.cancel_fuse(now, before, CancelCause::Replaced, out);
        }
        let (id, expires) = (fuse.id, now.wall.after(fuse.ttl));
        self.record(now, Record::Fuse(FuseRecord::Set { fuse, at: now.wall, expires }), out);
        Ok(id)
    }

    fn extend_fuse(
        &mut self,
        now: Now,
        directory: &str,
        ttl: Option<Duration>,
        out: &mut Step,
    ) -> Result<FuseId, Refusal> {
        let id = self.dir_fuses.burning.get(directory).copied();
        let fuse = id.and_then(|id| self.dir_fuses.get(id));
        let fuse = fuse.ok_or_else(|| Refusal::NoFuse(directory.to_owned()))?;
        let (id, ttl) = (fuse.spec.id, ttl.unwrap_or(fuse.spec.ttl));
        let expires = now.wall.after(ttl);
        self.record(now, Record::Fuse(FuseRecord::Extended { fuse: id, at: now.wall, ttl, expires }), out);
        Ok(id)
    }

    fn cancel_fuse(&mut self, now: Now, id: FuseId, why: CancelCause, out: &mut Step) {
        self.record(now, Record::Fuse(FuseRecord::Cancelled { fuse: id, at: now.wall, why }), out);
        self.publish_news(now, News::of_fuse(EventKind::FuseCancelled, id), out);
    }

    /// A session has started: its directory is used again.
    pub(super) fn directory_used(&mut self, now: Now, run: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get(&run.session).filter(|session| !session.is_hidden()) else {
            return;
        };
        if let Some(id) = self.dir_fuses.burning.get(&session.spec.cwd).copied() {
            self.cancel_fuse(now, id, CancelCause::Used { session: run.session }, out);
            self.forget_fuses(now, out);
        }
    }

    /// The wait for a fuse is over.
    pub(super) fn fuse_due(&mut self, now: Now, id: FuseId, out: &mut Step) {
        let Some(fuse) = self.dir_fuses.get(id).filter(|fuse| fuse.end.is_none()) else { return };
        if fuse.expires > now.wall {
            self.await_fuse(id, now);
            return;
        }
        let script = fuse.spec.on_expire.script.as_deref().map(|script| script_spec(&fuse.spec, script));
        self.record(now, Record::Fuse(FuseRecord::Fired { fuse: id, at: now.wall }), out);
        self.publish_news(now, News::of_fuse(EventKind::FuseExpired, id), out);
        if let Some(spec) = script.filter(|_| !self.sessions.contains_key(&id.script())) {
            self.start_hidden(now, id.script(), spec, SCRIPT_TIMEOUT, out);
        }
        self.forget_fuses(now, out);
    }

    /// Arms the timer of a fuse that burns.
    fn await_fuse(&mut self, id: FuseId, now: Now) {
        let Some(fuse) = self.dir_fuses.get(id).filter(|fuse| fuse.end.is_none()) else { return };
        let left = fuse.expires.since(now.wall);
        self.timers.set(Timer::DirFuse(id), now.mono.after(left));
    }

    /// Works the waits out anew where the clocks have moved against each other.
    pub(super) fn compare_clocks(&mut self, now: Now) {
        let ahead = ahead(now);
        if self.dir_fuses.burning.is_empty() || ahead.abs_diff(self.dir_fuses.ahead) <= DRIFT_MAX_US {
            return;
        }
        self.dir_fuses.ahead = ahead;
        let burning: Vec<_> = self.dir_fuses.burning.values().copied().collect();
        for id in burning {
            self.await_fuse(id, now);
        }
    }

    pub(super) fn apply_fuse(&mut self, record: &FuseRecord, now: Now) {
        let fuses = &mut self.dir_fuses;
        match record {
            FuseRecord::Set { fuse, at, expires } => {
                // A directory has one, whatever was recorded: what burns unseen could not be cancelled either.
                let before = fuses.burning.get(&fuse.directory).copied().filter(|before| *before != fuse.id);
                if let Some(before) = before {
                    fuses.end(before, *at, FuseEnd::Cancelled(CancelCause::Replaced));
                    self.timers.clear(&Timer::DirFuse(before));
                }
                if fuses.burning.is_empty() {
                    fuses.ahead = ahead(now);
                }
                let burning = DirFuse { spec: (**fuse).clone(), set: *at, expires: *expires, end: None };
                fuses.burning.insert(fuse.directory.clone(), fuse.id);
                fuses.all.insert(fuse.id, burning);
                self.await_fuse(fuse.id, now);
            }
            FuseRecord::Extended { fuse, ttl, expires, .. } => {
                if let Some(burning) = fuses.all.get_mut(fuse) {
                    (burning.spec.ttl, burning.expires) = (*ttl, *expires);
                    self.await_fuse(*fuse, now);
                }
            }
            FuseRecord::Fired { fuse, at } => {
                self.counters.fuses_expired += 1;
                fuses.end(*fuse, *at, FuseEnd::Fired);
                self.timers.clear(&Timer::DirFuse(*fuse));
            }
            FuseRecord::Cancelled { fuse, at, why } => {
                fuses.end(*fuse, *at, FuseEnd::Cancelled(*why));
                self.timers.clear(&Timer::DirFuse(*fuse));
            }
            FuseRecord::Forgotten { fuse } => {
                if let Some((at, _)) = fuses.all.remove(fuse).and_then(|fuse| fuse.end) {
                    fuses.over.remove(&(at, *fuse));
                }
            }
        }
    }

    /// Forgets fuses that were over long ago, and the oldest of too many: with their scripts, and never one whose
    /// script runs or whose URL has not been told yet. Nor one that is over since this step: who asked for its end is
    /// still to be shown it, and its event to be made.
    pub(super) fn forget_fuses(&mut self, now: Now, out: &mut Step) {
        let (excess, retention) =
            (self.dir_fuses.over.len().saturating_sub(OVER_MAX), self.settings.retention);
        let over = self.dir_fuses.over.iter().enumerate();
        let old = over.take_while(|(at, (ended, _))| {
            *ended < now.wall && (*at < excess || now.wall.since(*ended) >= retention)
        });
        let old: Vec<_> = old.map(|(_, (_, id))| *id).collect();
        for id in old {
            self.forget_fuse(now, id, out);
        }
    }

    pub(super) fn forget_fuse(&mut self, now: Now, id: FuseId, out: &mut Step) {
        if !self.is_needed(id) {
            self.record(now, Record::Fuse(FuseRecord::Forgotten { fuse: id }), out);
            self.forget(now, id.script(), out);
        }
    }

    fn is_needed(&self, id: FuseId) -> bool {
        let webhook = self.dir_fuses.get(id).and_then(|fuse| fuse.spec.on_expire.webhook.as_ref());
        let owes = webhook.is_some_and(|named| self.outbox.count(&named.endpoint).0 > 0);
        let runs = |script: &Session| !script.is_settled() || !self.may_tell(script);
        owes || self.sessions.get(&id.script()).is_some_and(runs)
    }
}

fn script_spec(fuse: &FuseSpec, script: &str) -> Spec {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Spec {
        timeout: Some(SCRIPT_TIMEOUT),
        private: true,
        fuse_of: Some(fuse.id),
        ..Spec::exec(command, fuse.directory.clone(), SCRIPT_GRACE)
    }
}
