//! A request line and a body: any bytes are a route, a request, a cursor, or an error.

#![no_main]

use agentctl::wire::api::{Extend, Launch, Stop, parse_cursor};
use agentctl::wire::route::Route;
use agentctl::wire::time::parse_rfc3339;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (line, body) = bytes.split_at(bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len()));
    if let Ok(line) = std::str::from_utf8(line) {
        let (method, path) = line.split_once(' ').unwrap_or(("GET", line));
        if let Ok(Route::Session(name) | Route::Stop(name)) = Route::of(method, path) {
            assert!(!path.is_empty() || name.is_empty());
        }
        let _no_cursor = parse_cursor(line, "0123456789ab");
        let _no_time = parse_rfc3339(line);
    }
    if let Ok(launch) = serde_json::from_slice::<Launch>(body) {
        let written = serde_json::to_vec(&launch).expect("what was read can be written");
        assert!(serde_json::from_slice::<Launch>(&written).is_ok(), "what was written can be read");
    }
    let _no_stop = serde_json::from_slice::<Stop>(body);
    let _no_extend = serde_json::from_slice::<Extend>(body);
});
