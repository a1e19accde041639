//! Every body that a receiver of ours is sent, against the schema of its format.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

static AGENTCTL: LazyLock<Validator> =
    LazyLock::new(|| validator(include_str!("../../../schemas/webhook.agentctl.json")));
static CLOUDEVENTS: LazyLock<Validator> =
    LazyLock::new(|| validator(include_str!("../../../schemas/webhook.cloudevents.json")));

fn validator(text: &str) -> Validator {
    let schema: Value = serde_json::from_str(text).expect("a schema is JSON");
    jsonschema::validator_for(&schema).expect("a schema that is one")
}

/// Fails unless the body is what its content type promises.
#[track_caller]
pub(crate) fn check(content_type: Option<&str>, body: &Value) {
    let validator = match content_type {
        Some("application/json") => &AGENTCTL,
        Some("application/cloudevents+json; charset=utf-8") => &CLOUDEVENTS,
        other => panic!("no content type of ours: {other:?}"),
    };
    let errors: Vec<_> =
        validator.iter_errors(body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "{errors:#?} in {body:#}");
}

#[test]
fn a_lie_does_not_pass() {
    let (_, body, _) = agentctl::wire::webhook::test_bodies("n", "h", agentctl::sys::clock::now().wall);
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let lies = [
        ("/hook_type", "session.started".into()),
        ("/exit_status", Value::Null),
        ("/exit_status", "0".into()),
        ("/exit_status", 1.into()),
        ("/exit_status", 256.into()),
        ("/session_id", "".into()),
        ("/meta/outcome", "completed".into()),
        // An end without an outcome.
        ("/hook_type", "session.stopped".into()),
    ];
    assert!(AGENTCTL.is_valid(&body), "{body:#}");
    for (place, lie) in lies {
        let mut lying = body.clone();
        *lying.pointer_mut(place).expect("a key of the body") = lie;
        assert!(!AGENTCTL.is_valid(&lying), "{place} of {lying:#}");
    }
}
