//! Where the cache has its time from.

use std::sync::Arc;

use levelflow_common::Timestamp;

/// Tells the time. Processes that share a tier should have their clocks set alike: entries carry times.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
