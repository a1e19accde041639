//! Processes of ours as /proc shows them: command line, program, directory, environment, parents.
//!
//! Owns the reading, in two steps: a cheap look at a command line by number, and a full look at a process that is held
//! by a pidfd first and owns its number afterwards, so that nothing is told of a number that changed hands. Refuses to
//! know what an agent is. What may not be read is left out; a process that is another user's is nobody.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::{fs, str};

use super::{ProcessRef, clock, proc_fs};
use crate::core::vocab::{ProcessId, Wall};

/// A command line is read so far: a prompt in it can be longer than anybody needs.
const CMDLINE_BYTES_MAX: u64 = 64 << 10;
/// And an environment so far.
const ENVIRON_BYTES_MAX: u64 = 256 << 10;
/// Open files that are looked through.
const FILES_MAX: usize = 1_024;
/// Generations of parents that are walked up.
const ANCESTORS_MAX: usize = 128;
/// `/proc/PID/stat` counts time in ticks of 10 ms.
const TICK_US: i64 = 10_000;

/// A process of our own user.
#[derive(Clone, Debug)]
pub struct Shown {
    pub process: ProcessRef,
    pub argv: Vec<String>,
    /// The program file; a deleted one keeps its name.
    pub exe: Option<PathBuf>,
    pub cwd: Option<PathBuf>,
    /// When it started, by the wall clock as it is set now.
    pub started: Wall,
    /// Whether its paths mean the same files to us.
    pub same_files: bool,
    environ: Vec<u8>,
}

impl Shown {
    /// A variable of the environment it was started with.
    pub fn var(&self, name: &str) -> Option<OsString> {
        let variables = self.environ.split(|byte| *byte == 0);
        let value = variables
            .filter_map(|variable| variable.strip_prefix(name.as_bytes()))
            .find_map(|rest| rest.strip_prefix(b"="))?;
        Some(OsStr::from_bytes(value).to_owned())
    }

    /// The paths of the files that it has open, as far as they can be seen.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", self.process.pid())) else { return Vec::new() };
        let links = entries.flatten().take(FILES_MAX).filter_map(|entry| fs::read_link(entry.path()).ok());
        let files = links.filter(|path| path.is_absolute()).collect();
        match self.process.owns_number() {
            Ok(true) => files,
            Ok(false) | Err(_) => Vec::new(),
        }
    }
}

/// Every process number there is.
pub fn numbers() -> io::Result<Vec<u32>> {
    proc_fs::numeric_names("/proc")
}

/// The program and the arguments of whoever has the number now; empty for kernel threads and zombies.
pub fn command_line(pid: u32) -> io::Result<Vec<String>> {
    let bytes = read_bounded(&format!("/proc/{pid}/cmdline"), CMDLINE_BYTES_MAX)?;
    let words = bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
    let mut argv: Vec<String> = words.collect();
    while argv.last().is_some_and(String::is_empty) {
        argv.pop();
    }
    Ok(argv)
}

/// The program file of whoever has the number now.
pub fn program(pid: u32) -> Option<PathBuf> {
    let link = fs::read_link(format!("/proc/{pid}/exe")).ok()?.into_os_string().into_vec();
    let path = link.strip_suffix(b" (deleted)").unwrap_or(&link).to_vec();
    Some(OsString::from_vec(path).into())
}

/// A full look at a process. `None`: there is none of this number, it is another user's, or it is no program (a kernel
/// thread, or one that has ended). `by_number`: without a pidfd, for the portable backend.
pub fn look(pid: u32, by_number: bool) -> io::Result<Option<Shown>> {
    match held(pid, by_number) {
        Err(error) if proc_fs::is_gone(&error) => Ok(None),
        looked => looked,
    }
}

fn held(pid: u32, by_number: bool) -> io::Result<Option<Shown>> {
    let process = if by_number { ProcessRef::by_number(pid)? } else { ProcessRef::at_number(pid)? };
    if !is_ours(pid)? || proc_fs::stat(pid)?.is_zombie() {
        return Ok(None);
    }
    let argv = command_line(pid)?;
    let started = started(process.id());
    let shown = Shown {
        exe: program(pid),
        cwd: fs::read_link(format!("/proc/{pid}/cwd")).ok(),
        started,
        same_files: same_mounts(pid),
        environ: read_bounded(&format!("/proc/{pid}/environ"), ENVIRON_BYTES_MAX).unwrap_or_default(),
        argv,
        process,
    };
    let is_program = !shown.argv.is_empty() && shown.process.owns_number()?;
    Ok(is_program.then_some(shown))
}

/// Whether real and effective user are ours.
fn is_ours(pid: u32) -> io::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ours = rustix::process::geteuid().as_raw().to_string();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    Ok(uids.split_ascii_whitespace().take(2).all(|uid| uid == ours) && !uids.is_empty())
}

/// A process in a container of its own names its files by other paths. What cannot be told is no.
fn same_mounts(pid: u32) -> bool {
    let mounts = |who: &str| fs::read_link(format!("/proc/{who}/ns/mnt")).ok();
    mounts(&pid.to_string()).is_some_and(|theirs| mounts("self") == Some(theirs))
}

/// When a process started, by the wall clock.
pub fn started(id: &ProcessId) -> Wall {
    let (now, up) = (clock::now().wall, clock::since_boot_us());
    let ticks = i64::try_from(id.start_ticks).unwrap_or(i64::MAX);
    Wall(now.0 - (up - ticks.saturating_mul(TICK_US)).max(0))
}

fn read_bounded(path: &str, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Who descends from whom, read once for many questions.
#[derive(Debug, Default)]
pub struct Ancestry {
    seen: HashMap<u32, Option<proc_fs::Stat>>,
}

impl Ancestry {
    /// The process and its parents, the nearest first, each by number and start time, as far as they can be seen.
    pub fn of(&mut self, pid: u32) -> Vec<(u32, u64)> {
        let mut line = Vec::new();
        let mut met = HashSet::new();
        let mut at = pid;
        while line.len() < ANCESTORS_MAX && at != 0 && met.insert(at) {
            let Some(stat) = *self.seen.entry(at).or_insert_with(|| proc_fs::stat(at).ok()) else { break };
            line.push((at, stat.start_ticks));
            at = stat.parent;
        }
        line
    }

    /// The parent of a process; `None`: it has none that can be seen.
    pub fn parent(&mut self, pid: u32) -> Option<u32> {
        self.of(pid).get(1).map(|(parent, _)| *parent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_ourselves() {
        let me = std::process::id();
        let shown = look(me, false).expect("a look").expect("we run");
        assert_eq!(shown.process.pid(), me);
        assert_eq!(shown.cwd, std::env::current_dir().ok());
        assert_eq!(shown.exe, std::env::current_exe().ok());
        assert_eq!(shown.argv, command_line(me).expect("a command line"));
        assert!(shown.same_files, "our own mounts");
        assert_eq!(shown.var("PATH"), std::env::var_os("PATH"));
        assert_eq!(shown.var("PAT"), None, "a name is whole");
        let age = clock::now().wall.since(shown.started);
        assert!(age.as_secs() < 24 * 3600, "{age:?}");
        let line = Ancestry::default().of(me);
        assert_eq!(line[0], (me, shown.process.id().start_ticks));
        assert_eq!(Ancestry::default().parent(me), line.get(1).map(|(pid, _)| *pid));
    }

    #[test]
    fn no_kernel_thread_and_no_free_number_is_a_program() {
        assert!(
            look(u32::MAX >> 1, false).is_err()
                || look(u32::MAX >> 1, false).is_ok_and(|seen| seen.is_none())
        );
        assert_eq!(Ancestry::default().parent(1), None);
    }
}
