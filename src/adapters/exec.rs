//! Any program at all: `launch exec -- CMD ARGS...`.
//!
//! Owns nothing of the program's ways: its output is not read, its exit code alone says how it went.

use super::found::{self, Found};
use super::{Adapter, Program, PromptWay, env_unchanged};

pub(super) const EXEC: Adapter = Adapter {
    name: "exec",
    program: Program::OfCommand,
    found: Found { packages: &[], id_in: found::no_id, store: None },
    prompt: PromptWay::Refused,
    argv: |ask| ask.command.iter().skip(1).cloned().collect(),
    resume: None,
    imposes_id: false,
    env: env_unchanged,
    parse: None,
    first_start: None,
    acp: None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::Ask;

    #[test]
    fn the_command_is_passed_on_untouched() {
        let command: Vec<String> = ["sh", "-c", "echo 'a  b'", "--", ""].map(str::to_owned).into();
        let ask = Ask { command: &command, ..Ask::default() };
        assert_eq!(EXEC.command(&ask), Ok(("sh".to_owned(), command[1..].to_vec())));
    }
}
