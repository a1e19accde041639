//! Any bytes are an exit file or an error; what is an exit file is written as it was read.

#![no_main]

use std::path::Path;

use agentctl::wire::session_dir::{decode_exit, encode_exit, parse_exit_file_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = Path::new("exit.json");
    if let Ok(exit) = decode_exit(path, bytes) {
        let written = encode_exit(&exit).expect("what was read can be written");
        assert_eq!(decode_exit(path, &written).expect("what was written can be read"), exit);
    }
    if let Ok(name) = std::str::from_utf8(bytes) {
        let _no_name = parse_exit_file_name(name);
    }
});
