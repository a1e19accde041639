//! Publishing the exit file, also on a full disk and over whatever lies in its way.
//!
//! Owns the unpublished file and its way into `exits/`. Refuses to know what the file says and when to try again.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use agentctl::wire::session_dir::{FILE_MODE, RunFiles, rename_new, set_space_aside, settle_mode};

use crate::complain;

/// Files moved out of the way that are kept; more of them are no accident.
const REJECTED_MAX: u32 = 1_000;

/// The place of one exit file.
pub(crate) struct ExitSlot {
    unpublished: PathBuf,
    published: PathBuf,
    exits: PathBuf,
    /// The unpublished file, opened ahead of the end, when every microsecond is somebody's waiting.
    open: Option<Open>,
    /// The published file.
    file: Option<File>,
}

/// A file that is closed for writing before it is published: the last close of one that was written to is news to
/// whoever watches `exits/`, and would have it read twice.
struct Open {
    to_write: File,
    /// Kept, and enough to sync it.
    to_read: File,
}

impl Open {
    fn written(self, content: &[u8]) -> io::Result<File> {
        let Self { to_write, to_read } = self;
        to_write.write_all_at(content, 0)?;
        if to_write.metadata()?.len() > content.len() as u64 {
            to_write.set_len(content.len() as u64)?;
        }
        Ok(to_read)
    }
}

impl ExitSlot {
    /// The place of the exit file of this run.
    pub(crate) fn of(files: &RunFiles) -> Self {
        Self {
            unpublished: files.unpublished_exit_path(),
            published: files.exit_path(),
            exits: files.exits_dir(),
            open: None,
            file: None,
        }
    }

    /// Opens the file now rather than at the end of the run.
    pub(crate) fn opened(mut self) -> Self {
        // What fails now is tried again, and reported, when there is something to write.
        self.open = self.open().ok();
        self
    }

    /// Sets disk space aside, so that the end of the run can be written whatever happens to the disk meanwhile.
    pub(crate) fn reserve(&self) -> io::Result<()> {
        set_space_aside(&self.open()?.to_write)
    }

    /// Writes the file and publishes it. After an error it is complete but unpublished, and one may try again.
    pub(crate) fn publish(&mut self, content: &[u8]) -> io::Result<()> {
        // After an error the file may be another one, or none: the next attempt opens it again.
        let mut file = self.open.take().map_or_else(|| self.open(), Ok)?.written(content)?;
        loop {
            match rename_new(&self.unpublished, &self.published) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.reject()?,
                // Something is mounted over `exits/`; what is there now is where the daemon looks.
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                    file = self.publish_abroad(content)?;
                    break;
                }
                Err(error) => return Err(error),
                Ok(()) => break,
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// On a file system other than that of the session directory: whole or not at all there as well. The unpublished
    /// file stays, and says the same.
    fn publish_abroad(&self, content: &[u8]) -> io::Result<File> {
        let mut hidden = OsString::from(".");
        hidden.push(self.published.file_name().unwrap_or_default());
        hidden.push(".tmp");
        let hidden = self.exits.join(hidden);
        let file = opened(&hidden)?.written(content)?;
        loop {
            match rename_new(&hidden, &self.published) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.reject()?,
                Err(error) => return Err(error),
                Ok(()) => return Ok(file),
            }
        }
    }

    /// Makes a published file survive a power loss. Nobody waits for this: see `supervise`.
    pub(crate) fn sync(&self) -> io::Result<()> {
        if let Some(file) = &self.file {
            file.sync_all()?;
        }
        File::open(&self.exits)?.sync_all()
    }

    fn open(&self) -> io::Result<Open> {
        opened(&self.unpublished)
    }

    /// Moves away what is not ours but has our name.
    fn reject(&self) -> io::Result<()> {
        for number in 1..=REJECTED_MAX {
            let aside = rejected_path(&self.published, number);
            match rename_new(&self.published, &aside) {
                Ok(()) => {
                    complain(format_args!(
                        "an exit file that is not ours was in the way: {}",
                        aside.display()
                    ));
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }
}

/// Not truncated: that would give the reserved space back.
fn opened(path: &Path) -> io::Result<Open> {
    let to_write = OpenOptions::new().write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?;
    settle_mode(&to_write, FILE_MODE)?;
    Ok(Open { to_write, to_read: File::open(path)? })
}

/// `<name>.rejected`, `<name>.rejected.2`, ...
fn rejected_path(published: &Path, number: u32) -> PathBuf {
    let mut path = published.as_os_str().to_owned();
    path.push(".rejected");
    if number > 1 {
        path.push(format!(".{number}"));
    }
    path.into()
}
