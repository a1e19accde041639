//! The command line, with a long history and with many at once; how soon a daemon answers that has much to read.

use std::fs;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::json;

use crate::daemon::{Daemon, wait_until};
use crate::exits::{Leader, wait_for_end};
use crate::history::History;
use crate::launches::{self, AT_ONCE, SLEEPER, at_once, raw_spawns, timed};
use crate::proc::{self, mono_ns};
use crate::report::{Report, Spread};
use crate::{Extent, Outcome};

/// Commands of a shell loop that starts them all and waits.
const PARALLEL: usize = 200;

/// What launching costs, one after another and many at once, through the API and by command.
pub(crate) fn launching(extent: &Extent, report: &mut Report) -> Outcome<()> {
    let (count, parallel) = if extent.quick { (16, 16) } else { (200, PARALLEL) };
    let raw = Spread::of(raw_spawns(count)?);
    report.times("spawn of the shim alone, until the leader runs", &raw);
    for durability in ["normal", "full"] {
        let daemon = Daemon::start(durability)?;
        let mut committer = crate::exits::Committer::beside(daemon.home())?;
        let commits = (0..count).map(|_| committer.commit()).collect::<Outcome<Vec<_>>>()?;
        let commit = Spread::of(commits).p50;
        let name = |what: &str| format!("{durability}: {what}");
        let took = Spread::of(launches::sequential(&daemon, count)?);
        let most = (raw.p50 + 2 * commit) * 3 / 2;
        let words = format!("p50 <= 1.5 x (spawn + 2 commits) = {:.2} ms", most as f64 / 1e6);
        let what = name("launch through the API, one after another");
        report.times_with_aim(&what, &took, words, took.p50 <= most);
        rate(&name("launches through the API, one after another"), took.count, took.sum, 250.0, report);
        let together = at_once(&daemon, count)?;
        let what = name(&format!("launches through the API, {AT_ONCE} at once"));
        rate(&what, count, together, 250.0, report);
        if durability == "normal" {
            by_command(&daemon, count / 2, parallel, report)?;
        }
    }
    Ok(())
}

fn rate(name: &str, count: usize, took_ns: u64, least: f64, report: &mut Report) {
    let rate = count as f64 / (took_ns as f64 / 1e9);
    report.figure(
        name,
        rate,
        format!("{rate:.0}/s"),
        Some((format!(">= {least:.0}/s with normal"), rate >= least)),
    );
}

fn launch_command(daemon: &Daemon) -> Command {
    let mut command = daemon.command();
    command.args(["launch", "exec", "--force", "--cwd", "/", "--"]).args(SLEEPER);
    command
}

fn by_command(daemon: &Daemon, count: usize, parallel: usize, report: &mut Report) -> Outcome<()> {
    let times =
        (0..count).map(|_| timed(|| succeeded(&mut launch_command(daemon)))).collect::<Outcome<Vec<_>>>()?;
    let took = Spread::of(times);
    report.times("agentctl launch, one after another", &took);
    rate("agentctl launch, one after another", took.count, took.sum, 150.0, report);
    let together = timed(|| {
        let started = (0..parallel).map(|_| launch_command(daemon).spawn()).collect::<Result<Vec<_>, _>>()?;
        for mut child in started {
            if !child.wait()?.success() {
                return Err("a launch failed".into());
            }
        }
        Ok(())
    })?;
    let seconds = together as f64 / 1e9;
    let aim = ("<= 1.5 s".to_owned(), seconds <= 1.5);
    let name = format!("agentctl launch, {parallel} commands at the same moment");
    report.figure(&name, seconds, format!("{seconds:.2} s"), Some(aim));
    Ok(())
}

pub(crate) fn succeeded(command: &mut Command) -> Outcome<()> {
    if command.status()?.success() { Ok(()) } else { Err(format!("{command:?} failed").into()) }
}

/// The command line with 1,000 and 10,000 records.
pub(crate) fn reading(extent: &Extent, report: &mut Report) -> Outcome<()> {
    let (steps, count): (&[usize], usize) = if extent.quick { (&[100], 5) } else { (&[1_000, 10_000], 30) };
    let mut daemon = Daemon::start("normal")?;
    run_one(&daemon)?;
    let mut records = 1;
    for &step in steps {
        daemon.restart(&json!({"metrics_addr": null, "durability": "normal"}), |home| {
            History::open(home)?.sessions(step - records)
        })?;
        records = step;
        with_records(&daemon, step, count, report)?;
    }
    waiting(&daemon, count, report)?;
    first_byte(&daemon, count, report)?;
    constant_memory(&daemon, if extent.quick { 8 } else { 400 }, report)?;
    beginning(&mut daemon, extent, report)
}

/// A session that has ended, by `true`.
pub(crate) fn run_one(daemon: &Daemon) -> Outcome<()> {
    succeeded(daemon.command().args(["run", "exec", "--force", "--cwd", "/", "--", "true"]))?;
    let ended = daemon.client()?.get("/v1/sessions?all=1")?;
    let id = ended[0]["id"].as_str().ok_or("a session")?.to_owned();
    // Whatever is left of it: the word that nothing of its tree is.
    succeeded(daemon.command().args(["stop", &id])).or(Ok(()))
}

/// The programs take turns, so that a busy moment meets all of them.
fn with_records(daemon: &Daemon, records: usize, count: usize, report: &mut Report) -> Outcome<()> {
    let ids = daemon.client()?.get("/v1/sessions?all=1")?;
    let id = ids[0]["id"].as_str().ok_or("a session")?.to_owned();
    let asked: [(&str, &[&str]); 5] = [
        ("--version", &["--version"]),
        ("list", &["list"]),
        ("list -a --json", &["list", "-a", "--json"]),
        ("list -a", &["list", "-a"]),
        ("status", &["status", &id]),
    ];
    let mut floor = Vec::new();
    let mut took: [Vec<u64>; 5] = Default::default();
    for _ in 0..count {
        floor.push(timed(|| succeeded(Command::new("/bin/true").stdin(Stdio::null())))?);
        for (times, (_, arguments)) in took.iter_mut().zip(asked) {
            times.push(timed(|| succeeded(daemon.command().args(arguments)))?);
        }
    }
    report.times(&format!("{records} records: /bin/true"), &Spread::of(floor));
    for (times, (name, _)) in took.into_iter().zip(asked) {
        let spread = Spread::of(times);
        let name = format!("{records} records: agentctl {name}");
        if records == 1_000
            && matches!(
                name.rsplit_once(": ").map(|(_, name)| name),
                Some("agentctl --version" | "agentctl list" | "agentctl list -a --json")
            )
        {
            let met = spread.p50 <= 5_000_000;
            report.times_with_aim(&name, &spread, "p50 <= 5 ms".to_owned(), met);
        } else {
            report.times(&name, &spread);
        }
    }
    Ok(())
}

/// From a leader's end to the end of the command that waits for it.
fn waiting(daemon: &Daemon, count: usize, report: &mut Report) -> Outcome<()> {
    let scratch = tempfile::tempdir_in("/dev/shm")?;
    let mut client = daemon.client()?;
    let mut took = Vec::new();
    for n in 0..count {
        let leader = Leader::launch(&mut client, scratch.path(), n)?;
        let mut waiting = daemon.command();
        let mut waiting = waiting.args(["wait", &leader.id]).spawn()?;
        // It has asked before the leader ends.
        thread::sleep(std::time::Duration::from_millis(50));
        let gate = leader.end()?;
        waiting.wait()?;
        let at = mono_ns();
        drop(gate);
        took.push(at.saturating_sub(leader.died()?));
    }
    report.times("exit -> agentctl wait has ended", &Spread::of(took));
    Ok(())
}

/// From the start of the command to the first byte of what a session has printed.
fn first_byte(daemon: &Daemon, count: usize, report: &mut Report) -> Outcome<()> {
    let record = daemon.client()?.launch(&["/bin/sh", "-c", "echo hi; exec sleep 100000"])?;
    let id = record["id"].as_str().ok_or("an id")?;
    // Whoever reads before there is anything to read waits for the next look at the log.
    let log = daemon.home().join(format!("sessions/{id}/stdout.log"));
    wait_until("the log has something", || fs::metadata(&log).is_ok_and(|log| log.len() > 0))?;
    let mut took = Vec::new();
    for _ in 0..count {
        let begun = mono_ns();
        let mut command = daemon.command();
        let mut reading = command.args(["logs", "-f", id]).stdout(Stdio::piped()).spawn()?;
        reading.stdout.take().ok_or("a pipe")?.read_exact(&mut [0])?;
        took.push(mono_ns() - begun);
        reading.kill().and_then(|()| reading.wait())?;
    }
    report.times("agentctl logs -f: its first byte", &Spread::of(took));
    Ok(())
}

/// The most memory that commands take which hand much through.
fn constant_memory(daemon: &Daemon, megabytes: u64, report: &mut Report) -> Outcome<()> {
    let bytes = format!("{}", megabytes << 20);
    let record = daemon.client()?.launch(&["/usr/bin/head", "-c", &bytes, "/dev/zero"])?;
    let id = record["id"].as_str().ok_or("an id")?;
    wait_for_end(daemon, id)?;
    for (name, arguments) in
        [("logs", vec!["logs", "--raw", id]), ("events", vec!["events", "--since", "0", "--no-follow"])]
    {
        let mut command = daemon.command();
        let mut child = command.args(&arguments).stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::with_capacity(1 << 16, child.stdout.take().ok_or("a pipe")?);
        let (mut buffer, mut sum, mut peak) = (vec![0; 1 << 16], 0_u64, 0);
        loop {
            let length = output.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            sum += length as u64;
            // Gone in the moment of its end.
            peak = proc::peak_kb(child.id()).unwrap_or(peak);
        }
        child.wait()?;
        let megabytes = sum as f64 / 1e6;
        let words = format!("RSS at most {:.1} MB for {megabytes:.0} MB of output", peak as f64 / 1_024.0);
        let met = peak < 24 << 10;
        let name = format!("agentctl {name}: memory");
        report.figure(&name, peak as f64, words, Some(("RSS < 24 MB, whatever the output".into(), met)));
    }
    Ok(())
}

/// With all these records and as many live sessions.
fn beginning(daemon: &mut Daemon, extent: &Extent, report: &mut Report) -> Outcome<()> {
    let live = if extent.quick { 16 } else { 1_000 };
    at_once(daemon, live)?;
    let records = daemon.client()?.get("/v1/sessions?all=1")?.as_array().map_or(0, Vec::len);
    let config = json!({"metrics_addr": null, "durability": "normal"});
    let nothing = |_: &Path| Ok(());
    let times = (0..5).map(|_| daemon.restart(&config, nothing)).collect::<Outcome<Vec<_>>>()?;
    let took = Spread::of(times);
    let name = format!("daemon with {records} sessions, {live} of them live: start -> first answer");
    report.times_with_aim(&name, &took, "p50 <= 300 ms".into(), took.p50 <= 300_000_000);
    Ok(())
}
