//! The event stream: the latest lines in memory, a bell for whoever follows.
//!
//! Owns no queue per reader: a reader keeps its own place, reads what is in memory from there, and older
//! lines from the journal; so any number of readers, however slow, cost the daemon nothing but the bell.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::watch;

use crate::limits;

/// One event as it is sent: a line of JSON with its newline.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) seq: u64,
    pub(crate) bytes: Bytes,
}

impl Line {
    pub(crate) fn new(seq: u64, body: &str) -> Self {
        // No longer than it is: a thousand of them stay in memory.
        let mut line = Vec::with_capacity(body.len() + 1);
        line.extend_from_slice(body.as_bytes());
        line.push(b'\n');
        Self { seq, bytes: line.into() }
    }
}

/// What is published.
#[derive(Debug)]
pub(crate) struct Hub {
    epoch: String,
    recent: RefCell<VecDeque<Line>>,
    latest: watch::Sender<u64>,
}

/// What a reader finds after its place.
pub(crate) enum Next {
    /// These lines.
    Lines(Vec<Line>),
    /// Nothing yet.
    Nothing,
    /// Its place is older than what is in memory: the journal has it.
    Older,
}

impl Hub {
    pub(crate) fn new(epoch: String, last_seq: u64) -> Self {
        Self { epoch, recent: RefCell::default(), latest: watch::Sender::new(last_seq) }
    }

    /// The name of the journal that the numbers belong to.
    pub(crate) fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The last number that may be told.
    pub(crate) fn latest(&self) -> u64 {
        *self.latest.borrow()
    }

    /// Rings when there is more.
    pub(crate) fn bell(&self) -> watch::Receiver<u64> {
        self.latest.subscribe()
    }

    /// Makes durable events known.
    pub(crate) fn publish(&self, lines: Vec<Line>) {
        let Some(last) = lines.last().map(|line| line.seq) else { return };
        let mut recent = self.recent.borrow_mut();
        recent.extend(lines);
        while recent.len() > limits::EVENTS_IN_MEMORY_MAX {
            recent.pop_front();
        }
        drop(recent);
        self.latest.send_replace(last);
    }

    /// What comes after `seq`.
    pub(crate) fn after(&self, seq: u64) -> Next {
        if seq >= self.latest() {
            return Next::Nothing;
        }
        let recent = self.recent.borrow();
        match recent.front() {
            Some(first) if first.seq <= seq + 1 => Next::Lines(
                recent.iter().filter(|line| line.seq > seq).take(limits::EVENTS_PAGE).cloned().collect(),
            ),
            Some(_) | None => Next::Older,
        }
    }
}
