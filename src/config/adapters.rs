//! `adapters` in the configuration: agents that users declare, as written.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::adapters::{Arg, Declared, DeclaredPrompt, Known, Rule};
use crate::core::agent::Span;

/// Whether all of these are adapters; the error is for the user.
pub(super) fn all_known<'a>(
    names: impl IntoIterator<Item = &'a String>,
    declared: &[Arc<Declared>],
) -> Result<(), String> {
    let all: Vec<Known> = Known::all(declared).collect();
    let Some(name) = names.into_iter().find(|name| all.iter().all(|known| known.name() != **name)) else {
        return Ok(());
    };
    let near = super::nearest(name, all.iter().map(Known::name));
    Err(format!("there is no adapter \"{name}\"{}", super::hint(near.as_deref())))
}

/// One declaration, by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdapter {
    program: String,
    #[serde(default)]
    args: Vec<RawArg>,
    resume: Option<Vec<RawArg>>,
    #[serde(default)]
    prompt: RawPrompt,
    #[serde(default)]
    events: Vec<RawRule>,
    protocol: Option<RawProtocol>,
}

/// What is spoken over its standard input and output.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawProtocol {
    Acp,
}

/// An argument, or several that go together.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "an argument is a text, or a list of texts that go together")]
enum RawArg {
    One(String),
    Several(Vec<String>),
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawPrompt {
    #[default]
    Stdin,
    Arg,
    File,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    when: BTreeMap<String, Value>,
    session_id: Option<String>,
    said: Option<String>,
    #[serde(default)]
    success: bool,
    failed: Option<String>,
    tokens_in: Option<String>,
    tokens_out: Option<String>,
    cache_read: Option<String>,
    cache_write: Option<String>,
    cost: Option<String>,
    total: Option<RawSpan>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawSpan {
    Run,
    Conversation,
}

/// The declarations as meant, or what is wrong with which.
pub(super) fn declared(raw: BTreeMap<String, RawAdapter>) -> Result<Vec<Arc<Declared>>, String> {
    raw.into_iter()
        .map(|(name, raw)| {
            let declared = one(name, raw);
            declared.check().map_err(|what| format!("{}: {what}", declared.name))?;
            Ok(Arc::new(declared))
        })
        .collect()
}

fn one(name: String, raw: RawAdapter) -> Declared {
    let args = |list: Vec<RawArg>| {
        list.into_iter()
            .map(|arg| match arg {
                RawArg::One(word) => Arg(vec![word]),
                RawArg::Several(words) => Arg(words),
            })
            .collect()
    };
    Declared {
        name,
        program: raw.program,
        args: args(raw.args),
        resume: raw.resume.map(args),
        prompt: match raw.prompt {
            RawPrompt::Stdin => DeclaredPrompt::Stdin,
            RawPrompt::Arg => DeclaredPrompt::Arg,
            RawPrompt::File => DeclaredPrompt::File,
        },
        events: raw.events.into_iter().map(rule).collect(),
        acp: matches!(raw.protocol, Some(RawProtocol::Acp)),
    }
}

fn rule(raw: RawRule) -> Rule {
    Rule {
        when: raw.when,
        session_id: raw.session_id,
        said: raw.said,
        success: raw.success,
        failed: raw.failed,
        tokens_in: raw.tokens_in,
        tokens_out: raw.tokens_out,
        cache_read: raw.cache_read,
        cache_write: raw.cache_write,
        cost: raw.cost,
        total: raw.total.map(|span| match span {
            RawSpan::Run => Span::Run,
            RawSpan::Conversation => Span::Conversation,
        }),
    }
}
