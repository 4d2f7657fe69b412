//! The settings of the cache.

use std::path::PathBuf;
use std::time::Duration;

use levelflow_common::HumanDuration;
use levelflow_common::limits::MAX_RUN_OUTPUT_BYTES;
use levelflow_runtime::config::InvalidSetting;
use levelflow_runtime::secret::{Places, Secret};
use serde::{Deserialize, Serialize};

use crate::adaptive::AdaptiveTtl;
use crate::memory::Eviction;
use crate::shared::SharedSettings;

/// The largest memory that can be given to the tier in memory, a tebibyte.
const MAX_MIB: usize = 1 << 20;

/// The settings of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CacheConfig {
    /// Entries with more bytes than this are compressed.
    pub compress_over_bytes: usize,
    /// The most bytes of one entry, before compression. Larger results are not kept.
    pub max_entry_bytes: usize,
    /// The tier in the memory of the process.
    pub memory: MemoryConfig,
    /// The tier in Redis; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisConfig>,
    /// The tier in PostgreSQL; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresConfig>,
    /// How long identical work waits for one another.
    pub single_flight: SingleFlightConfig,
}

/// The settings of the tier in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// The most entries.
    pub max_entries: usize,
    /// The most MiB of all entries.
    pub max_mib: usize,
    /// How long it keeps an entry.
    pub ttl: HumanDuration,
    /// Which entry has to go when there is no room.
    pub eviction: Eviction,
    /// Lets entries live longer that are hit often; off by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adaptive: Option<AdaptiveTtl>,
}

/// The settings of the tier in Redis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// Its address: `redis://user:password@host:port/database`, or `rediss://` for TLS.
    pub url: Option<Secret>,
    /// The environment variable that holds the address, in place of `url`.
    pub url_env: Option<String>,
    /// The file that holds the address, in place of `url`.
    pub url_file: Option<PathBuf>,
    /// What its keys start with: letters, digits, `_`, `-` and `:`.
    pub prefix: String,
    /// How long it keeps an entry.
    pub ttl: HumanDuration,
    /// The most time that a lookup may lose with it; four fifths of it are waited for an answer.
    pub lookup_budget: HumanDuration,
    /// The longest that any other request to it may take.
    pub timeout: HumanDuration,
}

/// The settings of the tier in PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PostgresConfig {
    /// Its address: `postgres://user:password@host:port/database`.
    pub url: Option<Secret>,
    /// The environment variable that holds the address, in place of `url`.
    pub url_env: Option<String>,
    /// The file that holds the address, in place of `url`.
    pub url_file: Option<PathBuf>,
    /// The most connections that are open at once.
    pub max_connections: usize,
    /// How long it keeps an entry.
    pub ttl: HumanDuration,
    /// The most time that a lookup may lose with it; four fifths of it are waited for an answer.
    pub lookup_budget: HumanDuration,
    /// The longest that any other request to it may take.
    pub timeout: HumanDuration,
}

/// How long identical work waits for one another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SingleFlightConfig {
    /// For how long a process that computes is believed to go on if nothing is heard of it.
    pub lease: HumanDuration,
    /// The longest that others wait for it before they compute themselves.
    pub wait: HumanDuration,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            compress_over_bytes: 1024,
            max_entry_bytes: 4 * 1024 * 1024,
            memory: MemoryConfig::default(),
            redis: None,
            postgres: None,
            single_flight: SingleFlightConfig::default(),
        }
    }
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            max_entries: 10_000,
            max_mib: 128,
            ttl: HumanDuration(Duration::from_secs(3600)),
            eviction: Eviction::Lru,
            adaptive: None,
        }
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            url: None,
            url_env: None,
            url_file: None,
            prefix: "levelflow".to_owned(),
            ttl: HumanDuration(Duration::from_secs(3600)),
            lookup_budget: HumanDuration(Duration::from_millis(20)),
            timeout: HumanDuration(Duration::from_secs(2)),
        }
    }
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: None,
            url_env: None,
            url_file: None,
            max_connections: 8,
            ttl: HumanDuration(Duration::from_secs(24 * 3600)),
            lookup_budget: HumanDuration(Duration::from_millis(20)),
            timeout: HumanDuration(Duration::from_secs(2)),
        }
    }
}

impl Default for SingleFlightConfig {
    fn default() -> Self {
        Self {
            lease: HumanDuration(Duration::from_secs(10)),
            wait: HumanDuration(Duration::from_secs(300)),
        }
    }
}

impl CacheConfig {
    /// Checks every setting; their keys are given as they are in the section `[cache]`.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let max = MAX_RUN_OUTPUT_BYTES;
        in_range("max_entry_bytes", self.max_entry_bytes, 1024, max)?;
        self.memory.validate()?;
        if let Some(redis) = &self.redis {
            redis.validate()?;
        }
        if let Some(postgres) = &self.postgres {
            postgres.validate()?;
        }
        let flight = &self.single_flight;
        is_some_time("single_flight.wait", flight.wait)?;
        if flight.lease.0 < Duration::from_secs(1) {
            return Err(wrong("single_flight.lease", "must be at least 1s"));
        }
        Ok(())
    }
}

impl MemoryConfig {
    /// The bound of the tier in bytes.
    pub(crate) fn max_bytes(&self) -> usize {
        self.max_mib * 1024 * 1024
    }

    fn validate(&self) -> Result<(), InvalidSetting> {
        in_range("memory.max_entries", self.max_entries, 1, 1 << 30)?;
        in_range("memory.max_mib", self.max_mib, 1, MAX_MIB)?;
        is_some_time("memory.ttl", self.ttl)?;
        let Some(adaptive) = &self.adaptive else {
            return Ok(());
        };
        if adaptive.longest < self.ttl {
            let problem = "must be at least `memory.ttl`";
            return Err(wrong("memory.adaptive.longest", problem));
        }
        if adaptive.hits_per_hour == 0 {
            return Err(wrong("memory.adaptive.hits_per_hour", "must be at least 1"));
        }
        Ok(())
    }
}

impl RedisConfig {
    /// The tier at this address, with all other settings at their defaults.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: Some(Secret::new(url)),
            ..Self::default()
        }
    }

    /// Reads the address.
    pub(crate) fn address(&self) -> Result<Secret, InvalidSetting> {
        let places = Places {
            key: "url",
            text: &self.url,
            variable: &self.url_env,
            file: &self.url_file,
        };
        places.require("cache.redis")
    }

    pub(crate) fn settings(&self) -> SharedSettings {
        SharedSettings {
            ttl: self.ttl.0,
            lookup_budget: self.lookup_budget.0,
            timeout: self.timeout.0,
        }
    }

    fn validate(&self) -> Result<(), InvalidSetting> {
        // The prefix is also part of a pattern.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.bytes().all(plain) {
            let problem = "may have letters, digits, `_`, `-` and `:`, 1 to 64 of them";
            return Err(wrong("redis.prefix", problem));
        }
        self.settings().validate("redis")
    }
}

impl PostgresConfig {
    /// The tier at this address, with all other settings at their defaults.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: Some(Secret::new(url)),
            ..Self::default()
        }
    }

    /// Reads the address.
    pub(crate) fn address(&self) -> Result<Secret, InvalidSetting> {
        let places = Places {
            key: "url",
            text: &self.url,
            variable: &self.url_env,
            file: &self.url_file,
        };
        places.require("cache.postgres")
    }

    pub(crate) fn settings(&self) -> SharedSettings {
        SharedSettings {
            ttl: self.ttl.0,
            lookup_budget: self.lookup_budget.0,
            timeout: self.timeout.0,
        }
    }

    fn validate(&self) -> Result<(), InvalidSetting> {
        in_range("postgres.max_connections", self.max_connections, 1, 1_000)?;
        self.settings().validate("postgres")
    }
}

impl SharedSettings {
    fn validate(&self, section: &str) -> Result<(), InvalidSetting> {
        for (key, time) in [
            ("ttl", self.ttl),
            ("lookup_budget", self.lookup_budget),
            ("timeout", self.timeout),
        ] {
            is_some_time(&format!("{section}.{key}"), HumanDuration(time))?;
        }
        Ok(())
    }
}

fn in_range(key: &str, value: usize, min: usize, max: usize) -> Result<(), InvalidSetting> {
    match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(wrong(key, format!("is {value}; it may be {min} to {max}"))),
    }
}

fn is_some_time(key: &str, time: HumanDuration) -> Result<(), InvalidSetting> {
    match time.0.is_zero() {
        true => Err(wrong(key, "must be longer than 0s")),
        false => Ok(()),
    }
}

pub(crate) fn wrong(key: &str, problem: impl Into<String>) -> InvalidSetting {
    InvalidSetting {
        key: format!("cache.{key}"),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_of_the_documentation() {
        let config = CacheConfig::default();
        config.validate().unwrap();
        assert_eq!(config.memory.max_entries, 10_000);
        assert_eq!(config.memory.max_bytes(), 128 << 20);
        assert_eq!(config.memory.ttl.to_string(), "1h");
        assert_eq!(config.compress_over_bytes, 1024);
        let read: CacheConfig = serde_json::from_str("{}").unwrap();
        assert_eq!(read, config);
    }

    #[test]
    fn says_what_is_wrong() {
        let problem = |change: fn(&mut CacheConfig)| {
            let mut config = CacheConfig::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(
            problem(|config| config.memory.max_entries = 0),
            "`cache.memory.max_entries` is 0; it may be 1 to 1073741824"
        );
        assert_eq!(
            problem(|config| config.memory.ttl = HumanDuration::default()),
            "`cache.memory.ttl` must be longer than 0s"
        );
        assert_eq!(
            problem(|config| config.memory.adaptive = Some(AdaptiveTtl {
                longest: HumanDuration(Duration::from_secs(60)),
                hits_per_hour: 1,
            })),
            "`cache.memory.adaptive.longest` must be at least `memory.ttl`"
        );
        assert_eq!(
            problem(|config| config.max_entry_bytes = 1),
            "`cache.max_entry_bytes` is 1; it may be 1024 to 67108864"
        );
        assert_eq!(
            problem(|config| config.redis = Some(RedisConfig {
                prefix: "a*".to_owned(),
                ..RedisConfig::default()
            })),
            "`cache.redis.prefix` may have letters, digits, `_`, `-` and `:`, 1 to 64 of them"
        );
        assert_eq!(
            problem(|config| config.postgres = Some(PostgresConfig {
                lookup_budget: HumanDuration::default(),
                ..PostgresConfig::default()
            })),
            "`cache.postgres.lookup_budget` must be longer than 0s"
        );
        assert_eq!(
            RedisConfig::default().address().unwrap_err().to_string(),
            "`cache.redis.url` must be given, in `url`, `url_env` or `url_file`"
        );
        assert!(serde_json::from_str::<CacheConfig>(r#"{"ttl": "1h"}"#).is_err());
    }
}
