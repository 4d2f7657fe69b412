//! Configuration of the HTTP server.

use std::time::Duration;

use levelflow_common::limits::MAX_MESSAGE_BYTES;

use crate::listen::Listen;

/// Configuration of the HTTP server.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where to serve; nowhere if not given.
    pub listen: Option<Listen>,
    /// Names under which requests may come, beside those of this machine, if it serves this machine only.
    pub allowed_hosts: Vec<String>,
    /// How long the head of a request may take to arrive, and a connection may wait for the next request.
    pub header_timeout: Duration,
    /// How long a request may take from its head to the head of its answer, but for one that waits for the
    /// end of a run.
    pub request_timeout: Duration,
    /// How often a stream of events says that it is still there when nothing happens.
    pub keep_alive: Duration,
    /// Connections that may be open; more wait to be accepted.
    pub max_connections: usize,
    /// Streams of events that may be open.
    pub max_watchers: usize,
    /// Bytes of the body of one request.
    pub max_body_bytes: usize,
    /// Bytes of all bodies that are being read.
    pub max_buffered_bytes: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: None,
            allowed_hosts: Vec::new(),
            header_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            max_connections: 4096,
            max_watchers: 4096,
            max_body_bytes: MAX_MESSAGE_BYTES,
            max_buffered_bytes: 256 * 1024 * 1024,
        }
    }
}

impl HttpConfig {
    /// The first thing that is wrong with it, as field and problem.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        for (field, span) in [
            ("header_timeout", self.header_timeout),
            ("request_timeout", self.request_timeout),
            ("keep_alive", self.keep_alive),
        ] {
            if span.is_zero() {
                return Some((field, "must be longer than zero".to_owned()));
            }
        }
        for (field, value) in [
            ("max_connections", self.max_connections),
            ("max_watchers", self.max_watchers),
            ("max_body_bytes", self.max_body_bytes),
        ] {
            if value == 0 {
                return Some((field, "must be at least 1".to_owned()));
            }
        }
        if self.max_buffered_bytes < self.max_body_bytes {
            let least = self.max_body_bytes;
            return Some((
                "max_buffered_bytes",
                format!("must be at least `max_body_bytes`, {least}"),
            ));
        }
        None
    }
}
