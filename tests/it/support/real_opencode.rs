//! The real opencode, installed by `.ci/install-agents`, shut off from the machine it runs on.
//!
//! Owns where the program is and what environment keeps it to a fake model and a home of its own. Does not
//! start it: tests do, by hand or through the daemon.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

/// The folder of the installed program.
pub(crate) struct RealOpencode {
    bin: PathBuf,
}

impl RealOpencode {
    /// `None`, said loudly, when no agents were asked for. Where they were asked for they must be there: a test
    /// that skips itself in CI proves nothing.
    pub(crate) fn find(test: &str) -> Option<Self> {
        let Some(prefix) = env::var_os("AGENTCTL_TEST_AGENTS").filter(|value| !value.is_empty()) else {
            let in_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
            assert!(!in_ci, "{test}: CI without AGENTCTL_TEST_AGENTS; run .ci/install-agents and set it");
            // Not a print macro, whose text the test harness would keep to itself; one write, so that tests at
            // the same time do not mix theirs.
            let how = "set AGENTCTL_TEST_AGENTS and run .ci/install-agents for the real opencode";
            drop(io::stderr().write_all(format!("\nSKIPPED {test}: {how}\n").as_bytes()));
            return None;
        };
        let bin = Path::new(&prefix).join("node_modules/.bin");
        let bin = bin.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", bin.display()));
        assert!(bin.join("opencode").is_file(), "no opencode in {}: run .ci/install-agents", bin.display());
        Some(Self { bin })
    }

    /// A whole environment: nothing else of the caller's reaches the agent. `home` should be fresh or shared
    /// with earlier runs only, and the model is `fake/fake-1` at that port.
    pub(crate) fn env(&self, home: &Path, port: u16) -> Vec<(OsString, OsString)> {
        let mut path = OsString::from(&self.bin);
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
        let mut vars: Vec<(OsString, OsString)> = vec![("PATH".into(), path), ("HOME".into(), home.into())];
        for (name, value) in [
            ("LANG", "C.UTF-8"),
            ("SHELL", "/bin/bash"),
            ("OPENCODE_DISABLE_MODELS_FETCH", "1"),
            ("OPENCODE_DISABLE_AUTOUPDATE", "1"),
            ("OPENCODE_DISABLE_LSP_DOWNLOAD", "1"),
            // The plugin package that opencode fetches in the background; the answer is to fail at once.
            ("npm_config_offline", "true"),
        ] {
            vars.push((name.into(), value.into()));
        }
        vars.push(("OPENCODE_CONFIG_CONTENT".into(), config(port).into()));
        vars
    }
}

fn config(port: u16) -> String {
    let model = json!({
        "name": "Fake 1",
        "limit": {"context": 128_000, "output": 8192},
        "cost": {"input": 1, "output": 2, "cache_read": 0.1},
    });
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible",
        "name": "Fake",
        "options": {"baseURL": format!("http://127.0.0.1:{port}/v1"), "apiKey": "sk-fake"},
        "models": {"fake-1": model},
    });
    json!({
        "autoupdate": false,
        "share": "disabled",
        "model": "fake/fake-1",
        "small_model": "fake/fake-1",
        "permission": {"*": "allow"},
        "provider": {"fake": provider},
    })
    .to_string()
}
