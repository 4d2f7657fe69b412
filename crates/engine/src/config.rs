//! What bounds and paces an engine.

use std::time::Duration;

use levelflow_common::{Placement, ShardCount, limits};

use crate::breaker::BreakerPolicy;

/// What bounds and paces an engine.
#[derive(Clone, Debug)]
pub struct Config {
    /// Higher than that of any engine before on the same store; the high part of every fencing token.
    pub epoch: u64,
    /// How many shards the store has. An engine has all of one shard, and of more those that it takes up.
    pub shards: ShardCount,
    /// Where the jitter of retries and random placement start.
    pub seed: u64,
    /// How often workers send heartbeats.
    pub heartbeat_interval: Duration,
    /// How long a lease lasts without one.
    pub lease: Duration,
    /// How often leases and attempt timeouts are checked.
    pub sweep_interval: Duration,
    /// Tasks that may wait in a queue before submits are refused.
    pub max_queue: usize,
    /// Runs that may be open before submits are refused.
    pub max_open_runs: usize,
    /// Rate limit keys that are known at once: those of tasks that wait or run, and those whose tokens
    /// have not all come back.
    pub max_rate_keys: usize,
    /// How long the key of an ended run is kept in memory.
    pub dedup_window: Duration,
    /// Of the tasks that have waited this long for a worker, one in four that are taken goes before more
    /// urgent ones.
    pub ageing: Duration,
    /// A task fails for good when so many of its attempts were lost with the process that ran them; 0
    /// for no such limit.
    pub quarantine_after: u32,
    /// How the worker of a task is chosen.
    pub placement: Placement,
    /// When breakers of upstreams open and close.
    pub breaker: BreakerPolicy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            epoch: 1,
            shards: ShardCount::ONE,
            seed: 0,
            heartbeat_interval: Duration::from_secs(5),
            lease: Duration::from_secs(15),
            sweep_interval: Duration::from_secs(1),
            max_queue: 10_000,
            max_open_runs: 100_000,
            max_rate_keys: 100_000,
            dedup_window: limits::DEDUP_WINDOW,
            ageing: Duration::from_secs(30),
            quarantine_after: 2,
            placement: Placement::default(),
            breaker: BreakerPolicy::default(),
        }
    }
}
