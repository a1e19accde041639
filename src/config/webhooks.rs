//! Endpoints of the configuration: as written, and as meant.
//!
//! Owns where secrets come from. A secret that cannot be read, and a type of event that a format cannot carry, are
//! errors at start: a receiver that is told nothing, or the wrong thing, is noticed too late.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::core::outbox::RETRY_DELAYS;
use crate::core::record::EventKind;
use crate::limits;

use super::target::Target;
use super::{Human, Secret};

/// An endpoint as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWebhook {
    name: String,
    url: String,
    secret: Option<Secret>,
    /// Newest first: every attempt is signed with each, so that a receiver may change over at any time.
    secrets: Option<Vec<Secret>>,
    /// A file with one secret a line.
    secret_file: Option<PathBuf>,
    /// A variable of the daemon's environment.
    secret_env: Option<String>,
    /// A credential of the daemon's systemd unit, by name; one secret a line.
    secret_credential: Option<String>,
    events: Option<Vec<String>>,
    adapters: Option<Vec<String>>,
    #[serde(default)]
    format: Format,
    timeout: Option<Human>,
    max_attempts: Option<u32>,
    #[serde(default)]
    paused: bool,
    ca_file: Option<PathBuf>,
}

impl RawWebhook {
    /// A secret that only the daemon can be given is taken to be there. Nobody signs with what stands in for it.
    pub(super) fn take_for_granted(&mut self, env: &BTreeMap<String, String>) {
        let missing = self.secret_env.as_ref().is_some_and(|name| !env.contains_key(name));
        let of_unit = self.secret_credential.is_some() && !env.contains_key("CREDENTIALS_DIRECTORY");
        let alone = self.secret.is_none() && self.secrets.is_none() && self.secret_file.is_none();
        if alone && (missing || of_unit) && self.secret_env.is_some() != self.secret_credential.is_some() {
            (self.secret_env, self.secret_credential) = (None, None);
            self.secret = Some(Secret("known to the daemon".to_owned()));
        }
    }
}

/// How the body of a delivery looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The body that receivers of the earlier tool know.
    #[default]
    Agentctl,
    /// CloudEvents 1.0, structured JSON.
    Cloudevents,
}

impl Format {
    /// The word of the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Agentctl => "agentctl",
            Self::Cloudevents => "cloudevents",
        }
    }

    /// Receivers of the format `agentctl` take any type that they do not know for a successful end.
    pub fn carries(self, kind: EventKind) -> bool {
        match self {
            Self::Agentctl => kind.is_terminal() || kind == EventKind::Started,
            Self::Cloudevents => true,
        }
    }
}

/// Where events are delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Webhook {
    pub name: String,
    pub target: Target,
    /// All of them sign, the first one alone in the headers that hold one signature.
    pub secrets: Vec<Secret>,
    /// The types that it hears of.
    pub kinds: Vec<EventKind>,
    /// Only sessions of these adapters; empty: of all.
    pub adapters: Vec<String>,
    pub format: Format,
    /// A whole attempt.
    pub timeout: Duration,
    /// After so many a delivery is given up.
    pub attempts_max: u32,
    /// Nothing is sent; what there is to send waits.
    pub paused: bool,
    /// Certificates that are trusted here instead of the system's, PEM.
    pub ca_file: Option<PathBuf>,
}

impl Webhook {
    /// One with everything as usual.
    pub fn plain(name: String, target: Target, secrets: Vec<Secret>) -> Self {
        Self {
            name,
            target,
            secrets,
            kinds: TERMINAL.to_vec(),
            adapters: Vec::new(),
            format: Format::default(),
            timeout: limits::WEBHOOK_TIMEOUT,
            attempts_max: ATTEMPTS_USUAL,
            paused: false,
            ca_file: None,
        }
    }
}

/// What an endpoint hears of that names no types.
pub const TERMINAL: [EventKind; 2] = [EventKind::Stopped, EventKind::Error];

/// The schedule, once through.
pub const ATTEMPTS_USUAL: u32 = RETRY_DELAYS.len() as u32 + 1;

/// All endpoints: the earlier tool's one, and the list. The error names what is wrong and where.
pub(super) fn webhooks(
    url: Option<String>,
    secret: Option<Secret>,
    list: Vec<RawWebhook>,
    env: &BTreeMap<String, String>,
) -> Result<Vec<Webhook>, (&'static str, String)> {
    let from_env = |key: &str| env.get(key).filter(|value| !value.is_empty()).cloned();
    // Empty ones meant none to the earlier tool, whose keys these are.
    let url = url.filter(|url| !url.is_empty());
    let secret = secret.filter(|secret| !secret.reveal().is_empty());
    let secret = from_env("AGENTCTL_WEBHOOK_SECRET").map(Secret).or(secret);
    let mut all = Vec::new();
    let in_env = from_env("AGENTCTL_WEBHOOK_URL");
    let key = if in_env.is_some() { "AGENTCTL_WEBHOOK_URL" } else { "webhook_url" };
    if let Some(url) = in_env.or(url) {
        let target = Target::parse(&url).map_err(|what| (key, what))?;
        let secrets: Vec<_> = secret.into_iter().collect();
        check_secrets(&secrets).map_err(|what| ("webhook_secret", what))?;
        all.push(Webhook::plain("default".into(), target, secrets));
    }
    for (at, raw) in list.into_iter().enumerate() {
        let name = raw.name.clone();
        let webhook =
            mean(raw, env).map_err(|what| ("webhooks", format!("number {} ({name}): {what}", at + 1)))?;
        all.push(webhook);
    }
    let mut names = BTreeSet::new();
    if let Some(twice) = all.iter().find(|webhook| !names.insert(webhook.name.clone())) {
        let hint = if twice.name == "default" { "; webhook_url has that name already" } else { "" };
        return Err(("webhooks", format!("two endpoints are named \"{}\"{hint}", twice.name)));
    }
    if all.len() > limits::WEBHOOKS_MAX {
        return Err(("webhooks", format!("{} endpoints are more than {}", all.len(), limits::WEBHOOKS_MAX)));
    }
    Ok(all)
}

fn mean(raw: RawWebhook, env: &BTreeMap<String, String>) -> Result<Webhook, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if raw.name.is_empty() || raw.name.len() > limits::LABEL_CHARS_MAX || !raw.name.chars().all(plain) {
        return Err("a name has letters, digits, dots, dashes and underscores".to_owned());
    }
    let target = Target::parse(&raw.url).map_err(|what| format!("url: {what}"))?;
    if raw.ca_file.is_some() && !target.is_https() {
        return Err("ca_file: without https:// there is no certificate to check".to_owned());
    }
    let secrets = secrets(&raw, env)?;
    let mut kinds = Vec::new();
    for word in raw.events.iter().flatten() {
        kinds.push(kind(word, raw.format).map_err(|what| format!("events: {what}"))?);
    }
    kinds.sort();
    kinds.dedup();
    let timeout = raw.timeout.map_or(Ok(limits::WEBHOOK_TIMEOUT), |text| text.parse());
    let timeout = timeout.map_err(|what| format!("timeout: {what}"))?;
    if timeout.is_zero() || timeout > limits::WEBHOOK_TIMEOUT_MAX {
        return Err(format!(
            "timeout: it is more than 0 and at most {} s",
            limits::WEBHOOK_TIMEOUT_MAX.as_secs()
        ));
    }
    let attempts_max = raw.max_attempts.unwrap_or(ATTEMPTS_USUAL);
    if !(1..=limits::ATTEMPTS_MAX).contains(&attempts_max) {
        return Err(format!("max_attempts: it is 1 to {}", limits::ATTEMPTS_MAX));
    }
    Ok(Webhook {
        kinds: if raw.events.is_some() { kinds } else { TERMINAL.to_vec() },
        adapters: raw.adapters.unwrap_or_default(),
        format: raw.format,
        timeout,
        attempts_max,
        paused: raw.paused,
        ca_file: raw.ca_file,
        ..Webhook::plain(raw.name, target, secrets)
    })
}

/// The type of that name, if the format carries it.
fn kind(word: &str, format: Format) -> Result<EventKind, String> {
    let Some(kind) = EventKind::ALL.into_iter().find(|kind| kind.word() == word) else {
        let all: Vec<_> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
        return Err(format!("there is no type \"{word}\" to deliver (there are: {})", all.join(", ")));
    };
    if !format.carries(kind) {
        return Err(format!(
            "receivers of the format agentctl take {word} for a successful end; it needs format: \"cloudevents\""
        ));
    }
    Ok(kind)
}

fn secrets(raw: &RawWebhook, env: &BTreeMap<String, String>) -> Result<Vec<Secret>, String> {
    let mut given: Vec<(&str, Vec<Secret>)> = Vec::new();
    if let Some(secret) = &raw.secret {
        given.push(("secret", vec![secret.clone()]));
    }
    if let Some(secrets) = &raw.secrets {
        given.push(("secrets", secrets.clone()));
    }
    if let Some(path) = &raw.secret_file {
        given.push(("secret_file", from_file(path).map_err(|what| format!("secret_file: {what}"))?));
    }
    if let Some(name) = &raw.secret_env {
        let secret = env.get(name).ok_or(format!("secret_env: the daemon's environment has no {name}"))?;
        given.push(("secret_env", vec![Secret(secret.clone())]));
    }
    if let Some(name) = &raw.secret_credential {
        let failed = |what: String| format!("secret_credential: {what}");
        if name.is_empty() || name.contains('/') || name == ".." {
            return Err(failed(format!("\"{name}\" is no name of a credential")));
        }
        let dir = env.get("CREDENTIALS_DIRECTORY").ok_or_else(|| {
            failed("the daemon was given no credentials; set LoadCredential= in its systemd unit".into())
        })?;
        given.push(("secret_credential", from_file(&Path::new(dir).join(name)).map_err(failed)?));
    }
    let mut given = given.into_iter();
    let Some((key, secrets)) = given.next() else { return Ok(Vec::new()) };
    if let Some((other, _)) = given.next() {
        return Err(format!("{key} and {other} are two places for a secret; keep one"));
    }
    check_secrets(&secrets).map_err(|what| format!("{key}: {what}"))?;
    Ok(secrets)
}

fn from_file(path: &Path) -> Result<Vec<Secret>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let secrets: Vec<_> = lines.map(|line| Secret(line.to_owned())).collect();
    if secrets.is_empty() { Err(format!("{} holds no secret", path.display())) } else { Ok(secrets) }
}

fn check_secrets(secrets: &[Secret]) -> Result<(), String> {
    if secrets.len() > limits::SECRETS_MAX {
        return Err(format!("{} are more than {}", secrets.len(), limits::SECRETS_MAX));
    }
    for secret in secrets {
        match secret.reveal().strip_prefix("whsec_") {
            _ if secret.reveal().is_empty() => return Err("it is empty".to_owned()),
            Some(coded) if STANDARD.decode(coded).is_err() => {
                return Err("what follows whsec_ is not base64".to_owned());
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(list: &str, env: &[(&str, &str)]) -> Result<Vec<Webhook>, String> {
        let list: Vec<RawWebhook> = serde_json::from_str(list).map_err(|error| error.to_string())?;
        let env: BTreeMap<_, _> = env.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        webhooks(None, None, list, &env).map_err(|(key, what)| format!("{key}: {what}"))
    }

    /// The one endpoint of these keys beside name and url.
    fn one(keys: &str, env: &[(&str, &str)]) -> Result<Webhook, String> {
        read(&format!(r#"[{{"name": "ci", "url": "https://ci.example/in"{keys}}}]"#), env)
            .map(|mut all| all.pop().unwrap())
    }

    fn revealed(webhook: &Webhook) -> Vec<&str> {
        webhook.secrets.iter().map(Secret::reveal).collect()
    }

    #[test]
    fn an_endpoint_has_its_defaults() {
        let webhook = one("", &[]).unwrap();
        assert_eq!(webhook.kinds, TERMINAL);
        assert_eq!((webhook.format, webhook.attempts_max, webhook.paused), (Format::Agentctl, 10, false));
        assert_eq!((webhook.timeout, webhook.secrets.len()), (limits::WEBHOOK_TIMEOUT, 0));
        let silent = one(r#", "events": []"#, &[]).unwrap();
        assert_eq!(silent.kinds, [], "it hears only of sessions that name it");
    }

    #[test]
    fn who_only_looks_needs_no_secret_of_the_daemons() {
        let look = |keys: &str| {
            let text = format!(r#"[{{"name": "ci", "url": "https://ci.example/in"{keys}}}]"#);
            let mut list: Vec<RawWebhook> = serde_json::from_str(&text).unwrap();
            list.iter_mut().for_each(|webhook| webhook.take_for_granted(&BTreeMap::new()));
            webhooks(None, None, list, &BTreeMap::new()).map(|all| all[0].secrets.len())
        };
        for keys in ["secret_env", "secret_credential"] {
            assert_eq!(look(&format!(r#", "{keys}": "NONE""#)), Ok(1), "{keys}");
        }
        for keys in [r#", "secret_file": "/no/such""#, r#", "secret_env": "A", "secret": "b""#] {
            assert!(look(keys).is_err(), "{keys}");
        }
    }

    #[test]
    fn secrets_come_from_one_of_five_places() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hook"), "new\n\n  old \n").unwrap();
        let env =
            [("TOKEN", "from the environment"), ("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap())];
        let file = format!(r#", "secret_file": "{}/hook""#, dir.path().display());
        let table = [
            (r#", "secret": "a""#, vec!["a"]),
            (r#", "secrets": ["a", "b"]"#, vec!["a", "b"]),
            (file.as_str(), vec!["new", "old"]),
            (r#", "secret_credential": "hook""#, vec!["new", "old"]),
            (r#", "secret_env": "TOKEN""#, vec!["from the environment"]),
        ];
        for (keys, expected) in table {
            assert_eq!(revealed(&one(keys, &env).unwrap()), expected, "{keys}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        let table = [
            (r#", "secret": "s3cret", "secrets": ["x"]"#, "secret and secrets are two places"),
            (r#", "secret": """#, "secret: it is empty"),
            (r#", "secrets": ["whsec_s3cret!"]"#, "what follows whsec_ is not base64"),
            (r#", "secret_file": "/no/such""#, "secret_file: read /no/such: No such file"),
            (r#", "secret_env": "NONE""#, "has no NONE"),
            (r#", "secret_credential": "x""#, "set LoadCredential="),
            (r#", "secret_credential": "../x""#, "no name of a credential"),
            (r#", "events": ["session.timeout"]"#, "it needs format: \"cloudevents\""),
            (r#", "events": ["session.ended"]"#, "there is no type \"session.ended\""),
            (r#", "timeout": "0""#, "timeout: it is more than 0"),
            (r#", "max_attempts": 0"#, "max_attempts: it is 1 to"),
            (r#", "max_attemps": 3"#, "unknown field `max_attemps`"),
        ];
        for (keys, expected) in table {
            let error = one(keys, &[]).expect_err(keys);
            assert!(error.contains(expected) && !error.contains("s3cret"), "{keys}: {error}");
        }
        let twice = r#"[{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}]"#;
        assert!(read(twice, &[]).unwrap_err().contains("two endpoints are named \"a\""));
        let slash = r#"[{"name": "a/b", "url": "http://x"}]"#;
        assert!(read(slash, &[]).unwrap_err().contains("a name has letters"));
    }

    #[test]
    fn other_types_are_carried_by_cloudevents() {
        let keys =
            r#", "format": "cloudevents", "events": ["session.timeout", "endpoint.paused", "session.error"]"#;
        let webhook = one(keys, &[]).unwrap();
        assert_eq!(webhook.kinds, [EventKind::Timeout, EventKind::Error, EventKind::EndpointPaused]);
    }
}
