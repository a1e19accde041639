//! What a shim costs while it waits: hundreds of them do.

use std::process::Command;
use std::{fs, path::Path};

use super::Session;

/// A library of its own would be written to by the loader, in each shim anew.
#[test]
fn a_waiting_shim_has_no_library_of_its_own() {
    let archive = Command::new("cc").arg("-print-file-name=libc.a").output();
    let there = archive.is_ok_and(|found| found.stdout.starts_with(b"/"));
    if !there {
        // No static C library: it is linked as any program is.
        return;
    }
    let shim = Session::gated("echo waits; read x <gate").start();
    shim.heard("waits");
    let maps = fs::read_to_string(format!("/proc/{}/maps", shim.child.id())).expect("our child's maps");
    let files = maps.lines().filter_map(|line| line.split_once('/')).map(|(_, path)| format!("/{path}"));
    let program = Path::new(env!("CARGO_BIN_EXE_agentctl-shim"));
    let others: Vec<String> = files.filter(|file| Path::new(file) != program).collect();
    assert!(others.is_empty(), "{others:?}");
}
