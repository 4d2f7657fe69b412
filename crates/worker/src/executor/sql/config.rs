//! The settings of a database.

use std::path::PathBuf;
use std::time::Duration;

use levelflow_common::HumanDuration;
use serde::{Deserialize, Serialize};

use crate::secret::{Places, Secret};

/// The most connections to one database.
const MAX_CONNECTIONS: usize = 1_000;
/// Bytes of the name of a connection.
const MAX_NAME_BYTES: usize = 64;

/// The settings of a database, by whose name `sql` tasks ask it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SqlConnection {
    /// Its address: `postgres://user:password@host:port/database` or `sqlite:path`.
    pub url: Option<Secret>,
    /// The environment variable that holds the address, in place of `url`.
    pub url_env: Option<String>,
    /// The file that holds the address, in place of `url`.
    pub url_file: Option<PathBuf>,
    /// The most connections that are open at once.
    pub max_connections: usize,
    /// How long a connection stays open that nobody uses.
    pub idle_timeout: HumanDuration,
    /// How long opening a connection may take.
    pub connect_timeout: HumanDuration,
}

impl Default for SqlConnection {
    fn default() -> Self {
        Self {
            url: None,
            url_env: None,
            url_file: None,
            max_connections: 20,
            idle_timeout: HumanDuration(Duration::from_secs(60)),
            connect_timeout: HumanDuration(Duration::from_secs(10)),
        }
    }
}

impl SqlConnection {
    /// The database at this address, with all other settings at their defaults.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: Some(Secret::new(url)),
            ..Self::default()
        }
    }

    pub(super) fn places(&self) -> Places<'_> {
        Places {
            key: "url",
            text: &self.url,
            variable: &self.url_env,
            file: &self.url_file,
        }
    }

    /// Checks the settings and their name. The error is what is wrong with the key that is named first;
    /// an empty key stands for the name.
    pub(crate) fn validate(&self, name: &str) -> Result<(), (String, String)> {
        let wrong = |key: &str, problem: String| Err((key.to_owned(), problem));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(plain) {
            let problem = format!(
                "is not a name: it may have letters, digits, `_` and `-`, at most {MAX_NAME_BYTES}"
            );
            return wrong("", problem);
        }
        if self.places().given() != 1 {
            let problem = "must be given, in `url`, `url_env` or `url_file`".to_owned();
            return wrong("url", problem);
        }
        if !(1..=MAX_CONNECTIONS).contains(&self.max_connections) {
            let problem = format!(
                "is {}; it may be 1 to {MAX_CONNECTIONS}",
                self.max_connections
            );
            return wrong("max_connections", problem);
        }
        for (key, time) in [
            ("idle_timeout", self.idle_timeout),
            ("connect_timeout", self.connect_timeout),
        ] {
            if time.0.is_zero() {
                return wrong(key, "must be longer than 0s".to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_wrong() {
        let good = SqlConnection::at("sqlite:a.db");
        good.validate("main-2").unwrap();
        let problem = |name: &str, change: fn(&mut SqlConnection)| {
            let mut settings = SqlConnection::at("sqlite:a.db");
            change(&mut settings);
            settings.validate(name).unwrap_err()
        };
        assert_eq!(problem("a.b", |_| ()).0, "");
        assert_eq!(problem("", |_| ()).0, "");
        assert_eq!(
            problem("a", |settings| settings.url = None),
            (
                "url".to_owned(),
                "must be given, in `url`, `url_env` or `url_file`".to_owned()
            )
        );
        assert_eq!(
            problem("a", |settings| settings.url_env = Some("X".to_owned())).0,
            "url"
        );
        assert_eq!(
            problem("a", |settings| settings.max_connections = 0).1,
            "is 0; it may be 1 to 1000"
        );
        assert_eq!(
            problem("a", |settings| settings.idle_timeout =
                HumanDuration(Duration::ZERO))
            .0,
            "idle_timeout"
        );
    }
}
