//! What agents keep of their conversations: told in listings, by `peek`, and of an adopted run at its end.

use serde_json::{Value, json};

use crate::support::outside::{Agent, Outside};
use crate::support::play::stderr;
use crate::support::wait::until;

/// One line of JSON each.
fn lines(all: &[Value]) -> String {
    all.iter().map(|line| format!("{line}\n")).collect()
}

fn hash(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Outside {
    fn work(&self) -> &str {
        self.cwd.to_str().expect("a text")
    }

    fn gemini_chat(&self, project: &str, id: &str, cwd: &str) {
        let chat = [
            json!({"sessionId": id, "projectHash": hash(cwd), "kind": "main"}),
            json!({"id": "b", "type": "user", "content": [{"text": "fix it"}]}),
            json!({"id": "c", "type": "gemini", "content": "on it", "model": "m",
                "tokens": {"input": 1000, "output": 50, "cached": 100}}),
        ];
        let name = format!(".gemini/tmp/{project}/chats/session-2026-11-26T11-50-{}.jsonl", &id[..8]);
        self.store(&name, &lines(&chat));
    }

    fn qwen_chat(&self, id: &str) {
        let slug: String =
            self.work().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let answer = json!({"event.name": "qwen-code.api_response", "input_token_count": 1000,
            "output_token_count": 50, "cached_content_token_count": 100});
        let chat = [
            json!({"uuid": "a", "sessionId": id, "type": "user", "cwd": self.cwd, "message": {"parts": [{"text": "fix it"}]}}),
            json!({"uuid": "b", "sessionId": id, "type": "system", "systemPayload": {"uiEvent": answer}}),
            json!({"uuid": "c", "sessionId": id, "type": "assistant", "model": "m",
                "message": {"parts": [{"text": "on it"}]}}),
        ];
        self.store(&format!(".qwen/projects/{slug}/chats/{id}.jsonl"), &lines(&chat));
    }

    /// A session as opencode 1.1 keeps it: two steps, and a part that is written at this moment.
    fn old_opencode_session(&self, id: &str, cwd: &str) {
        let put = |path: String, content: &Value| {
            self.store(&format!(".local/share/opencode/storage/{path}.json"), &content.to_string());
        };
        put(format!("session/global/{id}"), &json!({"id": id, "directory": cwd, "projectID": "global"}));
        put(format!("message/{id}/msg_1"), &json!({"role": "user"}));
        put("part/msg_1/prt_1".to_owned(), &json!({"type": "text", "text": "\"fix it\"\n"}));
        // `output` has the reasoning in it, as `total` tells.
        let cache = json!({"read": 100, "write": 3});
        let tokens = json!({"total": 1053, "input": 900, "output": 50, "reasoning": 5, "cache": cache});
        for (message, text) in [("msg_2", "on it"), ("msg_3", "done")] {
            let step = json!({"role": "assistant", "modelID": "m", "providerID": "p", "cost": 0.25, "tokens": tokens});
            put(format!("message/{id}/{message}"), &step);
            put(format!("part/{message}/prt_1"), &json!({"type": "step-start"}));
            put(format!("part/{message}/prt_2"), &json!({"type": "text", "text": text}));
        }
    }

    /// What `peek` shows of it.
    #[track_caller]
    fn peek(&self, id: &str) -> Value {
        self.daemon.json(["peek", id, "--json"])
    }

    #[track_caller]
    fn tells(&self, agent: &Agent, expected: &Value) -> String {
        let record = self.shown(agent);
        for (key, value) in expected.as_object().expect("an object") {
            assert_eq!(&record[key], value, "{key}: {record:#}");
        }
        record["id"].as_str().expect("an id").to_owned()
    }
}

#[test]
fn gemini_qwen_and_the_older_opencode_are_told_from_their_stores() {
    let outside = Outside::new();
    let tokens = json!({"in": 900, "out": 50, "cacheRead": 100, "cacheWrite": 0});

    let gemini = outside.start("gemini", &["-y"], "", "");
    let native = "734960f3-63ef-4424-a64a-82f4e8a713b9";
    outside.gemini_chat("elsewhere", "834960f3-63ef-4424-a64a-82f4e8a713b9", "/elsewhere");
    outside.gemini_chat("their-work", native, outside.work());
    let told =
        json!({"adapter": "gemini", "nativeId": native, "model": "m", "prompt": "fix it", "tokens": tokens});
    let id = outside.tells(&gemini, &told);
    assert_eq!(outside.peek(&id), json!(["on it"]));

    let qwen = outside.start("qwen", &["-y"], "", "");
    let native = "50a1bbd7-1922-4be9-bac5-663ab0f09591";
    outside.qwen_chat(native);
    let told =
        json!({"adapter": "qwen", "nativeId": native, "model": "m", "prompt": "fix it", "tokens": tokens});
    let id = outside.tells(&qwen, &told);
    assert_eq!(outside.peek(&id), json!(["on it"]));

    let opencode = outside.start("opencode", &["run"], "", "");
    outside.old_opencode_session("ses_elsewhere", "/elsewhere");
    outside.old_opencode_session("ses_old", outside.work());
    let told = json!({
        "adapter": "opencode", "nativeId": "ses_old", "model": "p/m", "prompt": "fix it", "cost": 0.5,
        "tokens": {"in": 1800, "out": 100, "cacheRead": 200, "cacheWrite": 6},
    });
    let id = outside.tells(&opencode, &told);
    assert_eq!(outside.peek(&id), json!(["on it", "done"]));
    assert_eq!(outside.daemon.json(["peek", &id, "-n", "1", "--json"]), json!(["done"]));

    // One that names its own is not guessed; a part of a sum is none.
    let named = outside.start("opencode", &["run", "--session", "ses_elsewhere"], "", "");
    outside.tells(&named, &json!({"nativeId": "ses_elsewhere", "cost": 0.5}));
    outside.store(".local/share/opencode/storage/message/ses_old/msg_4.json", "{\"half a");
    let (_, warnings) = outside.list();
    assert!(warnings.contains("msg_4.json"), "{warnings}");
    outside.tells(&opencode, &json!({"tokens": null, "cost": null, "prompt": "fix it"}));
    // Nor is what was not read nothing.
    let messages = outside.home.join(".local/share/opencode/storage/message/ses_elsewhere");
    std::fs::remove_dir_all(&messages).expect("messages");
    std::os::unix::fs::symlink(&messages, &messages).expect("a link to itself");
    outside.tells(&named, &json!({"nativeId": "ses_elsewhere", "tokens": null, "cost": null}));
}

#[test]
fn an_adopted_run_tells_at_its_end_what_its_conversation_used() {
    let mut outside = Outside::new();
    let native = "60a1bbd7-1922-4be9-bac5-663ab0f09591";
    let mut agent = outside.start("qwen", &["--session-id", native], "", "exit 3");
    let pid = agent.pid().to_string();
    outside.qwen_chat(native);
    let id = outside.daemon.json(["adopt", &pid, "--json"])["id"].as_str().expect("an id").to_owned();
    assert_eq!(outside.peek(&id), json!(["on it"]));
    // Another daemon looks at it anew.
    outside.daemon.kill();
    outside.daemon.start();
    let seen = until("its environment to be looked at", || {
        let output = outside.daemon.run(["peek", &id, "--json"]);
        (output.status.code() == Some(0)).then_some(output)
    });
    assert_eq!(serde_json::from_slice::<Value>(&seen.stdout).ok(), Some(json!(["on it"])));
    agent.end();
    agent.reap();
    let record = outside.daemon.ended(&id);
    let tokens = json!({"in": 900, "out": 50, "cacheRead": 100, "cacheWrite": 0});
    assert_eq!((&record["exitCode"], &record["tokens"]), (&json!(3), &tokens), "{record:#}");
    std::fs::remove_dir_all(outside.home.join(".qwen")).expect("a store");
    assert_eq!(outside.peek(&id), json!(["on it"]), "kept");
}

#[test]
fn a_store_that_hangs_or_is_gone_holds_up_no_verdict() {
    let outside = Outside::new();
    let native = "70a1bbd7-1922-4be9-bac5-663ab0f09591";
    let mut agent = outside.start("qwen", &["--session-id", native], "", "exit 3");
    let pid = agent.pid().to_string();
    let id = outside.daemon.json(["adopt", &pid, "--json"])["id"].as_str().expect("an id").to_owned();
    let output = outside.daemon.run(["peek", &id]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("is in no store of qwen"), "{output:?}");
    agent.end();
    agent.reap();
    let record = outside.daemon.ended(&id);
    assert_eq!((&record["exitCode"], &record["tokens"]), (&json!(3), &Value::Null), "{record:#}");
}
