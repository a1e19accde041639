//! The conformance tests of the kernel seam: each promise below is kept by every backend.
//!
//! Nothing here sleeps for a condition: a test waits for the news itself, at most [`PATIENCE`]. That something does
//! *not* happen is shown by a later event that does.

mod cgroup;
mod process;
mod shim;
mod tree;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::Duration;

use agentctl::core::vocab::{Mono, WaitStatus};
use agentctl::sys::{
    Backend, BackendChoice, DirNews, ProcessRef, RescanWhy, Sent, Sys, clock, features, run,
};
use rustix::process::{Pid, WaitOptions, waitpid};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

/// How long any wait may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes one test per case and backend.
macro_rules! on_every_backend {
    ($($case:ident),+ $(,)?) => {
        on_every_backend!(@ uring Uring $($case)+);
        on_every_backend!(@ epoll Epoll $($case)+);
        on_every_backend!(@ portable Portable $($case)+);
    };
    (@ $module:ident $choice:ident $($case:ident)+) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $case() {
                    run(BackendChoice::$choice, super::$case).expect("the backend starts");
                }
            )+
        }
    };
}

on_every_backend!(
    the_end_of_our_child_is_noticed,
    the_end_and_the_reap_of_a_strangers_child_are_noticed,
    one_that_had_ended_before_is_noticed_at_once,
    five_hundred_ends_at_once_are_all_noticed,
    twenty_files_renamed_in_are_each_told_once,
    a_directory_that_goes_away_makes_us_blind_until_it_is_back,
    a_directory_that_was_replaced_is_watched_in_its_place,
    the_timer_fires_for_the_instant_armed_last,
    a_disarmed_timer_does_not_fire,
    growth_is_told_once_to_each_who_waits,
    a_file_that_is_forgotten_or_deleted,
    the_heart_beats,
);

/// A process that ends only when it is told to; killed and reaped when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep starts"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("killed");
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _already_ended = self.0.kill();
        let _already_reaped = self.0.wait();
    }
}

/// Holds a process as this backend does.
fn hold(sys: &Sys, pid: u32) -> ProcessRef {
    let held = match sys.started().backend {
        Backend::Uring | Backend::Epoll => ProcessRef::of_child(pid),
        Backend::Portable => ProcessRef::by_number(pid),
    };
    held.expect("the process is there")
}

/// Makes callbacks that report an end, all to one channel.
struct Reporter(UnboundedSender<()>);

impl Reporter {
    fn new() -> (Self, UnboundedReceiver<()>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
    }

    fn report(&self) -> impl FnOnce(io::Result<()>) + 'static {
        let sender = self.0.clone();
        move |result| {
            result.expect("the wait works");
            sender.send(()).expect("the test listens");
        }
    }
}

async fn within<T>(what: &str, news: impl Future<Output = T>) -> T {
    timeout(PATIENCE, news).await.unwrap_or_else(|_| panic!("no news within {PATIENCE:?}: {what}"))
}

async fn next<T>(what: &str, news: &mut UnboundedReceiver<T>) -> T {
    within(what, news.recv()).await.expect("the channel is open")
}

async fn the_end_of_our_child_is_noticed(sys: Sys) {
    let mut sleeper = Sleeper::start();
    let process = hold(&sys, sleeper.0.id());
    let (reporter, mut ended) = Reporter::new();
    sys.on_end(&process, reporter.report());
    assert_eq!(process.has_ended(), Some(false));
    assert!(sys.heartbeat().await);
    assert!(ended.try_recv().is_err(), "told the end of a living process");

    assert_eq!(process.signal(15).expect("signalled"), Sent::Sent);
    next("the end", &mut ended).await;
    assert_eq!(process.has_ended(), Some(true));
    assert_eq!(process.zombie_status(), Some(WaitStatus::killed(15)));
    sleeper.0.wait().expect("reaped");
    assert_eq!(process.signal(15).expect("answered"), Sent::Gone);
}

async fn the_end_and_the_reap_of_a_strangers_child_are_noticed(sys: Sys) {
    let script = "sleep 600 & echo $!; wait $!; read stay";
    let mut shell = Sleeper(
        Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts"),
    );
    let mut said = String::new();
    BufReader::new(shell.0.stdout.take().expect("piped")).read_line(&mut said).expect("a line");
    let process = hold(&sys, said.trim().parse().expect("a number"));
    // While the shell is stopped it cannot reap: some do that whenever a child ends, not only when they wait.
    let parent = ProcessRef::of_child(shell.0.id()).expect("held");
    parent.signal(19).expect("signalled");
    waitpid(Some(Pid::from_child(&shell.0)), WaitOptions::UNTRACED).expect("stopped");
    let (end, mut ended) = Reporter::new();
    let (reap, mut reaped) = Reporter::new();
    // Both wait for the same descriptor.
    sys.on_end(&process, end.report());
    sys.on_reaped(&process, reap.report());

    process.signal(9).expect("signalled");
    next("the end", &mut ended).await;
    assert!(sys.heartbeat().await);
    assert!(reaped.try_recv().is_err(), "told the reap of a zombie");
    assert_eq!(process.exit_status(), None, "the kernel keeps the status of a zombie for its parent");

    parent.signal(18).expect("signalled");
    next("the reap", &mut reaped).await;
    if sys.started().backend != Backend::Portable && features::probe().info_exit {
        assert_eq!(process.exit_status(), Some(WaitStatus::killed(9)));
    }
    assert_eq!(process.reap().expect("answered"), None, "not ours to reap");
}

async fn one_that_had_ended_before_is_noticed_at_once(sys: Sys) {
    let mut sleeper = Sleeper::start();
    let process = hold(&sys, sleeper.0.id());
    sleeper.kill();
    let (reporter, mut ended) = Reporter::new();
    sys.on_end(&process, reporter.report());
    next("the first end", &mut ended).await;

    sys.on_end(&process, reporter.report());
    next("the end of a zombie", &mut ended).await;
    sleeper.0.wait().expect("reaped");
    sys.on_end(&process, reporter.report());
    next("the end of a reaped one", &mut ended).await;
    sys.on_reaped(&process, reporter.report());
    next("the reap", &mut ended).await;
}

async fn five_hundred_ends_at_once_are_all_noticed(sys: Sys) {
    let mut sleepers: Vec<Sleeper> = (0..500).map(|_| Sleeper::start()).collect();
    let (reporter, mut ended) = Reporter::new();
    for sleeper in &sleepers {
        sys.on_end(&hold(&sys, sleeper.0.id()), reporter.report());
    }
    // Half of them before anything is armed, the rest while completions arrive.
    let (early, late) = sleepers.split_at_mut(250);
    early.iter_mut().for_each(Sleeper::kill);
    next("the first end", &mut ended).await;
    late.iter_mut().for_each(Sleeper::kill);
    for _ in 1..500 {
        next("one of 500 ends", &mut ended).await;
    }
    assert!(sys.heartbeat().await);
    assert!(ended.try_recv().is_err(), "an end was told twice");
}

fn watch(sys: &Sys, dir: &Path) -> UnboundedReceiver<DirNews> {
    let (sender, receiver) = unbounded_channel();
    // The watch lives as long as the runtime.
    let _watch = sys.watch_dir(dir, move |news| sender.send(news).expect("the test listens"));
    receiver
}

/// Publishes a file as the shim does: written elsewhere, renamed in.
/// Written by another process: a copy of our descriptor in a child that another test has just forked would make the
/// last close, which is told as well, come after the rename.
fn publish(outside: &Path, dir: &Path, name: &str) {
    let temporary = outside.join(name);
    let written = Command::new("sh").args(["-c", "echo content >\"$0\""]).arg(&temporary).status();
    assert!(written.expect("sh starts").success());
    fs::rename(&temporary, dir.join(name)).expect("renamed");
}

fn arrived(name: &str) -> DirNews {
    DirNews::Arrived(OsString::from(name))
}

async fn twenty_files_renamed_in_are_each_told_once(sys: Sys) {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("exits");
    fs::create_dir(&dir).expect("made");
    publish(home.path(), &dir, "before the watch");
    let mut news = watch(&sys, &dir);
    assert_eq!(next("the start", &mut news).await, DirNews::Rescan { why: RescanWhy::Started });

    let names: BTreeSet<String> = (0..20).map(|n| format!("{n}.json")).collect();
    names.iter().for_each(|name| publish(home.path(), &dir, name));
    let mut told = BTreeSet::new();
    while told.len() < names.len() {
        match next("a name", &mut news).await {
            DirNews::Arrived(name) => assert!(told.insert(name.into_string().expect("utf-8")), "told twice"),
            other @ (DirNews::Rescan { .. } | DirNews::Blind { .. }) => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(told, names);
    publish(home.path(), &dir, "the last");
    assert_eq!(next("the last", &mut news).await, arrived("the last"));
    publish(home.path(), &dir, "the last");
    assert_eq!(next("its successor of the same name", &mut news).await, arrived("the last"));
}

async fn a_directory_that_goes_away_makes_us_blind_until_it_is_back(sys: Sys) {
    let home = tempfile::tempdir().expect("a directory");
    let dir = home.path().join("exits");
    fs::create_dir(&dir).expect("made");
    let mut news = watch(&sys, &dir);
    assert_eq!(next("the start", &mut news).await, DirNews::Rescan { why: RescanWhy::Started });

    fs::remove_dir(&dir).expect("removed");
    assert!(matches!(next("the loss", &mut news).await, DirNews::Blind { .. }));
    fs::create_dir(&dir).expect("made again");
    assert_eq!(next("the return", &mut news).await, DirNews::Rescan { why: RescanWhy::Restored });
    publish(home.path(), &dir, "after");
    assert_eq!(next("a name", &mut news).await, arrived("after"));
}

async fn a_directory_that_was_replaced_is_watched_in_its_place(sys: Sys) {
    let home = tempfile::tempdir().expect("a directory");
    let (dir, away) = (home.path().join("exits"), home.path().join("away"));
    fs::create_dir(&dir).expect("made");
    let mut news = watch(&sys, &dir);
    assert_eq!(next("the start", &mut news).await, DirNews::Rescan { why: RescanWhy::Started });

    fs::rename(&dir, &away).expect("moved");
    fs::create_dir(&dir).expect("made again");
    assert_eq!(next("the loss", &mut news).await, DirNews::Rescan { why: RescanWhy::Replaced });
    publish(home.path(), &away, "into the old one");
    publish(home.path(), &dir, "into the new one");
    assert_eq!(next("a name", &mut news).await, arrived("into the new one"));
}

/// More names than the kernel queues while nobody reads.
fn more_than_the_queue_holds(choice: BackendChoice) {
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .expect("a limit")
        .trim()
        .parse()
        .expect("a number");
    run(choice, async |sys: Sys| {
        let home = tempfile::tempdir().expect("a directory");
        let mut news = watch(&sys, home.path());
        next("the start", &mut news).await;
        let (one, other) = (home.path().join("one"), home.path().join("other"));
        fs::write(&one, "").expect("written");
        for _ in 0..=queue / 2 {
            fs::rename(&one, &other).expect("renamed");
            fs::rename(&other, &one).expect("renamed back");
        }
        while next("the overflow", &mut news).await != (DirNews::Rescan { why: RescanWhy::Overflow }) {}
        fs::rename(&one, home.path().join("afterwards")).expect("renamed");
        assert_eq!(next("a name", &mut news).await, arrived("afterwards"));
    })
    .expect("the backend starts");
}

#[test]
fn a_full_queue_is_told_and_survived_on_uring() {
    more_than_the_queue_holds(BackendChoice::Uring);
}

#[test]
fn a_full_queue_is_told_and_survived_on_epoll() {
    more_than_the_queue_holds(BackendChoice::Epoll);
}

fn soon(by: u64) -> Mono {
    clock::now().mono.after(Duration::from_millis(by))
}

async fn the_timer_fires_for_the_instant_armed_last(sys: Sys) {
    let (sender, mut fired) = unbounded_channel();
    let timer =
        sys.timer(move || sender.send(clock::now().mono).expect("the test listens")).expect("a timer");
    timer.arm(Some(Mono(0)));
    next("an instant long past", &mut fired).await;

    timer.arm(Some(soon(3_600_000)));
    timer.arm(Some(soon(10)));
    next("an earlier instant", &mut fired).await;

    timer.arm(Some(soon(10)));
    let later = soon(150);
    timer.arm(Some(later));
    assert!(next("a later instant", &mut fired).await >= later, "fired for the instant that was replaced");

    timer.arm(Some(Mono(u64::MAX)));
    assert!(sys.heartbeat().await);
    assert!(fired.try_recv().is_err(), "fired twice, or at the end of time");
}

async fn a_disarmed_timer_does_not_fire(sys: Sys) {
    let (sender, mut fired) = unbounded_channel();
    let named = |name: &'static str| {
        let sender = sender.clone();
        sys.timer(move || sender.send(name).expect("the test listens")).expect("a timer")
    };
    let (disarmed, witness) = (named("disarmed"), named("witness"));
    disarmed.arm(Some(soon(20)));
    disarmed.arm(None);
    witness.arm(Some(soon(100)));
    assert_eq!(next("the witness", &mut fired).await, "witness");
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("opened");
    file.write_all(text.as_bytes()).expect("written");
}

async fn growth_is_told_once_to_each_who_waits(sys: Sys) {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("stdout.log");
    fs::write(&path, "before").expect("written");
    let (sender, mut grown) = unbounded_channel();
    let follow = |name: &'static str| {
        let sender = sender.clone();
        sys.on_growth(&path, move || sender.send(name).expect("the test listens")).expect("followed")
    };
    let _watches = [follow("one"), follow("two")];
    append(&path, "a line\n");
    append(&path, "another\n");
    let told = BTreeSet::from([next("growth", &mut grown).await, next("growth", &mut grown).await]);
    assert_eq!(told, BTreeSet::from(["one", "two"]));

    // Nobody waits now, so this is told to nobody; who waits again hears of what comes after.
    append(&path, "unheard\n");
    let _again = follow("again");
    append(&path, "heard\n");
    assert_eq!(next("growth after waiting again", &mut grown).await, "again");
    assert!(sys.on_growth(&home.path().join("missing"), || {}).is_err());
}

async fn a_file_that_is_forgotten_or_deleted(sys: Sys) {
    let home = tempfile::tempdir().expect("a directory");
    let path = home.path().join("stdout.log");
    fs::write(&path, "before").expect("written");
    let (sender, mut grown) = unbounded_channel();
    let forgotten = Rc::new(());
    let (witness, held) = (sender.clone(), Rc::clone(&forgotten));
    let watch = sys.on_growth(&path, move || {
        let _held = held;
        sender.send("forgotten").expect("the test listens");
    });
    let _witness = sys.on_growth(&path, move || witness.send("witness").expect("the test listens"));
    drop(watch.expect("followed"));
    fs::remove_file(&path).expect("removed");
    assert_eq!(next("the deletion", &mut grown).await, "witness");
    assert!(grown.try_recv().is_err(), "told to one who had left");
    assert_eq!(Rc::strong_count(&forgotten), 1, "a callback outlived its watch");
}

async fn the_heart_beats(sys: Sys) {
    for _ in 0..100 {
        assert!(within("a heartbeat", sys.heartbeat()).await);
    }
    assert!(!sys.started().why.is_empty());
    assert_eq!(sys.host().boot.len(), 36);
}

#[test]
fn a_backend_is_chosen_by_name() {
    for choice in BackendChoice::ALL {
        assert_eq!(choice.to_string().parse::<BackendChoice>().expect("its own name"), choice);
    }
    let error = "kqueue".parse::<BackendChoice>().expect_err("not one of ours").to_string();
    assert_eq!(error, "no backend is called \"kqueue\": auto, uring, epoll or portable");
    let backend = run(BackendChoice::Auto, async |sys: Sys| sys.started().backend).expect("it starts");
    assert_eq!(backend, if features::probe().io_uring.is_ok() { Backend::Uring } else { Backend::Epoll });
}
