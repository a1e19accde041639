//! agent-ctl: the earlier name of `agentctl`, for what still calls it that.
//!
//! Says so on stderr and becomes the `agentctl` beside it, with the same arguments: output and exit code are that
//! program's. Refuses to look elsewhere: an `agentctl` that PATH finds may be another one.

use std::env;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const NOTE: &str = "agent-ctl is now agentctl; this name goes on working, with the same arguments";

fn main() -> ExitCode {
    complain(NOTE);
    let program = match beside() {
        Ok(program) => program,
        Err(error) => return refuse(&format!("agent-ctl: find the directory of this program: {error}")),
    };
    let error = Command::new(&program).args(env::args_os().skip(1)).exec();
    refuse(&format!(
        "agent-ctl: start {}: {error}; install agentctl in the same directory as agent-ctl, or call agentctl itself",
        program.display()
    ))
}

/// The program of that name where this one really is, through whichever links it was called.
fn beside() -> io::Result<PathBuf> {
    Ok(env::current_exe()?.canonicalize()?.with_file_name("agentctl"))
}

/// Nothing was asked of anybody: the code of a daemon that is out of reach.
fn refuse(message: &str) -> ExitCode {
    complain(message);
    ExitCode::from(3)
}

fn complain(message: &str) {
    // Without a stderr there is nobody to tell.
    let _nobody = writeln!(io::stderr(), "{message}");
}
