//! What the end-to-end tests play with: gates that hold sessions, HTTP by hand, and looks at processes.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use agentctl::core::vocab::{Mono, ProcessId, RunId, SessionId, Wall};
use agentctl::sys::{Found, ProcessRef, clock};
use agentctl::wire::session_dir::RunFiles;
use agentctl::wire::time::parse_rfc3339;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use uuid::Uuid;

use super::daemon::Daemon;
use super::wait::until;

/// A FIFO: `read _ <gate` in a script waits until the test opens it. Any number may wait; all go at once.
pub(crate) struct Gate {
    path: PathBuf,
    held: File,
}

impl Gate {
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let path = dir.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a fifo");
        // Read and write: opening it waits for nobody, and readers wait for data or for its end.
        let held = File::options().read(true).write(true).open(&path).expect("our own fifo");
        Self { path, held }
    }

    /// The line of a script that waits.
    pub(crate) fn wait(&self) -> String {
        format!("read _ <{}", self.path.display())
    }

    /// Lets all go on: those that wait, and those that have not come so far yet.
    pub(crate) fn open(self) {
        let empty = self.path.with_extension("open");
        fs::write(&empty, "").expect("a file");
        fs::rename(&empty, &self.path).expect("a file in place of the fifo");
        drop(self.held);
    }
}

/// Writes a program. Another process does: a copy of our descriptor in a child that another test has just forked would
/// keep the program from being run, as one that is still written.
pub(crate) fn program(path: &Path, script: &str) {
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "cat >\"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("sh starts");
    let mut pipe = writer.stdin.take().expect("a pipe");
    pipe.write_all(script.as_bytes()).expect("a program");
    drop(pipe);
    assert!(writer.wait().expect("our own child").success(), "{} is not written", path.display());
}

/// Copies a program, in the same way.
pub(crate) fn copied_program(from: &str, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status().expect("cp starts");
    assert!(copied.success(), "{} is not written", to.display());
}

impl Daemon {
    /// A gate in the daemon's home.
    pub(crate) fn gate(&self, name: &str) -> Gate {
        Gate::new(self.home(), name)
    }

    /// A path in the daemon's home, as text for a script.
    pub(crate) fn path(&self, name: &str) -> String {
        self.home().join(name).to_str().expect("a text").to_owned()
    }

    /// A program of that name in a directory of its own; the `PATH=` that finds it.
    pub(crate) fn fake_agent(&self, name: &str, script: &str) -> String {
        let bin = self.path("bin");
        fs::create_dir(&bin).expect("a directory");
        program(&Path::new(&bin).join(name), &format!("#!/bin/sh\n{script}\n"));
        format!("PATH={bin}:{}", std::env::var("PATH").expect("a PATH"))
    }

    /// Runs the command line as somebody whose home, with programs of their own in it, this is.
    pub(crate) fn run_at(&self, home: &Path, arguments: &[&str]) -> Output {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", home.display());
        let mut command = self.command(arguments);
        command.env("HOME", home).env("PATH", path).current_dir(home);
        command.output().expect("the command line runs")
    }

    /// SIGKILL of the daemon, then of a session's shim; both are gone.
    #[track_caller]
    pub(crate) fn kill_with_shim(&mut self, id: &str) {
        let shim = self.shim(id);
        self.kill();
        shim.signal(9).expect("a signal");
        until_gone(&shim);
    }

    /// Moves the deadlines of these sessions to so much later and kills the daemon: when they are, in this order, or
    /// nothing where one came first.
    #[track_caller]
    pub(crate) fn killed_before_deadlines(&mut self, ids: &[&str], time: Duration) -> Option<Vec<Wall>> {
        let time = format!("{}ms", time.as_millis());
        let due = |id| Wall(micros(&self.json(["extend", id, &time, "--json"])["timeoutAt"]));
        let due: Vec<_> = ids.iter().map(|id| due(id)).collect();
        self.kill();
        let now = clock::now().wall;
        due.iter().all(|due| now < *due).then_some(due)
    }

    /// Waits for the exit file of a session: whether it ended before this moment.
    #[track_caller]
    pub(crate) fn exit_before(&self, id: &str, due: Wall) -> Option<()> {
        let exit = until("the exit file", || self.run_files(id).read_exit().ok());
        (exit.ended.wall_us < due).then_some(())
    }

    /// The files of a session's run.
    pub(crate) fn run_files(&self, id: &str) -> RunFiles {
        let session = SessionId(Uuid::parse_str(id).expect("an id"));
        RunFiles::in_home(self.home(), RunId { session, run: 1 })
    }

    /// The leader of a session, held.
    #[track_caller]
    pub(crate) fn leader(&self, id: &str) -> ProcessRef {
        alive(&self.run_files(id).read_leader().expect("a leader").process)
    }

    /// The shim of a session, held.
    #[track_caller]
    pub(crate) fn shim(&self, id: &str) -> ProcessRef {
        alive(&self.run_files(id).read_shim().expect("a shim").process)
    }

    /// The types of the events of one session, in order.
    pub(crate) fn event_types(&self, id: &str) -> Vec<String> {
        let of_session = self.events().into_iter().filter(|event| event["sessionId"] == id);
        of_session.map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
    }

    /// Asserts that the session has exactly one terminal event.
    #[track_caller]
    pub(crate) fn ended_once(&self, id: &str) {
        let types = self.event_types(id);
        let terminal =
            types.iter().filter(|kind| matches!(kind.as_str(), "session.stopped" | "session.error"));
        assert_eq!(terminal.count(), 1, "{types:?}\n{}", self.log());
    }

    /// Waits until the record says so.
    #[track_caller]
    pub(crate) fn until_status(&self, id: &str, what: &str, right: impl Fn(&Value) -> bool) -> Value {
        until(what, || Some(self.status(id)).filter(|record| right(record)))
    }

    /// Waits until its stop is under way, or over already.
    #[track_caller]
    pub(crate) fn until_stopping(&self, id: &str) {
        let begun = |record: &Value| record["phase"] == "stopping" || !record["outcome"].is_null();
        self.until_status(id, "the stop", begun);
    }

    /// The exit code of a command line.
    pub(crate) fn code(&self, arguments: &[&str]) -> Option<i32> {
        self.run(arguments).status.code()
    }

    /// One request by hand; status and body.
    #[track_caller]
    pub(crate) fn http(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        parse_answer(&self.http_whole(method, path, headers, body))
    }

    /// The same, with the answer's head.
    #[track_caller]
    pub(crate) fn http_whole(&self, method: &str, path: &str, headers: &str, body: &str) -> String {
        let mut stream = UnixStream::connect(self.socket()).expect("a daemon that listens");
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        stream.write_all(head.as_bytes()).expect("a head");
        stream.write_all(body.as_bytes()).expect("a body");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// Launches `sh -c script` without the command line; the id.
    #[track_caller]
    pub(crate) fn post_launch(&self, script: &str) -> String {
        let body =
            json!({"adapter": "exec", "command": ["/bin/sh", "-c", script], "cwd": "/", "force": true})
                .to_string();
        let (status, answer) = self.http("POST", "/v1/sessions", "", &body);
        assert_eq!(status, 201, "{answer}");
        let record: Value = serde_json::from_str(&answer).expect("a record");
        record["id"].as_str().expect("an id").to_owned()
    }
}

/// Status and body of an HTTP answer.
#[track_caller]
pub(crate) fn parse_answer(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap_or_else(|| panic!("no status in {answer:?}")), body.unwrap_or_default())
}

#[track_caller]
pub(crate) fn alive(id: &ProcessId) -> ProcessRef {
    let found = ProcessRef::find(id);
    let Found::Alive(process) = found else { panic!("{id:?} is not alive: {found:?}") };
    process
}

/// The process whose number a script wrote into a file.
#[track_caller]
pub(crate) fn written_pid(path: &str) -> u32 {
    until("a process number in a file", || fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// Whether a process number is free, or a zombie's.
pub(crate) fn is_gone(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Waits for the end of a process.
#[track_caller]
pub(crate) fn until_gone(process: &ProcessRef) {
    until("a process to end", || (process.has_ended() != Some(false)).then_some(()));
}

/// Whether a leader that hears no TERM still lives, whose stop was asked for then; it must, as long as its grace lasts.
#[track_caller]
pub(crate) fn goes_on(leader: &ProcessRef, asked: Mono, grace: Duration) -> Option<()> {
    let lives = leader.has_ended() == Some(false);
    assert!(lives || clock::now().mono.since(asked) >= grace, "killed within its grace");
    lives.then_some(())
}

/// Waits until this much time has passed since the moment; for what only time can bring.
pub(crate) fn until_later(moment: Mono, by: Duration) {
    until("time to pass", || (clock::now().mono.since(moment) >= by).then_some(()));
}

/// Waits for a child, as long as a condition may take; its output.
#[track_caller]
pub(crate) fn output_of(what: &str, mut child: Child) -> Output {
    // Small outputs only: nobody empties the pipes meanwhile.
    until(what, || child.try_wait().expect("our own child"));
    child.wait_with_output().expect("our own child")
}

/// Microseconds since the epoch of a time in a record.
#[track_caller]
pub(crate) fn micros(time: &Value) -> i64 {
    let text = time.as_str().unwrap_or_else(|| panic!("no time: {time}"));
    parse_rfc3339(text).expect("RFC 3339").0
}

/// The words of an output.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The complaints of an output.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
