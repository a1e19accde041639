//! Worktrees of sessions: made by git, on a thread that may block, before the launch order of their run is written.
//!
//! So a session runs in its own directory or not at all: whatever goes wrong here is a launch that failed, and a daemon that
//! dies in between finds no order at its next start and says the same. One git at a time works on a repository. Its hooks
//! are off: what is to happen in a new directory is `--on-create`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{Mutex, Semaphore};
use tokio::task::spawn_blocking;

use crate::core::vocab::RunId;
use crate::core::worktree::Worktree;
use crate::limits;
use crate::sys::tool::{self, Ran, ToolError};
use crate::wire::git::{self, GitWorktree, IN_THE_MAKING, REPOSITORY_VARS};

use super::Daemon;
use super::launch::Parcel;

/// Sets the mask of what comes after it. What it runs is in its arguments: nothing of a user's is shell text.
const WITH_UMASK: &str = r#"umask "$1" && shift && exec "$@""#;
/// The code of a shell that did not find a program.
const NOT_FOUND: i32 = 127;

/// Who may work on which repository.
pub(crate) struct Turns {
    of_repository: RefCell<HashMap<PathBuf, Arc<Mutex<()>>>>,
    at_once: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { of_repository: RefCell::default(), at_once: Semaphore::new(limits::WORKTREES_AT_ONCE_MAX) }
    }
}

/// What is asked for, with the repository named by its top directory. The error is for the user.
pub(super) fn check(asked: &Worktree) -> Result<Worktree, String> {
    asked.check()?;
    let path = Path::new(&asked.repo);
    if !path.is_absolute() || asked.repo.contains('\0') {
        return Err(format!("the repository \"{}\" is not an absolute path", asked.repo.escape_debug()));
    }
    let real =
        std::fs::canonicalize(path).map_err(|error| format!("the repository {}: {error}", asked.repo))?;
    let top = real
        .ancestors()
        .find(|dir| dir.join(".git").exists() || is_bare(dir))
        .ok_or_else(|| format!("Not a git repository: {}; name one with --worktree", asked.repo))?;
    let repo =
        top.to_str().ok_or_else(|| format!("the path of the repository {} is not UTF-8", asked.repo))?;
    Ok(Worktree { repo: repo.to_owned(), ..asked.clone() })
}

fn is_bare(dir: &Path) -> bool {
    dir.join("HEAD").is_file() && dir.join("objects").is_dir() && dir.join("refs").is_dir()
}

/// What all worktrees of a repository share.
fn common_dir(repo: &Path) -> PathBuf {
    let dot_git = repo.join(".git");
    let linked = std::fs::read_to_string(&dot_git).ok();
    let linked = linked.as_deref().and_then(|text| text.trim().strip_prefix("gitdir: ")).map(PathBuf::from);
    let common = linked.as_deref().map(|dir| match dir.parent() {
        Some(parent) if parent.ends_with("worktrees") => parent.parent().unwrap_or(parent),
        Some(_) | None => dir,
    });
    common.map_or(dot_git, Path::to_owned)
}

/// The session's own directory, where it is to have one: of its first run, for later ones find it or do not.
pub(super) async fn of_run(daemon: &Rc<Daemon>, id: RunId, parcel: &Parcel) -> Result<(), String> {
    let of = |daemon: &Daemon| {
        let core = daemon.core.borrow();
        core.session(id.session)
            .map(|session| (session.spec.worktree.clone(), session.run.fuse.stop.is_some()))
    };
    let Some((Some(worktree), _)) = of(daemon).filter(|_| id.run == 1) else { return Ok(()) };
    ensure(daemon, worktree, &parcel.env, parcel.umask).await?;
    match of(daemon) {
        Some((_, true)) => Err("it was stopped before its worktree was ready".into()),
        Some((_, false)) | None => Ok(()),
    }
}

/// Sees to it that the worktree is there. `env` is the session's, as the shim takes it.
async fn ensure(daemon: &Rc<Daemon>, worktree: Worktree, env: &[u8], umask: u32) -> Result<(), String> {
    let key = common_dir(Path::new(&worktree.repo));
    let turns = &daemon.worktrees;
    let turn = Arc::clone(turns.of_repository.borrow_mut().entry(key.clone()).or_default());
    let guard = Arc::clone(&turn).lock_owned().await;
    let _place = turns.at_once.acquire().await;
    let git = Git { env: variables(env), umask, worktree };
    let made = spawn_blocking(move || git.ensure()).await;
    drop((guard, turn));
    turns.of_repository.borrow_mut().retain(|_, turn| Arc::strong_count(turn) > 1);
    made.unwrap_or_else(|panicked| Err(format!("making the worktree panicked: {panicked}")))
}

/// The session's variables, save those that would name another repository.
fn variables(env: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(env);
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    let kept = pairs.filter(|(key, _)| !REPOSITORY_VARS.contains(key));
    kept.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// git, for one worktree.
struct Git {
    env: Vec<(String, String)>,
    umask: u32,
    worktree: Worktree,
}

impl Git {
    fn ensure(&self) -> Result<(), String> {
        let path = self.worktree.path();
        let listed = self.must("worktree list", &["worktree", "list", "--porcelain", "-z"])?;
        let listed = git::worktrees(&listed.stdout);
        // One whose directory is gone is git's to complain of.
        match listed.iter().find(|found| found.path == path && Path::new(&path).exists()) {
            Some(found) => self.reuse(found),
            None => self.add(&path),
        }
    }

    fn reuse(&self, found: &GitWorktree) -> Result<(), String> {
        let Worktree { repo, branch, .. } = &self.worktree;
        let path = &found.path;
        if found.locked.as_deref() == Some(IN_THE_MAKING) {
            return Err(format!(
                "the worktree {path} is half made: a git is at it, or was ended in the middle; in that case run: git -C {repo} worktree remove --force --force {path}"
            ));
        }
        match &found.branch {
            Some(there) if there == branch => Ok(()),
            there => {
                let there = there.as_deref().unwrap_or("no branch");
                Err(format!(
                    "the worktree {path} has {there} checked out, not {branch}; use another --branch"
                ))
            }
        }
    }

    fn add(&self, path: &str) -> Result<(), String> {
        let branch = &self.worktree.branch;
        let exists = self.git(&["show-ref", "--verify", "--quiet", &format!("refs/heads/{branch}")])?.success;
        let start = if exists { None } else { self.start()? };
        let mut arguments = vec!["worktree", "add"];
        if exists {
            arguments.extend(["--", path, branch]);
        } else {
            arguments.extend(["--no-track", "-b", branch, "--", path]);
            arguments.extend(start.as_deref());
        }
        let ran = tool::run(&mut self.command(&arguments), limits::WORKTREE_TIMEOUT, limits::GIT_BYTES_MAX);
        if matches!(ran, Err(ToolError::TimedOut(_))) {
            // It was ours alone, and is worth nothing.
            let _kept = self.git(&["worktree", "remove", "--force", "--force", path]);
        }
        let ran = ran.map_err(|error| self.failed("worktree add", &error.to_string()))?;
        self.judge("worktree add", ran).map(|_| ())
    }

    /// Where a new branch begins; `None`: where the repository is.
    fn start(&self) -> Result<Option<String>, String> {
        let Some(base) = &self.worktree.base else { return Ok(None) };
        if !self.git(&["remote", "get-url", "origin"])?.success {
            return Ok(Some(format!("refs/heads/{base}")));
        }
        let remote = format!("refs/remotes/origin/{base}");
        let refspec = format!("+refs/heads/{base}:{remote}");
        self.must("fetch", &["fetch", "--quiet", "--no-tags", "origin", &refspec])?;
        Ok(Some(remote))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", WITH_UMASK, "sh", &format!("{:04o}", self.umask)])
            .args(["git", "-C", &self.worktree.repo])
            // No hooks; and nothing that would stay behind.
            .args(["-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0", "-c", "maintenance.auto=false"])
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            // Nobody answers when it asks, and its words are read.
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C");
        if !self.env.iter().any(|(key, _)| key == "GIT_SSH_COMMAND" || key == "GIT_SSH") {
            command.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes");
        }
        command
    }

    fn git(&self, arguments: &[&str]) -> Result<Ran, String> {
        let ran = tool::run(&mut self.command(arguments), limits::GIT_TIMEOUT, limits::GIT_BYTES_MAX);
        let ran = ran.map_err(|error| self.failed(arguments[0], &error.to_string()))?;
        if ran.code == Some(NOT_FOUND) {
            return Err(self.failed(arguments[0], "git is not in the PATH of the session; install it"));
        }
        Ok(ran)
    }

    fn must(&self, what: &str, arguments: &[&str]) -> Result<Ran, String> {
        self.git(arguments).and_then(|ran| self.judge(what, ran))
    }

    fn judge(&self, what: &str, ran: Ran) -> Result<Ran, String> {
        if ran.success {
            return Ok(ran);
        }
        Err(self.failed(what, &git::last_words(&ran.stderr)))
    }

    fn failed(&self, what: &str, why: &str) -> String {
        let next = if why.contains("already checked out") || why.contains("already used by worktree") {
            "; use another --branch, or clean that worktree: agentctl worktree clean PATH"
        } else if why.contains("already exists") {
            "; move that away, or use another --branch"
        } else {
            ""
        };
        format!("git {what} for {}: {why}{next}", self.worktree.path())
    }
}
