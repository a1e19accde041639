//! Adapters and models, in the pairs that they were typed in: `--adapter A --model X --adapter B`.
//!
//! Owns the rule that a model belongs to the adapter before it. Refuses to know which adapters and models there are.

use clap::error::{Error, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

/// What is to be launched: one slot a session. One without an adapter means the positional or the configured one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots(pub Vec<Slot>);

/// One session's adapter and model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    pub adapter: Option<String>,
    pub model: Option<String>,
}

const ADAPTER: &str = "slot_adapter";
const MODEL: &str = "slot_model";

impl Args for Slots {
    fn augment_args(command: Command) -> Command {
        let adapter = Arg::new(ADAPTER)
            .short('A')
            .long("adapter")
            .value_name("NAME")
            .action(ArgAction::Append)
            .help("The agent, as a flag; several, each with a --model behind it, launch a group, in a worktree each");
        let model = Arg::new(MODEL)
            .short('m')
            .short_alias('M')
            .long("model")
            .value_name("MODEL")
            .action(ArgAction::Append)
            .help("Model, in the agent's own spelling");
        command.arg(adapter).arg(model)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Slots {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let typed = |name| -> Vec<(usize, String)> {
            let values = matches.get_many::<String>(name).into_iter().flatten().cloned();
            matches.indices_of(name).into_iter().flatten().zip(values).collect()
        };
        pair(typed(ADAPTER), typed(MODEL)).map_err(|why| Error::raw(ErrorKind::ArgumentConflict, why + "\n"))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// Each with its place on the command line.
fn pair(adapters: Vec<(usize, String)>, models: Vec<(usize, String)>) -> Result<Slots, String> {
    let mut slots: Vec<_> = adapters
        .into_iter()
        .map(|(at, adapter)| (at, Slot { adapter: Some(adapter), model: None }))
        .collect();
    if slots.is_empty() && !models.is_empty() {
        slots.push((0, Slot::default()));
    }
    let only = slots.len() == 1;
    for (at, model) in models {
        // With one adapter there is no question whose model it is.
        let slot = slots.iter_mut().rev().find(|(begins, _)| only || *begins < at);
        let Some((_, slot)) = slot else {
            return Err(format!("--model {model} stands before the --adapter that it is for; put it behind"));
        };
        if let Some(other) = slot.model.replace(model.clone()) {
            let adapter = slot.adapter.as_deref().unwrap_or("NAME");
            return Err(format!(
                "{other} and {model} are two models for one session; for two sessions repeat the adapter: --adapter {adapter} --model {other} --adapter {adapter} --model {model}"
            ));
        }
    }
    Ok(Slots(slots.into_iter().map(|(_, slot)| slot).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paired(line: &str) -> Result<Vec<(String, String)>, String> {
        let command = Slots::augment_args(Command::new("launch"));
        let matches = command
            .try_get_matches_from(std::iter::once("launch").chain(line.split_whitespace()))
            .map_err(|error| error.to_string())?;
        let text = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let slots = Slots::from_arg_matches(&matches).map_err(|error| error.to_string())?;
        Ok(slots.0.into_iter().map(|slot| (text(slot.adapter), text(slot.model))).collect())
    }

    #[test]
    fn a_model_belongs_to_the_adapter_before_it() {
        let table: [(&str, &[(&str, &str)]); 7] = [
            ("", &[]),
            ("--model m", &[("-", "m")]),
            ("-M m -A a", &[("a", "m")]),
            ("--adapter a", &[("a", "-")]),
            ("--adapter a -m x --adapter a -m y", &[("a", "x"), ("a", "y")]),
            ("-A a -A b -M y", &[("a", "-"), ("b", "y")]),
            ("--adapter=a --model=x --adapter=b", &[("a", "x"), ("b", "-")]),
        ];
        for (line, expected) in table {
            let expected: Vec<_> = expected.iter().map(|(a, m)| ((*a).to_owned(), (*m).to_owned())).collect();
            assert_eq!(paired(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for (line, why) in [
            ("--model x --adapter a --adapter b", "--model x stands before"),
            ("--adapter a --model x --model y", "--adapter a --model x --adapter a --model y"),
            ("--model x --model y", "two models for one session"),
        ] {
            let said = paired(line).expect_err(line);
            assert!(said.contains(why), "{line}: {said}");
        }
    }
}
