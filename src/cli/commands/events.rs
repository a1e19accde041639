//! `events`: whole lines only, and the place after the last of them, so that a restart of the daemon makes no gap.

use hyper::body::Incoming;
use hyper::{Method, Response};
use serde::Deserialize;

use crate::wire::events::{CURSOR_HEADER, DROPPED, EXPIRED};

use super::super::client::{Client, Lines, Patience, Unanswered};
use super::super::render;
use super::super::{EventsArgs, Failure};

/// What of a line tells where it stands.
#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    cursor: String,
    detail: Option<String>,
}

/// How a stream came to its end.
enum Ended {
    /// All is said, or nobody reads our output any more.
    Done,
    /// It may be taken up again at the place that was reached.
    Broken(Unanswered),
    /// What comes next is lost.
    Expired(String),
}

pub(super) async fn events(args: EventsArgs) -> Result<u8, Failure> {
    let mut client = Client::find()?;
    let mut patience = Patience::new();
    let mut place = args.since.clone().or_else(|| args.no_follow.then(|| "0".to_owned()));
    loop {
        let why = match client.send(Method::GET, &path(&args, place.as_deref()), None, None).await {
            Ok(answer) => match print(answer, !args.no_follow, &mut place).await? {
                Ended::Done => return Ok(0),
                Ended::Broken(why) => why,
                Ended::Expired(why) => return Err(Failure::new(1, why)),
            },
            Err(why) => why,
        };
        patience.after(&client, why).await?;
        // Whoever stopped the daemon does not want one because somebody looks on.
        client = client.without_autostart();
    }
}

fn path(args: &EventsArgs, place: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(place) = place {
        query.append_pair("since", place);
    }
    query.append_pair("follow", if args.no_follow { "0" } else { "1" });
    let filters = [
        ("type", &args.kind),
        ("adapter", &args.adapter),
        ("session", &args.session),
        ("group", &args.group),
    ];
    for (key, words) in filters {
        for word in words {
            query.append_pair(key, word);
        }
    }
    format!("/v1/events?{}", query.finish())
}

/// Prints what comes, line by line; `place` follows.
async fn print(
    answer: Response<Incoming>,
    follow: bool,
    place: &mut Option<String>,
) -> Result<Ended, Failure> {
    if place.is_none() {
        let begins = answer.headers().get(CURSOR_HEADER).and_then(|cursor| cursor.to_str().ok());
        *place = begins.map(str::to_owned);
    }
    let mut lines = Lines::of(answer);
    loop {
        let line = match lines.next().await {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(why) => return Ok(Ended::Broken(why)),
        };
        let head: Option<Head> = serde_json::from_slice(&line).ok();
        match head {
            Some(Head { kind, detail, .. }) if kind == EXPIRED => {
                return Ok(Ended::Expired(detail.unwrap_or(kind)));
            }
            Some(Head { kind, .. }) if kind == DROPPED => {
                return Ok(Ended::Broken(Unanswered::Broken(kind)));
            }
            head => {
                if !render::out_bytes(false, &line)? {
                    return Ok(Ended::Done);
                }
                *place = head.map(|head| head.cursor).or_else(|| place.take());
            }
        }
    }
    // What is followed has no end of its own.
    let ended = || Ended::Broken(Unanswered::Broken("the stream ended".into()));
    Ok(if follow { ended() } else { Ended::Done })
}
