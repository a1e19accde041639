//! The fake itself, over plain TCP: what it writes must be what agents read.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::FakeLlm;

fn connect(fake: &FakeLlm) -> TcpStream {
    TcpStream::connect(("127.0.0.1", fake.port())).expect("reach the fake model")
}

/// The answer as it came, up to its end or the end of the connection.
fn answer(mut stream: &TcpStream) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).expect("read the answer");
        text.extend_from_slice(&buffer[..count]);
        let so_far = String::from_utf8_lossy(&text).into_owned();
        let (head, body) = so_far.split_once("\r\n\r\n").unwrap_or((&so_far, ""));
        let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let whole = match length {
            Some(length) => body.len() == length.parse::<usize>().expect("a length"),
            None => body.ends_with("0\r\n\r\n"),
        };
        if count == 0 || whole {
            return so_far;
        }
    }
}

fn send(stream: &TcpStream, prompt: &str, stream_wanted: bool) {
    let said = [json!({"role": "system", "content": "[[hang]]"}), json!({"role": "user", "content": prompt})];
    send_all(stream, &said, stream_wanted);
}

fn send_all(mut stream: &TcpStream, said: &[Value], stream_wanted: bool) {
    let body = json!({
        "model": "fake-1",
        "stream": stream_wanted,
        "messages": said,
        "tools": [{"type": "function", "function": {"name": "bash", "parameters": {
            "properties": {"command": {"type": "string"}, "timeout": {"type": "number"}},
            "required": ["command", "timeout"],
        }}}],
    })
    .to_string();
    let head =
        format!("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("{head}{body}").as_bytes()).expect("send a request");
}

fn ask(fake: &FakeLlm, prompt: &str, stream_wanted: bool) -> String {
    let stream = connect(fake);
    send(&stream, prompt, stream_wanted);
    answer(&stream)
}

/// The data of each server-sent event.
fn events(answer: &str) -> Vec<String> {
    answer.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

/// What each delta says, then why it finished.
fn told(answer: &str) -> (Vec<String>, Option<String>) {
    let events: Vec<Value> =
        events(answer).iter().filter_map(|event| serde_json::from_str(event).ok()).collect();
    let texts = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    let finish = events.iter().find_map(|event| event["choices"][0]["finish_reason"].as_str());
    (texts.map(str::to_owned).collect(), finish.map(str::to_owned))
}

#[test]
fn a_reply_is_streamed_in_halves_with_its_usage() {
    let fake = FakeLlm::start();
    let got = ask(&fake, "[[reply:hällo]] [[usage:20,3]]", true);
    assert!(got.starts_with("HTTP/1.1 200 "), "{got}");
    assert_eq!(told(&got), (vec![String::new(), "hä".into(), "llo".into()], Some("stop".into())));
    let events = events(&got);
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).expect("the usage is JSON");
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(23)));
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert!(got.ends_with("0\r\n\r\n"));
}

#[test]
fn one_connection_takes_several_requests() {
    let fake = FakeLlm::start();
    let stream = connect(&fake);
    for (prompt, expected) in [("[[reply:one]]", "one"), ("no directive", "ok"), ("[[length]]", "done")] {
        send(&stream, prompt, false);
        let got = answer(&stream);
        let body: Value = serde_json::from_str(got.split_once("\r\n\r\n").expect("a head").1).expect("JSON");
        assert_eq!(body["choices"][0]["message"]["content"], expected);
    }
    let asked = fake.requests();
    assert_eq!(asked.len(), 3);
    assert_eq!((asked[0].method.as_str(), asked[0].path.as_str()), ("POST", "/v1/chat/completions"));
    assert_eq!(asked[0].tools, ["bash"]);
    assert_eq!(asked[0].plan.text(), "one");
    assert_eq!(asked[1].user_texts(), ["no directive"]);
}

#[test]
fn a_tool_is_called_with_arguments_that_fit() {
    let fake = FakeLlm::start();
    let got = ask(&fake, "[[tool:bash:exit 3]]", false);
    let body: Value = serde_json::from_str(got.split_once("\r\n\r\n").expect("a head").1).expect("JSON");
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let function = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(function, &json!({"name": "bash", "arguments": r#"{"command":"exit 3","timeout":60000}"#}));
}

#[test]
fn each_way_to_fail() {
    let fake = FakeLlm::start();
    assert!(ask(&fake, "[[error:401]]", true).starts_with("HTTP/1.1 401 "));
    assert!(ask(&fake, "[[error]]", true).contains("fake error 500"));
    let mid = ask(&fake, "[[errormid:503]]", true);
    assert!(mid.starts_with("HTTP/1.1 200 ") && mid.contains("fake error 503"), "{mid}");
    assert_eq!(told(&ask(&fake, "[[length]]", true)).1.as_deref(), Some("length"));
    assert_eq!(told(&ask(&fake, "[[refuse]]", true)).1.as_deref(), Some("content_filter"));
    let dropped = ask(&fake, "[[drop]] [[reply:abcd]]", true);
    assert_eq!(told(&dropped), (vec![String::new(), "ab".into()], None));
    assert!(!dropped.ends_with("0\r\n\r\n"), "a drop is no proper end");
}

#[test]
fn a_hang_lasts_until_the_test_ends() {
    let fake = FakeLlm::start();
    let mut stream = connect(&fake);
    send(&stream, "[[hang]]", true);
    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("set a limit");
    let silent = stream.read(&mut [0]).expect_err("nothing comes");
    assert!(matches!(silent.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
    drop(fake);
    stream.set_read_timeout(None).expect("lift the limit");
    assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the connection is closed");
}

#[test]
fn what_is_behind_a_tool_comes_after_its_answer() {
    let fake = FakeLlm::start();
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("gate");
    for waits in ["[[hang]]".to_owned(), format!("[[when:{}]]", path.display())] {
        let prompt = format!("[[tool:bash:true]] {waits} [[reply:ab]]");
        assert_eq!(told(&ask(&fake, &prompt, true)).1.as_deref(), Some("tool_calls"));
        let stream = connect(&fake);
        let said =
            [json!({"role": "user", "content": prompt}), json!({"role": "tool", "content": "it returned"})];
        send_all(&stream, &said, true);
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("set a limit");
        let silent = (&stream).read(&mut [0]).expect_err("nothing comes");
        assert!(matches!(silent.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silent}");
        if waits != "[[hang]]" {
            std::fs::write(&path, "").expect("a file");
            stream.set_read_timeout(None).expect("lift the limit");
            assert_eq!(told(&answer(&stream)).1.as_deref(), Some("stop"));
        }
    }
}

#[test]
fn a_sleep_trickles() {
    let fake = FakeLlm::start();
    let (texts, finish) = told(&ask(&fake, "[[sleep:1.1]] [[reply:ab]]", true));
    assert_eq!(texts, ["", ".", ".", "a", "b"]);
    assert_eq!(finish.as_deref(), Some("stop"));
}
