//! Receivers of every kind: behind TLS, a proxy or a Unix socket; with odd answers; hanging; gone for long. And the
//! daemon killed at each point of an attempt.

use std::fs;
use std::io::{BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use agentctl::sys::{ProcessRef, clock};
use rusqlite::Connection;
use rustix::net::sockopt;
use serde_json::{Value, json};

use crate::support::daemon::{Builder, Daemon};
use crate::support::endpoint::{Endpoint, Turn, read_request};
use crate::support::openmetrics::{Metrics, nothing_owed};
use crate::support::orgloop;
use crate::support::patience::until_so_many;
use crate::support::tls::{Authority, Identity, TlsEndpoint};
use crate::support::wait::until;

/// The last error of the only delivery, once its first attempt has failed.
#[track_caller]
fn first_error(daemon: &Daemon) -> String {
    until("the first attempt to fail", || {
        let found = daemon.json(["webhooks", "list", "--json"]);
        found[0]["lastError"].as_str().map(str::to_owned)
    })
}

fn https(port: u16, more: &Value) -> Builder {
    let mut webhook =
        json!({"name": "tls", "url": format!("https://localhost:{port}/in"), "max_attempts": 1});
    for (key, value) in more.as_object().expect("keys") {
        webhook[key] = value.clone();
    }
    Daemon::builder().config("webhooks", json!([webhook]))
}

#[test]
fn a_certificate_is_believed_for_its_host_and_time_by_those_who_know_its_authority() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, pem: &str| {
        let path = dir.path().join(name);
        fs::write(&path, pem).expect("a certificate");
        path.to_str().expect("a path that is text").to_owned()
    };
    let (authority, other) = (Authority::new(), Authority::new());
    let (known, unknown) = (write("known.pem", &authority.pem()), write("unknown.pem", &other.pem()));
    let own = Identity::self_signed("localhost");
    let own_pem = write("own.pem", &own.pem);
    let empty = write("empty.pem", "");
    let good = || authority.certify("localhost", 2099);
    // What the receiver shows; whom the system trusts; what the endpoint's ca_file is; what the attempt meets.
    let table = [
        ("good", good(), &known, None, None),
        ("good, by ca_file", good(), &unknown, Some(&known), None),
        ("self-signed, its own authority", own, &unknown, Some(&own_pem), None),
        ("expired", authority.certify("localhost", 2021), &known, None, Some("expired")),
        (
            "of another name",
            authority.certify("elsewhere.example", 2099),
            &known,
            None,
            Some("not valid for name"),
        ),
        ("self-signed", Identity::self_signed("localhost"), &known, None, Some("invalid peer certificate")),
        ("of an unknown authority", good(), &unknown, None, Some("invalid peer certificate")),
        (
            "system's, but ca_file names another",
            good(),
            &known,
            Some(&unknown),
            Some("invalid peer certificate"),
        ),
        ("a ca_file without a certificate", good(), &known, Some(&empty), Some("holds no certificate")),
    ];
    thread::scope(|scope| {
        for (name, identity, system, ca_file, expected) in table {
            scope.spawn(move || {
                let endpoint = TlsEndpoint::start(identity);
                let more = ca_file.map_or(json!({}), |path| json!({"ca_file": path}));
                let daemon = https(endpoint.port(), &more)
                    .env("SSL_CERT_FILE", system)
                    .env("SSL_CERT_DIR", "")
                    .start();
                daemon.ended(&daemon.launch(&[], "exit 6"));
                match expected {
                    None => {
                        nothing_owed(&daemon);
                        let received = endpoint.received();
                        assert_eq!(received.len(), 1, "{name}: {}", daemon.log());
                        assert_eq!(orgloop::read(&received[0], None), ("failed", "failure"), "{name}");
                    }
                    Some(expected) => {
                        let error = first_error(&daemon);
                        assert!(error.contains(expected), "{name}: {error}");
                        assert_eq!(endpoint.received().len(), 0, "{name}");
                    }
                }
            });
        }
    });
}

#[test]
fn one_connection_serves_many_deliveries() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().expect("a directory");
    let known = dir.path().join("known.pem");
    fs::write(&known, authority.pem()).expect("a certificate");
    let endpoint = TlsEndpoint::start(authority.certify("localhost", 2099));
    let daemon = https(endpoint.port(), &json!({"ca_file": known})).start();
    for _ in 0..5 {
        daemon.ended(&daemon.launch(&[], "true"));
        nothing_owed(&daemon);
    }
    let received = endpoint.received();
    assert_eq!(received.len(), 5);
    let connections = endpoint.connections();
    assert!(connections < 5, "each of {connections} connections was used once");
}

#[test]
fn a_unix_socket_is_a_receiver() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("in.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let (tell, told) = channel();
    let receiver = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let request = read_request(&mut BufReader::new(&stream)).expect("a request").expect("one");
        tell.send(request).expect("the test waits");
        (&stream).write_all(b"HTTP/1.1 204 No Content\r\n\r\n").expect("an answer");
    });
    let url = format!("unix:{}:/hook?x=1", path.display());
    let daemon = Daemon::builder().config("webhooks", json!([{"name": "local", "url": url}])).start();
    let id = daemon.launch(&[], "exit 3");
    let request = told.recv_timeout(crate::support::wait::PATIENCE).expect("a webhook");
    assert_eq!((request.path.as_str(), request.session()), ("/hook?x=1", id));
    nothing_owed(&daemon);
    receiver.join().expect("the receiver");
}

#[test]
fn proxies_of_the_environment_are_used_for_other_hosts_alone() {
    // A plain request is given to the proxy as a whole; the scripted receiver plays the proxy.
    let (proxy, direct) = (Endpoint::start(), Endpoint::start());
    let named = format!("http://user:word@127.0.0.1:{}", proxy.port());
    let webhooks = json!([
        {"name": "far", "url": "http://hooks.test/in?a=b"},
        {"name": "near", "url": direct.url()},
        {"name": "excepted", "url": "http://excepted.test/in", "max_attempts": 1},
    ]);
    let daemon = Daemon::builder()
        .config("webhooks", webhooks)
        .env("HTTP_PROXY", &named)
        .env("http_proxy", &named)
        .env("NO_PROXY", "excepted.test")
        .env("no_proxy", "excepted.test")
        .start();
    daemon.ended(&daemon.launch(&[], "true"));
    direct.wait_for(1);
    let requests = proxy.wait_for(1);
    let far =
        requests.iter().find(|request| request.path == "http://hooks.test/in?a=b").expect("a whole URL");
    assert_eq!(far.header("host"), Some("hooks.test"));
    // "user:word"
    assert_eq!(far.header("proxy-authorization"), Some("Basic dXNlcjp3b3Jk"));
    assert!(direct.received()[0].header("proxy-authorization").is_none());
    let dead = until("the excepted one to fail", || {
        let found = daemon.json(["webhooks", "list", "--json", "--state", "dead"]);
        found[0]["lastError"].as_str().map(str::to_owned)
    });
    assert!(dead.contains("look up excepted.test"), "{dead}");
    assert!(requests.iter().all(|request| !request.path.contains("excepted")));
}

#[test]
fn tls_goes_through_a_tunnel_of_the_proxy() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().expect("a directory");
    let known = dir.path().join("known.pem");
    fs::write(&known, authority.pem()).expect("a certificate");
    let endpoint = TlsEndpoint::start(authority.certify("hooks.test", 2099));
    let proxy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let named = format!("http://127.0.0.1:{}", proxy.local_addr().expect("an address").port());
    let target = endpoint.port();
    let (tell, told) = channel();
    let tunnel = thread::spawn(move || {
        let (client, _) = proxy.accept().expect("a connection");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            (&client).read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        tell.send(String::from_utf8(head).expect("text")).expect("the test waits");
        let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).expect("the receiver");
        (&client).write_all(b"HTTP/1.1 200 Connected\r\n\r\n").expect("an answer");
        thread::scope(|scope| {
            for (mut from, mut to) in [(&client, &server), (&server, &client)] {
                // Each direction ends when its source does, however that is.
                scope.spawn(move || {
                    drop(std::io::copy(&mut from, &mut to));
                    drop(to.shutdown(std::net::Shutdown::Both));
                });
            }
        });
    });
    let webhooks = json!([{"name": "far", "url": "https://hooks.test/in", "ca_file": known}]);
    let daemon = Daemon::builder().config("webhooks", webhooks).env("HTTPS_PROXY", &named).start();
    let id = daemon.launch(&[], "true");
    let head = told.recv_timeout(crate::support::wait::PATIENCE).expect("a request for a tunnel");
    assert!(head.starts_with("CONNECT hooks.test:443 HTTP/1.1\r\n"), "{head}");
    nothing_owed(&daemon);
    assert_eq!(endpoint.received()[0].session(), id);
    drop((daemon, endpoint));
    tunnel.join().expect("the tunnel");
}

#[test]
fn odd_answers_are_read_for_what_they_say() {
    let raw = |text: &str| Turn::Raw(text.as_bytes().to_vec());
    let flood = |head: &str, length: usize| {
        let mut bytes = head.as_bytes().to_vec();
        bytes.resize(bytes.len() + length, b'x');
        Turn::Raw(bytes)
    };
    // What the receiver answers, and what is made of it: nothing is a success.
    let table = [
        (raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"), ""),
        // The status is the answer, whatever becomes of the body.
        (raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense"), ""),
        (raw("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\ncut off"), ""),
        (flood("HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n", 5_000_000), ""),
        (raw("HTTP/1.0 200 OK\r\n\r\n"), ""),
        (raw("HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwhy\r\n0\r\n\r\n"), "HTTP 500: why"),
        (flood("HTTP/1.1 500 x\r\n\r\n", 5_000_000), "HTTP 500: xxxxx"),
        (raw("HTTP/1.1 502 x\r\nContent-Length: 12\r\n\r\na\x1b[31m\nb\tc  "), "HTTP 502: a [31m b c"),
        (raw(""), "connection closed"),
        (raw("\r\n\r\n"), "connection closed"),
        (raw("this is no HTTP at all\r\n\r\n"), "invalid HTTP"),
        (raw("HTTP/1.1 9999 x\r\n\r\n"), "invalid HTTP"),
        (raw("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n"), "invalid content-length"),
        (flood("HTTP/1.1 200 OK\r\nX-Long: ", 200_000), "message head is too large"),
    ];
    let endpoint = Endpoint::scripted(table.iter().map(|(turn, _)| turn.clone()));
    let webhooks = json!([{"name": "odd", "url": endpoint.url(), "max_attempts": 1}]);
    let daemon = Daemon::builder().config("webhooks", webhooks).start();
    for (at, (turn, expected)) in table.iter().enumerate() {
        let id = daemon.launch(&[], "true");
        let over = until("the delivery to be over", || {
            let found = daemon.json(["webhooks", "list", "--all", "--json", "--session", &id]);
            found.as_array().and_then(|all| {
                all.iter().find(|one| one["type"] == "session.stopped" && one["attempts"] == 1).cloned()
            })
        });
        let error = over["lastError"].as_str().unwrap_or_default();
        let told = if expected.is_empty() { error.is_empty() } else { error.contains(expected) };
        let turn = format!("{turn:?}").chars().take(80).collect::<String>();
        assert!(told, "number {at}, {turn}: {error:?}");
        assert!(error.chars().count() < 300, "{error}");
        let state = if expected.is_empty() { "delivered" } else { "dead" };
        assert_eq!(over["state"], state, "{turn}");
    }
}

#[test]
fn one_receiver_that_hangs_holds_up_none_of_ninety_nine_others() {
    let hanging = Endpoint::scripted(vec![Turn::Silence; 20]);
    let others = Endpoint::start();
    let webhooks: Vec<_> = (0..100)
        .map(|n| {
            let url = if n == 50 { hanging.url() } else { others.url() };
            json!({"name": format!("e{n}"), "url": url, "timeout": "10m"})
        })
        .collect();
    let daemon = Daemon::builder().config("webhooks", webhooks).start();
    // One more than may be under way at once, so that the hanging one has a queue.
    const SESSIONS: usize = 9;
    for _ in 0..SESSIONS {
        daemon.ended(&daemon.launch(&[], "true"));
    }
    let received = others.wait_for(99 * SESSIONS);
    assert_eq!(received.len(), 99 * SESSIONS);
    let owed = || Metrics::scrape(&daemon).get("agentctl_deliveries_pending");
    until("all but the hanging one's to be over", || (owed() == SESSIONS as f64).then_some(()));
    assert_eq!(hanging.wait_for(SESSIONS - 1).len(), SESSIONS - 1, "eight are under way, one waits");
    daemon.is_well();
}

/// How much memory the daemon has ever used, kB.
fn peak_kb(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("our own child");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn ten_thousand_that_waited_through_an_outage_are_drained_in_bounded_memory() {
    const COUNT: u64 = 10_000;
    let mut endpoint = Endpoint::start();
    endpoint.stop();
    let mut daemon = Daemon::builder().config("webhook_url", endpoint.url()).start();
    let id = daemon.launch(&[], "exit 3");
    daemon.ended(&id);
    first_error(&daemon);
    daemon.terminate();
    // As an outage of a day leaves it: each has failed some times and is due in hours.
    let db = Connection::open(daemon.home().join("journal.db")).expect("the journal");
    let made = db.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
         INSERT INTO delivery (seq, endpoint, session, run, kind, queued_us, attempts, last_us, retry_in_ms, held,
                               error, event_id, content_type, body)
         SELECT 1000000 + i, endpoint, session, run, kind, queued_us, 5, last_us, 18000000, 0, 'down',
                'evt_' || i, content_type, body
         FROM delivery, n",
        [COUNT - 1],
    );
    assert_eq!(made.expect("copies"), usize::try_from(COUNT - 1).expect("a count"));
    drop(db);
    daemon.start();
    let before = peak_kb(&daemon);
    endpoint.resume();
    let begun = clock::now().mono;
    // The one that comes by schedule shows that the receiver is back.
    let owed = || Metrics::scrape(&daemon).get("agentctl_deliveries_pending") as u64;
    until_so_many("deliveries that are over", COUNT as usize, || (COUNT - owed()) as usize);
    let took = clock::now().mono.since(begun);
    let more = peak_kb(&daemon) - before;
    let received = endpoint.received();
    let mut ids: Vec<_> = received.iter().filter_map(|request| request.header("webhook-id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((received.len() as u64, ids.len() as u64), (COUNT, COUNT), "each once, after {took:?}");
    assert!(more < 16 << 10, "{more} kB more than before, in {took:?}");
}

#[test]
fn killed_between_the_commit_and_the_post_it_is_sent_by_the_next_daemon() {
    // Nobody takes connections and none is refused: the attempt stays where nothing was sent.
    let listener =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None);
    let listener = listener.expect("a socket");
    sockopt::set_socket_reuseaddr(&listener, true).expect("an option");
    let any = std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    rustix::net::bind(&listener, &any).expect("a port");
    rustix::net::listen(&listener, 0).expect("a backlog of one");
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().expect("an address");
    let mut fill = vec![TcpStream::connect(address).expect("the only place")];
    while let Ok(more) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        fill.push(more);
    }
    let url = format!("http://{address}/in");
    let mut daemon = Daemon::builder().config("webhook_url", url).start();
    let id = daemon.launch(&[], "exit 4");
    // What is told is committed, the delivery with it; and it cannot have been sent.
    assert_eq!(daemon.ended(&id)["exitCode"], 4);
    daemon.kill();
    drop((fill, listener));
    let listener = until("the port to be free", || TcpListener::bind(address).ok());
    daemon.start();
    let (stream, _) = listener.accept().expect("a connection");
    let request = read_request(&mut BufReader::new(&stream)).expect("a request").expect("one");
    assert_eq!((request.session(), request.json()["exit_status"].clone()), (id, json!(4)));
    (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("an answer");
    nothing_owed(&daemon);
}

#[test]
fn killed_between_the_answer_and_its_record_it_sends_the_same_once_more() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let url = format!("http://{}/in", listener.local_addr().expect("an address"));
    let mut daemon = Daemon::builder().config("webhook_url", url).start();
    let id = daemon.launch(&[], "exit 4");
    let (stream, _) = listener.accept().expect("a connection");
    let first = read_request(&mut BufReader::new(&stream)).expect("a request").expect("one");
    // It sleeps while the receiver accepts, and dies before it can read that.
    let process = ProcessRef::of_child(daemon.pid()).expect("our own child");
    process.signal(19).expect("our own child");
    (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("an answer");
    daemon.kill();
    daemon.start();
    let (stream, _) = listener.accept().expect("a connection");
    let again = read_request(&mut BufReader::new(&stream)).expect("a request").expect("one");
    assert_eq!(first.session(), id);
    assert_eq!((first.header("webhook-id"), &first.body), (again.header("webhook-id"), &again.body));
    (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").expect("an answer");
    nothing_owed(&daemon);
}
