//! Git repositories in directories of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::play::{stderr, stdout};

/// A repository with one commit on `main`, and room for worktrees beside it.
pub(crate) struct Repo {
    pub(crate) path: PathBuf,
}

impl Repo {
    /// `<dir>/repo`. The path is real: git tells real ones.
    pub(crate) fn new(dir: &Path) -> Self {
        let dir = fs::canonicalize(dir).expect("a directory");
        let repo = Self { path: dir.join("repo") };
        fs::create_dir(&repo.path).expect("a directory");
        repo.git(&["init", "--quiet", "--initial-branch", "main"]);
        repo.commit("README", "one\n");
        repo
    }

    pub(crate) fn text(&self) -> &str {
        self.path.to_str().expect("a text")
    }

    /// The worktree of a branch.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}-{name}", self.text()))
    }

    /// A commit of one file.
    pub(crate) fn commit(&self, file: &str, content: &str) -> String {
        fs::write(self.path.join(file), content).expect("a file");
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", file]);
        self.git(&["rev-parse", "HEAD"])
    }

    /// What git says; it must succeed.
    #[track_caller]
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.path, arguments)
    }
}

/// git in a directory, as nobody in particular.
#[track_caller]
pub(crate) fn git(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.arg("-C").arg(dir).args(["-c", "user.name=t", "-c", "user.email=t@example.invalid"]);
    command.args(arguments).env("HOME", dir).env("GIT_CONFIG_NOSYSTEM", "1");
    let output = command.output().expect("git runs");
    assert!(output.status.success(), "git {arguments:?}: {}", stderr(&output));
    stdout(&output).trim().to_owned()
}
