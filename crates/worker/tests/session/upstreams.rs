//! What a worker tells of upstreams, and which it does not call.

use std::time::Duration;

use levelflow_proto::v1;
use levelflow_worker::{Context, HandlerError, WorkerBuilder};

use crate::coordinator::{Session, attempt, outcome_of, session};

/// A handler that calls upstreams as its input says: name and end of each call.
fn calling(builder: WorkerBuilder) -> WorkerBuilder {
    let work = async |ctx: Context, calls: Vec<(String, String)>| {
        for (upstream, end) in calls {
            let call = ctx.call(&upstream)?;
            match end.as_str() {
                "ok" => call.succeeded(),
                "failed" => call.failed(),
                "dropped" => drop(call),
                _ => {
                    ctx.cancelled().await;
                    return Err(HandlerError::retryable("too late"));
                }
            }
        }
        Ok(())
    };
    builder
        .cancel_grace(Duration::from_secs(5))
        .handler("call", work)
}

async fn call(session: &mut Session, calls: &str) -> v1::Outcome {
    outcome_of(session, attempt(1, "call", calls)).await
}

fn told(outcome: &v1::Outcome) -> Vec<(&str, bool)> {
    let calls = outcome.calls.iter();
    calls.map(|it| (&*it.upstream, it.failed)).collect()
}

async fn breaker(session: &mut Session, upstream: &str, open: bool) {
    let upstream = upstream.to_owned();
    session
        .send(v1::CoordinatorFrame {
            breakers: vec![v1::BreakerChange { upstream, open }],
            ..v1::CoordinatorFrame::default()
        })
        .await;
}

#[tokio::test]
async fn the_outcome_tells_how_calls_ended() {
    let (mut session, _worker) = session(calling).await;
    let outcome = call(
        &mut session,
        r#"[["a","ok"],["b","failed"],["c","dropped"],["not a name","failed"],["a","failed"]]"#,
    )
    .await;
    assert_eq!(outcome.failure, None);
    assert_eq!(told(&outcome), [("a", false), ("b", true), ("a", true)]);
    assert_eq!(outcome.parked_on, "");
    assert_eq!(told(&call(&mut session, "[]").await), []);
}

#[tokio::test]
async fn a_call_that_an_attempt_waits_for_until_it_times_out_has_failed() {
    let (mut session, _worker) = session(calling).await;
    let slow = v1::Attempt {
        timeout_us: 20_000,
        ..attempt(1, "call", r#"[["a","ok"],["b","never"]]"#)
    };
    let outcome = outcome_of(&mut session, slow).await;
    assert_eq!(outcome.failure.as_ref().unwrap().code, "run_timeout");
    assert_eq!(told(&outcome), [("a", false), ("b", true)]);

    let calls = r#"[["b","never"]]"#;
    session.dispatch(vec![attempt(2, "call", calls)]).await;
    session.cancel(2).await;
    let outcome = session.outcome().await;
    assert_eq!(outcome.failure.as_ref().unwrap().code, "cancelled");
    assert_eq!(told(&outcome), [], "a cancel is nobody's fault");
}

#[tokio::test]
async fn heartbeats_tell_of_calls_that_ended_while_the_attempt_goes_on() {
    let (mut session, _worker) = session(calling).await;
    let calls = r#"[["a","ok"],["b","failed"],["c","never"]]"#;
    session.dispatch(vec![attempt(3, "call", calls)]).await;
    let tells = |session: &Session| {
        let heartbeat = session.heartbeat.as_ref();
        heartbeat.is_some_and(|heartbeat| !heartbeat.calls.is_empty())
    };
    session.until(tells).await;
    let told = session.heartbeat.take().unwrap().calls;
    let told: Vec<_> = told
        .iter()
        .map(|told| (told.token, told.call.as_ref().unwrap()))
        .map(|(token, call)| (token, &*call.upstream, call.failed))
        .collect();
    assert_eq!(told, [(3, "a", false), (3, "b", true)]);
    session.cancel(3).await;
    assert_eq!(session.outcome().await.calls, [], "they were told before");
}

#[tokio::test]
async fn an_upstream_whose_breaker_is_open_is_not_called() {
    let (mut session, _worker) = session(calling).await;
    let calls = r#"[["up","ok"],["down","ok"]]"#;
    breaker(&mut session, "down", true).await;
    let outcome = call(&mut session, calls).await;
    assert_eq!(outcome.parked_on, "down");
    let failure = outcome.failure.as_ref().unwrap();
    assert_eq!(failure.message, "the breaker of upstream `down` is open");
    assert_eq!(told(&outcome), [("up", false)]);

    let probe = v1::Attempt {
        upstream: "down".to_owned(),
        ..attempt(2, "call", calls)
    };
    let outcome = outcome_of(&mut session, probe).await;
    assert_eq!(told(&outcome), [("up", false), ("down", false)]);
    assert_eq!((outcome.failure, outcome.parked_on.as_str()), (None, ""));

    breaker(&mut session, "down", false).await;
    let outcome = call(&mut session, calls).await;
    assert_eq!(told(&outcome), [("up", false), ("down", false)]);
}
