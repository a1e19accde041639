//! What is made from the definition of the command line: completion scripts and manual pages. They cannot differ from
//! `--help`, which has the same source.

use std::fs;
use std::io;
use std::path::Path;

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;

use super::{Cli, Failure, render};

/// The name of the program, whatever file it was started from.
const PROGRAM: &str = "agentctl";

/// Prints the completion script of a shell.
pub(super) fn completions(shell: Shell) -> Result<u8, Failure> {
    // Into memory first: the generator panics when nobody reads any more.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), PROGRAM, &mut script);
    render::out_bytes(false, &script)?;
    Ok(0)
}

/// Writes `man1/` with a page for each command, and `completions/` with a script for each shell.
pub(super) fn all(directory: &Path) -> Result<u8, Failure> {
    write_all(directory).map_err(|error| {
        Failure::new(1, format!("write manual pages and completions below {}: {error}", directory.display()))
    })?;
    Ok(0)
}

fn write_all(directory: &Path) -> io::Result<()> {
    let (pages, scripts) = (directory.join("man1"), directory.join("completions"));
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&scripts)?;
    clap_mangen::generate_to(Cli::command(), &pages)?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut Cli::command(), PROGRAM, &scripts)?;
    }
    Ok(())
}
