//! The result cache as the engine asks for it: what a task is looked up by, what was found, and what is kept.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use levelflow_cache::normalize::{words_in, words_in_prompts};
use levelflow_cache::{
    Arrival, Cache, CanonicalJson, Computed, Flight, Hit, KeyParts, Labels, Lease, Subject, Terms,
    TierKind,
};
use levelflow_common::cache::{CacheScope, Normalize};
use levelflow_common::expression::{ExpressionError, Scope};
use levelflow_common::{CacheKey, CacheTier, CacheUse, CachedFrom, FencingToken, TaskKind, chunk};
use levelflow_engine::command::Computed as Kept;
use levelflow_engine::record::RecordedStream;
use levelflow_engine::{CacheSpec, Found, HandlerVersion, Lookup, Output};
use serde_json::Value;
use tokio::sync::watch;

/// The cache, and what this coordinator computes for all that share it.
pub(crate) struct ResultCache {
    cache: Cache,
    under_way: Mutex<UnderWay>,
}

#[derive(Default)]
struct UnderWay {
    /// Lookups of shared tiers. Tasks of this coordinator that need the same wait for the answer to one.
    asked: HashMap<CacheKey, watch::Receiver<Option<Answer>>>,
    /// Rights to compute, until the result is kept.
    leases: HashMap<CacheKey, Lease>,
}

/// The answer of the shared tiers: what was found, or that this coordinator is to compute.
type Answer = Option<Found>;

impl ResultCache {
    pub(crate) fn new(cache: Cache) -> Self {
        Self {
            cache,
            under_way: Mutex::default(),
        }
    }

    /// What is in memory. Does not wait.
    pub(crate) fn in_memory(&self, key: CacheKey) -> Option<Found> {
        self.cache.lookup_memory(&key).map(found)
    }

    /// Whether [`ResultCache::elsewhere`] may know more.
    pub(crate) fn has_shared_tiers(&self) -> bool {
        self.cache.has_shared_tiers()
    }

    /// What the shared tiers have, or what another coordinator that computes it puts there; none if it
    /// is this one's to compute.
    pub(crate) async fn elsewhere(&self, key: CacheKey) -> Option<Found> {
        loop {
            let (mut answer, first) = {
                let asked = &mut self.under_way().asked;
                match asked.get(&key) {
                    Some(answer) => (answer.clone(), None),
                    None => {
                        let (sender, receiver) = watch::channel(None);
                        asked.insert(key, receiver.clone());
                        (receiver, Some(sender))
                    }
                }
            };
            let Some(first) = first else {
                if let Ok(answer) = answer.wait_for(Option::is_some).await {
                    return answer.clone().flatten();
                }
                // Whoever asked is gone without an answer.
                continue;
            };
            let found = self.ask(key).await;
            self.under_way().asked.remove(&key);
            first.send_replace(Some(found.clone()));
            return found;
        }
    }

    async fn ask(&self, key: CacheKey) -> Option<Found> {
        if let Some(hit) = self.cache.lookup_shared(&key).await {
            return Some(found(hit));
        }
        if self.under_way().leases.contains_key(&key) {
            return None;
        }
        let lease = match self.cache.begin_flight(&key).await {
            Flight::Leader(lease) => Some(lease),
            Flight::Follower(wait) => match wait.arrival().await {
                Arrival::Hit(hit) => return Some(found(*hit)),
                Arrival::Leader(lease) => Some(lease),
                Arrival::TimedOut => None,
            },
        };
        if let Some(lease) = lease {
            self.under_way().leases.insert(key, lease);
        }
        None
    }

    fn under_way(&self) -> MutexGuard<'_, UnderWay> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a result in. Packs it on this thread.
    pub(crate) fn keep(&self, kept: Kept) {
        let spec = &kept.definition.tasks[kept.task.0 as usize];
        let Some(cache) = &spec.cache else {
            return;
        };
        let policy = &cache.policy;
        let terms = Terms {
            labels: Labels {
                tenant: kept.tenant.as_ref().to_owned(),
                workflow: kept.definition.name.as_ref().to_owned(),
                tags: policy.tags.clone(),
            },
            handler_version: kept.handler_version.as_str().to_owned(),
            ttl: policy.ttl.map(|ttl| ttl.0),
            failure_ttl: policy.on_error.map(|ttl| ttl.0),
        };
        let mut chunks = Vec::new();
        let result = kept.result.map(|output| {
            let packed = output.stream.map(|stream| stream.packed);
            chunks = packed.and_then(chunk::unpack).unwrap_or_default();
            output.value
        });
        let computed = Computed {
            result,
            chunks,
            took: kept.took,
        };
        if let Err(reason) = self.cache.put(&kept.key, computed, terms) {
            tracing::debug!(run_id = %kept.run_id, task_id = &*spec.id, %reason, "result was not kept");
        }
        self.give_up(kept.key);
    }

    /// Nobody here computes a result any more: another coordinator may.
    pub(crate) fn give_up(&self, key: CacheKey) {
        let lease = self.under_way().leases.remove(&key);
        drop(lease);
    }
}

/// Who asks the cache.
pub(crate) struct Asking<'a> {
    pub(crate) cache: &'a ResultCache,
    /// Whose run it is.
    pub(crate) tenant: &'a str,
    /// What the run does with the cache.
    pub(crate) cache_use: CacheUse,
    /// Whose results are meant.
    pub(crate) handler_version: &'a HandlerVersion,
}

impl Asking<'_> {
    /// What the result of a task is found by, and what memory has.
    ///
    /// # Errors
    /// When the expressions of `cache.key` fail.
    pub(crate) fn look_up(
        &self,
        workflow: &str,
        kind: TaskKind,
        spec: &CacheSpec,
        input: &Value,
        scope: &Scope,
    ) -> Result<Lookup, ExpressionError> {
        let key = self.key(workflow, kind, spec, input, scope)?;
        let found = match self.cache_use {
            CacheUse::Use => self.cache.in_memory(key),
            CacheUse::Refresh | CacheUse::Off => None,
        };
        Ok(Lookup {
            key,
            handler_version: self.handler_version.clone(),
            found,
        })
    }

    fn key(
        &self,
        workflow: &str,
        kind: TaskKind,
        spec: &CacheSpec,
        input: &Value,
        scope: &Scope,
    ) -> Result<CacheKey, ExpressionError> {
        let explicit = spec.key.as_ref().map(|key| key.render(scope)).transpose()?;
        let is_explicit = explicit.is_some();
        let mut subject = explicit.unwrap_or_else(|| input.clone());
        match spec.policy.normalize {
            Normalize::Exact => {}
            Normalize::Words if kind == TaskKind::Chat && !is_explicit => {
                words_in_prompts(&mut subject);
            }
            Normalize::Words => words_in(&mut subject),
        }
        let subject = CanonicalJson::of(&subject);
        let parts = KeyParts {
            tenant: self.tenant,
            scope: match spec.policy.scope {
                CacheScope::Tenant => "",
                CacheScope::Workflow => workflow,
            },
            kind,
            definition: spec.definition,
            subject: match is_explicit {
                true => Subject::Explicit(&subject),
                false => Subject::Input(&subject),
            },
            handler_version: self.handler_version.as_str(),
        };
        Ok(parts.key())
    }
}

fn found(hit: Hit) -> Found {
    let Hit { entry, tier, age } = hit;
    let computed = entry.computed;
    let stream = (!computed.chunks.is_empty()).then(|| {
        Box::new(RecordedStream {
            // Whoever computed it is gone; no attempt of this run has this name.
            stream: FencingToken(0),
            chunks: computed.chunks.len() as u32,
            packed: chunk::pack(&computed.chunks),
        })
    });
    Found {
        result: computed.result.map(|value| Output { value, stream }),
        from: CachedFrom {
            tier: match tier {
                TierKind::Memory => CacheTier::Memory,
                TierKind::Redis => CacheTier::Redis,
                TierKind::Postgres => CacheTier::Postgres,
            },
            age,
            saved: computed.took,
        },
    }
}
