//! What the outcome of an attempt tells of the hosts that it called.

use levelflow_proto::v1;
use serde_json::json;
use tokio::net::TcpListener;

use super::{answer, http, server, session};
use crate::coordinator::{Session, outcome_of};

/// The name of the host at an address such as `http://127.0.0.1:80`.
fn name(address: &str) -> String {
    address.replacen("http://", "http:", 1)
}

/// What comes of a call to `address` that may call `upstream` whatever its breaker says.
async fn call(session: &mut Session, address: &str, upstream: &str) -> v1::Outcome {
    let input = json!({ "url": format!("{address}/"), "timeout": "10s" });
    let attempt = v1::Attempt {
        upstream: upstream.to_owned(),
        ..http(&input)
    };
    outcome_of(session, attempt).await
}

fn told(outcome: &v1::Outcome) -> Vec<(String, bool)> {
    let calls = outcome.calls.iter().cloned();
    calls.map(|call| (call.upstream, call.failed)).collect()
}

#[tokio::test]
async fn only_what_another_attempt_may_mend_is_the_fault_of_the_host() {
    let (mut session, _worker) = session().await;
    for (status, failed) in [
        ("200 OK", false),
        ("404 Not Found", false),
        ("429 Too Many Requests", true),
        ("503 Service Unavailable", true),
    ] {
        let (address, _requests) = server(vec![answer(status, "", "")]).await;
        let outcome = call(&mut session, &address, &name(&address)).await;
        assert_eq!(told(&outcome), [(name(&address), failed)], "{status}");
    }
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let outcome = call(&mut session, &address, &name(&address)).await;
    assert_eq!(told(&outcome), [(name(&address), true)]);
}

#[tokio::test]
async fn nothing_is_told_of_hosts_that_were_not_called_or_are_not_known() {
    let (mut session, _worker) = session().await;
    let outcome = call(&mut session, "http://10.0.0.1:9", "http:10.0.0.1:9").await;
    assert_eq!(outcome.failure.as_ref().unwrap().code, "egress_refused");
    assert_eq!(told(&outcome), []);
    let (address, _requests) = server(vec![answer("200 OK", "", "")]).await;
    assert_eq!(told(&call(&mut session, &address, "").await), []);
}

#[tokio::test]
async fn a_redirect_to_a_host_that_must_not_be_called_parks_the_task_there() {
    let (mut session, _worker) = session().await;
    let (target, _asked) = server(vec![answer("200 OK", "", "")]).await;
    let moved = || answer("302 Found", &format!("location: {target}/\r\n"), "");
    let (first, _asked_first) = server(vec![moved(), moved()]).await;
    let (upstream, open) = (name(&target), true);
    session
        .send(v1::CoordinatorFrame {
            breakers: vec![v1::BreakerChange { upstream, open }],
            ..v1::CoordinatorFrame::default()
        })
        .await;
    let outcome = call(&mut session, &first, &name(&first)).await;
    assert_eq!(outcome.parked_on, name(&target));
    assert_eq!(told(&outcome), [(name(&first), false)]);

    // It may call that host as a probe then, and goes there over the first again.
    let outcome = call(&mut session, &first, &name(&target)).await;
    assert_eq!((outcome.failure, outcome.parked_on.as_str()), (None, ""));
    let calls = outcome.calls.iter();
    let calls: Vec<_> = calls.map(|it| (it.upstream.clone(), it.failed)).collect();
    assert_eq!(calls, [(name(&first), false), (name(&target), false)]);
}
