//! What one would write instead of a supervisor, each with as many children of its own: `tokio::process`, a loop over
//! SIGCHLD, a poller. Nobody of them records anything.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{WaitOptions, wait};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::Outcome;
use crate::exits::{CALM, DIE_WHEN_TOLD, stamp_in, text};
use crate::proc::mono_ns;
use crate::report::output_dir;

/// Children that sleep, so that there is somebody to be told from.
pub(crate) struct Sleepers(Vec<Child>);

impl Sleepers {
    pub(crate) fn start(count: usize) -> Outcome<Self> {
        let mut sleepers = Self(Vec::new());
        for _ in 0..count {
            sleepers.0.push(Command::new("/bin/sleep").arg("100000").spawn()?);
        }
        Ok(sleepers)
    }
}

impl Drop for Sleepers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                eprintln!("end a sleeper: {error}");
            }
        }
    }
}

/// A leader that is nobody's session.
struct Plain {
    gate: PathBuf,
    stamp: PathBuf,
}

impl Plain {
    fn new(scratch: &Path, n: usize) -> Outcome<(Self, Command)> {
        let plain =
            Self { gate: scratch.join(format!("gate.{n}")), stamp: scratch.join(format!("stamp.{n}")) };
        mknodat(CWD, &plain.gate, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        fs::write(&plain.stamp, [0; 8])?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args([DIE_WHEN_TOLD, text(&plain.gate)?, text(&plain.stamp)?]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok((plain, command))
    }

    /// Lets it end after a while, on a thread of its own.
    fn end_after(&self, pause: Duration) -> Outcome<()> {
        let mut gate = File::options().read(true).write(true).open(&self.gate)?;
        thread::spawn(move || {
            thread::sleep(pause);
            if let Err(error) = gate.write_all(b"x") {
                eprintln!("end a leader: {error}");
            }
            // Held until it has read.
            thread::sleep(Duration::from_secs(1));
        });
        Ok(())
    }
}

fn runtime() -> Outcome<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// `tokio::process`, in a program of its own, which has `idle` sleepers besides.
pub(crate) fn tokio_process(idle: usize, count: usize) -> Outcome<Vec<u64>> {
    let target = output_dir()?.join("tokio-process");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/tokio-process/Cargo.toml");
    let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path", manifest, "--target-dir"])
        .arg(&target)
        .status()?;
    if !built.success() {
        return Err("benches/tokio-process is not built".into());
    }
    let scratch = tempfile::tempdir_in("/dev/shm")?;
    let mut child = Command::new(target.join("release/tokio-process"))
        .arg(idle.to_string())
        .arg(std::env::current_exe()?)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut words = child.stdin.take().ok_or("a pipe")?;
    let mut told = BufReader::new(child.stdout.take().ok_or("a pipe")?).lines();
    // Its sleepers are there.
    told.next().ok_or("tokio-process has ended")??;
    let mut took = Vec::new();
    for n in 0..count {
        let (plain, _) = Plain::new(scratch.path(), n)?;
        writeln!(words, "{DIE_WHEN_TOLD} {} {}", text(&plain.gate)?, text(&plain.stamp)?)?;
        plain.end_after(CALM)?;
        let at: u64 = told.next().ok_or("tokio-process has ended")??.parse()?;
        took.push(at.saturating_sub(stamp_in(&plain.stamp)?));
    }
    drop(words);
    child.wait()?;
    Ok(took)
}

/// On each SIGCHLD, whoever has ended is waited for.
pub(crate) fn sigchld(count: usize) -> Outcome<Vec<u64>> {
    let scratch = tempfile::tempdir_in("/dev/shm")?;
    runtime()?.block_on(async {
        let mut ended = signal(SignalKind::child())?;
        let mut took = Vec::new();
        for n in 0..count {
            let (plain, mut command) = Plain::new(scratch.path(), n)?;
            let pid = command.spawn()?.id();
            plain.end_after(CALM)?;
            let mut at = None;
            while at.is_none() {
                ended.recv().await;
                while let Some((who, _status)) = wait(WaitOptions::NOHANG)? {
                    at = (who.as_raw_pid().cast_unsigned() == pid).then(mono_ns).or(at);
                }
            }
            took.push(at.unwrap_or_default().saturating_sub(stamp_in(&plain.stamp)?));
        }
        Ok(took)
    })
}

/// All children are asked after once in a period; they end at times spread over one.
pub(crate) fn poller(period: Duration, count: usize) -> Outcome<Vec<u64>> {
    let scratch = tempfile::tempdir_in("/dev/shm")?;
    let mut living = Vec::new();
    for n in 0..count {
        let (plain, mut command) = Plain::new(scratch.path(), n)?;
        living.push((plain, command.spawn()?));
    }
    for (n, (plain, _)) in living.iter().enumerate() {
        plain.end_after(CALM + period.mul_f64(n as f64 / count as f64))?;
    }
    let mut took = Vec::new();
    while !living.is_empty() {
        thread::sleep(period);
        let mut still = Vec::new();
        for (plain, mut child) in living {
            match child.try_wait()? {
                Some(_status) => took.push(mono_ns().saturating_sub(stamp_in(&plain.stamp)?)),
                None => still.push((plain, child)),
            }
        }
        living = still;
    }
    Ok(took)
}
