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

use super::locked;
use super::scan::{Agent, Conversation, Look, Whose};

/// File times and start times of processes are as exact as this.
const SLACK_US: i64 = 1_000_000;

/// Something could not be read, which has been said: what it holds is not known.
#[derive(Debug)]
pub(super) struct Unread;

/// Paths that were found, and whether they are all that there are.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) paths: Vec<PathBuf>,
    pub(super) all: bool,
}

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
    let dirs = Names { paths: look.env(whose, |env| (files.dirs)(env, &search)), all: true };
    let elsewhere = |budget: &mut Budget| match files.anywhere_in {
        Some(anywhere) => projects(look, whose, &anywhere, budget),
        None => Names { paths: Vec::new(), all: true },
    };
    let Some(id) = id else {
        let dirs = if dirs.paths.is_empty() { elsewhere(budget) } else { dirs };
        return only_one(look, whose, files, &dirs, is_free, budget);
    };
    let mut path = in_dirs(look, whose, files, &dirs, id, budget);
    if path.is_none() {
        let dirs = elsewhere(budget);
        path = in_dirs(look, whose, files, &dirs, id, budget);
    }
    let (path, is_the_last) = path?;
    let mut told = read(look, whose, files, &path, budget).ok()??;
    if !is_the_last {
        told.gap();
    }
    // Of a name that holds only the beginning of the id, the file has the rest.
    let is_it = !files.id_is_cut || told.native_id.as_deref() == Some(id);
    is_it.then(|| conversation_of(id.to_owned(), told))
}

/// Where the conversations of each project are.
fn projects(look: &Look, whose: &Whose<'_>, anywhere: &Anywhere, budget: &mut Budget) -> Names {
    let names = names(look, whose, &look.env(whose, anywhere.projects), budget);
    let paths = names.paths.into_iter().map(|project| project.join(anywhere.below)).collect();
    Names { paths, ..names }
}

fn conversation_of(native_id: String, told: Told) -> Conversation {
    let (tokens, cost_usd) = (told.tokens(), told.cost_usd());
    let said = told.said.into();
    Conversation { native_id, model: told.model, prompt: told.prompt, tokens, cost_usd, said, finish: None }
}

/// The file of this conversation, and whether it is its last: one that was gone on with may be in several files, of which
/// the last holds all.
fn in_dirs(
    look: &Look,
    whose: &Whose<'_>,
    files: &Files,
    dirs: &Names,
    id: &str,
    budget: &mut Budget,
) -> Option<(PathBuf, bool)> {
    let is_it = |path: &PathBuf| match id_of(files, path) {
        Some(named) if files.id_is_cut => !named.is_empty() && id.starts_with(named),
        named => named == Some(id),
    };
    dirs.paths.iter().find_map(|dir| {
        let names = names(look, whose, dir, budget);
        let its = names.paths.into_iter().filter(is_it);
        let last = its.max_by_key(|path| modified(path).ok().map(|at| at.0))?;
        Some((last, names.all || !files.id_is_cut))
    })
}

fn id_of<'a>(files: &Files, path: &'a Path) -> Option<&'a str> {
    (files.id_of)(path.file_name()?.to_str()?)
}

/// Nothing names the conversation: it is the only one that was written to since the process started, or unknown. Any that
/// could not be looked at might be it.
fn only_one(
    look: &Look,
    whose: &Whose<'_>,
    files: &Files,
    dirs: &Names,
    is_free: &dyn Fn(&str) -> bool,
    budget: &mut Budget,
) -> Option<Conversation> {
    let names = names_in(look, whose, dirs, budget);
    if !names.all {
        return None;
    }
    let mut candidates = Vec::new();
    for path in names.paths {
        let may_be = id_of(files, &path).is_some_and(|id| files.id_is_cut || is_free(id));
        if may_be && written_since(look, whose, &path).ok()? {
            candidates.push(path);
        }
    }
    if candidates.len() > limits::STORE_CANDIDATES_MAX {
        return None;
    }
    let mut found = None;
    for path in candidates {
        let Some(told) = read(look, whose, files, &path, budget).ok()? else { continue };
        if !is_of(&told, whose.cwd)? {
            continue;
        }
        let named = id_of(files, &path).filter(|_| !files.id_is_cut).map(str::to_owned);
        let id = named.or_else(|| told.native_id.clone())?;
        if is_free(&id) && found.replace(conversation_of(id, told)).is_some() {
            return None;
        }
    }
    found
}

/// Whether a conversation is of this directory; `None`: it does not tell.
fn is_of(told: &Told, cwd: &str) -> Option<bool> {
    let of_hash = || told.cwd_sha256.as_ref().map(|hash| *hash == hex(&Sha256::digest(cwd)));
    told.cwd.as_ref().map(|own| own == cwd).or_else(of_hash)
}

/// Whether a file was written to since a process started; one that is not there any more was not.
pub(super) fn written_since(look: &Look, whose: &Whose<'_>, path: &Path) -> Result<bool, Unread> {
    let at = there(look, whose, path, modified(path))?;
    Ok(at.is_some_and(|at| at.0 >= whose.started.0 - SLACK_US))
}

/// A small file of JSON; `None`: it is not there any more.
pub(super) fn note_of(
    look: &Look,
    whose: &Whose<'_>,
    path: &Path,
    budget: &mut Budget,
) -> Result<Option<Value>, Unread> {
    look.doing(path.display());
    if budget.bytes == 0 || look.is_late() {
        unread(look, whose, path, &"too much was read already");
        return Err(Unread);
    }
    let read = open_regular(path).and_then(|mut file| note(&mut file, budget));
    let told = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other));
    there(look, whose, path, told)
}

fn modified(path: &Path) -> io::Result<Wall> {
    let since = fs::metadata(path)?.modified()?.duration_since(std::time::UNIX_EPOCH);
    let since = since.map_err(io::Error::other)?;
    Ok(Wall(i64::try_from(since.as_micros()).map_err(io::Error::other)?))
}

/// What was read of a file, if it is still there; what could not be read is said.
pub(super) fn there<T>(
    look: &Look,
    whose: &Whose<'_>,
    path: &Path,
    read: io::Result<T>,
) -> Result<Option<T>, Unread> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            unread(look, whose, path, &error);
            Err(Unread)
        }
    }
}

/// The paths in a directory; none where it is not there.
pub(super) fn names(look: &Look, whose: &Whose<'_>, dir: &Path, budget: &mut Budget) -> Names {
    look.doing(dir.display());
    let mut names = Names { paths: Vec::new(), all: true };
    let entries = match fs::read_dir(dir) {
        // A file among directories is none.
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return names,
        entries => there(look, whose, dir, entries),
    };
    names.all = entries.is_ok();
    for entry in entries.ok().flatten().into_iter().flatten() {
        if budget.names == 0 || look.is_late() {
            unread(look, whose, dir, &"there are too many names in it for one look");
            names.all = false;
            break;
        }
        budget.names -= 1;
        match entry {
            Ok(entry) => names.paths.push(entry.path()),
            Err(error) => {
                unread(look, whose, dir, &error);
                names.all = false;
            }
        }
    }
    names
}

/// The paths in several.
pub(super) fn names_in(look: &Look, whose: &Whose<'_>, dirs: &Names, budget: &mut Budget) -> Names {
    let mut all = Names { paths: Vec::new(), all: dirs.all };
    for dir in &dirs.paths {
        let names = names(look, whose, dir, budget);
        all.paths.extend(names.paths);
        all.all &= names.all;
    }
    all
}

/// What a conversation's file tells; `None`: it is not there any more.
fn read(
    look: &Look,
    whose: &Whose<'_>,
    files: &Files,
    path: &Path,
    budget: &mut Budget,
) -> Result<Option<Told>, Unread> {
    look.doing(path.display());
    let Some((parts, whole)) = there(look, whose, path, contents(path, budget))? else { return Ok(None) };
    let mut told = Told::default();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            told.gap();
        }
        for line in part.split(|byte| *byte == b'\n') {
            if look.is_late() {
                told.gap();
                return Ok(Some(told));
            }
            (files.read)(line, &mut told);
        }
    }
    if !whole {
        let most = limits::STORE_FILE_BYTES_MAX >> 20;
        unread(look, whose, path, &format!("it is larger than {most} MB, or too much was read already"));
    } else if told.understood == 0 && parts.iter().any(|part| !part.is_empty()) {
        unread(look, whose, path, &"nothing in it is understood");
    }
    Ok(Some(told))
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
    locked(&look.progress).unread.insert(whose.name.clone());
    look.warn(format!("{}: {}: {why}; it is told incompletely", whose.name, path.display()));
}
