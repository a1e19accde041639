//! An agent whose stream is long: whether the parser keeps up with it, what it costs everybody else, and that the verdict is
//! right however far behind it was.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::exits::{Watch, text, wait_for_end};
use crate::proc::{self, mono_ns};
use crate::report::{Report, Spread};
use crate::{Extent, Outcome};

/// The name by which this program is an agent: that of Claude Code.
pub(crate) const AGENT: &str = "claude";

/// How the agent learns what is wanted of it: its arguments are its adapter's.
const TOLD: &str = "AGENT_BENCH";

/// Bytes in a second, if it can.
const PACE: u64 = 200_000_000;

const EXITS: usize = 10;

/// The agent: prints its stream at a pace, writes down when it ended, ends well.
pub(crate) fn play() -> Outcome<()> {
    let told = std::env::var(TOLD)?;
    let (bytes, stamp) = told.split_once(' ').ok_or("bytes and a stamp")?;
    let bytes: u64 = bytes.parse()?;
    let words = "what an agent says about the file that it has just read, in a few plain words; ".repeat(4);
    let message = json!({"type": "assistant", "session_id": "s-1", "message": {"content": [{"type": "text", "text": words}]}});
    let block = format!("{message}\n").repeat(150).into_bytes();
    let mut stdout = io::stdout().lock();
    let (begun, mut printed) = (mono_ns(), 0);
    while printed < bytes {
        stdout.write_all(&block)?;
        printed += block.len() as u64;
        let due = begun + printed * 1_000_000_000 / PACE;
        thread::sleep(Duration::from_nanos(due.saturating_sub(mono_ns())));
    }
    let took = mono_ns() - begun;
    let result = json!({"type": "result", "subtype": "success", "is_error": false, "session_id": "s-1",
        "usage": {"input_tokens": 7, "output_tokens": 11}, "total_cost_usd": 0.5});
    writeln!(stdout, "{result}")?;
    stdout.flush()?;
    fs::write(stamp, [took.to_le_bytes(), mono_ns().to_le_bytes()].concat())?;
    Ok(())
}

pub(crate) fn measure(extent: &Extent, report: &mut Report) -> Outcome<()> {
    let megabytes = if extent.quick { 16 } else { 800 };
    let bytes = megabytes * 1_000_000;
    let daemon = Daemon::start("normal")?;
    let scratch = tempfile::tempdir()?;
    let stamp = scratch.path().join("stamp");
    symlink(std::env::current_exe()?, scratch.path().join(AGENT))?;
    let mut watch = Watch::over(&daemon)?;
    let calm = Spread::of(watch.exits(EXITS)?.told);
    let read_before = proc::read_bytes(daemon.pid())?;
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", text(scratch.path())?);
    let told = format!("{bytes} {}", text(&stamp)?);
    let launched = daemon
        .command()
        .args(["launch", "claude-code", "--json", "--force", "-p", "go on", "--cwd", text(scratch.path())?])
        .env("PATH", path)
        .env(TOLD, told)
        .stdout(Stdio::piped())
        .output()?;
    let record: Value = serde_json::from_slice(&launched.stdout)?;
    let id = record["id"].as_str().ok_or("an id")?.to_owned();
    let (ended_at, meanwhile) = thread::scope(|scope| {
        let waiting = scope.spawn(|| wait_for_end(&daemon, &id).map(|()| mono_ns()));
        let meanwhile = watch.exits(if extent.quick { 1 } else { EXITS });
        let ended_at = waiting.join().map_err(|_| "the waiting thread panicked")?;
        Outcome::Ok((ended_at?, Spread::of(meanwhile?.told)))
    })?;
    let read = proc::read_bytes(daemon.pid())?.saturating_sub(read_before);
    let record = daemon.client()?.get(&format!("/v1/sessions/{id}"))?;
    let stamps = fs::read(&stamp)?;
    let [took, died] = [0, 8].map(|at| stamps[at..at + 8].try_into().map(u64::from_le_bytes));
    let (took, died) = (took?, died?);
    let rate = |bytes: u64| bytes as f64 / 1e6 / (took as f64 / 1e9);
    let ms = |ns: u64| ns as f64 / 1e6;
    let words = format!("printed at {:.0} MB/s, read along at {:.0} MB/s", rate(bytes), rate(read));
    report.figure(&format!("an agent's stream of {megabytes} MB"), rate(read), words, None);
    let words = format!("{} after {:.1} ms", record["outcome"], ms(ended_at.saturating_sub(died)));
    let right = record["outcome"] == "completed" && record["tokens"]["out"] == 11;
    let aim = Some(("completed, with its last word's tokens".to_owned(), right));
    report.figure("its verdict, from the agent's last instruction on", ms(ended_at - died), words, aim);
    let words = format!("p50 {:.2} ms, and without it {:.2} ms", ms(meanwhile.p50), ms(calm.p50));
    report.figure("meanwhile: exit of another session -> event", ms(meanwhile.p50), words, None);
    let peak = proc::peak_kb(daemon.pid())? as f64 / 1_024.0;
    let aim = Some(("RSS < 64 MB, however long the stream".to_owned(), peak < 64.0));
    report.figure("the daemon's memory, at the most", peak, format!("RSS {peak:.1} MB"), aim);
    if right { Ok(()) } else { Err(format!("a verdict that is not right: {record}").into()) }
}
