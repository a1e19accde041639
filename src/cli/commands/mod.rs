//! One file a verb; what they share is here.

mod adapters;
mod adopt;
pub(crate) mod again;
mod config;
mod daemon;
mod doctor;
mod events;
pub(crate) mod fuses;
mod groups;
mod launch;
pub(crate) mod locks;
mod logs;
mod select;
mod stop;
mod wait;
pub(crate) mod webhooks;
pub(crate) mod worktree;

use hyper::body::Incoming;
use hyper::{Method, Response};
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::core::vocab::{millis, short};
use crate::limits;
use crate::wire::api::{Extend, SessionView};
use crate::wire::found::WARNING_HEADER;

use super::client::{Client, piece, segment};
use super::listing::{Line, reindent};
use super::render;
use super::{Command, ExtendArgs, Failure, ListArgs, PeekArgs, StatusArgs};

/// Nothing to send.
const NO_BODY: Option<&Value> = None;

/// What is answered for each of several sessions: said as it comes, or all of it at the end as JSON.
struct Answers {
    json: bool,
    records: Vec<Value>,
    /// The code of the last failure.
    failed: Option<u8>,
}

impl Answers {
    fn new(json: bool) -> Self {
        Self { json, records: Vec::new(), failed: None }
    }

    /// `done` is what was done, as in "Stopped".
    fn take(&mut self, answer: Result<Value, Failure>, done: &str) -> Result<(), Failure> {
        match answer {
            Ok(record) => {
                if !self.json {
                    let id = short(record["id"].as_str().unwrap_or_default());
                    render::out(&format!("{done} session {id}\n"))?;
                }
                self.records.push(record);
            }
            Err(failure) => {
                render::say(&failure.message);
                self.failed = Some(failure.code);
            }
        }
        Ok(())
    }

    /// The exit code.
    fn end(self) -> Result<u8, Failure> {
        if self.json {
            render::json(&self.records)?;
        }
        Ok(self.failed.unwrap_or(0))
    }
}

/// Carries out a command; the exit code.
pub(crate) async fn dispatch(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Run(args) => launch::run(args).await,
        Command::Launch(args) => launch::launch(args).await,
        Command::Resume(args) => launch::resume(args).await,
        Command::List(args) => list(args).await,
        Command::Adopt(args) => adopt::adopt(args).await,
        Command::Status(args) => status(args).await,
        Command::Wait(args) => wait::wait(args).await,
        Command::Logs(args) => logs::logs(args).await,
        Command::Peek(args) => peek(args).await,
        Command::Stop(args) => stop::stop(args).await,
        Command::Extend(args) => extend(args).await,
        Command::Events(args) => events::events(args).await,
        Command::Fuses(args) => fuses::fuses(args).await,
        Command::Fuse(command) => fuses::fuse(command).await,
        Command::Lock(args) => locks::lock(args).await,
        Command::Unlock(args) => locks::unlock(args).await,
        Command::Locks(args) => locks::locks(args.json).await,
        Command::Kill(args) => again::kill(args).await,
        Command::Rerun(args) => again::rerun(args).await,
        Command::Prune(args) => again::prune(args).await,
        Command::Adapters(args) => adapters::adapters(args).await,
        Command::Doctor(args) => doctor::doctor(args).await,
        Command::Config(command) => config::config(command).await,
        Command::Webhooks(command) => webhooks::webhooks(command).await,
        Command::Worktree(command) => worktree::worktree(command).await,
        Command::Daemon(command) => daemon::daemon(command).await,
        Command::Completions { .. } | Command::Generate { .. } => unreachable!("answered without a runtime"),
    }
}

async fn list(args: ListArgs) -> Result<u8, Failure> {
    let client = Client::find()?;
    let mut path = select::list_path(
        args.all,
        args.status.as_deref(),
        args.adapter.as_deref(),
        args.group.as_deref(),
        &args.label,
    );
    if args.json && !args.all {
        // Programs that know four words take what is listed for what runs.
        path += if path.ends_with('?') { "queued=0" } else { "&queued=0" };
    }
    let answer = client.send(Method::GET, &path, None, None).await.map_err(|why| client.failure(why))?;
    say_warnings(&answer, "");
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(more) = piece(&mut body).await.map_err(|why| client.failure(why))? {
        bytes.extend_from_slice(&more);
        if args.json && bytes.len() > limits::PRETTY_LIST_MAX {
            // Laid out it would be longer still: as it comes, while the rest is on its way.
            if render::out_bytes(false, &bytes)? {
                logs::copy(body, false, &mut 0).await.map_err(|why| client.failure(why))?;
                render::out_bytes(false, b"\n")?;
            }
            return Ok(0);
        }
    }
    if args.json {
        // As it came: a newer daemon may know more keys than we do.
        super::client::decode::<IgnoredAny>(&bytes)?;
        let pretty = reindent(&bytes);
        if pretty.len() > limits::PRETTY_LIST_MAX {
            render::out_bytes(false, &[&bytes[..], b"\n"].concat())?;
        } else {
            render::out_bytes(false, &pretty)?;
        }
    } else {
        render::table(&super::client::decode::<Vec<Line<'_>>>(&bytes)?)?;
    }
    Ok(0)
}

/// What the daemon has to say beside its answer.
fn say_warnings(answer: &Response<Incoming>, prefix: &str) {
    for warning in answer.headers().get_all(WARNING_HEADER) {
        render::say(&format!("{prefix}{}", String::from_utf8_lossy(warning.as_bytes())));
    }
}

async fn status(args: StatusArgs) -> Result<u8, Failure> {
    let path = format!("/v1/sessions/{}", segment(&args.id));
    let record: Value = Client::find()?.json(Method::GET, &path, NO_BODY).await?;
    show(record, args.json)
}

/// A session record, as JSON or for people.
fn show(record: Value, json: bool) -> Result<u8, Failure> {
    if json {
        render::json(&record)?;
    } else {
        render::details(&view(record)?)?;
    }
    Ok(0)
}

/// The parts of a record that we know.
fn view(record: Value) -> Result<SessionView, Failure> {
    serde_json::from_value(record).map_err(|error| {
        Failure::new(
            1,
            format!("the daemon's record is not understood: {error}; run: agentctl daemon restart"),
        )
    })
}

/// A directory as the daemon understands it.
fn absolute(directory: &std::path::Path) -> Result<String, Failure> {
    let usage = |message: String| Failure::new(2, message);
    let path = std::path::absolute(directory);
    let path = path.map_err(|error| usage(format!("find {}: {error}", directory.display())))?;
    path.into_os_string().into_string().map_err(|path| usage(format!("the directory {path:?} is not UTF-8")))
}

/// An answer whose parts are known.
fn understood<T: serde::de::DeserializeOwned>(found: Value) -> Result<T, Failure> {
    serde_json::from_value(found).map_err(|error| {
        Failure::new(
            1,
            format!("the daemon's answer is not understood: {error}; run: agentctl daemon restart"),
        )
    })
}

/// The part of a query that names a run.
fn of_run(run: Option<u32>) -> String {
    run.map(|run| format!("&run={run}")).unwrap_or_default()
}

async fn peek(args: PeekArgs) -> Result<u8, Failure> {
    let run = of_run(args.run);
    let path = format!("/v1/sessions/{}/messages?n={}{run}", segment(&args.id), args.lines);
    let messages = logs::messages(&Client::find()?, &path).await?;
    if args.json {
        render::json(&messages)?;
    } else if !messages.is_empty() {
        render::out(&format!("{}\n", messages.join("\n---\n")))?;
    }
    Ok(0)
}

async fn extend(args: ExtendArgs) -> Result<u8, Failure> {
    let path = format!("/v1/sessions/{}/extend", segment(&args.id));
    let by_ms = millis(args.time);
    let record: Value = Client::find()?.json(Method::POST, &path, Some(&Extend { by_ms })).await?;
    if args.json {
        return show(record, true);
    }
    let session = view(record)?;
    let deadline = session.timeout_at.as_deref().unwrap_or("none");
    render::out(&format!("Deadline of session {}: {deadline}\n", &session.id[..8]))?;
    Ok(0)
}
