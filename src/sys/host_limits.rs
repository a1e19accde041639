//! How much this host lets us have, and whether systemd runs here: read when asked, for `doctor`.
//!
//! Refuses to judge: a number that cannot be read is `None`, which is not the same as no limit.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// A bound: a number, or none at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    AtMost(u64),
    Unlimited,
}

/// What the host allows this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLimits {
    /// Open files, the hard limit (RLIMIT_NOFILE, getrlimit(2)).
    pub files: Bound,
    /// Processes of this user (RLIMIT_NPROC).
    pub processes: Bound,
    /// Process numbers of the host (`/proc/sys/kernel/pid_max`, proc(5)).
    pub pids: Option<u64>,
    /// inotify instances of this user (`/proc/sys/fs/inotify/max_user_instances`, inotify(7)).
    pub inotify_instances: Option<u64>,
    /// inotify watches of this user.
    pub inotify_watches: Option<u64>,
    /// Why no instance is to be had at this moment.
    pub inotify_refused: Option<String>,
}

/// What systemd has to do with this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Systemd {
    /// It runs as PID 1 (sd_booted(3)).
    pub booted: bool,
    /// The unit that we are part of, by our cgroup.
    pub unit: Option<String>,
}

/// Reads the limits.
pub fn host_limits() -> HostLimits {
    let hard = |which| getrlimit(which).maximum.map_or(Bound::Unlimited, Bound::AtMost);
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    HostLimits {
        files: hard(Resource::Nofile),
        processes: hard(Resource::Nproc),
        pids: number("/proc/sys/kernel/pid_max"),
        inotify_instances: number("/proc/sys/fs/inotify/max_user_instances"),
        inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
        inotify_refused: inotify_refused(),
    }
}

#[cfg(target_os = "linux")]
fn inotify_refused() -> Option<String> {
    super::linux::inotify::instance().err().map(|error| error.to_string())
}

#[cfg(not(target_os = "linux"))]
fn inotify_refused() -> Option<String> {
    Some("exists on Linux only".to_owned())
}

/// Looks for systemd.
pub fn systemd() -> Systemd {
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Systemd { booted: Path::new("/run/systemd/system").exists(), unit: unit_in(&cgroups) }
}

/// The innermost `.service` or `.scope` of our cgroup of version 2 or, on hybrid hosts, of systemd's own hierarchy.
fn unit_in(cgroups: &str) -> Option<String> {
    let ours = cgroups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        matches!(controllers, "" | "name=systemd").then_some(path)
    });
    let mut names = ours.flat_map(|path| path.rsplit('/'));
    names.find(|name| name.ends_with(".service") || name.ends_with(".scope")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_innermost_of_our_cgroup() {
        let unified =
            "0::/user.slice/user-1000.slice/user@1000.service/app.slice/agentctl.service/supervisor\n";
        assert_eq!(unit_in(unified).as_deref(), Some("agentctl.service"));
        let hybrid = "4:memory:/x.service\n1:name=systemd:/system.slice/agentctl@dev.service\n0::/\n";
        assert_eq!(unit_in(hybrid).as_deref(), Some("agentctl@dev.service"));
        assert_eq!(unit_in("0::/\n"), None);
    }

    #[test]
    fn the_limits_of_this_host_can_be_read() {
        let limits = host_limits();
        assert!(limits.pids.is_some_and(|pids| pids > 100), "{limits:?}");
        assert!(limits.inotify_instances.is_some(), "{limits:?}");
        assert_ne!(limits.files, Bound::AtMost(0));
    }
}
