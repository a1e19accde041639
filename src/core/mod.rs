//! Every decision of the program, and nothing else: the program on one screen.
//!
//! [`Supervisor::step`] takes one [`Event`] and the time, and answers with the [`Record`]s that must be
//! durable before any of the [`Effect`]s is carried out. In here nobody reads a clock, a file, the
//! environment or the network, and nobody rolls dice; so a day of a thousand sessions with a crash
//! between any two effects is an ordinary test (`sim.rs`).

mod activity;
pub mod adopt;
pub mod agent;
pub mod counters;
pub mod deliveries;
pub mod dir_fuses;
pub mod directory;
mod evidence_list;
pub mod fuse;
pub mod hooks;
pub mod import;
mod launches;
pub mod locks;
pub mod outbox;
pub mod queue;
pub mod reattach;
pub mod rebuild;
pub mod record;
pub mod refusal;
pub mod resources;
pub mod retention;
pub mod session;
mod sessions;
mod signalled;
mod steps;
pub mod supervisor;
pub mod timers;
mod together;
pub mod trouble;
pub mod vocab;
pub mod worktree;

#[cfg(test)]
mod clock_tests;
#[cfg(test)]
mod delivery_tests;
#[cfg(test)]
mod dir_fuse_tests;
#[cfg(test)]
mod fuse_tests;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod trouble_tests;

use std::time::Duration;

pub use supervisor::{Settings, Supervisor};

use adopt::Adoption;
use agent::{AgentEvent, Stored};
use deliveries::Again;
use dir_fuses::{FuseId, FuseRequest};
use fuse::{Evidence, Rejection};
use locks::{Claim, LockRequest, ManualLock};
use outbox::Attempt;
use record::{DeliveryId, Record, RequestKey};
use refusal::Refusal;
use retention::Pruned;
use session::{Origin, Spec};
use trouble::Sample;
use vocab::{HostId, Mono, RunId, SessionId};

/// Everything that can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Somebody asks for something and waits for an answer.
    Request(ReplyTo, Request),
    /// The same of several things at once, all of which is recorded in one step.
    Together(Vec<(ReplyTo, Request)>),
    /// Somebody does not wait any more. What was asked for goes on.
    Abandoned(ReplyTo),
    /// Something was seen about a run.
    Evidence(RunId, Evidence),
    /// The agent of a run said something.
    Agent(RunId, AgentEvent),
    /// What a run shows of its life, as asked for.
    Sampled(RunId, Sample),
    /// An attempt at a delivery is over.
    Attempted(DeliveryId, Attempt),
    /// The timer fired, or might have.
    Timer,
    /// All records up to this number are durable.
    Durable(u64),
    /// The journal cannot be written, or can be again.
    Journal(JournalHealth),
    /// At a start, before anything else: the records of sessions that the journal did not know (rebuild.rs).
    Rebuilt(Vec<Record>),
    /// Right after it: what is taken over from the earlier tool (import.rs).
    Imported(Vec<Record>),
    /// After a start: everything that was left by an earlier life has been looked at.
    Recovered,
    /// The files of a settled session take this much space.
    Sized(SessionId, u64),
    /// The configuration was read again.
    Configured(Settings),
}

/// Everything that the core can want done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write the launch order and start the shim.
    Spawn(RunId),
    /// Write down who the leader of an adopted run is, and wait for its end.
    Hold(RunId),
    /// Ask the agent, in its protocol, to end its turn.
    CancelTurn(RunId),
    /// Send a signal to the leader, by its pidfd.
    SignalLeader(RunId, u8),
    /// Send a signal to every process of the tree; 9 also kills the cgroup.
    SignalTree(RunId, u8),
    /// Kill a shim that does not move although its leader has ended.
    KillShim(RunId),
    /// Read exits/ and the session directory again for this run; ends in `Rescanned`.
    Rescan(RunId),
    /// Ask the kernel for the leader's status, once it is reaped.
    AskKernel(RunId),
    /// Read the agent's output up to its end, and say so if its work is still over.
    ReadOn(RunId),
    /// Look for signs of life of the run: always ends in `Sampled`.
    Sample(RunId),
    /// Read the agent's report from the end of its output.
    ReadReport(RunId),
    /// See what is left of the tree, and say when nothing is.
    AskTree(RunId),
    /// Write the deadline where the shim finds it, and of a run that has no shim who its leader is.
    WriteDeadline(RunId, Option<Mono>),
    /// Put an exit file aside that does not count. One whose [`Rejection::may_pass`] stays if the leader has been reaped
    /// meanwhile: then the shim's own file may have taken its place.
    RejectExitFile(RunId, Rejection),
    /// The verdict is durable: move the exit file to the session's directory and write the verdict there.
    Archive(RunId),
    /// One attempt at a delivery.
    Deliver(DeliveryId),
    /// Throw away what the launch of a run needed.
    Discard(RunId),
    /// Delete the files of a session, whose latest run this was.
    Remove(RunId),
    /// Answer somebody.
    Reply(ReplyTo, Reply),
}

impl Effect {
    /// Whether it is carried out even when records cannot be made durable: killing on request and on
    /// the deadline must work with a full disk, and answers must say that the disk is full.
    pub fn is_exempt(&self) -> bool {
        match self {
            Self::CancelTurn(_) | Self::SignalLeader(..) | Self::SignalTree(..) | Self::KillShim(_) => true,
            // What is found out, and what would be wrong when done late.
            Self::RejectExitFile(..)
            | Self::Rescan(_)
            | Self::AskKernel(_)
            | Self::ReadReport(_)
            | Self::ReadOn(_)
            | Self::Sample(_)
            | Self::AskTree(_) => true,
            // Neither tells of an end: that nothing is begun, and that the time of an answer is over.
            Self::Reply(_, Reply::Refused(_) | Reply::NotYetStopped(_)) => true,
            Self::Spawn(_)
            | Self::Hold(_)
            | Self::WriteDeadline(..)
            | Self::Archive(_)
            | Self::Deliver(_)
            | Self::Discard(_)
            | Self::Remove(_)
            | Self::Reply(..) => false,
        }
    }
}

/// What may be asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Launch {
        session: SessionId,
        host: HostId,
        origin: Origin,
        spec: Box<Spec>,
        key: Option<RequestKey>,
    },
    /// Take an ended session up again, with another run. `prompt` and `timeout` as in [`Spec`].
    Resume {
        session: SessionId,
        host: HostId,
        prompt: Option<String>,
        timeout: Option<Duration>,
        claim: Box<Claim>,
        key: Option<RequestKey>,
        /// What the agent's store says that its conversation has used.
        stored: Box<Stored>,
    },
    /// Make a session of a process that somebody else started.
    Adopt(Box<Adoption>),
    /// End a run. `force`: KILL at once.
    Stop {
        session: SessionId,
        force: bool,
    },
    /// A new deadline, counted from now; `None` removes it.
    Extend {
        session: SessionId,
        by: Option<Duration>,
    },
    /// Answered when the current run has a durable verdict.
    Wait {
        session: SessionId,
    },
    /// About the fuse of a directory.
    Fuse(FuseRequest),
    /// Forget all ended sessions that owe nothing, or only those that ended so long ago. `dry_run`: only say which.
    Prune {
        older_than: Option<Duration>,
        dry_run: bool,
    },
    /// Send these deliveries now, also those that are over.
    Redeliver(Vec<Again>),
    /// Send nothing to an endpoint any more, or again.
    SetPaused {
        endpoint: String,
        paused: bool,
    },
    /// Set or release a lock by hand.
    Lock(LockRequest),
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The session was launched or adopted, or could not be: its record tells.
    Launched(SessionId),
    /// The run has ended.
    Ended(SessionId),
    /// The run has ended and nothing of its tree is left (or it had ended before).
    Stopped { session: SessionId, already: bool },
    /// The run could not be ended in time; the daemon goes on trying.
    NotYetStopped(SessionId),
    /// The deadline is set.
    Extended(SessionId),
    /// These sessions were forgotten, or would be.
    Pruned(Pruned),
    /// So many deliveries are on their way.
    Redelivered(usize),
    /// The fuse is as asked.
    Fuse(FuseId),
    /// The endpoint is as asked.
    Endpoint(String),
    /// The lock that was set, or released.
    Lock(Box<ManualLock>),
    /// A correct no.
    Refused(Refusal),
}

/// Where an answer goes. The edge keeps the table; the core only hands the number back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReplyTo(pub u64);

/// Whether records can be made durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JournalHealth {
    Well,
    Failing(String),
}

/// What a step came to. Records first, effects after they are durable, in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    pub records: Vec<Record>,
    pub effects: Vec<Effect>,
}
