//! How the programs are linked: the shim at a fixed address, and the unwinder into both.
//!
//! Hundreds of shims run at once, and what the loader relocates is memory of each one's own. Not position-independent, the
//! shim's tables stay shared pages of its file. The unwinder is the one library besides the C library that a program of Rust
//! needs; linked in, no start has to find, map and relocate it, and no shim has pages of it.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is =
        |what: &str, value: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).is_ok_and(|is| is == value);
    if is("OS", "linux") {
        println!("cargo::rustc-link-arg-bin=agentctl-shim=-no-pie");
        if is("ENV", "gnu") && env::var("HOST") == env::var("TARGET") && has_static_unwinder() {
            println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
        }
    }
}

/// Whether the linker's compiler comes with it; it answers with a path for what it has. Without, the shared one is used.
fn has_static_unwinder() -> bool {
    let asked = Command::new("cc").arg("-print-file-name=libgcc_eh.a").output();
    asked.is_ok_and(|answer| Path::new(String::from_utf8_lossy(&answer.stdout).trim()).is_absolute())
}
