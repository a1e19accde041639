//! Standard input of an agent that is talked to: what the daemon appends to a file goes into a pipe, each line once.
//!
//! Only the shim outlives the daemon and holds the pipe, so only it can know what went in; a daemon that dies half-way
//! through a line has said nothing. Removing the file ends the input, after all that is in it. Refuses to read what is said.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{OFlags, fcntl_setfl, fstat};
use rustix::pipe::{PipeFlags, pipe_with};

/// Bytes that are moved at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// The shim's end.
pub(crate) struct Input {
    file: File,
    pipe: File,
    /// How much of the file has gone into the pipe.
    moved: u64,
}

/// How far the input has come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// All that was said is in the pipe; more may come.
    Upto,
    /// The pipe is full, or the file could not be read: to be tried again, soon if something was moved.
    Held { moved: bool },
    /// Nothing more will come, or nobody listens any more.
    Over,
}

impl Input {
    /// The shim's end, and the leader's.
    pub(crate) fn open(path: &Path) -> io::Result<(Self, File)> {
        let file = File::open(path)?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // Of our end alone: the agent's blocks, as programs expect of their input.
        fcntl_setfl(&writer, OFlags::NONBLOCK)?;
        Ok((Self { file, pipe: writer.into(), moved: 0 }, reader.into()))
    }

    /// Moves what can be moved.
    pub(crate) fn forward(&mut self) -> Flow {
        // Asked before its length: nothing is appended to a file that is removed.
        let before = self.moved;
        let removed = fstat(&self.file).is_ok_and(|stat| stat.st_nlink == 0);
        match self.move_lines() {
            Ok(()) if removed => Flow::Over,
            Ok(()) => Flow::Upto,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Flow::Over,
            Err(_) => Flow::Held { moved: self.moved > before },
        }
    }

    fn move_lines(&mut self) -> io::Result<()> {
        let said = self.file.metadata()?.len();
        // Lines are appended one by one, so only the last can be in the making, or torn.
        let mut last = [0];
        if said <= self.moved || self.file.read_at(&mut last, said - 1)? == 0 || last != *b"\n" {
            return Ok(());
        }
        let mut chunk = vec![0; CHUNK_BYTES];
        while self.moved < said {
            let room = usize::try_from(said - self.moved).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
            let count = self.file.read_at(&mut chunk[..room], self.moved)?;
            if count == 0 {
                return Ok(());
            }
            self.moved += self.pipe.write(&chunk[..count])? as u64;
        }
        Ok(())
    }
}
