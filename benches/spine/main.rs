//! The program measured: `cargo bench --bench spine`, or `cargo bench --bench spine -- PART...`.
//!
//! Starts the real daemon in a home of its own and puts every figure beside a floor taken in the same run: a raw
//! epoll on the leader's pidfd, one full commit of SQLite, the bare spawn of the shim, /bin/true. Prints a table and
//! writes `target/bench/PART.json`, and plots beside it. Times are never asserted; with `AGENTCTL_BENCH_QUICK=1` (for
//! CI) everything is shorter, and an idle daemon that wakes up too often fails the run. docs/performance.md says what
//! each part measures and how long it takes.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark is read by people")]

mod commands;
mod counts;
mod daemon;
mod exits;
mod history;
mod idle;
mod journal;
mod launches;
mod others;
mod output;
mod plot;
mod proc;
mod report;
mod scale;
mod soak;
mod stream;
mod webhooks;

use std::env;
use std::error::Error;
use std::path::Path;
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
    /// The most of `scale`.
    sessions_most: usize,
    /// Of `journal`.
    events: usize,
    idle_s: u64,
}

impl Extent {
    fn from_env() -> Outcome<Self> {
        let quick = env::var("AGENTCTL_BENCH_QUICK").is_ok_and(|value| value != "0");
        let number = |name: &str, in_short: usize, in_full: usize| -> Outcome<usize> {
            let usual = if quick { in_short } else { in_full };
            Ok(env::var(name).map_or(Ok(usual), |value| value.parse())?)
        };
        Ok(Self {
            quick,
            exits: if quick { 30 } else { 200 },
            sessions: 200,
            sessions_most: number("AGENTCTL_BENCH_SESSIONS", 100, 5_000)?,
            events: number("AGENTCTL_BENCH_EVENTS", 20_000, 1_000_000)?,
            idle_s: u64::try_from(number("AGENTCTL_BENCH_IDLE_S", 8, 60)?)?,
        })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let name = env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == stream::AGENT) {
        return ended(stream::play());
    }
    let outcome = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [exits::DIE_WHEN_TOLD, gate, stamp] => exits::die_when_told(gate, stamp),
        [output::PRINT, bytes, stamp] => output::print(bytes, stamp),
        // `cargo test --all-targets` runs benches without this; there is nothing to test here.
        _ if arguments.iter().any(|argument| argument == "--bench") => parts(&arguments),
        _ => Ok(()),
    };
    ended(outcome)
}

fn ended(outcome: Outcome<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("spine: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A part by its name.
type Part = (&'static str, fn(&Extent, &mut Report) -> Outcome<()>);

const PARTS: [Part; 8] = [
    ("spine", spine),
    ("counts", counts::measure),
    ("scale", scale::measure),
    ("launch", commands::launching),
    ("commands", commands::reading),
    ("journal", journal::measure),
    ("output", output::measure),
    ("soak", soak::measure),
];

/// Those that are named; `spine` if none is.
fn parts(arguments: &[String]) -> Outcome<()> {
    let extent = Extent::from_env()?;
    let named: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with("--")).collect();
    if let Some(unknown) = named.iter().find(|name| !PARTS.iter().any(|(part, _)| part == *name)) {
        let all = PARTS.map(|(name, _)| name).join(", ");
        return Err(format!("there is no part {unknown}; there are {all}").into());
    }
    for (name, measure) in PARTS {
        if named.contains(&name) || named.is_empty() && name == "spine" {
            let mut report = Report::begin(name, extent.quick);
            let measured = measure(&extent, &mut report);
            report.end()?;
            measured?;
        }
    }
    Ok(())
}

fn spine(extent: &Extent, report: &mut Report) -> Outcome<()> {
    for durability in ["normal", "full"] {
        eprintln!("{} exits, durability {durability} ...", extent.exits);
        exits::measure(&Daemon::start(durability)?, durability, extent.exits, report)?;
    }
    for durability in ["normal", "full"] {
        eprintln!("{} webhooks, durability {durability} ...", extent.exits);
        let receiver = webhooks::Receiver::start()?;
        let daemon = Daemon::start_with(webhooks::config(durability, &receiver))?;
        webhooks::measure(&daemon, &receiver, (durability, durability), extent.exits, report)?;
    }
    let daemon = Daemon::start("normal")?;
    idle::daemon_memory("no session", daemon.pid(), 0, report)?;
    eprintln!("{} launches ...", extent.sessions);
    launches::measure(&daemon, extent.sessions, report)?;
    launches::command_line(&daemon, if extent.quick { 10 } else { 50 }, report)?;
    eprintln!("idle for {} s ...", extent.idle_s);
    let calm = idle::measure(&daemon, extent.sessions, extent.idle_s, report)?;
    drop(daemon);
    if extent.quick && !calm {
        return Err("an idle daemon or its shims wake up more often than the aim allows".into());
    }
    Ok(())
}
