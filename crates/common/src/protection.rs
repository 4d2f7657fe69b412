//! What the guarantees rest on, each in one place of the product.
//!
//! With the feature `weakened`, which no release has, one protection of a process can be switched off. So tests
//! show that what they check would be missed without it. In every other build [`Protection::holds`] is `true` at
//! compile time, and nothing is left of the question.

use std::fmt;

/// A protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// A submit is acknowledged when it is durable.
    DurableSubmit,
    /// A submit with a known key gives the run of that key.
    KnownKey,
    /// The fencing tokens of a coordinator are higher than all that were given before it started.
    GrowingTokens,
    /// Who has lost a shard commits nothing more for it.
    ShardEpoch,
    /// An attempt that is lost with its worker counts.
    CountedLoss,
    /// A task of a strict run starts when what it needs is durable.
    DurableNeeds,
    /// Leases that are not renewed end.
    LeaseEnd,
    /// What waits in a queue leaves it when its run is cancelled.
    EmptiedQueue,
    /// A backoff goes on after a restart.
    DurableBackoff,
    /// All that changes a run is written to its journal.
    WrittenChange,
    /// Cached results are found by their own tenant only.
    TenantInKey,
    /// Cached results are not served after their time.
    Expiry,
    /// A watcher that comes back is told what happened meanwhile.
    ReadJournal,
    /// Runs beyond the limit are refused.
    RunBound,
}

impl Protection {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::DurableSubmit,
        Self::KnownKey,
        Self::GrowingTokens,
        Self::ShardEpoch,
        Self::CountedLoss,
        Self::DurableNeeds,
        Self::LeaseEnd,
        Self::EmptiedQueue,
        Self::DurableBackoff,
        Self::WrittenChange,
        Self::TenantInKey,
        Self::Expiry,
        Self::ReadJournal,
        Self::RunBound,
    ];

    /// The word for it on the command line of a weakened build.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DurableSubmit => "durable-submit",
            Self::KnownKey => "known-key",
            Self::GrowingTokens => "growing-tokens",
            Self::ShardEpoch => "shard-epoch",
            Self::CountedLoss => "counted-loss",
            Self::DurableNeeds => "durable-needs",
            Self::LeaseEnd => "lease-end",
            Self::EmptiedQueue => "emptied-queue",
            Self::DurableBackoff => "durable-backoff",
            Self::WrittenChange => "written-change",
            Self::TenantInKey => "tenant-in-key",
            Self::Expiry => "expiry",
            Self::ReadJournal => "read-journal",
            Self::RunBound => "run-bound",
        }
    }

    /// Whether this protects, as it always does outside of a weakened build.
    #[cfg(not(feature = "weakened"))]
    #[inline(always)]
    pub const fn holds(self) -> bool {
        true
    }

    /// Whether this protects, as it always does outside of a weakened build.
    #[cfg(feature = "weakened")]
    pub fn holds(self) -> bool {
        weakened::off() != Some(self)
    }
}

impl fmt::Display for Protection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(feature = "weakened")]
pub mod weakened {
    //! Processes of which one protection is off.

    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Protection;

    /// One more than the place of the protection that is off; 0 for none.
    static OFF: AtomicUsize = AtomicUsize::new(0);

    /// Switches one protection of this process off, and all others on.
    pub fn switch_off(protection: Option<Protection>) {
        let place = protection.map_or(0, |protection| protection as usize + 1);
        OFF.store(place, Ordering::Relaxed);
    }

    /// The protection that is off.
    pub fn off() -> Option<Protection> {
        let place = OFF.load(Ordering::Relaxed).checked_sub(1)?;
        Protection::ALL.get(place).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_protection_is_listed_in_its_place_and_holds() {
        for (place, protection) in Protection::ALL.into_iter().enumerate() {
            assert_eq!(protection as usize, place);
            assert!(protection.holds());
        }
    }
}
