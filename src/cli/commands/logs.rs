//! `logs`: bytes as they come, or what an agent says and does.

use std::rc::Rc;

use bytesize::ByteSize;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response};
use serde::Deserialize;

use crate::wire::api::{LOG_DROPPED_HEADER, LOG_FROM_HEADER};

use super::super::client::{Client, Lines, Patience, Unanswered, decode, piece, segment, whole};
use super::super::render;
use super::super::{Failure, LogsArgs};
use super::of_run;

/// Messages that `logs` shows unless told otherwise.
const MESSAGES: usize = 50;

pub(super) async fn logs(args: LogsArgs) -> Result<u8, Failure> {
    let client = Client::find()?;
    let stream = if args.stderr { "stderr" } else { "stdout" };
    if args.follow {
        if args.raw || args.stderr {
            read(&client, &Log { id: &args.id, stream, run: args.run, follow: true }, false).await?;
        } else {
            follow_text(&client, &args.id, args.run).await?;
        }
        return Ok(0);
    }
    if args.raw || args.stderr {
        read(&client, &Log { id: &args.id, stream, run: args.run, follow: false }, false).await?;
        return Ok(0);
    }
    let count = args.lines.unwrap_or(MESSAGES);
    let path = format!("/v1/sessions/{}/messages?n={count}{}", segment(&args.id), of_run(args.run));
    let messages = messages(&client, &path).await?;
    if !messages.is_empty() {
        render::out(&format!("{}\n", messages.join("\n---\n")))?;
    }
    Ok(0)
}

/// The messages of an answer; what its log has lost is said.
pub(super) async fn messages(client: &Client, path: &str) -> Result<Vec<String>, Failure> {
    let answer = client.send(Method::GET, path, None, None).await.map_err(|why| client.failure(why))?;
    say_lost(&answer);
    decode(&whole(answer).await.map_err(|why| client.failure(why))?)
}

/// A session's stream to our own stream of that name, until the session ends.
pub(super) async fn follow_raw(client: Rc<Client>, id: String, stream: &'static str) -> Result<(), Failure> {
    read(&client, &Log { id: &id, stream, run: None, follow: true }, stream == "stderr").await
}

/// Which log is read, and whether to its present end or to that of the run.
struct Log<'a> {
    id: &'a str,
    stream: &'static str,
    run: Option<u32>,
    follow: bool,
}

async fn read(client: &Client, log: &Log<'_>, to_stderr: bool) -> Result<(), Failure> {
    let Log { id, stream, run, follow } = log;
    let (id, run, follow) = (segment(id), of_run(*run), u8::from(*follow));
    let mut place = Place::default();
    let mut patience = Patience::new();
    loop {
        let from = place.at;
        let path = format!("/v1/sessions/{id}/log?stream={stream}&follow={follow}&from={from}{run}");
        let copied = match client.send(Method::GET, &path, None, None).await {
            Ok(answer) => {
                place.take(&answer);
                copy(answer.into_body(), to_stderr, &mut place.at).await
            }
            Err(why) => Err(why),
        };
        match copied {
            Ok(()) => return Ok(()),
            Err(why) => patience.after(client, why).await?,
        }
    }
}

/// Where a reader is in a log that may lose its head.
#[derive(Default)]
struct Place {
    at: u64,
    /// The log was found before.
    known: bool,
}

impl Place {
    /// Goes to where the answer begins, and says what is not there any more.
    fn take(&mut self, answer: &Response<Incoming>) {
        let begins = number(answer, LOG_FROM_HEADER).unwrap_or(self.at);
        if !self.known {
            say_lost(answer);
        } else if begins > self.at {
            let lost = ByteSize(begins - self.at).display().si();
            render::say(&format!("agentctl: {lost} of the log were dropped before they were read (log_max)"));
        }
        self.known = true;
        self.at = self.at.max(begins);
    }
}

fn say_lost(answer: &Response<Incoming>) {
    if let Some(lost) = number(answer, LOG_DROPPED_HEADER) {
        let lost = ByteSize(lost).display().si();
        render::say(&format!("agentctl: the first {lost} of the log are not kept any more (log_max)"));
    }
}

fn number(answer: &Response<Incoming>, header: &str) -> Option<u64> {
    answer.headers().get(header)?.to_str().ok()?.parse().ok()
}

/// What an agent says and does, as text; of anything else its bytes.
async fn follow_text(client: &Client, id: &str, run: Option<u32>) -> Result<(), Failure> {
    let run = of_run(run);
    let mut place = Place::default();
    let mut patience = Patience::new();
    let mut first = true;
    loop {
        let tail = if first { "&tail=1" } else { "" };
        let path = format!("/v1/sessions/{}/log?text=1&follow=1&from={}{tail}{run}", segment(id), place.at);
        let mut began = place.at;
        let copied = match client.send(Method::GET, &path, None, None).await {
            Ok(answer) => {
                place.take(&answer);
                began = place.at;
                if is_text(&answer) {
                    copy_text(answer, &mut place.at).await
                } else {
                    copy(answer.into_body(), false, &mut place.at).await
                }
            }
            Err(why) => Err(why),
        };
        // Whoever has seen something goes on there.
        first &= place.at == began;
        match copied {
            Ok(()) => return Ok(()),
            Err(why) => patience.after(client, why).await?,
        }
    }
}

fn is_text(answer: &Response<Incoming>) -> bool {
    answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "application/x-ndjson")
}

/// One piece of an agent's output.
#[derive(Deserialize)]
struct Piece {
    /// The place in the log behind it.
    at: u64,
    text: String,
}

async fn copy_text(answer: Response<Incoming>, place: &mut u64) -> Result<(), Unanswered> {
    let mut lines = Lines::of(answer);
    while let Some(line) = lines.next().await? {
        let piece: Piece =
            serde_json::from_slice(&line).map_err(|error| Unanswered::Broken(error.to_string()))?;
        match render::out_bytes(false, piece.text.as_bytes()) {
            Ok(true) => *place = piece.at,
            Ok(false) => return Ok(()),
            Err(error) => return Err(Unanswered::Broken(format!("write: {error}"))),
        }
    }
    Ok(())
}

/// Copies a body as it comes, counting. A reader that left ends it quietly.
pub(super) async fn copy(mut body: Incoming, to_stderr: bool, count: &mut u64) -> Result<(), Unanswered> {
    while let Some(bytes) = piece(&mut body).await? {
        match render::out_bytes(to_stderr, &bytes) {
            Ok(true) => *count += bytes.len() as u64,
            Ok(false) => return Ok(()),
            Err(error) => return Err(Unanswered::Broken(format!("write: {error}"))),
        }
    }
    Ok(())
}
