//! Log files as readers find them: they grow at their end, and may have lost their head to the limit of their size.
//!
//! What was dropped is a hole, and a hole reads as zeros: so each read is checked afterwards against where the data begins,
//! and no zero of a hole is ever handed out as output. Places in a log stay what they are, whatever was dropped.
//! Refuses to drop anything: the shim does that.

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::pread;

use crate::limits;
use crate::sys::log_files::first_data;

use super::blocking;

/// What a read found.
pub(super) enum Found {
    /// These bytes; none at the end of the log.
    Bytes(Bytes),
    /// That place is not kept any more; this one is the first that is.
    Dropped(u64),
}

/// Where reading begins.
#[derive(Clone, Copy, Default)]
pub(super) struct Beginning {
    /// The place that was asked for, or the first line that is kept behind it.
    pub(super) at: u64,
    /// How much the log has lost in front of its first whole line.
    pub(super) dropped: u64,
}

/// The end of a log.
#[derive(Default)]
pub(super) struct LogTail {
    pub(super) bytes: Bytes,
    /// It is all that was ever written.
    pub(super) whole: bool,
    /// How much the log has lost at its head.
    pub(super) dropped: u64,
}

/// On a thread that may block.
async fn read<T: Send + 'static>(
    path: &Path,
    read: impl FnOnce(&File) -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let path = path.to_owned();
    blocking(move || read(&File::open(path)?)).await
}

/// Bytes of a log from `offset` on.
pub(super) async fn read_at(path: &Path, offset: u64, at_most: usize) -> io::Result<Found> {
    read(path, move |file| {
        let bytes = bytes_at(file, offset, at_most)?;
        if bytes.is_empty() {
            return Ok(Found::Bytes(bytes));
        }
        // Asked after reading: what is there now was there before.
        match first_kept(file, offset)? {
            at if at > offset => Ok(Found::Dropped(at)),
            _ => Ok(Found::Bytes(bytes)),
        }
    })
    .await
}

/// The length of a log.
pub(super) async fn length(path: &Path) -> io::Result<u64> {
    read(path, |file| Ok(file.metadata()?.len())).await
}

/// Where to begin for whoever wants to read from `from` on: there, or at the first line that is kept.
pub(super) async fn beginning(path: &Path, from: u64) -> io::Result<Beginning> {
    read(path, move |file| {
        let dropped = first_line(file)?;
        Ok(Beginning { at: from.max(dropped), dropped })
    })
    .await
}

/// The last bytes of a log.
pub(super) async fn tail(path: &Path, at_most: u64) -> io::Result<LogTail> {
    read(path, move |file| {
        let length = file.metadata()?.len();
        let head = first_kept(file, 0)?;
        let mut from = length.saturating_sub(at_most).max(head);
        let mut bytes =
            bytes_at(file, from, usize::try_from(length - from.min(length)).unwrap_or(usize::MAX))?;
        // It may have been cut meanwhile.
        let now = first_kept(file, from)?.min(length);
        if now > from {
            bytes =
                bytes.slice(usize::try_from(now - from).map_or(bytes.len(), |gone| gone.min(bytes.len()))..);
            from = now;
        }
        Ok(LogTail { bytes, whole: from == 0, dropped: head })
    })
    .await
}

/// As many bytes as there are, `at_most` so many.
fn bytes_at(file: &File, from: u64, at_most: usize) -> io::Result<Bytes> {
    let there = file.metadata()?.len().saturating_sub(from);
    let at_most = usize::try_from(there).unwrap_or(usize::MAX).min(at_most);
    let mut bytes = Vec::with_capacity(at_most);
    // Into room that nobody has to fill with zeros first.
    while bytes.len() < at_most {
        let place = from + bytes.len() as u64;
        match rustix::io::retry_on_intr(|| pread(file, spare_capacity(&mut bytes), place)) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(at_most);
    Ok(bytes.into())
}

/// The first place from `from` on that holds data; the end, where there is none.
fn first_kept(file: &File, from: u64) -> io::Result<u64> {
    match first_data(file, from)? {
        Some(at) => Ok(at),
        None => Ok(file.metadata()?.len().max(from)),
    }
}

/// The place of the first whole line that is kept: 0 in a log that has lost nothing.
fn first_line(file: &File) -> io::Result<u64> {
    let mut head = first_kept(file, 0)?;
    while head > 0 {
        let bytes = bytes_at(file, head, limits::LOG_LINE_BYTES_MAX)?;
        let now = first_kept(file, head)?;
        if now <= head {
            // Without a line break in sight it is no text, and begins anywhere.
            let rest = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at as u64 + 1);
            return Ok(head + rest);
        }
        head = now;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use crate::sys::log_files::{cut_head, hole_unit, prove_holes};

    use super::*;

    /// A log of numbered lines of 10 bytes, cut at a place where a line is cut too.
    fn cut_log(dir: &Path, name: &str, lines: u64, cut_units: u64) -> (std::path::PathBuf, u64) {
        let path = dir.join(name);
        let text: String = (0..lines).map(|line| format!("{line:09}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let cut = hole_unit(file.metadata().unwrap().blksize()) * cut_units;
        if cut_units > 0 {
            cut_head(&file, cut).unwrap();
        }
        (path, cut)
    }

    #[tokio::test]
    async fn readers_begin_at_a_line_that_is_kept_and_see_no_hole() {
        let dir = tempfile::tempdir().unwrap();
        if prove_holes(dir.path()).is_err() {
            return;
        }
        let (path, cut) = cut_log(dir.path(), "cut", 100_000, 3);
        let line = cut.div_ceil(10) * 10;
        for from in [0, 5, cut] {
            let begins = beginning(&path, from).await.unwrap();
            assert_eq!((begins.at, begins.dropped), (line, line), "from {from}");
        }
        assert_eq!(beginning(&path, line + 20).await.unwrap().at, line + 20);
        assert_eq!(
            beginning(&path, 2_000_000).await.unwrap().at,
            2_000_000,
            "beyond the end there may be more"
        );
        let Found::Bytes(bytes) = read_at(&path, line, 20).await.unwrap() else { panic!("dropped") };
        assert_eq!(bytes, format!("{:09}\n{:09}\n", line / 10, line / 10 + 1));
        assert!(matches!(read_at(&path, 0, 20).await.unwrap(), Found::Dropped(at) if at == cut));
        assert!(matches!(read_at(&path, cut - 1, 20).await.unwrap(), Found::Dropped(at) if at == cut));
        assert!(
            matches!(read_at(&path, 1_000_000, 20).await.unwrap(), Found::Bytes(none) if none.is_empty())
        );
    }

    #[tokio::test]
    async fn a_tail_is_whole_only_where_nothing_was_dropped() {
        let dir = tempfile::tempdir().unwrap();
        if prove_holes(dir.path()).is_err() {
            return;
        }
        let (whole, _) = cut_log(dir.path(), "whole", 10_000, 0);
        let all = tail(&whole, 1 << 20).await.unwrap();
        assert_eq!((all.bytes.len(), all.whole, all.dropped), (100_000, true, 0));
        let some = tail(&whole, 1_000).await.unwrap();
        assert_eq!((some.bytes.len(), some.whole, some.dropped), (1_000, false, 0));
        let (path, cut) = cut_log(dir.path(), "cut", 10_000, 2);
        let kept = tail(&path, 1 << 20).await.unwrap();
        assert_eq!((kept.bytes.len() as u64, kept.whole, kept.dropped), (100_000 - cut, false, cut));
        assert!(!kept.bytes.contains(&0));
    }
}
