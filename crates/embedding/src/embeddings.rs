//! What stands before an embedder: batches, a bounded queue, a breaker, and the vectors of the latest texts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hashlink::LinkedHashMap;
use levelflow_runtime::breaker::{Admission, Breaker, BreakerState};
use levelflow_runtime::task;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};

use crate::config::EmbeddingModel;
use crate::embedder::Embedder;
use crate::endpoint::Endpoint;
use crate::error::{EmbeddingError, StartError};
use crate::vector::Vector;

/// Texts that wait for their batch.
const MAX_QUEUED: usize = 1024;
/// Texts whose vectors are remembered.
const MAX_REMEMBERED: usize = 2048;
/// Bytes of a text. Longer ones have no vector.
pub const MAX_TEXT_BYTES: usize = 32 * 1024;

/// An embedding model that can be asked. It is asked no more when this is dropped.
pub struct Embeddings {
    queue: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

/// The vector of a text, now or later.
#[derive(Clone, Debug)]
pub struct Pending(watch::Receiver<State>);

/// What the model did since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbeddingsStatistics {
    /// Texts whose vectors it made.
    pub texts: u64,
    /// Batches that failed.
    pub failures: u64,
    /// Texts that it was not asked for: its breaker was open, or too many waited.
    pub skipped: u64,
    /// How its breaker stands.
    pub breaker: BreakerState,
}

#[derive(Clone, Debug)]
enum State {
    Waiting,
    Known(Vector),
    /// The model has none for it.
    None,
}

struct Job {
    text: Arc<str>,
    digest: Digest,
    reply: watch::Sender<State>,
}

type Digest = [u8; 32];

struct Shared {
    name: String,
    embedder: Arc<dyn Embedder>,
    timeout: Duration,
    batch: usize,
    breaker: Mutex<Breaker>,
    /// The latest used last. Those that failed are not among them.
    remembered: Mutex<LinkedHashMap<Digest, watch::Receiver<State>>>,
    texts: AtomicU64,
    failures: AtomicU64,
    skipped: AtomicU64,
}

impl Embeddings {
    /// Makes a model ready. One in a directory is read on this thread.
    ///
    /// # Errors
    /// When a setting is wrong, or a file of the model cannot be used.
    pub fn open(name: &str, model: &EmbeddingModel) -> Result<Self, StartError> {
        let embedder = embedder(name, model)?;
        Ok(Self::start(name, model, embedder))
    }

    /// Puts a queue before an embedder. It belongs to the runtime in which this is called.
    pub(crate) fn start(name: &str, model: &EmbeddingModel, embedder: Arc<dyn Embedder>) -> Self {
        let (queue, jobs) = mpsc::channel(MAX_QUEUED);
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            embedder,
            timeout: model.timeout.0,
            batch: model.batch,
            breaker: Mutex::default(),
            remembered: Mutex::default(),
            texts: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
        });
        let serve = serve(Arc::clone(&shared), model.concurrency, jobs);
        task::spawn("embeddings", serve);
        Self { queue, shared }
    }

    /// Asks for the vector of a text, unless it is known. Does not wait; none if there will be no vector: the
    /// text is empty or too long, the model is left alone, or too many texts wait.
    pub fn request(&self, text: &Arc<str>) -> Option<Pending> {
        if text.is_empty() || text.len() > MAX_TEXT_BYTES {
            return None;
        }
        let shared = &self.shared;
        let digest = *blake3::hash(text.as_bytes()).as_bytes();
        let mut remembered = shared.remembered();
        if let Some(known) = remembered.to_back(&digest) {
            return Some(Pending(known.clone()));
        }
        let admission = shared.breaker().admit(Instant::now());
        let (reply, pending) = watch::channel(State::Waiting);
        let job = Job {
            text: Arc::clone(text),
            digest,
            reply,
        };
        if admission == Admission::Skip || self.queue.try_send(job).is_err() {
            if admission == Admission::Probe {
                shared.breaker().probed(Instant::now(), true);
            }
            shared.skipped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        remembered.insert(digest, pending.clone());
        if remembered.len() > MAX_REMEMBERED {
            remembered.pop_front();
        }
        Some(Pending(pending))
    }

    /// What it did since its start.
    pub fn statistics(&self) -> EmbeddingsStatistics {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EmbeddingsStatistics {
            texts: count(&self.shared.texts),
            failures: count(&self.shared.failures),
            skipped: count(&self.shared.skipped),
            breaker: self.shared.breaker().state(),
        }
    }
}

impl Pending {
    /// Waits for the vector; none if there is none, or not within this time. It may come later all the
    /// same: see [`Pending::now`].
    pub async fn within(&self, budget: Duration) -> Option<Vector> {
        let mut state = self.0.clone();
        let answered = state.wait_for(|state| !matches!(state, State::Waiting));
        let answered = timeout(budget, answered).await.ok()?;
        // Whoever was to answer is gone if this fails.
        answered.ok()?.vector()
    }

    /// The vector, if it is known by now.
    pub fn now(&self) -> Option<Vector> {
        self.0.borrow().vector()
    }
}

impl State {
    fn vector(&self) -> Option<Vector> {
        match self {
            Self::Known(vector) => Some(vector.clone()),
            Self::Waiting | Self::None => None,
        }
    }
}

impl Shared {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self) -> MutexGuard<'_, LinkedHashMap<Digest, watch::Receiver<State>>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, batch: Vec<Job>) {
        let texts: Vec<_> = batch.iter().map(|job| Arc::clone(&job.text)).collect();
        let vectors = match timeout(self.timeout, self.embedder.embed(&texts)).await {
            Ok(Ok(vectors)) if vectors.len() != texts.len() => Err(EmbeddingError::Count),
            Ok(vectors) => vectors,
            Err(_) => Err(EmbeddingError::TimedOut(self.timeout)),
        };
        self.ended(&vectors);
        let vectors = vectors.unwrap_or_else(|_| {
            // Another attempt at these may have better luck.
            let mut remembered = self.remembered();
            for job in &batch {
                remembered.remove(&job.digest);
            }
            vec![None; batch.len()]
        });
        for (job, vector) in batch.into_iter().zip(vectors) {
            job.reply
                .send_replace(vector.map_or(State::None, State::Known));
        }
    }

    fn ended(&self, vectors: &Result<Vec<Option<Vector>>, EmbeddingError>) {
        let now = Instant::now();
        let mut breaker = self.breaker();
        let was_closed = breaker.is_closed();
        let opened = match breaker.state() {
            BreakerState::HalfOpen => {
                breaker.probed(now, vectors.is_err());
                false
            }
            _ => breaker.ended(now, vectors.is_err()),
        };
        let is_back = !was_closed && breaker.is_closed();
        drop(breaker);
        match vectors {
            Ok(vectors) => {
                let count = vectors.len() as u64;
                self.texts.fetch_add(count, Ordering::Relaxed);
                if is_back {
                    tracing::info!(model = self.name, "embedding model is back");
                }
            }
            Err(error) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                let error: &(dyn std::error::Error + 'static) = error;
                if opened {
                    tracing::warn!(model = self.name, error, "embedding model is left alone");
                } else {
                    tracing::debug!(model = self.name, error, "texts have no vectors");
                }
            }
        }
    }
}

/// Gathers what waits into batches, until nobody can ask any more.
async fn serve(shared: Arc<Shared>, concurrency: usize, mut jobs: mpsc::Receiver<Job>) {
    let running = Arc::new(Semaphore::new(concurrency));
    loop {
        // First the room and then the texts: they gather while there is none.
        let Ok(room) = Arc::clone(&running).acquire_owned().await else {
            return;
        };
        let mut batch = Vec::with_capacity(shared.batch);
        if jobs.recv_many(&mut batch, shared.batch).await == 0 {
            return;
        }
        let shared = Arc::clone(&shared);
        task::spawn("embedding batch", async move {
            shared.answer(batch).await;
            drop(room);
        });
    }
}

fn embedder(name: &str, model: &EmbeddingModel) -> Result<Arc<dyn Embedder>, StartError> {
    #[cfg(feature = "local")]
    if let Some(directory) = &model.directory {
        let local = crate::local::Local::open(directory, model.concurrency)?;
        return Ok(Arc::new(local));
    }
    Ok(Arc::new(Endpoint::new(name, model)?))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use levelflow_common::HumanDuration;
    use tokio::sync::Notify;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// Notes the batches; gives the length of a text as a direction, fails for `fail`, and waits for `gate`
    /// where one says `wait`.
    #[derive(Default)]
    struct Fake {
        batches: Mutex<Vec<Vec<Arc<str>>>>,
        asked: Notify,
        gate: Notify,
    }

    #[async_trait]
    impl Embedder for Fake {
        async fn embed(&self, texts: &[Arc<str>]) -> Result<Vec<Option<Vector>>, EmbeddingError> {
            self.batches.lock().unwrap().push(texts.to_vec());
            self.asked.notify_one();
            let has = |word: &str| texts.iter().any(|text| text.contains(word));
            if has("wait") {
                self.gate.notified().await;
            }
            if has("fail") {
                return Err(EmbeddingError::Gone);
            }
            let vector = |text: &Arc<str>| Vector::new(vec![1.0, text.len() as f32]);
            Ok(texts.iter().map(vector).collect())
        }
    }

    fn start(change: impl FnOnce(&mut EmbeddingModel)) -> (Embeddings, Arc<Fake>) {
        let mut model = EmbeddingModel::at("http://localhost");
        model.concurrency = 1;
        change(&mut model);
        let fake = Arc::new(Fake::default());
        (Embeddings::start("fake", &model, fake.clone()), fake)
    }

    fn expected(text: &str) -> Option<Vector> {
        Vector::new(vec![1.0, text.len() as f32])
    }

    #[tokio::test]
    async fn texts_that_come_meanwhile_are_one_batch_and_the_same_text_is_asked_once() {
        let (embeddings, fake) = start(|_| {});
        let first = embeddings.request(&"wait".into()).unwrap();
        timeout(DEADLINE, fake.asked.notified()).await.unwrap();
        let texts: [Arc<str>; 3] = ["a".into(), "bb".into(), "a".into()];
        let pending = texts.each_ref().map(|text| embeddings.request(text));
        assert_eq!(first.now(), None);
        fake.gate.notify_one();
        for (text, pending) in texts.iter().zip(pending) {
            assert_eq!(pending.unwrap().within(DEADLINE).await, expected(text));
        }
        assert_eq!(first.now(), expected("wait"));
        let again = embeddings.request(&"bb".into()).unwrap();
        assert_eq!(again.now(), expected("bb"));
        let batches = fake.batches.lock().unwrap().clone();
        assert_eq!(
            batches,
            [vec!["wait".into()], vec!["a".into(), "bb".into()]]
        );
        assert_eq!(embeddings.statistics().texts, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_is_slow_costs_the_budget_and_its_vector_may_come_later() {
        let (embeddings, fake) = start(|_| {});
        let pending = embeddings.request(&"wait".into()).unwrap();
        let before = Instant::now();
        assert_eq!(pending.within(Duration::from_millis(250)).await, None);
        assert_eq!(before.elapsed(), Duration::from_millis(250));
        fake.gate.notify_one();
        assert_eq!(pending.within(DEADLINE).await, expected("wait"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_model_that_fails_is_left_alone_until_a_text_finds_it_back() {
        let (embeddings, fake) = start(|_| {});
        for number in 0..5 {
            let text = format!("fail {number}").into();
            let pending = embeddings.request(&text).unwrap();
            assert_eq!(pending.within(DEADLINE).await, None);
        }
        assert!(embeddings.request(&"a".into()).is_none());
        let statistics = embeddings.statistics();
        assert_eq!(statistics.breaker, BreakerState::Open);
        assert_eq!((statistics.failures, statistics.skipped), (5, 1));

        tokio::time::advance(Duration::from_secs(5)).await;
        let probe = embeddings.request(&"b".into()).unwrap();
        assert!(embeddings.request(&"c".into()).is_none());
        assert_eq!(probe.within(DEADLINE).await, expected("b"));
        let pending = embeddings.request(&"a".into()).unwrap();
        assert_eq!(pending.within(DEADLINE).await, expected("a"));
        // What failed is asked for again.
        assert!(embeddings.request(&"fail 0".into()).is_some());
        assert_eq!(fake.batches.lock().unwrap().len(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_takes_too_long_is_broken_off() {
        let (embeddings, _fake) = start(|model| {
            model.timeout = HumanDuration(Duration::from_secs(1));
        });
        let pending = embeddings.request(&"wait".into()).unwrap();
        let before = Instant::now();
        assert_eq!(pending.within(DEADLINE).await, None);
        assert_eq!(before.elapsed(), Duration::from_secs(1));
        assert_eq!(embeddings.statistics().failures, 1);
    }

    #[tokio::test]
    async fn queue_and_texts_are_bounded() {
        let (embeddings, fake) = start(|_| {});
        assert!(embeddings.request(&"".into()).is_none());
        let long = "x".repeat(MAX_TEXT_BYTES + 1).into();
        assert!(embeddings.request(&long).is_none());
        let _waiting = embeddings.request(&"wait".into());
        timeout(DEADLINE, fake.asked.notified()).await.unwrap();
        let request = |number: usize| embeddings.request(&format!("text {number}").into());
        let taken = (0..MAX_QUEUED + 10)
            .map(request)
            .take_while(Option::is_some);
        assert_eq!(taken.count(), MAX_QUEUED);
        assert_eq!(embeddings.statistics().skipped, 1);
    }
}
