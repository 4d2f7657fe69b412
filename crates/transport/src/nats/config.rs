//! The settings of a connection to NATS.

use std::path::PathBuf;
use std::time::Duration;

use levelflow_common::HumanDuration;
use levelflow_runtime::config::InvalidSetting;
use levelflow_runtime::secret::{Places, Secret};
use serde::{Deserialize, Serialize};

use super::subject::is_token;

const SHORTEST_KEEPALIVE: Duration = Duration::from_millis(50);
const LONGEST_KEEPALIVE: Duration = Duration::from_secs(60);

/// The settings of a connection to NATS. A server may want one of `user` with `password`, `token`, `nkey` and
/// `credentials_file`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsConfig {
    /// Where servers are, for example `nats://10.0.0.5:4222`; several with commas between them, `tls://` for
    /// TLS.
    pub url: Option<Secret>,
    /// The environment variable that holds the address, in place of `url`.
    pub url_env: Option<String>,
    /// The file that holds the address, in place of `url`.
    pub url_file: Option<PathBuf>,
    /// What all subjects start with: letters, digits, `_` and `-`, with dots between them. Coordinators and
    /// workers with the same prefix find each other.
    pub prefix: String,
    /// A user.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// The environment variable that holds the password, in place of `password`.
    pub password_env: Option<String>,
    /// The file that holds the password, in place of `password`.
    pub password_file: Option<PathBuf>,
    /// A token.
    pub token: Option<Secret>,
    /// The environment variable that holds the token, in place of `token`.
    pub token_env: Option<String>,
    /// The file that holds the token, in place of `token`.
    pub token_file: Option<PathBuf>,
    /// The seed of an nkey of a user: `SU…`.
    pub nkey: Option<Secret>,
    /// The environment variable that holds the seed, in place of `nkey`.
    pub nkey_env: Option<String>,
    /// The file that holds the seed, in place of `nkey`.
    pub nkey_file: Option<PathBuf>,
    /// A file with the JWT and the seed of a user, as `nsc` writes it.
    pub credentials_file: Option<PathBuf>,
    /// TLS.
    pub tls: NatsTls,
    /// How often the sides of a session say that they are there. After three times without a word the
    /// session ends.
    pub keepalive: HumanDuration,
}

/// The settings of TLS to NATS. Servers that ask for it get it without them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NatsTls {
    /// Whether a server without TLS is refused.
    pub required: bool,
    /// Whether TLS begins before the server has said anything, as with `handshake_first` in its settings.
    pub first: bool,
    /// The certificates that sign those of servers, in PEM; those of the system if not given.
    pub ca_file: Option<PathBuf>,
    /// The certificate of this client, in PEM.
    pub cert_file: Option<PathBuf>,
    /// The key of that certificate, in PEM.
    pub key_file: Option<PathBuf>,
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            url: None,
            url_env: None,
            url_file: None,
            prefix: "levelflow".to_owned(),
            user: None,
            password: None,
            password_env: None,
            password_file: None,
            token: None,
            token_env: None,
            token_file: None,
            nkey: None,
            nkey_env: None,
            nkey_file: None,
            credentials_file: None,
            tls: NatsTls::default(),
            keepalive: HumanDuration(Duration::from_secs(2)),
        }
    }
}

impl NatsConfig {
    /// Servers at an address, and the defaults.
    pub fn at(url: impl Into<String>) -> Self {
        Self {
            url: Some(Secret::new(url)),
            ..Self::default()
        }
    }

    /// Whether an address is given, here or elsewhere.
    pub fn is_given(&self) -> bool {
        self.url_places().given() > 0
    }

    /// Checks every setting; keys begin with `nats`.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        if self.url_places().given() > 1 {
            return Err(wrong(
                "url",
                "may be given once: in `url`, `url_env` or `url_file`",
            ));
        }
        if self.prefix.is_empty() || !self.prefix.split('.').all(is_token) {
            return Err(wrong(
                "prefix",
                "may have letters, digits, `_` and `-`, with dots between them",
            ));
        }
        let keepalive = self.keepalive.0;
        if !(SHORTEST_KEEPALIVE..=LONGEST_KEEPALIVE).contains(&keepalive) {
            return Err(wrong(
                "keepalive",
                &format!(
                    "must be {} to {}",
                    HumanDuration(SHORTEST_KEEPALIVE),
                    HumanDuration(LONGEST_KEEPALIVE)
                ),
            ));
        }
        let ways = [
            self.user.is_some(),
            self.token_places().given() > 0,
            self.nkey_places().given() > 0,
            self.credentials_file.is_some(),
        ];
        if ways.into_iter().filter(|&given| given).count() > 1 {
            let problem =
                "only one of `user`, `token`, `nkey` and `credentials_file` may be given with it";
            return Err(wrong("url", problem));
        }
        if self.user.is_some() != (self.password_places().given() > 0) {
            return Err(wrong("user", "and `password` belong together"));
        }
        if self.tls.cert_file.is_some() != self.tls.key_file.is_some() {
            return Err(wrong("tls.cert_file", "and `key_file` belong together"));
        }
        Ok(())
    }

    pub(super) fn url_places(&self) -> Places<'_> {
        Places {
            key: "url",
            text: &self.url,
            variable: &self.url_env,
            file: &self.url_file,
        }
    }

    pub(super) fn password_places(&self) -> Places<'_> {
        Places {
            key: "password",
            text: &self.password,
            variable: &self.password_env,
            file: &self.password_file,
        }
    }

    pub(super) fn token_places(&self) -> Places<'_> {
        Places {
            key: "token",
            text: &self.token,
            variable: &self.token_env,
            file: &self.token_file,
        }
    }

    pub(super) fn nkey_places(&self) -> Places<'_> {
        Places {
            key: "nkey",
            text: &self.nkey,
            variable: &self.nkey_env,
            file: &self.nkey_file,
        }
    }

    pub(super) fn credentials_places(&self) -> Places<'_> {
        Places {
            key: "credentials",
            text: &None,
            variable: &None,
            file: &self.credentials_file,
        }
    }
}

pub(super) fn wrong(key: &str, problem: &str) -> InvalidSetting {
    InvalidSetting {
        key: format!("nats.{key}"),
        problem: problem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(change: impl FnOnce(&mut NatsConfig)) -> String {
        let mut config = NatsConfig::at("nats://127.0.0.1");
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid_and_name_no_server() {
        NatsConfig::default().validate().unwrap();
        assert!(!NatsConfig::default().is_given());
        assert!(NatsConfig::at("nats://127.0.0.1").is_given());
    }

    #[test]
    fn says_which_setting_is_wrong() {
        assert_eq!(
            problem(|it| it.url_env = Some("NATS_URL".to_owned())),
            "`nats.url` may be given once: in `url`, `url_env` or `url_file`"
        );
        for prefix in ["", "a..b", "a.", "a.*", ">", "a b"] {
            assert_eq!(
                problem(|it| it.prefix = prefix.to_owned()),
                "`nats.prefix` may have letters, digits, `_` and `-`, with dots between them"
            );
        }
        assert_eq!(
            problem(|it| it.keepalive.0 = Duration::from_millis(1)),
            "`nats.keepalive` must be 50ms to 1m"
        );
        assert_eq!(
            problem(|it| {
                it.token = Some(Secret::new("x"));
                it.nkey_env = Some("SEED".to_owned());
            }),
            "`nats.url` only one of `user`, `token`, `nkey` and `credentials_file` may be given with it"
        );
        assert_eq!(
            problem(|it| it.user = Some("flow".to_owned())),
            "`nats.user` and `password` belong together"
        );
        assert_eq!(
            problem(|it| it.tls.key_file = Some("key.pem".into())),
            "`nats.tls.cert_file` and `key_file` belong together"
        );
    }

    #[test]
    fn no_secret_is_shown() {
        let config = NatsConfig {
            token: Some(Secret::new("hunter2")),
            ..NatsConfig::at("nats://flow:hunter2@127.0.0.1")
        };
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
