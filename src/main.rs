//! The program: picks the role, prints what failed, and is the only place that chooses an exit code.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use agentctl::cli::{self, Cli, Command, DaemonCommand};
use agentctl::daemon::{self, Home, Options, Schema, Starter};
use agentctl::sys::BackendChoice;
use agentctl::sys::service::ServiceManager;
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let command = Cli::parse().command;
    let result = if let Command::Daemon(DaemonCommand::Run { backend, detach }) = command {
        run_daemon(backend, detach)
    } else if let Command::Daemon(DaemonCommand::Start { foreground: true }) = command {
        run_daemon(None, false)
    } else {
        cli::run(command).map_err(|failure| (failure.code, failure.message))
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err((code, message)) => {
            // Without a stderr there is nobody to tell.
            let _nobody = writeln!(std::io::stderr(), "{message}");
            ExitCode::from(code)
        }
    }
}

fn run_daemon(backend: Option<BackendChoice>, detach: bool) -> Result<u8, (u8, String)> {
    if detach && let Err(error) = rustix::process::setsid() {
        return Err((1, format!("leave the terminal: {error}")));
    }
    log_to_stderr();
    abort_on_panic();
    let starter = match ServiceManager::find() {
        // A command's own surroundings may name a manager, which knows nothing of a daemon in the background.
        _ if detach => Starter::Command(|| tell_parent("ready")),
        Some(manager) => Starter::Manager(manager),
        None => Starter::Person,
    };
    let home = Home::from_env().map_err(|error| (1, error.to_string()))?;
    let result = daemon::run(Options { home, backend, starter, schema: Schema::default() });
    match result {
        Ok(()) => Ok(0),
        Err(error) => {
            if detach {
                tell_parent(&error.to_string());
            }
            Err((1, format!("agentctl daemon: {error}")))
        }
    }
}

/// The command that started this daemon waits for its first line.
fn tell_parent(line: &str) {
    let mut stdout = std::io::stdout();
    // It may have been interrupted; the daemon stays.
    let _parent_left = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("AGENTCTL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let json = std::env::var("AGENTCTL_LOG_FORMAT").is_ok_and(|format| format == "json");
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // A line that cannot be written (the log lies on the full disk) is lost. Told on stderr, which is where it could not
    // be written, the loss would be a panic, and the end of the daemon.
    let builder = builder.log_internal_errors(false);
    if json { builder.json().init() } else { builder.init() }
}

/// A panic in one task of a supervisor must not leave the rest running on half a state: the daemon ends,
/// is started again, and recovers from its records. Sessions do not notice.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::abort();
    }));
}
