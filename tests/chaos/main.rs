//! The chaos run: many random lives under a daemon to which everything happens, and an oracle outside of it.
//!
//! `cargo test --test chaos` is the short form. By hand, with a seed:
//! `AGENTCTL_CHAOS_SESSIONS=2000 AGENTCTL_CHAOS_SECONDS=600 AGENTCTL_CHAOS_SEED=7 cargo test --test chaos`.
//! The seed decides lives, faults and weather; what the machine makes of their timing is its own.
//!
//! This program is also the leader of every session (`life.rs`) and, under `AGENTCTL_CHAOS_SCHEMA`, the later builds
//! of agentctl that upgrades install (`storm.rs`).

mod clients;
mod ledger;
mod life;
#[path = "../it/support/loopback.rs"]
mod loopback;
mod observer;
mod oracle;
mod receiver;
mod rig;
mod run;
mod storm;

use std::io::{self, Write};
use std::process::ExitCode;

use agentctl::daemon::{self, Home, Options, Schema, Starter};
use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let schema = std::env::var(rig::SCHEMA).ok().and_then(|version| version.parse().ok());
    let played = match (words.as_slice(), schema) {
        (["daemon", "run"], Some(schema)) => later_daemon(schema),
        (["life", ..], None) => life::live(&arguments[1..]),
        (["kid", ..], None) => life::outlive(&arguments[1..]),
        (_, _) => return tests(),
    };
    played.unwrap_or_else(|error| {
        // Into the session's or the daemon's log.
        drop(writeln!(io::stderr(), "{error}"));
        ExitCode::FAILURE
    })
}

fn tests() -> ExitCode {
    let storm = Trial::test("no_crash_makes_a_verdict_early_late_wrong_double_or_missing", || {
        run::run().map_err(Into::into)
    });
    libtest_mimic::run(&Arguments::from_args(), vec![storm]).exit_code()
}

/// The daemon of a later build: this library, and a journal whose schema has gone on.
fn later_daemon(schema: u32) -> io::Result<ExitCode> {
    let filter = tracing_subscriber::EnvFilter::new("info");
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).init();
    let home = Home::from_env().map_err(io::Error::other)?;
    let schema = (2..=schema).fold(Schema::default(), |schema, n| schema.then(storm::migration(n)));
    match daemon::run(Options {
        home,
        backend: None,
        metrics_port: None,
        starter: Starter::Person,
        schema,
        journal: None,
    }) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(io::Error::other(error)),
    }
}
