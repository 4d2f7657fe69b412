//! Chunks of task types other than handlers.

use levelflow_proto::v1;
use levelflow_worker::SecretsConfig;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::chunks_of;
use crate::coordinator::{Running, Session, attempt, outcome_of, session};
use crate::http::read_request;

/// A worker that may do everything, with a secret.
async fn start() -> (Session, Running, tempfile::TempDir) {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("KEY"), "hunter2hunter2").unwrap();
    let secrets = SecretsConfig {
        directory: Some(home.path().to_owned()),
        ..SecretsConfig::default()
    };
    let (session, worker) = session(|builder| {
        builder
            .allow_process(true)
            .allow_http("127.0.0.1")
            .secrets(secrets)
    })
    .await;
    (session, worker, home)
}

fn task(kind: v1::TaskKind, input: &Value) -> v1::Attempt {
    v1::Attempt {
        kind: kind.into(),
        ..attempt(1, "", &input.to_string())
    }
}

/// The secret, at a place of the input.
fn with_key(attempt: v1::Attempt, pointer: &str) -> v1::Attempt {
    let place = v1::SecretPart {
        pointer: pointer.to_owned(),
        part: 0,
        name: "KEY".to_owned(),
    };
    v1::Attempt {
        secrets: vec![place],
        ..attempt
    }
}

async fn until_chunks(session: &mut Session, count: usize) {
    session.until(|session| session.chunks.len() >= count).await;
}

#[tokio::test]
async fn a_line_of_a_program_comes_at_once() {
    let (mut session, _worker, home) = start().await;
    let gate = home.path().join("gate");
    let made = std::process::Command::new("mkfifo").arg(&gate).status();
    assert!(made.unwrap().success());
    let script = "printf 'one\\r\\n\\ntw'; read go < \"$1\"; printf 'o\\n%s\\nrest' \"$KEY\"";
    let input = json!({
        "command": ["sh", "-c", script, "sh", gate],
        "env": { "KEY": [null] },
        "output": "lines",
        "stream": "lines",
    });
    let attempt = with_key(task(v1::TaskKind::Process, &input), "/env/KEY");
    session.dispatch(vec![attempt]).await;
    until_chunks(&mut session, 2).await;
    assert_eq!(chunks_of(&session, 1), ["one", ""]);
    tokio::task::spawn_blocking(move || std::fs::write(gate, "go\n"));
    let outcome = session.outcome().await;
    assert_eq!((outcome.failure, outcome.chunks), (None, 5));
    let chunks = chunks_of(&session, 1);
    assert_eq!(chunks, ["one", "", "two", "***", "rest"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&outcome.output).unwrap(),
        json!(chunks)
    );
}

#[tokio::test]
async fn without_being_asked_for_there_are_no_chunks() {
    let (mut session, _worker, _home) = start().await;
    let echo = task(
        v1::TaskKind::Process,
        &json!({ "command": ["echo", "one"] }),
    );
    assert_eq!(outcome_of(&mut session, echo).await.chunks, 0);
    assert!(session.chunks.is_empty());
}

/// A server that answers one request with whatever it is given, as it is given.
async fn server(head: &'static str) -> (String, mpsc::UnboundedSender<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (give, mut given) = mpsc::unbounded_channel::<Vec<u8>>();
    levelflow_runtime::task::spawn("http server", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        while let Some(bytes) = given.recv().await {
            stream.write_all(&bytes).await.unwrap();
        }
    });
    (address, give)
}

const TEXT: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/plain\r\n\r\n";

#[tokio::test]
async fn the_body_of_a_response_comes_as_text() {
    let (mut session, _worker, _home) = start().await;
    let (address, give) = server(TEXT).await;
    let input = json!({ "url": [address, "/?key=", null], "stream": "text" });
    let attempt = with_key(task(v1::TaskKind::Http, &input), "/url");
    let attempt = v1::Attempt {
        secrets: vec![v1::SecretPart {
            part: 2,
            ..attempt.secrets[0].clone()
        }],
        ..attempt
    };
    session.dispatch(vec![attempt]).await;
    // Cut within a character, and then within the secret.
    for (count, bytes) in [
        (1, &b"gr\xc3"[..]),
        (2, b"\xbc\xc3\x9fe hunter2"),
        (3, b"hunter2 hun"),
    ] {
        give.send(bytes.to_vec()).unwrap();
        until_chunks(&mut session, count).await;
    }
    let chunks = chunks_of(&session, 1);
    let expected = ["gr", "\u{fc}\u{df}e ", "*** "].map(|text| json!({ "text": text }));
    assert_eq!(chunks, expected);
    give.send(b"t".to_vec()).unwrap();
    drop(give);
    let outcome = session.outcome().await;
    assert_eq!(outcome.failure, None);
    let chunks = chunks_of(&session, 1);
    let text: String = chunks
        .iter()
        .map(|chunk| chunk["text"].as_str().unwrap())
        .collect();
    assert_eq!(text, "gr\u{fc}\u{df}e *** hunt");
    let output: Value = serde_json::from_slice(&outcome.output).unwrap();
    assert_eq!(output["body"], text);
}

#[tokio::test]
async fn the_body_of_a_response_comes_in_lines_and_in_events() {
    let (mut session, _worker, _home) = start().await;
    let (address, give) = server(TEXT).await;
    let input = json!({ "url": address, "stream": "lines" });
    session
        .dispatch(vec![task(v1::TaskKind::Http, &input)])
        .await;
    give.send(b"one\ntw".to_vec()).unwrap();
    until_chunks(&mut session, 1).await;
    give.send(b"o\nthree".to_vec()).unwrap();
    drop(give);
    assert_eq!(session.outcome().await.chunks, 3);
    assert_eq!(chunks_of(&session, 1), ["one", "two", "three"]);

    session.chunks.clear();
    let (address, give) = server(TEXT).await;
    let input = json!({ "url": address, "stream": "events" });
    session
        .dispatch(vec![task(v1::TaskKind::Http, &input)])
        .await;
    give.send(b"event: a\ndata: {\"n\": 1}\n\ndata: x".to_vec())
        .unwrap();
    until_chunks(&mut session, 1).await;
    give.send(b"\ndata: y\n\ndata: half".to_vec()).unwrap();
    drop(give);
    assert_eq!(session.outcome().await.chunks, 2);
    assert_eq!(chunks_of(&session, 1), ["{\"n\": 1}", "x\ny"]);
}

#[tokio::test]
async fn half_a_body_gives_its_chunks_and_fails() {
    let (mut session, _worker, _home) = start().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n";
    let (address, give) = server(head).await;
    let input = json!({ "url": address, "stream": "lines" });
    session
        .dispatch(vec![task(v1::TaskKind::Http, &input)])
        .await;
    give.send(b"one\ntwo\nthr".to_vec()).unwrap();
    drop(give);
    let outcome = session.outcome().await;
    let failure = outcome.failure.unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("http_failed", true)
    );
    assert_eq!(outcome.chunks, 2);
    assert_eq!(chunks_of(&session, 1), ["one", "two"]);
}

#[tokio::test]
async fn an_unexpected_status_gives_no_chunks() {
    let (mut session, _worker, _home) = start().await;
    let head = "HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy";
    let (address, _give) = server(head).await;
    let input = json!({ "url": address, "stream": "text" });
    let outcome = outcome_of(&mut session, task(v1::TaskKind::Http, &input)).await;
    assert_eq!(
        (outcome.failure.unwrap().code.as_str(), outcome.chunks),
        ("http_status", 0)
    );
}

#[tokio::test]
async fn what_a_model_writes_comes_at_once_and_without_secrets() {
    let (mut session, _worker, _home) = start().await;
    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n\r\n";
    let (address, give) = server(head).await;
    let input = json!({
        "model": "m", "base_url": address, "api_key": [null], "prompt": "hello",
    });
    let attempt = with_key(task(v1::TaskKind::Chat, &input), "/api_key");
    session.dispatch(vec![attempt]).await;
    for (count, text) in [(1, "Hel"), (2, "lo hunter2hu"), (3, "nter2!")] {
        let delta = json!({ "choices": [{ "index": 0, "delta": { "content": text } }] });
        give.send(format!("data: {delta}\n\n").into_bytes())
            .unwrap();
        until_chunks(&mut session, count).await;
    }
    let written = |text: &str| json!({ "model": "m", "text": text });
    assert_eq!(
        chunks_of(&session, 1),
        [written("Hel"), written("lo "), written("***!")]
    );
    give.send(b"data: [DONE]\n\n".to_vec()).unwrap();
    drop(give);
    let outcome = session.outcome().await;
    let output: Value = serde_json::from_slice(&outcome.output).unwrap();
    assert_eq!(output["text"], "Hello ***!");
    assert_eq!(outcome.chunks, 3);
}
