//! Shards: the fixed partition of runs over the coordinators of a cluster.
//!
//! Where a run belongs can be told from its id alone, so that whoever gets a request for it knows which
//! coordinator to ask. A submit key decides the shard of its run, so that two submits under one key meet.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::RunId;

/// A part of all runs, owned by one coordinator at a time. Counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// How many shards a store has. Fixed when it is made: the shard of every run follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShardCount(NonZeroU16);

impl ShardCount {
    /// Of a store that one coordinator has for itself.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// The most that a store may have.
    pub const MAX: u16 = 1024;

    /// None if it is zero or above [`ShardCount::MAX`].
    pub fn new(count: u16) -> Option<Self> {
        NonZeroU16::new(count)
            .filter(|count| count.get() <= Self::MAX)
            .map(Self)
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }

    /// All shards.
    pub fn all(self) -> impl Iterator<Item = ShardId> {
        (0..self.get()).map(ShardId)
    }

    /// The shard of a run: the last two bytes of its id, by modulus.
    pub fn of_run(self, run: RunId) -> ShardId {
        let [.., high, low] = *run.as_bytes();
        ShardId(u16::from_be_bytes([high, low]) % self.0)
    }

    /// The shard of a run number: numbers of a shard are those with its remainder.
    pub fn of_number(self, number: u64) -> ShardId {
        let remainder = number % u64::from(self.get());
        ShardId(
            u16::try_from(remainder).expect("a remainder is below the divisor, which has 16 bits"),
        )
    }

    /// The shard of all runs that are submitted under a key of a tenant.
    pub fn of_key(self, tenant: &str, key: &str) -> ShardId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(tenant.len() as u64).to_le_bytes());
        hasher.update(tenant.as_bytes());
        hasher.update(key.as_bytes());
        let [first, second, ..] = *hasher.finalize().as_bytes();
        ShardId(u16::from_le_bytes([first, second]) % self.0)
    }

    /// The id of a new run of a shard: a UUID that was just made, with other last bits.
    pub fn run_id(self, shard: ShardId, fresh: Uuid) -> RunId {
        let mut bytes = *fresh.as_bytes();
        let last = u16::from_be_bytes([bytes[14], bytes[15]]);
        let count = self.get();
        let group = (last / count).min((u16::MAX - (count - 1)) / count);
        let placed = group * count + shard.0 % count;
        bytes[14..].copy_from_slice(&placed.to_be_bytes());
        RunId::from_uuid(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for ShardCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn counts_are_bounded() {
        assert_eq!(ShardCount::new(0), None);
        assert_eq!(ShardCount::new(ShardCount::MAX + 1), None);
        assert_eq!(ShardCount::new(64).map(ShardCount::get), Some(64));
    }

    #[test]
    fn a_key_belongs_to_its_tenant() {
        let count = ShardCount::new(1024).expect("it is in bounds");
        assert_eq!(count.of_key("a", "key"), count.of_key("a", "key"));
        assert_ne!(count.of_key("ab", "c"), count.of_key("a", "bc"));
    }

    proptest! {
        #[test]
        fn an_id_tells_its_shard(fresh: u128, count in 1..=ShardCount::MAX, shard: u16) {
            let count = ShardCount::new(count).expect("it is in bounds");
            let shard = ShardId(shard % count.get());
            let fresh = Uuid::from_u128(fresh);
            let id = count.run_id(shard, fresh);
            prop_assert_eq!(count.of_run(id), shard);
            // The time and the version of the UUID stay.
            prop_assert_eq!(&id.as_bytes()[..14], &fresh.as_bytes()[..14]);
        }
    }
}
