//! The opencode adapter against the real program: its arguments start it, its parser reads it.
//!
//! No daemon here: this is about the adapter's claims alone. Needs `.ci/install-agents`.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus};

use agentctl::adapters::{self, Ask, EnvLook, Progress, Tail};
use agentctl::core::agent::{AgentReport, StepEnd, Tokens};

use crate::support::fake_llm::FakeLlm;
use crate::support::real_agent::{Agent, RealAgent};

/// What became of one run.
struct Ran {
    status: ExitStatus,
    progress: Progress,
    report: AgentReport,
    stderr: String,
}

/// One home with its fake model; runs share both, as a user's do.
struct Bench {
    opencode: RealAgent,
    model: FakeLlm,
    home: tempfile::TempDir,
}

impl Bench {
    fn new(test: &str) -> Option<Self> {
        let opencode = RealAgent::find(Agent::Opencode, test)?;
        Some(Self { opencode, model: FakeLlm::start(), home: tempfile::tempdir().expect("a temporary home") })
    }

    fn run(&self, ask: Ask<'_>) -> Ran {
        let adapter = adapters::find("opencode").expect("the adapter of this test");
        let (program, arguments) = adapter.command(&ask).expect("a valid request");
        let path = |name: &str| self.home.path().join(name);
        fs::write(path("prompt"), ask.prompt.expect("a prompt")).expect("write the prompt");
        let cwd = path("cwd");
        fs::create_dir_all(&cwd).expect("make the working directory");
        let create = |name: &str| File::create(path(name)).expect("create an output file");
        let status = Command::new(program)
            .args(arguments)
            .current_dir(&cwd)
            .env_clear()
            .envs(self.opencode.env(self.home.path(), self.model.port()))
            .stdin(File::open(path("prompt")).expect("open the prompt"))
            .stdout(create("stdout"))
            .stderr(create("stderr"))
            .status()
            .expect("start opencode");
        let stdout = fs::read(path("stdout")).expect("read stdout");
        let parse = adapter.parse.expect("opencode has a parser");
        let progress = Progress::of(Tail::Whole(&stdout), parse, 10);
        let report = adapters::report(&progress);
        let stderr = fs::read_to_string(path("stderr")).expect("read stderr");
        Ran { status, progress, report, stderr }
    }

    fn prompt(&self, prompt: &str) -> Ran {
        // With a title opencode makes no request of its own for one, which would double the model's log.
        self.run(Ask { prompt: Some(prompt), title: Some("a test"), ..Ask::default() })
    }
}

fn check(ran: &Ran, code: i32, report: AgentReport) {
    assert_eq!((ran.status.code(), &ran.report), (Some(code), &report), "stderr: {}", ran.stderr);
    let id = ran.progress.native_id.as_deref().unwrap_or_default();
    assert!(id.starts_with("ses_"), "native id {id:?}");
}

fn failed(text: &str) -> AgentReport {
    AgentReport::Error(Some(text.to_owned()))
}

#[test]
fn a_success_is_one_and_the_prompt_arrives_as_written() {
    let Some(bench) = Bench::new("real opencode: success") else { return };
    let prompt = "say \"it\" [[reply:hello there]]\nin $TWO 'lines' -- \\ ";
    let ran = bench.run(Ask { prompt: Some(prompt), model: Some("fake/fake-1"), ..Ask::default() });
    check(&ran, 0, AgentReport::Success);
    assert_eq!(ran.progress.messages, ["hello there"]);
    // 1000 of which 100 cached, 50 of which 5 reasoning, at 1, 2 and 0.1 dollars a million.
    assert_eq!(ran.progress.tokens, Tokens { r#in: 900, out: 50, cache_read: 100, cache_write: 0 });
    assert!((ran.progress.cost_usd.expect("a cost") - 0.00101).abs() < 1e-9);
    let requests = bench.model.requests();
    let main = requests.iter().find(|request| !request.tools.is_empty()).expect("a request with tools");
    assert_eq!(main.user_texts(), [prompt]);
}

#[test]
fn a_tool_command_that_fails_is_no_failure_of_the_run() {
    let Some(bench) = Bench::new("real opencode: failing tool") else { return };
    let ran = bench.prompt("[[tool:bash:touch made-by-tool; exit 3]] [[reply:after the tool]]");
    check(&ran, 0, AgentReport::Success);
    assert_eq!(ran.progress.messages, ["after the tool"]);
    assert_eq!(ran.progress.tokens, Tokens { r#in: 1800, out: 100, cache_read: 200, cache_write: 0 });
    assert!(bench.home.path().join("cwd/made-by-tool").exists());
    assert_eq!(bench.model.requests().len(), 2, "a given title spares the request for one");
}

#[test]
fn failures_come_with_the_agents_words() {
    let Some(bench) = Bench::new("real opencode: failures") else { return };
    check(&bench.prompt("[[error:401]]"), 1, failed("APIError: fake error 401 (status 401)"));

    let unknown = bench.run(Ask { prompt: Some("hi"), model: Some("fake/unheard-of"), ..Ask::default() });
    let words = "UnknownError: Unexpected server error. Check server logs for details. (err_";
    let told = unknown.progress.last_error.as_deref().unwrap_or_default();
    assert!(told.starts_with(words), "{told:?}");
    assert_eq!(unknown.report, failed(told));
    assert_eq!(unknown.status.code(), Some(1));

    let refused = bench.prompt("[[refuse]] [[reply:no]]");
    let words = "ContentFilterError: The response was blocked by the provider's content filter";
    check(&refused, 1, failed(words));
    assert_eq!(refused.progress.last_step, Some(StepEnd::Other("content-filter".to_owned())));
}

#[test]
fn exit_code_0_after_a_length_cut_off_is_no_success() {
    let Some(bench) = Bench::new("real opencode: length cut-off") else { return };
    let ran = bench.prompt("[[length]] [[reply:cut o]]");
    check(&ran, 0, failed("ended with finish reason `length`"));
    assert_eq!(ran.progress.messages, ["cut o"]);
}

#[test]
fn the_first_start_is_seen_to_be_done() {
    let Some(bench) = Bench::new("real opencode: first start") else { return };
    let adapter = adapters::find("opencode").expect("the adapter of this test");
    let vars = |name: &str| (name == "HOME").then(|| bench.home.path().into());
    let (exists, passwd_home, cwd) = (&|file: &Path| file.exists(), Path::new("/none"), Path::new("/"));
    let look = EnvLook { vars: &vars, exists, passwd_home, cwd, root: false, safe: false };
    let first = adapter.first_start.and_then(|first_start| first_start(&look)).expect("a first start");
    let size = |file: &Path| fs::metadata(file).ok().map(|metadata| metadata.len());
    assert!(!first.is_done(size));
    check(&bench.prompt("[[reply:x]]"), 0, AgentReport::Success);
    assert!(first.is_done(size), "{first:?}");
}
