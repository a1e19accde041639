//! Endpoints and deliveries as people see and steer them: who hears of what, pauses, retries, replays, tests.

use serde_json::{Value, json};

use crate::support::daemon::Daemon;
use crate::support::endpoint::{Endpoint, Turn};
use crate::support::openmetrics::{Metrics, nothing_owed};
use crate::support::orgloop;
use crate::support::play::{stderr, stdout};
use crate::support::wait::until;

fn endpoints(daemon: &Daemon) -> Vec<Value> {
    let found = daemon.json(["webhooks", "endpoints", "--json"]);
    found.as_array().expect("a bare array").clone()
}

fn listed(daemon: &Daemon, flags: &[&str]) -> Vec<Value> {
    let found = daemon.json(["webhooks", "list", "--json"].iter().chain(flags));
    found.as_array().expect("a bare array").clone()
}

/// The command succeeds and says this.
#[track_caller]
fn says(daemon: &Daemon, arguments: &[&str], expected: &str) {
    let output = daemon.run(arguments);
    assert!(output.status.success(), "{output:?}");
    assert!(stdout(&output).contains(expected), "{output:?}");
}

#[test]
fn each_endpoint_hears_of_what_it_asked_for_in_its_own_format() {
    let (agents, clouds, starts) = (Endpoint::start(), Endpoint::start(), Endpoint::start());
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("secrets");
    std::fs::write(&file, "the new one\nthe old one\n").expect("secrets");
    let webhooks = json!([
        {"name": "agents", "url": agents.url(), "adapters": ["opencode"]},
        {
            "name": "clouds", "url": clouds.url(), "format": "cloudevents", "secret_file": file,
            "events": ["session.started", "session.timeout", "session.stopped", "session.error"],
        },
        {"name": "starts", "url": starts.url(), "events": ["session.started", "session.error"]},
    ]);
    let daemon = Daemon::builder().config("webhooks", webhooks).start();
    let id = daemon.launch(&["--timeout", "200ms", "--label", "team=core"], "exec sleep 300");
    daemon.ended(&id);
    nothing_owed(&daemon);
    assert_eq!(agents.received().len(), 0, "no session of opencode");

    let starts = starts.received();
    // The start may have been overtaken by the end; then it is not told any more.
    assert_eq!(starts.last().expect("the end").json()["meta"]["outcome"], "timed_out");
    assert!(starts.iter().all(|request| request.session() == id));

    let told = clouds.received();
    let error = told.iter().find(|request| request.json()["type"] == "session.error").expect("the end");
    let event = error.json();
    assert_eq!(event["id"], error.header("webhook-id").expect("an id"));
    assert_eq!(event["data"]["session"]["outcome"], "timed_out");
    assert_eq!(event["data"]["session"]["meta"]["labels"]["team"], "core");
    let known = daemon.events();
    let line = known.iter().find(|line| line["type"] == "session.error").expect("the event");
    assert_eq!(event["data"], *line, "the event of the stream, as it is");
    // Both secrets sign, the first one alone where there is room for one.
    for secret in ["the new one", "the old one"] {
        let mut headers = hyper::HeaderMap::new();
        for (name, value) in &error.headers {
            let name: hyper::header::HeaderName = name.parse().expect("a header name");
            headers.append(name, value.parse().expect("a header value"));
        }
        let verifier = standardwebhooks::Webhook::from_bytes(secret.into()).expect("a secret");
        verifier.verify(&error.body, &headers).expect(secret);
    }
    let hex = orgloop::hex_hmac(b"the new one", &error.body);
    assert_eq!(error.header("x-hub-signature-256"), Some(format!("sha256={hex}").as_str()));
}

#[test]
fn a_launch_names_who_else_is_told_and_private_urls_need_leave() {
    let (quiet, elsewhere) = (Endpoint::start(), Endpoint::start());
    let webhooks = json!([{"name": "quiet", "url": quiet.url(), "events": []}]);
    let strict = Daemon::builder().config("webhooks", webhooks.clone()).start();
    for (target, expected) in [
        (elsewhere.url(), "notify: http://127.0.0.1:"),
        ("http://localhost:1/x".into(), "is on this host or its networks"),
        ("unix:/run/x.sock".into(), "is on this host or its networks"),
        ("http://169.254.169.254/latest".into(), "metadata service"),
        ("quite".into(), "no endpoint is named \"quite\", and it is no URL; did you mean quiet?"),
    ] {
        let output = strict.run(["launch", "--notify", &target, "--", "true"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(stderr(&output).contains(expected), "{output:?}");
    }
    // A name whose address is only known when it is looked up is refused then.
    let id =
        strict.launch(&["--notify", "http://ip6-localhost.localhost:9/x", "--notify", "quiet"], "exit 3");
    assert_eq!(quiet.wait_about(&id, 1)[0].json()["exit_status"], 3);
    let failed = until("the attempt to fail", || {
        let owed = listed(&strict, &["--state", "owed"]);
        owed.into_iter().find(|delivery| delivery["attempts"] == 1)
    });
    let why = failed["lastError"].as_str().expect("an error");
    assert!(why.contains("may not lead there") || why.contains("look up"), "{why}");
    assert_eq!(
        strict.json(["list", "-a", "--json"]).as_array().map(Vec::len),
        Some(1),
        "nothing else was launched"
    );

    let daemon = Daemon::builder().config("webhooks", webhooks).config("notify_allow_private", true).start();
    let url = elsewhere.url();
    let both = daemon.launch(&["--notify", &url, "--notify", "quiet", "--notify", &url], "exit 4");
    let neither = daemon.launch(&[], "exit 5");
    daemon.ended(&both);
    daemon.ended(&neither);
    nothing_owed(&daemon);
    assert_eq!(elsewhere.received().len(), 1);
    assert_eq!(quiet.received().len(), 2);
    for request in [&elsewhere.received()[0], &quiet.received()[1]] {
        assert_eq!(request.session(), both);
        assert_eq!(orgloop::read(request, None), ("failed", "failure"));
    }
    for shown in [listed(&daemon, &["--all"]), listed(&daemon, &["--session", &both, "--all"])] {
        let text = Value::from(shown).to_string();
        assert!(text.contains("http://127.0.0.1:") && !text.contains("of=agentctl"), "{text}");
    }
}

#[test]
fn gone_pauses_an_endpoint_until_it_is_resumed() {
    let gone = Turn::Raw(b"HTTP/1.1 410 Gone\r\nContent-Length: 9\r\n\r\nno\n more!".to_vec());
    let endpoint = Endpoint::scripted([gone]);
    let mut daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    let first = daemon.launch(&[], "exit 1");
    endpoint.wait_about(&first, 1);
    let paused = |daemon: &Daemon| {
        let endpoints = endpoints(daemon);
        (endpoints[0]["state"] == "paused").then(|| endpoints[0].clone())
    };
    let view = until("the pause", || paused(&daemon));
    assert_eq!((&view["pausedWhy"], &view["pending"]), (&json!("gone"), &json!(1)), "{view}");
    let second = daemon.launch(&[], "exit 2");
    daemon.ended(&second);
    daemon.kill();
    daemon.start();
    assert!(paused(&daemon).is_some(), "a restart does not resume it");
    assert_eq!(daemon.code(&["doctor"]), Some(1));
    let finding = daemon.finding("endpoint default").expect("a finding");
    assert!(finding["found"].as_str().is_some_and(|found| found.ends_with("410 Gone; 2 wait")), "{finding}");
    assert_eq!(Metrics::scrape(&daemon).get("agentctl_webhook_endpoints_paused"), 1.0);
    let events = daemon.events();
    let event = events.iter().find(|event| event["type"] == "endpoint.paused").expect("an event");
    assert_eq!((&event["endpoint"], &event["sessionId"]), (&json!("default"), &Value::Null));
    let states: Vec<_> = listed(&daemon, &[]).iter().map(|delivery| delivery["state"].clone()).collect();
    assert_eq!(states, ["paused", "paused"]);
    assert_eq!(endpoint.received().len(), 1);

    says(&daemon, &["webhooks", "resume", "default"], "default: active");
    nothing_owed(&daemon);
    assert_eq!((endpoint.about(&first).len(), endpoint.about(&second).len()), (2, 1));
    assert_eq!(daemon.code(&["doctor"]), Some(0));
    let seq = listed(&daemon, &["--all", "--session", &first])[0]["id"].as_str().expect("an id").to_owned();
    let details = daemon.json(["webhooks", "show", &seq, "--json"]);
    let attempts = details["attempts"].as_array().expect("attempts");
    let told: Vec<_> = attempts.iter().map(|a| (a["status"].clone(), a["error"].clone())).collect();
    assert_eq!(told, [(json!(410), json!("HTTP 410: no more!")), (json!(200), Value::Null)]);
    assert_eq!(details["body"].as_str().map(str::as_bytes), Some(&endpoint.about(&first)[0].body[..]));
}

#[test]
fn deliveries_are_listed_shown_and_sent_again() {
    let mut endpoint = Endpoint::start();
    endpoint.stop();
    let webhooks = json!([
        {"name": "one", "url": endpoint.url(), "max_attempts": 1},
        {"name": "two", "url": endpoint.url(), "paused": true},
    ]);
    let daemon = Daemon::builder().config("webhooks", webhooks).start();
    says(&daemon, &["webhooks", "list"], "No deliveries found.");
    let id = daemon.launch(&[], "exit 9");
    daemon.ended(&id);
    let dead = until("the only attempt to fail", || listed(&daemon, &["--state", "dead"]).pop());
    let key = dead["id"].as_str().expect("an id");
    assert!(
        key.ends_with(".one") && dead["lastError"].as_str().is_some_and(|e| e.contains("refused")),
        "{dead}"
    );
    assert_eq!((&dead["attempts"], &dead["nextAttemptAt"]), (&json!(1), &Value::Null));
    assert_eq!(Metrics::scrape(&daemon).get("agentctl_webhook_deliveries_dead_total"), 1.0);
    assert!(
        daemon.events().iter().any(|event| event["type"] == "delivery.dead" && event["endpoint"] == "one")
    );
    let table = stdout(&daemon.run(["webhooks", "list"]));
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    assert_eq!(table.lines().count(), 4, "header, dashes, a dead letter and one that is paused: {table}");

    // The number alone means one of two.
    let number = key.split('.').next().expect("a number");
    let ambiguous = daemon.run(["webhooks", "show", number]);
    assert!(
        stderr(&ambiguous).contains(&format!("it could be: {number}.one, {number}.two")),
        "{ambiguous:?}"
    );
    for (unknown, why) in [("99999", "there is no delivery 99999"), ("x", "\"x\" is no delivery")] {
        let output = daemon.run(["webhooks", "show", unknown]);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(why), "{output:?}");
    }
    says(&daemon, &["webhooks", "show", key], "connect to 127.0.0.1:");

    endpoint.resume();
    says(&daemon, &["webhooks", "retry", key], "1 delivery is on the way");
    let first = endpoint.wait_for(1).remove(0);
    until("it to be recorded", || listed(&daemon, &["--state", "delivered"]).pop());
    says(&daemon, &["webhooks", "retry", "--failed"], "0 deliveries are on the way");
    // What arrived is sent again with the same id and bytes; what is paused stays paused.
    says(&daemon, &["webhooks", "replay", "--since", "1h", "--endpoint", "one"], "1 delivery is on the way");
    let again = endpoint.wait_for(2).remove(1);
    assert_eq!((first.header("webhook-id"), &first.body), (again.header("webhook-id"), &again.body));
    until("it to be recorded", || {
        let delivered = listed(&daemon, &["--state", "delivered"]);
        delivered.into_iter().find(|delivery| delivery["attempts"] == 3)
    });
    says(&daemon, &["webhooks", "replay", "--since", "2199-01-01T00:00:00Z"], "0 deliveries are");
    assert_eq!(daemon.code(&["webhooks", "replay", "--since", "yesterday"]), Some(2));

    let resume = daemon.run(["webhooks", "resume", "two"]);
    assert!(stderr(&resume).contains("the configuration pauses the endpoint two"), "{resume:?}");
    assert_eq!(daemon.code(&["webhooks", "pause", "three"]), Some(1));
    says(&daemon, &["webhooks", "pause", "one"], "one: paused, 0 pending");
    let later = daemon.launch(&[], "exit 8");
    daemon.ended(&later);
    assert_eq!(listed(&daemon, &["--endpoint", "one"])[0]["state"], "paused");
    assert_eq!(endpoint.about(&later).len(), 0);
    says(&daemon, &["webhooks", "resume", "one"], "one: active");
    endpoint.wait_about(&later, 1);
}

#[test]
fn a_test_is_marked_and_its_answer_is_told() {
    let refusal = Turn::Raw(
        b"HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\n{\"error\": \"bad signature\"}".to_vec(),
    );
    let endpoint = Endpoint::scripted([Turn::status(202), refusal]);
    let clouds = Endpoint::start();
    let webhooks = json!([
        {"name": "plain", "url": endpoint.url(), "secret": "s"},
        {"name": "clouds", "url": clouds.url(), "format": "cloudevents", "events": ["session.timeout"]},
        {"name": "closed", "url": "http://127.0.0.1:1/"},
    ]);
    let daemon = Daemon::builder().config("webhooks", webhooks).start();
    says(&daemon, &["webhooks", "test", "plain"], "plain: HTTP 202 after ");
    let refused = daemon.run(["webhooks", "test", "plain"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("HTTP 401 after ") && stderr(&refused).contains("bad signature"),
        "{refused:?}"
    );
    let received = endpoint.received();
    for request in &received {
        let body = request.json();
        assert_eq!((&body["hook_type"], &body["meta"]["test"]), (&json!("start"), &json!(true)));
        let hex = orgloop::hex_hmac(b"s", &request.body);
        assert_eq!(request.header("x-agentctl-signature"), Some(hex.as_str()));
    }
    assert_ne!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    says(&daemon, &["webhooks", "test", "clouds"], "clouds: HTTP 200 after ");
    assert_eq!(clouds.received()[0].json()["type"], "agentctl.test");
    let closed = daemon.run(["webhooks", "test", "closed", "--json"]);
    assert_eq!(closed.status.code(), Some(1));
    let view: Value = serde_json::from_slice(&closed.stdout).expect("pure JSON");
    assert!(
        view["answer"].as_str().is_some_and(|answer| answer.contains("connect to 127.0.0.1:1")),
        "{view}"
    );
    assert_eq!(daemon.code(&["webhooks", "test", "nobody"]), Some(1));
    // A test leaves no trace among the deliveries.
    assert_eq!(listed(&daemon, &["--all"]).len(), 0);
}
