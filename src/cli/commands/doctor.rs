//! `doctor`: what the daemon finds, or without one what can be told of the host.

use hyper::Method;

use crate::doctor;
use crate::sys::features::{probe, scopes};
use crate::sys::host_limits::{host_limits, systemd};
use crate::sys::shim_file::beside_me;
use crate::wire::api::{Check, CheckState};

use super::super::client::{Client, Unanswered, decode, whole};
use super::super::render;
use super::super::{Failure, JsonFlag};

pub(super) async fn doctor(args: JsonFlag) -> Result<u8, Failure> {
    let client = Client::find()?.without_autostart();
    let mut checks = match client.send(Method::GET, "/v1/doctor", None, None).await {
        Ok(answer) => decode(&whole(answer).await.map_err(|why| client.failure(why))?)?,
        Err(Unanswered::Nobody(why)) => without_daemon(&why),
        Err(why @ (Unanswered::Broken(_) | Unanswered::Perhaps { .. } | Unanswered::Refused(_))) => {
            return Err(client.failure(why));
        }
    };
    let shim = beside_me();
    checks.push(doctor::shim(shim.as_deref()));
    if args.json {
        render::json(&checks)?;
    } else {
        render::checks(&checks)?;
    }
    let wrong = checks.iter().any(|check| check.state == CheckState::Problem);
    Ok(u8::from(wrong))
}

fn without_daemon(why: &impl std::fmt::Display) -> Vec<Check> {
    let silent = Check::new(
        "daemon",
        CheckState::Note,
        format!("none answers ({why}); journal, webhooks and sessions are not checked"),
    )
    .advise("agentctl daemon start");
    let host = doctor::host(probe(), &host_limits(), &systemd(), &scopes(), crate::limits::SESSIONS_MAX);
    std::iter::once(silent).chain(host).collect()
}
