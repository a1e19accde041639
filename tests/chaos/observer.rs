//! The observer: what truly became of every leader, told by the kernel to a process that is not the daemon.
//!
//! It opens a pidfd of its own on each leader, and on each child that outlives one, while that still waits for its
//! word; so no reuse of a number and no race can deceive it. Refuses to read anything that agentctl says.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use agentctl::core::vocab::{Mono, WaitStatus, Wall};
use agentctl::sys::{ProcessRef, clock};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};

/// A status comes when the shim has reaped the leader, which it does at once.
const STATUS_WITHIN: Duration = Duration::from_secs(60);

/// What is known of one life.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The id that agentctl gave it, by its own word.
    pub(crate) session: String,
    /// When it said hello.
    pub(crate) begun: Mono,
    /// The directory that it has to itself, unless others force their way in.
    room: Option<String>,
    /// It forced its way in.
    pub(crate) forced: bool,
    /// Its children may stay.
    keeps: bool,
    pub(crate) leader: ProcessRef,
    /// By its own clock, right before its end; none for one that was killed.
    pub(crate) stamp: Option<(Mono, Wall)>,
    /// When the pidfd was seen readable: no earlier than the end.
    pub(crate) ended: Option<Mono>,
    /// The kernel's word; none where it does not say (before Linux 6.15).
    pub(crate) status: Option<WaitStatus>,
    pub(crate) children: Vec<ProcessRef>,
    /// It waits for the burst.
    waiting: Option<Arc<UnixStream>>,
}

impl Seen {
    /// Whether the kernel shows any process that its directory is held for.
    fn is_there(&self) -> bool {
        let children = self.children.iter().filter(|_| !self.keeps);
        children.chain([&self.leader]).any(|process| process.has_ended() == Some(false))
    }
}

#[derive(Default)]
struct Book {
    lives: BTreeMap<usize, Seen>,
    by_session: HashMap<String, usize>,
    faults: Vec<String>,
    crowds: Vec<(usize, Seen)>,
}

/// Shared by everybody who has to ask it.
#[derive(Clone, Default)]
pub(crate) struct Observer(Arc<Mutex<Book>>);

impl Observer {
    /// Listens at `socket`, for as long as the program runs.
    pub(crate) fn listen(socket: &Path) -> io::Result<Self> {
        let observer = Self::default();
        let listener = UnixListener::bind(socket)?;
        let inner = observer.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let observer = inner.clone();
                thread::spawn(move || {
                    if let Err(error) = observer.watch(stream) {
                        observer.book().faults.push(format!("the observer lost a process: {error}"));
                    }
                });
            }
        });
        Ok(observer)
    }

    /// Everything up to now.
    pub(crate) fn lives(&self) -> BTreeMap<usize, Seen> {
        self.book().lives.clone()
    }

    /// What went wrong with the observation itself, or with a life.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.book().faults.clone()
    }

    /// Who began in a directory, and who was there at that time.
    pub(crate) fn crowds(&self) -> Vec<(usize, Seen)> {
        self.book().crowds.clone()
    }

    /// Whether the leader of a session has ended, asked of the kernel now. `None`: it never said hello.
    pub(crate) fn has_ended(&self, session: &str) -> Option<bool> {
        let leader = {
            let book = self.book();
            let index = book.by_session.get(session)?;
            book.lives[index].leader.clone()
        };
        leader.has_ended()
    }

    /// The lives that have said hello and not ended.
    pub(crate) fn living(&self) -> Vec<(usize, String)> {
        let book = self.book();
        let living = book.lives.iter().filter(|(_, seen)| seen.ended.is_none());
        living.map(|(index, seen)| (*index, seen.session.clone())).collect()
    }

    /// How many wait to end together.
    pub(crate) fn waiting(&self) -> usize {
        self.book().lives.values().filter(|seen| seen.waiting.is_some()).count()
    }

    /// Ends all that wait for it, in one go.
    pub(crate) fn burst(&self) {
        let waiting: Vec<_> = self.book().lives.values_mut().filter_map(|seen| seen.waiting.take()).collect();
        for mut life in waiting.iter().map(AsRef::as_ref) {
            // One that was killed meanwhile does not hear it.
            drop(life.write_all(b"end\n"));
        }
    }

    fn watch(&self, stream: UnixStream) -> io::Result<()> {
        let pid = socket_peercred(&stream)?.pid;
        // It waits for an answer, so the number is still its own; unless it was killed before it said a word.
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(Errno::SRCH) => return Ok(()),
            opened => opened?,
        };
        let number = u32::try_from(pid.as_raw_nonzero().get()).map_err(io::Error::other)?;
        let process = ProcessRef::from_pidfd(number, pidfd)?;
        let stream = Arc::new(stream);
        let mut lines = BufReader::new(stream.as_ref()).lines();
        let Some(Ok(first)) = lines.next() else { return Ok(()) };
        let words: Vec<&str> = first.split(' ').collect();
        match words[..] {
            ["hello", index, session, until, room] => {
                let index = index.parse().map_err(io::Error::other)?;
                let waiting = (until == "burst").then(|| Arc::clone(&stream));
                self.welcome(index, session, &process, room, waiting);
                // Not heard by one that is killed meanwhile.
                drop((&*stream).write_all(b"go\n"));
                for line in lines {
                    // A leader that is killed with unread words in its socket resets the connection.
                    let Ok(line) = line else { break };
                    self.stamped(index, &line);
                }
                self.end_of(index, &process)
            }
            ["child", index, kind] => {
                let index: usize = index.parse().map_err(io::Error::other)?;
                let mut book = self.book();
                let parent = book.lives.get_mut(&index);
                let parent = parent.ok_or_else(|| io::Error::other("a child without a leader"))?;
                parent.children.push(process);
                parent.keeps = kind == "kept";
                drop(book);
                drop((&*stream).write_all(b"go\n"));
                Ok(())
            }
            _ => Err(io::Error::other(format!("what is {first:?}?"))),
        }
    }

    fn welcome(
        &self,
        index: usize,
        session: &str,
        leader: &ProcessRef,
        room: &str,
        waiting: Option<Arc<UnixStream>>,
    ) {
        let forced = room.starts_with('!');
        let room = (room != "-").then(|| room.trim_start_matches('!').to_owned());
        let seen = Seen {
            session: session.to_owned(),
            begun: clock::now().mono,
            room: room.clone(),
            forced,
            keeps: false,
            leader: leader.clone(),
            stamp: None,
            ended: None,
            status: None,
            children: Vec::new(),
            waiting,
        };
        let mut book = self.book();
        if room.is_some() && !forced {
            let others = book.lives.values().filter(|other| other.room == room && other.is_there());
            let crowds: Vec<_> = others.map(|other| (index, other.clone())).collect();
            book.crowds.extend(crowds);
        }
        book.by_session.insert(session.to_owned(), index);
        if let Some(first) = book.lives.insert(index, seen) {
            book.faults.push(format!("life {index} was begun twice: as {} and as {session}", first.session));
        }
    }

    fn stamped(&self, index: usize, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let ["stamp", mono, wall] = words[..] else { return };
        let (Ok(mono), Ok(wall)) = (mono.parse(), wall.parse()) else { return };
        if let Some(seen) = self.book().lives.get_mut(&index) {
            seen.stamp = Some((Mono(mono), Wall(wall)));
        }
    }

    /// Its socket is closed, so it is ending: waits for the pidfd, and then for the kernel's word on the status.
    fn end_of(&self, index: usize, leader: &ProcessRef) -> io::Result<()> {
        let pidfd = leader.pidfd().ok_or_else(|| io::Error::other("a leader without a pidfd"))?;
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None)?;
        let ended = clock::now().mono;
        if let Some(seen) = self.book().lives.get_mut(&index) {
            (seen.ended, seen.waiting) = (Some(ended), None);
        }
        while clock::now().mono.since(ended) < STATUS_WITHIN {
            if let Some(status) = leader.exit_status() {
                if let Some(seen) = self.book().lives.get_mut(&index) {
                    seen.status = Some(status);
                }
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
