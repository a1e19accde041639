//! A daemon of the earlier agentctl that still runs for this home: two that supervise the same sessions would contradict
//! each other, and that one kills whatever it takes for a daemon of its kind when it starts.
//!
//! It is only looked at: asked over its socket, which changes nothing there, and by its pid files, whose numbers must
//! be processes of that tool, of a user whose home this is. A request under way is refused on the word of who listens
//! alone: a file that was left behind is no daemon. Refuses to signal it: the user is told what runs, and the command that
//! stops it.

pub(super) mod import;
mod kept;

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::limits;
use crate::sys::service::passes_sockets;
use crate::sys::shown::{self, Shown};
use crate::wire::old_tool::{STATUS_REQUEST, pid_of_old_daemon};

use super::Home;

/// Files of the earlier tool, each of which says that a home was its.
const TRACES: [&str; 6] =
    ["state.json", "locks.json", "fuses.json", "agentctl.pid", "supervisor.pid", "opencode-sessions"];

/// A pid file holds one number.
const PID_FILE_BYTES_MAX: u64 = 32;

/// What runs of the earlier tool, by process number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldDaemon {
    home: PathBuf,
    daemon: Option<u32>,
    /// Starts the daemon again, within five minutes, whenever it ends.
    supervisor: Option<u32>,
}

impl fmt::Display for OldDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, kill) = match (self.daemon, self.supervisor) {
            (Some(daemon), Some(supervisor)) => (
                format!("its daemon, PID {daemon}, and PID {supervisor}, which restarts that"),
                format!("{supervisor} {daemon}"),
            ),
            (None, Some(supervisor)) => {
                (format!("PID {supervisor}, which restarts its daemon"), supervisor.to_string())
            }
            (Some(daemon), None) => (format!("its daemon, PID {daemon}"), daemon.to_string()),
            (None, None) => ("its daemon".to_owned(), "PID".to_owned()),
        };
        write!(
            f,
            "an earlier agentctl runs for {} ({what}); stop it first: kill {kill} (its sessions go on)",
            self.home.display()
        )
    }
}

impl Home {
    /// The daemon, or its supervisor, of the earlier tool, if one lives: for a daemon that is about to start. What cannot
    /// be looked at is named in the log and taken for nobody: a daemon that answers at the socket is never overlooked.
    pub fn old_daemon(&self) -> Option<OldDaemon> {
        let answering = if passes_sockets() { None } else { ask(&self.socket()) };
        self.old_daemon_or(answering)
    }

    /// The same where its pid files say that there was one: a question at the socket of a service manager would start
    /// ours.
    pub fn noted_old_daemon(&self) -> Option<OldDaemon> {
        let noted = self.path().join("agentctl.pid").symlink_metadata().is_ok();
        if noted { self.old_daemon() } else { self.old_daemon_or(None) }
    }

    fn old_daemon_or(&self, answering: Option<u32>) -> Option<OldDaemon> {
        let daemon = answering.or_else(|| self.by_pid_file("agentctl.pid"));
        let supervisor = self.by_pid_file("supervisor.pid");
        let lives = daemon.is_some() || supervisor.is_some();
        lives.then(|| OldDaemon { home: self.path().to_owned(), daemon, supervisor })
    }

    /// The daemon of the earlier tool, if it is who listens at the socket: for a request that has waited. `None`: it is
    /// not, or that cannot be told.
    pub fn listening_old_daemon(&self) -> Option<OldDaemon> {
        let daemon = ask(&self.socket())?;
        let supervisor = self.by_pid_file("supervisor.pid");
        Some(OldDaemon { home: self.path().to_owned(), daemon: Some(daemon), supervisor })
    }

    /// The number in a pid file, where it is a process of the earlier tool's that has this home. These files stay behind
    /// and are copied with their homes, and numbers are used again.
    fn by_pid_file(&self, name: &str) -> Option<u32> {
        let path = self.path().join(name);
        let mut text = String::new();
        fs::File::open(&path).ok()?.take(PID_FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
        let pid = text.trim().parse::<u32>().ok().filter(|pid| *pid > 1)?;
        match shown::look(pid, false) {
            Ok(shown) => shown.filter(|it| is_of_old_tool(&it.argv) && self.may_be_of(it)).map(|_| pid),
            Err(error) => {
                tracing::warn!(
                    "{} names process {pid}, and whether that is an earlier agentctl cannot be told ({error}); if it is: kill {pid}",
                    path.display()
                );
                None
            }
        }
    }

    /// Whether this home is that of a process of the earlier tool: it is in the home directory of its user, and nowhere
    /// else. What cannot be told is yes.
    fn may_be_of(&self, process: &Shown) -> bool {
        let Some(user) = process.var("HOME") else { return true };
        match (fs::canonicalize(PathBuf::from(user).join(".agentctl")), fs::canonicalize(self.path())) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            (Err(error), _) | (_, Err(error)) => error.kind() != io::ErrorKind::NotFound,
        }
    }

    /// Whether the earlier tool was at home here.
    pub(super) fn was_of_old_tool(&self) -> bool {
        TRACES.iter().any(|name| self.path().join(name).symlink_metadata().is_ok())
    }
}

/// The process number of a daemon of the earlier tool that answers at this socket.
fn ask(socket: &Path) -> Option<u32> {
    let stream = connect(socket)?;
    stream.set_read_timeout(Some(limits::OLD_DAEMON_TIMEOUT)).ok()?;
    stream.set_write_timeout(Some(limits::OLD_DAEMON_TIMEOUT)).ok()?;
    (&stream).write_all(STATUS_REQUEST.as_bytes()).ok()?;
    let mut line = Vec::new();
    let mut answer = BufReader::new(&stream).take(limits::OLD_DAEMON_ANSWER_BYTES_MAX);
    answer.read_until(b'\n', &mut line).ok()?;
    pid_of_old_daemon(&line)
}

/// Never waits: whose backlog is full does not answer either.
fn connect(socket: &Path) -> Option<UnixStream> {
    let address = SocketAddrUnix::new(socket).ok()?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    rustix::net::connect(&fd, &address).ok()?;
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false).ok()?;
    Some(stream)
}

/// `node .../cli.js daemon start --supervised` or `--foreground`; the file may have another name, and a program that runs
/// it comes first.
fn is_of_old_tool(argv: &[String]) -> bool {
    const RUNS: [&str; 5] = ["node", "nodejs", "bun", "deno", "tsx"];
    let program = argv.first().map(|program| program.rsplit('/').next().unwrap_or(program));
    let starts = argv.windows(2).position(|pair| pair == ["daemon", "start"]);
    program.is_some_and(|program| RUNS.contains(&program)) && starts.is_some_and(|at| at >= 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn who_only_has_the_number_is_not_taken_for_the_earlier_tool() {
        for its in [
            "/usr/bin/node /usr/lib/node_modules/@orgloop/agentctl/dist/cli.js daemon start --supervised",
            "node /usr/local/bin/agentctl daemon start --foreground --metrics-port 9200",
            "node --no-warnings cli.js daemon start --supervised",
        ] {
            assert!(is_of_old_tool(&argv(its)), "{its}");
        }
        for other in [
            "agentctl daemon start --foreground",
            "/usr/bin/agentctl daemon run --detach",
            "vim notes-on-agentctl-daemon.md",
            "node daemon start",
            "node server.js",
            "",
        ] {
            assert!(!is_of_old_tool(&argv(other)), "{other}");
        }
    }

    #[test]
    fn the_words_name_what_runs_and_what_stops_it() {
        let words =
            |daemon, supervisor| OldDaemon { home: "/h/.agentctl".into(), daemon, supervisor }.to_string();
        assert_eq!(
            words(Some(12), Some(11)),
            "an earlier agentctl runs for /h/.agentctl (its daemon, PID 12, and PID 11, which restarts that); stop it \
             first: kill 11 12 (its sessions go on)"
        );
        assert!(words(Some(12), None).contains("kill 12 ("));
        assert!(words(None, Some(11)).contains("kill 11 ("));
    }
}
