//! The formats that cross a boundary: the API, webhooks, and the files between daemon and shim.
//!
//! Whatever is serialised is for ever: each format has a version and golden files in tests/fixtures.

pub mod again; // rerun, signal, prune
pub mod amounts; // sizes and percentages
pub mod api;
pub mod deliveries;
pub mod events;
pub mod found;
pub mod fuses; // of directories
pub mod git; // its list of worktrees
pub mod groups;
pub mod journald;
pub mod locks;
pub mod old_home; // the earlier agentctl's files
pub mod old_tool; // and its protocol
pub mod parcel;
pub mod route; // which request means what
pub mod session_dir;
pub mod time;
pub mod webhook;

/// Bytes in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
