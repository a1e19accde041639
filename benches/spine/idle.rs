//! What sessions cost that do nothing: wake-ups, processor time, memory.

use std::thread;
use std::time::Duration;

use crate::Outcome;
use crate::daemon::Daemon;
use crate::proc::{self, Activity, Memory};
use crate::report::{Report, Spread};

/// After the last launch, until threads that wait for work have gone home.
const SETTLE: Duration = Duration::from_secs(12);

/// More than this in a minute is no idleness.
const SWITCHES_MAX: u64 = 10;

/// With so many sessions. The aim grows with them.
pub(crate) fn daemon_memory(when: &str, pid: u32, sessions: usize, report: &mut Report) -> Outcome<()> {
    let Memory { rss_kb, pss_kb, anon_kb, threads } = proc::memory(pid)?;
    let [rss, pss, anon] = [rss_kb, pss_kb, anon_kb].map(|kilobytes| kilobytes as f64 / 1_024.0);
    let words = format!("PSS {pss:.1} MB (of that anonymous {anon:.1}; RSS {rss:.1}; {threads} threads)");
    let most = 8.0 + 3.0 * sessions as f64 / 1_024.0;
    let aim = Some((format!("PSS <= 8 MB + 3 kB per session = {most:.1} MB"), pss <= most));
    report.figure(&format!("daemon, {when}: memory"), pss, words, aim);
    Ok(())
}

/// Whether everyone was idle.
pub(crate) fn measure(daemon: &Daemon, sessions: usize, seconds: u64, report: &mut Report) -> Outcome<bool> {
    thread::sleep(SETTLE);
    let leaders = leaders(daemon)?;
    // Their parents: also after a restart of the daemon.
    let shims = leaders.iter().map(|pid| proc::parent(*pid)).collect::<Outcome<Vec<_>>>()?;
    if shims.len() != sessions {
        return Err(format!("{} shims run for {sessions} sessions", shims.len()).into());
    }
    daemon_memory(&format!("{sessions} sessions, idle"), daemon.pid(), sessions, report)?;
    let before = activity(daemon.pid(), &shims)?;
    thread::sleep(Duration::from_secs(seconds));
    let after = activity(daemon.pid(), &shims)?;
    let [daemons, shims_own] = [after[0].since(&before[0]), after[1].since(&before[1])];
    let both = daemons.and(&shims_own);
    let calm = both.ticks == 0 && both.switches < SWITCHES_MAX;
    for (who, activity) in [("daemon", &daemons), ("all shims", &shims_own)] {
        let words = format!("{} ticks, {} switches", activity.ticks, activity.switches);
        let aim = format!("0 ticks, < {SWITCHES_MAX} switches");
        let met = activity.ticks == 0 && activity.switches < SWITCHES_MAX;
        let name = format!("{who}, idle for {seconds} s with {sessions} sessions");
        report.figure(&name, activity.switches as f64, words, Some((aim, met)));
    }
    shim_memory(&shims, &leaders, report)?;
    Ok(calm)
}

fn leaders(daemon: &Daemon) -> Outcome<Vec<u32>> {
    let sessions = daemon.client()?.get("/v1/sessions?discovered=0")?;
    let leaders = sessions.as_array().into_iter().flatten().filter_map(|session| session["pid"].as_u64());
    leaders.map(|pid| Ok(u32::try_from(pid)?)).collect()
}

/// The daemon's activity, and that of all shims together.
fn activity(daemon: u32, shims: &[u32]) -> Outcome<[Activity; 2]> {
    let mut all = Activity::default();
    for shim in shims {
        all = all.and(&proc::activity(*shim)?);
    }
    Ok([proc::activity(daemon)?, all])
}

/// Beside the leaders, which are of the least that the C library makes of a program.
fn shim_memory(shims: &[u32], leaders: &[u32], report: &mut Report) -> Outcome<()> {
    for (who, pids, most) in [("shim", shims, Some(60)), ("leader (/bin/sleep)", leaders, None)] {
        let memories = pids.iter().map(|pid| proc::memory(*pid)).collect::<Outcome<Vec<_>>>()?;
        let pss = Spread::of(memories.iter().map(|memory| memory.pss_kb).collect());
        let anon = Spread::of(memories.iter().map(|memory| memory.anon_kb).collect());
        let words = format!("PSS median {} kB, most {} kB (anonymous {} kB)", pss.p50, pss.max, anon.p50);
        let aim = most.map(|most| (format!("median PSS <= {most} kB"), pss.p50 <= most));
        report.figure(&format!("{who}, {} running: memory each", pids.len()), pss.p50 as f64, words, aim);
    }
    Ok(())
}
