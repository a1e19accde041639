//! `logs`: bytes as they come, or what an agent says and does.

use std::rc::Rc;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response};
use serde::Deserialize;

use super::super::client::{Client, Lines, Patience, Unanswered, segment};
use super::super::render;
use super::super::{Failure, LogsArgs};
use super::{NO_BODY, of_run};

/// Messages that `logs` shows unless told otherwise.
const MESSAGES: usize = 50;

pub(super) async fn logs(args: LogsArgs) -> Result<u8, Failure> {
    let client = Client::find()?;
    let stream = if args.stderr { "stderr" } else { "stdout" };
    if args.follow {
        if args.raw || args.stderr {
            follow(&client, &args.id, stream, args.run, false).await?;
        } else {
            follow_text(&client, &args.id, args.run).await?;
        }
        return Ok(0);
    }
    if args.raw || args.stderr {
        let run = of_run(args.run);
        let path = format!("/v1/sessions/{}/log?stream={stream}{run}", segment(&args.id));
        let answer = client.send(Method::GET, &path, None, None).await.map_err(|why| client.failure(why))?;
        copy(answer, false, &mut 0).await.map_err(|why| client.failure(why))?;
        return Ok(0);
    }
    let count = args.lines.unwrap_or(MESSAGES);
    let path = format!("/v1/sessions/{}/messages?n={count}{}", segment(&args.id), of_run(args.run));
    let messages: Vec<String> = client.json(Method::GET, &path, NO_BODY).await?;
    if !messages.is_empty() {
        render::out(&format!("{}\n", messages.join("\n---\n")))?;
    }
    Ok(0)
}

/// A session's stream to our own stream of that name, until the session ends.
pub(super) async fn follow_raw(client: Rc<Client>, id: String, stream: &'static str) -> Result<(), Failure> {
    follow(&client, &id, stream, None, stream == "stderr").await
}

async fn follow(
    client: &Client,
    id: &str,
    stream: &str,
    run: Option<u32>,
    to_stderr: bool,
) -> Result<(), Failure> {
    let run = of_run(run);
    let mut place = 0;
    let mut patience = Patience::new();
    loop {
        let path = format!("/v1/sessions/{}/log?stream={stream}&follow=1&from={place}{run}", segment(id));
        let copied = match client.send(Method::GET, &path, None, None).await {
            Ok(answer) => copy(answer, to_stderr, &mut place).await,
            Err(why) => Err(why),
        };
        match copied {
            Ok(()) => return Ok(()),
            Err(why) => patience.after(client, why).await?,
        }
    }
}

/// What an agent says and does, as text; of anything else its bytes.
async fn follow_text(client: &Client, id: &str, run: Option<u32>) -> Result<(), Failure> {
    let run = of_run(run);
    let mut place = 0;
    let mut patience = Patience::new();
    let mut first = true;
    loop {
        let tail = if first { "&tail=1" } else { "" };
        let path = format!("/v1/sessions/{}/log?text=1&follow=1&from={place}{tail}{run}", segment(id));
        let copied = match client.send(Method::GET, &path, None, None).await {
            Ok(answer) if is_text(&answer) => copy_text(answer, &mut place).await,
            Ok(answer) => copy(answer, false, &mut place).await,
            Err(why) => Err(why),
        };
        // Whoever has seen something goes on there.
        first &= place == 0;
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
pub(super) async fn copy(
    answer: Response<Incoming>,
    to_stderr: bool,
    count: &mut u64,
) -> Result<(), Unanswered> {
    let mut body = answer.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Unanswered::Broken(error.to_string()))?;
        let Ok(bytes) = frame.into_data() else { continue };
        match render::out_bytes(to_stderr, &bytes) {
            Ok(true) => *count += bytes.len() as u64,
            Ok(false) => return Ok(()),
            Err(error) => return Err(Unanswered::Broken(format!("write: {error}"))),
        }
    }
    Ok(())
}
