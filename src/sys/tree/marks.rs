//! The processes of a session by the mark in their environment, for those who have no shim to ask: one reading of /proc for
//! all who want to know at the time.
//!
//! Owns who waits for which reading. A reading costs what the host has of processes, so those who ask at once share one, and
//! no more than one goes on at a time. Refuses to answer by a reading that had begun before the question: what was forked in
//! between could be behind it. What could not be read is [`Tree::Unknown`], and only for those whom it may concern.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::{fs, io, mem};

use tokio::sync::oneshot;
use tokio::task::{spawn_blocking, spawn_local};

use super::{Tree, unreadable};
use crate::sys::{ProcessRef, proc_fs};

const SESSION: &[u8] = b"AGENTCTL_SESSION_ID=";
/// Tells a hook from its session.
const HOOK: &[u8] = b"AGENTCTL_HOOK_ID=";

/// Whose processes are looked for by their environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// A session's: `AGENTCTL_SESSION_ID=<id>`. Its hooks carry that as well, and are none of it.
    Session(String),
    /// A hook's: `AGENTCTL_HOOK_ID=<id>`.
    Hook(String),
}

impl Mark {
    fn variable(&self) -> Vec<u8> {
        match self {
            Self::Session(id) => [SESSION, id.as_bytes()].concat(),
            Self::Hook(id) => [HOOK, id.as_bytes()].concat(),
        }
    }
}

/// A question for the living processes that carry a mark in the environment they were started with, ourselves excepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub mark: Mark,
    /// Ticks since boot: when the leader started. What started before it and hides its environment cannot belong to the
    /// session; any later one of our user that does makes the answer unknown. Other users' processes are looked at as far as
    /// we may, and only by root completely.
    pub not_before: u64,
}

/// How processes are read for all who ask: an answer for each, in their order.
type Read = dyn Fn(&[Ask]) -> Vec<Tree> + Send + Sync;

/// Answers who asks for marks. Bound to the thread of its runtime.
pub struct Marks(Rc<Inner>);

struct Inner {
    read: Arc<Read>,
    /// For the next reading.
    waiting: RefCell<Vec<Waiting>>,
    reads: Cell<bool>,
}

struct Waiting {
    ask: Ask,
    /// Nothing was found so far.
    again: bool,
    tell: oneshot::Sender<Tree>,
}

impl Default for Marks {
    fn default() -> Self {
        Self::by(read)
    }
}

impl Marks {
    fn by(read: impl Fn(&[Ask]) -> Vec<Tree> + Send + Sync + 'static) -> Self {
        Self(Rc::new(Inner { read: Arc::new(read), waiting: RefCell::default(), reads: Cell::new(false) }))
    }

    /// Who carries the mark. An empty answer was looked for twice.
    pub async fn find(&self, ask: Ask) -> Tree {
        let (tell, told) = oneshot::channel();
        self.0.waiting.borrow_mut().push(Waiting { ask, again: false, tell });
        if !self.0.reads.replace(true) {
            spawn_local(read_while_asked(Rc::clone(&self.0)));
        }
        told.await.unwrap_or_else(|_| Tree::Unknown("the processes are not read any more".to_owned()))
    }
}

/// One reading after the other for as long as somebody waits, each for all who do when it begins.
async fn read_while_asked(inner: Rc<Inner>) {
    loop {
        let mut waiting = mem::take(&mut *inner.waiting.borrow_mut());
        waiting.retain(|one| !one.tell.is_closed());
        if waiting.is_empty() {
            inner.reads.set(false);
            return;
        }
        let asks: Vec<_> = waiting.iter().map(|one| one.ask.clone()).collect();
        let read = Arc::clone(&inner.read);
        let trees = spawn_blocking(move || read(&asks)).await;
        let trees = trees.unwrap_or_else(|panicked| unknown(waiting.len(), &panicked.to_string()));
        for (one, tree) in waiting.into_iter().zip(trees) {
            match tree {
                // An exec shows an empty environment for a moment, and a fork may land behind the reading: look twice.
                Tree::Known(members) if members.is_empty() && !one.again => {
                    inner.waiting.borrow_mut().push(Waiting { again: true, ..one });
                }
                answer @ (Tree::Known(_) | Tree::Unknown(_)) => {
                    let _asks_no_more = one.tell.send(answer);
                }
            }
        }
    }
}

fn unknown(count: usize, why: &str) -> Vec<Tree> {
    (0..count).map(|_| Tree::Unknown(why.to_owned())).collect()
}

/// Reads every process once.
fn read(asks: &[Ask]) -> Vec<Tree> {
    let mut reading = Reading::of(asks);
    match reading.all() {
        Ok(()) => reading.answers(asks),
        Err(why) => unknown(asks.len(), &why),
    }
}

/// What one reading has come to.
struct Reading {
    /// Who asks for a variable, by their places.
    wanted: HashMap<Vec<u8>, Vec<usize>>,
    /// Who was found, for each who asks.
    found: Vec<Vec<ProcessRef>>,
    /// The process of our user that started last of those that hide their environment: its start, and its number.
    hidden: Option<(u64, u32)>,
}

impl Reading {
    fn of(asks: &[Ask]) -> Self {
        let mut wanted: HashMap<_, Vec<_>> = HashMap::new();
        for (place, ask) in asks.iter().enumerate() {
            wanted.entry(ask.mark.variable()).or_default().push(place);
        }
        Self { wanted, found: vec![Vec::new(); asks.len()], hidden: None }
    }

    fn all(&mut self) -> Result<(), String> {
        let pids = proc_fs::numeric_names("/proc").map_err(|error| format!("cannot list /proc: {error}"))?;
        for pid in pids.into_iter().filter(|pid| *pid != std::process::id()) {
            let looked = match self.look_at(pid) {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => self.hides(pid),
                looked => looked,
            };
            match looked {
                Err(error) if !proc_fs::is_gone(&error) => return Err(unreadable(pid, &error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    fn look_at(&mut self, pid: u32) -> io::Result<()> {
        if self.who_wants(pid)?.is_empty() {
            return Ok(());
        }
        // Held first and read again: now the number is certainly that of the process that is held.
        let process = ProcessRef::at_number(pid)?;
        let wanted_by = self.who_wants(pid)?;
        if process.owns_number()? {
            wanted_by.into_iter().for_each(|place| self.found[place].push(process.clone()));
        }
        Ok(())
    }

    /// The places of those whose mark the process carries. A zombie has no environment any more, so only living ones do.
    fn who_wants(&self, pid: u32) -> io::Result<Vec<usize>> {
        let environ = fs::read(format!("/proc/{pid}/environ"))?;
        let variables = || environ.split(|byte| *byte == 0);
        let kind = if variables().any(|variable| variable.starts_with(HOOK)) { HOOK } else { SESSION };
        let marks = variables().filter(|variable| variable.starts_with(kind));
        let mut places: Vec<_> = marks.filter_map(|mark| self.wanted.get(mark)).flatten().copied().collect();
        // A variable may be there twice.
        places.sort_unstable();
        places.dedup();
        Ok(places)
    }

    /// Keeps in mind a process that does not show its environment, if it could be of a session: one of our user.
    fn hides(&mut self, pid: u32) -> io::Result<()> {
        let start_ticks = proc_fs::stat(pid)?.start_ticks;
        if proc_fs::users(pid)?.contains(&rustix::process::geteuid().as_raw()) {
            self.hidden = self.hidden.max(Some((start_ticks, pid)));
        }
        Ok(())
    }

    fn answers(self, asks: &[Ask]) -> Vec<Tree> {
        let answer = |(ask, members): (&Ask, Vec<ProcessRef>)| match self.hidden {
            Some((started, pid)) if started >= ask.not_before => {
                Tree::Unknown(format!("process {pid} does not show its environment"))
            }
            Some(_) | None => Tree::Known(members),
        };
        asks.iter().zip(self.found).map(answer).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use tokio::task::{JoinHandle, LocalSet, yield_now};

    use super::*;

    fn ask(id: usize) -> Ask {
        Ask { mark: Mark::Session(id.to_string()), not_before: 0 }
    }

    /// A host on which one process runs, once it does.
    #[derive(Clone, Default)]
    struct Host(Arc<Mutex<Option<(Ask, ProcessRef)>>>);

    impl Host {
        fn begin(&self, of: Ask) {
            let process = ProcessRef::of_child(std::process::id()).expect("ourselves");
            *self.0.lock().expect("no panic") = Some((of, process));
        }

        fn read(&self, asks: &[Ask]) -> Vec<Tree> {
            let running = self.0.lock().expect("no panic");
            let of =
                |ask| running.iter().filter(move |(of, _)| of == ask).map(|(_, process)| process.clone());
            asks.iter().map(|ask| Tree::Known(of(ask).collect())).collect()
        }
    }

    fn find(marks: &Rc<Marks>, id: usize) -> JoinHandle<Tree> {
        let marks = Rc::clone(marks);
        spawn_local(async move { marks.find(ask(id)).await })
    }

    async fn count(found: JoinHandle<Tree>) -> usize {
        match found.await.expect("no panic") {
            Tree::Known(members) => members.len(),
            Tree::Unknown(why) => panic!("{why}"),
        }
    }

    #[tokio::test]
    async fn any_number_that_ask_at_once_cost_one_reading_and_empty_answers_one_more() {
        let (host, readings) = (Host::default(), Arc::new(AtomicUsize::new(0)));
        host.begin(ask(7));
        let counted = Arc::clone(&readings);
        let marks = Rc::new(Marks::by(move |asks| {
            counted.fetch_add(1, Ordering::Relaxed);
            host.read(asks)
        }));
        let asking = async {
            let all: Vec<_> = (0..1_000).map(|id| find(&marks, id)).collect();
            for (id, found) in all.into_iter().enumerate() {
                assert_eq!(count(found).await, usize::from(id == 7));
            }
        };
        LocalSet::new().run_until(asking).await;
        assert_eq!(readings.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn who_asks_while_processes_are_read_is_answered_by_the_next_reading() {
        let host = Host::default();
        let ((begin, begun), (go, gate)) = (mpsc::channel(), mpsc::channel());
        let (reads, gate) = (host.clone(), Mutex::new(gate));
        let marks = Rc::new(Marks::by(move |asks| {
            let trees = reads.read(asks);
            begin.send(asks.to_vec()).expect("the test waits");
            gate.lock().expect("one at a time").recv().expect("the test lets it go");
            trees
        }));
        // All that a reading finds is found by the time that it is told here.
        let next = async || {
            loop {
                match begun.try_recv() {
                    Ok(asks) => return asks,
                    Err(_) => yield_now().await,
                }
            }
        };
        let asking = async {
            let early = find(&marks, 1);
            assert_eq!(next().await, [ask(1)]);
            host.begin(ask(2));
            let (late, given_up) = (find(&marks, 2), find(&marks, 3));
            yield_now().await;
            given_up.abort();
            yield_now().await;
            go.send(()).expect("it waits");
            let mut second = next().await;
            second.sort_by_key(|asked| *asked != ask(1));
            assert_eq!(second, [ask(1), ask(2)], "the second look, and who has come meanwhile and waits");
            go.send(()).expect("it waits");
            assert_eq!((count(early).await, count(late).await), (0, 1));
        };
        LocalSet::new().run_until(asking).await;
        assert!(begun.try_recv().is_err(), "nobody asks, nobody reads");
    }

    #[tokio::test]
    async fn a_reading_that_panics_is_no_answer_and_ends_no_later_one() {
        let readings = AtomicUsize::new(0);
        let marks = Marks::by(move |asks| {
            assert!(readings.fetch_add(1, Ordering::Relaxed) > 0, "the first one fails");
            Host::default().read(asks)
        });
        let asking = async {
            assert!(matches!(marks.find(ask(1)).await, Tree::Unknown(_)));
            assert!(matches!(marks.find(ask(1)).await, Tree::Known(none) if none.is_empty()));
        };
        LocalSet::new().run_until(asking).await;
    }

    #[test]
    fn what_hides_its_environment_concerns_those_whose_leader_is_not_younger() {
        let asks = [5, 6, 7].map(|not_before| Ask { not_before, ..ask(1) });
        let mut reading = Reading::of(&asks);
        reading.hidden = Some((6, 4242));
        let is_unknown = |tree: &Tree| matches!(tree, Tree::Unknown(_));
        let unknown: Vec<_> = reading.answers(&asks).iter().map(is_unknown).collect();
        assert_eq!(unknown, [true, true, false]);
    }
}
