//! What `launch` and `run` can be told.
//!
//! Only the shape of the flags, and what each is for. What they mean is put together in `commands/launch.rs`.

use std::ffi::OsString;

use clap::Args;

use crate::config::parse_duration;
use crate::wire::amounts::{parse_percent, parse_size};

use super::key_value;
use super::slots::Slots;

/// What a session is launched with.
#[derive(Clone, Debug, Args)]
pub struct LaunchArgs {
    /// The agent, one of `agentctl adapters`; none before a command
    pub adapter: Option<String>,
    /// The task; `-` reads it from standard input
    #[arg(short, long, value_name = "TEXT", conflicts_with = "prompt_file")]
    pub prompt: Option<String>,
    /// Read the task from a file
    #[arg(long, value_name = "FILE")]
    pub prompt_file: Option<std::path::PathBuf>,
    /// Put a specification before the task, like --file; its path is in the record
    #[arg(long, value_name = "FILE")]
    pub spec: Option<std::path::PathBuf>,
    /// Put a file before the task; may be repeated
    #[arg(long, value_name = "FILE")]
    pub file: Vec<std::path::PathBuf>,
    /// The largest such file
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "51200")]
    pub max_file_size: u64,
    /// Put a GitHub issue before the task, read by gh
    #[arg(long, value_name = "N")]
    pub issue: Option<u64>,
    /// Where the issue is [default: the origin of the working directory]
    #[arg(long, value_name = "OWNER/REPO", requires = "issue")]
    pub repo: Option<String>,
    /// Working directory [default: configured, or this one]
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<std::path::PathBuf>,
    /// Work in a worktree of this repository, beside it: REPO-BRANCH; made, or used again
    #[arg(long, value_name = "REPO")]
    pub worktree: Option<std::path::PathBuf>,
    /// The worktree's branch; made where there is none
    #[arg(long, value_name = "BRANCH")]
    pub branch: Option<String>,
    /// Begin a new branch at this one of origin, fetched first [default: at what is checked out]
    #[arg(long, value_name = "BRANCH")]
    pub base_branch: Option<String>,
    #[command(flatten)]
    pub slots: Slots,
    /// How much the agent is to think, in its own word: low, high
    #[arg(long, value_name = "LEVEL")]
    pub thinking: Option<String>,
    /// Launch a group, a session for each adapter and model that a YAML file lists
    #[arg(long, value_name = "FILE")]
    pub matrix: Option<std::path::PathBuf>,
    /// A name to select the session by
    #[arg(short, long)]
    pub name: Option<String>,
    /// End it after this time: 90s, 3h; 0: never [default: 3h]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<std::time::Duration>,
    /// Time between TERM and KILL [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub grace: Option<std::time::Duration>,
    /// Set a variable of the session's environment
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// Attach a label
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub label: Vec<(String, String)>,
    /// Processes that outlive the leader: kill or keep [default: kill]
    #[arg(long, value_name = "POLICY", value_parser = ["kill", "keep"])]
    pub leftovers: Option<String>,
    /// Stop an agent that has told that it used more tokens
    #[arg(long, value_name = "N")]
    pub max_tokens: Option<u64>,
    /// Stop an agent that has told that it cost more dollars
    #[arg(long, value_name = "USD")]
    pub max_cost: Option<f64>,
    /// Most memory of all its processes together: 512M, 4G
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub memory_max: Option<u64>,
    /// Most CPU time of all its processes together: 50%, 200% for two CPUs
    #[arg(long, value_name = "PERCENT", value_parser = parse_percent)]
    pub cpu_quota: Option<u32>,
    /// Most processes and threads at a time
    #[arg(long, value_name = "N")]
    pub tasks_max: Option<u64>,
    /// End an agent that lives on for so long after it has said that its work is over; 0 for never [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub linger: Option<std::time::Duration>,
    /// Tell when it shows no sign of life (output, processor time, a child) for so long; 0 for never [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub stuck: Option<std::time::Duration>,
    /// Launch although somebody has the directory
    #[arg(long)]
    pub force: bool,
    /// Wait for the directory, or for a place where too many sessions run, instead of being refused
    #[arg(long, conflicts_with = "force")]
    pub queue: bool,
    /// Keep the prompt out of listings, journal and webhooks
    #[arg(long)]
    pub private: bool,
    /// Leave the agent's own permission rules in force
    #[arg(long)]
    pub safe: bool,
    /// Speak to the agent in the Agent Client Protocol, instead of reading what it prints
    #[arg(long)]
    pub acp: bool,
    /// Tell this endpoint, or this URL, of the end; may be repeated
    #[arg(long, value_name = "URL|NAME")]
    pub notify: Vec<String>,
    /// Callback key passed through to the webhook's meta
    #[arg(long, value_name = "KEY")]
    pub callback_session: Option<String>,
    /// Callback agent passed through to the webhook's meta
    #[arg(long, value_name = "ID")]
    pub callback_agent: Option<String>,
    /// Run this with /bin/sh once the session has started; see its outcome in `status`
    #[arg(long, value_name = "SCRIPT")]
    pub on_create: Option<String>,
    /// Run this with /bin/sh once the session has its verdict, whatever it is; at most once
    #[arg(long, value_name = "SCRIPT")]
    pub on_complete: Option<String>,
    /// Print the session record as JSON
    #[arg(long)]
    pub json: bool,
    /// A command and its arguments, for exec
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl run opencode -p 'fix it'    an agent, until it is done
  agentctl run claude-code -p - <task  what to do comes from a file
  agentctl run -- make test            any command, by its exit code

Exits as the session did: its code, 128+n for signal n, 124 timed out, 125 lost or no daemon, 126 not launched, 127 program not found, 1 for a failure that the agent reported. Ctrl-C stops the session, a second one kills it.")]
pub struct RunArgs {
    #[command(flatten)]
    pub launch: LaunchArgs,
}
