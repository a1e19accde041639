//! The integration tests: one binary, one file per subject, the machinery in `support`.

mod adapters;
mod golden;
mod lifecycle;
mod real_opencode;
mod shim;
mod support;
mod sys;
mod tidy;
