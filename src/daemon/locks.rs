//! The API of directory locks, and how a directory is looked at: its real path, its device and inode.
//!
//! Refuses to decide: who holds what is the core's to say.

use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use crate::core::Request as Ask;
use crate::core::directory::{DirId, Directory};
use crate::core::locks::{LockRequest, ManualLock};
use crate::limits;
use crate::wire::locks::{Acquire, LockView};

use super::Daemon;
use super::http::{Answer, Fault, Handled, ask, json_answer, read_json};

/// A directory as it is now. One that is not there, or cannot be looked at, has its path alone: the one that it will have,
/// below the real path of what is there. The error is for the user. Blocks.
pub(super) fn look_at(path: &str, boot: &str) -> Result<Directory, String> {
    fits(path)?;
    let real = std::fs::canonicalize(path).ok().and_then(text);
    let id = real.as_ref().and_then(|real| {
        let found = std::fs::metadata(real).ok()?;
        Some(DirId { dev: found.dev(), ino: found.ino(), boot: boot.to_owned() })
    });
    let path = real.or_else(|| text(will_be(Path::new(path))));
    path.map(|path| Directory { path, id }).ok_or_else(|| "the path is not UTF-8".to_owned())
}

/// Whether there can be such a path.
fn fits(path: &str) -> Result<(), String> {
    if path.len() > limits::PATH_BYTES_MAX {
        return Err(format!("a path has at most {} bytes", limits::PATH_BYTES_MAX));
    }
    if !Path::new(path).is_absolute() || path.contains('\0') {
        return Err(format!("\"{path}\" is not an absolute path"));
    }
    Ok(())
}

fn text(path: PathBuf) -> Option<String> {
    path.into_os_string().into_string().ok()
}

/// Without what means nothing in it (`.`, doubled and trailing slashes). What `..` will lead to is not guessed.
fn will_be(path: &Path) -> PathBuf {
    let plain: PathBuf = path.components().filter(|part| !matches!(part, Component::CurDir)).collect();
    let mut above = plain.ancestors().skip(1);
    let there =
        above.find_map(|above| Some((std::fs::canonicalize(above).ok()?, plain.strip_prefix(above).ok()?)));
    match there {
        Some((real, rest)) if !rest.components().any(|part| part == Component::ParentDir) => real.join(rest),
        Some(_) | None => plain,
    }
}

/// `GET /v1/locks`: by directory, those by hand first.
pub(super) fn list(daemon: &Daemon) -> Response<Answer> {
    let core = daemon.core.borrow();
    let mut views: Vec<LockView> = core.manual_locks().map(LockView::of_manual).collect();
    views.extend(core.holders().filter_map(|id| core.session(id)).map(LockView::of_session));
    // Of one directory, by hand before by session, and of sessions the longest there first.
    let by_hand = |view: &LockView| view.session_id.is_none();
    views.sort_by(|a, b| {
        let order = a.directory.cmp(&b.directory).then(by_hand(b).cmp(&by_hand(a)));
        order.then_with(|| (&a.locked_at, &a.session_id).cmp(&(&b.locked_at, &b.session_id)))
    });
    json_answer(StatusCode::OK, &views)
}

/// `POST /v1/locks`.
pub(super) async fn acquire(daemon: &Rc<Daemon>, request: Request<Incoming>) -> Handled {
    let Acquire { directory, by, reason } = read_json(daemon, request).await?.0;
    for (what, text) in [("by", &by), ("reason", &reason)] {
        let Some(text) = text else { continue };
        let fits = (1..=limits::LABEL_CHARS_MAX).contains(&text.chars().count());
        if !fits || text.chars().any(char::is_control) {
            let most = limits::LABEL_CHARS_MAX;
            let why = format!("{what}: give 1 to {most} characters in one line");
            return Err(Fault::new(StatusCode::BAD_REQUEST, why));
        }
    }
    if directory.chars().any(char::is_control) {
        let why = "directory: a path that holds control characters cannot be locked by hand";
        return Err(Fault::new(StatusCode::BAD_REQUEST, why));
    }
    let directory = looked_at(daemon, directory).await?;
    let by = by.unwrap_or_else(|| format!("uid {}", rustix::process::geteuid().as_raw()));
    ask(daemon, Ask::Lock(LockRequest::Acquire { directory, by, reason })).await
}

/// `DELETE /v1/locks/{directory}`.
pub(super) async fn release(daemon: &Rc<Daemon>, directory: String) -> Handled {
    let directory = looked_at(daemon, directory).await?;
    ask(daemon, Ask::Lock(LockRequest::Release(directory))).await
}

/// The same, waited for no longer than for any look.
pub(super) async fn look(daemon: &Daemon, path: &str) -> Result<Directory, String> {
    let (named, boot) = (path.to_owned(), daemon.sys.host().boot.clone());
    daemon.looks.at(path, move || look_at(&named, &boot)).await.flatten()
}

async fn looked_at(daemon: &Daemon, path: String) -> Result<Directory, Fault> {
    let looked = match fits(&path) {
        Ok(()) => look(daemon, &path).await,
        Err(why) => Err(why),
    };
    looked.map_err(|why| Fault::new(StatusCode::BAD_REQUEST, format!("directory: {why}")))
}

/// The answer to a change of one lock.
pub(super) fn answer(lock: &ManualLock) -> Response<Answer> {
    json_answer(StatusCode::OK, &LockView::of_manual(lock))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_has_the_path_that_it_will_have() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = std::fs::canonicalize(dir.path()).expect("a real path");
        std::fs::create_dir(dir.join("real")).expect("a directory");
        std::os::unix::fs::symlink(dir.join("real"), dir.join("link")).expect("a link");
        let path = |name: &str| {
            let path = format!("{}/{name}", dir.display());
            look_at(&path, "boot").expect("an absolute path").path
        };
        let below = |name: &str| format!("{}/{name}", dir.display());
        assert_eq!(path("link/./new//tree/"), below("real/new/tree"));
        assert_eq!(path("link/none/../x"), below("link/none/../x"), "nobody knows what none will be");
        std::fs::create_dir_all(dir.join("real/new/tree")).expect("a directory");
        assert_eq!(path("link/new/tree"), below("real/new/tree"), "as it was before it was there");
    }
}
