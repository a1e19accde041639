//! The judgement: every life as the kernel and the session itself tell it, against everything that agentctl said of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::time::Duration;

use agentctl::core::vocab::{Mono, WaitStatus, signal_name};
use agentctl::wire::time::parse_rfc3339;
use serde_json::{Value, json};

use crate::clients::{World, is_to_end};
use crate::ledger::{Broken, KINDS};
use crate::life::{End, Entry, KEPT_CHILD_CODE, Kid, Plan, ROOMS};
use crate::observer::Seen;
use crate::receiver::Got;

/// A record's times have milliseconds, cut off.
const MILLISECOND_US: i64 = 1_000;

/// What a run came to, for the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) outcomes: BTreeMap<String, usize>,
    /// From the end, as the observer noticed it, to the first telling.
    pub(crate) told_after: Vec<Duration>,
    pub(crate) deliveries: usize,
    pub(crate) repeats: usize,
    pub(crate) events: usize,
}

/// Judges everything. `records`: the last `list -a --json`; `got`: what the receiver was sent.
pub(crate) fn judge(world: &World<'_>, records: &[Value], got: &[Got]) -> Judgement {
    let mut judgement = Judgement::default();
    let lives = world.observer.lives();
    let launches = world.ledger.launches();
    let by_id: HashMap<&str, &Value> =
        records.iter().filter_map(|record| Some((record["id"].as_str()?, record))).collect();
    if by_id.len() != records.len() || records.len() != launches.len() {
        let what = format!("{} launches made {} sessions", launches.len(), records.len());
        world.ledger.broken(Broken::Double, what);
    }
    for fault in world.observer.faults() {
        world.ledger.broken(Broken::Other, fault);
    }
    for (index, id) in &launches {
        let Some(record) = by_id.get(id.as_str()) else {
            world.ledger.broken(Broken::Missing, format!("{id} is not in the last list"));
            continue;
        };
        let outcome = record["outcome"].as_str().unwrap_or("none");
        *judgement.outcomes.entry(outcome.to_owned()).or_default() += 1;
        world.ledger.hear(record, "the last list");
        let case = Case { world, plan: &world.plans[*index], record, outcome, seen: lives.get(index) };
        case.judge();
        if let (Some(ended), Some(told)) =
            (lives.get(index).and_then(|seen| seen.ended), world.ledger.told_of(id))
        {
            judgement.told_after.push(told.at.since(ended));
        }
    }
    judge_rooms(world, &lives);
    judge_events(world, &by_id, &mut judgement);
    judge_deliveries(world, &by_id, got, &mut judgement);
    for (id, code) in world.ledger.waits() {
        let expected = by_id.get(id.as_str()).map_or(Value::Null, |record| record["exitStatus"].clone());
        if expected != json!(code) {
            world.ledger.broken(Broken::Wrong, format!("wait {id} exited with {code}, not with {expected}"));
        }
    }
    judge_files(world, &by_id);
    judgement
}

/// One life and its record.
struct Case<'a> {
    world: &'a World<'a>,
    plan: &'a Plan,
    record: &'a Value,
    outcome: &'a str,
    /// None: no leader ever said hello.
    seen: Option<&'a Seen>,
}

impl Case<'_> {
    fn broken(&self, kind: Broken, what: &str) {
        let (plan, record, seen) = (self.plan, self.record, self.seen);
        self.world.ledger.broken(kind, format!("{what}: {plan:?}: {record}: {seen:?}"));
    }

    fn judge(&self) {
        let Some(seen) = self.seen else {
            // A stop, in the queue or after it, and a deadline may end one before its first word.
            let stopped = self.outcome == "cancelled" && self.world.ledger.stop_of(self.id()).is_some();
            if !stopped && !matches!(self.outcome, "launch_failed" | "timed_out") {
                self.broken(Broken::Wrong, "a verdict on a leader that never was");
            }
            return;
        };
        if self.record["id"] != json!(seen.session) {
            self.broken(Broken::Double, "another session leads this life");
        }
        if self.record["pid"] != json!(seen.leader.pid()) {
            self.broken(Broken::Wrong, "the pid is another");
        }
        if seen.ended.is_none() {
            return self.broken(Broken::Left, "the leader lives");
        }
        self.judge_status(seen);
        self.judge_outcome(seen);
        self.judge_time(seen);
        self.judge_children(seen);
    }

    fn id(&self) -> &str {
        self.record["id"].as_str().unwrap_or_default()
    }

    fn planned(&self) -> WaitStatus {
        match self.plan.end {
            End::Code(code) => WaitStatus::exited(code),
            End::Signal(signal) => WaitStatus::killed(signal),
        }
    }

    /// Code and signal are the kernel's.
    fn judge_status(&self, seen: &Seen) {
        let Some(kernel) = seen.status else {
            // Before Linux 6.15 only the plan knows.
            return;
        };
        let signal = kernel.signal().map(signal_name);
        let told = (&self.record["exitCode"], &self.record["signal"]);
        if told != (&json!(kernel.code()), &json!(signal)) {
            self.broken(Broken::Wrong, "the kernel has another status");
        }
    }

    /// The outcome follows from the status, and from a stop or a deadline only if that came first.
    fn judge_outcome(&self, seen: &Seen) {
        // A stamp is the last act of a natural end; a kill that falls behind it is taken as that.
        let natural = |code: Option<u8>| if code == Some(0) { "completed" } else { "failed" };
        let ended = seen.ended.unwrap_or(Mono(u64::MAX));
        match self.outcome {
            "completed" | "failed" => {
                let killed = seen.stamp.is_none();
                let status = seen.status.unwrap_or_else(|| self.planned());
                if killed
                    || status.code() != self.planned().code()
                    || status.signal() != self.planned().signal()
                {
                    self.broken(Broken::Wrong, "an end that was not its own is told as that");
                }
                if self.outcome != natural(status.code()) {
                    self.broken(Broken::Wrong, "the outcome is another");
                }
            }
            "cancelled" => {
                let asked = self.world.ledger.stop_of(&seen.session);
                if asked.is_none_or(|asked| asked > ended) {
                    self.broken(Broken::Wrong, "cancelled, and nobody had asked for that");
                }
            }
            "timed_out" => {
                // It counts from the launch, which is no earlier than the first request for it.
                let asked = self.world.ledger.begun(self.plan.index);
                let lived = asked.map(|asked| ended.since(asked));
                let early = self.plan.timeout.zip(lived).is_none_or(|(limit, lived)| lived < limit);
                if early {
                    self.broken(Broken::Wrong, "timed out before its time");
                }
            }
            "lost" => self.broken(Broken::Missing, "lost, though its shim lived"),
            _other => self.broken(Broken::Wrong, "no such outcome can be"),
        }
    }

    /// Not told before the life's own last word, and not dated before it.
    fn judge_time(&self, seen: &Seen) {
        let told = self.world.ledger.told_of(&seen.session);
        if let (Some((stamp, _)), Some(told)) = (seen.stamp, &told)
            && told.at < stamp
        {
            self.broken(Broken::Early, "told before its last word");
        }
        let dated = self.record["stoppedAt"].as_str().and_then(parse_rfc3339);
        let Some(dated) = dated else { return self.broken(Broken::Missing, "no time of its end") };
        if let Some((_, stamp)) = seen.stamp
            && dated.0 + MILLISECOND_US < stamp.0
        {
            self.broken(Broken::Early, "dated before its last word");
        }
    }

    fn judge_children(&self, seen: &Seen) {
        for child in &seen.children {
            if child.has_ended() == Some(false) {
                self.broken(Broken::Left, "a process of it lives");
            }
            let by_itself = child.exit_status().is_none_or(|status| status.code() == Some(KEPT_CHILD_CODE));
            // A stop that came after the end is for those that were left.
            let natural = matches!(self.outcome, "completed" | "failed")
                && self.world.ledger.stop_of(&seen.session).is_none();
            if self.plan.child == Some(Kid::Kept) && natural && !by_itself {
                self.broken(Broken::Wrong, "a child that was to be kept was ended");
            }
        }
        if is_to_end(self.plan) && self.record["leftovers"] != json!(0) {
            self.broken(Broken::Left, "leftovers");
        }
    }
}

/// Whether its whole life was to wait.
pub(crate) fn is_of_the_queue(record: &Value) -> bool {
    record["outcome"] == "cancelled" && record["pid"].is_null()
}

/// Each room had one session at a time, in the order in which they came.
fn judge_rooms(world: &World<'_>, lives: &BTreeMap<usize, Seen>) {
    for (index, other) in world.observer.crowds() {
        // One that forced its way in may have done so while this one was admitted already.
        let came = world.ledger.begun(index);
        if !other.forced || came.is_some_and(|came| other.begun < came) {
            let what =
                format!("room {:?}: life {index} began where {other:?} lives", world.plans[index].room);
            world.ledger.broken(Broken::Crowded, what);
        }
    }
    for room in 0..ROOMS {
        let of_room = lives.iter().filter_map(|(index, seen)| {
            let (of, entry) = world.plans[*index].room?;
            let came = world.ledger.begun(*index)?;
            let admitted = world.ledger.answered(*index)?;
            (of == room && entry != Entry::Forced).then_some((admitted, came, seen))
        });
        let mut of_room: Vec<_> = of_room.collect();
        of_room.sort_by_key(|(_, _, seen)| seen.begun);
        // The latest arrival of all that began so far: who was admitted before that must be among them.
        let mut latest: Option<(Mono, &Seen)> = None;
        for (admitted, came, seen) in of_room {
            if let Some((_, earlier)) = latest.filter(|(came, _)| admitted < *came) {
                let what = format!("room {room}: {earlier:?} came later than {seen:?} and began earlier");
                world.ledger.broken(Broken::Order, what);
            }
            if latest.is_none_or(|(known, _)| known < came) {
                latest = Some((came, seen));
            }
        }
    }
}

/// Each session has one terminal event, the last one, and one start before it.
fn judge_events(world: &World<'_>, records: &HashMap<&str, &Value>, judgement: &mut Judgement) {
    let lines = world.ledger.events();
    judgement.events = lines.len();
    let mut types: HashMap<String, Vec<String>> = HashMap::new();
    for line in &lines {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        let id = event["sessionId"].as_str().unwrap_or_default().to_owned();
        types.entry(id).or_default().push(event["type"].as_str().unwrap_or_default().to_owned());
    }
    for (id, record) in records {
        let of = types.remove(*id).unwrap_or_default();
        let count = |wanted: &[&str]| of.iter().filter(|kind| wanted.contains(&kind.as_str())).count();
        match count(&["session.stopped", "session.error"]) {
            1 => {}
            0 => world.ledger.broken(Broken::Missing, format!("{id} has no terminal event: {of:?}")),
            _more => world.ledger.broken(Broken::Double, format!("{id} ended more than once: {of:?}")),
        }
        let ran = record["outcome"] != "launch_failed" && !is_of_the_queue(record);
        let ends = of.last().is_some_and(|last| matches!(last.as_str(), "session.stopped" | "session.error"));
        if count(&["session.started"]) != usize::from(ran) || !ends {
            world.ledger.broken(Broken::Missing, format!("{id} did not start once and end last: {of:?}"));
        }
    }
}

/// Each verdict arrived, under one id and in the same bytes whenever it came, and says what the record says.
fn judge_deliveries(
    world: &World<'_>,
    records: &HashMap<&str, &Value>,
    got: &[Got],
    judgement: &mut Judgement,
) {
    let lives = world.observer.lives();
    let stamp = |seen: &'_ Seen| seen.stamp.map(|(stamp, _)| stamp);
    let stamps: HashMap<&str, Mono> =
        lives.values().filter_map(|seen| Some((seen.session.as_str(), stamp(seen)?))).collect();
    let mut by_session: HashMap<&str, Vec<&Got>> = HashMap::new();
    for one in got {
        by_session.entry(&one.session).or_default().push(one);
        let stamp = stamps.get(one.session.as_str());
        if one.early || stamp.is_some_and(|stamp| one.at < *stamp) {
            world.ledger.broken(Broken::Early, format!("webhook {} came before the end", one.id));
        }
    }
    judgement.deliveries = got.len();
    for (id, record) in records {
        let all = by_session.remove(*id).unwrap_or_default();
        let accepted = all.iter().filter(|one| one.accepted).count();
        if accepted == 0 {
            let what = format!("{id}: of {} webhooks none was accepted", all.len());
            world.ledger.broken(Broken::Delivery, what);
            continue;
        }
        judgement.repeats += all.len() - 1;
        let ids: BTreeSet<&str> = all.iter().map(|one| one.id.as_str()).collect();
        let bodies: BTreeSet<&[u8]> = all.iter().map(|one| one.body.as_slice()).collect();
        if ids.len() != 1 || bodies.len() != 1 {
            let what = format!("{id}: {} ids and {} bodies", ids.len(), bodies.len());
            world.ledger.broken(Broken::Delivery, what);
        }
        let body: Value = serde_json::from_slice(&all[0].body).unwrap_or_default();
        for (key, of_record) in [
            ("outcome", "outcome"),
            ("exit_code", "exitCode"),
            ("signal", "signal"),
            ("reason", "reason"),
            ("stopped_at", "stoppedAt"),
        ] {
            if body["meta"][key] != record[of_record] {
                world.ledger.broken(Broken::Wrong, format!("the webhook of {record} says {body}"));
            }
        }
    }
    for stranger in by_session.keys() {
        world.ledger.broken(Broken::Delivery, format!("a webhook about {stranger}, which is no session"));
    }
}

/// Nothing is left in exits/, and the same few files in each session's directory.
fn judge_files(world: &World<'_>, records: &HashMap<&str, &Value>) {
    const EXPECTED: [&str; 12] = [
        "shim.log",
        "stdout.log",
        "stderr.log",
        "created.1.json",
        "claimed.1.json",
        "abandoned.1.json",
        "shim.1.json",
        "leader.1.json",
        "deadline",
        "exit.1.json",
        "tree.1.json",
        "verdict.1.json",
    ];
    let names = |path: &std::path::Path| -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let left = names(&world.rig.home().join("exits"));
    if !left.is_empty() {
        world.ledger.broken(Broken::Growth, format!("{} files are left in exits/: {left:?}", left.len()));
    }
    for id in records.keys() {
        let found = names(&world.rig.home().join("sessions").join(id));
        let strange: Vec<_> = found.iter().filter(|name| !EXPECTED.contains(&name.as_str())).collect();
        if !strange.is_empty() {
            world.ledger.broken(Broken::Growth, format!("{id} has files that nobody needs: {strange:?}"));
        }
    }
}

/// Every kind of broken promise with its number, and the first few words on each.
pub(crate) fn verdict(world: &World<'_>) -> (Vec<(&'static str, usize)>, Vec<String>) {
    const WORDS_OF_EACH: usize = 5;
    let mut counts = Vec::new();
    let mut words = Vec::new();
    for (kind, name) in KINDS {
        let all = world.ledger.of(kind);
        counts.push((name, all.len()));
        words.extend(all.iter().take(WORDS_OF_EACH).map(|what| format!("{name}: {what}")));
    }
    (counts, words)
}
