//! Where a worker finds secrets.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where a worker finds secrets: the first place that has one of the name is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecretsConfig {
    /// What the names of environment variables start with that hold secrets; none does if it is empty.
    pub environment_prefix: String,
    /// A directory with a file for each secret, named as the secret is, as Kubernetes mounts them.
    pub directory: Option<PathBuf>,
    /// A file with a line `NAME=VALUE` for each secret; or in TOML, if its name ends in `.toml`.
    pub file: Option<PathBuf>,
}

impl Default for SecretsConfig {
    fn default() -> Self {
        Self {
            environment_prefix: levelflow_runtime::config::SECRET_PREFIX.to_owned(),
            directory: None,
            file: None,
        }
    }
}
