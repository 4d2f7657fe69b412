//! Addresses that a worker may not call.

use serde_json::json;
use tokio::net::TcpListener;

use super::{answer, http, output, server};
use crate::coordinator::{failure_of, session, soon};

#[tokio::test]
async fn this_machine_is_refused_by_default_however_it_is_written() {
    let (mut session, _worker) = session(|builder| builder).await;
    let (address, mut requests) = server(vec![answer("200 OK", "", "")]).await;
    let port = address.rsplit_once(':').unwrap().1;
    for host in [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "127.1",
        "2130706433",
        "0x7f.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
    ] {
        let url = format!("http://{host}:{port}/?secret=1");
        let (code, message, retryable) = failure_of(&mut session, http(&json!({"url": url}))).await;
        assert_eq!((code.as_str(), retryable), ("egress_refused", false));
        assert!(
            message.contains("this worker may not call") && !message.contains("secret"),
            "{message}"
        );
    }
    assert!(requests.try_recv().is_err(), "the server was called");
}

#[tokio::test]
async fn the_refusal_names_host_and_address_and_the_setting() {
    let (mut session, _worker) = session(|builder| builder).await;
    let input = json!({"url": "http://169.254.169.254/latest/meta-data/"});
    assert_eq!(
        failure_of(&mut session, http(&input)).await,
        (
            "egress_refused".to_owned(),
            "GET http://169.254.169.254/latest/meta-data/: this worker may not call \
             169.254.169.254, the metadata service of a cloud, which `169.254.169.254` stands for; \
             to allow it, add \"169.254.169.254\" or \"169.254.169.254:80\" to its setting \
             `worker.http.allow`"
                .to_owned(),
            false
        )
    );
}

#[tokio::test]
async fn a_redirect_to_a_forbidden_address_is_refused() {
    let forbidden = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = forbidden.local_addr().unwrap().port();
    let location = format!("location: http://localhost:{port}/\r\n");
    let (address, _requests) = server(vec![answer("307 Temporary Redirect", &location, "")]).await;
    let allowed = address.strip_prefix("http://").unwrap().to_owned();
    let (mut session, _worker) = session(|builder| builder.allow_http(allowed)).await;
    let (code, message, retryable) = failure_of(&mut session, http(&json!({"url": address}))).await;
    assert_eq!((code.as_str(), retryable), ("egress_refused", false));
    assert!(
        message.starts_with(&format!("GET http://localhost:{port}/: ")),
        "{message}"
    );

    // Nobody knocked: the first connection is that of the test.
    let ours = tokio::net::TcpStream::connect(forbidden.local_addr().unwrap());
    let ours = ours.await.unwrap();
    let (_, peer) = soon(forbidden.accept()).await.unwrap();
    assert_eq!(peer, ours.local_addr().unwrap());
}

#[tokio::test]
async fn credentials_stay_with_the_host_that_they_are_for() {
    let (other, mut at_other) = server(vec![answer("200 OK", "", "")]).await;
    let location = format!("location: {other}/\r\n");
    let (address, mut at_first) = server(vec![
        answer("307 Temporary Redirect", "location: /again\r\n", ""),
        answer("307 Temporary Redirect", &location, ""),
    ])
    .await;
    let (mut session, _worker) = session(|builder| builder.allow_http("127.0.0.0/8")).await;
    let input = json!({
        "method": "POST",
        "url": address,
        "headers": {"Authorization": "Bearer s3cret", "X-Api-Key": "s3cret", "Accept": "a/b"},
        "body": "hello",
    });
    output(&mut session, input).await;
    for _ in 0..2 {
        let request = soon(at_first.recv()).await.unwrap();
        assert_eq!(request.matches("s3cret").count(), 2, "{request}");
    }
    let request = soon(at_other.recv()).await.unwrap();
    assert!(!request.contains("s3cret"), "{request}");
    assert!(request.contains("accept: a/b\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\nhello"), "{request}");
}
