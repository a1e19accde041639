//! The child between fork and exec: it makes itself the process that the order describes.
//!
//! Owns the order of the steps. The leader's name is on disk and on its way to the daemon before the agent's first
//! instruction, so no agent ever runs unrecorded. Never returns: ends in exec, or reports and exits.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};

use agentctl::core::vocab::HostId;
use agentctl::sys::identity;
use agentctl::wire::session_dir::{LaunchOrder, LeaderIdentity, RunFiles, ShimMessage, Stage, Version};
use rustix::fs::Mode;
use rustix::process::{PidfdFlags, Resource, Rlimit, getpid, getrlimit, pidfd_open, setrlimit};

use crate::launch::{Failure, Redirections, write_report};
use crate::{daemon_link, kernel};

/// Becomes the agent, or tells the shim why not. `to_enter`: its cgroup, if it was not born there.
pub(crate) fn become_leader_or_exit(
    files: &RunFiles,
    host: &HostId,
    order: &LaunchOrder,
    to_enter: Option<&Path>,
    redirections: Redirections,
    report: OwnedFd,
) -> ! {
    let failure = match become_process(files, host, order, to_enter) {
        Ok(()) => become_program(files, order, redirections),
        Err(failure) => failure,
    };
    write_report(report, &failure);
    kernel::exit_child()
}

/// The surroundings of the agent.
fn become_process(
    files: &RunFiles,
    host: &HostId,
    order: &LaunchOrder,
    to_enter: Option<&Path>,
) -> Result<(), Failure> {
    // Cannot fail: a fresh child leads no process group.
    let _ = rustix::process::setsid();
    if let Some(cgroup) = to_enter {
        fs::write(cgroup.join("cgroup.procs"), "0").map_err(Failure::at(Stage::Cgroup))?;
    }
    kernel::reset_signals();
    if let Some(soft) = order.nofile_soft {
        limit_open_files(soft).map_err(Failure::at(Stage::Limits))?;
    }
    drop_protection_from_oom();
    rustix::process::chdir(order.cwd.as_str()).map_err(Failure::at(Stage::Cwd))?;
    record(files, host).map_err(Failure::at(Stage::Identity))?;
    rustix::process::umask(Mode::from_raw_mode(order.umask));
    Ok(())
}

fn limit_open_files(soft: u64) -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = Some(maximum.map_or(soft, |hard| soft.min(hard)));
    setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    Ok(())
}

/// A daemon that is protected from the kernel's memory killer must not hand that on to agents.
fn drop_protection_from_oom() {
    const PATH: &str = "/proc/self/oom_score_adj";
    let protected = fs::read_to_string(PATH).is_ok_and(|score| score.starts_with('-'));
    if protected {
        let _ = fs::write(PATH, "0");
    }
}

/// The leader's name, to disk and to the daemon.
fn record(files: &RunFiles, host: &HostId) -> io::Result<()> {
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty())?;
    let id = files.id();
    files.write_leader(&LeaderIdentity {
        v: Version,
        session: id.session,
        run: id.run,
        host: host.clone(),
        process: identity::of_pidfd(process::id(), pidfd.as_fd())?,
    })?;
    daemon_link::send_pidfd(ShimMessage::Leader, pidfd.as_fd());
    Ok(())
}

/// Returns only what went wrong.
fn become_program(files: &RunFiles, order: &LaunchOrder, redirections: Redirections) -> Failure {
    let env = match fs::read(files.dir().join(&order.env)) {
        Ok(env) => env,
        Err(error) => return Failure::at(Stage::Env)(error),
    };
    let Some((program, arguments)) = order.argv.split_first() else {
        return Failure::at(Stage::Program)(io::Error::from(ErrorKind::NotFound));
    };
    let error = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(variables(&env))
        .stdin(redirections.stdin)
        .stdout(redirections.stdout)
        .stderr(redirections.stderr)
        .exec();
    let not_runnable = [ErrorKind::NotFound, ErrorKind::PermissionDenied, ErrorKind::NotADirectory];
    let stage = if not_runnable.contains(&error.kind()) { Stage::Program } else { Stage::Exec };
    Failure::at(stage)(error)
}

/// `K=V` with NUL between; what has no name is no variable.
fn variables(env: &[u8]) -> impl Iterator<Item = (&OsStr, &OsStr)> {
    env.split(|byte| *byte == 0).filter_map(|entry| {
        let equals = entry.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
        Some((OsStr::from_bytes(&entry[..equals]), OsStr::from_bytes(&entry[equals + 1..])))
    })
}
