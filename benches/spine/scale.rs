//! The same exits with 1 to 5,000 sessions, beside what one would write instead; and what so many idle ones cost.
//!
//! One daemon, whose sessions become more. For `full` it is restarted over the sessions that it has.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::commands::succeeded;
use crate::daemon::Daemon;
use crate::exits::{Taken, Watch};
use crate::idle;
use crate::launches::at_once;
use crate::others::{self, Sleepers};
use crate::plot::{self, Line, Titles};
use crate::proc;
use crate::report::{Report, Spread};
use crate::webhooks::{self, Receiver};
use crate::{Extent, Outcome};

/// Exits that are waited for once in a period: enough to see the period.
const POLLED: usize = 30;

pub(crate) fn measure(extent: &Extent, report: &mut Report) -> Outcome<()> {
    let (count, burst) = if extent.quick { (10, 20) } else { (100, 500) };
    let mut steps = vec![1, 100, 1_000, 5_000];
    steps.retain(|step| *step <= extent.sessions_most);
    let mut daemon = Daemon::start("normal")?;
    let mut lines = Lines::default();
    let (mut sessions, before) = (0, held_kb()?);
    let receiver = Receiver::start()?;
    idle::daemon_memory("no session", daemon.pid(), 0, report)?;
    for &step in &steps {
        eprintln!("{step} sessions ...");
        at_once(&daemon, step - sessions)?;
        sessions = step;
        thread::sleep(Duration::from_secs(2));
        // Of those that run alone: what the exits before have left is another matter.
        succeeded(daemon.command().arg("prune"))?;
        for durability in ["normal", "full"] {
            daemon.restart(&config(durability), |_| Ok(()))?;
            thread::sleep(Duration::from_secs(2));
            if durability == "normal" {
                idle::daemon_memory(&format!("{step} sessions"), daemon.pid(), step, report)?;
            }
            let mut watch = Watch::over(&daemon)?;
            let taken = watch.exits(count)?;
            lines.exits(durability, step, &taken, report);
            if step == 1_000 || extent.quick && step == 100 {
                bursts(durability, burst, &mut watch, &taken, report)?;
            }
        }
        daemon.restart(&webhooks::config("normal", &receiver), |_| Ok(()))?;
        thread::sleep(Duration::from_secs(2));
        let name = format!("normal, {step} sessions");
        let told = webhooks::measure(&daemon, &receiver, ("normal", &name), count, report)?;
        lines.add("agentctl, durability normal, webhook", step, &told);
        lines.instead(step, count, report)?;
    }
    if !extent.quick {
        lines.polled(report)?;
    }
    daemon.restart(&config("normal"), |_| Ok(()))?;
    idle::measure(&daemon, sessions, extent.idle_s, report)?;
    memory(sessions, before, report)?;
    drop(daemon);
    lines.draw()
}

fn config(durability: &str) -> Value {
    json!({"metrics_addr": null, "durability": durability})
}

fn bursts(
    durability: &str,
    count: usize,
    watch: &mut Watch,
    calm: &Taken,
    report: &mut Report,
) -> Outcome<()> {
    let (raw, told) = watch.burst(count)?;
    let commit = Spread::of(calm.commits.clone()).p50;
    let most = raw * 3 / 2 + 2 * commit;
    let ms = |ns: u64| ns as f64 / 1e6;
    let words = format!("last event {:.1} ms, last raw pidfd event {:.1} ms", ms(told), ms(raw));
    let aim = format!("<= 1.5 x raw + 2 commits = {:.1} ms", ms(most));
    let name = format!("{durability}: {count} exits at the same moment");
    report.figure(&name, ms(told), words, Some((aim, told <= most)));
    Ok(())
}

/// What processes and the kernel hold. Files are not counted, nor what is kept of them and could be given back.
fn held_kb() -> Outcome<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let held = ["AnonPages:", "PageTables:", "KernelStack:", "SUnreclaim:", "Percpu:"];
    held.iter().map(|name| proc::field(&meminfo, name)).sum()
}

/// Really: with what the kernel keeps for each process, beside the same leaders as plain children.
fn memory(sessions: usize, before: u64, report: &mut Report) -> Outcome<()> {
    let per_one = |before: u64, after: u64| after.saturating_sub(before) as f64 / sessions as f64;
    let supervised = per_one(before, held_kb()?);
    let before = held_kb()?;
    let sleepers = Sleepers::start(sessions)?;
    let plain = per_one(before, held_kb()?);
    drop(sleepers);
    let more = supervised - plain;
    let words =
        format!("{more:.0} kB (session with its leader {supervised:.0} kB, the leader alone {plain:.0} kB)");
    report.figure(
        &format!("memory for each of {sessions} sessions, of process and kernel"),
        more,
        words,
        None,
    );
    Ok(())
}

/// What becomes plots.
#[derive(Default)]
struct Lines {
    by_sessions: Vec<Line>,
    spread: Vec<Line>,
}

impl Lines {
    fn add(&mut self, name: &str, sessions: usize, values: &[u64]) {
        let p50 = Spread::of(values.to_vec()).p50;
        let point = (sessions as f64, p50 as f64 / 1e6);
        match self.by_sessions.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => self.by_sessions.push(Line { name: name.to_owned(), points: vec![point] }),
        }
        // The last count of sessions stays.
        self.spread.retain(|line| line.name != name);
        self.spread.push(plot::shares(name, values));
    }

    fn exits(&mut self, durability: &str, sessions: usize, taken: &Taken, report: &mut Report) {
        let name = format!("{durability}, {sessions} sessions");
        taken.judge((durability, &name), report);
        if durability == "normal" {
            self.add("raw epoll on pidfds (the floor)", sessions, &taken.raw);
        }
        self.add(&format!("agentctl, durability {durability}"), sessions, &taken.told);
    }

    fn instead(&mut self, sessions: usize, count: usize, report: &mut Report) -> Outcome<()> {
        self.other("tokio::process", sessions, &others::tokio_process(sessions - 1, count)?, report);
        let _sleepers = Sleepers::start(sessions - 1)?;
        self.other("a loop over SIGCHLD", sessions, &others::sigchld(count)?, report);
        Ok(())
    }

    fn other(&mut self, name: &str, sessions: usize, took: &[u64], report: &mut Report) {
        let what = format!("{sessions} children of its own: exit -> {name}");
        report.times(&what, &Spread::of(took.to_vec()));
        self.add(name, sessions, took);
    }

    fn polled(&mut self, report: &mut Report) -> Outcome<()> {
        for seconds in [1, 15] {
            eprintln!("a poller, every {seconds} s ...");
            let took = others::poller(Duration::from_secs(seconds), POLLED)?;
            let name = format!("a poller, every {seconds} s");
            report.times(&format!("exit -> {name}"), &Spread::of(took.clone()));
            self.spread.push(plot::shares(&name, &took));
        }
        Ok(())
    }

    fn draw(&self) -> Outcome<()> {
        let caption = "From a leader's end to the word of it, median, by the number of sessions";
        let titles = Titles { file: "exits-by-sessions", caption, x: "sessions", y: "ms" };
        plot::log_log(&titles, &self.by_sessions)?;
        let caption = "From a leader's end to the word of it, with most sessions";
        let titles = Titles { file: "exits", caption, x: "ms", y: "share of exits" };
        plot::distribution(&titles, &self.spread)
    }
}
