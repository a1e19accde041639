//! An example to copy: `toy`, an agent that nobody has. `toy run --json`, the prompt as a file on stdin.
//!
//! Built with the tests alone, so that it stays true. A real one says here which version's output it was written by, and
//! what that agent gets wrong.

use super::found::{self, Found};
use super::json::{count, dollars, native_id, tool_answered, tool_called, typed, words};
use super::stream::message_text;
use super::{Adapter, Ask, Program, PromptWay, env_unchanged};
use crate::core::agent::{AgentEvent, StepEnd, Tokens};

pub(super) const TOY: Adapter = Adapter {
    name: "toy",
    program: Program::Named("toy"),
    // Where it keeps its conversations nobody has found out: of one that was started outside, its arguments tell.
    found: Found { packages: &["toy-agent"], id_in: found::no_id, store: None },
    prompt: PromptWay::Stdin,
    argv,
    resume: Some(resume),
    imposes_id: false,
    env: env_unchanged,
    parse: Some(parse),
    first_start: None,
    acp: None,
};

fn argv(ask: &Ask<'_>) -> Vec<String> {
    let mut argv = vec!["run".to_owned(), "--json".to_owned()];
    // Nobody is there to be asked.
    if !ask.safe {
        argv.push("--yes".to_owned());
    }
    argv.extend(ask.model.map(|model| format!("--model={model}")));
    argv
}

fn resume(ask: &Ask<'_>, native_id: &str) -> Vec<String> {
    let mut argv = argv(ask);
    argv.push(format!("--continue={native_id}"));
    argv
}

/// One line of stdout, an object with a `type`. What is not known tells nothing.
fn parse(line: &[u8]) -> Vec<AgentEvent> {
    let Some((kind, event)) = typed(line) else { return Vec::new() };
    match kind.as_str() {
        "begin" => native_id(&event["chat"]).into_iter().chain([AgentEvent::Active]).collect(),
        "said" => event["text"].as_str().and_then(message_text).map(AgentEvent::Said).into_iter().collect(),
        "tool" => vec![tool_called(&event["name"], &event["input"])],
        "tool_done" => vec![tool_answered(event["exit"] == 0, &event["output"])],
        // Tokens of one step, which are added up; an agent that tells totals has `AgentEvent::Total`.
        "step" => {
            let tokens = Tokens { r#in: count(&event["in"]), out: count(&event["out"]), ..Tokens::default() };
            vec![AgentEvent::Used { tokens, cost_usd: dollars(&event["usd"]).unwrap_or(0.0) }]
        }
        // Exit code 0 is a success only with this.
        "end" if event["ok"] == true => vec![AgentEvent::StepEnded(StepEnd::Stop)],
        // Not `AgentEvent::Failed`, which nothing takes back: it may try again.
        "end" => {
            let why = words(&event["why"]).unwrap_or_else(|| "toy failed without words".to_owned());
            vec![AgentEvent::Over, AgentEvent::StepEnded(StepEnd::Failed(why))]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Progress, Tail, report};
    use super::*;
    use crate::core::agent::AgentReport;

    /// As the fixture test reads a recorded stream.
    fn read(stream: &str) -> (Progress, AgentReport) {
        let progress = Progress::of(Tail::Whole(stream.as_bytes()), parse, 9);
        let said = report(&progress);
        (progress, said)
    }

    #[test]
    fn what_it_printed_is_understood() {
        let (progress, said) = read(
            r#"{"type":"begin","chat":"c1"}
{"type":"tool","name":"shell","input":{"command":"exit 3"}}
{"type":"tool_done","exit":3,"output":"no"}
{"type":"step","in":900,"out":50,"usd":0.5}
{"type":"said","text":"hello"}
{"type":"step","in":100,"out":5,"usd":0.25}
{"type":"end","ok":true}
"#,
        );
        assert_eq!(said, AgentReport::Success);
        assert_eq!(progress.native_id.as_deref(), Some("c1"));
        assert_eq!(progress.messages, ["hello"]);
        assert_eq!(progress.tokens, Tokens { r#in: 1000, out: 55, ..Tokens::default() });
        assert_eq!(progress.cost_usd, Some(0.75));
    }

    #[test]
    fn exit_0_needs_its_word_and_a_failure_is_one() {
        assert_eq!(read("{\"type\":\"begin\",\"chat\":\"c1\"}\n").1, AgentReport::Missing);
        let failed = read("{\"type\":\"end\",\"ok\":false,\"why\":\"no key\"}\n").1;
        assert_eq!(failed, AgentReport::Error(Some("no key".to_owned())));
    }

    #[test]
    fn it_is_a_whole_adapter_and_a_short_one() {
        let ask = Ask { prompt: Some("do"), model: Some("m"), ..Ask::default() };
        let (program, arguments) = TOY.command(&ask).unwrap();
        assert_eq!((program.as_str(), arguments.join(" ").as_str()), ("toy", "run --json --yes --model=m"));
        let (_, arguments) = TOY.resume_command(&Ask { safe: true, ..ask }, "c1").unwrap();
        assert_eq!(arguments.join(" "), "run --json --model=m --continue=c1");
        let lines = include_str!("example.rs").split("#[cfg(test)]").next().unwrap().lines().count();
        assert!(lines < 80, "{lines} lines are more than the guide promises");
    }
}
