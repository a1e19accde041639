//! Session cgroups (cgroup v2): made only where nobody else owns the tree.
//!
//! Owns the decision whether there can be any, and their files. Refuses to write `cgroup.subtree_control`: with a
//! controller enabled there, systemd could not restart our unit while sessions live (EBUSY, status 219). Fails with
//! the file system's errors; a host without usable cgroups is no failure but [`CgroupMode::None`] with the reason.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{Access, AtFlags, CWD, accessat, getxattr};

use super::tree::{self, Pass, Tree};
use super::{ProcessRef, proc_fs};
use crate::core::vocab::RunId;

pub mod control;
#[cfg(target_os = "linux")]
pub mod scope;

/// Whether sessions get cgroups of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupMode {
    /// Yes.
    Own {
        /// The directory that they are made in: our own cgroup.
        base: PathBuf,
        /// Why we may, for `doctor`.
        why: String,
    },
    /// No.
    None {
        /// Why not, for `doctor`.
        why: String,
    },
}

/// A user's manager marks nothing, whatever its units say (systemd 252); there sessions have scopes.
const UNMARKED: &str = "systemd owns our cgroup and does not mark it as delegated: the unit is of a user's manager, or has no Delegate=yes";

/// Decides by looking at the host. Allowed is a cgroup that systemd delegated to us (the xattr it sets for
/// `Delegate=yes`), or on a host without systemd any cgroup that we may write.
pub fn mode() -> CgroupMode {
    let base = match own_directory() {
        Ok(base) => base,
        Err(why) => return CgroupMode::None { why },
    };
    if !writable(&base) {
        return CgroupMode::None { why: format!("{} is not ours to write", base.display()) };
    }
    if is_delegated(&base) {
        return CgroupMode::Own { base, why: "systemd delegated our cgroup (Delegate=yes)".to_owned() };
    }
    // sd_booted(3): this directory exists exactly where systemd runs as PID 1.
    if Path::new("/run/systemd/system").exists() {
        return CgroupMode::None { why: UNMARKED.to_owned() };
    }
    CgroupMode::Own { base, why: "no systemd here, and our cgroup may be written".to_owned() }
}

/// Our own cgroup as a directory, proved by our number in its list.
fn own_directory() -> Result<PathBuf, String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"));
    let (mount_point, root) =
        mount_in(&read("/proc/self/mountinfo")?).ok_or("no cgroup2 file system is mounted")?;
    let path = unified_path_in(&read("/proc/self/cgroup")?).ok_or("we are in no cgroup of version 2")?;
    // In a container the mount may show only a part of the hierarchy.
    let inside =
        Path::new(&path).strip_prefix(&root).map_err(|_| format!("our cgroup {path} is not mounted"))?;
    let dir = if inside.as_os_str().is_empty() { mount_point } else { mount_point.join(inside) };
    match direct_procs(&dir) {
        Ok(pids) if pids.contains(&std::process::id()) => Ok(dir),
        Ok(_others) => Err(format!("{} is not our cgroup", dir.display())),
        Err(error) => Err(format!("cannot read {}: {error}", dir.display())),
    }
}

/// Mount point and root of the cgroup2 mount (proc_pid_mountinfo(5)); on hybrid hosts it is not /sys/fs/cgroup.
fn mount_in(mountinfo: &str) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        source.starts_with("cgroup2 ").then(|| (PathBuf::from(mount_point), PathBuf::from(root)))
    })
}

/// The path in the `0::` line of /proc/self/cgroup (cgroups(7)).
fn unified_path_in(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    // A cgroup outside of our cgroup namespace is shown relative to its root; one that was removed is not there.
    let usable = !path.starts_with("/..") && !path.ends_with(" (deleted)");
    usable.then(|| path.to_owned())
}

fn writable(dir: &Path) -> bool {
    let may_write = |path: &Path| accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS).is_ok();
    may_write(dir) && may_write(&dir.join("cgroup.procs"))
}

/// systemd marks what it delegates: `trusted.` for root, `user.` for everyone else since v251.
fn is_delegated(dir: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|name| {
        let mut value = [0; 1];
        matches!(getxattr(dir, *name, &mut value[..]), Ok(1)) && value == *b"1"
    })
}

/// Makes the cgroup of a run below `base`, or finds it made: the path. The shim enters it by itself.
pub fn make(base: &Path, run: RunId) -> io::Result<PathBuf> {
    let path = base.join(format!("agentctl-{run}"));
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(path),
    }
}

/// The numbers of all processes in the cgroup and in those that its processes made below it.
pub fn procs(path: &Path) -> io::Result<Vec<u32>> {
    let mut pids = direct_procs(path)?;
    for below in children(path)? {
        match procs(&below) {
            Ok(more) => pids.extend(more),
            // Only an empty cgroup can be removed.
            Err(error) if proc_fs::is_gone(&error) || is_removed(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pids)
}

fn direct_procs(path: &Path) -> io::Result<Vec<u32>> {
    proc_fs::numbers(&fs::read_to_string(path.join("cgroup.procs"))?)
}

/// ENODEV: the file was open when its cgroup was removed.
fn is_removed(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The living processes of the cgroup, each held by pidfd and seen in it again after that.
pub fn members(path: &Path) -> Tree {
    tree::settle(|| hold_members(path).map_err(|error| format!("cannot read {}: {error}", path.display())))
}

fn hold_members(path: &Path) -> io::Result<Pass> {
    let mut held = Vec::new();
    let mut moved = false;
    for pid in procs(path)? {
        match ProcessRef::at_number(pid) {
            Ok(process) => held.push(process),
            Err(error) if proc_fs::is_gone(&error) => moved = true,
            Err(error) => return Err(error),
        }
    }
    let still: HashSet<u32> = procs(path)?.into_iter().collect();
    let mut members = Vec::new();
    for process in held {
        if still.contains(&process.pid()) && process.owns_number()? {
            members.push(process);
        } else {
            moved = true;
        }
    }
    Ok(Pass { members, moved })
}

/// Kills everything in the cgroup and below, forks in progress included (`cgroup.kill`, Linux 5.14; before: `NotFound`).
pub fn kill(path: &Path) -> io::Result<()> {
    fs::write(path.join("cgroup.kill"), "1")
}

/// Whether any living process is in the cgroup or below it.
pub fn populated(path: &Path) -> io::Result<bool> {
    let events = fs::read_to_string(path.join("cgroup.events"))?;
    populated_in(&events)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "cgroup.events without `populated`"))
}

/// The `populated` line of a cgroup.events file.
pub(super) fn populated_in(events: &str) -> Option<bool> {
    match events.lines().find_map(|line| line.strip_prefix("populated "))? {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

/// Removes the cgroup and what its processes left below it. EBUSY: somebody is still in it. One that is already gone
/// is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    let removed = children(path).and_then(|below| {
        below.iter().try_for_each(|child| remove(child))?;
        fs::remove_dir(path)
    });
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_on_hybrid_hosts_and_in_containers() {
        let hybrid = "33 29 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      42 29 0:30 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_in(hybrid), Some((PathBuf::from("/sys/fs/cgroup/unified"), PathBuf::from("/"))));
        let container = "42 29 0:30 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        assert_eq!(
            mount_in(container),
            Some((PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/docker/abc")))
        );
        assert_eq!(mount_in("33 29 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n"), None);
    }

    #[test]
    fn a_cgroup_that_we_cannot_reach_is_none() {
        assert_eq!(
            unified_path_in("3:cpu:/\n0::/user.slice/a.service\n").as_deref(),
            Some("/user.slice/a.service")
        );
        assert_eq!(unified_path_in("0::/../other\n"), None);
        assert_eq!(unified_path_in("0::/a (deleted)\n"), None);
        assert_eq!(unified_path_in("3:cpu:/\n"), None);
    }

    #[test]
    fn populated_is_read_and_never_assumed() {
        assert_eq!(populated_in("populated 0\nfrozen 0\n"), Some(false));
        assert_eq!(populated_in("populated 1\nfrozen 0\n"), Some(true));
        assert_eq!(populated_in("frozen 0\n"), None);
    }
}
