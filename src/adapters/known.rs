//! An adapter of either kind, built in or declared, behind one face.

use std::sync::Arc;

use super::{
    ALL, Adapter, Ask, Declared, EnvChange, EnvLook, FirstStart, Parse, Program, PromptWay, Unfit,
    check_prompt, checked,
};
use crate::core::agent::AgentEvent;

/// An adapter that sessions can be launched with.
#[derive(Clone, Debug)]
pub enum Known {
    BuiltIn(&'static Adapter),
    Declared(Arc<Declared>),
}

/// How to read what an agent prints.
#[derive(Clone, Debug)]
pub enum Parser {
    BuiltIn(Parse),
    Declared(Arc<Declared>),
}

impl Parser {
    /// What one line of stdout tells.
    pub fn read(&self, line: &[u8]) -> Vec<AgentEvent> {
        match self {
            Self::BuiltIn(parse) => parse(line),
            Self::Declared(declared) => declared.parse(line),
        }
    }
}

impl Known {
    /// All of them, the built-in ones first.
    pub fn all(declared: &[Arc<Declared>]) -> impl Iterator<Item = Self> {
        let built_in = ALL.iter().map(|adapter| Self::BuiltIn(adapter));
        built_in.chain(declared.iter().map(|declared| Self::Declared(Arc::clone(declared))))
    }

    /// The one of this name. A declared one never has the name of a built-in.
    pub fn find(name: &str, declared: &[Arc<Declared>]) -> Option<Self> {
        Self::all(declared).find(|known| known.name() == name)
    }

    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn(adapter) => adapter.name,
            Self::Declared(declared) => &declared.name,
        }
    }

    /// Packages whose scripts it is.
    pub fn packages(&self) -> &'static [&'static str] {
        match self {
            Self::BuiltIn(adapter) => adapter.found.packages,
            Self::Declared(_) => &[],
        }
    }

    /// The program to look for in PATH; `None` where the user names it.
    pub fn program(&self) -> Option<&str> {
        match self {
            Self::BuiltIn(Adapter { program: Program::Named(program), .. }) => Some(program),
            Self::BuiltIn(Adapter { program: Program::OfCommand, .. }) => None,
            Self::Declared(declared) => Some(&declared.program),
        }
    }

    pub fn prompt(&self) -> PromptWay {
        match self {
            Self::BuiltIn(adapter) => adapter.prompt,
            Self::Declared(declared) => declared.prompt_way(),
        }
    }

    /// Whether a conversation can be gone on with.
    pub fn resumes(&self) -> bool {
        match self {
            Self::BuiltIn(adapter) => adapter.resume.is_some(),
            Self::Declared(declared) => declared.resume.is_some(),
        }
    }

    /// Whether it is known to start each tool in a kernel session of its own, as all built-in agents were seen to do: what
    /// shares its leader's session is then part of the agent (a launcher's child, a server for tools), and no tool.
    pub fn keeps_tools_apart(&self) -> bool {
        match self {
            Self::BuiltIn(adapter) => adapter.parse.is_some(),
            Self::Declared(_) => false,
        }
    }

    /// Whether the conversation gets our session's id.
    pub fn imposes_id(&self) -> bool {
        match self {
            Self::BuiltIn(adapter) => adapter.imposes_id,
            Self::Declared(declared) => declared.imposes_id(),
        }
    }

    /// How to read its stdout; `None` where the exit code alone counts.
    pub fn parser(&self) -> Option<Parser> {
        match self {
            Self::BuiltIn(adapter) => adapter.parse.map(Parser::BuiltIn),
            Self::Declared(declared) if declared.events.is_empty() => None,
            Self::Declared(declared) => Some(Parser::Declared(Arc::clone(declared))),
        }
    }

    /// What must differ from the caller's environment.
    pub fn env(&self, look: &EnvLook<'_>) -> EnvChange {
        match self {
            Self::BuiltIn(adapter) => (adapter.env)(look),
            Self::Declared(_) => EnvChange::default(),
        }
    }

    /// Whether first starts must be kept apart.
    pub fn first_start(&self, look: &EnvLook<'_>) -> Option<FirstStart> {
        match self {
            Self::BuiltIn(adapter) => adapter.first_start.and_then(|describe| describe(look)),
            Self::Declared(_) => None,
        }
    }

    /// [`Adapter::command`].
    pub fn command(&self, ask: &Ask<'_>) -> Result<(String, Vec<String>), Unfit> {
        match self {
            Self::BuiltIn(adapter) => adapter.command(ask),
            Self::Declared(declared) if !ask.command.is_empty() => {
                Err(Unfit::CommandRefused(declared.name.clone()))
            }
            Self::Declared(declared) => {
                check_prompt(&declared.name, self.prompt(), ask)?;
                checked(declared.program.clone(), declared.argv(ask))
            }
        }
    }

    /// [`Adapter::resume_command`].
    pub fn resume_command(&self, ask: &Ask<'_>, native_id: &str) -> Result<(String, Vec<String>), Unfit> {
        match self {
            Self::BuiltIn(adapter) => adapter.resume_command(ask, native_id),
            Self::Declared(declared) => {
                let arguments = declared.resume_argv(ask, native_id)?;
                check_prompt(&declared.name, self.prompt(), ask)?;
                checked(declared.program.clone(), arguments)
            }
        }
    }
}
