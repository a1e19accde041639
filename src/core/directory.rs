//! Directories: which of them are one, and who is at, above or below each.
//!
//! Two directories are one when their real paths are equal, or their device and inode, told by the edge when the launch
//! was prepared: so a bind mount is the directory that it shows. Device and inode mean something within one boot only, so
//! the boot is part of them. What is above and below goes by the path alone. Refuses to know who holds what for whom.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

/// Device and inode of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DirId {
    pub dev: u64,
    pub ino: u64,
    /// The boot of the host in which they were read.
    pub boot: String,
}

/// A directory, as far as it can be told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The real path.
    pub path: String,
    /// None where it could not be looked at.
    pub id: Option<DirId>,
}

impl Directory {
    /// Whether both are the same.
    pub fn is(&self, other: &Self) -> bool {
        self.path == other.path || (self.id.is_some() && self.id == other.id)
    }
}

/// Who is at one directory, in order; most often one.
type Occupants<K> = Vec<K>;

/// Who is at which directory. Every question costs the depth of a path or the size of its answer, never the number of all.
#[derive(Clone, Debug)]
pub(super) struct Whereabouts<K> {
    by_path: BTreeMap<String, Occupants<K>>,
    by_id: HashMap<DirId, Occupants<K>>,
}

impl<K> Default for Whereabouts<K> {
    fn default() -> Self {
        Self { by_path: BTreeMap::new(), by_id: HashMap::new() }
    }
}

impl<K: Ord + Clone> Whereabouts<K> {
    pub(super) fn insert(&mut self, at: &Directory, who: K) {
        if let Some(id) = &at.id {
            enter(self.by_id.entry(id.clone()).or_default(), who.clone());
        }
        enter(self.by_path.entry(at.path.clone()).or_default(), who);
    }

    pub(super) fn remove(&mut self, at: &Directory, who: &K) {
        if let Some(there) = self.by_path.get_mut(&at.path) {
            leave(there, who);
            if there.is_empty() {
                self.by_path.remove(&at.path);
            }
        }
        let Some(id) = &at.id else { return };
        if let Some(there) = self.by_id.get_mut(id) {
            leave(there, who);
            if there.is_empty() {
                self.by_id.remove(id);
            }
        }
    }

    /// The first who is there.
    pub(super) fn first(&self, at: &Directory) -> Option<&K> {
        let by_path = self.by_path.get(&at.path).and_then(|there| there.first());
        let by_id = at.id.as_ref().and_then(|id| self.by_id.get(id)).and_then(|there| there.first());
        match (by_path, by_id) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// The first by its path, and the first by its device and inode; most often one and the same.
    pub(super) fn firsts(&self, at: &Directory) -> impl Iterator<Item = K> {
        let by_path = self.by_path.get(&at.path).and_then(|there| there.first()).cloned();
        let by_id = at.id.as_ref().and_then(|id| self.by_id.get(id)).and_then(|there| there.first()).cloned();
        by_path.into_iter().chain(by_id)
    }

    /// The nearest directory above at which somebody is, and the first there.
    pub(super) fn above(&self, path: &str) -> Option<(&str, &K)> {
        let mut path = path;
        while let Some(at) = path.rfind('/') {
            let parent = if at == 0 { "/" } else { &path[..at] };
            if parent.len() == path.len() {
                return None;
            }
            if let Some((found, there)) = self.by_path.get_key_value(parent) {
                return there.first().map(|who| (found.as_str(), who));
            }
            path = parent;
        }
        None
    }

    /// The directories below at which somebody is, in order, and the first at each.
    pub(super) fn below(&self, path: &str) -> impl Iterator<Item = (&str, &K)> {
        let prefix = if path.ends_with('/') { path.to_owned() } else { format!("{path}/") };
        let beyond = prefix.clone();
        self.by_path
            .range(prefix..)
            .take_while(move |(found, _)| found.starts_with(&beyond))
            .filter(move |(found, _)| found.len() > 1)
            .filter_map(|(found, there)| Some((found.as_str(), there.first()?)))
    }
}

fn enter<K: Ord>(there: &mut Occupants<K>, who: K) {
    if let Err(at) = there.binary_search(&who) {
        there.insert(at, who);
    }
}

fn leave<K: Ord>(there: &mut Occupants<K>, who: &K) {
    if let Ok(at) = there.binary_search(who) {
        there.remove(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, ino: u64) -> Directory {
        Directory { path: path.into(), id: Some(DirId { dev: 1, ino, boot: "b".into() }) }
    }

    #[test]
    fn a_directory_is_found_by_its_path_and_by_its_inode() {
        let mut all: Whereabouts<u32> = Whereabouts::default();
        all.insert(&at("/w", 5), 2);
        all.insert(&at("/mnt/w", 5), 1);
        assert_eq!(all.first(&at("/w", 9)), Some(&2), "made anew under the same name");
        assert_eq!(all.first(&at("/bound", 5)), Some(&1), "the same under another name");
        assert_eq!(all.first(&at("/bound", 6)), None);
        let elsewhere = Directory { path: "/x".into(), id: None };
        assert_eq!(all.first(&elsewhere), None, "two that could not be looked at are not one");
        all.remove(&at("/mnt/w", 5), &1);
        assert_eq!(all.first(&at("/bound", 5)), Some(&2));
        all.remove(&at("/w", 5), &2);
        assert!(all.by_path.is_empty() && all.by_id.is_empty());
        let other_boot = Directory { id: Some(DirId { dev: 1, ino: 5, boot: "c".into() }), ..at("/y", 5) };
        assert!(!other_boot.is(&at("/w", 5)), "numbers of another boot mean something else");
    }

    #[test]
    fn what_is_above_and_below_goes_by_whole_names() {
        let mut all: Whereabouts<u32> = Whereabouts::default();
        for (number, path) in ["/a", "/a/b/c", "/a/bc", "/a-b"].into_iter().enumerate() {
            all.insert(&at(path, 100 + number as u64), number as u32);
        }
        assert_eq!(all.above("/a/b"), Some(("/a", &0)));
        assert_eq!(all.above("/a/b/c/d"), Some(("/a/b/c", &1)));
        assert_eq!(all.above("/a"), None, "a directory is not above itself");
        assert_eq!(all.above("/"), None);
        assert_eq!(all.above("relative"), None);
        assert_eq!(all.below("/a/b").collect::<Vec<_>>(), [("/a/b/c", &1)]);
        assert_eq!(all.below("/a").collect::<Vec<_>>(), [("/a/b/c", &1), ("/a/bc", &2)]);
        assert_eq!(all.below("/").count(), 4);
        all.insert(&at("/", 2), 9);
        assert_eq!(all.above("/x"), Some(("/", &9)));
        assert_eq!(all.below("/").count(), 4, "the root is not below itself");
        assert_eq!(all.above("/"), None);
    }
}
