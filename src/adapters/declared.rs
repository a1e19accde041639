//! Agents that users declare in the configuration, without code: which arguments, and which lines of output mean what.
//!
//! Owns the rules that such a declaration must keep, with words for each that it does not. Refuses to know the file that it
//! is written in. A declared adapter can do what a built-in one can, save environment and first starts.

use std::collections::BTreeMap;

use serde_json::Value;

use super::json::{count, dollars, native_id, words};
use super::stream::{bounded, message_text};
use super::{Ask, PromptWay, Unfit};
use crate::core::agent::{AgentEvent, Span, StepEnd, Tokens};

/// An agent as its user declares it; built by [`Declared::check`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Declared {
    pub name: String,
    pub program: String,
    pub args: Vec<Arg>,
    /// The arguments of a resumed run; `None` where the agent cannot.
    pub resume: Option<Vec<Arg>>,
    pub prompt: DeclaredPrompt,
    /// What lines of its stdout mean; none: the exit code alone counts.
    pub events: Vec<Rule>,
    /// It speaks ACP: prompt, output and resuming are the protocol's.
    pub acp: bool,
}

/// One argument, or several that go together: where a placeholder in it has no value, all of it is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arg(pub Vec<String>);

/// How the prompt reaches a declared agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeclaredPrompt {
    #[default]
    Stdin,
    /// As an argument, where `{prompt}` stands: everybody on the host can read it there.
    Arg,
    /// As a file, whose path stands for `{prompt_file}`. It is the one on stdin.
    File,
}

/// The file on stdin, as a path.
const PROMPT_FILE: &str = "/dev/stdin";

/// What a line of JSON means in which every path of `when` has that value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    pub when: BTreeMap<String, Value>,
    /// Path of the native id of the conversation.
    pub session_id: Option<String>,
    /// Path of a whole message of the assistant.
    pub said: Option<String>,
    /// The run has succeeded.
    pub success: bool,
    /// The run has failed, in the words at this path.
    pub failed: Option<String>,
    pub tokens_in: Option<String>,
    pub tokens_out: Option<String>,
    pub cache_read: Option<String>,
    pub cache_write: Option<String>,
    /// Path of an amount of dollars.
    pub cost: Option<String>,
    /// What tokens and cost of this line cover; `None`: what was used since the last such line.
    pub total: Option<Span>,
}

/// What stands for something in an argument.
const PLACEHOLDERS: [&str; 6] =
    ["{prompt}", "{model}", "{session_id}", "{name}", "{prompt_file}", "{thinking}"];

impl Declared {
    /// Checks what no type can say; the error names the place and what is wrong there.
    pub fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if self.name.is_empty() || !self.name.chars().all(plain) || self.name.starts_with('-') {
            return Err(format!("the name \"{}\" may hold letters, digits and . _ - only", self.name));
        }
        if super::find(&self.name).is_some() {
            return Err(format!("{} is built in; choose another name", self.name));
        }
        if self.program.is_empty() {
            return Err("program is empty".into());
        }
        self.check_acp()?;
        let lists = [("args", Some(&self.args)), ("resume", self.resume.as_ref())];
        for (place, list) in lists {
            let Some(list) = list else { continue };
            for word in list.iter().flat_map(|arg| &arg.0) {
                check_word(place, word)?;
            }
            for (placeholder, way, word) in
                [("{prompt}", DeclaredPrompt::Arg, "arg"), ("{prompt_file}", DeclaredPrompt::File, "file")]
            {
                match (self.prompt == way, mentions(list, placeholder)) {
                    (true, false) => {
                        return Err(format!(
                            "prompt is \"{word}\", and {place} does not say where: {placeholder}"
                        ));
                    }
                    (false, true) => {
                        return Err(format!(
                            "{place} holds {placeholder}; that takes \"prompt\": \"{word}\""
                        ));
                    }
                    (true, true) | (false, false) => {}
                }
            }
        }
        if let Some(resume) = &self.resume {
            if !mentions(resume, "{session_id}") {
                return Err("resume does not say which conversation: {session_id}".into());
            }
            let known = self.imposes_id() || self.events.iter().any(|rule| rule.session_id.is_some());
            if !known {
                return Err("resume needs the id of the conversation: give it in args as {session_id}, or name its path \
                            (session_id) in one of the events"
                    .into());
            }
        }
        let ends = self.events.iter().any(|rule| rule.success);
        if !self.events.is_empty() && !ends {
            return Err("none of the events has \"success\": true, so no run could ever succeed".into());
        }
        Ok(())
    }

    fn check_acp(&self) -> Result<(), String> {
        let has = [
            ("resume", self.resume.is_some()),
            ("prompt", self.prompt != DeclaredPrompt::Stdin),
            ("events", !self.events.is_empty()),
            ("{session_id} in args", self.imposes_id()),
        ];
        match has.into_iter().find(|(_, has)| self.acp && *has) {
            Some((key, _)) => Err(format!("it has {key}, which is the protocol's business: remove it")),
            None => Ok(()),
        }
    }

    /// Whether the arguments hold the model.
    pub fn names_model(&self) -> bool {
        mentions(&self.args, "{model}")
    }

    /// Whether the arguments say how much it is to think.
    pub fn takes_thinking(&self) -> bool {
        mentions(&self.args, "{thinking}")
    }

    /// Whether the conversation is given our session's id.
    pub fn imposes_id(&self) -> bool {
        mentions(&self.args, "{session_id}")
    }

    pub(super) fn prompt_way(&self) -> PromptWay {
        match self.prompt {
            DeclaredPrompt::Stdin | DeclaredPrompt::File => PromptWay::Stdin,
            DeclaredPrompt::Arg => PromptWay::Argument,
        }
    }

    pub(super) fn argv(&self, ask: &Ask<'_>) -> Vec<String> {
        fill(&self.args, ask, ask.session)
    }

    pub(super) fn resume_argv(&self, ask: &Ask<'_>, native_id: &str) -> Result<Vec<String>, Unfit> {
        let resume = self.resume.as_ref().ok_or_else(|| Unfit::CannotResume(self.name.clone()))?;
        Ok(fill(resume, ask, Some(native_id)))
    }

    /// What one line of stdout tells.
    pub fn parse(&self, line: &[u8]) -> Vec<AgentEvent> {
        let Ok(event @ Value::Object(_)) = serde_json::from_slice(line) else { return Vec::new() };
        let mut events = Vec::new();
        for rule in self.events.iter().filter(|rule| rule.matches(&event)) {
            rule.read(&event, &mut events);
        }
        events
    }
}

fn mentions(list: &[Arg], placeholder: &str) -> bool {
    list.iter().flat_map(|arg| &arg.0).any(|word| word.contains(placeholder))
}

/// A word in braces that is none of ours is a slip; braces around anything else (JSON) are left alone.
fn check_word(place: &str, word: &str) -> Result<(), String> {
    if word.contains('\0') {
        return Err(format!("{place} holds a NUL byte, which no program can be given"));
    }
    for (at, _) in word.match_indices('{') {
        let Some(end) = word[at..].find('}') else { continue };
        let found = &word[at..=at + end];
        let like_ours =
            found.len() > 2 && found[1..found.len() - 1].chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if like_ours && !PLACEHOLDERS.contains(&found) {
            return Err(format!(
                "{place} holds {found}, which stands for nothing; there are {}",
                PLACEHOLDERS.join(" ")
            ));
        }
    }
    Ok(())
}

fn fill(list: &[Arg], ask: &Ask<'_>, session_id: Option<&str>) -> Vec<String> {
    let values = [ask.prompt, ask.model, session_id, ask.title, Some(PROMPT_FILE), ask.thinking];
    let value = |word: &str| -> Option<String> {
        let mut filled = String::new();
        let mut rest = word;
        // Once through: what a value holds is not filled again.
        while let Some((at, which)) =
            PLACEHOLDERS.iter().enumerate().filter_map(|(which, name)| Some((rest.find(name)?, which))).min()
        {
            filled.push_str(&rest[..at]);
            filled.push_str(values[which]?);
            rest = &rest[at + PLACEHOLDERS[which].len()..];
        }
        Some(filled + rest)
    };
    list.iter()
        .filter_map(|arg| arg.0.iter().map(|word| value(word)).collect::<Option<Vec<_>>>())
        .flatten()
        .collect()
}

/// The value at `a.b.0.c`; null where there is none.
fn at<'a>(event: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(event, |value, key| match key.parse::<usize>() {
        Ok(index) if value.is_array() => &value[index],
        Ok(_) | Err(_) => &value[key],
    })
}

impl Rule {
    fn matches(&self, event: &Value) -> bool {
        self.when.iter().all(|(path, value)| at(event, path) == value)
    }

    fn read(&self, event: &Value, events: &mut Vec<AgentEvent>) {
        let found = |path: &Option<String>| path.as_ref().map(|path| at(event, path));
        events.extend(found(&self.session_id).and_then(native_id));
        events.extend(found(&self.said).and_then(Value::as_str).and_then(message_text).map(AgentEvent::Said));
        let number = |path: &Option<String>| found(path).map(count);
        let counters = [&self.tokens_in, &self.tokens_out, &self.cache_read, &self.cache_write].map(number);
        let tokens = counters.iter().any(Option::is_some).then(|| {
            let [r#in, out, cache_read, cache_write] = counters.map(Option::unwrap_or_default);
            Tokens { r#in, out, cache_read, cache_write }
        });
        let cost_usd = found(&self.cost).and_then(dollars);
        if tokens.is_some() || cost_usd.is_some() {
            events.push(match self.total {
                Some(span) => AgentEvent::Total { span, tokens, cost_usd },
                None => {
                    AgentEvent::Used { tokens: tokens.unwrap_or_default(), cost_usd: cost_usd.unwrap_or(0.0) }
                }
            });
        }
        if let Some(told) = found(&self.failed) {
            let text = words(told).unwrap_or_else(|| bounded(&told.to_string(), super::FAILURE_MAX_CHARS));
            events.push(AgentEvent::StepEnded(StepEnd::Failed(text)));
        }
        if self.success {
            events.push(AgentEvent::StepEnded(StepEnd::Stop));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn arg(words: &[&str]) -> Arg {
        Arg(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn declared() -> Declared {
        let rule =
            |kind: &str| Rule { when: BTreeMap::from([("type".into(), json!(kind))]), ..Rule::default() };
        let path = |text: &str| Some(text.to_owned());
        Declared {
            name: "mine".into(),
            program: "my-agent".into(),
            args: vec![arg(&["run"]), arg(&["--model", "{model}"]), arg(&["--title={name}"])],
            resume: Some(vec![arg(&["again", "{session_id}"])]),
            prompt: DeclaredPrompt::Stdin,
            events: vec![
                Rule { session_id: path("id"), ..rule("begin") },
                Rule { said: path("parts.0.text"), ..rule("message") },
                Rule {
                    success: true,
                    tokens_in: path("usage.in"),
                    cost: path("usd"),
                    total: Some(Span::Run),
                    ..rule("end")
                },
                Rule { failed: path("why"), ..rule("error") },
            ],
            acp: false,
        }
    }

    #[test]
    fn arguments_without_a_value_are_left_out_and_values_are_not_filled_again() {
        let mine = declared();
        let argv = |ask: Ask<'_>| mine.argv(&ask).join(" ");
        assert_eq!(argv(Ask::default()), "run");
        assert_eq!(
            argv(Ask { model: Some("{name}"), title: Some("t"), ..Ask::default() }),
            "run --model {name} --title=t"
        );
        assert_eq!(mine.resume_argv(&Ask::default(), "c-1").expect("it can").join(" "), "again c-1");
    }

    #[test]
    fn lines_mean_what_is_declared() {
        let mine = declared();
        let read = |line: Value| mine.parse(line.to_string().as_bytes());
        assert_eq!(read(json!({"type": "begin", "id": "c-1"})), [AgentEvent::NativeId("c-1".into())]);
        let said = json!({"type": "message", "parts": [{"text": "hi"}]});
        assert_eq!(read(said), [AgentEvent::Said("hi".into())]);
        let tokens = Some(Tokens { r#in: 7, ..Tokens::default() });
        let total = AgentEvent::Total { span: Span::Run, tokens, cost_usd: Some(0.5) };
        let end = json!({"type": "end", "usage": {"in": 7}, "usd": 0.5});
        assert_eq!(read(end), [total, AgentEvent::StepEnded(StepEnd::Stop)]);
        let failed = |text: &str| [AgentEvent::StepEnded(StepEnd::Failed(text.to_owned()))];
        assert_eq!(read(json!({"type": "error", "why": "no"})), failed("no"));
        assert_eq!(read(json!({"type": "error"})), failed("null"));
        assert_eq!(read(json!({"kind": "end"})), []);
        assert_eq!(mine.parse(b"plain words"), []);
    }

    #[test]
    fn what_cannot_work_is_said_with_its_place() {
        assert_eq!(declared().check(), Ok(()));
        let wrong = |change: fn(&mut Declared)| {
            let mut mine = declared();
            change(&mut mine);
            mine.check().expect_err("it cannot work")
        };
        assert!(wrong(|mine| mine.name = "codex".into()).contains("built in"));
        assert!(wrong(|mine| mine.name = "a b".into()).contains("letters, digits"));
        assert!(wrong(|mine| mine.program.clear()).contains("program is empty"));
        assert!(wrong(|mine| mine.args.push(arg(&["{modle}"]))).contains("args holds {modle}"));
        assert!(wrong(|mine| mine.args.push(arg(&["{prompt}"]))).contains("\"prompt\": \"arg\""));
        assert!(wrong(|mine| mine.args.push(arg(&["{prompt_file}"]))).contains("\"prompt\": \"file\""));
        assert!(wrong(|mine| mine.prompt = DeclaredPrompt::Arg).contains("does not say where"));
        assert!(wrong(|mine| mine.resume = Some(vec![arg(&["again"])])).contains("which conversation"));
        assert!(wrong(|mine| mine.events[0].session_id = None).contains("needs the id"));
        assert!(wrong(|mine| mine.events[2].success = false).contains("no run could ever succeed"));
        let with_events = wrong(|mine| (mine.acp, mine.resume) = (true, None));
        assert_eq!(with_events, "it has events, which is the protocol's business: remove it");
        let mut json = declared();
        json.args.push(arg(&["{\"a\":1}"]));
        assert_eq!(json.check(), Ok(()), "braces of JSON are no placeholders");
    }
}
