//! The world in a box: the supervisor with simulated shims, kernel, disk, clients and receivers.
//!
//! A history is a function of its seed. Every choice - what happens next, which notice arrives first or
//! twice or never, where the daemon dies - comes from one generator. A crash throws away everything but
//! the journal's committed records, the files and the processes, and may fall before a commit, between a
//! commit and its effects, and between any two effects. An oracle that sees the whole world checks each
//! record as it becomes durable.
//!
//! `AGENTCTL_SIM_SEED=n` runs one history and prints it; `AGENTCTL_SIM_RUNS=n` sets how many are run.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test looks for a few of many variants")]

mod locks;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::adopt::Adoption;
use super::agent::{AgentEvent, AgentReport};
use super::dir_fuses::{FuseId, FuseRecord, FuseRequest, FuseSpec, OnExpire};
use super::fuse::{Evidence, ExitHow, ExitReport, LaunchError, LeaderSeen, Outcome, Prong, StopCause};
use super::hooks::{HiddenOf, HookKind, HookOf, HookState, Hooks};
use super::outbox::{Attempt, AttemptResult, Endpoint};
use super::reattach::{Found, OrderFound, Seen, ShimFound};
use super::record::{DeliveryEnd, DeliveryId, EventKind, Record};
use super::session::{HiddenText, Notify, Origin, Phase, Session, Spec};
use super::supervisor::Settings;
use super::trouble::{Sample, Signs};
use super::vocab::{
    HostId, Leftovers, Mono, Now, PidHandle, ProcessId, RunId, SessionId, Usage, WaitStatus, Wall,
};
use super::{Effect, Event, JournalHealth, Reply, ReplyTo, Request, Step, Supervisor};

/// SplitMix64: small, seedable, good enough to choose.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Missing,
    Written,
    Claimed,
    Abandoned,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leader {
    Unborn,
    Alive,
    Zombie(WaitStatus),
    Reaped(WaitStatus),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shim {
    None,
    Fresh,
    Claimed,
    Watching,
    Reaped,
    Published,
    Gone,
}

/// One run as it really is.
#[derive(Clone, Debug)]
struct Truth {
    order: Order,
    shim: Shim,
    leader: Leader,
    ended: Option<Now>,
    launch_fails: bool,
    leader_file: bool,
    exit_file: Option<ExitReport>,
    planted: bool,
    archived: bool,
    tree_file: bool,
    rest: u32,
    stubborn: bool,
    report: AgentReport,
    leftovers: Leftovers,
    deadline_file: Option<Mono>,
    by_deadline: bool,
    shim_killed: bool,
    boot: u64,
    /// The daemon held a pidfd at the reap, so the kernel can still tell it the status.
    kernel_tells: bool,
    ask_kernel: bool,
    ask_tree: bool,
    /// Somebody else started it, and reaps it in his own time.
    adopted: bool,
    /// It is a part of this.
    hidden: Option<HiddenOf>,
    /// Leaders that this run ever had.
    leaders: u32,
    /// Words that its agent has said.
    words: u64,
    /// The last of them: that its work is over.
    over: bool,
    /// Where it works.
    directory: usize,
    /// By its name of this boot.
    dir_boot: u64,
    /// Whoever is there does not keep it out.
    forced: bool,
    /// It waits if it must; what its launch takes is kept until it runs or is over.
    queue: bool,
    parcel: bool,
}

struct World {
    dice: Dice,
    now: Now,
    boot: u64,
    journal: Vec<Record>,
    runs: BTreeMap<RunId, Truth>,
    daemon: Option<Supervisor>,
    /// Evidence under way to the living daemon.
    notices: Vec<Event>,
    receiver_up: bool,
    received: BTreeMap<DeliveryId, u32>,
    replies: u64,
    waits: BTreeMap<u64, RunId>,
    /// Answers that are about no run.
    lock_replies: BTreeSet<u64>,
    disk_full: bool,
    /// The daemon has not yet looked at everything that an earlier life left.
    recovering: bool,
    /// Steps whose records cannot be made durable yet.
    stalled: VecDeque<(Vec<Record>, u64, Vec<Effect>)>,
    /// Crashes so far, by (phase before, phase after, where).
    crashes: BTreeSet<Crash>,
    crash_rate: usize,
    calm: bool,
    trace: Vec<String>,
    tracing: bool,
}

/// A transition of a run that was interrupted, and where.
type Crash = (Option<Phase>, Phase, CrashPoint);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum CrashPoint {
    BeforeCommit,
    AfterCommit,
    BetweenEffects,
}

fn host(boot: u64) -> HostId {
    HostId { machine: "m".into(), boot: format!("b{boot}"), pid_ns: 1 }
}

fn leader_id(run: RunId, boot: u64) -> ProcessId {
    let number = run.session.0.as_u128() as u32 % 1_000_000 + 10 * (run.run - 1);
    let handle = PidHandle { kind: 254, bytes: u64::from(number) + boot * 1000 };
    ProcessId { pid: 100 + number, handle: Some(handle), start_ticks: boot }
}

fn settings(boot: u64) -> Settings {
    let kinds = vec![EventKind::Started, EventKind::Stopped, EventKind::Error];
    Settings {
        endpoints: vec![Endpoint {
            name: "hook".into(),
            kinds,
            adapters: Vec::new(),
            attempts_max: 10,
            paused: false,
        }],
        max_sessions: 1000,
        adapter_max_sessions: BTreeMap::from([("exec".to_owned(), locks::PLACES)]),
        ..Settings::of_test(host(boot))
    }
}

impl World {
    fn new(seed: u64, tracing: bool) -> Self {
        let mut dice = Dice(seed);
        let crash_rate = [6, 20, 60, 1_000_000][dice.below(4)];
        Self {
            dice,
            now: Now { wall: Wall(1_700_000_000_000_000), mono: Mono(1_000_000_000) },
            boot: 1,
            journal: Vec::new(),
            runs: BTreeMap::new(),
            daemon: None,
            notices: Vec::new(),
            receiver_up: true,
            received: BTreeMap::new(),
            replies: 0,
            waits: BTreeMap::new(),
            lock_replies: BTreeSet::new(),
            disk_full: false,
            recovering: false,
            stalled: VecDeque::new(),
            crashes: BTreeSet::new(),
            crash_rate,
            calm: false,
            trace: Vec::new(),
            tracing,
        }
    }

    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            self.trace.push(format!("{:>8} ms  {}", self.now.mono.0 / 1_000_000, what()));
        }
    }

    fn pass(&mut self, by: Duration) {
        self.now = Now { wall: self.now.wall.after(by), mono: self.now.mono.after(by) };
    }

    // ---- the daemon ----------------------------------------------------------------------------

    fn crash(&mut self) {
        self.say(|| "** the daemon dies".into());
        self.daemon = None;
        self.notices.clear();
        self.waits.clear();
        self.lock_replies.clear();
        self.stalled.clear();
        self.forget_unknown();
        for truth in self.runs.values_mut() {
            truth.ask_kernel = false;
            truth.ask_tree = false;
            // Whoever reaps it while nobody holds it takes the status along.
            truth.kernel_tells &= !truth.adopted;
            if truth.planted {
                // A file that names the right leader, planted by the agent's own user, kept through the
                // daemon's absence until the leader and the shim are both gone, cannot be told from a
                // true one: a declared limit (contract, 1.10), not a history to check.
                (truth.exit_file, truth.planted) = (None, false);
            }
        }
    }

    fn start(&mut self) {
        self.say(|| "** the daemon starts".into());
        let mut supervisor = Supervisor::new(settings(self.boot));
        for record in &self.journal {
            supervisor.replay(record, self.now);
        }
        supervisor.replayed(0);
        self.daemon = Some(supervisor);
        self.recovering = true;
        let ids: Vec<_> = self.runs.keys().copied().collect();
        for id in ids {
            let Some(daemon) = &self.daemon else { return };
            let looked_at = |session: &Session| {
                session.run_id() == id && !session.is_settled() && !session.run.is_queued()
            };
            if !daemon.session(id.session).is_some_and(looked_at) {
                continue;
            }
            for evidence in self.find(id).evidence() {
                self.feed(Event::Evidence(id, evidence));
                if self.daemon.is_none() {
                    return;
                }
            }
        }
        self.recovering = false;
        self.feed(Event::Recovered);
        // The agents' output is read again.
        for id in self.runs.keys().copied().collect::<Vec<_>>() {
            if self.truth(id).over {
                self.feed(Event::Agent(id, AgentEvent::Over));
            }
        }
    }

    /// What the edge finds of a run, gathered in the order that reattach.rs demands.
    fn find(&mut self, id: RunId) -> Found {
        let boot = self.boot;
        let session = self.daemon.as_ref().and_then(|daemon| daemon.session(id.session));
        let kept = session.is_some_and(Session::may_begin_again);
        let Some(truth) = self.runs.get_mut(&id) else { unreachable!("only recorded runs are looked for") };
        let shim =
            if matches!(truth.shim, Shim::None | Shim::Gone) { ShimFound::Gone } else { ShimFound::Lives };
        if truth.order == Order::Written {
            truth.order = Order::Abandoned;
        }
        let order = if truth.order == Order::Claimed { OrderFound::Claimed } else { OrderFound::Withdrawn };
        // Of an adopted one the record tells as well.
        let leader = (truth.leader_file || truth.adopted).then(|| leader_id(id, truth.boot));
        let seen = match truth.leader {
            _ if leader.is_none() => Seen::NotAsked,
            Leader::Alive => Seen::Alive,
            Leader::Zombie(_) => Seen::Ended,
            Leader::Reaped(_) => Seen::Gone,
            Leader::Unborn => Seen::NotAsked,
        };
        Found {
            rebooted: truth.boot != boot,
            shim,
            order,
            kept,
            leader,
            seen,
            exit: truth.exit_file.clone(),
            tree: truth.tree_file.then(Usage::default),
        }
    }

    /// One event through the supervisor, its commit, and its effects, any of which may be the last.
    fn feed(&mut self, event: Event) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let before = phases(&daemon);
        self.say(|| format!("{event:?}"));
        let step = daemon.step(self.now, event);
        self.check_bounds(&daemon);
        self.check_troubles(&step.records);
        let after = phases(&daemon);
        let moved: Vec<_> = after
            .iter()
            .filter(|(id, phase)| before.get(id) != Some(phase))
            .map(|(id, phase)| (before.get(id).copied(), *phase))
            .collect();
        self.daemon = Some(daemon);
        self.note_hooks(&step.records);
        self.carry_out(step, &moved);
    }

    fn carry_out(&mut self, step: Step, moved: &[(Option<Phase>, Phase)]) {
        let Step { records, effects } = step;
        let upto = self.daemon.as_ref().map_or(0, Supervisor::appended);
        if self.disk_full && (!records.is_empty() || !self.stalled.is_empty()) {
            let (now, later): (Vec<_>, Vec<_>) = effects.into_iter().partition(Effect::is_exempt);
            self.stalled.push_back((records, upto, later));
            self.perform_each(now, moved);
            return;
        }
        self.complete(records, upto, effects, moved);
    }

    /// The disk has space again: what was held back happens in order, and what follows from the news after it.
    fn space_again(&mut self) {
        self.feed(Event::Journal(JournalHealth::Well));
        self.disk_full = false;
        while let Some((records, upto, effects)) = self.stalled.pop_front() {
            self.complete(records, upto, effects, &[]);
        }
    }

    fn complete(
        &mut self,
        records: Vec<Record>,
        upto: u64,
        effects: Vec<Effect>,
        moved: &[(Option<Phase>, Phase)],
    ) {
        if !records.is_empty() {
            if self.dies(moved, CrashPoint::BeforeCommit) {
                return;
            }
            for record in records {
                self.commit(record);
            }
            if self.dies(moved, CrashPoint::AfterCommit) {
                return;
            }
            self.feed(Event::Durable(upto));
        }
        self.perform_each(effects, moved);
    }

    fn perform_each(&mut self, effects: Vec<Effect>, moved: &[(Option<Phase>, Phase)]) {
        for effect in effects {
            if self.daemon.is_none() || self.dies(moved, CrashPoint::BetweenEffects) {
                return;
            }
            self.perform(effect);
        }
    }

    fn dies(&mut self, moved: &[(Option<Phase>, Phase)], at: CrashPoint) -> bool {
        if self.daemon.is_none() {
            return true;
        }
        if self.calm || !self.dice.one_in(self.crash_rate) {
            return false;
        }
        self.crashes.extend(moved.iter().map(|(before, after)| (*before, *after, at)));
        self.crash();
        true
    }

    fn commit(&mut self, record: Record) {
        self.say(|| format!("    committed {record:?}"));
        self.check_record(&record);
        self.journal.push(record);
    }

    fn perform(&mut self, effect: Effect) {
        self.say(|| format!("    does {effect:?}"));
        match effect {
            Effect::Spawn(id) => {
                let boot = self.boot;
                // Again, where an earlier life ordered it and no shim claimed it.
                let again = |truth: &&mut Truth| matches!(truth.order, Order::Missing | Order::Abandoned);
                if let Some(truth) = self.runs.get_mut(&id).filter(again) {
                    assert!(!truth.queue || truth.parcel, "what {id:?} needs was thrown away");
                    truth.boot = boot;
                    truth.order = Order::Written;
                    truth.shim = Shim::Fresh;
                }
            }
            Effect::Hold(id) => {
                self.truth(id).leader_file = true;
                if !matches!(self.truth(id).leader, Leader::Alive) {
                    self.notify(id, Evidence::LeaderEnded);
                }
            }
            Effect::CancelTurn(id) => {
                if self.dice.one_in(2) {
                    self.signal(id, 15, false);
                }
            }
            Effect::SignalLeader(id, signal) => self.signal(id, signal, false),
            Effect::SignalTree(id, signal) => self.signal(id, signal, true),
            Effect::KillShim(id) => self.kill_shim(id),
            Effect::Rescan(id) => self.rescan(id),
            Effect::AskKernel(id) => {
                self.truth(id).ask_kernel = true;
                self.answer_questions(id);
            }
            Effect::AskTree(id) => {
                let truth = self.truth(id);
                truth.ask_tree = true;
                if truth.rest > 0 {
                    let left = Evidence::TreeLeft(truth.rest);
                    self.notices.push(Event::Evidence(id, left));
                }
                self.answer_questions(id);
            }
            Effect::ReadOn(id) => {
                // Nobody may be left to read; then there is no answer.
                if self.truth(id).over && !self.dice.one_in(4) {
                    self.feed(Event::Agent(id, AgentEvent::Over));
                }
            }
            Effect::Sample(id) => {
                let unknown = self.dice.one_in(4);
                let truth = self.truth(id);
                let signs = Signs {
                    output_bytes: truth.words,
                    cpu: Duration::from_millis(truth.words),
                    helpers: 0,
                    others: truth.rest,
                };
                let sample = if unknown { Sample::Unknown("x".into()) } else { Sample::Seen(signs) };
                self.notices.push(Event::Sampled(id, sample));
            }
            Effect::ReadReport(id) => {
                let report = Evidence::Report(self.truth(id).report.clone());
                self.notices.push(Event::Evidence(id, report));
            }
            Effect::WriteDeadline(id, at) => {
                if let Some(truth) = self.runs.get_mut(&id) {
                    truth.deadline_file = at;
                }
            }
            Effect::Discard(id) => self.truth(id).parcel = false,
            Effect::RejectExitFile(id, why) => {
                let truth = self.truth(id);
                if !(why.may_pass() && matches!(truth.leader, Leader::Reaped(_))) {
                    assert!(truth.planted, "a true exit file was rejected: {why}");
                    (truth.exit_file, truth.planted) = (None, false);
                }
            }
            Effect::Archive(id) => {
                let durable =
                    self.journal.iter().any(|r| matches!(r, Record::Ended { run, .. } if *run == id));
                assert!(durable, "archived before the verdict is durable");
                self.truth(id).archived = true;
                self.notices.push(Event::Sized(id.session, 10));
            }
            Effect::Deliver(id) => self.deliver(id),
            // What is deleted cannot be found by a later life either.
            Effect::Remove(last) => {
                for run in (1..=last.run).map(|run| RunId { run, ..last }) {
                    (self.truth(run).exit_file, self.truth(run).tree_file) = (None, false);
                }
            }
            Effect::Reply(to, reply) => self.check_reply(to, &reply),
        }
    }

    fn deliver(&mut self, id: DeliveryId) {
        let committed = self
            .journal
            .iter()
            .any(|r| matches!(r, Record::DeliveryQueued { id: queued, .. } if *queued == id));
        assert!(committed, "{id:?} is sent before it is durable");
        let result = if self.receiver_up {
            *self.received.entry(id.clone()).or_default() += 1;
            AttemptResult::Accepted
        } else {
            let retry_after = self.dice.one_in(4).then(|| Duration::from_secs(30));
            AttemptResult::Failed { error: "refused".into(), retry_after }
        };
        let attempt = Attempt { took: Duration::from_millis(1), status: None, result };
        self.notices.push(Event::Attempted(id, attempt));
    }

    fn rescan(&mut self, id: RunId) {
        let found = self.find(id);
        let leader = found.leader.map(Evidence::Started);
        let seen = found.leader_seen();
        let exit = found.exit.map(|exit| Evidence::ExitFile(exit, seen));
        // In this order, within one notice each: nothing may come between them but a crash.
        for evidence in leader.into_iter().chain(exit).chain([Evidence::Rescanned]) {
            self.feed(Event::Evidence(id, evidence));
        }
    }

    // ---- processes -----------------------------------------------------------------------------

    fn truth(&mut self, id: RunId) -> &mut Truth {
        let Some(truth) = self.runs.get_mut(&id) else {
            unreachable!("an effect for a run that is not there")
        };
        truth
    }

    fn notify(&mut self, id: RunId, evidence: Evidence) {
        let knows = self.daemon.as_ref().is_some_and(|daemon| daemon.session(id.session).is_some());
        if knows {
            self.notices.push(Event::Evidence(id, evidence.clone()));
            if self.dice.one_in(5) {
                self.notices.push(Event::Evidence(id, evidence));
            }
        }
    }

    fn signal(&mut self, id: RunId, signal: u8, whole: bool) {
        let Some(truth) = self.runs.get_mut(&id) else { return };
        let dies = signal == 9 || !truth.stubborn;
        if whole && dies {
            truth.rest = 0;
        }
        if truth.leader == Leader::Alive && dies {
            self.leader_ends(id, WaitStatus::killed(signal));
        }
        self.answer_questions(id);
    }

    fn leader_ends(&mut self, id: RunId, status: WaitStatus) {
        self.say(|| format!("-- leader of {} ends {status:?}", id.session.short()));
        let watched = self.daemon.is_some();
        let now = self.now;
        let truth = self.truth(id);
        truth.ended = Some(now);
        truth.kernel_tells = watched;
        let orphan = truth.shim == Shim::Gone;
        truth.leader = if orphan { Leader::Reaped(status) } else { Leader::Zombie(status) };
        self.notify(id, Evidence::LeaderEnded);
        self.answer_questions(id);
    }

    fn kill_shim(&mut self, id: RunId) {
        self.say(|| format!("-- shim of {} is killed", id.session.short()));
        let truth = self.truth(id);
        if matches!(truth.shim, Shim::None | Shim::Gone) {
            return;
        }
        // One that was left by an earlier life, and finds its order taken back, is watched by nobody.
        let unknown = truth.queue && truth.shim == Shim::Fresh && truth.order == Order::Abandoned;
        truth.shim_killed = true;
        truth.shim = Shim::Gone;
        if unknown {
            return;
        }
        if let Leader::Zombie(status) = truth.leader {
            truth.leader = Leader::Reaped(status);
        }
        self.notify(id, Evidence::ShimGone);
        self.answer_questions(id);
    }

    fn answer_questions(&mut self, id: RunId) {
        let truth = self.truth(id);
        let mut answers = Vec::new();
        if let (true, true, Leader::Zombie(status)) = (truth.adopted, truth.ask_kernel, truth.leader) {
            truth.ask_kernel = false;
            answers.push(Evidence::KernelStatus(Some(status), Prong::ProcStat));
        }
        if let (true, Leader::Reaped(status)) = (truth.ask_kernel, truth.leader) {
            truth.ask_kernel = false;
            answers.push(Evidence::KernelStatus(truth.kernel_tells.then_some(status), Prong::PidfdInfo));
        }
        if truth.ask_tree && truth.rest == 0 && !matches!(truth.leader, Leader::Alive) {
            truth.ask_tree = false;
            answers.push(match truth.adopted {
                true => Evidence::TreeUnknown("adopted".into()),
                false => Evidence::TreeGone(None),
            });
        }
        for answer in answers {
            self.notify(id, answer);
        }
    }

    /// The next thing that a shim does.
    fn shim_moves(&mut self, id: RunId) {
        let now = self.now;
        let boot = self.boot;
        let watched = self.daemon.is_some();
        let truth = self.truth(id);
        if truth.adopted {
            if let Leader::Zombie(status) = truth.leader {
                (truth.leader, truth.kernel_tells) = (Leader::Reaped(status), watched);
                self.answer_questions(id);
            }
            return;
        }
        match truth.shim {
            Shim::None | Shim::Gone => {}
            Shim::Fresh => {
                let claimed = truth.order == Order::Written;
                truth.order = if claimed { Order::Claimed } else { truth.order };
                truth.shim = if claimed { Shim::Claimed } else { Shim::Gone };
            }
            Shim::Claimed if truth.launch_fails => {
                let how = ExitHow::NotLaunched(LaunchError::ProgramNotFound("x".into()));
                let exit = report(id, truth, how, now);
                (truth.exit_file, truth.shim, truth.tree_file) = (Some(exit.clone()), Shim::Gone, true);
                self.notify(id, Evidence::ExitFile(exit, LeaderSeen::Unknown));
            }
            Shim::Claimed => {
                (truth.leader, truth.leader_file, truth.shim) = (Leader::Alive, true, Shim::Watching);
                truth.leaders += 1;
                truth.boot = boot;
                self.check_alone(id);
                let leader = leader_id(id, boot);
                self.notify(id, Evidence::Started(leader));
            }
            Shim::Watching => {
                if let Leader::Zombie(status) = truth.leader {
                    (truth.leader, truth.shim) = (Leader::Reaped(status), Shim::Reaped);
                    let planted = truth.planted;
                    self.answer_questions(id);
                    if planted {
                        // Between the reap and the publication a planted file cannot be told from the
                        // true one; that is a moment, and only the agent's own user can plant.
                        self.shim_publishes(id);
                    }
                }
            }
            Shim::Reaped => self.shim_publishes(id),
            Shim::Published => {
                if truth.leftovers == Leftovers::Kill {
                    truth.rest = 0;
                }
                if truth.rest == 0 {
                    (truth.tree_file, truth.shim) = (true, Shim::Gone);
                    self.notify(id, Evidence::TreeGone(Some(Usage::default())));
                    self.notify(id, Evidence::ShimGone);
                }
                self.answer_questions(id);
            }
        }
    }

    fn shim_publishes(&mut self, id: RunId) {
        let truth = self.truth(id);
        let (Leader::Reaped(status), Some(ended)) = (truth.leader, truth.ended) else {
            unreachable!("a shim that reaped")
        };
        let exit = report(id, truth, ExitHow::Status(status), ended);
        (truth.exit_file, truth.planted) = (Some(exit.clone()), false);
        truth.shim = Shim::Published;
        self.notify(id, Evidence::ExitFile(exit, LeaderSeen::Reaped));
    }

    // ---- what happens next ---------------------------------------------------------------------

    fn launch(&mut self) {
        if self.dice.one_in(5) {
            self.launch_together();
            return;
        }
        let (id, spec) = self.new_session();
        let host = host(self.boot);
        let to = self.reply_to(id);
        let request = if self.dice.one_in(4) {
            self.is_somebody_elses(id);
            let leader = leader_id(id, self.boot);
            let (session, since) = (id.session, Wall(self.now.wall.0 - 3_000_000));
            // Hooks are the launch's to ask for.
            let spec = Spec { leftovers: Leftovers::Keep, hooks: Hooks::default(), ..spec };
            Request::Adopt(Box::new(Adoption { session, host, spec, leader, since }))
        } else {
            launch_of(id, host, spec)
        };
        self.feed(Event::Request(to, request));
        self.forget_unknown();
    }

    /// A group: all of it is recorded, or nothing.
    fn launch_together(&mut self) {
        let all: Vec<_> = (0..2 + self.dice.below(2)).map(|_| self.new_session()).collect();
        let ids: Vec<RunId> = all.iter().map(|(id, _)| *id).collect();
        let mut requests = Vec::new();
        for (id, spec) in all {
            requests.push((self.reply_to(id), launch_of(id, host(self.boot), spec)));
        }
        self.feed(Event::Together(requests));
        self.forget_unknown();
        let there = ids.iter().filter(|id| self.runs.contains_key(id)).count();
        assert!(there == 0 || there == ids.len(), "{there} of {ids:?} are launched");
    }

    /// A session that is about to be asked for.
    fn new_session(&mut self) -> (RunId, Spec) {
        let number = self.runs.values().filter(|truth| truth.hidden.is_none()).count() as u128 + 1;
        let id = RunId { session: SessionId(uuid::Uuid::from_u128(number)), run: 1 };
        let wants_report = self.dice.one_in(2);
        let leftovers = if self.dice.one_in(3) { Leftovers::Keep } else { Leftovers::Kill };
        self.add_run(id, leftovers);
        let hooks = Hooks {
            on_create: self.dice.one_in(4).then(|| "a".to_owned()),
            on_complete: self.dice.one_in(3).then(|| "b".to_owned()),
        };
        let timeout = self.dice.one_in(2).then(|| Duration::from_secs(20));
        let command = Spec::exec(vec!["x".into()], "/".into(), Duration::from_secs(5));
        let linger = self.dice.one_in(3).then(|| Duration::from_secs(8));
        let stuck = self.dice.one_in(3).then(|| Duration::from_secs(10));
        let acp = self.dice.one_in(4);
        let spec = Spec { timeout, leftovers, wants_report, hooks, linger, stuck, acp, ..command };
        (id, self.settle(id, spec))
    }

    /// It runs already.
    fn is_somebody_elses(&mut self, id: RunId) {
        let truth = self.truth(id);
        (truth.adopted, truth.leader, truth.leaders) = (true, Leader::Alive, 1);
        truth.leftovers = Leftovers::Keep;
    }

    /// What a run is going to be.
    fn add_run(&mut self, id: RunId, leftovers: Leftovers) {
        let reports = [AgentReport::Success, AgentReport::Error(None), AgentReport::Missing];
        let report = reports[self.dice.below(3)].clone();
        let truth = self.new_truth(report, leftovers, None);
        self.runs.insert(id, truth);
    }

    fn new_truth(&mut self, report: AgentReport, leftovers: Leftovers, hidden: Option<HiddenOf>) -> Truth {
        Truth {
            order: Order::Missing,
            shim: Shim::None,
            leader: Leader::Unborn,
            ended: None,
            launch_fails: self.dice.one_in(8),
            leader_file: false,
            exit_file: None,
            planted: false,
            archived: false,
            tree_file: false,
            rest: if self.dice.one_in(3) { 2 } else { 0 },
            stubborn: self.dice.one_in(4),
            report,
            leftovers,
            deadline_file: None,
            by_deadline: false,
            shim_killed: false,
            boot: self.boot,
            kernel_tells: false,
            ask_kernel: false,
            ask_tree: false,
            adopted: false,
            hidden,
            leaders: 0,
            words: 0,
            over: false,
            directory: 0,
            dir_boot: self.boot,
            forced: false,
            queue: false,
            parcel: false,
        }
    }

    /// Hooks and scripts of fuses that a step begins: runs like any other from here on.
    fn note_hooks(&mut self, records: &[Record]) {
        for record in records {
            if let Record::Created { session, spec, .. } = record
                && let Some(of) = spec.hidden()
            {
                let truth = self.new_truth(AgentReport::Missing, spec.leftovers, Some(of));
                self.runs.insert(RunId { session: *session, run: 1 }, truth);
            }
        }
    }

    /// A launch that no record and no living daemon knows of never was.
    fn forget_unknown(&mut self) {
        let (journal, daemon) = (&self.journal, &self.daemon);
        self.runs.retain(|id, _| {
            let recorded = |r: &Record| match r {
                Record::Created { session, run, .. } => *session == id.session && *run == id.run,
                Record::Resumed { run, .. } => run == id,
                _ => false,
            };
            let session = daemon.as_ref().and_then(|daemon| daemon.session(id.session));
            session.is_some_and(|session| session.run.number >= id.run) || journal.iter().any(recorded)
        });
    }

    /// A client takes a session up again, whether it has ended or not.
    fn resume(&mut self, of: RunId) {
        let Some(daemon) = &self.daemon else { return };
        let current = daemon.session(of.session).map_or(of.run, |session| session.run.number);
        let id = RunId { session: of.session, run: current + 1 };
        if self.runs.len() > 5 {
            return;
        }
        let leftovers = self.truth(of).leftovers;
        self.add_run(id, leftovers);
        let timeout = self.dice.one_in(2).then(|| Duration::from_secs(20));
        let claim = Box::new(self.claim(id, self.runs[&of].directory));
        let (to, host) = (self.reply_to(id), host(self.boot));
        let (session, stored) = (id.session, Box::default());
        let request = Request::Resume { session, host, prompt: None, timeout, claim, key: None, stored };
        self.feed(Event::Request(to, request));
        self.forget_unknown();
    }

    fn reply_to(&mut self, id: RunId) -> ReplyTo {
        self.replies += 1;
        self.waits.insert(self.replies, id);
        ReplyTo(self.replies)
    }

    fn any_run(&mut self) -> Option<RunId> {
        let count = self.runs.len();
        (count > 0).then(|| *self.runs.keys().nth(self.dice.below(count)).expect("below the count"))
    }

    fn happen(&mut self) {
        let choice = self.dice.below(25);
        if self.daemon.is_none() && (self.calm || choice < 6) {
            self.start();
            return;
        }
        match choice {
            0 if self.runs.values().filter(|truth| truth.hidden.is_none()).count() < 3
                && !self.calm
                && self.daemon.is_some() =>
            {
                self.launch()
            }
            0..=7 if !self.notices.is_empty() => {
                let at = self.dice.below(self.notices.len());
                let notice = self.notices.remove(at);
                self.feed(notice);
            }
            8..=12 => {
                if let Some(id) = self.any_run() {
                    self.shim_moves(id);
                }
            }
            13..=14 => self.someone_ends(),
            15 if !self.calm && self.dice.one_in(3) => self.an_agent_speaks(),
            15 if !self.calm && self.dice.one_in(3) && self.daemon.is_some() => self.somebody_locks(),
            15 if !self.calm => self.a_client_asks(),
            16..=17 => {
                let by = [1, 200, 3_000, 30_000][self.dice.below(4)];
                self.pass(Duration::from_millis(by));
                self.shims_watch_deadlines();
                self.feed(Event::Timer);
            }
            18 if !self.calm && self.dice.one_in(4) => {
                if let Some(id) = self.any_run() {
                    self.kill_shim(id);
                }
            }
            19 if !self.calm => self.receiver_up = self.dice.one_in(2),
            20 if !self.calm && self.dice.one_in(3) => self.plant_exit_file(),
            21 if !self.calm && self.dice.one_in(12) => self.reboot(),
            22 if !self.calm && self.dice.one_in(6) => {
                if self.disk_full {
                    self.space_again();
                } else {
                    self.disk_full = true;
                    self.feed(Event::Journal(JournalHealth::Failing("full".into())));
                }
            }
            23 if !self.calm && self.daemon.is_some() && self.dice.one_in(3) => self.crash(),
            23 if self.dice.one_in(4) => self.step_clock(),
            24 if !self.calm && self.daemon.is_some() && self.dice.one_in(2) => self.someone_sets_a_fuse(),
            _ => self.pass(Duration::from_micros(500)),
        }
    }

    fn someone_sets_a_fuse(&mut self) {
        // In the directory of all sessions, or in one that nobody uses.
        let directory = if self.dice.one_in(3) { "/" } else { "/b" }.to_owned();
        let ttl = Duration::from_secs([1, 5, 60][self.dice.below(3)]);
        self.replies += 1;
        let request = match self.dice.below(6) {
            0 => FuseRequest::Cancel { directory },
            1 => FuseRequest::Extend { directory, ttl: Some(ttl) },
            _ => {
                let webhook =
                    Notify { endpoint: "http://x#1".into(), url: Some(HiddenText("http://x/y".into())) };
                let on_expire = OnExpire {
                    script: self.dice.one_in(2).then(|| "c".to_owned()),
                    webhook: self.dice.one_in(2).then_some(webhook),
                    event: None,
                };
                let id = FuseId(uuid::Uuid::from_u128(1_000 + u128::from(self.replies)));
                FuseRequest::Set(Box::new(FuseSpec {
                    id,
                    directory,
                    ttl,
                    label: None,
                    setter: None,
                    on_expire,
                }))
            }
        };
        let nobody = RunId { session: SessionId(uuid::Uuid::nil()), run: 0 };
        self.waits.insert(self.replies, nobody);
        self.feed(Event::Request(ReplyTo(self.replies), Request::Fuse(request)));
    }

    fn someone_ends(&mut self) {
        let Some(id) = self.any_run() else { return };
        let statuses =
            [WaitStatus::exited(0), WaitStatus::exited(42), WaitStatus::exited(143), WaitStatus::killed(11)];
        let status = statuses[self.dice.below(4)];
        let truth = self.truth(id);
        if truth.leader == Leader::Alive {
            self.leader_ends(id, status);
        } else if truth.rest > 0 && !matches!(truth.leader, Leader::Unborn) {
            truth.rest -= 1;
            self.answer_questions(id);
        }
    }

    fn a_client_asks(&mut self) {
        let Some(id) = self.any_run().filter(|_| self.daemon.is_some()) else { return };
        if self.truth(id).hidden.is_some() {
            // Nobody outside can name it.
            return;
        }
        let session = id.session;
        let current =
            self.daemon.as_ref().and_then(|daemon| daemon.session(session)).map(|session| session.run_id());
        let id = current.unwrap_or(id);
        let request = match self.dice.below(5) {
            4 => {
                let of = self.one_that_ended().unwrap_or(id);
                return self.resume(of);
            }
            0 => Request::Stop { session, force: self.dice.one_in(3) },
            1 => Request::Extend { session, by: Some(Duration::from_secs(15)) },
            2 => Request::Extend { session, by: None },
            _ => Request::Wait { session },
        };
        let to = self.reply_to(id);
        self.feed(Event::Request(to, request));
    }

    /// The current run of a session that has ended, if there is one.
    fn one_that_ended(&self) -> Option<RunId> {
        let daemon = self.daemon.as_ref()?;
        let over = daemon.shown().find(|session| session.run.phase() == Phase::Ended)?;
        Some(over.run_id()).filter(|id| self.runs.contains_key(id))
    }

    /// What an agent says on the way: it waits, works again, or is done.
    fn an_agent_speaks(&mut self) {
        let Some(id) = self.any_run().filter(|_| self.daemon.is_some()) else { return };
        if self.truth(id).leader == Leader::Alive {
            let mood = [AgentEvent::Idle, AgentEvent::Active, AgentEvent::Over][self.dice.below(3)].clone();
            let truth = self.truth(id);
            truth.words += 1;
            truth.over = mood == AgentEvent::Over;
            self.feed(Event::Agent(id, mood));
        }
    }

    fn plant_exit_file(&mut self) {
        let Some(id) = self.any_run().filter(|_| self.daemon.is_some()) else { return };
        let now = self.now;
        let (lie, ahead, elsewhere) = (self.dice.below(4), self.dice.one_in(4), self.dice.one_in(4));
        let truth = self.truth(id);
        if truth.leader == Leader::Alive && truth.exit_file.is_none() {
            let how = match lie {
                0 => ExitHow::NotLaunched(LaunchError::ProgramNotFound("planted".into())),
                _ => ExitHow::Status(WaitStatus::exited(0)),
            };
            let mut exit = report(id, truth, how, now);
            if ahead {
                exit.ended.mono = now.mono.after(Duration::from_secs(3600));
            }
            if elsewhere {
                exit.boot = "planted".into();
            }
            (truth.exit_file, truth.planted) = (Some(exit.clone()), true);
            self.say(|| format!("-- an exit file is planted for {}", id.session.short()));
            // The edge looks at the leader when it reads the file, not when the file was written.
            self.feed(Event::Evidence(id, Evidence::ExitFile(exit, LeaderSeen::Alive)));
        }
    }

    fn reboot(&mut self) {
        self.say(|| "** the host goes down and boots".into());
        let now = self.now;
        self.crash();
        self.boot += 1;
        for truth in self.runs.values_mut() {
            truth.shim = if truth.shim == Shim::None { Shim::None } else { Shim::Gone };
            truth.rest = 0;
            if let Leader::Zombie(status) = truth.leader {
                truth.leader = Leader::Reaped(status);
            }
            if truth.leader == Leader::Alive {
                truth.leader = Leader::Reaped(WaitStatus::killed(9));
                truth.ended = Some(now);
            }
            truth.kernel_tells = false;
            if truth.planted {
                (truth.exit_file, truth.planted) = (None, false);
            }
        }
        // CLOCK_MONOTONIC starts again.
        self.now.mono = Mono(5_000_000_000);
        self.now.wall = self.now.wall.after(Duration::from_secs(60));
    }

    /// Somebody sets the clock of the host, by an hour and back: people see other times, nothing else changes.
    fn step_clock(&mut self) {
        let hour = Duration::from_secs(3600).as_micros() as i64;
        let by = if self.dice.one_in(2) { hour } else { -hour };
        self.say(|| format!("-- the clock is set by {by} us"));
        self.now.wall = Wall(self.now.wall.0 + by);
        self.feed(Event::Timer);
    }

    fn shims_watch_deadlines(&mut self) {
        let late = Duration::from_secs(10);
        let ids: Vec<_> = self.runs.keys().copied().collect();
        for id in ids {
            let now = self.now.mono;
            let truth = self.truth(id);
            let over = truth.deadline_file.is_some_and(|at| at.after(late) <= now);
            if over && truth.shim == Shim::Watching && truth.leader == Leader::Alive {
                truth.by_deadline = true;
                self.leader_ends(id, WaitStatus::killed(15));
            }
        }
    }

    /// No more faults: everything that was begun comes to its end.
    fn come_to_rest(&mut self) {
        (self.calm, self.receiver_up) = (true, true);
        if self.disk_full {
            self.space_again();
        }
        for _ in 0..4_000 {
            if self.daemon.is_none() {
                self.start();
            }
            let ids: Vec<_> = self.runs.keys().copied().collect();
            for id in &ids {
                self.shim_moves(*id);
                if self.truth(*id).leader == Leader::Alive {
                    self.leader_ends(*id, WaitStatus::exited(0));
                }
                self.truth(*id).rest = 0;
                self.answer_questions(*id);
            }
            while let Some(notice) = self.notices.pop() {
                self.feed(notice);
            }
            self.unlock_all();
            let Some(daemon) = &self.daemon else { continue };
            let settled = daemon.sessions().all(|session| session.is_settled());
            if settled && daemon.outbox().is_empty() && daemon.dir_fuses().count() == 0 {
                return;
            }
            let next = daemon.next_deadline().unwrap_or(self.now.mono);
            self.pass(next.since(self.now.mono).max(Duration::from_millis(1)));
            self.feed(Event::Timer);
        }
        panic!("does not come to rest: {:#?}\n{:#?}", self.daemon, self.runs);
    }

    // ---- the oracle ----------------------------------------------------------------------------

    fn check_bounds(&self, daemon: &Supervisor) {
        if daemon.recovered {
            let late = |fuse: &super::dir_fuses::DirFuse| {
                fuse.expires.after(Duration::from_secs(1)) <= self.now.wall
            };
            assert!(!daemon.dir_fuses().burning().any(late), "a fuse burns that is long due");
        }
        for session in daemon.sessions() {
            let told = daemon.may_tell(session);
            if told && session.run.verdict.is_some() {
                let id = session.run_id();
                let durable =
                    self.journal.iter().any(|r| matches!(r, Record::Ended { run, .. } if *run == id));
                assert!(durable, "a verdict may be told before it is durable");
            }
            if session.run.verdict.is_some() && !told {
                assert_eq!(session.status(told).word(), "running", "a verdict is told before it is durable");
            }
        }
    }

    /// Trouble is told of what is so, and ends a run on the agent's last word alone.
    fn check_troubles(&self, records: &[Record]) {
        for record in records {
            match record {
                Record::StopRequested { run, cause: StopCause::Lingered, .. } => {
                    assert!(self.runs[run].over, "{run:?} is ended for lingering, and works");
                }
                Record::Event { kind: EventKind::Lingering, run: Some(run), .. } => {
                    assert!(self.runs[run].over, "{run:?} is told to linger, and works");
                }
                Record::Event { kind: EventKind::Stuck, run: Some(run), .. } => {
                    assert_eq!(self.runs[run].rest, 0, "{run:?} is told to be stuck, and has children");
                }
                _ => {}
            }
        }
    }

    fn check_reply(&mut self, to: ReplyTo, reply: &Reply) {
        if self.lock_replies.remove(&to.0) {
            assert!(matches!(reply, Reply::Lock(_) | Reply::Refused(_)), "{reply:?}");
            return;
        }
        let Some(id) = self.waits.remove(&to.0) else { panic!("{to:?} is answered twice") };
        let durable = self.journal.iter().any(|r| matches!(r, Record::Ended { run, .. } if *run == id));
        match reply {
            Reply::Ended(_) | Reply::Stopped { .. } => assert!(durable, "told before it is durable"),
            Reply::Fuse(id) => {
                let set =
                    |r: &Record| matches!(r, Record::Fuse(FuseRecord::Set { fuse, .. }) if fuse.id == *id);
                assert!(self.journal.iter().any(set), "told before it is durable");
            }
            Reply::Launched(_)
            | Reply::NotYetStopped(_)
            | Reply::Extended(_)
            | Reply::Pruned(_)
            | Reply::Redelivered(_)
            | Reply::Endpoint(_)
            | Reply::Lock(_)
            | Reply::Refused(_) => {}
        }
    }

    fn check_record(&mut self, record: &Record) {
        self.check_not_locked(record);
        self.check_order(record);
        if let Record::StopRequested { run, cause: StopCause::Deadline, .. } = record {
            let ended = self.runs[run].exit_file.is_some();
            assert!(!ended || !self.recovering, "a deadline is acted on before the exit files are read");
        }
        if let Record::Resumed { run, .. } = record {
            let last = RunId { run: run.run - 1, ..*run };
            let ended = self.journal.iter().any(|r| matches!(r, Record::Ended { run, .. } if *run == last));
            assert!(ended, "a session is taken up again before its end is durable");
            assert!(self.runs[&last].leader != Leader::Alive, "two leaders of one session: {run:?}");
        }
        if let Record::Fuse(record) = record {
            self.check_fuse(record);
        }
        let Record::Ended { run, verdict } = record else { return };
        let again =
            self.journal.iter().any(|r| matches!(r, Record::Ended { run: earlier, .. } if earlier == run));
        assert!(!again, "a second verdict of {run:?}");
        let truth = &self.runs[run];
        assert!(truth.leader != Leader::Alive, "a verdict on a living leader: {verdict:?}");
        if truth.leader == Leader::Unborn {
            // A claimed launch of an earlier boot may have run: its files may have been lost with the power.
            let untold = truth.boot != self.boot && truth.order == Order::Claimed;
            let lost = untold && verdict.outcome == Outcome::Lost;
            let given_up = verdict.outcome == Outcome::Cancelled && self.is_waiting(*run);
            let failed = verdict.outcome == Outcome::LaunchFailed;
            assert!(lost || given_up || failed, "nothing ever ran: {verdict:?}");
            self.check_not_forgotten(*run, verdict);
            let may_still_run = truth.order == Order::Written || truth.shim == Shim::Claimed;
            assert!(!may_still_run, "a launch was given up that may still happen: {truth:?}");
            return;
        }
        let (Leader::Zombie(status) | Leader::Reaped(status)) = truth.leader else {
            unreachable!("the leader has ended")
        };
        match verdict.status {
            Some(said) => assert_eq!(said, status, "the status is not the leader's"),
            None => assert!(
                (truth.shim_killed
                    || truth.boot != self.boot
                    || (truth.adopted && matches!(truth.leader, Leader::Reaped(_))))
                    && truth.exit_file.is_none(),
                "the status was knowable and is given as unknown: {verdict:?}\n{truth:?}"
            ),
        }
        self.check_outcome(*run, verdict.outcome, verdict.status);
    }

    fn check_outcome(&self, run: RunId, outcome: Outcome, status: Option<WaitStatus>) {
        let truth = &self.runs[&run];
        let stop = self.journal.iter().find_map(|record| match record {
            Record::StopRequested { run: stopped, at, .. } if *stopped == run => Some(at.mono),
            _ => None,
        });
        let ended = truth.ended.expect("it has ended").mono;
        let stopped = matches!(outcome, Outcome::Cancelled | Outcome::TimedOut);
        if truth.exit_file.is_some() && stopped && !truth.by_deadline {
            let stop = stop.expect("no stop was recorded");
            assert!(stop <= ended, "a stop that came after the end took the outcome");
        }
        // Of an adopted one that cannot be told.
        if stopped && !truth.adopted {
            assert_eq!(truth.rest, 0, "a stopped run has a verdict with some of its tree alive");
        }
        if stop.is_some_and(|stop| stop <= ended) && status.is_some() {
            assert!(stopped, "a stop came first, and the outcome is {outcome:?}");
        }
        if outcome == Outcome::Completed {
            assert_eq!(status, Some(WaitStatus::exited(0)), "unknown is never success");
        }
    }

    fn check_journal(&self) {
        let mut seq = 0;
        let mut verdicts: BTreeMap<RunId, u32> = BTreeMap::new();
        let mut terminal: BTreeMap<RunId, u32> = BTreeMap::new();
        for record in &self.journal {
            match record {
                Record::Event { seq: next, kind, run, .. } => {
                    assert_eq!(*next, seq + 1, "events have a gap");
                    seq = *next;
                    let over = run.is_some_and(|run| terminal.contains_key(&run));
                    assert!(!(over && kind.is_soft()), "{kind:?} after the end");
                    if let Some(run) = run.filter(|_| kind.is_terminal()) {
                        *terminal.entry(run).or_default() += 1;
                    }
                }
                Record::Ended { run, .. } => *verdicts.entry(*run).or_default() += 1,
                Record::DeliveryOver { id, how: DeliveryEnd::Delivered, .. } => {
                    assert!(self.received.contains_key(id), "{id:?} is recorded as delivered and was not");
                }
                _ => {}
            }
        }
        for (run, truth) in &self.runs {
            assert_eq!(verdicts.get(run), Some(&1), "verdicts of {run:?}");
            let told = if truth.hidden.is_some() { None } else { Some(&1) };
            assert_eq!(terminal.get(run), told, "terminal events of {run:?}");
            assert!(!truth.planted, "a planted exit file was believed");
        }
        self.check_hooks();
        self.check_fuses();
        self.check_memory();
        for record in &self.journal {
            if let Record::DeliveryQueued { id, kind, .. } = record
                && kind.is_terminal()
            {
                assert!(self.received.contains_key(id), "{id:?} was never delivered");
            }
        }
    }
}

/// What people read of a session that is over is the same after a restart.
impl World {
    fn check_memory(&self) {
        let daemon = self.daemon.as_ref().expect("it came to rest");
        let mut again = Supervisor::new(settings(self.boot));
        self.journal.iter().for_each(|record| again.replay(record, self.now));
        for (id, session) in self.runs.keys().filter_map(|id| Some((id, daemon.session(id.session)?))) {
            if session.run_id() != *id || !session.is_settled() {
                continue;
            }
            let read = |session: &Session| {
                let run = &session.run;
                (run.verdict.clone(), run.evidence.clone(), run.usage, run.leftovers)
            };
            assert_eq!(again.session(id.session).map(read), Some(read(session)), "{id}");
        }
    }
}

/// A fuse fires once, at its time or later, or is cancelled; with everything that follows from it, or not at all.
impl World {
    /// What the journal has of a fuse.
    fn of_fuse(&self, id: FuseId) -> impl Iterator<Item = &FuseRecord> {
        let records = self.journal.iter().filter_map(|record| match record {
            Record::Fuse(record) => Some(record),
            _ => None,
        });
        records.filter(move |record| record.fuse() == id)
    }

    fn check_fuse(&self, record: &FuseRecord) {
        let id = record.fuse();
        let is_end = |r: &FuseRecord| matches!(r, FuseRecord::Fired { .. } | FuseRecord::Cancelled { .. });
        if is_end(record) {
            assert!(!self.of_fuse(id).any(is_end), "a fuse is over twice: {record:?}");
        }
        let expires = self.of_fuse(id).filter_map(|record| match record {
            FuseRecord::Set { expires, .. } | FuseRecord::Extended { expires, .. } => Some(*expires),
            _ => None,
        });
        if let FuseRecord::Fired { at, .. } = record {
            assert!(expires.last().expect("it was set") <= *at, "a fuse fires before its time");
        }
    }

    fn check_fuses(&self) {
        let count = |wanted: &dyn Fn(&Record) -> bool| self.journal.iter().filter(|r| wanted(r)).count();
        for record in &self.journal {
            let Record::Fuse(FuseRecord::Set { fuse, .. }) = record else { continue };
            let id = fuse.id;
            let fired = self.of_fuse(id).filter(|r| matches!(r, FuseRecord::Fired { .. })).count();
            let cancelled = self.of_fuse(id).filter(|r| matches!(r, FuseRecord::Cancelled { .. })).count();
            assert_eq!(fired + cancelled, 1, "{id:?} fired {fired} times");
            let told = |wanted: EventKind| {
                count(
                    &|r| matches!(r, Record::Event { kind, fuse, .. } if *kind == wanted && *fuse == Some(id)),
                )
            };
            assert_eq!(told(EventKind::FuseExpired), fired, "events of {id:?}");
            assert_eq!(told(EventKind::FuseCancelled), cancelled, "events of {id:?}");
            let scripts = count(&|r| matches!(r, Record::Created { session, .. } if *session == id.script()));
            let has_script = fuse.on_expire.script.is_some();
            assert_eq!(scripts, if has_script { fired } else { 0 }, "scripts of {id:?}");
            let seq = self.journal.iter().find_map(|r| match r {
                Record::Event { seq, kind: EventKind::FuseExpired, fuse, .. } if *fuse == Some(id) => {
                    Some(*seq)
                }
                _ => None,
            });
            if let (Some(seq), Some(webhook)) = (seq, &fuse.on_expire.webhook) {
                let id = DeliveryId { seq, endpoint: webhook.endpoint.clone() };
                assert!(self.received.contains_key(&id), "{id:?} was never delivered");
            }
        }
    }
}

/// At most once per verdict, for certain; and nobody forgets how it went.
impl World {
    fn check_hooks(&self) {
        let daemon = self.daemon.as_ref().expect("it came to rest");
        for (id, truth) in &self.runs {
            match truth.hidden {
                Some(HiddenOf::Hook(of)) => {
                    assert_eq!(id.session, of.id());
                    assert!(truth.leaders <= 1, "a hook was begun {} times", truth.leaders);
                    assert!(daemon.session(id.session).is_none(), "a hook that is over is kept");
                    continue;
                }
                Some(HiddenOf::Fuse(fuse)) => {
                    assert_eq!(id.session, fuse.script());
                    assert!(truth.leaders <= 1, "a script was begun {} times", truth.leaders);
                    continue;
                }
                None => {}
            }
            let Some(session) = daemon.session(id.session) else {
                let forgotten =
                    |r: &Record| matches!(r, Record::Pruned { session } if *session == id.session);
                assert!(self.journal.iter().any(forgotten), "{id:?} is gone");
                continue;
            };
            let verdicts =
                self.journal.iter().filter(|r| matches!(r, Record::Ended { run, .. } if run == id));
            assert_eq!(verdicts.count(), 1);
            if session.run_id() != *id {
                // Taken up again: it remembers the hooks of its last run.
                continue;
            }
            for kind in HookKind::ALL {
                self.check_hook(HookOf { run: *id, kind }, session);
            }
        }
    }

    fn check_hook(&self, of: HookOf, session: &Session) {
        let wanted = session.spec.hooks.script(of.kind).is_some();
        let begun = match of.kind {
            HookKind::OnCreate => session.run.started.is_some() && of.run.run == 1,
            HookKind::OnComplete => true,
        };
        let created = self
            .journal
            .iter()
            .filter(|r| matches!(r, Record::Created { session, .. } if *session == of.id()));
        assert_eq!(created.count(), usize::from(wanted && begun), "starts of {of:?}");
        let state = session.run.hooks.get(&of.kind);
        if !(wanted && begun) {
            assert!(state.is_none());
            return;
        }
        let Some(HookState::Ended(verdict)) = state else { panic!("{of:?} is {state:?} at the end") };
        let truth = &self.runs[&RunId { session: of.id(), run: 1 }];
        match truth.leader {
            Leader::Unborn => assert_ne!(verdict.outcome, Outcome::Completed, "it never ran"),
            Leader::Alive => panic!("a hook is told as ended and lives"),
            Leader::Zombie(status) | Leader::Reaped(status) => {
                assert!(verdict.status.is_none_or(|said| said == status), "{verdict:?} of {status:?}");
                assert!(verdict.status.is_some() || verdict.outcome == Outcome::Lost, "{verdict:?}");
            }
        }
    }
}

fn launch_of(id: RunId, host: HostId, spec: Spec) -> Request {
    let (session, spec) = (id.session, Box::new(spec));
    Request::Launch { session, host, origin: Origin::Launched, spec, key: None }
}

fn report(id: RunId, truth: &Truth, how: ExitHow, ended: Now) -> ExitReport {
    let leader = matches!(how, ExitHow::Status(_)).then(|| leader_id(id, truth.boot));
    ExitReport {
        leader,
        how,
        ended,
        boot: host(truth.boot).boot,
        usage: Usage::default(),
        by_deadline: truth.by_deadline,
        leftovers: Some(truth.rest),
    }
}

fn phases(daemon: &Supervisor) -> BTreeMap<SessionId, Phase> {
    daemon.sessions().map(|session| (session.id, session.run.phase())).collect()
}

/// One history; returns where its crashes fell.
fn history(seed: u64, tracing: bool) -> BTreeSet<Crash> {
    let mut world = World::new(seed, tracing);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        world.start();
        let length = 20 + world.dice.below(120);
        for _ in 0..length {
            world.happen();
        }
        world.come_to_rest();
        world.check_journal();
    }));
    if tracing {
        for line in &world.trace {
            println_line(line);
        }
    }
    if let Err(cause) = outcome {
        println_line(&format!("this history failed: AGENTCTL_SIM_SEED={seed}"));
        std::panic::resume_unwind(cause);
    }
    world.crashes
}

#[expect(clippy::print_stdout, reason = "a failing test shows its history")]
fn println_line(line: &str) {
    println!("{line}");
}

/// Every pair of a transition and a crash point that the machine can reach. A change that makes one
/// unreachable, or adds one, has to say so here.
fn reachable() -> BTreeSet<Crash> {
    use CrashPoint::{AfterCommit, BeforeCommit, BetweenEffects};
    use Phase::{Ended, Ending, Launching, Queued, Running, Stopping};
    let recorded = [
        (None, Launching),
        (Some(Launching), Running),
        (Some(Launching), Stopping),
        (Some(Launching), Ended),
        (Some(Running), Stopping),
        (Some(Running), Ended),
        (Some(Stopping), Ended),
        (Some(Ending), Ended),
        // Taken up again.
        (Some(Ended), Launching),
        // In the line.
        (None, Queued),
        (Some(Ended), Queued),
        (Some(Queued), Launching),
        (Some(Queued), Ended),
    ];
    let mut pairs: BTreeSet<Crash> = BTreeSet::new();
    for (before, after) in recorded {
        pairs.extend([BeforeCommit, AfterCommit, BetweenEffects].map(|point| (before, after, point)));
    }
    // Learning that the leader ended is no record; it only asks.
    pairs.insert((Some(Running), Ending, BetweenEffects));
    pairs
}

#[test]
fn every_history_keeps_the_promise() {
    if let Some(seed) = std::env::var("AGENTCTL_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        history(seed, true);
        return;
    }
    let runs = std::env::var("AGENTCTL_SIM_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000u64);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let crashes: BTreeSet<Crash> = std::thread::scope(|scope| {
        let work: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || {
                    (first..runs)
                        .step_by(threads as usize)
                        .flat_map(|seed| history(seed, false))
                        .collect::<BTreeSet<_>>()
                })
            })
            .collect();
        work.into_iter()
            .flat_map(|thread| thread.join().expect("a history failed; its seed is above"))
            .collect()
    });
    let missing: Vec<_> = reachable().difference(&crashes).copied().collect();
    let table: Vec<_> = crashes.iter().collect();
    println_line(&format!("{runs} histories; crashes fell into these transitions:\n{table:#?}"));
    assert!(missing.is_empty(), "no crash fell into {missing:?}");
}
