//! The home directory: where it is, that it is ours alone, and that one daemon owns it.
//!
//! Everything inside is without group and other bits, whatever the umask. A home that belongs to another
//! user, lies on a network file system, or has an owner already is refused with the way out.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use thiserror::Error;

use crate::core::vocab::{HostId, RunId, SessionId};
use crate::limits;
use crate::wire::session_dir::RunFiles;

/// First characters of the name of a directory that is being deleted.
const CONDEMNED: &str = ".forgotten-";

/// First characters of the line of the lock file that names the host: its boot and its machine id.
const HOST: &str = "host ";

/// A home directory and the names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    path: PathBuf,
}

/// Why a home cannot be used.
#[derive(Debug, Error)]
pub enum HomeError {
    #[error("neither AGENTCTL_HOME nor HOME is set; set AGENTCTL_HOME to the directory to use")]
    Nowhere,
    #[error("{what} {path}: {source}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("{path} belongs to uid {owner}, not to you (uid {me}); set AGENTCTL_HOME to a directory of your own", path = path.display())]
    NotOurs { path: PathBuf, owner: u32, me: u32 },
    #[error("{path} can be entered by other users (mode {mode:03o}); run: chmod go= {path}", path = path.display())]
    TooOpen { path: PathBuf, mode: u32 },
    #[error("{path} lies on a network file system ({kind}), where locks and renames of another host are not seen; set AGENTCTL_HOME to a local directory", path = path.display())]
    Network { path: PathBuf, kind: &'static str },
    #[error("a daemon already runs for {path} (PID {pid}); see: agentctl daemon status", path = path.display())]
    Taken { path: PathBuf, pid: String },
    #[error(
        "{path} was left by a daemon on another machine (machine id {machine}), and may be in use there; if it is not, run: rm {lock}",
        path = path.display(),
        lock = lock.display()
    )]
    Elsewhere { path: PathBuf, machine: String, lock: PathBuf },
    #[error("the socket path {path} is {length} bytes long, and the kernel takes {max}; set AGENTCTL_HOME to a shorter path", path = path.display(), max = limits::SOCKET_PATH_BYTES_MAX - 1)]
    SocketTooLong { path: PathBuf, length: usize },
}

/// Held for the daemon's life: no second daemon for this home. Its file names the host for as long: what a crash leaves
/// there tells another machine that the home may be in use, since locks of one are not seen on another.
#[derive(Debug)]
pub struct HomeLock {
    file: File,
}

impl Drop for HomeLock {
    fn drop(&mut self) {
        // What stays there makes another machine ask before it takes the home; this one does not mind.
        let _stays = self.file.set_len(0);
    }
}

/// The name of a run's log in its session's directory.
pub(super) fn log_name(run: u32, stream: &str) -> String {
    if run == 1 { format!("{stream}.log") } else { format!("{stream}.{run}.log") }
}

impl Home {
    /// `$AGENTCTL_HOME`, else `~/.agentctl`.
    pub fn from_env() -> Result<Self, HomeError> {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let path = match set("AGENTCTL_HOME") {
            Some(home) => PathBuf::from(home),
            None => PathBuf::from(set("HOME").ok_or(HomeError::Nowhere)?).join(".agentctl"),
        };
        let path =
            std::path::absolute(&path).map_err(|source| HomeError::Io { what: "resolve", path, source })?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn config(&self) -> PathBuf {
        self.path.join("config.json")
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("agentctl.sock")
    }

    pub fn journal(&self) -> PathBuf {
        self.path.join("journal.db")
    }

    pub fn exits(&self) -> PathBuf {
        self.path.join("exits")
    }

    pub fn sessions(&self) -> PathBuf {
        self.path.join("sessions")
    }

    /// What launches that wait will need.
    pub fn queued(&self) -> PathBuf {
        self.path.join("queued")
    }

    /// Notes of worktrees that are being made.
    pub(super) fn worktrees(&self) -> PathBuf {
        self.path.join("worktrees")
    }

    /// The directory of one session. An id has one spelling, so this stays inside.
    pub fn session(&self, id: SessionId) -> PathBuf {
        self.sessions().join(id.to_string())
    }

    /// What a run prints to `stream` (stdout or stderr). Each run has files of its own, so the words of one are never
    /// taken for those of another.
    pub fn log(&self, id: RunId, stream: &str) -> PathBuf {
        self.session(id.session).join(log_name(id.run, stream))
    }

    /// Where the directory of a forgotten session is moved before it is deleted.
    pub fn condemned(&self, id: SessionId) -> PathBuf {
        self.sessions().join(format!("{CONDEMNED}{id}"))
    }

    /// Whether a name in `sessions/` is that of a directory that is being deleted.
    pub fn is_condemned(name: &str) -> bool {
        name.starts_with(CONDEMNED)
    }

    /// Makes `exits/` again after somebody took it away.
    pub fn remake_exits(&self) -> Result<(), HomeError> {
        private_dir(&self.exits())
    }

    /// The files between daemon and shim for one run.
    pub fn run_files(&self, id: RunId) -> RunFiles {
        RunFiles::in_home(&self.path, id)
    }

    /// The file whose lock is the home's.
    pub(super) fn lock_path(&self) -> PathBuf {
        self.path.join("daemon.lock")
    }

    /// Makes what is missing, checks what is there, and takes the lock. `line` is written into the lock file below our
    /// process number, for whoever finds the home taken, and below it the host.
    pub fn prepare(&self, line: &str, host: &HostId) -> Result<HomeLock, HomeError> {
        let length = self.socket().as_os_str().len();
        if length >= limits::SOCKET_PATH_BYTES_MAX {
            return Err(HomeError::SocketTooLong { path: self.socket(), length });
        }
        private_dir(&self.path)?;
        check_local(&self.path)?;
        self.tighten()?;
        check_owner(&self.path)?;
        private_dir(&self.exits())?;
        private_dir(&self.sessions())?;
        private_dir(&self.queued())?;
        self.lock(line, host)
    }

    /// The pid namespace that a daemon of this home was the first process of, and that has ended with it: for whoever
    /// holds the lock now. Notes for the next one whether this daemon (of number `pid`) is such a process.
    pub(super) fn ended_container(&self, host: &HostId, pid: u32) -> Result<Option<u64>, HomeError> {
        let path = self.path.join("container");
        let noted = |what| {
            let path = path.clone();
            move |source| HomeError::Io { what, path, source }
        };
        let said = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            said => Some(said.map_err(noted("read"))?),
        };
        let left: Option<u64> = said.as_deref().and_then(|said| {
            let (boot, pid_ns) = said.trim_end().split_once(' ')?;
            pid_ns.parse().ok().filter(|_| boot == host.boot)
        });
        if pid == 1 && host.pid_ns != 0 {
            let new = self.path.join("container.new");
            fs::write(&new, format!("{} {}\n", host.boot, host.pid_ns)).map_err(noted("write"))?;
            fs::rename(&new, &path).map_err(noted("write"))?;
        } else if said.is_some() && left.is_none_or(|left| left == host.pid_ns) {
            // The number of a namespace is used again.
            fs::remove_file(&path).map_err(noted("remove"))?;
        }
        Ok(left.filter(|left| *left != host.pid_ns))
    }

    /// The earlier agentctl left its home open to whoever may read. That it is ours is not said by the name alone: a
    /// directory that was named by mistake keeps its mode.
    fn tighten(&self) -> Result<(), HomeError> {
        let failed = |what| move |source| HomeError::Io { what, path: self.path.clone(), source };
        let found = fs::metadata(&self.path).map_err(failed("look at"))?;
        let mode = found.permissions().mode() & 0o777;
        let ours = found.uid() == rustix::process::geteuid().as_raw();
        if mode & 0o077 == 0 || !ours || !self.was_of_old_tool() {
            return Ok(());
        }
        fs::set_permissions(&self.path, fs::Permissions::from_mode(0o700)).map_err(failed("protect"))?;
        tracing::warn!(
            "{} could be entered by other users (mode {mode:03o}, as an earlier agentctl left it); now it is yours alone",
            self.path.display()
        );
        Ok(())
    }

    /// Whether no daemon owns it at this moment.
    pub fn is_free(&self) -> bool {
        let Ok(file) = File::open(self.lock_path()) else { return true };
        flock(&file, FlockOperation::NonBlockingLockShared).is_ok()
    }

    fn lock(&self, line: &str, host: &HostId) -> Result<HomeLock, HomeError> {
        let path = self.lock_path();
        let io = |what| {
            let path = path.clone();
            move |source| HomeError::Io { what, path, source }
        };
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("open the lock file"))?;
        if !locked(&file) {
            let said = fs::read_to_string(&path).unwrap_or_default();
            let pid = said.lines().next().filter(|pid| !pid.is_empty()).unwrap_or("unknown").to_owned();
            return Err(HomeError::Taken { path: self.path.clone(), pid });
        }
        let left = fs::read_to_string(&path).ok().and_then(|said| host_in(&said));
        if let Some(left) = left.filter(|left| left.is_another_machine_than(host)) {
            return Err(HomeError::Elsewhere { path: self.path.clone(), machine: left.machine, lock: path });
        }
        file.set_len(0).map_err(io("write the lock file"))?;
        let says = format!("{}\n{line}\n{HOST}{} {}\n", std::process::id(), host.boot, host.machine);
        io::Write::write_all(&mut &file, says.as_bytes()).map_err(io("write the lock file"))?;
        Ok(HomeLock { file })
    }
}

/// The host that a lock file names.
fn host_in(said: &str) -> Option<HostId> {
    let (boot, machine) = said.lines().find_map(|line| line.strip_prefix(HOST))?.split_once(' ')?;
    Some(HostId { machine: machine.to_owned(), boot: boot.to_owned(), pid_ns: 0 })
}

/// Whoever only asks whether the home is free holds the lock for an instant: that is waited out.
fn locked(file: &File) -> bool {
    const LOOKS: u32 = 5;
    (0..LOOKS).any(|look| {
        std::thread::sleep(std::time::Duration::from_millis(if look == 0 { 0 } else { 20 }));
        flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
    })
}

fn private_dir(path: &Path) -> Result<(), HomeError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(HomeError::Io { what: "make the directory", path: path.to_owned(), source }),
    }
}

fn check_owner(path: &Path) -> Result<(), HomeError> {
    let found = fs::metadata(path).map_err(|source| HomeError::Io {
        what: "look at",
        path: path.to_owned(),
        source,
    })?;
    let me = rustix::process::geteuid().as_raw();
    if found.uid() != me {
        return Err(HomeError::NotOurs { path: path.to_owned(), owner: found.uid(), me });
    }
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(HomeError::TooOpen { path: path.to_owned(), mode });
    }
    Ok(())
}

/// File systems whose locks and renames other hosts do not see at once (statfs(2) magic numbers).
const NETWORK: [(u64, &str); 6] = [
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb2"),
    (0x517b, "smb"),
    (0x0102_1997, "9p"),
    (0x00c3_6400, "ceph"),
];

fn check_local(path: &Path) -> Result<(), HomeError> {
    let found = rustix::fs::statfs(path).map_err(|error| HomeError::Io {
        what: "look at the file system of",
        path: path.to_owned(),
        source: error.into(),
    })?;
    let kind = u64::try_from(found.f_type).unwrap_or(0) & 0xffff_ffff;
    match NETWORK.iter().find(|(magic, _)| *magic == kind) {
        Some((_, name)) => Err(HomeError::Network { path: path.to_owned(), kind: name }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_has_ended_when_its_first_process_no_longer_holds_the_home() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home { path: directory.path().to_owned() };
        let ended = |boot: &str, pid_ns, pid| {
            let host = HostId { machine: "m".into(), boot: boot.into(), pid_ns };
            home.ended_container(&host, pid).unwrap()
        };
        assert_eq!(ended("b", 1, 700), None);
        assert_eq!(ended("b", 2, 1), None, "the first of its kind");
        assert_eq!(ended("b", 3, 1), Some(2));
        for _ in 0..2 {
            assert_eq!(ended("b", 1, 700), Some(3), "true for as long as this boot lasts");
        }
        assert_eq!(ended("b", 3, 700), None, "another namespace by now, with the same number");
        assert_eq!(ended("b", 1, 700), None);
        assert_eq!(ended("b", 4, 1), None);
        assert_eq!(ended("c", 5, 700), None, "another boot");
        assert_eq!(ended("b", 5, 700), None, "and it was forgotten");
    }
}
