//! The settings of the store in PostgreSQL.

use std::path::PathBuf;
use std::time::Duration;

use levelflow_common::{HumanDuration, ShardCount};
use levelflow_runtime::config::InvalidSetting;
use levelflow_runtime::secret::{Places, Secret};
use serde::{Deserialize, Serialize};

/// Where the settings are in the configuration.
const SECTION: &str = "coordinator.postgres";
/// Bytes of the name of a schema: PostgreSQL cuts longer ones off.
const MAX_SCHEMA_BYTES: usize = 63;
/// The writer has one connection for itself.
const MIN_CONNECTIONS: usize = 2;

/// The settings of the store in PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Its address: `postgres://user:password@host:port/database`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<Secret>,
    /// The environment variable that holds the address, in place of `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_env: Option<String>,
    /// The file that holds the address, in place of `url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url_file: Option<PathBuf>,
    /// The schema that the tables are in. It is made if it is missing.
    pub schema: String,
    /// Into how many shards runs are divided. Fixed when the store is made.
    pub shards: u16,
    /// How much time the runs span that are deleted together. Fixed when the store is made.
    pub partition: HumanDuration,
    /// The most connections that are open at once.
    pub max_connections: usize,
    /// The longest that one request may take.
    pub timeout: HumanDuration,
    /// How long it is tried to find out about a commit whose outcome is unknown, and to do it again.
    pub commit_within: HumanDuration,
    /// Whether a server is used that may lose what it confirmed.
    pub allow_unsafe: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: None,
            url_env: None,
            url_file: None,
            schema: "levelflow".to_owned(),
            shards: 64,
            partition: HumanDuration(Duration::from_secs(24 * 3600)),
            max_connections: 8,
            timeout: HumanDuration(Duration::from_secs(10)),
            commit_within: HumanDuration(Duration::from_secs(30)),
            allow_unsafe: false,
        }
    }
}

impl Config {
    /// The store at this address, with all other settings at their defaults.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: Some(Secret::new(url)),
            ..Self::default()
        }
    }

    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        self.shard_count()?;
        let first = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        let plain = |byte: u8| first(byte) || byte.is_ascii_digit();
        let name = self.schema.as_bytes();
        if !name.first().is_some_and(|&byte| first(byte))
            || name.len() > MAX_SCHEMA_BYTES
            || !name.iter().all(|&byte| plain(byte))
        {
            let problem =
                "may have lower case letters, digits and `_`, 1 to 63 of them, and no digit first";
            return Err(wrong("schema", problem));
        }
        if !(MIN_CONNECTIONS..=1_000).contains(&self.max_connections) {
            let found = self.max_connections;
            let problem = format!("is {found}; it may be {MIN_CONNECTIONS} to 1000");
            return Err(wrong("max_connections", problem));
        }
        if self.partition.0 < Duration::from_secs(60) {
            return Err(wrong("partition", "must be at least 1m"));
        }
        for (key, time) in [
            ("timeout", self.timeout),
            ("commit_within", self.commit_within),
        ] {
            if time.0 < Duration::from_secs(1) {
                return Err(wrong(key, "must be at least 1s"));
            }
        }
        Ok(())
    }

    /// How many shards are asked for.
    ///
    /// # Errors
    /// When there cannot be so many.
    pub fn shard_count(&self) -> Result<ShardCount, InvalidSetting> {
        let max = ShardCount::MAX;
        let problem = || format!("is {}; it may be 1 to {max}", self.shards);
        ShardCount::new(self.shards).ok_or_else(|| wrong("shards", problem()))
    }

    /// Reads the address.
    pub(super) fn address(&self) -> Result<Secret, InvalidSetting> {
        let places = Places {
            key: "url",
            text: &self.url,
            variable: &self.url_env,
            file: &self.url_file,
        };
        places.require(SECTION)
    }
}

pub(super) fn wrong(key: &str, problem: impl Into<String>) -> InvalidSetting {
    InvalidSetting {
        key: format!("{SECTION}.{key}"),
        problem: problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong() {
        Config::default().validate().unwrap();
        let problem = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert_eq!(
            problem(|config| config.shards = 0),
            "`coordinator.postgres.shards` is 0; it may be 1 to 1024"
        );
        assert_eq!(
            problem(|config| config.max_connections = 1),
            "`coordinator.postgres.max_connections` is 1; it may be 2 to 1000"
        );
        for schema in ["", "Levelflow", "1a", "a-b", "a\"b"] {
            let config = Config {
                schema: schema.to_owned(),
                ..Config::default()
            };
            let problem = config.validate().unwrap_err().to_string();
            assert!(problem.contains(".schema` may have"), "{problem}");
        }
        let config: Config = serde_json::from_str(r#"{"timeout": "2s"}"#).unwrap();
        assert_eq!(config.timeout.to_string(), "2s");
        assert!(Config::default().address().is_err());
    }
}
