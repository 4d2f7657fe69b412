//! Configuration of a coordinator.

use std::path::PathBuf;
use std::time::Duration;

use levelflow_cache::CacheConfig;
use levelflow_common::{Placement, limits};
use levelflow_embedding::EmbeddingConfig;
use levelflow_engine::BreakerPolicy;
use levelflow_engine::autoscale::AutoscalePolicy;
use levelflow_transport::nats::NatsConfig;

use levelflow_store::postgres::Config as PostgresConfig;

use crate::http::HttpConfig;
use crate::listen::Listen;
use crate::webhook::AlertsConfig;

/// Shards are renewed four times within it, each time in the database.
const MIN_SHARD_LEASE: Duration = Duration::from_millis(500);

/// Configuration of a coordinator.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Where to serve gRPC to other processes; nowhere if not given.
    pub listen: Option<Listen>,
    /// The HTTP server.
    pub http: HttpConfig,
    /// Where runs are kept.
    pub storage: Storage,
    /// How often workers send heartbeats.
    pub heartbeat_interval: Duration,
    /// How long a lease lasts without one.
    pub lease: Duration,
    /// Tasks that may wait in a queue before submits are refused.
    pub max_queue: usize,
    /// Runs that may be open before submits are refused.
    pub max_open_runs: usize,
    /// Keys of rate limits that are known at once: those of tasks that wait or run, and those whose tokens
    /// have not all come back.
    pub max_rate_keys: usize,
    /// How long identical submits that ask for it are taken for one.
    pub dedup_window: Duration,
    /// How long runs are kept after their end; forever if not given.
    pub retention: Option<Duration>,
    /// Threads that evaluate expressions; 0 for one for each core.
    pub prepare_threads: usize,
    /// A task fails for good when so many of its attempts were lost with the process that ran them; 0
    /// for no such limit.
    pub quarantine_after: u32,
    /// How the worker of a task is chosen.
    pub placement: Placement,
    /// When breakers of upstreams open and close.
    pub breaker: BreakerPolicy,
    /// Where alerts are sent to.
    pub alerts: AlertsConfig,
    /// The result cache; none if results are not kept.
    pub cache: Option<CacheConfig>,
    /// The embedding models, for results of nearly equal texts.
    pub embeddings: EmbeddingConfig,
    /// How it shares a store with other coordinators.
    pub cluster: ClusterConfig,
    /// When there are to be more workers or fewer; none if that is not decided here.
    pub autoscale: Option<AutoscalePolicy>,
    /// Where to serve workers over NATS, beside gRPC; nowhere if it has no address, or if `listen` is not
    /// given.
    pub nats: NatsConfig,
}

/// How coordinators share a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where other coordinators reach the gRPC services of this one; where it listens if not given.
    pub advertise: Option<String>,
    /// How long it owns its shards without saying that it is there.
    pub lease: Duration,
    /// How long attempts may go on when their shard is to go to another coordinator.
    pub hand_over: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            advertise: None,
            lease: Duration::from_secs(3),
            hand_over: Duration::from_secs(10),
        }
    }
}

/// Where runs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Storage {
    /// In SQLite, in a directory that no other process uses.
    DataDir(PathBuf),
    /// In PostgreSQL, which other coordinators may share.
    Postgres(Box<PostgresConfig>),
    /// In memory: gone with the process.
    Memory,
}

impl Default for CoordinatorConfig {
    fn default() -> Self {
        Self {
            listen: None,
            http: HttpConfig::default(),
            storage: Storage::Memory,
            heartbeat_interval: Duration::from_secs(5),
            lease: Duration::from_secs(15),
            max_queue: 10_000,
            max_open_runs: 100_000,
            max_rate_keys: 100_000,
            dedup_window: limits::DEDUP_WINDOW,
            retention: Some(Duration::from_secs(30 * 24 * 3600)),
            prepare_threads: 0,
            quarantine_after: 2,
            placement: Placement::default(),
            breaker: BreakerPolicy::default(),
            alerts: AlertsConfig::default(),
            cache: Some(CacheConfig::default()),
            cluster: ClusterConfig::default(),
            embeddings: EmbeddingConfig::default(),
            autoscale: None,
            nats: NatsConfig::default(),
        }
    }
}

impl CoordinatorConfig {
    /// The first thing that is wrong with it, as field and problem.
    pub fn problem(&self) -> Option<(String, String)> {
        if let Some((field, problem)) = self.own_problem() {
            return Some((field.to_owned(), problem));
        }
        if let Some((field, problem)) = self.http.problem() {
            return Some((format!("http.{field}"), problem));
        }
        if let Some((field, problem)) = self.autoscale.as_ref().and_then(AutoscalePolicy::problem) {
            return Some((format!("autoscale.{field}"), problem));
        }
        if let Some((field, problem)) = self.alerts.problem() {
            return Some((field.to_owned(), problem));
        }
        let store = match &self.storage {
            Storage::Postgres(config) => config.validate().err(),
            Storage::DataDir(_) | Storage::Memory => None,
        };
        let cache = || self.cache.as_ref()?.validate().err();
        let wrong = store
            .or_else(cache)
            .or_else(|| self.embeddings.validate().err())?;
        Some((wrong.key, wrong.problem))
    }

    fn own_problem(&self) -> Option<(&'static str, String)> {
        if self.heartbeat_interval.is_zero() {
            return Some(("heartbeat_interval", "must be longer than zero".to_owned()));
        }
        if self.lease < self.heartbeat_interval * 2 {
            let twice = self.heartbeat_interval * 2;
            return Some((
                "lease",
                format!("must be at least two heartbeats, {twice:?}"),
            ));
        }
        if self.cluster.lease < MIN_SHARD_LEASE {
            let problem = format!("must be at least {MIN_SHARD_LEASE:?}");
            return Some(("cluster.lease", problem));
        }
        if self.max_queue == 0 {
            return Some(("max_queue", "must be at least 1".to_owned()));
        }
        if self.max_open_runs == 0 {
            return Some(("max_open_runs", "must be at least 1".to_owned()));
        }
        if self.max_rate_keys == 0 {
            return Some(("max_rate_keys", "must be at least 1".to_owned()));
        }
        let breaker = &self.breaker;
        if breaker.open_for.is_zero() {
            return Some(("breaker.open_for", "must be longer than zero".to_owned()));
        }
        for (field, value) in [
            ("breaker.probes", breaker.probes as usize),
            ("breaker.successes", breaker.successes as usize),
            ("breaker.max_upstreams", breaker.max_upstreams),
        ] {
            if value == 0 {
                return Some((field, "must be at least 1".to_owned()));
            }
        }
        None
    }
}
