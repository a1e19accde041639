//! `fuse` and `fuses`: timers of directories.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use crate::config::parse_duration;
use crate::core::vocab::millis;
use crate::sys::clock;
use crate::wire::fuses::{Actions, ExtendFuse, FuseView, SetFuse};
use crate::wire::time::parse_rfc3339;

use super::super::Failure;
use super::super::client::{Client, segment};
use super::super::render;
use super::{NO_BODY, absolute, understood};

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl fuses     what burns, and for how long
  agentctl fuses -a  what became of the others too")]
pub struct FusesArgs {
    /// Those that expired or were cancelled too, and how their scripts went
    #[arg(short, long)]
    pub all: bool,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub enum FuseCommand {
    /// Set the fuse of a directory; it takes the place of another
    #[command(after_help = "Examples:
  agentctl fuse set . 3d --script 'rm -rf target'         clean up, unless used
  agentctl fuse set . 12h --webhook https://ci.example/x  tell a URL
  agentctl fuse set /tmp/try 12h --label 'try 1'          only the event

It fires once, by the wall clock, or at the daemon's next start. A session that starts in the directory cancels it; it never ends one (that is --timeout).")]
    Set(SetArgs),
    /// Let a fuse expire at another time
    #[command(after_help = "Examples:
  agentctl fuse extend . 12h  twelve hours from now
  agentctl fuse extend .      as long from now as it was set for")]
    Extend {
        /// The directory
        directory: PathBuf,
        /// From now: 30m, 12h, 3d [default: as long as before]
        #[arg(value_name = "TIME", value_parser = parse_duration)]
        time: Option<Duration>,
        /// Print the fuse as JSON
        #[arg(long)]
        json: bool,
    },
    /// Cancel the fuse of a directory
    #[command(after_help = "Examples:
  agentctl fuse cancel .         the fuse of this directory
  agentctl fuse cancel /tmp/try  of one that may be gone by now")]
    Cancel {
        /// The directory; it may be gone
        directory: PathBuf,
        /// Print the fuse as JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Args)]
pub struct SetArgs {
    /// The directory
    pub directory: PathBuf,
    /// From now: 30m, 12h, 3d
    #[arg(value_name = "TIME", value_parser = parse_duration)]
    pub time: Duration,
    /// Run this with /bin/sh in the directory
    #[arg(
        long,
        value_name = "SCRIPT",
        long_help = "Run this with /bin/sh in the directory, at most once, for 120 s at most. It gets PATH, HOME, USER, LOGNAME, SHELL and LANG of the daemon, AGENTCTL_HOME, AGENTCTL_FUSE_DIRECTORY, AGENTCTL_FUSE_LABEL and AGENTCTL_FUSE_SESSION_ID, and nothing of your own environment"
    )]
    pub script: Option<String>,
    /// Tell this URL, as often as it takes
    #[arg(long, value_name = "URL")]
    pub webhook: Option<String>,
    /// Give the event fuse.expired this `name`
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// A few words for listings
    #[arg(long)]
    pub label: Option<String>,
    /// Print the fuse as JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) async fn fuses(args: FusesArgs) -> Result<u8, Failure> {
    let path = if args.all { "/v1/fuses?all=1" } else { "/v1/fuses" };
    let found: Value = Client::find()?.json(Method::GET, path, NO_BODY).await?;
    if args.json {
        render::json(&found)?;
        return Ok(0);
    }
    let fuses: Vec<FuseView> = understood(found)?;
    if fuses.is_empty() {
        render::out(if args.all { "No fuses\n" } else { "No active fuses\n" })?;
    } else if args.all {
        let header = ["Directory", "Label", "State", "Script"];
        render::columns(&header, fuses.iter().map(row_of_all))?;
    } else {
        render::columns(&["Directory", "Label", "Expires In"], fuses.iter().map(row))?;
    }
    Ok(0)
}

pub(super) async fn fuse(command: FuseCommand) -> Result<u8, Failure> {
    match command {
        FuseCommand::Set(args) => set(args).await,
        FuseCommand::Extend { directory, time, json } => {
            let ttl_ms = time.map(ms).transpose()?;
            let found = asked(&directory, "extend", Some(&ExtendFuse { ttl_ms })).await?;
            told(found, json, |fuse| format!("Fuse of {} expires in {}\n", fuse.directory, left(fuse)))
        }
        FuseCommand::Cancel { directory, json } => {
            let found = asked(&directory, "cancel", NO_BODY).await?;
            told(found, json, |fuse| format!("Fuse of {} cancelled\n", fuse.directory))
        }
    }
}

async fn set(args: SetArgs) -> Result<u8, Failure> {
    let wanted = SetFuse {
        directory: absolute(&args.directory)?,
        ttl_ms: Some(ms(args.time)?),
        on_expire: Actions { script: args.script, webhook: args.webhook, event: args.event },
        label: args.label,
        session_id: std::env::var("AGENTCTL_SESSION_ID").ok().filter(|id| !id.is_empty()),
    };
    let found: Value = Client::find()?.json(Method::POST, "/v1/fuses", Some(&wanted)).await?;
    told(found, args.json, |fuse| format!("Fuse of {} expires in {}\n", fuse.directory, left(fuse)))
}

async fn asked(directory: &Path, verb: &str, body: Option<&impl serde::Serialize>) -> Result<Value, Failure> {
    let path = format!("/v1/fuses/{}/{verb}", segment(&absolute(directory)?));
    Client::find()?.json(Method::POST, &path, body).await
}

fn told(found: Value, json: bool, line: impl FnOnce(&FuseView) -> String) -> Result<u8, Failure> {
    if json {
        render::json(&found)?;
    } else {
        render::out(&line(&understood(found)?))?;
    }
    Ok(0)
}

fn ms(time: Duration) -> Result<u64, Failure> {
    if time.is_zero() {
        return Err(Failure::new(
            2,
            "the time of a fuse is more than 0; to be rid of it: agentctl fuse cancel DIR",
        ));
    }
    Ok(millis(time).max(1))
}

fn row(fuse: &FuseView) -> Vec<String> {
    vec![render::short_home(&fuse.directory), label(fuse), left(fuse)]
}

fn row_of_all(fuse: &FuseView) -> Vec<String> {
    let state = match &fuse.reason {
        None if fuse.state == "active" => format!("active ({} left)", left(fuse)),
        None => fuse.state.clone(),
        Some(reason) => format!("{} ({reason})", fuse.state),
    };
    let script = fuse.script.as_ref().map(|script| {
        let reason = script.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("{}{reason}, {}", script.state, script.log_path)
    });
    vec![render::short_home(&fuse.directory), label(fuse), state, script.unwrap_or_else(|| "-".into())]
}

fn label(fuse: &FuseView) -> String {
    fuse.label.clone().unwrap_or_else(|| "-".into())
}

/// How long it still burns, in its two largest units.
fn left(fuse: &FuseView) -> String {
    let Some(expires) = parse_rfc3339(&fuse.expires_at) else { return "-".into() };
    words(expires.since(clock::now().wall).as_millis().div_ceil(1_000))
}

fn words(seconds: u128) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(unit, _)| seconds >= *unit).unwrap_or(units.len() - 1);
    let mut rest = seconds;
    let mut words = Vec::new();
    for (unit, letter) in &units[first..units.len().min(first + 2)] {
        if rest / unit > 0 || words.is_empty() {
            words.push(format!("{}{letter}", rest / unit));
        }
        rest %= unit;
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_its_two_largest_units() {
        let told = [0, 59, 60, 61, 3_600, 3_725, 90_000, 86_400 * 400].map(words);
        assert_eq!(told, ["0s", "59s", "1m", "1m 1s", "1h", "1h 2m", "1d 1h", "400d"]);
    }
}
