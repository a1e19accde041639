//! Worktrees of sessions: made by git, on a thread that may block, before the launch order of their run is written.
//!
//! So a session runs in its own directory or not at all: whatever goes wrong here is a launch that failed, and a daemon that
//! dies in between finds no order at its next start and says the same, or begins again what was queued. What a git of ours
//! left half made is thrown away then (making.rs). One git at a time works on a repository. Its hooks are off: what is to
//! happen in a new directory is `--on-create`.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::core::vocab::RunId;
use crate::core::worktree::Worktree;
use crate::limits;
use crate::sys::tool::{self, Leash, LeashEnd, Ran, ToolError};
use crate::wire::git::{self, GitWorktree, IN_THE_MAKING};

use super::Daemon;
use super::launch::Parcel;
use super::making::Making;
use super::turns::Turns;

/// Sets the mask of what comes after it. What it runs is in its arguments: nothing of a user's is shell text.
const WITH_UMASK: &str = r#"umask "$1" && shift && exec "$@""#;
/// The code of a shell that did not find a program.
const NOT_FOUND: i32 = 127;

/// Who may work on which repository.
pub(crate) struct Gits {
    /// One at a time works on what the worktrees of a repository share.
    turns: Turns<PathBuf>,
    at_once: Semaphore,
    /// What every git is on.
    leash: RefCell<Option<Leash>>,
}

impl Default for Gits {
    fn default() -> Self {
        Self {
            turns: Turns::default(),
            at_once: Semaphore::new(limits::WORKTREES_AT_ONCE_MAX),
            leash: RefCell::default(),
        }
    }
}

impl Gits {
    fn leash(&self) -> std::io::Result<LeashEnd> {
        let mut leash = self.leash.borrow_mut();
        match &*leash {
            Some(held) => held.end(),
            None => leash.insert(Leash::new()?).end(),
        }
    }

    /// The daemon stops: it does not wait for a git.
    pub(super) fn let_go(&self) {
        *self.leash.borrow_mut() = None;
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
    ensure(daemon, *worktree, &parcel.env, parcel.umask).await?;
    match of(daemon) {
        Some((_, true)) => Err("it was stopped before its worktree was ready".into()),
        Some((_, false)) | None => Ok(()),
    }
}

/// Sees to it that the worktree is there. `env` is the session's, as the shim takes it.
async fn ensure(daemon: &Rc<Daemon>, worktree: Worktree, env: &[u8], umask: u32) -> Result<(), String> {
    let repo = worktree.repo.clone();
    let named = format!("the repository {repo}");
    let shared = daemon.looks.at(&named, move || common_dir(Path::new(&repo))).await?;
    let gits = &daemon.worktrees;
    let _turn = gits.turns.take(shared).await;
    let _place = gits.at_once.acquire().await;
    let leash = gits.leash().map_err(|error| format!("prepare to run git: {error}"))?;
    let mut git = Git { env: variables(env), umask, worktree, notes: daemon.home.worktrees(), leash };
    let made = spawn_blocking(move || git.ensure()).await;
    made.unwrap_or_else(|panicked| Err(format!("making the worktree panicked: {panicked}")))
}

/// The session's variables, none of which names another repository (launch.rs).
fn variables(env: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(env);
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Whether a git that made this worktree was ended in the middle, or is at it. By the files of the repository
/// (gitrepository-layout(5)): git tells in its list since 2.31 only. An error is no answer.
fn is_half_made(repo: &Path, worktree: &str) -> Result<bool, String> {
    fn or_none<T>(path: &Path, read: std::io::Result<T>) -> Result<Option<T>, String> {
        match read {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("whether it is half made cannot be told: {}: {error}", path.display())),
        }
    }
    let all = common_dir(repo).join("worktrees");
    let Some(entries) = or_none(&all, std::fs::read_dir(&all))? else { return Ok(false) };
    let dot_git = Path::new(worktree).join(".git");
    for entry in entries {
        let Some(dir) = or_none(&all, entry)?.map(|entry| entry.path()) else { continue };
        let holds = |name: &str| {
            let path = dir.join(name);
            or_none(&path, std::fs::read(&path)).map(Option::unwrap_or_default)
        };
        let is_ours = Path::new(OsStr::from_bytes(holds("gitdir")?.trim_ascii_end())) == dot_git;
        if is_ours && holds("locked")?.trim_ascii_end() == IN_THE_MAKING.as_bytes() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// git, for one worktree.
struct Git {
    env: Vec<(String, String)>,
    umask: u32,
    worktree: Worktree,
    /// Where it is noted what is being made.
    notes: PathBuf,
    leash: LeashEnd,
}

impl Git {
    fn ensure(&mut self) -> Result<(), String> {
        let path = self.worktree.path();
        let making = Making::of(&self.notes, &path, &self.leash);
        let mut making = making.map_err(|why| self.failed("worktree add", &why))?;
        if making.was_begun() {
            // Until it is known to be gone.
            making.stay();
            self.discard(&path)?;
            making.is_done();
        }
        let (ran, end) = git::list(|words| self.git(words), |ran| ran.code)?;
        let listed = git::worktrees(&self.judge("worktree list", ran)?.stdout, end);
        match listed.iter().find(|found| found.path == path) {
            Some(found) if Path::new(&path).exists() => self.reuse(found),
            // One whose directory is gone is git's to complain of.
            Some(_) | None => self.add(&path, &mut making),
        }
    }

    /// Throws away what a git of ours left in the middle. That it was not ended so is no error.
    fn discard(&self, path: &str) -> Result<(), String> {
        let half_made = is_half_made(Path::new(&self.worktree.repo), path);
        if !half_made.map_err(|why| self.failed("worktree remove", &why))? {
            return Ok(());
        }
        tracing::info!("{path} was left half made; it is made anew");
        let remove = ["worktree", "remove", "--force", "--force", path];
        if self.git(&remove)?.success {
            return Ok(());
        }
        // Before git could take it for a worktree.
        match std::fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(self.failed("worktree remove", &error.to_string()))
            }
            Ok(()) | Err(_) => self.must("worktree remove", &remove).map(drop),
        }
    }

    fn reuse(&self, found: &GitWorktree) -> Result<(), String> {
        let Worktree { repo, branch, .. } = &self.worktree;
        let path = &found.path;
        if is_half_made(Path::new(repo), path).map_err(|why| self.failed("worktree list", &why))? {
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

    fn add(&mut self, path: &str, making: &mut Making) -> Result<(), String> {
        self.ask_nobody()?;
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
        let noted = making.begin(path);
        let noted = noted.map_err(|error| self.failed("worktree add", &format!("note it: {error}")))?;
        let mut command = self.command(&arguments);
        let time = limits::WORKTREE_TIMEOUT;
        let ran = tool::run_on(&self.leash, &mut command, Some(noted), time, limits::GIT_BYTES_MAX);
        match &ran {
            // Its own children may be at it; or there is no time to clean up. The next launch does.
            Ok(Ran { code: None, .. }) | Err(ToolError::Unwanted) => making.stay(),
            Err(ToolError::TimedOut(_) | ToolError::TooMuch(_) | ToolError::Read(_)) => {
                making.stay();
                self.discard(path)?;
                making.is_done();
            }
            Ok(_) | Err(ToolError::Start(_)) => {}
        }
        let ran = ran.map_err(|error| self.failed("worktree add", &error.to_string()))?;
        self.judge("worktree add", ran).map(drop)
    }

    /// Whatever fetches is to ask nobody for words or keys. A user's own ssh, by whatever name, is left alone.
    fn ask_nobody(&mut self) -> Result<(), String> {
        let named = self.env.iter().any(|(key, _)| key == "GIT_SSH_COMMAND" || key == "GIT_SSH");
        // 1: it is not configured.
        if !named && self.git(&["config", "--get", "core.sshCommand"])?.code == Some(1) {
            self.env.push(("GIT_SSH_COMMAND".to_owned(), "ssh -o BatchMode=yes".to_owned()));
        }
        Ok(())
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
            .args(git::ALWAYS)
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            // Nobody answers when it asks, and its words are read.
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C");
        command
    }

    fn git(&self, arguments: &[&str]) -> Result<Ran, String> {
        let (time, bytes_max) = (limits::GIT_TIMEOUT, limits::GIT_BYTES_MAX);
        let ran = tool::run_on(&self.leash, &mut self.command(arguments), None, time, bytes_max);
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
        let Worktree { repo, .. } = &self.worktree;
        let path = self.worktree.path();
        let next = if why.contains("already checked out") || why.contains("already used by worktree") {
            let clean = "; use another --branch, or clean that worktree: agentctl worktree clean PATH";
            // That of the repository itself is none to be cleaned.
            let in_itself = why.contains(&format!("'{repo}'"));
            if in_itself { "; use another --branch".to_owned() } else { clean.to_owned() }
        } else if why.contains("already registered") {
            format!("; its directory is gone; to forget it: agentctl worktree clean {path} --repo {repo}")
        } else if why.contains("invalid reference") || why.contains("couldn't find remote ref") {
            "; --base-branch is to name a branch that is there, of origin where there is one".to_owned()
        } else if why.contains("already exists") {
            "; move that away, or use another --branch".to_owned()
        } else {
            String::new()
        };
        format!("git {what} for {path}: {why}{next}")
    }
}
