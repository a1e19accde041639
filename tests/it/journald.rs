//! The systemd journal, played by a socket of the test: lifecycle events and the daemon's own lines as entries.

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use crate::support::daemon::Daemon;
use crate::support::wait::PATIENCE;

type Entry = BTreeMap<String, String>;

/// Reads the native protocol, by its description and not by our code.
fn decode(mut datagram: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while !datagram.is_empty() {
        let end = datagram.iter().position(|byte| *byte == b'\n').expect("a line");
        let line = std::str::from_utf8(&datagram[..end]).expect("text");
        datagram = &datagram[end + 1..];
        if let Some((name, value)) = line.split_once('=') {
            entry.insert(name.into(), value.into());
        } else {
            let (length, rest) = datagram.split_at(8);
            let length = u64::from_le_bytes(length.try_into().expect("eight bytes")) as usize;
            let value = std::str::from_utf8(&rest[..length]).expect("text");
            assert_eq!(rest[length], b'\n');
            entry.insert(line.into(), value.into());
            datagram = &rest[length + 1..];
        }
    }
    entry
}

struct Journal(UnixDatagram);

impl Journal {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        Self(socket)
    }

    /// Entries until one has this field.
    #[track_caller]
    fn until(&self, what: (&str, &str)) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut silent_s = 0;
        loop {
            let mut datagram = vec![0; 1 << 16];
            match self.0.recv(&mut datagram) {
                Ok(length) => entries.push(decode(&datagram[..length])),
                Err(_) => silent_s += 1,
            }
            if entries.last().is_some_and(|entry| entry.get(what.0).is_some_and(|value| value == what.1)) {
                return entries;
            }
            assert!(silent_s < PATIENCE.as_secs(), "no {what:?} in {entries:#?}");
        }
    }
}

#[test]
fn lifecycle_events_are_entries_that_can_be_searched_by_type_and_session() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("journal");
    let journal = Journal::at(&path);
    let daemon = Daemon::builder().env("AGENTCTL_JOURNAL_SOCKET", path.to_str().expect("a text")).start();
    let lines = journal.until(("AGENTCTL_TARGET", "agentctl::daemon"));
    let line = lines.last().expect("a line");
    assert_eq!(line["MESSAGE"], "agentctl daemon starts", "{line:#?}");
    assert_eq!((line["PRIORITY"].as_str(), line["SYSLOG_IDENTIFIER"].as_str()), ("6", "agentctl"));
    assert!(line.contains_key("AGENTCTL_BACKEND"), "{line:#?}");

    let id = daemon.launch(&["--name", "n1"], "exit 42");
    let ended = journal.until(("AGENTCTL_EVENT", "session.error"));
    let ended = ended.last().expect("an entry");
    let expected = [
        ("MESSAGE_ID", "3ceacbf8ace04cb4971c6e8c6136583c"),
        ("AGENTCTL_SESSION_ID", &id),
        ("AGENTCTL_NAME", "n1"),
        ("AGENTCTL_OUTCOME", "failed"),
        ("AGENTCTL_REASON", "exit_code_42"),
        ("AGENTCTL_EXIT_CODE", "42"),
        ("PRIORITY", "4"),
    ];
    for (name, value) in expected {
        assert_eq!(ended.get(name).map(String::as_str), Some(value), "{name} in {ended:#?}");
    }
    // It is the same event as everybody's.
    let event = daemon.events().remove(1);
    assert_eq!(event["cursor"], ended["AGENTCTL_CURSOR"].as_str());
    assert_eq!(daemon.log(), "", "nothing is said twice");
}

#[test]
fn a_journal_that_takes_nothing_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("journal");
    let _deaf = Journal::at(&path);
    let daemon = Daemon::builder().env("AGENTCTL_JOURNAL_SOCKET", path.to_str().expect("a text")).start();
    // More than a socket holds (net.unix.max_dgram_qlen is 512 at the most usual).
    let codes: Vec<_> = (0..10).map(|_| daemon.launch(&[], "exit 0")).collect();
    codes.iter().for_each(|id| assert_eq!(daemon.ended(id)["exitCode"], 0));
    drop(dir);
    daemon.is_well();
}

#[test]
fn lines_are_json_where_that_is_asked_for() {
    let daemon = Daemon::builder().env("AGENTCTL_LOG_FORMAT", "json").start();
    let log = daemon.log();
    let line = log.lines().next().expect("a line");
    let line: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    assert_eq!(line["fields"]["message"], "agentctl daemon starts", "{line:#}");
    assert_eq!(line["level"], "INFO");
}
