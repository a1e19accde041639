//! An agent's output as people read it: what it said, which tools it called with what, and what went wrong.

use super::{Lines, Parser};
use crate::core::agent::{AgentEvent, StepEnd};

/// Lines of a tool's answer that are shown; the raw log has the rest.
const ANSWER_LINES_MAX: usize = 8;

/// Turns output into text, line by line.
#[derive(Debug)]
pub struct Readable {
    parser: Parser,
    lines: Lines,
    /// The last text did not end its line.
    open: bool,
}

impl Readable {
    pub fn new(parser: Parser) -> Self {
        Self { parser, lines: Lines::default(), open: false }
    }

    /// From anywhere in the output: what comes before the first line break is dropped.
    pub fn from_mid_line(parser: Parser) -> Self {
        Self { lines: Lines::from_mid_line(), ..Self::new(parser) }
    }

    /// The text of what these bytes complete.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut text = String::new();
        let Self { parser, lines, open } = self;
        lines.push(bytes, |line| show_line(parser, line, open, &mut text));
        text
    }

    /// The output has ended.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        let Self { parser, lines, open } = self;
        lines.finish(|line| show_line(parser, line, open, &mut text));
        if std::mem::take(open) {
            text.push('\n');
        }
        text
    }

    /// How many of the pushed bytes have not been shown, since their line goes on.
    pub fn pending_bytes(&self) -> usize {
        self.lines.pending_bytes()
    }
}

fn show_line(parser: &Parser, line: &[u8], open: &mut bool, text: &mut String) {
    if line.first() != Some(&b'{') {
        // Not the agent's own format: somebody printed it for people.
        end_line(open, text);
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
        return;
    }
    for event in parser.read(line) {
        show(&event, open, text);
    }
}

fn show(event: &AgentEvent, open: &mut bool, text: &mut String) {
    let shown = match event {
        AgentEvent::SaidMore(more) => {
            text.push_str(more);
            *open = !more.ends_with('\n') && (*open || !more.is_empty());
            return;
        }
        AgentEvent::Said(said) => format!("{said}\n"),
        AgentEvent::ToolCalled { name, input } => format!("[{name}] {input}\n"),
        AgentEvent::ToolAnswered { ok, output } => answer(*ok, output),
        AgentEvent::Failed(why) | AgentEvent::StepEnded(StepEnd::Failed(why)) => format!("error: {why}\n"),
        AgentEvent::StepEnded(StepEnd::Other(reason)) => format!("ended: {reason}\n"),
        AgentEvent::NativeId(_)
        | AgentEvent::Used { .. }
        | AgentEvent::Total { .. }
        | AgentEvent::StepEnded(StepEnd::Stop | StepEnd::ToolCalls)
        | AgentEvent::Over
        | AgentEvent::Idle
        | AgentEvent::Active => return,
    };
    end_line(open, text);
    text.push_str(&shown);
}

fn end_line(open: &mut bool, text: &mut String) {
    if std::mem::take(open) {
        text.push('\n');
    }
}

fn answer(ok: bool, output: &str) -> String {
    let mut shown = String::new();
    let lines: Vec<&str> = output.trim_end().lines().collect();
    for line in lines.iter().take(ANSWER_LINES_MAX) {
        shown.push_str(&format!("    {line}\n"));
    }
    if lines.len() > ANSWER_LINES_MAX {
        shown.push_str(&format!("    ({} more lines)\n", lines.len() - ANSWER_LINES_MAX));
    }
    if !ok {
        shown.push_str("    (the tool failed)\n");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::Known;

    fn shown(adapter: &str, output: &str) -> String {
        let parser = Known::find(adapter, &[]).and_then(|known| known.parser()).expect("it has a parser");
        let whole = {
            let mut readable = Readable::new(parser.clone());
            readable.push(output.as_bytes()) + &readable.finish()
        };
        // However it is cut, the text is the same.
        let mut readable = Readable::new(parser);
        let mut pieces = String::new();
        for byte in output.as_bytes() {
            pieces.push_str(&readable.push(&[*byte]));
        }
        assert_eq!(pieces + &readable.finish(), whole);
        whole
    }

    fn recorded(adapter: &str) -> String {
        let path = format!("{}/tests/fixtures/{adapter}/tool-exits-3.jsonl", env!("CARGO_MANIFEST_DIR"));
        shown(adapter, &std::fs::read_to_string(path).expect("a recording"))
    }

    #[test]
    fn every_agents_tool_calls_are_read_alike() {
        for adapter in crate::adapters::ALL.iter().filter(|adapter| adapter.parse.is_some()) {
            let text = recorded(adapter.name);
            let lines: Vec<&str> = text.lines().collect();
            let call = lines.iter().find(|line| line.starts_with('[')).expect("a call");
            assert!(call.contains("echo TOOLOUT; exit 3"), "{}: {text}", adapter.name);
            assert!(!text.contains("{\""), "{}: {text}", adapter.name);
        }
        let codex =
            "[shell] /bin/bash -lc 'echo TOOLOUT; exit 3'\n    TOOLOUT\n    (the tool failed)\nafter\n";
        assert_eq!(recorded("codex"), codex);
        assert_eq!(recorded("gemini"), "[run_shell_command] echo TOOLOUT; exit 3\n    TOOLOUT\nafter\n");
    }

    #[test]
    fn pieces_foreign_lines_and_failures() {
        let piece =
            |text: &str| format!("{{\"type\":\"message\",\"role\":\"assistant\",\"content\":\"{text}\"}}\n");
        assert_eq!(shown("gemini", &(piece("a") + &piece("b"))), "ab\n");
        let mixed =
            piece("a") + "a plugin\n" + r#"{"type":"result","status":"error","error":{"message":"no"}}"#;
        assert_eq!(shown("gemini", &mixed), "a\na plugin\nerror: no\n");
        let long = (0..20).map(|n| format!("{n}\\n")).collect::<String>();
        let answer = format!(r#"{{"type":"tool_result","status":"success","output":"{long}"}}"#);
        assert!(shown("gemini", &answer).ends_with("    7\n    (12 more lines)\n"));
    }
}
