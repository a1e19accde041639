//! agentctl: a supervisor for coding-agent sessions that ends one on evidence only.
//!
//! Start reading at [`core`], where every decision is; then [`daemon`], which carries them out.

pub mod adapters; // what each agent is: arguments in, meaning of its output out
pub mod cli; // commands, and how their answers look
pub mod config; // the configuration as written and as meant
pub mod core; // every decision, without a clock, a file or the kernel
pub mod daemon; // the loop: events, steps, commits, effects
pub mod doctor; // what is checked of a host, and what each finding means
pub mod limits; // every bound in one place
pub mod logging; // where the daemon's own lines go
pub mod sys; // the kernel: the only home of unsafe beside the shim's
pub mod wire; // the formats that cross a boundary
