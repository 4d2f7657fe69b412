//! The result cache as the engine asks for it: what a task is looked up by, what was found, and what is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use levelflow_cache::frame::frame;
use levelflow_cache::normalize::{words_in, words_in_prompts};
use levelflow_cache::{
    Arrival, Cache, CanonicalJson, Computed, Flight, Hit, KeyParts, Labels, Lease, Subject, Terms,
    TierKind,
};
use levelflow_common::cache::{CacheScope, Normalize};
use levelflow_common::expression::{ExpressionError, Scope};
use levelflow_common::{
    CacheKey, CacheTier, CacheUse, CachedFrom, Code, Failure, FencingToken, Protection, RunId,
    TaskKind, chunk,
};
use levelflow_embedding::{Origin, Pending};
use levelflow_engine::command::Computed as Kept;
use levelflow_engine::definition::TaskSpec;
use levelflow_engine::record::RecordedStream;
use levelflow_engine::{CacheSpec, Found, HandlerVersion, Lookup, NearHit, Output};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::semantic::{Question, Semantic, similar};

/// The cache, and what this coordinator computes for all that share it.
pub(crate) struct ResultCache {
    cache: Cache,
    under_way: Mutex<UnderWay>,
    /// Results by the meaning of a text.
    semantic: Arc<Semantic>,
}

#[derive(Default)]
struct UnderWay {
    /// Lookups of shared tiers. Tasks of this coordinator that need the same wait for the answer to one.
    asked: HashMap<CacheKey, watch::Receiver<Option<Answer>>>,
    /// Rights to compute, until the result is kept.
    leases: HashMap<CacheKey, Lease>,
}

/// What was found beyond the memory of this coordinator.
pub(crate) enum Sought {
    /// Nothing.
    Nothing,
    /// A result that the task ends with.
    Found(Box<Found>),
    /// A result that the task is shown.
    Near(Box<NearHit>),
}

/// The answer of the shared tiers: what was found, or that this coordinator is to compute.
type Answer = Option<Found>;

impl ResultCache {
    pub(crate) fn new(cache: Cache, semantic: Arc<Semantic>) -> Self {
        Self {
            cache,
            under_way: Mutex::default(),
            semantic,
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

    /// Looks beyond memory for the result of a task: in the shared tiers, then for that of a nearly equal text.
    pub(crate) async fn seek(&self, asked: Asked, cache_use: CacheUse) -> Sought {
        let is_used = cache_use == CacheUse::Use;
        if is_used
            && self.has_shared_tiers()
            && let Some(found) = self.elsewhere(asked.key).await
            && is_young(&found, asked.ttl)
        {
            return Sought::Found(Box::new(found));
        }
        let Some(question) = asked.question else {
            return Sought::Nothing;
        };
        let since = Instant::now();
        let Some(vector) = self.semantic.expect(&question) else {
            return Sought::Nothing;
        };
        if !is_used {
            return Sought::Nothing;
        }
        let sought = self.similar(&question, &vector, asked.ttl).await;
        self.semantic.answered(since);
        sought
    }

    async fn similar(
        &self,
        question: &Question,
        vector: &Pending,
        ttl: Option<Duration>,
    ) -> Sought {
        for near in self.semantic.nearest(question, vector).await {
            // Its own result was not there a moment ago.
            if near.key == question.key {
                continue;
            }
            let hit = self.cache.find(&near.key).await.map(found);
            let is_too_old = hit.as_ref().is_some_and(|it| !is_young(it, ttl));
            if is_too_old {
                continue;
            }
            let Some(Found {
                result: Ok(output),
                from,
                ..
            }) = hit
            else {
                self.semantic.gone(question, &near);
                continue;
            };
            let similar = similar(&near);
            if similar.similarity >= question.reuse {
                self.semantic.reused(question, &near, from.saved);
                self.give_up(question.key);
                return Sought::Found(Box::new(Found {
                    result: Ok(output),
                    from,
                    similar_to: Some(Box::new(similar)),
                }));
            }
            if let Some(near_hit) = self.semantic.show(question, &near, &output) {
                return Sought::Near(near_hit);
            }
        }
        Sought::Nothing
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
        let is_output = computed.result.is_ok();
        let put = self.cache.put(&kept.key, computed, terms);
        if let Err(reason) = &put {
            tracing::debug!(run_id = %kept.run_id, task_id = &*spec.id, %reason, "result was not kept");
        }
        self.semantic.computed(kept.key, is_output && put.is_ok());
        self.give_up(kept.key);
    }

    /// Nobody here computes a result any more: another coordinator may.
    pub(crate) fn give_up(&self, key: CacheKey) {
        self.semantic.computed(key, false);
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
    /// That run.
    pub(crate) run_id: RunId,
}

/// The task whose result is wanted.
pub(crate) struct Wanted<'a> {
    /// The workflow.
    pub(crate) workflow: &'a str,
    /// The task.
    pub(crate) spec: &'a TaskSpec,
    /// Its evaluated input.
    pub(crate) input: &'a Value,
}

/// What the result of a task is found by.
pub(crate) struct Asked {
    /// The result itself.
    pub(crate) key: CacheKey,
    /// That of a nearly equal text, where such a one will do.
    pub(crate) question: Option<Box<Question>>,
    /// How old it may be.
    ttl: Option<Duration>,
}

/// Whether a result will do for a task. It may be kept on the terms of another one, which takes older results.
fn is_young(found: &Found, ttl: Option<Duration>) -> bool {
    ttl.is_none_or(|ttl| found.from.age <= ttl) || !Protection::Expiry.holds()
}

impl Asking<'_> {
    /// What the result of a task is found by, and what memory has; where that is nothing, what else is to be
    /// looked for.
    ///
    /// # Errors
    /// When the expressions of its `cache` fail.
    pub(crate) fn look_up(
        &self,
        wanted: &Wanted<'_>,
        cache: &CacheSpec,
        scope: &Scope,
    ) -> Result<(Lookup, Option<Asked>), Failure> {
        let explicit = cache.key.as_ref().map(|key| key.render(scope)).transpose();
        let explicit = explicit.map_err(|error| expression_failed(&error))?;
        let is_explicit = explicit.is_some();
        let mut subject = explicit.unwrap_or_else(|| wanted.input.clone());
        let exact = subject.clone();
        let kind = wanted.spec.kind;
        match cache.policy.normalize {
            Normalize::Exact => {}
            Normalize::Words if kind == TaskKind::Chat && !is_explicit => {
                words_in_prompts(&mut subject);
            }
            Normalize::Words => words_in(&mut subject),
        }
        let subject = CanonicalJson::of(&subject);
        let key = self.key(
            wanted,
            cache,
            match is_explicit {
                true => Subject::Explicit(&subject),
                false => Subject::Input(&subject),
            },
        );
        let ttl = cache.policy.ttl.map(|ttl| ttl.0);
        let found = match self.cache_use {
            CacheUse::Use => self.cache.in_memory(key),
            CacheUse::Refresh | CacheUse::Off => None,
        };
        let found = found.filter(|found| is_young(found, ttl));
        let asked = match &found {
            Some(_) => None,
            None => Some(Asked {
                key,
                question: self.question(wanted, cache, &exact, key, scope)?,
                ttl,
            }),
        };
        let lookup = Lookup {
            key,
            handler_version: self.handler_version.clone(),
            found,
            near: None,
        };
        Ok((lookup, asked))
    }

    /// What to look for where the result itself is not there.
    fn question(
        &self,
        wanted: &Wanted<'_>,
        cache: &CacheSpec,
        subject: &Value,
        key: CacheKey,
        scope: &Scope,
    ) -> Result<Option<Box<Question>>, Failure> {
        let (Some(policy), Some(text)) = (&cache.policy.semantic, &cache.text) else {
            return Ok(None);
        };
        let text = text
            .render(scope)
            .map_err(|error| expression_failed(&error))?;
        let Value::String(text) = text else {
            let problem = "`cache.semantic.text` must be a text";
            return Err(Failure::permanent(Code::TaskInputInvalid, problem));
        };
        // What is too near to nothing would be near to everything.
        if text.trim().is_empty() {
            return Ok(None);
        }
        let frame = CanonicalJson::of(&json!({
            "model": policy.model,
            "rest": frame(subject, &text),
        }));
        Ok(Some(Box::new(Question {
            key,
            scope: self.key(wanted, cache, Subject::Frame(&frame)),
            model: policy.model.clone(),
            reuse: policy.reuse(),
            near: policy.near(),
            origin: Origin {
                text: text.into(),
                run_id: self.run_id,
                task_id: Arc::clone(&wanted.spec.id),
            },
        })))
    }

    fn key(&self, wanted: &Wanted<'_>, cache: &CacheSpec, subject: Subject<'_>) -> CacheKey {
        let parts = KeyParts {
            tenant: self.tenant,
            scope: match cache.policy.scope {
                CacheScope::Tenant => "",
                CacheScope::Workflow => wanted.workflow,
            },
            kind: wanted.spec.kind,
            definition: cache.definition,
            subject,
            handler_version: self.handler_version.as_str(),
        };
        parts.key()
    }
}

pub(crate) fn expression_failed(error: &ExpressionError) -> Failure {
    Failure::permanent(Code::ExpressionFailed, error.message())
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
        similar_to: None,
    }
}
