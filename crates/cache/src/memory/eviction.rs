//! Which entry has to go when there is no room.
//!
//! Every entry has a [`Rank`], and the lowest goes first. So a policy is what it makes the rank of:
//!
//! * `fifo`: when the entry was put.
//! * `lru`: when it was used last; being put is a use.
//! * `lfu`: how often it was used, then when it was used last. So that what was popular once does not
//!   stay forever, a new entry starts above what the last that had to go had come to (LFU with dynamic
//!   ageing, Arlitt et al. 2000).

use serde::{Deserialize, Serialize};

/// Which entry has to go when there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Eviction {
    /// The one that was not used for longest.
    #[default]
    Lru,
    /// The one that was used least.
    Lfu,
    /// The one that was put first.
    Fifo,
}

impl Eviction {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::Lru, Self::Lfu, Self::Fifo];
}

/// The place of an entry in the order in which entries go. No two entries have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    weight: u64,
    sequence: u64,
}

/// Gives ranks.
#[derive(Debug)]
pub(super) struct Ranking {
    policy: Eviction,
    /// Uses so far, of all entries.
    sequence: u64,
    /// What the last entry that had to go had come to.
    age: u64,
}

impl Ranking {
    pub(super) fn new(policy: Eviction) -> Self {
        Self {
            policy,
            sequence: 0,
            age: 0,
        }
    }

    /// The rank of an entry that is put, in place of one with this rank.
    pub(super) fn put(&mut self, replaced: Option<Rank>) -> Rank {
        let weight = match self.policy {
            Eviction::Lru | Eviction::Fifo => 0,
            Eviction::Lfu => replaced.map_or(self.age, |rank| rank.weight) + 1,
        };
        self.next(weight)
    }

    /// The rank of an entry with this rank that is used.
    pub(super) fn used(&mut self, rank: Rank) -> Rank {
        match self.policy {
            Eviction::Fifo => rank,
            Eviction::Lru => self.next(0),
            Eviction::Lfu => self.next(rank.weight + 1),
        }
    }

    /// An entry with this rank had to go.
    pub(super) fn evicted(&mut self, rank: Rank) {
        self.age = rank.weight;
    }

    fn next(&mut self, weight: u64) -> Rank {
        self.sequence += 1;
        Rank {
            weight,
            sequence: self.sequence,
        }
    }
}
