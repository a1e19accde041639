//! Whether an agent that prints as fast as it can is slowed by being supervised, or by being read.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::daemon::Daemon;
use crate::exits::{stamp_in, text, wait_for_end};
use crate::proc::mono_ns;
use crate::report::{Report, Spread};
use crate::{Extent, Outcome};

/// The argument that makes this program a leader that prints.
pub(crate) const PRINT: &str = "--print";

const BLOCK: usize = 64 << 10;

/// The leader: prints so much, writes down how long that took, ends.
pub(crate) fn print(bytes: &str, stamp: &str) -> Outcome<()> {
    let line = b"a line of an agent that has much to say and says it at once, for whoever reads\n"
        .repeat(BLOCK / 79);
    let bytes: usize = bytes.parse()?;
    let mut stdout = io::stdout().lock();
    let begun = mono_ns();
    let mut printed = 0;
    while printed < bytes {
        stdout.write_all(&line)?;
        printed += line.len();
    }
    stdout.flush()?;
    fs::write(stamp, (mono_ns() - begun).to_le_bytes())?;
    Ok(())
}

pub(crate) fn measure(extent: &Extent, report: &mut Report) -> Outcome<()> {
    let (megabytes, rounds) = if extent.quick { (16, 2) } else { (800, 5) };
    let bytes = format!("{}", megabytes << 20);
    let daemon = Daemon::start("normal")?;
    let scratch = tempfile::tempdir()?;
    let stamp = scratch.path().join("stamp");
    let program = std::env::current_exe()?;
    let command = [text(&program)?, PRINT, &bytes, text(&stamp)?];
    let mut took: [Vec<u64>; 3] = Default::default();
    for _ in 0..rounds {
        took[0].push(alone(&command, scratch.path(), &stamp)?);
        took[1].push(supervised(&daemon, &command, &stamp, false)?);
        took[2].push(supervised(&daemon, &command, &stamp, true)?);
    }
    let [alone, supervised, read] = took.map(|times| Spread::of(times).p50);
    let rate = |ns: u64| f64::from(megabytes) * 1.048_576 / (ns as f64 / 1e9);
    let words = |ns| format!("{:.0} MB/s", rate(ns));
    report.figure("an agent that prints to a file of its own", rate(alone), words(alone), None);
    let aim = |ns: u64| Some(("not slower than 0.9 x of that".to_owned(), ns * 9 / 10 <= alone));
    report.figure("the same, supervised", rate(supervised), words(supervised), aim(supervised));
    report.figure("the same, while agentctl logs -f reads it", rate(read), words(read), aim(read));
    drop(daemon);
    crate::stream::measure(extent, report)
}

fn alone(command: &[&str], scratch: &Path, stamp: &Path) -> Outcome<u64> {
    let log = scratch.join("log");
    let file = OwnedFd::from(File::options().append(true).create(true).open(&log)?);
    Command::new(command[0]).args(&command[1..]).stdout(file).status()?;
    fs::remove_file(log)?;
    stamp_in(stamp)
}

fn supervised(daemon: &Daemon, command: &[&str], stamp: &Path, read: bool) -> Outcome<u64> {
    let record = daemon.client()?.launch(command)?;
    let id = record["id"].as_str().ok_or("an id")?.to_owned();
    let mut logs = daemon.command();
    let logs = logs.args(["logs", "-f", "--raw", &id]).stdout(Stdio::null());
    let mut reader = if read { Some(logs.spawn()?) } else { None };
    wait_for_end(daemon, &id)?;
    if let Some(reader) = &mut reader {
        reader.wait()?;
    }
    daemon.client()?.request("POST", "/v1/prune", "")?;
    stamp_in(stamp)
}
