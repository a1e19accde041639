//! Word to whoever started the daemon: that it answers, that it lives, that it ends.
//!
//! The watchdog is told only what was proved: that the ring completes a poll and that the loop takes a message. A loop
//! that hangs says nothing, and the service manager starts another daemon; sessions do not notice.

use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::task::spawn_local;

use crate::sys::service::ServiceManager;

use super::{Daemon, Message, Starter};

/// Says that requests are answered, and keeps saying that the daemon lives to a manager that wants to hear it.
pub(super) fn begin(daemon: &Rc<Daemon>, starter: Starter) -> Option<Rc<ServiceManager>> {
    let manager = match starter {
        Starter::Person => return None,
        Starter::Command(tell) => {
            tell();
            return None;
        }
        Starter::Manager(manager) => Rc::new(manager),
    };
    manager.ready(&status(daemon));
    if let Some(every) = manager.ping_every() {
        let (daemon, manager) = (Rc::clone(daemon), Rc::clone(&manager));
        spawn_local(async move {
            loop {
                tokio::time::sleep(every).await;
                if is_alive(&daemon).await {
                    manager.alive(&status(&daemon));
                } else {
                    tracing::error!(
                        "the loop or its ring does not answer; the service manager is not told that all is well"
                    );
                }
            }
        });
    }
    Some(manager)
}

async fn is_alive(daemon: &Daemon) -> bool {
    let (tell, told) = oneshot::channel();
    let asked = daemon.inbox.send(Message::Pulse(tell)).is_ok();
    asked && daemon.sys.heartbeat().await && told.await.is_ok()
}

/// What `systemctl status` shows.
pub(super) fn status(daemon: &Daemon) -> String {
    let core = daemon.core.borrow();
    let backend = daemon.sys.started().backend;
    let mut status = match core.journal() {
        crate::core::JournalHealth::Well => format!("{} sessions, backend {backend}", core.live()),
        crate::core::JournalHealth::Failing(why) => {
            format!("{} sessions; the journal cannot be written: {why}", core.live())
        }
    };
    if let Some(why) = &*daemon.config_refused.borrow() {
        status.push_str("; ");
        status.push_str(why);
    }
    status
}
