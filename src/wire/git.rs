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

/// What every git of ours is told: no hooks, no program that watches files, and nothing that would stay behind. A repository
/// can name other programs still (filters, helpers for credentials), without which its files would not be its files.
pub const ALWAYS: [&str; 8] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
];

/// The code of a git that does not know an option.
const USAGE: i32 = 129;

/// Asks for what [`worktrees`] reads: its answer, and what its lines end with. `git` runs one with these words, `code` is
/// how that ended. One before 2.36 does not know `-z`.
pub fn list<R, E>(
    git: impl Fn(&[&str]) -> Result<R, E>,
    code: impl Fn(&R) -> Option<i32>,
) -> Result<(R, u8), E> {
    let words = ["worktree", "list", "--porcelain", "-z"];
    let ran = git(&words)?;
    if code(&ran) == Some(USAGE) { Ok((git(&words[..3])?, b'\n')) } else { Ok((ran, 0)) }
}

/// Variables that name a repository: where we name one, they do not count (`git rev-parse --local-env-vars`, save those
/// that only configure).
pub const REPOSITORY_VARS: [&str; 13] = [
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CONFIG",
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

/// Reads `git worktree list --porcelain`, whose lines end with `end`.
pub fn worktrees(listed: &[u8], end: u8) -> Vec<GitWorktree> {
    let mut all: Vec<GitWorktree> = Vec::new();
    for line in listed.split(|byte| *byte == end) {
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
    told.or_else(|| lines().next_back())
        .unwrap_or("it said nothing")
        .trim_end_matches(';')
        .chars()
        .take(400)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_worktrees_is_read_as_git_writes_it() {
        let listed = b"worktree /w/repo\0HEAD 1111\0branch refs/heads/main\0\0\
            worktree /w/re po-x\0HEAD 2222\0branch refs/heads/try/x\0locked initializing\0\0\
            worktree /w/bare\0bare\0\0worktree /w/d\0HEAD 3333\0detached\0prunable gone\0\0";
        let found = worktrees(listed, 0);
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
        let lines: Vec<u8> = listed.iter().map(|byte| if *byte == 0 { b'\n' } else { *byte }).collect();
        assert_eq!(worktrees(&lines, b'\n'), found, "as an older git writes it");
        assert_eq!(worktrees(b"HEAD 1\0\xff\0\0", 0), []);
    }

    #[test]
    fn the_last_complaint_is_what_is_told() {
        assert_eq!(last_words(b"Preparing worktree\nfatal: no\nhint: x\n"), "fatal: no");
        assert_eq!(last_words(b"a\n b \n\n"), "b");
        assert_eq!(last_words(b"fatal: registered;\nuse 'add -f' to override\n"), "fatal: registered");
        assert_eq!(last_words(b""), "it said nothing");
    }
}
