//! One look: processes first, by /proc; then the stores of the agents among them.
//!
//! Runs on a thread of its own and hands over what it has after each step, so that whatever hangs takes nothing with it.
//! Looks at its own time between any two reads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::adapters::found::{self, Store};
use crate::adapters::{EnvLook, Known};
use crate::core::agent::Tokens;
use crate::core::vocab::{HostId, Now, SessionId, Wall};
use crate::limits;
use crate::sys::clock;
use crate::sys::shown::{self, Ancestry, Crowd, Numbered, Shown};
use crate::wire::found::{Found, id_of_conversation, id_of_process};

use super::{files, locked, opencode, opencode_files};

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
    pub(super) look: Look,
}

/// One look: since when, where it is, and what it came to.
#[derive(Clone)]
pub(super) struct Look {
    pub(super) passwd_home: PathBuf,
    pub(super) began: Now,
    /// It gives up after so long.
    pub(super) most: Duration,
    pub(super) progress: Arc<Mutex<Progress>>,
}

/// Whose conversation is looked for in a store: a process's, or a session's.
pub(super) struct Whose<'a> {
    /// As warnings name it.
    pub(super) name: String,
    pub(super) cwd: &'a str,
    /// When the process started.
    pub(super) started: Wall,
    /// Its environment.
    pub(super) vars: &'a dyn Fn(&str) -> Option<OsString>,
}

/// What a look has come to so far.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) found: Vec<Agent>,
    pub(super) warnings: Vec<String>,
    /// Whose store did not answer, by [`Whose::name`].
    pub(super) unread: HashSet<String>,
    /// What it does now, for the case that it never comes back.
    pub(super) doing: String,
}

/// An agent that was found.
#[derive(Clone, Debug)]
pub(super) struct Agent {
    pub(super) found: Found,
    pub(super) adapter: Known,
    /// Whether its store was asked, and told all that there is.
    pub(super) answered: bool,
    pub(super) arguments: Vec<String>,
    /// The process, and what it wraps, if it is a wrapper.
    pub(super) line: Vec<Arc<Shown>>,
}

/// What a store tells of an agent.
#[derive(Clone, Debug, Default)]
pub(in crate::daemon) struct Conversation {
    pub(in crate::daemon) native_id: String,
    pub(in crate::daemon) model: Option<String>,
    pub(in crate::daemon) prompt: Option<String>,
    pub(in crate::daemon) tokens: Option<Tokens>,
    pub(in crate::daemon) cost_usd: Option<f64>,
    /// The last messages of the assistant, oldest first.
    pub(in crate::daemon) said: Vec<String>,
    /// Why the model ended its last answer, in the store's word.
    pub(in crate::daemon) finish: Option<String>,
}

impl Look {
    /// Begins now.
    pub(super) fn new(most: Duration, progress: Arc<Mutex<Progress>>) -> Self {
        let passwd_home = crate::daemon::environment::daemon_home();
        Self { passwd_home, began: clock::now(), most, progress }
    }

    /// Whether the time of the look is over.
    pub(super) fn is_late(&self) -> bool {
        clock::now().mono.since(self.began.mono) > self.most
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

    /// The environment of whoever is looked at, as far as its adapter may look at it.
    pub(super) fn env<T>(&self, whose: &Whose<'_>, then: impl FnOnce(&EnvLook<'_>) -> T) -> T {
        then(&EnvLook {
            vars: whose.vars,
            exists: &|_| false,
            passwd_home: &self.passwd_home,
            cwd: whose.cwd.as_ref(),
            root: false,
            safe: true,
        })
    }
}

impl Agent {
    fn name(&self) -> String {
        format!("{} (PID {})", self.found.adapter, self.found.process.pid)
    }

    /// Lets `then` look for what is its.
    pub(super) fn whose<T>(&self, then: impl FnOnce(&Whose<'_>) -> T) -> T {
        let Found { cwd, started, .. } = &self.found;
        let name = self.name();
        let shown = &self.line[0];
        let vars = |name: &str| shown.var(name);
        then(&Whose { name, cwd, started: *started, vars: &vars })
    }
}

impl Job {
    /// Whether a conversation is one of our own sessions.
    pub(super) fn is_ours(&self, adapter: &str, native_id: &str) -> bool {
        self.told.contains(&(adapter.to_owned(), native_id.to_owned()))
    }
}

/// Looks once.
pub(super) fn scan(job: &Job) {
    job.look.doing("/proc");
    let (agents, all) = match processes(job) {
        Ok(found) => found,
        Err(error) => {
            job.look.warn(format!("agents started outside are not listed: read /proc: {error}"));
            return;
        }
    };
    locked(&job.look.progress).found.clone_from(&agents);
    let mut budget = files::Budget::default();
    let mut names: Vec<Name> = agents.iter().map(|agent| name(job, agent, &mut budget)).collect();
    let mut claimed: HashSet<(String, String)> = HashSet::new();
    for (agent, name) in agents.iter().zip(&names) {
        if let Some(id) = &name.id {
            claimed.insert((agent.found.adapter.clone(), id.clone()));
        }
    }
    for at in 0..agents.len() {
        if job.look.is_late() {
            late(job);
            return;
        }
        let agent = &agents[at];
        let alone = names[at].id.is_some() || (all && is_alone(job, &agents, &names, at));
        let conversation = conversation(job, agent, names[at].id.as_deref(), alone, &claimed, &mut budget);
        if let Some(conversation) = &conversation {
            names[at].id = Some(conversation.native_id.clone());
            claimed.insert((agent.found.adapter.clone(), conversation.native_id.clone()));
        }
        tell(job, at, &names[at], conversation);
    }
}

fn late(job: &Job) {
    let most = job.look.most.as_millis();
    let doing = locked(&job.look.progress).doing.clone();
    job.look.warn(format!(
        "the look for agents started outside was given up after {most} ms, at {doing}; some are told incompletely"
    ));
}

/// What is known of an agent's conversation without its store's contents.
#[derive(Debug, Default)]
struct Name {
    id: Option<String>,
    idle: bool,
}

/// The agents that are ours to see and not part of a session, and whether these are all; a wrapper and what it wraps are
/// one.
fn processes(job: &Job) -> std::io::Result<(Vec<Agent>, bool)> {
    let mut ancestry = Ancestry::default();
    let (mut agents, mut all) = (Vec::<Agent>::new(), true);
    let mut crowd = Crowd::open()?;
    let mut numbers = crowd.numbers()?;
    numbers.sort_unstable_by_key(|numbered| numbered.pid);
    let known_of_kernel = std::mem::take(&mut *locked(&job.of_kernel));
    let mut of_kernel = HashSet::new();
    for numbered in numbers {
        let pid = numbered.pid;
        if job.look.is_late() {
            late(job);
            all = false;
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
            job.look.warn(format!("more than {} agents run; the rest is not listed", limits::FOUND_MAX));
            all = false;
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
            answered: false,
            arguments: running.arguments,
            line: vec![Arc::new(shown)],
        });
    }
    *locked(&job.of_kernel) = of_kernel;
    Ok((unwrap(agents, &mut ancestry), all))
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
        Some(Store::Files(files)) if !job.look.is_late() => {
            let registered = files::registered(&job.look, agent, files, budget);
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
        Some(store) => agent.whose(|whose| in_store(&job.look, whose, store, id, &is_free, budget)),
    }
}

/// What a store tells of the conversation of this id; or of the only one that can be meant.
pub(super) fn in_store(
    look: &Look,
    whose: &Whose<'_>,
    store: &Store,
    id: Option<&str>,
    is_free: &dyn Fn(&str) -> bool,
    budget: &mut files::Budget,
) -> Option<Conversation> {
    match store {
        Store::Files(files) => files::conversation(look, whose, files, id, is_free, budget),
        Store::Opencode(store) => {
            let database = look.env(whose, store.database);
            let told = match database {
                // A database that does not answer may hold what is looked for, and what the files say is older.
                Some(path) => opencode::conversation(look, whose, &path, id, is_free).ok()?,
                None => None,
            };
            // A version that has the database has taken over what was in the files.
            told.or_else(|| opencode_files::conversation(look, whose, store, id, is_free, budget))
        }
    }
}

/// Adds to what is told of an agent.
fn tell(job: &Job, at: usize, name: &Name, conversation: Option<Conversation>) {
    let mut progress = locked(&job.look.progress);
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
    let answered = !progress.unread.contains(&progress.found[at].name());
    progress.found[at].answered = answered;
    let found = &mut progress.found[at].found;
    found.native_id.clone_from(&name.id);
    found.idle = name.idle;
    let Some(told) = conversation else { return };
    found.model = told.model.or(found.model.take());
    found.prompt = told.prompt.map(|prompt| prompt.chars().take(limits::PROMPT_CHARS_MAX).collect());
    found.tokens = told.tokens;
    found.cost_usd = told.cost_usd;
}
