//! Where the processes of a run live: in a scope of the user's manager, in a cgroup below our own, or in ours.
//!
//! Owns the choice, made anew for each launch, and what is said of it. A place that cannot be had is no failure: the
//! next one is taken, and said. Only limits make a failure of it, since nobody would keep them.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;

use crate::core::resources::ResourceLimits;
use crate::core::vocab::{Mono, RunId};
use crate::limits;
use crate::sys::Backend;
use crate::sys::cgroup::scope::{Manager, Scopes, scopes};
use crate::sys::cgroup::{self, CgroupMode, control};
use crate::wire::api;

/// The choices that there are, and how the first one did lately.
#[derive(Debug)]
pub(crate) struct Places {
    cgroups: CgroupMode,
    portable: bool,
    /// A manager that failed is not asked again before.
    again_at: Cell<Mono>,
    failed: RefCell<Option<String>>,
    /// Said once.
    warned: Cell<bool>,
}

/// Where one run is to live. Free of the daemon, for the thread that starts the shim.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    pub(super) manager: Option<Manager>,
    cgroups: CgroupMode,
}

impl Places {
    pub(super) fn new(backend: Backend) -> Self {
        Self {
            cgroups: cgroup::mode(),
            portable: backend == Backend::Portable,
            again_at: Cell::new(Mono(0)),
            failed: RefCell::default(),
            warned: Cell::new(false),
        }
    }

    /// The place of a run that is launched now.
    pub(super) fn choose(&self, now: Mono, limits: &ResourceLimits) -> Chosen {
        // A manager that failed is asked all the same where nobody else can keep the limits.
        let found = if limits.is_none() || self.portable { self.scopes(now) } else { scopes() };
        let manager = match found {
            Scopes::Made(manager) => Some(manager),
            Scopes::None { .. } => None,
        };
        Chosen { manager, cgroups: self.cgroups.clone() }
    }

    /// What whoever launches a session should know of a logout: told once, to them and to the log.
    pub(super) fn advice(&self, now: Mono) -> Option<String> {
        if self.warned.get() {
            return None;
        }
        let advice = match self.scopes(now) {
            Scopes::Made(Manager { until_logout: Some(user), .. }) => format!(
                "the daemon and all sessions end at your last logout; to keep them: sudo loginctl enable-linger {user}"
            ),
            Scopes::None { linger: Some(user), why } => format!(
                "sessions stay with the daemon: {why}; for scopes that outlive both: sudo loginctl enable-linger {user}"
            ),
            Scopes::Made(Manager { until_logout: None, .. }) | Scopes::None { linger: None, .. } => {
                return None;
            }
        };
        self.warned.set(true);
        tracing::warn!("{advice}");
        Some(advice)
    }

    fn scopes(&self, now: Mono) -> Scopes {
        let none = |why: String| Scopes::None { why, linger: None };
        match &*self.failed.borrow() {
            _ if self.portable => none("the portable backend makes none".to_owned()),
            Some(why) if now < self.again_at.get() => none(format!("the last one failed: {why}")),
            Some(_) | None => scopes(),
        }
    }

    /// A launch had to do without a scope that was to be had: the next ones do not wait for the same.
    pub(super) fn scope_failed(&self, now: Mono, why: String) {
        tracing::warn!("no scope of the user's manager: {why}; the session stays with the daemon");
        self.again_at.set(now.after(limits::SCOPE_RETRY_AFTER));
        *self.failed.borrow_mut() = Some(why);
    }

    /// One was made.
    pub(super) fn scope_made(&self) {
        *self.failed.borrow_mut() = None;
    }

    /// What a session may use, refused where nobody would enforce it. Asked before anything is started.
    pub(super) fn limits_of(&self, now: Mono, ask: &api::Launch) -> Result<ResourceLimits, String> {
        let limits = ResourceLimits {
            memory_max_bytes: ask.memory_max_bytes,
            cpu_quota_percent: ask.cpu_quota_percent,
            tasks_max: ask.tasks_max,
        };
        match limits.unfit() {
            Some(why) => Err(why),
            None => self.can_limit(now, &limits).map(|()| limits),
        }
    }

    /// Whether a run with these limits can have them.
    pub(super) fn can_limit(&self, now: Mono, limits: &ResourceLimits) -> Result<(), String> {
        if limits.is_none() {
            return Ok(());
        }
        if self.portable {
            return Err(
                "limits of memory, CPU or tasks cannot be kept: the portable backend has no cgroups; launch \
                        without them, or run the daemon with another backend"
                    .to_owned(),
            );
        }
        match self.choose(now, limits).manager {
            Some(manager) => manager.can_limit(limits),
            None => control::can_limit(&self.cgroups, limits),
        }
    }

    /// For `daemon status`: where the next session lives.
    pub(super) fn words(&self, now: Mono) -> String {
        let below = match &self.cgroups {
            CgroupMode::Own { base, why } => format!("own, below {} ({why})", base.display()),
            CgroupMode::None { why } => format!("none ({why})"),
        };
        match self.scopes(now) {
            Scopes::Made(manager) => {
                format!("a scope each in {} ({}); else {below}", cgroup::scope::SLICE, manager.why)
            }
            Scopes::None { why, .. } => format!("{below}; no scopes: {why}"),
        }
    }
}

impl Chosen {
    /// The cgroup of a run below our own, with its limits, made before there is anybody to be in it. Without limits it
    /// may be missing.
    pub(super) fn own_cgroup(&self, id: RunId, limits: &ResourceLimits) -> Result<Option<PathBuf>, String> {
        // Looked at before the launch was recorded, and again: a scope may have been expected then.
        control::can_limit(&self.cgroups, limits)?;
        let CgroupMode::Own { base, .. } = &self.cgroups else { return Ok(None) };
        let path = match cgroup::make(base, id) {
            Ok(path) => path,
            Err(error) if limits.is_none() => {
                tracing::warn!(session = %id.session, "no cgroup for the session, its tree is the shim's: {error}");
                return Ok(None);
            }
            Err(error) => return Err(format!("make the cgroup that the limits need: {error}")),
        };
        if let Err(error) = control::limit(&path, limits) {
            let _empty = cgroup::remove(&path);
            return Err(format!("limit the session: {error}"));
        }
        Ok(Some(path))
    }
}
