//! What keeping a log to its size takes of the kernel: word that it was written to, holes, and where data begins.
//!
//! The agent appends to its log itself and is never asked: what is too much at the head becomes a hole, so no byte that
//! stays changes its place, and nobody's descriptor notices. Refuses to know how large a log may be.
#![expect(unsafe_code, reason = "F_NOTIFY is a fcntl(2) that rustix does not offer")]

use std::ffi::c_int;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::without::{Lack, refuse};

/// `DN_MODIFY` of fcntl(2): a file in the directory was written to.
const DN_MODIFY: c_int = 2;

/// A file system with smaller blocks takes holes of this size as well.
const BLOCK_BYTES_MIN: u64 = 4 << 10;

/// Sends SIGIO to this process, once, when a file in the directory is next written to; nothing before that, and nothing
/// after it until it is asked for again. For a process that keeps that signal blocked: it would die of it. `InvalidInput`:
/// this kernel does not (fs.dir-notify-enable, CONFIG_DNOTIFY).
///
/// Not inotify(7), of which a user has 128 instances, and there is a shim for each run.
pub fn signal_next_write(dir: BorrowedFd<'_>) -> io::Result<()> {
    refuse(Lack::DirNotify)?;
    // SAFETY: a fcntl(2) with a number for its argument.
    match unsafe { libc::fcntl(dir.as_raw_fd(), libc::F_NOTIFY, DN_MODIFY) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether [`signal_next_write`] can be had here, asked without it.
pub fn can_signal_writes() -> io::Result<()> {
    refuse(Lack::DirNotify)?;
    let enabled = std::fs::read_to_string("/proc/sys/fs/dir-notify-enable")?;
    if enabled.trim() == "0" { Err(io::Error::other("fs.dir-notify-enable is 0")) } else { Ok(()) }
}

/// The unit of holes in a file whose metadata says `block`.
pub fn hole_unit(block: u64) -> u64 {
    block.max(BLOCK_BYTES_MIN)
}

/// Makes a hole of the first `to` bytes, a multiple of [`hole_unit`]. Its length stays.
pub fn cut_head(file: impl AsFd, to: u64) -> io::Result<()> {
    refuse(Lack::Holes)?;
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::io::retry_on_intr(|| fallocate(&file, flags, 0, to))?)
}

/// Where the first data at or after `from` is; `None`: nothing but holes, or the end. A file system that does not tell has data
/// everywhere. Moves the descriptor's place, so it must be one's own.
pub fn first_data(file: impl AsFd, from: u64) -> io::Result<Option<u64>> {
    match seek(file, SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(from)),
        Err(error) => Err(error.into()),
    }
}

/// Whether files in this directory can have holes made into them, and show them: tried with a file that is gone at once.
pub fn prove_holes(dir: &Path) -> io::Result<()> {
    refuse(Lack::Holes)?;
    let path = dir.join(format!(".holes-{}", std::process::id()));
    let open = || File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = match open() {
        // Left by a process that had our number and was killed.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(&path)?;
            open()?
        }
        opened => opened?,
    };
    std::fs::remove_file(&path)?;
    let unit = hole_unit(file.metadata()?.blksize());
    let twice = usize::try_from(unit * 2).map_err(|_| io::Error::other("its blocks are too large"))?;
    (&file).write_all(&vec![b'x'; twice])?;
    cut_head(&file, unit)?;
    match first_data(&file, 0)? {
        Some(at) if at == unit => Ok(()),
        Some(_) | None => Err(io::Error::other("a hole does not show as one")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn a_head_is_cut_and_what_stays_keeps_its_place() {
        let dir = tempfile::tempdir().unwrap();
        if prove_holes(dir.path()).is_err() {
            return;
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the trial leaves nothing");
        let path = dir.path().join("log");
        std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
        let file = File::options().read(true).append(true).open(&path).unwrap();
        let before = file.metadata().unwrap();
        let cut = hole_unit(before.blksize()) * 8;
        assert_eq!(first_data(&file, 0).unwrap(), Some(0));
        cut_head(&file, cut).unwrap();
        let after = file.metadata().unwrap();
        assert_eq!((after.len(), before.blocks() - after.blocks()), (before.len(), cut / 512));
        assert_eq!(first_data(&file, 0).unwrap(), Some(cut));
        assert_eq!(first_data(&file, cut + 5).unwrap(), Some(cut + 5));
        assert_eq!(first_data(&file, 1 << 20).unwrap(), None);
        let mut byte = [0];
        file.read_exact_at(&mut byte, cut).unwrap();
        assert_eq!(byte, *b"x");
    }
}
