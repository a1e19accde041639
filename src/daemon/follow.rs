//! Logs as they grow: for readers who follow, and for the parser of an agent's stream.
//!
//! A log that does not grow costs nothing; one that does is looked at once a second at most, and only when
//! somebody reads or parses it. What comes after silence is told at once. Nobody is in the way of the agent, which appends to
//! its files itself: a reader that is behind one that prints faster than anybody reads takes its time.

use std::cell::Cell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until};

use crate::adapters::{FAILURE_MAX_CHARS, Lines, Parser, Progress, Readable, Tail, ended_with, report};
use crate::core::Event;
use crate::core::agent::{AgentEvent, AgentReport, Span, StepEnd};
use crate::core::fuse::Evidence;
use crate::core::vocab::{RunId, SessionId};
use crate::limits;

use super::converse::Dialogue;
use super::found::told;
use super::log_files::{self, Found, LogTail, length, read_at};
use super::{Daemon, adopted, perform};

/// Looks at a log: the last one, and how many of them in a row found nothing.
struct LogLooks {
    last: Instant,
    at: u64,
    in_vain: u32,
}

impl LogLooks {
    /// None yet at a log that was read up to here.
    fn from(offset: u64) -> Self {
        Self { last: this_instant(), at: offset, in_vain: 0 }
    }

    /// One that began then has come so far.
    fn count(&mut self, begun: Instant, offset: u64) {
        self.in_vain = if offset > self.at { 0 } else { self.in_vain.saturating_add(1) };
        (self.last, self.at) = (begun, offset);
    }

    /// Whether the next may be made as soon as the log grows: there was nothing at the last one. Not after several of those, or
    /// a log that is written to and does not grow would be looked at without a pause.
    fn may_be_next(&self) -> bool {
        self.in_vain == 1
    }
}

/// Waits until the log grows or the session ends; looks at most once a second, but for what comes after silence.
async fn more(daemon: &Daemon, path: &Path, looks: &LogLooks, end: &mut End) -> io::Result<()> {
    let LogLooks { last, at: offset, .. } = *looks;
    if !looks.may_be_next() {
        sleep_or_end(last, end).await;
    }
    let grown = Rc::new(Notify::new());
    let bell = Rc::clone(&grown);
    let _watch = match daemon.sys.on_growth(path, move || bell.notify_one()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(error),
        // No watch is to be had (inotify has its limits): the caller looks again, once a second as ever.
        Err(error) => {
            tracing::debug!("watch {}: {error}", path.display());
            sleep_or_end(last, end).await;
            return Ok(());
        }
        Ok(watch) => watch,
    };
    // What was written before the watch was armed is not told by it.
    if length(path).await? > offset {
        return Ok(());
    }
    tokio::select! {
        () = grown.notified() => {}
        _ = end.wait_for(|ended| *ended) => {}
    }
    Ok(())
}

async fn sleep_or_end(looked: Instant, end: &mut End) {
    tokio::select! {
        () = sleep_until(looked + limits::FOLLOW_EVERY) => {}
        _ = end.wait_for(|ended| *ended) => {}
    }
}

/// Whether the session has ended, and the bell for that.
type End = watch::Receiver<bool>;

fn this_instant() -> Instant {
    // The pace of reading logs; no decision depends on it.
    Instant::now()
}

/// Sends a log from `offset` on, to its present end or, when it is followed, to the end of the session. A reader whose place
/// is dropped meanwhile is broken off.
pub(crate) async fn stream(
    daemon: Rc<Daemon>,
    id: SessionId,
    path: PathBuf,
    mut offset: u64,
    follow: bool,
    to: mpsc::Sender<io::Result<Bytes>>,
) {
    let mut end = daemon.end_of(id);
    let mut looks = LogLooks::from(offset);
    // What is there already is read as fast as it can be.
    let mut pace = Pace::from(length(&path).await.unwrap_or(0), daemon.config.borrow().log_max_bytes);
    loop {
        // Asked before reading: what was written until the end is then read for certain.
        let live = follow && !*end.borrow();
        let looked = this_instant();
        loop {
            let chunk = match read_at(&path, offset, limits::LOG_CHUNK_BYTES).await {
                Ok(Found::Bytes(chunk)) => chunk,
                // It comes again from its place, and is told where that is now.
                Ok(Found::Dropped(_)) => {
                    let why = "what comes next for this reader has been dropped (log_max)";
                    let _reader_left = to.send(Err(io::Error::other(why))).await;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Bytes::new(),
                Err(error) => {
                    let _reader_left = to.send(Err(error)).await;
                    return;
                }
            };
            if chunk.is_empty() {
                break;
            }
            offset += chunk.len() as u64;
            if to.send(Ok(chunk)).await.is_err() {
                return;
            }
            if live && pace.is_over(offset) {
                let pause = pace.pause(&path, offset).await;
                tokio::select! {
                    () = sleep_until(pause) => {}
                    _ = end.wait_for(|ended| *ended) => break,
                    () = to.closed() => return,
                }
            }
        }
        // At the end of the run, what is left of it is read like what was there.
        if live && *end.borrow() {
            continue;
        }
        if !live {
            return;
        }
        looks.count(looked, offset);
        tokio::select! {
            waited = wait_for_more(&daemon, &path, &looks, &mut end) => {
                if let Err(error) = waited {
                    let _reader_left = to.send(Err(error)).await;
                    return;
                }
            }
            () = to.closed() => return,
        }
    }
}

/// How fast a log is read that is written to meanwhile: each byte is one that the agent's processor moves as well.
struct Pace {
    /// To be read before the next pause.
    until: u64,
    /// When the last one ended.
    since: Instant,
    /// A reader that is behind by more than this would lose what is dropped, and makes no pause.
    behind_max: u64,
}

impl Pace {
    fn from(length: u64, log_max: Option<u64>) -> Self {
        let behind_max = log_max.map_or(u64::MAX, |most| most / 2);
        Self { until: length + limits::FOLLOW_BYTES, since: this_instant(), behind_max }
    }

    fn is_over(&self, offset: u64) -> bool {
        offset >= self.until
    }

    /// Until when to pause, after having come so far.
    async fn pause(&mut self, path: &Path, offset: u64) -> Instant {
        let behind = length(path).await.unwrap_or(0).saturating_sub(offset);
        let now = this_instant();
        let due = self.since + limits::FOLLOW_PAUSE;
        self.since = if behind > self.behind_max { now } else { due.max(now) };
        self.until = offset + limits::FOLLOW_BYTES;
        self.since
    }
}

/// Sends an agent's output as people read it: one JSON object a piece, `{"at", "text"}`. A reader that comes again asks
/// from the last `at` on.
pub(crate) async fn readable(
    mut readable: Readable,
    mut offset: u64,
    mut raw: mpsc::Receiver<io::Result<Bytes>>,
    to: mpsc::Sender<io::Result<Bytes>>,
) {
    let piece = |at: u64, text: &str| {
        let piece = serde_json::json!({"at": at, "text": text});
        Bytes::from(format!("{piece}\n"))
    };
    while let Some(chunk) = raw.recv().await {
        let sent = match chunk {
            Ok(bytes) => {
                let text = readable.push(&bytes);
                offset += bytes.len() as u64;
                if text.is_empty() {
                    continue;
                }
                to.send(Ok(piece(offset - readable.pending_bytes() as u64, &text))).await
            }
            Err(error) => to.send(Err(error)).await,
        };
        if sent.is_err() {
            return;
        }
    }
    let _reader_left = to.send(Ok(piece(offset, &readable.finish()))).await;
}

/// Like [`more`], for a log that may not exist yet: then the session's end is all there is to wait for,
/// save a second look.
async fn wait_for_more(daemon: &Daemon, path: &Path, looks: &LogLooks, end: &mut End) -> io::Result<()> {
    match more(daemon, path, looks, end).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            sleep_or_end(this_instant(), end).await;
            Ok(())
        }
        waited => waited,
    }
}

/// Reads the stream of an agent that has one, for as long as its run lives.
pub(super) fn parse(daemon: &Rc<Daemon>, id: RunId) {
    let Some(parser) = daemon.parser_of(id.session) else { return };
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        let asked = Rc::new(Asked::default());
        daemon.readers.borrow_mut().insert(id, Rc::clone(&asked));
        read_along(&daemon, id, parser, &asked).await;
        daemon.readers.borrow_mut().remove(&id);
    });
}

async fn read_along(daemon: &Rc<Daemon>, id: RunId, parser: Parser, asked: &Asked) {
    let mut end = daemon.end_of(id.session);
    let mut reader = Reader::new(daemon, id, parser);
    reader.dialogue = Dialogue::of(daemon, id).await;
    let mut looks = LogLooks::from(reader.offset);
    while !*end.borrow() {
        let looked = this_instant();
        let question = asked.waiting.take();
        match reader.catch_up(daemon).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                reader.is_unread(&error);
                asked.waiting.set(question | asked.waiting.get());
                sleep_or_end(this_instant(), &mut end).await;
                continue;
            }
        }
        // Before it has said anything it may not be itself yet.
        if reader.dialogue.is_some() && reader.offset > 0 {
            adopted::look_at_once(daemon, id);
        }
        reader.tell_mood(daemon, question);
        let said = reader.go_on(daemon).await;
        looks.count(looked, reader.offset);
        let waited = tokio::select! {
            waited = wait_for_more(daemon, &reader.path, &looks, &mut end) => waited,
            () = asked.bell.notified() => Ok(()),
            () = sleep_until(looked + limits::SAY_AGAIN_AFTER), if !said => Ok(()),
        };
        if let Err(error) = waited {
            reader.is_unread(&error);
            sleep_or_end(this_instant(), &mut end).await;
        }
    }
}

/// What a reader of an agent's output is asked.
#[derive(Default)]
pub(super) struct Asked {
    /// To read on at once, and to say so if the agent's work is still over.
    waiting: Cell<bool>,
    bell: Notify,
}

/// Reads an agent's output up to its end, now. Where nobody reads it, there is no answer.
pub(super) fn read_on(daemon: &Daemon, id: RunId) {
    if let Some(asked) = daemon.readers.borrow().get(&id) {
        asked.waiting.set(true);
        asked.bell.notify_one();
    }
}

/// Rings for whoever talks to the agent: the run is to end, which the core says.
pub(super) fn cancel_turn(daemon: &Daemon, id: RunId) {
    if let Some(asked) = daemon.readers.borrow().get(&id) {
        asked.bell.notify_one();
    }
}

/// A place in an agent's stream, and what it told so far.
struct Reader {
    id: RunId,
    path: PathBuf,
    offset: u64,
    lines: Lines,
    progress: Progress,
    mood: Mood,
    /// As the core knows it.
    told: Mood,
    parser: Parser,
    /// With an agent that is talked to.
    dialogue: Option<Dialogue>,
    /// It could not be read once, which was said.
    unread: bool,
}

impl Reader {
    fn new(daemon: &Daemon, id: RunId, parser: Parser) -> Self {
        let path = daemon.home.log(id, "stdout");
        Self {
            id,
            path,
            offset: 0,
            lines: Lines::default(),
            progress: Progress::keeping(0),
            mood: Mood::Works,
            told: Mood::Works,
            parser,
            dialogue: None,
            unread: false,
        }
    }

    /// A moment without descriptors or memory ends neither a conversation nor a budget: it is read on after it. Said once.
    fn is_unread(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.unread, true) {
            tracing::warn!(session = %self.id.session, "read the agent's output, trying again: {error}");
        }
    }

    /// Reads what has been written. That the agent works is told at once; that it does not, by [`Self::tell_mood`].
    async fn catch_up(&mut self, daemon: &Daemon) -> io::Result<()> {
        loop {
            let chunk = match read_at(&self.path, self.offset, limits::LOG_CHUNK_BYTES).await? {
                Found::Bytes(chunk) if chunk.is_empty() => return Ok(()),
                Found::Bytes(chunk) => chunk,
                // It was written faster than it was read, or while no daemon lived.
                Found::Dropped(at) => {
                    tracing::info!(session = %self.id.session, "output was dropped unread (log_max): {} bytes", at - self.offset);
                    (self.offset, self.lines) = (at, Lines::from_mid_line());
                    // What it said last before that is not its last word.
                    self.mood = Mood::Works;
                    tell_work(daemon, self.id, &mut self.told);
                    continue;
                }
            };
            self.offset += chunk.len() as u64;
            let Self { lines, progress, mood, told, parser, id, dialogue, .. } = self;
            lines.push(&chunk, |line| {
                if let Some(dialogue) = dialogue {
                    dialogue.heard(line);
                }
                for event in parser.read(line) {
                    *mood = mood_after(&event).unwrap_or(*mood);
                    if *mood == Mood::Works {
                        tell_work(daemon, *id, told);
                    }
                    tell(daemon, *id, progress, event);
                }
            });
        }
    }

    /// Says what the agent is to hear, if it is talked to. False: that could not be done yet.
    async fn go_on(&mut self, daemon: &Daemon) -> bool {
        let Some(dialogue) = &mut self.dialogue else { return true };
        let said = dialogue.go_on(daemon).await;
        if let Err(error) = &said {
            tracing::warn!(session = %self.id.session, "talk to the agent, trying again: {error}");
        }
        said.is_ok()
    }

    /// At the end of the output: what the agent's last words come to, if that is new or was asked for. What it said in
    /// the middle of a log that is read anew is not what it says now.
    fn tell_mood(&mut self, daemon: &Daemon, asked: bool) {
        let word = match self.mood {
            Mood::Works => return,
            Mood::Waits => AgentEvent::Idle,
            Mood::Over => AgentEvent::Over,
        };
        if asked || self.mood != self.told {
            self.told = self.mood;
            daemon.send(Event::Agent(self.id, word));
        }
    }
}

fn tell_work(daemon: &Daemon, id: RunId, told: &mut Mood) {
    if *told != Mood::Works {
        *told = Mood::Works;
        daemon.send(Event::Agent(id, AgentEvent::Active));
    }
}

/// What an agent is doing, by its own words.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Works,
    /// For input.
    Waits,
    /// It has done what it was to do, or has given up.
    Over,
}

/// What an agent that says this is doing from here on. One that has given its answer is at its end.
fn mood_after(event: &AgentEvent) -> Option<Mood> {
    match event {
        AgentEvent::Over | AgentEvent::StepEnded(StepEnd::Stop) => Some(Mood::Over),
        AgentEvent::Idle => Some(Mood::Waits),
        AgentEvent::Active
        | AgentEvent::Said(_)
        | AgentEvent::SaidMore(_)
        | AgentEvent::ToolCalled { .. }
        | AgentEvent::ToolAnswered { .. }
        | AgentEvent::StepEnded(StepEnd::ToolCalls) => Some(Mood::Works),
        AgentEvent::NativeId(_)
        | AgentEvent::Used { .. }
        | AgentEvent::Total { .. }
        | AgentEvent::Failed(_)
        | AgentEvent::StepEnded(_) => None,
    }
}

fn tell(daemon: &Daemon, id: RunId, progress: &mut Progress, event: AgentEvent) {
    let known = progress.native_id.clone();
    progress.absorb(event.clone());
    let repeated = matches!(event, AgentEvent::NativeId(_)) && progress.native_id == known;
    if progress.events == 1 {
        // The agent is up: another first start may begin.
        daemon.release_turn(id);
    }
    match event {
        AgentEvent::NativeId(_) if repeated => {}
        AgentEvent::NativeId(_) | AgentEvent::Used { .. } | AgentEvent::Total { .. } => {
            daemon.send(Event::Agent(id, event));
        }
        AgentEvent::Over
        | AgentEvent::Idle
        | AgentEvent::Active
        | AgentEvent::Said(_)
        | AgentEvent::SaidMore(_)
        | AgentEvent::ToolCalled { .. }
        | AgentEvent::ToolAnswered { .. }
        | AgentEvent::Failed(_)
        | AgentEvent::StepEnded(_) => {}
    }
}

/// The agent's own report, from the end of its output; and what it used, as far as that end proves it.
pub(super) fn read_report(daemon: &Rc<Daemon>, id: RunId) {
    let Some(parser) = daemon.parser_of(id.session) else {
        daemon.send(Event::Evidence(id, perform::unreadable(&"its adapter is not known any more")));
        return;
    };
    let daemon = Rc::clone(daemon);
    spawn_local(async move {
        let path = daemon.home.log(id, "stdout");
        let evidence = match read_ending(&path, &parser).await {
            Ok((progress, whole)) => {
                let native = progress.native_id.clone().map(AgentEvent::NativeId);
                let talk = told::of_talk(&daemon, id).await;
                let used = talk.as_ref().and_then(|talk| talk.tokens).map(|tokens| AgentEvent::Total {
                    span: Span::Conversation,
                    tokens: Some(tokens),
                    cost_usd: None,
                });
                for told in native.into_iter().chain(progress.totals(whole)).chain(used) {
                    daemon.send(Event::Agent(id, told));
                }
                let said = report_of_talk(report(&progress), talk.and_then(|talk| talk.finish));
                let said = if said == AgentReport::Missing { last_cry(&daemon, id).await } else { said };
                Evidence::Report(said)
            }
            Err(error) => perform::unreadable(&error),
        };
        daemon.send(Event::Evidence(id, evidence));
    });
}

/// An agent that failed before it had anything to report has said why to people, if at all.
async fn last_cry(daemon: &Daemon, id: RunId) -> AgentReport {
    let status = daemon.core.borrow().session(id.session).and_then(|session| session.run.fuse.status);
    if status.and_then(|status| status.code()).is_none_or(|code| code == 0) {
        return AgentReport::Missing;
    }
    let path = daemon.home.log(id, "stderr");
    match log_files::tail(&path, limits::STDERR_TAIL_BYTES_MAX).await {
        Ok(LogTail { bytes, .. }) => last_line(&String::from_utf8_lossy(&bytes))
            .map_or(AgentReport::Missing, |line| AgentReport::Error(Some(line))),
        Err(_) => AgentReport::Missing,
    }
}

/// The last line that is not blank, without colours.
fn last_line(text: &str) -> Option<String> {
    let plain = |line: &str| -> String {
        let mut pieces = line.split('\u{1b}');
        let mut plain = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            // `ESC [ numbers letter`.
            let rest = piece
                .trim_start_matches(['[', ';', '?'])
                .trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
            plain.extend(rest.chars().skip(1));
        }
        plain
            .chars()
            .filter(|c| !c.is_control())
            .take(FAILURE_MAX_CHARS)
            .collect::<String>()
            .trim()
            .to_owned()
    };
    text.lines().rev().map(plain).find(|line| !line.is_empty())
}

/// An end of the turn is a success where the agent's own store does not know better: opencode says it of an answer that was
/// cut off, too.
fn report_of_talk(said: AgentReport, finish: Option<String>) -> AgentReport {
    match (said, finish) {
        (AgentReport::Success, Some(finish)) if finish != "stop" => {
            AgentReport::Error(Some(ended_with(&finish)))
        }
        (said, _) => said,
    }
}

/// What the end of a log tells, and whether that was all of it. Some agents repeat a whole conversation in their last
/// line: where the usual tail holds no report, a longer one is read.
async fn read_ending(path: &Path, parser: &Parser) -> io::Result<(Progress, bool)> {
    let mut at_most = limits::REPORT_TAIL_BYTES_MAX;
    loop {
        let LogTail { bytes, whole, .. } = log_files::tail(path, at_most).await?;
        let tail = if whole { Tail::Whole(&bytes) } else { Tail::Cut(&bytes) };
        let all = whole || (bytes.len() as u64) < at_most;
        let progress = Progress::of(tail, |line| parser.read(line), 0);
        let told = !matches!(report(&progress), AgentReport::Missing | AgentReport::Unreadable(_));
        if told || all || at_most >= limits::REPORT_TAIL_BYTES_LAST {
            return Ok((progress, whole));
        }
        at_most = limits::REPORT_TAIL_BYTES_LAST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_silence_is_told_at_once_and_nothing_makes_looks_without_a_pause() {
        let mut looks = LogLooks::from(0);
        assert!(!looks.may_be_next(), "before the first");
        // A reader that begins before the first output, some output, and a log that is written to without growing.
        for (offset, at_once) in
            [(0, true), (5, false), (5, true), (9, false), (9, true), (9, false), (9, false)]
        {
            looks.count(this_instant(), offset);
            assert_eq!(looks.may_be_next(), at_once, "{offset}");
        }
    }

    #[tokio::test]
    async fn a_reader_takes_its_time_for_what_is_written_meanwhile_unless_it_would_lose_it() {
        let log = tempfile::NamedTempFile::new().unwrap();
        log.as_file().set_len(10 * limits::FOLLOW_BYTES).unwrap();
        let there = limits::FOLLOW_BYTES;
        let mut pace = Pace::from(there, Some(20 * limits::FOLLOW_BYTES));
        assert!(!pace.is_over(there) && !pace.is_over(there * 2 - 1) && pace.is_over(there * 2));
        let begun = pace.since;
        let until = pace.pause(log.path(), there * 2).await;
        assert!(until >= begun + limits::FOLLOW_PAUSE);
        assert!(!pace.is_over(there * 3 - 1) && pace.is_over(there * 3));
        pace.behind_max = 2 * limits::FOLLOW_BYTES;
        assert!(pace.pause(log.path(), there * 3).await < until + limits::FOLLOW_PAUSE, "it is far behind");
    }

    #[test]
    fn the_last_line_is_without_colours_and_never_blank() {
        for (text, expected) in [
            ("one\ntwo\n", Some("two")),
            (
                "\u{1b}[91m\u{1b}[1mError: \u{1b}[0mno such model\u{1b}[0m\n\n \n",
                Some("Error: no such model"),
            ),
            ("half a line", Some("half a line")),
            (" \n\u{1b}[0m\n", None),
            ("", None),
        ] {
            assert_eq!(last_line(text).as_deref(), expected, "{text:?}");
        }
    }
}
