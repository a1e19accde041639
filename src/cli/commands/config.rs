//! `config show|check`: what holds and why, and whether a file can be used, both without a daemon.
//!
//! Reads the file as a daemon would. A running daemon is asked what it holds, where one answers; none is started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::show::{AT_RESTART, Origin, Setting};
use crate::config::{Config, OLD_TIMEOUT};
use crate::daemon::Home;

use super::super::client::{Client, Unanswered, decode, whole};
use super::super::render;
use super::super::{ConfigCommand, Failure};

pub(super) async fn config(command: ConfigCommand) -> Result<u8, Failure> {
    match command {
        ConfigCommand::Show(args) => show(args.json).await,
        ConfigCommand::Check { file } => check(file),
    }
}

/// What a running daemon holds.
#[derive(Deserialize)]
struct Running {
    home: PathBuf,
    settings: Vec<Setting>,
}

async fn show(as_json: bool) -> Result<u8, Failure> {
    let running = running().await?;
    let path = match &running {
        Some(running) => running.home.join("config.json"),
        None => own_file()?,
    };
    let text = read(&path)?;
    let settings = understood(&path, text.as_deref().unwrap_or("{}"))?.settings();
    let held = |key: &str| running.iter().flat_map(|running| &running.settings).find(|held| held.key == key);
    if as_json {
        let row = |setting: &Setting| {
            let mut row = serde_json::to_value(setting).unwrap_or_default();
            row["running"] = json!(held(&setting.key).map(|held| &held.value));
            row["atRestart"] = json!(AT_RESTART.contains(&setting.key.as_str()));
            row
        };
        render::json(&settings.iter().map(row).collect::<Vec<Value>>())?;
        return Ok(0);
    }
    let missing = if text.is_none() { " (there is none: the defaults hold)" } else { "" };
    render::out(&format!("{}{missing}\n\n", path.display()))?;
    let row = |setting: &Setting| vec![setting.key.clone(), setting.origin.word().to_owned(), setting.text()];
    render::columns(&["Key", "From", "Value"], settings.iter().map(row))?;
    for setting in &settings {
        if let Some(held) = held(&setting.key).filter(|held| held.value != setting.value) {
            render::say(&difference(setting, held));
        }
    }
    Ok(0)
}

/// A key of which the running daemon has another value.
fn difference(setting: &Setting, held: &Setting) -> String {
    let (key, text) = (&setting.key, held.text());
    if held.origin == Origin::Environment {
        return format!("agentctl: the running daemon has {key} {text}, from its environment");
    }
    let how = if AT_RESTART.contains(&key.as_str()) { "restart" } else { "reload" };
    format!("agentctl: the running daemon has {key} {text}; run: agentctl daemon {how}")
}

fn check(file: Option<PathBuf>) -> Result<u8, Failure> {
    let (path, named) = match file {
        Some(file) => (file, true),
        None => (own_file()?, false),
    };
    let said = match read(&path)? {
        Some(text) => {
            let config = understood(&path, &text)?;
            if config.old_timeout {
                render::say(&format!("agentctl: {}: {OLD_TIMEOUT}", path.display()));
            }
            let count = config.settings().iter().filter(|setting| setting.origin != Origin::Default).count();
            format!("{} can be used ({count} keys are not defaults)\n", path.display())
        }
        None if named => return Err(Failure::new(1, format!("there is no file {}", path.display()))),
        None => format!("{} does not exist: the defaults hold\n", path.display()),
    };
    render::out(&said)?;
    Ok(0)
}

/// `None`: an older daemon, or none.
async fn running() -> Result<Option<Running>, Failure> {
    let client = Client::find()?.without_autostart();
    match client.send(Method::GET, "/v1/config", None, None).await {
        Ok(answer) => Ok(Some(decode(&whole(answer).await.map_err(|why| client.failure(why))?)?)),
        Err(
            Unanswered::Nobody(_)
            | Unanswered::Broken(_)
            | Unanswered::Perhaps { .. }
            | Unanswered::Refused(_),
        ) => Ok(None),
    }
}

fn own_file() -> Result<PathBuf, Failure> {
    Ok(Home::from_env().map_err(|error| Failure::new(1, error.to_string()))?.config())
}

/// `None`: there is none.
fn read(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::new(1, format!("read {}: {error}", path.display()))),
    }
}

fn understood(path: &Path, text: &str) -> Result<Config, Failure> {
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Config::look(path, text, &env).map_err(|error| Failure::new(1, error.to_string()))
}
