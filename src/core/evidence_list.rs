//! The evidence list of a run: what was seen, in words for people, in the order of its arrival.
//!
//! Refuses to conclude anything from it; that is the fuse's business.

use super::fuse::{Evidence, ExitHow, Prong, Taken};
use super::import::exit_file_says;
use super::session::{EvidenceEntry, LeftoverCount, Run};
use super::vocab::Wall;

/// Appends to the evidence list what people should read there.
pub(super) fn note(run: &mut Run, evidence: &Evidence, taken: &Taken, at: Wall) {
    if let Evidence::ExitFile(report, _) = evidence
        && matches!(taken, Taken::New | Taken::Known)
    {
        run.usage.get_or_insert(report.usage);
        if let Some(count) = report.leftovers {
            run.leftovers = LeftoverCount::Known(count);
        }
    }
    match evidence {
        Evidence::CannotTell(why) | Evidence::TreeUnknown(why) => run.unverified = Some(why.clone()),
        Evidence::TreeGone(Some(usage)) => run.usage = Some(usage.after(run.usage)),
        Evidence::TreeLeft(count) => run.leftovers = LeftoverCount::Known(*count),
        Evidence::Withdrawn
        | Evidence::LaunchFailed(_)
        | Evidence::Started(_)
        | Evidence::LeaderEnded
        | Evidence::LeaderGone
        | Evidence::ExitFile(..)
        | Evidence::KernelStatus(..)
        | Evidence::OomKilled
        | Evidence::ShimGone
        | Evidence::Rescanned
        | Evidence::TreeGone(None)
        | Evidence::Report(_)
        | Evidence::Rebooted => {}
    }
    let Some((prong, mut detail)) = describe(evidence) else { return };
    match taken {
        // A second witness of what is known is heard once, too: which of them comes first is chance.
        Taken::Known if run.evidence.iter().any(|entry| entry.prong == prong) => return,
        Taken::New | Taken::Known => {}
        Taken::Rejected(why) => detail = format!("rejected: {why} ({detail})"),
        Taken::Disagrees => detail = format!("disagrees with what is known: {detail}"),
    }
    run.evidence.push(EvidenceEntry { prong, at, detail });
    if matches!(evidence, Evidence::ExitFile(report, _) if report.by_deadline && *taken == Taken::New) {
        let detail = "the shim's own timer found it over".to_owned();
        run.evidence.push(EvidenceEntry { prong: Prong::Deadline, at, detail });
    }
}

fn describe(evidence: &Evidence) -> Option<(Prong, String)> {
    match evidence {
        Evidence::LeaderEnded => Some((Prong::Pidfd, "the leader's pidfd is readable".into())),
        Evidence::LeaderGone => Some((Prong::Pidfd, "the leader's handle names no process any more".into())),
        Evidence::ExitFile(report, _) => {
            let what = match &report.how {
                ExitHow::Status(status) => format!("wait status {:#06x}", status.0),
                ExitHow::NotLaunched(error) => error.message(),
            };
            let by = if report.by_deadline { ", ended by the shim's own timer" } else { "" };
            let killed = match report.usage.group.and_then(|group| group.oom_kills) {
                None | Some(0) => String::new(),
                Some(1) => ", the kernel killed one process for want of memory".to_owned(),
                Some(count) => format!(", the kernel killed {count} processes for want of memory"),
            };
            Some((Prong::ExitFile, format!("{what}{by}{killed}")))
        }
        Evidence::KernelStatus(Some(status), Prong::ExitFile) => {
            Some((Prong::ExitFile, exit_file_says(status.code().unwrap_or_default())))
        }
        Evidence::KernelStatus(Some(status), via) => Some((*via, format!("wait status {:#06x}", status.0))),
        Evidence::KernelStatus(None, via) => Some((*via, "the kernel does not say".into())),
        Evidence::TreeGone(_) => Some((Prong::TreeGone, "nothing of the tree is left".into())),
        Evidence::Rebooted => Some((Prong::Reboot, "the host booted since".into())),
        Evidence::Withdrawn
        | Evidence::LaunchFailed(_)
        | Evidence::Started(_)
        | Evidence::OomKilled
        | Evidence::ShimGone
        | Evidence::Rescanned
        | Evidence::TreeLeft(_)
        | Evidence::TreeUnknown(_)
        | Evidence::Report(_)
        | Evidence::CannotTell(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fuse::{ExitReport, LeaderSeen};
    use super::super::vocab::{HostId, Mono, Now, ProcessId, Usage, WaitStatus};
    use super::*;

    const NOW: Now = Now { wall: Wall(5), mono: Mono(5) };

    fn prongs_after(witnesses: &[Evidence]) -> Vec<Prong> {
        let host = HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 };
        // An agent's: its end is known before its report is.
        let mut run = Run::new(1, NOW, host.into(), true);
        for evidence in witnesses {
            let taken = run.fuse.take(evidence, NOW);
            note(&mut run, evidence, &taken, NOW.wall);
        }
        run.evidence.iter().map(|entry| entry.prong).collect()
    }

    #[test]
    fn both_witnesses_of_an_end_are_listed_once_whoever_comes_first() {
        let leader = ProcessId { pid: 7, handle: None, start_ticks: 1 };
        let exit_file = Evidence::ExitFile(
            ExitReport {
                leader: Some(leader),
                how: ExitHow::Status(WaitStatus::exited(0)),
                ended: NOW,
                boot: "b".into(),
                usage: Usage::default(),
                by_deadline: false,
                leftovers: None,
            },
            LeaderSeen::Reaped,
        );
        let (started, ended) = (Evidence::Started(leader), Evidence::LeaderEnded);
        let one_way = [started.clone(), ended.clone(), exit_file.clone(), ended.clone()];
        assert_eq!(prongs_after(&one_way), [Prong::Pidfd, Prong::ExitFile]);
        let other_way = [started, exit_file.clone(), ended, exit_file];
        assert_eq!(prongs_after(&other_way), [Prong::ExitFile, Prong::Pidfd]);
    }
}
