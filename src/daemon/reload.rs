//! Reading the configuration again while everything runs (SIGHUP, `daemon reload`): a good one holds for what is decided
//! from now on, a bad one changes nothing. Refuses to know what any key means.

use std::rc::Rc;

use serde::Serialize;

use crate::config::{Config, ConfigError};
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

/// Reads the file again. An error leaves everything as it was.
pub(super) fn reload(daemon: &Rc<Daemon>) -> Result<Reloaded, ConfigError> {
    let new = Config::load(&daemon.home.config(), &environment())?;
    let at_restart = daemon.config.borrow_mut().renew(new);
    let host = daemon.sys.host().clone();
    daemon.mailer.borrow_mut().forget();
    daemon.send(Event::Configured(settings(&daemon.config.borrow(), host)));
    tracing::info!(?at_restart, "the configuration was read again");
    Ok(Reloaded { at_restart })
}

/// What is said of a configuration that was not taken.
pub(super) fn kept(error: &ConfigError) -> String {
    format!("{error}; the daemon goes on with the one that it has")
}

/// A reload that nobody waits for but, perhaps, the service manager.
pub(super) fn on_hangup(daemon: &Rc<Daemon>, manager: Option<&ServiceManager>) {
    if let Some(manager) = manager {
        manager.reloading();
    }
    let refused = reload(daemon).err().map(|error| kept(&error));
    if let Some(why) = &refused {
        tracing::error!("{why}");
    }
    if let Some(manager) = manager {
        let status = service::status(daemon);
        manager.ready(&refused.map_or(status.clone(), |why| format!("{status}; {why}")));
    }
}
