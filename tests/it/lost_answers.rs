//! A daemon that breaks off before it answers: what is asked again, and what is not done twice.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use agentctl::limits;

use crate::support::daemon::home;
use crate::support::play::{stderr, stdout};

/// Reads requests and closes each connection, save for the answers that it has; which ones it was asked.
fn breaks_off(socket: &Path, answers: &'static [(&'static str, &'static str)]) -> Arc<Mutex<Vec<String>>> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let line = read_request(&stream);
            if let Some((_, body)) = answers.iter().find(|(request, _)| line.starts_with(request)) {
                let length = body.len();
                let server = format!("agentctl/{}", env!("CARGO_PKG_VERSION"));
                let _gone = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nserver: {server}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
            } else if line.trim_end().ends_with(" HTTP/1.1") {
                // Else it is asked, for want of an answer, whether it is an earlier daemon.
                noted.lock().expect("no panic").push(line);
            }
        }
    });
    asked
}

/// The whole of it; its first line.
fn read_request(stream: &UnixStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().expect("a length");
        }
        if first.is_empty() {
            first = line;
        }
    }
    let mut body = vec![0; length];
    let _cut_off = reader.read_exact(&mut body);
    first
}

fn command(home: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command
        .args(words)
        .env_remove("AGENTCTL_SESSION_ID")
        .env_remove("AGENTCTL_SOCKET")
        .env("AGENTCTL_HOME", home);
    command.env("AGENTCTL_NO_AUTOSTART", "1").output().expect("the command line runs")
}

#[test]
fn what_may_have_been_done_is_not_asked_for_again_and_it_is_said_how_to_look() {
    for (words, look) in [
        (&["kill", "-s", "USR1", "x"][..], "agentctl status x"),
        (&["fuse", "set", "/usr", "1h"], "agentctl fuses"),
        (&["fuse", "cancel", "/usr"], "agentctl fuses"),
        (&["lock", "/usr"], "agentctl locks"),
        (&["unlock", "/usr"], "agentctl locks"),
        (&["prune"], "agentctl list -a"),
        (&["webhooks", "retry", "--failed"], "agentctl webhooks list"),
    ] {
        let home = home();
        let asked = breaks_off(&home.path().join("agentctl.sock"), &[]);
        let output = command(home.path(), words);
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (Some(3), String::new()),
            "{words:?}: {output:?}"
        );
        let said = stderr(&output);
        assert!(
            said.contains("whether it was done is not known") && said.contains(look),
            "{words:?}: {said}"
        );
        let asked = asked.lock().expect("no panic");
        assert_eq!(asked.len(), 1, "{words:?}: {asked:?}");
    }
}

#[test]
fn what_comes_to_the_same_is_asked_again() {
    for words in [
        &["list"][..],
        &["stop", "x"],
        &["extend", "x", "1h"],
        &["fuse", "extend", "/usr"],
        &["daemon", "reload"],
        &["webhooks", "pause", "x"],
        &["launch", "--", "true"],
    ] {
        let home = home();
        let asked = breaks_off(&home.path().join("agentctl.sock"), &[]);
        let output = if words[0] == "launch" {
            // It would be asked for much longer.
            let mut child = Command::new(env!("CARGO_BIN_EXE_agentctl"));
            child.args(words).env_remove("AGENTCTL_SESSION_ID").env_remove("AGENTCTL_SOCKET");
            let child = child.env("AGENTCTL_HOME", home.path()).env("AGENTCTL_NO_AUTOSTART", "1").spawn();
            let mut child = child.expect("the command line runs");
            crate::support::wait::until("another try", || {
                (asked.lock().expect("no panic").len() > 1).then_some(())
            });
            child.kill().and_then(|()| child.wait()).expect("our own child");
            continue;
        } else {
            command(home.path(), words)
        };
        assert_eq!(output.status.code(), Some(3), "{words:?}: {output:?}");
        let asked = asked.lock().expect("no panic");
        assert!(asked.len() > 1, "{words:?}: {asked:?}");
        assert!(!stderr(&output).contains("is not known"), "{words:?}: {output:?}");
    }
}

#[test]
fn a_variable_is_on_with_1_and_off_with_anything_else() {
    let home = home();
    for (value, on) in [("1", true), ("0", false), ("", false)] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
        command.arg("list").env_remove("AGENTCTL_SESSION_ID").env_remove("AGENTCTL_SOCKET");
        command
            .env("AGENTCTL_HOME", home.path())
            .env("AGENTCTL_NO_AUTOSTART", "1")
            .env("AGENTCTL_NO_DAEMON", value);
        let output = command.output().expect("the command line runs");
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(stderr(&output).contains("AGENTCTL_NO_DAEMON=1 keeps"), on, "{value:?}: {output:?}");
    }
}

#[test]
fn any_number_of_sessions_is_stopped_with_few_open_files() {
    const COUNT: usize = 1_000;
    let home = home();
    let listener = UnixListener::bind(home.path().join("agentctl.sock")).expect("a socket");
    let server = std::thread::spawn(move || {
        let (mut held, mut answered) = (Vec::new(), 0);
        for stream in listener.incoming().flatten() {
            // On a slow machine it also asks whether an earlier agentctl is there.
            if !read_request(&stream).starts_with("POST") {
                continue;
            }
            held.push(stream);
            // As many as are stopped at once, as if each took its time.
            if held.len() == limits::STOPS_AT_ONCE_MAX.min(COUNT - answered) {
                answered += held.len();
                held.drain(..).for_each(|mut stream| {
                    let _gone =
                        write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{{\"id\": \"x\"}}");
                });
            }
            if answered == COUNT {
                return;
            }
        }
    });
    let ids: Vec<_> = (0..COUNT).map(|number| format!("s{number}")).collect();
    // With more under way at once it fails, or waits for answers that do not come.
    let script = "ulimit -n 400 && exec timeout 100 \"$0\" stop \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_agentctl")]).args(ids);
    command.env_remove("AGENTCTL_SESSION_ID").env_remove("AGENTCTL_SOCKET");
    command.env("AGENTCTL_HOME", home.path()).env("AGENTCTL_NO_AUTOSTART", "1");
    let output = command.output().expect("the command line runs");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stdout(&output).lines().count(), COUNT);
    server.join().expect("no panic");
}
