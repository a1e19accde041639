//! The program: picks the role, prints what failed, and is the only place that chooses an exit code.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use agentctl::cli::{self, Command, DaemonCommand};
use agentctl::daemon::{self, Home, Options, Schema, Starter};
use agentctl::logging;
use agentctl::sys::BackendChoice;
use agentctl::sys::journald::Journald;
use agentctl::sys::service::ServiceManager;

fn main() -> ExitCode {
    let command = cli::parse();
    let result = if let Command::Daemon(DaemonCommand::Run { backend, metrics_port, detach }) = command {
        run_daemon(backend, metrics_port, detach)
    } else if let Command::Daemon(DaemonCommand::Start { foreground: true, metrics_port, .. }) = command {
        run_daemon(None, metrics_port, false)
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

fn run_daemon(
    backend: Option<BackendChoice>,
    metrics_port: Option<u16>,
    detach: bool,
) -> Result<u8, (u8, String)> {
    if let Some(refusal) = cli::inside_a_session() {
        if detach {
            tell_parent(&refusal);
        }
        return Err((1, refusal));
    }
    if detach && let Err(error) = rustix::process::setsid() {
        return Err((1, format!("leave the terminal: {error}")));
    }
    let journal = Journald::find().map(Arc::new);
    let logs_to_journal = journal.is_some();
    logging::start(journal.clone());
    abort_on_panic();
    let starter = match ServiceManager::find() {
        // A command's own surroundings may name a manager, which knows nothing of a daemon in the background.
        _ if detach => Starter::Command(|| tell_parent("ready")),
        Some(manager) => Starter::Manager(manager),
        None => Starter::Person,
    };
    let home = Home::from_env().map_err(|error| (1, error.to_string()))?;
    let result =
        daemon::run(Options { home, backend, metrics_port, starter, schema: Schema::default(), journal });
    match result {
        Ok(()) => Ok(0),
        Err(error) => {
            if detach {
                tell_parent(&error.to_string());
            }
            // A priority, where journald reads what it is told on stderr (sd-daemon(3)).
            let priority = if logs_to_journal { "<3>" } else { "" };
            Err((1, format!("{priority}agentctl daemon: {error}")))
        }
    }
}

/// The command that started this daemon waits for its first line.
fn tell_parent(line: &str) {
    let mut stdout = std::io::stdout();
    // It may have been interrupted; the daemon stays.
    let _parent_left = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
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
