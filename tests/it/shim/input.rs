//! An agent that is talked to: what is appended to its input file reaches it, each line once, until the file is removed.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use agentctl::wire::session_dir::DEADLINE_MOVED;
use rustix::process::Signal;

use super::{Session, Shim, until};

/// Says what it hears, and that there is nothing more.
const ECHO: &str = "while IFS= read -r line; do echo \"heard $line\"; done; echo over; exit 4";

fn talked_to(script: &str, opening: &str) -> Session {
    let session = Session::gated(script).order(|order| order.input = Some("input.1".to_owned()));
    fs::write(session.files.dir().join("input.1"), opening).expect("an input");
    fs::write(session.files.dir().join("prompt.1"), "what is still to be said").expect("a prompt");
    session
}

impl Shim {
    fn input(&self) -> PathBuf {
        self.files().dir().join(self.files().input_name())
    }

    fn say(&self, text: &str) {
        let mut file = OpenOptions::new().append(true).open(self.input()).expect("an input");
        file.write_all(text.as_bytes()).expect("more input");
        self.told();
    }

    fn told(&self) {
        self.signal(Signal::from_named_raw(i32::from(DEADLINE_MOVED)).expect("a signal"));
    }
}

#[test]
fn lines_arrive_once_in_order_until_the_file_is_removed() {
    let mut shim = talked_to(ECHO, "one\n").start();
    shim.heard("heard one");
    shim.say("two\nthree\n");
    shim.heard("heard three");
    // Told again without news, as by a daemon that comes back.
    shim.told();
    shim.say("four\n");
    shim.heard("heard four");
    shim.say("five\n");
    fs::remove_file(shim.input()).expect("our own file");
    shim.told();
    let (exit, _) = shim.finish();
    assert_eq!(exit.status.and_then(|status| status.code()), Some(4));
    assert_eq!(shim.log(), "heard one\nheard two\nheard three\nheard four\nheard five\nover\n");
    assert!(!shim.files().dir().join("prompt.1").exists());
}

#[test]
fn half_a_line_is_not_said() {
    let mut shim = talked_to(ECHO, "one\n").start();
    shim.heard("heard one");
    shim.say("tor");
    // The writer has died; its successor takes the half back and says something else.
    let file = OpenOptions::new().write(true).open(shim.input()).expect("an input");
    file.set_len(4).expect("a shorter file");
    shim.say("two\n");
    shim.heard("heard two");
    fs::remove_file(shim.input()).expect("our own file");
    shim.told();
    shim.finish();
    assert_eq!(shim.log(), "heard one\nheard two\nover\n");
}

#[test]
fn more_than_a_pipe_holds_arrives_when_the_agent_reads_it() {
    let long = "x".repeat(1_000_000);
    let script = "echo up; read x <gate; cat | wc -c";
    let mut shim = talked_to(script, &format!("{long}\n")).start();
    shim.heard("up");
    shim.say("end\n");
    fs::remove_file(shim.input()).expect("our own file");
    shim.told();
    shim.open("gate");
    shim.finish();
    assert_eq!(shim.log().lines().last(), Some("1000005"));
}

#[test]
fn an_agent_that_does_not_listen_holds_nobody_up() {
    let long = "x".repeat(1_000_000);
    let mut shim = talked_to("exec <&-; echo deaf; read x <gate; exit 5", &format!("{long}\n")).start();
    shim.heard("deaf");
    shim.say("more\n");
    shim.open("gate");
    let (exit, _) = shim.finish();
    assert_eq!(exit.status.and_then(|status| status.code()), Some(5));
    assert!(!shim.input().exists(), "what was said is removed at its end");
}

#[test]
fn a_launch_that_fails_leaves_no_words() {
    let session = talked_to(ECHO, "one\n").order(|order| order.argv = vec!["/no/such/program".to_owned()]);
    let mut shim = session.start();
    until("the end of the shim", || shim.child.try_wait().expect("our child"));
    assert!(shim.exit().launch_error.is_some());
    for name in ["input.1", "prompt.1"] {
        assert!(!shim.files().dir().join(name).exists(), "{name}");
    }
}
