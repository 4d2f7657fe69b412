//! Servers that are down, slow or broken.

use tokio::task::JoinHandle;

use super::{answer, http, output, read_request, server, session};
use crate::coordinator::{Session, failure_of, outcome_of, soon};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Reads one request and hands its connection to `then`.
async fn faulty<F>(then: impl FnOnce(TcpStream) -> F + Send + 'static) -> (String, JoinHandle<()>)
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let served = levelflow_runtime::task::spawn("faulty server", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_request(&mut stream).await;
        then(stream).await;
    });
    (address, served)
}

/// Code and whether it is retryable; the message has to say `expected`, and no secret.
async fn broken(session: &mut Session, input: Value, expected: &str) -> (String, bool) {
    let (code, message, retryable) = failure_of(session, http(&input)).await;
    assert!(message.contains(expected), "{message}");
    assert!(!message.contains("secret"), "{message}");
    (code, retryable)
}

fn http_failed() -> (String, bool) {
    ("http_failed".to_owned(), true)
}

fn too_large() -> (String, bool) {
    ("output_too_large".to_owned(), false)
}

#[tokio::test]
async fn a_server_that_refuses_resets_or_is_silent_may_answer_the_next_time() {
    let (mut session, _worker) = session().await;

    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let refused = json!({"url": format!("http://{address}/?secret=1")});
    assert_eq!(
        broken(&mut session, refused, "Connection refused").await,
        http_failed()
    );

    let (address, _served) = faulty(|stream| async move {
        stream.set_zero_linger().unwrap();
    })
    .await;
    let reset = json!({"url": format!("{address}/?secret=1")});
    assert_eq!(
        broken(&mut session, reset, "Connection reset").await,
        http_failed()
    );

    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let slow = json!({"url": format!("http://{address}/?secret=1"), "timeout": "50ms"});
    assert_eq!(
        broken(&mut session, slow, "timed out after 50ms").await,
        http_failed()
    );
}

#[tokio::test]
async fn half_a_body_is_no_answer() {
    let (mut session, _worker) = session().await;
    for head in [
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let (address, _served) = faulty(move |mut stream| async move {
            stream.write_all(head.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        })
        .await;
        assert_eq!(
            broken(&mut session, json!({"url": address}), "the body broke off").await,
            http_failed()
        );
    }
    for (content_type, response) in [("a/b+json", "auto"), ("text/plain", "json")] {
        let content_type = format!("content-type: {content_type}\r\n");
        let (address, _requests) = server(vec![answer("200 OK", &content_type, "{")]).await;
        let input = json!({"url": address, "response": response});
        assert_eq!(
            broken(&mut session, input, "the body is not JSON").await,
            http_failed()
        );
    }
}

/// Writes chunks as long as somebody reads, and pauses after each.
async fn endless(mut stream: TcpStream, chunk: &'static str, reads: bool) {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    while stream.write_all(chunk.as_bytes()).await.is_ok() {
        if reads {
            // Ends when the client has closed the connection.
            let _ = stream.read(&mut [0; 1]).await;
        }
    }
}

#[tokio::test]
async fn a_body_without_end_is_cut() {
    let (mut session, _worker) = session().await;
    let (address, served) =
        faulty(|stream| endless(stream, "10\r\n0123456789abcdef\r\n", false)).await;
    let input = json!({"url": address});
    assert_eq!(
        broken(&mut session, input, "the body is larger than 1048576 bytes").await,
        too_large()
    );
    soon(served).await.unwrap();

    let (address, served) = faulty(|stream| endless(stream, "1\r\nx\r\n", true)).await;
    let input = json!({"url": address, "timeout": "50ms"});
    assert_eq!(
        broken(&mut session, input, "timed out").await,
        http_failed()
    );
    soon(served).await.unwrap();
}

#[tokio::test]
async fn a_task_can_ask_for_less_than_the_limit() {
    let (mut session, _worker) = session().await;
    let (address, _requests) = server(vec![
        answer("200 OK", "", "12345"),
        answer("200 OK", "", "123456"),
    ])
    .await;
    let input = json!({"url": address, "max_response_bytes": 5});
    assert_eq!(
        output(&mut session, input.clone()).await["body"],
        json!("12345")
    );
    assert_eq!(
        broken(&mut session, input, "the body is larger than 5 bytes").await,
        too_large()
    );
}

#[tokio::test]
async fn a_server_says_when_it_wants_to_be_asked_again() {
    let (mut session, _worker) = session().await;
    let header = "retry-after: 7\r\n";
    let (address, _requests) = server(vec![
        answer("429 Too Many Requests", header, ""),
        answer("503 Service Unavailable", header, ""),
        answer("503 Service Unavailable", "", ""),
        answer("403 Forbidden", header, ""),
        answer("200 OK", header, ""),
    ])
    .await;
    let request = http(&json!({"url": address}));
    for (retryable, wait) in [
        (true, Some(7_000_000)),
        (true, Some(7_000_000)),
        (true, None),
        (false, None),
    ] {
        let outcome = outcome_of(&mut session, request.clone()).await;
        let failure = outcome.failure.unwrap();
        assert_eq!(
            (failure.retryable, failure.retry_after_us),
            (retryable, wait)
        );
    }
    let outcome = outcome_of(&mut session, request).await;
    assert_eq!(outcome.failure, None, "the server is well again");
}

#[tokio::test]
async fn redirects_are_bounded() {
    let (mut session, _worker) = session().await;
    let found = answer("302 Found", "location: /\r\n", "");
    for (redirects, answers) in [(json!(null), 6), (json!(2), 3)] {
        let (address, mut requests) = server(vec![found.clone(); answers]).await;
        let input = json!({"url": address, "redirects": redirects});
        assert_eq!(
            broken(&mut session, input, "too many redirects").await,
            ("http_failed".to_owned(), false)
        );
        for _ in 0..answers {
            soon(requests.recv()).await.unwrap();
        }
    }
    let (address, _requests) = server(vec![found.clone(), found]).await;
    for input in [
        json!({"url": address, "redirects": 0, "expect_status": [302]}),
        json!({"url": address, "expect_status": [302]}),
    ] {
        let output = output(&mut session, input).await;
        assert_eq!(output["headers"]["location"], json!("/"));
    }
    let (address, _requests) =
        server(vec![answer("302 Found", "location: file:///x\r\n", "")]).await;
    assert_eq!(
        broken(
            &mut session,
            json!({"url": address}),
            "redirects to an address that is not"
        )
        .await,
        ("http_failed".to_owned(), false)
    );
}
