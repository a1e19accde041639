//! An adapter of either kind, built in or declared, behind one face.

use std::sync::Arc;

use super::acp::{self, Acp};
use super::{
    ALL, Adapter, Ask, Declared, EnvChange, EnvLook, FirstStart, Parse, Program, PromptWay, Unfit,
    check_prompt, checked,
};
use crate::core::agent::AgentEvent;

/// An adapter that sessions can be launched with.
#[derive(Clone, Debug)]
pub enum Known {
    BuiltIn(&'static Adapter),
    /// The same, spoken to in ACP.
    Acp(&'static Adapter, &'static Acp),
    Declared(Arc<Declared>),
}

/// How to read what an agent prints.
#[derive(Clone, Debug)]
pub enum Parser {
    BuiltIn(Parse),
    Declared(Arc<Declared>),
}

impl Parser {
    /// For whoever speaks ACP.
    pub const ACP: Self = Self::BuiltIn(acp::parse);

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

    /// The same agent, spoken to in ACP.
    pub fn over_acp(self) -> Result<Self, Unfit> {
        match self {
            Self::BuiltIn(adapter) => match &adapter.acp {
                Some(acp) => Ok(Self::Acp(adapter, acp)),
                None => Err(Unfit::NoAcp(adapter.name.to_owned())),
            },
            Self::Declared(declared) if !declared.acp => Err(Unfit::NoAcp(declared.name.clone())),
            Self::Acp(..) | Self::Declared(_) => Ok(self),
        }
    }

    /// Whether it is spoken to in ACP.
    pub fn speaks_acp(&self) -> bool {
        match self {
            Self::BuiltIn(_) => false,
            Self::Acp(..) => true,
            Self::Declared(declared) => declared.acp,
        }
    }

    /// Whether it can be.
    pub fn can_speak_acp(&self) -> bool {
        match self {
            Self::BuiltIn(adapter) => adapter.acp.is_some(),
            Self::Acp(..) => true,
            Self::Declared(declared) => declared.acp,
        }
    }

    /// Whether its arguments name the model.
    pub fn model_in_argv(&self) -> bool {
        match self {
            Self::BuiltIn(_) => true,
            Self::Acp(_, acp) => acp.model_in_argv,
            Self::Declared(declared) => !declared.acp || declared.names_model(),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::BuiltIn(adapter) | Self::Acp(adapter, _) => adapter.name,
            Self::Declared(declared) => &declared.name,
        }
    }

    /// Packages whose scripts it is.
    pub fn packages(&self) -> &'static [&'static str] {
        match self {
            Self::BuiltIn(adapter) | Self::Acp(adapter, _) => adapter.found.packages,
            Self::Declared(_) => &[],
        }
    }

    /// The program to look for in PATH; `None` where the user names it.
    pub fn program(&self) -> Option<&str> {
        match self {
            Self::BuiltIn(adapter) | Self::Acp(adapter, _) => match adapter.program {
                Program::Named(program) => Some(program),
                Program::OfCommand => None,
            },
            Self::Declared(declared) => Some(&declared.program),
        }
    }

    pub fn prompt(&self) -> PromptWay {
        match self {
            Self::BuiltIn(adapter) | Self::Acp(adapter, _) => adapter.prompt,
            Self::Declared(declared) => declared.prompt_way(),
        }
    }

    /// Whether a conversation can be gone on with.
    pub fn resumes(&self) -> bool {
        match self {
            Self::BuiltIn(adapter) => adapter.resume.is_some(),
            Self::Acp(..) => true,
            Self::Declared(declared) => declared.acp || declared.resume.is_some(),
        }
    }

    /// Whether it is known to start each tool in a kernel session of its own, as all built-in agents were seen to do: what
    /// shares its leader's session is then part of the agent (a launcher's child, a server for tools), and no tool.
    pub fn keeps_tools_apart(&self) -> bool {
        match self {
            Self::BuiltIn(adapter) => adapter.parse.is_some(),
            // Not seen yet.
            Self::Acp(..) | Self::Declared(_) => false,
        }
    }

    /// Whether the conversation gets our session's id.
    pub fn imposes_id(&self) -> bool {
        match self {
            Self::BuiltIn(adapter) => adapter.imposes_id,
            Self::Acp(..) => false,
            Self::Declared(declared) => !declared.acp && declared.imposes_id(),
        }
    }

    /// How to read its stdout; `None` where the exit code alone counts.
    pub fn parser(&self) -> Option<Parser> {
        match self {
            Self::BuiltIn(adapter) => adapter.parse.map(Parser::BuiltIn),
            Self::Acp(_, acp) => Some(Parser::BuiltIn(acp.parse)),
            Self::Declared(declared) if declared.acp => Some(Parser::ACP),
            Self::Declared(declared) if declared.events.is_empty() => None,
            Self::Declared(declared) => Some(Parser::Declared(Arc::clone(declared))),
        }
    }

    /// What must differ from the caller's environment.
    pub fn env(&self, look: &EnvLook<'_>) -> EnvChange {
        match self {
            Self::BuiltIn(adapter) | Self::Acp(adapter, _) => (adapter.env)(look),
            Self::Declared(_) => EnvChange::default(),
        }
    }

    /// Whether first starts must be kept apart.
    pub fn first_start(&self, look: &EnvLook<'_>) -> Option<FirstStart> {
        match self {
            Self::BuiltIn(adapter) | Self::Acp(adapter, _) => {
                adapter.first_start.and_then(|describe| describe(look))
            }
            Self::Declared(_) => None,
        }
    }

    /// [`Adapter::command`].
    pub fn command(&self, ask: &Ask<'_>) -> Result<(String, Vec<String>), Unfit> {
        match self {
            Self::BuiltIn(adapter) => adapter.command(ask),
            Self::Acp(adapter, _) if ask.thinking.is_some() => {
                Err(Unfit::NoThinking(format!("{} over ACP", adapter.name)))
            }
            Self::Acp(adapter, acp) => Adapter { argv: acp.argv, ..**adapter }.command(ask),
            Self::Declared(declared) if !ask.command.is_empty() => {
                Err(Unfit::CommandRefused(declared.name.clone()))
            }
            Self::Declared(declared) if ask.thinking.is_some() && !declared.takes_thinking() => {
                Err(Unfit::NoThinking(declared.name.clone()))
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
            // It is started alike, and told in the protocol which conversation to take up.
            Self::Acp(..) => self.command(ask),
            Self::Declared(declared) if declared.acp => self.command(ask),
            Self::Declared(declared) => {
                let arguments = declared.resume_argv(ask, native_id)?;
                check_prompt(&declared.name, self.prompt(), ask)?;
                checked(declared.program.clone(), arguments)
            }
        }
    }
}
