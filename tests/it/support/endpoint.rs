//! A webhook receiver on loopback that does what its script says, and remembers all that it was sent.
//!
//! Each webhook takes the next turn of the script when it comes for the first time; what comes again, or finds the
//! script at its end, is answered with 200. So retries never take a turn that was meant for another, however slow
//! the machine. It can be stopped and started again on the same port, which stays its own meanwhile: connections are
//! then refused.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use agentctl::core::vocab::Mono;
use agentctl::sys::clock;
use rustix::net::{self, sockopt};
use serde_json::Value;

use super::loopback::{bind, lock};
use super::schema;
use super::wait::until;

/// What becomes of the first request of a webhook.
#[derive(Clone, Debug)]
pub(crate) enum Turn {
    Answer(Answer),
    /// Nothing, for as long as the connection lives.
    Silence,
    /// These bytes, whatever they are; then the connection is closed.
    Raw(Vec<u8>),
    /// The connection is closed without an answer.
    Close,
    /// The connection is reset.
    Reset,
}

/// An answer, perhaps a late one.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    delay: Duration,
}

impl Turn {
    pub(crate) fn status(status: u16) -> Self {
        Self::Answer(Answer { status, headers: Vec::new(), delay: Duration::ZERO })
    }

    /// 200 after a while.
    pub(crate) fn late(delay: Duration) -> Self {
        Self::Answer(Answer { status: 200, headers: Vec::new(), delay })
    }

    pub(crate) fn with(status: u16, name: &'static str, value: impl Into<String>) -> Self {
        Self::Answer(Answer { status, headers: vec![(name, value.into())], delay: Duration::ZERO })
    }
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// When the whole of it was there.
    pub(crate) at: Mono,
}

impl Received {
    /// The only header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "the header {name} came twice: {:?}", self.headers);
        first
    }

    /// The body, which is what its schema says.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let body = serde_json::from_slice(&self.body).expect("a body of JSON");
        schema::check(self.header("content-type"), &body);
        body
    }

    /// The session that it is about, in either format.
    #[track_caller]
    pub(crate) fn session(&self) -> String {
        let body = self.json();
        let id = body["session_id"].as_str().or(body["subject"].as_str());
        id.expect("a session").to_owned()
    }
}

/// The receiver. Dropping it closes every connection.
pub(crate) struct Endpoint {
    listener: Arc<TcpListener>,
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    turns: Mutex<VecDeque<Turn>>,
    received: Mutex<Vec<Received>>,
    connections: Mutex<Vec<Weak<TcpStream>>>,
}

impl Endpoint {
    pub(crate) fn start() -> Self {
        Self::scripted([])
    }

    pub(crate) fn scripted(turns: impl IntoIterator<Item = Turn>) -> Self {
        let listener = bind().expect("bind the receiver to loopback");
        let port = listener.local_addr().expect("the receiver's own address").port();
        let shared = Shared { turns: Mutex::new(turns.into_iter().collect()), ..Shared::default() };
        let mut endpoint =
            Self { listener: Arc::new(listener), port, shared: Arc::new(shared), acceptor: None };
        endpoint.resume();
        endpoint
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/webhook/tests?of=agentctl", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Listens (again) on its port.
    pub(crate) fn resume(&mut self) {
        assert!(self.acceptor.is_none(), "the receiver listens already");
        net::listen(&*self.listener, 1024).expect("listen on the receiver's port");
        let (listener, shared) = (Arc::clone(&self.listener), Arc::clone(&self.shared));
        self.acceptor = Some(thread::spawn(move || accept(&listener, &shared)));
    }

    /// Closes every connection and refuses new ones.
    pub(crate) fn stop(&mut self) {
        let acceptor = self.acceptor.take().expect("a receiver that listens");
        net::shutdown(&*self.listener, net::Shutdown::Both).expect("stop listening");
        acceptor.join().expect("the receiver's acceptor");
        self.hang_up();
    }

    /// Closes every connection; new ones are welcome.
    pub(crate) fn hang_up(&self) {
        for connection in lock(&self.shared.connections).drain(..).filter_map(|known| known.upgrade()) {
            // Its other end may have closed it already.
            drop(connection.shutdown(Shutdown::Both));
        }
    }

    /// Every request up to now, in order of arrival.
    pub(crate) fn received(&self) -> Vec<Received> {
        lock(&self.shared.received).clone()
    }

    /// Every request up to now about one session.
    pub(crate) fn about(&self, session: &str) -> Vec<Received> {
        self.received().into_iter().filter(|request| request.session() == session).collect()
    }

    /// Waits for so many requests; all that came.
    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Received> {
        until(&format!("{count} webhooks"), || {
            let received = self.received();
            (received.len() >= count).then_some(received)
        })
    }

    /// Waits for so many requests about one session; all that came about it.
    #[track_caller]
    pub(crate) fn wait_about(&self, session: &str, count: usize) -> Vec<Received> {
        until(&format!("{count} webhooks of {session}"), || {
            let received = self.about(session);
            (received.len() >= count).then_some(received)
        })
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.acceptor.is_some() {
            self.stop();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    // Ends with an error when the listener is shut down.
    while let Ok((stream, _)) = listener.accept() {
        let (stream, shared) = (Arc::new(stream), Arc::clone(shared));
        lock(&shared.connections).push(Arc::downgrade(&stream));
        // An error here is a client that went away, or the end of the receiver.
        thread::spawn(move || drop(serve(&stream, &shared)));
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream);
    while let Some(received) = read_request(&mut input)? {
        let turn = {
            // Together, so that the order of requests is the order of turns.
            let mut all = lock(&shared.received);
            let mut turns = lock(&shared.turns);
            let known = |id| all.iter().any(|earlier| earlier.header("webhook-id") == Some(id));
            let repeated = turns.is_empty() || received.header("webhook-id").is_some_and(known);
            all.push(received);
            if repeated { None } else { turns.pop_front() }
        };
        match turn.unwrap_or(Turn::status(200)) {
            Turn::Answer(answer) => answer_with(stream, &answer)?,
            Turn::Raw(bytes) => {
                (&*stream).write_all(&bytes)?;
                return stream.shutdown(Shutdown::Both);
            }
            Turn::Silence => while input.read(&mut [0])? > 0 {},
            Turn::Close => return stream.shutdown(Shutdown::Both),
            // Closed with nothing to linger for, by the drop of the last owner.
            Turn::Reset => return Ok(sockopt::set_socket_linger(stream, Some(Duration::ZERO))?),
        }
    }
    Ok(())
}

fn answer_with(mut stream: &TcpStream, answer: &Answer) -> io::Result<()> {
    thread::sleep(answer.delay);
    let mut head = format!("HTTP/1.1 {} Scripted\r\nContent-Length: 0\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())
}

/// The next request of a connection; none at its end.
pub(crate) fn read_request(input: &mut impl BufRead) -> io::Result<Option<Received>> {
    fn line(input: &mut impl BufRead) -> io::Result<String> {
        let mut line = String::new();
        input.read_line(&mut line)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
    let first = line(input)?;
    let mut words = first.split(' ');
    let (Some(method), Some(path), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
        assert!(first.is_empty(), "no request line: {first:?}");
        return Ok(None);
    };
    let mut headers = Vec::new();
    loop {
        let line = line(input)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').expect("a header has a colon");
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.map_or(0, |(_, value)| value.parse().expect("a length is a number"));
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    let (method, path) = (method.to_owned(), path.to_owned());
    Ok(Some(Received { method, path, headers, body, at: clock::now().mono }))
}

#[test]
fn a_stopped_endpoint_refuses_and_comes_back_on_its_port() {
    let mut endpoint = Endpoint::start();
    let connect = |endpoint: &Endpoint| TcpStream::connect((Ipv4Addr::LOCALHOST, endpoint.port));
    for _ in 0..3 {
        drop(connect(&endpoint).expect("it listens"));
        endpoint.stop();
        let refused = connect(&endpoint).expect_err("it does not listen");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        endpoint.resume();
    }
}
