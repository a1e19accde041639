//! Session cgroups, on hosts where we may make them; elsewhere these tests say so and pass.

use std::fs;
use std::path::PathBuf;

use agentctl::core::vocab::{RunId, SessionId};
use agentctl::sys::cgroup::{self, CgroupMode};
use agentctl::sys::tree::Tree;
use agentctl::sys::{BackendChoice, run};

use super::{Reporter, Sleeper, next};

/// The cgroup of a run that nobody else has; killed and removed when dropped.
struct Group {
    base: PathBuf,
    run: RunId,
    path: PathBuf,
}

impl Group {
    #[expect(clippy::print_stderr, reason = "a skipped test says so")]
    fn make() -> Option<Self> {
        let base = match cgroup::mode() {
            CgroupMode::Own { base, why: _ } => base,
            CgroupMode::None { why } => {
                eprintln!("skipped: {why}");
                return None;
            }
        };
        let session: SessionId = uuid::Uuid::new_v4().to_string().parse().expect("an id");
        let run = RunId { session, run: 1 };
        let path = cgroup::make(&base, run).expect("made");
        Some(Self { base, run, path })
    }

    fn enter(&self, below: &str, process: &Sleeper) {
        let dir = self.path.join(below);
        fs::create_dir_all(&dir).expect("made");
        fs::write(dir.join("cgroup.procs"), process.0.id().to_string()).expect("entered");
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _best_effort = cgroup::kill(&self.path);
        let _best_effort = cgroup::remove(&self.path);
    }
}

fn numbers(tree: Tree) -> Vec<u32> {
    match tree {
        Tree::Known(members) => members.iter().map(agentctl::sys::ProcessRef::pid).collect(),
        Tree::Unknown(why) => panic!("{why}"),
    }
}

#[test]
fn members_are_found_at_any_depth_and_killed_in_one_go() {
    let Some(group) = Group::make() else { return };
    assert_eq!(cgroup::make(&group.base, group.run).expect("found made"), group.path);
    assert!(!cgroup::populated(&group.path).expect("readable"));
    assert!(numbers(cgroup::members(&group.path)).is_empty());

    let (mut direct, mut nested) = (Sleeper::start(), Sleeper::start());
    group.enter("", &direct);
    group.enter("made/by the agent", &nested);
    assert!(cgroup::populated(&group.path).expect("readable"));
    assert_eq!(numbers(cgroup::members(&group.path)), [direct.0.id(), nested.0.id()]);
    assert!(cgroup::remove(&group.path).is_err(), "somebody is in it");

    cgroup::kill(&group.path).expect("killed");
    direct.0.wait().expect("reaped");
    nested.0.wait().expect("reaped");
    assert!(!cgroup::populated(&group.path).expect("readable"));
    cgroup::remove(&group.path).expect("removed");
    cgroup::remove(&group.path).expect("removed already");
    assert!(cgroup::populated(&group.path).is_err(), "a cgroup that is not there is not empty");
    assert!(matches!(cgroup::members(&group.path), Tree::Unknown(_)));
}

fn the_last_exit_is_noticed(choice: BackendChoice) {
    let Some(group) = Group::make() else { return };
    run(choice, async |sys| {
        let (mut one, mut other) = (Sleeper::start(), Sleeper::start());
        group.enter("", &one);
        group.enter("below", &other);
        let (reporter, mut emptied) = Reporter::new();
        sys.on_cgroup_empty(&group.path, reporter.report());
        one.kill();
        one.0.wait().expect("reaped");
        assert!(sys.heartbeat().await);
        assert!(emptied.try_recv().is_err(), "one is left");
        other.kill();
        next("the cgroup being empty", &mut emptied).await;

        sys.on_cgroup_empty(&group.path, reporter.report());
        next("an empty cgroup", &mut emptied).await;
    })
    .expect("the backend starts");
}

#[test]
fn the_last_exit_is_noticed_on_uring() {
    the_last_exit_is_noticed(BackendChoice::Uring);
}

#[test]
fn the_last_exit_is_noticed_on_epoll() {
    the_last_exit_is_noticed(BackendChoice::Epoll);
}

#[test]
fn the_last_exit_is_noticed_on_portable() {
    the_last_exit_is_noticed(BackendChoice::Portable);
}
