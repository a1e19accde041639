//! At the first start in a home of the earlier agentctl: its files read, its processes looked at, and both handed to the
//! core in one commit.
//!
//! Refuses to decide what becomes of a session (core/import.rs), to change a file of that tool, and to take a process for
//! a session's by its number alone: a wrapper is known by its name, which holds the session's id; another agent by its
//! program and the time of its start.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use crate::adapters::Known;
use crate::adapters::found::{fit, recognise};
use crate::core::Event;
use crate::core::directory::Directory;
use crate::core::import::{self, Here, Imported, OldExit, OldSession, Seen};
use crate::core::record::Record;
use crate::core::session::Origin;
use crate::core::vocab::{RunId, SessionId, WaitStatus, Wall};
use crate::limits;
use crate::sys::shown::{self, Shown};
use crate::sys::{Backend, clock};
use crate::wire::found::id_of_conversation;
use crate::wire::old_home::{self, Entries};
use crate::wire::time::rfc3339;

use super::super::locks::look_at;
use super::super::{Daemon, Home, found};
use super::kept;

const STATE: &str = "state.json";
/// In the home: all that was ever said of what was taken over.
const SAID: &str = "taken-over.log";
/// Of opencode, whose agents it put a wrapper around.
const WRAPPED: &str = "opencode";
/// Where it wrote down what it launched, below the user's home.
const LAUNCHED: [(&str, &str); 3] = [
    (".claude/agentctl/sessions", "claude-code"),
    (".codex/agentctl/sessions", "codex"),
    (".pi/agentctl/sessions", "pi"),
];
/// Adapters whose sessions it called by the agent's own id.
const NATIVE: [&str; 4] = ["claude-code", "codex", "pi", "pi-rust"];

/// It wrote the time of a start down when the process ran; of some agents after it had waited for an id.
const STARTED_BEFORE: Duration = Duration::from_secs(60);
/// A clock that was adjusted, and the ticks in which the kernel counts.
const STARTED_AFTER: Duration = Duration::from_secs(5);

/// What it came to, and what is to be said of it.
#[derive(Default)]
pub(super) struct Report {
    sessions: u32,
    live: u32,
    locks: u32,
    fuses: u32,
    left_out: u32,
    lines: Vec<String>,
    records: Vec<Record>,
    /// Those that run, by number and start, and whose they are.
    leaders: HashMap<(u32, u64), SessionId>,
    /// The directories that were looked at, by what they were called.
    directories: HashMap<String, Option<Directory>>,
}

impl Report {
    pub(super) fn leave_out(&mut self, line: String) {
        self.left_out += 1;
        self.lines.push(format!("left out: {line}"));
    }

    /// Of what was taken all the same.
    pub(super) fn remark(&mut self, line: String) {
        self.lines.push(line);
    }

    pub(super) fn take_lock(&mut self, record: Record) {
        self.locks += 1;
        self.records.push(record);
    }

    pub(super) fn take_fuse(&mut self, record: Record) {
        self.fuses += 1;
        self.records.push(record);
    }

    fn taken(&self) -> u32 {
        self.sessions + self.locks + self.fuses
    }

    /// All that is to be said.
    fn words(&mut self) -> Vec<String> {
        let mut parts = Vec::new();
        if self.sessions > 0 {
            let live = if self.live == 0 { "none".to_owned() } else { self.live.to_string() };
            parts.push(format!("{}, {live} of them running", counted(self.sessions, "session")));
        }
        for (count, what) in [(self.locks, "lock"), (self.fuses, "fuse")] {
            if count > 0 {
                parts.push(counted(count, what));
            }
        }
        let mut lines = std::mem::take(&mut self.lines);
        if !parts.is_empty() {
            let taken = parts.join("; ");
            lines.insert(
                0,
                format!("taken over from an earlier agentctl: {taken}; its files stay as they are"),
            );
        }
        lines
    }
}

/// As much of it as a terminal takes; `whole`: where the rest is.
fn cut(mut lines: Vec<String>, whole: &str) -> Vec<String> {
    let more = lines.len().saturating_sub(limits::IMPORT_LINES_MAX);
    if more > 0 {
        lines.truncate(limits::IMPORT_LINES_MAX);
        lines.push(format!("and {more} more; all of it: {whole}"));
    }
    lines
}

/// Keeps what was said, below what was said before; where it is, for people.
fn keep(home: &Home, lines: &[String]) -> String {
    let path = home.path().join(SAID);
    let text: String = lines.iter().map(|line| format!("{} {line}\n", rfc3339(clock::now().wall))).collect();
    let file = File::options().append(true).create(true).mode(0o600).open(&path);
    match file.and_then(|mut file| file.write_all(text.as_bytes())) {
        Ok(()) => path.display().to_string(),
        Err(error) => {
            tracing::error!("write {}: {error}", path.display());
            "the daemon's log".to_owned()
        }
    }
}

fn counted(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Takes over what was not taken over before, each file by itself.
pub(in crate::daemon) fn import(daemon: &Rc<Daemon>) {
    if !daemon.home.was_of_old_tool() {
        return;
    }
    let mut report = Report::default();
    // Of a journal that was lost, which knows nothing of what it took: what people have changed since would be undone.
    let first = daemon.core.borrow().imported().contains_key(STATE) || daemon.rebuilt.borrow().sessions == 0;
    take_file(daemon, STATE, &mut report, sessions);
    for (file, read) in kept::FILES {
        if first {
            take_file(daemon, file, &mut report, read);
        } else {
            leave(daemon, file, &mut report);
        }
    }
    let words = report.words();
    if !report.records.is_empty() {
        daemon.take(Event::Imported(report.records));
    }
    for line in &words {
        tracing::warn!("{line}");
    }
    if !words.is_empty() {
        let whole = keep(&daemon.home, &words);
        *daemon.imported.borrow_mut() = cut(words, &whole);
    }
}

fn take_file(
    daemon: &Daemon,
    file: &str,
    report: &mut Report,
    read: impl FnOnce(&Daemon, &mut Report) -> Result<(), String>,
) {
    if daemon.core.borrow().imported().contains_key(file) {
        return;
    }
    let before = (report.taken(), report.left_out);
    match read(daemon, report) {
        Ok(()) => {
            let (taken, left_out) = (report.taken() - before.0, report.left_out - before.1);
            if taken + left_out > 0 {
                let at = clock::now().wall;
                report.records.push(Record::Imported { at, file: file.to_owned(), taken, left_out });
            }
        }
        Err(why) => {
            report
                .lines
                .push(format!("{file} is not taken over: {why}; it is tried again at the next start"));
        }
    }
}

/// Never to be taken.
fn leave(daemon: &Daemon, file: &str, report: &mut Report) {
    let known = daemon.core.borrow().imported().contains_key(file);
    if !known && daemon.home.path().join(file).exists() {
        let why = "the journal was lost, so it is not known what was changed since it was taken over";
        report.lines.push(format!("{file} is not taken over: {why}"));
        let at = clock::now().wall;
        report.records.push(Record::Imported { at, file: file.to_owned(), taken: 0, left_out: 0 });
    }
}

fn sessions(daemon: &Daemon, report: &mut Report) -> Result<(), String> {
    let ours = found::ours(daemon);
    report.leaders = ours.into_iter().filter_map(|(process, session)| Some((process, session?))).collect();
    for old in old_sessions(&daemon.home, report)? {
        take(daemon, &old, report);
    }
    Ok(())
}

fn take(daemon: &Daemon, old: &OldSession, report: &mut Report) {
    let id = match old.id.parse::<SessionId>() {
        Ok(id) if !id.0.is_nil() => id,
        Ok(_) | Err(_) => id_of_conversation(&old.adapter, &old.id),
    };
    if daemon.core.borrow().session(id).is_some() {
        // It was taken over before the journal was lost, and has files of ours by now.
        report.sessions += 1;
        return;
    }
    let config = daemon.config.borrow();
    let known: Vec<Known> = Known::all(&config.adapters).collect();
    let reports = Known::find(&old.adapter, &config.adapters).is_some_and(|known| known.parser().is_some());
    let by_number = daemon.sys.started().backend == Backend::Portable;
    let seen = seen(&known, old, by_number);
    let leads = if let Seen::Itself(leader, _) = &seen {
        report.leaders.get(&(leader.pid, leader.start_ticks)).map(|other| (leader.pid, *other))
    } else {
        None
    };
    let seen = leads.map_or(seen, |(pid, other)| Seen::Anothers(pid, other));
    let exit = match (old.adapter == WRAPPED).then(|| exit_file(&daemon.home, &old.id)) {
        Some(Ok(exit)) => exit,
        None => None,
        Some(Err(error)) => {
            report.leave_out(format!("{}: its exit file cannot be read: {error}", name(old)));
            return;
        }
    };
    let place = report.directories.entry(old.cwd.clone());
    let place = place.or_insert_with(|| look_at(&old.cwd, &daemon.sys.host().boot).ok()).clone();
    let runs = matches!(seen, Seen::Itself(..));
    let old = &match place {
        Some(place) => OldSession { cwd: place.path, dir: place.id.filter(|_| runs), ..old.clone() },
        None => old.clone(),
    };
    let here = Here { host: daemon.sys.host(), now: clock::now(), grace: config.grace };
    let resumes = NATIVE.contains(&old.adapter.as_str()) && fit(&old.id).is_some();
    match import::import(old, id, &seen, exit, (resumes, reports), here) {
        Imported::Live(more) => {
            report.sessions += 1;
            report.live += 1;
            if let Seen::Itself(leader, _) = seen {
                report.leaders.insert((leader.pid, leader.start_ticks), id);
            }
            report.records.extend(more);
        }
        Imported::Ended(more) => {
            report.sessions += 1;
            report.records.extend(more);
        }
        Imported::LeftOut(why) => {
            let unsure = old.pid.filter(|_| matches!(seen, Seen::CannotTell(_)));
            let adopt =
                unsure.map(|pid| format!("; if it is, run: agentctl adopt {pid}")).unwrap_or_default();
            report.leave_out(format!("{}: {why}{adopt}", name(old)));
        }
    }
}

/// How a session is called in a line.
fn name(old: &OldSession) -> String {
    format!("{} session {}", old.adapter, old.id)
}

/// All that the tool knew, the newest first, as many as are taken.
fn old_sessions(home: &Home, report: &mut Report) -> Result<Vec<OldSession>, String> {
    let mut found = BTreeMap::new();
    match read(&home.path().join(STATE), limits::IMPORT_BYTES_MAX) {
        Ok(bytes) => {
            let Entries { read, skipped } = old_home::sessions(&bytes)?;
            skipped.into_iter().for_each(|line| report.leave_out(line));
            found.extend(read.into_iter().map(|session| (session.id.clone(), session)));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.to_string()),
    }
    for (dir, adapter) in launch_dirs(home) {
        for launched in launched_in(&dir, adapter) {
            merge(&mut found, launched);
        }
    }
    let mut sessions: Vec<OldSession> = found.into_values().collect();
    sessions.sort_by_key(|session| std::cmp::Reverse(session.started));
    let most = limits::IMPORT_SESSIONS_MAX;
    if sessions.len() > most {
        let over = sessions.len() - most;
        report.lines.push(format!("left out: {over} sessions that are older than the newest {most}"));
        report.left_out += u32::try_from(over).unwrap_or(u32::MAX);
        sessions.truncate(most);
    }
    Ok(sessions)
}

fn launch_dirs(home: &Home) -> Vec<(PathBuf, &'static str)> {
    let mut dirs = vec![(home.path().join("opencode-sessions"), WRAPPED)];
    if let Some(user) = std::env::var_os("HOME").map(PathBuf::from).filter(|user| user.is_absolute()) {
        dirs.extend(LAUNCHED.map(|(dir, adapter)| (user.join(dir), adapter)));
    }
    dirs
}

/// Launches that the state may have lost: it was written a second late.
fn launched_in(dir: &Path, adapter: &str) -> Vec<OldSession> {
    let paths = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    // Beside each are its log and more, which do not count.
    let files = paths.filter(|path| path.extension().is_some_and(|end| end == "json"));
    let read = files.filter_map(|path| read(&path, limits::IMPORT_FILE_BYTES_MAX).ok());
    read.filter_map(|bytes| old_home::launched(&bytes, adapter)).take(limits::IMPORT_SESSIONS_MAX).collect()
}

fn merge(found: &mut BTreeMap<String, OldSession>, launched: OldSession) {
    match found.get_mut(&launched.id) {
        Some(known) => {
            known.started = known.started.or(launched.started);
            known.pid = known.pid.or(launched.pid);
            known.log = known.log.take().or(launched.log);
        }
        None => {
            found.insert(launched.id.clone(), launched);
        }
    }
}

/// The whole of a file that is no longer than that.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::other(format!("it is longer than {most} bytes")));
    }
    Ok(bytes)
}

/// The exit file that a wrapper has written, right before it ended. `None`: there is none.
fn exit_file(home: &Home, id: &str) -> io::Result<Option<OldExit>> {
    if id.parse::<SessionId>().is_err() {
        // Not of a wrapper's making; and no name of a file.
        return Ok(None);
    }
    let path = home.path().join("opencode-sessions").join(format!("{id}.exit"));
    let bytes = match read(&path, limits::IMPORT_FILE_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    };
    let written = fs::metadata(&path)?.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = Wall(i64::try_from(written.as_micros()).unwrap_or(i64::MAX));
    // One that holds no code was cut off, and tells nothing.
    Ok(old_home::exit_code(&bytes).map(|code| OldExit { code, at }))
}

/// The status that a wrapper of the earlier tool left of a run that was taken over while it lived. To be asked once that
/// wrapper has ended: then the file is there or never will be.
pub(in crate::daemon) fn status_left(daemon: &Daemon, id: RunId) -> Option<WaitStatus> {
    {
        let core = daemon.core.borrow();
        let session = core.session(id.session)?;
        if session.origin != Origin::Imported || id.run != 1 || session.spec.adapter != WRAPPED {
            return None;
        }
    }
    match exit_file(&daemon.home, &id.session.to_string()) {
        Ok(exit) => exit.map(|exit| WaitStatus::exited(exit.code)),
        Err(error) => {
            tracing::error!(session = %id.session, "the exit file of an earlier agentctl cannot be read: {error}");
            None
        }
    }
}

fn seen(known: &[Known], old: &OldSession, by_number: bool) -> Seen {
    let Some(pid) = old.pid else { return Seen::NoNumber };
    match shown::look_at_any(pid, by_number) {
        Ok(Some(shown)) => identify(known, old, &shown),
        Ok(None) => Seen::Gone,
        Err(error) => {
            Seen::CannotTell(format!("whether it runs cannot be told: look at process {pid}: {error}"))
        }
    }
}

fn identify(known: &[Known], old: &OldSession, shown: &Shown) -> Seen {
    let Shown { process, argv, exe, started, .. } = shown;
    let is = match old.adapter == WRAPPED {
        true => is_wrapper(argv, &old.id),
        false => recognise(known, || exe.clone(), argv).is_some_and(|it| it.adapter.name() == old.adapter),
    };
    match likeness(is, old, *started) {
        Likeness::Same => Seen::Itself(*process.id(), *started),
        Likeness::Another => Seen::Gone,
        Likeness::Unsure(why) => {
            Seen::CannotTell(format!("whether it is process {} cannot be told: {why}", process.pid()))
        }
    }
}

/// `/bin/sh .../wrapper-<id>.sh`.
fn is_wrapper(argv: &[String], id: &str) -> bool {
    let name = argv.get(1).map(|path| path.rsplit('/').next().unwrap_or(path));
    name == Some(format!("wrapper-{id}.sh").as_str())
}

#[derive(Debug, PartialEq, Eq)]
enum Likeness {
    Same,
    /// It got the number later.
    Another,
    Unsure(&'static str),
}

/// `is`: whether the command line is the session's kind.
fn likeness(is: bool, old: &OldSession, process_started: Wall) -> Likeness {
    if is && old.adapter == WRAPPED {
        return Likeness::Same;
    }
    let Some(started) = old.started else { return Likeness::Unsure("when it was started is not known") };
    let later = process_started.since(started) > STARTED_AFTER;
    let earlier = started.since(process_started) > STARTED_BEFORE;
    match (is, later, earlier) {
        (true, false, false) => Likeness::Same,
        (true, true, _) => Likeness::Unsure("an agent of its kind has the number, and started later"),
        (_, _, true) => Likeness::Unsure("the process is older than the session"),
        (false, true, false) => Likeness::Another,
        (false, false, false) => {
            Likeness::Unsure("it started with the session, and is not known by its command line")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old(adapter: &str) -> OldSession {
        OldSession {
            id: "d7b63b65-5f0e-4c1b-9a55-0f6b1c2d3e4f".into(),
            adapter: adapter.into(),
            started: Some(Wall(1_000_000_000)),
            ..OldSession::default()
        }
    }

    fn after(seconds: i64) -> Wall {
        Wall(1_000_000_000 + seconds * 1_000_000)
    }

    #[test]
    fn a_process_is_a_sessions_by_its_kind_and_its_start_or_by_the_id_in_its_name() {
        assert_eq!(likeness(true, &old("codex"), after(-1)), Likeness::Same);
        assert_eq!(likeness(true, &old("codex"), after(-15)), Likeness::Same, "its id came late");
        assert_eq!(likeness(false, &old("codex"), after(600)), Likeness::Another);
        for (is, seconds) in [(false, 0), (true, 600), (true, -600), (false, -600)] {
            let found = likeness(is, &old("codex"), after(seconds));
            assert!(matches!(found, Likeness::Unsure(_)), "{is} {seconds}: {found:?}");
        }
        let unknown = OldSession { started: None, ..old("codex") };
        assert!(matches!(likeness(true, &unknown, after(0)), Likeness::Unsure(_)));

        let argv = |name: &str| vec!["/bin/sh".to_owned(), format!("/h/opencode-sessions/{name}")];
        let id = old("opencode").id;
        assert!(is_wrapper(&argv(&format!("wrapper-{id}.sh")), &id));
        assert!(!is_wrapper(&argv("wrapper-00000000-0000-4000-8000-000000000000.sh"), &id));
        assert!(!is_wrapper(&["sh".to_owned()], &id));
        assert_eq!(likeness(true, &old("opencode"), after(99)), Likeness::Same, "the name is proof enough");
        assert_eq!(likeness(false, &old("opencode"), after(99)), Likeness::Another);
    }

    #[test]
    fn what_is_beside_launches_takes_no_place_of_one() {
        let dir = tempfile::tempdir().expect("a directory");
        for n in 0..2 * limits::IMPORT_SESSIONS_MAX {
            let name = if n % 2 == 0 { format!("{n}.log") } else { format!("{n}.json") };
            fs::write(dir.path().join(name), "").expect("a file");
        }
        for n in 0..20 {
            let launch = format!(r#"{{"sessionId":"s{n}"}}"#);
            fs::write(dir.path().join(format!("s{n}.json")), launch).expect("a launch");
        }
        assert_eq!(launched_in(dir.path(), "codex").len(), 20);
    }

    #[test]
    fn what_is_said_is_bounded() {
        let mut report = Report { sessions: 2, fuses: 1, ..Report::default() };
        (0..50).for_each(|n| report.leave_out(format!("session {n}")));
        let words = cut(report.words(), "/h/log");
        assert_eq!(words.len(), limits::IMPORT_LINES_MAX + 1);
        assert_eq!(
            words[0],
            "taken over from an earlier agentctl: 2 sessions, none of them running; 1 fuse; its files stay as they are"
        );
        assert_eq!(words.last().map(String::as_str), Some("and 31 more; all of it: /h/log"));
    }
}
