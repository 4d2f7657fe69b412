//! What becomes of attempts: outputs, failures, limits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use levelflow_common::limits::MAX_OUTPUT_BYTES;
use levelflow_proto::v1;
use levelflow_worker::{Context, HandlerError};

use crate::coordinator::{attempt, failure_of, outcome_of, session};

#[tokio::test]
async fn handlers_fail_in_every_way() {
    let (mut session, _worker) = session(|builder| {
        builder
            .handler("any", async |_, text: String| match text.as_str() {
                "panic" => panic!("out of {}", "cheese"),
                "permanent" => Err(HandlerError::permanent("never")),
                "large" => Ok("x".repeat(MAX_OUTPUT_BYTES)),
                number => Ok(number.parse::<u32>()?.to_string()),
            })
            .cpu_handler("cpu", |_, text: String| -> Result<(), HandlerError> {
                panic!("{text}")
            })
            .blocking_handler("blocking", |_, text: String| {
                Ok(std::fs::metadata(text)?.len())
            })
    })
    .await;
    for (handler, input, code, message, retryable) in [
        (
            "any",
            "\"panic\"",
            "handler_panicked",
            "the handler panicked: out of cheese",
            true,
        ),
        ("any", "\"permanent\"", "handler_failed", "never", false),
        (
            "any",
            "\"x\"",
            "handler_failed",
            "invalid digit found in string",
            true,
        ),
        (
            "any",
            "\"large\"",
            "output_too_large",
            "the output is larger than 1048576 bytes",
            false,
        ),
        (
            "any",
            "7",
            "task_input_invalid",
            "the input does not fit the task: invalid type: integer `7`, expected a string at line 1 column 1",
            false,
        ),
        (
            "cpu",
            "\"boom\"",
            "handler_panicked",
            "the handler panicked: boom",
            true,
        ),
        (
            "blocking",
            "\"/no/such/file\"",
            "handler_failed",
            "No such file or directory (os error 2)",
            true,
        ),
        (
            "none",
            "null",
            "task_unsupported",
            "this worker has no handler `none`",
            false,
        ),
    ] {
        assert_eq!(
            failure_of(&mut session, attempt(1, handler, input)).await,
            (code.to_owned(), message.to_owned(), retryable),
        );
    }
}

#[tokio::test]
async fn a_task_type_that_does_not_run_here_is_refused() {
    let (mut session, _worker) = session(|builder| builder).await;
    let (code, _, retryable) = failure_of(
        &mut session,
        v1::Attempt {
            kind: v1::TaskKind::Process.into(),
            ..attempt(1, "", "{\"command\": [\"true\"]}")
        },
    )
    .await;
    assert_eq!((code.as_str(), retryable), ("task_unsupported", false));
}

#[tokio::test]
async fn an_attempt_that_takes_too_long_is_stopped() {
    let (mut session, _worker) = session(|builder| {
        builder
            .cancel_grace(Duration::ZERO)
            .handler("forever", async |_, (): ()| {
                std::future::pending::<()>().await;
                Ok(())
            })
    })
    .await;
    let timed = |timeout_us, heartbeat_timeout_us| v1::Attempt {
        timeout_us,
        heartbeat_timeout_us,
        ..attempt(1, "forever", "null")
    };
    let (code, message, retryable) = failure_of(&mut session, timed(20_000, 0)).await;
    assert_eq!((code.as_str(), retryable), ("run_timeout", true));
    assert_eq!(message, "the attempt took longer than 20ms");
    let (code, message, _) = failure_of(&mut session, timed(60_000_000, 20_000)).await;
    assert_eq!(code, "heartbeat_timeout");
    assert_eq!(message, "the handler reported no progress for 20ms");
}

#[tokio::test]
async fn heartbeats_tell_progress_and_hold_off_the_timeout() {
    let (mut session, _worker) = session(|builder| {
        builder
            .cancel_grace(Duration::ZERO)
            .handler("busy", async |ctx: Context, (): ()| {
                let mut beats = tokio::time::interval(Duration::from_millis(5));
                loop {
                    beats.tick().await;
                    ctx.heartbeat();
                }
                #[allow(unreachable_code, reason = "gives the closure its type")]
                Ok(())
            })
    })
    .await;
    session
        .dispatch(vec![v1::Attempt {
            heartbeat_timeout_us: 2_000_000,
            ..attempt(9, "busy", "null")
        }])
        .await;
    let mut beats = 0;
    while beats < 3 {
        if let Some(beat) = session.frame().await.heartbeat
            && beat.progressed == [9]
        {
            assert_eq!(beat.running, [9]);
            assert!(beat.resident_bytes > 0);
            beats += 1;
        }
    }
    session.cancel(9).await;
    assert_eq!(session.outcome().await.failure.unwrap().code, "cancelled");
}

#[tokio::test]
async fn a_cancelled_handler_may_clean_up() {
    let cleaned = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&cleaned);
    let (mut session, _worker) = session(|builder| {
        builder.handler("careful", move |ctx: Context, (): ()| {
            let cleaned = Arc::clone(&cleaned);
            async move {
                ctx.cancelled().await;
                cleaned.store(true, Ordering::SeqCst);
                Ok("gave up")
            }
        })
    })
    .await;
    session.dispatch(vec![attempt(1, "careful", "null")]).await;
    session
        .until(|session| {
            session
                .heartbeat
                .as_ref()
                .is_some_and(|beat| beat.running == [1])
        })
        .await;
    session.cancel(1).await;
    let failure = session.outcome().await.failure.unwrap();
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("cancelled", false)
    );
    assert!(seen.load(Ordering::SeqCst));
}

#[tokio::test]
async fn handlers_on_threads_do_not_hold_up_heartbeats() {
    // The test runs on one thread, so a handler that held it would stop everything.
    let (mut session, _worker) = session(|builder| {
        let spin = |ctx: Context, (): ()| {
            while !ctx.is_cancelled() {
                std::thread::yield_now();
            }
            Ok(())
        };
        builder
            .slots(2)
            .cpu_handler("cpu", spin)
            .blocking_handler("blocking", spin)
    })
    .await;
    session.until(|session| session.credits == 2).await;
    session
        .dispatch(vec![
            attempt(1, "cpu", "null"),
            attempt(2, "blocking", "null"),
        ])
        .await;
    let mut beats = 0;
    while beats < 3 {
        let beat = session.frame().await.heartbeat;
        beats += u32::from(beat.is_some_and(|beat| beat.running.len() == 2));
    }
    session.cancel(1).await;
    session.cancel(2).await;
    let codes = session
        .outcomes(2)
        .await
        .into_iter()
        .map(|outcome| outcome.failure.unwrap().code);
    assert_eq!(codes.collect::<Vec<_>>(), ["cancelled", "cancelled"]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn threads_for_computing_step_back() {
    fn niceness() -> Result<i64, HandlerError> {
        // proc_pid_stat(5): field 19, the 17th after the name.
        let stat = std::fs::read_to_string("/proc/thread-self/stat")?;
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        Ok(fields.split(' ').nth(16).unwrap().parse()?)
    }
    let (mut session, _worker) = session(|builder| {
        builder
            .cpu_handler("cpu", |_, (): ()| niceness())
            .blocking_handler("blocking", |_, (): ()| niceness())
    })
    .await;
    let mut niceness = Vec::new();
    for (token, handler) in [(1, "blocking"), (2, "cpu")] {
        let outcome = outcome_of(&mut session, attempt(token, handler, "null")).await;
        niceness.push(String::from_utf8(outcome.output.to_vec()).unwrap());
    }
    let niceness: Vec<i64> = niceness.iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(niceness[1], (niceness[0] + 10).min(19));
}

#[tokio::test]
async fn a_thread_that_does_not_stop_keeps_its_slot() {
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let (mut session, _worker) = session(|builder| {
        builder
            .slots(1)
            .cancel_grace(Duration::ZERO)
            .blocking_handler("stuck", move |_, (): ()| {
                gate.lock().unwrap().recv()?;
                Ok(())
            })
    })
    .await;
    session.dispatch(vec![attempt(1, "stuck", "null")]).await;
    session
        .until(|session| {
            session
                .heartbeat
                .as_ref()
                .is_some_and(|beat| beat.running == [1])
        })
        .await;
    session.cancel(1).await;
    assert_eq!(session.outcome().await.failure.unwrap().code, "cancelled");
    session.heartbeat = None;
    session.until(|session| session.heartbeat.is_some()).await;
    assert_eq!(session.credits, 0);
    release.send(()).unwrap();
    session.until(|session| session.credits == 1).await;
}

#[tokio::test]
async fn many_attempts_that_end_at_once() {
    let (mut session, _worker) = session(|builder| {
        builder
            .slots(64)
            .handler("double", async |_, number: u64| Ok(number * 2))
    })
    .await;
    let mut next = 1;
    let mut ended = 0;
    while ended < 5_000 {
        let free = u64::from(session.credits);
        if free > 0 {
            let batch = (next..next + free).map(|n| attempt(n, "double", &n.to_string()));
            session.dispatch(batch.collect()).await;
            next += free;
        }
        let outcomes = session.outcomes(1).await;
        let tokens: Vec<_> = outcomes.iter().map(|outcome| outcome.token).collect();
        for outcome in outcomes {
            assert_eq!(outcome.output, (outcome.token * 2).to_string());
            ended += 1;
        }
        session.acknowledge(&tokens).await;
    }
}
