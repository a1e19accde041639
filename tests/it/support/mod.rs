//! What tests share: scripted endpoints and programs, and ways to reach the real ones.

pub(crate) mod daemon;
pub(crate) mod fake_llm;
pub(crate) mod real_opencode;
pub(crate) mod wait;
