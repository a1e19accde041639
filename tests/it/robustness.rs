//! Bad input, bad clients and bad homes: a clear error each, the daemon alive, nothing lost.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::Duration;

use crate::support::daemon::{Daemon, home, refusal};
use crate::support::namespace::skipped;
use crate::support::play::{stderr, stdout};
use agentctl::sys::clock;
use serde_json::{Value, json};

#[test]
fn garbage_on_the_socket_is_a_bad_request() {
    let daemon = Daemon::new();
    for bytes in [
        &b"GARBAGE\r\n\r\n"[..],
        b"\0\x01\x02\x03\r\n\r\n",
        b"GET /v1/health SMTP/1\r\n\r\n",
        b"\x16\x03\x01\x02",
    ] {
        let answer = String::from_utf8_lossy(&daemon.raw(bytes)).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let head = format!("GET /v1/health HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let answer = String::from_utf8_lossy(&daemon.raw(head.as_bytes())).into_owned();
    assert!(answer.starts_with("HTTP/1.1 431") || answer.starts_with("HTTP/1.1 400"), "{answer}");
    daemon.is_well();
}

#[test]
fn an_old_client_gets_one_line_of_json_that_names_the_version() {
    let daemon = Daemon::new();
    let answer = String::from_utf8(daemon.raw(b"{\"id\":1,\"method\":\"list\"}\n")).expect("text");
    assert_eq!(answer.matches('\n').count(), 1, "{answer}");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let message = answer["error"]["message"].as_str().expect("a message");
    assert!(message.contains(env!("CARGO_PKG_VERSION")), "{message}");
}

#[test]
fn a_body_over_the_limit_is_413_and_costs_little() {
    let daemon = Daemon::new();
    let before = memory(daemon.pid());
    for head in ["Content-Length: 104857600", "Transfer-Encoding: chunked"] {
        let mut stream = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
        let head = format!("POST /v1/sessions HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("a head");
        let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
        // The daemon answers and hangs up before all 100 MB are written.
        for _ in 0..1_600 {
            if stream.write_all(&chunk).is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _hung_up = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    assert!(memory(daemon.pid()) < before + 80_000, "{before} kB before");
    daemon.is_well();
}

/// Peak memory in kB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn many_large_bodies_at_once_do_not_fill_the_memory() {
    let daemon = Daemon::new();
    let mut slow = Vec::new();
    for _ in 0..20 {
        let mut stream = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
        stream.set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
        let head = "POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("a head");
        // All but the last byte; what the daemon does not read is not its memory.
        let _not_read = stream.write_all(&vec![b' '; 29_999_999]);
        slow.push(stream);
    }
    let used = memory(daemon.pid());
    assert!(used < 350_000, "{used} kB for 20 bodies of 30 MB");
    daemon.is_well();
}

#[test]
fn a_slow_client_holds_up_nobody() {
    let daemon = Daemon::new();
    let mut slow = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
    slow.write_all(b"GET /v1/health HT").expect("half a head");
    let mut body = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
    body.write_all(b"POST /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        .expect("half a body");
    daemon.is_well();
    slow.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).expect("the daemon hangs up");
}

/// A table that grows later makes whoever opens the descriptor wait, and all launches behind it.
#[test]
fn the_table_of_descriptors_is_as_large_as_it_will_be_from_the_start() {
    let most = agentctl::sys::raise_nofile().now.min(16_384);
    let daemon = Daemon::new();
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("its status");
    let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("a size");
    let size: u64 = size.trim().parse().expect("a number");
    assert!(size >= most, "{size}, and not {most}");
}

#[test]
fn a_thousand_idle_connections_leave_room_for_work() {
    agentctl::sys::raise_nofile();
    let daemon = Daemon::new();
    let idle: Vec<_> = (0..1_000).map(|_| UnixStream::connect(daemon.socket()).expect("a place")).collect();
    daemon.is_well();
    drop(idle);
    daemon.is_well();
}

#[test]
fn idle_connections_over_the_limit_time_out_and_make_room() {
    agentctl::sys::raise_nofile();
    let daemon = Daemon::new();
    let begun = clock::now().mono;
    let mut idle: Vec<_> =
        (0..1_100).map(|_| UnixStream::connect(daemon.socket()).expect("a place")).collect();
    assert_eq!(daemon.http("GET", "/v1/health", "", "").0, 200);
    let waited = clock::now().mono.since(begun);
    assert!(waited < Duration::from_secs(25), "served after {waited:?}");
    let first = &mut idle[0];
    first.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    assert_eq!(first.read(&mut [0]).expect("hung up"), 0);
    daemon.is_well();
}

#[test]
fn ids_that_are_paths_find_nothing() {
    let daemon = Daemon::new();
    fs::write(daemon.home().join("stdout.log"), "secret").expect("a bait");
    for id in ["../../x", "..", "%2e%2e%2f", "..%2f..%2fetc%2fpasswd", "%00", "/", "", "x/../../y", "%ff%fe"]
    {
        for rest in ["", "/log", "/wait", "/messages"] {
            let (status, body) = daemon.http("GET", &format!("/v1/sessions/{id}{rest}"), "", "");
            let listed = status == 200 && body == "[]";
            assert!(matches!(status, 400 | 404 | 409) || listed, "{id}{rest}: {status} {body}");
            assert!(!body.contains("secret"));
        }
    }
    for id in ["../../x", "..", "a b", "x\ny", "%2e"] {
        for verb in ["status", "logs", "peek", "stop"] {
            let output = daemon.run([verb, id]);
            assert_eq!(output.status.code(), Some(1), "{verb} {id}: {output:?}");
        }
    }
    daemon.is_well();
}

#[test]
fn bodies_that_are_not_what_is_expected_are_400_and_say_why() {
    let daemon = Daemon::new();
    let bodies = [
        ("{", "EOF"),
        ("[]", "expected"),
        ("{\"adapter\":\"exec\",\"comand\":[]}", "unknown field `comand`"),
        ("{\"adapter\":\"exec\",\"command\":[],\"cwd\":\"/\"}", ""),
        ("{\"adapter\":\"exec\",\"command\":[\"a\\u0000b\"],\"cwd\":\"/\"}", ""),
        ("{\"adapter\":\"exec\",\"command\":[\"true\"],\"cwd\":\"here\"}", "not an absolute path"),
        ("{\"adapter\":\"exec\",\"command\":[\"true\"],\"cwd\":\"/\",\"env\":{\"A=B\":\"\"}}", "A=B"),
        ("{\"adapter\":\"exec\",\"command\":[\"true\"],\"cwd\":\"/\",\"name\":\"../x\"}", "../x"),
    ];
    for (body, why) in bodies {
        let (status, answer) = daemon.http("POST", "/v1/sessions", "", body);
        assert_eq!(status, 400, "{body}: {answer}");
        let problem: Value = serde_json::from_str(&answer).expect("a problem document");
        assert!(problem["detail"].as_str().expect("a detail").contains(why), "{body}: {answer}");
    }
    assert_eq!(daemon.json(["list", "-a", "--json"]), json!([]));
    daemon.is_well();
}

#[test]
fn unknown_paths_methods_and_parameters_are_problems() {
    let daemon = Daemon::new();
    for (method, path, expected) in [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("DELETE", "/v1/sessions", 404),
        ("GET", "/v1/events?since=soon", 400),
        ("GET", "/v1/events?since=99999", 410),
    ] {
        let (status, body) = daemon.http(method, path, "", "");
        let problem: Value = serde_json::from_str(&body).expect("a problem document");
        assert_eq!((status, &problem["status"]), (expected, &json!(expected)), "{method} {path}: {body}");
    }
}

#[test]
fn an_unknown_adapter_is_refused_with_the_nearest_name() {
    let daemon = Daemon::new();
    let output = daemon.run(["launch", "opencod", "-p", "x"]);
    assert_eq!((output.status.code(), stdout(&output)), (Some(1), String::new()));
    assert!(stderr(&output).starts_with("Unknown adapter: opencod; did you mean opencode?"), "{output:?}");
}

#[test]
fn a_broken_configuration_is_named_with_line_and_column() {
    let home = home();
    let config = home.path().join("config.json");
    for (text, expected) in [
        ("{\n  \"grace\": }", "is broken at line 2, column 12"),
        (
            "{\n  \"metrics_adr\": null\n}",
            "unknown key \"metrics_adr\" at line 2, column 3; did you mean \"metrics_addr\"?",
        ),
        ("{\"timeout\": \"soon\"}", "timeout: \"soon\" is no duration"),
        ("{\"backend\": \"magic\"}", "backend"),
        ("[]", "is broken at line 1"),
        ("", "is broken at line 1"),
    ] {
        fs::write(&config, text).expect("a configuration");
        let said = refusal(home.path());
        assert!(said.contains(expected) && said.contains("config.json"), "{text}: {said}");
    }
    fs::write(&config, [0xff, 0xfe, b'{']).expect("a configuration");
    assert!(refusal(home.path()).contains("config.json"));
}

#[test]
fn an_unreadable_configuration_stops_the_daemon() {
    let home = home();
    // Root reads everything but a directory.
    fs::create_dir(home.path().join("config.json")).expect("a directory");
    let said = refusal(home.path());
    assert!(said.contains("cannot read the configuration"), "{said}");
    assert!(!home.path().join("agentctl.sock").exists());
}

#[test]
fn a_home_that_others_can_enter_is_refused_with_the_remedy() {
    let home = home();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let said = refusal(home.path());
    assert!(said.contains(&format!("mode 755); run: chmod go= {}", home.path().display())), "{said}");
}

#[test]
fn a_home_of_another_user_is_refused() {
    if !rustix::process::geteuid().is_root() {
        skipped("a_home_of_another_user_is_refused", "only root can give a directory away");
        return;
    }
    let home = home();
    chown(home.path(), Some(65_534), None).expect("root gives it away");
    let said = refusal(home.path());
    assert!(said.contains("belongs to uid 65534, not to you (uid 0)"), "{said}");
}

#[test]
fn a_socket_path_that_is_too_long_is_named_with_its_length() {
    let home = home();
    let long = home.path().join("d".repeat(100));
    let said = refusal(&long);
    let length = long.join("agentctl.sock").as_os_str().len();
    assert!(said.contains(&format!("is {length} bytes long, and the kernel takes 107")), "{said}");
    let output =
        Command::new(env!("CARGO_BIN_EXE_agentctl")).arg("list").env("AGENTCTL_HOME", &long).output();
    let output = output.expect("the command line runs");
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(stderr(&output).contains("107"), "{output:?}");
}

#[test]
fn a_file_in_place_of_the_home_is_an_error_that_names_it() {
    let home = home();
    let file = home.path().join("file");
    fs::write(&file, "").expect("a file");
    assert!(refusal(&file).contains(file.to_str().expect("a text")));
}

#[test]
fn a_socket_that_answers_is_left_to_whoever_listens_there() {
    let mut daemon = Daemon::new();
    daemon.terminate();
    let socket = daemon.socket();
    let other = UnixListener::bind(&socket).expect("a socket");
    let said = refusal(daemon.home());
    assert!(said.contains(&format!("another daemon answers at {}", socket.display())), "{said}");
    UnixStream::connect(&socket).expect("it is still the other's");
    drop(other);
    // Now it is a file that nobody listens at.
    daemon.start();
    daemon.is_well();
}

#[test]
fn a_second_daemon_is_refused_with_the_number_of_the_first() {
    let daemon = Daemon::new();
    let said = refusal(daemon.home());
    assert!(
        said.contains(&format!("already runs for {} (PID {})", daemon.home().display(), daemon.pid())),
        "{said}"
    );
    daemon.is_well();
}

#[test]
fn a_reader_that_stops_reading_does_not_hold_up_the_daemon() {
    let daemon = Daemon::new();
    let id = daemon.launch(&[], "head -c 20000000 /dev/zero");
    daemon.ended(&id);
    let mut lazy = UnixStream::connect(daemon.socket()).expect("a daemon that listens");
    lazy.write_all(format!("GET /v1/sessions/{id}/log HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
        .expect("a request");
    daemon.is_well();
    lazy.shutdown(Shutdown::Both).expect("a closed connection");
    let (status, body) = daemon.http("GET", &format!("/v1/sessions/{id}"), "", "");
    assert_eq!(status, 200, "{body}");
}
