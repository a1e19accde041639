//! The Agent Client Protocol, version 1 (agentclientprotocol.com), from the client's side: JSON-RPC, one message a line.
//!
//! Owns what is said to an agent and when, what its lines mean, and how its questions are answered. A conversation is a
//! function of two logs, what was said and what was heard: after a restart both are read again, and nothing is said twice.
//! Refuses to know how lines travel. The protocol is never a verdict: its end of a turn colours one, like any agent's word.

use std::collections::{HashMap, VecDeque};

use serde_json::{Value, json};

use super::Ask;
use super::json::{count, dollars, native_id, tool_answered, tool_called};
use super::stream::{FAILURE_MAX_CHARS, Parse, bounded};
use crate::core::agent::{AgentEvent, Span, StepEnd, Tokens};

/// How a built-in adapter's agent is started to speak this protocol.
#[derive(Clone, Copy, Debug)]
pub struct Acp {
    /// The arguments after the program.
    pub argv: fn(&Ask<'_>) -> Vec<String>,
    /// Whether they name the model; else it is chosen in the protocol.
    pub model_in_argv: bool,
    /// Lines of its stdout: [`parse`], or what is left of that where the agent does not mean what it says.
    pub parse: Parse,
}

/// The one version that is spoken here.
const VERSION: u64 = 1;

// Our requests by their ids, the same in every run: so one line by itself tells what it answers.
const INITIALIZE: u64 = 1;
const SESSION: u64 = 2;
const MODEL: u64 = 3;
const PROMPT: u64 = 4;

/// Questions that wait for an answer. An agent that asks more at once is answered once it asks again.
const OPEN_MAX: usize = 1_000;

/// What is to be said in one run, for as long as it has not been. The prompt may hold secrets: no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Plan {
    /// Where the agent works.
    pub cwd: String,
    /// The model to be chosen in the protocol.
    pub model: Option<String>,
    /// The conversation to go on with.
    pub resume: Option<String>,
    /// What the agent shall do.
    pub prompt: String,
}

impl Plan {
    /// As it is kept until it is carried out.
    pub fn encode(&self) -> String {
        json!({"cwd": self.cwd, "model": self.model, "resume": self.resume, "prompt": self.prompt})
            .to_string()
    }

    /// The reverse of [`Plan::encode`].
    pub fn decode(text: &[u8]) -> Option<Self> {
        let plan: Value = serde_json::from_slice(text).ok()?;
        let text = |key: &str| plan[key].as_str().map(str::to_owned);
        Some(Self {
            cwd: text("cwd")?,
            model: text("model"),
            resume: text("resume"),
            prompt: text("prompt")?,
        })
    }
}

/// The first line of every conversation.
pub fn opening() -> String {
    // Nothing is offered: the agent reads, writes and runs things itself, where its supervisor sees them.
    let offered = json!({"fs": {"readTextFile": false, "writeTextFile": false}, "terminal": false});
    let us = json!({"name": "agentctl", "version": env!("CARGO_PKG_VERSION")});
    let params = json!({"protocolVersion": VERSION, "clientCapabilities": offered, "clientInfo": us});
    request(INITIALIZE, "initialize", &params)
}

fn request(id: u64, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It is the agent's turn.
    Wait,
    /// Say this line.
    Say(String),
    /// Nothing more is to be said: its input ends, so that it does.
    End,
}

/// Where a conversation stands.
#[derive(Debug, Default)]
pub struct Conversation {
    /// Permissions that the agent asks for are refused.
    safe: bool,
    said: Said,
    /// Answers that were said before their question is heard again, after a restart.
    answered: HashMap<String, u32>,
    open: VecDeque<Question>,
    initialized: bool,
    /// The agent takes conversations up without telling them all again.
    takes_up: bool,
    /// The conversation, and whether the agent has said that it is in it.
    session: Option<String>,
    opened: bool,
    /// The option that chooses the model.
    model_option: Option<String>,
    model_chosen: bool,
    over: bool,
}

#[derive(Debug, Default)]
struct Said {
    initialize: bool,
    session: bool,
    model: bool,
    prompt: bool,
    cancel: bool,
}

/// Something that the agent asked us.
#[derive(Debug)]
struct Question {
    id: Value,
    what: What,
}

#[derive(Debug)]
enum What {
    /// Whether it may: the options that say so for this once, or else for longer, and those that refuse.
    Permission { allow: Option<String>, reject: Option<String> },
    /// A method that we do not have.
    Unknown(String),
}

impl Conversation {
    /// Nothing said, nothing heard.
    pub fn new(safe: bool) -> Self {
        Self { safe, ..Self::default() }
    }

    /// Takes in a line that was said: now, or by an earlier life. Of an earlier life's, all come before [`Self::heard`].
    pub fn said(&mut self, line: &[u8]) {
        let Ok(line @ Value::Object(_)) = serde_json::from_slice::<Value>(line) else { return };
        match (line["id"].as_u64(), line["method"].as_str()) {
            (Some(INITIALIZE), Some("initialize")) => self.said.initialize = true,
            (Some(SESSION), Some(_)) => {
                self.said.session = true;
                self.session = line["params"]["sessionId"].as_str().map(str::to_owned);
            }
            (Some(MODEL), Some(_)) => self.said.model = true,
            (Some(PROMPT), Some(_)) => {
                self.said.prompt = true;
                // Known also where the head of the log, with the agent's word for it, is not kept any more.
                self.session = line["params"]["sessionId"].as_str().map(str::to_owned);
            }
            (None, Some("session/cancel")) => self.said.cancel = true,
            (_, Some(_)) => {}
            (_, None) => self.said_answer(&line["id"]),
        }
    }

    fn said_answer(&mut self, id: &Value) {
        match self.open.iter().position(|question| question.id == *id) {
            Some(at) => drop(self.open.remove(at)),
            None => *self.answered.entry(id.to_string()).or_default() += 1,
        }
    }

    /// Takes in a line of the agent's stdout.
    pub fn heard(&mut self, line: &[u8]) {
        let Ok(line @ Value::Object(_)) = serde_json::from_slice::<Value>(line) else { return };
        match (&line["id"], line["method"].as_str()) {
            // Told, not asked.
            (Value::Null, _) => {}
            (id, Some(method)) => self.asked(id, method, &line["params"]),
            (id, None) => self.told(id.as_u64(), &line),
        }
    }

    fn asked(&mut self, id: &Value, method: &str, params: &Value) {
        if let Some(times) = self.answered.get_mut(&id.to_string()) {
            *times -= 1;
            if *times == 0 {
                self.answered.remove(&id.to_string());
            }
            return;
        }
        let what = match method {
            "session/request_permission" => permission(params),
            _ => What::Unknown(bounded(method, 100)),
        };
        if self.open.len() < OPEN_MAX {
            self.open.push_back(Question { id: id.clone(), what });
        }
    }

    fn told(&mut self, id: Option<u64>, answer: &Value) {
        let result = &answer["result"];
        let ours = matches!(id, Some(INITIALIZE | SESSION | MODEL | PROMPT));
        if ours && !answer["error"].is_null() {
            self.over = true;
            return;
        }
        match id {
            Some(INITIALIZE) => {
                self.over |= result["protocolVersion"] != VERSION;
                self.initialized = true;
                self.takes_up = !result["agentCapabilities"]["sessionCapabilities"]["resume"].is_null();
            }
            Some(SESSION) => {
                let named = result["sessionId"].as_str().map(str::to_owned);
                self.session = self.session.take().or(named);
                self.opened = true;
                // Neither named by the agent nor by us: there is nothing to talk about.
                self.over |= self.session.is_none();
                let options = result["configOptions"].as_array().map(Vec::as_slice).unwrap_or_default();
                let of_model = options.iter().find(|option| option["category"] == "model");
                self.model_option = of_model.and_then(|option| option["id"].as_str()).map(str::to_owned);
            }
            Some(MODEL) => self.model_chosen = true,
            Some(PROMPT) => self.over = true,
            Some(_) | None => {}
        }
    }

    /// Whether the prompt was said, so that nobody needs the plan any more.
    pub fn is_prompted(&self) -> bool {
        self.said.prompt
    }

    /// What is to be done next. Without a plan there is nothing to begin; `stopping`: the run is to end.
    pub fn next(&self, plan: Option<&Plan>, stopping: bool) -> Next {
        if self.over {
            return Next::End;
        }
        if stopping {
            return self.next_to_stop();
        }
        if let Some(question) = self.open.front() {
            return Next::Say(self.answer(question, false));
        }
        if self.said.prompt {
            return Next::Wait;
        }
        let Some(plan) = plan else { return Next::End };
        if !self.said.initialize {
            return Next::Say(opening());
        }
        match &self.session {
            _ if !self.initialized => Next::Wait,
            _ if !self.said.session => Next::Say(self.begin(plan)),
            Some(session) if self.opened => self.next_in(session, plan),
            Some(_) | None => Next::Wait,
        }
    }

    fn next_to_stop(&self) -> Next {
        let Some(session) = self.session.as_ref().filter(|_| self.said.prompt) else { return Next::End };
        if !self.said.cancel {
            let params = json!({"sessionId": session});
            let cancel = json!({"jsonrpc": "2.0", "method": "session/cancel", "params": params});
            return Next::Say(cancel.to_string());
        }
        match self.open.front() {
            Some(question) => Next::Say(self.answer(question, true)),
            None => Next::Wait,
        }
    }

    /// A new conversation, or the old one, without hearing all of it again if that can be had.
    fn begin(&self, plan: &Plan) -> String {
        match &plan.resume {
            None => request(SESSION, "session/new", &json!({"cwd": plan.cwd, "mcpServers": []})),
            Some(id) => {
                let method = if self.takes_up { "session/resume" } else { "session/load" };
                request(SESSION, method, &json!({"sessionId": id, "cwd": plan.cwd, "mcpServers": []}))
            }
        }
    }

    fn next_in(&self, session: &str, plan: &Plan) -> Next {
        match &plan.model {
            Some(model) if !self.said.model => {
                // An agent without such an option says so, in words that are then the run's.
                let option = self.model_option.as_deref().unwrap_or("model");
                let params = json!({"sessionId": session, "configId": option, "value": model});
                Next::Say(request(MODEL, "session/set_config_option", &params))
            }
            Some(_) if !self.model_chosen => Next::Wait,
            Some(_) | None => {
                let prompt = json!([{"type": "text", "text": plan.prompt}]);
                let params = json!({"sessionId": session, "prompt": prompt});
                Next::Say(request(PROMPT, "session/prompt", &params))
            }
        }
    }

    fn answer(&self, question: &Question, cancelled: bool) -> String {
        let id = &question.id;
        match &question.what {
            What::Unknown(method) => {
                let error = json!({"code": -32601, "message": format!("Method not found: {method}")});
                json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string()
            }
            What::Permission { allow, reject } => {
                let chosen = if self.safe { reject } else { allow };
                let outcome = match chosen.as_ref().filter(|_| !cancelled) {
                    Some(option) => json!({"outcome": "selected", "optionId": option}),
                    None => json!({"outcome": "cancelled"}),
                };
                json!({"jsonrpc": "2.0", "id": id, "result": {"outcome": outcome}}).to_string()
            }
        }
    }
}

/// This once, if that can be had: what holds for longer, agents write into their user's settings.
fn permission(params: &Value) -> What {
    let options = params["options"].as_array().map(Vec::as_slice).unwrap_or_default();
    let first = |kinds: [&str; 2]| {
        let of_kind = |kind: &str| options.iter().find(|option| option["kind"] == kind);
        kinds.into_iter().find_map(of_kind).and_then(|option| option["optionId"].as_str()).map(str::to_owned)
    };
    What::Permission {
        allow: first(["allow_once", "allow_always"]),
        reject: first(["reject_once", "reject_always"]),
    }
}

/// The same, for an agent whose tokens are those of its last step, not of the turn.
pub fn parse_without_tokens(line: &[u8]) -> Vec<AgentEvent> {
    let mut events = parse(line);
    events.retain(|event| !matches!(event, AgentEvent::Total { tokens: Some(_), .. }));
    events
}

/// What one line of an agent's stdout tells, by itself.
pub fn parse(line: &[u8]) -> Vec<AgentEvent> {
    let Ok(line @ Value::Object(_)) = serde_json::from_slice::<Value>(line) else { return Vec::new() };
    match (line["id"].as_u64(), line["method"].as_str()) {
        (_, Some("session/update")) => update(&line["params"]),
        (_, Some(_)) => vec![AgentEvent::Active],
        (Some(id), None) => answered(id, &line),
        (None, None) => Vec::new(),
    }
}

fn answered(id: u64, answer: &Value) -> Vec<AgentEvent> {
    let (result, error) = (&answer["result"], &answer["error"]);
    match id {
        INITIALIZE | SESSION | MODEL if !error.is_null() => {
            vec![AgentEvent::Failed(failure(error)), AgentEvent::Over]
        }
        PROMPT if !error.is_null() => {
            vec![AgentEvent::StepEnded(StepEnd::Failed(failure(error))), AgentEvent::Over]
        }
        INITIALIZE if result["protocolVersion"] != VERSION => {
            let theirs = bounded(&result["protocolVersion"].to_string(), 20);
            let why = format!("it speaks version {theirs} of ACP; known here is {VERSION}");
            vec![AgentEvent::Failed(why), AgentEvent::Over]
        }
        INITIALIZE | MODEL => vec![AgentEvent::Active],
        SESSION => native_id(&result["sessionId"]).into_iter().collect(),
        PROMPT => {
            let mut events: Vec<_> = used(&result["usage"]).into_iter().collect();
            events.push(AgentEvent::StepEnded(match result["stopReason"].as_str() {
                Some("end_turn") => StepEnd::Stop,
                Some(other) => StepEnd::Other(bounded(other, 100)),
                None => StepEnd::Other("none given".to_owned()),
            }));
            events.push(AgentEvent::Over);
            events
        }
        _ => Vec::new(),
    }
}

/// What the turn used; one turn is one run.
fn used(usage: &Value) -> Option<AgentEvent> {
    let tokens = Tokens {
        r#in: count(&usage["inputTokens"]),
        out: count(&usage["outputTokens"]).saturating_add(count(&usage["thoughtTokens"])),
        cache_read: count(&usage["cachedReadTokens"]),
        cache_write: count(&usage["cachedWriteTokens"]),
    };
    usage.is_object().then_some(AgentEvent::Total { span: Span::Run, tokens: Some(tokens), cost_usd: None })
}

fn update(params: &Value) -> Vec<AgentEvent> {
    let update = &params["update"];
    let mut events: Vec<AgentEvent> = native_id(&params["sessionId"]).into_iter().collect();
    match update["sessionUpdate"].as_str() {
        Some("agent_message_chunk") => {
            // Alone, since the pieces of a message come one right after the other.
            let more = update["content"]["text"].as_str().map(|text| AgentEvent::SaidMore(text.to_owned()));
            return more.into_iter().collect();
        }
        Some("tool_call") => {
            events.push(tool_called(&update["title"], &update["rawInput"]));
            events.extend(tool_ended(update));
        }
        Some("tool_call_update") => events.extend(tool_ended(update)),
        Some("usage_update") => {
            let cost = &update["cost"];
            let in_dollars = cost["currency"].as_str().is_none_or(|currency| currency == "USD");
            events.extend(dollars(&cost["amount"]).filter(|_| in_dollars).map(|cost| AgentEvent::Total {
                span: Span::Conversation,
                tokens: None,
                cost_usd: Some(cost),
            }));
        }
        // Thoughts, plans, modes, commands, what the user said, and what later versions add.
        Some(_) | None => {}
    }
    events
}

fn tool_ended(update: &Value) -> Option<AgentEvent> {
    let ok = match update["status"].as_str()? {
        "completed" => true,
        "failed" => false,
        _ => return None,
    };
    let parts = update["content"].as_array().map(Vec::as_slice).unwrap_or_default();
    let texts: Vec<&Value> =
        parts.iter().map(|part| &part["content"]).filter(|content| content["text"].is_string()).collect();
    Some(tool_answered(ok, &json!(texts)))
}

/// `Authentication required (code -32000): no key`.
fn failure(error: &Value) -> String {
    let message = error["message"].as_str().unwrap_or("an error without words");
    let code = error["code"].as_i64().map(|code| format!(" (code {code})")).unwrap_or_default();
    let data = &error["data"];
    let more = [data, &data["details"], &data["message"]].into_iter().find_map(Value::as_str);
    let more = more.filter(|more| *more != message).map(|more| format!(": {more}")).unwrap_or_default();
    bounded(&format!("{message}{code}{more}"), FAILURE_MAX_CHARS)
}
