//! A scripted model endpoint on loopback, so that the real agent programs run without any network.
//!
//! Speaks OpenAI chat completions and Responses, Anthropic messages, `/v1/models` and an empty `/api.json` catalogue, over
//! HTTP/1.1 on a port of its own. What it answers is written in the prompt (see `script`). It knows nothing of
//! agents beyond the shape of their shell tool, and ends with the value that holds it.

mod anthropic;
mod chat;
mod responses;
mod script;
mod tests;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

pub(crate) use script::Plan;
use script::{normalise, plan_of, shell_call};

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Null where there was none or where it is no JSON.
    pub(crate) body: Value,
    /// What the directives in it asked for.
    pub(crate) plan: Plan,
    /// The names of the tools that it offers. Side requests (titles, summaries) offer none.
    pub(crate) tools: Vec<String>,
}

impl Seen {
    /// All texts that the user wrote, as the agent passed them on.
    pub(crate) fn user_texts(&self) -> Vec<String> {
        let turns =
            [&self.body["messages"], &self.body["input"]].into_iter().filter_map(Value::as_array).flatten();
        turns.filter(|turn| turn["role"] == "user").flat_map(script::texts_of).collect()
    }
}

/// The endpoint. Dropping it closes every connection.
pub(crate) struct FakeLlm {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    next_id: AtomicU64,
    seen: Mutex<Vec<Seen>>,
    connections: Mutex<Vec<TcpStream>>,
}

impl FakeLlm {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind the fake model to loopback");
        let address = listener.local_addr().expect("the fake model's own address");
        let shared = Arc::new(Shared::default());
        let of_acceptor = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &of_acceptor));
        Self { address, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Every request up to now, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for FakeLlm {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees that it is over.
        drop(TcpStream::connect(self.address));
        for connection in self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            drop(connection.shutdown(Shutdown::Both));
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(kept) = stream.try_clone() else { continue };
        shared.connections.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        let shared = Arc::clone(shared);
        // An error here is a client that went away: agents do that whenever they are stopped.
        thread::spawn(move || drop(serve(stream, &shared)));
    }
}

/// What becomes of the connection after an answer.
enum Next {
    KeepAlive,
    Close,
}

struct Request {
    method: String,
    path: String,
    body: Vec<u8>,
}

fn serve(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = Answer { out: stream.try_clone()? };
    let mut input = BufReader::new(stream);
    while let Some(request) = read_request(&mut input, &mut answer.out)? {
        match route(&request, &mut answer, shared)? {
            Next::KeepAlive => {}
            Next::Close => return answer.out.shutdown(Shutdown::Both),
        }
    }
    Ok(())
}

fn read_request(input: &mut BufReader<TcpStream>, out: &mut TcpStream) -> io::Result<Option<Request>> {
    let first = read_line(input)?;
    let mut words = first.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let (mut length, mut chunked) = (0, false);
    loop {
        let line = read_line(input)?.to_ascii_lowercase();
        let Some((name, value)) = line.split_once(':') else { break };
        match (name, value.trim()) {
            ("content-length", value) => length = value.parse().map_err(io::Error::other)?,
            ("transfer-encoding", "chunked") => chunked = true,
            ("expect", "100-continue") => out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            _ => {}
        }
    }
    let mut body = Vec::new();
    if chunked {
        body = read_chunks(input)?;
    } else {
        input.by_ref().take(length).read_to_end(&mut body)?;
    }
    Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), body }))
}

/// A body in chunks (RFC 9112, 7.1), to its end.
pub(crate) fn read_chunks(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&read_line(input)?, 16).map_err(io::Error::other)?;
        input.by_ref().take(size as u64).read_to_end(&mut body)?;
        read_line(input)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

/// Without its line break; empty at the end of the stream.
fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn route(request: &Request, answer: &mut Answer, shared: &Shared) -> io::Result<Next> {
    let body = serde_json::from_slice(&request.body).unwrap_or(Value::Null);
    let said = normalise(&body);
    let plan = plan_of(&said.users);
    let seen = Seen {
        method: request.method.clone(),
        path: request.path.clone(),
        body: body.clone(),
        plan: plan.clone(),
        tools: said.tools.iter().map(|(name, _)| name.clone()).collect(),
    };
    shared.seen.lock().unwrap_or_else(PoisonError::into_inner).push(seen);

    let path = request.path.split('?').next().unwrap_or_default();
    match request.method.as_str() {
        "GET" if path.ends_with("/models") => answer.json(200, &models()),
        "GET" if path.ends_with("/api.json") => answer.json(200, &json!({})),
        "POST" if path.ends_with("/chat/completions") => {
            speak(Dialect::Chat, &body, &said, &plan, answer, shared)
        }
        "POST" if path.ends_with("/responses") => {
            speak(Dialect::Responses, &body, &said, &plan, answer, shared)
        }
        "POST" if path.ends_with("/messages/count_tokens") => {
            answer.json(200, &json!({"input_tokens": 1000}))
        }
        "POST" if path.ends_with("/messages") => {
            speak(Dialect::Anthropic, &body, &said, &plan, answer, shared)
        }
        "HEAD" => answer.head(200, "text/plain", 0).map(|()| Next::KeepAlive),
        _ => answer.json(404, &json!({"error": {"message": format!("not found {path}"), "code": 404}})),
    }
}

fn models() -> Value {
    let model = |id: &str| json!({"id": id, "object": "model", "created": 1, "owned_by": "fake"});
    json!({"object": "list", "data": [model("fake-1"), model("gpt-4o")]})
}

/// How a request is put, and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Chat,
    Responses,
    Anthropic,
}

fn speak(
    dialect: Dialect,
    body: &Value,
    said: &script::Said,
    plan: &Plan,
    answer: &mut Answer,
    shared: &Shared,
) -> io::Result<Next> {
    let model = body["model"].as_str().unwrap_or("fake-1");
    if model.contains("no-such") || model.contains("nosuch") {
        return answer.json(404, &error_body(dialect, 404));
    }
    // With a tool as well, all of this is the answer to what the tool returned.
    let tool_is_due = plan.tool.is_some() && !said.tool_answered;
    if let Some(status) = plan.error.filter(|_| !tool_is_due) {
        return answer.json(status, &error_body(dialect, status));
    }
    if plan.hang && !tool_is_due {
        // Blocks until the client goes away or the test is over.
        while answer.out.peek(&mut [0])? > 0 {
            thread::sleep(Duration::from_millis(200));
        }
        return Ok(Next::Close);
    }
    let waits = |path: &PathBuf| !tool_is_due && !path.exists();
    while plan.when.as_ref().is_some_and(waits) && !shared.stopped.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(20));
    }
    let id = shared.next_id.fetch_add(1, Ordering::SeqCst);
    // Side requests carry no tools and must not be answered with a call.
    let command = plan.tool.as_deref().filter(|_| tool_is_due);
    let call = command.and_then(|command| shell_call(&said.tools, command));
    let reply = Reply { id, model, plan, call };
    let streamed = body["stream"] == true;
    match dialect {
        Dialect::Chat if streamed => chat::stream(&reply, answer),
        Dialect::Chat => chat::at_once(&reply, answer),
        Dialect::Responses if streamed => responses::stream(&reply, answer),
        Dialect::Responses => responses::at_once(&reply, answer),
        Dialect::Anthropic if streamed => anthropic::stream(&reply, answer),
        Dialect::Anthropic => anthropic::at_once(&reply, answer),
    }
}

fn error_body(dialect: Dialect, status: u16) -> Value {
    let message = format!("fake error {status}");
    if dialect == Dialect::Anthropic {
        let kind = match status {
            401 => "authentication_error",
            404 => "not_found_error",
            429 => "rate_limit_error",
            529 => "overloaded_error",
            500.. => "api_error",
            _ => "invalid_request_error",
        };
        return json!({"type": "error", "error": {"type": kind, "message": message}});
    }
    let code = match status {
        401 => "invalid_api_key",
        404 => "model_not_found",
        429 => "rate_limit_exceeded",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    json!({"error": {"message": message, "type": code, "code": code, "param": null}})
}

/// One answer of the model.
struct Reply<'a> {
    id: u64,
    model: &'a str,
    plan: &'a Plan,
    /// The tool to be called, with its arguments.
    call: Option<(String, Value)>,
}

impl Reply<'_> {
    /// Waits as long as the plan says, with a sign of life now and then.
    fn trickle(&self, mut sign: impl FnMut() -> io::Result<()>) -> io::Result<()> {
        let mut left = self.plan.sleep;
        while !left.is_zero() {
            sign()?;
            let nap = left.min(Duration::from_secs(1));
            thread::sleep(nap);
            left -= nap;
        }
        Ok(())
    }

    /// The text in two pieces.
    fn halves(&self) -> [String; 2] {
        let text: Vec<char> = self.plan.text().chars().collect();
        let (first, second) = text.split_at(text.len() / 2);
        [first, second].map(|half| half.iter().collect())
    }
}

/// Writes HTTP to one client.
struct Answer {
    out: TcpStream,
}

impl Answer {
    fn head(&mut self, status: u16, content_type: &str, length: usize) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 {status} Fake\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
        );
        self.out.write_all(head.as_bytes())
    }

    fn json(&mut self, status: u16, body: &Value) -> io::Result<Next> {
        let body = body.to_string();
        self.head(status, "application/json", body.len())?;
        self.out.write_all(body.as_bytes())?;
        Ok(Next::KeepAlive)
    }

    fn stream_head(&mut self) -> io::Result<()> {
        self.out.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        )
    }

    fn event(&mut self, data: &str) -> io::Result<()> {
        let event = format!("data: {data}\n\n");
        self.out.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
    }

    /// An event with a name of its own, which its data repeats.
    fn named(&mut self, name: &str, mut data: Value) -> io::Result<()> {
        data["type"] = name.into();
        let event = format!("event: {name}\ndata: {data}\n\n");
        self.out.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())
    }

    fn stream_end(&mut self) -> io::Result<Next> {
        self.out.write_all(b"0\r\n\r\n")?;
        Ok(Next::KeepAlive)
    }
}
