//! How the shim is linked: at a fixed address.
//!
//! Hundreds of shims run at once, and what the loader relocates is memory of each one's own. Not
//! position-independent, the shim's tables stay shared pages of its file. `agentctl` itself is linked as usual.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo::rustc-link-arg-bin=agentctl-shim=-no-pie");
    }
}
