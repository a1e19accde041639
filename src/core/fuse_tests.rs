//! The fuse over every order of its evidence, exhaustively.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for a few of many variants")]

use super::agent::AgentReport;
use super::fuse::{
    Decision, Evidence, ExitHow, ExitReport, Fuse, LaunchError, LeaderSeen, Need, Outcome, Prong, Rejection,
    ReportSeen, StopCause, StopMark, Taken,
};
use super::vocab::{GroupUsage, Mono, Now, ProcessId, Usage, WaitStatus, Wall};

const LEADER: ProcessId = ProcessId { pid: 7, handle: None, start_ticks: 70 };

fn at(ms: u64) -> Now {
    Now { wall: Wall(ms as i64 * 1000), mono: Mono(ms * 1_000_000) }
}

fn exit_file(status: WaitStatus, seen: LeaderSeen) -> Evidence {
    let report = ExitReport {
        leader: Some(LEADER),
        how: ExitHow::Status(status),
        ended: at(100),
        boot: "b1".into(),
        usage: Usage::default(),
        by_deadline: false,
        leftovers: None,
    };
    Evidence::ExitFile(report, seen)
}

/// Calls `check` with every order of every subset of `items`.
fn every_order(items: &[Evidence], check: &mut impl FnMut(&[&Evidence])) {
    fn grow<'a>(
        items: &'a [Evidence],
        used: &mut [bool],
        order: &mut Vec<&'a Evidence>,
        check: &mut impl FnMut(&[&Evidence]),
    ) {
        check(order);
        for (at, item) in items.iter().enumerate() {
            if !used[at] {
                used[at] = true;
                order.push(item);
                grow(items, used, order, check);
                order.pop();
                used[at] = false;
            }
        }
    }
    grow(items, &mut vec![false; items.len()], &mut Vec::new(), check);
}

fn items() -> Vec<Evidence> {
    vec![
        Evidence::Started(LEADER),
        Evidence::LeaderEnded,
        exit_file(WaitStatus::exited(42), LeaderSeen::Reaped),
        exit_file(WaitStatus::exited(0), LeaderSeen::Alive),
        Evidence::ShimGone,
        Evidence::Rescanned,
        Evidence::KernelStatus(None, Prong::PidfdInfo),
        Evidence::TreeGone(None),
    ]
}

#[test]
fn no_order_of_evidence_makes_an_early_a_wrong_or_an_invented_verdict() {
    let stops = [None, Some(50), Some(100), Some(150)];
    for stop in stops.map(|ms| ms.map(|ms| StopMark { cause: StopCause::Requested, at: at(ms).mono })) {
        let mut orders = 0_u32;
        every_order(&items(), &mut |order| {
            orders += 1;
            let mut fuse = Fuse { stop, ..Fuse::new(ReportSeen::NotWanted) };
            for evidence in order {
                fuse.take(evidence, at(200));
            }
            check(&fuse, order, stop);
        });
        assert_eq!(orders, 109_601, "all orders of all subsets of eight pieces of evidence");
    }
}

fn check(fuse: &Fuse, order: &[&Evidence], stop: Option<StopMark>) {
    let position = |wanted: &Evidence| order.iter().position(|seen| *seen == wanted);
    let has = |wanted: &Evidence| position(wanted).is_some();
    let true_file = has(&exit_file(WaitStatus::exited(42), LeaderSeen::Reaped));
    let ended = has(&Evidence::LeaderEnded) || true_file;
    let silent = has(&Evidence::KernelStatus(None, Prong::PidfdInfo));
    let rescanned_after =
        position(&Evidence::ShimGone) < position(&Evidence::Rescanned) && has(&Evidence::ShimGone);
    let never_led = position(&Evidence::Rescanned) < first(order).or(Some(usize::MAX)) && rescanned_after;
    match fuse.decide() {
        Decision::Wait(need) => {
            let complete = true_file
                && (stop.is_none_or(|stop| stop.at > at(100).mono) || has(&Evidence::TreeGone(None)));
            assert!(!complete || never_led, "all is known, and still it waits for {need:?}: {order:?}");
        }
        Decision::End(end) => match end.outcome {
            Outcome::LaunchFailed => assert!(never_led, "{order:?}"),
            Outcome::Failed => {
                assert!(true_file, "a status out of nowhere: {order:?}");
                assert_eq!(end.status, Some(WaitStatus::exited(42)));
                assert!(stop.is_none_or(|stop| stop.at > at(100).mono), "the stop came first");
            }
            Outcome::Cancelled => {
                let stop = stop.expect("cancelled without a stop");
                assert!(ended && has(&Evidence::TreeGone(None)), "{order:?}");
                assert!(!true_file || stop.at <= at(100).mono, "the end came first: {order:?}");
                assert!(true_file || (silent && rescanned_after), "{order:?}");
            }
            Outcome::Lost => {
                assert!(!true_file && ended && silent && rescanned_after, "{order:?}");
                assert_eq!(end.status, None, "unknown is never 0");
            }
            Outcome::Completed | Outcome::TimedOut => panic!("{:?} from {order:?}", end.outcome),
        },
    }
}

/// The first piece that shows that there is, or was, a leader.
fn first(order: &[&Evidence]) -> Option<usize> {
    order.iter().position(|seen| match seen {
        Evidence::Started(_) | Evidence::LeaderEnded => true,
        Evidence::ExitFile(_, seen) => *seen == LeaderSeen::Reaped,
        _ => false,
    })
}

#[test]
fn an_exit_file_counts_only_against_a_reaped_leader_that_it_names() {
    let mut fuse = Fuse::new(ReportSeen::NotWanted);
    fuse.take(&Evidence::Started(LEADER), at(1));
    for seen in [LeaderSeen::Alive, LeaderSeen::Zombie] {
        let taken = fuse.take(&exit_file(WaitStatus::exited(0), seen), at(2));
        assert!(matches!(taken, Taken::Rejected(_)), "{taken:?}");
    }
    let Evidence::ExitFile(mut report, seen) = exit_file(WaitStatus::exited(0), LeaderSeen::Reaped) else {
        unreachable!("made above")
    };
    report.leader = Some(ProcessId { start_ticks: 71, ..LEADER });
    assert!(matches!(fuse.take(&Evidence::ExitFile(report.clone(), seen), at(3)), Taken::Rejected(_)));
    report.leader = Some(LEADER);
    report.how = ExitHow::Status(WaitStatus(0x137f));
    assert!(
        matches!(fuse.take(&Evidence::ExitFile(report, seen), at(3)), Taken::Rejected(_)),
        "stopped, not ended"
    );
    let dumped = LeaderSeen::ReapedWith(WaitStatus(0x8b));
    let lie = exit_file(WaitStatus::exited(0), dumped);
    assert_eq!(fuse.take(&lie, at(3)), Taken::Rejected(Rejection::OtherStatus));
    assert_eq!(fuse.decide(), Decision::Wait(Need::LeaderEnd));
}

#[test]
fn a_file_that_agrees_with_the_kernel_counts() {
    let mut fuse = Fuse::new(ReportSeen::NotWanted);
    fuse.take(&Evidence::Started(LEADER), at(1));
    let dumped = LeaderSeen::ReapedWith(WaitStatus(0x8b));
    assert_eq!(fuse.take(&exit_file(WaitStatus::killed(11), dumped), at(3)), Taken::New);
    assert_eq!(fuse.status, Some(WaitStatus::killed(11)));
}

#[test]
fn a_file_that_denies_the_launch_does_not_count_against_a_living_leader() {
    let mut fuse = Fuse::new(ReportSeen::NotWanted);
    fuse.take(&Evidence::Started(LEADER), at(1));
    for (seen, why) in
        [(LeaderSeen::Alive, Rejection::LeaderLives), (LeaderSeen::Zombie, Rejection::LeaderNotReaped)]
    {
        let Evidence::ExitFile(report, _) = exit_file(WaitStatus::exited(0), seen) else {
            unreachable!("made above")
        };
        let how = ExitHow::NotLaunched(LaunchError::ProgramNotFound("x".into()));
        let denies = Evidence::ExitFile(ExitReport { how, leader: None, ..report }, seen);
        assert_eq!(fuse.take(&denies, at(2)), Taken::Rejected(why));
        assert_eq!(fuse.decide(), Decision::Wait(Need::LeaderEnd));
    }
}

#[test]
fn a_second_status_never_changes_the_first() {
    let mut fuse = Fuse::new(ReportSeen::NotWanted);
    fuse.take(&Evidence::Started(LEADER), at(1));
    fuse.take(&exit_file(WaitStatus::exited(42), LeaderSeen::Reaped), at(2));
    let other = Evidence::KernelStatus(Some(WaitStatus::exited(0)), Prong::PidfdInfo);
    assert_eq!(fuse.take(&other, at(3)), Taken::Disagrees);
    assert_eq!(fuse.status, Some(WaitStatus::exited(42)));
}

#[test]
fn exit_0_is_a_success_only_with_the_agents_word() {
    let outcome = |report: Option<AgentReport>| {
        let mut fuse = Fuse::new(ReportSeen::Wanted);
        fuse.take(&Evidence::Started(LEADER), at(1));
        fuse.take(&exit_file(WaitStatus::exited(0), LeaderSeen::Reaped), at(2));
        if let Some(report) = report {
            fuse.take(&Evidence::Report(report), at(3));
        }
        match fuse.decide() {
            Decision::Wait(need) => Err(need),
            Decision::End(end) => Ok((end.outcome, end.reason.word())),
        }
    };
    assert_eq!(outcome(None), Err(Need::Report));
    assert_eq!(outcome(Some(AgentReport::Success)), Ok((Outcome::Completed, "exit_code_0".into())));
    assert_eq!(outcome(Some(AgentReport::Missing)), Ok((Outcome::Failed, "no_agent_report".into())));
    assert_eq!(outcome(Some(AgentReport::Error(None))), Ok((Outcome::Failed, "agent_reported_error".into())));
    let unreadable = AgentReport::Unreadable("gone".into());
    assert_eq!(outcome(Some(unreadable)), Ok((Outcome::Failed, "agent_report_unreadable".into())));
}

#[test]
fn every_end_of_an_agent_waits_for_its_words_and_none_but_exit_0_listens_to_them() {
    let killed = WaitStatus(9);
    let stop = StopMark { cause: StopCause::Requested, at: at(1).mono };
    for (status, stop, expected) in [
        (killed, None, (Outcome::Failed, "sigkill")),
        (WaitStatus::exited(3), None, (Outcome::Failed, "exit_code_3")),
        (WaitStatus::exited(0), Some(stop), (Outcome::Cancelled, "stop_requested")),
    ] {
        let mut fuse = Fuse { stop, ..Fuse::new(ReportSeen::Wanted) };
        fuse.take(&Evidence::Started(LEADER), at(1));
        fuse.take(&exit_file(status, LeaderSeen::Reaped), at(2));
        fuse.take(&Evidence::TreeGone(None), at(3));
        assert_eq!(fuse.decide(), Decision::Wait(Need::Report));
        fuse.take(&Evidence::Report(AgentReport::Error(Some("a word".into()))), at(4));
        let Decision::End(end) = fuse.decide() else { panic!("{fuse:?}") };
        assert_eq!((end.outcome, end.reason.word().as_str()), expected);
    }
}

/// A leader that SIGKILL ended while its cgroup counted so many kills for want of memory.
fn killed(oom_kills: Option<u64>, by_deadline: bool) -> Evidence {
    let Evidence::ExitFile(report, seen) = exit_file(WaitStatus::killed(9), LeaderSeen::Reaped) else {
        unreachable!("made by exit_file")
    };
    let group = Some(GroupUsage { oom_kills, ..GroupUsage::default() });
    Evidence::ExitFile(ExitReport { usage: Usage { group, ..Usage::default() }, by_deadline, ..report }, seen)
}

#[test]
fn a_kill_that_nobody_asked_for_is_the_kernels_where_its_count_says_so() {
    let stop = |at| Some(StopMark { cause: StopCause::Requested, at: Mono(at) });
    let (before, after) = (stop(at(50).mono.0), stop(at(150).mono.0));
    for (evidence, stop, expected) in [
        (killed(Some(1), false), None, (Outcome::Failed, "oom_killed")),
        (killed(Some(0), false), None, (Outcome::Failed, "sigkill")),
        (killed(None, false), None, (Outcome::Failed, "sigkill")),
        (killed(Some(1), false), after, (Outcome::Failed, "oom_killed")),
        (killed(Some(1), false), before, (Outcome::Cancelled, "stop_requested")),
        (killed(Some(1), true), None, (Outcome::TimedOut, "deadline")),
    ] {
        let mut fuse = Fuse { stop, ..Fuse::default() };
        for evidence in [&Evidence::Started(LEADER), &Evidence::LeaderEnded, &evidence] {
            fuse.take(evidence, at(100));
        }
        fuse.take(&Evidence::TreeGone(None), at(200));
        let Decision::End(end) = fuse.decide() else { panic!("{fuse:?}") };
        assert_eq!((end.outcome, end.reason.word().as_str()), expected, "{evidence:?} {stop:?}");
    }
}

#[test]
fn without_a_shim_the_cgroup_is_asked_itself() {
    let status = |status| Evidence::KernelStatus(Some(status), Prong::PidfdInfo);
    for (counted, status, expected) in [
        (true, status(WaitStatus::killed(9)), "oom_killed"),
        (false, status(WaitStatus::killed(9)), "sigkill"),
        (true, status(WaitStatus::exited(3)), "exit_code_3"),
    ] {
        let mut fuse = Fuse::default();
        fuse.take(&Evidence::Started(LEADER), at(1));
        fuse.take(&Evidence::ShimGone, at(2));
        fuse.take(&Evidence::Rescanned, at(2));
        if counted {
            assert_eq!(fuse.take(&Evidence::OomKilled, at(100)), Taken::New);
        }
        fuse.take(&Evidence::LeaderEnded, at(100));
        fuse.take(&status, at(100));
        let Decision::End(end) = fuse.decide() else { panic!("{fuse:?}") };
        assert_eq!((end.outcome, end.reason.word().as_str()), (Outcome::Failed, expected));
    }
}

#[test]
fn a_child_that_the_kernel_killed_does_not_explain_another_end_of_the_leader() {
    for (status, expected) in [
        (WaitStatus::exited(1), "exit_code_1"),
        (WaitStatus::exited(137), "exit_code_137"),
        (WaitStatus::killed(15), "sigterm"),
    ] {
        let Evidence::ExitFile(report, seen) = killed(Some(1), false) else { unreachable!("an exit file") };
        let mut fuse = Fuse::default();
        fuse.take(&Evidence::ExitFile(ExitReport { how: ExitHow::Status(status), ..report }, seen), at(100));
        let Decision::End(end) = fuse.decide() else { panic!("{fuse:?}") };
        assert_eq!((end.outcome, end.reason.word().as_str()), (Outcome::Failed, expected));
    }
}
