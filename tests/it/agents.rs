//! The real agents, each through every case, from launch to webhook, against a scripted model. Needs `.ci/install-agents`.
//!
//! `docs/agents.md` holds the table of what came of each; a run that finds a cell other than the one there fails, and
//! `AGENTCTL_BLESS=1 cargo test --test it agents::` (or `.ci/agents-table`) writes the cells anew.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;

use serde_json::Value;

use crate::support::real_agent::Agent;
use crate::support::stage::{COMPLETED, Expected, Stage, carriers};
use crate::support::wait::until;

const DOCS: &str = "docs/agents.md";

/// The rows of the table, and what the agent is told. `{model}` is the scripted model, unless a case says otherwise.
const CASES: [&str; 12] = [
    "success",
    "tool",
    "failing tool",
    "authentication error",
    "server error",
    "length cut-off",
    "refused model",
    "hang, ended by the deadline",
    "stop during a tool that left its session",
    "SIGKILL of the program",
    "resume",
    "two at once, in a fresh home",
];

/// How an agent ends where it lives to tell: with a code of its own, or with 0 and words.
const FAILED: Expected<'static> =
    Expected { outcome: "failed", reason: "exit_code_1", code: Some(1), number: 1, steps: None, ..COMPLETED };
const REPORTED: Expected<'static> = Expected { reason: "agent_reported_error", code: Some(0), ..FAILED };

/// The columns of the table: which agent, and whether it is talked to in ACP.
const COLUMNS: [(Agent, bool); 5] = [
    (Agent::Opencode, false),
    (Agent::ClaudeCode, false),
    (Agent::Codex, false),
    (Agent::Pi, false),
    (Agent::Opencode, true),
];

struct Matrix {
    stage: Stage,
    agent: Agent,
    acp: bool,
    /// (case, what came of it)
    found: Vec<(&'static str, String)>,
}

impl Matrix {
    fn launch(&self, name: &str, prompt: &str, flags: &[&str]) -> String {
        let [model, _] = self.agent.models();
        let model: &[&str] = if flags.contains(&"--model") { &[] } else { &["--model", model] };
        let acp: &[&str] = if self.acp { &["--acp"] } else { &[] };
        self.stage.launch(name, prompt, &[model, acp, flags].concat())
    }

    /// Checks the whole end, and notes it for the table.
    #[track_caller]
    fn check(&mut self, case: &'static str, id: &str, expected: &Expected<'_>) -> Value {
        let mut expected = *expected;
        // One that had not come so far that it could be told is ended by TERM, as without ACP.
        if self.acp
            && expected.prongs.iter().any(|prong| ["deadline", "stop"].contains(prong))
            && self.stage.daemon.ended(id)["signal"] == "SIGTERM"
        {
            expected = Expected { code: None, signal: Some("SIGTERM"), ..expected };
        }
        let record = self.stage.verdict(id, &expected);
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        let (outcome, reason) = (text("outcome"), text("reason"));
        let cell = match outcome.as_str() {
            "completed" => "completed".to_owned(),
            "failed" => format!("failed, `{reason}`"),
            outcome => format!("{outcome} ({})", record["exitStatus"]),
        };
        self.found.push((case, cell));
        record
    }

    /// What the agent ends with when it is sent TERM; one that is talked to is told first, and then ends by itself.
    fn by_term<'a>(
        &self,
        outcome: &'a str,
        reason: &'a str,
        number: u8,
        prongs: &'a [&'a str],
    ) -> Expected<'a> {
        let by_agent = matches!(self.agent, Agent::ClaudeCode | Agent::Pi).then_some(143);
        let code = if self.acp { Some(0) } else { by_agent };
        Expected {
            outcome,
            reason,
            code,
            signal: code.is_none().then_some("SIGTERM"),
            number,
            prongs,
            message: None,
            steps: None,
        }
    }
}

fn matrix(agent: Agent, acp: bool) {
    let over = if acp { " over ACP" } else { "" };
    let test = format!("every case of {}{over}", agent.adapter());
    let Some(stage) = Stage::new(agent, &test) else { return };
    let mut matrix = Matrix { stage, agent, acp, found: Vec::new() };
    two_at_once(&mut matrix);
    natural_ends(&mut matrix);
    ended_by_others(&mut matrix);
    resumed(&mut matrix);
    compare((agent, acp), &matrix.found);
}

fn two_at_once(matrix: &mut Matrix) {
    let (one, two) = thread::scope(|scope| {
        let one = scope.spawn(|| matrix.launch("one", "[[reply:1]]", &[]));
        let two = scope.spawn(|| matrix.launch("two", "[[reply:2]]", &[]));
        (one.join().expect("a launch"), two.join().expect("a launch"))
    });
    let one = matrix.stage.verdict(&one, &COMPLETED);
    let two = matrix.check("two at once, in a fresh home", &two, &COMPLETED);
    assert_ne!(one["nativeId"], two["nativeId"]);
}

fn natural_ends(matrix: &mut Matrix) {
    let exits = |message| Expected { message: Some(message), ..FAILED };
    let reports = |message| Expected { message: Some(message), ..REPORTED };
    let twice = Expected { steps: Some(2), ..COMPLETED };
    let over_acp = matrix.acp;
    let by_agent = |opencode, claude, codex, pi| match matrix.agent {
        // Over ACP it lives to tell.
        Agent::Opencode if over_acp => Expected { reason: REPORTED.reason, code: REPORTED.code, ..opencode },
        Agent::Opencode => opencode,
        Agent::ClaudeCode => claude,
        Agent::Codex => codex,
        Agent::Pi => pi,
    };
    let deadline = matrix.by_term("timed_out", "deadline", 124, &["deadline", "exit_file", "pidfd"]);
    // opencode tries again in silence for a minute and a half; the deadline is sooner.
    let patience = if matrix.agent == Agent::Opencode { "20s" } else { "10m" };
    let [_, no_such] = matrix.agent.models();
    let table = [
        ("success", "[[reply:hello there]]", &[][..], COMPLETED),
        ("tool", "[[tool:bash:echo hello]] [[reply:after]]", &[], twice),
        ("failing tool", "[[tool:bash:exit 3]] [[reply:so what]]", &[], twice),
        (
            "authentication error",
            "[[error:401]]",
            &["--timeout", "10m"],
            by_agent(exits("401"), exits("401"), exits("401"), reports("401")),
        ),
        (
            "server error",
            "[[error:500]]",
            &["--timeout", patience],
            if over_acp {
                deadline
            } else {
                by_agent(deadline, exits("500"), exits("high demand"), reports("500"))
            },
        ),
        (
            "length cut-off",
            "[[length]] [[reply:cut o]]",
            &[],
            by_agent(
                Expected { steps: Some(1), ..reports("`length`") },
                Expected { steps: Some(4), ..exits("output token maximum") },
                exits("max_output_tokens"),
                Expected { steps: Some(1), ..reports("`length`") },
            ),
        ),
        (
            "refused model",
            "hi",
            &["--model", no_such],
            by_agent(
                exits(if over_acp { "model not found" } else { "UnknownError" }),
                exits("claude-no-such"),
                exits("404"),
                reports("404"),
            ),
        ),
        ("hang, ended by the deadline", "[[hang]]", &["--timeout", "10m"], deadline),
    ];
    let launched: Vec<_> = table
        .iter()
        .map(|(case, prompt, flags, _)| {
            let id = matrix.launch(&case.replace([' ', ','], "-"), prompt, flags);
            // Of many opencodes that start at once in one home, one may end with "database is locked".
            if matrix.agent == Agent::Opencode {
                matrix.stage.until_begun(&id, prompt);
            }
            id
        })
        .collect();
    // From then on it says its own code when it is told to end.
    matrix.stage.asked_with("[[hang]]");
    let hanging = launched.last().expect("the last of the table");
    assert_eq!(matrix.stage.daemon.code(&["extend", hanging, "2s"]), Some(0));
    for (id, (case, _, _, expected)) in launched.iter().zip(&table) {
        matrix.check(case, id, expected);
    }
    assert_eq!(matrix.stage.daemon.json(["peek", &launched[0], "-n", "1", "--json"])[0], "hello there");
}

/// A tool that never ends, with a process beside it that left its session. An agent that does not wait for it any longer
/// (codex, after 10 s) asks its model, and waits for that.
const WITHOUT_END: &str = "[[tool:bash:(setsid tail -f /dev/null &) ; tail -F /dev/null]] [[hang]]";

fn ended_by_others(matrix: &mut Matrix) {
    let [stopped, killed] = ["stopped", "killed"].map(|name| {
        let id = matrix.launch(name, WITHOUT_END, &["--grace", "5s"]);
        matrix.stage.until_runs(&id, "tail -f /dev/null");
        matrix.stage.until_runs(&id, "tail -F /dev/null");
        id
    });
    let output = matrix.stage.daemon.run(["stop", &stopped]);
    assert_eq!(carriers(&stopped), [0; 0], "nobody is left at the moment of the answer: {output:?}");
    let prongs = ["stop", "exit_file", "pidfd", "tree_gone"];
    let cancelled = matrix.by_term("cancelled", "stop_requested", 143, &prongs);
    let record = matrix.check("stop during a tool that left its session", &stopped, &cancelled);
    assert!(record["nativeId"].is_string(), "without it nobody can resume what was stopped: {record}");

    matrix.stage.leader(&killed).signal(9).expect("a live leader");
    let sigkill = Expected {
        outcome: "failed",
        reason: "sigkill",
        code: None,
        signal: Some("SIGKILL"),
        number: 137,
        steps: None,
        ..COMPLETED
    };
    matrix.check("SIGKILL of the program", &killed, &sigkill);
    until("the rest of the tree to be ended", || carriers(&killed).is_empty().then_some(()));
}

fn resumed(matrix: &mut Matrix) {
    let before = matrix.stage.daemon.status("success");
    let id = before["id"].as_str().expect("an id");
    // The directory may still be that of the one before.
    let output = matrix.stage.command(&["resume", id, "[[reply:again]]", "--json", "--force"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let after = matrix.check("resume", id, &COMPLETED);
    assert_eq!((&after["run"], &after["nativeId"]), (&Value::from(2), &before["nativeId"]));
    assert_eq!(matrix.stage.daemon.json(["peek", id, "-n", "1", "--json"])[0], "again");
    // The model was told what had been said before.
    let texts = matrix.stage.model.requests().last().expect("a request").user_texts().join(" ");
    assert!(texts.contains("[[reply:hello there]]") && texts.contains("[[reply:again]]"), "{texts}");
}

/// The docs are one file, and these tests run at the same time.
static WRITING: Mutex<()> = Mutex::new(());

/// Compares what was found with the agent's column in the docs.
fn compare(column: (Agent, bool), found: &[(&str, String)]) {
    let _one = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCS);
    let text = fs::read_to_string(&docs).expect("the docs");
    let name = format!("{}{}", column.0.adapter(), if column.1 { " over ACP" } else { "" });
    let column = 2 + COLUMNS.iter().position(|other| *other == column).expect("one of all");
    let bless = std::env::var_os("AGENTCTL_BLESS").is_some();
    let mut wrong = Vec::new();
    let mut line = |line: &str| -> String {
        let mut cells: Vec<String> = line.split('|').map(|cell| cell.trim().to_owned()).collect();
        let case = CASES.into_iter().find(|case| cells.get(1).is_some_and(|cell| cell == case));
        let (Some(case), true) = (case, cells.len() == COLUMNS.len() + 3) else { return line.to_owned() };
        let cell =
            found.iter().find(|(of, _)| *of == case).map(|(_, cell)| cell.clone()).expect("every case ran");
        if cells[column] == cell {
            return line.to_owned();
        }
        wrong.push(format!("{case}: found {cell}, the docs say {}", cells[column]));
        cells[column] = cell;
        format!("| {} |", cells[1..cells.len() - 1].join(" | "))
    };
    let written: Vec<String> = text.lines().map(&mut line).collect();
    if bless {
        fs::write(&docs, written.join("\n") + "\n").expect("write the docs");
    } else {
        assert!(wrong.is_empty(), "{name}: {}", wrong.join("; "));
    }
    let rows = CASES.iter().filter(|case| text.contains(&format!("| {case} |"))).count();
    assert_eq!(rows, CASES.len(), "every case has its row in {DOCS}");
}

#[test]
fn opencode_through_every_case() {
    matrix(Agent::Opencode, false);
}

#[test]
fn opencode_over_acp_through_every_case() {
    matrix(Agent::Opencode, true);
}

#[test]
fn claude_code_through_every_case() {
    matrix(Agent::ClaudeCode, false);
}

#[test]
fn codex_through_every_case() {
    matrix(Agent::Codex, false);
}

#[test]
fn pi_through_every_case() {
    matrix(Agent::Pi, false);
}
