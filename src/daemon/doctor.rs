//! What the daemon finds when it looks at itself: backend, journal, disk, outbox, and sessions that need a look.
//!
//! Refuses to repair anything. A check that cannot be made says so; it is not a finding.

use std::rc::Rc;

use hyper::{Response, StatusCode};
use tokio::task::spawn_blocking;

use crate::config::Durability;
use crate::config::webhooks::Webhook;
use crate::core::import::TakenOver;
use crate::core::record::{PauseReason, is_ad_hoc};
use crate::core::session::{LeftoverCount, Session};
use crate::core::vocab::{Now, Wall};
use crate::core::{JournalHealth, Supervisor};
use crate::sys::{self, Backend};
use crate::wire::api::{Check, CheckState};
use crate::wire::time::rfc3339;
use crate::{doctor, limits};

use super::Daemon;
use super::http::{Answer, json_answer};
use super::journal::JournalReader;

/// Sessions that one line names.
const NAMED_MAX: usize = 5;

/// The answer of `GET /v1/doctor`.
pub(super) async fn answer(daemon: &Rc<Daemon>) -> Response<Answer> {
    let mut checks = vec![running(daemon)];
    checks.extend(doctor::host(
        sys::features::probe(),
        &sys::host_limits::host_limits(),
        &sys::host_limits::systemd(),
        &sys::features::scopes(),
        daemon.config.borrow().max_sessions,
    ));
    checks.push(journal(daemon));
    checks.push(integrity(daemon.journal.reader()).await);
    checks.push(disk(daemon));
    checks.push(logs(daemon));
    checks.push(exit_files(daemon));
    let core = daemon.core.borrow();
    checks.extend(taken_over(&core));
    let config = daemon.config.borrow();
    let now = sys::clock::now();
    checks.push(outbox(&core, now));
    checks.extend(config.webhooks.iter().filter_map(|webhook| endpoint(&core, webhook, now)));
    checks.extend(strangers(&core, &config.webhooks));
    checks.extend(sessions(&core));
    drop(core);
    json_answer(StatusCode::OK, &checks)
}

fn running(daemon: &Daemon) -> Check {
    let started = daemon.sys.started();
    let found = format!(
        "version {}, PID {}, backend {} ({})",
        env!("CARGO_PKG_VERSION"),
        std::process::id(),
        started.backend,
        started.why
    );
    let portable = started.backend == Backend::Portable;
    Check::new("daemon", if portable { CheckState::Note } else { CheckState::Ok }, found)
}

fn journal(daemon: &Daemon) -> Check {
    let core = daemon.core.borrow();
    match core.journal() {
        JournalHealth::Failing(why) => {
            let found = format!("cannot be written ({why}): launches are refused, verdicts wait");
            Check::new("journal", CheckState::Problem, found)
                .advise(format!("free space at {}", daemon.home.path().display()))
        }
        JournalHealth::Well => match daemon.config.borrow().durability {
            Durability::Full => {
                Check::new("journal", CheckState::Ok, "durability full: commits outlive a power loss")
            }
            Durability::Normal => Check::new(
                "journal",
                CheckState::Note,
                "durability normal: after a power loss a verdict of the last seconds may be decided again",
            ),
        },
    }
}

/// What was taken over from an earlier agentctl, where there was one.
fn taken_over(core: &Supervisor) -> Option<Check> {
    let files = core.imported().iter().map(|(file, taken)| {
        let TakenOver { at, taken, left_out } = taken;
        format!("{file} on {}: {taken} taken, {left_out} left out", rfc3339(*at))
    });
    let files: Vec<_> = files.collect();
    let left_out = core.imported().values().any(|taken| taken.left_out > 0);
    let found = (!files.is_empty()).then(|| files.join("; "))?;
    let check =
        Check::new("earlier agentctl", if left_out { CheckState::Note } else { CheckState::Ok }, found);
    Some(if left_out {
        check.advise("taken-over.log in the home names what was left out; see docs/migration.md")
    } else {
        check
    })
}

/// Reads the whole file, beside everybody else.
async fn integrity(reader: JournalReader) -> Check {
    let name = "integrity";
    match spawn_blocking(move || reader.check()).await {
        Ok(Ok(None)) => Check::new(name, CheckState::Ok, "the journal's pages and indexes agree"),
        Ok(Ok(Some(damage))) => Check::new(name, CheckState::Problem, format!("the journal is damaged: {damage}"))
            .advise("stop the daemon, and keep a copy of journal.db, journal.db-wal and sessions/ before anything else"),
        Ok(Err(error)) => Check::new(name, CheckState::Unknown, format!("the journal cannot be checked: {error}")),
        Err(panicked) => Check::new(name, CheckState::Unknown, format!("the check ended early: {panicked}")),
    }
}

fn disk(daemon: &Daemon) -> Check {
    let name = "disk";
    let home = daemon.home.path();
    match rustix::fs::statvfs(home) {
        Err(error) => Check::new(name, CheckState::Unknown, format!("{}: {error}", home.display())),
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{} free at {}", bytesize::ByteSize(free), home.display());
            if free < limits::DISK_FREE_LOW_BYTES {
                Check::new(name, CheckState::Problem, text).advise("free some: a full disk refuses launches")
            } else {
                Check::new(name, CheckState::Ok, text)
            }
        }
    }
}

/// Whether logs are kept to their size.
fn logs(daemon: &Daemon) -> Check {
    let name = "logs";
    let Some(bytes) = daemon.config.borrow().log_max_bytes else {
        return Check::new(name, CheckState::Note, "kept whole, whatever their size (log_max is 0)");
    };
    let size = bytesize::ByteSize(bytes).display().si();
    if let Err(why) = &daemon.makes_holes {
        let found = format!("not kept to {size}: the file system makes no holes in files ({why})");
        return Check::new(name, CheckState::Note, found)
            .advise("set AGENTCTL_HOME to a directory on ext4, xfs, btrfs or tmpfs");
    }
    match sys::log_files::can_signal_writes() {
        Ok(()) => Check::new(name, CheckState::Ok, format!("the last {size} of each are kept")),
        Err(why) => {
            let found =
                format!("kept to {size} only once a run is over: no word of writes is to be had ({why})");
            Check::new(name, CheckState::Note, found).advise("sysctl fs.dir-notify-enable=1")
        }
    }
}

/// Files that were put aside, by this daemon or an earlier one.
fn exit_files(daemon: &Daemon) -> Check {
    let (name, exits) = ("exit files", daemon.home.exits());
    let entries = match std::fs::read_dir(&exits) {
        Ok(entries) => entries,
        Err(error) => {
            return Check::new(
                name,
                CheckState::Problem,
                format!("{} cannot be read: {error}", exits.display()),
            )
            .advise("make it readable; until then ends are known by pidfd alone");
        }
    };
    let names = entries.flatten().map(|entry| entry.file_name());
    match names.filter(|name| name.to_string_lossy().contains(".rejected")).count() {
        0 => Check::new(name, CheckState::Ok, "none was put aside"),
        count => {
            Check::new(name, CheckState::Problem, format!("{count} put aside: not whole, or contradicted"))
                .advise(format!("see who writes to {}, then remove its *.rejected", exits.display()))
        }
    }
}

/// What is owed, and whether the oldest has waited for long.
fn outbox(core: &Supervisor, now: Now) -> Check {
    let owed = core.outbox();
    let name = "webhooks";
    // What waits at an endpoint that is paused has a line of its own.
    let mut served = owed.iter().filter(|(id, _)| core.is_served(&id.endpoint));
    let Some((id, oldest)) = served.next() else {
        return Check::new(name, CheckState::Ok, "nothing is owed");
    };
    let count = served.count() + 1;
    let age = now.wall.since(oldest.queued);
    let last = oldest.last_error.as_deref().unwrap_or("no attempt has failed");
    let waiting = humantime::format_duration(std::time::Duration::from_secs(age.as_secs()));
    let found = format!("{count} owed, the oldest for {waiting} to {} ({last})", id.endpoint);
    if age > limits::DELIVERY_LATE_AFTER {
        Check::new(name, CheckState::Problem, found).advise("see whether the receiver answers")
    } else {
        Check::new(name, CheckState::Ok, found)
    }
}

/// An endpoint that is paused, or at which nothing succeeds.
fn endpoint(core: &Supervisor, webhook: &Webhook, now: Now) -> Option<Check> {
    let name = format!("endpoint {}", webhook.name);
    let health = core.outbox().health(&webhook.name);
    let waiting = core.outbox().count(&webhook.name).0;
    let long = |since: Wall| {
        humantime::format_duration(std::time::Duration::from_secs(now.wall.since(since).as_secs()))
    };
    let resume = format!("agentctl webhooks test {0}, then agentctl webhooks resume {0}", webhook.name);
    if let Some(pause) = health.paused {
        let (state, why) = match pause.why {
            PauseReason::Asked => (CheckState::Note, "on request"),
            PauseReason::Gone => (CheckState::Problem, "since it answered 410 Gone"),
            PauseReason::Failing => (CheckState::Problem, "since nothing has succeeded there for days"),
        };
        let found = format!("paused for {} {why}; {waiting} wait", long(pause.at));
        return Some(Check::new(&name, state, found).advise(resume));
    }
    if webhook.paused {
        let found = format!("paused by the configuration; {waiting} wait");
        return Some(Check::new(&name, CheckState::Note, found));
    }
    let since = health.failing_since?;
    let found = format!("no attempt has succeeded for {}; {waiting} wait", long(since));
    Some(
        Check::new(&name, CheckState::Note, found).advise(format!("agentctl webhooks test {}", webhook.name)),
    )
}

/// Deliveries to endpoints that the configuration had and has no more.
fn strangers(core: &Supervisor, webhooks: &[Webhook]) -> Option<Check> {
    let known = |name: &str| is_ad_hoc(name) || webhooks.iter().any(|webhook| webhook.name == name);
    let mut gone: Vec<&str> = core.outbox().endpoints().filter(|name| !known(name)).collect();
    gone.sort_unstable();
    let found = format!("deliveries wait for endpoints that are not configured: {}", gone.join(", "));
    let advice = "configure them again, or let retention take the sessions";
    (!gone.is_empty()).then(|| Check::new("former endpoints", CheckState::Note, found).advise(advice))
}

/// Sessions that somebody should look at, a line for each kind.
fn sessions(core: &Supervisor) -> Vec<Check> {
    let named = |wanted: &dyn Fn(&Session) -> bool| {
        let ids: Vec<_> = core.shown().filter(|session| wanted(session)).map(|s| s.id.short()).collect();
        let mut text = ids.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
        if ids.len() > NAMED_MAX {
            text.push_str(&format!(" and {} more", ids.len() - NAMED_MAX));
        }
        (!ids.is_empty()).then_some((ids.len(), text))
    };
    let mut checks = vec![Check::new(
        "sessions",
        CheckState::Ok,
        format!("{} supervised, {} in all", core.live(), core.shown().count()),
    )];
    let mut add = |name: &str, state, found: Option<(usize, String)>, means: &str, advice: &str| {
        if let Some((count, ids)) = found {
            checks.push(Check::new(name, state, format!("{count} {means}: {ids}")).advise(advice));
        }
    };
    let ended = |session: &Session| session.run.verdict.is_some();
    add(
        "leftovers",
        CheckState::Note,
        named(&|s| ended(s) && !s.run.tree_settled),
        "ended, with processes of the tree still there",
        "agentctl stop ID ends them",
    );
    add(
        "unknown trees",
        CheckState::Note,
        named(&|s| ended(s) && !s.run.adopted && s.run.leftovers == LeftoverCount::Unknown),
        "ended, and whether anything of the tree is left cannot be told",
        "look for processes with AGENTCTL_SESSION_ID=ID in their environment",
    );
    add(
        "unverified",
        CheckState::Problem,
        named(&|s| !ended(s) && s.run.unverified.is_some()),
        "with a check that could not be made",
        "agentctl status ID says which",
    );
    add(
        "unrecorded",
        CheckState::Problem,
        named(&|s| ended(s) && !core.may_tell(s)),
        "ended, and not told before the journal can be written",
        "see the journal above",
    );
    let counters = core.counters();
    if counters.disagreements > 0 {
        let found = format!("{} pieces of evidence against a status already known", counters.disagreements);
        checks.push(
            Check::new("evidence", CheckState::Problem, found)
                .advise("a bug of agentctl or the host: see the log"),
        );
    }
    checks
}
