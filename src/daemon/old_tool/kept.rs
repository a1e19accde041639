//! What people had set by hand in the earlier agentctl: read from its files, and made records of ours.
//!
//! Refuses to carry anything out: a fuse that was due while nobody looked is named, not fired (core/import.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use crate::core::dir_fuses::{BURNING_MAX, FuseId, FuseSpec};
use crate::core::import;
use crate::core::locks::ManualLock;
use crate::core::record::Record;
use crate::core::vocab::{Now, Wall};
use crate::limits;
use crate::sys::clock;
use crate::wire::fuses::Actions;
use crate::wire::old_home::{self, OldFuse};
use crate::wire::time::rfc3339;

use super::super::{Daemon, fuses as dir_fuses, locks as directories, notify};
use super::import::{Report, read};

/// How one of its files is read.
type Reader = fn(&Daemon, &mut Report) -> Result<(), String>;

/// The files, and their readers.
pub(super) const FILES: [(&str, Reader); 2] = [("locks.json", locks), ("fuses.json", fuses)];

/// Where the tool before that one kept its locks; it took them over where it had none of its own.
const OLDER_LOCKS: &str = ".openclaw/locks/locks.json";

fn locks(daemon: &Daemon, report: &mut Report) -> Result<(), String> {
    let own = whole(&daemon.home.path().join("locks.json"))?;
    let older = || whole(&older_locks(daemon)?).transpose();
    let Some(bytes) = own.map(Ok).or_else(older).transpose()? else { return Ok(()) };
    let found = old_home::locks(&bytes)?;
    found.skipped.into_iter().for_each(|line| report.leave_out(line));
    let now = clock::now().wall;
    let mut taken: BTreeSet<String> =
        daemon.core.borrow().manual_locks().map(|lock| lock.directory.clone()).collect();
    for old in found.read {
        let directory = match directories::look_at(&old.directory, &daemon.sys.host().boot) {
            Ok(directory) if taken.len() < limits::IMPORT_SESSIONS_MAX => directory,
            Ok(_) => {
                report.leave_out(format!("lock of {}: there are too many", old.directory));
                continue;
            }
            Err(why) => {
                report.leave_out(format!("lock of {}: {why}", old.directory));
                continue;
            }
        };
        // One directory by two names; the first lock counts.
        if taken.insert(directory.path.clone()) {
            let lock = ManualLock {
                directory: directory.path,
                id: directory.id,
                by: old.by.unwrap_or_else(|| "unknown".to_owned()),
                reason: old.reason,
                at: old.at.unwrap_or(now),
            };
            report.take_lock(Record::Locked { lock });
        }
    }
    Ok(())
}

/// Of the home that is the user's own.
fn older_locks(daemon: &Daemon) -> Option<PathBuf> {
    let user = PathBuf::from(std::env::var_os("HOME")?);
    (daemon.home.path() == user.join(".agentctl")).then(|| user.join(OLDER_LOCKS))
}

fn fuses(daemon: &Daemon, report: &mut Report) -> Result<(), String> {
    let Some(bytes) = whole(&daemon.home.path().join("fuses.json"))? else { return Ok(()) };
    let found = old_home::fuses(&bytes)?;
    found.skipped.into_iter().for_each(|line| report.leave_out(line));
    let now = clock::now();
    let burning: BTreeSet<String> =
        daemon.core.borrow().dir_fuses().burning().map(|fuse| fuse.spec.directory.clone()).collect();
    // A directory has one, by whatever names it was set: the one that was set last.
    let mut taken: BTreeMap<String, Taken> = BTreeMap::new();
    for old in found.read {
        let called = format!("fuse of {}, due {}", old.directory, rfc3339(old.expires));
        let read = fuse(daemon, old, now).and_then(|fuse| {
            let record = import::fuse(fuse.spec.clone(), fuse.expires, now).map_err(str::to_owned)?;
            Ok((fuse, record))
        });
        match read {
            Ok((fuse, _)) if burning.contains(&fuse.spec.directory) => {
                report.leave_out(format!("{called}: its directory was given another one here"));
            }
            Ok((fuse, _))
                if !taken.contains_key(&fuse.spec.directory)
                    && burning.len() + taken.len() >= BURNING_MAX =>
            {
                report.leave_out(format!("{called}: there are more than {BURNING_MAX}"));
            }
            Ok((fuse, record)) => {
                let directory = fuse.spec.directory.clone();
                let new =
                    Taken { called, set: fuse.expires.0 - ttl_us(&fuse.spec), record, remark: fuse.remark };
                let loser = match taken.remove(&directory) {
                    Some(before) if before.set > new.set => {
                        taken.insert(directory, before);
                        Some(new)
                    }
                    before => {
                        taken.insert(directory, new);
                        before
                    }
                };
                if let Some(Taken { called, .. }) = loser {
                    report.leave_out(format!("{called}: its directory has another one, set later"));
                }
            }
            Err(why) => report.leave_out(format!("{called}: {why}")),
        }
    }
    for fuse in taken.into_values() {
        report.take_fuse(fuse.record);
        fuse.remark.into_iter().for_each(|line| report.remark(line));
    }
    Ok(())
}

/// A fuse that is taken, unless its directory turns out to have a later one.
struct Taken {
    /// How it is called in a line.
    called: String,
    /// Microseconds since the epoch.
    set: i64,
    record: Record,
    /// What is to be said of it.
    remark: Option<String>,
}

fn ttl_us(spec: &FuseSpec) -> i64 {
    i64::try_from(spec.ttl.as_micros()).unwrap_or(i64::MAX)
}

/// A fuse as it is here.
struct Fuse {
    spec: FuseSpec,
    expires: Wall,
    remark: Option<String>,
}

fn fuse(daemon: &Daemon, old: OldFuse, now: Now) -> Result<Fuse, String> {
    let OldFuse { directory: called, expires, ttl_ms, setter, label, script, webhook, event } = old;
    let ttl = ttl_ms.map_or_else(|| expires.since(now.wall), Duration::from_millis);
    if expires.since(now.wall) > limits::FUSE_TTL_MAX {
        return Err("its time is out of all bounds".to_owned());
    }
    let mut on_expire = dir_fuses::actions(daemon, Actions { script, webhook: None, event })?;
    let real = std::fs::canonicalize(&called).map_err(|error| error.to_string())?;
    let directory = real.into_os_string().into_string().map_err(|_| "its path is not UTF-8".to_owned())?;
    // Whom it tells was never checked; what else it does is not to be lost for that.
    let mut remark = None;
    // A socket is of no address that a delivery would ask about; and that tool knew none.
    let url = webhook.map(|url| match url.starts_with("unix:") {
        true => Err("an earlier agentctl told no sockets".to_owned()),
        false => notify::of_url(&daemon.config.borrow(), &url),
    });
    match url.transpose() {
        Ok(Some((notify, needs_leave))) => {
            remark = needs_leave
                .map(|why| format!("fuse of {called}: its URL needs leave before it is due: {why}"));
            on_expire.webhook = Some(notify);
        }
        Ok(None) => {}
        Err(why) => remark = Some(format!("fuse of {called}: its URL is left out: {why}")),
    }
    let spec = FuseSpec { id: FuseId(Uuid::new_v4()), directory, ttl, label, setter, on_expire };
    Ok(Fuse { spec, expires, remark })
}

/// `None`: there is no such file.
fn whole(path: &Path) -> Result<Option<Vec<u8>>, String> {
    match read(path, limits::IMPORT_BYTES_MAX) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}
