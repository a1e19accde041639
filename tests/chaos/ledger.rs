//! What was asked and what was told, and every broken promise. Verdicts are held against the kernel as they are told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use agentctl::core::vocab::Mono;
use agentctl::sys::clock;
use serde_json::Value;

use crate::observer::Observer;

/// The promises, as the table names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Broken {
    Early,
    Missing,
    Double,
    Wrong,
    Changed,
    Gap,
    Delivery,
    Left,
    Growth,
    Crowded,
    Order,
    Other,
}

/// Every kind, in the order of the table.
pub(crate) const KINDS: [(Broken, &str); 12] = [
    (Broken::Early, "early"),
    (Broken::Missing, "missing"),
    (Broken::Double, "double"),
    (Broken::Wrong, "wrong"),
    (Broken::Changed, "changed"),
    (Broken::Gap, "event gaps"),
    (Broken::Delivery, "deliveries"),
    (Broken::Left, "left alive"),
    (Broken::Growth, "growth"),
    (Broken::Crowded, "crowded"),
    (Broken::Order, "order"),
    (Broken::Other, "other"),
];

/// The part of a record that no crash may change once it was told.
const FOR_EVER: [&str; 6] = ["outcome", "exitCode", "signal", "reason", "stoppedAt", "exitStatus"];

/// A verdict, as it was told first.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) at: Mono,
    pub(crate) verdict: Vec<Value>,
}

#[derive(Default)]
struct Pages {
    begun: BTreeMap<usize, Mono>,
    launched: BTreeMap<usize, String>,
    answered: BTreeMap<usize, Mono>,
    refused: usize,
    attempts: usize,
    told: HashMap<String, Told>,
    stops: HashMap<String, Mono>,
    waits: Vec<(String, i32)>,
    events: Vec<String>,
    asked: usize,
    broken: BTreeMap<Broken, Vec<String>>,
}

pub(crate) struct Ledger {
    pages: Mutex<Pages>,
    observer: Observer,
}

impl Ledger {
    pub(crate) fn new(observer: &Observer) -> Self {
        Self { pages: Mutex::default(), observer: observer.clone() }
    }

    pub(crate) fn broken(&self, kind: Broken, what: String) {
        self.pages().broken.entry(kind).or_default().push(what);
    }

    /// How many promises of a kind were broken, and how.
    pub(crate) fn of(&self, kind: Broken) -> Vec<String> {
        self.pages().broken.get(&kind).cloned().unwrap_or_default()
    }

    /// A launch is about to be asked for.
    pub(crate) fn begins(&self, index: usize) {
        self.pages().begun.insert(index, clock::now().mono);
    }

    /// When it was first asked for.
    pub(crate) fn begun(&self, index: usize) -> Option<Mono> {
        self.pages().begun.get(&index).copied()
    }

    /// A launch was answered, after so many attempts.
    pub(crate) fn launched(&self, index: usize, session: &str, attempts: usize) {
        let mut pages = self.pages();
        pages.launched.insert(index, session.to_owned());
        pages.answered.insert(index, clock::now().mono);
        pages.attempts += attempts;
    }

    /// When its launch was known to have been answered.
    pub(crate) fn answered(&self, index: usize) -> Option<Mono> {
        self.pages().answered.get(&index).copied()
    }

    /// A launch was told that its directory is taken.
    pub(crate) fn refused(&self) {
        self.pages().refused += 1;
    }

    pub(crate) fn refusals(&self) -> usize {
        self.pages().refused
    }

    pub(crate) fn launches(&self) -> BTreeMap<usize, String> {
        self.pages().launched.clone()
    }

    /// Requests that launches took in all.
    pub(crate) fn attempts(&self) -> usize {
        self.pages().attempts
    }

    /// Somebody begins to ask for the end of a session; `false`: that was asked already.
    pub(crate) fn stop_asked(&self, session: &str) -> bool {
        self.pages().stops.insert(session.to_owned(), clock::now().mono).is_none()
    }

    pub(crate) fn stop_of(&self, session: &str) -> Option<Mono> {
        self.pages().stops.get(session).copied()
    }

    pub(crate) fn waited(&self, session: &str, code: i32) {
        self.pages().waits.push((session.to_owned(), code));
    }

    pub(crate) fn waits(&self) -> Vec<(String, i32)> {
        self.pages().waits.clone()
    }

    /// One more answer of a client was looked at.
    pub(crate) fn asked(&self) {
        self.pages().asked += 1;
    }

    pub(crate) fn questions(&self) -> usize {
        self.pages().asked
    }

    /// The first telling of a session's verdict.
    pub(crate) fn told_of(&self, session: &str) -> Option<Told> {
        self.pages().told.get(session).cloned()
    }

    /// A record came from somewhere: what it says is held against the kernel, now, and against what was said before.
    pub(crate) fn hear(&self, record: &Value, from: &str) {
        let id = record["id"].as_str().unwrap_or_default();
        let at = clock::now().mono;
        // Asked after the answer came: one that still lives did so when it was written.
        let lives = self.observer.has_ended(id) == Some(false);
        if record["outcome"].is_null() {
            let running = matches!(record["status"].as_str(), Some("running" | "idle"));
            if !running || !record["stoppedAt"].is_null() || !record["exitCode"].is_null() {
                self.broken(Broken::Wrong, format!("{from}: an end without a verdict: {record}"));
            }
            return;
        }
        if lives {
            self.broken(Broken::Early, format!("{from}: the kernel shows it alive: {record}"));
        }
        let verdict: Vec<Value> = FOR_EVER.iter().map(|key| record[*key].clone()).collect();
        let mut pages = self.pages();
        let first = pages.told.entry(id.to_owned()).or_insert_with(|| Told { at, verdict: verdict.clone() });
        if first.verdict != verdict {
            let what = format!("{from}: {id} was {:?} and is {verdict:?}", first.verdict);
            pages.broken.entry(Broken::Changed).or_default().push(what);
        }
    }

    /// A line of the event stream; how many are known.
    pub(crate) fn event(&self, line: &str) -> u64 {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        let seq = event["seq"].as_u64().unwrap_or_default();
        let known = {
            let mut pages = self.pages();
            let next = pages.events.len() as u64 + 1;
            if seq == next {
                pages.events.push(line.to_owned());
            }
            next
        };
        if seq > known || seq == 0 {
            self.broken(Broken::Gap, format!("after event {} came {line}", known - 1));
        } else if seq < known {
            self.same_event(seq, line);
        } else if !event["session"].is_null() {
            self.hear(&event["session"], "event");
        }
        self.pages().events.len() as u64
    }

    /// An event that was told before is the same, byte for byte.
    pub(crate) fn same_event(&self, seq: u64, line: &str) {
        let at = usize::try_from(seq).unwrap_or(usize::MAX).wrapping_sub(1);
        let first = self.pages().events.get(at).cloned();
        if let Some(first) = first.filter(|first| first != line) {
            self.broken(Broken::Changed, format!("event {seq} was {first} and is {line}"));
        }
    }

    pub(crate) fn events(&self) -> Vec<String> {
        self.pages().events.clone()
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
