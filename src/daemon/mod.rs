//! The daemon: recovers what an earlier life left, then turns events into steps, steps into commits, and
//! commits into effects.
//!
//! Everything runs on one thread, so there are no locks; only the journal's writer and short blocking jobs
//! (spawning, reading files) have threads of their own. The order of things is the point of this file:
//! a step's effects wait for its records to be durable, and nothing terminal is told before.

mod adopted;
mod afterwards;
mod again;
mod converse;
mod deliver;
mod doctor;
mod environment;
mod exit_files;
mod follow;
mod found;
mod fuses;
mod groups;
mod health;
mod home;
mod hooks;
mod http;
mod hub;
mod journal;
mod launch;
mod launches;
mod life;
mod listing;
mod locks;
mod log_files;
mod looks;
mod making;
mod notify;
mod old_tool;
mod perform;
mod place;
mod prepare;
mod queue;
mod reach;
mod reattach;
mod rebuild;
mod reload;
mod removals;
mod rows;
mod scrape;
mod serve;
mod service;
mod stream;
mod takeover;
mod turns;
mod webhooks;
mod worktrees;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

pub use home::{Home, HomeError};
pub use journal::Schema;
pub use old_tool::OldDaemon;

use crate::adapters;
use crate::config::webhooks::Webhook;
use crate::config::{Config, ConfigError, OLD_TIMEOUT};
use crate::core::fuse::{Evidence, LaunchError, Outcome};
use crate::core::outbox::Endpoint;
use crate::core::record::{DeliveryId, Record};
use crate::core::vocab::{HostId, RunId, SessionId};
use crate::core::{Effect, Event, JournalHealth, Reply, ReplyTo, Request, Settings, Step, Supervisor};
use crate::sys::journald::Journald;
use crate::sys::service::ServiceManager;
use crate::sys::shim_file::ShimProgram;
use crate::sys::tree::marks::Marks;
use crate::sys::{self, BackendChoice, DirWatch, StartError, Sys, Timer};
use crate::{limits, wire};

use hub::Hub;
use journal::{Journal, JournalError, Loaded, Written};
use launch::Parcel;
use perform::Handles;

/// Why a daemon does not start. Each message names the next step.
#[derive(Debug, Error)]
pub enum DaemonError {
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{0}")]
    OldDaemon(OldDaemon),
    #[error("{0}")]
    Journal(String),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(
        "open the shim beside this program: {0}; install agentctl-shim in the same directory as agentctl"
    )]
    Shim(std::io::Error),
    #[error("{what} {path}: {source}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
}

/// How the daemon is to be run.
#[derive(Debug)]
pub struct Options {
    pub home: Home,
    /// Beats the configured backend.
    pub backend: Option<BackendChoice>,
    /// Beats the configured address of the metrics, on the loopback.
    pub metrics_port: Option<u16>,
    /// Who is to hear how it goes.
    pub starter: Starter,
    /// What the journal is brought to.
    pub schema: Schema,
    /// The systemd journal, where lifecycle events become entries.
    pub journal: Option<Arc<Journald>>,
}

/// Who started the daemon.
#[derive(Debug)]
pub enum Starter {
    /// A person, in a terminal: nobody waits for word.
    Person,
    /// A command that waits: called once, when requests are answered.
    Command(fn()),
    /// systemd, or one like it.
    Manager(ServiceManager),
}

impl Starter {
    /// What the home's lock file says of it.
    fn line(&self) -> &'static str {
        match self {
            Self::Person => "run by hand",
            Self::Command(_) => takeover::STARTED_BY_COMMAND,
            Self::Manager(_) => "run by a service manager",
        }
    }
}

/// Everything that the tasks of the daemon share.
pub(crate) struct Daemon {
    pub(crate) home: Home,
    /// What holds now; read again at a reload.
    pub(crate) config: RefCell<Config>,
    /// Why the configuration as it is in the file now was not taken.
    pub(crate) config_refused: RefCell<Option<String>>,
    pub(crate) sys: Sys,
    /// A pid namespace of this boot that ended with an earlier daemon of this home, its first process.
    pub(crate) ended_container: Option<u64>,
    pub(crate) core: RefCell<Supervisor>,
    pub(crate) journal: Journal,
    pub(crate) hub: Hub,
    pub(crate) shim: Arc<ShimProgram>,
    /// Whether the file system of the sessions makes holes, which keeping logs to their size takes.
    pub(crate) makes_holes: Result<(), String>,
    /// Where sessions live.
    pub(crate) places: place::Places,
    /// Soft limit of open files as inherited: what a session gets that asks for none.
    pub(crate) nofile: u64,
    pub(crate) handles: RefCell<HashMap<RunId, Box<Handles>>>,
    /// Those who read the output of agents.
    readers: RefCell<HashMap<RunId, Rc<follow::Asked>>>,
    pub(crate) parcels: RefCell<HashMap<RunId, Parcel>>,
    pub(crate) launches: Semaphore,
    /// Bytes of request bodies that may still come into memory.
    pub(crate) bodies: Semaphore,
    pub(crate) first_starts: turns::Turns<PathBuf>,
    /// Sessions that are being taken up again.
    pub(crate) resumes: turns::Turns<SessionId>,
    pub(crate) looks: looks::Looks,
    /// Who carries the mark of a session.
    pub(crate) marks: Marks,
    pub(crate) worktrees: worktrees::Gits,
    /// Runs whose exit file is being put away, or is to be.
    pub(crate) archiving: RefCell<HashSet<RunId>>,
    afterwards: afterwards::Afterwards,
    removals: removals::Removals,
    /// Of runs with files that could not be read: how long to wait for the next look.
    pauses: RefCell<HashMap<RunId, Duration>>,
    /// Of runs whose shim has ended: that its lock is being tried.
    lock_looks: RefCell<HashSet<RunId>>,
    /// Rung once, when the verdict of a session that somebody follows is durable.
    pub(crate) ends: RefCell<HashMap<SessionId, watch::Sender<bool>>>,
    pub(crate) started: crate::core::vocab::Now,
    /// Looks for agents that were started outside.
    pub(crate) scans: found::Scans,
    /// What this start had to rebuild.
    pub(crate) rebuilt: RefCell<rebuild::Rebuilt>,
    /// What this start took over from the earlier agentctl, line by line.
    pub(crate) imported: RefCell<Vec<String>>,
    pub(crate) stop: Notify,
    /// The systemd journal, when we log there.
    entries: Option<Arc<Journald>>,
    inbox: mpsc::UnboundedSender<Message>,
    replies: RefCell<HashMap<ReplyTo, oneshot::Sender<Reply>>>,
    reply_numbers: Cell<u64>,
    pending: RefCell<VecDeque<Pending>>,
    durable: Cell<u64>,
    /// The last records are worth no commit of their own and have not been followed by others.
    soft_waits: Cell<bool>,
    timer: RefCell<Option<Timer>>,
    exits: RefCell<Option<DirWatch>>,
    mailer: RefCell<deliver::Mailer>,
    /// Where metrics are served by the word of whoever started this daemon.
    pub(crate) metrics_port: Option<u16>,
    /// How this host calls itself.
    pub(crate) host_name: String,
}

/// What reaches the loop.
pub(crate) enum Message {
    Event(Event),
    Written(Written),
    /// Somebody wants to know whether the loop turns.
    Pulse(oneshot::Sender<()>),
}

/// Effects that wait for records to be durable.
#[derive(Default)]
struct Pending {
    /// All records up to this one.
    upto: u64,
    events: Vec<hub::Line>,
    ended: Vec<SessionId>,
    settled: Vec<RunId>,
    /// What the deliveries among the effects send, so that the journal is not asked for what it was just given. No more
    /// than an endpoint has attempts under way.
    outgoing: HashMap<DeliveryId, journal::Outgoing>,
    effects: Vec<Effect>,
}

impl Pending {
    fn deliveries(&self) -> Vec<&DeliveryId> {
        self.effects
            .iter()
            .filter_map(|effect| if let Effect::Deliver(id) = effect { Some(id) } else { None })
            .collect()
    }
}

/// How many records the journal at `path` holds; refused as at a start, and then left as it is.
pub fn records_in(path: &Path) -> Result<usize, DaemonError> {
    let mut records = 0;
    let read = journal::read(path, |_| records += 1);
    read.map(|()| records).map_err(|error| DaemonError::Journal(error.to_string()))
}

/// Runs the daemon until it is told to stop. Sessions live on.
pub fn run(options: Options) -> Result<(), DaemonError> {
    // Whatever is made in the home is ours alone; a session gets the mask of its caller.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let managed = matches!(options.starter, Starter::Manager(_));
    let host = sys::host_id().map_err(StartError::Host)?;
    // First: what is refused has changed nothing.
    if let Some(old) = options.home.old_daemon() {
        return Err(DaemonError::OldDaemon(old));
    }
    let lock = takeover::prepare(&options.home, options.starter.line(), &host, managed)?;
    let mut config = Config::load(&options.home.config(), &environment())?;
    if config.old_timeout {
        tracing::warn!("{}: {OLD_TIMEOUT}", options.home.config().display());
    }
    if let Some(port) = options.metrics_port {
        config.metrics_addr = Some(format!("127.0.0.1:{port}"));
    }
    let shim = ShimProgram::open_beside_me().map_err(DaemonError::Shim)?;
    let nofile = sys::raise_nofile();
    if let Err(error) = sys::grow_descriptor_table(nofile) {
        tracing::warn!("some launches will take longer: make room for descriptors: {error}");
    }
    let nofile = nofile.before;
    if let Err(error) = sys::become_subreaper() {
        tracing::warn!("orphans of a dead shim will go to PID 1: {error}");
    }
    let choice = options.backend.unwrap_or(config.backend);
    let result = sys::run(choice, async |sys| live(sys, options, config, shim, nofile).await)?;
    drop(lock);
    result
}

async fn live(
    sys: Sys,
    options: Options,
    config: Config,
    shim: ShimProgram,
    nofile: u64,
) -> Result<(), DaemonError> {
    let Options { home, metrics_port, starter, schema, journal: entries, .. } = options;
    let signals = serve::Signals::catch();
    let (inbox, mut messages) = mpsc::unbounded_channel();
    let mut core = Supervisor::new(settings(&config, sys.host().clone()));
    let (journal, loaded) = open_journal(&home, &config, &schema, &inbox, &mut core)?;
    let mut daemon = Daemon::new(sys, home, config, shim, nofile, journal, core, inbox);
    daemon.entries = entries;
    daemon.metrics_port = metrics_port;
    daemon.ended_container = daemon.home.ended_container(daemon.sys.host(), std::process::id())?;
    let daemon = Rc::new(daemon);
    tracing::info!(backend = %daemon.sys.started().backend, why = %daemon.sys.started().why, "agentctl daemon starts");
    rebuild::rebuild(&daemon, &loaded);
    old_tool::import::import(&daemon);
    rebuild::until_recorded(&daemon, &mut messages).await;
    // Before anybody can ask: what a request keeps is of no record yet.
    queue::sweep(&daemon);
    // Armed first, scanned second, deadlines last.
    let arm = Rc::clone(&daemon);
    let timer = daemon.sys.timer(move || arm.send(Event::Timer));
    let timer = timer.map_err(|source| DaemonError::Io {
        what: "make the timer for",
        path: daemon.home.path().into(),
        source,
    })?;
    *daemon.timer.borrow_mut() = Some(timer);
    exit_files::watch_exits(&daemon);
    let listener = serve::listen(&daemon)?;
    serve::accept(&daemon, listener);
    scrape::serve(&daemon).await;
    reattach::recover(&daemon).await;
    let manager = service::begin(&daemon, starter);
    let ended = serve::until_signalled(&daemon, signals, manager.as_deref());
    tokio::pin!(ended);
    loop {
        tokio::select! {
            message = messages.recv() => {
                let Some(message) = message else { break };
                daemon.receive(message);
                // A burst is worked off before the timer is armed once.
                while let Ok(message) = messages.try_recv() {
                    daemon.receive(message);
                }
                daemon.arm_timer();
            }
            () = &mut ended => break,
        }
    }
    tracing::info!("agentctl daemon stops; sessions live on");
    if let Some(manager) = &manager {
        manager.stopping();
    }
    serve::close(&daemon);
    daemon.end_afterwards();
    daemon.journal.flush();
    daemon.end_removals();
    daemon.worktrees.let_go();
    Ok(())
}

/// Opens the journal, and has the core know what it holds.
fn open_journal(
    home: &Home,
    config: &Config,
    schema: &Schema,
    inbox: &mpsc::UnboundedSender<Message>,
    core: &mut Supervisor,
) -> Result<(Journal, Loaded), DaemonError> {
    let tell = inbox.clone();
    let told = move |written| {
        // The loop may have ended already; then nobody needs to know.
        let _ended = tell.send(Message::Written(written));
    };
    let now = sys::clock::now();
    let each = |record| core.replay(&record, now);
    let (journal, loaded) = Journal::open(&home.journal(), config.durability, schema, each, told)
        .map_err(|error: JournalError| DaemonError::Journal(error.to_string()))?;
    core.replayed(loaded.last_seq);
    Ok((journal, loaded))
}

impl Daemon {
    #[expect(clippy::too_many_arguments, reason = "the parts that run() has made, put together once")]
    fn new(
        sys: Sys,
        home: Home,
        config: Config,
        shim: ShimProgram,
        nofile: u64,
        journal: Journal,
        core: Supervisor,
        inbox: mpsc::UnboundedSender<Message>,
    ) -> Self {
        let places = place::Places::new(sys.started().backend);
        let durable = core.appended();
        let makes_holes = sys::log_files::prove_holes(&home.sessions()).map_err(|error| error.to_string());
        if let (Err(why), Some(_)) = (&makes_holes, config.log_max_bytes) {
            tracing::warn!(
                "logs are not kept to log_max: {} makes no holes in files ({why})",
                home.path().display()
            );
        }
        let hub = Hub::new(journal.epoch().to_owned(), core.last_seq());
        Self {
            home,
            config: RefCell::new(config),
            config_refused: RefCell::default(),
            sys,
            core: RefCell::new(core),
            journal,
            hub,
            shim: Arc::new(shim),
            makes_holes,
            places,
            nofile,
            handles: RefCell::default(),
            readers: RefCell::default(),
            parcels: RefCell::default(),
            launches: Semaphore::new(limits::LAUNCHES_AT_ONCE_MAX),
            bodies: Semaphore::new(limits::BODIES_BYTES_MAX),
            first_starts: turns::Turns::default(),
            resumes: turns::Turns::default(),
            looks: looks::Looks::default(),
            marks: Marks::default(),
            worktrees: worktrees::Gits::default(),
            archiving: RefCell::default(),
            afterwards: afterwards::Afterwards::default(),
            removals: removals::Removals::default(),
            pauses: RefCell::default(),
            lock_looks: RefCell::default(),
            ends: RefCell::default(),
            started: sys::clock::now(),
            scans: found::Scans::default(),
            rebuilt: RefCell::default(),
            imported: RefCell::default(),
            stop: Notify::new(),
            entries: None,
            metrics_port: None,
            ended_container: None,
            inbox,
            replies: RefCell::default(),
            reply_numbers: Cell::new(0),
            pending: RefCell::default(),
            durable: Cell::new(durable),
            soft_waits: Cell::new(false),
            timer: RefCell::new(None),
            exits: RefCell::new(None),
            mailer: RefCell::new(deliver::Mailer::new()),
            host_name: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    /// Hands an event to the loop.
    pub(crate) fn send(&self, event: Event) {
        let _ended = self.inbox.send(Message::Event(event));
    }

    /// Asks the core and waits for the answer. When the caller goes away, the core is told.
    pub(crate) async fn ask(self: &Rc<Self>, request: Request) -> Option<Reply> {
        if self.replies.borrow().len() >= limits::REQUESTS_MAX {
            return None;
        }
        let (waiting, told) = self.asker();
        self.send(Event::Request(waiting.to, request));
        let reply = told.await.ok();
        drop(waiting);
        reply
    }

    /// Where an answer will go, for as long as somebody waits for it.
    fn asker(self: &Rc<Self>) -> (Asker, oneshot::Receiver<Reply>) {
        let number = self.reply_numbers.get() + 1;
        self.reply_numbers.set(number);
        let to = ReplyTo(number);
        let (tell, told) = oneshot::channel();
        self.replies.borrow_mut().insert(to, tell);
        (Asker { daemon: Rc::clone(self), to }, told)
    }

    fn receive(self: &Rc<Self>, message: Message) {
        match message {
            Message::Event(event) => self.take(event),
            Message::Pulse(turns) => {
                // Who asked may have given up on us.
                let _gave_up = turns.send(());
            }
            Message::Written(Written::Upto(upto)) => self.became_durable(upto),
            Message::Written(Written::Failing(why)) => {
                let known = self.journal_fails();
                self.take(Event::Journal(JournalHealth::Failing(why.clone())));
                if !known {
                    tracing::error!(
                        "the journal cannot be written ({why}); launches are refused, sessions go on"
                    );
                    self.withdraw_launches(&why);
                    self.perform_exempt();
                }
            }
        }
    }

    fn journal_fails(&self) -> bool {
        matches!(self.core.borrow().journal(), JournalHealth::Failing(_))
    }

    /// One event through the core.
    pub(crate) fn take(self: &Rc<Self>, event: Event) {
        if let Event::Request(_, Request::Resume { session, .. }) = &event {
            self.keep_verdict(*session);
        }
        let step = self.core.borrow_mut().step(sys::clock::now(), event);
        self.carry_out(step);
    }

    fn carry_out(self: &Rc<Self>, step: Step) {
        let Step { records, effects } = step;
        let upto = self.core.borrow().appended();
        let mut pending = Pending { upto, effects, ..Pending::default() };
        if !records.is_empty() {
            let rendered = rows::render(self, &records, &pending.deliveries());
            (pending.events, pending.outgoing) = (rendered.events, rendered.outgoing);
            pending.ended = records
                .iter()
                .filter_map(
                    |record| if let Record::Ended { run, .. } = record { Some(run.session) } else { None },
                )
                .collect();
            pending.ended.iter().for_each(|_| self.afterwards.verdict());
            let settled = |record: &Record| {
                if let Record::TreeSettled { run, .. } = record { Some(*run) } else { None }
            };
            pending.settled = records.iter().filter_map(settled).collect();
            if records.iter().all(is_soft) {
                self.journal.commit_later(rendered.rows, upto);
                self.soft_waits.set(true);
            } else {
                self.journal.commit(rendered.rows, upto, records.iter().any(is_vital));
                self.soft_waits.set(false);
            }
        } else if !pending.effects.is_empty() && self.soft_waits.replace(false) {
            // Effects keep their order; they are not to wait as long as a mood does.
            self.journal.commit(Vec::new(), upto, false);
        }
        if self.durable.get() >= upto {
            self.perform_all(pending);
            return;
        }
        let failing = self.journal_fails();
        self.pending.borrow_mut().push_back(pending);
        if failing {
            self.perform_exempt();
        }
    }

    fn became_durable(self: &Rc<Self>, upto: u64) {
        self.durable.set(upto);
        if self.journal_fails() {
            tracing::info!("the journal can be written again");
            self.take(Event::Journal(JournalHealth::Well));
        }
        loop {
            let next = self.pending.borrow_mut().pop_front_if(|pending| pending.upto <= upto);
            let Some(pending) = next else { break };
            self.perform_all(pending);
        }
        self.take(Event::Durable(upto));
    }

    fn perform_all(self: &Rc<Self>, pending: Pending) {
        if let Some(journal) = &self.entries {
            // What it does not take at once is lost there, and in nobody else's stream.
            for entry in pending.events.iter().filter_map(|line| wire::journald::of_event(&line.bytes)) {
                journal.send(&entry.encode());
            }
        }
        self.hub.publish(pending.events);
        for session in pending.ended {
            if let Some(bell) = self.ends.borrow_mut().remove(&session) {
                bell.send_replace(true);
            }
        }
        let mut outgoing = pending.outgoing;
        for effect in pending.effects {
            self.perform(effect, &mut outgoing);
        }
        for run in pending.settled {
            self.measure_afterwards([run.session]);
            perform::let_go_if_settled(self, run);
        }
    }

    /// With a failing journal: what must be done all the same.
    fn perform_exempt(self: &Rc<Self>) {
        let mut now = Vec::new();
        for pending in self.pending.borrow_mut().iter_mut() {
            let (exempt, waiting) =
                std::mem::take(&mut pending.effects).into_iter().partition(Effect::is_exempt);
            pending.effects = waiting;
            now.extend::<Vec<_>>(exempt);
        }
        for effect in now {
            self.perform(effect, &mut HashMap::new());
        }
    }

    /// With a failing journal: launches that are not durable yet are not to happen later, when nobody
    /// expects them any more.
    fn withdraw_launches(self: &Rc<Self>, why: &str) {
        let mut withdrawn = Vec::new();
        for pending in self.pending.borrow_mut().iter_mut() {
            // A hook is expected whenever its session's verdict can be told.
            let is_spawn = |effect: &mut Effect| matches!(effect, Effect::Spawn(id) if hooks::hidden_of(self, id.session).is_none() && !self.core.borrow().is_promised(*id));
            withdrawn.extend(pending.effects.extract_if(.., is_spawn));
        }
        for effect in withdrawn {
            let Effect::Spawn(id) = effect else { continue };
            self.parcels.borrow_mut().remove(&id);
            let error = LaunchError::Setup(format!("the journal could not be written: {why}"));
            self.take(Event::Evidence(id, Evidence::LaunchFailed(error)));
        }
    }

    pub(crate) fn answer(&self, to: ReplyTo, reply: Reply) {
        if let Some(waiting) = self.replies.borrow_mut().remove(&to) {
            // A client that left does not need the answer.
            let _gone = waiting.send(reply);
        }
    }

    fn arm_timer(&self) {
        let next = self.core.borrow().next_deadline();
        if let Some(timer) = &*self.timer.borrow() {
            timer.arm(next);
        }
    }

    /// Turns true when the session's verdict is durable, and stays so: who asks late misses nothing.
    pub(crate) fn end_of(&self, id: SessionId) -> watch::Receiver<bool> {
        let core = self.core.borrow();
        let live =
            core.session(id).is_some_and(|session| session.run.verdict.is_none() || !core.may_tell(session));
        if !live {
            return watch::Sender::new(true).subscribe();
        }
        self.ends.borrow_mut().entry(id).or_default().subscribe()
    }

    /// The public record of a session.
    pub(crate) fn view(&self, id: SessionId) -> Option<wire::api::SessionView> {
        let core = self.core.borrow();
        let session = core.session(id)?;
        Some(self.view_of(session, core.may_tell(session)))
    }

    pub(crate) fn view_of(
        &self,
        session: &crate::core::session::Session,
        told: bool,
    ) -> wire::api::SessionView {
        // What an adopted run prints goes where it was started.
        let log = (!session.run.adopted).then(|| self.home.log(session.run_id(), "stdout"));
        let log = log.map(|log| log.to_string_lossy().into_owned());
        let mut view = wire::api::SessionView::of(session, told, log);
        queue::show(self, session, &mut view);
        view
    }

    /// The adapter of a session.
    pub(crate) fn adapter_of(&self, id: SessionId) -> Option<adapters::Known> {
        let core = self.core.borrow();
        let spec = &core.session(id)?.spec;
        let known = adapters::Known::find(&spec.adapter, &self.config.borrow().adapters)?;
        if spec.acp { known.over_acp().ok() } else { Some(known) }
    }

    /// How to read what the agent of a session prints.
    pub(crate) fn parser_of(&self, id: SessionId) -> Option<adapters::Parser> {
        let speaks_acp = self.core.borrow().session(id)?.spec.acp;
        let of_adapter = self.adapter_of(id).and_then(|adapter| adapter.parser());
        of_adapter.or(speaks_acp.then_some(adapters::Parser::ACP))
    }
}

/// Verdicts of what ran are worth the reserve; a launch that failed is not.
fn is_vital(record: &Record) -> bool {
    matches!(record, Record::Ended { verdict, .. } if verdict.outcome != Outcome::LaunchFailed)
}

/// A mood or a trouble: found again after a restart.
fn is_soft(record: &Record) -> bool {
    matches!(record, Record::Event { kind, .. } | Record::DeliveryQueued { kind, .. } if kind.is_soft())
}

/// Work on files, on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panicked| Err(std::io::Error::other(panicked)))
}

/// Tells the core when somebody stops waiting.
struct Asker {
    daemon: Rc<Daemon>,
    to: ReplyTo,
}

impl Drop for Asker {
    fn drop(&mut self) {
        if self.daemon.replies.borrow_mut().remove(&self.to).is_some() {
            self.daemon.send(Event::Abandoned(self.to));
        }
    }
}

/// The daemon's own, as far as it is text: what beats the configuration.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

fn settings(config: &Config, host: HostId) -> Settings {
    let endpoint = |webhook: &Webhook| Endpoint {
        name: webhook.name.clone(),
        kinds: webhook.kinds.clone(),
        adapters: webhook.adapters.clone(),
        attempts_max: webhook.attempts_max,
        paused: webhook.paused,
    };
    Settings {
        endpoints: config.webhooks.iter().map(endpoint).collect(),
        retention: config.retention,
        disk_max_bytes: config.disk_max_bytes,
        max_sessions: config.max_sessions,
        adapter_max_sessions: config.adapter_max_sessions.clone(),
        host,
    }
}
