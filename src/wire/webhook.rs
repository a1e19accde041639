//! The body of a webhook and its signatures (contract, section 9).
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
use super::time::rfc3339;

/// The id of an event for receivers: a function of session, run and type, the same for ever.
pub fn event_id(run: RunId, kind: EventKind) -> String {
    let name = format!("{}/{}/{}", run.session, run.run, kind.word());
    let digest = Sha256::digest(name.as_bytes());
    let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("evt_{hex}")
}

/// The body in the format `agentctl`. `None` for a type that this format does not carry: its readers
/// take any word but `start` for a successful end.
pub fn body(session: &Session, view: &SessionView, kind: EventKind, seq: u64, at: Wall) -> Option<String> {
    let hook_type = match kind {
        EventKind::Stopped | EventKind::Error => "session.stopped",
        EventKind::Started => "start",
        EventKind::Idle
        | EventKind::Active
        | EventKind::Timeout
        | EventKind::DeliveryDead
        | EventKind::Resumed => return None,
    };
    let run = session.run_id();
    let verdict = session.run.verdict.as_ref();
    let begun = session.run.started.unwrap_or(session.run.begun);
    let lasted = verdict.map_or(0, |verdict| {
        let end = verdict.ended.map_or(verdict.decided, |end| end.at);
        end.mono.since(begun.mono).as_secs()
    });
    let mut meta: Map<String, Value> = view.meta.clone();
    for (key, value) in [
        ("event_id", json!(event_id(run, kind))),
        ("run", json!(run.run)),
        ("seq", json!(seq)),
        ("outcome", json!(view.outcome)),
        ("reason", json!(view.reason)),
        ("exit_known", json!(verdict.is_some_and(|verdict| verdict.status.is_some()))),
        ("exit_code", json!(view.exit_code)),
        ("signal", json!(view.signal)),
        ("started_at", json!(view.started_at)),
        ("stopped_at", json!(view.stopped_at)),
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
        "timestamp": rfc3339(at),
    });
    Some(body.to_string())
}

/// The headers that sign `body`, for one attempt at `attempted`.
pub fn signature_headers(
    secret: &str,
    id: &str,
    attempted: Wall,
    body: &[u8],
) -> [(&'static str, String); 4] {
    let plain = hex(&mac(secret.as_bytes(), &[body]));
    let seconds = attempted.0.div_euclid(1_000_000).to_string();
    let signed = mac(&standard_key(secret), &[id.as_bytes(), b".", seconds.as_bytes(), b".", body]);
    [
        ("x-agentctl-signature", plain.clone()),
        ("x-signature", format!("sha256={plain}")),
        ("x-hub-signature-256", format!("sha256={plain}")),
        ("webhook-signature", format!("v1,{}", STANDARD.encode(signed))),
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hex_headers_are_hmac_sha256_of_the_body() {
        // RFC 4231, test case 2.
        let headers = signature_headers("Jefe", "evt", Wall(0), b"what do ya want for nothing?");
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
        headers.extend(http_headers(&signature_headers(&secret, "evt_1", attempted, b"{\"a\":1}")));
        let verifier = standardwebhooks::Webhook::new(&secret).expect("a whsec_ secret");
        verifier.verify(b"{\"a\":1}", &headers).expect("the signature is right");
        verifier.verify(b"{\"a\":2}", &headers).expect_err("another body is refused");
    }

    fn http_headers(pairs: &[(&'static str, String)]) -> hyper::HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<hyper::header::HeaderName>().unwrap(), value.parse().unwrap()))
            .collect()
    }
}
