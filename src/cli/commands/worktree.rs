//! `worktree`: the worktrees of a repository, and the end of one that nobody needs any more.
//!
//! git is asked here, as the user; the daemon is asked whether a session lives in it. Where either cannot tell, nothing is
//! removed: not to know is not to know that nobody needs it.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Subcommand;
use hyper::Method;

use crate::limits;
use crate::sys::tool::{self, Ran};
use crate::wire::api::SessionView;
use crate::wire::git::{self, GitWorktree, REPOSITORY_VARS};

use super::super::Failure;
use super::super::client::Client;
use super::super::render;
use super::NO_BODY;

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

One in which a session lives, or something is not committed, is not removed, nor one of which that cannot be told.")]
    Clean {
        /// The worktree
        path: PathBuf,
        /// Its repository [default: as its .git file says]
        #[arg(long, value_name = "REPO")]
        repo: Option<PathBuf>,
        /// Delete its branch too, merged or not
        #[arg(long)]
        delete_branch: bool,
        /// Whatever lives in it and is not committed
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

fn listed(repo: &Path) -> Result<Vec<GitWorktree>, Failure> {
    let ran = must(repo, "list the worktrees of", &["worktree", "list", "--porcelain", "-z"])?;
    Ok(git::worktrees(&ran.stdout))
}

async fn clean(path: &Path, repo: Option<&Path>, delete_branch: bool, force: bool) -> Result<u8, Failure> {
    let shown = path.display();
    let real = std::fs::canonicalize(path);
    let real = real.map_err(|error| Failure::new(1, format!("the worktree {shown}: {error}")))?;
    let all = listed(repo.unwrap_or(&real))?;
    let found = all.iter().find(|found| Path::new(&found.path) == real);
    let found = found.ok_or_else(|| {
        let whose = repo.map_or("any repository".into(), |repo| repo.display().to_string());
        Failure::new(1, format!("{shown} is no worktree of {whose}; agentctl worktree list REPO lists them"))
    })?;
    // The first is the main one, from which git may be asked when the others are gone.
    let main = all.first().filter(|main| main.path != found.path);
    let main = main.ok_or_else(|| {
        Failure::new(
            1,
            format!("{shown} is the repository itself, not a worktree beside it; it is not removed"),
        )
    })?;
    let branch = found.branch.as_deref().filter(|_| delete_branch);
    if !force {
        nobody_lives_in(&real).await?;
        nothing_is_uncommitted(&real)?;
    }
    let main = Path::new(&main.path);
    let mut arguments = vec!["worktree", "remove"];
    arguments.extend(force.then_some("--force"));
    arguments.extend(["--", &found.path]);
    must(main, "remove a worktree of", &arguments)?;
    render::out(&format!("Removed worktree: {}\n", render::short_home(&found.path)))?;
    if let Some(branch) = branch {
        must(main, "delete a branch of", &["branch", "--quiet", "-D", "--", branch])?;
        render::out(&format!("Deleted branch: {branch}\n"))?;
        if let Some(head) = &found.head {
            render::say(&format!("its last commit was {head}; to have it back: git branch {branch} {head}"));
        }
    } else if delete_branch {
        render::say("no branch was checked out there, so none is deleted");
    }
    Ok(0)
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
    let sessions: Vec<SessionView> =
        client.json(Method::GET, "/v1/sessions?all=1", NO_BODY).await.map_err(unknown)?;
    let lives = |session: &&SessionView| {
        // One that is queued, or whose directory has been moved, counts by its record.
        session.phase != "ended" && Path::new(&session.cwd).starts_with(path)
    };
    match sessions.iter().find(lives) {
        None => Ok(()),
        Some(session) => {
            let id: String = session.id.chars().take(8).collect();
            Err(Failure::new(
                1,
                format!(
                    "session {id} ({}) lives in {}; stop it first (agentctl stop {id}), or use --force",
                    session.adapter,
                    path.display()
                ),
            ))
        }
    }
}

fn nothing_is_uncommitted(path: &Path) -> Result<(), Failure> {
    let arguments = ["status", "--porcelain", "-z", "--untracked-files=all"];
    let ran = must(path, "look for changes in", &arguments)?;
    let changes: Vec<_> = ran.stdout.split(|byte| *byte == 0).filter(|entry| entry.len() > 3).collect();
    let Some(first) = changes.first() else { return Ok(()) };
    let first = String::from_utf8_lossy(&first[3..]).into_owned();
    let count = changes.len();
    let files = if count == 1 { first } else { format!("{count} files, {first} among them") };
    Err(Failure::new(
        1,
        format!(
            "{} has changes that are not committed ({files}); commit them, or use --force",
            path.display()
        ),
    ))
}

fn must(dir: &Path, what: &str, arguments: &[&str]) -> Result<Ran, Failure> {
    let failed = |why: &str| Failure::new(1, format!("{what} {}: {why}", dir.display()));
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).args(arguments).env("LC_ALL", "C");
    for variable in REPOSITORY_VARS {
        command.env_remove(variable);
    }
    let ran = tool::run(&mut command, limits::GIT_TIMEOUT, limits::GIT_BYTES_MAX);
    let ran = ran.map_err(|error| failed(&format!("git: {error}")))?;
    if ran.success { Ok(ran) } else { Err(failed(&git::last_words(&ran.stderr))) }
}
