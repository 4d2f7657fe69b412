//! Handlers: code that the user registered.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use levelflow_common::{AttemptResult, Code, Failure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, oneshot};

use super::output::{read_input, write_output};
use crate::attempt::{cancelled, panicked};
use crate::context::Context;
use crate::handler_error::HandlerError;

/// A handler with its types erased.
pub(crate) trait Handler: Send + Sync {
    /// Nothing runs before the future is polled.
    fn call(&self, context: Context, input: Bytes) -> BoxFuture<'static, AttemptResult>;

    /// Whether the work goes on after its future is dropped.
    fn on_thread(&self) -> bool;
}

/// A handler on the async threads.
pub(crate) struct AsyncHandler<F, I> {
    function: Arc<F>,
    input: PhantomData<fn(I)>,
}

impl<F, I> AsyncHandler<F, I> {
    pub(crate) fn new(function: F) -> Self {
        Self {
            function: Arc::new(function),
            input: PhantomData,
        }
    }
}

impl<F, I, O, Fut> Handler for AsyncHandler<F, I>
where
    F: Fn(Context, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O, HandlerError>> + Send,
    I: DeserializeOwned + Send + 'static,
    O: Serialize + Send,
{
    fn call(&self, context: Context, input: Bytes) -> BoxFuture<'static, AttemptResult> {
        let function = Arc::clone(&self.function);
        async move {
            let input = read_input(&input)?;
            let output = function(context, input).await?;
            write_output(&output)
        }
        .boxed()
    }

    fn on_thread(&self) -> bool {
        false
    }
}

/// Where handlers that hold their thread run.
#[derive(Clone)]
pub(crate) enum Threads {
    /// One thread a core, for computations.
    Cpu(Arc<rayon::ThreadPool>),
    /// Many threads that mostly wait, at most as many as there are permits.
    Blocking(Arc<Semaphore>),
}

/// A handler that holds its thread.
pub(crate) struct ThreadHandler<F, I> {
    function: Arc<F>,
    threads: Threads,
    input: PhantomData<fn(I)>,
}

impl<F, I> ThreadHandler<F, I> {
    pub(crate) fn new(function: Arc<F>, threads: Threads) -> Self {
        Self {
            function,
            threads,
            input: PhantomData,
        }
    }
}

impl<F, I, O> Handler for ThreadHandler<F, I>
where
    F: Fn(Context, I) -> Result<O, HandlerError> + Send + Sync + 'static,
    I: DeserializeOwned + 'static,
    O: Serialize,
{
    fn call(&self, context: Context, input: Bytes) -> BoxFuture<'static, AttemptResult> {
        let function = Arc::clone(&self.function);
        let threads = self.threads.clone();
        async move {
            let (report, reported) = oneshot::channel();
            let work = move || {
                let run = || {
                    if context.is_cancelled() {
                        return Err(cancelled());
                    }
                    let input = read_input(&input)?;
                    let output = function(context, input)?;
                    write_output(&output)
                };
                let result = catch_unwind(AssertUnwindSafe(run))
                    .unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
                // Nobody listens any more when the worker has ended.
                let _ = report.send(result);
            };
            match threads {
                Threads::Cpu(pool) => pool.spawn(work),
                Threads::Blocking(permits) => {
                    let permit = permits
                        .acquire_owned()
                        .await
                        .expect("the semaphore is never closed");
                    tokio::task::spawn_blocking(move || {
                        work();
                        drop(permit);
                    });
                }
            }
            reported.await.unwrap_or_else(|_| {
                Err(Failure::retryable(
                    Code::WorkerLost,
                    "the worker stopped before the handler could run",
                ))
            })
        }
        .boxed()
    }

    fn on_thread(&self) -> bool {
        true
    }
}
