//! Who holds a flock(2) on a file: held by pidfd, and asked for again, so that it can be nobody else.
//!
//! Refuses to judge by what a file says: the kernel's list of locks is the only source (proc_locks(5)).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;

use super::ProcessRef;

/// The process that holds an exclusive flock on `file`. `None`: nobody does, or it cannot be seen from here.
pub fn lock_holder(file: &File) -> io::Result<Option<ProcessRef>> {
    let inode = file.metadata()?.ino();
    let Some(pid) = holder_in(&fs::read_to_string("/proc/locks")?, inode) else { return Ok(None) };
    let process = match ProcessRef::at_number(pid) {
        Ok(process) => process,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
        Err(error) => return Err(error),
    };
    // Held from before this look: the number cannot have passed to another process in between.
    let still = holder_in(&fs::read_to_string("/proc/locks")?, inode) == Some(pid);
    Ok(still.then_some(process))
}

/// `1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF`. A holder in a pid namespace that we do not see has number 0.
/// By inode alone: some file systems show another device there than stat(2) does.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, place, ..] = fields[..] else { return None };
        let (_, of_file) = place.rsplit_once(':')?;
        (of_file.parse() == Ok(inode)).then(|| pid.parse().ok().filter(|pid| *pid != 0))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_read_from_the_kernels_list() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 fe:00:77 0 EOF\n2: FLOCK  ADVISORY  WRITE 12 fe:00:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 13 fe:00:78 0 EOF\n3: FLOCK  ADVISORY  WRITE 0 fe:00:79 0 EOF\n";
        assert_eq!(holder_in(locks, 77), Some(12));
        assert_eq!(holder_in(locks, 78), None, "one that waits holds nothing");
        assert_eq!(holder_in(locks, 79), None, "of another namespace");
        assert_eq!(holder_in(locks, 7), None);
    }

    #[test]
    fn this_process_is_found_by_the_lock_that_it_holds() {
        let file = tempfile::tempfile().unwrap();
        assert!(lock_holder(&file).unwrap().is_none());
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        assert_eq!(lock_holder(&file).unwrap().map(|holder| holder.pid()), Some(std::process::id()));
    }
}
