//! One run: storm, calm, judgement, table.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{scope, sleep};
use std::time::Duration;

use agentctl::sys::{Found, ProcessRef, clock};
use agentctl::wire::session_dir::RunFiles;
use fastrand::Rng;
use serde_json::Value;

use crate::clients::World;
use crate::ledger::{Broken, Ledger};
use crate::life::{Plan, ROOMS};
use crate::observer::Observer;
use crate::oracle::{self, Judgement};
use crate::receiver::{Receiver, Weather};
use crate::rig::Rig;
use crate::storm::{Storm, Tally};

/// Launches at once.
const LAUNCHERS: usize = 6;
/// Sessions that come after the storm, for what must not grow.
const CALM: usize = 40;
/// Nothing but a hang takes so long.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a daemon may have grown by over the calm sessions: pages that its allocator keeps.
const GROWTH_MAX_KIB: u64 = 4 << 10;

struct Size {
    sessions: usize,
    /// The launches are spread over so long.
    span: Duration,
    seed: u64,
}

impl Size {
    fn from_env() -> Result<Self, String> {
        let number = |name: &str| match std::env::var(name) {
            Ok(text) => text.parse().map(Some).map_err(|error| format!("{name}={text}: {error}")),
            Err(_) => Ok(None),
        };
        let sessions: u64 = number("AGENTCTL_CHAOS_SESSIONS")?.unwrap_or(200);
        let span = number("AGENTCTL_CHAOS_SECONDS")?.map(Duration::from_secs);
        let seed = number("AGENTCTL_CHAOS_SEED")?.unwrap_or_else(|| Rng::new().u64(..100_000));
        Ok(Self {
            sessions: usize::try_from(sessions).map_err(|error| error.to_string())?,
            span: span.unwrap_or(Duration::from_millis(150 * sessions)),
            seed,
        })
    }
}

/// The whole of it; what was broken, in words.
pub(crate) fn run() -> Result<(), String> {
    let size = Size::from_env()?;
    let seed = size.seed;
    said(&format!("chaos: seed {seed}, {} sessions over {} s", size.sessions, size.span.as_secs()));
    let in_words = |error: io::Error| format!("{error} (seed {seed})");
    let observer_dir = tempfile::Builder::new().prefix("chaos-").tempdir().map_err(in_words)?;
    let socket = observer_dir.path().join("observer");
    let observer = Observer::listen(&socket).map_err(in_words)?;
    let receiver = Receiver::start(&observer).map_err(in_words)?;
    let rig = receiver.url().and_then(|url| Rig::new(&url)).map_err(in_words)?;
    let ledger = Ledger::new(&observer);
    let mut dice = Rng::with_seed(seed);
    let mut plans: Vec<Plan> = (0..size.sessions).map(|index| Plan::random(index, &mut dice)).collect();
    plans.extend((0..CALM).map(|n| Plan::calm(size.sessions + n)));
    let over = AtomicBool::new(false);
    let socket = socket.display().to_string();
    let world = World {
        rig: &rig,
        ledger: &ledger,
        observer: &observer,
        plans: &plans,
        socket: &socket,
        over: &over,
    };
    let begun = clock::now().mono;
    let played = play(&world, &receiver, &size, &mut dice);
    let (mut counts, mut words) = oracle::verdict(&world);
    match played {
        Ok((judgement, tally, schema)) => {
            let lasted = clock::now().mono.since(begun);
            said(&table(&world, &size, &judgement, &tally, schema, lasted, &counts));
        }
        Err(error) => {
            counts.push(("not judged", 1));
            words.push(error.to_string());
        }
    }
    if counts.iter().all(|(_, count)| *count == 0) {
        return Ok(());
    }
    let kept = rig.keep();
    Err(format!("seed {seed}: {counts:?}\n{}\nkept: {kept:?}", words.join("\n")))
}

fn play(
    world: &World<'_>,
    receiver: &Receiver,
    size: &Size,
    dice: &mut Rng,
) -> io::Result<(Judgement, Tally, u32)> {
    let mut storm = Storm::begin(world.rig, world.ledger, dice.fork())?;
    let raged = rage(world, receiver, size, dice, &mut storm);
    world.over.store(true, Ordering::Relaxed);
    raged?;
    receiver.turn(Weather::Fair)?;
    storm.answers()?;
    settle(world)?;
    calm(world, size, &mut storm)?;
    settle(world)?;
    deliver(world, &storm)?;
    // Taken last: the shim's word on the end of a tree may come after its verdict and its usage.
    let records = settle(world)?;
    // All that is known survives one more kill and one more restart.
    let events = world.all_events().ok_or_else(|| io::Error::other("no answer to events"))?;
    storm.kill()?;
    storm.restart_after_kill()?;
    storm.restart()?;
    let after = world.all_events().ok_or_else(|| io::Error::other("no answer to events"))?;
    if events != after {
        world.ledger.broken(Broken::Changed, "the events after a restart are others".into());
    }
    let mut known = 0;
    after.iter().for_each(|line| known = world.ledger.event(line));
    let now = settle(world)?;
    if let Some((was, is)) = records.iter().zip(&now).find(|(was, is)| was != is) {
        let what = format!("a record after a restart is another:\n{was}\n{is}");
        world.ledger.broken(Broken::Changed, what);
    } else if now.len() != records.len() {
        let what = format!("{} records before a restart, {} after it", records.len(), now.len());
        world.ledger.broken(Broken::Changed, what);
    }
    let judgement = oracle::judge(world, &records, &receiver.got());
    storm.finish()?;
    Ok((judgement, storm.tally, storm.schema()))
}

/// The storm, with all clients in it, until everything was launched and has ended.
fn rage(
    world: &World<'_>,
    receiver: &Receiver,
    size: &Size,
    dice: &mut Rng,
    storm: &mut Storm<'_>,
) -> io::Result<()> {
    let (to_launch, orders) = channel();
    let orders = Mutex::new(orders);
    scope(|threads| {
        let mut forks: Vec<Rng> = (0..7).map(|_| dice.fork()).collect();
        let mut fork = || forks.pop().unwrap_or_default();
        let launchers: Vec<_> = (0..LAUNCHERS).map(|_| threads.spawn(|| world.launch_all(&orders))).collect();
        let (one, two, three) = (fork(), fork(), fork());
        threads.spawn(move || world.look_around(one));
        threads.spawn(move || world.stop_some(two));
        threads.spawn(move || world.wait_for_some(three));
        let (four, five, six) = (fork(), fork(), fork());
        threads.spawn(move || world.read_all_events(four));
        threads.spawn(move || world.set_off_bursts(five));
        threads.spawn(move || world.make_weather(receiver, six));
        threads.spawn(move || world.follow_events());
        let pace = size.span / u32::try_from(size.sessions.max(1)).unwrap_or(u32::MAX);
        threads.spawn(move || {
            let begun = clock::now().mono;
            for index in 0..size.sessions {
                let due = begun.after(pace * u32::try_from(index).unwrap_or(u32::MAX));
                sleep(due.since(clock::now().mono));
                if to_launch.send(index).is_err() {
                    return;
                }
            }
        });
        let mut struck = Ok(());
        let begun = clock::now().mono;
        while launchers.iter().any(|launcher| !launcher.is_finished())
            || !world.observer.living().is_empty()
            || !world.in_queue().is_empty()
        {
            struck = storm.strike();
            if struck.is_err() {
                break;
            }
            if clock::now().mono.since(begun) > size.span + PATIENCE * 2 {
                struck = Err(io::Error::other("the storm does not end: some session does not"));
                break;
            }
        }
        world.over.store(true, Ordering::Relaxed);
        struck
    })
}

/// Waits until every session has its verdict, and no process but the daemon is left; the records.
fn settle(world: &World<'_>) -> io::Result<Vec<Value>> {
    let begun = clock::now().mono;
    loop {
        let list = world.rig.json(&["list", "-a", "--json"]);
        let records = list.and_then(|list| list.as_array().cloned()).unwrap_or_default();
        records.iter().for_each(|record| world.ledger.hear(record, "list"));
        let open = records.iter().filter(|record| !is_settled(world, record));
        let open: Vec<&str> = open.filter_map(|record| record["id"].as_str()).collect();
        if open.is_empty() && !records.is_empty() {
            return Ok(records);
        }
        if clock::now().mono.since(begun) > PATIENCE {
            let what = format!("{} sessions have no verdict, or processes left: {open:?}", open.len());
            world.ledger.broken(Broken::Missing, what);
            return Ok(records);
        }
        world.observer.burst();
        sleep(Duration::from_millis(100));
    }
}

/// It has a verdict, its shim has ended, and what the shim said last has been read.
fn is_settled(world: &World<'_>, record: &Value) -> bool {
    if record["outcome"].is_null() {
        return false;
    }
    if record["outcome"] == "launch_failed" || oracle::is_of_the_queue(record) {
        return true;
    }
    let dir = world.rig.home().join("sessions").join(record["id"].as_str().unwrap_or_default());
    let shim = RunFiles::in_session_dir(&dir, 1).and_then(|files| files.read_shim().ok());
    let ended = |found| matches!(found, Found::Gone | Found::Ended(_));
    let tree_gone = record["evidence"]
        .as_array()
        .is_some_and(|all| all.iter().any(|evidence| evidence["prong"] == "tree_gone"));
    shim.is_none_or(|shim| ended(ProcessRef::find(&shim.process)))
        && (tree_gone || !record["usage"].is_null())
}

/// Sessions without trouble under one daemon: whatever it held for each, it gives back.
fn calm(world: &World<'_>, size: &Size, storm: &mut Storm<'_>) -> io::Result<()> {
    storm.restart()?;
    let batch = |from: usize, to: usize| {
        world.plans[from..to].iter().for_each(|plan| world.launch(plan));
        settle(world).map(drop)
    };
    let middle = size.sessions + CALM / 2;
    batch(size.sessions, middle)?;
    let before = Held::by(storm.pid())?;
    batch(middle, size.sessions + CALM)?;
    let begun = clock::now().mono;
    loop {
        let after = Held::by(storm.pid())?;
        // Connections to the receiver are kept for a while.
        if after.files <= before.files
            && after.zombies == 0
            && after.rss_kib <= before.rss_kib + GROWTH_MAX_KIB
        {
            return Ok(());
        }
        if clock::now().mono.since(begun) > PATIENCE / 4 {
            world.ledger.broken(Broken::Growth, format!("the daemon held {before:?} and holds {after:?}"));
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    files: usize,
    rss_kib: u64,
    zombies: usize,
}

impl Held {
    fn by(pid: u32) -> io::Result<Self> {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let rss_kib =
            rss.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(u64::MAX);
        let mut zombies = 0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
            let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            zombies += usize::from(rest.starts_with(&format!("Z {pid} ")));
        }
        Ok(Self { files, rss_kib, zombies })
    }
}

/// Waits until nothing is owed any more. What failed more than once waits for minutes, or for another's success.
fn deliver(world: &World<'_>, storm: &Storm<'_>) -> io::Result<()> {
    let begun = clock::now().mono;
    loop {
        let health = world.rig.health().unwrap_or_default();
        if health["deliveriesOwed"] == 0 {
            return Ok(());
        }
        if clock::now().mono.since(begun) > PATIENCE {
            let what = format!("owed by daemon {}: {health}", storm.pid());
            world.ledger.broken(Broken::Delivery, what);
            return Ok(());
        }
        sleep(Duration::from_millis(100));
    }
}

fn table(
    world: &World<'_>,
    size: &Size,
    judgement: &Judgement,
    tally: &Tally,
    schema: u32,
    lasted: Duration,
    counts: &[(&str, usize)],
) -> String {
    let mut late = judgement.told_after.clone();
    late.sort();
    let at = |per_mille: usize| {
        late.get(late.len() * per_mille / 1_000).or(late.last()).map_or(0, Duration::as_millis)
    };
    let log = fs::read_to_string(world.rig.log()).unwrap_or_default();
    let migrations = log.matches("the journal is brought from version").count();
    let again = migrations.saturating_sub(usize::try_from(schema).unwrap_or_default().saturating_sub(1));
    let mut text = String::new();
    let mut row = |name: &str, what: String| {
        let _infallible = writeln!(text, "  {name:<12} {what}");
    };
    row("seed", format!("{}, {:.0} s", size.seed, lasted.as_secs_f64()));
    row(
        "sessions",
        format!("{} ({} launch requests)", world.ledger.launches().len(), world.ledger.attempts()),
    );
    row(
        "outcomes",
        judgement.outcomes.iter().map(|(k, n)| format!("{n} {k}")).collect::<Vec<_>>().join(", "),
    );
    let Tally {
        starts,
        kills,
        kills_at_start,
        terms,
        pauses,
        replaced,
        upgrades,
        cut_off,
        cut_off_copies,
        downgrades,
    } = tally;
    row(
        "daemon",
        format!(
            "{starts} starts, {kills} kills ({kills_at_start} before its first answer), {terms} TERM, {pauses} STOP and CONT"
        ),
    );
    row(
        "builds",
        format!(
            "{upgrades} upgrades to schema {schema} ({cut_off} kills at their start, {cut_off_copies} in the copy, {again} between copy and commit), {replaced} of the same schema, {downgrades} downgrades refused"
        ),
    );
    row(
        "clients",
        format!(
            "{} answers held against the kernel, {} waits",
            world.ledger.questions(),
            world.ledger.waits().len()
        ),
    );
    row(
        "rooms",
        format!(
            "{} launches into {ROOMS} directories for one session each, {} refusals",
            world.plans.iter().filter(|plan| plan.room.is_some()).count(),
            world.ledger.refusals()
        ),
    );
    row("events", judgement.events.to_string());
    row("webhooks", format!("{} requests, {} of them repeats", judgement.deliveries, judgement.repeats));
    row(
        "told after",
        format!("p50 {} ms, p99 {} ms, max {} ms (with the daemon away)", at(500), at(990), at(1_000)),
    );
    row(
        "broken",
        counts.iter().map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", "),
    );
    text
}

fn said(text: &str) {
    drop(writeln!(io::stdout(), "{text}"));
}
