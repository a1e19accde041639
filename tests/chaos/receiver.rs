//! The receiver of webhooks, under changing weather: fair, slow, resetting, hanging up, failing, or not there at all.
//!
//! Asks the observer, the moment a verdict arrives, whether the leader has really ended. Remembers every byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use agentctl::core::vocab::Mono;
use agentctl::sys::clock;
use fastrand::Rng;
use rustix::net::{self, sockopt};
use serde_json::Value;

use crate::loopback::{bind, lock};
use crate::observer::Observer;

/// What the receiver does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Fair,
    Slow,
    Reset,
    HangUp,
    Failing,
    /// Connections are refused.
    Down,
}

/// One request, and what was made of it.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    /// The header `webhook-id`.
    pub(crate) id: String,
    pub(crate) body: Vec<u8>,
    pub(crate) session: String,
    pub(crate) at: Mono,
    /// Answered with 200.
    pub(crate) accepted: bool,
    /// The kernel showed the leader alive when it came.
    pub(crate) early: bool,
}

struct Shared {
    weather: Mutex<Weather>,
    got: Mutex<Vec<Got>>,
    listener: TcpListener,
    observer: Observer,
}

#[derive(Clone)]
pub(crate) struct Receiver(Arc<Shared>);

impl Receiver {
    /// Serves for as long as the program runs.
    pub(crate) fn start(observer: &Observer) -> io::Result<Self> {
        let (weather, got) = (Mutex::new(Weather::Down), Mutex::default());
        let shared = Shared { weather, got, listener: bind()?, observer: observer.clone() };
        let receiver = Self(Arc::new(shared));
        receiver.turn(Weather::Fair)?;
        Ok(receiver)
    }

    pub(crate) fn url(&self) -> io::Result<String> {
        Ok(format!("http://{}/chaos", self.0.listener.local_addr()?))
    }

    /// Changes the weather.
    pub(crate) fn turn(&self, to: Weather) -> io::Result<()> {
        let before = std::mem::replace(&mut *lock(&self.0.weather), to);
        match (before, to) {
            (Weather::Down, Weather::Down) => Ok(()),
            (_, Weather::Down) => Ok(net::shutdown(&self.0.listener, net::Shutdown::Both)?),
            (Weather::Down, _) => {
                net::listen(&self.0.listener, 1_024)?;
                let shared = Arc::clone(&self.0);
                thread::spawn(move || accept(&shared));
                Ok(())
            }
            (_, _) => Ok(()),
        }
    }

    /// Everything up to now, in order of arrival.
    pub(crate) fn got(&self) -> Vec<Got> {
        lock(&self.0.got).clone()
    }
}

/// Ends with an error when the listener is shut down.
fn accept(shared: &Arc<Shared>) {
    while let Ok((stream, _)) = shared.listener.accept() {
        let shared = Arc::clone(shared);
        // An error here is a daemon that was killed.
        thread::spawn(move || drop(serve(&stream, &shared)));
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream);
    while let Some((id, body)) = read_request(&mut input)? {
        let at = clock::now().mono;
        let json: Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
        let session = json["session_id"].as_str().unwrap_or_default().to_owned();
        let early = shared.observer.has_ended(&session) == Some(false);
        let weather = *lock(&shared.weather);
        let accepted = matches!(weather, Weather::Fair | Weather::Slow);
        lock(&shared.got).push(Got { id, body, session, at, accepted, early });
        let mut output = stream;
        match weather {
            Weather::Fair => output.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?,
            Weather::Slow => {
                thread::sleep(Duration::from_millis(Rng::new().u64(10..900)));
                output.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
            }
            Weather::Failing => {
                output.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")?;
            }
            // Closed with nothing to linger for.
            Weather::Reset => return Ok(sockopt::set_socket_linger(stream, Some(Duration::ZERO))?),
            Weather::HangUp | Weather::Down => return Ok(()),
        }
    }
    Ok(())
}

/// Id and body of the next request; `None`: the connection is over.
fn read_request(input: &mut BufReader<&TcpStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let (mut id, mut length) = (String::new(), 0);
    let mut line = String::new();
    let mut first = true;
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let text = line.trim_end();
        if text.is_empty() && !first {
            break;
        }
        first = false;
        let Some((name, value)) = text.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "webhook-id" => id = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().map_err(io::Error::other)?,
            _other => {}
        }
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    Ok(Some((id, body)))
}
