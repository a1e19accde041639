//! Looks at directories and files of users, whose file systems may hang: each on a thread of its own for as long as it takes,
//! not many at once, and waited for a moment only.
//!
//! So a directory on a server that is away costs those who name it their answer, and nobody else anything: neither the loop
//! nor the threads on which the daemon reads its own files. Refuses to take silence for an answer.

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::limits;

use super::turns::Turns;

/// The looks that may be under way.
pub(crate) struct Looks {
    places: Arc<Semaphore>,
    /// One at a time at what has one name: what hangs takes one place, however often it is named.
    turns: Turns<String>,
    threads: Threads,
}

impl Default for Looks {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(limits::LOOKS_AT_ONCE_MAX)),
            turns: Turns::default(),
            threads: Threads::default(),
        }
    }
}

impl Looks {
    /// What `look` finds, which may block. The error says that `what` did not answer in time, for the user; a look that hangs
    /// keeps its place for as long.
    pub(super) async fn at<T: Send + 'static>(
        &self,
        what: &str,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        self.within(limits::LOOK_TIMEOUT, what, look).await
    }

    async fn within<T: Send + 'static>(
        &self,
        patience: Duration,
        what: &str,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let places = Arc::clone(&self.places);
        let looked = timeout(patience, async move {
            let turn = self.turns.take(what.to_owned()).await;
            let place = places.acquire_owned().await.map_err(|_| "the daemon ends".to_owned())?;
            let (tell, told) = oneshot::channel();
            let look = Box::new(move || {
                let found = look();
                drop((place, turn));
                // Who asked may have stopped waiting.
                Box::new(move || drop(tell.send(found))) as Tell
            });
            self.threads.run(look).map_err(|error| format!("look: {error}"))?;
            told.await.map_err(|_| "the look panicked".to_owned())
        });
        let late = |_| {
            let most = patience.as_secs_f32();
            format!("{what} did not answer within {most} s; see whether its file system does: stat -f PATH")
        };
        looked.await.map_err(late)?.map_err(|why| format!("{what}: {why}"))
    }
}

/// A look, and then the telling of what it found.
type Look = Box<dyn FnOnce() -> Tell + Send>;
type Tell = Box<dyn FnOnce() + Send>;

/// The threads: one that has nothing to do waits a while for the next look.
#[derive(Default)]
struct Threads {
    idle: Idle,
}

type Idle = Arc<Mutex<Vec<(ThreadId, mpsc::Sender<Look>)>>>;

impl Threads {
    fn run(&self, mut look: Look) -> io::Result<()> {
        loop {
            let Some((_, thread)) = lock(&self.idle).pop() else { break };
            match thread.send(look) {
                Ok(()) => return Ok(()),
                Err(mpsc::SendError(back)) => look = back,
            }
        }
        let idle = Arc::clone(&self.idle);
        thread::Builder::new().name("look".into()).spawn(move || work(look, &idle)).map(drop)
    }
}

/// Whoever is told finds the thread idle.
fn work(mut look: Look, idle: &Idle) {
    loop {
        let tell = look();
        let me = thread::current().id();
        let (hand, next) = mpsc::channel();
        lock(idle).push((me, hand));
        tell();
        let mut handed = next.recv_timeout(limits::LOOK_THREAD_IDLE).ok();
        if handed.is_none() && !take_off(idle, me) {
            // Somebody else has just taken us off the list, to hand us a look.
            handed = next.recv().ok();
        }
        let Some(handed) = handed else { return };
        look = handed;
    }
}

/// Whether it was on the list.
fn take_off(idle: &Idle, thread: ThreadId) -> bool {
    let mut idle = lock(idle);
    let at = idle.iter().position(|(other, _)| *other == thread);
    at.map(|at| idle.remove(at)).is_some()
}

/// A look panics without it.
fn lock(idle: &Idle) -> MutexGuard<'_, Vec<(ThreadId, mpsc::Sender<Look>)>> {
    idle.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    #[tokio::test]
    async fn one_after_another_they_share_a_thread() {
        let looks = Looks::default();
        let first = looks.at("/x", || thread::current().id()).await;
        assert_eq!(looks.at("/y", || thread::current().id()).await, first);
        // One that panics is told, and its thread is not waited for.
        let panicked = looks.at("/x", || -> () { panic!("on purpose") }).await;
        assert_eq!(panicked, Err("/x: the look panicked".to_owned()));
        assert_ne!(looks.at("/x", || thread::current().id()).await, first);
    }

    #[tokio::test]
    async fn one_that_hangs_is_told_and_keeps_its_place_and_nobody_elses() {
        let looks = Looks::default();
        let mut gates = Vec::new();
        for number in 0..limits::LOOKS_AT_ONCE_MAX {
            assert_eq!(looks.at("/x", || 7).await, Ok(7));
            let (open, gate) = mpsc::channel::<()>();
            gates.push(open);
            let away = format!("/away/{number}");
            let hangs = looks.within(SHORT, &away, move || gate.recv().is_ok()).await;
            let said = hangs.expect_err("it hangs");
            assert!(said.starts_with(&format!("{away} did not answer within 0.001 s; ")), "{said}");
            // Again, and a second place is not taken.
            assert!(looks.within(SHORT, &away, || 7).await.is_err());
            assert_eq!(looks.places.available_permits(), limits::LOOKS_AT_ONCE_MAX - number - 1);
        }
        // All places are taken: whoever comes is told as well, and nothing is waited for for ever.
        assert!(looks.within(SHORT, "/x", || 7).await.is_err());
        drop(gates.pop());
        assert_eq!(looks.at("/x", || 7).await, Ok(7), "the one that is over gave its place back");
    }
}
