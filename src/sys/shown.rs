//! Processes of ours as /proc shows them: command line, program, directory, environment, parents.
//!
//! Owns the reading, in two steps: a cheap look at a command line by number, and a full look at a process that is held
//! by a pidfd first and owns its number afterwards, so that nothing is told of a number that changed hands. Refuses to
//! know what an agent is. What may not be read is left out; a process that is another user's is nobody.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::{fs, str};

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};

use super::{ProcessRef, clock, proc_fs};
use crate::core::vocab::{ProcessId, Wall};

/// A command line is read so far: a prompt in it can be longer than anybody needs.
const CMDLINE_BYTES_MAX: usize = 64 << 10;
/// Most command lines are much shorter.
const LINE_BYTES: usize = 4 << 10;
/// Names of /proc that are read at once.
const NAMES_BYTES: usize = 32 << 10;
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

/// A number in /proc, and the inode of its directory: another one means another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numbered {
    pub pid: u32,
    inode: u64,
}

/// /proc, held open for a cheap look at whoever has the numbers now.
#[derive(Debug)]
pub struct Crowd {
    proc: OwnedFd,
    line: Vec<u8>,
}

impl Crowd {
    pub fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self {
            proc: rustix::fs::open("/proc", flags, Mode::empty())?,
            line: Vec::with_capacity(LINE_BYTES),
        })
    }

    /// Every process number there is.
    pub fn numbers(&self) -> io::Result<Vec<Numbered>> {
        // From the first one on, also a second time.
        rustix::fs::seek(&self.proc, SeekFrom::Start(0))?;
        let mut buffer = Vec::with_capacity(NAMES_BYTES);
        let mut entries = RawDir::new(&self.proc, buffer.spare_capacity_mut());
        let mut found = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if let Some(pid) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) {
                found.push(Numbered { pid, inode: entry.ino() });
            }
        }
        Ok(found)
    }

    /// The program and the arguments; empty for kernel threads, zombies, and in the moment of an execve(2).
    pub fn command_line(&mut self, pid: u32) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.proc, format!("{pid}/cmdline"), flags, Mode::empty())?;
        self.line.clear();
        loop {
            let room = self.line.capacity() - self.line.len();
            let read = rustix::io::retry_on_intr(|| {
                rustix::io::read(&file, rustix::buffer::spare_capacity(&mut self.line))
            })?;
            // It gives as much as there is room for, or all.
            if read < room || self.line.len() >= CMDLINE_BYTES_MAX {
                break;
            }
            self.line.reserve(CMDLINE_BYTES_MAX - self.line.len());
        }
        Ok(words(&self.line))
    }

    /// The program file.
    pub fn program(&self, pid: u32) -> Option<PathBuf> {
        let link = rustix::fs::readlinkat(&self.proc, format!("{pid}/exe"), Vec::new()).ok()?;
        Some(without_mark(link.into_bytes()))
    }
}

/// Whether the number is a kernel thread's. What cannot be told is no.
pub fn is_of_kernel(pid: u32) -> bool {
    proc_fs::stat(pid).is_ok_and(|stat| stat.is_of_kernel())
}

/// The program and the arguments of whoever has the number now; empty for kernel threads and zombies.
fn command_line(pid: u32) -> io::Result<Vec<String>> {
    Ok(words(&read_bounded(&format!("/proc/{pid}/cmdline"), CMDLINE_BYTES_MAX as u64)?))
}

fn words(line: &[u8]) -> Vec<String> {
    let line = &line[..line.len() - line.iter().rev().take_while(|byte| **byte == 0).count()];
    if line.is_empty() {
        return Vec::new();
    }
    line.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// The program file of whoever has the number now.
fn program(pid: u32) -> Option<PathBuf> {
    Some(without_mark(fs::read_link(format!("/proc/{pid}/exe")).ok()?.into_os_string().into_vec()))
}

fn without_mark(mut link: Vec<u8>) -> PathBuf {
    let deleted = b" (deleted)";
    if link.ends_with(deleted) {
        link.truncate(link.len() - deleted.len());
    }
    OsString::from_vec(link).into()
}

/// A full look at a process. `None`: there is none of this number, it is another user's, or it shows no command line (a
/// kernel thread, one that has ended, one in the moment of an execve(2)). `by_number`: without a pidfd, for the portable
/// backend.
pub fn look(pid: u32, by_number: bool) -> io::Result<Option<Shown>> {
    Ok(look_at_any(pid, by_number)?.filter(|shown| !shown.argv.is_empty()))
}

/// The same, and a process that hides its command line is shown without one. `None`: there is no program of ours of this
/// number.
pub fn look_at_any(pid: u32, by_number: bool) -> io::Result<Option<Shown>> {
    match held(pid, by_number) {
        Err(error) if proc_fs::is_gone(&error) => Ok(None),
        looked => looked,
    }
}

fn held(pid: u32, by_number: bool) -> io::Result<Option<Shown>> {
    let process = if by_number { ProcessRef::by_number(pid)? } else { ProcessRef::at_number(pid)? };
    let stat = proc_fs::stat(pid)?;
    if !is_ours(pid)? || stat.is_zombie() || stat.is_of_kernel() {
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
    let same = shown.process.owns_number()?;
    Ok(same.then_some(shown))
}

/// Whether real and effective user are ours.
fn is_ours(pid: u32) -> io::Result<bool> {
    let ours = rustix::process::geteuid().as_raw();
    let users = proc_fs::users(pid)?;
    Ok(users.iter().take(2).all(|user| *user == ours) && !users.is_empty())
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

    /// A process by number and start time.
    pub fn one(&mut self, pid: u32) -> Option<(u32, u64)> {
        let stat = (*self.seen.entry(pid).or_insert_with(|| proc_fs::stat(pid).ok()))?;
        Some((pid, stat.start_ticks))
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
    fn a_cheap_look_reads_what_a_full_one_reads() {
        let long = "x".repeat(3 * LINE_BYTES);
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read -r line", "sh", &long])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .expect("sh starts");
        let mut crowd = Crowd::open().expect("/proc");
        for pid in [std::process::id(), child.id()] {
            let shown = look(pid, false).expect("a look").expect("it runs");
            assert_eq!(crowd.command_line(pid).expect("a command line"), shown.argv);
            assert_eq!(crowd.program(pid), shown.exe);
            let met = |crowd: &Crowd| crowd.numbers().expect("numbers").into_iter().find(|it| it.pid == pid);
            assert!(met(&crowd).is_some(), "{pid}");
            assert!(!is_of_kernel(pid));
        }
        drop(child.stdin.take());
        child.wait().expect("its end");
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
