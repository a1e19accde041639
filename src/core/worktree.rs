//! A worktree of a git repository: the directory of its own that a session was launched in.
//!
//! Owns the name of that directory and what a branch may be called. Refuses to know whether either exists.

use serde::{Deserialize, Serialize};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Worktree {
    /// The top directory of the repository.
    pub repo: String,
    /// Checked out there; made when there is none of this name.
    pub branch: String,
    /// A new branch begins at this branch of `origin`, fetched first. `None`: where the repository is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// Longest name of a branch: what is left of a file name behind that of the repository.
const BRANCH_BYTES_MAX: usize = 150;

impl Worktree {
    /// Its directory: beside the repository, `repo-try-g-a1b2c3-cc` for the branch `try/g-a1b2c3/cc`.
    pub fn path(&self) -> String {
        format!("{}-{}", self.repo, self.branch.replace('/', "-"))
    }

    /// Whether git will take the names; the error is for the user.
    pub fn check(&self) -> Result<(), String> {
        check_branch(&self.branch)?;
        self.base.as_deref().map_or(Ok(()), check_branch)
    }
}

/// The rules of git-check-ref-format(1), save those that no keyboard breaks.
fn check_branch(name: &str) -> Result<(), String> {
    let unfit = |why: &str| Err(format!("the branch \"{}\" {why}; choose another name", name.escape_debug()));
    if name.len() > BRANCH_BYTES_MAX {
        return Err(format!(
            "the name of the branch is longer than {BRANCH_BYTES_MAX} bytes; choose a shorter one"
        ));
    }
    let bad_character = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    if name.starts_with('-') || name.contains(bad_character) || name == "@" || name == "HEAD" {
        return unfit("is none that git takes");
    }
    let bad_part = |part: &str| {
        part.is_empty() || part.starts_with('.') || part.ends_with('.') || part.ends_with(".lock")
    };
    if name.contains("..") || name.contains("@{") || name.split('/').any(bad_part) {
        return unfit("has a part that git does not take");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worktree(branch: &str) -> Worktree {
        Worktree { repo: "/w/repo".into(), branch: branch.into(), base: None }
    }

    #[test]
    fn it_lies_beside_its_repository() {
        assert_eq!(worktree("try/g-a1b2c3/cc").path(), "/w/repo-try-g-a1b2c3-cc");
        assert_eq!(worktree("fix").path(), "/w/repo-fix");
    }

    #[test]
    fn names_that_git_or_a_path_would_read_otherwise_are_refused() {
        for good in ["fix", "try/g-1/cc-opus-2", "feature/ü", "a.b", "@x"] {
            assert_eq!(worktree(good).check(), Ok(()), "{good}");
        }
        let long = "x".repeat(151);
        for bad in [
            "", "-f", "a b", "a..b", "../x", "a/../b", "/a", "a/", "a//b", "a.lock", "x/.y", "a:b", "a\0",
            "@", &long,
        ] {
            assert!(worktree(bad).check().is_err(), "{bad:?}");
        }
        assert!(Worktree { base: Some("--upload-pack=x".into()), ..worktree("a") }.check().is_err());
    }
}
