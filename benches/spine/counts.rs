//! What is counted, and not timed: allocations of the core for a session, system calls and switches of the daemon for a
//! launch, an exit and a listing. The same on every machine, so this part fails where a bound is passed.
//!
//! Each is taken among few sessions and among many: what grows with their number is found even where it is small.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use agentctl::core::fuse::{Evidence, Prong};
use agentctl::core::session::{Origin, Spec};
use agentctl::core::vocab::{HostId, Mono, Now, ProcessId, RunId, SessionId, WaitStatus, Wall};
use agentctl::core::{Event, ReplyTo, Request, Settings, Supervisor};
use agentctl::sys::ProcessRef;
use uuid::Uuid;

use crate::daemon::Daemon;
use crate::exits::Watch;
use crate::launches::{SLEEPER, at_once};
use crate::others::Sleepers;
use crate::proc;
use crate::report::Report;
use crate::{Extent, Outcome};

/// Sessions that are there already.
const FEW: usize = 10;
const MANY: usize = 200;
/// The core alone is cheap enough for more.
const MANY_IN_CORE: usize = 5_000;
/// Processes that are nobody's of ours.
const OTHERS: usize = 300;
/// Sessions that end at the same moment.
const TOGETHER: usize = 100;
/// Of each kind, so that what comes now and then is spread.
const ROUNDS: usize = 20;

/// A count for each of something, among few and among many.
struct Counted {
    what: &'static str,
    few: f64,
    many: f64,
    /// What is allowed, and why so much.
    most: f64,
    why: &'static str,
}

pub(crate) fn measure(_extent: &Extent, report: &mut Report) -> Outcome<()> {
    let mut counted = vec![allocations()?, memory()];
    let mut daemon = Daemon::start("normal")?;
    let few = Counts::of(&mut daemon, FEW)?;
    let many = Counts::of(&mut daemon, MANY)?;
    drop(daemon);
    counted.extend(few.beside(&many));
    let mut too_many = Vec::new();
    for it in &counted {
        let within = it.few <= it.most && it.many <= it.most;
        let words = format!("{:.1} among few sessions, {:.1} among many", it.few, it.many);
        let aim = format!("<= {:.0}: {}", it.most, it.why);
        report.figure(it.what, it.many, words.clone(), Some((aim, within)));
        if !within {
            too_many.push(format!("{}: {words}", it.what));
        }
    }
    if too_many.is_empty() { Ok(()) } else { Err(too_many.join("; ").into()) }
}

/// Of one whole life of a session in the core: launch, start, end, tree gone.
fn allocations() -> Outcome<Counted> {
    let among = |sessions: usize| {
        let mut core = Core::new();
        for _ in 0..sessions {
            core.begin();
        }
        // Collections have grown for the last time before the count begins, or it is spread.
        let lives = 64;
        let info = allocation_counter::measure(|| {
            for _ in 0..lives {
                let run = core.begin();
                core.end(run);
            }
        });
        // A launch that is refused would be cheap.
        if core.supervisor.live() != sessions {
            return Err(format!("{} sessions live, and not {sessions}", core.supervisor.live()).into());
        }
        Outcome::Ok(info.count_total as f64 / f64::from(lives))
    };
    Ok(Counted {
        what: "core: allocations for a session's life",
        few: among(FEW)?,
        many: among(MANY_IN_CORE)?,
        most: 60.0,
        why: "its records, effects, names and the place of its directory; nothing for each other session",
    })
}

/// Of a session that runs, in a directory of its own.
fn memory() -> Counted {
    let among = |sessions: usize| {
        let mut core = Core::new();
        let info = allocation_counter::measure(|| (0..sessions).for_each(|_| _ = core.begin()));
        info.bytes_current as f64 / sessions as f64
    };
    Counted {
        what: "core: bytes for a session that runs",
        few: among(MANY),
        many: among(MANY_IN_CORE),
        most: 2_200.0,
        why: "its record, its names and its places in the indexes of ids, timers and directories",
    }
}

struct Core {
    supervisor: Supervisor,
    now: u64,
    host: HostId,
}

impl Core {
    fn new() -> Self {
        let host = HostId { machine: "m".into(), boot: "b".into(), pid_ns: 1 };
        let settings = Settings {
            endpoints: Vec::new(),
            retention: Duration::from_secs(7 * 86_400),
            disk_max_bytes: u64::MAX,
            max_sessions: 100_000,
            adapter_max_sessions: Default::default(),
            host: host.clone(),
        };
        let mut core = Self { supervisor: Supervisor::new(settings), now: 0, host };
        core.feed(Event::Recovered);
        core
    }

    fn feed(&mut self, event: Event) {
        self.now += 1_000;
        let wall = Wall(1_700_000_000_000_000 + i64::try_from(self.now / 1_000).unwrap_or_default());
        let now = Now { wall, mono: Mono(self.now) };
        self.supervisor.step(now, event);
        let durable = Event::Durable(self.supervisor.appended());
        self.supervisor.step(now, durable);
    }

    fn begin(&mut self) -> RunId {
        let run = RunId { session: SessionId(Uuid::new_v4()), run: 1 };
        let spec = Spec::exec(vec!["true".into()], format!("/nowhere/{}", self.now), Duration::from_secs(1));
        let launch = Request::Launch {
            session: run.session,
            host: self.host.clone(),
            origin: Origin::Launched,
            spec: Box::new(spec),
            key: None,
        };
        self.feed(Event::Request(ReplyTo(1), launch));
        let leader = ProcessId { pid: 7, handle: None, start_ticks: 1 };
        self.feed(Event::Evidence(run, Evidence::Started(leader)));
        run
    }

    fn end(&mut self, run: RunId) {
        let status = Evidence::KernelStatus(Some(WaitStatus::exited(0)), Prong::PidfdInfo);
        self.feed(Event::Evidence(run, status));
        self.feed(Event::Evidence(run, Evidence::TreeGone(None)));
    }
}

/// Of the daemon, for each launch, exit and listing.
struct Counts {
    calls: Option<[f64; 4]>,
    switches: [f64; 2],
    /// Of the daemon, once many sessions have ended together: those that wait for more work are there for a while.
    threads: f64,
}

impl Counts {
    fn of(daemon: &mut Daemon, sessions: usize) -> Outcome<Self> {
        let there = daemon.client()?.get("/v1/sessions")?.as_array().map_or(0, Vec::len);
        at_once(daemon, sessions - there)?;
        let mut client = daemon.client()?;
        let mut watch = Watch::over(daemon)?;
        // Threads, caches and prepared statements are there.
        client.launch(&SLEEPER)?;
        client.get("/v1/sessions")?;
        watch.exits(1)?;
        thread::sleep(Duration::from_secs(1));
        let switches = |work: &mut dyn FnMut() -> Outcome<()>| -> Outcome<f64> {
            let before = proc::activity(daemon.pid())?;
            (0..ROUNDS).try_for_each(|_| work())?;
            Ok(proc::activity(daemon.pid())?.since(&before).switches as f64 / ROUNDS as f64)
        };
        let launch = switches(&mut || client.launch(&SLEEPER).map(|_| ()))?;
        let life = switches(&mut || watch.exits(1).map(|_| ()))?;
        let calls = |work: &mut dyn FnMut() -> Outcome<()>| -> Outcome<Option<f64>> {
            let Some(mut trace) = Trace::start(daemon)? else { return Ok(None) };
            (0..ROUNDS).try_for_each(|_| work())?;
            Ok(Some(trace.end()? as f64 / ROUNDS as f64))
        };
        let launched = calls(&mut || client.launch(&SLEEPER).map(|_| ()))?;
        let lived = calls(&mut || watch.exits(1).map(|_| ()))?;
        let listed = calls(&mut || client.get("/v1/sessions?discovered=0").map(|_| ()))?;
        // Whoever else comes and goes on this machine is in both.
        let mut look = || client.get("/v1/sessions").map(|_| ());
        let without = calls(&mut look)?;
        let _others = Sleepers::start(OTHERS)?;
        look()?;
        let with = calls(&mut look)?;
        let looked = with.zip(without).map(|(with, without)| (with - without) / OTHERS as f64);
        let calls = launched.zip(lived).zip(listed).zip(looked);
        let calls = calls.map(|(((a, b), c), d)| [a, b, c, d]);
        watch.burst(TOGETHER)?;
        thread::sleep(Duration::from_secs(1));
        let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        let threads = proc::field(&status, "Threads:")? as f64;
        Ok(Self { calls, switches: [launch, life], threads })
    }

    fn beside(&self, many: &Self) -> Vec<Counted> {
        let [few_launch, few_life] = self.switches;
        let [many_launch, many_life] = many.switches;
        let mut counted = vec![
            Counted {
                what: "daemon: switches for a launch",
                few: few_launch,
                many: many_launch,
                most: 30.0,
                why: "request, commit, thread of the spawn, word of the shim, commit",
            },
            Counted {
                what: "daemon: switches for a launch and an exit",
                few: few_life,
                many: many_life,
                most: 60.0,
                why: "those, pidfd, exit file, commit, archive, word of the tree, commit",
            },
            Counted {
                what: "daemon: threads after 100 exits at the same moment",
                few: self.threads,
                many: many.threads,
                most: 40.0,
                why: "what follows a verdict is done together; those of the launches before are among them",
            },
        ];
        if let (Some(few), Some(many)) = (self.calls, many.calls) {
            let lines = [
                (
                    "daemon, shim and leader: system calls for a launch",
                    680.0,
                    "the two programs begin, glibc asks for each signal twice, and the leader is given each back",
                ),
                (
                    "daemon, shim and leader: system calls for a launch and an exit",
                    870.0,
                    "those, the exit file and the end of the tree",
                ),
                ("daemon: system calls for a listing", 30.0, "the socket's; none for a session"),
                (
                    "daemon: system calls of a look outside, for each process that is not ours",
                    6.0,
                    "open, read and close its command line, and its program; none for our own",
                ),
            ];
            for (at, (what, most, why)) in lines.into_iter().enumerate() {
                counted.push(Counted { what, few: few[at], many: many[at], most, why });
            }
        }
        counted
    }
}

/// strace, counting.
struct Trace {
    strace: Child,
    output: tempfile::NamedTempFile,
}

impl Trace {
    /// None: there is no strace here, which only CI takes amiss.
    fn start(daemon: &Daemon) -> Outcome<Option<Self>> {
        let output = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command.args(["-f", "-c", "-U", "name,calls", "-o"]).arg(output.path());
        command.args(["-p", &daemon.pid().to_string()]).stderr(Stdio::null());
        let strace = match command.spawn() {
            Ok(strace) => strace,
            Err(error) if std::env::var_os("CI").is_none() => {
                eprintln!("system calls are not counted: start strace: {error}");
                return Ok(None);
            }
            Err(error) => return Err(format!("start strace: {error}").into()),
        };
        let traced = |task: &fs::DirEntry| {
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            proc::field(&status, "TracerPid:").is_ok_and(|tracer| tracer > 0)
        };
        for _ in 0..500 {
            let tasks = fs::read_dir(format!("/proc/{}/task", daemon.pid()))?;
            if tasks.flatten().all(|task| traced(&task)) {
                return Ok(Some(Self { strace, output }));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Err("strace does not trace the daemon".into())
    }

    /// How many there were in all.
    fn end(&mut self) -> Outcome<u64> {
        // What was asked for may still be put away.
        thread::sleep(Duration::from_millis(300));
        ProcessRef::of_child(self.strace.id())?.signal(2)?;
        self.strace.wait()?;
        let table = fs::read_to_string(self.output.path())?;
        let total = table.lines().find_map(|line| line.trim().strip_prefix("total"));
        Ok(total.ok_or("strace's sum")?.trim().parse()?)
    }
}
