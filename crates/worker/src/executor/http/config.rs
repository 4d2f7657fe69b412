//! The settings of `http` tasks.

use std::time::Duration;

use levelflow_common::HumanDuration;
use serde::{Deserialize, Serialize};

use super::egress::Egress;
use super::pool::MAX_CONNECTIONS;
use crate::config::in_range;
use crate::error::WorkerError;

/// The settings of `http` tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Networks, addresses and hosts that may be called although they are not of the public internet:
    /// `10.0.0.0/8`, `127.0.0.1:8080`, `db.internal`, `db.internal:8080`.
    pub allow: Vec<String>,
    /// Connections to one host, those in use included; what is beyond waits.
    pub connections: usize,
    /// How long a connection that nobody uses is kept; with `0s` none is used twice.
    pub keep_alive: HumanDuration,
    /// How long it may take to be connected.
    pub connect_timeout: HumanDuration,
    /// How long an exchange may take when its task says nothing else.
    pub timeout: HumanDuration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            connections: 100,
            keep_alive: HumanDuration(Duration::from_secs(30)),
            connect_timeout: HumanDuration(Duration::from_secs(10)),
            timeout: HumanDuration(Duration::from_secs(30)),
        }
    }
}

impl HttpConfig {
    /// Checks every setting.
    pub(crate) fn validate(&self) -> Result<(), WorkerError> {
        in_range("http.connections", self.connections, 1, MAX_CONNECTIONS)?;
        self.egress().map(drop)
    }

    /// Which addresses may be called.
    pub(super) fn egress(&self) -> Result<Egress, WorkerError> {
        Egress::new(&self.allow).map_err(|malformed| WorkerError::Setting {
            setting: "http.allow".into(),
            problem: malformed.to_string(),
        })
    }
}
