//! `adopt`: an agent that was started outside becomes a session.

use hyper::Method;
use serde_json::Value;

use crate::core::vocab::{millis, short};
use crate::wire::found::Adopt;

use super::super::client::{Client, segment};
use super::super::render;
use super::super::{AdoptArgs, Failure};
use super::{show, view};

pub(super) async fn adopt(args: AdoptArgs) -> Result<u8, Failure> {
    let asked = Adopt {
        name: args.name,
        group: args.group,
        labels: args.label.into_iter().collect(),
        timeout_ms: args.timeout.map(millis),
        grace_ms: args.grace.map(millis),
    };
    let path = format!("/v1/sessions/{}/adopt", segment(&args.target));
    let record: Value = Client::find()?.json(Method::POST, &path, Some(&asked)).await?;
    if args.json {
        return show(record, true);
    }
    let session = view(record)?;
    let pid = session.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let id = short(&session.id);
    render::out(&format!("Adopted session {id} ({}, PID {pid})\n", session.adapter))?;
    Ok(0)
}
