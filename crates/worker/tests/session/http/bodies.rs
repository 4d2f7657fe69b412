//! What is sent, and how what comes back is read.

use serde_json::json;

use super::{answer, output, server, session};
use crate::coordinator::soon;

#[tokio::test]
async fn bodies_are_json_forms_text_or_bytes() {
    let (mut session, _worker) = session().await;
    for (input, content_type, body) in [
        (json!({"body": "a=1"}), None, "a=1"),
        (json!({"body": [1]}), Some("application/json"), "[1]"),
        (json!({"json": "a"}), Some("application/json"), "\"a\""),
        (
            json!({"form": {"a": ["x y", 2], "b": null, "c": "&"}}),
            Some("application/x-www-form-urlencoded"),
            "a=x+y&a=2&c=%26",
        ),
        (json!({"body_base64": "aGkh"}), None, "hi!"),
        (
            json!({"json": {}, "headers": {"Content-Type": "application/ld+json"}}),
            Some("application/ld+json"),
            "{}",
        ),
    ] {
        let (address, mut requests) = server(vec![answer("200 OK", "", "")]).await;
        let mut input = input;
        input["url"] = json!(address);
        input["method"] = json!("put");
        output(&mut session, input).await;
        let request = soon(requests.recv()).await.unwrap();
        assert!(request.starts_with("PUT / HTTP/1.1\r\n"), "{request}");
        let (head, sent) = request.split_once("\r\n\r\n").unwrap();
        let given = head
            .lines()
            .find_map(|line| line.strip_prefix("content-type: "));
        assert_eq!((given, sent), (content_type, body));
    }
}

#[tokio::test]
async fn the_task_says_how_a_response_is_read() {
    let (mut session, _worker) = session().await;
    for (response, content_type, body, expected) in [
        ("auto", "application/json", "[1]", json!([1])),
        ("auto", "application/json", "", json!(null)),
        ("auto", "text/html", "[1]", json!("[1]")),
        ("text", "application/json", "[1]", json!("[1]")),
        ("json", "text/html", "[1]", json!([1])),
        ("base64", "application/json", "[1]", json!("WzFd")),
    ] {
        let content_type = format!("content-type: {content_type}\r\n");
        let (address, _requests) = server(vec![answer("200 OK", &content_type, body)]).await;
        let output = output(&mut session, json!({"url": address, "response": response})).await;
        assert_eq!(output["body"], expected, "{response} {content_type}");
    }
}

#[tokio::test]
async fn credentials_of_the_address_become_a_header() {
    let (mut session, _worker) = session().await;
    let (address, mut requests) = server(vec![answer("200 OK", "", "")]).await;
    let url = address.replace("http://", "http://me:a%40b@");
    output(&mut session, json!({"url": url})).await;
    let request = soon(requests.recv()).await.unwrap();
    assert!(
        request.contains("authorization: Basic bWU6YUBi\r\n"),
        "{request}"
    );
}
