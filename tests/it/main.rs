//! The integration tests: one binary, one file per subject, the machinery in `support`.

mod adapters;
mod agents;
mod blind_spots;
mod cli;
mod crash;
mod disk;
mod doctor;
mod environment;
mod exit_files;
mod golden;
mod identity;
mod incident;
mod journal_damage;
mod lifecycle;
mod opencode;
mod properties;
mod real_opencode;
mod resume;
mod robustness;
mod shim;
mod support;
mod sys;
mod tidy;
mod tree;
mod weaker_kernels;
mod webhook;
