//! Reading an agent's output: bytes into lines, lines into events, events into where a run stands.
//!
//! Owns the bounds (length of a line, of a message, of an error) and the one rule for success that all agents
//! share. Refuses to know where bytes come from: the caller reads the log and says what part of it this is.

use std::collections::VecDeque;

use crate::core::agent::{AgentEvent, AgentReport, Span, StepEnd, Tokens};

/// What one line of an agent's stdout tells; nothing for a line that it does not know.
pub type Parse = fn(line: &[u8]) -> Vec<AgentEvent>;

/// A longer line is skipped and counted, never held.
pub const LINE_MAX_BYTES: usize = 1 << 20;
/// One message of the assistant.
pub const MESSAGE_MAX_BYTES: usize = 100_000;
/// An error in the agent's words.
pub const FAILURE_MAX_CHARS: usize = 2_000;

/// A buffer that grew beyond this for one line is given back after it: hundreds of sessions have one each.
const BUFFER_KEPT_BYTES: usize = 64 << 10;

/// Cuts bytes into lines, however they are chunked. Holds at most the part of one line that is still to come.
#[derive(Debug)]
pub struct Lines {
    rest: Rest,
    line_max_bytes: usize,
    skipped: u64,
}

#[derive(Debug)]
enum Rest {
    /// The line that has begun.
    Partial(Vec<u8>),
    /// Inside a line that is not wanted: up to the next line break all is dropped.
    Unwanted,
}

impl Default for Lines {
    fn default() -> Self {
        Self::bounded(LINE_MAX_BYTES)
    }
}

impl Lines {
    /// A splitter at the start of a line, with a bound of its own.
    pub fn bounded(line_max_bytes: usize) -> Self {
        Self { rest: Rest::Partial(Vec::new()), line_max_bytes, skipped: 0 }
    }

    /// A splitter that starts anywhere in a stream: it drops what comes before the first line break.
    pub fn from_mid_line() -> Self {
        Self { rest: Rest::Unwanted, ..Self::default() }
    }

    /// Takes the next bytes and hands out each line that they complete, without its line break. Empty lines
    /// are left out.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(at) = bytes.iter().position(|byte| *byte == b'\n') {
            self.end_line(&bytes[..at], &mut each);
            bytes = &bytes[at + 1..];
        }
        let Rest::Partial(rest) = &mut self.rest else { return };
        if rest.len() + bytes.len() > self.line_max_bytes {
            self.skipped += 1;
            self.rest = Rest::Unwanted;
        } else {
            rest.extend_from_slice(bytes);
        }
    }

    /// The stream has ended: hands out the last line, if it had no line break.
    pub fn finish(&mut self, each: impl FnMut(&[u8])) {
        self.end_line(&[], each);
    }

    /// How many lines were too long.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How many bytes at the end of what was pushed belong to a line that is still to be handed out: a reader
    /// that starts again later starts that much earlier.
    pub fn pending_bytes(&self) -> usize {
        match &self.rest {
            Rest::Partial(rest) => rest.len(),
            Rest::Unwanted => 0,
        }
    }

    fn end_line(&mut self, end: &[u8], mut each: impl FnMut(&[u8])) {
        let Rest::Partial(rest) = &mut self.rest else {
            self.rest = Rest::Partial(Vec::new());
            return;
        };
        if rest.len() + end.len() > self.line_max_bytes {
            self.skipped += 1;
        } else if rest.is_empty() {
            // The usual case: a whole line within one read is not copied.
            if !end.is_empty() {
                each(end);
            }
        } else {
            rest.extend_from_slice(end);
            each(rest);
        }
        rest.clear();
        rest.shrink_to(BUFFER_KEPT_BYTES);
    }
}

/// Where a run stands by its own words.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The agent's own id of the conversation: the first that it named.
    pub native_id: Option<String>,
    /// Summed over all steps, or the running total that the agent told.
    pub tokens: Tokens,
    /// What that total covers; `None` where steps were summed.
    pub tokens_span: Option<Span>,
    /// Like `tokens`; `None` until the agent has told a cost.
    pub cost_usd: Option<f64>,
    /// Like `tokens_span`.
    pub cost_span: Option<Span>,
    /// The latest failure that it reported. Never cleared: an agent that goes on afterwards does not take it back.
    pub last_error: Option<String>,
    /// How the latest step ended.
    pub last_step: Option<StepEnd>,
    /// The latest messages of the assistant, oldest first.
    pub messages: VecDeque<String>,
    /// How many events were taken in. More than none means that the agent is up.
    pub events: u64,
    /// How many lines were too long to be read.
    pub skipped_lines: u64,
    messages_max: usize,
    /// The last message may go on.
    open: bool,
}

impl Progress {
    /// Nothing heard yet; at most this many messages will be kept.
    pub fn keeping(messages_max: usize) -> Self {
        Self { messages_max, ..Self::default() }
    }

    /// Takes in one event.
    pub fn absorb(&mut self, event: AgentEvent) {
        self.events += 1;
        self.open &= matches!(event, AgentEvent::SaidMore(_));
        match event {
            AgentEvent::NativeId(id) => {
                self.native_id.get_or_insert(id);
            }
            AgentEvent::Used { tokens, cost_usd } => {
                self.tokens = self.tokens.plus(tokens);
                self.cost_usd = Some(self.cost_usd.unwrap_or(0.0) + cost_usd);
            }
            AgentEvent::Total { span, tokens, cost_usd } => {
                if let Some(tokens) = tokens {
                    (self.tokens, self.tokens_span) = (tokens, Some(span));
                }
                if cost_usd.is_some() {
                    (self.cost_usd, self.cost_span) = (cost_usd, Some(span));
                }
            }
            AgentEvent::Said(text) => self.say(text),
            AgentEvent::SaidMore(text) => match self.messages.back_mut().filter(|_| self.open) {
                Some(last) if last.len() + text.len() <= MESSAGE_MAX_BYTES => last.push_str(&text),
                // What goes beyond the bound is dropped, as from a message that came whole.
                Some(_) => {}
                None => {
                    self.say(text);
                    self.open = true;
                }
            },
            AgentEvent::Failed(text) => self.last_error = Some(text),
            AgentEvent::StepEnded(end) => self.last_step = Some(end),
            AgentEvent::ToolCalled { .. }
            | AgentEvent::ToolAnswered { .. }
            | AgentEvent::Over
            | AgentEvent::Idle
            | AgentEvent::Active => {}
        }
    }

    /// What was used, as the totals that this part of a log proves: sums only where it is the `whole` log.
    pub fn totals(&self, whole: bool) -> impl Iterator<Item = AgentEvent> {
        let proved = |span: Option<Span>| span.or(whole.then_some(Span::Run));
        // One who tells what all has cost, and no tokens, has not told that there were none.
        let summed = self.cost_usd.is_some() && self.cost_span.is_none();
        let used = self.tokens_span.is_some() || self.tokens != Tokens::default() || summed;
        let tokens = proved(self.tokens_span).filter(|_| used).map(|span| AgentEvent::Total {
            span,
            tokens: Some(self.tokens),
            cost_usd: None,
        });
        let cost = proved(self.cost_span).filter(|_| self.cost_usd.is_some()).map(|span| AgentEvent::Total {
            span,
            tokens: None,
            cost_usd: self.cost_usd,
        });
        tokens.into_iter().chain(cost)
    }

    fn say(&mut self, text: String) {
        self.messages.push_back(text);
        while self.messages.len() > self.messages_max {
            self.messages.pop_front();
        }
    }

    /// Everything that this part of a log tells.
    pub fn of(tail: Tail<'_>, parse: impl Fn(&[u8]) -> Vec<AgentEvent>, messages_max: usize) -> Self {
        let mut progress = Self::keeping(messages_max);
        let (mut lines, bytes) = match tail {
            Tail::Whole(bytes) => (Lines::default(), bytes),
            Tail::Cut(bytes) => {
                if !bytes.is_empty() && !bytes.contains(&b'\n') {
                    progress.skipped_lines += 1;
                }
                (Lines::from_mid_line(), bytes)
            }
        };
        let mut each = |line: &[u8]| parse(line).into_iter().for_each(|event| progress.absorb(event));
        lines.push(bytes, &mut each);
        lines.finish(&mut each);
        progress.skipped_lines += lines.skipped();
        progress
    }
}

/// The last bytes of a log, and whether they begin where it begins.
#[derive(Clone, Copy, Debug)]
pub enum Tail<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Something came before: the first line is taken to be incomplete. A caller that starts one byte early
    /// loses no line that begins exactly there.
    Cut(&'a [u8]),
}

/// What the agent says of the outcome, for a run that exited with code 0. Success needs a final step that
/// ended with `stop` and no failure at any time: exit code 0 by itself covers length cut-offs, rejected
/// permissions and, in some versions, any API error.
pub fn report(progress: &Progress) -> AgentReport {
    if let Some(error) = &progress.last_error {
        return AgentReport::Error(Some(error.clone()));
    }
    match &progress.last_step {
        Some(StepEnd::Stop) => AgentReport::Success,
        Some(StepEnd::Failed(text)) => AgentReport::Error(Some(text.clone())),
        Some(StepEnd::ToolCalls) => AgentReport::Error(Some(ended_with("tool-calls"))),
        Some(StepEnd::Other(reason)) => AgentReport::Error(Some(ended_with(reason))),
        None if progress.skipped_lines > 0 => {
            AgentReport::Unreadable(format!("output lines of over {LINE_MAX_BYTES} bytes were skipped"))
        }
        None => AgentReport::Missing,
    }
}

/// A step that ended for another reason than that all was said, in words.
pub fn ended_with(reason: &str) -> String {
    format!("ended with finish reason `{}`", bounded(reason, 100))
}

/// The last `count` messages of the assistant in this part of a log, oldest first.
pub fn last_messages(tail: Tail<'_>, parse: impl Fn(&[u8]) -> Vec<AgentEvent>, count: usize) -> Vec<String> {
    Progress::of(tail, parse, count).messages.into()
}

/// The text cut to that many characters, the last of them showing the cut. For what records, events and tables
/// carry: [`FAILURE_MAX_CHARS`] at most.
pub(super) fn bounded(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max_chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// A message as it may be kept: bounded; `None` when it is blank.
pub(super) fn message_text(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return None;
    }
    if text.len() <= MESSAGE_MAX_BYTES {
        return Some(text.to_owned());
    }
    let end = text.floor_char_boundary(MESSAGE_MAX_BYTES - '…'.len_utf8());
    Some(format!("{}…", &text[..end]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A toy agent: one letter per line says what happened, the rest is its text.
    fn toy(line: &[u8]) -> Vec<AgentEvent> {
        let line = String::from_utf8_lossy(line);
        match line.split_at_checked(1) {
            Some(("i", id)) => vec![AgentEvent::NativeId(id.to_owned())],
            Some(("s", text)) => vec![AgentEvent::Said(text.to_owned())],
            Some(("f", text)) => vec![AgentEvent::Failed(text.to_owned())],
            Some(("t", _)) => vec![AgentEvent::StepEnded(StepEnd::ToolCalls)],
            Some(("e", "stop")) => vec![AgentEvent::StepEnded(StepEnd::Stop)],
            Some(("e", reason)) => vec![AgentEvent::StepEnded(StepEnd::Other(reason.to_owned()))],
            Some(("u", _)) => {
                let tokens = Tokens { r#in: 1, out: 2, cache_read: 3, cache_write: u64::MAX };
                vec![AgentEvent::Used { tokens, cost_usd: 0.25 }, AgentEvent::Active]
            }
            _ => Vec::new(),
        }
    }

    fn report_of(log: &str) -> AgentReport {
        report(&Progress::of(Tail::Whole(log.as_bytes()), toy, 1))
    }

    fn error(text: &str) -> AgentReport {
        AgentReport::Error(Some(text.to_owned()))
    }

    #[test]
    fn the_success_rule() {
        assert_eq!(report_of("t\nestop\n"), AgentReport::Success);
        assert_eq!(report_of("t\nestop"), AgentReport::Success, "a last line without line break counts");
        assert_eq!(report_of("estop\nt\n"), error("ended with finish reason `tool-calls`"));
        assert_eq!(report_of("elength\n"), error("ended with finish reason `length`"));
        assert_eq!(report_of("estop\nfboom\n"), error("boom"));
        assert_eq!(report_of("fboom\nestop\n"), error("boom"), "going on does not take a failure back");
        assert_eq!(report_of("fone\nftwo\n"), error("two"));
        assert_eq!(report_of(""), AgentReport::Missing);
        assert_eq!(report_of("hello\n\n{}\n"), AgentReport::Missing);
    }

    #[test]
    fn output_that_cannot_be_read_is_not_output_that_says_nothing() {
        let long = "x".repeat(LINE_MAX_BYTES + 1);
        assert!(matches!(report_of(&long), AgentReport::Unreadable(_)));
        assert_eq!(report_of(&format!("{long}\nestop\n")), AgentReport::Success, "what follows is read");
        let cut = Progress::of(Tail::Cut(&long.as_bytes()[..1000]), toy, 1);
        assert!(matches!(report(&cut), AgentReport::Unreadable(_)));
        assert_eq!(report(&Progress::of(Tail::Cut(b""), toy, 1)), AgentReport::Missing);
    }

    #[test]
    fn progress_sums_and_keeps_the_first_id_and_the_last_messages() {
        let progress = Progress::of(Tail::Whole(b"ione\nu\nsa\nitwo\nsb\nu\nsc\n"), toy, 2);
        assert_eq!(progress.native_id.as_deref(), Some("one"));
        assert_eq!(progress.tokens, Tokens { r#in: 2, out: 4, cache_read: 6, cache_write: u64::MAX });
        assert_eq!(progress.cost_usd, Some(0.5));
        assert_eq!(progress.messages, ["b", "c"]);
        assert_eq!(progress.events, 9);
    }

    #[test]
    fn a_total_replaces_sums_and_is_proved_by_any_part_of_a_log() {
        let mut progress = Progress::keeping(1);
        let used = |out| Tokens { out, ..Tokens::default() };
        let total = |span, tokens, cost_usd| AgentEvent::Total { span, tokens, cost_usd };
        progress.absorb(AgentEvent::Used { tokens: used(1), cost_usd: 0.5 });
        assert_eq!(progress.totals(false).count(), 0, "sums of a part prove nothing");
        let sums = [total(Span::Run, Some(used(1)), None), total(Span::Run, None, Some(0.5))];
        assert_eq!(progress.totals(true).collect::<Vec<_>>(), sums);
        progress.absorb(total(Span::Run, Some(used(7)), None));
        progress.absorb(total(Span::Conversation, None, Some(2.0)));
        let told = [total(Span::Run, Some(used(7)), None), total(Span::Conversation, None, Some(2.0))];
        assert_eq!(progress.totals(false).collect::<Vec<_>>(), told);
        assert_eq!(Progress::keeping(1).totals(true).count(), 0, "nothing told is not nothing used");
    }

    #[test]
    fn pieces_of_a_message_are_one_message_until_something_else_happens() {
        let mut progress = Progress::keeping(9);
        let more = |text: &str| AgentEvent::SaidMore(text.to_owned());
        for event in
            [more("a"), more("b"), AgentEvent::Active, more("c"), AgentEvent::Said("d".to_owned()), more("e")]
        {
            progress.absorb(event);
        }
        assert_eq!(progress.messages, ["ab", "c", "d", "e"]);
    }

    #[test]
    fn the_first_line_of_a_cut_tail_is_dropped() {
        assert_eq!(last_messages(Tail::Whole(b"sa\nsb\nsc"), toy, 9), ["a", "b", "c"]);
        assert_eq!(last_messages(Tail::Cut(b"sa\nsb\nsc\n"), toy, 9), ["b", "c"]);
        assert_eq!(last_messages(Tail::Cut(b"\nsb\nsc\n"), toy, 9), ["b", "c"], "read from one byte early");
        assert_eq!(last_messages(Tail::Cut(b"sa\nsb\nsc\n"), toy, 1), ["c"]);
        assert_eq!(last_messages(Tail::Cut(b"sa\nsb\nsc\n"), toy, 0), [""; 0]);
    }

    #[test]
    fn a_line_without_end_is_neither_held_nor_handed_out() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; 64 << 10];
        for _ in 0..160 {
            lines.push(&chunk, |_| panic!("10 MB without line break is no line"));
            assert!(lines.pending_bytes() <= LINE_MAX_BYTES);
        }
        let mut seen = Vec::new();
        lines.push(b"\nnext\n", |line| seen.push(line.to_vec()));
        assert_eq!(seen, [b"next".to_vec()]);
        assert_eq!(lines.skipped(), 1);
        assert!(matches!(&lines.rest, Rest::Partial(rest) if rest.capacity() <= BUFFER_KEPT_BYTES));
    }

    #[test]
    fn texts_are_bounded_and_end_between_characters() {
        assert_eq!(bounded("short", 5), "short");
        assert_eq!(bounded("ääääää", 5), "ääää…");
        assert_eq!(message_text(" \n"), None);
        for shift in 0..4 {
            let long = format!("{}{}", "x".repeat(shift), "🦀".repeat(30_000));
            let kept = message_text(&long).unwrap();
            assert!(
                kept.len() <= MESSAGE_MAX_BYTES && kept.len() > MESSAGE_MAX_BYTES - 8 && kept.ends_with('…')
            );
        }
    }

    fn split(chunks: &[&[u8]], line_max_bytes: usize) -> (Vec<Vec<u8>>, u64) {
        let (mut lines, mut seen) = (Lines::bounded(line_max_bytes), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |line| seen.push(line.to_vec()));
        }
        lines.finish(|line| seen.push(line.to_vec()));
        (seen, lines.skipped())
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_chunks(
            bytes in prop::collection::vec(prop::sample::select(b"ab\n".to_vec()), 0..200),
            cuts in prop::collection::vec(0_usize..200, 0..20),
            line_max_bytes in 1_usize..12,
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();

            let all = || bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            let wanted = all().filter(|line| line.len() <= line_max_bytes).map(<[u8]>::to_vec).collect::<Vec<_>>();
            let skipped = all().filter(|line| line.len() > line_max_bytes).count() as u64;
            prop_assert_eq!(split(&chunks, line_max_bytes), (wanted, skipped));
        }

        #[test]
        fn reading_can_be_taken_up_where_the_pending_line_began(
            bytes in prop::collection::vec(prop::sample::select(b"abc\n".to_vec()), 0..100),
            cut in 0_usize..100,
        ) {
            let cut = cut.min(bytes.len());
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            lines.push(&bytes[..cut], |line| seen.push(line.to_vec()));
            let (rest, _) = split(&[&bytes[cut - lines.pending_bytes()..]], LINE_MAX_BYTES);
            seen.extend(rest);
            prop_assert_eq!(seen, split(&[&bytes], LINE_MAX_BYTES).0);
        }
    }
}
