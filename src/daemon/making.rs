//! The note that a worktree is being made: in the home before git begins, gone when git is done, and locked for as long as
//! a git that was begun under it lives, whoever else dies meanwhile.
//!
//! So whoever finds a worktree half made can tell one of ours, which is worth nothing, from one that somebody else is
//! making. Refuses to know git.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::limits;
use crate::sys::clock;
use crate::sys::tool::LeashEnd;
use crate::wire::{hex, session_dir};

/// A git of an earlier life is looked at so often: it tells nobody when it is done.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The note of one worktree, for whoever is to see to that worktree now. Gone with it, unless it is to stay.
pub(super) struct Making {
    path: PathBuf,
    file: File,
    was_begun: bool,
    stays: bool,
}

impl Making {
    /// Takes the note of a worktree, once no git of ours is at that any more. The error is for the user. Blocks.
    pub(super) fn of(notes: &Path, worktree: &str, leash: &LeashEnd) -> Result<Self, String> {
        let name = hex(&Sha256::digest(worktree)[..16]);
        let path = notes.join(name);
        let failed = |error: io::Error| format!("note that it is being made, {}: {error}", path.display());
        match session_dir::create_private_dir(notes) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(session_dir::FILE_MODE);
        let file = options.open(&path).map_err(failed)?;
        let until = clock::now().mono.after(limits::WORKTREE_TIMEOUT);
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if clock::now().mono < until => {
                    if leash.is_let_go_within(LOOK_EVERY) {
                        return Err("the daemon stops".to_owned());
                    }
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let why = "a git that an earlier daemon began is still making it; wait for it, or end it";
                    return Err(why.to_owned());
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        let was_begun = file.metadata().map_err(failed)?.len() > 0;
        Ok(Self { path, file, was_begun, stays: false })
    }

    /// Whether a git was begun under it of which nobody has seen the end.
    pub(super) fn was_begun(&self) -> bool {
        self.was_begun
    }

    /// Notes that a git begins now, which is to have the file open for as long as it lives.
    pub(super) fn begin(&mut self, worktree: &str) -> io::Result<File> {
        self.file.rewind()?;
        self.file.write_all(worktree.as_bytes())?;
        self.file.try_clone()
    }

    /// Nobody has seen the end of that git, or what it left is still there.
    pub(super) fn stay(&mut self) {
        self.stays = true;
    }

    /// All is as if it had never been begun, or as it was to be.
    pub(super) fn is_done(&mut self) {
        self.stays = false;
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // One that stays by mistake costs a look at the next launch there.
        let _stays = if self.stays { Ok(()) } else { fs::remove_file(&self.path) };
    }
}
