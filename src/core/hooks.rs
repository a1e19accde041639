//! Hooks: scripts of the user's that run when a session starts and when it has its verdict.
//!
//! A hook is a *hidden session*: it has a shim, a fuse, a deadline and a verdict like any other, so it outlives a
//! restart of the daemon and its end is known for certain; but it is in no listing, makes no events, and is forgotten
//! once its session remembers how it ended. Its start is recorded in the very step that decides on it, and nothing ever
//! starts it again: at most once per verdict. Where its end cannot be known, that is what is reported.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::agent::Spent;
use super::dir_fuses::FuseId;
use super::fuse::Outcome;
use super::record::Record;
use super::session::{Deadline, Origin, Session, Spec, Verdict};
use super::supervisor::Supervisor;
use super::vocab::{Now, RunId, SessionId, Wall};
use super::{Effect, Step};

/// A hook may take so long.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(300);
/// And has so long between TERM and KILL.
const HOOK_GRACE: Duration = Duration::from_secs(5);

/// What the user hangs on a session, as text for `/bin/sh -c`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hooks {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_create: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_complete: Option<String>,
}

/// When a hook runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookKind {
    /// Once the leader of the first run runs; the session does not wait for it.
    OnCreate,
    /// Once the verdict of a run is durable, whatever it is.
    OnComplete,
}

/// Whose hook a hidden session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookOf {
    pub run: RunId,
    pub kind: HookKind,
}

/// What a hidden session is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HiddenOf {
    Hook(HookOf),
    /// The script of a directory fuse (dir_fuses.rs).
    Fuse(FuseId),
}

/// How far a hook of a run has come.
#[derive(Clone, Debug, PartialEq)]
pub enum HookState {
    /// Its start is recorded.
    Running {
        since: Wall,
    },
    Ended(Box<Verdict>),
}

impl Hooks {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The script of a hook.
    pub fn script(&self, kind: HookKind) -> Option<&str> {
        match kind {
            HookKind::OnCreate => self.on_create.as_deref(),
            HookKind::OnComplete => self.on_complete.as_deref(),
        }
    }
}

impl HookKind {
    pub const ALL: [Self; 2] = [Self::OnCreate, Self::OnComplete];

    /// The public word.
    pub fn word(self) -> &'static str {
        match self {
            Self::OnCreate => "on_create",
            Self::OnComplete => "on_complete",
        }
    }
}

impl HookOf {
    /// The id of the hidden session: a function of what it is for, so there can be no second one.
    pub fn id(self) -> SessionId {
        let name = format!("hook.{}.{}", self.run.run, self.kind.word());
        SessionId(Uuid::new_v5(&self.run.session.0, name.as_bytes()))
    }
}

impl HookState {
    /// The public word. `hook_unknown`: it was started, or was about to be, and nobody can tell how it ended.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Running { .. } => "running",
            Self::Ended(verdict) => match verdict.outcome {
                Outcome::Completed => "done",
                Outcome::Failed | Outcome::Cancelled | Outcome::TimedOut | Outcome::LaunchFailed => "failed",
                Outcome::Lost => "hook_unknown",
            },
        }
    }
}

impl Spec {
    /// What it is a part of, where it is known to nobody outside.
    pub fn hidden(&self) -> Option<HiddenOf> {
        self.hook_of.map(HiddenOf::Hook).or(self.fuse_of.map(HiddenOf::Fuse))
    }
}

impl Session {
    /// Whether it is known to nobody outside.
    pub fn is_hidden(&self) -> bool {
        self.spec.hidden().is_some()
    }

    /// Whether no hook of its run is under way or still to come.
    pub fn hooks_are_over(&self) -> bool {
        let ended = |state: &HookState| matches!(state, HookState::Ended(_));
        self.run.verdict.is_some() && self.run.hooks.values().all(ended)
    }
}

impl Supervisor {
    /// Begins a hook of a run, if it has one. In the step that decided on it, so that its start is recorded with its
    /// cause or not at all.
    pub(super) fn start_hook(&mut self, now: Now, run: RunId, kind: HookKind, out: &mut Step) {
        let of = HookOf { run, kind };
        let Some(session) = self.sessions.get(&run.session).filter(|session| session.run_id() == run) else {
            return;
        };
        let Some(script) = session.spec.hooks.script(kind) else { return };
        if kind == HookKind::OnCreate && run.run > 1 {
            return;
        }
        if session.run.hooks.contains_key(&kind) || self.sessions.contains_key(&of.id()) {
            return;
        }
        let spec = hook_spec(&session.spec, script, of);
        self.start_hidden(now, of.id(), spec, HOOK_TIMEOUT, out);
    }

    /// Begins a hidden session.
    pub(super) fn start_hidden(
        &mut self,
        now: Now,
        session: SessionId,
        spec: Spec,
        timeout: Duration,
        out: &mut Step,
    ) {
        let deadline = Deadline::after(now, timeout);
        let created = Record::Created {
            session,
            at: now,
            host: self.settings.host.clone(),
            origin: Origin::Launched,
            spec: Box::new(spec),
            deadline: Some(deadline),
            request: None,
            run: 1,
            spent: Spent::default(),
            warnings: Vec::new(),
            queued: false,
        };
        self.record(now, created, out);
        let run = RunId { session, run: 1 };
        out.effects.push(Effect::WriteDeadline(run, Some(deadline.mono)));
        out.effects.push(Effect::Spawn(run));
    }

    /// The session remembers how its hook ended.
    pub(super) fn hook_ended(&mut self, now: Now, hook: RunId, out: &mut Step) {
        let Some(session) = self.sessions.get(&hook.session) else { return };
        let (Some(of), Some(verdict)) = (session.spec.hook_of, &session.run.verdict) else { return };
        if !self.sessions.contains_key(&of.run.session) {
            return;
        }
        let verdict = verdict.clone();
        self.record(now, Record::HookEnded { run: of.run, hook: of.kind, verdict }, out);
    }

    /// Forgets a hidden session once nothing of it is of use: its end is remembered, its tree is gone, and its exit
    /// file has been put away. What a fuse did is remembered by itself, for as long as the fuse.
    pub(super) fn forget_hook(&mut self, now: Now, id: SessionId, out: &mut Step) {
        let Some(session) = self.sessions.get(&id).filter(|session| session.is_settled()) else { return };
        let done = match session.spec.hidden() {
            Some(HiddenOf::Hook(_)) => self.sizes.contains_key(&id),
            Some(HiddenOf::Fuse(fuse)) => self.dir_fuses().get(fuse).is_none(),
            None => false,
        };
        if done {
            self.forget(now, id, out);
        }
    }

    /// After a start: hooks whose end an earlier life knew, and had no time left to put away.
    pub(super) fn recover_hooks(&mut self, now: Now, out: &mut Step) {
        let ended = |session: &&Session| session.is_hidden() && session.run.verdict.is_some();
        let ended: Vec<_> = self.sessions.values().filter(ended).map(Session::run_id).collect();
        for hook in ended {
            self.hook_ended(now, hook, out);
            // Put away then, or as soon as it is forgotten.
            self.sizes.entry(hook.session).or_insert(0);
            self.forget_hook(now, hook.session, out);
        }
    }

    pub(super) fn apply_hook(&mut self, of: HookOf, state: HookState) {
        let Some(session) = self.sessions.get_mut(&of.run.session) else { return };
        if session.run_id() == of.run {
            session.run.hooks.insert(of.kind, state);
        }
    }

    /// Whether a hook of this run, or of one before it, still needs the session's directory.
    pub(super) fn has_hook(&self, run: RunId) -> bool {
        let runs = (1..=run.run).map(|number| RunId { run: number, ..run });
        let mut ids = runs.flat_map(|run| HookKind::ALL.map(|kind| HookOf { run, kind }.id()));
        ids.any(|id| self.sessions.contains_key(&id))
    }
}

fn hook_spec(of: &Spec, script: &str, hook_of: HookOf) -> Spec {
    let command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    Spec {
        timeout: Some(HOOK_TIMEOUT),
        private: true,
        hook_of: Some(hook_of),
        ..Spec::exec(command, of.cwd.clone(), HOOK_GRACE)
    }
}
