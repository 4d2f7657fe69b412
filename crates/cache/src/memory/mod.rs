//! The tier in the memory of this process: bounded in entries and in bytes, never waits.
//!
//! One lock and two orders: by rank, in which entries go when there is no room, and by expiry. Both
//! bounds are exact, and so is the order of eviction.

mod eviction;
#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry as Place;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use levelflow_common::Timestamp;

use crate::adaptive::AdaptiveTtl;
use crate::config::MemoryConfig;
use crate::entry::{Labels, Target};
use crate::error::TierError;
use crate::tier::{Record, Tier, TierKind, Usage};
use levelflow_common::CacheKey;

pub use eviction::Eviction;
use eviction::{Rank, Ranking};

/// What an entry takes besides its bytes: its slot, its places in two orders, its labels.
const OVERHEAD_BYTES: usize = 320;

/// The tier in the memory of this process.
pub struct MemoryTier {
    max_entries: usize,
    max_bytes: usize,
    ttl: Duration,
    adaptive: Option<AdaptiveTtl>,
    contents: Mutex<Contents>,
}

/// What happened in the tier since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryCounters {
    /// Entries that had to go because there was no room.
    pub(crate) evictions: u64,
    /// Entries that expired.
    pub(crate) expired: u64,
}

struct Contents {
    slots: HashMap<CacheKey, Slot>,
    by_rank: BTreeMap<Rank, CacheKey>,
    /// By when they expire at the earliest.
    by_expiry: BTreeSet<(Timestamp, CacheKey)>,
    ranking: Ranking,
    bytes: usize,
    counters: MemoryCounters,
}

struct Slot {
    sealed: Bytes,
    labels: Arc<Labels>,
    rank: Rank,
    /// When it was put.
    put_at: Timestamp,
    /// The latest at which it expires.
    expires_at: Timestamp,
    /// Its place in the order of expiry.
    looked_at: Timestamp,
    hits: u64,
}

impl Slot {
    fn bytes(&self) -> usize {
        self.sealed.len() + OVERHEAD_BYTES
    }
}

impl MemoryTier {
    /// An empty tier.
    pub fn new(config: &MemoryConfig) -> Self {
        Self {
            max_entries: config.max_entries,
            max_bytes: config.max_bytes(),
            ttl: config.ttl.0,
            adaptive: config.adaptive.clone(),
            contents: Mutex::new(Contents {
                slots: HashMap::new(),
                by_rank: BTreeMap::new(),
                by_expiry: BTreeSet::new(),
                ranking: Ranking::new(config.eviction),
                bytes: 0,
                counters: MemoryCounters::default(),
            }),
        }
    }

    /// The longest that it keeps an entry.
    pub(crate) fn longest(&self) -> Duration {
        let adaptive = self.adaptive.as_ref();
        adaptive.map_or(self.ttl, |adaptive| adaptive.longest.0.max(self.ttl))
    }

    /// The sealed entry with this key, unless it has expired.
    pub fn get_now(&self, key: &CacheKey, now: Timestamp) -> Option<Bytes> {
        let mut contents = self.contents();
        let contents = &mut *contents;
        let slot = contents.slots.get_mut(key)?;
        if now >= self.expiry(slot, now) {
            contents.remove(key);
            contents.counters.expired += 1;
            return None;
        }
        slot.hits += 1;
        let rank = contents.ranking.used(slot.rank);
        if rank != slot.rank {
            contents.by_rank.remove(&slot.rank);
            contents.by_rank.insert(rank, *key);
            slot.rank = rank;
        }
        Some(slot.sealed.clone())
    }

    /// Keeps a sealed entry; says whether it fits at all.
    pub fn put_now(&self, record: &Record, now: Timestamp) -> bool {
        let mut contents = self.contents();
        self.drop_expired(&mut contents, now);
        let replaced = contents.remove(&record.key);
        let bytes = record.sealed.len() + OVERHEAD_BYTES;
        if bytes > self.max_bytes || now >= record.expires_at {
            return false;
        }
        while contents.slots.len() >= self.max_entries || contents.bytes + bytes > self.max_bytes {
            contents.evict();
        }
        let rank = contents.ranking.put(replaced.map(|slot| slot.rank));
        let base = now.saturating_add(self.ttl).min(record.expires_at);
        contents.insert(
            record.key,
            Slot {
                sealed: record.sealed.clone(),
                labels: Arc::clone(&record.labels),
                rank,
                put_at: now,
                expires_at: record.expires_at,
                looked_at: base,
                hits: 0,
            },
        );
        true
    }

    /// Removes entries, and says how many there were.
    pub fn remove_now(&self, target: &Target) -> u64 {
        let mut contents = self.contents();
        if let Target::Key(key) = target {
            return contents.remove(key).is_some().into();
        }
        let slots = contents.slots.iter();
        let named: Vec<CacheKey> = slots
            .filter(|(key, slot)| target.names(key, &slot.labels))
            .map(|(key, _)| *key)
            .collect();
        for key in &named {
            contents.remove(key);
        }
        named.len() as u64
    }

    /// Removes an entry if it still has these bytes, because they turned out to be damaged.
    pub(crate) fn remove_damaged(&self, key: &CacheKey, sealed: &Bytes) {
        let mut contents = self.contents();
        if contents
            .slots
            .get(key)
            .is_some_and(|slot| slot.sealed == *sealed)
        {
            contents.remove(key);
        }
    }

    /// Removes what has expired, and says how many entries that were.
    pub fn sweep_now(&self, now: Timestamp) -> u64 {
        self.drop_expired(&mut self.contents(), now)
    }

    /// What it holds.
    pub fn usage_now(&self) -> Usage {
        let contents = self.contents();
        Usage {
            entries: contents.slots.len() as u64,
            bytes: contents.bytes as u64,
        }
    }

    pub(crate) fn counters(&self) -> MemoryCounters {
        self.contents().counters
    }

    /// When an entry expires, as far as its hits until `now` tell.
    fn expiry(&self, slot: &Slot, now: Timestamp) -> Timestamp {
        let ttl = match &self.adaptive {
            Some(adaptive) => adaptive.ttl(self.ttl, slot.hits, now.since(slot.put_at)),
            None => self.ttl,
        };
        slot.put_at.saturating_add(ttl).min(slot.expires_at)
    }

    fn drop_expired(&self, contents: &mut Contents, now: Timestamp) -> u64 {
        let mut dropped = 0;
        while let Some(&(looked_at, key)) = contents.by_expiry.first() {
            if looked_at > now {
                break;
            }
            let slot = &contents.slots[&key];
            let expiry = self.expiry(slot, now);
            if now >= expiry {
                contents.remove(&key);
                dropped += 1;
            } else {
                contents.look_again(&key, expiry);
            }
        }
        contents.counters.expired += dropped;
        dropped
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // No change of the contents can panic half-way.
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn insert(&mut self, key: CacheKey, slot: Slot) {
        self.bytes += slot.bytes();
        self.by_rank.insert(slot.rank, key);
        self.by_expiry.insert((slot.looked_at, key));
        self.slots.insert(key, slot);
    }

    fn remove(&mut self, key: &CacheKey) -> Option<Slot> {
        let slot = self.slots.remove(key)?;
        self.bytes -= slot.bytes();
        self.by_rank.remove(&slot.rank);
        self.by_expiry.remove(&(slot.looked_at, *key));
        Some(slot)
    }

    /// Removes the entry that has to go first. There is one whenever there is no room: every entry fits
    /// into an empty tier.
    fn evict(&mut self) {
        if let Some((rank, key)) = self.by_rank.pop_first() {
            self.ranking.evicted(rank);
            self.remove(&key);
            self.counters.evictions += 1;
        }
    }

    /// Looks at an entry again when it may have expired.
    fn look_again(&mut self, key: &CacheKey, at: Timestamp) {
        if let Place::Occupied(mut place) = self.slots.entry(*key) {
            let slot = place.get_mut();
            self.by_expiry.remove(&(slot.looked_at, *key));
            slot.looked_at = at;
            self.by_expiry.insert((at, *key));
        }
    }
}

#[async_trait]
impl Tier for MemoryTier {
    fn kind(&self) -> TierKind {
        TierKind::Memory
    }

    async fn get(&self, key: &CacheKey, now: Timestamp) -> Result<Option<Bytes>, TierError> {
        Ok(self.get_now(key, now))
    }

    async fn put(&self, records: &[Record], now: Timestamp) -> Result<(), TierError> {
        for record in records {
            self.put_now(record, now);
        }
        Ok(())
    }

    async fn remove(&self, target: &Target) -> Result<u64, TierError> {
        Ok(self.remove_now(target))
    }

    async fn sweep(&self, now: Timestamp) -> Result<u64, TierError> {
        Ok(self.sweep_now(now))
    }

    async fn usage(&self) -> Result<Usage, TierError> {
        Ok(self.usage_now())
    }
}
