//! What handlers keep for later attempts.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use levelflow_cache::{
    Cache, CacheConfig, CacheKey, CanonicalJson, Clock, Computed, KeyParts, Labels, Subject, Terms,
};
use levelflow_common::{TaskKind, Timestamp, WorkflowDigest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::context::Context;
use crate::handler_error::HandlerError;

/// Stands in keys where those of tasks have what decides their results.
const DEFINITION: &[u8] = b"kept by handlers";

/// The cache of a worker. It starts when a handler first asks for it.
pub(crate) struct WorkerCache {
    config: CacheConfig,
    runtime: OnceLock<Handle>,
    /// None inside if it could not be started.
    started: OnceLock<Option<Cache>>,
}

impl WorkerCache {
    pub(crate) fn new(config: CacheConfig) -> Self {
        Self {
            config,
            runtime: OnceLock::new(),
            started: OnceLock::new(),
        }
    }

    /// From now on it can be started, in the runtime in which this is called.
    pub(crate) fn open(&self) {
        self.runtime.get_or_init(Handle::current);
    }

    /// Gives back the memory of its entries.
    pub(crate) fn clear_memory(&self) {
        if let Some(Some(cache)) = self.started.get() {
            let entries = cache.clear_memory();
            tracing::info!(entries, "cache of handlers was cleared");
        }
    }

    fn get(&self) -> Option<&Cache> {
        let runtime = self.runtime.get()?;
        let start = || {
            let _entered = runtime.enter();
            match Cache::start(self.config.clone(), clock()) {
                Ok(cache) => Some(cache),
                Err(error) => {
                    let error: &(dyn std::error::Error + 'static) = &error;
                    tracing::error!(error, "cache of handlers was not started");
                    None
                }
            }
        };
        self.started.get_or_init(start).as_ref()
    }
}

impl fmt::Debug for WorkerCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerCache").finish_non_exhaustive()
    }
}

/// Wall time, which does not jump when someone sets the clock.
fn clock() -> Clock {
    let started = Instant::now();
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let started_at = Timestamp::default().saturating_add(since_epoch);
    Arc::new(move || started_at.saturating_add(started.elapsed()))
}

/// The cache of a worker, as one of its handlers gets it.
#[derive(Debug)]
pub(crate) struct HandlerScope {
    pub(crate) cache: Arc<WorkerCache>,
    pub(crate) handler: String,
}

/// What handlers keep for later attempts; see [`Context::cache`].
///
/// Values are kept as JSON under keys that are anything that can be written as JSON. Those of other tenants
/// and, unless both name the same [scope](HandlerCache::scope), of other handlers are not found. Nothing here
/// fails an attempt because of the cache: what it does not have, or cannot keep, is computed.
#[derive(Clone, Debug)]
pub struct HandlerCache {
    context: Context,
    scope: Option<String>,
    ttl: Option<Duration>,
}

impl HandlerCache {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            context,
            scope: None,
            ttl: None,
        }
    }

    /// Shares what is kept with the handlers that name the same scope, in place of all attempts at this one.
    #[must_use]
    pub fn scope(mut self, name: impl Into<String>) -> Self {
        self.scope = Some(name.into());
        self
    }

    /// Keeps values for this long at most; by default as long as the cache keeps any.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The value that is kept under a key. One that is not a `T` is not found.
    ///
    /// # Errors
    /// When the key cannot be written as JSON.
    pub async fn get<K, T>(&self, key: &K) -> Result<Option<T>, HandlerError>
    where
        K: Serialize + ?Sized,
        T: DeserializeOwned,
    {
        let Some(place) = self.place(key)? else {
            return Ok(None);
        };
        let hit = place.cache.lookup(&place.key).await;
        Ok(hit.and_then(|hit| read(&hit.entry.computed)))
    }

    /// Keeps a value under a key, in place of what was.
    ///
    /// # Errors
    /// When key or value cannot be written as JSON.
    pub fn put<K, T>(&self, key: &K, value: &T) -> Result<(), HandlerError>
    where
        K: Serialize + ?Sized,
        T: Serialize + ?Sized,
    {
        if let Some(place) = self.place(key)? {
            let value = serde_json::to_vec(value).map_err(|error| unwritable(&error))?;
            place.put(Computed::output(value, Duration::ZERO), self.ttl);
        }
        Ok(())
    }

    /// The value that is kept under a key, or else the one that `compute` gives, which is then kept. Of
    /// attempts that ask for the same at the same time, one computes and the others wait for it:
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use levelflow_worker::{Context, HandlerError};
    /// # async fn ask(_: &str) -> Result<f64, std::io::Error> { Ok(1.0) }
    /// async fn price(ctx: Context, (currency, amount): (String, f64)) -> Result<f64, HandlerError> {
    ///     let cache = ctx.cache().ttl(Duration::from_secs(60));
    ///     let rate: f64 = cache
    ///         .get_or_compute(&currency, async || Ok(ask(&currency).await?))
    ///         .await?;
    ///     Ok(rate * amount)
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of `compute`, which are not kept, but given to everyone who waited; and when key or value cannot
    /// be written as JSON.
    pub async fn get_or_compute<K, T, F, Fut>(&self, key: &K, compute: F) -> Result<T, HandlerError>
    where
        K: Serialize + ?Sized,
        T: Serialize + DeserializeOwned,
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, HandlerError>>,
    {
        let Some(place) = self.place(key)? else {
            return compute().await;
        };
        let mut compute = Some(compute);
        let mut fresh = None;
        let (to_compute, fresh_value) = (&mut compute, &mut fresh);
        let computed = async move || {
            let started = Instant::now();
            let result = match to_compute.take() {
                Some(compute) => compute().await,
                None => unreachable!("what is computed is computed once"),
            };
            let written = result.and_then(|value| {
                let json = serde_json::to_vec(&value).map_err(|error| unwritable(&error))?;
                *fresh_value = Some(value);
                Ok(Bytes::from(json))
            });
            Computed {
                result: written.map_err(Into::into),
                chunks: Vec::new(),
                took: started.elapsed(),
            }
        };
        let terms = place.terms(self.ttl);
        let obtained = place.cache.get_or_compute(&place.key, terms, computed);
        let obtained = obtained.await.computed;
        if let Some(value) = fresh {
            return Ok(value);
        }
        match (&obtained.result, compute) {
            (Err(failure), _) => Err(match failure.retryable {
                true => HandlerError::retryable(&failure.message),
                false => HandlerError::permanent(&failure.message),
            }),
            (Ok(_), None) => unreachable!("what was computed here is fresh"),
            (Ok(_), Some(compute)) => match read(&obtained) {
                Some(value) => Ok(value),
                // Something else is kept there: by another version of the handler, perhaps.
                None => {
                    let value = compute().await?;
                    self.put(key, &value)?;
                    Ok(value)
                }
            },
        }
    }

    /// Where a value is kept; none where there is no cache.
    fn place<K: Serialize + ?Sized>(&self, key: &K) -> Result<Option<Place<'_>>, HandlerError> {
        let Some(HandlerScope { cache, handler }) = self.context.handler_scope() else {
            return Ok(None);
        };
        let Some(cache) = cache.get() else {
            return Ok(None);
        };
        let key = serde_json::to_value(key).map_err(|error| unwritable(&error))?;
        let scope = match &self.scope {
            Some(name) => format!("scope {name}"),
            None => format!("handler {handler}"),
        };
        let tenant = self.context.tenant();
        let parts = KeyParts {
            tenant,
            scope: &scope,
            kind: TaskKind::Handler,
            definition: WorkflowDigest::of(DEFINITION),
            subject: Subject::Explicit(&CanonicalJson::of(&key)),
            handler_version: "",
        };
        let key = parts.key();
        Ok(Some(Place { cache, key, tenant }))
    }
}

/// Where a value is kept.
struct Place<'a> {
    cache: &'a Cache,
    key: CacheKey,
    tenant: &'a str,
}

impl Place<'_> {
    fn terms(&self, ttl: Option<Duration>) -> Terms {
        Terms {
            labels: Labels {
                tenant: self.tenant.to_owned(),
                ..Labels::default()
            },
            ttl,
            ..Terms::default()
        }
    }

    fn put(&self, computed: Computed, ttl: Option<Duration>) {
        if let Err(reason) = self.cache.put(&self.key, computed, self.terms(ttl)) {
            tracing::debug!(%reason, "value of a handler was not kept");
        }
    }
}

fn read<T: DeserializeOwned>(computed: &Computed) -> Option<T> {
    let value = computed.result.as_ref().ok()?;
    serde_json::from_slice(value).ok()
}

fn unwritable(error: &serde_json::Error) -> HandlerError {
    HandlerError::permanent(format!("it cannot be written as JSON: {error}"))
}
