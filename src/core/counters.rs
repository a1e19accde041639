//! Plain numbers about what the core did; rendered elsewhere.

use std::time::Duration;

use super::fuse::{Outcome, Reason};
use super::session::Verdict;

/// Upper bounds of the duration histogram, seconds: those that existing dashboards know.
pub const DURATION_BOUNDS_S: [f64; 6] = [60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0];

/// Upper bounds of the histogram of peak memory, bytes: from a shell to what a host has.
pub const MEMORY_BOUNDS_BYTES: [u64; 6] = [64 << 20, 256 << 20, 1 << 30, 4 << 30, 16 << 30, 64 << 30];

/// Counters since the daemon's start.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counters {
    pub launches: u64,
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub timed_out: u64,
    pub launch_failed: u64,
    pub lost: u64,
    /// Runs whose leader the kernel killed for want of memory.
    pub oom_killed: u64,
    /// Processes of ended runs that the kernel killed for want of memory, as far as their cgroups tell.
    pub oom_kills: u64,
    /// The most memory that each ended run had at a time, in the buckets above and one for the rest; of those whose cgroup
    /// tells.
    pub memory_peaks: [u64; 7],
    pub memory_peak_sum_bytes: u64,
    /// CPU time of ended runs at their verdict, as far as known.
    pub cpu_us: u64,
    /// Spells in which an agent lived on after its work.
    pub lingering: u64,
    /// Spells in which a run showed no sign of life.
    pub stuck: u64,
    /// Durations of ended runs, in the buckets above and one for the rest.
    pub durations: [u64; 7],
    pub duration_sum_s: f64,
    /// Directory fuses that fired.
    pub fuses_expired: u64,
    pub deliveries: u64,
    pub attempts: u64,
    pub attempts_failed: u64,
    pub deliveries_dead: u64,
    /// Exit files that the kernel or the record contradicted.
    pub exit_files_rejected: u64,
    /// Times that the journal could not be written, tries anew included.
    pub journal_failures: u64,
    /// Evidence that disagreed with a status already known: a bug of ours or of the host's.
    pub disagreements: u64,
}

impl Counters {
    /// Counts an ended run.
    pub fn ended(&mut self, verdict: &Verdict, lasted: Duration) {
        self.oom_killed += u64::from(verdict.reason == Reason::OomKilled);
        self.cpu_us = self.cpu_us.saturating_add(verdict.usage.map_or(0, |usage| usage.cpu_time_us()));
        let group = verdict.usage.and_then(|usage| usage.group).unwrap_or_default();
        self.oom_kills = self.oom_kills.saturating_add(group.oom_kills.unwrap_or(0));
        if let Some(peak) = group.memory_peak_bytes {
            let bucket = MEMORY_BOUNDS_BYTES.iter().position(|bound| peak <= *bound);
            self.memory_peaks[bucket.unwrap_or(MEMORY_BOUNDS_BYTES.len())] += 1;
            self.memory_peak_sum_bytes = self.memory_peak_sum_bytes.saturating_add(peak);
        }
        let counter = match verdict.outcome {
            Outcome::Completed => &mut self.completed,
            Outcome::Failed => &mut self.failed,
            Outcome::Cancelled => &mut self.cancelled,
            Outcome::TimedOut => &mut self.timed_out,
            Outcome::LaunchFailed => &mut self.launch_failed,
            Outcome::Lost => &mut self.lost,
        };
        *counter += 1;
        let seconds = lasted.as_secs_f64();
        let bucket = DURATION_BOUNDS_S.iter().position(|bound| seconds <= *bound);
        self.durations[bucket.unwrap_or(DURATION_BOUNDS_S.len())] += 1;
        self.duration_sum_s += seconds;
    }
}

#[cfg(test)]
mod tests {
    use super::super::vocab::{GroupUsage, Mono, Now, Usage, Wall};
    use super::*;

    #[test]
    fn memory_is_counted_of_those_whose_cgroup_tells() {
        let mut counters = Counters::default();
        for (memory_peak_bytes, oom_kills) in
            [(Some(64 << 20), None), (Some((64 << 20) + 1), Some(2)), (Some(u64::MAX), Some(0)), (None, None)]
        {
            let group = Some(GroupUsage { memory_peak_bytes, oom_kills, ..GroupUsage::default() });
            let verdict = Verdict {
                outcome: Outcome::Completed,
                reason: Reason::ExitCode(0),
                status: None,
                ended: None,
                decided: Now { wall: Wall(0), mono: Mono(0) },
                evidence: Vec::new(),
                usage: Some(Usage { group, ..Usage::default() }),
                message: None,
                tokens: None,
                cost_usd: None,
            };
            counters.ended(&verdict, Duration::ZERO);
        }
        assert_eq!((counters.memory_peaks, counters.oom_kills), ([1, 1, 0, 0, 0, 0, 1], 2));
    }
}
