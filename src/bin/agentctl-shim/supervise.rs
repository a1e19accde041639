//! The life of a run after its launch: reap, publish the leader's end, end or await the rest, say when all are gone.
//!
//! One loop over two questions: who has ended, and which alarm is due? There are five alarms: the deadline that a
//! daemon should have enforced, the next step of ending the tree, the next attempt to publish, the next to move input, and a
//! look at logs that were written to. Sleeps in between, without any periodic wake-up. Refuses to know what the outcome of the
//! run is: the exit file holds raw facts.
//!
//! What happens at the leader's end, in this order: the exit file is published (the verdict waits for it), then the
//! tree is ended, then the exit file is synced to disk.

use std::thread;
use std::time::Duration;
use std::{fs, io};

use agentctl::core::vocab::{HostId, Leftovers, Mono, Now, ProcessId, Usage, WaitStatus};
use agentctl::sys::cgroup::control::Counters;
use agentctl::wire::session_dir::{
    Cause, Deadline, ExitFile, FileError, LaunchError, RunFiles, ShimMessage, TreeFile, Version, encode_exit,
};
use rustix::process::{Signal, pidfd_send_signal};

use crate::claim::Ownership;
use crate::exit_slot::ExitSlot;
use crate::input::{Flow, Input};
use crate::kernel::{self, Reap, Woken};
use crate::launch::{Failed, Launched, Leader, Policy};
use crate::logs::Logs;
use crate::tree::Tree;
use crate::{complain, daemon_link};

/// How long the rest of a tree may take after TERM, if the grace is not even shorter.
const REST_GRACE_MAX: Duration = Duration::from_secs(2);

/// When to look again at a deadline file that could not be read.
const DEADLINE_RETRY: Duration = Duration::from_secs(60);

/// Pauses between attempts to publish.
const PUBLISH_PAUSES: Pauses = Pauses { next: Duration::from_millis(100), max: Duration::from_secs(5) };

/// Pauses between attempts to move input into a pipe that is full.
const INPUT_PAUSES: Pauses = Pauses { next: Duration::from_millis(10), max: Duration::from_secs(5) };

/// Pauses between attempts to kill: the first ones catch a tree that forks, the later ones await the unkillable.
const KILL_PAUSES: Pauses = Pauses { next: Duration::from_millis(20), max: Duration::from_secs(5) };

/// Pauses that double up to a limit.
#[derive(Clone, Copy)]
struct Pauses {
    next: Duration,
    max: Duration,
}

impl Pauses {
    fn take(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }
}

/// What wait(2) said last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Children {
    Living,
    None,
}

/// The next step of ending the tree.
#[derive(Clone, Copy)]
enum KillStep {
    Term,
    Kill(Pauses),
}

/// Where the end of the run is on its way to the daemon.
enum Publication {
    /// There is no end yet.
    NotYet,
    /// It could not be published so far.
    Trying { content: Vec<u8>, at: Mono, pauses: Pauses },
    /// It is in `exits/`, or there is nobody left to read it.
    Over,
}

/// What is due at some time.
enum Alarm {
    Deadline,
    Kill(KillStep),
    Publish,
    Logs,
    Input,
}

/// How a leader, or the attempt to have one, ended.
struct End {
    process: Option<ProcessId>,
    status: Option<WaitStatus>,
    launch_error: Option<LaunchError>,
    at: Now,
    usage: Usage,
}

/// One run.
pub(crate) struct Supervisor {
    files: RunFiles,
    host: HostId,
    ownership: Ownership,
    policy: Policy,
    /// Of the session's cgroup, opened ahead like the exit file.
    counters: Option<Counters>,
    /// Until it has ended.
    leader: Option<Leader>,
    tree: Tree,
    children: Children,
    cause: Cause,
    /// When to look at the deadline file.
    deadline: Option<Mono>,
    /// When to push the tree on.
    killing: Option<(Mono, KillStep)>,
    exit_slot: ExitSlot,
    publication: Publication,
    logs: Option<Logs>,
    /// Whether the agent is talked to.
    talked_to: bool,
    /// What goes to the leader's standard input, until that is over.
    input: Option<Input>,
    /// When to go on with it.
    input_retry: Option<(Mono, Pauses)>,
}

impl Supervisor {
    /// Takes a launched run over. A launch that failed is a run whose leader has ended already.
    pub(crate) fn new(files: RunFiles, host: HostId, ownership: Ownership, launched: Launched) -> Self {
        let Launched { policy, leader, logs, input } = launched;
        let (leader, failed) = match leader {
            Ok(leader) => (Some(leader), None),
            Err(failed) => (None, Some(failed)),
        };
        let tree = Tree::new(leader.as_ref().map(|leader| leader.identity), policy.cgroup.clone());
        let exit_slot = ExitSlot::of(&files).opened();
        let counters = policy.account.as_deref().map(Counters::open);
        let mut supervisor = Self {
            files,
            host,
            ownership,
            policy,
            counters,
            leader,
            tree,
            children: Children::Living,
            cause: Cause::Exit,
            deadline: None,
            killing: None,
            exit_slot,
            publication: Publication::NotYet,
            logs,
            talked_to: input.is_some(),
            input,
            input_retry: None,
        };
        match failed {
            Some(failed) => supervisor.launch_failed(failed),
            None => {
                supervisor.deadline = supervisor.next_look(kernel::now().mono, false);
                supervisor.forward_input(INPUT_PAUSES);
            }
        }
        supervisor
    }

    /// Stays until the run is over in every respect.
    pub(crate) fn run(mut self) {
        kernel::release_free_memory();
        loop {
            self.reap();
            if self.children == Children::None && matches!(self.publication, Publication::Over) {
                break;
            }
            let now = kernel::now().mono;
            let woken = match self.next_alarm() {
                Some((at, alarm)) if at <= now => {
                    self.ring(alarm, now);
                    continue;
                }
                Some((at, _)) => kernel::wait_for_signal(Some(at.since(now))),
                None => kernel::wait_for_signal(None),
            };
            match woken {
                Woken::Told => {
                    self.deadline_moved();
                    self.forward_input(INPUT_PAUSES);
                }
                Woken::Written => self.logs.iter_mut().for_each(|logs| logs.written(kernel::now().mono)),
                Woken::ToLook => {}
            }
        }
        self.finish();
    }

    /// Reaps everyone who has ended: children, and what the tree has left to us.
    fn reap(&mut self) {
        let mut leader_end = None;
        self.children = loop {
            match kernel::reap_any() {
                Reap::Ended { pid, status, usage } => {
                    if let Some(leader) = self.leader.take_if(|leader| leader.pid == pid) {
                        let process = Some(leader.identity);
                        let (status, at) = (Some(status), kernel::now());
                        let usage = self.with_group(usage);
                        leader_end = Some(End { process, status, launch_error: None, at, usage });
                    }
                }
                Reap::Living => break Children::Living,
                Reap::NoChildren => break Children::None,
            }
        };
        if let Some(end) = leader_end {
            self.leader_ended(end);
        }
    }

    /// With what the session's cgroup counted so far.
    fn with_group(&self, usage: Usage) -> Usage {
        let group = self.counters.as_ref().and_then(Counters::usage);
        Usage { group, ..usage }
    }

    fn leader_ended(&mut self, end: End) {
        self.deadline = None;
        self.publish(end);
        self.end_input();
        let to_be_ended = match self.policy.leftovers {
            Leftovers::Kill => true,
            Leftovers::Keep => self.cause == Cause::Deadline,
        };
        if to_be_ended && self.children == Children::Living {
            match self.killing {
                // The deadline has pushed the whole tree already.
                Some((_, KillStep::Kill(_))) => {}
                Some((_, KillStep::Term)) | None => self.push_tree(KillStep::Term, kernel::now().mono),
            }
        }
        if matches!(self.publication, Publication::Over) {
            self.sync();
        }
    }

    fn launch_failed(&mut self, failed: Failed) {
        self.children = Children::None;
        let Failed { error, process } = failed;
        self.publish(End {
            process,
            status: None,
            launch_error: Some(error),
            at: kernel::now(),
            usage: Usage::default(),
        });
        daemon_link::send(ShimMessage::Failed);
        daemon_link::close();
    }

    fn next_alarm(&self) -> Option<(Mono, Alarm)> {
        let deadline = self.deadline.map(|at| (at, Alarm::Deadline));
        let killing = match self.children {
            Children::Living => self.killing.map(|(at, step)| (at, Alarm::Kill(step))),
            Children::None => None,
        };
        let publish = match &self.publication {
            Publication::Trying { at, .. } => Some((*at, Alarm::Publish)),
            Publication::NotYet | Publication::Over => None,
        };
        let logs = self.logs.as_ref().and_then(|logs| Some((logs.due()?, Alarm::Logs)));
        let input = self.input_retry.map(|(at, _)| (at, Alarm::Input));
        [deadline, killing, publish, logs, input].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    fn ring(&mut self, alarm: Alarm, now: Mono) {
        match alarm {
            Alarm::Deadline => self.look_at_deadline(now),
            Alarm::Kill(step) => self.push_tree(step, now),
            Alarm::Publish => {
                self.try_to_publish();
                if matches!(self.publication, Publication::Over) {
                    self.sync();
                }
            }
            Alarm::Logs => self.logs.iter_mut().for_each(|logs| logs.look(now)),
            Alarm::Input => self.forward_input(self.input_retry.map_or(INPUT_PAUSES, |(_, pauses)| pauses)),
        }
    }

    /// Moves on what was said to the agent, now and, if its pipe is full, after the next pause.
    fn forward_input(&mut self, mut pauses: Pauses) {
        let Some(input) = &mut self.input else { return };
        self.input_retry = None;
        match input.forward() {
            Flow::Upto => {}
            Flow::Held { moved } => {
                if moved {
                    pauses = INPUT_PAUSES;
                }
                self.input_retry = Some((kernel::now().mono.after(pauses.take()), pauses));
            }
            Flow::Over => self.input = None,
        }
    }

    /// The leader has ended: what was said to it, and what was to be, is removed with the pipe.
    fn end_input(&mut self) {
        self.input_retry = None;
        if self.talked_to
            && let Err(error) = self.files.remove_input()
        {
            complain(format_args!("failed to remove the input of the run: {error}"));
        }
        self.input = None;
    }

    /// A hint: without it the file is read again when the old deadline comes, which may be late or never.
    fn deadline_moved(&mut self) {
        if self.leader.is_some() && self.cause != Cause::Deadline {
            self.deadline = self.next_look(kernel::now().mono, self.deadline.is_some());
        }
    }

    /// Acts if the deadline has passed so long ago that no daemon can be at work; else comes back later.
    fn look_at_deadline(&mut self, now: Mono) {
        self.deadline = self.next_look(now, true);
        if self.deadline.is_some_and(|at| at <= now) {
            self.deadline = None;
            self.cause = Cause::Deadline;
            self.signal_leader(Signal::TERM);
            self.killing = Some((now.after(self.policy.grace), KillStep::Term));
        }
    }

    /// When to look at the deadline, as its file says now. A file that cannot be read ends no run and forgets no
    /// deadline.
    fn next_look(&self, now: Mono, had_one: bool) -> Option<Mono> {
        match self.files.read_deadline() {
            Ok(Deadline { mono_ns, boot, .. }) if boot == self.host.boot => {
                mono_ns.map(|deadline| deadline.after(self.policy.grace).after(self.policy.late))
            }
            Err(FileError::Missing { .. }) if !had_one => None,
            Ok(_)
            | Err(
                FileError::Missing { .. }
                | FileError::Unreadable { .. }
                | FileError::Malformed { .. }
                | FileError::WrongVersion { .. },
            ) => Some(now.after(DEADLINE_RETRY)),
        }
    }

    /// One step of ending the tree, and when the next one is due.
    fn push_tree(&mut self, step: KillStep, now: Mono) {
        let (pause, next) = match step {
            KillStep::Term => {
                self.tree.terminate();
                (self.policy.grace.min(REST_GRACE_MAX), KillStep::Kill(KILL_PAUSES))
            }
            KillStep::Kill(mut pauses) => {
                self.signal_leader(Signal::KILL);
                self.tree.kill();
                (pauses.take(), KillStep::Kill(pauses))
            }
        };
        self.killing = Some((now.after(pause), next));
    }

    fn signal_leader(&self, signal: Signal) {
        if let Some(leader) = &self.leader {
            let _ = pidfd_send_signal(&leader.pidfd, signal);
        }
    }

    /// Writes the end of the run down and publishes it, now or as soon as possible.
    fn publish(&mut self, end: End) {
        let leftovers = match self.children {
            Children::None => Some(0),
            Children::Living => self.tree.count(),
        };
        let id = self.files.id();
        let exit = ExitFile {
            v: Version,
            session: id.session,
            run: id.run,
            host: self.host.clone(),
            leader: end.process,
            status: end.status,
            launch_error: end.launch_error,
            ended: end.at.into(),
            usage: end.usage,
            cause: self.cause,
            leftovers,
        };
        match encode_exit(&exit) {
            Ok(content) => {
                self.publication = Publication::Trying { content, at: end.at.mono, pauses: PUBLISH_PAUSES };
                self.try_to_publish();
            }
            // Cannot happen: plain numbers and texts. If it does, no later attempt will be better.
            Err(error) => self.give_up_publishing(&error),
        }
    }

    fn try_to_publish(&mut self) {
        let Publication::Trying { content, at, pauses } = &mut self.publication else { return };
        match self.exit_slot.publish(content) {
            Ok(()) => self.publication = Publication::Over,
            Err(error) if self.ownership.is_deleted() => self.give_up_publishing(&error),
            Err(error) => {
                complain(format_args!("failed to publish the exit file, trying again: {error}"));
                *at = kernel::now().mono.after(pauses.take());
            }
        }
    }

    fn give_up_publishing(&mut self, error: &io::Error) {
        complain(format_args!("failed to publish the exit file of a session that is deleted: {error}"));
        self.publication = Publication::Over;
    }

    fn sync(&self) {
        if let Err(error) = self.exit_slot.sync() {
            complain(format_args!("failed to sync the exit file: {error}"));
        }
    }

    /// Nothing is left: says so, and takes the cgroup away.
    fn finish(mut self) {
        let id = self.files.id();
        // Whoever writes much and ends soon is met here.
        self.logs.iter_mut().for_each(Logs::cut);
        let tree = TreeFile {
            v: Version,
            session: id.session,
            run: id.run,
            gone: kernel::now().into(),
            usage: self.with_group(kernel::children_usage()),
            killed: self.tree.signalled(),
        };
        let mut pauses = PUBLISH_PAUSES;
        while let Err(error) = self.files.write_tree(&tree) {
            if self.ownership.is_deleted() {
                break;
            }
            complain(format_args!("failed to record the end of the tree, trying again: {error}"));
            thread::sleep(pauses.take());
        }
        if let Some(cgroup) = &self.policy.cgroup {
            let _ = fs::remove_dir(cgroup);
        }
    }
}
