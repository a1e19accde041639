//! `kill`, `rerun` and `prune`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::Method;
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

use crate::config::parse_duration;
use crate::core::vocab::{millis, signal_name};
use crate::wire::again::{Prune, Pruned, Rerun, Signal, parse_signal};

use super::super::assembly;
use super::super::client::{Client, segment};
use super::super::render;
use super::super::{Failure, key_value};
use super::{Answers, launch, understood};

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl kill 9ae4               TERM to its leader
  agentctl kill -s USR1 9ae4 7c1f  any signal, to several
  agentctl kill -s STOP --tree x   to all of its processes

This is no stop: nobody waits for an end, and what becomes of it is the session's own doing. To end one: agentctl stop.")]
pub struct KillArgs {
    /// Ids, unique starts of them, or names
    #[arg(required = true)]
    pub ids: Vec<String>,
    /// Name, with or without its SIG, or number [default: TERM]
    #[arg(short, long, value_name = "SIG", value_parser = parse_signal)]
    pub signal: Option<u8>,
    /// To all of its processes, not to the leader alone
    #[arg(long)]
    pub tree: bool,
    /// Print the session records as a JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl rerun 9ae4                    the same, as a new session
  agentctl rerun 9ae4 -p 'and the docs'  with another task
  agentctl rerun 9ae4 --model other      with another model

With the environment of now. A prompt that is not kept whole is asked for.")]
pub struct RerunArgs {
    /// Id, a unique start of it, or name
    pub id: String,
    /// Another task; `-` reads it from standard input
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Another working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,
    /// Another model, in the agent's own spelling
    #[arg(short, long)]
    pub model: Option<String>,
    /// Another name
    #[arg(short, long)]
    pub name: Option<String>,
    /// End it after another time; 0 for never
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
    /// Set a variable of the session's environment
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// Also where the directory is taken
    #[arg(long)]
    pub force: bool,
    /// Print the session record as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl prune                  forget what has ended
  agentctl prune --older-than 2d  only what ended two days ago
  agentctl prune --dry-run        what would be forgotten

A session that owes webhooks, or whose hook runs, is kept.")]
pub struct PruneArgs {
    /// Only what ended so long ago
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub older_than: Option<Duration>,
    /// Forget nothing; say what would be forgotten
    #[arg(long)]
    pub dry_run: bool,
    /// Print how many, and which, as JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) async fn kill(args: KillArgs) -> Result<u8, Failure> {
    let client = Client::find()?;
    let name = signal_name(args.signal.unwrap_or(15));
    let asked = Signal { signal: args.signal.map(|number| json!(number)), tree: args.tree };
    let mut answers = Answers::new(args.json);
    for id in &args.ids {
        let path = format!("/v1/sessions/{}/signal", segment(id));
        let answer = client.json(Method::POST, &path, Some(&asked)).await;
        answers.take(answer, &format!("Sent {name} to"))?;
    }
    answers.end()
}

pub(super) async fn rerun(args: RerunArgs) -> Result<u8, Failure> {
    let client = Client::find()?;
    let path = format!("/v1/sessions/{}/rerun", segment(&args.id));
    let asked = Rerun {
        prompt: assembly::read_prompt(args.prompt.as_deref(), None)?,
        env: Some(launch::environment(args.env)),
        umask: Some(launch::current_umask()),
        nofile: getrlimit(Resource::Nofile).current,
        cwd: args.cwd.as_deref().map(super::absolute).transpose()?,
        model: args.model,
        name: args.name,
        timeout_ms: args.timeout.map(millis),
        force: args.force,
    };
    let record = launch::send(&client, &path, &asked).await?;
    launch::told(record, args.json, "launched", "Launched", None)
}

pub(super) async fn prune(args: PruneArgs) -> Result<u8, Failure> {
    let asked = Prune { older_than_ms: args.older_than.map(millis), dry_run: args.dry_run };
    let answer: Value = Client::find()?.json(Method::POST, "/v1/prune", Some(&asked)).await?;
    if args.json {
        render::json(&answer)?;
        return Ok(0);
    }
    let Pruned { pruned, kept, sessions, dry_run } = understood(answer)?;
    if dry_run {
        let ids: String = sessions.iter().map(|id| format!("{id}\n")).collect();
        render::out(&format!("Would prune {pruned} dead/stale sessions\n{ids}"))?;
    } else {
        render::out(&format!("Pruned {pruned} dead/stale sessions\n"))?;
    }
    if kept > 0 {
        render::say(&format!(
            "{kept} more have ended and are kept: they owe webhooks (agentctl webhooks list), or a hook of theirs runs"
        ));
    }
    Ok(0)
}
