//! What a client may not do to the server.

use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::events::Events;
use super::{Api, Server, answer};
use crate::api::open;
use crate::harness::{DEADLINE, Home};

impl Api {
    async fn connect(&self) -> TcpStream {
        let address = self.base.strip_prefix("http://").unwrap();
        TcpStream::connect(address).await.unwrap()
    }
}

/// What comes until the server closes the connection.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut received = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut received)).await;
    // A reset is an end, too.
    let _ = read.expect("the server closes before the deadline");
    String::from_utf8(received).unwrap()
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_it_is_kept() {
    let home = Home::new();
    let settings = [("LEVELFLOW_HTTP__MAX_BODY_BYTES", "1000")];
    let Server {
        running: _server,
        api,
    } = Server::with(&home, &settings).await;
    let large = json!({ "workflow": "x".repeat(2000) });
    let announced = api.post("/api/v1/runs", &large).await;
    assert_eq!(announced.status, 413, "{announced:?}");
    assert_eq!(announced.body["code"], "too_large");
    // Of a body in chunks nobody knows the length before.
    let chunks = (0..100).map(|_| Ok::<_, std::io::Error>("x".repeat(100)));
    let body = Body::wrap_stream(tokio_stream::iter(chunks));
    let request = api.request(Method::POST, "/api/v1/runs");
    let chunked = answer(request.header(CONTENT_TYPE, "application/json").body(body)).await;
    assert_eq!(chunked.status, 413, "{chunked:?}");
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn who_never_finishes_a_request_is_cut_off() {
    let home = Home::new();
    let settings = [
        ("LEVELFLOW_HTTP__HEADER_TIMEOUT", "200ms"),
        ("LEVELFLOW_HTTP__REQUEST_TIMEOUT", "300ms"),
    ];
    let Server {
        running: _server,
        api,
    } = Server::with(&home, &settings).await;
    for beginning in [
        "",
        "G",
        "PRI * HTTP/2.0\r\n",
        "GET /healthz HTTP/1.1\r\nhost: localhost\r\n",
    ] {
        let mut stream = api.connect().await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let answered = until_closed(&mut stream).await;
        assert!(!answered.contains(" 200 "), "{beginning:?}: {answered}");
    }
    let mut stream = api.connect().await;
    let request = "POST /api/v1/runs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                   content-length: 100\r\n\r\n{";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answered = until_closed(&mut stream).await;
    assert!(answered.starts_with("HTTP/1.1 408 "), "{answered}");
    assert!(answered.contains("\"request_timeout\""), "{answered}");
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let mut stream = api.connect().await;
    let value = "x".repeat(100_000);
    let request = format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-long: {value}\r\n\r\n");
    // The server may close before it has read all.
    let _ = stream.write_all(request.as_bytes()).await;
    let answered = until_closed(&mut stream).await;
    assert!(
        answered.is_empty() || answered.starts_with("HTTP/1.1 431 "),
        "{answered}"
    );
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn only_so_many_clients_may_watch() {
    let home = Home::new();
    let settings = [("LEVELFLOW_HTTP__MAX_WATCHERS", "1")];
    let Server {
        running: _server,
        api,
    } = Server::with(&home, &settings).await;
    let run_id = api.start(&open()).await;
    let mut first = Events::open(&api, &run_id, None).await;
    assert_eq!(first.next().await.unwrap().name, "submitted");
    let path = format!("/api/v1/runs/{run_id}/events");
    let second = api.get(&path).await;
    assert_eq!(second.status, 429, "{second:?}");
    assert_eq!(second.body["code"], "too_many_watchers");
    assert_eq!(second.headers["retry-after"], "5");
    assert_eq!(api.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn http_2_is_spoken_to_those_who_know() {
    let home = Home::new();
    let Server {
        running: _server,
        mut api,
    } = Server::start(&home).await;
    let builder = reqwest::Client::builder()
        .no_proxy()
        .http2_prior_knowledge();
    api.client = builder.build().unwrap();
    let response = api.request(Method::GET, "/readyz").send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert_eq!(response.status(), 200);
}
