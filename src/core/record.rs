//! Durable facts, in the past tense. State changes through them alone, live and on replay.
//!
//! The one place where core meets serde: a record is what the journal keeps, and a mirror of these
//! types elsewhere would double them without protecting anything that golden files do not. Every shape
//! in here is for ever: fields are added with a default, never renamed, and variants stay.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::agent::{Spent, Stored};
use super::dir_fuses::{FuseId, FuseRecord};
use super::fuse::{Outcome, Prong, StopCause};
use super::hooks::HookKind;
use super::locks::{Claim, ManualLock};
use super::session::{Deadline, EvidenceEntry, LeftoverCount, Origin, Spec, Verdict};
use super::vocab::{HostId, Now, ProcessId, RunId, SessionId, Usage, WaitStatus, Wall};

/// Something that happened and stays so.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "t")]
pub enum Record {
    /// A session was asked for; its first run is about to be launched.
    Created {
        session: SessionId,
        at: Now,
        host: HostId,
        origin: Origin,
        spec: Box<Spec>,
        deadline: Option<Deadline>,
        /// The client's idempotency key, with the digest of what it asked.
        request: Option<RequestKey>,
        /// The run that is about to be launched: the first, save in a session that is rebuilt.
        #[serde(default = "first_run")]
        run: u32,
        /// What runs before it used.
        #[serde(default)]
        spent: Spent,
        /// What was said of the directories around its own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
        /// It waits for its turn, and nothing was begun.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        queued: bool,
    },
    /// An ended session was taken up again; this run of it is about to be launched.
    Resumed {
        run: RunId,
        at: Now,
        host: HostId,
        /// As in [`Spec`], of the new run.
        prompt: Option<String>,
        timeout: Option<Duration>,
        deadline: Option<Deadline>,
        request: Option<RequestKey>,
        /// What its conversation had used by then.
        #[serde(default, skip_serializing_if = "Stored::is_nothing")]
        stored: Stored,
        /// As in [`Spec`], of the new run.
        #[serde(default, skip_serializing_if = "Claim::is_plain")]
        claim: Claim,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        queued: bool,
    },
    /// The turn of a queued run has come: it is about to be launched, here and now.
    Dequeued { run: RunId, at: Now, host: HostId, deadline: Option<Deadline> },
    /// The leader runs.
    Started { run: RunId, leader: ProcessId, at: Now },
    /// The master timeout was moved or removed.
    DeadlineSet { run: RunId, deadline: Option<Deadline> },
    /// The run is to be ended. Only the first one of a run is recorded.
    StopRequested { run: RunId, cause: StopCause, at: Now },
    /// A status that nothing but this record could bring back after a crash.
    StatusLearned { run: RunId, status: WaitStatus, via: Prong, at: Now },
    /// The agent's own id of the conversation.
    NativeId { session: SessionId, id: String },
    /// The verdict: exactly one per run.
    Ended { run: RunId, verdict: Box<Verdict> },
    /// Evidence that came after the verdict and changes nothing.
    LateEvidence { run: RunId, entry: EvidenceEntry },
    /// Nothing of the tree is left, or nobody can tell any more.
    TreeSettled { run: RunId, leftovers: LeftoverCount, usage: Option<Usage>, at: Now },
    /// An event of the public stream. Its body is rendered when it is committed.
    Event {
        seq: u64,
        kind: EventKind,
        run: Option<RunId>,
        at: Wall,
        fires_at: Option<Wall>,
        /// The endpoint that it is about, if it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        endpoint: Option<String>,
        /// The directory fuse that it is about, if it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fuse: Option<FuseId>,
        /// The lock by hand that it is about, if it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lock: Option<Box<ManualLock>>,
    },
    /// An endpoint is to hear of an event; `run` is none where the event is about no session.
    DeliveryQueued { id: DeliveryId, run: Option<RunId>, kind: EventKind, at: Wall },
    /// An attempt was made. For people: what follows from it is in the records after it.
    Attempted { id: DeliveryId, at: Wall, took_ms: u64, status: Option<u16>, error: Option<String> },
    /// An attempt failed; the next one is due `retry_in_ms` after `at`.
    AttemptFailed { id: DeliveryId, attempt: u32, at: Wall, retry_in_ms: u64, held: bool, error: String },
    /// Nothing more will be sent.
    DeliveryOver { id: DeliveryId, at: Wall, how: DeliveryEnd },
    /// A hook of a run has ended; its start is the creation of the hidden session that it is.
    HookEnded { run: RunId, hook: HookKind, verdict: Box<Verdict> },
    /// A delivery that was over is owed again, from its first attempt on; `at` is when it was first queued.
    DeliveryRevived { id: DeliveryId, run: Option<RunId>, kind: EventKind, at: Wall },
    /// Of a directory fuse.
    Fuse(FuseRecord),
    /// How an endpoint does, from now on.
    EndpointHealth { endpoint: String, health: Health },
    /// The journal had lost the session, or its end, and it was rebuilt from its files; what is not known any more.
    Rebuilt { session: SessionId, at: Wall, note: String },
    /// A file of the earlier agentctl was taken over, and is not looked at again.
    Imported { at: Wall, file: String, taken: u32, left_out: u32 },
    /// The session was forgotten: by retention, or by request.
    Pruned { session: SessionId },
    /// Somebody locked a directory by hand.
    Locked { lock: ManualLock },
    /// And released it.
    Unlocked { directory: String, at: Wall },
}

fn first_run() -> u32 {
    1
}

/// A client's key for a request that may be repeated. Shared by the session and the index of all keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestKey {
    pub key: Arc<str>,
    /// Digest of the request body: another body under the same key is refused.
    pub digest: Arc<str>,
}

/// One event to one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DeliveryId {
    pub seq: u64,
    pub endpoint: String,
}

impl DeliveryId {
    /// What separates the parts of the name of an endpoint that only launches name; no configured one has it.
    pub const AD_HOC_MARK: char = ':';

    /// Whether it goes to a URL that a launch named, and the configuration does not know.
    pub fn is_ad_hoc(&self) -> bool {
        is_ad_hoc(&self.endpoint)
    }
}

/// Whether this is the name of a URL that a launch named, and the configuration does not know.
pub fn is_ad_hoc(endpoint: &str) -> bool {
    endpoint.contains(DeliveryId::AD_HOC_MARK)
}

/// How an endpoint does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The first attempt that failed with no success after it.
    pub failing_since: Option<Wall>,
    /// Nothing is sent.
    pub paused: Option<Pause>,
}

/// Since when an endpoint is paused, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    pub at: Wall,
    pub why: PauseReason,
}

/// Why an endpoint is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// Somebody asked for it.
    Asked,
    /// It answered 410 Gone.
    Gone,
    /// No attempt has succeeded for days.
    Failing,
}

impl PauseReason {
    /// The public word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryEnd {
    /// The receiver said 2xx.
    Delivered,
    /// Attempts are used up.
    Dead,
    /// A later event of the session overtook it.
    Superseded,
}

/// A type of the public event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Started,
    Idle,
    Active,
    Timeout,
    Stopped,
    Error,
    DeliveryDead,
    EndpointPaused,
    /// A later run of a session has started.
    Resumed,
    /// The agent's work is over by its own word, and it lives on.
    Lingering,
    /// A run shows no sign of life.
    Stuck,
    /// A directory fuse has fired.
    FuseExpired,
    /// A directory fuse will not fire.
    FuseCancelled,
    /// A launch waits for its turn.
    Queued,
    /// A directory was locked by hand.
    LockAcquired,
    LockReleased,
}

impl EventKind {
    /// Every type that there is.
    pub const ALL: [Self; 16] = [
        Self::Queued,
        Self::Started,
        Self::Resumed,
        Self::Idle,
        Self::Active,
        Self::Stuck,
        Self::Lingering,
        Self::Timeout,
        Self::Stopped,
        Self::Error,
        Self::DeliveryDead,
        Self::EndpointPaused,
        Self::FuseExpired,
        Self::FuseCancelled,
        Self::LockAcquired,
        Self::LockReleased,
    ];

    /// The public name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "session.queued",
            Self::Started => "session.started",
            Self::Idle => "session.idle",
            Self::Active => "session.active",
            Self::Stuck => "session.stuck",
            Self::Lingering => "session.lingering",
            Self::Timeout => "session.timeout",
            Self::Stopped => "session.stopped",
            Self::Error => "session.error",
            Self::DeliveryDead => "delivery.dead",
            Self::Resumed => "session.resumed",
            Self::EndpointPaused => "endpoint.paused",
            Self::FuseExpired => "fuse.expired",
            Self::FuseCancelled => "fuse.cancelled",
            Self::LockAcquired => "lock.acquired",
            Self::LockReleased => "lock.released",
        }
    }

    /// Whether it tells of a mood or a trouble, which is found again after a restart: worth no commit of its own.
    pub fn is_soft(self) -> bool {
        matches!(self, Self::Idle | Self::Active | Self::Stuck | Self::Lingering)
    }

    /// Whether it says that a run is over.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Stopped | Self::Error)
    }

    /// Whether it is about deliveries, and not about a session's life.
    pub fn is_about_deliveries(self) -> bool {
        matches!(self, Self::DeliveryDead | Self::EndpointPaused)
    }

    /// The event of a run's start.
    pub fn start_of(run: RunId) -> Self {
        if run.run > 1 { Self::Resumed } else { Self::Started }
    }

    /// The terminal event of a run with this outcome.
    pub fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Completed | Outcome::Cancelled | Outcome::Lost => Self::Stopped,
            Outcome::Failed | Outcome::TimedOut | Outcome::LaunchFailed => Self::Error,
        }
    }
}
