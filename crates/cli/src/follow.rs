//! Following a run to its end, across lost connections.

use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder, Retryable as _};
use futures_util::StreamExt as _;
use levelflow_common::event::{RunEvent, RunUpdate};
use levelflow_common::view::RunView;
use levelflow_common::{Fault, RunId, TaskStatus};
use levelflow_proto::ApiError;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::Client;

/// How often whoever follows is asked to draw again.
const FRAME: Duration = Duration::from_millis(100);

/// How long nothing must happen before the user is told why.
const SILENCE: Duration = Duration::from_secs(3);

/// Sees a run go on.
pub(crate) trait Observer {
    /// The run as it stands when it is first looked at.
    fn start(&mut self, run: &RunView);
    /// What happened.
    fn update(&mut self, update: &RunUpdate);
    /// Time went by.
    fn frame(&mut self) {}
    /// Nothing has happened for a while, and this is why.
    fn waits(&mut self, _why: &str) {}
    /// Nothing more follows.
    fn end(&mut self) {}
}

/// What to do with the run when the user interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// Cancel it and wait for its end.
    CancelRun,
    /// Leave it alone.
    Detach,
}

/// How following ended.
#[derive(Debug)]
pub(crate) enum Followed {
    /// The run ended.
    Ended {
        /// The run.
        run: Box<RunView>,
        /// The user had interrupted.
        interrupted: bool,
    },
    /// The user interrupted; the run goes on.
    Detached,
}

/// Follows a run until it ends or the user interrupts: from now on, or from after a sequence number.
///
/// # Errors
/// When the server does not answer for about a minute, or refuses.
pub(crate) async fn follow(
    client: &Client,
    run_id: RunId,
    after: Option<u64>,
    observer: &mut dyn Observer,
    interrupt: &CancellationToken,
    on_interrupt: OnInterrupt,
) -> Result<Followed, ApiError> {
    let result = follow_events(client, run_id, after, observer, interrupt, on_interrupt).await;
    observer.end();
    let Some(interrupted) = result? else {
        return Ok(Followed::Detached);
    };
    let run = retrying(|| client.get(run_id)).await?;
    Ok(Followed::Ended {
        run: Box::new(run),
        interrupted,
    })
}

/// Gives whether the user interrupted before the run ended; none if the run was left alone then.
async fn follow_events(
    client: &Client,
    run_id: RunId,
    after: Option<u64>,
    observer: &mut dyn Observer,
    interrupt: &CancellationToken,
    on_interrupt: OnInterrupt,
) -> Result<Option<bool>, ApiError> {
    let run = retrying(|| client.get(run_id)).await?;
    observer.start(&run);
    if run.summary.status.is_terminal() && after.is_none() {
        return Ok(Some(false));
    }
    let mut sequence = after.unwrap_or(run.sequence);
    let mut interrupted = false;
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut waits = backoff().build();
    // When to say why nothing happens; none once it was said.
    let mut speak_at = Some(Instant::now() + SILENCE);
    loop {
        let mut updates = retrying(|| client.watch(run_id, sequence)).await?;
        let broken = loop {
            tokio::select! {
                update = updates.next() => match update {
                    Some(Ok(update)) => {
                        waits = backoff().build();
                        speak_at = Some(Instant::now() + SILENCE);
                        sequence = sequence.max(update.sequence);
                        observer.update(&update);
                        if update.events.iter().any(|event| matches!(event, RunEvent::Finished { .. })) {
                            return Ok(Some(interrupted));
                        }
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                },
                () = interrupt.cancelled(), if !interrupted => {
                    if on_interrupt == OnInterrupt::Detach {
                        return Ok(None);
                    }
                    interrupted = true;
                    cancel(client, run_id).await?;
                }
                now = frames.tick() => {
                    if speak_at.is_some_and(|at| at <= now) {
                        speak_at = None;
                        if let Some(why) = why_it_waits(client, run_id).await {
                            observer.waits(&why);
                        }
                    }
                    observer.frame();
                }
            }
        };
        if let Some(error) = broken.as_ref().filter(|error| !is_passing(error)) {
            return Err(error.clone());
        }
        // Nothing follows once the run has ended and all of it was seen.
        let run = retrying(|| client.get(run_id)).await?;
        if run.summary.status.is_terminal() && run.sequence <= sequence {
            return Ok(Some(interrupted));
        }
        match (waits.next(), broken) {
            (Some(wait), _) => tokio::time::sleep(wait).await,
            (None, Some(error)) => return Err(error),
            (None, None) => {
                return Err(ApiError::new(
                    levelflow_common::Code::ServerUnreachable,
                    "the server ends each stream of events before the run has ended",
                ));
            }
        }
    }
}

/// Why the first of the tasks that could start does not; none if there is no such task.
async fn why_it_waits(client: &Client, run_id: RunId) -> Option<String> {
    let run = client.get(run_id).await.ok()?;
    let mut ready = run
        .tasks
        .iter()
        .filter(|task| task.status == TaskStatus::Ready);
    let first = ready.next()?;
    let explanation = client
        .explain(run_id, &first.task_id, first.item)
        .await
        .ok()?;
    let reason = explanation.reasons.into_iter().next()?;
    let item = first.item.map(|item| format!("[{item}]"));
    let more = match ready.count() {
        0 => String::new(),
        count => format!(" ({count} more wait)"),
    };
    Some(format!(
        "{}{} waits: {}{more}",
        first.task_id,
        item.unwrap_or_default(),
        reason.text
    ))
}

async fn cancel(client: &Client, run_id: RunId) -> Result<(), ApiError> {
    let cancelled = retrying(|| client.cancel(run_id, "interrupted by the user".to_owned())).await;
    match cancelled {
        // It ended by itself in the meantime.
        Err(error) if error.code() == levelflow_common::Code::RunEnded => Ok(()),
        result => result.map(drop),
    }
}

pub(crate) fn is_passing(error: &ApiError) -> bool {
    error.code().fault() == Fault::Unavailable
}

/// Waits from 100 ms to 5 s, about a minute in all.
pub(crate) fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_factor(2.0)
        .with_max_times(16)
        .with_jitter()
}

pub(crate) async fn retrying<T, F>(call: impl FnMut() -> F) -> Result<T, ApiError>
where
    F: Future<Output = Result<T, ApiError>>,
{
    call.retry(backoff()).when(is_passing).await
}
