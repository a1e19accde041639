//! Help as a contract: every command has examples that it understands, and what it says fits a screen.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use agentctl::cli::Cli;
use clap::{CommandFactory, Parser};

use crate::support::play::{stderr, stdout};

/// A small screen, for `-h`, and a larger one, for everything.
const SMALL: Screen = Screen { width: 80, height: 24 };
const LAUNCH: Screen = Screen { width: 80, height: 30 };
const LARGE: Screen = Screen { width: 100, height: 40 };
/// The list of all commands, and the flags of a launch, are as long as they are.
const LONG: Screen = Screen { width: 100, height: 110 };

#[derive(Clone, Copy, Debug)]
struct Screen {
    width: usize,
    height: usize,
}

/// The words of every command that is shown, the program's own none.
fn commands() -> Vec<Vec<String>> {
    fn below(command: &clap::Command, words: &[String], found: &mut Vec<Vec<String>>) {
        found.push(words.to_vec());
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let words = [words, &[sub.get_name().to_owned()]].concat();
            below(sub, &words, found);
        }
    }
    let mut found = Vec::new();
    below(&Cli::command(), &[], &mut found);
    found
}

fn agentctl(words: &[String], columns: usize) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command.args(words).env("COLUMNS", columns.to_string()).env("NO_COLOR", "1");
    command.output().expect("the command line runs")
}

#[track_caller]
fn help(words: &[String], flag: &str, screen: Screen) -> String {
    let asked = [words, &[flag.to_owned()]].concat();
    let output = agentctl(&asked, screen.width);
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{asked:?}");
    let text = stdout(&output);
    for line in text.lines() {
        assert!(line.chars().count() <= screen.width, "{asked:?} is wider than {screen:?}: {line}");
        assert_eq!(line, line.trim_end(), "{asked:?}");
    }
    let height = text.lines().count();
    assert!(height <= screen.height, "{asked:?} has {height} lines, which is more than {screen:?}:\n{text}");
    text
}

/// The examples of a help text: what is typed, without the words on it.
fn examples(text: &str) -> Vec<&str> {
    let lines = text.lines().skip_while(|line| *line != "Examples:").skip(1);
    let lines = lines.take_while(|line| line.starts_with("  "));
    lines.map(|line| line.trim().split("  ").next().unwrap_or_default()).collect()
}

#[test]
fn help_fits_a_screen_and_begins_with_the_common_case() {
    let mut abouts = BTreeSet::new();
    for words in commands() {
        let launches = words.first().is_some_and(|word| ["launch", "run"].contains(&word.as_str()));
        let text = help(&words, "-h", if launches { LAUNCH } else { SMALL });
        let (about, rest) = text.split_once("\n\n").expect("two paragraphs");
        assert_eq!(about.lines().count(), 1, "{words:?} is said in one line: {about}");
        assert!(
            abouts.insert(about.to_owned()),
            "{words:?} says of itself what another command does: {about}"
        );
        assert!(
            rest.starts_with("Examples:\n  "),
            "{words:?} has no examples: begin its after_help with a paragraph \"Examples:\""
        );
        let path = ["agentctl"].into_iter().chain(words.iter().map(String::as_str)).collect::<Vec<_>>();
        for example in examples(&text) {
            let what = format!("an example of {path:?}: {example}");
            assert!(
                example
                    .trim_start_matches("source <(")
                    .trim_start_matches("sudo ")
                    .starts_with(&path.join(" ")),
                "{what}"
            );
        }
        let all = help(&words, "--help", if launches || words.is_empty() { LONG } else { LARGE });
        assert_eq!(stdout(&agentctl(&[&["help".to_owned()], &words[..]].concat(), 100)), all, "{words:?}");
    }
}

/// The words that a shell makes of a line, at each place where agentctl is called.
fn words_of(line: &str) -> Vec<Vec<String>> {
    let script = format!(
        "agentctl() {{ printf '%s\\0' \"$@\" >&3; printf '\\0\\n' >&3; }}; sudo() {{ \"$@\"; }}; jq() {{ :; }}\n\
         {}",
        line.replace("<task", "</dev/null")
            .replace("<x", "</dev/null")
            .replace("<more.txt", "</dev/null")
            .replace(">agentctl.fish", ">/dev/null")
    );
    let output = Command::new("bash").args(["-c", &format!("exec 3>&1; {script}")]).output().expect("bash");
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{line}");
    let calls = stdout(&output);
    let calls = calls.split("\0\n").filter(|call| !call.is_empty());
    calls.map(|call| call.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()).collect()
}

#[test]
fn examples_are_understood() {
    let mut seen = BTreeSet::new();
    for words in commands() {
        let text = help(&words, "--help", LONG);
        for example in examples(&text) {
            seen.insert(example.to_owned());
        }
    }
    for example in seen {
        let calls = words_of(&example);
        assert!(!calls.is_empty(), "{example} calls nothing");
        for call in calls {
            let line = ["agentctl".to_owned()].into_iter().chain(call);
            if let Err(error) = Cli::try_parse_from(line) {
                panic!("{example} is not understood: {error}");
            }
        }
    }
}
