//! Hours of sessions that come and go: memory, descriptors and latency, which have to stay where they are.
//!
//! As in a long run as many are forgotten as come, only sooner: what has ended is kept for seconds, by `retention_days`, so the
//! number of records is at its height before the second third begins.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::daemon::Daemon;
use crate::exits::Watch;
use crate::plot::{self, Line, Titles};
use crate::proc::{self, mono_ns};
use crate::report::{Report, Spread};
use crate::{Extent, Outcome};

/// Launches in a second.
const RATE: u64 = 50;
/// The longest life, in milliseconds.
const LIFE_MS_MAX: u64 = 4_000;
/// What has ended is kept so long, in seconds.
const KEPT_S_MAX: f64 = 20.0;
/// Between two samples.
const EVERY: Duration = Duration::from_secs(5);

struct Sample {
    minutes: f64,
    records: f64,
    rss_mb: f64,
    fds: f64,
    latency_ms: f64,
}

pub(crate) fn measure(extent: &Extent, report: &mut Report) -> Outcome<()> {
    let minutes = std::env::var("AGENTCTL_SOAK_MINUTES").map_or(Ok(3.0), |value| value.parse::<f64>())?;
    let seconds = if extent.quick { 15.0 } else { minutes * 60.0 };
    let kept = (seconds / 9.0).min(KEPT_S_MAX);
    let config = json!({"metrics_addr": null, "durability": "normal", "retention_days": kept / 86_400.0});
    let daemon = Daemon::start_with(config)?;
    let over = AtomicBool::new(false);
    let samples = thread::scope(|scope| {
        let launching = scope.spawn(|| launch(&daemon, &over));
        let samples = sample(&daemon, seconds);
        over.store(true, Ordering::Relaxed);
        let launched = launching.join().map_err(|_| "the launching thread panicked")??;
        Outcome::Ok((samples?, launched))
    })?;
    let (samples, launched) = samples;
    let words = format!("{launched} sessions in {:.1} minutes, kept for {kept:.0} s", seconds / 60.0);
    report.figure("soak: launched", launched as f64, words, None);
    // The first third fills caches and allocators.
    let third = samples.len() / 3;
    let mean = |part: &[Sample], value: fn(&Sample) -> f64| {
        part.iter().map(value).sum::<f64>() / part.len().max(1) as f64
    };
    for (name, unit, value) in [
        ("records, of which as many go as come", "", (|sample| sample.records) as fn(&Sample) -> f64),
        ("memory of the daemon", "MB", |sample| sample.rss_mb),
        ("its open files", "", |sample| sample.fds),
        ("exit -> event", "ms", |sample| sample.latency_ms),
    ] {
        let (middle, end) = (mean(&samples[third..2 * third], value), mean(&samples[2 * third..], value));
        let words = format!("{middle:.1} {unit} in the second third, {end:.1} {unit} in the last");
        let aim = Some(("flat: at most 1.15 x".to_owned(), end <= middle * 1.15 + 0.5));
        report.figure(&format!("soak: {name}"), end, words, aim);
    }
    draw(&samples)
}

/// Random lives, so many in a second, until told.
fn launch(daemon: &Daemon, over: &AtomicBool) -> Outcome<u64> {
    let mut client = daemon.client()?;
    let (begun, mut launched) = (mono_ns(), 0);
    while !over.load(Ordering::Relaxed) {
        let life = format!("{:.3}", fastrand::u64(0..LIFE_MS_MAX) as f64 / 1e3);
        client.launch(&["/bin/sleep", &life])?;
        launched += 1;
        let due = begun + launched * 1_000_000_000 / RATE;
        thread::sleep(Duration::from_nanos(due.saturating_sub(mono_ns())));
    }
    Ok(launched)
}

fn sample(daemon: &Daemon, seconds: f64) -> Outcome<Vec<Sample>> {
    let mut watch = Watch::over(daemon)?;
    let (begun, mut samples) = (mono_ns(), Vec::new());
    loop {
        let at = (mono_ns() - begun) as f64 / 1e9;
        if at >= seconds {
            return Ok(samples);
        }
        let latency = Spread::of(watch.exits(5)?.told).p50;
        let records = daemon.client()?.get("/v1/sessions?all=1&discovered=0")?;
        samples.push(Sample {
            minutes: at / 60.0,
            records: records.as_array().map_or(0, Vec::len) as f64,
            rss_mb: proc::memory(daemon.pid())?.rss_kb as f64 / 1_024.0,
            fds: fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count() as f64,
            latency_ms: latency as f64 / 1e6,
        });
        thread::sleep(EVERY);
    }
}

fn draw(samples: &[Sample]) -> Outcome<()> {
    let line = |name: &str, value: fn(&Sample) -> f64| Line {
        name: name.to_owned(),
        points: samples.iter().map(|sample| (sample.minutes, value(sample))).collect(),
    };
    let caption = format!("{RATE} launches a second, each living up to {} s", LIFE_MS_MAX / 1_000);
    let lines = [
        line("memory of the daemon, MB", |sample| sample.rss_mb),
        line("records, hundreds", |sample| sample.records / 100.0),
        line("open files, tens", |sample| sample.fds / 10.0),
        line("exit -> event, ms", |sample| sample.latency_ms),
    ];
    plot::plain(&Titles { file: "soak", caption: &caption, x: "minutes", y: "" }, &lines)
}
