//! What commands print, whole, held against a golden file: what differs from run to run is masked, nothing else.
//!
//! `AGENTCTL_BLESS=1` writes the files anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::daemon::Daemon;
use super::play::{stderr, stdout};

/// Keys of JSON whose values are another ones each time.
const VOLATILE: [&str; 7] =
    ["cpuSeconds", "cursor", "leftovers", "maxRssBytes", "memoryPeakBytes", "oomKills", "uptimeSeconds"];

/// A course of commands by somebody at home in a directory of the daemon's.
pub(crate) struct Transcript<'a> {
    daemon: &'a Daemon,
    home: PathBuf,
    text: String,
    ids: Vec<String>,
    pids: BTreeSet<String>,
    masks: Vec<(String, String)>,
}

impl<'a> Transcript<'a> {
    pub(crate) fn new(daemon: &'a Daemon) -> Self {
        let home = fs::canonicalize(daemon.home()).expect("a home").join("dev");
        fs::create_dir(&home).expect("a directory");
        let pids = BTreeSet::from([daemon.pid().to_string()]);
        Self { daemon, home, text: String::new(), ids: Vec::new(), pids, masks: Vec::new() }
    }

    /// Where they are at home, with programs of their own.
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// What else is another one each time, and how it is shown.
    pub(crate) fn mask(&mut self, text: &str, shown: &str) {
        self.masks.push((text.to_owned(), shown.to_owned()));
    }

    /// Runs a command and writes down what came of it; its stdout.
    pub(crate) fn run(&mut self, words: &[&str]) -> String {
        let output = self.daemon.run_at(&self.home, words);
        let (code, out, err) = (output.status.code(), stdout(&output), stderr(&output));
        let quoted: Vec<_> = words.iter().map(|word| quote(word)).collect();
        self.text += &format!("$ agentctl {}\n{out}", quoted.join(" "));
        for line in err.lines() {
            self.text += &format!("! {line}\n");
        }
        if code != Some(0) {
            self.text += &format!("[{}]\n", code.map_or("killed".to_owned(), |code| code.to_string()));
        }
        self.text.push('\n');
        self.learn();
        out
    }

    /// Which ids and numbers there are now.
    fn learn(&mut self) {
        let (status, body) = self.daemon.http("GET", "/v1/sessions?all=1", "", "");
        if status != 200 {
            return;
        }
        let sessions: Vec<Value> = serde_json::from_str(&body).unwrap_or_default();
        // Newest first.
        for session in sessions.iter().rev() {
            let id = session["id"].as_str().expect("an id").to_owned();
            if !self.ids.contains(&id) {
                self.ids.push(id);
            }
            if let Some(pid) = session["pid"].as_u64() {
                self.pids.insert(pid.to_string());
            }
        }
    }

    /// The text, masked, is that of the golden file.
    #[track_caller]
    pub(crate) fn is(self, name: &str) {
        let path = Path::new("tests/fixtures/compat").join(format!("{name}.txt"));
        let masked = self.masked();
        if std::env::var_os("AGENTCTL_BLESS").is_some() {
            fs::write(&path, &masked).expect("a golden file");
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            masked == golden,
            "{} differs; AGENTCTL_BLESS=1 writes it anew:\n{}",
            path.display(),
            differing(&golden, &masked)
        );
    }

    fn masked(&self) -> String {
        let real = fs::canonicalize(self.daemon.home()).expect("a home");
        let mut text = self.text.clone();
        for (path, mask) in
            [(self.home.as_path(), "/home/dev"), (&real, "/agentctl"), (self.daemon.home(), "/agentctl")]
        {
            text = text.replace(path.to_str().expect("a text"), mask);
        }
        for (at, id) in self.ids.iter().enumerate() {
            text = text.replace(id.as_str(), &format!("<id {}>", at + 1));
            text = text.replace(&id[..8], &format!("<id{}>", at + 1));
        }
        for (each_time, shown) in &self.masks {
            text = text.replace(each_time, shown);
        }
        text = text.replace(env!("CARGO_PKG_VERSION"), "<version>");
        let lines: Vec<String> = text.lines().map(|line| self.line(line)).collect();
        let mut sorted: Vec<String> = Vec::with_capacity(lines.len());
        for line in lines {
            // Evidence comes in whichever order it comes.
            let evidence = |line: &str| line.starts_with("Evidence ");
            let at = sorted.iter().rposition(|before| !evidence(before)).map_or(0, |at| at + 1);
            let at = if evidence(&line) {
                at + sorted[at..].partition_point(|before| *before < line)
            } else {
                sorted.len()
            };
            sorted.insert(at, line);
        }
        sorted.join("\n") + "\n"
    }

    fn line(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for key in VOLATILE {
            let start = format!("\"{key}\":");
            let mut from = 0;
            while let Some(at) = line[from..].find(&start) {
                let value = from + at + start.len();
                let blanks = line[value..].len() - line[value..].trim_start().len();
                let end = line[value + blanks..]
                    .find([',', '}', '\n'])
                    .map_or(line.len(), |end| value + blanks + end);
                line.replace_range(value + blanks..end, "<n>");
                from = value + blanks;
            }
        }
        let is_json = line.trim_start().starts_with(['{', '"', '[']);
        let mut masked = String::new();
        let mut rest = line.as_str();
        while let Some(first) = rest.chars().next() {
            let word_begins = !masked
                .chars()
                .next_back()
                .is_some_and(|c| c.is_ascii_alphanumeric() || c == '<' || c == '.');
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (taken, mask) = if word_begins && is_uuid(rest) {
                (36, Some("<uuid>"))
            } else if !word_begins || digits == 0 {
                (first.len_utf8(), None)
            } else if is_time(rest) {
                (24, Some("<time>"))
            } else if let Some(unit) = age(&rest[digits..]) {
                (digits + unit, Some("<age>"))
            } else if let Some(length) = seconds(rest, digits) {
                (length, Some("<seconds>"))
            } else if self.pids.contains(&rest[..digits]) {
                (digits, Some("<pid>"))
            } else {
                (digits, None)
            };
            masked += mask.unwrap_or(&rest[..taken]);
            rest = &rest[taken..];
        }
        // Columns are as wide as numbers are long.
        if is_json { masked } else { narrow(&masked) }
    }
}

/// Runs of blanks and dashes, which lay out tables, in one length.
fn narrow(line: &str) -> String {
    let indent = line.len() - line.trim_start().len();
    let mut narrow = line[..indent].to_owned();
    for c in line[indent..].chars() {
        let run = narrow.len() - narrow.trim_end_matches(c).len();
        let most = match c {
            ' ' => 2,
            '-' => 3,
            _ => usize::MAX,
        };
        if run < most {
            narrow.push(c);
        }
    }
    narrow
}

/// That of anything but a session.
fn is_uuid(text: &str) -> bool {
    let shape = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";
    let fits = |(c, shape): (u8, u8)| if shape == b'x' { c.is_ascii_hexdigit() } else { c == shape };
    text.len() >= shape.len() && text.bytes().zip(shape.bytes()).all(fits)
}

/// `2026-11-22T09:03:55.045Z`
fn is_time(text: &str) -> bool {
    let shape = "dddd-dd-ddTdd:dd:dd.dddZ";
    text.len() >= shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(c, shape)| if shape == b'd' { c.is_ascii_digit() } else { c == shape })
}

fn age(after_digits: &str) -> Option<usize> {
    ["s ago", "m ago", "h ago", "d ago"]
        .iter()
        .find(|unit| after_digits.starts_with(**unit))
        .map(|unit| unit.len())
}

/// `1.2 s`, `3 ms` or `3 s`.
fn seconds(text: &str, digits: usize) -> Option<usize> {
    let fraction = text[digits..]
        .strip_prefix('.')
        .map(|rest| 1 + rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len());
    let number = digits + fraction.unwrap_or(0);
    let unit = [" ms", " s"].iter().find(|unit| {
        text[number..]
            .strip_prefix(**unit)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    })?;
    Some(number + unit.len())
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

/// The first lines that differ, of a file each.
fn differing(golden: &str, now: &str) -> String {
    let mut said = String::new();
    let (mut golden, mut now) = (golden.lines(), now.lines());
    for number in 1.. {
        match (golden.next(), now.next()) {
            (None, None) => break,
            (was, is) if was != is && said.len() < 4_000 => {
                said += &format!(
                    "{number}: - {}\n{number}: + {}\n",
                    was.unwrap_or("(end)"),
                    is.unwrap_or("(end)")
                );
            }
            _ => {}
        }
    }
    said
}
