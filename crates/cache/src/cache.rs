//! The cache: tiers in the order in which they are asked.

use std::future::Future;
use std::io::BufRead;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use levelflow_common::Timestamp;
use levelflow_runtime::task;

use crate::clock::Clock;
use crate::codec::Packed;
use crate::config::CacheConfig;
use crate::entry::{Computed, Entry, Hit, Labels, Target, Terms};
use crate::error::{CacheError, NotKept};
use crate::flight::{Boarding, Flights};
use crate::lease::{Arrival, Flight};
use crate::memory::MemoryTier;
use crate::packer::Packer;
use crate::postgres::PostgresTier;
use crate::redis::RedisTier;
use crate::shared::{Shared, SharedSettings};
use crate::statistics::{CacheStatistics, Counter, LookupCounters, TierStatistics};
use crate::tier::{Record, SharedTier, TierKind, Usage};
use crate::warm_up::{self, WarmUp};
use levelflow_common::{CacheKey, Protection};

/// The time between sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// The result cache. Clones are the same cache.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
}

/// Where a result came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was kept.
    Kept {
        /// Where.
        tier: TierKind,
        /// How long ago it was computed.
        age: Duration,
    },
    /// It was computed for this call.
    Computed,
    /// It was computed for another call at the same time.
    Joined,
}

/// A result, and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Obtained {
    /// The result.
    pub computed: Computed,
    /// Where it came from.
    pub source: Source,
}

/// What the handles of a cache have in common.
pub(crate) struct Inner {
    config: CacheConfig,
    clock: Clock,
    memory: MemoryTier,
    memory_lookups: LookupCounters,
    shared: Vec<Shared>,
    flights: Flights,
    packer: OnceLock<Packer>,
    /// Raised by each removal: what was read from a tier before it is not put into memory after it.
    removals: AtomicU64,
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    lookups: Counter,
    hits: Counter,
    saved_micros: Counter,
    kept: Counter,
    not_kept: Counter,
    compression_saved: Counter,
    joined: Counter,
}

impl Cache {
    /// Starts a cache. It belongs to the runtime in which this is called. Shared tiers are connected to
    /// when they are asked.
    ///
    /// # Errors
    /// When a setting is wrong, or the system gives no thread.
    pub fn start(config: CacheConfig, clock: Clock) -> Result<Self, CacheError> {
        config.validate()?;
        let mut tiers: Vec<(Arc<dyn SharedTier>, SharedSettings)> = Vec::new();
        if let Some(redis) = &config.redis {
            tiers.push((Arc::new(RedisTier::new(redis)?), redis.settings()));
        }
        if let Some(postgres) = &config.postgres {
            tiers.push((Arc::new(PostgresTier::new(postgres)?), postgres.settings()));
        }
        Self::with_tiers(config, clock, tiers)
    }

    /// Starts a cache with these shared tiers.
    pub(crate) fn with_tiers(
        config: CacheConfig,
        clock: Clock,
        tiers: Vec<(Arc<dyn SharedTier>, SharedSettings)>,
    ) -> Result<Self, CacheError> {
        let shared = tiers.into_iter();
        let inner = Arc::new(Inner {
            memory: MemoryTier::new(&config.memory),
            memory_lookups: LookupCounters::default(),
            shared: shared
                .map(|(tier, settings)| Shared::start(tier, settings, Arc::clone(&clock)))
                .collect(),
            config,
            clock,
            flights: Flights::default(),
            packer: OnceLock::new(),
            removals: AtomicU64::new(0),
            counters: Counters::default(),
        });
        let packer = Packer::start(Arc::downgrade(&inner)).map_err(CacheError::Thread)?;
        inner.packer.get_or_init(|| packer);
        task::spawn("cache sweeps", sweep(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Whether there are tiers to ask with [`Cache::lookup_shared`].
    pub fn has_shared_tiers(&self) -> bool {
        !self.inner.shared.is_empty()
    }

    /// Looks in memory only, and never waits: for threads that must not. A miss is to be followed by
    /// [`Cache::lookup_shared`] where there are shared tiers.
    pub fn lookup_memory(&self, key: &CacheKey) -> Option<Hit> {
        self.inner.counters.lookups.add(1);
        let hit = self.inner.find_in_memory(key)?;
        self.inner.count_hit(&hit);
        Some(hit)
    }

    /// Looks in the shared tiers only, in their order, after a miss in memory. Takes at most the budgets of
    /// all of them.
    pub async fn lookup_shared(&self, key: &CacheKey) -> Option<Hit> {
        let hit = self.inner.find_shared(key).await?;
        self.inner.count_hit(&hit);
        Some(hit)
    }

    /// Looks in all tiers.
    pub async fn lookup(&self, key: &CacheKey) -> Option<Hit> {
        match self.lookup_memory(key) {
            Some(hit) => Some(hit),
            None => self.lookup_shared(key).await,
        }
    }

    /// As [`Cache::lookup`], and not counted as one: for what is asked for beside the result that is wanted.
    pub async fn find(&self, key: &CacheKey) -> Option<Hit> {
        match self.inner.find_in_memory(key) {
            Some(hit) => Some(hit),
            None => self.inner.find_shared(key).await,
        }
    }

    /// Keeps a result: in memory at once, in shared tiers in the background. It is packed on this thread;
    /// [`Cache::put_in_background`] is for those that have no time for it.
    ///
    /// # Errors
    /// When it is not kept. There is nothing to do about it.
    pub fn put(&self, key: &CacheKey, computed: Computed, terms: Terms) -> Result<(), NotKept> {
        self.inner.put(key, computed, terms)
    }

    /// As [`Cache::put`], on another thread: a lookup right after it may not find the result yet.
    ///
    /// # Errors
    /// When too much waits to be packed. Other reasons only show in the statistics.
    pub fn put_in_background(
        &self,
        key: &CacheKey,
        computed: Computed,
        terms: Terms,
    ) -> Result<(), NotKept> {
        let packer = self.inner.packer();
        let result = packer.put(key, computed, terms);
        if result.is_err() {
            self.inner.counters.not_kept.add(1);
        }
        result
    }

    /// The result that is kept, or else that of `compute`, which is then kept on these terms. Of identical
    /// calls at the same time, in this process and in those that share a tier with it, one computes and
    /// the others wait for it; they get its result also when that is a failure.
    pub async fn get_or_compute<F, Fut>(&self, key: &CacheKey, terms: Terms, compute: F) -> Obtained
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Computed>,
    {
        if let Some(hit) = self.lookup(key).await {
            return hit.into();
        }
        let inner = &self.inner;
        loop {
            let lead = match inner.flights.board(key) {
                Boarding::Lead(lead) => lead,
                Boarding::Follow(follow) => {
                    let Some(computed) = follow.landed().await else {
                        continue;
                    };
                    inner.counters.joined.add(1);
                    return Obtained {
                        computed: Computed::clone(&computed),
                        source: Source::Joined,
                    };
                }
            };
            // Another may have landed between the lookup and the lead.
            if let Some(hit) = inner.find_in_memory(key) {
                lead.land(Arc::new(hit.entry.computed.clone()));
                return hit.into();
            }
            let lease = match self.begin_flight(key).await {
                Flight::Leader(lease) => Some(lease),
                Flight::Follower(wait) => match wait.arrival().await {
                    Arrival::Hit(hit) => {
                        inner.counters.joined.add(1);
                        lead.land(Arc::new(hit.entry.computed.clone()));
                        return (*hit).into();
                    }
                    Arrival::Leader(lease) => Some(lease),
                    Arrival::TimedOut => None,
                },
            };
            let computed = compute().await;
            // What is not kept is counted there.
            let _ = inner.put(key, computed.clone(), terms);
            drop(lease);
            lead.land(Arc::new(computed.clone()));
            return Obtained {
                computed,
                source: Source::Computed,
            };
        }
    }

    /// Takes the lead in computing a key, or says who to wait for, among all processes that share a tier.
    /// Without such a tier, or if none answers in time, everyone leads.
    pub async fn begin_flight(&self, key: &CacheKey) -> Flight {
        crate::lease::begin(&self.inner, key).await
    }

    /// Removes entries from all tiers, those that wait to be written included; says how many there were,
    /// counted by tier. What another process has in its own memory stays until it expires.
    ///
    /// # Errors
    /// When a tier could not do it. The others have.
    pub async fn invalidate(&self, target: &Target) -> Result<u64, CacheError> {
        let inner = &self.inner;
        // What waits to be packed was put before.
        inner.packer().flush().await;
        inner.removals.fetch_add(1, Ordering::AcqRel);
        let mut removed = inner.memory.remove_now(target);
        let mut failed = None;
        for shared in &inner.shared {
            match shared.remove(target.clone()).await {
                Ok(count) => removed += count,
                Err(source) => {
                    let tier = shared.kind();
                    failed.get_or_insert(CacheError::Tier { tier, source });
                }
            }
        }
        // Lookups that were under way may have put into memory what the tiers then removed.
        inner.removals.fetch_add(1, Ordering::AcqRel);
        inner.memory.remove_now(target);
        match failed {
            Some(error) => Err(error),
            None => Ok(removed),
        }
    }

    /// Removes all entries of a tenant, or all.
    ///
    /// # Errors
    /// As [`Cache::invalidate`].
    pub async fn clear(&self, tenant: Option<&str>) -> Result<u64, CacheError> {
        let target = match tenant {
            Some(tenant) => Target::Tenant(tenant.to_owned()),
            None => Target::All,
        };
        self.invalidate(&target).await
    }

    /// Forgets what is in memory, and says how many entries that were: to give the memory back. Shared tiers
    /// keep what they have.
    pub fn clear_memory(&self) -> u64 {
        self.inner.memory.remove_now(&Target::All)
    }

    /// Keeps the results of a file with one JSON object a line; see [`WarmUp`]. Reads and packs on this
    /// thread.
    ///
    /// # Errors
    /// When the file cannot be read. Lines that make no sense are passed over and told.
    pub fn warm_up(&self, file: impl BufRead) -> std::io::Result<WarmUp> {
        warm_up::read(file, |key, computed, terms| self.put(&key, computed, terms))
    }

    /// What the cache did since its start.
    pub fn statistics(&self) -> CacheStatistics {
        self.inner.statistics()
    }

    /// What each tier holds; asks the shared tiers, which may take a while.
    ///
    /// # Errors
    /// When a tier does not answer.
    pub async fn usage(&self) -> Result<Vec<(TierKind, Usage)>, CacheError> {
        let mut usages = vec![(TierKind::Memory, self.inner.memory.usage_now())];
        for shared in &self.inner.shared {
            let tier = shared.kind();
            let usage = shared.usage().await;
            usages.push((
                tier,
                usage.map_err(|source| CacheError::Tier { tier, source })?,
            ));
        }
        Ok(usages)
    }

    /// Waits until everything that was put before is written or dropped: before a process ends.
    pub async fn flush(&self) {
        self.inner.packer().flush().await;
        for shared in &self.inner.shared {
            if let Err(error) = shared.flush().await {
                let error: &(dyn std::error::Error + 'static) = &error;
                tracing::warn!(
                    tier = shared.kind().as_str(),
                    error,
                    "cache tier was not written"
                );
            }
        }
    }
}

impl Inner {
    pub(crate) fn config(&self) -> &CacheConfig {
        &self.config
    }

    pub(crate) fn shared(&self) -> &[Shared] {
        &self.shared
    }

    fn packer(&self) -> &Packer {
        self.packer
            .get()
            .expect("it is set where the cache is made")
    }

    fn find_in_memory(&self, key: &CacheKey) -> Option<Hit> {
        let started = Instant::now();
        let now = (self.clock)();
        let lookups = &self.memory_lookups;
        let found = self.memory.get_now(key, now).and_then(|sealed| {
            let opened = self.open(key, &sealed, now);
            opened.unwrap_or_else(|Corrupt| {
                lookups.corrupt.add(1);
                self.memory.remove_damaged(key, &sealed);
                None
            })
        });
        lookups.answered(started.elapsed());
        match found {
            Some((_, entry)) => {
                lookups.hits.add(1);
                Some(hit(entry, TierKind::Memory, now))
            }
            None => {
                lookups.misses.add(1);
                None
            }
        }
    }

    /// Asks the shared tiers in their order; what is found is put into those above.
    pub(crate) async fn find_shared(&self, key: &CacheKey) -> Option<Hit> {
        for place in 0..self.shared.len() {
            if let Some(hit) = self.find_in_tier(key, place).await {
                return Some(hit);
            }
        }
        None
    }

    /// Asks one of the shared tiers; what is found is put into those above.
    pub(crate) async fn find_in_tier(&self, key: &CacheKey, place: usize) -> Option<Hit> {
        let removals = self.removals.load(Ordering::Acquire);
        let shared = &self.shared[place];
        let now = (self.clock)();
        let opened = match shared.get(key, now).await {
            // The answer may have taken until after the entry has expired.
            Some(sealed) => self.open(key, &sealed, (self.clock)()),
            None => Ok(None),
        };
        match opened {
            Ok(Some((packed, entry))) => {
                shared.lookups().hits.add(1);
                self.promote(key, &packed, &entry, place, removals);
                return Some(hit(entry, shared.kind(), now));
            }
            Ok(None) => {}
            Err(Corrupt) => {
                shared.lookups().corrupt.add(1);
                shared.discard(key);
            }
        }
        shared.lookups().misses.add(1);
        None
    }

    /// Checks and reads sealed bytes; nothing if they have expired.
    fn open(
        &self,
        key: &CacheKey,
        sealed: &Bytes,
        now: Timestamp,
    ) -> Result<Option<(Packed, Entry)>, Corrupt> {
        let limit = self.config.max_entry_bytes;
        let read = || {
            let (packed, expires_at) = Packed::open(key, sealed)?;
            let entry = packed.unpack(limit)?;
            Ok((packed, entry, expires_at))
        };
        let (packed, entry, expires_at) = read().map_err(|error: crate::CorruptEntry| {
            tracing::warn!(key = %key, reason = %error, "cache entry is not used");
            Corrupt
        })?;
        let is_valid = now < expires_at && now < entry.expires_at;
        Ok(is_valid.then_some((packed, entry)))
    }

    fn promote(&self, key: &CacheKey, packed: &Packed, entry: &Entry, place: usize, removals: u64) {
        if self.removals.load(Ordering::Acquire) == removals {
            let labels = Arc::new(entry.labels.clone());
            self.keep(key, packed, &labels, entry.expires_at, place);
        }
    }

    /// Puts an entry into memory, and into as many of the shared tiers.
    fn keep(
        &self,
        key: &CacheKey,
        packed: &Packed,
        labels: &Arc<Labels>,
        expires_at: Timestamp,
        tiers: usize,
    ) -> bool {
        let now = (self.clock)();
        let record = |ttl: Duration| {
            let expires_at = now.saturating_add(ttl).min(expires_at);
            Record {
                key: *key,
                sealed: packed.seal(key, expires_at),
                labels: Arc::clone(labels),
                expires_at,
            }
        };
        for shared in &self.shared[..tiers] {
            shared.put(record(shared.ttl()));
        }
        let fits = self.memory.put_now(&record(self.memory.longest()), now);
        fits || tiers > 0
    }

    /// See [`Cache::put`].
    pub(crate) fn put(
        &self,
        key: &CacheKey,
        computed: Computed,
        terms: Terms,
    ) -> Result<(), NotKept> {
        let kept = self.try_put(key, computed, terms);
        match &kept {
            Ok(()) => self.counters.kept.add(1),
            // Nobody wanted them to be kept.
            Err(NotKept::Failure | NotKept::NoTime) => {}
            Err(_) => self.counters.not_kept.add(1),
        }
        kept
    }

    fn try_put(&self, key: &CacheKey, computed: Computed, terms: Terms) -> Result<(), NotKept> {
        if !terms.labels.are_within_bounds() {
            return Err(NotKept::Labels);
        }
        let now = (self.clock)();
        let ttl = match (&computed.result, terms.failure_ttl) {
            (Ok(_), _) => terms.ttl.unwrap_or(Duration::MAX),
            (Err(_), Some(ttl)) => ttl,
            (Err(_), None) => return Err(NotKept::Failure),
        };
        let ttl = ttl.min(self.longest_ttl());
        if ttl.is_zero() {
            return Err(NotKept::NoTime);
        }
        let entry = Entry {
            computed,
            labels: terms.labels,
            handler_version: terms.handler_version,
            created_at: now,
            expires_at: match Protection::Expiry.holds() {
                true => now.saturating_add(ttl),
                false => Timestamp::from_micros(u64::MAX),
            },
        };
        let config = &self.config;
        let limit = config.max_entry_bytes;
        let packed = Packed::pack(&entry, config.compress_over_bytes, limit)?;
        let expires_at = entry.expires_at;
        let labels = Arc::new(entry.labels);
        if !self.keep(key, &packed, &labels, expires_at, self.shared.len()) {
            return Err(NotKept::NoRoom);
        }
        self.counters.compression_saved.add(packed.saved() as u64);
        Ok(())
    }

    fn longest_ttl(&self) -> Duration {
        let shared = self.shared.iter().map(Shared::ttl);
        shared.fold(self.memory.longest(), Duration::max)
    }

    fn count_hit(&self, hit: &Hit) {
        self.counters.hits.add(1);
        let took = hit.entry.computed.took.as_micros();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        self.counters.saved_micros.add(took);
    }

    fn statistics(&self) -> CacheStatistics {
        let counters = &self.counters;
        // Hits first: every hit was counted as a lookup before.
        let hits = counters.hits.get();
        let lookups = counters.lookups.get();
        let memory = self.memory.counters();
        let in_memory = TierStatistics {
            tier: TierKind::Memory,
            hits: self.memory_lookups.hits.get(),
            misses: self.memory_lookups.misses.get(),
            corrupt: self.memory_lookups.corrupt.get(),
            usage: Some(self.memory.usage_now()),
            evictions: memory.evictions,
            expired: memory.expired,
            latency: self.memory_lookups.latency(),
            shared: None,
        };
        let shared = self.shared.iter().map(Shared::statistics);
        CacheStatistics {
            lookups,
            hits,
            misses: lookups - hits,
            hit_rate: hits as f64 / lookups.max(1) as f64,
            saved_seconds: counters.saved_micros.get() as f64 / 1e6,
            kept: counters.kept.get(),
            not_kept: counters.not_kept.get(),
            compression_saved_bytes: counters.compression_saved.get(),
            joined: counters.joined.get(),
            tiers: std::iter::once(in_memory).chain(shared).collect(),
        }
    }
}

/// Sealed bytes that are no entry; they were logged.
struct Corrupt;

fn hit(entry: Entry, tier: TierKind, now: Timestamp) -> Hit {
    Hit {
        age: now.since(entry.created_at),
        tier,
        entry,
    }
}

impl From<Hit> for Obtained {
    fn from(hit: Hit) -> Self {
        Self {
            source: Source::Kept {
                tier: hit.tier,
                age: hit.age,
            },
            computed: hit.entry.computed,
        }
    }
}

/// Removes what has expired, from time to time, for as long as there is a cache.
async fn sweep(cache: Weak<Inner>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(cache) = cache.upgrade() else {
            return;
        };
        cache.memory.sweep_now((cache.clock)());
        for shared in &cache.shared {
            shared.sweep();
        }
    }
}
