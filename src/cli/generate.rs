//! What is made from the definition of the command line: completion scripts and manual pages. They cannot differ from
//! `--help`, which has the same source.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::help::{self, Depth};
use super::{Failure, render};

/// The name of the program, whatever file it was started from.
const PROGRAM: &str = "agentctl";

/// Prints the completion script of a shell.
pub(super) fn completions(shell: Shell) -> Result<u8, Failure> {
    // Into memory first: the generator panics when nobody reads any more.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut help::command(Depth::All), PROGRAM, &mut script);
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
    let mut command = help::command(Depth::All).disable_help_subcommand(true);
    command.build();
    write_pages(&command, &pages)?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut help::command(Depth::All), PROGRAM, &scripts)?;
    }
    Ok(())
}

fn write_pages(command: &Command, directory: &Path) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write_pages(sub, directory)?;
    }
    let man = Man::new(command.clone()).source(format!("{PROGRAM} {}", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    let (notes, examples) = help::parts(command);
    section(&mut page, "EXAMPLES", &examples)?;
    if command.get_arguments().any(|arg| !arg.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.get_subcommands().any(|sub| !sub.is_hide_set()) {
        man.render_subcommands_section(&mut page)?;
    }
    section(&mut page, "NOTES", &notes)?;
    fs::write(directory.join(man.get_filename()), page)
}

/// Lines as they are; nothing where there are none.
fn section(page: &mut Vec<u8>, heading: &str, lines: &str) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut roff = Roff::default();
    roff.control("SH", [heading]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff.to_writer(page)?;
    page.flush()
}
