//! Finding the processes of a session without a cgroup.

use std::fs;
use std::process::{Command, Stdio};

use agentctl::sys::tree::marks::{Ask, Mark, Marks};
use agentctl::sys::tree::{Tree, descendants};
use agentctl::sys::{BackendChoice, ProcessRef, become_subreaper, clock, own_children, raise_nofile, run};

use super::{PATIENCE, Reporter, Sleeper, next};

/// A shell that runs `script` and then waits for the end of its input.
fn shell(script: &str) -> Sleeper {
    let script = format!("{script}\nread end");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null());
    Sleeper(command.spawn().expect("sh starts"))
}

fn known(tree: Tree) -> Vec<ProcessRef> {
    match tree {
        Tree::Known(members) => members,
        Tree::Unknown(why) => panic!("{why}"),
    }
}

/// Asked beside somebody else, whose answer is none of ours.
fn marked(mark: &Mark, not_before: u64) -> Tree {
    let [ask, other] =
        [mark.clone(), Mark::Session("nobody".to_owned())].map(|mark| Ask { mark, not_before });
    run(BackendChoice::Epoll, async |_| {
        let marks = Marks::default();
        tokio::join!(marks.find(other), marks.find(ask)).1
    })
    .expect("the backend starts")
}

/// Reads again until `enough`: the processes are on their way.
fn until(what: &str, read: impl Fn() -> Tree, enough: impl Fn(&[ProcessRef]) -> bool) -> Vec<ProcessRef> {
    let started = clock::now().mono;
    while clock::now().mono.since(started) < PATIENCE {
        match read() {
            Tree::Known(members) if enough(&members) => return members,
            Tree::Known(_) | Tree::Unknown(_) => std::thread::yield_now(),
        }
    }
    panic!("not within {PATIENCE:?}: {what}");
}

fn argument_of(process: &ProcessRef) -> String {
    let line = fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap_or_default();
    String::from_utf8_lossy(&line).trim_end_matches('\0').rsplit('\0').next().unwrap_or_default().to_owned()
}

/// Kills what a test has left and waits for its end.
fn end(processes: &[ProcessRef]) {
    run(BackendChoice::Epoll, async |sys| {
        for process in processes {
            let (reporter, mut ended) = Reporter::new();
            process.signal(9).expect("signalled");
            sys.on_end(process, reporter.report());
            next("the end", &mut ended).await;
        }
    })
    .expect("the backend starts");
}

#[test]
fn a_tree_is_read_to_its_leaves_and_zombies_are_no_part_of_it() {
    let mut child = shell("true & sh -c 'sleep 600.1 & sleep 600.2 & wait' & sleep 600.3 &");
    let root = ProcessRef::of_child(child.0.id()).expect("held");
    let names = |members: &[ProcessRef]| {
        let mut names: Vec<String> = members.iter().map(argument_of).collect();
        names.sort();
        names
    };
    let expected = ["600.1", "600.2", "600.3", "sleep 600.1 & sleep 600.2 & wait"];
    let members = until("four descendants", || descendants(&root), |members| names(members) == expected);
    end(&members);
    assert!(known(descendants(&root)).is_empty(), "only zombies are left");

    child.kill();
    child.0.wait().expect("reaped");
    assert!(matches!(descendants(&root), Tree::Unknown(_)), "what a process leaves behind is not below it");
}

#[test]
fn a_subreaper_keeps_those_who_leave_session_and_parent() {
    become_subreaper().expect("it is allowed");
    let root = ProcessRef::of_child(std::process::id()).expect("ourselves");
    // Forks twice and leaves its session; the shells in between end at once.
    let unique = format!("600.{}", std::process::id());
    let script = format!("(setsid sleep {unique} &)");
    let status = Command::new("sh").args(["-c", &script]).status().expect("sh runs");
    assert!(status.success());
    let is_ours = |process: &ProcessRef| argument_of(process) == unique;
    let members = until("the daemonised one", || descendants(&root), |members| members.iter().any(is_ours));
    let orphan = members.into_iter().find(is_ours).expect("just seen");

    assert!(own_children().expect("listed").iter().any(|child| child.id() == orphan.id()));
    end(std::slice::from_ref(&orphan));
    assert!(
        own_children().expect("listed").iter().any(|child| child.id() == orphan.id()),
        "a zombie is a child"
    );
    assert_eq!(orphan.reap().expect("adopted").and_then(|status| status.signal()), Some(9));
    assert!(own_children().expect("listed").iter().all(|child| child.id() != orphan.id()));
}

#[test]
fn processes_are_found_by_the_mark_in_their_environment() {
    let id = format!("test-{}", std::process::id());
    let (session, hook) = (Mark::Session(id.clone()), Mark::Hook(id.clone()));
    let mut command = Command::new("sh");
    let script = format!(
        "env -u AGENTCTL_SESSION_ID sleep 600.4 & AGENTCTL_HOOK_ID={id} sleep 600.6 & sleep 600.5 & read end"
    );
    command.args(["-c", &script]);
    command.env("AGENTCTL_SESSION_ID", &id).stdin(Stdio::piped());
    let mut child = Sleeper(command.spawn().expect("sh starts"));
    let start = ProcessRef::of_child(child.0.id()).expect("held").id().start_ticks;

    let has_exec = |members: &[ProcessRef]| members.iter().any(|process| argument_of(process) == "600.5");
    let members = until(
        "two marked ones",
        || marked(&session, start),
        |members| members.len() == 2 && has_exec(members),
    );
    assert!(members.iter().any(|process| process.pid() == child.0.id()));
    let of_hook = until("the hook's", || marked(&hook, start), |members| members.len() == 1);
    assert_eq!(argument_of(&of_hook[0]), "600.6", "a hook carries its session's mark and is none of it");
    let unmarked = known(descendants(&ProcessRef::of_child(child.0.id()).expect("held")));
    end(&members);
    end(&unmarked);
    child.kill();
    child.0.wait().expect("reaped");
    assert!(known(marked(&session, start)).is_empty());
}

#[test]
fn the_descriptor_limit_is_raised_to_the_hard_one() {
    let first = raise_nofile();
    assert!(first.now >= first.before);
    let second = raise_nofile();
    assert_eq!((second.before, second.now), (first.now, first.now));
}
