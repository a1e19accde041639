//! `daemon start|stop|status|restart`; `daemon run` is main's business.

use hyper::Method;
use serde_json::Value;
use tokio::time::sleep;

use crate::limits;

use super::super::client::{Client, RETRY_PAUSE, Unanswered, whole};
use super::super::render;
use super::super::{DaemonCommand, Failure};
use super::NO_BODY;

pub(super) async fn daemon(command: DaemonCommand) -> Result<u8, Failure> {
    let client = Client::find()?.without_autostart();
    match command {
        DaemonCommand::Run { .. } => unreachable!("main runs the daemon itself"),
        DaemonCommand::Start { .. } => start(&client).await,
        DaemonCommand::Stop => {
            stop(&client).await?;
            render::out("Daemon stopped\n")?;
            Ok(0)
        }
        DaemonCommand::Status(args) => status(&client, args.json).await,
        DaemonCommand::Restart => {
            match stop(&client).await {
                Ok(()) => {}
                Err(failure) if failure.code == 3 => {}
                Err(failure) => return Err(failure),
            }
            start(&client).await
        }
    }
}

async fn start(client: &Client) -> Result<u8, Failure> {
    if let Ok(health) = health(client).await {
        render::out(&format!("Daemon already running (PID {})\n", health["pid"]))?;
        return Ok(0);
    }
    let pid = client.start().await.map_err(|why| Failure::new(1, why))?;
    render::out(&format!("Daemon started (PID {pid})\n"))?;
    Ok(0)
}

async fn stop(client: &Client) -> Result<(), Failure> {
    let not_running = |why| match why {
        Unanswered::Nobody(_) => Failure::new(3, "Daemon not running. Start with: agentctl daemon start"),
        why => client.failure(why),
    };
    let answer = client.send(Method::POST, "/v1/shutdown", None, None).await.map_err(not_running)?;
    whole(answer).await.map_err(|why| client.failure(why))?;
    // The socket goes when it has ended.
    let tries = limits::DAEMON_START_TIMEOUT.as_millis() / RETRY_PAUSE.as_millis();
    for _ in 0..tries {
        if matches!(client.send(Method::GET, "/v1/health", None, None).await, Err(Unanswered::Nobody(_))) {
            return Ok(());
        }
        sleep(RETRY_PAUSE).await;
    }
    Err(Failure::new(1, "the daemon was told to stop and still answers; see: agentctl daemon status"))
}

async fn health(client: &Client) -> Result<Value, Failure> {
    client.json(Method::GET, "/v1/health", NO_BODY).await
}

async fn status(client: &Client, json: bool) -> Result<u8, Failure> {
    let health = health(client).await?;
    if json {
        render::json(&health)?;
        return Ok(0);
    }
    let text = |key: &str| match &health[key] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let version = text("version");
    let mut lines = vec![
        format!("Daemon running (PID {})", text("pid")),
        format!("  Version:         {version}"),
        format!("  Uptime:          {} s", text("uptimeSeconds")),
        format!("  Active sessions: {}", text("sessions")),
        format!("  Home:            {}", text("home")),
        format!("  Socket:          {}", client.socket().display()),
        format!("  Backend:         {} ({})", text("backend"), text("backendWhy")),
        format!("  Cgroups:         {}", text("cgroups")),
        format!("  Journal:         {}, durability {}", text("journal"), text("durability")),
        format!("  Webhooks owed:   {}", text("deliveriesOwed")),
    ];
    if text("durability") == "normal" {
        lines.push("  Note:            with durability normal, power loss may undo the last seconds".into());
    }
    render::out(&format!("{}\n", lines.join("\n")))?;
    if version != env!("CARGO_PKG_VERSION") {
        render::say(&format!(
            "the daemon is of version {version}, this command of {}; run: agentctl daemon restart",
            env!("CARGO_PKG_VERSION")
        ));
    }
    let _own_home = client.home();
    Ok(0)
}
