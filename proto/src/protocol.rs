//! What the two ends of a session agree on when they are not of the same version.
//!
//! A worker says which versions of the protocol it speaks and which features it has, the coordinator chooses
//! the newest version that both speak and names the features that both have. So either may be upgraded first.

use std::collections::BTreeSet;

/// The newest version of the session protocol that is spoken here.
pub const PROTOCOL_VERSION: u32 = 1;

/// The oldest version that is spoken here.
pub const OLDEST_PROTOCOL_VERSION: u32 = 1;

/// What an end of a session may have beside what its version says. Used when both ends have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Credits of a worker that several coordinators share: `wants`, `reclaimed` and `returned`.
    SharedSlots,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 1] = [Self::SharedSlots];

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SharedSlots => "shared_slots",
        }
    }

    /// The names of all.
    pub fn names() -> Vec<String> {
        Self::ALL.map(|it| it.as_str().to_owned()).into()
    }

    /// Those that the other end names and that are known here.
    pub fn common(named: &[String]) -> BTreeSet<Self> {
        let is_named = |it: &Self| named.iter().any(|name| name == it.as_str());
        Self::ALL.into_iter().filter(is_named).collect()
    }
}

/// The two ends have no version in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "it speaks versions {oldest} to {newest} of the session protocol, and here {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION} are spoken"
)]
pub struct NoCommonVersion {
    /// The oldest version of the other end.
    pub oldest: u32,
    /// Its newest.
    pub newest: u32,
}

/// The newest version that is spoken here and by an end that speaks `oldest` to `newest`; where `oldest` is 0,
/// as in software that does not say it, only `newest`.
///
/// # Errors
/// When there is none.
pub fn agree(oldest: u32, newest: u32) -> Result<u32, NoCommonVersion> {
    let oldest = if oldest == 0 { newest } else { oldest };
    let version = newest.min(PROTOCOL_VERSION);
    if version < oldest.max(OLDEST_PROTOCOL_VERSION) {
        return Err(NoCommonVersion { oldest, newest });
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_spoken() {
        let (oldest, newest) = (OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION);
        assert_eq!(agree(0, newest), Ok(newest));
        assert_eq!(agree(oldest, newest + 3), Ok(newest));
        assert_eq!(agree(oldest, oldest), Ok(oldest));
        let too_new = agree(newest + 1, newest + 3).unwrap_err();
        assert_eq!(too_new.newest, newest + 3);
        agree(0, newest + 1).unwrap_err();
        agree(0, oldest - 1).unwrap_err();
    }

    #[test]
    fn features_are_used_that_both_ends_know() {
        let named = ["of_the_future".to_owned(), "shared_slots".to_owned()];
        let common = BTreeSet::from([Feature::SharedSlots]);
        assert_eq!(Feature::common(&named), common);
        assert_eq!(
            Feature::common(&Feature::names()),
            BTreeSet::from(Feature::ALL)
        );
        assert_eq!(Feature::common(&named[..1]), BTreeSet::new());
    }
}
