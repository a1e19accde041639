//! The configuration as people ask for it: each key with its value, where that comes from, and its unit.
//!
//! No secret is in it, and of URLs no path and query, which may carry one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::places::KEYS;
use super::webhooks::Webhook;
use super::{Config, Durability};
use crate::core::vocab::Leftovers;

/// Keys of which a running daemon takes a new value at its next start only.
pub const AT_RESTART: [&str; 3] = ["metrics_addr", "durability", "backend"];

/// Where a value comes from. (A flag of a launch beats them all, for that launch.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    Environment,
    File,
    Default,
}

impl Origin {
    /// The word of the answer.
    pub fn word(self) -> &'static str {
        match self {
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// One key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    pub key: String,
    /// In `unit`, where that is given; a secret is only `set` or `not set`.
    pub value: Value,
    pub unit: Option<String>,
    pub origin: Origin,
}

impl Setting {
    /// The value for people.
    pub fn text(&self) -> String {
        let number = self.value.as_f64();
        match (self.unit.as_deref(), number, &self.value) {
            (Some("seconds"), Some(seconds), _) => {
                humantime::format_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
                    .to_string()
            }
            (Some("bytes"), Some(_), _) => {
                ByteSize(self.value.as_u64().unwrap_or_default()).display().si().to_string()
            }
            (_, _, Value::Null) => "none".to_owned(),
            (_, _, Value::String(text)) => text.clone(),
            (_, _, Value::Array(list)) if list.is_empty() => "none".to_owned(),
            (_, _, Value::Array(list)) => list.iter().map(element).collect::<Vec<_>>().join("; "),
            (_, _, Value::Object(map)) if map.is_empty() => "none".to_owned(),
            (_, _, Value::Object(map)) => {
                let each = map.iter().map(|(key, value)| format!("{key} {value}"));
                each.collect::<Vec<_>>().join("; ")
            }
            (Some(unit), _, value) => format!("{value} {unit}"),
            (None, _, value) => value.to_string(),
        }
    }
}

fn element(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(of) => {
            let word = |key: &str| of.get(key).and_then(Value::as_str).unwrap_or_default();
            format!("{} to {} ({}, secret {})", word("name"), word("url"), word("format"), word("secret"))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => value.to_string(),
    }
}

/// What is not a default, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    /// Of a file with these keys, read in this environment.
    pub(super) fn of(in_file: &BTreeSet<String>, env: &BTreeMap<String, String>) -> Self {
        let of = |key: &'static str| {
            let variable = match key {
                "webhook_url" => "AGENTCTL_WEBHOOK_URL",
                "webhook_secret" => "AGENTCTL_WEBHOOK_SECRET",
                _ => "",
            };
            let origin = if env.get(variable).is_some_and(|value| !value.is_empty()) {
                Origin::Environment
            } else if in_file.contains(key) {
                Origin::File
            } else {
                return None;
            };
            Some((key, origin))
        };
        Self(KEYS.into_iter().filter_map(of).collect())
    }

    fn get(&self, key: &str) -> Origin {
        self.0.get(key).copied().unwrap_or(Origin::Default)
    }
}

impl Config {
    /// Every key, in the order of the documentation.
    pub fn settings(&self) -> Vec<Setting> {
        KEYS.into_iter()
            .map(|key| {
                let (value, unit) = self.value(key);
                Setting {
                    key: key.to_owned(),
                    value,
                    unit: unit.map(str::to_owned),
                    origin: self.origins.get(key),
                }
            })
            .collect()
    }

    fn value(&self, key: &str) -> (Value, Option<&'static str>) {
        // The endpoint of the keys `webhook_url` and `webhook_secret` comes first, where there is one.
        let first = self.webhooks.first().is_some_and(|webhook| webhook.name == "default");
        let has_own = first && self.origins.get("webhook_url") != Origin::Default;
        let (own, others) = self.webhooks.split_at(usize::from(has_own));
        let value = match key {
            "adapter" => json!(self.adapter),
            "model" => json!(self.model),
            "cwd" => json!(self.cwd),
            "timeout" => return (self.timeout.map_or(Value::Null, seconds), Some("seconds")),
            "grace" => return (seconds(self.grace), Some("seconds")),
            "leftovers" => json!(match self.leftovers {
                Leftovers::Kill => "kill",
                Leftovers::Keep => "keep",
            }),
            "linger" => return (self.linger.map_or(Value::Null, seconds), Some("seconds")),
            "stuck" => return (self.stuck.map_or(Value::Null, seconds), Some("seconds")),
            "webhook_url" => json!(own.first().map(|webhook| webhook.target.shown())),
            "webhook_secret" => {
                json!(is_set(
                    self.origins.get(key) != Origin::Default || own.iter().any(|own| !own.secrets.is_empty())
                ))
            }
            "webhooks" => others.iter().map(endpoint).collect(),
            "notify_allow_private" => json!(self.notify_allow_private),
            "metrics_addr" => json!(self.metrics_addr),
            "durability" => json!(match self.durability {
                Durability::Full => "full",
                Durability::Normal => "normal",
            }),
            "backend" => json!(self.backend.to_string()),
            "retention_days" => return (number(self.retention.as_secs_f64() / 86_400.0), Some("days")),
            "disk_max" => return (json!(self.disk_max_bytes), Some("bytes")),
            "log_max" => return (json!(self.log_max_bytes), Some("bytes")),
            "max_sessions" => return (json!(self.max_sessions), Some("sessions")),
            "adapter_max_sessions" => json!(self.adapter_max_sessions),
            "discover" => json!(self.discover),
            "adapters" => self.adapters.iter().map(|adapter| json!(adapter.name)).collect(),
            _ => Value::Null,
        };
        (value, None)
    }
}

fn endpoint(webhook: &Webhook) -> Value {
    json!({
        "name": webhook.name,
        "url": webhook.target.shown(),
        "secret": is_set(!webhook.secrets.is_empty()),
        "events": webhook.kinds.iter().map(|kind| kind.word()).collect::<Vec<_>>(),
        "adapters": webhook.adapters,
        "format": webhook.format.word(),
        "timeoutSeconds": seconds(webhook.timeout),
        "maxAttempts": webhook.attempts_max,
        "paused": webhook.paused,
        "caFile": webhook.ca_file,
    })
}

fn is_set(set: bool) -> &'static str {
    if set { "set" } else { "not set" }
}

fn seconds(duration: Duration) -> Value {
    number(duration.as_secs_f64())
}

/// Whole where it is.
fn number(number: f64) -> Value {
    let whole = number as u64;
    if whole as f64 == number { json!(whole) } else { json!(number) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn settings(text: &str, env: &[(&str, &str)]) -> BTreeMap<String, (String, Origin)> {
        let env: BTreeMap<_, _> = env.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let config = super::super::understood(Path::new("c"), text, &env).expect("a good one");
        let shown = serde_json::to_string(&config.settings()).expect("JSON");
        assert!(!shown.contains("s3cret"), "{shown}");
        let settings = config.settings();
        settings.into_iter().map(|setting| (setting.key.clone(), (setting.text(), setting.origin))).collect()
    }

    #[track_caller]
    fn check(text: &str, env: &[(&str, &str)], key: &str, value: &str, origin: Origin) {
        assert_eq!(settings(text, env)[key], (value.to_owned(), origin), "{key} of {text}");
    }

    #[test]
    fn every_key_has_a_value_and_an_origin() {
        let all = settings("{}", &[]);
        assert_eq!(all.len(), KEYS.len());
        assert!(all.values().all(|(_, origin)| *origin == Origin::Default), "{all:?}");
        for (key, value) in [
            ("adapter", "claude-code"),
            ("timeout", "3h"),
            ("grace", "10s"),
            ("leftovers", "kill"),
            ("linger", "none"),
            ("stuck", "none"),
            ("webhook_url", "none"),
            ("webhook_secret", "not set"),
            ("webhooks", "none"),
            ("metrics_addr", "127.0.0.1:9200"),
            ("durability", "full"),
            ("backend", "auto"),
            ("retention_days", "7 days"),
            ("disk_max", "5.0 GB"),
            ("log_max", "1.0 GB"),
            ("max_sessions", "10000 sessions"),
            ("adapter_max_sessions", "none"),
            ("discover", "true"),
            ("adapters", "none"),
        ] {
            assert_eq!(all[key].0, value, "{key}");
        }
    }

    #[test]
    fn the_origin_is_the_one_that_won() {
        let file = r#"{"webhook_url": "https://a.example/?s3cret", "webhook_secret": "s3cret", "retention_days": 0.5,
            "timeout": "0", "stuck": "10m", "log_max": "0", "notify_allow_private": false, "metrics_addr": null}"#;
        let file_only: &[(&str, &str)] = &[];
        check(file, file_only, "webhook_url", "https://a.example", Origin::File);
        check(file, file_only, "webhook_secret", "set", Origin::File);
        check(file, file_only, "retention_days", "0.5 days", Origin::File);
        check(file, file_only, "timeout", "none", Origin::File);
        check(file, file_only, "stuck", "10m", Origin::File);
        check(file, file_only, "log_max", "none", Origin::File);
        check(file, file_only, "notify_allow_private", "false", Origin::File);
        check(file, file_only, "metrics_addr", "none", Origin::File);
        check(file, file_only, "grace", "10s", Origin::Default);
        let env = [("AGENTCTL_WEBHOOK_URL", "http://b.example/s3cret"), ("AGENTCTL_WEBHOOK_SECRET", "")];
        check(file, &env, "webhook_url", "http://b.example", Origin::Environment);
        check(file, &env, "webhook_secret", "set", Origin::File);
    }

    #[test]
    fn endpoints_are_named_without_their_secrets() {
        let list = r#"{"webhook_url": "http://a.example/", "webhooks": [
            {"name": "ci", "url": "https://ci.example/in?t=s3cret", "secret": "s3cret", "format": "cloudevents"},
            {"name": "bus", "url": "unix:/run/bus"}]}"#;
        let shown = "ci to https://ci.example (cloudevents, secret set); bus to unix:/run/bus (agentctl, secret not set)";
        check(list, &[], "webhooks", shown, Origin::File);
        check(list, &[], "webhook_secret", "not set", Origin::Default);
    }
}
