//! Every reason to say no, as data. A refusal is a correct answer, not an error.

use thiserror::Error;

use super::vocab::SessionId;

/// Why a request is not carried out. Messages name the object and the next step.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("Session not found: {0}")]
    NotFound(String),
    #[error("{prefix} is ambiguous; it could be: {}", candidates.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Ambiguous { prefix: String, candidates: Vec<SessionId> },
    #[error(
        "the journal cannot be written ({0}): no session is launched that could be lost; free the disk, then try again"
    )]
    JournalFailing(String),
    #[error("this idempotency key was used for another request; use a new key")]
    KeyReused,
    #[error("session {0} has ended; there is nothing to extend")]
    AlreadyEnded(SessionId),
    #[error("session {0} has not started yet; try again in a moment")]
    NotStarted(SessionId),
    #[error("session {0} has ended; there is nobody to signal")]
    NobodyToSignal(SessionId),
    #[error("session {0} is still running; wait for its end, or stop it, before it is resumed")]
    StillRuns(SessionId),
    #[error("processes of the last run of session {0} are still being ended; try again in a moment")]
    StillEnding(SessionId),
    #[error("session {0} is being stopped; its deadline cannot be moved any more")]
    Stopping(SessionId),
    #[error("this process is, or was, session {0}; see: agentctl status {id}", id = .0.short())]
    Supervised(SessionId),
    #[error("the daemon still reads its records; try again in a moment")]
    Recovering,
    #[error(
        "the daemon already supervises {0} sessions, its limit; stop one first, wait with --queue, or raise max_sessions"
    )]
    TooMany(usize),
    #[error("Directory in use by session {}. Use --force to override.", .0.short())]
    InUse(SessionId),
    /// Of sessions that are launched together.
    #[error(
        "two of these sessions would work in {0}; give each a directory of its own, or use --queue or --force"
    )]
    Shared(String),
    #[error("Directory awaited by session {}, which is queued. Use --queue to wait behind it, or --force to override.", .0.short())]
    Awaited(SessionId),
    #[error(
        "the daemon already supervises {most} sessions of {adapter}, their limit; stop one first, wait with --queue, or raise adapter_max_sessions"
    )]
    TooManyOf { adapter: String, most: usize },
    #[error("{0} launches are queued already, the most that are; try again when some have begun")]
    QueueFull(usize),
    #[error("session {id} is queued; its time counts from its start, so extend it then", id = .0.short())]
    StillQueued(SessionId),
    #[error("Directory locked by {}. Use --force to override.", with_reason(by, reason.as_deref()))]
    Locked { by: String, reason: Option<String> },
    #[error("Already manually locked by {}", with_reason(by, reason.as_deref()))]
    AlreadyLocked { by: String, reason: Option<String> },
    #[error("No manual lock on {0}; agentctl locks lists all")]
    NotLocked(String),
    #[error("there are {0} locks by hand already, the most that are kept; release some first")]
    TooManyLocks(usize),
    #[error(
        "{asked} more sessions are more than the daemon may supervise ({live} run, {max} is its limit), so none was launched; stop some first, or raise max_sessions"
    )]
    NoRoom { asked: usize, live: usize, max: usize },
    #[error("no endpoint is named {0}; agentctl webhooks endpoints lists them")]
    NoEndpoint(String),
    #[error("No active fuse for directory: {0}")]
    NoFuse(String),
    #[error("{0} fuses burn already, the limit; cancel some first (agentctl fuses lists them)")]
    TooManyFuses(usize),
    #[error("the configuration pauses the endpoint {0}; set paused to false there, and restart the daemon")]
    PausedByConfiguration(String),
}

fn with_reason(by: &str, reason: Option<&str>) -> String {
    reason.map_or_else(|| by.to_owned(), |reason| format!("{by}: {reason}"))
}
