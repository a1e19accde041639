//! What a run may use of the host, and what its cgroup says it used.
//!
//! Plain data. Refuses to know where a cgroup is and how its files are spelled. What is not told is `None`, never 0.

use serde::{Deserialize, Serialize};

/// The most that all processes of a run may use together; `None` = no limit of ours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceLimits {
    /// Memory, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<u64>,
    /// CPU time, percent of one CPU: 200 is two of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_quota_percent: Option<u32>,
    /// Processes and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks_max: Option<u64>,
}

/// What of a cgroup enforces a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Controller {
    Memory,
    Cpu,
    Pids,
}

/// The smallest memory in which a program starts at all.
const MEMORY_LEAST_BYTES: u64 = 1 << 20;
/// More CPUs than any host has.
const CPU_MOST_PERCENT: u32 = 1_000_000;

impl ResourceLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The controllers that it takes to enforce them.
    pub fn needs(&self) -> impl Iterator<Item = Controller> {
        [
            self.memory_max_bytes.map(|_| Controller::Memory),
            self.cpu_quota_percent.map(|_| Controller::Cpu),
            self.tasks_max.map(|_| Controller::Pids),
        ]
        .into_iter()
        .flatten()
    }

    /// What a kill for want of memory means to people.
    pub fn exceeded(&self) -> &'static str {
        if self.memory_max_bytes.is_some() {
            "the kernel killed it for want of memory: it has reached the limit of its session, or of the host"
        } else {
            "the kernel killed it for want of memory, of the host or of a cgroup above the session's"
        }
    }

    /// What is wrong with a number, for whoever gave it.
    pub fn unfit(&self) -> Option<String> {
        if let Some(bytes) = self.memory_max_bytes.filter(|bytes| *bytes < MEMORY_LEAST_BYTES) {
            return Some(format!("a memory limit of {bytes} bytes is below 1M, in which no program starts"));
        }
        if let Some(percent) = self.cpu_quota_percent.filter(|p| !(1..=CPU_MOST_PERCENT).contains(p)) {
            return Some(format!(
                "a CPU quota of {percent}% is not between 1% and {CPU_MOST_PERCENT}%; 200% is two CPUs"
            ));
        }
        (self.tasks_max == Some(0)).then(|| "a limit of 0 tasks leaves no room for the session".to_owned())
    }
}

impl Controller {
    /// As cgroup.controllers spells it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_no_session_could_live_with_are_unfit() {
        let memory = |bytes| ResourceLimits { memory_max_bytes: Some(bytes), ..Default::default() };
        let cpu = |percent| ResourceLimits { cpu_quota_percent: Some(percent), ..Default::default() };
        let tasks = |count| ResourceLimits { tasks_max: Some(count), ..Default::default() };
        for fine in [ResourceLimits::default(), memory(1 << 20), memory(u64::MAX), cpu(1), cpu(200), tasks(1)]
        {
            assert_eq!(fine.unfit(), None, "{fine:?}");
        }
        for unfit in [memory(0), memory((1 << 20) - 1), cpu(0), cpu(u32::MAX), tasks(0)] {
            assert!(unfit.unfit().is_some(), "{unfit:?}");
        }
    }

    #[test]
    fn each_limit_needs_its_controller() {
        assert_eq!(ResourceLimits::default().needs().count(), 0);
        let all =
            ResourceLimits { memory_max_bytes: Some(1), cpu_quota_percent: Some(1), tasks_max: Some(1) };
        assert_eq!(all.needs().collect::<Vec<_>>(), [Controller::Memory, Controller::Cpu, Controller::Pids]);
    }
}
