//! The controllers of a run's cgroup: what they can limit, the writing of limits, and what was used.
//!
//! Refuses to enable any: `cgroup.subtree_control` is its owner's to write (see the parent module). A limit that
//! cannot be set is an error, never a limit less.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::{fs, io};

use super::CgroupMode;
use crate::core::resources::{Controller, ResourceLimits};
use crate::core::vocab::GroupUsage;

/// Whether the controllers listed in the file at `list` suffice; else the words of those that are missing.
pub(super) fn offers(list: &Path, limits: &ResourceLimits) -> Result<(), String> {
    let listed = fs::read_to_string(list).unwrap_or_default();
    let missing = missing(&listed, limits);
    if missing.is_empty() { Ok(()) } else { Err(words(&missing)) }
}

/// The controllers that it takes and that this list lacks.
fn missing(list: &str, limits: &ResourceLimits) -> Vec<Controller> {
    limits.needs().filter(|controller| !lists(list, *controller)).collect()
}

fn lists(list: &str, controller: Controller) -> bool {
    list.split_whitespace().any(|word| word == controller.word())
}

fn words(controllers: &[Controller]) -> String {
    controllers.iter().map(|controller| controller.word()).collect::<Vec<_>>().join(", ")
}

/// The files that limit a cgroup, with what these limits come to in each, as the kernel reads it.
fn files(limits: &ResourceLimits) -> impl Iterator<Item = (&'static str, String)> {
    let quota =
        |percent: u32| format!("{} {CPU_PERIOD_US}", u64::from(percent).saturating_mul(CPU_PERIOD_US) / 100);
    [
        ("memory.max", limits.memory_max_bytes.map(|bytes| bytes.to_string())),
        ("cpu.max", limits.cpu_quota_percent.map(quota)),
        ("pids.max", limits.tasks_max.map(|count| count.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
}

/// Whether somebody else has set these limits on the cgroup at `path`: a manager ignores what it cannot keep.
pub(super) fn limited(path: &Path, limits: &ResourceLimits) -> Result<(), String> {
    for (name, _) in files(limits) {
        let path = path.join(name);
        if !fs::read_to_string(&path).is_ok_and(|value| !value.starts_with("max")) {
            return Err(format!("the limit was not set in {}", path.display()));
        }
    }
    Ok(())
}

/// The period that a CPU quota is counted in, microseconds: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

/// Whether a run with these limits can have them; else why not, and what to do. Asked before anything is started.
pub fn can_limit(mode: &CgroupMode, limits: &ResourceLimits) -> Result<(), String> {
    if limits.is_none() {
        return Ok(());
    }
    let base = match mode {
        CgroupMode::Own { base, .. } => base,
        CgroupMode::None { why } => {
            return Err(format!(
                "limits of memory, CPU or tasks cannot be kept: sessions have no cgroup of their own here ({why}); \
                 launch without them, or see: agentctl doctor"
            ));
        }
    };
    let read = |name: &str| {
        let path = base.join(name);
        fs::read_to_string(&path).map_err(|error| {
            format!(
                "limits of memory, CPU or tasks cannot be kept: {}: {error}; launch without them",
                path.display()
            )
        })
    };
    let (passed_on, here) = (read("cgroup.subtree_control")?, read("cgroup.controllers")?);
    let missing = missing(&passed_on, limits);
    if missing.is_empty() {
        return Ok(());
    }
    let base = base.display();
    let absent: Vec<_> = missing.iter().copied().filter(|controller| !lists(&here, *controller)).collect();
    let (why, next) = if absent.is_empty() {
        let why = format!("{base} has the controllers {} and does not pass them on", words(&missing));
        (why, format!("enable them in {base}/cgroup.subtree_control"))
    } else {
        let why = format!("{base} has no controllers {} (see cgroup.controllers there)", words(&absent));
        (why, "have its owner delegate them, or use a host with cgroup v2 alone".to_owned())
    };
    Err(format!("limits cannot be kept: {why}; {next}, or launch without them"))
}

/// Writes the limits into the cgroup at `path`, before there is anybody in it. The error names the file.
pub fn limit(path: &Path, limits: &ResourceLimits) -> io::Result<()> {
    for (name, value) in files(limits) {
        let path = path.join(name);
        // Not created where it is missing: elsewhere than in a cgroup that would be a limit that nobody keeps.
        let written = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
        written.map_err(|error| {
            io::Error::new(error.kind(), format!("write {value} to {}: {error}", path.display()))
        })?;
    }
    Ok(())
}

/// What the cgroup at `path` has counted: see [`Counters::usage`].
pub fn usage(path: &Path) -> Option<GroupUsage> {
    Counters::open(path).usage()
}

/// The files of a cgroup that count, open: reading one is a single call then, and not a walk to it and six.
#[derive(Debug)]
pub struct Counters {
    cpu: Option<File>,
    memory_peak: Option<File>,
    memory_events: Option<File>,
}

impl Counters {
    /// Those that there are: which, depends on the controllers that the cgroup has.
    pub fn open(path: &Path) -> Self {
        let open = |name: &str| File::open(path.join(name)).ok();
        Self { cpu: open("cpu.stat"), memory_peak: open("memory.peak"), memory_events: open("memory.events") }
    }

    /// What was counted so far, file by file: what is missing, unreadable or says something else is unknown. `None`:
    /// nothing is known. Without a memory controller there is no count of kills, which is not a count of none.
    pub fn usage(&self) -> Option<GroupUsage> {
        let usage = GroupUsage {
            cpu_us: text_in(self.cpu.as_ref(), |text| keyed(text, "usage_usec")),
            memory_peak_bytes: text_in(self.memory_peak.as_ref(), |text| text.trim().parse().ok()),
            oom_kills: text_in(self.memory_events.as_ref(), |text| keyed(text, "oom_kill")),
        };
        (usage != GroupUsage::default()).then_some(usage)
    }
}

/// Reads one of them from its beginning. One that is longer than the kernel makes any is not understood.
fn text_in(file: Option<&File>, meaning: impl FnOnce(&str) -> Option<u64>) -> Option<u64> {
    let mut text = [0; 1_024];
    let length = file?.read_at(&mut text, 0).ok()?;
    let whole = text.get(..length).filter(|_| length < text.len())?;
    meaning(std::str::from_utf8(whole).ok()?)
}

/// The value of a flat keyed file (cgroup-v2, "Interface Files").
fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a cgroup, as far as files go.
    fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("a file");
        }
        dir
    }

    fn limits() -> ResourceLimits {
        ResourceLimits { memory_max_bytes: Some(4 << 30), cpu_quota_percent: Some(250), tasks_max: Some(500) }
    }

    #[track_caller]
    fn asked(controllers: &str, passed_on: &str, limits: &ResourceLimits) -> Result<(), String> {
        let dir = fake(&[("cgroup.controllers", controllers), ("cgroup.subtree_control", passed_on)]);
        let mode = CgroupMode::Own { base: dir.path().to_owned(), why: "ours".into() };
        can_limit(&mode, limits).map_err(|why| why.replace(&dir.path().display().to_string(), "BASE"))
    }

    #[test]
    fn limits_are_refused_with_the_controller_and_the_cgroup_that_lacks_it() {
        assert_eq!(asked("cpuset cpu memory pids\n", "cpu memory pids\n", &limits()), Ok(()));
        assert_eq!(asked("", "", &ResourceLimits::default()), Ok(()), "nothing is asked");
        let some = ResourceLimits { memory_max_bytes: None, ..limits() };
        assert_eq!(asked("cpu pids\n", "cpu pids\n", &some), Ok(()), "memory is not needed");
        let why = asked("hugetlb\n", "hugetlb\n", &limits()).expect_err("nobody keeps them");
        assert!(why.contains("BASE has no controllers memory, cpu, pids"), "{why}");
        let why = asked("cpu memory pids\n", "pids\n", &limits()).expect_err("not passed on");
        assert!(why.contains("memory, cpu and does not pass them on"), "{why}");
        assert!(why.contains("BASE/cgroup.subtree_control"), "{why}");
        let none = CgroupMode::None { why: "no cgroup2 file system is mounted".into() };
        let why = can_limit(&none, &limits()).expect_err("no cgroup");
        assert!(why.contains("no cgroup2 file system is mounted") && why.contains("without them"), "{why}");
        let gone = CgroupMode::Own { base: "/nonexistent".into(), why: String::new() };
        let why = can_limit(&gone, &limits()).expect_err("cannot be read");
        assert!(why.contains("/nonexistent/cgroup.subtree_control"), "{why}");
    }

    #[test]
    fn limits_that_a_manager_did_not_set_are_noticed() {
        let dir =
            fake(&[("memory.max", "4294967296\n"), ("cpu.max", "250000 100000\n"), ("pids.max", "501\n")]);
        assert_eq!(limited(dir.path(), &limits()), Ok(()));
        fs::write(dir.path().join("cpu.max"), "max 100000\n").expect("a file");
        assert!(limited(dir.path(), &limits()).expect_err("no quota").contains("cpu.max"));
        assert_eq!(limited(dir.path(), &ResourceLimits::default()), Ok(()));
        fs::remove_file(dir.path().join("memory.max")).expect("removed");
        assert!(limited(dir.path(), &limits()).expect_err("no controller").contains("memory.max"));
        fs::write(dir.path().join("list"), "cpu memory\n").expect("a file");
        assert_eq!(offers(&dir.path().join("list"), &limits()), Err("pids".into()));
        assert_eq!(offers(&dir.path().join("none"), &limits()), Err("memory, cpu, pids".into()));
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let dir = fake(&[("memory.max", ""), ("cpu.max", ""), ("pids.max", "")]);
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("a file");
        limit(dir.path(), &ResourceLimits::default()).expect("nothing to do");
        assert_eq!(read("memory.max"), "");
        limit(dir.path(), &limits()).expect("written");
        assert_eq!(
            (read("memory.max"), read("cpu.max"), read("pids.max")),
            ("4294967296".into(), "250000 100000".into(), "500".into())
        );
    }

    #[test]
    fn what_a_cgroup_does_not_tell_is_unknown_and_never_zero() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        let whole = fake(&[
            ("cpu.stat", "usage_usec 1500000\nuser_usec 1000000\nsystem_usec 500000\n"),
            ("memory.peak", "104857600\n"),
            ("memory.events", events),
        ]);
        let expected =
            GroupUsage { cpu_us: Some(1_500_000), memory_peak_bytes: Some(104_857_600), oom_kills: Some(2) };
        assert_eq!(usage(whole.path()), Some(expected));
        let bare = fake(&[("cpu.stat", "usage_usec 7\n")]);
        assert_eq!(usage(bare.path()), Some(GroupUsage { cpu_us: Some(7), ..GroupUsage::default() }));
        let strange =
            fake(&[("cpu.stat", "usage_usec\n"), ("memory.peak", "max"), ("memory.events", "oom 3\n")]);
        assert_eq!(usage(strange.path()), None);
        assert_eq!(usage(Path::new("/nonexistent")), None);
    }

    #[test]
    fn a_limit_that_cannot_be_set_is_an_error_that_names_it() {
        let dir = fake(&[("memory.max", "")]);
        let error = limit(dir.path(), &limits()).expect_err("no cpu.max");
        assert!(error.to_string().contains("cpu.max"), "{error}");
        assert!(!dir.path().join("cpu.max").exists(), "nothing is made");
    }

    #[test]
    fn what_counts_is_read_anew_from_what_was_opened_once() {
        let group = fake(&[("cpu.stat", "usage_usec 7\n"), ("memory.peak", "4096\n")]);
        let counters = Counters::open(group.path());
        let known =
            |cpu_us, memory_peak_bytes| Some(GroupUsage { cpu_us, memory_peak_bytes, oom_kills: None });
        assert_eq!(counters.usage(), known(Some(7), Some(4_096)));
        fs::write(group.path().join("cpu.stat"), "usage_usec 900\nuser_usec 1\n").expect("a file");
        fs::write(group.path().join("memory.peak"), "much").expect("a file");
        assert_eq!(counters.usage(), known(Some(900), None));
        // The beginning of something else, and not a number that was cut short.
        fs::write(group.path().join("cpu.stat"), format!("usage_usec {:01030}", 5)).expect("a file");
        assert_eq!(counters.usage(), None);
    }
}
