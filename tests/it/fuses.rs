//! Directory fuses, with a real daemon that is killed and started again, real scripts and a real receiver.

use std::fs;
use std::path::Path;
use std::time::Duration;

use agentctl::core::vocab::Wall;
use agentctl::sys::clock;
use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::{Endpoint, Turn};
use crate::support::openmetrics::Metrics;
use crate::support::patience::in_order;
use crate::support::play::{micros, stderr, stdout};
use crate::support::wait::until;

impl Daemon {
    /// A new directory in the daemon's home.
    fn directory(&self, name: &str) -> String {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("a directory");
        path
    }

    #[track_caller]
    fn fuse(&self, arguments: &[&str]) -> Value {
        self.json(["fuse"].iter().chain(arguments).chain(&["--json"]))
    }

    #[track_caller]
    fn all_fuses(&self) -> Vec<Value> {
        self.json(["fuses", "--all", "--json"]).as_array().expect("a bare array").clone()
    }

    /// Waits until the fuse with this id is so.
    #[track_caller]
    fn until_fuse(&self, id: &Value, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        until(what, || self.all_fuses().into_iter().find(|fuse| fuse["id"] == *id && is(fuse)))
    }

    /// The events of this type.
    #[track_caller]
    fn events_of(&self, kind: &str) -> Vec<Value> {
        self.events().into_iter().filter(|event| event["type"] == kind).collect()
    }
}

fn lines(path: &str) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

#[test]
fn a_fuse_fires_with_script_webhook_and_event_and_says_how_it_went() {
    let receiver = Endpoint::scripted([Turn::status(500)]);
    let daemon = Daemon::builder()
        .config("notify_allow_private", true)
        .config("webhook_url", receiver.url())
        .config("webhook_secret", "s3cret")
        .start();
    let work = daemon.directory("work");
    let url = receiver.url().replace("/webhook/tests", "/token-in-a-path");
    let script = "env | grep ^AGENTCTL_ | sort; echo in $PWD; echo oops >&2; echo secret=$MINE";
    let set = daemon
        .command(["fuse", "set", &format!("{work}//"), "1s", "--label", "try 1", "--script", script])
        .args(["--webhook", &url, "--event", "cleanup", "--json"])
        .env("MINE", "not for scripts")
        .env("AGENTCTL_SESSION_ID", "0b0f7a52")
        .output()
        .expect("the command runs");
    let fuse: Value = serde_json::from_slice(&set.stdout).unwrap_or_else(|_| panic!("{set:?}"));
    assert_eq!(fuse["directory"], json!(work));
    for (key, value) in [
        ("ttlMs", json!(1_000)),
        ("sessionId", json!("0b0f7a52")),
        ("label", json!("try 1")),
        ("state", json!("active")),
    ] {
        assert_eq!(fuse[key], value, "{fuse:#}");
    }
    assert_eq!(fuse["onExpire"]["webhook"], json!(format!("http://127.0.0.1:{}", receiver.port())));
    let done = daemon.until_fuse(&fuse["id"], "the script", |fuse| fuse["script"]["state"] == "done");
    assert_eq!((&done["state"], &done["script"]["exitStatus"]), (&json!("expired"), &json!(0)));

    let output = fs::read_to_string(done["script"]["logPath"].as_str().expect("a path")).expect("its output");
    for line in [
        format!("AGENTCTL_FUSE_DIRECTORY={work}"),
        "AGENTCTL_FUSE_LABEL=try 1".into(),
        "AGENTCTL_FUSE_SESSION_ID=0b0f7a52".into(),
        format!("AGENTCTL_HOME={}", daemon.home().display()),
        format!("in {work}"),
        "oops".into(),
        "secret=".into(),
    ] {
        assert!(output.lines().any(|found| found == line), "{line} is not in\n{output}");
    }

    // One event, of no session; neither script nor URL are in it.
    let events = daemon.events_of("fuse.expired");
    let [event] = &events[..] else { panic!("{events:#?}") };
    assert_eq!(
        (&event["sessionId"], &event["session"], &event["adapter"]),
        (&json!(null), &json!(null), &json!(null))
    );
    assert_eq!((&event["name"], &event["fuse"]["directory"]), (&json!("cleanup"), &json!(work)));
    assert_eq!((&event["fuse"]["label"], &event["fuse"]["sessionId"]), (&json!("try 1"), &json!("0b0f7a52")));
    assert!(!event.to_string().contains("oops") && !event.to_string().contains("token"), "{event:#}");

    // The URL was told, signed, and is told again with the same bytes until it says yes.
    let received = until("a second attempt", || {
        daemon.run(["webhooks", "retry", "--failed"]);
        Some(receiver.received()).filter(|received| received.len() >= 2)
    });
    assert_eq!(received[0].body, received[1].body);
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    assert!(received[0].path.starts_with("/token-in-a-path"), "{}", received[0].path);
    let signature = received[0].header("x-hub-signature-256").expect("a signature");
    assert!(signature.starts_with("sha256="), "{signature}");
    let body: Value = serde_json::from_slice(&received[0].body).expect("JSON");
    for (key, value) in [
        ("type", json!("fuse.expired")),
        ("directory", json!(work)),
        ("sessionId", json!("0b0f7a52")),
        ("label", json!("try 1")),
        ("name", json!("cleanup")),
        ("expiredAt", event["timestamp"].clone()),
    ] {
        assert_eq!(body[key], value, "{body:#}");
    }

    // It was no session that anybody sees, and it shows no token anywhere.
    assert_eq!(daemon.json(["list", "-a", "--json"]), json!([]));
    assert_eq!(daemon.json(["fuses", "--json"]), json!([]));
    let listed = stdout(&daemon.run(["fuses", "--all"]));
    assert!(listed.contains("expired") && listed.contains("done (exit_code_0)"), "{listed}");
    let shown = format!("{listed}{:?}{}", daemon.all_fuses(), daemon.log());
    assert!(!shown.contains("token-in-a-path"), "{shown}");
    let metrics = Metrics::scrape(&daemon);
    assert_eq!(metrics.get("agentctl_fuses_expired_total"), 1.0);
    assert_eq!(metrics.get("agentctl_fuses_active"), 0.0);
}

#[test]
fn a_fuse_outlives_the_daemon_fires_at_its_start_when_it_is_overdue_and_never_twice() {
    in_order(Duration::from_millis(300), outlived);
}

/// Nothing, where the short one may have fired before the daemon was killed.
fn outlived(ttl: Duration) -> Option<()> {
    let mut daemon = Daemon::new();
    let (soon, late) = (daemon.directory("soon"), daemon.directory("late"));
    let ran = daemon.path("ran");
    let script = format!("echo $AGENTCTL_FUSE_DIRECTORY >>{ran}");
    let waits = daemon.fuse(&["set", &late, "400days", "--script", &script]);
    let ttl = format!("{}ms", ttl.as_millis());
    let short = daemon.fuse(&["set", &soon, &ttl, "--script", &script]);
    daemon.kill();
    let (overdue, due) = (short["id"].clone(), Wall(micros(&short["expiresAt"])));
    if clock::now().wall >= due {
        return None;
    }
    assert_eq!(lines(&ran), Vec::<String>::new());
    until("it to be overdue", || (clock::now().wall > due).then_some(()));
    daemon.start();
    daemon.until_fuse(&overdue, "the overdue one", |fuse| fuse["script"]["state"] == "done");
    for _ in 0..2 {
        daemon.kill();
        daemon.start();
    }
    daemon.until_fuse(&overdue, "it to be known", |fuse| fuse["script"]["state"] == "done");
    assert_eq!(lines(&ran), [soon.as_str()]);
    assert_eq!(daemon.events_of("fuse.expired").len(), 1);
    let active = daemon.json(["fuses", "--json"]);
    assert_eq!(active[0]["expiresAt"], waits["expiresAt"], "a year is no overflow: {active:#}");
    assert_eq!(daemon.json(["daemon", "status", "--json"])["fuses"], json!(1));
    Some(())
}

#[test]
fn a_script_outlives_the_daemon_that_started_it() {
    let mut daemon = Daemon::new();
    let (work, ran) = (daemon.directory("work"), daemon.path("ran"));
    let gate = daemon.gate("gate");
    let script = format!("echo begun >>{ran}; {}; echo over >>{ran}; exit 3", gate.wait());
    let id = daemon.fuse(&["set", &work, "1ms", "--script", &script])["id"].clone();
    until("the script to begin", || (lines(&ran).len() == 1).then_some(()));
    daemon.kill();
    daemon.start();
    daemon.until_fuse(&id, "it to run on", |fuse| fuse["script"]["state"] == "running");
    daemon.kill();
    gate.open();
    daemon.start();
    let fuse = daemon.until_fuse(&id, "its end", |fuse| fuse["script"]["state"] == "failed");
    assert_eq!(fuse["script"]["exitStatus"], json!(3), "{fuse:#}");
    assert_eq!(lines(&ran), ["begun", "over"]);
    assert_eq!(daemon.events_of("fuse.expired").len(), 1);
    until("a line in the log", || daemon.log().contains("the script of a fuse failed").then_some(()));
}

#[test]
fn a_session_that_starts_in_the_directory_cancels_its_fuse_and_nothing_else_does() {
    let daemon = Daemon::new();
    let work = daemon.directory("work");
    let link = daemon.path("link");
    std::os::unix::fs::symlink(&work, &link).expect("a link");
    let gate = daemon.gate("gate");
    let running = daemon.launch(&["--cwd", &work], &gate.wait());
    let id = daemon.fuse(&["set", &link, "1h"])["id"].clone();
    assert_eq!(daemon.fuse(&["extend", &work, "2h"])["ttlMs"], json!(7_200_000), "one directory, two names");
    // Launches that do not succeed, and the end of a session.
    assert_eq!(daemon.code(&["launch", "--force", "--cwd", &work, "--", "/no/such/program"]), Some(1));
    assert_eq!(daemon.code(&["launch", "--cwd", &work, "--", "true"]), Some(1), "it is in use");
    assert_eq!(daemon.code(&["launch", "no-such-agent", "--cwd", &work, "-p", "x"]), Some(1));
    daemon.run(["stop", &running]);
    drop(gate);
    let active = daemon.json(["fuses", "--json"]);
    assert_eq!(active[0]["id"], id, "{active:#}");
    let started = daemon.launch(&["--cwd", &link], "exit 0");
    let fuse = daemon.until_fuse(&id, "it to be cancelled", |fuse| fuse["state"] == "cancelled");
    assert_eq!((&fuse["reason"], &fuse["usedBy"]), (&json!("session_started"), &json!(started)));
    let events = daemon.events_of("fuse.cancelled");
    assert_eq!((events.len(), &events[0]["fuse"]["reason"]), (1, &json!("session_started")));
    assert_eq!(events[0]["sessionId"], json!(null));
    assert_eq!(daemon.ended(&running)["outcome"], "cancelled");
    assert!(daemon.events_of("fuse.expired").is_empty());
}

#[test]
fn a_fuse_that_fires_leaves_the_session_in_its_directory_alone() {
    let daemon = Daemon::new();
    let work = daemon.directory("work");
    let gate = daemon.gate("gate");
    let running = daemon.launch(&["--cwd", &work], &format!("{}; exit 7", gate.wait()));
    daemon.fuse(&["set", &work, "1ms"]);
    until("the fuse to fire", || (daemon.events_of("fuse.expired").len() == 1).then_some(()));
    let record = daemon.status(&running);
    assert_eq!(
        (&record["status"], &record["timeoutAt"]),
        (&json!("running"), &daemon.status(&running)["timeoutAt"])
    );
    gate.open();
    assert_eq!(daemon.ended(&running)["exitCode"], json!(7));
}

#[test]
fn the_words_are_those_of_the_earlier_tool_and_what_cannot_be_is_refused() {
    let daemon = Daemon::new();
    let work = daemon.directory("work");
    assert_eq!(stdout(&daemon.run(["fuses"])), "No active fuses\n");
    let said = daemon.run(["fuse", "set", &work, "3days", "--label", "mine"]);
    assert_eq!(stdout(&said), format!("Fuse of {work} expires in 3d\n"));
    let table = stdout(&daemon.run(["fuses"]));
    let mut rows = table.lines().map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()));
    assert_eq!(rows.next().expect("a header").collect::<Vec<_>>(), ["Directory", "Label", "Expires In"]);
    let row: Vec<_> = rows.nth(1).expect("a row").collect();
    assert_eq!(&row[..2], [work.as_str(), "mine"], "{table}");
    fs::remove_dir(&work).expect("our own directory");
    assert_eq!(stdout(&daemon.run(["fuse", "cancel", &work])), format!("Fuse of {work} cancelled\n"));
    for verb in ["cancel", "extend"] {
        let no = daemon.run(["fuse", verb, &work]);
        assert_eq!(
            (no.status.code(), stderr(&no)),
            (Some(1), format!("No active fuse for directory: {work}\n"))
        );
    }
    let work = daemon.directory("work");
    for (code, wrong) in [
        (2, vec!["set", &work, "0"]),
        (2, vec!["set", &work, "-5s"]),
        (2, vec!["set", &work]),
        (1, vec!["set", &work, "200years"]),
        (1, vec!["set", "/no/such/directory", "1h"]),
        (1, vec!["set", "/etc/passwd", "1h"]),
        (1, vec!["set", &work, "1h", "--script", " "]),
        (1, vec!["set", &work, "1h", "--webhook", "http://127.0.0.1:1/x"]),
        (1, vec!["set", &work, "1h", "--webhook", "no URL"]),
        (1, vec!["set", &work, "1h", "--label", "two\nlines"]),
    ] {
        let output = daemon.run(["fuse"].iter().chain(&wrong));
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (Some(code), String::new()),
            "{wrong:?}: {output:?}"
        );
        assert!(!stderr(&output).is_empty());
    }
    assert_eq!(daemon.json(["fuses", "--json"]), json!([]));
    assert!(Path::new(&work).is_dir());
}

#[test]
fn a_cancelled_fuse_is_shown_where_nothing_is_kept() {
    let daemon = Daemon::builder().config("retention_days", 0).start();
    let dir = daemon.fresh_dir();
    let dir = dir.to_str().expect("a text");
    assert_eq!(daemon.code(&["fuse", "set", dir, "1h", "--label", "mine"]), Some(0));
    let cancelled = daemon.json(["fuse", "cancel", dir, "--json"]);
    assert_eq!(
        (&cancelled["state"], &cancelled["reason"]),
        (&json!("cancelled"), &json!("asked")),
        "{cancelled}"
    );
    let events = daemon.events();
    let told = events.iter().find(|event| event["type"] == "fuse.cancelled").expect("an event");
    assert_eq!(told["fuse"]["label"], "mine", "{told}");
}
