//! Keeping the logs of a run to their size, by making holes at their heads.
//!
//! The agent writes into the files itself, so nobody sees its writes pass. The kernel tells the shim of the first one after
//! each look (a signal, asked for anew each time); the next look comes after a pause in which even a fast writer does not get
//! far beyond what is left. So a silent run costs nothing, and a busy one a few system calls now and then. Refuses to know
//! what is in a log, and to touch its end.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use agentctl::core::vocab::Mono;
use agentctl::sys::log_files::{cut_head, hole_unit, signal_next_write};
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;

use crate::complain;

/// A writer that is slower than this many bytes a second has its log looked at before it is too long.
const FAST_BYTES: u64 = 256 << 20;

/// The shortest pause between two looks at the logs of a run that writes, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The logs of a run, and when to look at them.
pub(crate) struct Logs {
    files: Vec<File>,
    /// Their directory: the kernel watches whole directories.
    dir: Option<OwnedFd>,
    bytes_max: u64,
    /// Where the data of each file begins.
    heads: Vec<u64>,
    looked: Mono,
    pause: Duration,
    due: Option<Mono>,
    /// A failure is told once: the telling is itself something written in that directory.
    failed: bool,
}

impl Logs {
    /// Keeps these logs, which lie in `dir`, to `bytes_max` each.
    pub(crate) fn keep(files: [File; 2], dir: &Path, bytes_max: u64, now: Mono) -> Self {
        let files: Vec<_> = files.into_iter().filter(|file| file.metadata().is_ok_and(is_log)).collect();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match open(dir, flags, Mode::empty()) {
            Ok(dir) => Some(dir),
            Err(error) => {
                complain(format_args!("the logs are kept to their size at the end of the run only: {error}"));
                None
            }
        };
        let heads = vec![0; files.len()];
        Self { files, dir, bytes_max, heads, looked: now, pause: PAUSE_MIN, due: Some(now), failed: false }
    }

    /// Something in their directory was written to.
    pub(crate) fn written(&mut self, now: Mono) {
        let due = self.looked.after(self.pause).max(now);
        self.due.get_or_insert(due);
    }

    /// When to look next, if anything was written since the last look.
    pub(crate) fn due(&self) -> Option<Mono> {
        self.due
    }

    /// Cuts what is too long. Asks for word of the next write first, so that none is missed in between.
    pub(crate) fn look(&mut self, now: Mono) {
        self.due = None;
        self.looked = now;
        if let Some(dir) = &self.dir
            && let Err(error) = signal_next_write(dir.as_fd())
        {
            complain(format_args!("the logs are kept to their size at the end of the run only: {error}"));
            self.dir = None;
        }
        self.cut();
    }

    /// Cuts what is too long.
    pub(crate) fn cut(&mut self) {
        let mut left = self.bytes_max;
        for (file, head) in self.files.iter().zip(&mut self.heads) {
            match cut_one(file, head, self.bytes_max) {
                Ok(more) => left = left.min(more),
                Err(error) if is_impossible(&error) => {
                    complain(format_args!("the logs are not kept to their size: {error}"));
                    self.files.clear();
                    self.dir = None;
                    return;
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failed, true) {
                        complain(format_args!("failed to cut a log, trying again: {error}"));
                    }
                    left = 0;
                }
            }
        }
        self.pause = pause(left);
    }
}

/// What the agent was given for a log is one, and not a device.
fn is_log(found: Metadata) -> bool {
    found.is_file()
}

/// Cuts a log that is too long; how much longer it may become before it is.
fn cut_one(file: &File, head: &mut u64, bytes_max: u64) -> io::Result<u64> {
    let found = file.metadata()?;
    if let Some(to) = new_head(found.len(), *head, bytes_max, hole_unit(found.blksize())) {
        cut_head(file, to)?;
        *head = to;
    }
    Ok(bytes_max.saturating_sub(found.len().saturating_sub(*head)))
}

/// Where a log of this length is to begin, if it is too long: three quarters of what may be kept are, so that it is not
/// cut again at the next look.
fn new_head(length: u64, head: u64, bytes_max: u64, unit: u64) -> Option<u64> {
    let wanted = length.saturating_sub(bytes_max / 4 * 3) / unit * unit;
    (length.saturating_sub(head) > bytes_max && wanted > head).then_some(wanted)
}

/// How long even a fast writer needs for so many bytes.
fn pause(left: u64) -> Duration {
    Duration::from_millis(left / (FAST_BYTES / 1_000)).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// No later attempt will be better.
fn is_impossible(error: &io::Error) -> bool {
    [Errno::OPNOTSUPP, Errno::NOSYS, Errno::PERM, Errno::INVAL]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_cut_when_it_is_too_long_and_keeps_three_quarters_at_least() {
        let table = [
            (0, 0, None),
            (1_000_000, 0, None),
            (1_000_001, 0, Some(249_856)),
            (1_249_856, 249_856, None),
            (1_249_857, 249_856, Some(499_712)),
            (9_000_000, 249_856, Some(8_249_344)),
            // The agent has emptied its log.
            (10, 249_856, None),
        ];
        for (length, head, expected) in table {
            let found = new_head(length, head, 1_000_000, 4_096);
            assert_eq!(found, expected, "{length} from {head}");
            if let Some(to) = found {
                assert!(to % 4_096 == 0 && length - to >= 750_000, "{length} from {head}");
            }
        }
    }

    #[test]
    fn the_next_look_comes_before_a_fast_writer_is_through() {
        assert_eq!(pause(0), PAUSE_MIN);
        assert_eq!(pause(100), PAUSE_MIN);
        assert!(pause(4 * FAST_BYTES) <= Duration::from_millis(4_001));
        assert_eq!(pause(u64::MAX), PAUSE_MAX);
    }
}
