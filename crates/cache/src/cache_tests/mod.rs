//! The cache over tiers that do as they are told.

mod fake;
mod flights;
mod model;
mod servers;
mod tiers;

use std::time::Duration;

use bytes::Bytes;

use crate::entry::{Computed, Labels, Terms};
use levelflow_common::CacheKey;

const HOUR: Duration = Duration::from_secs(3600);

fn key(number: u8) -> CacheKey {
    CacheKey::from_bytes([number; 32])
}

fn computed(output: impl Into<Bytes>) -> Computed {
    Computed::output(output, Duration::from_secs(2))
}

fn terms_of(tenant: &str, tags: &[&str]) -> Terms {
    Terms {
        labels: Labels {
            tenant: tenant.to_owned(),
            workflow: "flow".to_owned(),
            tags: tags.iter().map(ToString::to_string).collect(),
        },
        ..Terms::default()
    }
}
