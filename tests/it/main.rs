//! The integration tests: one binary, one file per subject, the machinery in `support`.

mod adapters;
mod cli;
mod crash;
mod doctor;
mod environment;
mod golden;
mod incident;
mod lifecycle;
mod opencode;
mod real_opencode;
mod robustness;
mod shim;
mod support;
mod sys;
mod tidy;
mod tree;
mod webhook;
