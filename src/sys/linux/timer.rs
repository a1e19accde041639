//! The one timer of the daemon: a timerfd on CLOCK_MONOTONIC, armed with absolute times.
//!
//! Owns the descriptor and the task that reads it. Refuses to know deadlines: it is told the next one, and tells when
//! that is reached. Fails only where descriptors run out; a failing wait is logged and tried again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::{Interest, Poller};
use crate::core::vocab::Mono;
use crate::sys::RETRY_AFTER;

/// Makes the timer, unarmed; `on_fire` runs each time that an armed instant is reached.
pub(in crate::sys) fn start(poller: Poller, mut on_fire: impl FnMut() + 'static) -> io::Result<Rc<OwnedFd>> {
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let timer = Rc::new(timerfd_create(TimerfdClockId::Monotonic, flags)?);
    let watched = Rc::clone(&timer);
    tokio::task::spawn_local(async move {
        loop {
            if let Err(error) = poller.ready(watched.as_fd(), Interest::In).await {
                tracing::error!(%error, "cannot wait for the timer");
                tokio::time::sleep(RETRY_AFTER).await;
            }
            // Nothing to read: it was armed anew after it had expired, and will expire again.
            if rustix::io::read(&watched, &mut [0; 8]).is_ok() {
                on_fire();
            }
        }
    });
    Ok(timer)
}

/// Arms for `at` instead of what was armed before; `None` disarms. An instant that has passed fires at once.
pub(in crate::sys) fn arm(timer: &OwnedFd, at: Option<Mono>) {
    // Zero would disarm; nobody can tell the first nanosecond after boot from the beginning.
    let nanos = at.map_or(0, |Mono(nanos)| nanos.max(1));
    let value = Timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: (nanos % 1_000_000_000) as _,
    };
    let spec = Itimerspec { it_interval: Timespec::default(), it_value: value };
    if let Err(error) = timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &spec) {
        // The kernel refuses only malformed arguments, and these are not.
        unreachable!("timerfd_settime(2) failed on our own timer: {error}");
    }
}
