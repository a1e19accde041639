//! The clients: they launch, list, stop, wait and follow, through everything that is done to the daemon.
//!
//! Each holds what it is told against the kernel at once. A client that is refused because the daemon is away asks again;
//! one that is lied to writes it down.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{ChildStdout, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::sleep;
use std::time::Duration;

use agentctl::sys::clock;
use fastrand::Rng;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::ledger::{Broken, Ledger};
use crate::life::{Entry, Kid, Plan, Stop};
use crate::observer::Observer;
use crate::receiver::{Receiver as Endpoint, Weather};
use crate::rig::Rig;

/// How often a launch lets itself be refused before it waits in the queue.
const REFUSALS: usize = 10;
/// Nothing but a hang takes so long.
const PATIENCE: Duration = Duration::from_secs(120);

/// What every client needs.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) ledger: &'a Ledger,
    pub(crate) observer: &'a Observer,
    pub(crate) plans: &'a [Plan],
    /// The observer's socket.
    pub(crate) socket: &'a str,
    pub(crate) over: &'a AtomicBool,
}

impl World<'_> {
    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Launches what comes over the channel until that closes: with one key each, until it is answered.
    pub(crate) fn launch_all(&self, orders: &Mutex<Receiver<usize>>) {
        loop {
            let next = orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
            let Ok(index) = next else { return };
            self.launch(&self.plans[index]);
        }
    }

    pub(crate) fn launch(&self, plan: &Plan) {
        let mut entry = plan.room.map_or(Entry::Forced, |(_, entry)| entry);
        let begun = clock::now().mono;
        self.ledger.begins(plan.index);
        for attempt in 1.. {
            let body = plan.launch(&self.rig.program(), self.socket, &self.rig.rooms(), entry).to_string();
            let key = format!(
                "Content-Type: application/json\r\nIdempotency-Key: life-{}-{entry:?}\r\n",
                plan.index
            );
            match self.rig.http("POST", "/v1/sessions", &key, &body) {
                Ok((200 | 201, record)) => {
                    let id = record["id"].as_str().unwrap_or_default();
                    self.ledger.launched(plan.index, id, attempt);
                    return self.ledger.hear(&record, "launch");
                }
                // Its directory is taken. Not asked for ever: others wait for this launcher too.
                Ok((409, problem)) if entry == Entry::Refused && is_taken(&problem) => {
                    self.ledger.refused();
                    if attempt >= REFUSALS {
                        entry = Entry::Queued;
                    }
                }
                // Recovering, or many at once.
                Ok((503, _)) | Err(_) => {}
                Ok((status, problem)) => {
                    let what = format!("launch {} was refused with {status}: {problem}", plan.index);
                    return self.ledger.broken(Broken::Other, what);
                }
            }
            if clock::now().mono.since(begun) > PATIENCE {
                return self.ledger.broken(Broken::Missing, format!("launch {} has no answer", plan.index));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// `list`, `list -a` and `status`, all the time.
    pub(crate) fn look_around(&self, mut dice: Rng) {
        while self.goes_on() {
            sleep(Duration::from_millis(dice.u64(10..200)));
            let launched = self.ledger.launches();
            let living: BTreeSet<String> = self.observer.living().into_iter().map(|(_, id)| id).collect();
            let what = dice.u8(..3);
            let one = launched.values().nth(dice.usize(..launched.len().max(1))).cloned();
            let answer = match (what, one) {
                (0, Some(id)) => self.rig.json(&["status", &id, "--json"]).map(|record| vec![record]),
                (1, _) => self.rig.json(&["list", "--json"]).and_then(|list| list.as_array().cloned()),
                (_, _) => self.rig.json(&["list", "-a", "--json"]).and_then(|list| list.as_array().cloned()),
            };
            let Some(records) = answer else { continue };
            self.ledger.asked();
            let listed: BTreeSet<&str> = records.iter().filter_map(|record| record["id"].as_str()).collect();
            records.iter().for_each(|record| self.ledger.hear(record, "list"));
            if records.len() == 1 && what == 0 {
                continue;
            }
            // Alive before the question and after the answer.
            let missed = living.iter().filter(|id| !listed.contains(id.as_str()));
            for id in missed.filter(|id| self.observer.has_ended(id) == Some(false)) {
                self.ledger.broken(Broken::Missing, format!("{id} lives and is not in the list"));
            }
            if what == 2 {
                let gone = launched.values().filter(|id| !listed.contains(id.as_str()));
                gone.for_each(|id| self.ledger.broken(Broken::Missing, format!("{id} is not in list -a")));
            }
        }
    }

    /// Stops whom the plan says, some time after they began.
    pub(crate) fn stop_some(&self, mut dice: Rng) {
        while self.goes_on() {
            sleep(Duration::from_millis(dice.u64(20..300)));
            for (index, id) in self.observer.living().into_iter().chain(self.in_queue()) {
                let Some(stop) = self.plans.get(index).and_then(|plan| plan.stop) else { continue };
                if dice.u8(..3) == 0 && self.ledger.stop_asked(&id) {
                    self.stop(index, &id, stop);
                }
            }
        }
    }

    /// Those that were launched and neither live nor have a verdict.
    pub(crate) fn in_queue(&self) -> Vec<(usize, String)> {
        let lives = self.observer.lives();
        let launches = self.ledger.launches().into_iter();
        launches
            .filter(|(index, id)| !lives.contains_key(index) && self.ledger.told_of(id).is_none())
            .collect()
    }

    fn stop(&self, index: usize, id: &str, stop: Stop) {
        let mut arguments = vec!["stop", id];
        if stop == Stop::Forced {
            arguments.push("--force");
        }
        let begun = clock::now().mono;
        while !self.rig.run(&arguments).is_ok_and(|output| output.status.success()) {
            if clock::now().mono.since(begun) > PATIENCE {
                return self.ledger.broken(Broken::Missing, format!("the stop of {id} has no answer"));
            }
            sleep(Duration::from_millis(30));
        }
        self.ledger.asked();
        let Some(seen) = self.observer.lives().remove(&index) else { return };
        // One that ended by itself has its leftovers ended without the stop waiting for it.
        let cancelled = self.ledger.told_of(id).is_some_and(|told| told.verdict[0] == "cancelled");
        let lives = |process: &agentctl::sys::ProcessRef| process.has_ended() == Some(false);
        if lives(&seen.leader) || (cancelled && seen.children.iter().any(lives)) {
            self.ledger.broken(Broken::Left, format!("{id} lives after its stop was answered"));
        }
    }

    /// Waits for one session after another, through every restart.
    pub(crate) fn wait_for_some(&self, mut dice: Rng) {
        while self.goes_on() {
            sleep(Duration::from_millis(dice.u64(5..100)));
            let living = self.observer.living();
            if living.is_empty() {
                continue;
            }
            let (_, id) = &living[dice.usize(..living.len())];
            let Ok(output) = self.rig.run(&["wait", id]) else { continue };
            // One that begins while the daemon is away says so and gives up.
            if String::from_utf8_lossy(&output.stderr).contains("no daemon answers") {
                continue;
            }
            self.ledger.asked();
            if self.observer.has_ended(id) == Some(false) {
                self.ledger.broken(Broken::Early, format!("wait: the kernel shows {id} alive: {output:?}"));
            }
            self.ledger.waited(id, output.status.code().unwrap_or(-1));
        }
    }

    /// Follows the events from the first one on, and comes back after every restart with the number of the last.
    pub(crate) fn follow_events(&self) {
        let mut known = 0;
        while self.goes_on() {
            let since = known.to_string();
            let mut command = self.rig.command(&["events", "--since", &since]);
            let Ok(mut child) = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
                continue;
            };
            if let Some(stdout) = child.stdout.take() {
                known = self.read_events(stdout, known);
            }
            drop(child.kill());
            let Ok(output) = child.wait_with_output() else { continue };
            let words = String::from_utf8_lossy(&output.stderr);
            if words.contains("ahead of the stream") || words.contains("another journal") {
                self.ledger.broken(Broken::Gap, format!("the stream forgot event {known}: {words}"));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Reads lines until the stream or the storm is over; the number of the last event.
    fn read_events(&self, mut stdout: ChildStdout, mut known: u64) -> u64 {
        const LOOK_UP_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        let mut text = Vec::new();
        let mut chunk = [0; 4_096];
        while self.goes_on() {
            let ready = poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&LOOK_UP_EVERY));
            if ready == Ok(0) {
                continue;
            }
            let Ok(read @ 1..) = stdout.read(&mut chunk) else { break };
            text.extend_from_slice(&chunk[..read]);
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                known = self.ledger.event(String::from_utf8_lossy(&line).trim_end());
            }
        }
        known
    }

    /// The whole stream, again and again: what was told stays as it was.
    pub(crate) fn read_all_events(&self, mut dice: Rng) {
        while self.goes_on() {
            sleep(Duration::from_millis(dice.u64(300..2_000)));
            if let Some(lines) = self.all_events() {
                self.ledger.asked();
                self.check_events(&lines);
            }
        }
    }

    /// `events --since 0`, when it was answered.
    pub(crate) fn all_events(&self) -> Option<Vec<String>> {
        let output = self.rig.run(&["events", "--since", "0", "--no-follow"]).ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.lines().map(str::to_owned).collect())
    }

    pub(crate) fn check_events(&self, lines: &[String]) {
        for (seq, line) in (1..).zip(lines) {
            let said: Value = serde_json::from_str(line).unwrap_or_default();
            if said["seq"].as_u64() != Some(seq) {
                return self.ledger.broken(Broken::Gap, format!("in the place of event {seq} is {line}"));
            }
            self.ledger.same_event(seq, line);
        }
    }

    /// Ends those that wait to end together.
    pub(crate) fn set_off_bursts(&self, mut dice: Rng) {
        let mut last = clock::now().mono;
        while self.goes_on() {
            sleep(Duration::from_millis(50));
            let waited = clock::now().mono.since(last);
            if self.observer.waiting() >= dice.usize(4..12) || waited > Duration::from_secs(4) {
                last = clock::now().mono;
                self.observer.burst();
            }
        }
    }

    /// Changes the receiver's weather.
    pub(crate) fn make_weather(&self, endpoint: &Endpoint, mut dice: Rng) {
        use Weather::{Down, Failing, Fair, HangUp, Reset, Slow};
        while self.goes_on() {
            let next = [Fair, Slow, Fair, Reset, HangUp, Failing, Down][dice.usize(..7)];
            if let Err(error) = endpoint.turn(next) {
                self.ledger.broken(Broken::Other, format!("the receiver is broken: {error}"));
            }
            sleep(Duration::from_millis(dice.u64(100..1_500)));
        }
    }
}

/// Whether a refusal is that of a directory that another session works in.
fn is_taken(problem: &Value) -> bool {
    problem["detail"].as_str().is_some_and(|detail| detail.starts_with("Directory in use"))
}

/// Whether agentctl has to end the child of this life.
pub(crate) fn is_to_end(plan: &Plan) -> bool {
    plan.child.is_some_and(|kid| kid != Kid::Kept)
}
