//! Conversations that are files: found in their directories and read within bounds.
//!
//! Only regular files are read: a pipe in a store would never answer. What is larger than the bound is read at both ends.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::adapters::found::{Anywhere, Files, Registered, Registry, Search, Told};
use crate::core::vocab::{ProcessId, Wall};
use crate::limits;
use crate::wire::hex;

use super::scan::{Agent, Conversation, Look, Whose};

/// File times and start times of processes are as exact as this.
const SLACK_US: i64 = 1_000_000;

/// What one look may still read.
pub(super) struct Budget {
    bytes: u64,
    names: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: limits::STORE_BYTES_MAX, names: limits::STORE_NAMES_MAX }
    }
}

/// What the agent keeps about its living process.
pub(super) fn registered(
    look: &Look,
    agent: &Agent,
    files: &Files,
    budget: &mut Budget,
) -> Option<Registered> {
    let registry = files.registry?;
    if !agent.line[0].same_files {
        return None;
    }
    agent.whose(|whose| {
        agent.line.iter().find_map(|shown| noted(look, whose, &registry, shown.process.id(), budget))
    })
}

/// The same of one process.
fn noted(
    look: &Look,
    whose: &Whose<'_>,
    registry: &Registry,
    id: &ProcessId,
    budget: &mut Budget,
) -> Option<Registered> {
    let path = look.env(whose, |env| (registry.file)(env, id.pid));
    look.doing(path.display());
    let bytes = match open_regular(&path).and_then(|mut file| note(&mut file, budget)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            unread(look, whose, &path, &error);
            return None;
        }
    };
    let told = (registry.read)(&bytes);
    if told.is_none() {
        unread(look, whose, &path, &"it is not understood");
    }
    // One of an earlier process with this number is nobody's any more.
    told.filter(|told| told.start_ticks.is_none_or(|ticks| ticks == id.start_ticks))
}

fn note(file: &mut File, budget: &mut Budget) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limits::STORE_NOTE_BYTES_MAX).read_to_end(&mut bytes)?;
    budget.bytes = budget.bytes.saturating_sub(bytes.len() as u64);
    Ok(bytes)
}

/// The conversation that a file which the process has open gives away.
pub(super) fn open(agent: &Agent, files: &Files) -> Option<String> {
    let paths = agent.line.iter().flat_map(|shown| shown.open_files());
    paths.into_iter().find_map(|path| (files.id_of_open)(&path).map(str::to_owned))
}

/// The conversation of an agent: the one of this id; or the only one in its directory that can be its.
pub(super) fn conversation(
    look: &Look,
    whose: &Whose<'_>,
    files: &Files,
    id: Option<&str>,
    is_free: &dyn Fn(&str) -> bool,
    budget: &mut Budget,
) -> Option<Conversation> {
    let search = Search { native_id: id, started: whose.started, now: look.began.wall };
    let dirs = look.env(whose, |env| (files.dirs)(env, &search));
    let elsewhere = |budget: &mut Budget| match files.anywhere_in {
        Some(anywhere) => projects(look, whose, &anywhere, budget),
        None => Vec::new(),
    };
    let Some(id) = id else {
        let dirs = if dirs.is_empty() { elsewhere(budget) } else { dirs };
        return only_one(look, whose, files, &dirs, is_free, budget);
    };
    let mut path = in_dirs(look, whose, files, &dirs, id, budget);
    if path.is_none() {
        let dirs = elsewhere(budget);
        path = in_dirs(look, whose, files, &dirs, id, budget);
    }
    let told = path.and_then(|path| read(look, whose, files, &path, budget));
    // Of a name that holds only the beginning of the id, the file has the rest.
    let told = told.filter(|(told, _)| !files.id_is_cut || told.native_id.as_deref() == Some(id));
    told.map(|(told, whole)| conversation_of(id.to_owned(), told, whole))
}

/// Where the conversations of each project are.
fn projects(look: &Look, whose: &Whose<'_>, anywhere: &Anywhere, budget: &mut Budget) -> Vec<PathBuf> {
    let all = look.env(whose, anywhere.projects);
    names(look, whose, &all, budget).into_iter().map(|project| project.join(anywhere.below)).collect()
}

fn conversation_of(native_id: String, told: Told, whole: bool) -> Conversation {
    let tokens = told.tokens(whole);
    let cost_usd = told.cost_usd;
    let said = told.said.into();
    Conversation { native_id, model: told.model, prompt: told.prompt, tokens, cost_usd, said, finish: None }
}

fn in_dirs(
    look: &Look,
    whose: &Whose<'_>,
    files: &Files,
    dirs: &[PathBuf],
    id: &str,
    budget: &mut Budget,
) -> Option<PathBuf> {
    dirs.iter().find_map(|dir| {
        let is_it = |path: &PathBuf| match id_of(files, path) {
            Some(named) if files.id_is_cut => !named.is_empty() && id.starts_with(named),
            named => named == Some(id),
        };
        // One that was gone on with may be in several files, of which the last holds all.
        names(look, whose, dir, budget)
            .into_iter()
            .filter(is_it)
            .max_by_key(|path| modified(path).map(|at| at.0))
    })
}

fn id_of<'a>(files: &Files, path: &'a Path) -> Option<&'a str> {
    (files.id_of)(path.file_name()?.to_str()?)
}

/// Nothing names the conversation: it is the only one that was written to since the process started, or unknown.
fn only_one(
    look: &Look,
    whose: &Whose<'_>,
    files: &Files,
    dirs: &[PathBuf],
    is_free: &dyn Fn(&str) -> bool,
    budget: &mut Budget,
) -> Option<Conversation> {
    let paths = dirs.iter().flat_map(|dir| names(look, whose, dir, budget)).collect::<Vec<_>>();
    let candidates = paths.into_iter().filter(|path| {
        id_of(files, path).is_some_and(|id| files.id_is_cut || is_free(id))
            && modified_since(path, whose.started)
    });
    let candidates: Vec<_> = candidates.take(limits::STORE_CANDIDATES_MAX + 1).collect();
    if candidates.len() > limits::STORE_CANDIDATES_MAX {
        return None;
    }
    let mut found = None;
    for path in candidates {
        let Some((told, whole)) = read(look, whose, files, &path, budget) else { continue };
        if told.cwd.as_ref().is_some_and(|cwd| cwd != whose.cwd) {
            continue;
        }
        let elsewhere = |hash: &String| *hash != hex(&Sha256::digest(whose.cwd));
        if told.cwd_sha256.as_ref().is_some_and(elsewhere) {
            continue;
        }
        let named = id_of(files, &path).filter(|_| !files.id_is_cut).map(str::to_owned);
        let Some(id) = named.or_else(|| told.native_id.clone()).filter(|id| is_free(id)) else { continue };
        if found.replace(conversation_of(id, told, whole)).is_some() {
            return None;
        }
    }
    found
}

/// Whether a file was written to since a process started.
pub(super) fn modified_since(path: &Path, started: Wall) -> bool {
    modified(path).is_some_and(|at| at.0 >= started.0 - SLACK_US)
}

/// A small file of JSON; `None`: it is not there any more, or cannot be read, which is said.
pub(super) fn note_of(look: &Look, whose: &Whose<'_>, path: &Path, budget: &mut Budget) -> Option<Value> {
    look.doing(path.display());
    if budget.bytes == 0 {
        unread(look, whose, path, &"too much was read already");
        return None;
    }
    let read = open_regular(path).and_then(|mut file| note(&mut file, budget));
    let told = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
    match told {
        Ok(told) => Some(told),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            unread(look, whose, path, &error);
            None
        }
    }
}

fn modified(path: &Path) -> Option<Wall> {
    let since = fs::metadata(path).ok()?.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Wall(i64::try_from(since.as_micros()).ok()?))
}

/// The paths in a directory; none where it is not there.
pub(super) fn names(look: &Look, whose: &Whose<'_>, dir: &Path, budget: &mut Budget) -> Vec<PathBuf> {
    look.doing(dir.display());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        // A file among directories is none.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Vec::new();
        }
        Err(error) => {
            unread(look, whose, dir, &error);
            return Vec::new();
        }
    };
    let mut paths = Vec::new();
    for entry in entries.flatten() {
        if budget.names == 0 || look.is_late() {
            unread(look, whose, dir, &"there are too many names in it for one look");
            break;
        }
        budget.names -= 1;
        paths.push(entry.path());
    }
    paths
}

/// What a conversation's file tells, and whether all of it was read.
fn read(
    look: &Look,
    whose: &Whose<'_>,
    files: &Files,
    path: &Path,
    budget: &mut Budget,
) -> Option<(Told, bool)> {
    look.doing(path.display());
    match contents(path, budget) {
        Ok((parts, whole)) => {
            let mut told = Told::default();
            for part in &parts {
                for line in part.split(|byte| *byte == b'\n') {
                    if look.is_late() {
                        return Some((told, false));
                    }
                    (files.read)(line, &mut told);
                }
            }
            if !whole {
                let most = limits::STORE_FILE_BYTES_MAX >> 20;
                unread(
                    look,
                    whose,
                    path,
                    &format!("it is larger than {most} MB, or too much was read already"),
                );
            } else if told.understood == 0 && parts.iter().any(|part| !part.is_empty()) {
                unread(look, whose, path, &"nothing in it is understood");
            }
            Some((told, whole))
        }
        Err(error) => {
            unread(look, whose, path, &error);
            None
        }
    }
}

/// The whole of a file, or both ends of a large one.
fn contents(path: &Path, budget: &mut Budget) -> io::Result<(Vec<Vec<u8>>, bool)> {
    let mut file = open_regular(path)?;
    let length = file.metadata()?.len();
    let whole = length <= limits::STORE_FILE_BYTES_MAX.min(budget.bytes);
    let end = limits::STORE_END_BYTES.min(length / 2).min(budget.bytes / 2);
    let parts = if whole { vec![(0, length)] } else { vec![(0, end), (length - end, end)] };
    let mut read = Vec::new();
    for (from, most) in parts {
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        (&mut file).take(most).read_to_end(&mut bytes)?;
        budget.bytes = budget.bytes.saturating_sub(bytes.len() as u64);
        read.push(bytes);
    }
    Ok((read, whole))
}

/// Opens a file without waiting, whatever it is; anything but a regular one is refused.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no regular file")) }
}

/// Says what could not be looked at, and what that costs.
pub(super) fn unread(look: &Look, whose: &Whose<'_>, path: &Path, why: &dyn std::fmt::Display) {
    look.warn(format!("{}: {}: {why}; it is told incompletely", whose.name, path.display()));
}
