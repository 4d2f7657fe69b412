//! Taking up the open runs of a store.

use std::sync::Arc;

use levelflow_engine::{Config, Engine};
use levelflow_store::Store;

use crate::clock::Clock;
use crate::config::CoordinatorConfig;
use crate::definitions::Definitions;
use crate::error::RecoveryError;

/// Makes engines from the store: at the start, and after a commit whose outcome is unknown.
#[derive(Clone)]
pub(crate) struct Recover {
    config: CoordinatorConfig,
    definitions: Arc<Definitions>,
}

impl Recover {
    pub(crate) fn new(config: CoordinatorConfig, definitions: Arc<Definitions>) -> Self {
        Self {
            config,
            definitions,
        }
    }

    /// An engine with the open runs of the store, under a new epoch.
    pub(crate) async fn engine(
        &self,
        store: &dyn Store,
        clock: Clock,
    ) -> Result<Engine, RecoveryError> {
        let recovery = store.recover().await?;
        let config = Config {
            epoch: recovery.epoch,
            seed: rand::random(),
            heartbeat_interval: self.config.heartbeat_interval,
            lease: self.config.lease,
            max_queue: self.config.max_queue,
            max_open_runs: self.config.max_open_runs,
            max_rate_keys: self.config.max_rate_keys,
            dedup_window: self.config.dedup_window,
            quarantine_after: self.config.quarantine_after,
            breaker: self.config.breaker.clone(),
            ..Config::default()
        };
        for (digest, canonical) in &recovery.definitions {
            self.definitions.read(*digest, canonical)?;
        }
        let mut engine = Engine::new(config, recovery.next_run);
        let open = recovery.open.len();
        for (number, records) in recovery.open {
            let Some(first) = records.first() else {
                continue;
            };
            let levelflow_engine::Fact::Submitted(submitted) = &first.fact else {
                return Err(RecoveryError::Journal(levelflow_engine::ReplayError {
                    run: number,
                    sequence: 1,
                    problem: "the first record is not a submit",
                }));
            };
            let definition = self.definitions.find(store, submitted.digest).await?;
            let Some(definition) = definition else {
                return Err(RecoveryError::Definition {
                    digest: submitted.digest.to_string(),
                    problem: "it is not in the store".to_owned(),
                });
            };
            engine.restore(clock.now(), number, definition, &records)?;
        }
        tracing::info!(epoch = recovery.epoch, open_runs = open, "store recovered");
        Ok(engine)
    }
}
