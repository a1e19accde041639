//! What an agent is told: the specification, the files and the issue that a launch names, before the prompt itself.
//!
//! Put together here and not in the daemon, since it is the user's directory, permissions and `gh` that count. Refuses to
//! pass anything through a shell, and to leave out what could not be read: a task that lacks a part is another task.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::limits;
use crate::sys::tool::{self, ToolError};

use super::Failure;

/// What a task is made of, as it was named.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts {
    /// The prompt; `-` reads standard input.
    pub prompt: Option<String>,
    pub prompt_file: Option<PathBuf>,
    pub spec: Option<PathBuf>,
    pub files: Vec<PathBuf>,
    pub file_bytes_max: u64,
    pub issue: Option<u64>,
    pub repo: Option<String>,
}

/// A file between its marks.
#[derive(Debug)]
struct Block {
    shown: String,
    content: String,
}

/// What `gh` tells of an issue.
#[derive(Debug, Deserialize)]
struct Issue {
    title: String,
    #[serde(default)]
    body: Option<String>,
}

/// The whole task, with paths counted from `cwd`. `None`: nothing was named.
pub(crate) fn assemble(parts: &Parts, cwd: &Path) -> Result<Option<String>, Failure> {
    let blocks = parts.spec.iter().chain(&parts.files).map(|file| block(file, cwd, parts.file_bytes_max));
    let blocks = blocks.collect::<Result<Vec<_>, _>>()?;
    let issue = parts.issue.map(|number| issue(number, parts.repo.as_deref(), cwd)).transpose()?;
    let prompt = read_prompt(parts.prompt.as_deref(), parts.prompt_file.as_deref())?;
    let told = prompt.as_ref().is_some_and(|text| !text.trim().is_empty());
    if !told && issue.is_none() && parts.spec.is_none() && !parts.files.is_empty() {
        let missing = "Missing required option: -p, --prompt <text>; files alone do not say what to do";
        return Err(Failure::new(2, missing));
    }
    let issue = issue.as_ref().zip(parts.issue).map(|(issue, number)| (number, issue));
    Ok(put_together(&blocks, issue, prompt))
}

fn put_together(blocks: &[Block], issue: Option<(u64, &Issue)>, prompt: Option<String>) -> Option<String> {
    let blocks = blocks
        .iter()
        .map(|Block { shown, content }| format!("--- File: {shown} ---\n{content}\n--- End File ---"));
    let mut parts: Vec<String> = blocks.collect();
    if let Some((number, issue)) = issue {
        parts.push(format!("## GitHub Issue #{number}: {}", issue.title));
        parts.extend(issue.body.clone().filter(|body| !body.trim().is_empty()));
        if prompt.is_some() {
            parts.push("---".into());
        }
    }
    parts.extend(prompt);
    (!parts.is_empty()).then(|| parts.join("\n\n"))
}

/// The prompt as text: given, from standard input, or from a file.
pub(crate) fn read_prompt(text: Option<&str>, file: Option<&Path>) -> Result<Option<String>, Failure> {
    let most = limits::BODY_BYTES_MAX as u64;
    match (text, file) {
        (Some("-"), _) => read_text(io::stdin().lock(), "standard input", most).map(Some),
        (Some(text), _) => Ok(Some(text.to_owned())),
        (None, Some(path)) => {
            let what = path.display().to_string();
            let file = File::open(path).map_err(|error| unreadable(&what, &error))?;
            read_text(file, &what, most).map(Some)
        }
        (None, None) => Ok(None),
    }
}

fn unreadable(what: &str, error: &io::Error) -> Failure {
    Failure::new(1, format!("read {what}: {error}"))
}

/// A text of at most so many bytes.
fn read_text(from: impl Read, what: &str, most: u64) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes).map_err(|error| unreadable(what, &error))?;
    if bytes.len() as u64 > most {
        return Err(Failure::new(1, format!("{what} is longer than {most} bytes, the most that is taken")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::new(1, format!("{what} is not UTF-8 text (byte {at}); only text can be told to an agent"))
    })
}

fn block(path: &Path, cwd: &Path, most: u64) -> Result<Block, Failure> {
    let whole = cwd.join(path);
    let what = path.display().to_string();
    let file = File::open(&whole).map_err(|error| {
        let missing = error.kind() == io::ErrorKind::NotFound;
        if missing { Failure::new(1, format!("File not found: {what}")) } else { unreadable(&what, &error) }
    })?;
    let found = file.metadata().map_err(|error| unreadable(&what, &error))?;
    if found.is_dir() {
        return Err(Failure::new(1, format!("{what} is a directory; name its files, one --file each")));
    }
    let too_large = |size: String| {
        let text =
            format!("File exceeds size limit ({size} > {most} bytes): {what}; --max-file-size raises it");
        Failure::new(1, text)
    };
    if found.len() > most {
        return Err(too_large(format!("{} bytes", found.len())));
    }
    // A pipe has no size, and a file may grow.
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&what, &error))?;
    if bytes.len() as u64 > most {
        return Err(too_large("more".into()));
    }
    let content = read_text(bytes.as_slice(), &what, most)?;
    Ok(Block { shown: relative(&whole, cwd), content })
}

/// A path as seen from a directory, both absolute; `..` where it must.
fn relative(path: &Path, from: &Path) -> String {
    let plain = |path: &Path| -> Vec<PathBuf> {
        let mut parts: Vec<PathBuf> = Vec::new();
        for part in path.components() {
            match part {
                Component::ParentDir => {
                    parts.pop();
                }
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
                Component::Normal(name) => parts.push(name.into()),
            }
        }
        parts
    };
    let (path, from) = (plain(path), plain(from));
    let shared = path.iter().zip(&from).take_while(|(a, b)| a == b).count();
    let up = (shared..from.len()).map(|_| PathBuf::from(".."));
    let all: PathBuf = up.chain(path[shared..].iter().cloned()).collect();
    all.display().to_string()
}

fn issue(number: u64, repo: Option<&str>, cwd: &Path) -> Result<Issue, Failure> {
    let repo = match repo {
        Some(repo) => repo.to_owned(),
        None => guess_repo(cwd)?,
    };
    if !is_repo_name(&repo) {
        return Err(Failure::new(2, format!("--repo \"{repo}\" is not of the form owner/repo")));
    }
    let arguments = ["issue", "view", &number.to_string(), "--repo", &repo, "--json", "title,body"];
    let failed = |why: &str| Failure::new(1, format!("Failed to fetch issue #{number} from {repo}: {why}"));
    let mut gh = Command::new("gh");
    let ran = tool::run(gh.args(arguments).current_dir(cwd), limits::GIT_TIMEOUT, limits::ISSUE_BYTES_MAX);
    let ran = ran.map_err(|error| {
        if matches!(&error, ToolError::Start(why) if why.kind() == io::ErrorKind::NotFound) {
            let why = "--issue asks the GitHub CLI, and there is no gh in PATH; install it, or give the text with -p";
            return Failure::new(1, why);
        }
        failed(&format!("gh: {error}"))
    })?;
    if !ran.success {
        let said = String::from_utf8_lossy(&ran.stderr);
        let first = said.lines().find(|line| !line.trim().is_empty());
        let code = ran.code.map_or_else(|| "a signal".to_owned(), |code| format!("code {code}"));
        return Err(failed(first.unwrap_or(&format!("gh ended with {code}"))));
    }
    serde_json::from_slice(&ran.stdout).map_err(|error| failed(&format!("gh is not understood: {error}")))
}

fn guess_repo(cwd: &Path) -> Result<String, Failure> {
    let unknown = |why: &str| {
        Failure::new(1, format!("Could not determine GitHub repo: {why}. Use --repo <owner/repo>."))
    };
    let mut git = Command::new("git");
    git.arg("-C").arg(cwd).args(["remote", "get-url", "origin"]);
    let ran = tool::run(&mut git, limits::GIT_TIMEOUT, limits::GIT_BYTES_MAX);
    let ran = ran.map_err(|error| unknown(&format!("git: {error}")))?;
    if !ran.success {
        return Err(unknown("no 'origin' remote found"));
    }
    let url = String::from_utf8_lossy(&ran.stdout).trim().to_owned();
    repo_of(&url).ok_or_else(|| unknown(&format!("{} is not of github.com", without_user(&url))))
}

/// A URL may hold a token before its host.
fn without_user(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let host = rest.split('/').next().unwrap_or_default();
            let from = host.rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[from..])
        }
        None => url.to_owned(),
    }
}

/// `owner/repo` of a URL of github.com, as ssh, https or git write it.
fn repo_of(url: &str) -> Option<String> {
    let rest = match url.split_once("://") {
        Some((_, rest)) => {
            let (host, path) = rest.split_once('/')?;
            let host = host.rsplit('@').next()?.split(':').next()?;
            (host == "github.com").then_some(path)?
        }
        None => {
            let (host, path) = url.split_once(':')?;
            (host.rsplit('@').next() == Some("github.com")).then_some(path)?
        }
    };
    let name = rest.trim_matches('/');
    let name = name.strip_suffix(".git").unwrap_or(name);
    is_repo_name(name).then(|| name.to_owned())
}

fn is_repo_name(text: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    text.split_once('/').is_some_and(|(owner, repo)| plain(owner) && plain(repo))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stand_in_their_order_with_a_blank_line_between() {
        let blocks = [("a.md", "A\n"), ("src/b.rs", "B")];
        let blocks = blocks.map(|(shown, content)| Block { shown: shown.into(), content: content.into() });
        let issue = Issue { title: "It breaks".into(), body: Some("Often.\n".into()) };
        let bare = Issue { title: "It breaks".into(), body: None };
        let text =
            |blocks, issue, prompt: Option<&str>| put_together(blocks, issue, prompt.map(str::to_owned));
        assert_eq!(text(&[], None, None), None);
        assert_eq!(text(&[], None, Some("do it")).as_deref(), Some("do it"));
        assert_eq!(
            text(&blocks, None, Some("do it")).as_deref(),
            Some(
                "--- File: a.md ---\nA\n\n--- End File ---\n\n--- File: src/b.rs ---\nB\n--- End File ---\n\ndo it"
            )
        );
        assert_eq!(
            text(&[], Some((7, &issue)), Some("do it")).as_deref(),
            Some("## GitHub Issue #7: It breaks\n\nOften.\n\n\n---\n\ndo it")
        );
        assert_eq!(text(&[], Some((7, &bare)), None).as_deref(), Some("## GitHub Issue #7: It breaks"));
    }

    #[test]
    fn files_are_shown_as_seen_from_the_directory() {
        for (path, from, shown) in [
            ("/w/a.md", "/w", "a.md"),
            ("/w/./src/../b", "/w", "b"),
            ("/etc/hosts", "/w/x", "../../etc/hosts"),
            ("/w", "/w/x", ".."),
        ] {
            assert_eq!(relative(Path::new(path), Path::new(from)), shown);
        }
    }

    #[test]
    fn a_repository_is_guessed_from_urls_of_github_alone() {
        for url in [
            "git@github.com:o/r.git",
            "github.com:o/r",
            "https://github.com/o/r.git",
            "https://token@github.com/o/r/",
            "ssh://git@github.com:22/o/r.git",
            "git://github.com/o/r",
        ] {
            assert_eq!(repo_of(url).as_deref(), Some("o/r"), "{url}");
        }
        for url in
            ["https://example.com/o/r", "/srv/git/r", "https://github.com/o", "https://github.com.x/o/r"]
        {
            assert_eq!(repo_of(url), None, "{url}");
        }
        assert_eq!(without_user("https://u:secret@example.com/o/r"), "https://example.com/o/r");
        assert!(!is_repo_name("--help/x") && !is_repo_name("a/b/c") && is_repo_name("a.b/c_d-e"));
    }
}
