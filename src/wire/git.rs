//! What git says to programs: its list of worktrees. And what must not be said to it.
//!
//! Total: any bytes give some list. Refuses to run anything.

use serde::Serialize;

/// One worktree of a repository, the main one among them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GitWorktree {
    pub path: String,
    /// Without `refs/heads/`; null where no branch is checked out.
    pub branch: Option<String>,
    pub head: Option<String>,
    pub bare: bool,
    /// Why git keeps it from being removed or pruned.
    #[serde(skip)]
    pub locked: Option<String>,
}

/// The reason for which git locks a worktree while it makes it.
pub const IN_THE_MAKING: &str = "initializing";

/// Variables that name a repository: where we name one, they do not count (`git rev-parse --local-env-vars`).
pub const REPOSITORY_VARS: [&str; 15] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CONFIG",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_COUNT",
    "GIT_OBJECT_DIRECTORY",
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_GRAFT_FILE",
    "GIT_INDEX_FILE",
    "GIT_NO_REPLACE_OBJECTS",
    "GIT_REPLACE_REF_BASE",
    "GIT_PREFIX",
    "GIT_SHALLOW_FILE",
    "GIT_COMMON_DIR",
];

/// Reads `git worktree list --porcelain -z`.
pub fn worktrees(listed: &[u8]) -> Vec<GitWorktree> {
    let mut all: Vec<GitWorktree> = Vec::new();
    for line in listed.split(|byte| *byte == 0) {
        let line = String::from_utf8_lossy(line);
        let (key, value) = line.split_once(' ').unwrap_or((&line, ""));
        if key == "worktree" {
            all.push(GitWorktree { path: value.to_owned(), ..GitWorktree::default() });
            continue;
        }
        let Some(worktree) = all.last_mut() else { continue };
        match key {
            "HEAD" => worktree.head = Some(value.to_owned()),
            "branch" => {
                worktree.branch = Some(value.strip_prefix("refs/heads/").unwrap_or(value).to_owned());
            }
            "bare" => worktree.bare = true,
            "locked" => worktree.locked = Some(value.to_owned()),
            _ => {}
        }
    }
    all
}

/// What git said last of why it failed.
pub fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let told = lines().rfind(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    told.or_else(|| lines().next_back()).unwrap_or("it said nothing").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_worktrees_is_read_as_git_writes_it() {
        let listed = b"worktree /w/repo\0HEAD 1111\0branch refs/heads/main\0\0\
            worktree /w/re po-x\0HEAD 2222\0branch refs/heads/try/x\0locked initializing\0\0\
            worktree /w/bare\0bare\0\0worktree /w/d\0HEAD 3333\0detached\0prunable gone\0\0";
        let found = worktrees(listed);
        let worktree = |path: &str, branch: Option<&str>, head: Option<&str>| GitWorktree {
            path: path.into(),
            branch: branch.map(str::to_owned),
            head: head.map(str::to_owned),
            ..GitWorktree::default()
        };
        let locked = Some(IN_THE_MAKING.to_owned());
        assert_eq!(
            found,
            [
                worktree("/w/repo", Some("main"), Some("1111")),
                GitWorktree { locked, ..worktree("/w/re po-x", Some("try/x"), Some("2222")) },
                GitWorktree { bare: true, ..worktree("/w/bare", None, None) },
                worktree("/w/d", None, Some("3333")),
            ]
        );
        assert_eq!(worktrees(b"HEAD 1\0\xff\0\0"), []);
    }

    #[test]
    fn the_last_complaint_is_what_is_told() {
        assert_eq!(last_words(b"Preparing worktree\nfatal: no\nhint: x\n"), "fatal: no");
        assert_eq!(last_words(b"a\n b \n\n"), "b");
        assert_eq!(last_words(b""), "it said nothing");
    }
}
