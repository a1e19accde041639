//! What agentctl knows about each coding agent: how to start it and how to read what it prints.
//!
//! An adapter *describes*: arguments, environment, the meaning of an output line. It never spawns, reads,
//! signals, waits or looks at a clock, and it never decides an outcome: the supervisor does all that, and
//! an agent's words only colour a verdict that rests on the kernel's evidence.
//!
//! A new agent costs one file here, one row in [`ALL`] and one folder `tests/fixtures/<name>/` with recorded
//! output; the fixture test walks [`ALL`] and fails by name where the folder is missing.

pub mod acp;
#[cfg(test)]
mod acp_tests;
mod claude_code;
mod codex;
mod declared;
#[cfg(test)]
mod example;
mod exec;
pub mod found;
mod gemini;
mod json;
mod known;
mod opencode;
#[cfg(test)]
mod parse_tests;
mod pi;
mod pi_rust;
mod qwen;
mod readable;
pub mod retired;
mod stream;
mod thinking;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use acp::Acp;
pub use declared::{Arg, Declared, DeclaredPrompt, Rule};
pub use known::{Known, Parser};
pub use readable::Readable;
pub use stream::{
    FAILURE_MAX_CHARS, LINE_MAX_BYTES, Lines, MESSAGE_MAX_BYTES, Parse, Progress, Tail, ended_with,
    last_messages, report,
};

/// Every agent that can be launched, in the order in which lists show them.
pub const ALL: &[&Adapter] = &[
    &exec::EXEC,
    &opencode::OPENCODE,
    &claude_code::CLAUDE_CODE,
    &codex::CODEX,
    &pi::PI,
    &pi_rust::PI_RUST,
    &gemini::GEMINI,
    &qwen::QWEN,
];

/// The adapter of this name. Names are exact: what to suggest for a wrong one is the caller's business.
pub fn find(name: &str) -> Option<&'static Adapter> {
    ALL.iter().copied().find(|adapter| adapter.name == name)
}

/// One kind of agent.
#[derive(Clone, Copy, Debug)]
pub struct Adapter {
    /// As users write it, as records show it, and the name of its fixture folder.
    pub name: &'static str,
    /// Which program is started.
    pub program: Program,
    /// How one that somebody else started is recognised, and what its store tells.
    pub found: found::Found,
    /// How the prompt reaches it.
    pub prompt: PromptWay,
    /// The arguments after the program.
    pub argv: fn(&Ask<'_>) -> Vec<String>,
    /// The arguments that go on with the conversation of this native id; `None` where the agent cannot.
    pub resume: Option<fn(&Ask<'_>, &str) -> Vec<String>>,
    /// Whether the conversation gets [`Ask::session`] as its native id, known before the agent says anything.
    pub imposes_id: bool,
    /// What must differ from the caller's environment.
    pub env: fn(&EnvLook<'_>) -> EnvChange,
    /// How to read one line of its stdout; `None` where the exit code alone counts.
    pub parse: Option<Parse>,
    /// Whether first starts must be kept apart, and what they share. `None` where they need not be.
    pub first_start: Option<fn(&EnvLook<'_>) -> Option<FirstStart>>,
    /// How it is started to speak ACP instead; `None` where it does not.
    pub acp: Option<Acp>,
}

/// Which program an adapter starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The first word of the user's command.
    OfCommand,
    /// This one, found in the PATH of the session's environment.
    Named(&'static str),
}

/// How a prompt reaches an agent. Never as an argument, if that can be helped: other users read those in /proc, their
/// length is limited, and some agents add quotes to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromptWay {
    /// It takes none; stdin is /dev/null.
    Refused,
    /// A regular file on stdin. Never a pipe: agents wait for its end, which a forgotten writer delays for ever.
    Stdin,
    /// As an argument, for declared agents that know no other way.
    Argument,
}

/// What the user asked for, as far as an agent's command line is concerned.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// What the agent shall do.
    pub prompt: Option<&'a str>,
    /// The model, in the agent's own spelling; `None` leaves the choice to the agent.
    pub model: Option<&'a str>,
    /// The name that the user gave the session; `None` lets the agent find a title of its own.
    pub title: Option<&'a str>,
    /// The id of our session, for agents that let the caller choose the id of the conversation.
    pub session: Option<&'a str>,
    /// Program and arguments, for [`Program::OfCommand`].
    pub command: &'a [String],
    /// Leave the agent's own permission rules in force. Otherwise it is told not to ask, since nobody answers.
    pub safe: bool,
    /// How much it is to think, in its own words; `None` leaves that to the agent.
    pub thinking: Option<&'a str>,
}

/// Why an agent cannot be started like this. The texts are shown to the user as they stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("Missing required option: -p, --prompt <text>")]
    NoPrompt,
    #[error("adapter {0} takes no prompt: pass what it needs as arguments of the command")]
    PromptRefused(String),
    #[error("adapter {0} needs a command: -- CMD ARGS...")]
    NoCommand(String),
    #[error("adapter {0} takes no command: pass the task with -p, --prompt <text>")]
    CommandRefused(String),
    #[error("adapter {0} cannot resume a session: launch a new one")]
    CannotResume(String),
    #[error("adapter {0} does not speak ACP: launch it without --acp")]
    NoAcp(String),
    #[error("adapter {0} has no flag for thinking: leave --thinking out")]
    NoThinking(String),
    #[error("adapter {adapter} knows no thinking \"{level}\": it is {levels}")]
    ThinkingLevel { adapter: String, level: String, levels: String },
    #[error("an argument holds a NUL byte, which no program can be given")]
    NulByte,
}

impl Adapter {
    /// The program to start and its arguments, or why that cannot be done.
    pub fn command(&self, ask: &Ask<'_>) -> Result<(String, Vec<String>), Unfit> {
        let program = match (self.program, ask.command) {
            (Program::OfCommand, []) => return Err(Unfit::NoCommand(self.name.to_owned())),
            (Program::OfCommand, [program, ..]) => program.clone(),
            (Program::Named(program), []) => program.to_owned(),
            (Program::Named(_), [_, ..]) => return Err(Unfit::CommandRefused(self.name.to_owned())),
        };
        check_prompt(self.name, self.prompt, ask)?;
        checked(program, thinking::with(self.name, ask.thinking, (self.argv)(ask))?)
    }

    /// The program and the arguments that go on with a conversation; [`Ask::prompt`] is what is said next.
    pub fn resume_command(&self, ask: &Ask<'_>, native_id: &str) -> Result<(String, Vec<String>), Unfit> {
        let (Program::Named(program), Some(resume)) = (self.program, self.resume) else {
            return Err(Unfit::CannotResume(self.name.to_owned()));
        };
        check_prompt(self.name, self.prompt, ask)?;
        checked(program.to_owned(), thinking::with(self.name, ask.thinking, resume(ask, native_id))?)
    }
}

fn check_prompt(name: &str, way: PromptWay, ask: &Ask<'_>) -> Result<(), Unfit> {
    match way {
        PromptWay::Refused if ask.prompt.is_some() => Err(Unfit::PromptRefused(name.to_owned())),
        // Agents refuse a blank prompt too, but seconds later and in words of their own.
        PromptWay::Stdin | PromptWay::Argument if ask.prompt.is_none_or(|text| text.trim().is_empty()) => {
            Err(Unfit::NoPrompt)
        }
        PromptWay::Refused | PromptWay::Stdin | PromptWay::Argument => Ok(()),
    }
}

fn checked(program: String, arguments: Vec<String>) -> Result<(String, Vec<String>), Unfit> {
    if program.contains('\0') || arguments.iter().any(|argument| argument.contains('\0')) {
        return Err(Unfit::NulByte);
    }
    Ok((program, arguments))
}

/// The environment that a session will get, as far as an adapter may look at it. Adapters never read their own.
#[derive(Clone, Copy)]
pub struct EnvLook<'a> {
    /// The session's variables by name.
    pub vars: &'a dyn Fn(&str) -> Option<OsString>,
    /// Whether there is a file of this path. One that cannot be looked at is none.
    pub exists: &'a dyn Fn(&Path) -> bool,
    /// The home directory in the user database, for an environment without HOME.
    pub passwd_home: &'a Path,
    /// The session's working directory.
    pub cwd: &'a Path,
    /// Whether the session runs as root; several agents then refuse to skip their permission rules.
    pub root: bool,
    /// [`Ask::safe`].
    pub safe: bool,
}

impl EnvLook<'_> {
    /// A variable that is set and not empty: agents take an empty one as unset.
    pub fn var(&self, name: &str) -> Option<OsString> {
        (self.vars)(name).filter(|value| !value.is_empty())
    }

    /// The home directory as programs find it.
    pub fn home(&self) -> PathBuf {
        self.var("HOME").map_or_else(|| self.passwd_home.to_owned(), PathBuf::from)
    }

    /// The directory that a variable names, else the one of this name in the home directory.
    fn own_dir(&self, variable: &str, in_home: &str) -> PathBuf {
        self.var(variable).map_or_else(|| self.home().join(in_home), |own| self.cwd.join(own))
    }

    /// `$XDG_DATA_HOME`, else `~/.local/share`. A relative one counts from the working directory, against the
    /// XDG specification, because that is what the agents do with it.
    pub fn data_home(&self) -> PathBuf {
        match self.var("XDG_DATA_HOME") {
            Some(data) => self.cwd.join(data),
            None => self.home().join(".local/share"),
        }
    }
}

/// What an adapter changes in the caller's environment. Variables are named in the adapter, never found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvChange {
    /// Set to this value.
    pub set: Vec<(&'static str, String)>,
    /// Removed.
    pub unset: Vec<&'static str>,
}

/// For agents that take a conversation up by its id, and have a flag for a new one's that must not come with it.
fn resumed_by_id(argv: fn(&Ask<'_>) -> Vec<String>, ask: &Ask<'_>, native_id: &str) -> Vec<String> {
    let mut argv = argv(&Ask { session: None, ..*ask });
    argv.push(format!("--resume={native_id}"));
    argv
}

/// The environment stays as it is.
fn env_unchanged(_: &EnvLook<'_>) -> EnvChange {
    EnvChange::default()
}

/// Something that the first start of an agent sets up and that two at once may break.
///
/// A launch whose [`FirstStart::is_done`] is false takes the turn of its `key`; further launches with the same
/// key wait until the holder has printed its first event or has ended, or a bounded time has passed. The bound
/// matters: an agent whose model never answers prints nothing at all, and must not hold up others for that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstStart {
    /// Launches with the same key take turns. An absolute path, for messages too.
    pub key: PathBuf,
    /// The set-up is done once any of these files is larger than that many bytes.
    pub done_when_larger: Vec<(PathBuf, u64)>,
}

impl FirstStart {
    /// Whether the set-up has been done, given how to learn a file's size (`None`: there is no such file).
    pub fn is_done(&self, size: impl Fn(&Path) -> Option<u64>) -> bool {
        self.done_when_larger.iter().any(|(file, bytes)| size(file).is_some_and(|found| found > *bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn names_are_unique_and_findable() {
        for adapter in ALL {
            assert_eq!(find(adapter.name).map(|found| found.name), Some(adapter.name));
            assert_eq!(ALL.iter().filter(|other| other.name == adapter.name).count(), 1, "{}", adapter.name);
        }
        assert!(find("Exec").is_none());
    }

    #[test]
    fn what_an_adapter_cannot_use_is_refused_in_words() {
        let (exec, opencode) = (find("exec").unwrap(), find("opencode").unwrap());
        let command = words("sh -c true");
        let check = |adapter: &Adapter, prompt, command| {
            adapter.command(&Ask { prompt, command, ..Ask::default() }).unwrap_err().to_string()
        };
        assert_eq!(check(exec, None, &[]), "adapter exec needs a command: -- CMD ARGS...");
        assert!(check(exec, Some("do"), &command).starts_with("adapter exec takes no prompt"));
        assert_eq!(check(opencode, None, &[]), "Missing required option: -p, --prompt <text>");
        assert_eq!(check(opencode, Some(" \n"), &[]), "Missing required option: -p, --prompt <text>");
        assert!(check(opencode, Some("do"), &command).starts_with("adapter opencode takes no command"));
        let nul = Ask { prompt: Some("do"), model: Some("a\0b"), ..Ask::default() };
        assert_eq!(opencode.command(&nul), Err(Unfit::NulByte));
        assert_eq!(opencode.resume_command(&nul, "ses_1"), Err(Unfit::NulByte));
        assert_eq!(opencode.resume_command(&Ask::default(), "ses_1"), Err(Unfit::NoPrompt));
        let why = exec.resume_command(&Ask::default(), "x").unwrap_err().to_string();
        assert_eq!(why, "adapter exec cannot resume a session: launch a new one");
    }

    #[test]
    fn a_prompt_is_never_an_argument() {
        for adapter in ALL {
            let command = words("program argument");
            let ask = Ask {
                prompt: Some("SECRET"),
                model: Some("m"),
                title: Some("t"),
                session: Some("own-id"),
                command: &command,
                safe: false,
                thinking: None,
            };
            let arguments = (adapter.argv)(&ask);
            assert!(!arguments.iter().any(|argument| argument.contains("SECRET")), "{}", adapter.name);
            let imposed = arguments.iter().any(|argument| argument.contains("own-id"));
            assert_eq!(imposed, adapter.imposes_id, "{}", adapter.name);
            let Some(resume) = adapter.resume else { continue };
            let arguments = resume(&ask, "native-id");
            assert!(!arguments.iter().any(|argument| argument.contains("SECRET")), "{}", adapter.name);
            assert!(!arguments.iter().any(|argument| argument.contains("own-id")), "{}", adapter.name);
            assert!(arguments.iter().any(|argument| argument.contains("native-id")), "{}", adapter.name);
        }
    }

    #[test]
    fn homes_are_found_as_programs_find_them() {
        let look_with = |home: &'static str, data: &'static str| {
            let vars = move |name: &str| match name {
                "HOME" => Some(OsString::from(home)),
                "XDG_DATA_HOME" => Some(OsString::from(data)),
                _ => None,
            };
            let look = EnvLook {
                vars: &vars,
                exists: &|_| false,
                passwd_home: Path::new("/root"),
                cwd: Path::new("/cwd"),
                root: false,
                safe: false,
            };
            (look.home(), look.data_home())
        };
        assert_eq!(look_with("/h", ""), ("/h".into(), "/h/.local/share".into()));
        assert_eq!(look_with("", ""), ("/root".into(), "/root/.local/share".into()));
        assert_eq!(look_with("/h", "/data"), ("/h".into(), "/data".into()));
        assert_eq!(look_with("/h", "rel"), ("/h".into(), "/cwd/rel".into()));
    }
}
