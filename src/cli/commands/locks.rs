//! `lock`, `unlock`, `locks`: directories that are taken, by hand or by sessions.

use std::path::{Path, PathBuf};

use clap::Args;
use hyper::Method;
use serde_json::Value;

use crate::core::vocab::short;
use crate::sys::clock;
use crate::wire::locks::{Acquire, LockView};

use super::super::client::{Client, decode, segment};
use super::super::{Failure, render};
use super::NO_BODY;

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl lock . --reason 'a release'  no session is launched here
  agentctl lock ../app --by alice       in the name of somebody else

Sessions are not launched there until `unlock`, save with --force. A session that works there goes on. The lock is kept over restarts; it is the directory's, by whatever path that is named.")]
pub struct LockArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Who locks it [default: your user name]
    #[arg(long, value_name = "NAME")]
    pub by: Option<String>,
    /// Why, for whoever is refused
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// Print the lock as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl unlock .  sessions may be launched here again")]
pub struct UnlockArgs {
    /// The directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Print the lock that was released as JSON
    #[arg(long)]
    pub json: bool,
}

pub(super) async fn lock(args: LockArgs) -> Result<u8, Failure> {
    let by = args.by.or_else(|| ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok()));
    let by = by.filter(|by| !by.is_empty());
    let request = Acquire { directory: absolute(&args.directory)?, by, reason: args.reason };
    let record: Value = Client::find()?.json(Method::POST, "/v1/locks", Some(&request)).await?;
    told(&record, args.json, "Locked")
}

pub(super) async fn unlock(args: UnlockArgs) -> Result<u8, Failure> {
    let path = format!("/v1/locks/{}", segment(&absolute(&args.directory)?));
    let record: Value = Client::find()?.json(Method::DELETE, &path, NO_BODY).await?;
    told(&record, args.json, "Unlocked")
}

fn told(record: &Value, json: bool, word: &str) -> Result<u8, Failure> {
    if json {
        render::json(record)?;
    } else {
        render::out(&format!("{word}: {}\n", record["directory"].as_str().unwrap_or_default()))?;
    }
    Ok(0)
}

pub(super) async fn locks(json: bool) -> Result<u8, Failure> {
    let all: Value = Client::find()?.json(Method::GET, "/v1/locks", NO_BODY).await?;
    if json {
        render::json(&all)?;
        return Ok(0);
    }
    let all: Vec<LockView> = decode(all.to_string().as_bytes())?;
    if all.is_empty() {
        render::out("No active locks\n")?;
        return Ok(0);
    }
    let now = clock::now().wall;
    let dash = || "-".to_owned();
    let row = |lock: &LockView| {
        let session = lock.session_id.as_deref().map(short);
        vec![
            render::short_home(&lock.directory),
            lock.r#type.clone(),
            lock.locked_by.clone().or(session).unwrap_or_else(dash),
            lock.reason.clone().unwrap_or_else(dash),
            render::ago(&lock.locked_at, now),
        ]
    };
    render::columns(&["Directory", "Type", "Locked By", "Reason", "Since"], all.iter().map(row))?;
    Ok(0)
}

fn absolute(path: &Path) -> Result<String, Failure> {
    let usage = |message: String| Failure::new(2, message);
    let path = std::path::absolute(path).map_err(|error| usage(format!("find the directory: {error}")))?;
    path.into_os_string().into_string().map_err(|path| usage(format!("the directory {path:?} is not UTF-8")))
}
