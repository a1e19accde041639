//! Every kind of message that is said in ACP, written down for `tests/acp-schema`, which holds them against the official types.

use std::fs;
use std::path::Path;

use agentctl::adapters::acp::{Conversation, Next, Plan};
use serde_json::{Value, json};

const SAID: &str = "tests/acp-schema/said.jsonl";

/// A conversation, and all that was said in it.
struct Talk {
    plan: Plan,
    conversation: Conversation,
    said: Vec<String>,
}

impl Talk {
    fn go_on(&mut self, stopping: bool) {
        let plan = |conversation: &Conversation| (!conversation.is_prompted()).then_some(&self.plan);
        while let Next::Say(line) = self.conversation.next(plan(&self.conversation), stopping) {
            self.conversation.said(line.as_bytes());
            self.said.push(line);
        }
    }

    fn hears(&mut self, message: Value, stopping: bool) {
        self.conversation.heard(message.to_string().as_bytes());
        self.go_on(stopping);
    }
}

fn answer(id: u64, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn may_it(id: &str) -> Value {
    let options = json!([{"optionId": "o", "name": "yes", "kind": "allow_once"}]);
    let params = json!({"sessionId": "s-1", "toolCall": {"toolCallId": "t"}, "options": options});
    json!({"jsonrpc": "2.0", "id": id, "method": "session/request_permission", "params": params})
}

/// One that chooses a model, is asked, is asked for what we do not have, and is stopped while it is asked.
fn said(resume: Option<&str>, can: &Value) -> Vec<String> {
    let plan = Plan {
        cwd: "/work".into(),
        model: Some("big".into()),
        resume: resume.map(str::to_owned),
        prompt: "do \"it\"\n".into(),
    };
    let mut talk = Talk { plan, conversation: Conversation::new(false), said: Vec::new() };
    talk.go_on(false);
    let can = json!({"protocolVersion": 1, "agentCapabilities": {"sessionCapabilities": can}});
    talk.hears(answer(1, can), false);
    talk.hears(answer(2, json!({"sessionId": "s-1"})), false);
    talk.hears(answer(3, json!({"configOptions": []})), false);
    talk.hears(may_it("first"), false);
    talk.hears(json!({"jsonrpc": "2.0", "id": 0, "method": "fs/read_text_file", "params": {}}), false);
    talk.go_on(true);
    talk.hears(may_it("second"), true);
    talk.said
}

#[test]
fn what_is_said_is_as_it_was_held_against_the_official_types() {
    let all = [(None, json!({})), (Some("s-0"), json!({})), (Some("s-0"), json!({"resume": {}}))];
    let mut written: Vec<String> = Vec::new();
    for line in all.iter().flat_map(|(resume, can)| said(*resume, can)) {
        // The version is every release's own.
        let line = line.replace(env!("CARGO_PKG_VERSION"), "0.0.0");
        if !written.contains(&line) {
            written.push(line);
        }
    }
    if std::env::var_os("AGENTCTL_BLESS").is_some() {
        fs::write(SAID, written.join("\n") + "\n").expect("the messages");
    }
    let kept = fs::read_to_string(Path::new(SAID)).expect("the messages");
    assert_eq!(written, kept.lines().collect::<Vec<_>>(), "AGENTCTL_BLESS=1 writes {SAID} anew");
}
