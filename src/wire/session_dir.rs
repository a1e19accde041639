//! The files between the daemon and the shim of a run: their names, their formats, who may write which.
//!
//! Frozen once released: a shim outlives the daemon that started it, so every daemon reads the files of older
//! shims. A reader ignores fields it does not know; a change that old readers must not ignore is a new version.
//! Refuses to know what the files mean for a session (the core decides that) and how a process is started.
//! Every file is private (0600) and appears whole or not at all; a failed write leaves nothing behind.
//!
//! In order of time, in the session directory:
//!
//! 0. `created.<run>.json`: the journal's record of the launch ([`CreatedFile`]), for the case that the journal is lost.
//! 1. `launch.<run>.json`, `env.<run>`, `prompt.<run>`, `deadline`: the daemon's order ([`LaunchOrder`], [`Deadline`]).
//!    `deadline` is written again whenever it is moved, and the shim is told by a signal ([`DEADLINE_MOVED`]).
//!    For an agent that is talked to: `input.<run>`, its standard input so far. The daemon appends whole lines and tells
//!    the shim by the same signal; removing the file ends the input. The shim moves lines into the leader's pipe, and
//!    removes it with `prompt.<run>` when the leader has ended.
//! 2. `shim.<run>.json`: the shim's name ([`ShimIdentity`]), locked with flock(2) for as long as the shim lives.
//! 3. `claimed.<run>.json` or `abandoned.<run>.json`: the order again, renamed by the side that owns the launch now.
//! 4. `leader.<run>.json`: the leader's name ([`LeaderIdentity`]), written before the leader may exec.
//! 5. `exit.<run>.tmp`: the end of the run while it is not published. Where the shim is dead and this file reads
//!    whole, it counts like the published one ([`RunFiles::read_unpublished_exit`]).
//! 6. `../../exits/<session>.<run>.json`: the end of the run, published ([`ExitFile`]). Never overwritten: a file
//!    that is in the way is moved to `<name>.rejected`, `<name>.rejected.2`, ...
//! 7. `tree.<run>.json`: nothing of the run is left ([`TreeFile`]). The shim's last word.
//! 8. `verdict.<run>.json`: the daemon's last word, written once it is durable ([`VerdictFile`]), and after it
//!    `exit.<run>.json`, which is the exit file: `exits/` keeps undecided runs only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{
    CWD, FallocateFlags, FlockOperation, OFlags, RenameFlags, fallocate, flock, fstat, renameat_with,
};
use rustix::io::Errno;

pub use self::formats::{
    Cause, CreatedFile, Deadline, ExitFile, LaunchError, LaunchOrder, LeaderIdentity, ShimIdentity,
    ShimMessage, Stage, Stamp, TreeFile, VerdictFile, Version,
};
use self::formats::{Format, LAUNCH_BYTES_MAX, decode, encode};
use crate::core::vocab::RunId;

mod formats;
#[cfg(test)]
mod tests;

/// Mode of every file here, whatever the umask.
pub const FILE_MODE: u32 = 0o600;
/// The signal (SIGURG) that tells a shim that its deadline file is another one, or that its input is longer or removed: harmless to whoever does not expect
/// it, and to any process that it does not concern. A hint; the file is what counts.
pub const DEADLINE_MOVED: u8 = 23;
/// Mode of every directory here, whatever the umask.
pub const DIR_MODE: u32 = 0o700;

/// Disk space set aside for a file before the leader starts.
const RESERVE_BYTES: u64 = 4 << 10;

/// Why a file could not be read. Only [`FileError::Missing`] says anything about the world; the others say
/// something about the file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is none.
    #[error("{}: no such file", .path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// Not a whole file of this format, or one of another run.
    #[error("{}: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// In what way.
        reason: String,
    },
    /// Written by another generation.
    #[error("{}: format version {found}, known is {known}", .path.display())]
    WrongVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// Ours.
        known: u64,
    },
}

impl FileError {
    /// Whether the file may be all that it should be, and only could not be read this time: too many open files, no memory, a
    /// disk that stutters. A link, or a file that is not ours to read, is what lies there and no state of the host.
    fn is_no_answer(&self) -> bool {
        const LIES_THERE: [Errno; 4] = [Errno::LOOP, Errno::NXIO, Errno::ACCESS, Errno::PERM];
        match self {
            Self::Unreadable { source, .. } => {
                !LIES_THERE.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error()))
            }
            Self::Missing { .. } | Self::Malformed { .. } | Self::WrongVersion { .. } => false,
        }
    }
}

/// What was read, where that is an answer: the file, or that it is missing or damaged. The outer error is none.
pub fn answer<T>(read: Result<T, FileError>) -> Result<Result<T, FileError>, FileError> {
    match read {
        Err(error) if error.is_no_answer() => Err(error),
        read @ (Ok(_) | Err(_)) => Ok(read),
    }
}

/// Whether the shim of a run lives, judged by the lock that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShimLock {
    /// The shim lives (or its child has not yet become the leader).
    Held,
    /// The shim is dead.
    Free,
    /// No shim ever took the run, or it withdrew from an abandoned launch.
    NoFile,
}

/// The files of one run.
#[derive(Clone, Debug)]
pub struct RunFiles {
    dir: PathBuf,
    id: RunId,
}

impl RunFiles {
    /// The files of run `id` in the home directory `home`.
    pub fn in_home(home: &Path, id: RunId) -> Self {
        Self { dir: home.join("sessions").join(id.session.to_string()), id }
    }

    /// The files of run number `run` in a session directory; `None` when its name is no session id.
    pub fn in_session_dir(dir: &Path, run: u32) -> Option<Self> {
        let session = dir.file_name()?.to_str()?.parse().ok()?;
        Some(Self { dir: dir.to_owned(), id: RunId { session, run } })
    }

    /// Whose files these are.
    pub fn id(&self) -> RunId {
        self.id
    }

    /// The session directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `exits/`, where exit files are published.
    pub fn exits_dir(&self) -> PathBuf {
        // By name where it can be, so that it is found also when the session directory is gone.
        let home = self.dir.ancestors().nth(2).filter(|home| !home.as_os_str().is_empty());
        home.map_or_else(|| self.dir.join("../../exits"), |home| home.join("exits"))
    }

    /// The published exit file.
    pub fn exit_path(&self) -> PathBuf {
        self.exits_dir().join(exit_file_name(self.id))
    }

    /// The exit file while it is not published.
    pub fn unpublished_exit_path(&self) -> PathBuf {
        self.dir.join(format!("exit.{}.tmp", self.id.run))
    }

    /// The deadline, which belongs to the session.
    pub fn deadline_path(&self) -> PathBuf {
        self.dir.join("deadline")
    }

    /// Name of the environment file, for the launch order.
    pub fn env_name(&self) -> String {
        format!("env.{}", self.id.run)
    }

    /// Name of the prompt file, for the launch order.
    pub fn prompt_name(&self) -> String {
        format!("prompt.{}", self.id.run)
    }

    /// Name of the file with the input of an agent that is talked to, for the launch order.
    pub fn input_name(&self) -> String {
        format!("input.{}", self.id.run)
    }

    /// Removes what was to be said to an agent, and what was said: with the run's end nobody needs either.
    pub fn remove_input(&self) -> io::Result<()> {
        for name in [self.input_name(), self.prompt_name()] {
            match fs::remove_file(self.dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn json(&self, kind: &str) -> String {
        format!("{kind}.{}.json", self.id.run)
    }

    /// Removes what writers of this run that were killed left half written: earlier daemons, and the shim if that is
    /// dead. A secret may be in it. Daemon only.
    pub fn sweep_half_written(&self, shim_is_dead: bool) -> io::Result<()> {
        let by_daemons = [
            self.env_name(),
            self.prompt_name(),
            self.input_name(),
            self.json("launch"),
            self.json("created"),
            self.json("verdict"),
            "deadline".to_owned(),
        ];
        let by_shims = [self.json("shim"), self.json("leader"), self.json("exit")];
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let Some((target, writer)) = name.to_str().and_then(half_written) else { continue };
            let dead = by_daemons.iter().any(|name| name == target)
                || (shim_is_dead && by_shims.iter().any(|name| name == target));
            if dead && writer != process::id() {
                fs::remove_file(self.dir.join(&name))?;
            }
        }
        Ok(())
    }

    /// Gives the order that a shim may claim. Daemon only.
    pub fn write_launch(&self, order: &LaunchOrder) -> io::Result<()> {
        write(&self.dir, &self.json("launch"), order)
    }

    /// Keeps the record of the launch beside the journal. Daemon only.
    pub fn write_created(&self, created: &CreatedFile) -> io::Result<()> {
        write(&self.dir, &self.json("created"), created)
    }

    /// Replaces the deadline of the session. Daemon only.
    pub fn write_deadline(&self, deadline: &Deadline) -> io::Result<()> {
        write(&self.dir, "deadline", deadline)
    }

    /// Records the leader. Shim only.
    pub fn write_leader(&self, leader: &LeaderIdentity) -> io::Result<()> {
        write(&self.dir, &self.json("leader"), leader)
    }

    /// Sets disk space aside for [`RunFiles::write_tree`], so that the last word can be said on a full disk as well.
    /// Shim only.
    pub fn reserve_tree(&self) -> io::Result<()> {
        set_space_aside(&self.open_tree()?)
    }

    /// Records that the tree is gone. Shim only.
    pub fn write_tree(&self, tree: &TreeFile) -> io::Result<()> {
        let bytes = encode(tree)?;
        let mut file = self.open_tree()?;
        file.write_all(&bytes)?;
        file.set_len(bytes.len() as u64)?;
        fs::rename(self.unwritten_tree_path(), self.dir.join(self.json("tree")))
    }

    /// Not truncated: that would give the reserved space back.
    fn open_tree(&self) -> io::Result<File> {
        let path = self.unwritten_tree_path();
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
        settle_mode(&file, FILE_MODE)?;
        Ok(file)
    }

    fn unwritten_tree_path(&self) -> PathBuf {
        self.dir.join(format!("tree.{}.tmp", self.id.run))
    }

    /// The record of the launch.
    /// Whether there is a `created.<run>.json`.
    pub fn has_created(&self) -> bool {
        self.dir.join(self.json("created")).exists()
    }

    /// Reads `created.<run>.json`.
    pub fn read_created(&self) -> Result<CreatedFile, FileError> {
        self.read_own("created")
    }

    /// The verdict, as it was written down.
    pub fn read_verdict(&self) -> Result<VerdictFile, FileError> {
        let path = self.verdict_path();
        let bytes = read_bounded(&path, LAUNCH_BYTES_MAX)?;
        let malformed = |reason: String| FileError::Malformed { path: path.clone(), reason };
        let file: VerdictFile =
            serde_json::from_slice(&bytes).map_err(|error| malformed(error.to_string()))?;
        let of = RunId { session: file.id, run: file.run };
        if of == self.id { Ok(file) } else { Err(malformed(format!("speaks of run {of}"))) }
    }

    /// The verdict, for people, programs and a daemon that finds no journal.
    pub fn verdict_path(&self) -> PathBuf {
        self.dir.join(self.json("verdict"))
    }

    /// The exit file of a run that is decided.
    pub fn archived_exit_path(&self) -> PathBuf {
        self.dir.join(self.json("exit"))
    }

    /// What [`RunFiles::archived_exit_path`] says.
    pub fn read_archived_exit(&self) -> Result<ExitFile, FileError> {
        self.read_own("exit")
    }

    /// The order while nobody has claimed it.
    pub fn read_launch(&self) -> Result<LaunchOrder, FileError> {
        self.read_own("launch")
    }

    /// The order that a shim has claimed.
    pub fn read_claimed(&self) -> Result<LaunchOrder, FileError> {
        self.read_own("claimed")
    }

    /// The shim's name.
    pub fn read_shim(&self) -> Result<ShimIdentity, FileError> {
        self.read_own("shim")
    }

    /// The leader's name.
    pub fn read_leader(&self) -> Result<LeaderIdentity, FileError> {
        self.read_own("leader")
    }

    /// The end of the tree.
    pub fn read_tree(&self) -> Result<TreeFile, FileError> {
        self.read_own("tree")
    }

    /// The deadline of the session.
    pub fn read_deadline(&self) -> Result<Deadline, FileError> {
        read(&self.deadline_path())
    }

    /// The published end of this run.
    pub fn read_exit(&self) -> Result<ExitFile, FileError> {
        read_of_run(&self.exit_path(), self.id)
    }

    /// The end of this run that its shim could not publish before it died. To be asked only when
    /// [`RunFiles::shim_lock`] is free: a living shim is about to publish it.
    pub fn read_unpublished_exit(&self) -> Result<ExitFile, FileError> {
        read_of_run(&self.unpublished_exit_path(), self.id)
    }

    fn read_own<T: Format>(&self, kind: &str) -> Result<T, FileError> {
        read_of_run(&self.dir.join(self.json(kind)), self.id)
    }

    /// Takes the launch for the shim. False: the daemon has abandoned it, or there is no order.
    pub fn claim(&self) -> io::Result<bool> {
        self.decide_launch("claimed")
    }

    /// Takes the launch away from a shim that has not come. False: a shim has claimed it, or there is no order.
    pub fn abandon(&self) -> io::Result<bool> {
        self.decide_launch("abandoned")
    }

    /// Takes away what an earlier life left of a launch that no shim claimed, so that it can be ordered again. A shim of
    /// that life which comes as late as now competes for the new order like any other. Daemon only.
    pub fn forget_unclaimed(&self) -> io::Result<()> {
        let path = |kind| self.dir.join(self.json(kind));
        if fs::exists(path("claimed"))? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a shim has claimed it"));
        }
        let lock_is_free = self.shim_lock()? == ShimLock::Free;
        for (kind, stale) in [("abandoned", true), ("shim", lock_is_free)] {
            if !stale {
                continue;
            }
            match fs::remove_file(path(kind)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// One name, two renames away from it: the kernel lets exactly one succeed.
    fn decide_launch(&self, verdict: &str) -> io::Result<bool> {
        match rename_new(&self.dir.join(self.json("launch")), &self.dir.join(self.json(verdict))) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes the calling shim the owner of the run: from now until the returned file is closed, and so at the
    /// latest until the shim dies, [`RunFiles::shim_lock`] is held. `None`: another shim has been here.
    pub fn own(&self, identity: &ShimIdentity) -> io::Result<Option<File>> {
        let fill = |file: &mut File| {
            // Locked before it has its name: whoever can open the file by name finds the lock held.
            flock(&*file, FlockOperation::LockExclusive)?;
            file.write_all(&encode(identity)?)
        };
        match create_and_place(&self.dir, &self.json("shim"), FILE_MODE, fill, rename_new) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Withdraws from a launch that was abandoned. Only for the shim that owns the run.
    pub fn disown(&self) -> io::Result<()> {
        fs::remove_file(self.dir.join(self.json("shim")))
    }

    /// Whether the shim lives. Asking takes the lock shared for a moment, so it never looks held to another asker.
    pub fn shim_lock(&self) -> io::Result<ShimLock> {
        let file = match File::open(self.dir.join(self.json("shim"))) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ShimLock::NoFile),
            Err(error) => return Err(error),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(ShimLock::Free),
            Err(Errno::WOULDBLOCK) => Ok(ShimLock::Held),
            Err(error) => Err(error.into()),
        }
    }
}

/// Name of the file in the session directory that takes the output of a hook.
pub fn hook_log_name(run: u32, hook: &str) -> String {
    format!("hook.{run}.{hook}.log")
}

/// Name of the exit file of a run in `exits/`.
pub fn exit_file_name(id: RunId) -> String {
    format!("{id}.json")
}

/// The run whose exit file has this name; `None` for any other file (temporary, rejected, foreign).
pub fn parse_exit_file_name(name: &str) -> Option<RunId> {
    let (session, run) = name.strip_suffix(".json")?.split_once('.')?;
    let id = RunId { session: session.parse().ok()?, run: run.parse().ok()? };
    (exit_file_name(id) == name).then_some(id)
}

/// The content of an exit file, as bytes to write.
pub fn encode_exit(exit: &ExitFile) -> io::Result<Vec<u8>> {
    encode(exit)
}

/// The exit file in `bytes`, which came from `path`. Total: any bytes give an answer.
pub fn decode_exit(path: &Path, bytes: &[u8]) -> Result<ExitFile, FileError> {
    decode(path, bytes)
}

/// Sets aside the space that one of these files needs, and not the length: a file that is complete ends where it ends.
pub fn set_space_aside(file: &File) -> io::Result<()> {
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, RESERVE_BYTES) {
        // A file system that cannot promise space is no reason not to launch.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Creates a directory that is ours alone, whatever the umask.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(DIR_MODE).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(DIR_MODE))
}

/// Gives a file that was just opened its mode where the umask, or whoever made it before, has left it another: a change is
/// one of the file system's journal, and mostly there is none to make.
pub fn settle_mode(file: &File, mode: u32) -> io::Result<()> {
    if fstat(file)?.st_mode & 0o7777 == mode {
        return Ok(());
    }
    file.set_permissions(fs::Permissions::from_mode(mode))
}

/// Writes a file so that it appears whole or not at all, replacing what had its name. Not synced to disk: it
/// survives the death of any process, and what a power loss leaves of a run is decided by its boot id.
pub fn write_atomic(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let fill = |file: &mut File| file.write_all(bytes);
    create_and_place(dir, name, mode, fill, |from, to| fs::rename(from, to)).map(drop)
}

/// Renames without ever replacing: `AlreadyExists` when the new name is taken.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from)
}

/// Creates a file under a temporary name, lets `fill` complete it and `place` give it its name.
fn create_and_place(
    dir: &Path,
    name: &str,
    mode: u32,
    fill: impl FnOnce(&mut File) -> io::Result<()>,
    place: impl FnOnce(&Path, &Path) -> io::Result<()>,
) -> io::Result<File> {
    // Number and process make the name unique among living writers; `truncate` takes over a dead one's.
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let serial = NEXT.fetch_add(1, Ordering::Relaxed);
    let temp = dir.join(format!(".{name}.{}.{serial}.tmp", process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temp)?;
    let placed =
        settle_mode(&file, mode).and_then(|()| fill(&mut file)).and_then(|()| place(&temp, &dir.join(name)));
    if placed.is_err() {
        let _ = fs::remove_file(&temp);
    }
    placed.map(|()| file)
}

/// Which file a temporary one was to become, and the process that wrote it.
fn half_written(name: &str) -> Option<(&str, u32)> {
    let (rest, _serial) = name.strip_prefix('.')?.strip_suffix(".tmp")?.rsplit_once('.')?;
    let (target, writer) = rest.rsplit_once('.')?;
    Some((target, writer.parse().ok()?))
}

fn write<T: Format>(dir: &Path, name: &str, content: &T) -> io::Result<()> {
    write_atomic(dir, name, &encode(content)?, FILE_MODE)
}

fn read<T: Format>(path: &Path) -> Result<T, FileError> {
    decode(path, &read_bounded(path, T::BYTES_MAX)?)
}

fn read_of_run<T: Format>(path: &Path, id: RunId) -> Result<T, FileError> {
    let content: T = read(path)?;
    match content.id() {
        Some(other) if other != id => {
            Err(FileError::Malformed { path: path.to_owned(), reason: format!("speaks of run {other}") })
        }
        Some(_) | None => Ok(content),
    }
}

/// Reads a regular file of bounded size. A planted link, pipe or device is refused and never waited for.
fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, FileError> {
    let unreadable = |source: io::Error| {
        let path = path.to_owned();
        let missing = source.kind() == io::ErrorKind::NotFound;
        if missing { FileError::Missing { path } } else { FileError::Unreadable { path, source } }
    };
    let malformed = |reason: String| FileError::Malformed { path: path.to_owned(), reason };
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(malformed("not a regular file".to_owned()));
    }
    if metadata.len() > bytes_max {
        return Err(malformed(format!("{} bytes, at most {bytes_max} are expected", metadata.len())));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(bytes_max).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}
