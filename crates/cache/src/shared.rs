//! A tier that processes share, as the cache asks it: within a budget, behind a breaker, written to in
//! the background.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use levelflow_common::Timestamp;
use levelflow_runtime::task;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::entry::Target;
use crate::error::TierError;
use crate::statistics::{Counter, LookupCounters, SharedStatistics, TierStatistics};
use crate::tier::{LeaseToken, Record, SharedTier, TierKind, Usage};
use levelflow_common::CacheKey;
use levelflow_runtime::breaker::{Admission, Breaker};

/// Requests that wait to be carried out.
const MAX_QUEUED: usize = 4096;
/// Bytes of the entries that wait to be written.
const MAX_QUEUED_BYTES: usize = 32 * 1024 * 1024;
/// Entries that are written together.
const MAX_BATCH: usize = 64;
/// The longest that removing many entries, or looking what a tier holds, may take.
const OPERATOR_WAIT: Duration = Duration::from_secs(60);

/// How a shared tier is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedSettings {
    /// How long it keeps an entry.
    pub(crate) ttl: Duration,
    /// The most time that a lookup may lose with it.
    pub(crate) lookup_budget: Duration,
    /// The longest that any other request may take.
    pub(crate) timeout: Duration,
}

impl SharedSettings {
    /// How long a lookup waits for an answer: the way there, timers and waking up take the rest of the
    /// budget.
    fn wait(&self) -> Duration {
        self.lookup_budget * 4 / 5
    }
}

/// A shared tier.
pub(crate) struct Shared {
    state: Arc<State>,
    queue: mpsc::Sender<Job>,
}

/// What the tier's writer and those who ask have in common.
struct State {
    tier: Arc<dyn SharedTier>,
    settings: SharedSettings,
    clock: Clock,
    breaker: Mutex<Breaker>,
    /// The request that ended last was not answered.
    is_silent: AtomicBool,
    queued_bytes: AtomicUsize,
    lookups: LookupCounters,
    skipped: Counter,
    timeouts: Counter,
    failures: Counter,
    writes: Counter,
    dropped_writes: Counter,
    expired: Counter,
}

/// What the writer does, one after the other: so what is removed is not written again by what waited.
enum Job {
    Put(Record),
    Remove(Target, Option<oneshot::Sender<Result<u64, TierError>>>),
    Release(CacheKey, LeaseToken),
    Sweep,
    Flush(oneshot::Sender<()>),
}

impl Shared {
    /// Takes up a tier, and starts its writer.
    pub(crate) fn start(tier: Arc<dyn SharedTier>, settings: SharedSettings, clock: Clock) -> Self {
        let state = Arc::new(State {
            tier,
            settings,
            clock,
            breaker: Mutex::new(Breaker::default()),
            is_silent: AtomicBool::new(false),
            queued_bytes: AtomicUsize::new(0),
            lookups: LookupCounters::default(),
            skipped: Counter::default(),
            timeouts: Counter::default(),
            failures: Counter::default(),
            writes: Counter::default(),
            dropped_writes: Counter::default(),
            expired: Counter::default(),
        });
        let (queue, jobs) = mpsc::channel(MAX_QUEUED);
        task::spawn("cache writer", write(Arc::clone(&state), jobs));
        let preparing = Arc::clone(&state);
        task::spawn("cache connection", async move {
            let limit = preparing.settings.timeout;
            let prepared = within(limit, preparing.tier.prepare()).await;
            if let Err(error) = &prepared {
                let error: &(dyn std::error::Error + 'static) = error;
                let tier = preparing.tier.kind().as_str();
                tracing::warn!(tier, error, "cache tier is not ready");
            }
            preparing.ended(prepared);
        });
        Self { state, queue }
    }

    pub(crate) fn kind(&self) -> TierKind {
        self.state.tier.kind()
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.state.settings.ttl
    }

    pub(crate) fn lookups(&self) -> &LookupCounters {
        &self.state.lookups
    }

    /// The sealed entry with this key, if the tier gives it in time.
    pub(crate) async fn get(&self, key: &CacheKey, now: Timestamp) -> Option<Bytes> {
        let state = &self.state;
        match state.admit() {
            Admission::Go => {}
            Admission::Skip => {
                state.skipped.add(1);
                return None;
            }
            Admission::Probe => {
                state.skipped.add(1);
                let state = Arc::clone(state);
                let key = *key;
                task::spawn("cache probe", async move {
                    let limit = state.settings.timeout;
                    let answer = within(limit, state.tier.get(&key, now)).await;
                    state.probed(answer.map(drop));
                });
                return None;
            }
        }
        let started = Instant::now();
        let key = *key;
        let tier = Arc::clone(&state.tier);
        let asked = state.detached(async move { tier.get(&key, now).await });
        let answer = within(state.settings.wait(), asked).await;
        let sealed = state.ended(answer)?;
        state.lookups.answered(started.elapsed());
        sealed
    }

    /// Has an entry written, unless too much waits.
    pub(crate) fn put(&self, record: Record) {
        let bytes = record.sealed.len();
        let before = self.state.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before + bytes <= MAX_QUEUED_BYTES;
        if !fits || self.queue.try_send(Job::Put(record)).is_err() {
            self.state.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.state.dropped_writes.add(1);
        }
    }

    /// Has a damaged entry removed, unless too much waits.
    pub(crate) fn discard(&self, key: &CacheKey) {
        // Whoever finds it again will ask again.
        let _ = self.queue.try_send(Job::Remove(Target::Key(*key), None));
    }

    /// Removes entries, also such that wait to be written; says how many the tier had.
    pub(crate) async fn remove(&self, target: Target) -> Result<u64, TierError> {
        let (tell, told) = oneshot::channel();
        self.send(Job::Remove(target, Some(tell))).await?;
        told.await.unwrap_or(Err(TierError::Busy))
    }

    /// Removes what has expired, if the tier has time.
    pub(crate) fn sweep(&self) {
        // The next sweep does what this one does not.
        let _ = self.queue.try_send(Job::Sweep);
    }

    /// Waits until what was put before is written or dropped.
    pub(crate) async fn flush(&self) -> Result<(), TierError> {
        let (tell, told) = oneshot::channel();
        self.send(Job::Flush(tell)).await?;
        told.await.map_err(|_| TierError::Busy)
    }

    /// Takes the lease of a key. None where the tier does not say in time.
    pub(crate) async fn lease(
        &self,
        key: &CacheKey,
        token: LeaseToken,
        span: Duration,
    ) -> Option<bool> {
        let state = &self.state;
        // The lookup before has used up the time that a task waits for a tier that does not answer.
        if !state.breaker().is_closed() || state.is_silent.load(Ordering::Relaxed) {
            return None;
        }
        let key = *key;
        let tier = Arc::clone(&state.tier);
        let asked = state.detached(async move { tier.lease(&key, token, span).await });
        state.ended(within(state.settings.wait(), asked).await)
    }

    /// Gives a lease back after all that was put before.
    pub(crate) fn release(&self, key: &CacheKey, token: LeaseToken) {
        // Otherwise the lease ends by itself.
        let _ = self.queue.try_send(Job::Release(*key, token));
    }

    /// What the tier holds.
    pub(crate) async fn usage(&self) -> Result<Usage, TierError> {
        within(OPERATOR_WAIT, self.state.tier.usage()).await
    }

    pub(crate) fn statistics(&self) -> TierStatistics {
        let state = &self.state;
        TierStatistics {
            tier: self.kind(),
            hits: state.lookups.hits.get(),
            misses: state.lookups.misses.get(),
            corrupt: state.lookups.corrupt.get(),
            usage: None,
            evictions: 0,
            expired: state.expired.get(),
            latency: state.lookups.latency(),
            shared: Some(SharedStatistics {
                breaker: state.breaker().state(),
                skipped: state.skipped.get(),
                timeouts: state.timeouts.get(),
                failures: state.failures.get(),
                writes: state.writes.get(),
                dropped_writes: state.dropped_writes.get(),
                queued: (MAX_QUEUED - self.queue.capacity()) as u64,
            }),
        }
    }

    async fn send(&self, job: Job) -> Result<(), TierError> {
        let sent = timeout(OPERATOR_WAIT, self.queue.send(job)).await;
        sent.ok().and_then(Result::ok).ok_or(TierError::Busy)
    }
}

impl State {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self) -> Admission {
        self.breaker().admit(Instant::now())
    }

    /// Makes a request that goes on when whoever waits for it stops: otherwise a connection that takes
    /// longer to open than the budget allows would never be opened.
    fn detached<T: Send + 'static>(
        &self,
        request: impl Future<Output = Result<T, TierError>> + Send + 'static,
    ) -> impl Future<Output = Result<T, TierError>> {
        let request = task::spawn("cache request", within(self.settings.timeout, request));
        async move { request.await.unwrap_or(Err(TierError::Busy)) }
    }

    /// A request that was let through has ended.
    fn ended<T>(&self, answer: Result<T, TierError>) -> Option<T> {
        self.is_silent.store(answer.is_err(), Ordering::Relaxed);
        let opened = self.breaker().ended(Instant::now(), answer.is_err());
        let error = match answer {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        self.count(&error);
        if opened {
            let error: &(dyn std::error::Error + 'static) = &error;
            tracing::warn!(
                tier = self.tier.kind().as_str(),
                error,
                "cache tier is left alone"
            );
        }
        None
    }

    /// The request that finds out whether the tier is back has ended.
    fn probed(&self, answer: Result<(), TierError>) {
        self.breaker().probed(Instant::now(), answer.is_err());
        match answer {
            Ok(()) => tracing::info!(tier = self.tier.kind().as_str(), "cache tier is back"),
            Err(error) => self.count(&error),
        }
    }

    fn count(&self, error: &TierError) {
        match error {
            TierError::TimedOut(_) => self.timeouts.add(1),
            _ => self.failures.add(1),
        }
    }

    async fn put(&self, records: &mut Vec<Record>) {
        if records.is_empty() {
            return;
        }
        let bytes = records.iter().map(|record| record.sealed.len()).sum();
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        keep_last(records);
        let count = records.len() as u64;
        let admission = self.admit();
        let mut written = false;
        if admission != Admission::Skip {
            let put = self.tier.put(records, (self.clock)());
            let answer = within(self.settings.timeout, put).await;
            written = answer.is_ok();
            if admission == Admission::Probe {
                self.probed(answer);
            } else {
                self.ended(answer);
            }
        }
        let counter = if written {
            &self.writes
        } else {
            &self.dropped_writes
        };
        counter.add(count);
        records.clear();
    }

    async fn carry_out(&self, job: Job, records: &mut Vec<Record>) {
        if let Job::Put(record) = job {
            records.push(record);
            return;
        }
        // Everything else comes after what was put before it.
        self.put(records).await;
        match job {
            Job::Put(_) => {}
            Job::Remove(target, reply) => {
                let removed = within(OPERATOR_WAIT, self.tier.remove(&target)).await;
                if let Some(reply) = reply {
                    // Whoever asked may have gone.
                    let _ = reply.send(removed);
                } else if let Err(error) = removed {
                    self.count(&error);
                }
            }
            Job::Release(key, token) => {
                let released = self.tier.release(&key, token);
                if let Err(error) = within(self.settings.timeout, released).await {
                    self.count(&error);
                }
            }
            Job::Sweep if self.breaker().is_closed() => {
                let swept = self.tier.sweep((self.clock)());
                match within(OPERATOR_WAIT, swept).await {
                    Ok(count) => self.expired.add(count),
                    Err(error) => self.count(&error),
                }
            }
            Job::Sweep => {}
            Job::Flush(reply) => {
                let _ = reply.send(());
            }
        }
    }
}

/// Of entries with the same key only the last counts, and databases want no key twice.
fn keep_last(records: &mut Vec<Record>) {
    let mut seen = HashSet::with_capacity(records.len());
    records.reverse();
    records.retain(|record| seen.insert(record.key));
    records.reverse();
}

/// Writes what is put until the cache is dropped.
async fn write(state: Arc<State>, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    let mut records = Vec::with_capacity(MAX_BATCH);
    while jobs.recv_many(&mut batch, MAX_BATCH).await > 0 {
        for job in batch.drain(..) {
            state.carry_out(job, &mut records).await;
        }
        state.put(&mut records).await;
    }
}

async fn within<T>(
    limit: Duration,
    request: impl Future<Output = Result<T, TierError>>,
) -> Result<T, TierError> {
    match timeout(limit, request).await {
        Ok(answer) => answer,
        Err(_) => Err(TierError::TimedOut(limit)),
    }
}
