//! What the fake model does, read out of the prompt.
//!
//! The last user text that holds a directive scripts the answer:
//!
//! | directive | answer |
//! |---|---|
//! | `[[reply:TEXT]]` | TEXT |
//! | `[[sleep:SECONDS]]` | wait, trickling a dot a second, then answer |
//! | `[[tool:bash:CMD]]` | have the agent's shell tool run CMD once, then finish |
//! | `[[error:STATUS]]` | that HTTP status |
//! | `[[errormid:STATUS]]` | start a stream and send an error in it |
//! | `[[hang]]` | accept and never answer |
//! | `[[when:PATH]]` | answer once there is a file of this path |
//! | `[[drop]]` | start a stream and close the connection in the middle |
//! | `[[length]]` | finish with reason `length` |
//! | `[[refuse]]` | finish with reason `content_filter` |
//! | `[[usage:IN,OUT]]` | reported usage, 1000,50 by default |
//!
//! With a tool as well, errors, hangs and waiting are the answer to what the tool returned. Agents do not wait for a tool for
//! ever (codex for 10 s): what must last as long as a test wants it to has one of them behind its tool.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value, json};

const NAMES: [&str; 11] =
    ["reply", "sleep", "tool", "error", "errormid", "hang", "when", "drop", "length", "usage", "refuse"];

/// What agents call their shell tool, in order of preference.
const SHELL_NAMES: [&str; 7] =
    ["bash", "Bash", "shell", "exec_command", "shell_command", "run_shell_command", "terminal"];

/// The answer that a prompt asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    reply: Option<String>,
    pub(super) sleep: Duration,
    pub(super) tool: Option<String>,
    pub(super) error: Option<u16>,
    pub(super) error_mid: Option<u16>,
    pub(super) hang: bool,
    pub(super) when: Option<PathBuf>,
    pub(super) drop: bool,
    pub(super) length: bool,
    pub(super) refuse: bool,
    pub(super) usage: (u64, u64),
    found: bool,
}

impl Plan {
    /// What the model says.
    pub(super) fn text(&self) -> &str {
        match &self.reply {
            Some(text) => text,
            None if self.found => "done",
            None => "ok",
        }
    }
}

/// The parts of a request that matter to the script.
pub(super) struct Said {
    /// The user's texts with directives, oldest first.
    pub(super) users: Vec<String>,
    /// Whether a tool has answered since the last of them.
    pub(super) tool_answered: bool,
    /// Names and parameter schemas.
    pub(super) tools: Vec<(String, Value)>,
}

pub(super) fn normalise(body: &Value) -> Said {
    let list = |key: &str| body[key].as_array().map(Vec::as_slice).unwrap_or_default();
    let (mut users, mut tool_answered) = (Vec::new(), false);
    // Chat and Anthropic have messages, Responses have input.
    for turn in list("messages").iter().chain(list("input")) {
        let texts = texts_of(turn);
        let parts = turn["content"].as_array().into_iter().flatten();
        let kind = turn["type"].as_str().unwrap_or_default();
        tool_answered |= turn["role"] == "tool"
            || kind.ends_with("_call_output")
            || parts.into_iter().any(|part| part["type"] == "tool_result");
        if turn["role"] == "user" && texts.iter().any(|text| !directives(text).is_empty()) {
            tool_answered = false;
            users.extend(texts);
        }
    }
    let tools = list("tools").iter().filter_map(|tool| {
        let function = if tool["function"].is_object() { &tool["function"] } else { tool };
        let schema =
            [&function["parameters"], &function["input_schema"]].into_iter().find(|it| it.is_object());
        Some((function["name"].as_str()?.to_owned(), schema.cloned().unwrap_or_default()))
    });
    Said { users, tool_answered, tools: tools.collect() }
}

/// All text pieces of a message.
pub(super) fn texts_of(message: &Value) -> Vec<String> {
    let content = &message["content"];
    let parts = content.as_array().into_iter().flatten().map(|part| &part["text"]);
    parts.chain([content]).filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The directives in a text, with what stands behind their colon. A value ends at the first `]]`.
fn directives(text: &str) -> Vec<(&'static str, Option<&str>)> {
    let (mut found, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find("[[") {
        let inner = &rest[at + 2..];
        let read = |name: &'static str| {
            let after = inner.strip_prefix(name)?;
            if let Some(after) = after.strip_prefix("]]") {
                return Some(((name, None), after));
            }
            let (value, after) = after.strip_prefix(':')?.split_once("]]")?;
            Some(((name, Some(value)), after))
        };
        match NAMES.into_iter().find_map(read) {
            Some((directive, after)) => {
                found.push(directive);
                rest = after;
            }
            None => rest = &rest[at + 1..],
        }
    }
    found
}

pub(super) fn plan_of(users: &[String]) -> Plan {
    let mut plan = Plan { usage: (1000, 50), ..Plan::default() };
    let last = users.iter().map(|text| directives(text)).rfind(|found| !found.is_empty());
    for (name, value) in last.unwrap_or_default() {
        plan.found = true;
        let value = value.filter(|value| !value.is_empty());
        let status = || value.map_or(500, |value| value.parse().expect("an error directive takes a status"));
        match name {
            "reply" => plan.reply = Some(value.unwrap_or_default().to_owned()),
            "sleep" => {
                let seconds = value.unwrap_or("1").parse().expect("[[sleep:..]] takes seconds");
                plan.sleep += Duration::from_secs_f64(seconds);
            }
            "tool" => {
                let value = value.unwrap_or("bash:true");
                plan.tool = Some(value.split_once(':').map_or(value, |(_, command)| command).to_owned());
            }
            "error" => plan.error = Some(status()),
            "errormid" => plan.error_mid = Some(status()),
            "hang" => plan.hang = true,
            "when" => plan.when = value.map(PathBuf::from),
            "drop" => plan.drop = true,
            "length" => plan.length = true,
            "refuse" => plan.refuse = true,
            "usage" => {
                let (input, output) = value.and_then(|value| value.split_once(',')).unwrap_or(("1000", "50"));
                let number = |text: &str| text.trim().parse().expect("[[usage:IN,OUT]] takes two numbers");
                plan.usage = (number(input), number(output));
            }
            other => unreachable!("{other} is in NAMES and has no meaning"),
        }
    }
    plan
}

/// The call that makes the agent's shell tool run `command`: its name, and arguments that fit its schema.
pub(super) fn shell_call(tools: &[(String, Value)], command: &str) -> Option<(String, Value)> {
    let named = |wanted: &str| tools.iter().find(|(name, _)| name == wanted);
    let like_a_shell = |name: &str| {
        let name = name.to_lowercase();
        ["bash", "shell", "exec", "command", "terminal"].iter().any(|word| name.contains(word))
    };
    let (name, schema) = SHELL_NAMES
        .into_iter()
        .find_map(named)
        .or_else(|| tools.iter().find(|(name, _)| like_a_shell(name)))?;

    let properties = &schema["properties"];
    let key = ["command", "cmd", "commands", "script"].into_iter().find(|key| !properties[*key].is_null());
    let key = key.unwrap_or("command");
    let mut arguments = Map::new();
    let value = match (properties[key]["type"].as_str(), key) {
        (Some("array"), "command") => json!(["bash", "-lc", command]),
        (Some("array"), _) => json!([command]),
        _ => json!(command),
    };
    arguments.insert(key.to_owned(), value);
    for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let filler = match properties[required]["type"].as_str() {
            Some("boolean") => json!(false),
            Some("integer" | "number") if required == "timeout" => json!(60_000),
            Some("integer") => json!(1),
            Some("number") => json!(60),
            Some("array") => json!([]),
            _ => json!("run it"),
        };
        arguments.entry(required).or_insert(filler);
    }
    Some((name.clone(), Value::Object(arguments)))
}

#[test]
fn directives_are_read_as_written() {
    let found = directives(
        "x [[[reply:a ]b]] [[hang]] [[errormid:400]] [[nope:1]] [[tool:bash:echo [[ 1 ]]]] [[length",
    );
    assert_eq!(
        found,
        [
            ("reply", Some("a ]b")),
            ("hang", None),
            ("errormid", Some("400")),
            ("tool", Some("bash:echo [[ 1 ")),
        ]
    );
}

#[test]
fn the_last_text_with_directives_is_the_plan() {
    let text = |text: &str| text.to_owned();
    let plan =
        plan_of(&[text("[[reply:old]] [[hang]]"), text("[[tool:bash:a:b]] [[sleep:0.5]]"), text("none")]);
    let expected = Plan {
        tool: Some(text("a:b")),
        sleep: Duration::from_millis(500),
        usage: (1000, 50),
        found: true,
        ..Plan::default()
    };
    assert_eq!(plan, expected);
    assert_eq!(plan.text(), "done");
    assert_eq!(plan_of(&[]).text(), "ok");
}
