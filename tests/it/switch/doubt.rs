//! What is doubtful in a home of the earlier agentctl: one thing by two names, numbers that were used again, words that
//! nobody checked.

use std::os::unix::fs::symlink;

use super::*;

const CODEX: &str = "01a20287-ab6b-7fa1-8031-1521fdc9368c";

/// A time of now, as the earlier tool writes one.
fn now() -> String {
    rfc3339(agentctl::sys::clock::now().wall)
}

/// Changes its state file.
fn in_state(home: &Path, change: impl FnOnce(&mut Value)) {
    let path = home.join("state.json");
    let mut state: Value = serde_json::from_str(&fs::read_to_string(&path).expect("a state")).expect("JSON");
    change(&mut state["sessions"]);
    fs::write(&path, state.to_string()).expect("a state");
}

/// A process that waits for its input to end, and is called so.
fn process(program: &Path, name: &str, arguments: &[&Path]) -> Node {
    let mut command = Command::new(program);
    command.arg0(name).args(arguments).stdin(Stdio::piped()).stdout(Stdio::null());
    Node(command.spawn().expect("it runs"))
}

/// What the start said, in the status of the daemon.
fn said(daemon: &Daemon) -> String {
    stdout(&daemon.run(["daemon", "status"]))
}

fn fuse(directory: &Path, expires: &str, on_expire: Value) -> Value {
    json!({"directory": directory, "ttlMs": 600_000, "expiresAt": expires, "sessionId": "s", "onExpire": on_expire})
}

#[test]
fn one_directory_has_one_fuse_by_whatever_names_it_was_set() {
    let mut daemon = old_home();
    let real = fs::canonicalize(daemon.fresh_dir()).expect("a directory");
    let [other, busy] = [daemon.home().join("other-name"), daemon.fresh_dir()];
    symlink(&real, &other).expect("a link");
    // One is set here before the file is taken over.
    daemon.start();
    assert_eq!(
        daemon.code(&["fuse", "set", busy.to_str().expect("a text"), "300d", "--label", "ours"]),
        Some(0)
    );
    daemon.terminate();
    let fuses = json!([
        fuse(&other, "2126-03-12T04:31:44.105Z", json!({"script": "touch set-first"})),
        fuse(&real, "2126-03-13T04:31:44.105Z", json!({"script": "touch set-last"})),
        fuse(&busy, "2126-03-12T04:31:44.105Z", json!({"script": "touch theirs"})),
    ]);
    fs::write(daemon.home().join("fuses.json"), fuses.to_string()).expect("a file");
    daemon.start();
    let fuses = daemon.json(["fuses", "-a", "--json"]);
    let scripts: Vec<_> = fuses
        .as_array()
        .expect("a list")
        .iter()
        .map(|fuse| (fuse["state"].as_str(), fuse["onExpire"]["script"].as_str(), fuse["label"].as_str()))
        .collect();
    assert_eq!(scripts.len(), 2, "{fuses:#}");
    assert!(scripts.contains(&(Some("active"), Some("touch set-last"), None)), "{fuses:#}");
    assert!(scripts.contains(&(Some("active"), None, Some("ours"))), "{fuses:#}");
    let said = said(&daemon);
    for name in [&other, &busy] {
        let line = format!("left out: fuse of {}, due 2126-03-12T04:31:44.105Z: ", name.display());
        assert!(said.contains(&line), "{said}");
    }
    assert!(
        said.contains("has another one, set later") && said.contains("was given another one here"),
        "{said}"
    );
}

#[test]
fn a_fuse_whose_url_is_of_this_host_burns_on_and_its_url_needs_leave() {
    let mut daemon = old_home();
    let [near, odd] = [daemon.fresh_dir(), daemon.fresh_dir()];
    let due = "2126-03-12T04:31:44.105Z";
    let fuses = json!([
        fuse(&near, due, json!({"webhook": "http://127.0.0.1:9/hook?token=x", "script": "touch fired"})),
        fuse(&odd, due, json!({"webhook": "not a url", "event": "clean\nup"})),
    ]);
    fs::write(daemon.home().join("fuses.json"), fuses.to_string()).expect("a file");
    daemon.start();
    let fuses = daemon.json(["fuses", "--json"]);
    let of = |directory: &Path| {
        let mut all = fuses.as_array().expect("a list").iter();
        all.find(|fuse| fuse["directory"] == json!(directory)).unwrap_or_else(|| panic!("{fuses:#}"))["onExpire"]
            .clone()
    };
    let shown = of(&near);
    assert_eq!(shown["script"], "touch fired");
    assert!(shown["webhook"].as_str().is_some_and(|url| url.starts_with("http://127.0.0.1:9")), "{shown}");
    assert_eq!(of(&odd), json!(null), "what cannot be told, and what is no name");
    let said = said(&daemon);
    assert!(said.contains("2 fuses"), "{said}");
    assert!(
        said.contains(&format!(
            "fuse of {}: its URL needs leave before it is due: http://127.0.0.1:9",
            near.display()
        )) && said.contains("set notify_allow_private"),
        "{said}"
    );
    assert!(said.contains(&format!("fuse of {}: its URL is left out", odd.display())), "{said}");
    assert!(!said.contains("token"), "a URL may hold secrets: {said}");
}

#[test]
fn one_process_is_that_of_one_session() {
    let mut daemon = old_home();
    let script = daemon.home().join("codex");
    fs::write(&script, "read -r _\n").expect("a script");
    let agent = process(Path::new("/bin/sh"), "/bin/sh", &[&script]);
    let pid = agent.0.id();
    in_state(daemon.home(), |sessions| {
        let session =
            json!({"adapter": "codex", "status": "running", "pid": pid, "startedAt": now(), "cwd": "/usr"});
        sessions["11111111-1111-4111-8111-111111111111"] = session.clone();
        sessions["22222222-2222-4222-8222-222222222222"] = session;
    });
    daemon.start();
    let list = daemon.json(["list", "--json"]);
    let live: Vec<_> = list.as_array().expect("a list").iter().filter(|it| it["pid"] == json!(pid)).collect();
    assert_eq!(live.len(), 1, "{list:#}");
    let said = said(&daemon);
    let words =
        format!("process {pid} is that of session {} already", &live[0]["id"].as_str().expect("an id")[..8]);
    assert!(said.contains("1 of them running") && said.contains(&words), "{said}");
    assert!(!said.contains("agentctl adopt"), "{said}");
}

#[test]
fn a_process_without_a_command_line_is_not_gone() {
    let mut daemon = old_home();
    let nameless = process(Path::new("/bin/sh"), "", &[]);
    let pid = nameless.0.id();
    in_state(daemon.home(), |sessions| {
        (sessions[CODEX]["pid"], sessions[CODEX]["startedAt"]) = (json!(pid), json!(now()));
    });
    daemon.start();
    assert_eq!(daemon.code(&["status", CODEX]), Some(1), "neither an end nor a life is made up");
    let said = said(&daemon);
    assert!(said.contains(&format!("whether it is process {pid} cannot be told")), "{said}");
}

#[test]
fn an_ended_session_has_the_directory_itself_and_an_id_that_agents_take() {
    let mut daemon = old_home();
    let real = fs::canonicalize(daemon.fresh_dir()).expect("a directory");
    let other = daemon.home().join("other-name");
    symlink(&real, &other).expect("a link");
    in_state(daemon.home(), |sessions| {
        sessions[CODEX]["cwd"] = json!(other);
        sessions["--yolo"] =
            json!({"adapter": "codex", "status": "stopped", "pid": 4_194_002, "cwd": "/usr"});
    });
    daemon.start();
    assert_eq!(daemon.status(CODEX)["cwd"], json!(real));
    let all = daemon.json(["list", "-a", "--json"]);
    let odd = all.as_array().expect("a list").iter().find(|it| it["meta"]["oldId"] == "--yolo");
    assert_eq!(odd.expect("it is taken")["nativeId"], json!(null));
}

#[test]
fn all_that_is_said_is_in_a_file_where_it_is_too_much_for_a_terminal() {
    let mut daemon = old_home();
    in_state(daemon.home(), |sessions| {
        for number in 0..40 {
            sessions[format!("broken-{number}")] = json!(7);
        }
    });
    daemon.start();
    let path = daemon.home().join("taken-over.log");
    let said = said(&daemon);
    assert!(said.contains(&format!("more; all of it: {}", path.display())), "{said}");
    let log = daemon.log();
    let whole = fs::read_to_string(&path).expect("a file");
    for number in 0..40 {
        let line = format!("left out: session broken-{number}: ");
        assert!(whole.contains(&line) && log.contains(&line), "{number}");
    }
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn what_was_not_taken_over_yet_is_taken_when_sessions_were_rebuilt() {
    let mut daemon = old_home();
    daemon.start();
    // Its end is lost with the last commits of the journal, and found again in its directory.
    let id = daemon.launch(&[], "exit 0");
    daemon.ended(&id);
    until("the verdict to be written down", || daemon.file(&id, "verdict.1.json").exists().then_some(()));
    daemon.terminate();
    let db = rusqlite::Connection::open(daemon.home().join("journal.db")).expect("a journal");
    assert!(db.execute("DELETE FROM record WHERE session = ?1", [&id]).expect("records") > 0);
    drop(db);
    let later = daemon.fresh_dir();
    let fuses = json!([fuse(&later, "2126-03-12T04:31:44.105Z", json!({"script": "touch fired"}))]);
    fs::write(daemon.home().join("fuses.json"), fuses.to_string()).expect("a file");
    daemon.start();
    assert_eq!(daemon.status(&id)["outcome"], "completed", "it was rebuilt");
    assert_eq!(daemon.json(["fuses", "--json"]).as_array().map(Vec::len), Some(1), "{}", said(&daemon));
}

#[test]
fn a_refused_start_leaves_its_home_as_it_is() {
    let home = home();
    fs::write(home.path().join("state.json"), r#"{"sessions": {}, "version": 1}"#).expect("a file");
    old_daemon_at(home.path(), 4242);
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("our own");
    let there = || {
        let entries = fs::read_dir(home.path()).expect("a home").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let before = there();
    assert!(refusal(home.path()).contains("kill 4242 ("));
    let mut start = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    start.args(["daemon", "start"]).env_remove("AGENTCTL_SESSION_ID").env_remove("AGENTCTL_SOCKET");
    let output = start.env("AGENTCTL_HOME", home.path()).output().expect("the command line runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(stderr(&output).contains("kill 4242 ("), "{output:?}");
    assert_eq!((mode(home.path()), there()), (0o755, before));
}

#[test]
fn a_daemon_of_the_earlier_tool_for_another_home_is_in_nobodys_way() {
    let home = home();
    let elsewhere = home.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    let old = Node::start_at(&elsewhere, home.path(), &["daemon", "start", "--supervised"]);
    let mut daemon = Daemon::new();
    daemon.terminate();
    // Of a home that was copied.
    for file in ["agentctl.pid", "supervisor.pid"] {
        fs::write(daemon.home().join(file), old.0.id().to_string()).expect("a file");
    }
    daemon.start();
    daemon.is_well();
}

#[test]
fn a_slow_answer_of_this_daemon_is_not_taken_for_silence_of_the_earlier_one() {
    let daemon = Daemon::new();
    // The file was left behind, and its number is a process of that tool once more.
    let node = Node::start(daemon.home(), &["daemon", "start", "--foreground"]);
    fs::write(daemon.home().join("agentctl.pid"), node.0.id().to_string()).expect("a file");
    let output = daemon.run(["run", "--", "sh", "-c", "sleep 1.5; exit 5"]);
    assert_eq!(output.status.code(), Some(5), "{output:?}");
}
