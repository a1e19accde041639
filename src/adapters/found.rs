//! Agents that somebody else started: which process is one, and what its store tells of its conversation.
//!
//! Owns the recognising of command lines and the shape of a store: where its files are, whose conversation one is, what
//! a line of it means. Refuses to read anything itself, and to guess: what a store does not tell stays unknown. Each
//! agent's own ways are in a file below this one.

mod claude_code;
mod codex;
mod gemini;
mod opencode;
mod pi;
mod qwen;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};

use super::json::words;
use super::{EnvLook, Known};
use crate::core::agent::Tokens;
use crate::core::vocab::Wall;

pub(super) use claude_code::CLAUDE_CODE;
pub(super) use codex::CODEX;
pub(super) use gemini::GEMINI;
pub(super) use opencode::OPENCODE;
pub(super) use pi::PI;
pub(super) use qwen::QWEN;

/// What is known of an agent that was not started by us.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Packages whose scripts are this agent, whatever the scripts are called.
    pub packages: &'static [&'static str],
    /// The id of the conversation in its arguments, if they name one.
    pub id_in: fn(&[String]) -> Option<String>,
    /// Where its conversations are; `None` where nobody has found out.
    pub store: Option<Store>,
}

/// Messages of the assistant that are kept of a conversation.
pub const SAID_MAX: usize = 100;

/// Where conversations are kept.
#[derive(Clone, Copy, Debug)]
pub enum Store {
    /// A file of JSON lines each.
    Files(Files),
    /// opencode's.
    Opencode(Opencode),
}

/// opencode's two stores.
#[derive(Clone, Copy, Debug)]
pub struct Opencode {
    /// Its database; `None`: it keeps none.
    pub database: fn(&EnvLook<'_>) -> Option<PathBuf>,
    /// Where versions before the database keep a file for each thing.
    pub storage: fn(&EnvLook<'_>) -> PathBuf,
    /// What a message there says that it used.
    pub tokens: fn(&serde_json::Value) -> Tokens,
}

/// Conversations that are files of JSON lines.
#[derive(Clone, Copy, Debug)]
pub struct Files {
    /// A file about each living process, where the agent keeps such.
    pub registry: Option<Registry>,
    /// The directories where a conversation's file can be.
    pub dirs: fn(&EnvLook<'_>, &Search<'_>) -> Vec<PathBuf>,
    /// A conversation whose id is known may also be in any directory in this one; where `dirs` are none, any may.
    pub anywhere_in: Option<Anywhere>,
    /// The id in the name of a conversation's file.
    pub id_of: fn(&str) -> Option<&str>,
    /// That is only its beginning; all of it is in the file.
    pub id_is_cut: bool,
    /// The id that a file which the process has open gives away.
    pub id_of_open: fn(&Path) -> Option<&str>,
    /// Adds what a line tells.
    pub read: fn(&[u8], &mut Told),
}

/// Directories of conversations, one of each project.
#[derive(Clone, Copy, Debug)]
pub struct Anywhere {
    /// What the projects' directories are in.
    pub projects: fn(&EnvLook<'_>) -> PathBuf,
    /// Where in each the conversations are; empty: in itself.
    pub below: &'static str,
}

/// Files that an agent keeps about its living processes.
#[derive(Clone, Copy, Debug)]
pub struct Registry {
    pub file: fn(&EnvLook<'_>, u32) -> PathBuf,
    /// What one says; `None`: it is not understood.
    pub read: fn(&[u8]) -> Option<Registered>,
}

/// What an agent keeps about a living process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    pub native_id: String,
    /// When the process started, in ticks since boot: a file of an earlier process with this number says another.
    pub start_ticks: Option<u64>,
    /// Whether it waits for input.
    pub idle: bool,
}

/// What a search for a conversation goes by.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    pub native_id: Option<&'a str>,
    /// When the process started.
    pub started: Wall,
    pub now: Wall,
}

/// What a store has told of one conversation.
#[derive(Clone, Debug, Default)]
pub struct Told {
    pub native_id: Option<String>,
    pub cwd: Option<String>,
    pub model: Option<String>,
    /// The first thing that the user said.
    pub prompt: Option<String>,
    /// The last messages of the assistant, oldest first.
    pub said: VecDeque<String>,
    /// The directory, as its SHA-256, where that is all that is told.
    pub cwd_sha256: Option<String>,
    /// Lines that were understood.
    pub understood: usize,
    last_said: Option<String>,
    /// What each message used, by its id: one that is repeated counts once.
    messages: HashMap<String, (Tokens, Option<f64>)>,
    /// What was used so far in all, where the store counts that itself.
    total: Option<Tokens>,
    total_usd: Option<f64>,
    has_gap: bool,
}

impl Told {
    /// The tokens of the conversation; a sum of a part would be a lie.
    pub fn tokens(&self) -> Option<Tokens> {
        let sum = || self.messages.values().fold(Tokens::default(), |sum, (tokens, _)| sum.plus(*tokens));
        self.total.or_else(|| self.is_all_told().then(sum))
    }

    /// What it cost, in dollars: in the same way.
    pub fn cost_usd(&self) -> Option<f64> {
        let sum = || self.messages.values().try_fold(0.0, |sum, (_, cost)| Some(sum + (*cost)?));
        self.total_usd.or_else(|| if self.is_all_told() { sum() } else { None })
    }

    fn is_all_told(&self) -> bool {
        !self.has_gap && !self.messages.is_empty()
    }

    /// Here something was not read. What was used in all only a later total knows, and what was said before are not the last
    /// messages.
    pub fn gap(&mut self) {
        self.has_gap = true;
        (self.total, self.total_usd) = (None, None);
        self.said.clear();
        self.last_said = None;
    }

    /// What a message used. One without an id is no other's repetition.
    fn message(&mut self, id: &serde_json::Value, tokens: Tokens, cost_usd: Option<f64>) {
        let id = id.as_str().map_or_else(|| format!("#{}", self.messages.len()), str::to_owned);
        self.messages.insert(id, (tokens, cost_usd));
    }

    /// Whose conversation it is. The first line that tells it counts: what was taken over from others comes later.
    fn held(&mut self, id: &serde_json::Value, cwd: &serde_json::Value) {
        if self.native_id.is_none() {
            self.native_id = id.as_str().and_then(fit);
        }
        if self.cwd.is_none() {
            self.cwd = cwd.as_str().map(str::to_owned);
        }
    }

    /// The user's first words. What agents put into the user's mouth begins with a tag.
    fn asked(&mut self, text: Option<&str>) {
        let text = text.map(str::trim).filter(|text| !text.is_empty() && !text.starts_with('<'));
        if self.prompt.is_none() {
            self.prompt = text.map(str::to_owned);
        }
    }

    /// The same, of a message that is a text or blocks of which some are.
    fn asked_in(&mut self, content: &serde_json::Value) {
        let block = content.as_array().into_iter().flatten().find(|block| block["type"] == "text");
        self.asked(content.as_str().or_else(|| block?["text"].as_str()));
    }

    /// A message of the assistant.
    fn say(&mut self, text: Option<String>) {
        self.said.extend(text);
        while self.said.len() > SAID_MAX {
            self.said.pop_front();
        }
    }

    /// The same, of one that may be told again.
    fn say_once(&mut self, id: &serde_json::Value, text: Option<String>) {
        let id = id.as_str();
        if id.is_none() || self.last_said.as_deref() != id {
            self.say(text);
            self.last_said = id.map(str::to_owned);
        }
    }

    fn said_by(&mut self, model: &serde_json::Value) {
        self.model = words(model).or(self.model.take());
    }
}

/// An agent that runs.
#[derive(Clone, Debug)]
pub struct Running {
    pub adapter: Known,
    /// What it was started with, without the program and what runs it.
    pub arguments: Vec<String>,
}

/// What runs scripts, by the names of the programs.
const INTERPRETERS: [&str; 8] = ["node", "nodejs", "bun", "deno", "sh", "bash", "dash", "python3"];

/// Which agent a process is, if it is one. `exe`: its program file, asked for where the words leave it open.
pub fn recognise(known: &[Known], exe: impl FnOnce() -> Option<PathBuf>, argv: &[String]) -> Option<Running> {
    // Parts of a desktop application of the same name.
    if argv.iter().any(|word| word.starts_with("--type=")) {
        return None;
    }
    let first = name_of(argv.first()?);
    let script = if is_interpreter(first) { Some(script_of(argv)?) } else { None };
    let running =
        |adapter: &Known, from: usize| Running { adapter: adapter.clone(), arguments: argv[from..].to_vec() };
    let named = |adapter: &&Known, name: &str| {
        let program = adapter.program().map(name_of);
        program == Some(name) && !is_interpreter(name)
    };
    if let Some(at) = script {
        let path = argv[at].as_str();
        let of_package = |adapter: &&Known| {
            adapter.packages().iter().any(|package| path.contains(&format!("/node_modules/{package}/")))
        };
        let found =
            known.iter().find(of_package).or_else(|| known.iter().find(|it| named(it, name_of(path))));
        return found.map(|adapter| running(adapter, at + 1));
    }
    let exe = exe();
    let exe = exe.as_deref().and_then(Path::file_name).and_then(|name| name.to_str()).map_or(first, name_of);
    // A script that gave itself a title has lost its arguments, and is called by that.
    let titled = is_interpreter(exe);
    // So short a name is too common a word for a program of its own.
    let found =
        known.iter().find(|it| [first, exe].iter().any(|name| named(it, name) && (titled || name.len() > 2)));
    found.map(|adapter| running(adapter, 1))
}

/// The last part of a path, without what says only what kind of file it is.
fn name_of(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    [".exe", ".js", ".mjs", ".cjs", ".py"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name)
}

fn is_interpreter(name: &str) -> bool {
    INTERPRETERS.contains(&name)
}

/// Where the script is among the words of an interpreter's command line; `None`: its program is no file.
fn script_of(argv: &[String]) -> Option<usize> {
    for (at, word) in argv.iter().enumerate().skip(1) {
        if !word.starts_with('-') {
            return Some(at);
        }
        let inline = matches!(word.as_str(), "-e" | "-p" | "-m" | "--eval" | "--print" | "-");
        let of_shell = !word.starts_with("--") && word.contains('c');
        if inline || of_shell {
            return None;
        }
    }
    None
}

/// The value of an option, joined by `=` or as the next word.
pub fn option<'a>(arguments: &'a [String], names: &[&str]) -> Option<&'a str> {
    let before_rest = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
    let arguments = &arguments[..before_rest];
    let value = arguments.iter().enumerate().find_map(|(at, word)| {
        let joined = word.split_once('=').filter(|(name, _)| names.contains(name)).map(|(_, value)| value);
        let next = || arguments.get(at + 1).map(String::as_str).filter(|next| !next.starts_with('-'));
        joined.or_else(|| if names.contains(&word.as_str()) { next() } else { None })
    });
    value.filter(|value| !value.is_empty())
}

/// For agents whose arguments never name a conversation.
pub(super) fn no_id(_: &[String]) -> Option<String> {
    None
}

/// For agents that take an id of the caller's, or go on with one. Other words there (`latest`) name no conversation.
pub(super) fn id_of_session(arguments: &[String]) -> Option<String> {
    let id = option(arguments, &["--session-id", "--resume", "-r"])?;
    uuid::Uuid::try_parse(id).ok().and_then(|_| fit(id))
}

/// The working directory as the name of a file, as Claude Code and Qwen Code write it.
fn slug(look: &EnvLook<'_>) -> String {
    look.cwd.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn no_open_file(_: &Path) -> Option<&str> {
    None
}

/// An id that is fit to be one: no path, and no option of an agent's.
pub fn fit(id: &str) -> Option<String> {
    let fit = !id.is_empty()
        && id.len() <= 200
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    (fit && !id.starts_with('-')).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::*;

    fn known() -> Vec<Known> {
        ALL.iter().copied().map(Known::BuiltIn).collect()
    }

    fn words_of(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn an_agent_is_known_by_its_program_its_script_or_its_package() {
        let check = |exe: &str, line: &str| {
            let running = recognise(&known(), || Some(exe.into()), &words_of(line))?;
            Some((running.adapter.name().to_owned(), running.arguments.join(" ")))
        };
        let is = |name: &str, rest: &str| Some((name.to_owned(), rest.to_owned()));
        for (exe, line, expected) in [
            ("/u/bin/opencode.exe", "opencode run hi", is("opencode", "run hi")),
            ("/u/lib/claude.exe", "claude", is("claude-code", "")),
            ("/h/.local/share/claude/versions/2.1.330", "claude -p", is("claude-code", "-p")),
            ("/usr/bin/node", "node /u/bin/codex exec hi", is("codex", "exec hi")),
            ("/v/codex-linux-x64/vendor/x/bin/codex", "/v/bin/codex exec hi", is("codex", "exec hi")),
            ("/usr/bin/node", "pi", is("pi", "")),
            ("/opt/pi", "pi 1000", None),
            ("/usr/bin/node", "node --no-warnings /u/bin/gemini -y", is("gemini", "-y")),
            (
                "/usr/bin/node",
                "node --expose-gc /l/node_modules/@qwen-code/qwen-code/cli.js -y",
                is("qwen", "-y"),
            ),
            ("/usr/bin/dash", "/bin/sh /t/bin/opencode run", is("opencode", "run")),
            ("/usr/bin/bash", "bash -lc codex", None),
            ("/usr/bin/node", "node -e codex", None),
            ("/usr/bin/node", "node", None),
            ("/usr/bin/vim", "vim codex", None),
            ("/usr/bin/timeout", "timeout 60 codex", None),
            ("/opt/Claude/claude", "/opt/Claude/claude --type=renderer", None),
        ] {
            assert_eq!(check(exe, line), expected, "{exe}: {line}");
        }
        assert!(recognise(&known(), || None, &[]).is_none());
        assert!(recognise(&known(), || None, &words_of("codex")).is_some(), "the program file is hidden");
    }

    #[test]
    fn options_have_their_values_joined_or_next() {
        let value = |line: &str| option(&words_of(line), &["--model", "-m"]).map(str::to_owned);
        assert_eq!(value("run --model=a/b x").as_deref(), Some("a/b"));
        assert_eq!(value("run -m gpt-5 x").as_deref(), Some("gpt-5"));
        for line in ["run -m", "run -m --json", "run --model=", "run -- -m no", "--models=x", ""] {
            assert_eq!(value(line), None, "{line}");
        }
    }

    #[test]
    fn ids_that_could_be_paths_or_options_are_none() {
        assert_eq!(fit("ses_1-a").as_deref(), Some("ses_1-a"));
        for id in ["", "../x", "a/b", "-x", "a b", &"x".repeat(201)] {
            assert_eq!(fit(id), None, "{id}");
        }
    }

    #[test]
    fn a_sum_of_a_part_is_no_sum() {
        let tokens = |out| Tokens { out, ..Tokens::default() };
        let mut told = Told::default();
        assert_eq!((told.tokens(), told.cost_usd()), (None, None));
        told.message(&"a".into(), tokens(1), Some(0.5));
        told.message(&"a".into(), tokens(2), Some(0.25));
        told.message(&"b".into(), tokens(3), Some(0.25));
        assert_eq!((told.tokens(), told.cost_usd()), (Some(tokens(5)), Some(0.5)));
        // Those without an id are as many as there are.
        told.message(&serde_json::Value::Null, tokens(1), Some(0.0));
        told.message(&serde_json::Value::Null, tokens(1), None);
        assert_eq!((told.tokens(), told.cost_usd()), (Some(tokens(7)), None), "one does not tell its cost");
        told.gap();
        told.message(&"c".into(), tokens(4), Some(1.0));
        assert_eq!((told.tokens(), told.cost_usd()), (None, None));
    }

    #[test]
    fn a_total_is_that_of_the_end() {
        let tokens = |out| Tokens { out, ..Tokens::default() };
        let mut told = Told { total: Some(tokens(9)), total_usd: Some(0.5), ..Told::default() };
        told.say_once(&"a".into(), Some("early".to_owned()));
        assert_eq!((told.tokens(), told.cost_usd()), (Some(tokens(9)), Some(0.5)));
        told.gap();
        assert_eq!((told.tokens(), told.cost_usd()), (None, None), "there may have been another since");
        told.say_once(&"a".into(), Some("late".to_owned()));
        told.total = Some(tokens(12));
        assert_eq!((told.tokens(), told.said.as_slices().0), (Some(tokens(12)), &["late".to_owned()][..]));
    }
}
