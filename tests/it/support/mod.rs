//! What tests share: scripted endpoints and programs, and ways to reach the real ones.

pub(crate) mod daemon;
pub(crate) mod endpoint;
pub(crate) mod fake_llm;
pub(crate) mod loopback;
pub(crate) mod namespace;
pub(crate) mod openmetrics;
pub(crate) mod orgloop;
pub(crate) mod outside;
pub(crate) mod patience;
pub(crate) mod play;
pub(crate) mod real_agent;
pub(crate) mod repo;
pub(crate) mod schema;
pub(crate) mod stage;
pub(crate) mod tls;
pub(crate) mod trace;
pub(crate) mod transcript;
pub(crate) mod wait;
