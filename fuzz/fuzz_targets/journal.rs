//! The journal reader: any file is a journal or is refused, and one that is refused is left as it was.

#![no_main]

use std::fs;

use agentctl::daemon::records_in;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("journal.db");
    fs::write(&path, bytes).expect("a file");
    if records_in(&path).is_err() {
        assert!(fs::read(&path).expect("the file") == bytes, "a refused journal was changed");
    }
});
