//! The formats against their golden files, and against anything else that may lie in a directory.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::os::unix::fs::symlink;
use std::thread;

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::core::vocab::{
    GroupUsage, HostId, Leftovers, Mono, PidHandle, ProcessId, Usage, WaitStatus, Wall,
};

fn id() -> RunId {
    RunId { session: "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11".parse().expect("an id"), run: 2 }
}

fn host() -> HostId {
    HostId {
        machine: "8f0c2a3be5d94c0e9d0b7a1f2c3d4e5f".to_owned(),
        boot: "5f0b6f2c-3f5e-4c7e-9a56-0f3c7b9f1d20".to_owned(),
        pid_ns: 4_026_531_836,
    }
}

fn process(pid: u32, handle: Option<u64>, start_ticks: u64) -> ProcessId {
    ProcessId { pid, handle: handle.map(|bytes| PidHandle { kind: 254, bytes }), start_ticks }
}

fn launch() -> LaunchOrder {
    LaunchOrder {
        v: Version,
        session: id().session,
        run: 2,
        argv: ["claude", "-p", "fix the build"].map(str::to_owned).to_vec(),
        cwd: "/home/ann/src".to_owned(),
        umask: 0o022,
        nofile_soft: Some(1024),
        stdin: Some("prompt.2".to_owned()),
        input: None,
        env: "env.2".to_owned(),
        stdout: "stdout.log".to_owned(),
        stderr: "stderr.log".to_owned(),
        leftovers: Leftovers::Keep,
        grace_ms: 10_000,
        cgroup: Some("/sys/fs/cgroup/agentctl/0b0f7a52.2".to_owned()),
        account: None,
        late_ms: 5_000,
        log_bytes_max: Some(1_000_000_000),
    }
}

fn exit() -> ExitFile {
    ExitFile {
        v: Version,
        session: id().session,
        run: 2,
        host: host(),
        leader: Some(process(4711, Some(81_986), 88_002)),
        status: Some(WaitStatus::exited(143)),
        launch_error: None,
        ended: Stamp { mono_ns: Mono(881_234_567_890_123), wall_us: Wall(1_767_225_600_123_456) },
        usage: Usage { cpu_us: 1_500_000, max_rss_bytes: 104_857_600, group: None },
        cause: Cause::Deadline,
        leftovers: Some(3),
    }
}

fn golden(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/session_dir/v1");
    fs::read(dir.join(name)).expect("a golden file")
}

/// The golden file is what we write, reads as `expected`, and still does with a field from the future in it.
#[track_caller]
fn check<T: Format + Debug + PartialEq>(name: &str, expected: &T) {
    let bytes = golden(name);
    assert_eq!(decode::<T>(Path::new(name), &bytes).expect("readable"), *expected);
    assert_eq!(String::from_utf8(encode(expected).expect("writable")), String::from_utf8(bytes.clone()));

    let mut newer: Value = serde_json::from_slice(&bytes).expect("JSON");
    newer["a field of next year"] = Value::from(1);
    let newer = format!("{newer}\n");
    assert_eq!(decode::<T>(Path::new(name), newer.as_bytes()).expect("readable"), *expected);
}

#[test]
fn every_format_is_as_its_golden_file_shows() {
    let RunId { session, run } = id();
    check("launch.json", &launch());
    let scope = "/sys/fs/cgroup/user.slice/agentctl.slice/agentctl-0b0f7a52.2.scope";
    let (cgroup, account) = (Some(format!("{scope}/session")), Some(scope.to_owned()));
    check("launch_in_scope.json", &LaunchOrder { cgroup, account, ..launch() });
    let talked_to = LaunchOrder { stdin: None, input: Some("input.2".to_owned()), ..launch() };
    check("launch_input.json", &talked_to);
    check("exit.json", &exit());
    let shim = process(4710, Some(81_985), 88_001);
    check("shim.json", &ShimIdentity { v: Version, session, run, host: host(), process: shim });
    let leader = process(4711, None, 88_002);
    check("leader.json", &LeaderIdentity { v: Version, session, run, host: host(), process: leader });
    let error = LaunchError {
        stage: Stage::Cwd,
        errno: 2,
        message: "/gone: No such file or directory (os error 2)".to_owned(),
    };
    check(
        "exit_launch_error.json",
        &ExitFile {
            leader: None,
            status: None,
            launch_error: Some(error),
            usage: Usage::default(),
            cause: Cause::Exit,
            leftovers: Some(0),
            ..exit()
        },
    );
    let gone = Stamp { mono_ns: Mono(881_234_567_890_999), wall_us: Wall(1_767_225_600_124_456) };
    let usage = Usage { cpu_us: 2_500_000, max_rss_bytes: 209_715_200, group: None };
    check("tree.json", &TreeFile { v: Version, session, run, gone, usage, killed: 3 });
    let group = GroupUsage { cpu_us: Some(1_600_000), memory_peak_bytes: Some(4 << 30), oom_kills: Some(1) };
    let usage = Usage { group: Some(group), ..exit().usage };
    check("exit_oom.json", &ExitFile { status: Some(WaitStatus::killed(9)), usage, ..exit() });
    let group = GroupUsage { cpu_us: Some(1_700_000), ..GroupUsage::default() };
    let usage = Usage { group: Some(group), ..usage };
    check("tree_cpu_alone.json", &TreeFile { v: Version, session, run, gone, usage, killed: 3 });
    let deadline = Deadline { v: Version, mono_ns: Some(Mono(881_300_000_000_000)), boot: host().boot };
    check("deadline.json", &deadline);
    check("deadline_none.json", &Deadline { mono_ns: None, ..deadline });
}

#[test]
fn an_order_without_lateness_has_the_default() {
    let order: LaunchOrder = decode(Path::new("x"), &golden("launch_without_late.json")).expect("readable");
    assert_eq!((order.late_ms, order.nofile_soft, order.stdin), (5_000, None, None));
}

#[test]
fn an_order_without_a_limit_keeps_all_of_the_logs() {
    let order: LaunchOrder =
        decode(Path::new("x"), &golden("launch_without_log_max.json")).expect("readable");
    assert_eq!(order, LaunchOrder { log_bytes_max: None, ..launch() });
}

#[test]
fn words_of_newer_shims_do_not_hide_the_status() {
    let text = String::from_utf8(golden("exit.json")).expect("text").replace("\"deadline\"", "\"comet\"");
    let exit = decode_exit(Path::new("x"), text.as_bytes()).expect("readable");
    assert_eq!((exit.cause, exit.status), (Cause::Unknown, Some(WaitStatus::exited(143))));
    let text =
        String::from_utf8(golden("exit_launch_error.json")).expect("text").replace("\"cwd\"", "\"aura\"");
    let exit = decode_exit(Path::new("x"), text.as_bytes()).expect("readable");
    assert_eq!(exit.launch_error.map(|error| error.stage), Some(Stage::Unknown));
}

#[test]
fn debug_text_hides_the_arguments() {
    let text = format!("{:?}", launch());
    assert!(text.contains("claude") && !text.contains("fix the build"), "{text}");
}

#[test]
fn another_generation_is_told_from_damage() {
    let path = Path::new("x");
    let error = decode_exit(path, b"{\"v\":2,\"all\":\"else\"}\n").expect_err("unknown version");
    assert_eq!(error.to_string(), "x: format version 2, known is 1");
    for damaged in [&b""[..], b"\n", b"{}\n", b"null\n", b"{\"v\":1}\n", &[0; 4096]] {
        let error = decode_exit(path, damaged).expect_err("damaged");
        assert!(matches!(error, FileError::Malformed { .. }), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_an_exit_file_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = decode_exit(Path::new("x"), &bytes);
    }

    #[test]
    fn a_damaged_exit_file_is_an_error_or_a_whole_one(at in 0_usize..600, byte: u8, cut in 0_usize..600) {
        let whole = golden("exit.json");
        let mut changed = whole.clone();
        if let Some(place) = changed.get_mut(at) { *place = byte; }
        let _ = decode_exit(Path::new("x"), &changed);
        if cut < whole.len() {
            prop_assert!(decode_exit(Path::new("x"), &whole[..cut]).is_err());
        }
    }
}

/// A session directory in a fresh home.
fn files(home: &Path) -> RunFiles {
    create_private_dir(&home.join("sessions")).expect("sessions/");
    let files = RunFiles::in_home(home, id());
    create_private_dir(files.dir()).expect("session directory");
    files
}

#[test]
fn what_is_no_plain_file_is_refused_without_waiting() {
    let home = tempfile::tempdir().expect("a directory");
    let files = files(home.path());
    let path = files.dir().join("deadline");
    let error = || files.read_deadline().expect_err("refused");

    assert!(matches!(error(), FileError::Missing { .. }));
    let mode = rustix::fs::Mode::from_raw_mode(FILE_MODE);
    rustix::fs::mknodat(CWD, &path, rustix::fs::FileType::Fifo, mode, 0).expect("a fifo");
    assert!(matches!(error(), FileError::Malformed { .. }));
    fs::remove_file(&path).expect("removed");
    symlink("/dev/zero", &path).expect("a link");
    assert!(matches!(error(), FileError::Unreadable { .. }));
    fs::remove_file(&path).expect("removed");
    File::create(&path).and_then(|file| file.set_len(1 << 30)).expect("a huge file");
    assert!(error().to_string().ends_with("at most 65536 are expected"));
}

#[test]
fn a_file_of_another_run_is_no_file_of_this_one() {
    let home = tempfile::tempdir().expect("a directory");
    let files = files(home.path());
    let other = LaunchOrder { run: 3, ..launch() };
    files.write_launch(&other).expect("written");
    let error = files.read_launch().expect_err("of another run");
    assert!(error.to_string().ends_with("speaks of run 0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11.3"), "{error}");
}

#[test]
fn files_are_private_and_leave_no_temporary_names() {
    let home = tempfile::tempdir().expect("a directory");
    let files = files(home.path());
    files.write_launch(&launch()).expect("written");
    assert_eq!(files.read_launch().expect("readable"), launch());
    let names: Vec<_> = fs::read_dir(files.dir()).expect("a directory").flatten().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(names[0].metadata().expect("metadata").permissions().mode() & 0o7777, 0o600);
    assert_eq!(fs::metadata(files.dir()).expect("metadata").permissions().mode() & 0o7777, 0o700);
}

#[test]
fn what_killed_writers_left_half_written_is_swept_and_nothing_else() {
    let home = tempfile::tempdir().expect("a directory");
    let files = files(home.path());
    files.write_launch(&launch()).expect("written");
    let own = format!(".env.2.{}.0.tmp", process::id());
    let of_daemons = [".env.2.4000001.0.tmp", ".created.2.json.4000001.7.tmp", ".deadline.4000001.2.tmp"];
    let of_shim = ".leader.2.json.4000001.0.tmp";
    let others =
        [".leader.3.json.4000001.2.tmp", ".env.3.4000001.2.tmp", ".env.2.tmp", ".hidden", own.as_str()];
    for name in of_daemons.iter().chain([&of_shim]).chain(&others) {
        fs::write(files.dir().join(name), "half").expect("a file");
    }
    let mut expected: BTreeSet<String> = others.iter().map(|name| (*name).to_owned()).collect();
    expected.extend([of_shim.to_owned(), "launch.2.json".to_owned()]);
    let names = || -> BTreeSet<String> {
        let entries = fs::read_dir(files.dir()).expect("a directory").flatten();
        entries.map(|entry| entry.file_name().into_string().expect("a text")).collect()
    };
    files.sweep_half_written(false).expect("swept");
    assert_eq!(names(), expected);
    files.sweep_half_written(true).expect("swept");
    expected.remove(of_shim);
    assert_eq!(names(), expected);
}

#[test]
fn one_launch_is_decided_once() {
    let home = tempfile::tempdir().expect("a directory");
    let files = files(home.path());
    assert!(!files.claim().expect("asked"), "there is nothing to claim yet");
    for _ in 0..50 {
        files.write_launch(&launch()).expect("written");
        let (claimed, abandoned) = thread::scope(|scope| {
            let claim = scope.spawn(|| files.claim().expect("asked"));
            let abandon = scope.spawn(|| files.abandon().expect("asked"));
            (claim.join().expect("no panic"), abandon.join().expect("no panic"))
        });
        assert_ne!(claimed, abandoned);
        let decided = if claimed { "claimed.2.json" } else { "abandoned.2.json" };
        fs::remove_file(files.dir().join(decided)).expect("the file of the winner");
    }
}

#[test]
fn a_run_has_one_owner_and_its_lock_tells_whether_that_lives() {
    let home = tempfile::tempdir().expect("a directory");
    let files = files(home.path());
    let RunId { session, run } = id();
    let identity = ShimIdentity { v: Version, session, run, host: host(), process: process(1, None, 1) };
    assert_eq!(files.shim_lock().expect("asked"), ShimLock::NoFile);
    let lock = files.own(&identity).expect("asked").expect("the first one owns");
    assert!(files.own(&identity).expect("asked").is_none());
    assert_eq!(files.shim_lock().expect("asked"), ShimLock::Held);
    assert_eq!(files.read_shim().expect("readable"), identity);
    drop(lock);
    assert_eq!(files.shim_lock().expect("asked"), ShimLock::Free);
    assert!(files.own(&identity).expect("asked").is_none(), "a dead shim's run is not taken again");
    files.disown().expect("removed");
    assert_eq!(files.shim_lock().expect("asked"), ShimLock::NoFile);
}

#[test]
fn exit_file_names_have_one_spelling() {
    let name = exit_file_name(id());
    assert_eq!(name, "0b0f7a52-6f6e-4a3c-9d53-1f1c7a1f1c11.2.json");
    assert_eq!(parse_exit_file_name(&name), Some(id()));
    for other in [
        "",
        ".json",
        "x.2.json",
        &name.replace(".2", ".02"),
        &name.replace(".2", ".+2"),
        &format!("{name}.rejected"),
    ] {
        assert_eq!(parse_exit_file_name(other), None, "{other}");
    }
}

#[test]
fn messages_are_known_by_their_packet() {
    for message in [ShimMessage::Leader, ShimMessage::Running, ShimMessage::Failed] {
        assert_eq!(ShimMessage::parse(message.as_bytes()), Some(message));
    }
    assert_eq!(ShimMessage::parse(b"leaders"), None);
}
