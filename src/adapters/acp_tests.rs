//! Conversations in ACP, line by line: what is said when, that a restart anywhere says nothing twice, and who may what.

use serde_json::{Value, json};

use super::acp::{Conversation, Next, Plan, opening, parse};
use crate::core::agent::AgentEvent;

fn plan() -> Plan {
    Plan { cwd: "/work".into(), model: None, resume: None, prompt: "do \"it\"\n".into() }
}

/// Both sides' lines so far, in order, and the conversation that they are.
struct Talk {
    plan: Plan,
    safe: bool,
    live: Conversation,
    said: Vec<String>,
    heard: Vec<String>,
    ended: bool,
}

impl Talk {
    fn new(plan: Plan, safe: bool) -> Self {
        let mut talk =
            Self { plan, safe, live: Conversation::new(safe), said: vec![], heard: vec![], ended: false };
        talk.go_on(false);
        talk
    }

    /// A daemon that comes to this conversation: all that was said, then all that was heard.
    fn again(&self) -> Conversation {
        let mut again = Conversation::new(self.safe);
        self.said.iter().for_each(|line| again.said(line.as_bytes()));
        self.heard.iter().for_each(|line| again.heard(line.as_bytes()));
        again
    }

    fn go_on(&mut self, stopping: bool) {
        while !self.ended {
            let plan = (!self.live.is_prompted()).then_some(&self.plan);
            let next = self.live.next(plan, stopping);
            let again = self.again();
            assert_eq!(again.is_prompted(), self.live.is_prompted());
            assert_eq!(again.next(plan, stopping), next, "after {:?} and {:?}", self.said, self.heard);
            match next {
                Next::Wait => return,
                Next::End => self.ended = true,
                Next::Say(line) => {
                    assert!(!line.contains('\n'), "one message, one line");
                    self.live.said(line.as_bytes());
                    self.said.push(line);
                }
            }
        }
    }

    /// The agent says something; what is said to that.
    fn hears(&mut self, message: Value) -> Vec<Value> {
        self.takes(message, false)
    }

    fn takes(&mut self, message: Value, stopping: bool) -> Vec<Value> {
        let line = message.to_string();
        self.live.heard(line.as_bytes());
        self.heard.push(line);
        let before = self.said.len();
        self.go_on(stopping);
        self.said_since(before)
    }

    fn said_since(&self, before: usize) -> Vec<Value> {
        self.said[before..].iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// With the prompt said.
    fn begun(safe: bool) -> Self {
        let mut talk = Self::new(plan(), safe);
        talk.hears(welcome());
        assert_eq!(talk.hears(opened())[0]["method"], "session/prompt");
        talk
    }
}

fn answer(id: u64, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn welcome() -> Value {
    answer(1, json!({"protocolVersion": 1, "agentCapabilities": {"loadSession": true}}))
}

fn opened() -> Value {
    let model = json!({"id": "the-model", "category": "model", "type": "select"});
    answer(2, json!({"sessionId": "s-1", "configOptions": [{"id": "mode", "category": "mode"}, model]}))
}

fn may_it(id: Value, kinds: &[&str]) -> Value {
    let options: Vec<_> = kinds
        .iter()
        .map(|kind| json!({"optionId": format!("o-{kind}"), "name": kind, "kind": kind}))
        .collect();
    let params = json!({"sessionId": "s-1", "toolCall": {"toolCallId": "t"}, "options": options});
    json!({"jsonrpc": "2.0", "id": id, "method": "session/request_permission", "params": params})
}

fn outcome(said: &[Value]) -> Value {
    assert_eq!(said.len(), 1, "{said:?}");
    said[0]["result"]["outcome"].clone()
}

#[test]
fn a_turn_from_the_first_word_to_the_last() {
    let mut talk = Talk::new(plan(), false);
    assert_eq!(talk.said, [opening()]);
    let begun = talk.hears(welcome());
    let params = json!({"cwd": "/work", "mcpServers": []});
    assert_eq!(begun, [json!({"jsonrpc": "2.0", "id": 2, "method": "session/new", "params": params})]);
    let prompted = talk.hears(opened());
    let params = json!({"sessionId": "s-1", "prompt": [{"type": "text", "text": "do \"it\"\n"}]});
    assert_eq!(prompted, [json!({"jsonrpc": "2.0", "id": 4, "method": "session/prompt", "params": params})]);
    let update = json!({"sessionUpdate": "agent_message_chunk", "content": {"type": "text", "text": "x"}});
    let update = json!({"jsonrpc": "2.0", "method": "session/update", "params": {"update": update}});
    assert!(talk.hears(update).is_empty() && !talk.ended);
    assert!(talk.hears(answer(4, json!({"stopReason": "end_turn"}))).is_empty() && talk.ended);
}

#[test]
fn a_plan_is_kept_as_it_is() {
    let whole = Plan { model: Some("m".into()), resume: Some("r".into()), ..plan() };
    for plan in [plan(), whole] {
        assert!(Plan::decode(plan.encode().as_bytes()) == Some(plan));
    }
    assert!(Plan::decode(b"{\"cwd\":\"/\"}").is_none());
}

#[test]
fn without_a_plan_nothing_is_begun_and_what_was_begun_goes_on() {
    assert_eq!(Conversation::new(false).next(None, false), Next::End);
    let talk = Talk::begun(false);
    assert_eq!(talk.again().next(None, false), Next::Wait);
}

#[test]
fn the_model_is_chosen_before_the_prompt_and_a_refusal_ends_it() {
    let with_model = || Plan { model: Some("big".into()), ..plan() };
    let mut talk = Talk::new(with_model(), false);
    talk.hears(welcome());
    let chosen = talk.hears(opened());
    let params = json!({"sessionId": "s-1", "configId": "the-model", "value": "big"});
    assert_eq!(
        chosen,
        [json!({"jsonrpc": "2.0", "id": 3, "method": "session/set_config_option", "params": params})]
    );
    assert_eq!(talk.hears(answer(3, json!({"configOptions": []})))[0]["method"], "session/prompt");

    let mut talk = Talk::new(with_model(), false);
    talk.hears(welcome());
    talk.hears(opened());
    let refused = json!({"jsonrpc": "2.0", "id": 3, "error": {"code": -32602, "message": "no such model"}});
    assert!(talk.hears(refused).is_empty() && talk.ended);
    assert!(talk.said.iter().all(|line| !line.contains("session/prompt")));
}

#[test]
fn a_conversation_is_taken_up_as_the_agent_can() {
    for (capable, method) in [(json!({}), "session/load"), (json!({"resume": {}}), "session/resume")] {
        let mut talk = Talk::new(Plan { resume: Some("s-0".into()), ..plan() }, false);
        let welcome = json!({"protocolVersion": 1, "agentCapabilities": {"sessionCapabilities": capable}});
        let begun = talk.hears(answer(1, welcome));
        assert_eq!((&begun[0]["method"], &begun[0]["params"]["sessionId"]), (&json!(method), &json!("s-0")));
        assert!(!talk.ended, "nothing is said before the agent is in it");
        assert_eq!(talk.hears(answer(2, json!({})))[0]["params"]["sessionId"], "s-0");
    }
}

#[test]
fn permissions_are_given_for_once_and_refused_when_safe() {
    let all = ["allow_always", "reject_always", "reject_once", "allow_once"];
    let selected = |kind: &str| json!({"outcome": "selected", "optionId": format!("o-{kind}")});
    let cancelled = json!({"outcome": "cancelled"});
    for (safe, kinds, expected) in [
        (false, &all[..], selected("allow_once")),
        (true, &all[..], selected("reject_once")),
        (false, &["allow_always", "reject_once"], selected("allow_always")),
        (true, &["reject_always"], selected("reject_always")),
        (true, &["allow_once"], cancelled.clone()),
        (false, &["reject_once"], cancelled.clone()),
        (false, &[], cancelled),
    ] {
        let mut talk = Talk::begun(safe);
        assert_eq!(outcome(&talk.hears(may_it(json!("q"), kinds))), expected, "{safe} {kinds:?}");
        // An id may come again once it was answered; that is another question.
        assert_eq!(outcome(&talk.hears(may_it(json!("q"), kinds))), expected);
    }
}

#[test]
fn what_we_do_not_have_is_said_so() {
    let mut talk = Talk::begun(false);
    let asked = json!({"jsonrpc": "2.0", "id": 0, "method": "fs/read_text_file", "params": {"path": "/x"}});
    let said = talk.hears(asked);
    assert_eq!((&said[0]["id"], &said[0]["error"]["code"]), (&json!(0), &json!(-32601)));
}

#[test]
fn a_stop_cancels_the_turn_once_and_every_question_with_it() {
    let mut talk = Talk::begun(false);
    let before = talk.said.len();
    talk.go_on(true);
    talk.go_on(true);
    let cancel = json!({"jsonrpc": "2.0", "method": "session/cancel", "params": {"sessionId": "s-1"}});
    assert_eq!(talk.said_since(before), [cancel]);
    let cancelled = json!({"outcome": "cancelled"});
    assert_eq!(outcome(&talk.takes(may_it(json!(7), &["allow_once"]), true)), cancelled);
    talk.takes(answer(4, json!({"stopReason": "cancelled"})), true);
    assert!(talk.ended);
}

#[test]
fn a_stop_before_the_prompt_ends_the_input() {
    for heard in 0..2 {
        let mut talk = Talk::new(plan(), false);
        if heard == 1 {
            talk.hears(welcome());
        }
        talk.go_on(true);
        assert!(talk.ended);
    }
}

#[test]
fn errors_and_other_versions_end_it() {
    let error = |id: u64| json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32000, "message": "no key"}});
    let mut first = Talk::new(plan(), false);
    first.hears(error(1));
    assert!(first.ended);
    let mut other = Talk::new(plan(), false);
    other.hears(answer(1, json!({"protocolVersion": 2})));
    assert!(other.ended);
    let mut nameless = Talk::new(plan(), false);
    nameless.hears(welcome());
    nameless.hears(answer(2, json!({})));
    assert!(nameless.ended);
    let mut turn = Talk::begun(false);
    turn.hears(error(4));
    assert!(turn.ended);
    let mut begun = Talk::begun(false);
    begun.hears(error(99));
    assert!(!begun.ended, "not an answer to anything of ours");
}

#[test]
fn noise_is_nothing() {
    let mut talk = Talk::begun(false);
    for line in ["", "plain words", "[1]", "null", "{\"id\":null}", "{\"method\":\"$/x\"}", "{\"id\":{}}"] {
        talk.live.heard(line.as_bytes());
        talk.live.said(line.as_bytes());
        assert!(parse(line.as_bytes()).iter().all(|told| *told == AgentEvent::Active), "{line}");
    }
    talk.heard.clear();
    assert_eq!(talk.live.next(None, false), Next::Wait);
}
