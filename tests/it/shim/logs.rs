//! Logs that are kept to their size: cut at the head while the agent writes, whole at the end, free while nothing happens.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use agentctl::sys::log_files::{first_data, prove_holes};

use super::{Session, Shim, until};

const KEPT: u64 = 4 << 20;
/// Two numbers, a line each of 8 bytes, that many: 24 MB.
const LINES: u64 = 3_000_000;

/// A shim that keeps little, of a script that lives until its gate opens; `None`: this file system makes no holes.
fn start(script: &str) -> Option<Shim> {
    let session = Session::gated(script).gate("second").order(|order| order.log_bytes_max = Some(KEPT));
    prove_holes(session.home.path()).ok()?;
    Some(session.start())
}

impl Shim {
    fn stdout_path(&self) -> PathBuf {
        self.files().dir().join("stdout.log")
    }

    /// Length, and what of it is on the disk.
    fn sizes(&self) -> (u64, u64) {
        fs::metadata(self.stdout_path()).map_or((0, 0), |found| (found.len(), found.blocks() * 512))
    }

    /// Waits until the log has this length and was cut; with the space that a file system may take for itself.
    #[track_caller]
    fn cut_at(&self, length: u64) {
        until("a log that is cut", || {
            let (found, on_disk) = self.sizes();
            (found == length && on_disk <= KEPT + KEPT / 4).then_some(())
        });
        assert_eq!(self.files().read_exit().ok(), None, "it lives");
    }
}

/// What is kept is the end of all numbers from 1 to `last`, without a gap.
#[track_caller]
fn assert_intact(shim: &Shim, last: u64) {
    let log = shim.stdout_path();
    let head = first_data(File::open(&log).expect("a log"), 0).expect("told").expect("some data");
    let text = fs::read(&log).expect("a log").split_off(usize::try_from(head).expect("a place"));
    let text = String::from_utf8(text).expect("digits: no zero of a hole");
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert!(text.len() as u64 >= KEPT / 4 * 3, "three quarters are kept, and not {}", text.len());
    let first = last + 1 - lines.len() as u64;
    for (line, number) in lines.iter().zip(first..) {
        assert_eq!(**line, format!("{number:07}"));
    }
}

#[test]
fn a_log_is_cut_while_its_agent_writes_and_keeps_its_end() {
    let script = format!(
        "seq -w 1 {LINES}; read x <gate; seq -f %07.0f $(({LINES} + 1)) $((2 * {LINES})); read x <second"
    );
    let Some(mut shim) = start(&script) else { return };
    shim.cut_at(8 * LINES);
    shim.open("gate");
    shim.cut_at(16 * LINES);
    shim.open("second");
    let (exit, _) = shim.finish();
    assert_eq!(exit.status.and_then(|status| status.code()), Some(0));
    assert_eq!(shim.sizes().0, 16 * LINES, "places stay what they were");
    assert_intact(&shim, 2 * LINES);
    assert_eq!(fs::read_to_string(shim.files().dir().join("shim.log")).unwrap_or_default(), "");
}

#[test]
fn who_writes_much_and_ends_is_met_at_the_end() {
    let Some(mut shim) = start(&format!("seq -w 1 {LINES}")) else { return };
    shim.finish();
    let (length, on_disk) = shim.sizes();
    assert!(length == 8 * LINES && on_disk <= KEPT + KEPT / 4, "{length} {on_disk}");
    assert_intact(&shim, LINES);
}

#[test]
fn a_log_that_fits_is_left_alone() {
    let Some(mut shim) = start("seq -w 1 500000; echo end >&2") else { return };
    shim.finish();
    assert_eq!(fs::read(shim.stdout_path()).expect("a log").iter().filter(|byte| **byte == 0).count(), 0);
    assert_eq!(shim.sizes().0, 7 * 500_000);
}

#[test]
fn a_shim_that_keeps_logs_sleeps_while_nothing_is_written() {
    let Some(mut shim) = start("echo ran; read x <gate; echo more; read x <second") else { return };
    for (word, gate) in [("ran", "gate"), ("more", "second")] {
        shim.heard(word);
        let switches = || {
            let mut status = String::new();
            let path = format!("/proc/{}/status", shim.child.id());
            File::open(path).and_then(|mut file| file.read_to_string(&mut status)).expect("a status");
            let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
            line.expect("a count").to_owned()
        };
        // Time itself is the condition here. One look may still be due; one that comes again and again never ends.
        let slept = (0..4).any(|_| {
            let before = switches();
            thread::sleep(Duration::from_millis(2_500));
            switches() == before
        });
        assert!(slept, "it wakes up although nothing is written after {word}");
        shim.open(gate);
    }
    shim.finish();
}
