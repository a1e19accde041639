//! The bodies of webhooks and their signatures (contract, section 9).
//!
//! The body is rendered once, when its event is committed, and stays byte-identical on every attempt;
//! the signature of Standard Webhooks is made anew for each, since it covers the time of the attempt.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::core::record::EventKind;
use crate::core::session::Session;
use crate::core::vocab::{RunId, Wall};

use super::api::SessionView;
use super::hex;
use super::time::rfc3339;

/// What `Content-Type` says of the body in the format `agentctl`.
pub const JSON: &str = "application/json";
/// And of one in the format `cloudevents`.
pub const CLOUDEVENTS_JSON: &str = "application/cloudevents+json; charset=utf-8";

/// The type of the event that `webhooks test` sends in the format `cloudevents`.
const TEST_TYPE: &str = "agentctl.test";

/// An event as far as every delivery of it is the same.
#[derive(Clone, Copy, Debug)]
pub struct Happening<'a> {
    pub kind: EventKind,
    pub run: Option<RunId>,
    pub seq: u64,
    /// Of the journal that `seq` counts in.
    pub epoch: &'a str,
    pub at: Wall,
    pub fires_at: Option<Wall>,
}

impl Happening<'_> {
    /// The id of the event for receivers. Of a session's event it is a function of session, run and type, the same
    /// for ever; what may happen more than once in a run is told apart by what makes it another.
    pub fn id(&self) -> String {
        let name = match (self.run, self.fires_at) {
            (Some(run), _) if self.kind.is_about_deliveries() || self.kind.is_soft() => {
                format!("{run}/{}/{}", self.kind.word(), self.place())
            }
            (Some(run), None) => format!("{}/{}/{}", run.session, run.run, self.kind.word()),
            (Some(run), Some(at)) => format!("{run}/{}/{}", self.kind.word(), at.0),
            (None, _) => format!("{}/{}", self.kind.word(), self.place()),
        };
        id_of(&name)
    }

    fn place(&self) -> String {
        format!("{}-{}", self.epoch, self.seq)
    }
}

fn id_of(name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    format!("evt_{}", hex(&digest[..16]))
}

/// The body in the format `agentctl`. `None` for a type that this format does not carry: its readers
/// take any word but `start` for a successful end.
pub fn body(session: &Session, view: &SessionView, event: Happening<'_>) -> Option<String> {
    let hook_type = match event.kind {
        EventKind::Stopped | EventKind::Error => "session.stopped",
        EventKind::Started => "start",
        EventKind::Idle
        | EventKind::Active
        | EventKind::Stuck
        | EventKind::Lingering
        | EventKind::Timeout
        | EventKind::DeliveryDead
        | EventKind::EndpointPaused
        | EventKind::FuseExpired
        | EventKind::FuseCancelled
        | EventKind::Queued
        | EventKind::LockAcquired
        | EventKind::LockReleased
        | EventKind::Resumed => return None,
    };
    let verdict = session.run.verdict.as_deref();
    let begun = session.run.started.unwrap_or(session.run.begun);
    let lasted = verdict.map_or(0, |verdict| {
        let end = verdict.ended.map_or(verdict.decided, |end| end.at);
        end.mono.since(begun.mono).as_secs()
    });
    let mut meta: Map<String, Value> = view.meta.clone();
    for (key, value) in [
        ("event_id", json!(event.id())),
        ("run", json!(view.run)),
        ("seq", json!(event.seq)),
        ("outcome", json!(view.outcome)),
        ("reason", json!(view.reason)),
        ("exit_known", json!(verdict.is_some_and(|verdict| verdict.status.is_some()))),
        ("exit_code", json!(view.exit_code)),
        ("signal", json!(view.signal)),
        ("started_at", json!(view.started_at)),
        ("stopped_at", json!(view.stopped_at)),
        ("usage", json!(view.usage)),
        ("group", json!(view.group)),
        ("labels", json!(session.spec.labels)),
    ] {
        meta.insert(key.into(), value);
    }
    let body = json!({
        "hook_type": hook_type,
        "session_id": view.id,
        "cwd": view.cwd,
        "working_directory": view.cwd,
        "adapter": view.adapter,
        "duration_seconds": lasted,
        "exit_status": verdict.map_or(0, crate::core::session::Verdict::number),
        "summary": view.prompt,
        "transcript_path": view.log_path,
        "meta": meta,
        "timestamp": rfc3339(event.at),
    });
    Some(body.to_string())
}

/// The body in the format `cloudevents` (1.0, structured JSON). `data` is the event as the public stream has it.
pub fn cloudevent(event: Happening<'_>, host: &str, data: &Value) -> String {
    let subject = event.run.map(|run| run.session.to_string());
    enveloped(&event.id(), event.kind.word(), host, subject.as_deref(), event.at, data)
}

fn enveloped(id: &str, kind: &str, host: &str, subject: Option<&str>, at: Wall, data: &Value) -> String {
    let host = percent_encoding::utf8_percent_encode(host, percent_encoding::NON_ALPHANUMERIC);
    let mut body = json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/agentctl/{host}"),
        "type": kind,
        "time": rfc3339(at),
        "datacontenttype": "application/json",
        "data": data,
    });
    if let (Some(subject), Some(object)) = (subject, body.as_object_mut()) {
        object.insert("subject".into(), json!(subject));
    }
    body.to_string()
}

/// What a test sends: its id, and a body in each format that no receiver takes for an end. `nonce` makes it one of a
/// kind.
pub fn test_bodies(nonce: &str, host: &str, at: Wall) -> (String, String, String) {
    let id = id_of(&format!("test/{nonce}"));
    let session = "00000000-0000-0000-0000-000000000000";
    let plain = json!({
        "hook_type": "start",
        "session_id": session,
        "cwd": "/",
        "working_directory": "/",
        "adapter": "exec",
        "duration_seconds": 0,
        "exit_status": 0,
        "summary": "agentctl webhooks test",
        "transcript_path": null,
        "meta": {
            "test": true, "event_id": id, "run": 1, "seq": 0, "outcome": null, "reason": null, "exit_known": false,
            "exit_code": null, "signal": null, "started_at": rfc3339(at), "stopped_at": null, "group": null,
            "labels": {},
        },
        "timestamp": rfc3339(at),
    });
    let event = enveloped(&id, TEST_TYPE, host, None, at, &json!({"test": true}));
    (id, plain.to_string(), event)
}

/// The headers that sign `body`, for one attempt at `attempted`. Every secret signs, newest first; the headers that
/// hold one signature hold that of the first. No secret, no signature.
pub fn signature_headers(
    secrets: &[&str],
    id: &str,
    attempted: Wall,
    body: &[u8],
) -> Vec<(&'static str, String)> {
    let Some(first) = secrets.first() else { return Vec::new() };
    let plain = hex(&mac(first.as_bytes(), &[body]));
    let seconds = attempted.0.div_euclid(1_000_000).to_string();
    let signatures: Vec<_> = secrets
        .iter()
        .map(|secret| {
            let signed = mac(&standard_key(secret), &[id.as_bytes(), b".", seconds.as_bytes(), b".", body]);
            format!("v1,{}", STANDARD.encode(signed))
        })
        .collect();
    vec![
        ("x-agentctl-signature", plain.clone()),
        ("x-signature", format!("sha256={plain}")),
        ("x-hub-signature-256", format!("sha256={plain}")),
        ("webhook-signature", signatures.join(" ")),
    ]
}

/// The headers that every attempt carries, signed or not.
pub fn identity_headers(id: &str, attempted: Wall) -> [(&'static str, String); 2] {
    [("webhook-id", id.to_owned()), ("webhook-timestamp", attempted.0.div_euclid(1_000_000).to_string())]
}

/// `whsec_` secrets are base64; any other is its own bytes.
fn standard_key(secret: &str) -> Vec<u8> {
    let decoded = secret.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
    decoded.unwrap_or_else(|| secret.as_bytes().to_vec())
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hex_headers_are_hmac_sha256_of_the_body() {
        // RFC 4231, test case 2.
        let headers = signature_headers(&["Jefe"], "evt", Wall(0), b"what do ya want for nothing?");
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(headers[0].1, expected);
        assert_eq!(headers[1].1, format!("sha256={expected}"));
        assert_eq!(headers[2].1, format!("sha256={expected}"));
    }

    #[test]
    fn the_standard_signature_satisfies_an_independent_verifier() {
        let secret = format!("whsec_{}", STANDARD.encode([7_u8; 32]));
        let attempted = crate::sys::clock::now().wall;
        let mut headers = http_headers(&identity_headers("evt_1", attempted));
        // During a rotation a receiver that knows either secret is content.
        let secrets = [secret.as_str(), "an older plain one"];
        headers.extend(http_headers(&signature_headers(&secrets, "evt_1", attempted, b"{\"a\":1}")));
        let new = standardwebhooks::Webhook::new(&secret).expect("a whsec_ secret");
        let old = standardwebhooks::Webhook::from_bytes(secrets[1].into()).expect("a secret");
        for verifier in [new, old] {
            verifier.verify(b"{\"a\":1}", &headers).expect("the signature is right");
            verifier.verify(b"{\"a\":2}", &headers).expect_err("another body is refused");
        }
        let other = standardwebhooks::Webhook::from_bytes(b"a third".to_vec()).expect("a secret");
        other.verify(b"{\"a\":1}", &headers).expect_err("nobody signed with this one");
        assert!(signature_headers(&[], "evt_1", attempted, b"{}").is_empty());
    }

    #[test]
    fn ids_are_the_same_for_ever_and_differ_where_events_do() {
        let run = RunId { session: "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11".parse().unwrap(), run: 1 };
        let of =
            |kind, run, seq, fires_at| Happening { kind, run, seq, epoch: "e", at: Wall(0), fires_at }.id();
        let stopped = of(EventKind::Stopped, Some(run), 1, None);
        assert_eq!(stopped, "evt_367ae02cded0736ace67291d1a38d5f2");
        assert_eq!(stopped, of(EventKind::Stopped, Some(run), 9, None), "no function of the journal");
        let mut all = vec![
            stopped,
            of(EventKind::Stopped, Some(RunId { run: 2, ..run }), 1, None),
            of(EventKind::Timeout, Some(run), 1, None),
            of(EventKind::Timeout, Some(run), 1, Some(Wall(5))),
            of(EventKind::Timeout, Some(run), 1, Some(Wall(6))),
            of(EventKind::DeliveryDead, Some(run), 1, None),
            of(EventKind::DeliveryDead, Some(run), 2, None),
            of(EventKind::Idle, Some(run), 1, None),
            of(EventKind::Idle, Some(run), 2, None),
            of(EventKind::Stuck, Some(run), 1, None),
            of(EventKind::Stuck, Some(run), 2, None),
            of(EventKind::Lingering, Some(run), 1, None),
            of(EventKind::Lingering, Some(run), 2, None),
            of(EventKind::EndpointPaused, None, 1, None),
            of(EventKind::EndpointPaused, None, 2, None),
        ];
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 15);
    }

    fn http_headers(pairs: &[(&str, String)]) -> hyper::HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<hyper::header::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }
}
