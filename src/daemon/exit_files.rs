//! `exits/` and what is in it: watched, read, held against what the kernel shows, put aside or put away.
//!
//! Refuses to decide whether an exit file counts: it is reported with everything that speaks against it, and the core
//! answers. A file that cannot be read is reported as that.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::core::fuse::{Evidence, ExitHow, ExitReport, LaunchError, LeaderSeen, Rejection};
use crate::core::vocab::{Now, ProcessId, RunId, WaitStatus};
use crate::sys::{Backend, DirNews, Found};
use crate::wire::session_dir::{self, Cause, ExitFile, FileError, RunFiles, Stage, answer};

use super::perform::{adopt_leader, has_verdict, leader_of};
use super::{Daemon, hooks, launch, reach};

/// The first and the longest pause before files of a run that could not be read are looked at again.
const LOOK_FIRST: Duration = Duration::from_millis(20);
const LOOK_LAST: Duration = Duration::from_secs(60);

/// Watches exits/. The first news is a rescan, so nothing published before is missed.
pub(super) fn watch_exits(daemon: &Rc<Daemon>) {
    let watching = Rc::clone(daemon);
    let news = move |news: DirNews| match news {
        DirNews::Arrived(name) => exit_file_named(&watching, &name),
        DirNews::Rescan { why } => {
            tracing::debug!("exits/ is read again: {why}");
            scan_exits(&watching);
        }
        DirNews::Blind { why } => {
            tracing::error!("exits/ cannot be watched ({why}); ends are known by pidfd, and looked for then");
            // Where it was taken away, shims wait for it to publish, and it is watched again once it is there.
            match watching.home.remake_exits() {
                Ok(()) => {}
                Err(error) => tracing::error!("{error}"),
            }
        }
    };
    *daemon.exits.borrow_mut() = Some(daemon.sys.watch_dir(&daemon.home.exits(), news));
}

fn exit_file_named(daemon: &Rc<Daemon>, name: &OsStr) {
    if let Some(id) = name.to_str().and_then(session_dir::parse_exit_file_name) {
        exit_file(daemon, id);
    }
}

fn scan_exits(daemon: &Rc<Daemon>) {
    match fs::read_dir(daemon.home.exits()) {
        Ok(entries) => entries.flatten().for_each(|entry| exit_file_named(daemon, &entry.file_name())),
        // Not an empty directory, only one that could not be read: the pidfds stay.
        Err(error) => tracing::error!("exits/ cannot be read: {error}"),
    }
}

/// An exit file is there: read it, see what the kernel shows of the leader, and report both.
pub(super) fn exit_file(daemon: &Rc<Daemon>, id: RunId) {
    let (known, decided) = {
        let core = daemon.core.borrow();
        let Some(session) = core.session(id.session).filter(|session| session.run.number == id.run) else {
            tracing::warn!("an exit file of a run that is not recorded: {id}; it is left where it is");
            return;
        };
        let told = core.may_tell(session);
        let verdict = session.run.verdict.as_ref().filter(|_| told);
        (session.run.fuse.leader, verdict.map(|verdict| verdict.status))
    };
    if let Some(status) = decided {
        match belongs_to(&daemon.home.run_files(id), status) {
            // A crash fell between the verdict and its archiving; exits/ keeps undecided runs only.
            Ok(true) => return archive(daemon, id),
            Ok(false) => {}
            Err(error) => return look_later(daemon, id, &error, exit_file),
        }
        tracing::error!(session = %id.session, "another exit file of a run that is decided is put aside");
    }
    match exit_evidence(daemon, id, known) {
        Ok(found) => found.into_iter().for_each(|evidence| daemon.evidence(id, evidence)),
        Err(error) => return look_later(daemon, id, &error, exit_file),
    }
    answered(daemon, id);
    if decided.is_some() {
        put_aside(daemon, id);
    }
}

/// A file that may be as it should be and cannot be read now: nothing follows from that, and it is looked at again, and then
/// done with as was meant.
fn look_later(daemon: &Rc<Daemon>, id: RunId, error: &FileError, then: fn(&Rc<Daemon>, RunId)) {
    tracing::error!(session = %id.session, "an exit file cannot be read now, and is looked at again: {error}");
    daemon.evidence(id, Evidence::CannotTell(format!("an exit file cannot be read now: {error}")));
    after_a_pause(daemon, id, move |daemon| then(daemon, id));
}

/// Before files of a run that could not be read are looked at again: from look to look twice as long, up to a minute.
pub(super) fn after_a_pause(daemon: &Rc<Daemon>, id: RunId, then: impl FnOnce(&Rc<Daemon>) + 'static) {
    let pause = {
        let mut pauses = daemon.pauses.borrow_mut();
        let next = pauses.entry(id).or_insert(LOOK_FIRST);
        std::mem::replace(next, (*next * 2).min(LOOK_LAST))
    };
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        sleep(pause).await;
        then(&daemon);
    });
}

/// The files of a run were read.
pub(super) fn answered(daemon: &Daemon, id: RunId) {
    daemon.pauses.borrow_mut().remove(&id);
}

/// Whether the exit file of a decided run is the one that its verdict was taken from, or could have been. An error is no
/// answer.
fn belongs_to(files: &RunFiles, status: Option<WaitStatus>) -> Result<bool, FileError> {
    let exit = match answer(files.read_exit())? {
        Ok(exit) => exit,
        Err(error) => return Ok(launch::is_missing(&error)),
    };
    Ok(match answer(files.read_archived_exit())? {
        Ok(archived) => exit == archived,
        Err(error) => launch::is_missing(&error) && same_end(exit.status, status),
    })
}

fn same_end(one: Option<WaitStatus>, other: Option<WaitStatus>) -> bool {
    one == other || one.zip(other).is_some_and(|(one, other)| one.same_end(other))
}

/// What the exit file says, with what the kernel shows of the leader. An error is no answer.
fn exit_evidence(daemon: &Daemon, id: RunId, known: Option<ProcessId>) -> Result<Vec<Evidence>, FileError> {
    let files = daemon.home.run_files(id);
    Ok(match answer(files.read_exit())? {
        Ok(exit) => {
            let by_file =
                if known.is_none() { files.read_leader().ok().map(|leader| leader.process) } else { None };
            let seen = leader_seen(daemon, id, known.or(by_file));
            let started = by_file.filter(|_| exit.status.is_some()).map(Evidence::Started);
            started.into_iter().chain([Evidence::ExitFile(report(exit), seen)]).collect()
        }
        Err(error) if launch::is_missing(&error) => Vec::new(),
        Err(error) => vec![malformed(daemon, id, &error)],
    })
}

fn malformed(daemon: &Daemon, id: RunId, error: &FileError) -> Evidence {
    tracing::error!(session = %id.session, "an exit file does not count: {error}");
    put_aside(daemon, id);
    Evidence::CannotTell(format!("an exit file was put aside: {error}"))
}

fn leader_seen(daemon: &Daemon, id: RunId, leader: Option<ProcessId>) -> LeaderSeen {
    let Some(leader) = leader else { return LeaderSeen::Unknown };
    let held = leader_of(daemon, id).filter(|held| held.id().same(&leader));
    if let Some(status) = held.and_then(|held| held.exit_status()) {
        return LeaderSeen::ReapedWith(status);
    }
    // What a number shows may be somebody else's life: there it proves nothing against the file.
    let weak = daemon.sys.started().backend == Backend::Portable;
    match reach::find(daemon, id, &leader) {
        Found::Alive(_) if weak => LeaderSeen::Unknown,
        Found::Alive(_) => LeaderSeen::Alive,
        Found::Ended(_) => LeaderSeen::Zombie,
        Found::Gone => LeaderSeen::Reaped,
        Found::Unknown(_) => LeaderSeen::Unknown,
    }
}

/// The exit file in the core's words.
pub(super) fn report(exit: ExitFile) -> ExitReport {
    let how = match (exit.status, exit.launch_error) {
        (Some(status), _) => ExitHow::Status(status),
        (None, Some(error)) => ExitHow::NotLaunched(launch_error(&error)),
        (None, None) => {
            ExitHow::NotLaunched(LaunchError::Setup("the exit file names neither status nor error".into()))
        }
    };
    ExitReport {
        leader: exit.leader,
        how,
        ended: Now { wall: exit.ended.wall_us, mono: exit.ended.mono_ns },
        boot: exit.host.boot,
        usage: exit.usage,
        by_deadline: exit.cause == Cause::Deadline,
        leftovers: exit.leftovers,
    }
}

fn launch_error(error: &session_dir::LaunchError) -> LaunchError {
    let message = error.message.clone();
    let not_found = io::Error::from_raw_os_error(error.errno).kind() == io::ErrorKind::NotFound;
    match error.stage {
        Stage::Program if not_found => LaunchError::ProgramNotFound(message),
        Stage::Program => LaunchError::NotExecutable(message),
        Stage::Cwd => LaunchError::CwdMissing(message),
        Stage::Order
        | Stage::Reserve
        | Stage::Log
        | Stage::Stdin
        | Stage::Fork
        | Stage::Cgroup
        | Stage::Limits
        | Stage::Identity
        | Stage::Env
        | Stage::Exec
        | Stage::Unknown => LaunchError::Setup(message),
    }
}

/// Reads again what a shim left: its exit file, published or not, and who its leader was.
pub(super) fn rescan(daemon: &Rc<Daemon>, id: RunId) {
    // It was expected and nothing was told of it: perhaps another directory is watched than the one that is there.
    if let Some(exits) = &*daemon.exits.borrow() {
        exits.look_again();
    }
    match read_again(daemon, id) {
        Ok(found) => {
            answered(daemon, id);
            found.into_iter().for_each(|evidence| daemon.evidence(id, evidence));
        }
        Err(error) => look_later(daemon, id, &error, rescan),
    }
}

/// What is found then. An error is no answer.
fn read_again(daemon: &Rc<Daemon>, id: RunId) -> Result<Vec<Evidence>, FileError> {
    let files = daemon.home.run_files(id);
    let known = daemon.core.borrow().session(id.session).and_then(|session| session.run.fuse.leader);
    if known.is_none() {
        match answer(files.read_leader())? {
            Ok(leader) => {
                adopt_leader(daemon, id, &leader.process);
                // At once, so that another try does not adopt it again.
                daemon.evidence(id, Evidence::Started(leader.process));
            }
            Err(error) if launch::is_missing(&error) => {}
            Err(error) => return Ok(vec![Evidence::CannotTell(error.to_string())]),
        }
    }
    let mut found = exit_evidence(daemon, id, known)?;
    if found.is_empty()
        && let Some(exit) = left_behind(&files, true, has_verdict(daemon, id))?
    {
        let seen = leader_seen(daemon, id, known.or(exit.leader));
        found.push(Evidence::ExitFile(report(exit), seen));
    }
    found.push(Evidence::Rescanned);
    Ok(found)
}

/// What there is of an exit file where none is published: with the shim dead, one that it did not come to publish, if it is
/// complete; and of a run that is not decided one that was put away with a verdict that nobody has any more. An error is no
/// answer.
pub(super) fn left_behind(
    files: &RunFiles,
    shim_gone: bool,
    decided: bool,
) -> Result<Option<ExitFile>, FileError> {
    let unpublished = if shim_gone { answer(files.read_unpublished_exit())?.ok() } else { None };
    match unpublished {
        None if !decided => Ok(answer(files.read_archived_exit())?.ok()),
        found @ (None | Some(_)) => Ok(found),
    }
}

pub(super) fn reject_exit_file(daemon: &Daemon, id: RunId, why: Rejection) {
    let leader = daemon.core.borrow().session(id.session).and_then(|session| session.run.fuse.leader);
    let reaped = matches!(leader_seen(daemon, id, leader), LeaderSeen::Reaped | LeaderSeen::ReapedWith(_));
    if why.may_pass() && reaped {
        return;
    }
    tracing::error!(session = %id.session, "an exit file is put aside, it does not count: {why}");
    put_aside(daemon, id);
}

fn put_aside(daemon: &Daemon, id: RunId) {
    let path = daemon.home.run_files(id).exit_path();
    let names = (1..100).map(|n| if n == 1 { ".rejected".to_owned() } else { format!(".rejected.{n}") });
    for suffix in names {
        let mut aside = path.clone().into_os_string();
        aside.push(suffix);
        match session_dir::rename_new(&path, aside.as_ref()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Ok(()) => return,
            Err(error) => {
                tracing::error!("put {} aside: {error}", path.display());
                return;
            }
        }
    }
}

/// The verdict is durable: exits/ keeps undecided runs only.
///
/// Once: a second writer beside the first, or after it, could be killed and leave its half behind where no start looks for
/// it, since the exit file that would lead there is put away already.
pub(super) fn archive(daemon: &Rc<Daemon>, id: RunId) {
    if !daemon.archiving.borrow_mut().insert(id) {
        return;
    }
    daemon.release_turn(id);
    hooks::verdict_archived(daemon, id);
    daemon.archive_afterwards(id);
}

/// A verdict whose file is to be written, and beside which the exit file is to be moved.
#[derive(Debug)]
pub(super) struct PutAway {
    pub(super) files: RunFiles,
    pub(super) dir: PathBuf,
    /// `None`: the record is that of another run by now.
    pub(super) file: Option<VerdictBytes>,
}

/// What is written down of a verdict.
#[derive(Debug)]
pub(super) struct VerdictBytes {
    /// What it says of the leader's end.
    status: Option<WaitStatus>,
    bytes: Vec<u8>,
}

/// What came of putting a verdict away.
pub(super) enum Put {
    Away,
    /// The exit file is none that the verdict could be from, and is left where it is.
    Beside(RunId),
    /// It could not be done: to be tried again.
    Nothing(PutAway),
}

impl PutAway {
    /// Does that, unless it is done.
    pub(super) fn carry_out(self) -> Put {
        let Self { files, dir, file } = &self;
        let name = format!("verdict.{}.json", files.id().run);
        // An earlier try at the verdict's file, for one.
        super::perform::sweep_half_written(files, false);
        let written = fs::exists(dir.join(&name)).unwrap_or(false);
        if written && !fs::exists(files.exit_path()).unwrap_or(true) {
            return Put::Away;
        }
        // In this order: an exit file that was moved away means that the verdict is there.
        if let Some(verdict) = file
            && let Err(error) = session_dir::write_atomic(dir, &name, &verdict.bytes, session_dir::FILE_MODE)
        {
            tracing::warn!("write {}: {error}", dir.join(name).display());
            // Without its directory there is no place for it, and will be none.
            let place = error.kind() != io::ErrorKind::NotFound;
            return if place { Put::Nothing(self) } else { Put::Away };
        }
        match file.as_ref().map_or(Ok(true), |verdict| belongs_to(files, verdict.status)) {
            Ok(true) => {}
            Ok(false) => return Put::Beside(files.id()),
            Err(error) => {
                tracing::warn!("archive an exit file: {error}");
                return Put::Nothing(self);
            }
        }
        match move_file(&files.exit_path(), &files.archived_exit_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("archive an exit file: {error}");
            }
            Ok(()) | Err(_) => {}
        }
        Put::Away
    }
}

/// Measures everything that is over and done with, at a start.
pub(super) fn measure_all(daemon: &Rc<Daemon>) {
    let all: Vec<_> = daemon.core.borrow().sessions().map(|session| session.id).collect();
    daemon.measure_afterwards(all);
}

/// Also where something else is mounted on one of the two directories.
fn move_file(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
            fs::copy(from, to)?;
            fs::remove_file(from)
        }
        moved => moved,
    }
}

/// The public record, and the verdict as the journal has it. Only what is durable is archived, so all may be told.
pub(super) fn verdict_file(daemon: &Daemon, id: RunId) -> Option<VerdictBytes> {
    let core = daemon.core.borrow();
    let session = core.session(id.session).filter(|session| session.run.number == id.run)?;
    let verdict = session.run.verdict.as_ref()?;
    let mut file = serde_json::to_value(daemon.view_of(session, true)).ok()?;
    file.as_object_mut()?.insert("verdict".into(), serde_json::to_value(verdict).ok()?);
    let bytes = serde_json::to_vec_pretty(&file).ok()?;
    Some(VerdictBytes { status: verdict.status, bytes })
}

/// What the files take on the disk: the head of a log may be a hole.
pub(super) fn size_of(dir: &Path) -> u64 {
    const UNIT_OF_BLOCKS: u64 = 512;

    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.blocks() * UNIT_OF_BLOCKS).sum()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::core::vocab::SessionId;

    #[test]
    fn an_exit_file_that_the_verdict_cannot_be_from_is_not_put_beside_it() {
        let home = tempfile::tempdir().expect("a directory");
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/session_dir/v1/exit.json");
        let golden = fs::read_to_string(golden).expect("a golden file");
        fs::create_dir(home.path().join("exits")).expect("a directory");
        let says = Some(WaitStatus::exited(143));
        let cases = [
            (says, golden.clone(), true),
            (Some(WaitStatus::exited(7)), golden.clone(), false),
            (None, golden.clone(), false),
            (says, golden.replace("\"v\":1", "\"v\":99"), false),
            (says, "half".to_owned(), false),
        ];
        for (n, (status, exit, goes)) in cases.into_iter().enumerate() {
            let session = SessionId(Uuid::from_u128(n as u128));
            let files = RunFiles::in_home(home.path(), RunId { session, run: 2 });
            let exit = exit.replace("0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11", &session.to_string());
            fs::create_dir_all(files.dir()).expect("a directory");
            fs::write(files.exit_path(), &exit).expect("a file");
            let dir = files.dir().to_owned();
            let file = Some(VerdictBytes { status, bytes: b"{}".to_vec() });
            let put_away = PutAway { files: files.clone(), dir: dir.clone(), file };
            let beside = matches!(put_away.carry_out(), Put::Beside(run) if run == files.id());
            assert_eq!(beside, !goes, "{status:?} {exit}");
            assert!(dir.join("verdict.2.json").exists());
            let stays = if goes { files.archived_exit_path() } else { files.exit_path() };
            assert_eq!(fs::read_to_string(stays).expect("it is there"), exit);
        }
    }
}
