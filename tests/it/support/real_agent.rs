//! The real agents, installed by `.ci/install-agents`, shut off from the machine they run on.
//!
//! Owns where the programs are and what environment keeps each to a fake model and a home of its own. Does not
//! start them: tests do, by hand or through the daemon.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

/// An agent that is installed for the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agent {
    Opencode,
    ClaudeCode,
    Codex,
    Pi,
}

impl Agent {
    /// The name of its adapter.
    pub(crate) fn adapter(self) -> &'static str {
        match self {
            Self::Opencode => "opencode",
            Self::ClaudeCode => "claude-code",
            Self::Codex => "codex",
            Self::Pi => "pi",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Opencode => "opencode",
            Self::ClaudeCode => "claude",
            Self::Codex => "codex",
            Self::Pi => "pi",
        }
    }

    /// The scripted model, and one that nobody has, in the agent's spelling.
    pub(crate) fn models(self) -> [&'static str; 2] {
        match self {
            Self::Opencode | Self::Pi => ["fake/fake-1", "fake/no-such"],
            Self::ClaudeCode => ["claude-fake-1", "claude-no-such"],
            Self::Codex => ["gpt-5", "no-such"],
        }
    }
}

/// The folder of the installed programs, and which of them is meant.
pub(crate) struct RealAgent {
    bin: PathBuf,
    agent: Agent,
}

impl RealAgent {
    /// `None`, said loudly, when no agents were asked for. Where they were asked for they must be there: a test
    /// that skips itself in CI proves nothing.
    pub(crate) fn find(agent: Agent, test: &str) -> Option<Self> {
        let Some(prefix) = env::var_os("AGENTCTL_TEST_AGENTS").filter(|value| !value.is_empty()) else {
            let in_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
            assert!(!in_ci, "{test}: CI without AGENTCTL_TEST_AGENTS; run .ci/install-agents and set it");
            // Not a print macro, whose text the test harness would keep to itself; one write, so that tests at
            // the same time do not mix theirs.
            let how = "set AGENTCTL_TEST_AGENTS and run .ci/install-agents for the real agents";
            drop(io::stderr().write_all(format!("\nSKIPPED {test}: {how}\n").as_bytes()));
            return None;
        };
        let bin = Path::new(&prefix).join("node_modules/.bin");
        let bin = bin.canonicalize().unwrap_or_else(|error| panic!("{}: {error}", bin.display()));
        let program = agent.program();
        assert!(bin.join(program).is_file(), "no {program} in {}: run .ci/install-agents", bin.display());
        Some(Self { bin, agent })
    }

    /// The name of its adapter.
    pub(crate) fn adapter(&self) -> &'static str {
        self.agent.adapter()
    }

    /// As somebody starts it without us.
    pub(crate) fn by_hand(&self, prompt: &str) -> Command {
        let mut command = Command::new(self.bin.join(self.agent.program()));
        let [model, _] = self.agent.models();
        let arguments: &[&str] = match self.agent {
            Agent::Opencode => &["run", "--format", "json", "-m", model, "--", prompt],
            Agent::ClaudeCode => &[
                "-p",
                "--output-format",
                "stream-json",
                "--verbose",
                "--dangerously-skip-permissions",
                "--model",
                model,
                "--",
                prompt,
            ],
            Agent::Codex => &[
                "exec",
                "--json",
                "--skip-git-repo-check",
                "--dangerously-bypass-approvals-and-sandbox",
                "-m",
                model,
                "--",
                prompt,
            ],
            Agent::Pi => &["--model", model, "-p", "--mode", "json", prompt],
        };
        command.args(arguments);
        command
    }

    /// What one step of the scripted model is to it: tokens that came from no cache, and dollars, where it tells any.
    pub(crate) fn step(&self) -> (u64, Option<f64>) {
        match self.agent {
            // 1000 of which 100 cached, and 50 out, at 1, 0.1 and 2 dollars a million.
            Agent::Opencode | Agent::Pi => (900, Some(0.001_01)),
            // Anthropic's input is without what was cached, at the price of a model that it does not know.
            Agent::ClaudeCode => (1000, Some(0.005_02)),
            Agent::Codex => (900, None),
        }
    }

    /// A whole environment: nothing else of the caller's reaches the agent. `home` should be fresh or shared
    /// with earlier runs only, and the model is at that port. Writes the configuration that takes a file.
    pub(crate) fn env(&self, home: &Path, port: u16) -> Vec<(OsString, OsString)> {
        let mut path = OsString::from(&self.bin);
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()));
        let mut vars: Vec<(OsString, OsString)> = vec![("PATH".into(), path), ("HOME".into(), home.into())];
        let mut add = |name: &str, value: &str| vars.push((name.into(), value.into()));
        add("LANG", "C.UTF-8");
        add("SHELL", "/bin/bash");
        match self.agent {
            Agent::Opencode => {
                for switch in ["MODELS_FETCH", "AUTOUPDATE", "LSP_DOWNLOAD"] {
                    add(&format!("OPENCODE_DISABLE_{switch}"), "1");
                }
                // The plugin package that opencode fetches in the background; the answer is to fail at once.
                add("npm_config_offline", "true");
                add("OPENCODE_CONFIG_CONTENT", &opencode_config(port));
            }
            Agent::ClaudeCode => {
                add("ANTHROPIC_BASE_URL", &format!("http://127.0.0.1:{port}"));
                add("ANTHROPIC_API_KEY", "sk-ant-fake");
                add("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
                add("DISABLE_AUTOUPDATER", "1");
                // Ten retries take minutes, and are the same as one.
                add("CLAUDE_CODE_MAX_RETRIES", "1");
            }
            Agent::Codex => {
                add("FAKE_KEY", "sk-fake");
                write_once(&home.join(".codex/config.toml"), &codex_config(port));
            }
            Agent::Pi => {
                add("PI_OFFLINE", "1");
                add("PI_TELEMETRY", "0");
                write_once(&home.join(".pi/agent/models.json"), &pi_models(port));
            }
        }
        vars
    }
}

fn write_once(path: &Path, text: &str) {
    if path.exists() {
        return;
    }
    fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder of a configuration");
    // Renamed into place: an agent that starts meanwhile reads all of it or none.
    let new = path.with_extension(format!("{:?}", std::thread::current().id()));
    fs::write(&new, text).expect("write a configuration");
    fs::rename(&new, path).expect("put a configuration in place");
}

fn opencode_config(port: u16) -> String {
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

fn codex_config(port: u16) -> String {
    format!(
        "model = \"gpt-5\"\nmodel_provider = \"fake\"\ncheck_for_update_on_startup = false\n\
         [analytics]\nenabled = false\n\
         [model_providers.fake]\nname = \"Fake\"\nbase_url = \"http://127.0.0.1:{port}/v1\"\nenv_key = \"FAKE_KEY\"\n\
         wire_api = \"responses\"\nrequest_max_retries = 1\nstream_max_retries = 1\n"
    )
}

fn pi_models(port: u16) -> String {
    let model = |id: &str| {
        json!({
            "id": id, "name": id, "reasoning": false, "input": ["text"], "contextWindow": 128_000, "maxTokens": 8192,
            "cost": {"input": 1, "output": 2, "cacheRead": 0.1, "cacheWrite": 0},
        })
    };
    let provider = json!({
        "baseUrl": format!("http://127.0.0.1:{port}/v1"), "api": "openai-completions", "apiKey": "sk-fake",
        "models": [model("fake-1"), model("no-such")],
    });
    json!({"providers": {"fake": provider}}).to_string()
}
