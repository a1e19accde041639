//! `stop`: one session, or all that are selected, many at once; answered when their trees are gone.

use std::sync::Arc;

use hyper::Method;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::limits;
use crate::wire::api::{SessionView, Stop};

use super::super::client::{Client, segment};
use super::super::{Failure, StopArgs};
use super::{Answers, NO_BODY, select};

pub(super) async fn stop(args: StopArgs) -> Result<u8, Failure> {
    let client = Client::find()?;
    let mut ids = args.ids.clone();
    if args.all || args.group.is_some() || !args.label.is_empty() {
        let path = select::list_path(false, None, None, args.group.as_deref(), &args.label);
        let sessions: Vec<SessionView> = client.json(Method::GET, &path, NO_BODY).await?;
        // What was started outside is only shown.
        let ours = sessions.into_iter().filter(|session| session.origin != "discovered");
        ids.extend(ours.map(|session| session.id));
    }
    let places = Arc::new(Semaphore::new(limits::STOPS_AT_ONCE_MAX));
    let mut stops = JoinSet::new();
    for id in ids {
        let client = client.clone();
        let (force, places) = (args.force, Arc::clone(&places));
        stops.spawn(async move {
            let _place = places.acquire().await;
            let path = format!("/v1/sessions/{}/stop", segment(&id));
            client.json(Method::POST, &path, Some(&Stop { force })).await
        });
    }
    let mut answers = Answers::new(args.json);
    while let Some(done) = stops.join_next().await {
        answers.take(done.map_err(|panicked| Failure::new(1, panicked.to_string()))?, "Stopped")?;
    }
    answers.end()
}
