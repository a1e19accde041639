//! The spine measured: `cargo bench --bench spine`.
//!
//! Starts the real daemon in a home of its own and puts every figure beside a floor taken in the same run: a raw
//! epoll on the leader's pidfd, one full commit of SQLite, the bare spawn of the shim, /bin/true. Prints a table and
//! writes `target/bench/spine.json`. Times are never asserted; with `AGENTCTL_BENCH_QUICK=1` (for CI) everything is
//! shorter, and an idle daemon that wakes up too often fails the run.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark is read by people")]

mod daemon;
mod exits;
mod idle;
mod launches;
mod proc;
mod report;
mod webhooks;

use std::env;
use std::error::Error;
use std::process::ExitCode;

use daemon::Daemon;
use report::Report;

/// Anything that goes wrong ends the run with its message.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How much is measured.
struct Extent {
    quick: bool,
    exits: usize,
    sessions: usize,
    idle_s: u64,
}

impl Extent {
    fn from_env() -> Outcome<Self> {
        let quick = env::var("AGENTCTL_BENCH_QUICK").is_ok_and(|value| value != "0");
        let usual = if quick { 8 } else { 60 };
        let idle_s = env::var("AGENTCTL_BENCH_IDLE_S").map_or(Ok(usual), |value| value.parse())?;
        let exits = if quick { 30 } else { 200 };
        Ok(Self { quick, exits, sessions: 200, idle_s })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [exits::DIE_WHEN_TOLD, gate, stamp] => exits::die_when_told(gate, stamp),
        // `cargo test --all-targets` runs benches without this; there is nothing to test here.
        _ if arguments.iter().any(|argument| argument == "--bench") => measure(),
        _ => Ok(()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spine: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Outcome<()> {
    let extent = Extent::from_env()?;
    let mut report = Report::begin(extent.quick);
    for durability in ["normal", "full"] {
        eprintln!("{} exits, durability {durability} ...", extent.exits);
        exits::measure(&Daemon::start(durability)?, durability, extent.exits, &mut report)?;
    }
    for durability in ["normal", "full"] {
        eprintln!("{} webhooks, durability {durability} ...", extent.exits);
        webhooks::measure(durability, extent.exits, &mut report)?;
    }
    let daemon = Daemon::start("normal")?;
    idle::memory_when_empty(&daemon, &mut report)?;
    eprintln!("{} launches ...", extent.sessions);
    launches::measure(&daemon, extent.sessions, &mut report)?;
    launches::command_line(&daemon, if extent.quick { 10 } else { 50 }, &mut report)?;
    eprintln!("idle for {} s ...", extent.idle_s);
    let calm = idle::measure(&daemon, extent.sessions, extent.idle_s, &mut report)?;
    drop(daemon);
    report.end()?;
    if extent.quick && !calm {
        return Err("an idle daemon or its shims wake up more often than the aim allows".into());
    }
    Ok(())
}
