//! Running one attempt to its end: limits of time, cancellation, panics.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, poll};
use levelflow_common::duration::LONGEST;
use levelflow_common::limits::{DEFAULT_RUN_TIMEOUT, MAX_OUTPUT_BYTES};
use levelflow_common::{AttemptResult, Code, Failure, HumanDuration};
use levelflow_proto::v1;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep_until, timeout};

use crate::context::AttemptState;
use crate::pace::Pace;

/// What an executor makes of an attempt.
pub(crate) struct Job {
    pub(crate) future: BoxFuture<'static, AttemptResult>,
    /// The record of the executor.
    pub(crate) pace: Arc<Pace>,
    /// Part of the work is on a thread, which goes on when the future is dropped.
    pub(crate) on_thread: bool,
}

/// What the session is told about spawned attempts. At most two for each slot are on the way.
pub(crate) enum Ended {
    /// The attempt ended.
    Attempt {
        token: u64,
        result: AttemptResult,
        duration: Duration,
        /// Its slot is free; else [`Ended::Thread`] follows.
        slot_is_free: bool,
    },
    /// The thread of an attempt that had ended before came back.
    Thread,
}

/// Bounds of an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    run: Duration,
    silence: Option<Duration>,
    /// How long a stopped attempt has to end by itself.
    pub(crate) grace: Duration,
}

impl Limits {
    pub(crate) fn of(attempt: &v1::Attempt, grace: Duration) -> Self {
        let given = |micros| (micros > 0).then(|| Duration::from_micros(micros).min(LONGEST));
        Self {
            run: given(attempt.timeout_us).unwrap_or(DEFAULT_RUN_TIMEOUT),
            silence: given(attempt.heartbeat_timeout_us),
            grace,
        }
    }
}

/// Turns a panic of `work` into a failure.
pub(crate) async fn catch_panic(work: impl Future<Output = AttemptResult>) -> AttemptResult {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(result) => result,
        Err(panic) => Err(panicked(panic.as_ref())),
    }
}

/// The failure that stands for a panic.
pub(crate) fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("the panic carried no text");
    Failure::retryable(
        Code::HandlerPanicked,
        format!("the handler panicked: {message}"),
    )
}

/// The failure of an attempt that was told to stop.
pub(crate) fn cancelled() -> Failure {
    Failure::permanent(Code::Cancelled, "the attempt was cancelled")
}

/// Refuses outputs over the limit.
pub(crate) fn bound_output(result: AttemptResult) -> AttemptResult {
    match result {
        Ok(output) if output.len() > MAX_OUTPUT_BYTES => Err(output_too_large()),
        result => result,
    }
}

/// The failure of an attempt whose output is over the limit.
pub(crate) fn output_too_large() -> Failure {
    Failure::permanent(
        Code::OutputTooLarge,
        format!("the output is larger than {MAX_OUTPUT_BYTES} bytes"),
    )
}

/// Runs an attempt outside the session and reports its end.
pub(crate) async fn run(
    state: Arc<AttemptState>,
    mut job: Job,
    limits: Limits,
    ended: UnboundedSender<Ended>,
) {
    let mut on_thread = None;
    let result = match first_poll(&state, &mut job).await {
        Some(result) => result,
        None => {
            // The reason to stop comes first: a handler that gives up when it is told to has not
            // succeeded.
            let stopped = tokio::select! {
                biased;
                failure = stop(&state, limits) => Err(failure),
                result = &mut job.future => Ok(result),
            };
            match stopped {
                Ok(result) => result,
                Err(failure) => {
                    state.cancelled.cancel();
                    let overran = timeout(limits.grace, &mut job.future).await.is_err();
                    on_thread = (overran && job.on_thread).then_some(job.future);
                    Err(failure)
                }
            }
        }
    };
    // A closed channel means that the worker has ended, and with it whoever wants to know.
    let _ = ended.send(Ended::Attempt {
        token: state.token,
        result: bound_output(result),
        duration: state.started_at.elapsed(),
        slot_is_free: on_thread.is_none(),
    });
    if let Some(work) = on_thread {
        let _ = work.await;
        let _ = ended.send(Ended::Thread);
    }
}

/// Starts the work, unless the attempt was stopped before; none if it goes on.
async fn first_poll(state: &AttemptState, job: &mut Job) -> Option<AttemptResult> {
    if state.cancelled.is_cancelled() {
        return Some(Err(state.stopped()));
    }
    let polled_at = Instant::now();
    let first = poll!(&mut job.future);
    job.pace.note(polled_at.elapsed(), first.is_ready());
    match first {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// Ends when the attempt has to stop, with the reason.
async fn stop(state: &AttemptState, limits: Limits) -> Failure {
    tokio::select! {
        () = state.cancelled.cancelled() => state.stopped(),
        () = sleep_until(state.started_at + limits.run) => Failure::retryable(
            Code::RunTimeout,
            format!("the attempt took longer than {}", HumanDuration(limits.run)),
        ),
        span = silence(state, limits.silence) => Failure::retryable(
            Code::HeartbeatTimeout,
            format!("the handler reported no progress for {}", HumanDuration(span)),
        ),
    }
}

/// Ends when no progress was reported for the given time.
async fn silence(state: &AttemptState, longest: Option<Duration>) -> Duration {
    let Some(longest) = longest else {
        return std::future::pending().await;
    };
    loop {
        let due = state.progressed_at() + longest;
        if due <= Instant::now() {
            return longest;
        }
        sleep_until(due).await;
    }
}
