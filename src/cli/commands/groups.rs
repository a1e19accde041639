//! `launch` of several sessions: by several `--adapter`, or by a matrix file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::core::vocab::short;
use crate::wire::api::SessionView;
use crate::wire::groups::{GroupAnswer, LaunchGroup, Slot, SlotAnswer};

use super::super::client::Client;
use super::super::matrix::Matrix;
use super::super::render;
use super::super::slots::Slots;
use super::super::{Failure, LaunchArgs};
use super::launch::{request, send, utf8, warn};

/// Whether several sessions are asked for.
pub(super) fn are_asked(args: &LaunchArgs) -> bool {
    args.matrix.is_some() || args.slots.0.len() > 1
}

pub(super) async fn launch(mut args: LaunchArgs) -> Result<u8, Failure> {
    let usage = |message: String| Failure::new(2, message);
    if let Some(branch) = &args.branch {
        return Err(usage(format!(
            "--branch {branch} is one session's; each of a group has its own, or what the matrix says"
        )));
    }
    let matrix = args.matrix.take().map(|path| Matrix::read(&path)).transpose()?;
    let typed = std::mem::take(&mut args.slots).0;
    let (slots, base) = match matrix {
        Some(matrix) => {
            if args.adapter.is_some() || !typed.is_empty() {
                return Err(usage(
                    "--matrix names adapters and models; leave them out of the command line".into(),
                ));
            }
            let slots = matrix.slots().map_err(|why| Failure::new(1, format!("the matrix: {why}")))?;
            let base = matrix.base_branch.clone();
            fill(&mut args, matrix);
            (slots, base)
        }
        None => {
            if let Some(adapter) = &args.adapter {
                let text = format!(
                    "{adapter} and --adapter both name adapters; for {adapter} too write --adapter {adapter}"
                );
                return Err(usage(text));
            }
            let slots = typed.into_iter().map(|slot| Slot {
                adapter: slot.adapter,
                model: slot.model,
                ..Slot::default()
            });
            (slots.collect(), None)
        }
    };
    let here =
        std::env::current_dir().map_err(|error| usage(format!("find the working directory: {error}")))?;
    let repo = args.worktree.take().map(|repo| utf8(&here.join(repo))).transpose()?;
    let base = args.base_branch.take().or(base);
    let json = args.json;
    args.slots = Slots::default();
    let launch = request(args, true)?;
    let agents = slots.iter().any(|slot| slot.adapter.as_deref() != Some("exec"));
    if agents && launch.prompt.is_none() && launch.command.is_empty() {
        return Err(usage("Missing required option: -p, --prompt <text>".into()));
    }
    let client = Client::find()?;
    let asked = LaunchGroup { launch, repo, base, in_place: false, slots };
    let answer = send(&client, "/v1/groups", &asked).await?;
    let answer: GroupAnswer = serde_json::from_value(answer).map_err(|error| {
        Failure::new(
            1,
            format!("the daemon's answer is not understood: {error}; run: agentctl daemon restart"),
        )
    })?;
    tell(&answer, json)
}

/// What the command line leaves out is as the matrix says.
fn fill(args: &mut LaunchArgs, matrix: Matrix) {
    if args.prompt.is_none() && args.prompt_file.is_none() {
        args.prompt = matrix.prompt;
    }
    args.cwd = args.cwd.take().or_else(|| matrix.cwd.as_deref().map(from_home));
    args.spec = args.spec.take().or(matrix.spec);
    args.on_create = args.on_create.take().or(matrix.hooks.on_create);
    args.on_complete = args.on_complete.take().or(matrix.hooks.on_complete);
    args.thinking = args.thinking.take().or(matrix.thinking);
}

/// `~` as a shell would read it, which is not asked.
fn from_home(path: &str) -> PathBuf {
    let home = std::env::home_dir();
    match (path.strip_prefix('~'), home) {
        (Some(""), Some(home)) => home,
        (Some(rest), Some(home)) if rest.starts_with('/') => home.join(rest.trim_start_matches('/')),
        (Some(_) | None, _) => Path::new(path).to_owned(),
    }
}

fn tell(answer: &GroupAnswer, json: bool) -> Result<u8, Failure> {
    let failed = answer.slots.iter().filter(|slot| slot.error.is_some()).count();
    answer.slots.iter().filter_map(view).for_each(|session| warn(&session));
    if json {
        let records: Vec<&Value> = answer.slots.iter().filter_map(|slot| slot.session.as_ref()).collect();
        render::json(&records)?;
        for slot in &answer.slots {
            if let (None, Some(why)) = (&slot.session, &slot.error) {
                render::say(&format!("{} was not launched: {why}", label(slot)));
            }
        }
    } else {
        let launched = answer.slots.len() - failed;
        let mut text = format!("\nLaunched {launched} sessions (group: {}):\n", answer.group);
        for slot in &answer.slots {
            text += &line(slot);
        }
        render::out(&text)?;
    }
    if failed > 0 {
        let all = answer.slots.len();
        return Err(Failure::new(1, format!("{failed} of {all} sessions did not start")));
    }
    Ok(0)
}

fn view(slot: &SlotAnswer) -> Option<SessionView> {
    serde_json::from_value(slot.session.clone()?).ok()
}

fn label(slot: &SlotAnswer) -> String {
    match &slot.model {
        Some(model) => format!("{} ({model})", slot.adapter),
        None => slot.adapter.clone(),
    }
}

fn line(slot: &SlotAnswer) -> String {
    let label = label(slot);
    if let Some(why) = &slot.error {
        let why: String = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        return format!("  ✗ {label} — {why}\n");
    }
    let Some(view) = view(slot) else { return format!("  {label}\n") };
    let id = short(&view.id);
    let waits = if view.phase == "queued" { "  queued" } else { "" };
    format!("  {label}  → {}  ({id}){waits}\n", render::short_home(&view.cwd))
}
