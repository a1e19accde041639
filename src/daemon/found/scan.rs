//! One look: processes first, by /proc; then the stores of the agents among them.
//!
//! Runs on a thread of its own and hands over what it has after each step, so that whatever hangs takes nothing with it.
//! Looks at its own time between any two reads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::adapters::found::{self, Store};
use crate::adapters::{EnvLook, Known};
use crate::core::agent::Tokens;
use crate::core::vocab::{HostId, Now, SessionId};
use crate::limits;
use crate::sys::clock;
use crate::sys::shown::{self, Ancestry, Crowd, Numbered, Shown};
use crate::wire::found::{Found, id_of_conversation, id_of_process};

use super::{files, locked, opencode};

/// What a look has to know of us.
pub(super) struct Job {
    pub(super) known: Vec<Known>,
    /// Our own processes, by number and start time.
    pub(super) ours: BTreeMap<(u32, u64), Option<SessionId>>,
    /// Numbers that are ours as long as we do not know their processes to have ended: they are held, so that no other has
    /// them. Nothing is read of these.
    pub(super) held: HashSet<u32>,
    /// Kernel threads of earlier looks. Nobody else is remembered: any other process may become another program.
    pub(super) of_kernel: Arc<Mutex<HashSet<Numbered>>>,
    /// Ids that sessions have.
    pub(super) taken: HashSet<SessionId>,
    /// Conversations of our own sessions, by adapter.
    pub(super) told: HashSet<(String, String)>,
    /// How many of our own live sessions of an adapter, in a directory, have not told theirs.
    pub(super) untold: HashMap<(String, String), usize>,
    pub(super) host: HostId,
    pub(super) by_number: bool,
    pub(super) passwd_home: PathBuf,
    pub(super) began: Now,
    pub(super) progress: Arc<Mutex<Progress>>,
}

/// What a look has come to so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) found: Vec<Agent>,
    pub(super) warnings: Vec<String>,
    /// What it does now, for the case that it never comes back.
    pub(super) doing: String,
}

/// An agent that was found.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) found: Found,
    pub(super) adapter: Known,
    pub(super) arguments: Vec<String>,
    /// The process, and what it wraps, if it is a wrapper.
    pub(super) line: Vec<Arc<Shown>>,
}

/// What a store tells of an agent.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    pub(super) native_id: String,
    pub(super) model: Option<String>,
    pub(super) prompt: Option<String>,
    pub(super) tokens: Option<Tokens>,
    pub(super) cost_usd: Option<f64>,
}

impl Job {
    /// Whether the time of the look is over.
    pub(super) fn is_late(&self) -> bool {
        clock::now().mono.since(self.began.mono) > limits::FOUND_TIMEOUT_OF_LOOK
    }

    pub(super) fn doing(&self, what: impl std::fmt::Display) {
        locked(&self.progress).doing = what.to_string();
    }

    pub(super) fn warn(&self, what: String) {
        let mut progress = locked(&self.progress);
        if progress.warnings.len() < limits::WARNINGS_MAX && !progress.warnings.contains(&what) {
            progress.warnings.push(what);
        }
    }

    /// The environment that an agent runs in, as far as its adapter may look at it.
    pub(super) fn env<'a, T>(&'a self, agent: &'a Agent, then: impl FnOnce(&EnvLook<'_>) -> T) -> T {
        let shown = &agent.line[0];
        let vars = |name: &str| shown.var(name);
        then(&EnvLook {
            vars: &vars,
            exists: &|_| false,
            passwd_home: &self.passwd_home,
            cwd: agent.found.cwd.as_ref(),
            root: false,
            safe: true,
        })
    }

    /// Whether a conversation is one of our own sessions.
    pub(super) fn is_ours(&self, adapter: &str, native_id: &str) -> bool {
        self.told.contains(&(adapter.to_owned(), native_id.to_owned()))
    }
}

/// Looks once.
pub(super) fn scan(job: &Job) {
    job.doing("/proc");
    let agents = match processes(job) {
        Ok(agents) => agents,
        Err(error) => {
            job.warn(format!("agents started outside are not listed: read /proc: {error}"));
            return;
        }
    };
    locked(&job.progress).found.clone_from(&agents);
    let mut budget = files::Budget::default();
    let mut names: Vec<Name> = agents.iter().map(|agent| name(job, agent, &mut budget)).collect();
    let mut claimed: HashSet<(String, String)> = HashSet::new();
    for (agent, name) in agents.iter().zip(&names) {
        if let Some(id) = &name.id {
            claimed.insert((agent.found.adapter.clone(), id.clone()));
        }
    }
    for at in 0..agents.len() {
        if job.is_late() {
            late(job);
            return;
        }
        let agent = &agents[at];
        let alone = names[at].id.is_some() || is_alone(job, &agents, &names, at);
        let conversation = conversation(job, agent, names[at].id.as_deref(), alone, &claimed, &mut budget);
        if let Some(conversation) = &conversation {
            names[at].id = Some(conversation.native_id.clone());
            claimed.insert((agent.found.adapter.clone(), conversation.native_id.clone()));
        }
        tell(job, at, &names[at], conversation);
    }
}

fn late(job: &Job) {
    let most = limits::FOUND_TIMEOUT_OF_LOOK.as_millis();
    let doing = locked(&job.progress).doing.clone();
    job.warn(format!(
        "the look for agents started outside was given up after {most} ms, at {doing}; some are told incompletely"
    ));
}

/// What is known of an agent's conversation without its store's contents.
#[derive(Debug, Default)]
struct Name {
    id: Option<String>,
    idle: bool,
}

/// All agents that are ours to see and not part of a session; a wrapper and what it wraps are one.
fn processes(job: &Job) -> std::io::Result<Vec<Agent>> {
    let mut ancestry = Ancestry::default();
    let mut agents: Vec<Agent> = Vec::new();
    let mut crowd = Crowd::open()?;
    let mut numbers = crowd.numbers()?;
    numbers.sort_unstable_by_key(|numbered| numbered.pid);
    let known_of_kernel = std::mem::take(&mut *job.of_kernel.lock().unwrap_or_else(PoisonError::into_inner));
    let mut of_kernel = HashSet::new();
    for numbered in numbers {
        let pid = numbered.pid;
        if job.is_late() {
            late(job);
            break;
        }
        if job.held.contains(&pid) {
            continue;
        }
        if known_of_kernel.contains(&numbered) {
            of_kernel.insert(numbered);
            continue;
        }
        // By number first, which is cheap; whoever seems to be one is held and looked at again.
        let Ok(argv) = crowd.command_line(pid) else { continue };
        if argv.is_empty() && shown::is_of_kernel(pid) {
            of_kernel.insert(numbered);
        }
        if found::recognise(&job.known, || crowd.program(pid), &argv).is_none() {
            continue;
        }
        // Of thousands of our own no more is read than who they are.
        if ancestry.of(pid).iter().any(|ancestor| job.ours.contains_key(ancestor)) {
            continue;
        }
        let Ok(Some(shown)) = shown::look(pid, job.by_number) else { continue };
        let Some(running) = found::recognise(&job.known, || shown.exe.clone(), &shown.argv) else { continue };
        let same = ancestry.of(pid).first() == Some(&(pid, shown.process.id().start_ticks));
        if !same || shown.var("AGENTCTL_SESSION_ID").is_some_and(|id| !id.is_empty()) {
            continue;
        }
        if agents.len() == limits::FOUND_MAX {
            job.warn(format!("more than {} agents run; the rest is not listed", limits::FOUND_MAX));
            break;
        }
        agents.push(Agent {
            found: Found {
                id: id_of_process(&job.host, shown.process.id()),
                adapter: running.adapter.name().to_owned(),
                process: *shown.process.id(),
                started: shown.started,
                cwd: shown.cwd.as_ref().map(|cwd| cwd.to_string_lossy().into_owned()).unwrap_or_default(),
                model: found::option(&running.arguments, &["--model", "-m"]).map(str::to_owned),
                prompt: None,
                native_id: None,
                tokens: None,
                cost_usd: None,
                idle: false,
            },
            adapter: running.adapter,
            arguments: running.arguments,
            line: vec![Arc::new(shown)],
        });
    }
    *job.of_kernel.lock().unwrap_or_else(PoisonError::into_inner) = of_kernel;
    Ok(unwrap(agents, &mut ancestry))
}

/// A wrapper starts what it wraps with its own arguments, as its direct child.
fn unwrap(agents: Vec<Agent>, ancestry: &mut Ancestry) -> Vec<Agent> {
    let wrapper_of = |at: usize, ancestry: &mut Ancestry| {
        let parent = ancestry.parent(agents[at].found.process.pid)?;
        agents.iter().position(|other| {
            other.found.process.pid == parent
                && other.found.adapter == agents[at].found.adapter
                && other.arguments == agents[at].arguments
        })
    };
    let wrappers: Vec<Option<usize>> = (0..agents.len()).map(|at| wrapper_of(at, ancestry)).collect();
    let mut lines: Vec<Vec<Arc<Shown>>> = agents.iter().map(|agent| agent.line.clone()).collect();
    for at in 0..agents.len() {
        // Numbers may have wrapped around, so a wrapper can come after what it wraps.
        let mut root = at;
        let mut steps = 0;
        while let Some(wrapper) = wrappers[root].filter(|_| steps < agents.len()) {
            root = wrapper;
            steps += 1;
        }
        if root != at {
            let wrapped = lines[at].clone();
            lines[root].extend(wrapped.into_iter().take(1));
        }
    }
    let roots = agents.into_iter().zip(lines).zip(wrappers).filter(|(_, wrapper)| wrapper.is_none());
    roots.map(|((agent, line), _)| Agent { line, ..agent }).collect()
}

fn name(job: &Job, agent: &Agent, budget: &mut files::Budget) -> Name {
    let Known::BuiltIn(adapter) = &agent.adapter else { return Name::default() };
    let in_arguments = (adapter.found.id_in)(&agent.arguments);
    match &adapter.found.store {
        Some(Store::Files(files)) if !job.is_late() => {
            let registered = files::registered(job, agent, files, budget);
            let idle = registered.as_ref().is_some_and(|registered| registered.idle);
            let open = || files::open(agent, files);
            let id = registered.map(|registered| registered.native_id).or(in_arguments).or_else(open);
            Name { id, idle }
        }
        Some(Store::Files(_) | Store::Opencode(_)) | None => Name { id: in_arguments, idle: false },
    }
}

/// Whether no other process could be the one of a conversation in the same directory.
fn is_alone(job: &Job, agents: &[Agent], names: &[Name], at: usize) -> bool {
    let (adapter, cwd) = (&agents[at].found.adapter, &agents[at].found.cwd);
    let others = agents.iter().zip(names).enumerate().filter(|(other, (agent, name))| {
        *other != at && name.id.is_none() && agent.found.adapter == *adapter && agent.found.cwd == *cwd
    });
    others.count() == 0 && !job.untold.contains_key(&(adapter.clone(), cwd.clone()))
}

fn conversation(
    job: &Job,
    agent: &Agent,
    id: Option<&str>,
    alone: bool,
    claimed: &HashSet<(String, String)>,
    budget: &mut files::Budget,
) -> Option<Conversation> {
    let Known::BuiltIn(adapter) = &agent.adapter else { return None };
    // A process in a container of its own has its files elsewhere.
    if !agent.line[0].same_files || (id.is_none() && (!alone || agent.found.cwd.is_empty())) {
        return None;
    }
    let is_free = |native: &str| {
        !job.is_ours(&agent.found.adapter, native)
            && !claimed.contains(&(agent.found.adapter.clone(), native.to_owned()))
    };
    match &adapter.found.store {
        None => None,
        Some(Store::Files(files)) => files::conversation(job, agent, files, id, &is_free, budget),
        Some(Store::Opencode(database)) => {
            let path = job.env(agent, *database)?;
            opencode::conversation(job, agent, &path, id, &is_free)
        }
    }
}

/// Adds to what is told of an agent.
fn tell(job: &Job, at: usize, name: &Name, conversation: Option<Conversation>) {
    let mut progress = locked(&job.progress);
    let same = |id: SessionId, progress: &Progress| {
        progress.found.iter().enumerate().any(|(other, agent)| other != at && agent.found.id == id)
    };
    if let Some(native) = &name.id {
        let id = id_of_conversation(&progress.found[at].found.adapter, native);
        // A conversation that was a session's before, or has two processes: then the process has an id of its own.
        if !job.taken.contains(&id) && !same(id, &progress) {
            progress.found[at].found.id = id;
        }
    }
    let found = &mut progress.found[at].found;
    found.native_id.clone_from(&name.id);
    found.idle = name.idle;
    let Some(told) = conversation else { return };
    found.model = told.model.or(found.model.take());
    found.prompt = told.prompt.map(|prompt| prompt.chars().take(limits::PROMPT_CHARS_MAX).collect());
    found.tokens = told.tokens;
    found.cost_usd = told.cost_usd;
}
