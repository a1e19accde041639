//! `worktree`: the worktrees of a repository, and the end of one that nobody needs any more.
//!
//! git is asked here, as the user; the daemon is asked whether a session lives in it. Where either cannot tell, nothing is
//! removed: not to know is not to know that nobody needs it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Subcommand;
use hyper::Method;
use serde_json::Value;

use crate::core::vocab::short;
use crate::limits;
use crate::sys::clock;
use crate::sys::tool::{self, Ran};
use crate::wire::api::SessionView;
use crate::wire::git::{self, GitWorktree, REPOSITORY_VARS};
use crate::wire::locks::LockView;

use super::super::Failure;
use super::super::client::{Client, RETRY_PAUSE};
use super::super::render;
use super::NO_BODY;

/// What is left of a session that has its verdict is waited for so long.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// What can be done with worktrees.
#[derive(Clone, Debug, Subcommand)]
pub enum WorktreeCommand {
    /// List the worktrees of a repository, the main one too
    #[command(after_help = "Examples:
  agentctl worktree list               of the repository here
  agentctl worktree list ~/app --json  of another, for programs")]
    List {
        /// The repository, or any directory in it
        #[arg(default_value = ".")]
        repo: PathBuf,
        /// Print a JSON array
        #[arg(long)]
        json: bool,
    },
    /// Remove a worktree that nobody needs
    #[command(after_help = "Examples:
  agentctl worktree clean ../app-fix-it                  keeps its branch
  agentctl worktree clean ../app-fix-it --delete-branch  and not that either

One in which a session lives, or something is not committed, is not removed, nor one that is locked, or whose commits are on no branch, nor one of which that cannot be told. Files that git ignores are removed with it, and named.")]
    Clean {
        /// The worktree's directory
        path: PathBuf,
        /// Its repository, for one whose directory is gone [default: as its .git file says]
        #[arg(long, value_name = "REPO")]
        repo: Option<PathBuf>,
        /// Delete its branch too, merged or not
        #[arg(long)]
        delete_branch: bool,
        /// Remove it whatever lives in it and is not committed
        #[arg(short, long)]
        force: bool,
    },
}

pub(super) async fn worktree(command: WorktreeCommand) -> Result<u8, Failure> {
    match command {
        WorktreeCommand::List { repo, json } => list(&repo, json),
        WorktreeCommand::Clean { path, repo, delete_branch, force } => {
            clean(&path, repo.as_deref(), delete_branch, force).await
        }
    }
}

fn list(repo: &Path, json: bool) -> Result<u8, Failure> {
    let all = listed(repo)?;
    if json {
        render::json(&all)?;
    } else if all.is_empty() {
        render::out("No worktrees found.\n")?;
    } else {
        let cell = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let rows = all.iter().map(|found| {
            let head: String = cell(&found.head).chars().take(8).collect();
            vec![render::short_home(&found.path), cell(&found.branch), head]
        });
        render::columns(&["Path", "Branch", "HEAD"], rows)?;
    }
    Ok(0)
}

/// The worktrees of a repository, the main one first.
fn listed(repo: &Path) -> Result<Vec<GitWorktree>, Failure> {
    let what = "list the worktrees of";
    let (ran, end) = git::list(|words| run(repo, what, words), |ran| ran.code)?;
    Ok(git::worktrees(&judge(repo, what, ran)?.stdout, end))
}

/// Where the worktrees of a repository are; `None` where that cannot be told.
pub(super) fn paths(repo: &Path) -> Option<Vec<String>> {
    listed(repo).ok().map(|all| all.into_iter().map(|found| found.path).collect())
}

/// The real path, also of what is not there any more.
fn real(path: &Path) -> std::io::Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let path = std::path::absolute(path)?;
            let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
            std::fs::canonicalize(parent).map(|parent| parent.join(name))
        }
        found => found,
    }
}

async fn clean(path: &Path, repo: Option<&Path>, delete_branch: bool, force: bool) -> Result<u8, Failure> {
    let shown = path.display();
    let failed = |why: String| Failure::new(1, why);
    let real = real(path).map_err(|error| failed(format!("the worktree {shown}: {error}")))?;
    let is_there = real.exists();
    if !is_there && repo.is_none() {
        return Err(failed(format!(
            "{shown} is not there; if its repository still lists it, name that with --repo, to have it forgotten"
        )));
    }
    let all = listed(repo.unwrap_or(&real))?;
    let found = all.iter().find(|found| Path::new(&found.path) == real);
    let found = found.ok_or_else(|| {
        let whose = repo.map_or("any repository".into(), |repo| repo.display().to_string());
        failed(format!("{shown} is no worktree of {whose}; agentctl worktree list REPO lists them"))
    })?;
    // The first is the main one, from which git may be asked when the others are gone.
    let main = all.first().filter(|main| main.path != found.path);
    let main = main.ok_or_else(|| {
        failed(format!("{shown} is the repository itself, not a worktree beside it; it is not removed"))
    })?;
    if let Some(why) = &found.locked {
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        let (main, path) = (&main.path, &found.path);
        return Err(failed(format!(
            "git keeps {shown} locked{why}; it is not removed, --force or not; to unlock it: git -C {main} worktree unlock {path}"
        )));
    }
    let branch = found.branch.as_deref().filter(|_| delete_branch);
    let mut ignored = Vec::new();
    if !force {
        nobody_lives_in(&real).await?;
        if is_there {
            ignored = nothing_is_uncommitted(&real)?;
            nothing_is_on_no_branch(&real, found)?;
        }
    }
    let main = Path::new(&main.path);
    let mut arguments = vec!["worktree", "remove"];
    arguments.extend(force.then_some("--force"));
    arguments.extend(["--", &found.path]);
    must(main, "remove a worktree of", &arguments)?;
    render::out(&format!("Removed worktree: {}\n", render::short_home(&found.path)))?;
    if !ignored.is_empty() {
        render::say(&format!("removed with it, since git ignores them: {}", some_of(&ignored)));
    }
    let last = |head: &Option<String>, name: &str| {
        if let Some(head) = head {
            render::say(&format!("its last commit was {head}; to have it back: git branch {name} {head}"));
        }
    };
    match branch {
        Some(branch) => {
            must(main, "delete a branch of", &["branch", "--quiet", "-D", "--", branch])?;
            render::out(&format!("Deleted branch: {branch}\n"))?;
            last(&found.head, branch);
        }
        None if found.branch.is_none() => {
            if delete_branch {
                render::say("no branch was checked out there, so none is deleted");
            }
            last(&found.head, "NAME");
        }
        None => {}
    }
    Ok(0)
}

/// The first few, and how many more.
fn some_of(all: &[String]) -> String {
    const SHOWN: usize = 5;
    let more = all.len().saturating_sub(SHOWN);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    format!("{}{more}", all[..all.len().min(SHOWN)].join(", "))
}

/// Refuses where a session lives in the directory or below, and where that cannot be told.
async fn nobody_lives_in(path: &Path) -> Result<(), Failure> {
    let unknown = |failure: Failure| {
        let text = format!(
            "whether a session lives in {} cannot be told: {}; --force removes it all the same",
            path.display(),
            failure.message
        );
        Failure::new(failure.code, text)
    };
    let client = Client::find().map_err(unknown)?;
    // The last processes of a session that has its verdict are gone in a moment.
    let until = clock::now().mono.after(ENDING_MAX);
    loop {
        let sessions: Vec<SessionView> =
            client.json(Method::GET, "/v1/sessions?all=1", NO_BODY).await.map_err(&unknown)?;
        let locks: Vec<LockView> = client.json(Method::GET, "/v1/locks", NO_BODY).await.map_err(&unknown)?;
        match needed_by(path, &sessions, &locks) {
            Need::None => return Ok(()),
            Need::Ending(_) if clock::now().mono < until => tokio::time::sleep(RETRY_PAUSE).await,
            Need::Ending(why) | Need::Lasting(why) => return Err(Failure::new(1, why)),
        }
    }
}

/// Whether somebody needs a directory.
enum Need {
    None,
    /// Not for long, most likely; why, and what to do.
    Ending(String),
    Lasting(String),
}

fn needed_by(path: &Path, sessions: &[SessionView], locks: &[LockView]) -> Need {
    let shown = path.display();
    // One that is queued, or whose directory has been moved, counts by its record.
    let lives =
        |session: &&SessionView| session.phase != "ended" && Path::new(&session.cwd).starts_with(path);
    if let Some(session) = sessions.iter().find(lives) {
        let (id, adapter) = (short(&session.id), &session.adapter);
        let is = if session.phase == "queued" { "is queued for" } else { "lives in" };
        return Need::Lasting(format!(
            "session {id} ({adapter}) {is} {shown}; stop it first (agentctl stop {id}), or use --force"
        ));
    }
    let has_hook = |session: &&SessionView| {
        let hooks = session.meta.get("hooks").and_then(Value::as_object);
        let runs = hooks.is_some_and(|hooks| hooks.values().any(|hook| hook["state"] == "running"));
        runs && Path::new(&session.cwd).starts_with(path)
    };
    if let Some(session) = sessions.iter().find(has_hook) {
        let id = short(&session.id);
        return Need::Ending(format!(
            "a hook of session {id} still runs in {shown}; wait for it (agentctl status {id}), or use --force"
        ));
    }
    let lock = locks.iter().find(|lock| Path::new(&lock.directory).starts_with(path));
    match lock.map(|lock| (lock, lock.session_id.as_deref().map(short))) {
        None => Need::None,
        Some((_, Some(id))) => Need::Ending(format!(
            "session {id} has ended, and some of its processes still run in {shown}; wait for them (agentctl status {id}), or use --force"
        )),
        Some((lock, None)) => {
            let by = lock.locked_by.as_deref().unwrap_or("somebody");
            let reason = lock.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            let directory = &lock.directory;
            Need::Lasting(format!(
                "{directory} is locked by {by}{reason}; unlock it first (agentctl unlock {directory}), or use --force"
            ))
        }
    }
}

/// Refuses where something is not committed; else what git ignores there.
fn nothing_is_uncommitted(path: &Path) -> Result<Vec<String>, Failure> {
    // With renames, some entries would be two.
    let arguments = ["-c", "status.renames=false", "status", "--porcelain", "-z", "--untracked-files=normal"];
    let ran = must(path, "look for changes in", &[&arguments[..], &["--ignored"]].concat())?;
    let entries = ran.stdout.split(|byte| *byte == 0).filter(|entry| entry.len() > 3);
    let (ignored, changes): (Vec<_>, Vec<_>) = entries.partition(|entry| entry.starts_with(b"!!"));
    let names = |entries: &[&[u8]]| -> Vec<String> {
        entries.iter().map(|entry| String::from_utf8_lossy(&entry[3..]).escape_debug().to_string()).collect()
    };
    if changes.is_empty() {
        return Ok(names(&ignored));
    }
    Err(Failure::new(
        1,
        format!(
            "{} has changes that are not committed ({}); commit them, or use --force",
            path.display(),
            some_of(&names(&changes))
        ),
    ))
}

/// Refuses where no branch is checked out, and commits would be found by nobody.
fn nothing_is_on_no_branch(path: &Path, found: &GitWorktree) -> Result<(), Failure> {
    let (None, Some(head)) = (&found.branch, &found.head) else { return Ok(()) };
    let arguments = ["rev-list", "--count", head, "--not", "--branches", "--tags", "--remotes"];
    let ran = must(path, "look for commits in", &arguments)?;
    match String::from_utf8_lossy(&ran.stdout).trim() {
        "0" => Ok(()),
        count => Err(Failure::new(
            1,
            format!(
                "{shown} has no branch checked out, and commits ({count}) that are on none; to keep them: git -C {shown} branch NAME {head}; or use --force",
                shown = path.display()
            ),
        )),
    }
}

/// git, for what it answers.
fn run(dir: &Path, what: &str, arguments: &[&str]) -> Result<Ran, Failure> {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).args(git::ALWAYS).args(arguments).env("LC_ALL", "C");
    for variable in REPOSITORY_VARS {
        command.env_remove(variable);
    }
    let ran = tool::run(&mut command, limits::GIT_TIMEOUT, limits::GIT_BYTES_MAX);
    ran.map_err(|error| Failure::new(1, format!("{what} {}: git: {error}", dir.display())))
}

fn judge(dir: &Path, what: &str, ran: Ran) -> Result<Ran, Failure> {
    if ran.success {
        return Ok(ran);
    }
    let why = git::last_words(&ran.stderr);
    Err(Failure::new(1, format!("{what} {}: {why}", dir.display())))
}

fn must(dir: &Path, what: &str, arguments: &[&str]) -> Result<Ran, Failure> {
    run(dir, what, arguments).and_then(|ran| judge(dir, what, ran))
}
