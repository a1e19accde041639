//! Readings of /proc, and the clock.

use std::fs;

use rustix::time::{ClockId, clock_gettime};

use crate::Outcome;

/// CLOCK_MONOTONIC, nanoseconds.
pub(crate) fn mono_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// What a process has used and how often it was switched to and from, all threads together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Activity {
    /// Clock ticks of user and system time.
    pub(crate) ticks: u64,
    /// Context switches, wanted or not.
    pub(crate) switches: u64,
}

impl Activity {
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            ticks: self.ticks.saturating_sub(before.ticks),
            switches: self.switches.saturating_sub(before.switches),
        }
    }

    pub(crate) fn and(&self, other: &Self) -> Self {
        Self { ticks: self.ticks + other.ticks, switches: self.switches + other.switches }
    }
}

pub(crate) fn activity(pid: u32) -> Outcome<Activity> {
    // Of the process: it keeps what threads used that have ended since.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("a stat file")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        switches +=
            field(&status, "voluntary_ctxt_switches:")? + field(&status, "nonvoluntary_ctxt_switches:")?;
    }
    Ok(Activity { ticks, switches })
}

/// Memory of a process.
pub(crate) struct Memory {
    pub(crate) rss_kb: u64,
    pub(crate) pss_kb: u64,
    pub(crate) anon_kb: u64,
    pub(crate) threads: u64,
}

pub(crate) fn memory(pid: u32) -> Outcome<Memory> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Memory {
        rss_kb: field(&rollup, "Rss:")?,
        pss_kb: field(&rollup, "Pss:")?,
        anon_kb: field(&rollup, "Anonymous:")?,
        threads: field(&status, "Threads:")?,
    })
}

/// All that a process has read, from files and others.
pub(crate) fn read_bytes(pid: u32) -> Outcome<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/io"))?, "rchar:")
}

/// The most memory that a process had.
pub(crate) fn peak_kb(pid: u32) -> Outcome<u64> {
    field(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmHWM:")
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> Outcome<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(u32::try_from(field(&status, "PPid:")?)?)
}

pub(crate) fn field(text: &str, name: &str) -> Outcome<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
    Ok(line.split_whitespace().next().ok_or("a number")?.parse()?)
}
