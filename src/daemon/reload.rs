//! Reading the configuration again while everything runs (SIGHUP, `daemon reload`): a good one holds for what is decided
//! from now on, a bad one changes nothing. Refuses to know what any key means.

use std::rc::Rc;

use serde::Serialize;

use crate::config::{Config, OLD_TIMEOUT};
use crate::core::Event;
use crate::sys::service::ServiceManager;

use super::{Daemon, environment, service, settings};

/// What a reload did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reloaded {
    /// Keys that differ in the file and count from the daemon's next start.
    at_restart: Vec<&'static str>,
}

/// Reads the file again. An error leaves everything as it was; it is a text for people, and shown in the status until a
/// good configuration is read.
pub(super) fn reload(daemon: &Rc<Daemon>) -> Result<Reloaded, String> {
    let new = match Config::load(&daemon.home.config(), &environment()) {
        Ok(new) => new,
        Err(error) => {
            let why = format!("{error}; the daemon goes on with the one that it has");
            tracing::error!("{why}");
            *daemon.config_refused.borrow_mut() = Some(why.clone());
            return Err(why);
        }
    };
    *daemon.config_refused.borrow_mut() = None;
    if new.old_timeout {
        tracing::warn!("{}: {OLD_TIMEOUT}", daemon.home.config().display());
    }
    let at_restart = daemon.config.borrow_mut().renew(new);
    let host = daemon.sys.host().clone();
    daemon.mailer.borrow_mut().forget();
    daemon.send(Event::Configured(settings(&daemon.config.borrow(), host)));
    tracing::info!(?at_restart, "the configuration was read again");
    Ok(Reloaded { at_restart })
}

/// A reload that nobody waits for but, perhaps, the service manager.
pub(super) fn on_hangup(daemon: &Rc<Daemon>, manager: Option<&ServiceManager>) {
    if let Some(manager) = manager {
        manager.reloading();
    }
    // Told in the log, and in the status.
    let _refused = reload(daemon);
    if let Some(manager) = manager {
        manager.ready(&service::status(daemon));
    }
}
