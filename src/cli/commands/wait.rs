//! `wait`: woken by the daemon, never by looking.

use std::collections::BTreeMap;

use hyper::Method;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::wire::api::SessionView;

use super::super::client::{Client, Patience, decode, segment, whole};
use super::super::render;
use super::super::{Failure, WaitArgs};
use super::{NO_BODY, select, view};

pub(super) async fn wait(args: WaitArgs) -> Result<u8, Failure> {
    let itself = |failure: Failure| Failure::new(125, failure.message);
    let client = Client::find().map_err(itself)?;
    let ids = match args.group.is_some() || !args.label.is_empty() {
        true => selected(&client, args.group.as_deref(), &args.label).await.map_err(itself)?,
        false => args.ids,
    };
    let waiting = all(&client, &ids, args.any);
    let ended = match args.timeout {
        None => waiting.await,
        Some(limit) => match timeout(limit, waiting).await {
            Ok(ended) => ended,
            Err(_) => return Err(Failure::new(124, "the time is over, and not all sessions have ended")),
        },
    };
    let ended = ended.map_err(itself)?;
    if args.json {
        render::json(&ended)?;
    } else {
        for session in &ended {
            render::say(&render::verdict_line(session));
        }
    }
    let numbers = ended.iter().map(|session| session.exit_status.unwrap_or(125));
    Ok(numbers.into_iter().find(|number| *number != 0).unwrap_or(0))
}

/// The sessions of a group or with labels, in the order of their ids: that in which a group was launched.
async fn selected(client: &Client, group: Option<&str>, labels: &[String]) -> Result<Vec<String>, Failure> {
    let path = select::list_path(true, None, None, group, labels);
    let sessions: Vec<SessionView> = client.json(Method::GET, &path, NO_BODY).await?;
    let mut ids: Vec<_> = sessions.into_iter().map(|session| session.id).collect();
    ids.sort_unstable();
    if ids.is_empty() {
        let what = group.map_or_else(
            || format!("with the label {}", labels.join(" ")),
            |group| format!("of the group {group}"),
        );
        return Err(Failure::new(125, format!("no session {what} is known; agentctl list -a shows all")));
    }
    Ok(ids)
}

/// The records in the order in which the sessions were named; of `any`, only the first that ended.
async fn all(client: &Client, ids: &[String], any: bool) -> Result<Vec<SessionView>, Failure> {
    let mut waits = JoinSet::new();
    for (at, id) in ids.iter().cloned().enumerate() {
        let client = client.clone();
        waits.spawn(async move { (at, ended(&client, &id).await) });
    }
    let mut found = BTreeMap::new();
    while let Some(done) = waits.join_next().await {
        let (at, session) = done.map_err(|panicked| Failure::new(1, panicked.to_string()))?;
        found.insert(at, session?);
        if any {
            break;
        }
    }
    Ok(found.into_values().collect())
}

/// The record of a session once its verdict is durable. A restart of the daemon is waited out.
pub(super) async fn ended(client: &Client, id: &str) -> Result<SessionView, Failure> {
    let path = format!("/v1/sessions/{}/wait", segment(id));
    let record = asked_again(client, &path).await?;
    view(record)
}

async fn asked_again(client: &Client, path: &str) -> Result<Value, Failure> {
    let mut patience = Patience::new();
    loop {
        let answer = match client.send(Method::GET, path, None, None).await {
            Ok(answer) => whole(answer).await,
            Err(why) => Err(why),
        };
        match answer {
            Ok(bytes) => return decode(&bytes),
            Err(why) => patience.after(client, why).await?,
        }
    }
}
