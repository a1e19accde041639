//! Holding, finding, signalling and reaping single processes.

use std::process::{Command, Stdio};

use agentctl::core::vocab::{ProcessId, WaitStatus};
use agentctl::sys::{BackendChoice, Found, ProcessRef, Sent, features, run};

use super::{Reporter, Sleeper, next};

/// A child that exits with `code` when its input ends, which is when it is dropped or waited for.
fn exits_with(code: u8) -> Sleeper {
    let script = format!("read end; exit {code}");
    Sleeper(Command::new("sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().expect("sh starts"))
}

/// Lets it end and waits until it is a zombie.
fn let_end(child: &mut Sleeper, process: &ProcessRef) {
    drop(child.0.stdin.take());
    run(BackendChoice::Epoll, async |sys| {
        let (reporter, mut ended) = Reporter::new();
        sys.on_end(process, reporter.report());
        next("the end", &mut ended).await;
    })
    .expect("the backend starts");
}

#[test]
fn the_status_is_read_from_zombie_parent_and_kernel() {
    let mut child = exits_with(42);
    let process = ProcessRef::of_child(child.0.id()).expect("held");
    assert_eq!(process.zombie_status(), None, "it lives");
    assert_eq!(process.reap().expect("asked"), None, "it lives");
    let_end(&mut child, &process);

    assert_eq!(process.zombie_status(), Some(WaitStatus::exited(42)));
    assert_eq!(process.exit_status(), None, "not reaped yet");
    assert_eq!(process.reap().expect("asked"), Some(WaitStatus::exited(42)));
    assert_eq!(process.reap().expect("asked"), None, "there is only one status");
    assert_eq!(process.zombie_status(), None, "the number is free");
    if features::probe().info_exit {
        assert_eq!(process.exit_status(), Some(WaitStatus::exited(42)));
    }
}

#[test]
fn zero_is_read_from_a_zombie_only_where_it_hides_nothing() {
    let mut child = exits_with(0);
    let process = ProcessRef::of_child(child.0.id()).expect("held");
    assert_eq!(process.zombie_status(), None, "it lives");
    let_end(&mut child, &process);
    let shown = std::fs::read(format!("/proc/{}/io", process.pid())).is_ok();
    assert_eq!(process.zombie_status(), shown.then_some(WaitStatus::exited(0)));
    if rustix::process::geteuid().is_root() {
        // To another user the same zombie shows 0 whatever its status was, and nothing is believed.
        let mut failed = exits_with(7);
        let process = ProcessRef::of_child(failed.0.id()).expect("held");
        let_end(&mut failed, &process);
        let stat = Command::new("setpriv")
            .args(["--reuid=65534", "--clear-groups", "cat"])
            .args([format!("/proc/{}/stat", process.pid()), format!("/proc/{}/io", process.pid())])
            .output()
            .expect("setpriv runs");
        let shown = String::from_utf8_lossy(&stat.stdout);
        assert!(shown.trim_end().ends_with(" 0"), "hidden: {shown}");
        assert!(!stat.status.success(), "and io says so");
        assert_eq!(process.zombie_status(), Some(WaitStatus::exited(7)));
    }
    assert_eq!(process.reap().expect("asked"), Some(WaitStatus::exited(0)));
}

fn check_found(process: &ProcessRef, child: &mut Sleeper, find: fn(&ProcessId) -> Found) {
    let Found::Alive(found) = find(process.id()) else { panic!("it lives") };
    assert_eq!(found.id(), process.id());
    let_end(child, process);
    let Found::Ended(found) = find(process.id()) else { panic!("it is a zombie") };
    assert_eq!(found.has_ended(), Some(true));
    assert_eq!(found.reap().expect("asked"), Some(WaitStatus::exited(7)));
    assert!(matches!(find(process.id()), Found::Gone));
}

#[test]
fn a_process_is_found_by_its_handle() {
    let mut child = exits_with(7);
    let process = ProcessRef::of_child(child.0.id()).expect("held");
    check_found(&process, &mut child, ProcessRef::find);
}

#[test]
fn a_process_is_found_without_a_handle() {
    let mut child = exits_with(7);
    let process = ProcessRef::of_child(child.0.id()).expect("held");
    check_found(&process, &mut child, |id| ProcessRef::find(&ProcessId { handle: None, ..*id }));
}

#[test]
fn a_process_is_found_by_number() {
    let mut child = exits_with(7);
    let process = ProcessRef::by_number(child.0.id()).expect("held");
    assert_eq!(process.zombie_status(), None, "it lives");
    check_found(&process, &mut child, ProcessRef::find_portable);
}

#[test]
fn another_process_is_never_taken_for_the_one_meant() {
    let (first, second) = (Sleeper::start(), Sleeper::start());
    let ended = *ProcessRef::of_child(first.0.id()).expect("held").id();
    let living = ProcessRef::of_child(second.0.id()).expect("held");
    drop(first);
    // As if the number of the ended one had been given to the living one.
    let by_handle = ProcessId { pid: living.pid(), ..ended };
    let by_start = ProcessId { handle: None, start_ticks: living.id().start_ticks - 1, ..by_handle };
    if ended.handle.is_some() {
        assert!(matches!(ProcessRef::find(&by_handle), Found::Gone));
    }
    assert!(matches!(ProcessRef::find(&by_start), Found::Gone));
    assert!(matches!(ProcessRef::find_portable(&by_start), Found::Gone));
    assert_eq!(living.has_ended(), Some(false));
}

#[test]
fn a_pidfd_that_was_handed_over_is_checked() {
    let mut child = exits_with(3);
    let other = Sleeper::start();
    let process = ProcessRef::of_child(child.0.id()).expect("held");
    let handed_over = || process.pidfd().expect("on Linux").try_clone_to_owned().expect("copied");
    let other_id = *ProcessRef::of_child(other.0.id()).expect("held").id();
    assert!(ProcessRef::known(other_id, handed_over()).is_err());
    assert!(ProcessRef::from_pidfd(other_id.pid, handed_over()).is_err());

    let_end(&mut child, &process);
    process.reap().expect("reaped");
    if process.id().handle.is_some() {
        let again = ProcessRef::known(*process.id(), handed_over()).expect("known after the reap");
        assert_eq!(again.has_ended(), Some(true));
        assert_eq!(again.exit_status(), process.exit_status());
    }
}

#[test]
fn signals_reach_the_process_or_say_that_it_is_gone() {
    let mut sleeper = Sleeper::start();
    let process = ProcessRef::of_child(sleeper.0.id()).expect("held");
    let by_number = ProcessRef::by_number(sleeper.0.id()).expect("held");
    for held in [&process, &by_number] {
        assert_eq!(held.signal(19).expect("stopped"), Sent::Sent);
        assert_eq!(held.signal(18).expect("continued"), Sent::Sent);
        assert!(held.signal(0).is_err(), "the null signal is a question, not a signal");
        assert!(held.signal(65).is_err());
    }
    // The second real-time signal, which only the kernel's own call can send.
    assert_eq!(process.signal(35).expect("ended"), Sent::Sent);
    let status = sleeper.0.wait().expect("reaped");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(35));
    assert_eq!(process.signal(9).expect("answered"), Sent::Gone);
    assert_eq!(by_number.signal(9).expect("answered"), Sent::Gone);
}

#[test]
fn this_host_is_described_by_trying() {
    let found = features::probe();
    assert!(found.pidfd, "{found:?}");
    // Each of these came with or after the one before it.
    assert!(found.reap_notice || !found.pidfs_handles, "{found:?}");
    assert!(found.pidfs_handles || !found.info_exit, "{found:?}");
    assert_eq!(
        ProcessRef::of_child(std::process::id()).expect("ourselves").id().handle.is_some(),
        found.pidfs_handles
    );
}

/// The pid of a session leader stays in use while anybody is in its session, and with it the handle.
#[test]
fn a_reaped_session_leader_is_gone_though_its_session_lives_on() {
    let mut leader = Command::new("setsid")
        .args(["sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!; read -r gate"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("setsid starts");
    let mut line = String::new();
    let stdout = leader.stdout.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("the child's number");
    let rest = ProcessRef::by_number(line.trim().parse().expect("a number")).expect("the child");
    let id = *ProcessRef::of_child(leader.id()).expect("our child").id();
    assert!(matches!(ProcessRef::find(&id), Found::Alive(_)));
    drop(leader.stdin.take());
    leader.wait().expect("reaped");
    let found = ProcessRef::find(&id);
    rest.signal(9).expect("the child is signalled");
    assert!(matches!(found, Found::Gone), "{found:?}");
}
