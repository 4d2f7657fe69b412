//! The result cache: what was computed once is not computed again.
//!
//! A [`CacheKey`] is the digest of all that decides what a task gives ([`KeyParts`]). Under it, [`Cache`]
//! keeps the result with the chunks that were streamed, in tiers behind one port, [`Tier`]: the memory of
//! the process, then those that processes share. An entry is bytes with a checksum that is keyed with the
//! cache key (`codec.rs`), so that a damaged entry, or one under another's key, is a miss.
//!
//! A lookup asks the tiers in their order; what a lower one has is put into those above. Each shared tier
//! has a budget of time and a breaker (`shared.rs`), so that one that hangs costs a lookup its budget and
//! one that is down costs nothing; writes wait in a bounded queue and never delay who puts.
//!
//! Identical work is done once: in this process by `flight.rs`, among processes by leases in a shared
//! tier, `lease.rs`.

pub mod canonical;
pub mod clock;
pub mod config;
pub mod entry;
pub mod error;
pub mod frame;
pub mod key;
pub mod memory;
pub mod normalize;
pub mod statistics;
pub mod tier;
pub mod warm_up;

mod adaptive;
mod cache;
mod codec;
mod flight;
mod lease;
mod packer;
mod postgres;
mod redis;
mod shared;

#[cfg(test)]
mod cache_tests;
#[cfg(test)]
mod conformance;

pub use adaptive::AdaptiveTtl;
pub use cache::{Cache, Obtained, Source};
pub use canonical::CanonicalJson;
pub use clock::Clock;
pub use codec::{CorruptEntry, EntryTooLarge};
pub use config::{CacheConfig, MemoryConfig, PostgresConfig, RedisConfig, SingleFlightConfig};
pub use entry::{Computed, Entry, Hit, Labels, Target, Terms};
pub use error::{CacheError, NotKept, TierError};
pub use key::{KeyParts, Subject};
pub use lease::{Arrival, Flight, Lease, Wait};
pub use levelflow_common::CacheKey;
pub use levelflow_runtime::breaker::BreakerState;
pub use memory::{Eviction, MemoryTier};
pub use statistics::{CacheStatistics, TierStatistics};
pub use tier::{SharedTier, Tier, TierKind};
pub use warm_up::WarmUp;
