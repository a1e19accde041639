//! `webhooks`: endpoints and deliveries, shown and steered.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::config::parse_duration;
use crate::core::vocab::{Wall, short};
use crate::sys::clock;
use crate::wire::deliveries::{
    DeliveryDetails, DeliveryView, EndpointView, Redeliver, Redelivered, TestView,
};
use crate::wire::time::{parse_rfc3339, rfc3339};

use super::super::client::{Client, segment};
use super::super::render;
use super::super::{Failure, WebhooksCommand};
use super::{NO_BODY, understood};

pub(super) async fn webhooks(command: WebhooksCommand) -> Result<u8, Failure> {
    match command {
        WebhooksCommand::Endpoints(args) => endpoints(args.json).await,
        WebhooksCommand::List { all, state, endpoint, session, json } => {
            let states = match (state.is_empty(), all) {
                (false, _) => state,
                (true, true) => Vec::new(),
                (true, false) => vec!["owed".to_owned(), "dead".to_owned()],
            };
            list(&states, endpoint.as_deref(), session.as_deref(), json).await
        }
        WebhooksCommand::Show { id, json } => show(&id, json).await,
        WebhooksCommand::Retry { ids, failed, endpoint } => {
            redeliver(&Redeliver { ids, failed, since: None, endpoint }).await
        }
        WebhooksCommand::Replay { since, endpoint } => {
            let since = Some(rfc3339(since));
            redeliver(&Redeliver { since, endpoint, ..Redeliver::default() }).await
        }
        WebhooksCommand::Pause { name } => change(&name, "pause").await,
        WebhooksCommand::Resume { name } => change(&name, "resume").await,
        WebhooksCommand::Test { name, json } => test(&name, json).await,
    }
}

/// `2h` ago, or a time as RFC 3339 has it.
pub(crate) fn parse_since(text: &str) -> Result<Wall, String> {
    if let Some(time) = parse_rfc3339(text) {
        return Ok(time);
    }
    let ago: Duration = parse_duration(text).map_err(|_| {
        format!("\"{text}\" is neither a duration such as 2h nor a time such as 2026-11-22T09:00:00Z")
    })?;
    let ago = i64::try_from(ago.as_micros()).unwrap_or(i64::MAX);
    Ok(Wall(clock::now().wall.0.saturating_sub(ago)))
}

async fn endpoints(json: bool) -> Result<u8, Failure> {
    let found: Value = Client::find()?.json(Method::GET, "/v1/webhooks", NO_BODY).await?;
    if json {
        render::json(&found)?;
        return Ok(0);
    }
    let endpoints: Vec<EndpointView> = understood(found)?;
    if endpoints.is_empty() {
        render::out("No endpoints: set webhook_url or webhooks in config.json.\n")?;
        return Ok(0);
    }
    let header = ["Name", "State", "Pending", "Format", "URL", "Events"];
    let rows = endpoints.iter().map(|endpoint| {
        let state = match &endpoint.paused_why {
            Some(why) => format!("{} ({why})", endpoint.state),
            None if endpoint.failing_since.is_some() => "failing".to_owned(),
            None => endpoint.state.clone(),
        };
        vec![
            endpoint.name.clone(),
            state,
            endpoint.pending.to_string(),
            endpoint.format.clone(),
            endpoint.url.clone(),
            endpoint.events.join(" "),
        ]
    });
    render::columns(&header, rows)?;
    Ok(0)
}

async fn list(
    states: &[String],
    endpoint: Option<&str>,
    session: Option<&str>,
    json: bool,
) -> Result<u8, Failure> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(states.iter().map(|state| ("state", state)));
    query.extend_pairs(endpoint.map(|endpoint| ("endpoint", endpoint)));
    query.extend_pairs(session.map(|session| ("session", session)));
    let path = format!("/v1/deliveries?{}", query.finish());
    let found: Value = Client::find()?.json(Method::GET, &path, NO_BODY).await?;
    if json {
        render::json(&found)?;
        return Ok(0);
    }
    let deliveries: Vec<DeliveryView> = understood(found)?;
    if deliveries.is_empty() {
        render::out("No deliveries found.\n")?;
        return Ok(0);
    }
    let header = ["ID", "Type", "Session", "State", "Tries", "Next", "Error"];
    render::columns(&header, deliveries.iter().map(row))?;
    Ok(0)
}

fn row(delivery: &DeliveryView) -> Vec<String> {
    let now = clock::now().wall;
    let dash = || "-".to_owned();
    let next = delivery.next_attempt_at.as_deref().and_then(parse_rfc3339);
    let next = next.map(|next| match next.since(now).as_secs() {
        0 => "now".to_owned(),
        seconds => format!("in {}", humantime::format_duration(Duration::from_secs(seconds))),
    });
    vec![
        delivery.id.clone(),
        delivery.r#type.clone(),
        delivery.session_id.as_ref().map_or_else(dash, |id| short(id)),
        delivery.state.clone(),
        delivery.attempts.to_string(),
        next.unwrap_or_else(dash),
        delivery.last_error.clone().unwrap_or_else(dash),
    ]
}

async fn show(id: &str, json: bool) -> Result<u8, Failure> {
    let path = format!("/v1/deliveries/{}", segment(id));
    let found: Value = Client::find()?.json(Method::GET, &path, NO_BODY).await?;
    if json {
        render::json(&found)?;
        return Ok(0);
    }
    let DeliveryDetails { delivery, attempts, body } = understood(found)?;
    let mut lines = vec![
        ("ID", delivery.id.clone()),
        ("Event", format!("{} {}", delivery.r#type, delivery.event_id)),
        ("Endpoint", delivery.endpoint.clone()),
        ("Session", delivery.session_id.clone().unwrap_or_else(|| "-".into())),
        ("State", delivery.state.clone()),
        ("Queued", delivery.queued_at.clone()),
    ];
    lines.extend(delivery.next_attempt_at.clone().map(|next| ("Next", next)));
    for attempt in attempts {
        let what = match (attempt.status, attempt.error) {
            (_, Some(error)) => error,
            (Some(status), None) => format!("HTTP {status}"),
            (None, None) => "no answer".to_owned(),
        };
        lines.push(("Attempt", format!("{} {what} after {} ms", attempt.at, attempt.duration_ms)));
    }
    lines.push(("Body", body));
    let text: String = lines.iter().map(|(key, value)| format!("{key:<10} {value}\n")).collect();
    render::out(&text)?;
    Ok(0)
}

async fn redeliver(wanted: &Redeliver) -> Result<u8, Failure> {
    let answer: Redelivered =
        Client::find()?.json(Method::POST, "/v1/deliveries/redeliver", Some(wanted)).await?;
    let count = answer.redelivered;
    render::out(&format!(
        "{count} {} on the way\n",
        if count == 1 { "delivery is" } else { "deliveries are" }
    ))?;
    Ok(0)
}

async fn change(name: &str, verb: &str) -> Result<u8, Failure> {
    let path = format!("/v1/webhooks/{}/{verb}", segment(name));
    let endpoint: EndpointView = understood(Client::find()?.json(Method::POST, &path, NO_BODY).await?)?;
    render::out(&format!("{}: {}, {} pending\n", endpoint.name, endpoint.state, endpoint.pending))?;
    Ok(0)
}

async fn test(name: &str, json: bool) -> Result<u8, Failure> {
    let path = format!("/v1/webhooks/{}/test", segment(name));
    let found: Value = Client::find()?.json(Method::POST, &path, NO_BODY).await?;
    let test: TestView = understood(found.clone())?;
    if json {
        render::json(&found)?;
        return Ok(u8::from(!test.accepted));
    }
    let answer = test.answer.map(|answer| format!(": {answer}")).unwrap_or_default();
    let status = test.status.map_or("no answer".to_owned(), |status| format!("HTTP {status}"));
    let line = format!("{name}: {status} after {} ms{answer}", test.duration_ms);
    if test.accepted {
        render::out(&format!("{line}\n"))?;
        Ok(0)
    } else {
        Err(Failure::new(1, line))
    }
}
