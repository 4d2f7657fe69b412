//! Enumerations of the vocabulary as the numbers that stand for them on the wire.

use levelflow_common::alert::MemoryAlertCause;
use levelflow_common::cache::{CacheScope, CacheTier, CacheUse, Normalize};
use levelflow_common::overview::{MemoryLevel, WorkerStatus};
use levelflow_common::view::BreakerStatus;
use levelflow_common::workflow::{Dispatch, Durability, OnFull};
use levelflow_common::{Priority, RunStatus, TaskKind, TaskStatus};

use crate::invalid::{FieldProblem, InvalidField};
use crate::v1;

/// An enumeration that has a number on the wire, where 0 stands for "not given".
pub trait Enumeration: Sized {
    /// The number of this value.
    fn number(self) -> i32;

    /// The value of that number; none for 0.
    ///
    /// # Errors
    /// When no value has the number; `field` is the path to name.
    fn optional(field: &str, number: i32) -> Result<Option<Self>, InvalidField>;

    /// The value of a number that must be given.
    ///
    /// # Errors
    /// When no value has the number, or it is 0.
    fn required(field: &str, number: i32) -> Result<Self, InvalidField> {
        Self::optional(field, number)?.ok_or_else(|| InvalidField::missing(field))
    }
}

macro_rules! enumeration {
    ($vocabulary:ident { $($variant:ident),* $(,)? }) => {
        impl Enumeration for $vocabulary {
            fn number(self) -> i32 {
                match self { $(Self::$variant => v1::$vocabulary::$variant as i32,)* }
            }

            fn optional(field: &str, number: i32) -> Result<Option<Self>, InvalidField> {
                match v1::$vocabulary::try_from(number) {
                    Ok(v1::$vocabulary::Unspecified) => Ok(None),
                    $(Ok(v1::$vocabulary::$variant) => Ok(Some(Self::$variant)),)*
                    Err(_) => Err(InvalidField::new(field, FieldProblem::UnknownNumber(number))),
                }
            }
        }
    };
}

enumeration!(Priority {
    Critical,
    High,
    Normal,
    Low
});
enumeration!(Durability { Strict, Relaxed });
enumeration!(Dispatch { Ready, Level });
enumeration!(OnFull {
    Queue,
    Fail,
    CancelOldest
});
enumeration!(CacheScope { Tenant, Workflow });
enumeration!(Normalize { Exact, Words });
enumeration!(CacheUse { Use, Refresh, Off });
enumeration!(CacheTier {
    Memory,
    Redis,
    Postgres,
    Flight
});
enumeration!(TaskKind {
    Http,
    Process,
    Transform,
    Sleep,
    Handler,
    Sql,
    Chat
});
enumeration!(RunStatus {
    Running,
    Cancelling,
    Succeeded,
    Failed,
    Cancelled
});
enumeration!(BreakerStatus {
    Closed,
    Open,
    HalfOpen
});
enumeration!(MemoryAlertCause {
    Warning,
    Critical,
    Leak,
    Restart
});
enumeration!(WorkerStatus {
    Active,
    Draining,
    Silent,
    Lost
});
enumeration!(MemoryLevel {
    Normal,
    Warning,
    Critical
});
enumeration!(TaskStatus {
    Pending,
    Ready,
    Running,
    Backoff,
    Sleeping,
    Succeeded,
    Failed,
    Skipped,
    Cancelled
});

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn reads_back<E: Enumeration + Copy + PartialEq + Debug>(values: &[E]) {
        for &value in values {
            assert_ne!(value.number(), 0);
            assert_eq!(E::optional("field", value.number()), Ok(Some(value)));
        }
        assert_eq!(E::optional("field", 0), Ok(None));
        assert_eq!(
            E::required("a.b", 0).unwrap_err().to_string(),
            "a.b: is missing"
        );
        assert_eq!(
            E::required("a.b", 99).unwrap_err().to_string(),
            "a.b: 99 is not a value of this enumeration"
        );
    }

    #[test]
    fn every_value_reads_back() {
        reads_back(&Priority::ALL);
        reads_back(&TaskKind::ALL);
        reads_back(&RunStatus::ALL);
        reads_back(&TaskStatus::ALL);
        reads_back(&BreakerStatus::ALL);
        reads_back(&MemoryAlertCause::ALL);
        reads_back(&WorkerStatus::ALL);
        reads_back(&MemoryLevel::ALL);
        reads_back(&[Durability::Strict, Durability::Relaxed]);
        reads_back(&CacheScope::ALL);
        reads_back(&Normalize::ALL);
        reads_back(&CacheUse::ALL);
        reads_back(&CacheTier::ALL);
        reads_back(&[Dispatch::Ready, Dispatch::Level]);
    }
}
