//! Endpoints and deliveries as the API shows them, and what may be asked of them.
//!
//! Owns the public names. No URL beyond its host and no secret is in here.

use serde::{Deserialize, Serialize};

/// An endpoint and how it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    pub name: String,
    /// Without path and query, which may hold a token.
    pub url: String,
    pub format: String,
    pub events: Vec<String>,
    /// Empty: sessions of all.
    pub adapters: Vec<String>,
    /// How many secrets sign.
    pub secrets: usize,
    /// `active` or `paused`.
    pub state: String,
    /// `configured`, `asked`, `gone` or `failing`.
    pub paused_why: Option<String>,
    pub paused_at: Option<String>,
    /// The first attempt that failed with no success after it.
    pub failing_since: Option<String>,
    pub pending: usize,
    pub in_flight: usize,
    pub timeout_seconds: f64,
    pub max_attempts: u32,
}

/// A delivery and how far it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeliveryView {
    /// The event's number and the endpoint's name.
    pub id: String,
    pub event_id: String,
    pub endpoint: String,
    pub r#type: String,
    pub session_id: Option<String>,
    pub run: Option<u32>,
    /// `pending`, `sending`, `paused`, `delivered`, `dead` or `superseded`.
    pub state: String,
    pub attempts: u64,
    pub queued_at: String,
    pub last_attempt_at: Option<String>,
    /// When the next attempt is due; null when there is none to come.
    pub next_attempt_at: Option<String>,
    /// What the last attempt that was not accepted met.
    pub last_error: Option<String>,
}

/// A delivery with its attempts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeliveryDetails {
    pub delivery: DeliveryView,
    pub attempts: Vec<AttemptView>,
    /// What every attempt sends.
    pub body: String,
}

/// One attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptView {
    pub at: String,
    pub duration_ms: u64,
    /// The status of the answer; null when there was none.
    pub status: Option<u16>,
    pub error: Option<String>,
}

/// What `POST /v1/deliveries/redeliver` takes: some by id, or all of a kind.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redeliver {
    #[serde(default)]
    pub ids: Vec<String>,
    /// Those that were given up, and those that have failed and wait.
    #[serde(default)]
    pub failed: bool,
    /// All since this time (RFC 3339), delivered or not.
    pub since: Option<String>,
    /// Only those of this endpoint.
    pub endpoint: Option<String>,
}

/// How many deliveries are on their way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Redelivered {
    pub redelivered: usize,
}

/// What a test of an endpoint came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TestView {
    pub endpoint: String,
    pub event_id: String,
    pub accepted: bool,
    pub status: Option<u16>,
    pub duration_ms: u64,
    /// Why it was not accepted, or how the answer begins.
    pub answer: Option<String>,
}
