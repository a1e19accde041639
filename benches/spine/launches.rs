//! What a launch costs through the API beside the bare spawn of the shim, and a command beside /bin/true.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use agentctl::core::vocab::{Leftovers, RunId, SessionId};
use agentctl::sys::shim_file::{ShimMessage, ShimProgram, next_message};
use agentctl::sys::{Found, ProcessRef};
use agentctl::wire::session_dir::{LaunchOrder, RunFiles, Version, create_private_dir};
use rustix::event::{PollFd, PollFlags, poll};
use uuid::Uuid;

use crate::Outcome;
use crate::daemon::Daemon;
use crate::proc::mono_ns;
use crate::report::{Report, Spread};

/// A leader that does nothing for longer than any run takes.
pub(crate) const SLEEPER: [&str; 2] = ["/bin/sleep", "100000"];

pub(crate) const AT_ONCE: usize = 16;

/// Leaves `sessions` sleeping sessions behind.
pub(crate) fn measure(daemon: &Daemon, sessions: usize, report: &mut Report) -> Outcome<()> {
    let raw = Spread::of(raw_spawns(sessions / 2)?);
    report.times("spawn of the shim alone, until the leader runs", &raw);
    let one_by_one = Spread::of(sequential(daemon, sessions / 2)?);
    report.times("launch through the API, one after another", &one_by_one);
    let ratio = one_by_one.p50 as f64 / raw.p50 as f64;
    report.figure("launch through the API / spawn of the shim, p50", ratio, format!("{ratio:.2}"), None);
    let rest = sessions - sessions / 2;
    let took = at_once(daemon, rest)?;
    let rate = rest as f64 / (took as f64 / 1e9);
    report.figure(
        &format!("launches through the API, {AT_ONCE} at once"),
        rate,
        format!("{rate:.0}/s"),
        None,
    );
    Ok(())
}

pub(crate) fn sequential(daemon: &Daemon, count: usize) -> Outcome<Vec<u64>> {
    let mut client = daemon.client()?;
    (0..count).map(|_| timed(|| client.launch(&SLEEPER).map(|_| ()))).collect()
}

pub(crate) fn at_once(daemon: &Daemon, count: usize) -> Outcome<u64> {
    let share = |worker: usize| count / AT_ONCE + usize::from(worker < count % AT_ONCE);
    timed(|| {
        thread::scope(|scope| {
            let workers: Vec<_> =
                (0..AT_ONCE).map(|worker| scope.spawn(move || sequential(daemon, share(worker)))).collect();
            for worker in workers {
                worker.join().map_err(|_| "a worker panicked")??;
            }
            Ok(())
        })
    })
}

/// Without any daemon: from the order to the word that the leader runs.
pub(crate) fn raw_spawns(count: usize) -> Outcome<Vec<u64>> {
    let home = tempfile::tempdir()?;
    for dir in ["exits", "sessions"] {
        create_private_dir(&home.path().join(dir))?;
    }
    let program = ShimProgram::open(Path::new(env!("CARGO_BIN_EXE_agentctl-shim")))?;
    (0..count).map(|_| raw_spawn(home.path(), &program)).collect()
}

fn raw_spawn(home: &Path, program: &ShimProgram) -> Outcome<u64> {
    let id = RunId { session: SessionId(Uuid::new_v4()), run: 1 };
    let files = RunFiles::in_home(home, id);
    create_private_dir(files.dir())?;
    fs::write(files.dir().join(files.env_name()), b"PATH=/usr/bin:/bin\0")?;
    files.write_launch(&order(&files))?;
    let mut shim = None;
    let took = timed(|| {
        let (started, socket) = program.spawn(files.dir(), id.run, false)?;
        shim = Some(started);
        loop {
            match next_message(socket.as_fd(), Duration::from_secs(10))? {
                ShimMessage::Leader(_) => {}
                ShimMessage::Running => return Ok(()),
                ShimMessage::Failed | ShimMessage::Closed => return Err("the shim did not launch".into()),
            }
        }
    })?;
    if let Found::Alive(leader) = ProcessRef::find(&files.read_leader()?.process) {
        leader.signal(9)?;
    }
    if let Some(shim) = shim {
        let pidfd = shim.pidfd().ok_or("a pidfd of the shim")?;
        poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], None)?;
        shim.reap()?;
    }
    Ok(took)
}

fn order(files: &RunFiles) -> LaunchOrder {
    LaunchOrder {
        v: Version,
        session: files.id().session,
        run: files.id().run,
        argv: SLEEPER.map(str::to_owned).into(),
        cwd: "/".to_owned(),
        umask: 0o022,
        nofile_soft: None,
        stdin: None,
        input: None,
        env: files.env_name(),
        stdout: "stdout.log".to_owned(),
        stderr: "stderr.log".to_owned(),
        leftovers: Leftovers::Kill,
        grace_ms: 1_000,
        cgroup: None,
        account: None,
        late_ms: 5_000,
        log_bytes_max: None,
    }
}

/// The programs take turns, so that a busy moment meets all of them.
pub(crate) fn command_line(daemon: &Daemon, count: usize, report: &mut Report) -> Outcome<()> {
    let mut took = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..count {
        let mut floor = Command::new("/bin/true");
        floor.stdin(Stdio::null());
        let (mut version, mut list) = (daemon.command(), daemon.command());
        version.arg("--version");
        list.arg("list");
        for (times, command) in took.iter_mut().zip([&mut floor, &mut version, &mut list]) {
            times.push(timed(|| match command.status()?.success() {
                true => Ok(()),
                false => Err(format!("{command:?} failed").into()),
            })?);
        }
    }
    for (name, times) in
        ["/bin/true", "agentctl --version", "agentctl list, 200 sessions"].into_iter().zip(took)
    {
        report.times(name, &Spread::of(times));
    }
    Ok(())
}

pub(crate) fn timed(work: impl FnOnce() -> Outcome<()>) -> Outcome<u64> {
    let begun = mono_ns();
    work()?;
    Ok(mono_ns() - begun)
}
