//! What the traces of an unfinished run mean when a new life of the daemon finds them.
//!
//! The edge gathers [`Found`], in the order of its fields, since the order is part of the proof: the
//! shim's lock is tried before exits/ is read, so a free lock and no exit file mean that none will come.
//! This is the only recovery path; the simulator takes it as well.

use super::fuse::{Evidence, ExitHow, ExitReport, LeaderSeen};
use super::vocab::{ProcessId, Usage};

/// What was found of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The run belongs to an earlier boot of this host: none of its processes can live.
    pub rebooted: bool,
    /// The lock of the shim.
    pub shim: ShimFound,
    /// The launch order.
    pub order: OrderFound,
    /// It waited for its turn, and what its launch takes is kept: it can be begun again.
    pub kept: bool,
    /// Who the leader is, by the file that it wrote before it became the agent.
    pub leader: Option<ProcessId>,
    /// What the kernel shows of that process.
    pub seen: Seen,
    /// The exit file.
    pub exit: Option<ExitReport>,
    /// The shim's last word: nothing of the tree is left.
    pub tree: Option<Usage>,
}

/// The shim's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShimFound {
    /// Held: the shim lives.
    Lives,
    /// Free, or there never was a shim.
    Gone,
    /// It could not be tried.
    Unknown,
}

/// The launch order on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OrderFound {
    /// No shim claimed it, and none can any more: it was just taken back, or never written.
    Withdrawn,
    /// A shim claimed it.
    Claimed,
    /// It could not be seen.
    Unknown,
}

/// The leader, by its handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    Alive,
    /// A zombie: ended, not reaped.
    Ended,
    /// The handle names no process any more.
    Gone,
    /// The kernel could not be asked.
    Unknown(String),
    /// Nobody knows who the leader is, so there was nothing to ask.
    NotAsked,
}

impl Found {
    /// The evidence that it comes to, in an order that never lets absence be mistaken for an end.
    pub fn evidence(&self) -> Vec<Evidence> {
        if self.begins_again() {
            return vec![Evidence::Withdrawn];
        }
        let mut evidence = Vec::new();
        let never_ran = self.exit.as_ref().is_some_and(|exit| matches!(exit.how, ExitHow::NotLaunched(_)));
        if let Some(leader) = self.leader.filter(|_| !never_ran) {
            evidence.push(Evidence::Started(leader));
        }
        if let Some(exit) = &self.exit {
            evidence.push(Evidence::ExitFile(exit.clone(), self.leader_seen()));
        }
        if self.rebooted {
            evidence.extend(self.after_reboot());
            return evidence;
        }
        match &self.seen {
            Seen::Ended => evidence.push(Evidence::LeaderEnded),
            Seen::Gone => evidence.push(Evidence::LeaderGone),
            Seen::Unknown(why) => evidence.push(Evidence::CannotTell(why.clone())),
            Seen::Alive | Seen::NotAsked => {}
        }
        if self.order == OrderFound::Withdrawn && self.leader.is_none() && self.exit.is_none() {
            evidence.push(Evidence::Withdrawn);
        }
        if let Some(usage) = self.tree {
            evidence.push(Evidence::TreeGone(Some(usage)));
        }
        match self.shim {
            ShimFound::Gone => evidence.push(Evidence::ShimGone),
            ShimFound::Unknown => {
                evidence.push(Evidence::CannotTell("the lock of the shim could not be tried".into()));
            }
            ShimFound::Lives => {}
        }
        evidence
    }

    /// Whether it is to be begun again: no shim claimed its launch, and none can any more.
    pub fn begins_again(&self) -> bool {
        self.kept && self.order == OrderFound::Withdrawn && self.leader.is_none() && self.exit.is_none()
    }

    fn after_reboot(&self) -> [Evidence; 2] {
        let ended = if self.leader.is_some() || self.order == OrderFound::Claimed {
            Evidence::Rebooted
        } else {
            Evidence::Withdrawn
        };
        // exits/ was read above, and nobody of that boot lives who could still write into it.
        [ended, Evidence::Rescanned]
    }

    /// What an exit file has to be held against.
    pub fn leader_seen(&self) -> LeaderSeen {
        match self.seen {
            // A process of this boot cannot be the leader of an earlier one.
            _ if self.rebooted => LeaderSeen::Reaped,
            Seen::Alive => LeaderSeen::Alive,
            Seen::Ended => LeaderSeen::Zombie,
            Seen::Gone => LeaderSeen::Reaped,
            Seen::Unknown(_) | Seen::NotAsked => LeaderSeen::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::fuse::{Decision, Fuse, Prong};
    use crate::core::vocab::{Mono, Now, Wall};

    const NOW: Now = Now { wall: Wall(5_000_000), mono: Mono(5_000_000_000) };
    const LEADER: ProcessId = ProcessId { pid: 77, handle: None, start_ticks: 9 };

    fn found(shim: ShimFound, seen: Seen) -> Found {
        let leader = Some(LEADER);
        Found {
            rebooted: false,
            shim,
            order: OrderFound::Claimed,
            kept: false,
            leader,
            seen,
            exit: None,
            tree: None,
        }
    }

    /// Whether it ends the run, with all that could still be asked answered by silence.
    fn ends(found: &Found) -> bool {
        let mut fuse = Fuse::default();
        let silence = [Evidence::Rescanned, Evidence::KernelStatus(None, Prong::PidfdInfo)];
        for evidence in found.evidence().iter().chain(&silence) {
            fuse.take(evidence, NOW);
        }
        matches!(fuse.decide(), Decision::End(_))
    }

    #[test]
    fn what_could_not_be_told_is_no_end() {
        let unknown = || Seen::Unknown("the handle could not be opened".into());
        for shim in [ShimFound::Lives, ShimFound::Gone, ShimFound::Unknown] {
            for seen in [Seen::Alive, Seen::NotAsked, unknown()] {
                let found = found(shim, seen);
                assert!(!ends(&found), "{found:?} gives {:?}", found.evidence());
            }
        }
        for shim in [ShimFound::Lives, ShimFound::Unknown] {
            assert!(!ends(&found(shim, Seen::Gone)), "a shim that may live owes the status");
        }
        assert!(ends(&found(ShimFound::Gone, Seen::Gone)), "all four proofs of a lost run");
        let nobody = Found { leader: None, ..found(ShimFound::Lives, Seen::NotAsked) };
        assert!(!ends(&nobody), "a launch under way");
    }
}
