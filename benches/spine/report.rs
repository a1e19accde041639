//! The table and its JSON.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::Outcome;

/// Percentiles of a set of measurements.
pub(crate) struct Spread {
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) max: u64,
    pub(crate) count: usize,
    /// All together.
    pub(crate) sum: u64,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let sum = values.iter().sum();
        let at =
            |percent: usize| values.get((values.len() * percent / 100).min(values.len().saturating_sub(1)));
        let [p50, p90, p99, max] = [50, 90, 99, 100].map(|percent| at(percent).copied().unwrap_or(0));
        Self { p50, p90, p99, max, count: values.len(), sum }
    }
}

struct Line {
    name: String,
    words: String,
    aim: Option<(String, bool)>,
    figures: Value,
}

/// All lines so far.
pub(crate) struct Report {
    name: String,
    machine: Value,
    lines: Vec<Line>,
}

impl Report {
    /// `name`: of the files that are written.
    pub(crate) fn begin(name: &str, quick: bool) -> Self {
        Self { name: name.to_owned(), machine: machine(quick), lines: Vec::new() }
    }

    pub(crate) fn times(&mut self, name: &str, spread: &Spread) {
        self.spread(name, spread, None);
    }

    pub(crate) fn times_with_aim(&mut self, name: &str, spread: &Spread, aim: String, met: bool) {
        self.spread(name, spread, Some((aim, met)));
    }

    pub(crate) fn figure(&mut self, name: &str, figure: f64, words: String, aim: Option<(String, bool)>) {
        self.lines.push(Line { name: name.to_owned(), words, aim, figures: json!({ "figure": figure }) });
    }

    fn spread(&mut self, name: &str, spread: &Spread, aim: Option<(String, bool)>) {
        let ms = |nanos: u64| nanos as f64 / 1e6;
        let Spread { p50, p90, p99, max, count, .. } = spread;
        let words = format!("p50 {:.3}  p90 {:.3}  p99 {:.3} ms", ms(*p50), ms(*p90), ms(*p99));
        let figures = json!({"p50_ns": p50, "p90_ns": p90, "p99_ns": p99, "max_ns": max, "count": count});
        self.lines.push(Line { name: name.to_owned(), words, aim, figures });
    }

    /// Prints the table and writes the JSON.
    pub(crate) fn end(mut self) -> Outcome<()> {
        self.machine["load_after"] = read("/proc/loadavg").into();
        let width = self.lines.iter().map(|line| line.name.len()).max().unwrap_or(0);
        let middle = self.lines.iter().map(|line| line.words.len()).max().unwrap_or(0);
        for line in &self.lines {
            let aim = line.aim.as_ref().map_or(String::new(), |(aim, met)| {
                format!("{} (aim: {aim})", if *met { "met" } else { "NOT MET" })
            });
            println!("{:width$}  {:middle$}  {aim}", line.name, line.words);
        }
        println!("\nFor docs/performance.md:\n\n| What | Measured | Aim | |\n|---|---|---|---|");
        for line in &self.lines {
            let aim = line.aim.as_ref().map_or("", |(aim, _)| aim);
            let met = line.aim.as_ref().map_or("", |(_, met)| if *met { "met" } else { "not met" });
            println!("| {} | {} | {aim} | {met} |", line.name, line.words.replace("  ", " "));
        }
        println!("\n{}", self.machine);
        let lines = self.lines.iter().map(|line| {
            let aim = line.aim.as_ref().map(|(aim, _)| aim);
            let met = line.aim.as_ref().map(|(_, met)| met);
            json!({"name": line.name, "measured": line.words, "aim": aim, "met": met, "figures": line.figures})
        });
        let all = json!({"machine": self.machine, "lines": lines.collect::<Vec<_>>()});
        let path = output_dir()?.join(format!("{}.json", self.name));
        fs::write(&path, serde_json::to_vec_pretty(&all)?)?;
        println!("{}", path.display());
        Ok(())
    }
}

/// Where tables and plots are written.
pub(crate) fn output_dir() -> Outcome<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn machine(quick: bool) -> Value {
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let git = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit =
        git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "files": files(&std::env::temp_dir()),
        "commit": commit,
        "quick": quick,
        "load_before": read("/proc/loadavg"),
    })
}

/// The file system that homes are made on. What a launch and a commit cost depends on it, and on ext4 on its journal.
fn files(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = read("/proc/mounts");
    let mounts = mounts.lines().filter_map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        Some((*words.first()?, *words.get(1)?, *words.get(2)?))
    });
    let holds = mounts.filter(|(_, place, _)| dir.starts_with(place));
    // The later of two in one place covers the earlier.
    let Some((device, _, kind)) = holds.max_by_key(|(_, place, _)| place.len()) else { return String::new() };
    let device = device.trim_start_matches("/dev/").replace('/', "!");
    let journal =
        if Path::new("/proc/fs/jbd2").join(format!("{device}-8")).exists() { "with" } else { "without" };
    if kind == "ext4" { format!("ext4 {journal} a journal") } else { kind.to_owned() }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
