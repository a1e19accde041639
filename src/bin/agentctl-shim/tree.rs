//! The processes of the run: all that descend from the shim, and all in its cgroup.
//!
//! Owns finding and signalling them; every signal goes to a pidfd that was proved to be one of them while it was
//! held. Refuses to prove that the tree is empty: only wait(2) can, and `supervise` asks it. A walk sees a tree that
//! moves, so it may miss what was forked or reparented meanwhile; ending a tree is walking it until nobody is left.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::{fs, io, process};

use agentctl::core::vocab::ProcessId;
use agentctl::sys::identity;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// How often one attempt to kill walks the tree again because it had grown.
const KILL_WALKS_MAX: usize = 32;

/// Deeper descendants are reached once those above them have died. Each level holds one descriptor.
const DEPTH_MAX: usize = 200;

/// Members of a cgroup that are held at a time.
const BATCH_MAX: usize = 64;

/// A process as far as one shim needs to tell it from others: number and start time.
type Key = (u32, u64);

/// The tree of one shim, and whom we have signalled.
pub(crate) struct Tree {
    places: Places,
    leader: Option<Key>,
    sent: BTreeMap<Key, Push>,
}

/// How hard a process was pushed to end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Push {
    Term,
    Kill,
}

impl Push {
    fn signal(self) -> Signal {
        match self {
            Self::Term => Signal::TERM,
            Self::Kill => Signal::KILL,
        }
    }
}

impl Tree {
    /// The tree of the calling process, whose first descendant is the leader.
    pub(crate) fn new(leader: Option<ProcessId>, cgroup: Option<PathBuf>) -> Self {
        Self {
            places: Places { shim: process::id(), cgroup },
            leader: leader.map(|leader| (leader.pid, leader.start_ticks)),
            sent: BTreeMap::new(),
        }
    }

    /// How many descendants are alive; `None` when /proc does not tell.
    pub(crate) fn count(&self) -> Option<u32> {
        let mut alive = 0;
        self.places.walk_descendants(&mut |member| alive += u32::from(member.alive)).ok()?;
        Some(alive)
    }

    /// Processes other than the leader that got a signal from us.
    pub(crate) fn signalled(&self) -> u32 {
        let others = self.sent.keys().filter(|key| Some(**key) != self.leader).count();
        u32::try_from(others).unwrap_or(u32::MAX)
    }

    /// Asks every process to end.
    pub(crate) fn terminate(&mut self) {
        self.push(Push::Term);
    }

    /// Kills every process, and those that appear meanwhile.
    pub(crate) fn kill(&mut self) {
        if let Some(cgroup) = &self.places.cgroup {
            // All at once, before anyone can fork. Missing before Linux 5.14: then the walks must do.
            let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        }
        for _ in 0..KILL_WALKS_MAX {
            if self.push(Push::Kill) == 0 {
                break;
            }
        }
    }

    /// Signals whoever has not yet been pushed that hard; answers how many those were.
    fn push(&mut self, push: Push) -> usize {
        let mut reached = 0;
        let mut reach = |member: &Member| {
            let key = (member.pid, member.start_ticks);
            if member.alive && self.sent.get(&key).is_none_or(|before| *before < push) {
                let _ = pidfd_send_signal(&member.pidfd, push.signal());
                self.sent.insert(key, push);
                reached += 1;
            }
        };
        // A walk that fails half-way has reached the others; the next one continues.
        let _ = self.places.walk_descendants(&mut reach);
        let _ = self.places.walk_cgroup(&mut reach);
        reached
    }
}

/// One process of the tree, held so that it stays the one that we looked at.
struct Member {
    pid: u32,
    start_ticks: u64,
    alive: bool,
    pidfd: OwnedFd,
}

type Visit<'a> = &'a mut dyn FnMut(&Member);

/// A process whose children are asked for. The shim needs no pidfd: its number is taken while it runs.
#[derive(Clone, Copy)]
struct Parent<'a> {
    pid: u32,
    pidfd: Option<BorrowedFd<'a>>,
}

impl Parent<'_> {
    /// Whether the number is still this process's, and so has been all the time.
    fn has_its_number(self) -> bool {
        let Some(pidfd) = self.pidfd else { return true };
        identity::pid_of(pidfd).is_ok_and(|pid| pid == Some(self.pid))
    }
}

/// Where the processes of a tree are to be found.
struct Places {
    shim: u32,
    cgroup: Option<PathBuf>,
}

impl Places {
    /// Visits the descendants, children before their parent: a parent that has gone cannot name its children.
    fn walk_descendants(&self, visit: Visit<'_>) -> io::Result<()> {
        let shim = Parent { pid: self.shim, pidfd: None };
        self.descend(ChildList::choose(), shim, DEPTH_MAX, visit)
    }

    fn descend(
        &self,
        list: ChildList,
        parent: Parent<'_>,
        depth_left: usize,
        visit: Visit<'_>,
    ) -> io::Result<()> {
        if depth_left == 0 {
            return Ok(());
        }
        for child in list.of(parent.pid)? {
            let Some((member, its_parent)) = hold(child)? else { continue };
            // A child whose parent died under our eyes has become the shim's.
            let ours = its_parent == self.shim || (its_parent == parent.pid && parent.has_its_number());
            if ours {
                let as_parent = Parent { pid: member.pid, pidfd: Some(member.pidfd.as_fd()) };
                self.descend(list, as_parent, depth_left - 1, visit)?;
                visit(&member);
            }
        }
        Ok(())
    }

    /// Visits the members of the cgroup: whoever is on its list while held.
    fn walk_cgroup(&self, visit: Visit<'_>) -> io::Result<()> {
        let Some(cgroup) = &self.cgroup else { return Ok(()) };
        let list = cgroup.join("cgroup.procs");
        for numbers in listed_pids(&list)?.chunks(BATCH_MAX) {
            let held: io::Result<Vec<_>> = numbers.iter().map(|number| hold(*number)).collect();
            let still_listed = listed_pids(&list)?;
            for (member, _) in held?.into_iter().flatten() {
                if member.pid != self.shim && still_listed.contains(&member.pid) {
                    visit(&member);
                }
            }
        }
        Ok(())
    }
}

/// Holds a process by pidfd and tells its parent. What /proc says of the number counts only because the pidfd still
/// has that number afterwards.
fn hold(number: u32) -> io::Result<Option<(Member, u32)>> {
    let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = match identity::stat(number) {
        Ok(stat) => stat,
        Err(error) if identity::is_gone(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if identity::pid_of(pidfd.as_fd())? != Some(number) {
        return Ok(None);
    }
    Ok(Some((
        Member { pid: number, start_ticks: stat.start_ticks, alive: !stat.is_zombie(), pidfd },
        stat.parent,
    )))
}

/// Where to learn a process's children.
#[derive(Clone, Copy)]
enum ChildList {
    /// `/proc/PID/task/TID/children`: costs what the tree costs.
    Tasks,
    /// Everyone's parent, for kernels without CONFIG_PROC_CHILDREN: costs what the machine costs.
    Scan,
}

impl ChildList {
    fn choose() -> Self {
        if Path::new("/proc/thread-self/children").exists() { Self::Tasks } else { Self::Scan }
    }

    fn of(self, pid: u32) -> io::Result<Vec<u32>> {
        match self {
            Self::Tasks => children_of_tasks(pid),
            Self::Scan => {
                let mut children = numbers_in(Path::new("/proc"))?;
                children.retain(|child| identity::stat(*child).is_ok_and(|stat| stat.parent == pid));
                Ok(children)
            }
        }
    }
}

fn children_of_tasks(pid: u32) -> io::Result<Vec<u32>> {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let mut children = Vec::new();
    for task in gone_is_empty(numbers_in(&tasks))? {
        children.extend(gone_is_empty(listed_pids(&tasks.join(task.to_string()).join("children")))?);
    }
    Ok(children)
}

/// The entries of a directory of /proc that are numbers.
fn numbers_in(dir: &Path) -> io::Result<Vec<u32>> {
    let names = fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter_map(|name| name.parse().ok()).collect())
}

fn listed_pids(path: &Path) -> io::Result<Vec<u32>> {
    let list = fs::read_to_string(path)?;
    Ok(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect())
}

/// A process that ended under our eyes has no children.
fn gone_is_empty(list: io::Result<Vec<u32>>) -> io::Result<Vec<u32>> {
    match list {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(Vec::new()),
        result => result,
    }
}
