//! Deleting the history of runs that ended long ago.

use std::sync::Arc;
use std::time::Duration;

use levelflow_store::Store;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;

/// How often old runs are looked for.
const INTERVAL: Duration = Duration::from_secs(60);
/// Runs that are deleted in one transaction, so that commits do not wait for long.
const BATCH: usize = 200;

/// Deletes runs that ended longer ago than `retention`, until `stop`.
pub(crate) async fn enforce(
    store: Arc<dyn Store>,
    clock: Clock,
    retention: Duration,
    stop: CancellationToken,
) {
    let mut interval = interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(interval.tick()).await.is_some() {
        let ended_before = clock.now().saturating_sub(retention);
        let mut deleted = 0;
        loop {
            match store.prune(ended_before, BATCH).await {
                Ok(0) => break,
                Ok(count) => deleted += count,
                Err(error) => {
                    tracing::warn!(error = %error, "old runs could not be deleted");
                    break;
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
        if deleted > 0 {
            tracing::info!(runs = deleted, "old runs were deleted");
        }
    }
}
