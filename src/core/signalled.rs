//! Whether a session may be sent a signal that somebody asks for. No stop: what follows is the session's own doing.

use super::refusal::Refusal;
use super::session::Phase;
use super::supervisor::Supervisor;
use super::vocab::{RunId, SessionId};

impl Supervisor {
    /// The run whose leader, or with `tree` all of whose processes, may be signalled.
    pub fn may_signal(&self, id: SessionId, tree: bool) -> Result<RunId, Refusal> {
        let session = self.session(id).ok_or_else(|| Refusal::NotFound(id.to_string()))?;
        match session.run.phase() {
            Phase::Queued | Phase::Launching => Err(Refusal::NotStarted(id)),
            // A leader that is known to have ended may have left others.
            Phase::Running | Phase::Stopping if tree || session.run.fuse.ended.is_none() => {
                Ok(session.run_id())
            }
            Phase::Ending | Phase::Ended if tree && !session.run.tree_settled => Ok(session.run_id()),
            Phase::Running | Phase::Stopping | Phase::Ending | Phase::Ended => {
                Err(Refusal::NobodyToSignal(id))
            }
        }
    }
}
