//! How the programs are linked: the unwinder into all, and into the shim, at a fixed address, the C library too.
//!
//! The unwinder is the one library besides the C library that a program of Rust needs; linked in, no start has to find, map
//! and relocate it. Hundreds of shims run at once, and what a loader relocates and a shared library keeps is memory of each
//! one's own: a shim that brings everything along has neither, and its tables stay shared pages of its file. It looks up no
//! names and no users, which is all that a static glibc is bad at; `agentctl` does. Where an archive is not to be had, the
//! shared library is used.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// What rustc asks the linker for. Cargo cannot link one program of a package in another way than the rest, but the linker
/// looks for these names in our directory first.
const ASKED: [&str; 7] = ["c", "m", "dl", "rt", "util", "pthread", "gcc_s"];

/// What it is given for each of them. As one group, for they need each other.
const GIVEN: [&str; 7] = ["c", "m", "dl", "rt", "util", "pthread", "gcc"];

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let cargo_says = |key: &str| env::var(key).unwrap_or_default();
    if cargo_says("CARGO_CFG_TARGET_OS") != "linux" {
        return Ok(());
    }
    for_shim("-no-pie");
    if cargo_says("CARGO_CFG_TARGET_ENV") != "gnu" {
        return Ok(());
    }
    let linker = env::var_os("RUSTC_LINKER").unwrap_or_else(|| "cc".into());
    let Some(unwinder) = archive(&linker, "gcc_eh") else { return Ok(()) };
    if cargo_says("HOST") == cargo_says("TARGET") {
        println!("cargo::rustc-link-lib=static:-bundle=gcc_eh");
    }
    let archives = GIVEN.iter().map(|name| archive(&linker, name)).chain([Some(unwinder)]);
    if let Some(archives) = archives.collect::<Option<Vec<_>>>() {
        let names = PathBuf::from(cargo_says("OUT_DIR"));
        for name in ASKED {
            fs::write(names.join(format!("lib{name}.so")), format!("GROUP({})\n", archives.join(" ")))?;
        }
        for_shim("-static");
        for_shim(&format!("-L{}", names.display()));
    }
    Ok(())
}

fn for_shim(argument: &str) {
    println!("cargo::rustc-link-arg-bin=agentctl-shim={argument}");
}

/// Where the linker finds the archive of a library, quoted. `None`: it has none, or does not answer.
fn archive(linker: &OsStr, name: &str) -> Option<String> {
    let found = Command::new(linker).arg(format!("-print-file-name=lib{name}.a")).output().ok()?;
    let path = String::from_utf8(found.stdout).ok()?;
    Path::new(&path).is_absolute().then(|| format!("\"{}\"", path.trim()))
}
