//! Directory and file changes by inotify(7).
//!
//! Owns one instance per watched directory and one for the growth of all log files. Refuses to be trusted alone: it
//! says when names may have been missed, and the caller reads the directory then. A watch that is lost is made anew;
//! while that fails the caller knows that it is blind.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask, Watches};
use tokio::time::sleep;

use super::{Interest, Poller};
use crate::sys::without::{Lack, refuse};
use crate::sys::{DirNews, RETRY_AFTER, RescanWhy};

/// Longest pause between two attempts to watch a directory that is not there.
const BLIND_RETRY_MAX: Duration = Duration::from_secs(60);

/// Room for several hundred events with names of session length.
const BUFFER_BYTES: usize = 16 * 1024;

/// See [`crate::sys::Sys::watch_dir`].
pub(in crate::sys) fn watch_dir(
    poller: Poller,
    dir: &Path,
    mut on: impl FnMut(DirNews) + 'static,
) -> Rc<WatchedDir> {
    let watched = Rc::new(WatchedDir { path: dir.to_owned(), present: RefCell::new(None) });
    let (telling, dir) = (Rc::clone(&watched), dir.to_owned());
    tokio::task::spawn_local(async move {
        let mut why = RescanWhy::Started;
        loop {
            let watch;
            (watch, why) = watch_again(&dir, why, &telling, &mut on).await;
            on(DirNews::Rescan { why });
            match follow(poller, watch, &mut on).await {
                Ok(lost) => why = lost,
                Err(error) => {
                    on(DirNews::Blind { why: error.to_string() });
                    why = RescanWhy::Restored;
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    });
    watched
}

/// The directory that is watched at present.
pub(in crate::sys) struct WatchedDir {
    path: PathBuf,
    present: RefCell<Option<Present>>,
}

/// One watch, and the directory that it is on.
struct Present {
    watches: Watches,
    watch: WatchDescriptor,
    directory: (u64, u64),
}

impl WatchedDir {
    /// See [`crate::sys::DirWatch::look_again`].
    pub(in crate::sys) fn look_again(&self) {
        let mut present = self.present.borrow_mut();
        let stale = present.take_if(|present| directory_at(&self.path).ok() != Some(present.directory));
        if let Some(Present { mut watches, watch, .. }) = stale {
            // Answered by IN_IGNORED, which wakes the task; an error says that it is awake already.
            let _lost_already = watches.remove(watch);
        }
    }
}

fn directory_at(path: &Path) -> io::Result<(u64, u64)> {
    let found = std::fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// A fresh instance. EMFILE: this user has as many as may be.
pub(in crate::sys) fn instance() -> io::Result<Inotify> {
    refuse(Lack::Inotify)?;
    Inotify::init()
}

/// A fresh instance with the one watch. A whole instance, not only a watch, because then no event of a lost watch can
/// be taken for one of its successor.
fn watch_names(dir: &Path) -> io::Result<(Inotify, Present)> {
    let instance = instance()?;
    // Files come by a rename; one that somebody wrote in place is to be seen as well, once it is whole.
    let names = WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE;
    let mask = names | WatchMask::MOVE_SELF | WatchMask::DELETE_SELF | WatchMask::ONLYDIR;
    // Before the watch: one that is replaced in between looks replaced, and is watched again.
    let directory = directory_at(dir)?;
    let mut watches = instance.watches();
    let watch = watches.add(dir, mask)?;
    Ok((instance, Present { watches, watch, directory }))
}

/// Watches the directory that is at the path now. Says that we are blind if there is none, and waits for one.
async fn watch_again(
    dir: &Path,
    why: RescanWhy,
    watched: &WatchedDir,
    on: &mut impl FnMut(DirNews),
) -> (Inotify, RescanWhy) {
    let mut pause = RETRY_AFTER;
    let mut why = why;
    loop {
        match watch_names(dir) {
            Ok((watch, present)) => {
                *watched.present.borrow_mut() = Some(present);
                return (watch, why);
            }
            Err(error) => {
                if why != RescanWhy::Restored {
                    on(DirNews::Blind { why: error.to_string() });
                }
                why = RescanWhy::Restored;
                sleep(pause).await;
                pause = BLIND_RETRY_MAX.min(pause * 2);
            }
        }
    }
}

/// Tells names until the watch is lost; says how.
async fn follow(poller: Poller, mut watch: Inotify, on: &mut impl FnMut(DirNews)) -> io::Result<RescanWhy> {
    const LOST: EventMask = EventMask::MOVE_SELF
        .union(EventMask::DELETE_SELF)
        .union(EventMask::IGNORED)
        .union(EventMask::UNMOUNT);

    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        poller.ready(watch.as_fd(), Interest::In).await?;
        let events = match watch.read_events(&mut buffer) {
            Ok(events) => events,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        for event in events {
            if event.mask.intersects(LOST) {
                return Ok(RescanWhy::Replaced);
            }
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                on(DirNews::Rescan { why: RescanWhy::Overflow });
            } else if let Some(name) = event.name {
                on(DirNews::Arrived(name.to_owned()));
            }
        }
    }
}

/// The growth of log files: one instance for all of them, so that a busy log never fills the queue of exits/.
pub(in crate::sys) struct Growth {
    inotify: RefCell<Inotify>,
    waiting: RefCell<HashMap<WatchDescriptor, Vec<Waiting>>>,
}

/// One caller that waits for one file.
struct Waiting {
    /// Tells callers of the same file apart.
    ticket: Rc<()>,
    then: Box<dyn FnOnce()>,
}

impl Growth {
    /// Makes the instance and the task that reads it.
    pub(in crate::sys) fn start(poller: Poller) -> io::Result<Rc<Self>> {
        let growth =
            Rc::new(Self { inotify: RefCell::new(instance()?), waiting: RefCell::new(HashMap::new()) });
        let reader = Rc::clone(&growth);
        // A copy to wait on, so that watches can be added meanwhile.
        let fd = reader.inotify.borrow().as_fd().try_clone_to_owned()?;
        tokio::task::spawn_local(async move {
            loop {
                if let Err(error) = poller.ready(fd.as_fd(), Interest::In).await {
                    tracing::error!(%error, "cannot wait for the growth of logs");
                    sleep(RETRY_AFTER).await;
                }
                for then in reader.take_grown() {
                    then();
                }
            }
        });
        Ok(growth)
    }

    /// See [`crate::sys::Sys::on_growth`].
    pub(in crate::sys) fn watch(
        self: &Rc<Self>,
        path: &Path,
        then: Box<dyn FnOnce()>,
    ) -> io::Result<Watched> {
        let watch = self.inotify.borrow().watches().add(path, WatchMask::MODIFY | WatchMask::ONESHOT)?;
        let ticket = Rc::new(());
        let waiting = Waiting { ticket: Rc::clone(&ticket), then };
        self.waiting.borrow_mut().entry(watch.clone()).or_default().push(waiting);
        Ok(Watched { growth: Rc::downgrade(self), watch, ticket })
    }

    /// Those whose file has changed or went away; all of them when events were lost.
    fn take_grown(&self) -> Vec<Box<dyn FnOnce()>> {
        let mut buffer = [0; BUFFER_BYTES];
        let mut inotify = self.inotify.borrow_mut();
        let Ok(events) = inotify.read_events(&mut buffer) else {
            return Vec::new();
        };
        let mut waiting = self.waiting.borrow_mut();
        let mut grown = Vec::new();
        for event in events {
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                grown.extend(waiting.drain().flat_map(|(_watch, callers)| callers));
            } else if let Some(callers) = waiting.remove(&event.wd) {
                grown.extend(callers);
            }
        }
        grown.into_iter().map(|caller| caller.then).collect()
    }

    /// Returns the caller, so that its closure is dropped after the borrows have ended: it may own a watch itself.
    fn forget(&self, watch: &WatchDescriptor, ticket: &Rc<()>) -> Option<Waiting> {
        let mut waiting = self.waiting.borrow_mut();
        let callers = waiting.get_mut(watch)?;
        let at = callers.iter().position(|caller| Rc::ptr_eq(&caller.ticket, ticket))?;
        let forgotten = callers.swap_remove(at);
        if callers.is_empty() {
            waiting.remove(watch);
            // EINVAL when it has just fired: then the kernel has removed it already.
            let _fired = self.inotify.borrow().watches().remove(watch.clone());
        }
        Some(forgotten)
    }
}

/// The place of one caller; dropping it forgets the caller, and the file if nobody else waits for it.
pub(in crate::sys) struct Watched {
    growth: Weak<Growth>,
    watch: WatchDescriptor,
    ticket: Rc<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(growth) = self.growth.upgrade() {
            drop(growth.forget(&self.watch, &self.ticket));
        }
    }
}
