//! Errors of the cache. No lookup and no put gives one: a cache that fails is a miss.

use std::time::Duration;

use levelflow_common::{Code, HumanDuration};
use levelflow_runtime::config::InvalidSetting;

use crate::codec::EntryTooLarge;
use crate::tier::TierKind;

/// Why the cache could not be made, or could not do what an operator asked.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A setting is wrong.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The system gives no thread.
    #[error("the thread of the cache could not be started")]
    Thread(#[source] std::io::Error),
    /// A tier could not do it. Others may have.
    #[error("the {tier} tier of the cache failed")]
    Tier {
        /// Which.
        tier: TierKind,
        /// Why.
        source: TierError,
    },
}

impl CacheError {
    /// The stable code.
    pub const fn code(&self) -> Code {
        match self {
            Self::Setting(_) => Code::ConfigInvalid,
            Self::Thread(_) => Code::Internal,
            Self::Tier { .. } => Code::CacheUnavailable,
        }
    }
}

/// Why a tier could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TierError {
    /// It took too long.
    #[error("no answer within {}", HumanDuration(*.0))]
    TimedOut(Duration),
    /// Redis refused, or could not be reached.
    #[error("Redis refused, or could not be reached")]
    Redis(#[from] redis::RedisError),
    /// PostgreSQL refused, or could not be reached.
    #[error("PostgreSQL refused, or could not be reached")]
    Postgres(#[from] tokio_postgres::Error),
    /// There was no connection to PostgreSQL.
    #[error("there was no connection to PostgreSQL")]
    Connection(#[from] levelflow_runtime::postgres::PoolError),
    /// A newer version of Levelflow made its tables.
    #[error(
        "its tables have version {found}, and this version of Levelflow knows only {supported}"
    )]
    TooNew {
        /// The version that was found.
        found: i32,
        /// The newest version that is known.
        supported: i32,
    },
    /// Too much waits to be written to it, or the cache is closed.
    #[error("it takes no more requests now")]
    Busy,
}

/// Why a result was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    /// It is a failure, and those are not kept here.
    #[error("failures of this task are not kept")]
    Failure,
    /// The terms let it live for no time at all.
    #[error("it may be kept for no time")]
    NoTime,
    /// It is larger than the tier in memory, and there is no other.
    #[error("it is larger than the whole cache")]
    NoRoom,
    /// It is larger than any entry may be.
    #[error(transparent)]
    TooLarge(#[from] EntryTooLarge),
    /// It has too many labels, or too long ones.
    #[error("its labels are too many or too long")]
    Labels,
    /// Too much waits to be packed.
    #[error("too many results wait to be kept")]
    Busy,
}
