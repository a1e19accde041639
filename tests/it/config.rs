//! `config show` and `config check`: with a daemon and without, good files and bad ones.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::daemon::{Daemon, home};
use crate::support::play::{stderr, stdout};

/// The command line in a home where no daemon runs.
fn run(home: &Path, arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agentctl"));
    command.arg("config").args(arguments).env("AGENTCTL_HOME", home).env_remove("AGENTCTL_SOCKET");
    for variable in ["AGENTCTL_SESSION_ID", "AGENTCTL_WEBHOOK_URL", "AGENTCTL_WEBHOOK_SECRET"] {
        command.env_remove(variable);
    }
    command.envs(env.iter().copied()).output().expect("the command line runs")
}

fn write(home: &Path, text: &str) {
    fs::write(home.join("config.json"), text).expect("a configuration");
}

fn row<'a>(rows: &'a Value, key: &str) -> &'a Value {
    rows.as_array().and_then(|rows| rows.iter().find(|row| row["key"] == key)).expect("a row for each key")
}

#[test]
fn without_file_and_daemon_the_defaults_are_shown_on_one_screen() {
    let dir = home();
    let output = run(dir.path(), &["show"], &[]);
    let expected = format!(
        "{}/config.json (there is none: the defaults hold)\n\n\
         Key                   From     Value\n\
         --------------------  -------  --------------\n\
         adapter               default  claude-code\n\
         model                 default  none\n\
         cwd                   default  none\n\
         timeout               default  3h\n\
         grace                 default  10s\n\
         leftovers             default  kill\n\
         linger                default  none\n\
         stuck                 default  none\n\
         webhook_url           default  none\n\
         webhook_secret        default  not set\n\
         webhooks              default  none\n\
         notify_allow_private  default  false\n\
         metrics_addr          default  127.0.0.1:9200\n\
         durability            default  full\n\
         backend               default  auto\n\
         retention_days        default  7 days\n\
         disk_max              default  5.0 GB\n\
         log_max               default  1.0 GB\n\
         max_sessions          default  10000 sessions\n\
         adapter_max_sessions  default  none\n\
         discover              default  true\n\
         adapters              default  none\n",
        dir.path().display()
    );
    assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(0), expected, String::new()));
    assert!(!dir.path().join("agentctl.sock").exists(), "no daemon is started");
}

#[test]
fn what_is_set_is_shown_with_its_origin_and_no_secret() {
    let dir = home();
    write(
        dir.path(),
        r#"{"timeout": "90m", "webhook_url": "https://a.example/?token=s3cret", "webhook_secret": "s3cret",
            "webhooks": [{"name": "ci", "url": "https://ci.example/s3cret", "secret_env": "NOT_HERE"}]}"#,
    );
    let output = run(dir.path(), &["show", "--json"], &[("AGENTCTL_WEBHOOK_SECRET", "s3cret-too")]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
    assert!(!stdout(&output).contains("s3cret"), "{output:?}");
    let rows: Value = serde_json::from_slice(&output.stdout).expect("pure JSON");
    let timeout = json!({"key": "timeout", "value": 5400, "unit": "seconds", "origin": "file", "running": null,
        "atRestart": false});
    assert_eq!(row(&rows, "timeout"), &timeout);
    let secret = row(&rows, "webhook_secret");
    assert_eq!((&secret["value"], &secret["origin"]), (&json!("set"), &json!("environment")));
    assert_eq!(
        row(&rows, "webhooks")["value"][0]["secret"],
        "set",
        "the daemon has it, by its own environment"
    );
    assert_eq!(row(&rows, "durability")["atRestart"], true);
    let table = stdout(&run(dir.path(), &["show"], &[]));
    assert!(!table.contains("s3cret") && table.lines().all(|line| line.chars().count() <= 80), "{table}");
}

#[test]
fn a_file_that_cannot_be_used_is_refused_with_its_place_and_the_key_that_was_meant() {
    let dir = home();
    let table = [
        (
            "{\n  \"webhok_url\": \"x\"\n}",
            "\"webhok_url\" at line 2, column 3; did you mean \"webhook_url\"?",
        ),
        (
            "{\"webhooks\": [\n  {\"name\": \"a\", \"urll\": \"http://x\"}]}",
            "\"urll\" at line 2, column 17; did you mean \"url\"?",
        ),
        ("{\n\"grace\": \"10s\",}", "broken at line 2, column 16"),
        ("{\n \"log_max\": \"5MB\"}", "at line 2, column 2: log_max: \"5MB\" is less than 64"),
        ("{\"max_sessions\": \"many\"}", "broken at line 1, column 23: invalid type"),
    ];
    for (text, expected) in table {
        let file = dir.path().join("other.json");
        fs::write(&file, text).expect("a file");
        let named = file.to_str().expect("a text");
        let output = run(dir.path(), &["check", named], &[]);
        assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()), "{text}");
        let said = stderr(&output);
        assert!(said.contains(expected) && said.contains(named), "{said}");
        write(dir.path(), text);
        for verb in ["check", "show"] {
            assert_eq!(run(dir.path(), &[verb], &[]).status.code(), Some(1), "{verb} {text}");
        }
    }
    let bad_env = run(dir.path(), &["check", "/dev/null"], &[]);
    assert!(stderr(&bad_env).contains("/dev/null is broken at line 1"), "{bad_env:?}");
    let missing = run(dir.path(), &["check", "/no/such"], &[]);
    assert_eq!((missing.status.code(), stderr(&missing)), (Some(1), "there is no file /no/such\n".into()));
    write(dir.path(), "{}");
    let url = run(dir.path(), &["check"], &[("AGENTCTL_WEBHOOK_URL", "ftp://x")]);
    assert!(stderr(&url).contains("AGENTCTL_WEBHOOK_URL: this is no http"), "{url:?}");
}

#[test]
fn a_file_that_can_be_used_is_said_to_be() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/config.example.json");
    let dir = home();
    let output = run(dir.path(), &["check", example], &[]);
    let said = format!("{example} can be used (13 keys are not defaults)\n");
    assert_eq!((output.status.code(), stdout(&output), stderr(&output)), (Some(0), said, String::new()));
    let none = run(dir.path(), &["check"], &[]);
    assert!(none.status.success() && stdout(&none).contains("does not exist: the defaults hold"), "{none:?}");
}

#[test]
fn what_a_running_daemon_has_otherwise_is_said_with_what_brings_it() {
    let daemon = Daemon::builder().env("AGENTCTL_WEBHOOK_URL", "http://127.0.0.1:1/").start();
    let show = || daemon.run(["config", "show"]);
    let by_env = "agentctl: the running daemon has webhook_url http://127.0.0.1:1, from its environment\n";
    assert_eq!(stderr(&show()), by_env);
    write(daemon.home(), r#"{"metrics_addr": null, "discover": false, "durability": "full", "grace": "3s"}"#);
    let expected = format!(
        "agentctl: the running daemon has grace 10s; run: agentctl daemon reload\n{by_env}\
         agentctl: the running daemon has durability normal; run: agentctl daemon restart\n"
    );
    assert_eq!(stderr(&show()), expected);
    let rows = daemon.json(["config", "show", "--json"]);
    let grace = row(&rows, "grace");
    assert_eq!((&grace["value"], &grace["running"]), (&json!(3), &json!(10)));
    assert_eq!(daemon.code(&["daemon", "reload"]), Some(0));
    assert!(!stderr(&show()).contains("grace"), "{:?}", show());
    // Asked through its socket alone, the daemon says which file is its own.
    let mut command = daemon.command(["config", "show"]);
    let output = command.env_remove("AGENTCTL_HOME").env("AGENTCTL_SOCKET", daemon.socket()).output();
    let text = stdout(&output.expect("the command line runs"));
    assert!(text.starts_with(daemon.home().to_str().expect("a text")), "{text}");
}
