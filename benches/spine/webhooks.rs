//! From a leader's last instruction to the last byte of its webhook at a receiver on loopback, beside what no sender can
//! avoid: the raw watcher, a commit, and a bare POST of the same bytes by the same HTTP library to the same receiver.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use crate::Outcome;
use crate::daemon::Daemon;
use crate::exits::{CALM, Committer, Floor, Leader, Seen, wait_for};
use crate::proc::mono_ns;
use crate::report::{Report, Spread};

/// The session that a webhook is about, and its bytes.
pub(crate) type Body = (String, Vec<u8>);

/// Of a daemon that tells this receiver.
pub(crate) fn config(durability: &str, receiver: &Receiver) -> Value {
    let url = format!("http://{}/webhook/bench", receiver.address);
    let secret = "a secret, since most have one";
    json!({"metrics_addr": null, "durability": durability, "webhook_url": url, "webhook_secret": secret})
}

/// Exits one at a time: how long each took to the receiver. `name`: what the lines of the table begin with.
pub(crate) fn measure(
    daemon: &Daemon,
    receiver: &Receiver,
    (durability, name): (&str, &str),
    count: usize,
    report: &mut Report,
) -> Outcome<Vec<u64>> {
    let (floor, mut committer) = (Floor::start()?, Committer::beside(daemon.home())?);
    let (mut client, mut bare) = (daemon.client()?, Bare::connect(receiver.address)?);
    let scratch = tempfile::tempdir_in("/dev/shm")?;
    let (mut raw, mut told, mut posts, mut commits) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for n in 0..count {
        let leader = Leader::launch(&mut client, scratch.path(), n)?;
        let watched = floor.watch(leader.pid, n)?;
        let gate = leader.end()?;
        let floor_at = wait_for(&floor.seen, &n)?;
        let ((session, body), told_at) = receiver.seen.recv_timeout(crate::exits::PATIENCE)?;
        if session != leader.id {
            return Err(format!("a webhook of {session}, and not of {}", leader.id).into());
        }
        drop((watched, gate));
        let died = leader.died()?;
        raw.push(floor_at.saturating_sub(died));
        told.push(told_at.saturating_sub(died));
        thread::sleep(CALM);
        commits.push(committer.commit()?);
        let begun = mono_ns();
        bare.post(body)?;
        let (_, at) = receiver.seen.recv_timeout(crate::exits::PATIENCE)?;
        posts.push(at.saturating_sub(begun));
    }
    let all = told.clone();
    let [raw, told, post, commit] = [raw, told, posts, commits].map(Spread::of);
    let name = |what: &str| format!("{name}, webhook: {what}");
    report.times(&name("exit -> raw epoll on the pidfd"), &raw);
    report.times(&name("one full commit of SQLite here"), &commit);
    report.times(&name("bare POST of the same bytes -> receiver"), &post);
    let own = if durability == "normal" { 0 } else { commit.p50 };
    let aim = 3 * (raw.p50 + post.p50) + own;
    let more = if durability == "normal" { "" } else { " + a commit" };
    let words = format!("p50 <= 3 x (watcher + bare POST){more} = {:.2} ms", aim as f64 / 1e6);
    report.times_with_aim(&name("exit -> receiver"), &told, words, told.p50 <= aim);
    Ok(all)
}

/// Answers 200 and tells when the last byte of each body was there.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Seen<Body>,
}

impl Receiver {
    pub(crate) fn start() -> Outcome<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let (tell, seen) = channel();
        // Ends with the program: it waits in the kernel.
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let tell = tell.clone();
                thread::spawn(move || {
                    if let Err(error) = serve(stream, &tell) {
                        eprintln!("the receiver ended a connection: {error}");
                    }
                });
            }
        });
        Ok(Self { address, seen })
    }
}

fn serve(stream: TcpStream, tell: &Sender<(Body, u64)>) -> Outcome<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        input.read_exact(&mut body)?;
        let at = mono_ns();
        input.get_mut().write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        let told: Value = serde_json::from_slice(&body)?;
        let session = told["session_id"].as_str().unwrap_or_default().to_owned();
        if tell.send(((session, body), at)).is_err() {
            return Ok(());
        }
    }
}

/// The floor of a POST: a connection that is open already, and nothing else.
struct Bare {
    runtime: tokio::runtime::Runtime,
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Bare {
    fn connect(address: SocketAddr) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Outcome::Ok(sender)
        })?;
        Ok(Self { runtime, sender, host: address.to_string() })
    }

    fn post(&mut self, body: Vec<u8>) -> Outcome<()> {
        let request = Request::post("/webhook/bench")
            .header("host", &self.host)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        self.runtime.block_on(async {
            let answer = self.sender.send_request(request).await?;
            answer.into_body().collect().await?;
            Ok(())
        })
    }
}
