//! A scripted model endpoint on loopback, so that the real agent programs run without any network.
//!
//! Speaks OpenAI chat completions (streamed or not), `/v1/models` and an empty `/api.json` catalogue, over
//! HTTP/1.1 on a port of its own. What it answers is written in the prompt (see `script`). It knows nothing of
//! agents beyond the shape of their shell tool, and ends with the value that holds it.

mod script;
mod tests;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
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
        let messages = self.body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        messages.iter().filter(|message| message["role"] == "user").flat_map(script::texts_of).collect()
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
        loop {
            let size = usize::from_str_radix(&read_line(input)?, 16).map_err(io::Error::other)?;
            input.by_ref().take(size as u64).read_to_end(&mut body)?;
            read_line(input)?;
            if size == 0 {
                break;
            }
        }
    } else {
        input.by_ref().take(length).read_to_end(&mut body)?;
    }
    Ok(Some(Request { method: method.to_owned(), path: path.to_owned(), body }))
}

/// Without its line break; empty at the end of the stream.
fn read_line(input: &mut BufReader<TcpStream>) -> io::Result<String> {
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
        "POST" if path.ends_with("/chat/completions") => chat(&body, &said, &plan, answer, shared),
        "HEAD" => answer.head(200, "text/plain", 0).map(|()| Next::KeepAlive),
        _ => answer.json(404, &json!({"error": {"message": format!("not found {path}"), "code": 404}})),
    }
}

fn models() -> Value {
    let model = |id: &str| json!({"id": id, "object": "model", "created": 1, "owned_by": "fake"});
    json!({"object": "list", "data": [model("fake-1"), model("gpt-4o")]})
}

fn chat(
    body: &Value,
    said: &script::Said,
    plan: &Plan,
    answer: &mut Answer,
    shared: &Shared,
) -> io::Result<Next> {
    let model = body["model"].as_str().unwrap_or("fake-1");
    if model.contains("no-such") || model.contains("nosuch") {
        return answer.json(404, &error_body(404));
    }
    // With a tool as well, the error is the answer to what the tool returned.
    let tool_is_due = plan.tool.is_some() && !said.tool_answered;
    if let Some(status) = plan.error.filter(|_| !tool_is_due) {
        return answer.json(status, &error_body(status));
    }
    if plan.hang {
        // Blocks until the client goes away or the test is over.
        while answer.out.peek(&mut [0])? > 0 {
            thread::sleep(Duration::from_millis(200));
        }
        return Ok(Next::Close);
    }
    let id = shared.next_id.fetch_add(1, Ordering::SeqCst);
    // Side requests carry no tools and must not be answered with a call.
    let call = plan
        .tool
        .as_deref()
        .filter(|_| tool_is_due)
        .and_then(|command| shell_call(&said.tools, command))
        .map(|(name, arguments)| {
            let function = json!({"name": name, "arguments": arguments.to_string()});
            json!([{"index": 0, "id": format!("call_{id:08x}"), "type": "function", "function": function}])
        });
    let reply = Reply { id, model, plan, call };
    if body["stream"] == true { reply.stream(answer) } else { reply.at_once(answer) }
}

fn error_body(status: u16) -> Value {
    let code = match status {
        401 => "invalid_api_key",
        404 => "model_not_found",
        429 => "rate_limit_exceeded",
        500.. => "server_error",
        _ => "invalid_request_error",
    };
    json!({"error": {"message": format!("fake error {status}"), "type": code, "code": code, "param": null}})
}

/// One answer of the model.
struct Reply<'a> {
    id: u64,
    model: &'a str,
    plan: &'a Plan,
    call: Option<Value>,
}

impl Reply<'_> {
    fn finish_reason(&self) -> &'static str {
        match self {
            Self { call: Some(_), .. } => "tool_calls",
            Self { plan, .. } if plan.length => "length",
            Self { plan, .. } if plan.refuse => "content_filter",
            _ => "stop",
        }
    }

    fn usage(&self) -> Value {
        let (input, output) = self.plan.usage;
        json!({
            "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
            "prompt_tokens_details": {"cached_tokens": input / 10},
            "completion_tokens_details": {"reasoning_tokens": 5},
        })
    }

    fn envelope(&self, object: &str, choices: Value) -> Value {
        let id = format!("chatcmpl-{:012x}", self.id);
        json!({"id": id, "object": object, "created": 1, "model": self.model, "choices": choices})
    }

    fn at_once(&self, answer: &mut Answer) -> io::Result<Next> {
        thread::sleep(self.plan.sleep);
        let mut message = json!({"role": "assistant", "content": self.plan.text()});
        if let Some(call) = &self.call {
            message = json!({"role": "assistant", "content": null, "tool_calls": call});
        }
        let choices = json!([{"index": 0, "message": message, "finish_reason": self.finish_reason()}]);
        let mut whole = self.envelope("chat.completion", choices);
        whole["usage"] = self.usage();
        answer.json(200, &whole)
    }

    fn delta(&self, answer: &mut Answer, delta: Value, finish_reason: Option<&str>) -> io::Result<()> {
        let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]);
        answer.event(&self.envelope("chat.completion.chunk", choices).to_string())
    }

    fn stream(&self, answer: &mut Answer) -> io::Result<Next> {
        answer.stream_head()?;
        self.delta(answer, json!({"role": "assistant", "content": ""}), None)?;
        let mut left = self.plan.sleep;
        while !left.is_zero() {
            self.delta(answer, json!({"content": "."}), None)?;
            let nap = left.min(Duration::from_secs(1));
            thread::sleep(nap);
            left -= nap;
        }
        if let Some(status) = self.plan.error_mid {
            answer.event(&error_body(status).to_string())?;
            return answer.stream_end();
        }
        let text: Vec<char> = self.plan.text().chars().collect();
        let (first, second) = text.split_at(text.len() / 2);
        let half = |half: &[char]| json!({"content": half.iter().collect::<String>()});
        if self.plan.drop {
            self.delta(answer, half(first), None)?;
            return Ok(Next::Close);
        }
        if let Some(call) = &self.call {
            self.delta(answer, json!({"tool_calls": call}), None)?;
        } else {
            self.delta(answer, half(first), None)?;
            self.delta(answer, half(second), None)?;
        }
        self.delta(answer, json!({}), Some(self.finish_reason()))?;
        let mut last = self.envelope("chat.completion.chunk", json!([]));
        last["usage"] = self.usage();
        answer.event(&last.to_string())?;
        answer.event("[DONE]")?;
        answer.stream_end()
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

    fn stream_end(&mut self) -> io::Result<Next> {
        self.out.write_all(b"0\r\n\r\n")?;
        Ok(Next::KeepAlive)
    }
}
