//! How the daemon does, in one answer: what it runs on, what it holds, and what its start had to make good or took over.

use serde_json::{Value, json};

use crate::config::Durability;
use crate::core::JournalHealth;
use crate::sys::clock;

use super::Daemon;

/// The answer of `GET /v1/health`.
pub(super) fn of(daemon: &Daemon) -> Value {
    let core = daemon.core.borrow();
    let started = daemon.sys.started();
    let now = clock::now();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "home": daemon.home.path(),
        "uptimeSeconds": now.mono.since(daemon.started.mono).as_secs(),
        "backend": started.backend.to_string(),
        "backendWhy": started.why,
        "durability": match daemon.config.borrow().durability {
            Durability::Full => "full",
            Durability::Normal => "normal",
        },
        "journal": match core.journal() {
            JournalHealth::Well => "well".to_owned(),
            JournalHealth::Failing(why) => format!("cannot be written: {why}"),
        },
        "journalPath": daemon.journal.path(),
        "epoch": daemon.journal.epoch(),
        "rebuilt": rebuilt(daemon),
        "imported": *daemon.imported.borrow(),
        "metricsPort": daemon.metrics_port,
        "sessions": core.live() - core.queued(),
        "queued": core.queued(),
        "fuses": core.dir_fuses().count(),
        "locks": core.manual_locks().len() + core.holders().len(),
        "deliveriesOwed": core.outbox().len(),
        "cgroups": daemon.places.words(now.mono),
    })
}

/// What the last start had to make good; null where the journal knew everything.
fn rebuilt(daemon: &Daemon) -> Value {
    let rebuilt = daemon.rebuilt.borrow();
    if rebuilt.sessions == 0 && rebuilt.hopeless.is_empty() && rebuilt.unread.is_none() {
        return Value::Null;
    }
    let hopeless = rebuilt.hopeless.iter().map(|(session, why)| json!({"id": session, "why": why}));
    json!({
        "journalWasMissing": rebuilt.fresh,
        "sessions": rebuilt.sessions,
        "notRebuilt": hopeless.collect::<Vec<_>>(),
        "unread": rebuilt.unread,
    })
}
