//! Configuration: as written (`RawConfig`) and as meant ([`Config`]). Flags > environment > file > defaults.
//!
//! A file that cannot be read or understood is an error with its place in the file, never a silent
//! default. Secrets have no `Debug`.

mod adapters;
mod places;
pub mod show;
pub mod target;
pub mod webhooks;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Deserialize;
use thiserror::Error;

use crate::adapters::Declared;
use crate::core::vocab::Leftovers;
use crate::limits;
use crate::sys::BackendChoice;

use places::Unknown;
use show::Origins;
use webhooks::{RawWebhook, Webhook};

/// The file as written. Keys of the earlier tool are among them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    adapter: Option<String>,
    model: Option<String>,
    cwd: Option<String>,
    timeout: Option<MasterTimeout>,
    grace: Option<Human>,
    leftovers: Option<Leftovers>,
    linger: Option<Human>,
    stuck: Option<Human>,
    webhook_url: Option<String>,
    webhook_secret: Option<Secret>,
    #[serde(default)]
    webhooks: Vec<RawWebhook>,
    #[serde(default)]
    notify_allow_private: bool,
    /// Absent: the default address. Null: no listener.
    #[serde(default, deserialize_with = "present")]
    metrics_addr: Option<Option<String>>,
    durability: Option<Durability>,
    backend: Option<String>,
    retention_days: Option<f64>,
    disk_max: Option<String>,
    log_max: Option<String>,
    max_sessions: Option<usize>,
    #[serde(default)]
    adapter_max_sessions: BTreeMap<String, usize>,
    discover: Option<bool>,
    #[serde(default)]
    adapters: BTreeMap<String, adapters::RawAdapter>,
}

/// How safe a commit is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Over power loss.
    #[default]
    Full,
    /// Over a crash of any process; power loss may undo the last seconds.
    Normal,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text, for the one who signs.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// The configuration as meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub adapter: Option<String>,
    pub model: Option<String>,
    pub cwd: Option<String>,
    /// Master timeout of a launch that names none; `None` = none.
    pub timeout: Option<Duration>,
    pub grace: Duration,
    pub leftovers: Leftovers,
    /// An agent whose work is over is ended when it lives on for so long; `None` = it is not.
    pub linger: Option<Duration>,
    /// A run without a sign of life for so long is told to be stuck; `None` = nobody looks.
    pub stuck: Option<Duration>,
    pub webhooks: Vec<Webhook>,
    /// Whether a launch may name a URL inside this host's networks.
    pub notify_allow_private: bool,
    /// Where metrics are served beside the socket; `None` = nowhere.
    pub metrics_addr: Option<String>,
    pub durability: Durability,
    pub backend: BackendChoice,
    pub retention: Duration,
    pub disk_max_bytes: u64,
    /// What is kept of each log of a run; `None` = all of it.
    pub log_max_bytes: Option<u64>,
    pub max_sessions: usize,
    /// Sessions of an adapter that run at once, where they are limited.
    pub adapter_max_sessions: BTreeMap<String, usize>,
    /// Whether `list` looks for agents that were started outside.
    pub discover: bool,
    /// Agents that the user declares.
    pub adapters: Vec<Arc<Declared>>,
    /// The file has a `timeout` of the earlier tool's, which does not hold.
    pub old_timeout: bool,
    origins: Origins,
}

/// What is said of such a `timeout`.
pub const OLD_TIMEOUT: &str = "\"timeout\" is a number, as in an earlier agentctl, which never used it; it is not used here \
                               either, and the default of 3h holds. To set one, give it a unit: \"timeout\": \"90m\"";

/// Why a configuration cannot be used. Each message names the file and what to change.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {path}: {source}; make it readable, or remove it for the defaults", path = path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("the configuration {path} is broken at line {line}, column {column}: {what}", path = path.display())]
    Broken { path: PathBuf, line: usize, column: usize, what: String },
    #[error("the configuration {path} has an unknown key \"{key}\" at line {line}, column {column}{}", hint(nearest.as_deref()), path = path.display())]
    UnknownKey { path: PathBuf, key: String, line: usize, column: usize, nearest: Option<String> },
    #[error("the configuration {path} cannot be used{}: {key}: {what}", at(*place), path = path.display())]
    Value { path: PathBuf, key: &'static str, place: Option<(usize, usize)>, what: String },
}

/// What was meant, most likely, for the end of a message.
pub(crate) fn hint(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean \"{name}\"?")).unwrap_or_default()
}

fn at(place: Option<(usize, usize)>) -> String {
    place.map(|(line, column)| format!(" at line {line}, column {column}")).unwrap_or_default()
}

impl Config {
    /// Reads `config.json` of a home, with the environment on top. A missing file means the defaults.
    pub fn load(path: &Path, env: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => understood(path, &text, env),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => understood(path, "{}", env),
            Err(source) => Err(ConfigError::Unreadable { path: path.to_owned(), source }),
        }
    }

    /// The same for whoever only looks: secrets that the daemon alone is given, by its environment or its unit, are taken for
    /// granted.
    pub fn look(path: &Path, text: &str, env: &BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let mut raw = parse(path, text)?;
        raw.webhooks.iter_mut().for_each(|webhook| webhook.take_for_granted(env));
        mean(path, text, raw, env)
    }

    /// The endpoint of this name.
    pub fn webhook(&self, name: &str) -> Option<&Webhook> {
        self.webhooks.iter().find(|webhook| webhook.name == name)
    }

    /// Takes over what a running daemon can take from a configuration that was read anew. The keys that also
    /// differ and count only from the next start of the daemon are returned.
    pub fn renew(&mut self, new: Self) -> Vec<&'static str> {
        let kept = Self {
            metrics_addr: self.metrics_addr.clone(),
            durability: self.durability,
            backend: self.backend,
            ..new.clone()
        };
        let [metrics_addr, durability, backend] = show::AT_RESTART;
        let differing = [
            (metrics_addr, kept.metrics_addr != new.metrics_addr),
            (durability, kept.durability != new.durability),
            (backend, kept.backend != new.backend),
        ];
        *self = kept;
        differing.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

fn understood(path: &Path, text: &str, env: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    mean(path, text, parse(path, text)?, env)
}

fn parse(path: &Path, text: &str) -> Result<RawConfig, ConfigError> {
    serde_json::from_str(text).map_err(|error| {
        let found = (error.line(), error.column());
        match places::unknown_key(text) {
            Some(Unknown { key, nearest, place }) if error.is_data() => {
                let (line, column) = place.unwrap_or(found);
                ConfigError::UnknownKey { path: path.to_owned(), key, line, column, nearest }
            }
            Some(_) | None => ConfigError::Broken {
                path: path.to_owned(),
                line: found.0,
                column: found.1,
                what: without_place(&error.to_string()),
            },
        }
    })
}

/// The most similar of some names, when one is similar at all.
pub fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let scored = names.into_iter().map(|name| (strsim::jaro_winkler(text, name), name));
    let best = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (best.0 > 0.7).then(|| best.1.to_owned())
}

/// serde_json repeats the place at the end of its message.
fn without_place(message: &str) -> String {
    message.split(" at line ").next().unwrap_or(message).to_owned()
}

fn mean(
    path: &Path,
    text: &str,
    raw: RawConfig,
    env: &BTreeMap<String, String>,
) -> Result<Config, ConfigError> {
    let wrong = |key, what: String| {
        let place = places::place_of(text, key, Some(1));
        ConfigError::Value { path: path.to_owned(), key, place, what }
    };
    let mut in_file =
        serde_json::from_str::<BTreeMap<String, serde::de::IgnoredAny>>(text).unwrap_or_default();
    let days = raw.retention_days.unwrap_or(7.0);
    let retention = Duration::try_from_secs_f64(days * 86_400.0)
        .map_err(|_| wrong("retention_days", format!("{days} is no number of days")))?;
    let disk_max = raw.disk_max.as_deref().map_or(Ok(DISK_BYTES_USUAL), bytes);
    let disk_max_bytes = disk_max.map_err(|what| wrong("disk_max", what))?;
    let log_max_bytes = raw.log_max.as_deref().map_or(Ok(Some(limits::LOG_BYTES_USUAL)), log_max);
    let log_max_bytes = log_max_bytes.map_err(|what| wrong("log_max", what))?;
    let backend = raw.backend.as_deref().unwrap_or("auto");
    let backend = backend.parse().map_err(|error| wrong("backend", format!("{error}")))?;
    let grace = raw
        .grace
        .map_or(Ok(Duration::from_secs(10)), |text| text.parse())
        .map_err(|what| wrong("grace", what))?;
    let old_timeout = matches!(raw.timeout, Some(MasterTimeout::Old));
    if old_timeout {
        in_file.remove("timeout");
    }
    let timeout = match raw.timeout {
        Some(MasterTimeout::Written(text)) => Some(text),
        Some(MasterTimeout::Old) | None => None,
    };
    let timeout = timeout
        .map_or(Ok(Duration::from_secs(3 * 3600)), |text| text.parse())
        .map_err(|what| wrong("timeout", what))?;
    let optional = |text: Option<Human>| {
        let time = text.map_or(Ok(Duration::ZERO), |text| text.parse())?;
        Ok((!time.is_zero()).then_some(time))
    };
    let linger = optional(raw.linger).map_err(|what| wrong("linger", what))?;
    let stuck = optional(raw.stuck).and_then(check_stuck).map_err(|what| wrong("stuck", what))?;
    let adapters = adapters::declared(raw.adapters).map_err(|what| wrong("adapters", what))?;
    adapters::all_known(raw.adapter_max_sessions.keys(), &adapters)
        .map_err(|what| wrong("adapter_max_sessions", what))?;
    Ok(Config {
        adapter: Some(raw.adapter.unwrap_or_else(|| "claude-code".to_owned())),
        model: raw.model,
        cwd: raw.cwd,
        timeout: (!timeout.is_zero()).then_some(timeout),
        grace,
        leftovers: raw.leftovers.unwrap_or_default(),
        linger,
        stuck,
        webhooks: webhooks::webhooks(raw.webhook_url, raw.webhook_secret, raw.webhooks, env)
            .map_err(|(key, what)| wrong(key, what))?,
        notify_allow_private: raw.notify_allow_private,
        metrics_addr: raw.metrics_addr.unwrap_or_else(|| Some("127.0.0.1:9200".to_owned())),
        durability: raw.durability.unwrap_or_default(),
        backend,
        retention,
        disk_max_bytes,
        log_max_bytes,
        max_sessions: raw.max_sessions.unwrap_or(limits::SESSIONS_MAX),
        adapter_max_sessions: raw.adapter_max_sessions,
        discover: raw.discover.unwrap_or(true),
        adapters,
        old_timeout,
        origins: Origins::of(&in_file.into_keys().collect(), env),
    })
}

/// What is kept of all sessions together, unless configured.
const DISK_BYTES_USUAL: u64 = 5_000_000_000;

fn bytes(text: &str) -> Result<u64, String> {
    text.parse().map(|size: ByteSize| size.as_u64()).map_err(|_| format!("\"{text}\" is no size such as 5GB"))
}

/// `0` means all.
fn log_max(text: &str) -> Result<Option<u64>, String> {
    match bytes(text)? {
        0 => Ok(None),
        size if size < limits::LOG_BYTES_LEAST => {
            let least = ByteSize(limits::LOG_BYTES_LEAST).display().si();
            Err(format!(
                "\"{text}\" is less than {least}, in the last half of which an agent's own report is looked for"
            ))
        }
        size => Ok(Some(size)),
    }
}

/// Whether signs of life can be looked for so often.
pub fn check_stuck(after: Option<Duration>) -> Result<Option<Duration>, String> {
    let least = limits::STUCK_MIN;
    match after.filter(|after| *after < least) {
        Some(after) => Err(format!("{after:?} is too short to tell anything by; the least is {least:?}")),
        None => Ok(after),
    }
}

/// A duration as people write it (`500ms`, `20s`, `3h`); `0` means none.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
struct Human(String);

impl Human {
    fn parse(&self) -> Result<Duration, String> {
        parse_duration(&self.0)
    }
}

/// The master timeout as written. The earlier tool had a number there, without a unit, that nobody read.
#[derive(Clone, Debug)]
enum MasterTimeout {
    Written(Human),
    Old,
}

impl<'de> Deserialize<'de> for MasterTimeout {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) => Ok(Self::Written(Human(text))),
            serde_json::Value::Number(_) => Ok(Self::Old),
            other @ (serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_)) => {
                Err(serde::de::Error::custom(format!("timeout: {other} is no duration such as \"90m\"")))
            }
        }
    }
}

/// Reads `500ms`, `20s`, `3h` or `0`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.trim() == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text.trim())
        .map_err(|error| format!("\"{text}\" is no duration such as 500ms, 20s or 3h: {error}"))
}

fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        understood(Path::new("/h/config.json"), text, &BTreeMap::new()).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let config = load("{}").unwrap();
        assert_eq!(config.timeout, Some(Duration::from_secs(10_800)));
        assert_eq!(config.metrics_addr.as_deref(), Some("127.0.0.1:9200"));
        assert_eq!((config.disk_max_bytes, config.log_max_bytes), (5_000_000_000, Some(1_000_000_000)));
        assert_eq!(load(r#"{"log_max": "0"}"#).unwrap().log_max_bytes, None);
        assert_eq!(load(r#"{"log_max": "64MB"}"#).unwrap().log_max_bytes, Some(limits::LOG_BYTES_LEAST));
        assert_eq!(load(r#"{"timeout": "0", "metrics_addr": null}"#).unwrap().timeout, None);
        assert_eq!((config.linger, config.stuck), (None, None));
        let config = load(r#"{"linger": "30s", "stuck": "10m"}"#).unwrap();
        let seconds = |count| Some(Duration::from_secs(count));
        assert_eq!((config.linger, config.stuck), (seconds(30), seconds(600)));
    }

    #[test]
    fn a_file_of_the_earlier_tool_is_taken_as_it_is() {
        let text = r#"{"adapter": "opencode", "model": null, "cwd": "/w", "timeout": 7200, "webhook_url": "",
                       "webhook_secret": ""}"#;
        let config = load(text).unwrap();
        assert_eq!((config.timeout, config.old_timeout), (Some(Duration::from_secs(10_800)), true));
        assert_eq!(config.webhooks, [], "an empty URL was none there");
        assert_eq!(config.adapter.as_deref(), Some("opencode"));
        let settings = config.settings();
        let timeout = settings.iter().find(|setting| setting.key == "timeout").unwrap();
        assert_eq!(timeout.origin, show::Origin::Default);
        let signed = load(r#"{"webhook_url": "http://x", "webhook_secret": ""}"#).unwrap();
        assert!(signed.webhooks[0].secrets.is_empty(), "and an empty secret signed nothing");
        assert!(load(r#"{"timeout": true}"#).unwrap_err().contains("true is no duration"));
    }

    #[test]
    fn errors_name_the_place_and_the_nearest_name() {
        assert_eq!(
            load("{\n  \"webhok_url\": \"http://x\"\n}").unwrap_err(),
            "the configuration /h/config.json has an unknown key \"webhok_url\" at line 2, column 3; did you mean \"webhook_url\"?"
        );
        let broken = load("{\n  \"grace\": }").unwrap_err();
        assert!(broken.contains("broken at line 2, column 12: expected value"), "{broken}");
        let value = load(r#"{"grace": "soon"}"#).unwrap_err();
        assert!(
            value.contains("cannot be used at line 1, column 2: grace: \"soon\" is no duration"),
            "{value}"
        );
        let little = load(r#"{"log_max": "1MB"}"#).unwrap_err();
        assert!(little.contains("log_max: \"1MB\" is less than 64"), "{little}");
        let often = load(r#"{"stuck": "10ms"}"#).unwrap_err();
        assert!(often.contains("stuck: 10ms is too short"), "{often}");
        let limit = load(r#"{"adapter_max_sessions": {"codx": 2}}"#).unwrap_err();
        assert!(
            limit.contains("adapter_max_sessions: there is no adapter \"codx\"; did you mean \"codex\"?"),
            "{limit}"
        );
        let mine =
            r#"{"adapter_max_sessions": {"mine": 2, "exec": 1}, "adapters": {"mine": {"program": "x"}}}"#;
        assert_eq!(load(mine).unwrap().adapter_max_sessions["mine"], 2);
        assert!(load(r#"{"webhook_url": "ftp://x"}"#).unwrap_err().contains("no http:// or https:// URL"));
    }

    #[test]
    fn secrets_are_never_shown_and_the_environment_wins() {
        let env = BTreeMap::from([("AGENTCTL_WEBHOOK_SECRET".to_owned(), "hunter2".to_owned())]);
        let text = r#"{"webhook_url":"http://127.0.0.1:1/x","webhook_secret":"s3cret"}"#;
        let config = understood(Path::new("c"), text, &env).unwrap();
        assert_eq!(config.webhooks[0].secrets[0].reveal(), "hunter2");
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("s3cret"), "{shown}");
    }
}
