//! The house rules, as tests: who may depend on whom, what may be called where, what every file begins with.

use std::fs;
use std::path::{Path, PathBuf};

/// A module, and what it may name of the crate.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("core", &[]),
    ("adapters", &["core"]),
    ("wire", &["core"]),
    ("sys", &["core"]),
    ("config.rs", &["core", "adapters", "limits", "sys"]),
    ("config", &["core", "adapters", "limits", "sys"]),
    ("limits.rs", &[]),
    ("logging.rs", &["sys", "wire"]),
    ("doctor.rs", &["wire", "sys", "limits"]),
    // The vocabulary of core, never its decisions.
    (
        "cli",
        &[
            "wire",
            "config",
            "limits",
            "doctor",
            "sys::BackendChoice",
            "sys::clock",
            "sys::features",
            "sys::host_limits",
            "sys::shim_file",
            "sys::tool",
            "daemon::Home",
            "daemon::OldDaemon",
            "core::vocab",
        ],
    ),
    ("daemon", &["core", "adapters", "wire", "sys", "config", "limits", "doctor"]),
];

/// Text that belongs to some files only, and why.
const ONLY_IN: [(&str, &[&str], &str); 8] = [
    ("tokio_uring", &["src/sys/linux/uring.rs"], "one file may name it"),
    ("io_uring::", &["src/sys/linux/uring.rs"], "one file may name it"),
    (
        "rusqlite",
        &[
            "src/daemon/journal.rs",
            "src/daemon/journal/opening.rs",
            "src/daemon/journal/deliveries.rs",
            "src/daemon/found/opencode.rs",
        ],
        "the journal knows SQL, and whoever asks opencode's database",
    ),
    ("Instant::now", &["src/daemon/follow.rs"], "time enters as an argument"),
    ("SystemTime::now", &[], "time enters as an argument"),
    ("process::exit", &[], "main chooses the exit code by returning it"),
    ("rustls", &["src/daemon/deliver/dial.rs"], "one file connects to receivers"),
    (".output()", &[], "what a program says, and how long it takes, is bounded: sys::tool"),
];

/// Files longer than this are usually two rooms in one.
const LINES_MAX: usize = 660;

fn sources(dir: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(path.to_str().expect("a text")));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

/// The code of a file: no comments, no tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source");
    let before_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = before_tests.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let mut broken = Vec::new();
    for (module, allowed) in MAY_USE {
        for path in sources("src") {
            let inside = path.strip_prefix("src").expect("below src");
            if !inside.starts_with(module) {
                continue;
            }
            for (number, line) in code(&path).lines().enumerate() {
                for named in line.split("crate::").skip(1) {
                    let own = module.trim_end_matches(".rs");
                    // `use crate::{limits, wire}` names several.
                    let names: Vec<_> = match named.strip_prefix('{') {
                        Some(list) => {
                            list.split(['}', ',']).map(str::trim).filter(|name| !name.is_empty()).collect()
                        }
                        None => vec![named],
                    };
                    for name in names.into_iter().filter(|name| !name.starts_with([';', ')'])) {
                        let fine =
                            name.starts_with(own) || allowed.iter().any(|allowed| name.starts_with(allowed));
                        if !fine {
                            broken.push(format!(
                                "{}:{}: {module} may not use {name}",
                                path.display(),
                                number + 1
                            ));
                        }
                    }
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn some_things_are_named_in_one_place_only() {
    let mut broken = Vec::new();
    for path in sources("src") {
        let code = code(&path);
        for (text, homes, why) in ONLY_IN {
            let at_home = homes.iter().any(|home| path == Path::new(home));
            if code.contains(text) && !at_home {
                broken.push(format!("{} names {text}: {why}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn unsafe_code_has_an_address_and_reasons() {
    for path in sources("src") {
        let code = code(&path);
        if code.contains("unsafe {") || code.contains("unsafe fn") {
            let at_the_edge = path.starts_with("src/sys") || path.starts_with("src/bin/agentctl-shim");
            assert!(at_the_edge, "{} is not where the kernel is", path.display());
            let says_why =
                code.split("#![expect(").skip(1).any(|rest| rest.trim_start().starts_with("unsafe_code"));
            assert!(says_why, "{} does not say why", path.display());
        }
    }
}

#[test]
fn the_core_is_pure() {
    const IMPURE: [&str; 9] = [
        "std::fs",
        "std::net",
        "std::env",
        "std::io",
        "std::thread",
        "std::process",
        "tokio",
        "rustix",
        "serde_json",
    ];
    for path in sources("src/core").into_iter().chain(sources("src/adapters")) {
        if path.ends_with("sim.rs") {
            continue;
        }
        let code = code(&path);
        for impure in IMPURE {
            let parses = impure == "serde_json" && path.starts_with("src/adapters");
            assert!(parses || !code.contains(impure), "{} names {impure}", path.display());
        }
    }
}

#[test]
fn every_file_says_what_it_owns() {
    for path in
        ["src", "tests", "benches"].into_iter().filter(|dir| Path::new(dir).exists()).flat_map(sources)
    {
        let text = fs::read_to_string(&path).expect("a source");
        assert!(text.starts_with("//!"), "{} begins without //!", path.display());
    }
}

#[test]
fn files_stay_small() {
    for path in sources("src") {
        let lines = code(&path).lines().count();
        let is_test = ["sim.rs", "fuse_tests.rs", "clock_tests.rs"].iter().any(|name| path.ends_with(name));
        assert!(is_test || lines <= LINES_MAX, "{} has {lines} lines of code", path.display());
    }
}

#[test]
fn nothing_unfinished_is_left() {
    for path in ["src", "tests"].into_iter().flat_map(sources) {
        if path.ends_with("tidy.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        for mark in ["todo!(", "unimplemented!(", "FIXME", "XXX", "dbg!(", "#[ignore"] {
            assert!(!text.contains(mark), "{} holds {mark}", path.display());
        }
    }
}

/// Mounts and settings are made in one file, which refuses to outside of a namespace of the test's own.
#[test]
fn no_test_changes_a_setting_of_the_whole_machine() {
    const MAKES_THEM: &str = "tests/it/support/namespace.rs";
    const CHANGES: [&str; 12] = [
        "rustix::mount",
        "libc::mount",
        "\"mount\"",
        "\"umount\"",
        "\"sysctl\"",
        "\"date\"",
        "\"hostname\"",
        "write(\"/proc/sys",
        "write(\"/sys",
        "clock_settime",
        "settimeofday",
        "sethostname",
    ];
    for path in ["tests", "benches"].into_iter().flat_map(sources) {
        if path.ends_with("tidy.rs") || path == Path::new(MAKES_THEM) {
            continue;
        }
        let text = fs::read_to_string(&path).expect("a source");
        for change in CHANGES {
            assert!(!text.contains(change), "{} holds {change}: see {MAKES_THEM}", path.display());
        }
    }
}

#[test]
fn the_changelog_and_the_manifest_agree() {
    let manifest = fs::read_to_string("Cargo.toml").expect("a manifest");
    let changelog = fs::read_to_string("CHANGELOG.md").expect("a changelog");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = "))
        .expect("a version")
        .trim_matches('"');
    let known = changelog.contains("## Unreleased") || changelog.contains(&format!("## {version}"));
    assert!(known, "the changelog does not know version {version}");
}
