//! `daemon start|stop|status|restart`; `daemon run` is main's business.

use hyper::body::Incoming;
use hyper::{Method, Response};
use serde_json::Value;
use tokio::time::sleep;

use crate::daemon::Home;
use crate::limits;

use super::super::client::{Client, RETRY_PAUSE, Unanswered, whole};
use super::super::render;
use super::super::units::{self, Scope};
use super::super::{DaemonCommand, Failure, inside_a_session};
use super::NO_BODY;

pub(super) async fn daemon(command: DaemonCommand) -> Result<u8, Failure> {
    let client = Client::find()?.without_autostart();
    let scope = |system: Option<String>| system.map_or(Scope::User, Scope::System);
    match command {
        DaemonCommand::Install { system, now } => say_all(&units::install(&scope(system), now)?),
        DaemonCommand::Uninstall { system } => say_all(&units::uninstall(&scope(system))?),
        DaemonCommand::Run { .. } => unreachable!("main runs the daemon itself"),
        DaemonCommand::Start { metrics_port, .. } => start(&client, metrics_port).await,
        DaemonCommand::Stop => {
            let said = match stop(&client).await? {
                Stopped::Gone => "Daemon stopped\n",
                Stopped::ByManager => {
                    "Daemon stopped; the next command starts it again. To prevent that: systemctl --user stop agentctl.socket\n"
                }
                Stopped::StartedAgain(pid) => {
                    return Err(Failure::new(
                        1,
                        format!(
                            "the service manager has started the daemon again (PID {pid}); to stop it: systemctl stop agentctl@USER.socket agentctl@USER.service"
                        ),
                    ));
                }
            };
            render::out(said)?;
            Ok(0)
        }
        DaemonCommand::Reload => reload(&client).await,
        DaemonCommand::Status(args) => status(&client, args.json).await,
        DaemonCommand::Restart => {
            // Before the old one is gone: no other would come.
            if let Some(refusal) = inside_a_session() {
                return Err(Failure::new(1, refusal));
            }
            restart(&client.of_any_version()).await
        }
    }
}

fn say_all(lines: &[String]) -> Result<u8, Failure> {
    render::out(&format!("{}\n", lines.join("\n")))?;
    Ok(0)
}

async fn start(client: &Client, metrics_port: Option<u16>) -> Result<u8, Failure> {
    if let Ok(health) = health(client).await {
        render::out(&format!("Daemon already running (PID {})\n", health["pid"]))?;
        return Ok(0);
    }
    let pid = client.start(metrics_port).await.map_err(|why| Failure::new(1, why))?;
    render::out(&format!("Daemon started (PID {pid})\n"))?;
    Ok(0)
}

/// What came of a daemon that was to stop.
enum Stopped {
    Gone,
    /// By the user's service manager, which keeps its socket.
    ByManager,
    /// Its service manager has another one run by now.
    StartedAgain(u64),
}

async fn stop(client: &Client) -> Result<Stopped, Failure> {
    let not_running = || Failure::new(3, "Daemon not running. Start with: agentctl daemon start");
    // Asking could start one that is behind a service manager's socket.
    if client.home().is_some_and(Home::is_free) {
        return Err(match client.home().and_then(Home::noted_old_daemon) {
            Some(old) => Failure::new(1, old.to_string()),
            None => not_running(),
        });
    }
    let pid = match client.send(Method::GET, "/v1/health", None, None).await {
        Ok(answer) => pid_of(answer).await,
        Err(Unanswered::Nobody(_)) => return Err(not_running()),
        // Whatever it is that it cannot do, it may still be able to end.
        Err(Unanswered::Broken(_) | Unanswered::Perhaps { .. } | Unanswered::Refused(_)) => None,
    };
    if pid.is_some_and(units::runs) {
        return units::stop().map(|()| Stopped::ByManager);
    }
    let answer = client.send(Method::POST, "/v1/shutdown", None, None).await.map_err(|why| match why {
        Unanswered::Nobody(_) => not_running(),
        why @ (Unanswered::Broken(_) | Unanswered::Perhaps { .. } | Unanswered::Refused(_)) => {
            client.failure(why)
        }
    })?;
    whole(answer).await.map_err(|why| client.failure(why))?;
    let tries = limits::DAEMON_START_TIMEOUT.as_millis() / RETRY_PAUSE.as_millis();
    for _ in 0..tries {
        match client.send(Method::GET, "/v1/health", None, None).await {
            // The socket goes first; the home is free for the next daemon when the process has ended.
            Err(Unanswered::Nobody(_)) if client.home().is_none_or(Home::is_free) => {
                return Ok(Stopped::Gone);
            }
            Ok(answer) => {
                if let Some(now) = pid_of(answer).await.filter(|now| pid.is_some_and(|pid| *now != pid)) {
                    return Ok(Stopped::StartedAgain(now));
                }
            }
            Err(_) => {}
        }
        sleep(RETRY_PAUSE).await;
    }
    Err(Failure::new(1, "the daemon was told to stop and still answers; see: agentctl daemon status"))
}

/// The process number in an answer to `/v1/health`.
async fn pid_of(answer: Response<Incoming>) -> Option<u64> {
    let health: Value = serde_json::from_slice(&whole(answer).await.ok()?).ok()?;
    health["pid"].as_u64()
}

async fn restart(client: &Client) -> Result<u8, Failure> {
    let health_before = match client.home() {
        Some(home) if home.is_free() => None,
        Some(_) | None => health(client).await.ok(),
    };
    let asked = |key: &str| health_before.as_ref().and_then(|health| health[key].as_u64());
    let answering = asked("pid");
    // As it was started, not as it is configured: the next one is started the same way.
    let metrics_port = asked("metricsPort").and_then(|port| u16::try_from(port).ok());
    if answering.is_some_and(units::runs) {
        units::restart()?;
        let pid = health(client).await?["pid"].clone();
        render::out(&format!("Daemon restarted (PID {pid})\n"))?;
        return Ok(0);
    }
    match stop(client).await {
        Ok(Stopped::StartedAgain(pid)) => {
            render::out(&format!("Daemon restarted (PID {pid})\n"))?;
            Ok(0)
        }
        Ok(Stopped::Gone | Stopped::ByManager) => start(client, metrics_port).await,
        Err(failure) if failure.code == 3 => start(client, None).await,
        Err(failure) => Err(failure),
    }
}

async fn reload(client: &Client) -> Result<u8, Failure> {
    let reloaded: Value = client.json(Method::POST, "/v1/reload", NO_BODY).await?;
    let mut said = String::from("Configuration read again\n");
    let waiting: Vec<_> =
        reloaded["atRestart"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !waiting.is_empty() {
        let keys = waiting.join(", ");
        said += &format!("In force from the next start of the daemon (agentctl daemon restart): {keys}\n");
    }
    render::out(&said)?;
    Ok(0)
}

/// What the daemon's start had to make good for its journal.
fn rebuilt(found: &Value) -> Vec<String> {
    if found.is_null() {
        return Vec::new();
    }
    let cause = if found["journalWasMissing"] == true { "the journal was missing; " } else { "" };
    let count = &found["sessions"];
    let mut lines = vec![format!(
        "  Rebuilt:         {cause}{count} sessions that it did not know were rebuilt from their directories"
    )];
    for lost in found["notRebuilt"].as_array().into_iter().flatten() {
        let word = |key: &str| lost[key].as_str().unwrap_or_default().to_owned();
        lines.push(format!("  Not rebuilt:     {}: {}", word("id"), word("why")));
    }
    if let Some(why) = found["unread"].as_str() {
        lines.push(format!("  Not rebuilt:     {why}"));
    }
    lines
}

/// What the daemon's start took over from an earlier agentctl.
fn imported(health: &Value) -> impl Iterator<Item = &str> {
    health["imported"].as_array().into_iter().flatten().filter_map(Value::as_str)
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
    let text = |key: &str| health[key].as_str().map_or_else(|| health[key].to_string(), str::to_owned);
    let version = text("version");
    let mut lines = vec![
        format!("Daemon running (PID {})", text("pid")),
        format!("  Version:         {version}"),
        format!("  Uptime:          {} s", text("uptimeSeconds")),
        format!("  Active sessions: {}", text("sessions")),
        format!("  Queued sessions: {}", text("queued")),
        format!("  Active locks:    {}", text("locks")),
        format!("  Active fuses:    {}", text("fuses")),
        format!("  Home:            {}", text("home")),
        format!("  Socket:          {}", client.socket().display()),
        format!("  Backend:         {} ({})", text("backend"), text("backendWhy")),
        format!("  Cgroups:         {}", text("cgroups")),
        format!("  Journal:         {}, durability {}", text("journal"), text("durability")),
        format!("  Webhooks owed:   {}", text("deliveriesOwed")),
    ];
    lines.extend(rebuilt(&health["rebuilt"]));
    lines.extend(imported(&health).map(|line| format!("  Earlier tool:    {line}")));
    if text("durability") == "normal" {
        lines.push("  Note:            with durability normal, power loss may undo the last seconds".into());
    }
    render::out(&format!("{}\n", lines.join("\n")))?;
    Ok(0)
}
