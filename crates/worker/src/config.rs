//! The settings of a worker.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use levelflow_cache::CacheConfig;
use levelflow_common::HumanDuration;
use levelflow_common::limits::{MAX_KEY_BYTES, MAX_LABELS};
use levelflow_transport::nats::NatsConfig;
use serde::{Deserialize, Serialize};

use crate::error::WorkerError;
use crate::executor::{ChatModel, HttpConfig, SqlConnection};
use crate::memory::MemoryConfig;
use crate::secrets::SecretsConfig;

/// The most attempts that one worker runs at once.
pub const MAX_SLOTS: usize = 65_536;

/// The most that one worker weighs.
pub const MAX_WEIGHT: usize = 1000;

/// The settings of a worker, as a configuration file has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkerConfig {
    /// The coordinator.
    pub address: String,
    /// NATS, where the coordinator is reached over it and not at its address.
    pub nats: NatsConfig,
    /// Unique among live workers; made from the name of the host if empty.
    pub id: String,
    /// The queues from which it takes work; `default` if empty.
    pub queues: Vec<String>,
    /// What tasks can select it by.
    pub labels: BTreeMap<String, String>,
    /// Attempts that it runs at once.
    pub slots: usize,
    /// How often it is given an attempt, compared with other workers, where coordinators place by weight.
    pub weight: u32,
    /// Attempts that it takes beyond its slots, so that the next is at hand when one ends. They wait
    /// here although another worker may be free: worth it for short tasks only.
    pub prefetch: usize,
    /// Whether it runs programs.
    pub allow_process: bool,
    /// Tasks of type `http`.
    pub http: HttpConfig,
    /// The databases that `sql` tasks can name.
    pub connections: BTreeMap<String, SqlConnection>,
    /// Where it finds secrets.
    pub secrets: SecretsConfig,
    /// The language models that `chat` tasks can name.
    pub models: BTreeMap<String, ChatModel>,
    /// Threads for CPU-heavy handlers; 0 for one per core.
    pub cpu_threads: usize,
    /// The most blocking handlers at once.
    pub blocking_threads: usize,
    /// How long a stopping worker waits for the attempts that run.
    pub drain_timeout: HumanDuration,
    /// How long a cancelled attempt has to end by itself.
    pub cancel_grace: HumanDuration,
    /// Outcomes that wait for their acknowledgement, beyond which no more work is asked for.
    pub spool_outcomes: usize,
    /// Bytes of those outcomes.
    pub spool_bytes: usize,
    /// The watch over the memory of its process.
    pub memory: MemoryConfig,
    /// The cache of its handlers.
    pub cache: CacheConfig,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            address: "http://127.0.0.1:7400".to_owned(),
            nats: NatsConfig::default(),
            id: String::new(),
            queues: Vec::new(),
            labels: BTreeMap::new(),
            slots: 16,
            weight: 1,
            prefetch: 0,
            allow_process: false,
            http: HttpConfig::default(),
            connections: BTreeMap::new(),
            secrets: SecretsConfig::default(),
            models: BTreeMap::new(),
            cpu_threads: 0,
            blocking_threads: 64,
            drain_timeout: HumanDuration(Duration::from_secs(30)),
            cancel_grace: HumanDuration(Duration::from_secs(5)),
            spool_outcomes: 100_000,
            spool_bytes: 64 * 1024 * 1024,
            memory: MemoryConfig::default(),
            cache: CacheConfig::default(),
        }
    }
}

impl WorkerConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), WorkerError> {
        in_range("slots", self.slots, 1, MAX_SLOTS)?;
        in_range("weight", self.weight as usize, 1, MAX_WEIGHT)?;
        in_range("prefetch", self.prefetch, 0, MAX_SLOTS)?;
        in_range("cpu_threads", self.cpu_threads, 0, 1024)?;
        in_range("blocking_threads", self.blocking_threads, 1, 4096)?;
        self.http.validate()?;
        self.memory.validate()?;
        for checked in [self.cache.validate(), self.nats.validate()] {
            checked.map_err(|wrong| WorkerError::Setting {
                setting: wrong.key.into(),
                problem: wrong.problem,
            })?;
        }
        in_range("spool_outcomes", self.spool_outcomes, 1, 10_000_000)?;
        in_range("spool_bytes", self.spool_bytes, 1, usize::MAX)?;
        in_range("labels", self.labels.len(), 0, MAX_LABELS)?;
        in_range("queues", self.queues.len(), 0, 1024)?;
        in_range("connections", self.connections.len(), 0, 1024)?;
        in_range("models", self.models.len(), 0, 1024)?;
        in_range("id", self.id.len(), 0, MAX_KEY_BYTES)?;
        if self.queues.iter().any(String::is_empty) {
            return Err(WorkerError::Setting {
                setting: "queues".into(),
                problem: "has an empty name".to_owned(),
            });
        }
        if self.labels.keys().any(String::is_empty) {
            return Err(WorkerError::Setting {
                setting: "labels".into(),
                problem: "has an empty name".to_owned(),
            });
        }
        let connections = self.connections.iter().map(|(name, connection)| {
            let checked = connection.validate(name);
            ("connections", name, checked)
        });
        let models = self.models.iter().map(|(name, model)| {
            let checked = model.validate(name);
            ("models", name, checked)
        });
        for (section, name, checked) in connections.chain(models) {
            checked.map_err(|(key, problem)| {
                let place = [section, name, &key];
                let place = &place[..if key.is_empty() { 2 } else { 3 }];
                WorkerError::Setting {
                    setting: place.join(".").into(),
                    problem,
                }
            })?;
        }
        Ok(())
    }
}

/// Refuses a number that is out of its range.
pub(crate) fn in_range(
    setting: &'static str,
    value: usize,
    least: usize,
    most: usize,
) -> Result<(), WorkerError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(WorkerError::Setting {
        setting: Cow::Borrowed(setting),
        problem: format!("is {value}; it may be {least} to {most}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut WorkerConfig)) -> String {
        let mut config = WorkerConfig::default();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        WorkerConfig::default().validate().unwrap();
    }

    #[test]
    fn says_which_setting_is_wrong() {
        assert_eq!(
            problem(|config| config.slots = 0),
            "`slots` is 0; it may be 1 to 65536"
        );
        assert_eq!(
            problem(|config| config.queues = vec![String::new()]),
            "`queues` has an empty name"
        );
        assert_eq!(
            problem(|config| config.id = "x".repeat(300)),
            "`id` is 300; it may be 0 to 256"
        );
        assert_eq!(
            problem(|config| config.http.connections = 0),
            "`http.connections` is 0; it may be 1 to 1000"
        );
        assert_eq!(
            problem(|config| config.http.allow = vec!["http://x".to_owned()]),
            "`http.allow` has `http://x`, which is no network, address or host, such as \
             10.0.0.0/8 or example.com:8080"
        );
        assert_eq!(
            problem(|config| config.memory.warning_mib = 800),
            "`memory.warning_mib` is 800; it must be below `memory.critical_mib`, 800"
        );
        assert_eq!(
            problem(|config| config.memory.interval.0 = Duration::ZERO),
            "`memory.interval` is 0ns; it must be at least 10ms"
        );
        assert_eq!(
            problem(|config| config.nats.prefix = "*".to_owned()),
            "`nats.prefix` may have letters, digits, `_` and `-`, with dots between them"
        );
        assert_eq!(
            problem(|config| config.cache.memory.max_mib = 0),
            "`cache.memory.max_mib` is 0; it may be 1 to 1048576"
        );
        assert_eq!(
            problem(|config| config.memory.window.0 = Duration::from_secs(1_001)),
            "`memory.window` is 1001s; it must be 1 to 1000 times `memory.interval`, 1s"
        );
        let connection = |name: &str| {
            let name = name.to_owned();
            problem(|config| {
                config.connections.insert(name, SqlConnection::default());
            })
        };
        assert_eq!(
            connection("main"),
            "`connections.main.url` must be given, in `url`, `url_env` or `url_file`"
        );
        assert_eq!(
            connection("a b"),
            "`connections.a b` is not a name: it may have letters, digits, `_` and `-`, at most 64"
        );
    }
}
