//! The command line: what can be asked, and which exit code an answer is.
//!
//! Data goes to stdout, words to stderr. Refuses to know the core: everything is asked over the socket.

mod assembly;
mod client;
mod commands;
mod generate;
mod help;
mod launch_args;
mod launchd;
mod listing;
mod matrix;
mod render;
mod slots;
mod units;

use std::ffi::OsString;
use std::io;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::parse_duration;
use crate::core::vocab::short;
use crate::sys::BackendChoice;

pub use launch_args::{LaunchArgs, RunArgs};

/// A command that did not do what was asked.
#[derive(Debug)]
pub struct Failure {
    /// 1: the answer is no. 2: usage. 3: no daemon. 125: `run` or `wait` itself failed.
    pub code: u8,
    pub message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Why no daemon is to be started from here: it would end with the session that it is in.
pub fn inside_a_session() -> Option<String> {
    let session = std::env::var("AGENTCTL_SESSION_ID").ok().filter(|id| !id.is_empty())?;
    let short = short(&session);
    Some(format!(
        "this is inside a session ({short}), and a daemon that is started here would end with it; outside, run: agentctl \
         daemon start (for one that is to end with the session, as in a test: unset AGENTCTL_SESSION_ID)"
    ))
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(1, error.to_string())
    }
}

/// Supervises agents: knows, for certain, when each session ended and how.
#[derive(Debug, Parser)]
#[command(name = "agentctl", version, max_term_width = 100)]
#[command(after_help = "Examples:
  agentctl run opencode -p 'fix it'     run an agent, exit with its verdict
  agentctl launch opencode -p 'fix it'  the same in the background
  agentctl list                         what runs
  agentctl wait 1a2b                    wait for one of them")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Launch a session, follow its output, and exit with its verdict
    Run(RunArgs),
    /// Launch a session in the background
    #[command(after_help = "Examples:
  agentctl launch opencode -p 'fix it'        prints the id of its session
  agentctl launch -n build -- make -j8        any command, by a name
  agentctl launch codex --timeout 1h -p - <x  the task comes from a file
  agentctl launch pi --worktree . --branch b -p 'fix it'  in a worktree")]
    Launch(LaunchArgs),
    /// Go on with an ended session, in the same conversation
    Resume(ResumeArgs),
    /// List sessions
    List(ListArgs),
    /// Supervise an agent, or any process, that was started outside
    Adopt(AdoptArgs),
    /// Show one session
    Status(StatusArgs),
    /// Wait for the verdict of sessions, and exit with it
    Wait(WaitArgs),
    /// Show what a session printed
    Logs(LogsArgs),
    /// Show the last messages of a session
    Peek(PeekArgs),
    /// Stop sessions with all their processes
    Stop(StopArgs),
    /// Move the deadline of a session
    Extend(ExtendArgs),
    /// Follow what happens, one JSON object a line
    Events(EventsArgs),
    /// List the fuses of directories
    Fuses(commands::fuses::FusesArgs),
    /// Set, extend or cancel the fuse of a directory, a timer
    #[command(
        subcommand,
        after_help = "Examples:
  agentctl fuse set . 3d --script 'rm -rf target'  unless it is used again
  agentctl fuse extend . 3d                        three days from now
  agentctl fuse cancel .                           not any more"
    )]
    Fuse(commands::fuses::FuseCommand),
    /// Lock a directory: no session is launched there
    Lock(commands::locks::LockArgs),
    /// Release a lock that was set by hand
    Unlock(commands::locks::UnlockArgs),
    /// List directories that are taken, by sessions or by hand
    #[command(after_help = "Examples:
  agentctl locks         who has which directory
  agentctl locks --json  for programs")]
    Locks(JsonFlag),
    /// Send a signal to sessions
    Kill(commands::again::KillArgs),
    /// Launch the same once more, as a new session
    Rerun(commands::again::RerunArgs),
    /// Forget ended sessions
    Prune(commands::again::PruneArgs),
    /// Look for what is wrong with host, daemon, journal or webhooks
    #[command(after_help = "Examples:
  agentctl doctor         everything, with the next step
  agentctl doctor --json  for programs

Exit 1 when something is wrong.")]
    Doctor(JsonFlag),
    /// List the agents that can be launched, and which are here
    #[command(after_help = "Examples:
  agentctl adapters         all, with program and version
  agentctl adapters --json  for programs")]
    Adapters(JsonFlag),
    /// Show the configuration, or check a file
    #[command(
        subcommand,
        after_help = "Examples:
  agentctl config show             every key, and where its value is from
  agentctl config check next.json  whether a daemon could use it"
    )]
    Config(ConfigCommand),
    /// Show and steer webhooks, deliveries and retries
    #[command(
        subcommand,
        after_help = "Examples:
  agentctl webhooks list            what is owed or was given up
  agentctl webhooks endpoints       who is told, and how that goes
  agentctl webhooks retry --failed  send now what failed"
    )]
    Webhooks(WebhooksCommand),
    /// List and clean the git worktrees of sessions
    #[command(
        subcommand,
        after_help = "Examples:
  agentctl worktree list                 those of the repository here
  agentctl worktree clean ../app-fix-it  remove one that nobody needs"
    )]
    Worktree(commands::worktree::WorktreeCommand),
    /// Start, stop, show or install the daemon
    #[command(
        subcommand,
        after_help = "Examples:
  agentctl daemon status         whether it runs, and how
  agentctl daemon restart        after an upgrade; sessions live on
  agentctl daemon install --now  have systemd start it, always"
    )]
    Daemon(DaemonCommand),
    /// Print the completion script of a shell
    #[command(after_help = "Examples:
  source <(agentctl completions bash)       for this shell
  agentctl completions fish >agentctl.fish  into a file")]
    Completions {
        /// Of this shell
        shell: clap_complete::Shell,
    },
    /// Write manual pages and completion scripts below a directory, for packages
    #[command(hide = true)]
    Generate { directory: std::path::PathBuf },
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl resume 9ae4 'now the lints'  say more, in the background
  agentctl resume 9ae4 - <more.txt      what to say comes from a file")]
pub struct ResumeArgs {
    /// Id, a unique start of it, or name
    pub id: String,
    /// What to say to the agent; `-` reads it from standard input
    pub message: String,
    /// End the run after this time; 0 for never [default: as at launch]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<std::time::Duration>,
    /// Set a variable of the session's environment
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// Go on although somebody else has the directory; who is there is not disturbed
    #[arg(long)]
    pub force: bool,
    /// Wait for the directory, or for a place where too many sessions run, instead of being refused
    #[arg(long, conflicts_with = "force")]
    pub queue: bool,
    /// Accepted for compatibility: a session knows its adapter
    #[arg(long, hide = true)]
    pub adapter: Option<String>,
    /// Print the session record as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl list                          what runs
  agentctl list -a                       what has ended too
  agentctl list -a --status error        what went wrong
  agentctl list --json | jq -r '.[].id'  for programs")]
pub struct ListArgs {
    /// Ended sessions too
    #[arg(short, long)]
    pub all: bool,
    /// Only this status: running, idle, stopped or error
    #[arg(long, value_name = "STATUS", value_parser = ["running", "idle", "stopped", "error"])]
    pub status: Option<String>,
    /// Only this adapter
    #[arg(long, value_name = "NAME")]
    pub adapter: Option<String>,
    /// Only this group
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Only sessions with this label
    #[arg(long, value_name = "K[=V]")]
    pub label: Vec<String>,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl adopt 7c1f               an agent that `list` shows as discovered
  agentctl adopt 4711 --name build  any process of yours

Its end is told like any other, with its exit code where the kernel gives it, else as lost. What it prints stays where it is. A number is taken for a PID.")]
pub struct AdoptArgs {
    /// Id, or a unique start of it, as `list` shows it; or a PID
    #[arg(value_name = "ID|PID")]
    pub target: String,
    /// A name to select the session by
    #[arg(short, long)]
    pub name: Option<String>,
    /// A group to select the session by
    #[arg(long)]
    pub group: Option<String>,
    /// Attach a label
    #[arg(long, value_name = "K=V", value_parser = key_value)]
    pub label: Vec<(String, String)>,
    /// End it after this time from now [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<std::time::Duration>,
    /// Time between TERM and KILL, when it is stopped [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub grace: Option<std::time::Duration>,
    /// Print the session record as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl status 9ae4                       one session, with its evidence
  agentctl status 9ae4 --json | jq .outcome  for programs")]
pub struct StatusArgs {
    /// Id, a unique start of it, or name
    pub id: String,
    /// Print the session record as JSON
    #[arg(long)]
    pub json: bool,
    /// Accepted for compatibility: a session knows its adapter
    #[arg(long, hide = true)]
    pub adapter: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl wait 9ae4               until it has ended; exit with its verdict
  agentctl wait 9ae4 7c1f --any    until the first of them has
  agentctl wait 9ae4 --timeout 5m  for five minutes at most

The exit code is the session's number, as with `run`; of several sessions the first that is not 0, in the order named. 124 when --timeout is over.")]
pub struct WaitArgs {
    /// Ids, unique starts of them, or names
    #[arg(required_unless_present_any = ["group", "label"])]
    pub ids: Vec<String>,
    /// All sessions of a group, ended ones too
    #[arg(long, value_name = "GROUP", conflicts_with = "ids")]
    pub group: Option<String>,
    /// All sessions with a label, ended ones too
    #[arg(long, value_name = "K[=V]", conflicts_with = "ids")]
    pub label: Vec<String>,
    /// Return when the first of them has ended
    #[arg(long)]
    pub any: bool,
    /// Give up after this time
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<std::time::Duration>,
    /// Print the session records as a JSON array
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl logs 9ae4        its last messages, or lines
  agentctl logs -f 9ae4     live, until it ends
  agentctl logs --raw 9ae4  all that it printed, as it is")]
pub struct LogsArgs {
    /// Id, a unique start of it, or name
    pub id: String,
    /// Follow until the session ends
    #[arg(short, long)]
    pub follow: bool,
    /// The bytes as they are
    #[arg(long)]
    pub raw: bool,
    /// What it printed to standard error
    #[arg(long)]
    pub stderr: bool,
    /// The last N messages of an agent, or lines of a command [default: 50]
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
    /// Of this run of a resumed session [default: the last]
    #[arg(long, value_name = "N")]
    pub run: Option<u32>,
    /// Accepted for compatibility: a session knows its adapter
    #[arg(long, hide = true)]
    pub adapter: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl peek 9ae4       the agent's last messages
  agentctl peek -n 1 9ae4  the very last")]
pub struct PeekArgs {
    /// Id, a unique start of it, or name
    pub id: String,
    /// How many messages
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    pub lines: usize,
    /// Of this run of a resumed session [default: the last]
    #[arg(long, value_name = "N")]
    pub run: Option<u32>,
    /// Print a JSON array
    #[arg(long)]
    pub json: bool,
    /// Accepted for compatibility: a session knows its adapter
    #[arg(long, hide = true)]
    pub adapter: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl stop 9ae4              TERM, its grace, then KILL to what is left
  agentctl stop --force 9ae4      KILL at once
  agentctl stop --group g-1f2e3d  all of a group

Answered when all its processes are gone. Exit 1 when some will not die, with their numbers.")]
pub struct StopArgs {
    /// Ids, unique starts of them, or names
    #[arg(required_unless_present_any = ["all", "group", "label"])]
    pub ids: Vec<String>,
    /// All running sessions
    #[arg(long)]
    pub all: bool,
    /// All running sessions of a group
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// All running sessions with a label
    #[arg(long, value_name = "K[=V]")]
    pub label: Vec<String>,
    /// Kill at once
    #[arg(short, long)]
    pub force: bool,
    /// Print the session records as a JSON array
    #[arg(long)]
    pub json: bool,
    /// Accepted for compatibility: a session knows its adapter
    #[arg(long, hide = true)]
    pub adapter: Option<String>,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl extend 9ae4 2h  its deadline is two hours from now
  agentctl extend 9ae4 0   it has none any more")]
pub struct ExtendArgs {
    /// Id, a unique start of it, or name
    pub id: String,
    /// The new deadline, counted from now; 0 for none
    #[arg(value_parser = parse_duration)]
    pub time: std::time::Duration,
    /// Print the session record as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  agentctl events                        what happens from now on
  agentctl events --type stopped,error   ends only
  agentctl events --since 0 --no-follow  all that is kept, then exit

Each line has a cursor; --since CURSOR goes on after it, whatever happened meanwhile. When the daemon restarts, the command goes on where it was, without a gap. Exit 1 when the events after the cursor are not kept any more; 3 when no daemon answers for a minute.")]
pub struct EventsArgs {
    /// Begin after this cursor; 0 for all that is kept [default: now]
    #[arg(long, value_name = "CURSOR")]
    pub since: Option<String>,
    /// Print what there is, then exit
    #[arg(long)]
    pub no_follow: bool,
    /// Only this type, such as session.stopped, or stopped for short; several are alternatives
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',')]
    pub kind: Vec<String>,
    /// Only sessions of this adapter
    #[arg(long, value_name = "NAME")]
    pub adapter: Vec<String>,
    /// Only this session: id, a unique start of it, or name
    #[arg(long, value_name = "ID")]
    pub session: Vec<String>,
    /// Only sessions of this group
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Accepted for compatibility: events are JSON always
    #[arg(long, hide = true)]
    pub json: bool,
}

#[derive(Clone, Debug, Args)]
pub struct JsonFlag {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show every key with its value, its unit and where that comes from
    #[command(after_help = "Examples:
  agentctl config show         every key: value, unit, origin
  agentctl config show --json  for programs

Flags of a launch beat what is shown here. Secrets are shown as set or not set. Where a daemon runs and has another value, that is said on standard error with what makes it read the file: reload for most keys, restart for metrics_addr, durability and backend.")]
    Show(JsonFlag),
    /// Say whether a daemon could use a configuration
    #[command(after_help = "Examples:
  agentctl config check            the one of the home
  agentctl config check next.json  one that is to be

Exit 1 with line and column of what is wrong.")]
    Check {
        /// [default: config.json of the home]
        file: Option<std::path::PathBuf>,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum WebhooksCommand {
    /// List endpoints and how they do
    #[command(after_help = "Examples:
  agentctl webhooks endpoints  who is told, and how that goes")]
    Endpoints(JsonFlag),
    /// List deliveries that are owed or were given up
    #[command(after_help = "Examples:
  agentctl webhooks list     what is owed or was given up
  agentctl webhooks list -a  what arrived too")]
    List {
        /// Those that arrived or were superseded too
        #[arg(short, long)]
        all: bool,
        /// Only this state
        #[arg(long, value_name = "STATE", value_parser = ["owed", "delivered", "dead", "superseded"])]
        state: Vec<String>,
        /// Only this endpoint
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
        /// Only this session
        #[arg(long, value_name = "ID")]
        session: Option<String>,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Show a delivery, its attempts and its body
    #[command(after_help = "Examples:
  agentctl webhooks show 1731-default  its attempts and its body")]
    Show {
        /// Its id in the list, or the event's id as the receiver saw it
        id: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send deliveries now, also those that were given up
    #[command(after_help = "Examples:
  agentctl webhooks retry --failed      all that failed
  agentctl webhooks retry 1731-default  one, by its id in the list")]
    Retry {
        /// Ids of deliveries
        #[arg(required_unless_present = "failed", conflicts_with = "failed")]
        ids: Vec<String>,
        /// All that were given up, or have failed and wait
        #[arg(long)]
        failed: bool,
        /// With --failed: only this endpoint
        #[arg(long, value_name = "NAME", requires = "failed")]
        endpoint: Option<String>,
    },
    /// Send all deliveries since a time again, also those that arrived
    #[command(after_help = "Examples:
  agentctl webhooks replay --since 2h  to a receiver that lost two hours")]
    Replay {
        /// A time (2026-11-22T09:00:00Z), or how long ago (2h)
        #[arg(long, value_name = "TIME", value_parser = commands::webhooks::parse_since)]
        since: crate::core::vocab::Wall,
        /// Only this endpoint
        #[arg(long, value_name = "NAME")]
        endpoint: Option<String>,
    },
    /// Send nothing to an endpoint for now; what there is waits
    #[command(after_help = "Examples:
  agentctl webhooks pause ci  before its receiver goes away")]
    Pause {
        /// As `webhooks endpoints` shows it
        name: String,
    },
    /// Send to a paused endpoint again, first all that waits
    #[command(after_help = "Examples:
  agentctl webhooks resume ci  when its receiver is back")]
    Resume {
        /// As `webhooks endpoints` shows it
        name: String,
    },
    /// Send a marked test event to an endpoint and print the answer
    #[command(after_help = "Examples:
  agentctl webhooks test default  one marked event, and what was answered")]
    Test {
        /// As `webhooks endpoints` shows it
        name: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Clone, Debug, Subcommand)]
pub enum DaemonCommand {
    /// Run the daemon here, until TERM; sessions live on
    #[command(after_help = "Examples:
  agentctl daemon run  in the foreground, as a service manager does")]
    Run {
        /// How the kernel is asked: auto, uring, epoll or portable [default: the configured one]
        #[arg(long, value_name = "NAME")]
        backend: Option<BackendChoice>,
        /// Serve metrics at this port of 127.0.0.1 [default: the configured address]
        #[arg(long, value_name = "PORT")]
        metrics_port: Option<u16>,
        /// Leave the terminal, and say `ready` on standard output
        #[arg(long, hide = true)]
        detach: bool,
    },
    /// Start the daemon in the background
    #[command(after_help = "Examples:
  agentctl daemon start  in the background; commands do so by themselves")]
    Start {
        /// Stay in the foreground, like `daemon run`
        #[arg(long)]
        foreground: bool,
        /// Serve metrics at this port of 127.0.0.1 [default: the configured address]
        #[arg(long, value_name = "PORT")]
        metrics_port: Option<u16>,
        /// Accepted for compatibility: a daemon that is needed and not there is started, always
        #[arg(long, hide = true)]
        supervised: bool,
    },
    /// Stop the daemon; sessions live on
    #[command(after_help = "Examples:
  agentctl daemon stop  sessions live on; the next start finds them")]
    Stop,
    /// Show the daemon
    #[command(after_help = "Examples:
  agentctl daemon status         whether it runs, and how
  agentctl daemon status --json  for programs

Exit 3 when it does not run.")]
    Status(JsonFlag),
    /// Stop the daemon and start it anew; sessions live on
    #[command(after_help = "Examples:
  agentctl daemon restart  after an upgrade")]
    Restart,
    /// Read the configuration again; one that is wrong changes nothing
    #[command(after_help = "Examples:
  agentctl daemon reload  after a change of config.json")]
    Reload,
    /// Write and enable systemd units for this program; on macOS, a LaunchAgent
    #[command(after_help = "Examples:
  agentctl daemon install --now                   a service of yours
  sudo agentctl daemon install --system ci --now  one of a server, for user ci")]
    Install {
        /// For this user of a server, as a system service (as root), instead of your own manager
        #[arg(long, value_name = "USER")]
        system: Option<String>,
        /// Start them too
        #[arg(long)]
        now: bool,
    },
    /// Stop, disable and remove what `install` wrote; sessions live on
    #[command(after_help = "Examples:
  agentctl daemon uninstall                   a service of yours
  sudo agentctl daemon uninstall --system ci  one of a server, for user ci")]
    Uninstall {
        /// The user's system service (as root)
        #[arg(long, value_name = "USER")]
        system: Option<String>,
    },
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        Some(_) | None => Err(format!("\"{text}\" is not of the form KEY=VALUE")),
    }
}

/// The command that the words of this process mean; help and mistakes in them are printed, and end it.
pub fn parse() -> Command {
    let words: Vec<OsString> = std::env::args_os().collect();
    // Laying out help takes longer than all the rest: it is for whoever will read it.
    let matches = Cli::command().try_get_matches_from(&words).unwrap_or_else(|told| {
        if told.kind() == ErrorKind::DisplayVersion {
            told.exit();
        }
        help::command(help::Depth::of(&words)).get_matches_from(words)
    });
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command
}

/// Carries out a command other than `daemon run`; the exit code.
pub fn run(command: Command) -> Result<u8, Failure> {
    if let Command::Completions { shell } = command {
        return generate::completions(shell);
    }
    if let Command::Generate { directory } = &command {
        return generate::all(directory);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(commands::dispatch(command));
    // A follower's connection may hang; nothing of it is needed any more.
    runtime.shutdown_background();
    code
}
