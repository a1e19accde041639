//! Which processes belong to a session where it has no cgroup: by parentage, or by a mark in their environment (`marks`).
//!
//! Owns the walks over /proc. Refuses to guess: every process is held by a pidfd first and its membership is read
//! again after that, so nothing is ever listed by a reused number. Processes come and go while one reads, therefore
//! "there is none" is said only by a pass during which nothing moved; what could not be read is [`Tree::Unknown`].

pub mod marks;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::{fs, io};

use super::{ProcessRef, proc_fs};

/// How often a walk starts over because the tree changed under it.
pub(super) const PASSES_MAX: u32 = 8;

/// The living processes of a tree; zombies are not part of it.
#[derive(Debug)]
pub enum Tree {
    /// All that were there. New ones may have been started since; an empty list is proved.
    Known(Vec<ProcessRef>),
    /// It could not be told; says why. Never the same as empty.
    Unknown(String),
}

/// One reading of a tree.
pub(super) struct Pass {
    pub(super) members: Vec<ProcessRef>,
    /// Somebody left or changed parents meanwhile, so `members` may lack what moved with them.
    pub(super) moved: bool,
}

/// Repeats `pass` until nothing moves. A busy tree never stands still: then its last non-empty reading is the answer,
/// because a caller that ends it reads again until it is empty.
pub(super) fn settle(mut pass: impl FnMut() -> Result<Pass, String>) -> Tree {
    let mut last = Vec::new();
    for _ in 0..PASSES_MAX {
        match pass() {
            Ok(Pass { members, moved: false }) => return Tree::Known(members),
            Ok(Pass { members, moved: true }) => last = members,
            Err(why) => return Tree::Unknown(why),
        }
    }
    if last.is_empty() {
        Tree::Unknown("processes come and go faster than they can be read".to_owned())
    } else {
        Tree::Known(last)
    }
}

/// The living descendants of `root`, which must live itself: children of an ended process have other parents.
/// Complete for a subreaper as root (the shim is one); otherwise a daemonised descendant has left the tree.
pub fn descendants(root: &ProcessRef) -> Tree {
    settle(|| walk(root))
}

fn walk(root: &ProcessRef) -> Result<Pass, String> {
    let lists = Lists::find()?;
    let mut pass = Pass { members: Vec::new(), moved: lists.moved() };
    let mut seen = HashSet::from([root.pid()]);
    let mut parents = vec![root.clone()];
    while let Some(parent) = parents.pop() {
        let (listed, moved) = lists.children_of(&parent)?;
        pass.moved |= moved;
        for pid in listed {
            if !seen.insert(pid) {
                continue;
            }
            match child_of(&parent, pid).map_err(|error| unreadable(pid, &error))? {
                Some(child) => {
                    if !has_ended(&child)? {
                        pass.members.push(child.clone());
                    }
                    parents.push(child);
                }
                None => pass.moved = true,
            }
        }
    }
    if has_ended(root)? {
        return Err(format!("process {} has ended, and its children have other parents now", root.pid()));
    }
    Ok(pass)
}

/// The process `pid` if it is, at this moment, a child of `parent`.
fn child_of(parent: &ProcessRef, pid: u32) -> io::Result<Option<ProcessRef>> {
    let held = ProcessRef::at_number(pid).and_then(|child| {
        let is_child = proc_fs::stat(pid)?.parent == parent.pid();
        // Both numbers must still be theirs, or the line was about somebody else.
        Ok((is_child && child.owns_number()? && parent.owns_number()?).then_some(child))
    });
    match held {
        Err(error) if proc_fs::is_gone(&error) => Ok(None),
        result => result,
    }
}

fn has_ended(process: &ProcessRef) -> Result<bool, String> {
    process.has_ended().ok_or_else(|| format!("cannot poll process {}", process.pid()))
}

fn unreadable(pid: u32, error: &io::Error) -> String {
    format!("cannot read process {pid}: {error}")
}

/// Where children are found.
enum Lists {
    /// `/proc/PID/task/TID/children`: costs only the tree (CONFIG_PROC_CHILDREN, in every usual kernel).
    PerThread,
    /// By the parent that every process of the host names.
    Scanned { children: HashMap<u32, Vec<u32>>, moved: bool },
}

impl Lists {
    fn find() -> Result<Self, String> {
        if Path::new("/proc/thread-self/children").exists() { Ok(Self::PerThread) } else { Self::scan() }
    }

    fn scan() -> Result<Self, String> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        let mut moved = false;
        for pid in proc_fs::numeric_names("/proc").map_err(|error| format!("cannot list /proc: {error}"))? {
            match proc_fs::stat(pid) {
                Ok(stat) => children.entry(stat.parent).or_default().push(pid),
                Err(error) if proc_fs::is_gone(&error) => moved = true,
                Err(error) => return Err(unreadable(pid, &error)),
            }
        }
        Ok(Self::Scanned { children, moved })
    }

    fn moved(&self) -> bool {
        match self {
            Self::PerThread => false,
            Self::Scanned { children: _, moved } => *moved,
        }
    }

    /// The numbers listed as children, and whether the list may lack some.
    fn children_of(&self, parent: &ProcessRef) -> Result<(Vec<u32>, bool), String> {
        match self {
            Self::PerThread => match thread_children(parent.pid()) {
                Ok(answer) => Ok(answer),
                Err(error) if proc_fs::is_gone(&error) => Ok((Vec::new(), true)),
                Err(error) => Err(unreadable(parent.pid(), &error)),
            },
            Self::Scanned { children, moved: _ } => {
                Ok((children.get(&parent.pid()).cloned().unwrap_or_default(), false))
            }
        }
    }
}

/// Children belong to the thread that made them, and pass to another one when it ends.
fn thread_children(pid: u32) -> io::Result<(Vec<u32>, bool)> {
    let threads_dir = format!("/proc/{pid}/task");
    let threads = proc_fs::numeric_names(&threads_dir)?;
    let mut listed = Vec::new();
    for thread in &threads {
        listed.extend(proc_fs::numbers(&fs::read_to_string(format!("{threads_dir}/{thread}/children"))?)?);
    }
    let afterwards = proc_fs::numeric_names(&threads_dir)?;
    let moved = threads.iter().any(|thread| !afterwards.contains(thread));
    Ok((listed, moved))
}
