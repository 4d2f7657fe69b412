//! The settings of the program: defaults, then the configuration file, then the environment, then flags.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use levelflow_cache::CacheConfig;
use levelflow_common::{HumanDuration, Placement};
use levelflow_coordinator::{
    AlertsConfig, ClusterConfig, CoordinatorConfig, HttpConfig, Listen, Storage,
};
use levelflow_embedding::EmbeddingConfig;
use levelflow_engine::BreakerPolicy;
use levelflow_engine::autoscale::AutoscalePolicy;
use levelflow_runtime::config::{FlagValue, InvalidSetting, Settings as Checked};
use levelflow_runtime::telemetry::LogFormat;
use levelflow_store::postgres::Config as PostgresConfig;
use levelflow_worker::{NatsConfig, WorkerConfig};
use serde::{Deserialize, Serialize};

use crate::local_workers::WorkerRange;

/// The settings of the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    /// What is logged: a level, or directives such as `warn,levelflow_worker=debug`.
    pub(crate) log: Option<String>,
    /// How log lines look.
    pub(crate) log_format: LogFormat,
    /// Threads that serve; 0 for as many as suit the machine.
    pub(crate) threads: usize,
    /// Where runs are kept.
    pub(crate) data_dir: Option<PathBuf>,
    /// The coordinator that clients and workers talk to.
    pub(crate) address: Option<String>,
    /// Where a coordinator serves gRPC.
    pub(crate) listen: Listen,
    /// The HTTP server of a coordinator.
    pub(crate) http: HttpSettings,
    /// How long a stopping process waits for what is under way.
    pub(crate) stop_grace: HumanDuration,
    /// The coordinator.
    pub(crate) coordinator: CoordinatorSettings,
    /// The result cache.
    pub(crate) cache: CacheConfig,
    /// The embedding models, for results of nearly equal texts.
    pub(crate) embeddings: EmbeddingConfig,
    /// The worker.
    pub(crate) worker: WorkerConfig,
    /// `levelflow dev`.
    pub(crate) dev: DevSettings,
}

/// The settings of `levelflow dev`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DevSettings {
    /// Worker processes; if not given there is one worker in the process of the coordinator.
    pub(crate) workers: Option<WorkerRange>,
}

/// The settings of a coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CoordinatorSettings {
    /// How often workers send heartbeats.
    pub(crate) heartbeat_interval: HumanDuration,
    /// How long a worker may be silent before what it runs is given to others.
    pub(crate) lease: HumanDuration,
    /// Tasks that may wait in a queue before submits are refused.
    pub(crate) max_queue: usize,
    /// Runs that may be open before submits are refused.
    pub(crate) max_open_runs: usize,
    /// Keys of rate limits that are known at once; a task with another one fails.
    pub(crate) max_rate_keys: usize,
    /// How long identical submits that ask for it are taken for one.
    pub(crate) dedup_window: HumanDuration,
    /// How long runs are kept after their end; 0s for ever.
    pub(crate) retention: HumanDuration,
    /// Threads that evaluate expressions; 0 for one per core.
    pub(crate) prepare_threads: usize,
    /// Attempts at a task that may be lost with the process that ran them before it fails for good; 0 for
    /// any number.
    pub(crate) quarantine_after: u32,
    /// How the worker of a task is chosen: `least-busy`, `round-robin`, `weighted` or `random`.
    pub(crate) placement: Placement,
    /// The breakers of upstreams.
    pub(crate) breaker: BreakerSettings,
    /// Where alerts are sent to.
    pub(crate) alerts: AlertSettings,
    /// Whether results are kept; how is said in the section of the cache.
    pub(crate) cache: bool,
    /// NATS, where workers are served over it, too.
    pub(crate) nats: NatsConfig,
    /// The database that coordinators share, in place of a data directory.
    pub(crate) postgres: Option<PostgresConfig>,
    /// How they share it.
    pub(crate) cluster: ClusterSettings,
    /// When there are to be more workers or fewer; that is not decided if the section is not there.
    pub(crate) autoscale: Option<AutoscaleSettings>,
}

/// When there are to be more workers or fewer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AutoscaleSettings {
    /// Workers that there are at least.
    pub(crate) min: u32,
    /// Workers that there are at most.
    pub(crate) max: u32,
    /// So many tasks that no slot takes call for one more worker each time.
    pub(crate) scale_up_queue_depth: u64,
    /// They do so only if the workers that are there would be busy with them for that long.
    pub(crate) scale_up_backlog: HumanDuration,
    /// A task that has waited this long calls for more workers.
    pub(crate) scale_up_wait: HumanDuration,
    /// The share of slots, in percent, above which more workers are wanted.
    pub(crate) scale_up_busy_percent: u32,
    /// The share of slots that those who stay may have busy when there are to be fewer workers.
    pub(crate) scale_down_busy_percent: u32,
    /// How long fewer workers must have been enough before some may go.
    pub(crate) scale_down_idle: HumanDuration,
    /// Within which all tasks that wait or run are to be done.
    pub(crate) drain_within: HumanDuration,
    /// How long new workers are given to make a difference before the same backlog calls for more.
    pub(crate) cooldown: HumanDuration,
}

impl Default for AutoscaleSettings {
    fn default() -> Self {
        let policy = AutoscalePolicy::default();
        Self {
            min: policy.min,
            max: policy.max,
            scale_up_queue_depth: policy.scale_up_queue_depth,
            scale_up_backlog: HumanDuration(policy.scale_up_backlog),
            scale_up_wait: HumanDuration(policy.scale_up_wait),
            scale_up_busy_percent: policy.scale_up_busy_percent,
            scale_down_busy_percent: policy.scale_down_busy_percent,
            scale_down_idle: HumanDuration(policy.scale_down_idle),
            drain_within: HumanDuration(policy.drain_within),
            cooldown: HumanDuration(policy.cooldown),
        }
    }
}

impl AutoscaleSettings {
    /// A policy for workers with so many slots.
    fn policy(&self, worker_slots: usize) -> AutoscalePolicy {
        AutoscalePolicy {
            min: self.min,
            max: self.max,
            scale_up_queue_depth: self.scale_up_queue_depth,
            scale_up_backlog: self.scale_up_backlog.0,
            scale_up_wait: self.scale_up_wait.0,
            scale_up_busy_percent: self.scale_up_busy_percent,
            scale_down_busy_percent: self.scale_down_busy_percent,
            scale_down_idle: self.scale_down_idle.0,
            drain_within: self.drain_within.0,
            cooldown: self.cooldown.0,
            worker_slots: u32::try_from(worker_slots).unwrap_or(u32::MAX),
        }
    }
}

/// How coordinators share a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ClusterSettings {
    /// Where other coordinators and workers reach this one, as `host:port`; where it listens if not given.
    pub(crate) advertise: Option<String>,
    /// How long a coordinator owns its shards without a word from it.
    pub(crate) lease: HumanDuration,
    /// How long attempts may go on when their shard goes to another coordinator.
    pub(crate) hand_over: HumanDuration,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        let config = ClusterConfig::default();
        Self {
            advertise: config.advertise,
            lease: HumanDuration(config.lease),
            hand_over: HumanDuration(config.hand_over),
        }
    }
}

impl ClusterSettings {
    fn config(&self) -> ClusterConfig {
        ClusterConfig {
            advertise: self.advertise.clone(),
            lease: self.lease.0,
            hand_over: self.hand_over.0,
        }
    }
}

/// The settings of the HTTP server of a coordinator.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HttpSettings {
    /// Whether HTTP is served.
    pub(crate) enabled: bool,
    /// Where; if not given on the port after that of gRPC, and not beside a Unix socket.
    pub(crate) listen: Option<Listen>,
    /// Names under which requests may come, beside those of this machine, if it serves this machine only.
    pub(crate) allowed_hosts: Vec<String>,
    /// How long the head of a request may take, and a connection may wait for the next request.
    pub(crate) header_timeout: HumanDuration,
    /// How long a request may take.
    pub(crate) request_timeout: HumanDuration,
    /// How often a stream of events says that it is still there.
    pub(crate) keep_alive: HumanDuration,
    /// Connections that may be open.
    pub(crate) max_connections: usize,
    /// Streams of events that may be open.
    pub(crate) max_watchers: usize,
    /// Bytes of the body of one request.
    pub(crate) max_body_bytes: usize,
    /// Bytes of all bodies that are being read.
    pub(crate) max_buffered_bytes: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        let config = HttpConfig::default();
        Self {
            enabled: true,
            listen: None,
            allowed_hosts: config.allowed_hosts,
            header_timeout: HumanDuration(config.header_timeout),
            request_timeout: HumanDuration(config.request_timeout),
            keep_alive: HumanDuration(config.keep_alive),
            max_connections: config.max_connections,
            max_watchers: config.max_watchers,
            max_body_bytes: config.max_body_bytes,
            max_buffered_bytes: config.max_buffered_bytes,
        }
    }
}

impl HttpSettings {
    /// The configuration of a server beside one of gRPC.
    fn config(&self, beside: Option<&Listen>) -> HttpConfig {
        let listen = self.listen.clone().or_else(|| match beside? {
            Listen::Tcp(grpc) => {
                let port = match grpc.port() {
                    0 => 0,
                    port => port.checked_add(1)?,
                };
                Some(SocketAddr::new(grpc.ip(), port).into())
            }
            Listen::Unix(_) => None,
        });
        HttpConfig {
            // Who serves nobody does not serve HTTP either.
            listen: listen.filter(|_| self.enabled && beside.is_some()),
            allowed_hosts: self.allowed_hosts.clone(),
            header_timeout: self.header_timeout.0,
            request_timeout: self.request_timeout.0,
            keep_alive: self.keep_alive.0,
            max_connections: self.max_connections,
            max_watchers: self.max_watchers,
            max_body_bytes: self.max_body_bytes,
            max_buffered_bytes: self.max_buffered_bytes,
        }
    }
}

/// Where alerts are sent to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AlertSettings {
    /// An `http` or `https` address that gets each alert as JSON; nowhere if not given.
    pub(crate) webhook: Option<String>,
    /// The longest that it may take to answer.
    pub(crate) timeout: HumanDuration,
}

impl Default for AlertSettings {
    fn default() -> Self {
        let config = AlertsConfig::default();
        Self {
            webhook: config.webhook,
            timeout: HumanDuration(config.timeout),
        }
    }
}

impl AlertSettings {
    fn config(&self) -> AlertsConfig {
        AlertsConfig {
            webhook: self.webhook.clone(),
            timeout: self.timeout.0,
        }
    }
}

/// The settings of breakers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BreakerSettings {
    /// Failures in a row after which a breaker opens; 0 for no breakers.
    pub(crate) failures: u32,
    /// How long it stays open.
    pub(crate) open_for: HumanDuration,
    /// Attempts that may call the upstream at once while the breaker is half open.
    pub(crate) probes: u32,
    /// Successes that close it then.
    pub(crate) successes: u32,
    /// Upstreams that are known at once.
    pub(crate) max_upstreams: usize,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        let policy = BreakerPolicy::default();
        Self {
            failures: policy.failures,
            open_for: HumanDuration(policy.open_for),
            probes: policy.probes,
            successes: policy.successes,
            max_upstreams: policy.max_upstreams,
        }
    }
}

impl BreakerSettings {
    fn policy(&self) -> BreakerPolicy {
        BreakerPolicy {
            failures: self.failures,
            open_for: self.open_for.0,
            probes: self.probes,
            successes: self.successes,
            max_upstreams: self.max_upstreams,
        }
    }
}

impl Settings {
    /// Where a server keeps runs: in the database that is named, or in a directory.
    pub(crate) fn storage(&self, data_dir: PathBuf) -> Storage {
        match &self.coordinator.postgres {
            Some(postgres) => Storage::Postgres(Box::new(postgres.clone())),
            None => Storage::DataDir(data_dir),
        }
    }

    /// The configuration of a coordinator with these settings.
    pub(crate) fn coordinator(
        &self,
        listen: Option<Listen>,
        storage: Storage,
    ) -> CoordinatorConfig {
        let http = self.http.config(listen.as_ref());
        CoordinatorConfig {
            cache: self.coordinator.cache.then(|| self.cache.clone()),
            autoscale: (self.coordinator.autoscale.as_ref())
                .map(|autoscale| autoscale.policy(self.worker.slots)),
            embeddings: self.embeddings.clone(),
            ..self.coordinator.config(listen, http, storage)
        }
    }
}

impl CoordinatorSettings {
    fn config(
        &self,
        listen: Option<Listen>,
        http: HttpConfig,
        storage: Storage,
    ) -> CoordinatorConfig {
        CoordinatorConfig {
            listen,
            http,
            storage,
            heartbeat_interval: self.heartbeat_interval.0,
            lease: self.lease.0,
            max_queue: self.max_queue,
            max_open_runs: self.max_open_runs,
            max_rate_keys: self.max_rate_keys,
            dedup_window: self.dedup_window.0,
            retention: (!self.retention.0.is_zero()).then_some(self.retention.0),
            prepare_threads: self.prepare_threads,
            quarantine_after: self.quarantine_after,
            placement: self.placement,
            breaker: self.breaker.policy(),
            alerts: self.alerts.config(),
            cluster: self.cluster.config(),
            nats: self.nats.clone(),
            ..CoordinatorConfig::default()
        }
    }
}

impl Default for CoordinatorSettings {
    fn default() -> Self {
        let config = CoordinatorConfig::default();
        Self {
            heartbeat_interval: HumanDuration(config.heartbeat_interval),
            lease: HumanDuration(config.lease),
            max_queue: config.max_queue,
            max_open_runs: config.max_open_runs,
            max_rate_keys: config.max_rate_keys,
            dedup_window: HumanDuration(config.dedup_window),
            retention: HumanDuration(config.retention.unwrap_or_default()),
            prepare_threads: config.prepare_threads,
            quarantine_after: config.quarantine_after,
            placement: config.placement,
            breaker: BreakerSettings::default(),
            alerts: AlertSettings::default(),
            cache: config.cache.is_some(),
            nats: config.nats,
            postgres: None,
            cluster: ClusterSettings::default(),
            autoscale: None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            log: None,
            log_format: LogFormat::default(),
            threads: 0,
            data_dir: None,
            address: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)).into(),
            http: HttpSettings::default(),
            stop_grace: HumanDuration(Duration::from_secs(10)),
            coordinator: CoordinatorSettings::default(),
            cache: CacheConfig::default(),
            embeddings: EmbeddingConfig::default(),
            worker: WorkerConfig::default(),
            dev: DevSettings::default(),
        }
    }
}

impl Checked for Settings {
    fn validate(&self) -> Result<(), InvalidSetting> {
        let coordinator = self.coordinator(None, self.storage(PathBuf::new()));
        if let Some((field, problem)) = coordinator.problem() {
            // These have sections of their own.
            let own = ["http.", "cache.", "coordinator.", "embeddings."];
            let key = if own.iter().any(|section| field.starts_with(section)) {
                field
            } else {
                format!("coordinator.{field}")
            };
            return Err(InvalidSetting { key, problem });
        }
        self.worker.validate().map_err(|error| match error {
            levelflow_worker::WorkerError::Setting { setting, problem } => InvalidSetting {
                key: format!("worker.{setting}"),
                problem,
            },
            other => InvalidSetting {
                key: "worker".to_owned(),
                problem: other.to_string(),
            },
        })
    }
}

/// The settings that flags were given for.
#[derive(Debug, Default)]
pub(crate) struct Flags(pub(crate) BTreeMap<String, FlagValue>);

impl Flags {
    /// A flag with a text.
    pub(crate) fn text(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.set(key, FlagValue::Text(value.to_owned()));
        }
    }

    /// A flag with a number.
    pub(crate) fn number(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.set(key, FlagValue::Number(value));
        }
    }

    /// A flag that is there or not.
    pub(crate) fn switch(&mut self, key: &str, given: bool) {
        if given {
            self.set(key, FlagValue::Switch(true));
        }
    }

    /// A flag that turns something off.
    pub(crate) fn off(&mut self, key: &str) {
        self.set(key, FlagValue::Switch(false));
    }

    /// A flag that may come several times.
    pub(crate) fn list(&mut self, key: &str, values: &[String]) {
        if !values.is_empty() {
            self.set(key, FlagValue::List(values.to_vec()));
        }
    }

    /// A flag with a key and a value that may come several times.
    pub(crate) fn map(&mut self, key: &str, pairs: &[(String, String)]) {
        if !pairs.is_empty() {
            self.set(key, FlagValue::Map(pairs.iter().cloned().collect()));
        }
    }

    fn set(&mut self, key: &str, value: FlagValue) {
        self.0.insert(key.to_owned(), value);
    }
}
