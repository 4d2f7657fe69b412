//! Handlers: code that the user registered.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use levelflow_common::{AttemptResult, Code, Failure};
use levelflow_proto::v1;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, oneshot};

use super::output::{read_input, write_output};
use crate::attempt::{cancelled, panicked};
use crate::context::Context;
use crate::handler_error::HandlerError;
use crate::usage::Usage;

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
pub(crate) struct Threads {
    place: Place,
    usage: Arc<Usage>,
}

#[derive(Clone)]
enum Place {
    /// One thread a core, for computations.
    Cpu(Arc<rayon::ThreadPool>),
    /// Many threads that mostly wait, at most as many as there are permits.
    Blocking(Arc<Semaphore>),
}

impl Threads {
    pub(crate) fn cpu(pool: rayon::ThreadPool) -> Self {
        let usage = Usage::new("cpu", pool.current_num_threads());
        for _ in 0..pool.current_num_threads() {
            usage.open();
        }
        Self {
            place: Place::Cpu(Arc::new(pool)),
            usage,
        }
    }

    pub(crate) fn blocking(most: usize) -> Self {
        Self {
            place: Place::Blocking(Arc::new(Semaphore::new(most))),
            usage: Usage::new("blocking", most),
        }
    }

    /// What a heartbeat says of them.
    pub(crate) fn pool(&self) -> v1::Pool {
        let pool = self.usage.pool(0);
        match self.place {
            Place::Cpu(_) => v1::Pool {
                idle: pool.size.saturating_sub(pool.busy),
                ..pool
            },
            // Threads that nobody uses are those of the runtime.
            Place::Blocking(_) => pool,
        }
    }
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
            let waiting = threads.usage.wait();
            let work = move || {
                let busy = waiting.begin();
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
                drop(busy);
                // Nobody listens any more when the worker has ended.
                let _ = report.send(result);
            };
            match threads.place {
                Place::Cpu(pool) => pool.spawn(work),
                Place::Blocking(permits) => {
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
