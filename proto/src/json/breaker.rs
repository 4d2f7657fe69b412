//! Breakers of upstreams.

use levelflow_common::view::{BreakerStatus, BreakerView};
use schemars::JsonSchema;
use serde::Serialize;

use super::timestamp;

/// The breakers of all upstreams that were called lately.
#[derive(Debug, Serialize, JsonSchema)]
pub struct BreakerList<'a> {
    /// By the names of their upstreams.
    pub breakers: Vec<Breaker<'a>>,
}

/// The breaker of an upstream.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Breaker<'a> {
    /// The upstream, such as `http:api.example.com:443`.
    upstream: &'a str,
    /// How it stands.
    status: BreakerStatus,
    /// Calls that failed in a row.
    failures: u32,
    /// When probes may start, while it is open.
    #[schemars(extend("format" = "date-time"))]
    probes_at: Option<String>,
    /// Attempts that may be under way at once; null for any number.
    limit: Option<u32>,
    /// Attempts that are.
    running: u32,
    /// Tasks that wait to call it.
    waiting: u32,
}

impl<'a> From<&'a BreakerView> for Breaker<'a> {
    fn from(view: &'a BreakerView) -> Self {
        Self {
            upstream: &view.upstream,
            status: view.status,
            failures: view.failures,
            probes_at: view.probes_at.map(timestamp),
            limit: view.limit,
            running: view.running,
            waiting: view.waiting,
        }
    }
}

impl<'a> From<&'a [BreakerView]> for BreakerList<'a> {
    fn from(views: &'a [BreakerView]) -> Self {
        Self {
            breakers: views.iter().map(Into::into).collect(),
        }
    }
}
