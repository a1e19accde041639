//! Launches that wait, and launches that are asked for together: who goes when, and what nobody is left without.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fuse::{Evidence, LaunchError};
use super::locks::{Claim, IfTaken, LockRequest};
use super::record::{Record, RequestKey};
use super::refusal::Refusal;
use super::session::{Origin, Phase, Spec};
use super::vocab::{HostId, Mono, Now, RunId, SessionId, Wall};
use super::{Effect, Event, JournalHealth, Reply, ReplyTo, Request, Settings, Step, Supervisor};

fn at(seconds: u64) -> Now {
    Now {
        wall: Wall(1_700_000_000_000_000 + seconds.cast_signed() * 1_000_000),
        mono: Mono(seconds * 1_000_000_000),
    }
}

fn host() -> HostId {
    HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 }
}

/// So many sessions at once, and so many of `exec`.
fn supervisor(max_sessions: usize, of_exec: usize) -> Supervisor {
    let mut core = Supervisor::new(Settings {
        retention: Duration::from_secs(1_000),
        adapter_max_sessions: BTreeMap::from([("exec".to_owned(), of_exec)]),
        max_sessions,
        ..Settings::of_test(host())
    });
    core.step(at(0), Event::Recovered);
    core
}

fn id(number: u64) -> SessionId {
    SessionId(uuid::Uuid::from_u128(u128::from(number)))
}

fn run(number: u64) -> RunId {
    RunId { session: id(number), run: 1 }
}

/// A launch in a directory.
fn launch(number: u64, cwd: &str, if_taken: IfTaken) -> (ReplyTo, Request) {
    let spec = Spec::exec(vec!["true".into()], cwd.to_owned(), Duration::from_secs(1));
    let request = Request::Launch {
        session: id(number),
        host: host(),
        origin: Origin::Launched,
        spec: Box::new(Spec { claim: Claim { dir: None, if_taken }, ..spec }),
        key: Some(RequestKey { key: number.to_string().into(), digest: "d".into() }),
    };
    (ReplyTo(number), request)
}

fn ask(core: &mut Supervisor, (to, request): (ReplyTo, Request)) -> Step {
    let step = core.step(at(1), Event::Request(to, request));
    core.step(at(1), Event::Durable(core.appended()));
    step
}

fn fails(core: &mut Supervisor, number: u64) {
    let failed = Evidence::LaunchFailed(LaunchError::Setup("x".into()));
    core.step(at(2), Event::Evidence(run(number), failed));
}

fn phase(core: &Supervisor, number: u64) -> Phase {
    core.session(id(number)).expect("it is recorded").run.phase()
}

fn refused(step: &Step) -> Vec<&Refusal> {
    let replies = step.effects.iter().filter_map(|effect| {
        let Effect::Reply(_, Reply::Refused(refusal)) = effect else { return None };
        Some(refusal)
    });
    replies.collect()
}

#[test]
fn one_without_a_directory_is_called_up_when_a_place_comes() {
    let mut core = supervisor(1, 10);
    ask(&mut core, launch(1, "/w", IfTaken::Refuse));
    ask(&mut core, launch(2, "", IfTaken::Queue));
    ask(&mut core, launch(3, "/v", IfTaken::Queue));
    assert_eq!((phase(&core, 2), phase(&core, 3)), (Phase::Queued, Phase::Queued));
    fails(&mut core, 1);
    assert_eq!((phase(&core, 2), phase(&core, 3)), (Phase::Launching, Phase::Queued));
    fails(&mut core, 2);
    assert_eq!(phase(&core, 3), Phase::Launching);
}

#[test]
fn the_key_of_what_is_forgotten_is_free() {
    let mut core = supervisor(10, 10);
    let asked = |core: &mut Supervisor, number| {
        let (to, Request::Launch { session, host, origin, spec, .. }) = launch(number, "/w", IfTaken::Refuse)
        else {
            unreachable!("a launch")
        };
        let key = Some(RequestKey { key: "k".into(), digest: number.to_string().into() });
        ask(core, (to, Request::Launch { session, host, origin, spec, key }))
    };
    asked(&mut core, 1);
    fails(&mut core, 1);
    core.step(at(2), Event::Durable(core.appended()));
    assert_eq!(refused(&asked(&mut core, 2)), [&Refusal::KeyReused]);
    ask(&mut core, (ReplyTo(9), Request::Prune { older_than: None, dry_run: false }));
    assert!(core.session(id(1)).is_none());
    assert_eq!(refused(&asked(&mut core, 2)), Vec::<&Refusal>::new());
    assert_eq!(phase(&core, 2), Phase::Launching);
}

#[test]
fn a_stop_of_what_waits_is_answered_on_a_full_disk_too() {
    let mut core = supervisor(1, 10);
    ask(&mut core, launch(1, "/w", IfTaken::Refuse));
    ask(&mut core, launch(2, "/v", IfTaken::Queue));
    core.step(at(2), Event::Journal(JournalHealth::Failing("full".into())));
    let stop = |core: &mut Supervisor, to| {
        core.step(at(3), Event::Request(ReplyTo(to), Request::Stop { session: id(2), force: false }))
    };
    // The second comes when nothing is left to end.
    for to in [7, 8] {
        let step = stop(&mut core, to);
        assert!(!step.effects.iter().any(|effect| matches!(effect, Effect::Reply(..))), "{step:?}");
    }
    assert_eq!(phase(&core, 2), Phase::Ended);
    let late = core.step(at(30), Event::Timer);
    let not_yet = |to| Effect::Reply(ReplyTo(to), Reply::NotYetStopped(id(2)));
    assert_eq!(late.effects, [not_yet(7), not_yet(8)]);
    assert!(late.effects.iter().all(Effect::is_exempt));
}

#[test]
fn of_launches_together_all_begin_or_wait_as_asked_or_none_does() {
    use IfTaken::{Force, Queue, Refuse};
    let shared = Refusal::Shared("/a".into());
    let of_exec = Refusal::TooManyOf { adapter: "exec".into(), most: 3 };
    let no_room = |asked| Refusal::NoRoom { asked, live: 1, max: 4 };
    // One runs in /w, one waits for it, and /locked is locked.
    for (launches, refusal) in [
        (vec![("/a", Refuse), ("/b", Refuse)], None),
        (vec![("/a", Refuse), ("/w", Refuse)], Some(Refusal::InUse(id(1)))),
        (
            vec![("/a", Refuse), ("/locked", Refuse)],
            Some(Refusal::Locked { by: "alice".into(), reason: None }),
        ),
        (vec![("/a", Refuse), ("/a", Refuse)], Some(shared)),
        (vec![("/a", Force), ("/a", Force)], None),
        (vec![("/a", Force), ("/w", Force), ("/w", Force)], Some(of_exec.clone())),
        (vec![("/a", Refuse), ("/b", Refuse), ("/c", Refuse)], Some(of_exec)),
        (vec![("/a", Refuse), ("/b", Refuse), ("/c", Refuse), ("/d", Refuse)], Some(no_room(4))),
        (vec![("/a", Queue), ("/a", Queue), ("/w", Queue), ("/b", Queue), ("/c", Queue)], None),
    ] {
        let mut core = supervisor(4, 3);
        ask(&mut core, launch(1, "/w", Refuse));
        ask(&mut core, launch(2, "/w", Queue));
        let directory = super::directory::Directory { path: "/locked".into(), id: None };
        let lock = LockRequest::Acquire { directory, by: "alice".into(), reason: None };
        core.step(at(1), Event::Request(ReplyTo(3), Request::Lock(lock)));
        let all = || (10..).zip(&launches).map(|(number, (cwd, how))| launch(number, cwd, *how)).collect();
        let step = core.step(at(2), Event::Together(all()));
        let created = step.records.iter().filter(|record| matches!(record, Record::Created { .. })).count();
        let expected = vec![&refusal; launches.len()];
        let expected: Vec<&Refusal> = expected.into_iter().flatten().collect();
        assert_eq!(refused(&step), expected, "{launches:?}");
        assert_eq!(created, if refusal.is_none() { launches.len() } else { 0 }, "{launches:?}");
        // Asked again, those that are there are theirs, whatever room is left.
        let again = core.step(at(3), Event::Together(all()));
        let anew = again.records.iter().any(|record| matches!(record, Record::Created { .. }));
        assert!(!anew && refused(&again).is_empty() == refusal.is_none(), "{launches:?}");
    }
}
