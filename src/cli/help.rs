//! How help is laid out: the common case first, and what is rarely asked for only where everything is asked for.
//!
//! A command says its examples in `after_help`, in a paragraph that begins with `Examples:`; help shows them above the
//! usage, and manual pages in a section of their own. `-h` is for a small screen: it leaves out the commands and flags
//! that the tables below put aside. `--help` and `agentctl help` show them all, under headings.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::{Command, CommandFactory};

use super::Cli;

const TEMPLATE: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// How the paragraph of examples begins.
const EXAMPLES: &str = "Examples:";

/// The commands, in the order in which they are met. `-h` shows the first group.
const COMMANDS: [(&str, &[&str]); 5] = [
    ("Commands", &["run", "launch", "list", "status", "logs", "wait", "stop", "resume", "doctor", "daemon"]),
    ("More of sessions", &["adopt", "rerun", "peek", "events", "extend", "kill", "prune"]),
    ("Worktrees", &["worktree"]),
    ("Directories", &["lock", "unlock", "locks", "fuse", "fuses"]),
    ("The program", &["adapters", "config", "webhooks", "completions", "help"]),
];

/// Flags of `launch` and `run` that `-h` leaves out.
const FLAGS: [(&str, &[&str]); 6] = [
    ("What it is told", &["spec", "file", "max_file_size", "issue", "repo"]),
    ("Where it works", &["worktree", "branch", "base_branch", "matrix"]),
    (
        "Limits",
        &[
            "grace",
            "leftovers",
            "max_tokens",
            "max_cost",
            "memory_max",
            "cpu_quota",
            "tasks_max",
            "linger",
            "stuck",
        ],
    ),
    (
        "How it runs",
        &["force", "queue", "slot_adapter", "thinking", "prompt_file", "env", "safe", "acp", "private"],
    ),
    ("Who is told", &["notify", "callback_session", "callback_agent", "on_create", "on_complete"]),
    ("More", &["label"]),
];

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    Common,
    All,
}

impl Depth {
    /// What these words ask for, of which the first is the program.
    pub(crate) fn of(words: &[OsString]) -> Self {
        let mut ours = words.iter().take_while(|word| *word != "--");
        let all = words.get(1).is_some_and(|word| word == "help") || ours.any(|word| word == "--help");
        if all { Self::All } else { Self::Common }
    }
}

/// The command line, with its help laid out.
pub(crate) fn command(depth: Depth) -> Command {
    let mut command = lay_out(Cli::command());
    for name in ["launch", "run"] {
        command = command.mut_subcommand(name, |sub| set_aside(sub, depth));
    }
    let mut template = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n".to_owned();
    for (heading, names) in COMMANDS.iter().take(if depth == Depth::All { COMMANDS.len() } else { 1 }) {
        let rows = names.iter().filter_map(|name| {
            let about = command.find_subcommand(name)?.get_about()?;
            Some(format!("  {name:<13}{about}\n"))
        });
        template += &format!("\n{heading}:\n{}", rows.collect::<String>());
    }
    template += match depth {
        Depth::All => "\nOne of them: agentctl help COMMAND",
        Depth::Common => "\nAll commands: agentctl help",
    };
    command.help_template(template)
}

/// What a command that is laid out says after its options, and its examples, a line each.
pub(crate) fn parts(command: &Command) -> (String, String) {
    let text = |said: Option<&StyledStr>| said.map(ToString::to_string).unwrap_or_default();
    let examples = text(command.get_before_help());
    let lines: Vec<_> = examples.lines().skip(1).map(str::trim_start).collect();
    (text(command.get_after_help()), lines.join("\n"))
}

/// Examples to the front, in a command and in those below it.
fn lay_out(command: Command) -> Command {
    let said = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (examples, notes): (Vec<_>, Vec<_>) =
        said.split("\n\n").partition(|paragraph| paragraph.starts_with(EXAMPLES));
    let command = command.help_template(TEMPLATE).after_help(notes.join("\n\n"));
    let command = match examples.first() {
        Some(examples) => command.before_help((*examples).to_owned()),
        None => command,
    };
    command.mut_subcommands(lay_out)
}

fn set_aside(command: Command, depth: Depth) -> Command {
    let group = |id: &str| FLAGS.iter().find(|(_, ids)| ids.contains(&id)).map(|(heading, _)| *heading);
    let notes = match (depth, command.get_after_help().map(ToString::to_string).unwrap_or_default()) {
        (Depth::All, notes) => notes,
        (Depth::Common, notes) => {
            let more = format!("All options: agentctl {} --help", command.get_name());
            if notes.is_empty() { more } else { format!("{notes}\n\n{more}") }
        }
    };
    let command = command.mut_args(|arg| match group(arg.get_id().as_str()) {
        Some(heading) if depth == Depth::All => arg.help_heading(heading),
        Some(_) => arg.hide(true),
        None => arg,
    });
    command.after_help(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_is_in_one_group_and_each_flag_that_is_put_aside_is_there() {
        let mut command = Cli::command();
        command.build();
        let listed: Vec<_> = COMMANDS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let places = listed.iter().filter(|name| **name == sub.get_name()).count();
            assert_eq!(places, 1, "{} is in {places} groups of COMMANDS", sub.get_name());
        }
        for name in listed {
            let there = command.find_subcommand(name).is_some_and(|sub| !sub.is_hide_set());
            assert!(there, "{name} is listed in COMMANDS, and no command");
        }
        for name in ["launch", "run"] {
            let sub = command.find_subcommand(name).expect("a command");
            for id in FLAGS.iter().flat_map(|(_, ids)| ids.iter().copied()) {
                assert!(sub.get_arguments().any(|arg| arg.get_id() == id), "{name} has no {id}");
            }
        }
    }

    #[test]
    fn help_is_asked_for_by_our_own_words_only() {
        for (words, depth) in [
            ("agentctl help", Depth::All),
            ("agentctl help run", Depth::All),
            ("agentctl run --help", Depth::All),
            ("agentctl run -h", Depth::Common),
            ("agentctl run -- make --help", Depth::Common),
            ("agentctl run help", Depth::Common),
        ] {
            let split: Vec<_> = words.split(' ').map(OsString::from).collect();
            assert_eq!(Depth::of(&split), depth, "{words}");
        }
    }
}
