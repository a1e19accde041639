//! Conversations that are files: found in their directories and read within bounds.
//!
//! Only regular files are read: a pipe in a store would never answer. What is larger than the bound is read at both ends.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::adapters::found::{Files, Registered, Search, Told};
use crate::core::vocab::Wall;
use crate::limits;

use super::scan::{Agent, Conversation, Job};

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
pub(super) fn registered(job: &Job, agent: &Agent, files: &Files, budget: &mut Budget) -> Option<Registered> {
    let registry = files.registry?;
    if !agent.line[0].same_files {
        return None;
    }
    for shown in &agent.line {
        let id = shown.process.id();
        let path = job.env(agent, |look| (registry.file)(look, id.pid));
        job.doing(path.display());
        let bytes = match open_regular(&path).and_then(|mut file| note(&mut file, budget)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                unread(job, agent, &path, &error);
                continue;
            }
        };
        match (registry.read)(&bytes) {
            // One of an earlier process with this number is nobody's any more.
            Some(told) if told.start_ticks.is_none_or(|ticks| ticks == id.start_ticks) => return Some(told),
            Some(_) => {}
            None => unread(job, agent, &path, &"it is not understood"),
        }
    }
    None
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
    job: &Job,
    agent: &Agent,
    files: &Files,
    id: Option<&str>,
    is_free: &dyn Fn(&str) -> bool,
    budget: &mut Budget,
) -> Option<Conversation> {
    let search = Search { native_id: id, started: agent.found.started, now: job.began.wall };
    let dirs = job.env(agent, |look| (files.dirs)(look, &search));
    let Some(id) = id else { return only_one(job, agent, files, &dirs, is_free, budget) };
    let mut path = in_dirs(job, agent, files, &dirs, id, budget);
    if path.is_none()
        && let Some(above) = files.anywhere_in
    {
        let above = job.env(agent, above);
        let dirs = names(job, agent, &above, budget);
        path = in_dirs(job, agent, files, &dirs, id, budget);
    }
    let told = path.and_then(|path| read(job, agent, files, &path, budget));
    told.map(|(told, whole)| conversation_of(id.to_owned(), told, whole))
}

fn conversation_of(native_id: String, told: Told, whole: bool) -> Conversation {
    let tokens = told.tokens(whole);
    let cost_usd = told.cost_usd;
    Conversation { native_id, model: told.model, prompt: told.prompt, tokens, cost_usd }
}

fn in_dirs(
    job: &Job,
    agent: &Agent,
    files: &Files,
    dirs: &[PathBuf],
    id: &str,
    budget: &mut Budget,
) -> Option<PathBuf> {
    dirs.iter().find_map(|dir| {
        names(job, agent, dir, budget).into_iter().find(|path| id_of(files, path) == Some(id))
    })
}

fn id_of<'a>(files: &Files, path: &'a Path) -> Option<&'a str> {
    (files.id_of)(path.file_name()?.to_str()?)
}

/// Nothing names the conversation: it is the only one that was written to since the process started, or unknown.
fn only_one(
    job: &Job,
    agent: &Agent,
    files: &Files,
    dirs: &[PathBuf],
    is_free: &dyn Fn(&str) -> bool,
    budget: &mut Budget,
) -> Option<Conversation> {
    let since = agent.found.started.0 - SLACK_US;
    let paths = dirs.iter().flat_map(|dir| names(job, agent, dir, budget)).collect::<Vec<_>>();
    let candidates = paths.into_iter().filter(|path| {
        id_of(files, path).is_some_and(is_free) && modified(path).is_some_and(|at| at.0 >= since)
    });
    let candidates: Vec<_> = candidates.take(limits::STORE_CANDIDATES_MAX + 1).collect();
    if candidates.len() > limits::STORE_CANDIDATES_MAX {
        return None;
    }
    let mut found = None;
    for path in candidates {
        let Some((told, whole)) = read(job, agent, files, &path, budget) else { continue };
        if told.cwd.as_ref().is_some_and(|cwd| *cwd != agent.found.cwd) {
            continue;
        }
        let id = id_of(files, &path)?.to_owned();
        if found.replace(conversation_of(id, told, whole)).is_some() {
            return None;
        }
    }
    found
}

fn modified(path: &Path) -> Option<Wall> {
    let since = fs::metadata(path).ok()?.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
    Some(Wall(i64::try_from(since.as_micros()).ok()?))
}

/// The paths in a directory; none where it is not there.
fn names(job: &Job, agent: &Agent, dir: &Path, budget: &mut Budget) -> Vec<PathBuf> {
    job.doing(dir.display());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            unread(job, agent, dir, &error);
            return Vec::new();
        }
    };
    let mut paths = Vec::new();
    for entry in entries.flatten() {
        if budget.names == 0 || job.is_late() {
            unread(job, agent, dir, &"there are too many names in it for one look");
            break;
        }
        budget.names -= 1;
        paths.push(entry.path());
    }
    paths
}

/// What a conversation's file tells, and whether all of it was read.
fn read(job: &Job, agent: &Agent, files: &Files, path: &Path, budget: &mut Budget) -> Option<(Told, bool)> {
    job.doing(path.display());
    match contents(path, budget) {
        Ok((parts, whole)) => {
            let mut told = Told::default();
            for part in &parts {
                for line in part.split(|byte| *byte == b'\n') {
                    if job.is_late() {
                        return Some((told, false));
                    }
                    (files.read)(line, &mut told);
                }
            }
            if !whole {
                let most = limits::STORE_FILE_BYTES_MAX >> 20;
                unread(
                    job,
                    agent,
                    path,
                    &format!("it is larger than {most} MB, or too much was read already"),
                );
            } else if told.understood == 0 && parts.iter().any(|part| !part.is_empty()) {
                unread(job, agent, path, &"nothing in it is understood");
            }
            Some((told, whole))
        }
        Err(error) => {
            unread(job, agent, path, &error);
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
pub(super) fn unread(job: &Job, agent: &Agent, path: &Path, why: &dyn std::fmt::Display) {
    job.warn(format!(
        "{} (PID {}): {}: {why}; it is told incompletely",
        agent.found.adapter,
        agent.found.process.pid,
        path.display()
    ));
}
