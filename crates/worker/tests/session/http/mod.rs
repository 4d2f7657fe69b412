//! Tasks of type `http`, against a server that says what each test wants.

use levelflow_proto::v1;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::coordinator::{self, Running, Session, attempt, failure_of, outcome_of, soon};

mod bodies;
mod egress;
mod faults;
pub(crate) mod pool;
mod upstreams;

/// A session with a worker that may call this machine.
async fn session() -> (Session, Running) {
    coordinator::session(|builder| builder.allow_http("127.0.0.1")).await
}

/// Answers each connection with the next answer, and hands over what it was asked.
async fn server(answers: Vec<String>) -> (String, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::unbounded_channel();
    levelflow_runtime::task::spawn("http server", async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            sender.send(read_request(&mut stream).await).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    });
    (address, requests)
}

/// The next request; empty if there is none.
pub(crate) async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = String::new();
    let mut chunk = [0; 4096];
    loop {
        let read = stream.read(&mut chunk).await.unwrap();
        if read == 0 {
            return request;
        }
        request.push_str(std::str::from_utf8(&chunk[..read]).unwrap());
        if let Some((head, body)) = request.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if length.is_none_or(|length| body.len() >= length.parse().unwrap()) {
                return request;
            }
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

pub(crate) fn http(input: &Value) -> v1::Attempt {
    v1::Attempt {
        kind: v1::TaskKind::Http.into(),
        item: Some(3),
        ..attempt(1, "", &input.to_string())
    }
}

async fn output(session: &mut Session, input: Value) -> Value {
    let outcome = outcome_of(session, http(&input)).await;
    assert_eq!(outcome.failure, None);
    serde_json::from_slice(&outcome.output).unwrap()
}

#[tokio::test]
async fn sends_what_was_asked_for_and_reads_json() {
    let json_answer = answer(
        "201 Created",
        "content-type: application/json; charset=utf-8\r\nx-a: 1\r\nx-a: 2\r\n",
        r#"{"id": 7}"#,
    );
    let (address, mut requests) = server(vec![json_answer]).await;
    let (mut session, _worker) = session().await;
    let input = json!({
        "method": "POST",
        "url": format!("{address}/tickets?a=1"),
        "query": {"tag": ["x y", 2], "none": null, "q": "ä&b"},
        "headers": {"X-Trace": "t1"},
        "body": {"title": "hello"},
    });
    let output = output(&mut session, input).await;
    assert_eq!(output["status"], json!(201));
    assert_eq!(output["body"], json!({"id": 7}));
    assert_eq!(output["headers"]["x-a"], json!("1, 2"));
    let request = soon(requests.recv()).await.unwrap();
    assert!(
        request.starts_with("POST /tickets?a=1&q=%C3%A4%26b&tag=x+y&tag=2 HTTP/1.1\r\n"),
        "{request}"
    );
    for header in [
        "x-trace: t1\r\n",
        "content-type: application/json\r\n",
        "idempotency-key: 01010101-0101-0101-0101-010101010101/task/3\r\n",
    ] {
        assert!(request.contains(header), "{request}");
    }
    assert!(
        request.ends_with("\r\n\r\n{\"title\":\"hello\"}"),
        "{request}"
    );
}

#[tokio::test]
async fn text_stays_text_and_redirects_are_followed() {
    let (address, mut requests) = server(vec![
        answer("302 Found", "location: /there\r\n", ""),
        answer(
            "200 OK",
            "content-type: text/plain\r\n",
            "{\"not\": \"parsed\"}",
        ),
    ])
    .await;
    let (mut session, _worker) = session().await;
    let output = output(&mut session, json!({"url": address})).await;
    assert_eq!(output["body"], json!("{\"not\": \"parsed\"}"));
    assert!(soon(requests.recv()).await.unwrap().starts_with("GET / "));
    assert!(
        soon(requests.recv())
            .await
            .unwrap()
            .starts_with("GET /there ")
    );
}

#[tokio::test]
async fn the_status_decides_whether_to_try_again() {
    let (mut session, _worker) = session().await;
    for (status, retryable) in [
        ("404 Not Found", false),
        ("401 Unauthorized", false),
        ("408 Request Timeout", true),
        ("429 Too Many Requests", true),
        ("500 Internal Server Error", true),
        ("503 Service Unavailable", true),
    ] {
        let (address, _requests) = server(vec![answer(status, "", "sorry")]).await;
        let input = json!({"url": format!("{address}/x?secret=1")});
        assert_eq!(
            failure_of(&mut session, http(&input)).await,
            (
                "http_status".to_owned(),
                format!("GET {address}/x answered {status}: sorry"),
                retryable
            )
        );
    }
    let (address, _requests) = server(vec![answer("404 Not Found", "", "")]).await;
    let expected = json!({"url": address, "expect_status": [404, 200]});
    assert_eq!(output(&mut session, expected).await["status"], json!(404));
}

#[tokio::test]
async fn a_malformed_request_is_the_fault_of_the_task() {
    let (mut session, _worker) = session().await;
    for (input, message) in [
        (
            json!({"url": "example.com"}),
            "`url` is not an address: relative URL without a base",
        ),
        (
            json!({"url": "file:///etc/passwd"}),
            "`url` must start with http:// or https://",
        ),
        (
            json!({"url": "http://x/", "method": "GE T"}),
            "`GE T` is not a method",
        ),
        (
            json!({"url": "http://x/", "method": "connect"}),
            "`connect` is not a method",
        ),
        (
            json!({"url": "http://x/", "headers": {"Host": "y"}}),
            "the header `host` is made from `url`",
        ),
        (
            json!({"url": "http://x/", "json": 1, "form": {}}),
            "`body`, `json`, `form` and `body_base64` exclude each other",
        ),
        (
            json!({"url": "http://x/", "body_base64": "#"}),
            "`body_base64` is not base64: Invalid symbol 35, offset 0.",
        ),
        (
            json!({"url": "http://x/", "headers": {"a b": "1"}}),
            "`a b` cannot be the name of a header",
        ),
        (
            json!({"url": "http://x/", "headers": {"a": "secret\n"}}),
            "the value of the header `a` is malformed",
        ),
    ] {
        assert_eq!(
            failure_of(&mut session, http(&input)).await,
            ("task_input_invalid".to_owned(), message.to_owned(), false)
        );
    }
}
