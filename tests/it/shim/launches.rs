//! What a leader finds when it starts, and what is said when it cannot.

use std::fmt::Write as _;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use agentctl::core::vocab::WaitStatus;
use agentctl::sys::shim_file::{ShimProgram, let_go};
use agentctl::wire::session_dir::{LaunchOrder, Stage};

use super::{Session, Shim, found, until};
use crate::support::play::program;

#[track_caller]
fn check_failure(session: Session, stage: Stage, errno: i32, message: &str) {
    let mut shim = session.start();
    let (exit, tree) = shim.finish();
    let error = exit.launch_error.expect("a launch error");
    assert_eq!((error.stage, error.errno), (stage, errno), "{}", error.message);
    assert!(error.message.contains(message), "{}", error.message);
    assert_eq!((exit.status, exit.leftovers, tree.killed), (None, Some(0), 0));
    assert!(
        !shim.files().dir().join("env.1").exists() || stage == Stage::Order,
        "the environment stays behind"
    );
}

#[test]
fn launches_fail_with_step_reason_and_object() {
    let in_home = |name: &str, content: &str, mode: u32| {
        let session = Session::new(&[&format!("./{name}")]);
        let path = session.home.path().join(name);
        program(&path, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        session
    };
    let (not_found, denied) = (libc::ENOENT, libc::EACCES);
    check_failure(
        Session::new(&["no-such-program"]),
        Stage::Program,
        not_found,
        "no-such-program: No such file",
    );
    check_failure(Session::new(&[]), Stage::Program, not_found, "no program");
    check_failure(in_home("plain", "text", 0o600), Stage::Program, denied, "./plain: Permission denied");
    let orphan = in_home("orphan", "#!/no/such/interpreter\n", 0o700);
    check_failure(orphan, Stage::Program, not_found, "./orphan: No such file");

    let elsewhere = |order: &mut LaunchOrder| order.cwd = "/no/such/place".to_owned();
    let session = Session::new(&["no-such-program"]).order(elsewhere);
    check_failure(session, Stage::Cwd, not_found, "/no/such/place: No such file");
    let session = Session::script("true").order(|order| order.cwd = "/etc/passwd".to_owned());
    check_failure(session, Stage::Cwd, libc::ENOTDIR, "/etc/passwd");
    let session = Session::script("true").order(|order| order.stdin = Some("prompt.1".to_owned()));
    check_failure(session, Stage::Stdin, not_found, "prompt.1");
    let session = Session::script("true").order(|order| order.stderr = "..".to_owned());
    check_failure(session, Stage::Log, libc::EISDIR, "..");
    let session = Session::script("true").order(|order| order.cgroup = Some("/no/such/group".to_owned()));
    check_failure(session, Stage::Cgroup, not_found, "/no/such/group");
    let session = Session::new(&["true", &"x".repeat(200_000)]);
    check_failure(session, Stage::Exec, libc::E2BIG, "true: Argument list too long");
}

#[test]
fn a_damaged_order_is_a_failed_launch() {
    let session = Session::script("true").write();
    fs::write(session.files.dir().join("launch.1.json"), "{\"v\":1}\n").expect("written");
    let child = session.command().spawn().expect("the shim starts");
    let (exit, _) = Shim { session, child }.finish();
    let error = exit.launch_error.expect("a launch error");
    assert_eq!((error.stage, exit.leader), (Stage::Order, None));
    assert!(error.message.contains("missing field"), "{}", error.message);
}

#[test]
fn the_leader_gets_what_the_order_says_and_nothing_else() {
    let script = "env | sort; pwd; umask; ulimit -Sn; ls /proc/self/fd; \
                  grep -E '^(SigBlk|SigIgn)' /proc/self/status; cat /proc/self/oom_score_adj";
    let session = Session::script(script)
        .env(b"TOKEN=a = b\nc")
        .env(b"no variable")
        .env(b"=nameless")
        .order(|order| (order.umask, order.nofile_soft) = (0o027, Some(777)))
        .write();
    // A parent that leaks everything it can.
    let leak = "exec 7</dev/null 9</; trap '' HUP INT QUIT PIPE CHLD USR1 32 33 64; umask 0; ulimit -Sn 512; \
                { echo -5 >/proc/self/oom_score_adj; } 2>/dev/null; LEAK=1 exec \"$@\"";
    let shim = session.command();
    let child = Command::new("/bin/bash")
        .args(["-c", leak, "bash"])
        .arg(shim.get_program())
        .args(shim.get_args())
        .stdin(Stdio::null())
        .spawn()
        .expect("bash starts");
    let mut shim = Shim { session, child };
    shim.finish();
    let mut expected = String::from("PATH=/usr/local/bin:/usr/bin:/bin\n");
    let home = fs::canonicalize(shim.session.home.path()).expect("a home");
    writeln!(expected, "PWD={}\nTOKEN=a = b\nc\n{0}\n0027\n777", home.display()).expect("a text");
    // 3 is ls reading the directory.
    expected.push_str("0\n1\n2\n3\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n0\n");
    // The shell sorts after its own fashion and adds its own variables.
    let mut log: Vec<_> = shim.log().lines().map(str::to_owned).collect();
    log.retain(|line| !line.starts_with("_=") && !line.starts_with("OLDPWD=") && !line.starts_with("SHLVL="));
    let mut expected: Vec<_> = expected.lines().map(str::to_owned).collect();
    log.sort();
    expected.sort();
    assert_eq!(log, expected);
}

/// A file of the shim's with such a number would be written to by whoever writes there.
#[test]
fn a_shim_without_the_standard_descriptors_puts_nothing_of_its_own_there() {
    let session = Session::gated("echo waits; read x <gate; exit 3").write();
    let shim = session.command();
    let child = Command::new("/bin/sh")
        .args(["-c", "exec \"$0\" \"$@\" <&- >&- 2>&-"])
        .arg(shim.get_program())
        .args(shim.get_args())
        .spawn()
        .expect("sh starts");
    let mut shim = Shim { session, child };
    shim.heard("waits");
    for number in 0..=2 {
        let file = fs::read_link(format!("/proc/{}/fd/{number}", shim.child.id()));
        assert_eq!(file.expect("an open file"), Path::new("/dev/null"), "{number}");
    }
    shim.open("gate");
    assert_eq!(shim.finish().0.status, Some(WaitStatus::exited(3)));
}

#[test]
fn a_file_limit_above_the_hard_one_is_capped() {
    let session =
        Session::script("ulimit -Sn; ulimit -Hn").order(|order| order.nofile_soft = Some(u64::MAX - 1));
    let mut shim = session.start();
    shim.finish();
    let log = shim.log();
    let (soft, hard) = log.trim().split_once('\n').expect("two limits");
    assert_eq!(soft, hard);
}

#[test]
fn the_program_is_searched_in_the_path_of_the_session() {
    let session = Session::new(&["tool"]);
    let dir = session.home.path().join("tools");
    fs::create_dir(&dir).expect("a directory");
    program(&dir.join("tool"), "#!/bin/sh\nexit 5\n");
    let path = format!("PATH={}:/bin", dir.display());
    assert_eq!(session.env(path.as_bytes()).start().finish().0.status.and_then(|s| s.code()), Some(5));
}

#[test]
fn the_prompt_is_standard_input_and_no_secret_stays_on_disk() {
    let session =
        Session::gated("cat; read x <gate; cat").order(|order| order.stdin = Some("prompt.1".to_owned()));
    fs::write(session.files.dir().join("prompt.1"), "do the thing").expect("a prompt");
    let mut shim = session.start();
    shim.heard("do the thing");
    let dir = shim.files().dir().to_owned();
    until("clean disk", || (!dir.join("prompt.1").exists() && !dir.join("env.1").exists()).then_some(()));
    shim.open("gate");
    shim.finish();
    assert_eq!(shim.log(), "do the thing");
}

#[test]
fn logs_are_appended_to_and_everything_is_private() {
    let session = Session::script("echo two; echo oops >&2");
    fs::write(session.files.dir().join("stdout.log"), "one\n").expect("a log");
    let mut shim = session.start();
    shim.finish();
    assert_eq!(shim.log(), "one\ntwo\n");
    for name in ["stdout.log", "stderr.log", "shim.1.json", "claimed.1.json", "leader.1.json", "tree.1.json"]
    {
        let metadata = fs::metadata(shim.files().dir().join(name)).expect(name);
        assert_eq!(metadata.mode() & 0o7777, 0o600, "{name}");
    }
    let exit = fs::metadata(shim.files().exit_path()).expect("an exit file");
    assert_eq!(exit.mode() & 0o7777, 0o600);
    let strays = fs::read_dir(shim.files().dir()).expect("a directory").flatten();
    assert_eq!(strays.filter(|entry| entry.file_name().to_string_lossy().contains("tmp")).count(), 0);
}

/// A daemon that has a place for it to find holds its shim until then, and a daemon that is gone holds nobody.
#[test]
fn a_held_shim_takes_its_launch_when_it_is_told_or_its_daemon_is_gone() {
    let program = ShimProgram::open(Path::new(env!("CARGO_BIN_EXE_agentctl-shim"))).expect("a shim");
    for told in [true, false] {
        let session = Session::script("exit 3");
        // One that is not held finds no order, and ends.
        let (shim, socket) = program.spawn(session.files.dir(), 1, true).expect("started");
        let session = session.write();
        if told {
            let_go(socket.as_fd());
        } else {
            drop(socket);
        }
        let exit = until("the exit file", || found(session.files.read_exit()));
        assert_eq!(exit.status, Some(WaitStatus::exited(3)), "told: {told}");
        until("the end of the shim", || shim.reap().expect("our child"));
    }
    let session = Session::script("exit 3");
    let (shim, socket) = program.spawn(session.files.dir(), 1, true).expect("started");
    drop(socket);
    until("the end of the shim", || shim.reap().expect("our child"));
    assert!(found(session.files.read_exit()).is_none(), "there was nothing to take");
}
