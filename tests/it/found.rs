//! Agents that were started outside: shown with what their stores tell, and never more than shown.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use agentctl::wire::found::{id_of_conversation, id_of_process};
use rusqlite::Connection;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};

use crate::support::outside::{Agent, Outside, is_late};
use crate::support::play::{stderr, written_pid};
use crate::support::wait::until;

const ROLLOUT: &str = "01a20287-ab6b-7fa1-8031-1521fdc9368c";

// The ids are each test's own: a conversation is one agent's only, and all of them see all processes.
impl Outside {
    /// Claude Code's note about a living process.
    fn registered(&self, agent: &Agent, session: &str, status: &str) {
        let ticks = agent.process.id().start_ticks.to_string();
        let note = json!({"pid": agent.pid(), "sessionId": session, "procStart": ticks, "status": status});
        self.store(&format!(".claude/sessions/{}.json", agent.pid()), &note.to_string());
    }

    /// Where the transcripts of their directory are.
    fn transcript(&self, session: &str) -> String {
        let cwd = self.cwd.to_str().expect("a text");
        let slug: String = cwd.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        format!(".claude/projects/{slug}/{session}.jsonl")
    }

    /// Where pi keeps the sessions of their directory.
    fn pi_session(&self, id: &str) -> String {
        let cwd = self.cwd.to_str().expect("a text").trim_start_matches('/').replace('/', "-");
        format!(".pi/agent/sessions/--{cwd}--/2026_{id}.jsonl")
    }

    /// opencode's database, as 1.18 makes it, save what nobody asks for.
    fn opencode_db(&self) -> Connection {
        let path = self.store(".local/share/opencode/opencode.db", "");
        let db = Connection::open(path).expect("a database");
        db.execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE session (id text PRIMARY KEY, parent_id text, directory text NOT NULL, model text,
               cost real DEFAULT 0 NOT NULL, tokens_input integer DEFAULT 0 NOT NULL,
               tokens_output integer DEFAULT 0 NOT NULL, tokens_reasoning integer DEFAULT 0 NOT NULL,
               tokens_cache_read integer DEFAULT 0 NOT NULL, tokens_cache_write integer DEFAULT 0 NOT NULL,
               time_created integer NOT NULL, time_updated integer NOT NULL);
             CREATE TABLE message (id text PRIMARY KEY, session_id text, time_created integer, data text);
             CREATE TABLE part (id text PRIMARY KEY, message_id text, data text);",
        )
        .expect("tables");
        db
    }

    fn opencode_session(&self, db: &Connection, id: &str) {
        let now = agentctl::sys::clock::now().wall.0 / 1_000;
        let cwd = self.cwd.to_str().expect("a text");
        db.execute(
            "INSERT INTO session VALUES (?1, NULL, ?2, '{\"id\":\"m\",\"providerID\":\"p\"}', 0.25, 1800, 90, 10, 200, 7, ?3, ?3)",
            rusqlite::params![id, cwd, now],
        )
        .expect("a session");
        db.execute(
            "INSERT INTO message VALUES (?1, ?1, ?2, '{\"role\":\"user\"}')",
            rusqlite::params![id, now],
        )
        .expect("a message");
        db.execute(
            "INSERT INTO part VALUES (?1, ?1, '{\"type\":\"text\",\"text\":\"\\\"fix it\\\"\"}')",
            rusqlite::params![id],
        )
        .expect("a part");
    }

    /// What a listing, which is as good as ever otherwise, warns of in this home. Agents of other tests have others.
    #[track_caller]
    fn warnings(&self) -> String {
        let home = self.home.to_str().expect("a text");
        self.list().1.lines().filter(|line| line.contains(home)).collect()
    }
}

#[track_caller]
fn tells(record: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(&record[key], value, "{key}: {record:#}");
    }
}

#[test]
fn an_agent_started_outside_is_shown_with_what_its_store_tells_and_then_not_any_more() {
    let outside = Outside::new();
    let mut agent = outside.start("claude", &["-p", "--model", "sonnet"], "", "exit 3");
    let before = outside.shown(&agent);
    let own_id = id_of_process(&host(), agent.process.id()).to_string();
    tells(
        &before,
        &json!({"id": own_id, "model": "sonnet", "nativeId": null, "tokens": null, "prompt": null}),
    );

    let native = "55555555-5555-4555-8555-555555555555";
    outside.registered(&agent, native, "busy");
    let assistant = json!({"type": "assistant", "message": {"id": "m1", "model": "opus",
        "usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 7}}});
    let user = json!({"type": "user", "message": {"content": "fix\nit"}, "cwd": outside.cwd});
    let cost = json!({"type": "cost-state", "totalCostUSD": 0.5});
    outside.store(&outside.transcript(native), &format!("{user}\n{assistant}\n{cost}\n"));
    let record = outside.shown(&agent);
    let id = id_of_conversation("claude-code", native).to_string();
    tells(
        &record,
        &json!({
            "id": id, "run": 1, "origin": "discovered", "adapter": "claude-code", "status": "running",
            "phase": "running", "outcome": null, "exitCode": null, "evidence": [], "stoppedAt": null,
            "pid": agent.pid(), "cwd": outside.cwd, "model": "opus", "prompt": "fix\nit", "nativeId": native,
            "logPath": null, "tokens": {"in": 3, "out": 5, "cacheRead": 7, "cacheWrite": 0}, "cost": 0.5,
            "leftovers": "unknown", "exitStatus": null, "meta": {},
        }),
    );
    outside.registered(&agent, native, "idle");
    tells(&outside.shown(&agent), &json!({"status": "idle"}));

    // It can be looked at, and nothing else.
    tells(&outside.daemon.status(&id[..8]), &json!({"id": id, "origin": "discovered"}));
    for command in [
        &["stop", &id][..],
        &["logs", "-f", &id],
        &["wait", &id],
        &["resume", &id, "x"],
        &["extend", &id, "1h"],
    ] {
        let output = outside.daemon.run(command);
        assert_ne!(output.status.code(), Some(0), "{command:?}");
        assert!(stderr(&output).contains(&format!("agentctl adopt {}", &id[..8])), "{command:?}: {output:?}");
    }
    assert_eq!(outside.daemon.code(&["stop", "--all"]), Some(0));
    agent.is_alive();

    agent.end();
    assert_eq!(outside.listed(agent.pid()), None, "a zombie is no agent");
    agent.reap();
    let nothing: &[Value] = &[];
    assert_eq!(outside.daemon.events(), nothing, "nobody was told anything");
    assert_eq!(outside.daemon.code(&["status", &id]), Some(1));
}

fn host() -> agentctl::core::vocab::HostId {
    agentctl::sys::host_id().expect("a host")
}

#[test]
fn each_agent_is_known_by_its_own_traces() {
    let outside = Outside::new();
    let db = outside.opencode_db();
    outside.opencode_session(&db, "ses_other");
    let opencode = outside.start("opencode", &["run", "--session=ses_named", "-m", "x/y"], "", "");
    outside.opencode_session(&db, "ses_named");
    tells(
        &outside.shown(&opencode),
        &json!({
            "adapter": "opencode", "id": id_of_conversation("opencode", "ses_named").to_string(),
            "nativeId": "ses_named", "model": "p/m", "prompt": "fix it", "cost": 0.25,
            "tokens": {"in": 1800, "out": 100, "cacheRead": 200, "cacheWrite": 7},
        }),
    );

    let rollout = [
        json!({"type": "session_meta", "payload": {"id": ROLLOUT, "cwd": outside.cwd}}),
        json!({"type": "turn_context", "payload": {"model": "gpt-5"}}),
        json!({"type": "event_msg", "payload": {"type": "user_message", "message": "fix it"}}),
        json!({"type": "event_msg", "payload": {"type": "token_count",
            "info": {"total_token_usage": {"input_tokens": 10, "cached_input_tokens": 4, "output_tokens": 5}}}}),
    ];
    let lines: String = rollout.iter().map(|line| format!("{line}\n")).collect();
    let path =
        outside.store(&format!(".codex/sessions/2026/11/22/rollout-2026-11-22T09-{ROLLOUT}.jsonl"), &lines);
    let codex = outside.start("codex", &["exec", "-"], &format!("exec 5>>{}", path.display()), "");
    tells(
        &outside.shown(&codex),
        &json!({
            "adapter": "codex", "nativeId": ROLLOUT, "model": "gpt-5", "prompt": "fix it", "cost": null,
            "tokens": {"in": 6, "out": 5, "cacheRead": 4, "cacheWrite": 0},
        }),
    );

    let pi = outside.start("pi", &[], "", "");
    let said = json!({"type": "message", "id": "d", "message": {"role": "assistant", "model": "fake-2",
        "usage": {"input": 9, "output": 5, "cost": {"total": 0.25}}}});
    let begun = json!({"type": "session", "id": "01a2-aa", "cwd": outside.cwd});
    outside.store(&outside.pi_session("01a2-aa"), &format!("{begun}\n{said}\n"));
    tells(
        &outside.shown(&pi),
        &json!({"adapter": "pi", "nativeId": "01a2-aa", "model": "fake-2", "cost": 0.25}),
    );

    // Of these no store is known: the process tells what there is.
    let native = "44444444-4444-4444-8444-444444444444";
    for (program, adapter) in [("gemini", "gemini"), ("qwen", "qwen"), ("pi-rust", "pi-rust")] {
        let agent = outside.start(program, &["-y", "--session-id", native, "--model=m"], "", "");
        let id = if adapter == "pi-rust" { Value::Null } else { json!(native) };
        tells(
            &outside.shown(&agent),
            &json!({"adapter": adapter, "nativeId": id, "model": "m", "cwd": outside.cwd, "tokens": null}),
        );
    }
}

#[test]
fn what_two_could_be_is_guessed_for_neither() {
    let outside = Outside::new();
    let (first, second) = (outside.start("pi", &[], "", ""), outside.start("pi", &[], "", ""));
    let begun = json!({"type": "session", "id": "01a2-bb", "cwd": outside.cwd}).to_string();
    outside.store(&outside.pi_session("01a2-bb"), &begun);
    for agent in [&first, &second] {
        let own_id = id_of_process(&host(), agent.process.id()).to_string();
        tells(&outside.shown(agent), &json!({"id": own_id, "nativeId": null}));
    }
    // One of them names its own, so the other's is clear; and one conversation is never shown twice.
    drop(second);
    let named = outside.start("pi", &["--session", "01a2-bb"], "", "");
    tells(&outside.shown(&named), &json!({"nativeId": "01a2-bb"}));
    tells(&outside.shown(&first), &json!({"nativeId": null}));
    // Two that are its own, one after the other: which is the present one, only it knows.
    drop(named);
    tells(&outside.shown(&first), &json!({"nativeId": "01a2-bb"}));
    outside.store(&outside.pi_session("01a2-cc"), &begun);
    // Its own store has answered; that another's is broken does not bring back what was known of it.
    let _mute = outside.start("opencode", &[], "", "");
    outside.store(".local/share/opencode/opencode.db", "this is no database, however long it is looked at");
    assert!(outside.warnings().contains("not a database"));
    tells(&outside.shown(&first), &json!({"nativeId": null}));
}

#[test]
fn what_could_not_be_read_might_be_its_so_that_no_other_is_guessed() {
    let outside = Outside::new();
    let begun = json!({"type": "session", "id": "01a2-ee", "cwd": outside.cwd}).to_string();
    let other = outside.home.join(outside.pi_session("01a2-ff"));
    let as_a_pipe: fn(&Path) = |at| mknodat(CWD, at, FileType::Fifo, 0o600.into(), 0).expect("a fifo");
    let as_a_loop: fn(&Path) = |at| symlink(at, at).expect("a link to itself");
    let as_no_words: fn(&Path) = |at| fs::write(at, "{\"ty\n").expect("a file");
    for put in [as_a_pipe, as_a_loop, as_no_words] {
        let pi = outside.start("pi", &[], "", "");
        outside.store(&outside.pi_session("01a2-ee"), &begun);
        put(&other);
        let (records, warnings) = outside.list();
        assert!(warnings.contains("01a2-ff"), "{warnings}");
        let record = records.iter().find(|record| record["pid"] == pi.pid()).expect("it is listed");
        tells(record, &json!({"nativeId": null}));
        fs::remove_file(&other).expect("a file");
        tells(&outside.shown(&pi), &json!({"nativeId": "01a2-ee"}));
    }
}

#[test]
fn a_note_of_an_earlier_process_is_nobodys() {
    let outside = Outside::new();
    let agent = outside.start("claude", &[], "", "");
    let note = json!({"pid": agent.pid(), "sessionId": "s", "procStart": "1", "status": "idle"});
    outside.store(&format!(".claude/sessions/{}.json", agent.pid()), &note.to_string());
    tells(&outside.shown(&agent), &json!({"nativeId": null, "status": "running"}));
}

#[test]
fn a_wrapper_and_what_it_wraps_are_one() {
    let outside = Outside::new();
    let dir = outside.home.join("vendor");
    fs::create_dir(&dir).expect("a directory");
    let (pid, native) = (outside.home.join("native"), dir.join("codex"));
    // A program of that name, which knows its own file by another one that it has open.
    let rollout = outside.store(&format!(".codex/sessions/2026/11/22/rollout-x-{ROLLOUT}.jsonl"), "");
    let wrapped =
        format!("#!/bin/sh\nexec 5>>{}\necho $$ >{}\nread _ <\"$GATE\"\n", rollout.display(), pid.display());
    crate::support::play::program(&native, &wrapped);
    let gate = crate::support::play::Gate::new(&dir, "gate");
    let before = format!("GATE={}/gate /bin/sh {} \"$@\" & :", dir.display(), native.display());
    let agent = outside.start("codex", &["exec", "go on"], &before, "wait");
    let child = written_pid(pid.to_str().expect("a text"));
    assert_eq!(outside.listed(child), None, "it is part of its wrapper");
    tells(&outside.shown(&agent), &json!({"nativeId": ROLLOUT}));
    gate.open();
}

#[test]
fn what_runs_in_a_session_is_the_sessions() {
    let outside = Outside::new();
    let (gate, pid) = (outside.daemon.gate("gate"), outside.daemon.path("pid"));
    let path = outside.daemon.fake_agent("claude", &format!("echo $$ >{pid}; {}", gate.wait()));
    // Neither the mark in the environment nor the parent is what it was.
    let script = "env -u AGENTCTL_SESSION_ID setsid claude & wait";
    let id = outside.daemon.launch(&["--env", &path], script);
    let hidden = written_pid(&pid);
    let listed = outside.daemon.json(["list", "--json"]);
    let ids: Vec<_> = listed.as_array().expect("an array").iter().map(|record| &record["id"]).collect();
    assert!(ids.contains(&&json!(id)), "{listed:#}");
    assert_eq!(outside.listed(hidden), None);
    gate.open();
    outside.daemon.ended(&id);
}

#[test]
fn a_listing_that_asks_for_others_does_not_look_and_the_configuration_can_forbid_it() {
    let outside = Outside::new();
    let agent = outside.start("claude", &[], "", "");
    let among = |flags: &[&str]| {
        until("a look that is over in time", || {
            let output = outside.daemon.run(["list", "--json"].iter().chain(flags));
            let list: Vec<Value> = serde_json::from_slice(&output.stdout).expect("an array");
            let found = list.iter().any(|record| record["pid"] == agent.pid());
            Some(found).filter(|_| !is_late(&stderr(&output)))
        })
    };
    for (flags, expected) in [
        (&[][..], true),
        (&["-a"], true),
        (&["--status", "running"], true),
        (&["--status", "idle"], false),
        (&["--status", "stopped"], false),
        (&["--adapter", "claude-code"], true),
        (&["--adapter", "codex"], false),
        (&["--group", "g"], false),
        (&["--label", "k"], false),
    ] {
        assert_eq!(among(flags), expected, "{flags:?}");
    }
    let table = outside.daemon.run(["list"]);
    let table = String::from_utf8(table.stdout).expect("a text");
    assert!(table.contains("Origin") && table.contains("discovered"), "{table}");
    let (status, body) = outside.daemon.http("GET", "/v1/sessions?discovered=0", "", "");
    assert_eq!((status, body.as_str()), (200, "[]"));

    let config = json!({"metrics_addr": null, "durability": "normal", "discover": false}).to_string();
    fs::write(outside.daemon.home().join("config.json"), config).expect("a configuration");
    assert_eq!(outside.daemon.code(&["daemon", "reload"]), Some(0));
    assert!(!among(&[]), "it was forbidden");
}

/// Takes the database for itself, as soon as no daemon of another test looks at it.
fn lock(db: &Connection) {
    until("a lock", || db.execute_batch("PRAGMA journal_mode = DELETE; BEGIN EXCLUSIVE").ok());
}

#[test]
fn a_store_that_is_broken_locked_huge_or_mute_costs_a_warning_and_nothing_else() {
    let outside = Outside::new();
    let claude = outside.start("claude", &["--resume", ROLLOUT], "", "");
    let opencode = outside.start("opencode", &[], "", "");
    let note = outside.store(&format!(".claude/sessions/{}.json", claude.pid()), "{\"sess");
    let both_are_shown = || {
        tells(&outside.shown(&claude), &json!({"adapter": "claude-code"}));
        tells(&outside.shown(&opencode), &json!({"adapter": "opencode", "nativeId": null, "tokens": null}));
    };
    let says = |what: &str, path: &Path| {
        let said = outside.warnings();
        let line = said.lines().find(|line| line.contains(path.to_str().expect("a text")));
        assert!(line.is_some_and(|line| line.contains(what)), "{what}: {said}");
        both_are_shown();
    };
    says("it is not understood", &note);

    // A pipe that nobody writes to.
    fs::remove_file(&note).expect("a file");
    mknodat(CWD, &note, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a fifo");
    says("no regular file", &note);
    fs::remove_file(&note).expect("a fifo");
    symlink(&note, &note).expect("a link to itself");
    says("symbolic links", &note);
    fs::remove_file(&note).expect("a link");

    let transcript = outside.store(&outside.transcript(ROLLOUT), "no line of JSON\n");
    says("nothing in it is understood", &transcript);
    let user = json!({"type": "user", "message": {"content": "fix it"}}).to_string();
    fs::write(&transcript, format!("{user}\n")).expect("a transcript");
    let file = File::options().append(true).open(&transcript).expect("a transcript");
    file.set_len(3 << 30).expect("a hole of three gigabytes");
    says("larger than", &transcript);
    tells(&outside.shown(&claude), &json!({"prompt": "fix it", "tokens": null}));
    fs::remove_file(&transcript).expect("a transcript");

    let db = outside
        .store(".local/share/opencode/opencode.db", "this is no database, however long it is looked at");
    says("not a database", &db);
    fs::remove_file(&db).expect("a file");
    Connection::open(&db).expect("a database").execute_batch("CREATE TABLE other (id)").expect("a table");
    says("no such table", &db);
    fs::remove_file(&db).expect("a file");
    let locked = outside.opencode_db();
    lock(&locked);
    // What an earlier version kept in files is not taken for what the database may hold.
    let earlier = json!({"id": "ses_earlier", "directory": outside.cwd, "projectID": "global"}).to_string();
    let earlier = outside.store(".local/share/opencode/storage/session/global/ses_earlier.json", &earlier);
    says("locked", &db);
    fs::remove_file(earlier).expect("a session");
    drop(locked);
    fs::remove_file(&db).expect("a file");

    let healed = outside.opencode_db();
    outside.opencode_session(&healed, "ses_healed");
    assert_eq!(outside.warnings(), "");
    let record = outside.shown(&opencode);
    tells(&record, &json!({"nativeId": "ses_healed"}));
    // Its name is not forgotten when it is not to be had for a moment.
    lock(&healed);
    assert!(outside.warnings().contains("locked"));
    tells(&outside.shown(&opencode), &json!({"id": record["id"], "nativeId": "ses_healed"}));
}

#[test]
fn many_lists_at_once_share_their_looks() {
    let outside = Outside::new();
    let agent = outside.start("claude", &[], "", "");
    let mut lists: Vec<_> = (0..40)
        .map(|_| {
            let mut command = outside.daemon.command(["list", "--json"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs")
        })
        .collect();
    for list in &mut lists {
        until("a list", || list.try_wait().expect("our own child"));
    }
    for list in lists {
        let output = list.wait_with_output().expect("our own child");
        let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let records = list.as_array().expect("an array");
        let late = is_late(&stderr(&output));
        assert!(late || records.iter().any(|record| record["pid"] == agent.pid()), "{list}");
    }
}
