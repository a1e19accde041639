//! Recorded output of every agent, read by its adapter: `tests/fixtures/<adapter>/NAME.jsonl` gives exactly
//! what `NAME.expected.json` says.
//!
//! `AGENTCTL_BLESS=1 cargo test --test it adapters` writes the expectations anew; read the diff before
//! committing it.

use std::fs;
use std::path::{Path, PathBuf};

use agentctl::adapters::{self, Parse, Progress, Tail, acp};
use agentctl::core::agent::{AgentReport, StepEnd};
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// Every folder of recordings, and who reads it: an adapter's, and that of the agents that spoke ACP.
fn parsers() -> Vec<(&'static str, Parse)> {
    let of_adapters = adapters::ALL.iter().filter_map(|adapter| Some((adapter.name, adapter.parse?)));
    of_adapters.chain([("acp", acp::parse as Parse)]).collect()
}

/// The recordings of one folder, by name of file.
fn recordings(name: &str) -> Vec<PathBuf> {
    let folder = fixtures().join(name);
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("adapter {name} has no fixtures in {}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder entry").path()).collect();
    found.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    found.sort();
    assert!(!found.is_empty(), "adapter {name} has no *.jsonl in {}", folder.display());
    found
}

/// All that an adapter understood of one recording.
fn understood(log: &[u8], parse: Parse) -> Value {
    let progress = Progress::of(Tail::Whole(log), parse, 100);
    let last_step = progress.last_step.as_ref().map(|end| match end {
        StepEnd::Stop => "stop",
        StepEnd::ToolCalls => "tool-calls",
        StepEnd::Other(reason) | StepEnd::Failed(reason) => reason,
    });
    json!({
        "nativeId": progress.native_id,
        "tokens": progress.tokens,
        // To a millionth of a cent: sums of floats differ in their last digits.
        "costUsd": progress.cost_usd.map(|cost| (cost * 1e8).round() / 1e8),
        "messages": progress.messages,
        "lastError": progress.last_error,
        "lastStep": last_step,
        "report": adapters::report(&progress),
    })
}

#[test]
fn every_recording_is_understood_as_expected() {
    let bless = std::env::var_os("AGENTCTL_BLESS").is_some();
    let mut wrong = Vec::new();
    for (adapter, parse) in parsers() {
        for recording in recordings(adapter) {
            let found = understood(&fs::read(&recording).expect("read a recording"), parse);
            let expectation = recording.with_extension("expected.json");
            if bless {
                fs::write(&expectation, format!("{found:#}\n")).expect("write an expectation");
            }
            let expected = fs::read_to_string(&expectation)
                .unwrap_or_else(|error| panic!("{}: {error}", expectation.display()));
            let expected: Value = serde_json::from_str(&expected)
                .unwrap_or_else(|error| panic!("{}: {error}", expectation.display()));
            if found != expected {
                wrong.push(format!("{}\nexpected {expected:#}\nfound {found:#}", recording.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The end of a log is all that a verdict looks at: every cut that keeps the last lines whole must agree. Where the whole
/// tells of no success, it may know less, but never of one.
#[test]
fn the_end_of_a_recording_reports_what_the_whole_reports() {
    for (adapter, parse) in parsers() {
        for recording in recordings(adapter) {
            let log = fs::read(&recording).expect("read a recording");
            let report = |tail| adapters::report(&Progress::of(tail, parse, 0));
            let whole = report(Tail::Whole(&log));
            let lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
            let last_two: usize = lines.iter().rev().take(2).map(|line| line.len()).sum();
            for start in 1..log.len().saturating_sub(last_two) {
                let cut = report(Tail::Cut(&log[start..]));
                let less = cut == AgentReport::Missing && whole != AgentReport::Success;
                assert!(cut == whole || less, "{} from {start}: {cut:?}", recording.display());
            }
        }
    }
}

#[test]
fn no_expectation_is_left_without_its_recording() {
    for (adapter, _) in parsers() {
        for entry in fs::read_dir(fixtures().join(adapter)).expect("the fixture folder") {
            let path = entry.expect("a folder entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).expect("a UTF-8 name").to_owned();
            let recording = match name.strip_suffix(".expected.json") {
                Some(stem) => path.with_file_name(format!("{stem}.jsonl")),
                None => path.clone(),
            };
            assert!(recording.exists() && recording.extension().is_some_and(|it| it == "jsonl"), "{name}");
        }
    }
}
