//! Several sessions launched by one request: a worktree each, one record of all, and an answer when each has come to
//! something.
//!
//! What cannot be launched as asked is refused before anything is recorded, all of it. After that each goes the way of any
//! launch (launch.rs, core/launches.rs), and starts or fails by itself.

use std::collections::HashMap;
use std::rc::Rc;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::core::record::RequestKey;
use crate::core::session::{Origin, Spec};
use crate::core::vocab::{RunId, SessionId};
use crate::core::worktree::Worktree;
use crate::core::{Event, Reply, Request as Ask};
use crate::limits;
use crate::wire::api::Launch;
use crate::wire::groups::{GroupAnswer, LaunchGroup, Slot, SlotAnswer};
use crate::wire::hex;

use super::http::{Answer, Fault, Handled, idempotency_key, json_answer, read_json, refused, request_key};
use super::launch::Parcel;
use super::launches::advised;
use super::queue::{self, Need};
use super::{Daemon, prepare, worktrees};

/// One session of the group, checked.
struct Member {
    session: SessionId,
    spec: Spec,
    parcel: Parcel,
}

/// Answers a group launch.
pub(super) async fn launch(daemon: &Rc<Daemon>, request: Request<Incoming>) -> Handled {
    let key = idempotency_key(&request)?;
    let (asked, body): (LaunchGroup, Bytes) = read_json(daemon, request).await?;
    let key = request_key(key, &[b"group ", &body]);
    drop(body);
    let unfit = |why: String| Fault::new(StatusCode::BAD_REQUEST, why);
    check(&asked).map_err(unfit)?;
    let group = name(daemon, key.as_ref());
    let members = members(daemon, &group, &asked).await.map_err(unfit)?;
    let answer = carry_out(daemon, group, key, members).await;
    advised(daemon, answer)
}

/// What no single launch would notice.
fn check(asked: &LaunchGroup) -> Result<(), String> {
    let most = limits::GROUP_SLOTS_MAX;
    let count = asked.slots.len();
    if count == 0 || count > most {
        return Err(format!("a group has 1 to {most} sessions, not {count}"));
    }
    let common = &asked.launch;
    for (what, set) in [
        ("name", common.name.is_some()),
        ("group", common.group.is_some()),
        ("worktree", common.worktree.is_some()),
    ] {
        if set {
            return Err(format!("the {what} of one session cannot be that of {count}; leave it out"));
        }
    }
    let env: usize = common.env.iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
    let each = env + common.prompt.as_ref().map_or(0, String::len);
    if each.saturating_mul(count) > limits::BODIES_BYTES_MAX {
        let most = limits::BODIES_BYTES_MAX;
        return Err(format!(
            "prompt and environment of {count} sessions are more than {most} bytes together"
        ));
    }
    Ok(())
}

/// `g-` and six hex digits: the same for the same request, and no other group's.
fn name(daemon: &Daemon, key: Option<&RequestKey>) -> String {
    let core = daemon.core.borrow();
    let seed = key.map_or_else(|| Uuid::new_v4().to_string(), |key| key.key.to_string());
    let mine = format!("{seed}/");
    let is_taken = |name: &str| {
        core.shown().any(|session| {
            let ours = session.request.as_ref().is_some_and(|request| request.key.starts_with(&mine));
            session.spec.group.as_deref() == Some(name) && !ours
        })
    };
    let mut attempt = 0_u32;
    loop {
        let digest = Sha256::digest(format!("{seed}#{attempt}"));
        let name = format!("g-{}", hex(&digest[..3]));
        if !is_taken(&name) {
            return name;
        }
        attempt += 1;
    }
}

async fn members(daemon: &Rc<Daemon>, group: &str, asked: &LaunchGroup) -> Result<Vec<Member>, String> {
    let (named, config_cwd) = {
        let config = daemon.config.borrow();
        let default = asked.launch.adapter.clone().or_else(|| config.adapter.clone());
        let adapter = |slot: &Slot| slot.adapter.clone().or_else(|| default.clone()).unwrap_or_default();
        let model = |slot: &Slot| slot.model.clone().or_else(|| asked.launch.model.clone());
        let named: Vec<_> = asked.slots.iter().map(|slot| (adapter(slot), model(slot))).collect();
        (named, config.cwd.clone())
    };
    let dir = asked.repo.clone().or_else(|| asked.launch.cwd.clone()).or(config_cwd);
    let repo = dir.or_else(|| asked.launch.here.clone()).filter(|_| !asked.in_place);
    let repo =
        match repo {
            None => None,
            Some(repo) => {
                let any = Worktree { repo, branch: "any".into(), base: None };
                let named = format!("the repository {}", any.repo);
                let checked = daemon.looks.at(&named, move || worktrees::check(&any)).await.flatten();
                Some(checked.map_err(|why| {
                    format!("{why} (each session of a group works in a worktree of its own)")
                })?)
            }
        };
    let mut ids: Vec<SessionId> = asked.slots.iter().map(|_| SessionId(Uuid::new_v4())).collect();
    // Their order is that of the slots, for whoever lists them.
    ids.sort_unstable();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut members = Vec::new();
    for (at, ((slot, suffix), session)) in asked.slots.iter().zip(suffixes(&named)).zip(ids).enumerate() {
        let shown =
            |why: String| format!("session {} of {} ({}): {why}", at + 1, asked.slots.len(), named[at].0);
        let worktree = repo.as_ref().map(|repo| Worktree {
            repo: repo.repo.clone(),
            branch: slot.branch.clone().unwrap_or_else(|| format!("try/{group}/{suffix}")),
            base: slot.base.clone().or_else(|| asked.base.clone()),
        });
        if let Some(worktree) = &worktree
            && let Some(other) = places.insert(worktree.path(), at + 1)
        {
            let branch = &worktree.branch;
            return Err(shown(format!(
                "it would share the worktree of session {other}, by its branch {branch}"
            )));
        }
        let prepared = prepare::prepare(daemon, session, one(asked, slot, group, worktree)).await;
        let (spec, parcel) = prepared.map_err(shown)?;
        members.push(Member { session, spec, parcel });
    }
    Ok(members)
}

/// The launch that a slot is.
fn one(asked: &LaunchGroup, slot: &Slot, group: &str, worktree: Option<Worktree>) -> Launch {
    let common = asked.launch.clone();
    let slot = slot.clone();
    Launch {
        adapter: slot.adapter.or(common.adapter),
        model: slot.model.or(common.model),
        group: Some(group.to_owned()),
        worktree,
        thinking: slot.thinking.or(common.thinking),
        safe: slot.safe.unwrap_or(common.safe),
        acp: slot.acp.unwrap_or(common.acp),
        timeout_ms: slot.timeout_ms.or(common.timeout_ms),
        max_tokens: slot.max_tokens.or(common.max_tokens),
        max_cost: slot.max_cost.or(common.max_cost),
        ..common
    }
}

async fn carry_out(
    daemon: &Rc<Daemon>,
    group: String,
    key: Option<RequestKey>,
    members: Vec<Member>,
) -> Result<Response<Answer>, Fault> {
    let (mut asks, mut needs) = (Vec::new(), Vec::new());
    let mut slots: Vec<SlotAnswer> = Vec::new();
    let sessions: Vec<_> = members.iter().map(|member| member.session).collect();
    for (at, Member { session, spec, parcel }) in members.into_iter().enumerate() {
        needs.push(Need { run: RunId { session, run: 1 }, parcel, if_taken: spec.claim.if_taken });
        let (adapter, model) = (spec.adapter.clone(), spec.model.clone());
        slots.push(SlotAnswer { adapter, model, session: None, error: None });
        let key =
            key.as_ref().map(|key| RequestKey { key: format!("{}/{at}", key.key).into(), ..key.clone() });
        let host = daemon.sys.host().clone();
        asks.push(Ask::Launch { session, host, origin: Origin::Launched, spec: Box::new(spec), key });
    }
    let asking = Rc::clone(daemon);
    let replies = queue::hand_in(daemon, needs, async move { asking.ask_together(asks).await }).await?;
    let busy = || Fault::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait; try again");
    let replies = replies.ok_or_else(busy)?;
    let mut first_refusal = None;
    for ((slot, reply), session) in slots.iter_mut().zip(replies).zip(sessions) {
        match reply {
            Some(Reply::Refused(refusal)) => {
                slot.error = Some(refusal.to_string());
                first_refusal.get_or_insert(refusal);
            }
            Some(Reply::Launched(id)) => of_record(daemon, slot, id),
            // It is recorded, and waits.
            Some(_) => of_record(daemon, slot, session),
            None => slot.error = Some("the daemon did not answer".into()),
        }
    }
    match first_refusal {
        // Nothing came of it: that is a no, as for a single launch.
        Some(refusal) if slots.iter().all(|slot| slot.session.is_none()) => Err(refused(&refusal)),
        Some(_) | None => {
            // Of a request that is repeated, the first one's group counts.
            let told =
                slots.iter().find_map(|slot| slot.session.as_ref()?["group"].as_str().map(str::to_owned));
            Ok(json_answer(StatusCode::CREATED, &GroupAnswer { group: told.unwrap_or(group), slots }))
        }
    }
}

fn of_record(daemon: &Daemon, slot: &mut SlotAnswer, session: SessionId) {
    let Some(view) = daemon.view(session) else {
        slot.error = Some("its record is gone".into());
        return;
    };
    if view.outcome.as_deref() == Some("launch_failed") {
        let message = view.meta.get("message").and_then(|value| value.as_str());
        slot.error = Some(message.unwrap_or("the launch failed").to_owned());
    }
    slot.session = serde_json::to_value(&view).ok();
}

impl Daemon {
    /// Asks for several things that are recorded together; their answers, in order. `None`: too many wait already.
    pub(super) async fn ask_together(self: &Rc<Self>, asks: Vec<Ask>) -> Option<Vec<Option<Reply>>> {
        if self.replies.borrow().len() + asks.len() > limits::REQUESTS_MAX {
            return None;
        }
        let mut asked = Vec::new();
        let mut waits = Vec::new();
        for ask in asks {
            let (waiting, told) = self.asker();
            asked.push((waiting.to, ask));
            waits.push((waiting, told));
        }
        self.send(Event::Together(asked));
        let mut replies = Vec::new();
        for (_waiting, told) in waits {
            replies.push(told.await.ok());
        }
        Some(replies)
    }
}

/// A short name for each slot, for branches and directories: the adapter, with its model where an adapter comes twice, and
/// with a number where that does not tell them apart.
fn suffixes(slots: &[(String, Option<String>)]) -> Vec<String> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let suffix = |(adapter, model): &(String, Option<String>)| {
        let short = match adapter.as_str() {
            "claude-code" => "cc".to_owned(),
            "pi-rust" => "pi-rs".to_owned(),
            other => other.to_owned(),
        };
        let twice = slots.iter().filter(|(other, _)| other == adapter).count() > 1;
        if twice {
            format!("{short}-{}", model.as_deref().map_or("default".into(), short_model))
        } else {
            short
        }
    };
    let mut numbered = Vec::new();
    for slot in slots {
        let suffix = suffix(slot);
        let count = counts.entry(suffix.clone()).or_default();
        *count += 1;
        numbered.push(if *count == 1 { suffix } else { format!("{suffix}-{count}") });
    }
    numbered
}

/// `opus`, `gpt5-codex`, or the last part of the name.
fn short_model(model: &str) -> String {
    let model = model.to_lowercase();
    if let Some(family) = ["opus", "sonnet", "haiku"].into_iter().find(|family| model.contains(family)) {
        return family.to_owned();
    }
    let plain =
        |text: &str| -> String { text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect() };
    if let Some(at) = model.find("gpt") {
        let rest = model[at + 3..].trim_start_matches(['-', ' ']);
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            let behind = rest[digits..].trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            let behind = plain(behind.trim_start_matches(['-', ' ', '.']));
            let number = &rest[..digits];
            return if behind.is_empty() { format!("gpt{number}") } else { format!("gpt{number}-{behind}") };
        }
    }
    let last = model.rsplit(['/', ':', '-']).next().unwrap_or_default();
    let last = plain(if last.is_empty() { &model } else { last });
    if last.is_empty() { "default".into() } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_tell_slots_apart() {
        // Adapter and model of each slot, and the suffixes.
        for (slots, expected) in [
            ("claude-code opus, codex", "cc, codex"),
            ("pi-rust, pi", "pi-rs, pi"),
            (
                "claude-code claude-opus-4-6, claude-code sonnet, claude-code",
                "cc-opus, cc-sonnet, cc-default",
            ),
            (
                "opencode x/deepseek-r1-fp8, opencode y/z:fp8, opencode FP8",
                "opencode-fp8, opencode-fp8-2, opencode-fp8-3",
            ),
            ("codex gpt-5.2-codex, codex gpt-5, codex a/é", "codex-gpt5-codex, codex-gpt5, codex-default"),
        ] {
            let slot = |text: &str| match text.split_once(' ') {
                Some((adapter, model)) => (adapter.to_owned(), Some(model.to_owned())),
                None => (text.to_owned(), None),
            };
            let slots: Vec<_> = slots.split(", ").map(slot).collect();
            assert_eq!(suffixes(&slots).join(", "), expected);
        }
    }
}
