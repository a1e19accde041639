//! agentctl: a supervisor for coding-agent sessions that ends one on evidence only.

pub mod adapters;
pub mod core;
pub mod sys;
pub mod wire;
