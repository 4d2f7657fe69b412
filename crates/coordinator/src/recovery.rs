//! Taking up the open runs of a store.

use std::sync::Arc;

use levelflow_common::{ShardCount, ShardId};
use levelflow_engine::{Config, Definition, Engine, Fact, Record, ReplayError, RunNumber};
use levelflow_store::{Recovery, Store};

use crate::clock::Clock;
use crate::config::CoordinatorConfig;
use crate::definitions::Definitions;
use crate::error::RecoveryError;

/// Makes engines from the store: at the start, and after a commit whose outcome is unknown.
#[derive(Clone)]
pub(crate) struct Recover {
    config: CoordinatorConfig,
    definitions: Arc<Definitions>,
    shards: ShardCount,
}

/// What was open in some shards, ready for an engine.
#[derive(Debug)]
pub(crate) struct Recovered {
    epoch: u64,
    count: ShardCount,
    pub(crate) shards: Vec<ShardId>,
    next_run: RunNumber,
    open: Vec<(RunNumber, Arc<Definition>, Vec<Record>)>,
}

impl Recover {
    pub(crate) fn new(
        config: CoordinatorConfig,
        definitions: Arc<Definitions>,
        shards: ShardCount,
    ) -> Self {
        Self {
            config,
            definitions,
            shards,
        }
    }

    /// An engine with the open runs of the store, under a new epoch.
    pub(crate) async fn engine(
        &self,
        store: &dyn Store,
        clock: Clock,
    ) -> Result<Engine, RecoveryError> {
        let recovery = store.recover().await?;
        let recovered = self.read(store, recovery).await?;
        let config = Config {
            epoch: recovered.epoch,
            shards: self.shards,
            seed: rand::random(),
            heartbeat_interval: self.config.heartbeat_interval,
            lease: self.config.lease,
            max_queue: self.config.max_queue,
            max_open_runs: self.config.max_open_runs,
            max_rate_keys: self.config.max_rate_keys,
            dedup_window: self.config.dedup_window,
            quarantine_after: self.config.quarantine_after,
            placement: self.config.placement,
            breaker: self.config.breaker.clone(),
            ..Config::default()
        };
        let mut engine = Engine::new(config, recovered.next_run);
        let (epoch, open) = (recovered.epoch, recovered.open.len());
        recovered.take_up(&mut engine, clock)?;
        tracing::info!(epoch, open_runs = open, "store recovered");
        Ok(engine)
    }

    /// Reads what a recovery names.
    pub(crate) async fn read(
        &self,
        store: &dyn Store,
        recovery: Recovery,
    ) -> Result<Recovered, RecoveryError> {
        for (digest, canonical) in &recovery.definitions {
            self.definitions.read(*digest, canonical)?;
        }
        let mut open = Vec::with_capacity(recovery.open.len());
        for (number, records) in recovery.open {
            let Some(first) = records.first() else {
                continue;
            };
            let Fact::Submitted(submitted) = &first.fact else {
                return Err(RecoveryError::Journal(ReplayError {
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
            open.push((number, definition, records));
        }
        Ok(Recovered {
            epoch: recovery.epoch,
            count: self.shards,
            shards: recovery.shards,
            next_run: recovery.next_run,
            open,
        })
    }
}

impl Recovered {
    /// Has an engine go on with these runs.
    ///
    /// # Errors
    /// When a journal is damaged. The runs before it were taken up then.
    pub(crate) fn take_up(self, engine: &mut Engine, clock: Clock) -> Result<(), ReplayError> {
        // An engine that was made from the store since then has some of them already.
        let is_new = |shard: &ShardId| self.count == ShardCount::ONE || !engine.has_shard(*shard);
        let shards: Vec<_> = self.shards.into_iter().filter(is_new).collect();
        engine.take_up(self.epoch, &shards, self.next_run);
        for (number, definition, records) in self.open {
            if shards.contains(&self.count.of_number(number.0)) {
                engine.restore(clock.now(), number, definition, &records)?;
            }
        }
        Ok(())
    }
}
