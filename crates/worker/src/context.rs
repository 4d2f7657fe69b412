//! What a handler knows about its attempt.

use std::borrow::Cow;
use std::fmt;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::{Code, Failure, RunId};
use levelflow_proto::v1;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attempt::cancelled;
use crate::cache::{HandlerCache, HandlerScope};
use crate::chunk_log::{Announce, ChunkLog};
use crate::executor::write_chunk;
use crate::handler_error::HandlerError;
use crate::near_hit::NearHit;
use crate::secrets::Redactor;
use crate::upstream::{BreakerOpen, Calls, OpenBreakers, OpenCall};

/// The attempt that a handler works on. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    attempt: Arc<AttemptState>,
    /// What its handler keeps; none where attempts have no cache.
    scope: Option<Arc<HandlerScope>>,
}

impl Context {
    pub(crate) fn new(attempt: Arc<AttemptState>) -> Self {
        Self {
            attempt,
            scope: None,
        }
    }

    /// As it is for a handler with a cache.
    pub(crate) fn with_cache(mut self, scope: &Arc<HandlerScope>) -> Self {
        self.scope = Some(Arc::clone(scope));
        self
    }

    /// The run.
    pub fn run_id(&self) -> RunId {
        self.attempt.run_id
    }

    /// The task, by its id in the workflow.
    pub fn task_id(&self) -> &str {
        &self.attempt.task_id
    }

    /// The place in the list of a `for_each`.
    pub fn item(&self) -> Option<u32> {
        self.attempt.item
    }

    /// The number of the attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt.number
    }

    /// The same text for every attempt of this task in this run. Pass it on to services that know such
    /// keys, so that a repeated attempt has its effect once.
    pub fn idempotency_key(&self) -> String {
        let Self { attempt, .. } = self;
        match attempt.item {
            Some(item) => format!("{}/{}/{item}", attempt.run_id, attempt.task_id),
            None => format!("{}/{}", attempt.run_id, attempt.task_id),
        }
    }

    /// What this handler has kept in the cache of the worker, and what it keeps there for later attempts.
    /// Handlers in child processes have none: they find nothing there, and compute each time.
    pub fn cache(&self) -> HandlerCache {
        HandlerCache::new(self.clone())
    }

    /// The result of a nearly equal text, for a task with `cache.semantic` whose own result was not found: to make
    /// the own one of, where that is less work than to begin anew. None if none was near enough.
    ///
    /// ```
    /// # use levelflow_worker::{Context, HandlerError};
    /// # async fn revise(_: String, _: &str) -> Result<String, HandlerError> { Ok(String::new()) }
    /// # async fn write(_: &str) -> Result<String, HandlerError> { Ok(String::new()) }
    /// async fn answer(ctx: Context, question: String) -> Result<String, HandlerError> {
    ///     match ctx.near_hit() {
    ///         Some(near) => revise(near.output_as()?, &question).await,
    ///         None => write(&question).await,
    ///     }
    /// }
    /// ```
    pub fn near_hit(&self) -> Option<NearHit> {
        let shown = &self.attempt.near_hit;
        if shown.is_empty() {
            return None;
        }
        serde_json::from_slice(shown)
            .inspect_err(|error| tracing::warn!(%error, "near hit is not understood"))
            .ok()
    }

    pub(crate) fn handler_scope(&self) -> Option<&HandlerScope> {
        self.scope.as_deref()
    }

    /// Whose run it is.
    pub(crate) fn tenant(&self) -> &str {
        &self.attempt.tenant
    }

    /// Ends when the attempt should stop: it was cancelled, took too long, or the worker stops.
    pub async fn cancelled(&self) {
        self.attempt.cancelled.cancelled().await;
    }

    /// Whether the attempt should stop; for handlers on threads to look at now and then.
    pub fn is_cancelled(&self) -> bool {
        self.attempt.cancelled.is_cancelled()
    }

    /// The token behind [`Context::cancelled`].
    pub fn cancellation(&self) -> CancellationToken {
        self.attempt.cancelled.clone()
    }

    /// The upstream that the attempt calls, where its input tells.
    pub fn upstream(&self) -> Option<&str> {
        let upstream = &self.attempt.upstream;
        (!upstream.is_empty()).then_some(upstream)
    }

    /// Begins a call to an upstream that has a breaker for the whole cluster, such as
    /// `crm:eu-west`. Say how it ended: several failures in a row open the breaker.
    ///
    /// ```
    /// # use levelflow_worker::{Context, HandlerError};
    /// # async fn ask(_: &str) -> Result<String, std::io::Error> { Ok(String::new()) }
    /// async fn customer(ctx: Context, id: String) -> Result<String, HandlerError> {
    ///     let call = ctx.call("crm:eu-west")?;
    ///     match ask(&id).await {
    ///         Ok(customer) => {
    ///             call.succeeded();
    ///             Ok(customer)
    ///         }
    ///         Err(error) => {
    ///             call.failed();
    ///             Err(error.into())
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// When the breaker is open. Give the error on, or do without the call: an attempt that fails after
    /// this is tried again when the upstream may be called, and does not count.
    pub fn call(&self, upstream: &str) -> Result<OpenCall, BreakerOpen> {
        self.attempt.call(upstream)
    }

    /// Begins the call that the coordinator knows of, if there is one; that is never refused.
    pub(crate) fn call_own_upstream(&self) -> Option<OpenCall> {
        self.call(self.upstream()?).ok()
    }

    /// Takes over what another process that works on the attempt says of its calls.
    pub(crate) fn relay_calls(
        &self,
        calls: impl IntoIterator<Item = v1::UpstreamCall>,
        parked_on: String,
    ) {
        self.attempt.calls.relay(calls, parked_on);
    }

    /// The upstreams that must not be called now.
    pub(crate) fn open_breakers(&self) -> Vec<String> {
        self.attempt.open_breakers.all()
    }

    pub(crate) fn token(&self) -> u64 {
        self.attempt.token
    }

    /// The attempt, for another process that works on it.
    pub(crate) fn to_message(&self, input: Bytes) -> v1::Attempt {
        let Self { attempt, .. } = self;
        v1::Attempt {
            token: attempt.token,
            run_id: Bytes::copy_from_slice(attempt.run_id.as_bytes()),
            task_id: attempt.task_id.clone(),
            item: attempt.item,
            attempt: attempt.number,
            kind: v1::TaskKind::Handler.into(),
            upstream: attempt.upstream.clone(),
            input,
            near_hit: attempt.near_hit.clone(),
            ..v1::Attempt::default()
        }
    }

    /// Takes note of the secrets that the attempt gets.
    pub(crate) fn set_redactor(&self, redactor: Redactor) -> &Redactor {
        self.attempt.redactor.get_or_init(|| redactor)
    }

    /// A failure without the secrets of the attempt.
    pub(crate) fn redact(&self, failure: Failure) -> Failure {
        match self.attempt.redactor.get() {
            Some(redactor) => redactor.failure(failure),
            None => failure,
        }
    }

    /// A text that was cut out of a longer one, without secrets.
    pub(crate) fn redact_cut<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.attempt.redactor.get() {
            Some(redactor) => redactor.redact_cut(text).into(),
            None => text.into(),
        }
    }

    /// Gives a piece of the output before the rest of it: whoever watches the task sees it at once, and it is
    /// recorded with the result when the attempt succeeds. Waits while more is under way than is sent.
    /// Counts as progress, as [`Context::heartbeat`] does.
    ///
    /// ```
    /// # use levelflow_worker::{Context, HandlerError};
    /// async fn count(ctx: Context, to: u32) -> Result<u32, HandlerError> {
    ///     for number in 0..to {
    ///         ctx.emit(&number).await?;
    ///     }
    ///     Ok(to)
    /// }
    /// ```
    ///
    /// Secrets of the task are taken out of each chunk by itself: do not cut a text apart where one may be.
    ///
    /// # Errors
    /// `stream_too_large` when the chunk, or all chunks of the attempt, would be over a limit: with `?` the task
    /// fails for good, and a handler that does not mind goes on without further chunks. `cancelled` when
    /// the attempt is to stop.
    pub async fn emit<C: Serialize + ?Sized>(&self, chunk: &C) -> Result<(), HandlerError> {
        let emitted = match write_chunk(chunk) {
            Ok(chunk) => self.emit_json(chunk).await,
            Err(failure) => Err(failure),
        };
        emitted.map_err(HandlerError::of)
    }

    /// [`Context::emit`] for handlers on threads.
    ///
    /// # Errors
    /// As [`Context::emit`].
    pub fn emit_blocking<C: Serialize + ?Sized>(&self, chunk: &C) -> Result<(), HandlerError> {
        block_on(self.emit(chunk))
    }

    /// Gives a chunk that is JSON already.
    pub(crate) async fn emit_json(&self, chunk: Bytes) -> Result<(), Failure> {
        let attempt = &self.attempt;
        let chunk = match attempt.redactor.get() {
            Some(redactor) => redactor.output(chunk),
            None => chunk,
        };
        attempt.heartbeat();
        let log = attempt.chunk_log().ok_or_else(cancelled)?;
        log.push(chunk, &attempt.cancelled).await
    }

    /// Knows the secrets of the attempt, if it has some.
    pub(crate) fn redactor(&self) -> Option<&Redactor> {
        self.attempt.redactor.get()
    }

    /// A whole text without secrets.
    pub(crate) fn redact_whole<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match self.redactor() {
            Some(redactor) => redactor.redact(text),
            None => text.into(),
        }
    }

    /// Says that the handler makes progress, for tasks with a heartbeat timeout. Cheap.
    pub fn heartbeat(&self) {
        self.attempt.heartbeat();
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("run_id", &self.attempt.run_id)
            .field("task_id", &self.attempt.task_id)
            .field("item", &self.attempt.item)
            .field("attempt", &self.attempt.number)
            .finish_non_exhaustive()
    }
}

/// Waits on a thread that has nothing else to do.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let thread = Arc::new(Unpark(std::thread::current()));
    let waker = Waker::from(thread);
    let mut work = pin!(work);
    loop {
        match work.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => std::thread::park(),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The chunks of an attempt.
#[derive(Debug)]
enum Chunks {
    /// There are none yet.
    None(Announce),
    /// There are some, and more may come.
    Some(Arc<ChunkLog>),
    /// The attempt has ended, with so many.
    Ended(u32),
}

/// What the session and the executor share about an attempt.
#[derive(Debug)]
pub(crate) struct AttemptState {
    pub(crate) token: u64,
    run_id: RunId,
    task_id: String,
    item: Option<u32>,
    number: u32,
    tenant: String,
    /// A JSON object; empty if there is none.
    near_hit: Bytes,
    pub(crate) started_at: Instant,
    pub(crate) cancelled: CancellationToken,
    /// The attempt is stopped because the worker ends, not because somebody wants that.
    abandoned: AtomicBool,
    /// Progress was reported since the last heartbeat to the coordinator.
    progressed: AtomicBool,
    /// When progress was reported last, in microseconds since the start.
    progressed_at: AtomicU64,
    /// The upstream that it may call whatever its breaker says; empty if none.
    pub(crate) upstream: String,
    pub(crate) calls: Calls,
    pub(crate) open_breakers: Arc<OpenBreakers>,
    chunks: Mutex<Chunks>,
    /// Knows the secrets of the attempt, if it has some.
    redactor: OnceLock<Redactor>,
}

impl AttemptState {
    /// The state of an attempt that starts now; takes the names out of the message. None if the id of
    /// the run is malformed.
    pub(crate) fn starting(
        attempt: &mut v1::Attempt,
        open_breakers: &Arc<OpenBreakers>,
        announce: &Announce,
    ) -> Option<Arc<Self>> {
        Some(Arc::new(Self {
            token: attempt.token,
            run_id: RunId::from_slice(&attempt.run_id)?,
            task_id: std::mem::take(&mut attempt.task_id),
            item: attempt.item,
            number: attempt.attempt,
            tenant: std::mem::take(&mut attempt.tenant),
            near_hit: std::mem::take(&mut attempt.near_hit),
            started_at: Instant::now(),
            cancelled: CancellationToken::new(),
            abandoned: AtomicBool::new(false),
            progressed: AtomicBool::new(false),
            progressed_at: AtomicU64::new(0),
            upstream: std::mem::take(&mut attempt.upstream),
            calls: Calls::default(),
            open_breakers: Arc::clone(open_breakers),
            chunks: Mutex::new(Chunks::None(announce.clone())),
            redactor: OnceLock::new(),
        }))
    }

    /// Where chunks go; none once the attempt has ended.
    fn chunk_log(&self) -> Option<Arc<ChunkLog>> {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let log = match &*chunks {
            Chunks::None(announce) => ChunkLog::new(self.token, announce.clone()),
            Chunks::Some(log) => return Some(Arc::clone(log)),
            Chunks::Ended(_) => return None,
        };
        *chunks = Chunks::Some(Arc::clone(&log));
        Some(log)
    }

    /// The attempt has ended: there are no more chunks. Gives their number.
    pub(crate) fn end_chunks(&self) -> u32 {
        let mut chunks = self.chunks.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match &*chunks {
            Chunks::None(_) => 0,
            Chunks::Some(log) => log.close(),
            Chunks::Ended(count) => *count,
        };
        *chunks = Chunks::Ended(count);
        count
    }

    /// Stops the attempt because the worker ends.
    pub(crate) fn abandon(&self) {
        if !self.cancelled.is_cancelled() {
            self.abandoned.store(true, Ordering::Relaxed);
            self.cancelled.cancel();
        }
    }

    /// The failure of the attempt after it was told to stop. Neither counts as an attempt: a cancel ends
    /// the run, and what a drain cuts short is given out again.
    pub(crate) fn stopped(&self) -> Failure {
        if self.abandoned.load(Ordering::Relaxed) {
            Failure::retryable(
                Code::Cancelled,
                "the worker stopped before the attempt ended",
            )
        } else {
            cancelled()
        }
    }

    fn heartbeat(&self) {
        let micros = u64::try_from(self.started_at.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.progressed_at.store(micros, Ordering::Relaxed);
        self.progressed.store(true, Ordering::Relaxed);
    }

    /// Whether progress was reported since the last call.
    pub(crate) fn take_progressed(&self) -> bool {
        self.progressed.swap(false, Ordering::Relaxed)
    }

    /// When progress was reported last; the start if it never was.
    pub(crate) fn progressed_at(&self) -> Instant {
        self.started_at + Duration::from_micros(self.progressed_at.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const RUN_ID: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

    /// Where chunks are told of to nobody.
    pub(crate) fn nowhere() -> Announce {
        tokio::sync::mpsc::unbounded_channel().0
    }

    pub(crate) fn wire_attempt(token: u64) -> v1::Attempt {
        let run_id: RunId = RUN_ID.parse().unwrap();
        v1::Attempt {
            token,
            run_id: Bytes::copy_from_slice(run_id.as_bytes()),
            task_id: "resize".to_owned(),
            attempt: 1,
            ..v1::Attempt::default()
        }
    }

    #[test]
    fn the_idempotency_key_names_the_task_but_not_the_attempt() {
        let context = |item, number| {
            let mut attempt = wire_attempt(1);
            attempt.item = item;
            attempt.attempt = number;
            Context::new(AttemptState::starting(&mut attempt, &Arc::default(), &nowhere()).unwrap())
        };
        assert_eq!(
            context(None, 1).idempotency_key(),
            format!("{RUN_ID}/resize")
        );
        assert_eq!(
            context(Some(7), 1).idempotency_key(),
            context(Some(7), 2).idempotency_key()
        );
        assert_eq!(
            context(Some(7), 2).idempotency_key(),
            format!("{RUN_ID}/resize/7")
        );
    }

    #[test]
    fn a_malformed_run_id_is_seen() {
        let mut attempt = wire_attempt(1);
        attempt.run_id = Bytes::from_static(b"short");
        assert!(AttemptState::starting(&mut attempt, &Arc::default(), &nowhere()).is_none());
    }
}
