//! Semantic reuse: results of tasks whose texts mean nearly the same.
//!
//! What is nearest is looked for among the results that this coordinator kept since its start, of the same tenant, with
//! the same definition, model and rest of the input. What is found there is a key: the result itself comes from the
//! cache, so that none is used that has expired or was removed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hashlink::LinkedHashMap;
use levelflow_cache::statistics::{Latency, LatencyRecorder};
use levelflow_common::{CacheKey, Similar, Similarity};
use levelflow_embedding::embeddings::MAX_TEXT_BYTES;
use levelflow_embedding::{
    EmbeddingConfig, Embeddings, EmbeddingsStatistics, Index, IndexStatistics, Near, Origin,
    Pending, StartError,
};
use levelflow_engine::{NearHit, Output};
use serde_json::{Value, value::RawValue};

/// Results that are looked up for one task: some may be gone.
const MAX_CANDIDATES: usize = 4;
/// Texts of tasks that are being computed.
const MAX_EXPECTED: usize = 2048;
/// Bytes of a result that a task is shown.
const MAX_SHOWN_BYTES: usize = 1024 * 1024;

/// What is looked for, for one task.
#[derive(Debug)]
pub(crate) struct Question {
    /// What its own result is found by.
    pub(crate) key: CacheKey,
    /// The digest of everything that must be equal.
    pub(crate) scope: CacheKey,
    /// The model that it names.
    pub(crate) model: Option<String>,
    /// From which similarity on a result is reused.
    pub(crate) reuse: Similarity,
    /// From which similarity on it is shown.
    pub(crate) near: Similarity,
    /// Its text, and who asks.
    pub(crate) origin: Origin,
}

/// The models, and the texts of the results that were kept.
pub(crate) struct Semantic {
    config: EmbeddingConfig,
    models: BTreeMap<String, Embeddings>,
    index: Arc<Index>,
    /// The oldest first.
    expected: Mutex<LinkedHashMap<CacheKey, Expected>>,
    counters: Counters,
    has_warned: AtomicBool,
}

/// The text of a task that is being computed.
struct Expected {
    scope: CacheKey,
    vector: Pending,
    origin: Origin,
}

#[derive(Default)]
struct Counters {
    lookups: AtomicU64,
    hits: AtomicU64,
    near_hits: AtomicU64,
    skipped: AtomicU64,
    timeouts: AtomicU64,
    saved_micros: AtomicU64,
    latency: LatencyRecorder,
}

/// What came of semantic reuse since the start.
#[derive(Clone, Debug)]
pub(crate) struct SemanticStatistics {
    /// Tasks whose nearest was looked for.
    pub(crate) lookups: u64,
    /// Those that got another's result.
    pub(crate) hits: u64,
    /// Those that were shown one.
    pub(crate) near_hits: u64,
    /// Those that no model was asked for: there is none, it is left alone, or the text is too long.
    pub(crate) skipped: u64,
    /// Those whose vector was not there within the budget.
    pub(crate) timeouts: u64,
    /// The time that computing took for what hits gave without it.
    pub(crate) saved: Duration,
    /// How long lookups took that had a vector.
    pub(crate) latency: Latency,
    /// The texts that are known.
    pub(crate) index: IndexStatistics,
    /// The models.
    pub(crate) models: Vec<(String, EmbeddingsStatistics)>,
}

impl SemanticStatistics {
    /// Lookups that found nothing near.
    pub(crate) fn misses(&self) -> u64 {
        let others = self.hits + self.near_hits + self.skipped + self.timeouts;
        self.lookups.saturating_sub(others)
    }
}

impl Semantic {
    /// Makes the models ready. Those in directories are read on this thread.
    ///
    /// # Errors
    /// When a model cannot be used.
    pub(crate) fn open(config: EmbeddingConfig) -> Result<Self, StartError> {
        config.validate()?;
        let open = |(name, model): (&String, _)| {
            let embeddings = Embeddings::open(name, model)?;
            Ok((name.clone(), embeddings))
        };
        let models = config.models.iter().map(open);
        Ok(Self {
            models: models.collect::<Result<_, StartError>>()?,
            index: Arc::new(Index::new(config.max_entries, config.max_mib << 20)),
            expected: Mutex::default(),
            counters: Counters::default(),
            has_warned: AtomicBool::new(false),
            config,
        })
    }

    /// Asks for the vector of a text, and has the result of its task known by it when that is kept.
    pub(crate) fn expect(&self, question: &Question) -> Option<Pending> {
        self.counters.lookups.fetch_add(1, Ordering::Relaxed);
        let vector = self.request(question);
        let Some(vector) = vector else {
            self.counters.skipped.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        let mut expected = self.expected();
        let text = Expected {
            scope: question.scope,
            vector: vector.clone(),
            origin: question.origin.clone(),
        };
        expected.insert(question.key, text);
        if expected.len() > MAX_EXPECTED {
            expected.pop_front();
        }
        Some(vector)
    }

    fn request(&self, question: &Question) -> Option<Pending> {
        let named = question.model.as_deref();
        let Some((name, _)) = self.config.resolve(named) else {
            if !self.has_warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    model = named,
                    task_id = &*question.origin.task_id,
                    "task wants an embedding model that is not configured, and is computed"
                );
            }
            return None;
        };
        let text = &question.origin.text;
        if text.len() > MAX_TEXT_BYTES {
            return None;
        }
        self.models.get(name)?.request(text)
    }

    /// The nearest results of the texts that are known, as far as they are near enough.
    pub(crate) async fn nearest(&self, question: &Question, vector: &Pending) -> Vec<Near> {
        let Some(vector) = vector.within(self.config.budget.0).await else {
            self.counters.timeouts.fetch_add(1, Ordering::Relaxed);
            return Vec::new();
        };
        let (index, scope) = (Arc::clone(&self.index), question.scope);
        // What is as near as the bound when it is rounded counts.
        let least = question.near.cosine() as f32 - 1e-6;
        let scan = move || index.nearest(scope, &vector, least, MAX_CANDIDATES);
        let near = tokio::task::spawn_blocking(scan).await;
        // It fails only when the process ends.
        near.unwrap_or_default()
    }

    /// A result is not there any more.
    pub(crate) fn gone(&self, question: &Question, near: &Near) {
        self.index.remove(question.scope, near.key);
    }

    /// A lookup gave its answer.
    pub(crate) fn answered(&self, since: Instant) {
        self.counters.latency.record(since.elapsed());
    }

    /// A result is used for another text.
    pub(crate) fn reused(&self, question: &Question, near: &Near, saved: Duration) {
        self.index.used(question.scope, near.key);
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        let saved = u64::try_from(saved.as_micros()).unwrap_or(u64::MAX);
        self.counters
            .saved_micros
            .fetch_add(saved, Ordering::Relaxed);
        self.expected().remove(&question.key);
    }

    /// What a task is shown of a result; none if it is too large.
    pub(crate) fn show(
        &self,
        question: &Question,
        near: &Near,
        output: &Output,
    ) -> Option<Box<NearHit>> {
        let similar = similar(near);
        let shown = serde_json::json!({
            "output": serde_json::from_slice::<&RawValue>(&output.value).ok()?,
            "text": &*near.origin.text,
            "similarity": similar.similarity.cosine(),
            "run_id": similar.run_id.to_string(),
            "task_id": &*similar.task_id,
        });
        let shown = serde_json::to_vec(&shown).ok()?;
        if shown.len() > MAX_SHOWN_BYTES {
            return None;
        }
        self.index.used(question.scope, near.key);
        self.counters.near_hits.fetch_add(1, Ordering::Relaxed);
        Some(Box::new(NearHit {
            similar,
            shown: shown.into(),
        }))
    }

    /// A result was computed; without it when it was not kept.
    pub(crate) fn computed(&self, key: CacheKey, is_kept: bool) {
        let expected = self.expected().remove(&key);
        if let Some(expected) = expected.filter(|_| is_kept)
            && let Some(vector) = expected.vector.now()
        {
            self.index
                .insert(expected.scope, key, vector, expected.origin);
        }
    }

    pub(crate) fn statistics(&self) -> SemanticStatistics {
        let counters = &self.counters;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let models = self.models.iter();
        SemanticStatistics {
            lookups: count(&counters.lookups),
            hits: count(&counters.hits),
            near_hits: count(&counters.near_hits),
            skipped: count(&counters.skipped),
            timeouts: count(&counters.timeouts),
            saved: Duration::from_micros(count(&counters.saved_micros)),
            latency: counters.latency.latency(),
            index: self.index.statistics(),
            models: models
                .map(|(name, model)| (name.clone(), model.statistics()))
                .collect(),
        }
    }

    fn expected(&self) -> MutexGuard<'_, LinkedHashMap<CacheKey, Expected>> {
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose result is near, and how nearly.
pub(crate) fn similar(near: &Near) -> Similar {
    Similar {
        similarity: Similarity::new(near.similarity.into()),
        run_id: near.origin.run_id,
        task_id: Arc::clone(&near.origin.task_id),
    }
}

/// What expressions see of a near hit.
pub(crate) fn shown_value(near_hit: &NearHit) -> Option<Value> {
    serde_json::from_slice(&near_hit.shown).ok()
}
