//! Handlers that get many attempts in one call.

use std::marker::PhantomData;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use levelflow_common::{AttemptResult, Code, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::handler::Handler;
use super::output::{read_input, write_output};
use crate::attempt::{cancelled, panicked};
use crate::config::in_range;
use crate::context::Context;
use crate::error::WorkerError;
use crate::handler_error::HandlerError;
use crate::usage::Usage;

/// The longest that attempts may be kept waiting for company.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// How attempts gather for a [batch handler](crate::WorkerBuilder::batch_handler).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    /// The most attempts of one call: at least 1, at most the slots of the worker.
    pub max_size: usize,
    /// How long the first attempt of a call waits for others, at most a minute.
    pub max_wait: Duration,
}

impl BatchOptions {
    pub(crate) fn validate(self, slots: usize) -> Result<(), WorkerError> {
        in_range("max_size", self.max_size, 1, slots)?;
        if self.max_wait > LONGEST_WAIT {
            return Err(WorkerError::Setting {
                setting: "max_wait".into(),
                problem: format!("is {:?}; it may be up to {LONGEST_WAIT:?}", self.max_wait),
            });
        }
        Ok(())
    }
}

/// What gathers attempts, once it is given what fires when the worker drains. It ends with the worker.
pub(crate) type Gatherer =
    Box<dyn FnOnce(CancellationToken) -> BoxFuture<'static, ()> + Send + Sync>;

/// An attempt that waits for a call.
struct Waiting<I, O> {
    context: Context,
    input: I,
    /// Tells that the call begins, and hands over where its result will come. Closed when the attempt
    /// was stopped before.
    begins: oneshot::Sender<oneshot::Receiver<Result<O, Failure>>>,
}

/// The end of a batch handler at which attempts come in.
struct BatchHandler<I, O> {
    arrivals: mpsc::Sender<Waiting<I, O>>,
    usage: Arc<Usage>,
}

/// A batch handler, and what gathers its attempts.
pub(crate) fn batch_handler<F, I, O, Fut>(
    function: F,
    options: BatchOptions,
    usage: Arc<Usage>,
) -> (Box<dyn Handler>, Gatherer)
where
    F: Fn(Vec<(Context, I)>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Result<O, HandlerError>>, HandlerError>> + Send + 'static,
    I: DeserializeOwned + Send + 'static,
    O: Serialize + Send + 'static,
{
    let (arrivals, arrived) = mpsc::channel(options.max_size);
    let batches = Batches {
        function: Arc::new(function),
        options,
        arrived,
        usage: Arc::clone(&usage),
        output: PhantomData,
    };
    (
        Box::new(BatchHandler { arrivals, usage }),
        Box::new(|draining| batches.gather(draining).boxed()),
    )
}

impl<I, O> Handler for BatchHandler<I, O>
where
    I: DeserializeOwned + Send + 'static,
    O: Serialize + Send + 'static,
{
    fn call(&self, context: Context, input: Bytes) -> BoxFuture<'static, AttemptResult> {
        let arrivals = self.arrivals.clone();
        let usage = Arc::clone(&self.usage);
        async move {
            let gathering = usage.wait();
            let input = read_input(&input)?;
            let (begins, begun) = oneshot::channel();
            let gathered = async {
                let context = context.clone();
                let waiting = Waiting {
                    context,
                    input,
                    begins,
                };
                arrivals.send(waiting).await.map_err(|_| lost())?;
                begun.await.map_err(|_| lost())
            };
            // A call that has begun comes first: the attempt is part of it.
            let result = tokio::select! {
                biased;
                begun = gathered => begun?,
                () = context.cancelled() => return Err(cancelled()),
            };
            let _in_call = gathering.begin();
            write_output(&result.await.map_err(|_| lost())??)
        }
        .boxed()
    }

    fn on_thread(&self) -> bool {
        false
    }
}

fn lost() -> Failure {
    Failure::retryable(
        Code::WorkerLost,
        "the worker stopped before the handler could run",
    )
}

/// Makes calls of the attempts that come in.
struct Batches<F, I, O> {
    function: Arc<F>,
    options: BatchOptions,
    arrived: mpsc::Receiver<Waiting<I, O>>,
    usage: Arc<Usage>,
    output: PhantomData<fn() -> O>,
}

impl<F, I, O, Fut> Batches<F, I, O>
where
    F: Fn(Vec<(Context, I)>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Vec<Result<O, HandlerError>>, HandlerError>> + Send + 'static,
    I: Send + 'static,
    O: Send + 'static,
{
    /// Gathers until the handler is gone.
    async fn gather(mut self, draining: CancellationToken) {
        let BatchOptions { max_size, max_wait } = self.options;
        while let Some(first) = self.arrived.recv().await {
            let mut batch = vec![first];
            let fill = async {
                while batch.len() < max_size
                    && let Some(next) = self.arrived.recv().await
                {
                    batch.push(next);
                    if batch.len() == max_size {
                        batch.retain(|waiting| !waiting.begins.is_closed());
                    }
                }
            };
            // What has come in already goes along, also when the worker drains.
            tokio::select! {
                biased;
                () = fill => {}
                () = draining.cancelled() => {}
                () = sleep(max_wait) => {}
            }
            // Each has an attempt that waits for it in a slot, so there are no more calls than slots.
            self.usage.open();
            let call = call(Arc::clone(&self.function), batch);
            levelflow_runtime::task::spawn("batch", call);
        }
    }
}

/// Calls the function with the attempts that still wait, and tells each its result.
async fn call<F, I, O, Fut>(function: Arc<F>, batch: Vec<Waiting<I, O>>)
where
    F: Fn(Vec<(Context, I)>) -> Fut,
    Fut: Future<Output = Result<Vec<Result<O, HandlerError>>, HandlerError>>,
{
    let mut contexts = Vec::with_capacity(batch.len());
    let mut replies = Vec::with_capacity(batch.len());
    let mut attempts = Vec::with_capacity(batch.len());
    for waiting in batch {
        let (reply, result) = oneshot::channel();
        if waiting.begins.send(result).is_ok() {
            replies.push(reply);
            contexts.push(waiting.context.clone());
            attempts.push((waiting.context, waiting.input));
        }
    }
    if attempts.is_empty() {
        return;
    }
    let results = AssertUnwindSafe(async { function(attempts).await }).catch_unwind();
    let results = tokio::select! {
        biased;
        results = results => results,
        _ = join_all(replies.iter_mut().map(oneshot::Sender::closed)) => return,
    };
    let results = match results {
        Ok(Ok(results)) if results.len() == replies.len() => Ok(results),
        Ok(Ok(results)) => Err(Failure::permanent(
            Code::HandlerFailed,
            format!(
                "the batch handler gave {} results for {} attempts",
                results.len(),
                replies.len()
            ),
        )),
        Ok(Err(error)) => Err(error.into()),
        Err(panic) => Err(panicked(panic.as_ref())),
    };
    let results: Vec<_> = match results {
        Ok(results) => results
            .into_iter()
            .map(|result| result.map_err(Failure::from))
            .collect(),
        Err(failure) => {
            // It may quote the secrets of any of them.
            let failure = contexts
                .iter()
                .fold(failure, |failure, context| context.redact(failure));
            replies.iter().map(|_| Err(failure.clone())).collect()
        }
    };
    for (reply, result) in replies.into_iter().zip(results) {
        // Nobody listens any more when the attempt was stopped.
        let _ = reply.send(result);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::UnboundedReceiver;
    use tokio::task::JoinHandle;
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::context::AttemptState;
    use crate::context::tests::{nowhere, wire_attempt};
    use crate::secrets::Redactor;

    const WAIT: Duration = Duration::from_secs(10);

    /// A handler that doubles, and the sizes of its calls.
    struct Doubling {
        handler: Box<dyn Handler>,
        calls: UnboundedReceiver<usize>,
        draining: CancellationToken,
        gatherer: JoinHandle<()>,
    }

    fn doubling(max_size: usize) -> Doubling {
        let (called, calls) = mpsc::unbounded_channel();
        let options = BatchOptions {
            max_size,
            max_wait: WAIT,
        };
        let double = move |attempts: Vec<(Context, u64)>| {
            called.send(attempts.len()).unwrap();
            std::future::ready(Ok(attempts.into_iter().map(|(_, n)| Ok(n * 2)).collect()))
        };
        let (handler, gatherer) = batch_handler(double, options, Usage::new("batch", 16));
        let draining = CancellationToken::new();
        let gatherer = levelflow_runtime::task::spawn("gatherer", gatherer(draining.clone()));
        Doubling {
            handler,
            calls,
            draining,
            gatherer,
        }
    }

    fn context() -> Context {
        Context::new(
            AttemptState::starting(&mut wire_attempt(1), &Arc::default(), &nowhere()).unwrap(),
        )
    }

    fn start(handler: &dyn Handler, context: Context, input: &str) -> JoinHandle<AttemptResult> {
        let attempt = handler.call(context, Bytes::copy_from_slice(input.as_bytes()));
        levelflow_runtime::task::spawn("attempt", attempt)
    }

    async fn output(attempt: JoinHandle<AttemptResult>) -> Bytes {
        attempt.await.unwrap().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_goes_at_once_and_the_rest_after_the_wait() {
        let mut doubling = doubling(2);
        let begun_at = Instant::now();
        let attempts: Vec<_> = ["1", "2", "3"]
            .map(|input| start(&*doubling.handler, context(), input))
            .into();
        assert_eq!(doubling.calls.recv().await, Some(2));
        assert_eq!(begun_at.elapsed(), Duration::ZERO);
        assert_eq!(doubling.calls.recv().await, Some(1));
        assert!(begun_at.elapsed() >= WAIT);
        for (attempt, expected) in attempts.into_iter().zip(["2", "4", "6"]) {
            assert_eq!(output(attempt).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_attempt_leaves_its_place_to_another() {
        let mut doubling = doubling(2);
        let begun_at = Instant::now();
        let stopped = context();
        let first = start(&*doubling.handler, stopped.clone(), "1");
        tokio::task::yield_now().await;
        stopped.cancellation().cancel();
        assert_eq!(
            first.await.unwrap().unwrap_err().code,
            Code::Cancelled,
            "it does not wait for the call"
        );
        let others = ["2", "3"].map(|input| start(&*doubling.handler, context(), input));
        assert_eq!(doubling.calls.recv().await, Some(2));
        assert_eq!(begun_at.elapsed(), Duration::ZERO);
        for (attempt, expected) in others.into_iter().zip(["4", "6"]) {
            assert_eq!(output(attempt).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_takes_what_has_gathered_and_what_follows() {
        let mut doubling = doubling(8);
        let begun_at = Instant::now();
        let first = start(&*doubling.handler, context(), "1");
        tokio::task::yield_now().await;
        doubling.draining.cancel();
        assert_eq!(doubling.calls.recv().await, Some(1));
        let second = start(&*doubling.handler, context(), "2");
        assert_eq!(output(first).await, "2");
        assert_eq!(output(second).await, "4");
        assert_eq!(begun_at.elapsed(), Duration::ZERO);
        drop(doubling.handler);
        timeout(WAIT, doubling.gatherer).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_nobody_waits_for_is_dropped() {
        let (entered, mut entries) = mpsc::unbounded_channel();
        let options = BatchOptions {
            max_size: 1,
            max_wait: WAIT,
        };
        let (handler, gatherer) = batch_handler(
            move |attempts: Vec<(Context, ())>| {
                let (alive, dropped) = oneshot::channel::<()>();
                entered.send(dropped).unwrap();
                async move {
                    let _alive = alive;
                    std::future::pending::<()>().await;
                    Ok(attempts.into_iter().map(|_| Ok(())).collect())
                }
            },
            options,
            Usage::new("batch", 16),
        );
        levelflow_runtime::task::spawn("gatherer", gatherer(CancellationToken::new()));
        let attempt = start(&*handler, context(), "null");
        let dropped = entries.recv().await.unwrap();
        attempt.abort();
        assert!(timeout(WAIT, dropped).await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_of_the_call_tells_nobody_the_secrets_of_another() {
        let options = BatchOptions {
            max_size: 2,
            max_wait: WAIT,
        };
        let (handler, gatherer) = batch_handler(
            async |_: Vec<(Context, ())>| -> Result<Vec<Result<(), _>>, _> {
                Err(HandlerError::permanent("hunter22 is refused"))
            },
            options,
            Usage::new("batch", 16),
        );
        levelflow_runtime::task::spawn("gatherer", gatherer(CancellationToken::new()));
        let with_secret = context();
        with_secret.set_redactor(Redactor::new(["hunter22"]));
        let attempts = [with_secret, context()].map(|context| start(&*handler, context, "null"));
        for attempt in attempts {
            assert_eq!(
                attempt.await.unwrap().unwrap_err(),
                Failure::permanent(Code::HandlerFailed, "*** is refused")
            );
        }
    }

    #[test]
    fn options_have_bounds() {
        let problem = |max_size, max_wait| {
            let options = BatchOptions { max_size, max_wait };
            options.validate(16).err().map(|error| error.to_string())
        };
        assert_eq!(problem(16, LONGEST_WAIT), None);
        assert_eq!(
            problem(17, WAIT).unwrap(),
            "`max_size` is 17; it may be 1 to 16"
        );
        assert_eq!(
            problem(0, WAIT).unwrap(),
            "`max_size` is 0; it may be 1 to 16"
        );
        assert_eq!(
            problem(1, LONGEST_WAIT * 2).unwrap(),
            "`max_wait` is 120s; it may be up to 60s"
        );
    }
}
