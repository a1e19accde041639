//! agentctl-shim: the parent of one agent, for as long as that lives.
//!
//! `agentctl-shim <session directory> <run> [held]` claims the launch order in the directory, starts the leader, reaps
//! whatever the tree leaves to it, publishes how the leader ended, ends or awaits what is left, and exits. It needs
//! no daemon: all it knows comes from files (`wire/session_dir.rs`), and all it has to say goes into files.
//! It has one thread and no event loop but one: sleep until a child ends, the daemon tells something, a log that may become
//! too long is written to, or an alarm is due.
//!
//! In order of time: `settle` (deaf, detached, subreaper) · `claim` (own the run, take the launch) · `launch` (open,
//! fork, become the leader) · `supervise` (reap, publish, end the tree).

// Its `main` is in kernel.rs. Tests have one of their own.
#![cfg_attr(not(test), no_main)]

mod claim;
mod daemon_link;
mod exit_slot;
mod input;
mod kernel;
mod launch;
mod leader;
mod logs;
mod supervise;
mod tree;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use agentctl::sys::identity;
use agentctl::wire::session_dir::RunFiles;
use rustix::fs::Mode;

/// The whole of the program. Whether the run was taken, or is another's.
fn begin(arguments: &[OsString]) -> bool {
    run(arguments).map_err(|error| complain(format_args!("failed to take the run: {error}"))).is_ok()
}

fn run(arguments: &[OsString]) -> io::Result<()> {
    kernel::standard_descriptors_only();
    let files = run_files(arguments)?;
    settle();
    if arguments.get(3).is_some_and(|word| word == "held") {
        daemon_link::wait_for_word();
    }
    let host = identity::host_id()?;
    let Some(ownership) = claim::take(&files, &host)? else { return Ok(()) };
    let run = launch::launch(&files, &host);
    supervise::Supervisor::new(files, host, ownership, run).run();
    Ok(())
}

/// The arguments, made independent of where we stand.
fn run_files(arguments: &[OsString]) -> io::Result<RunFiles> {
    let usage =
        || io::Error::new(io::ErrorKind::InvalidInput, "usage: agentctl-shim <session directory> <run>");
    let dir = arguments.get(1).ok_or_else(usage)?;
    let run = arguments.get(2).and_then(|run| run.to_str()?.parse().ok()).ok_or_else(usage)?;
    RunFiles::in_session_dir(&std::path::absolute(dir)?, run).ok_or_else(usage)
}

/// Cuts every tie to whoever started us. What fails here was cut already.
fn settle() {
    kernel::block_signals();
    let _ = rustix::process::setsid();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let _ = rustix::process::chdir(Path::new("/"));
    rustix::process::umask(Mode::from_raw_mode(0o077));
    // We are started through /proc/self/fd/N, which would be our name in `ps`.
    let _ = rustix::thread::set_name(c"agentctl-shim");
}

/// The one place that prints: for the log that the daemon gives us, if it does.
fn complain(message: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "agentctl-shim: {message}");
}
