//! What clients read as JSON: the same from the HTTP API and from `--json`.
//!
//! The forms borrow from the views that they show. Their schemas are those of the OpenAPI document.

mod alert;
mod autoscale;
mod breaker;
mod cache;
mod chunk;
mod cluster;
mod event;
mod overview;
mod run;
mod worker;

use std::borrow::Cow;

use levelflow_common::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

pub use alert::{Alert, AlertList};
pub use autoscale::Autoscale;
pub use breaker::{Breaker, BreakerList};
pub use cache::{
    CacheStatistics, CacheTierStatistics, EmbeddingModelStatistics, SemanticStatistics,
    SharedCacheTierStatistics,
};
pub use chunk::Chunk;
pub use cluster::Cluster;
pub use event::Event;
pub use overview::Overview;
pub use run::{
    CachedFrom, Explanation, Reason, Run, RunList, SimilarTo, Summary, Task, TaskExplanation,
    TaskOutputs,
};
pub use worker::{Worker, WorkerHeartbeat, WorkerList, WorkerSession};

/// A point in time in RFC 3339, in UTC, to the millisecond.
pub fn timestamp(time: Timestamp) -> String {
    let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => format!("{time:.3}"),
        // After the year 9999, which RFC 3339 cannot write.
        Err(_) => "never".to_owned(),
    }
}

/// The point in time that a text in RFC 3339 names.
///
/// # Errors
/// When it is none, or before 1970.
pub fn parse_timestamp(text: &str) -> Result<Timestamp, InvalidTimestamp> {
    let invalid = || InvalidTimestamp(text.to_owned());
    let time: jiff::Timestamp = text.parse().map_err(|_| invalid())?;
    let micros = u64::try_from(time.as_microsecond()).map_err(|_| invalid())?;
    Ok(Timestamp::from_micros(micros))
}

/// The text is no point in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no point in time; write for example 2026-01-31T08:00:00Z")]
pub struct InvalidTimestamp(pub String);

/// A value that is JSON already, on one line.
#[derive(Clone, Debug)]
pub struct JsonText<'a>(Cow<'a, RawValue>);

impl<'a> JsonText<'a> {
    /// The value in these bytes; none if they are not JSON.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let value: &RawValue = serde_json::from_slice(bytes).ok()?;
        let text = value.get();
        // Between values only: in texts, line ends are escaped.
        if !text.contains(['\n', '\r']) {
            return Some(Self(Cow::Borrowed(value)));
        }
        let line = text.replace(['\n', '\r'], " ");
        RawValue::from_string(line).ok().map(Cow::Owned).map(Self)
    }
}

impl Serialize for JsonText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl JsonSchema for JsonText<'_> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "JsonValue".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "Any JSON value." })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339_in_utc() {
        assert_eq!(
            timestamp(Timestamp::from_micros(1_700_000_000_123_456)),
            "2023-11-14T22:13:20.123Z"
        );
        assert_eq!(timestamp(Timestamp::MAX), "never");
        let text = "2023-11-15T00:13:20.123+02:00";
        assert_eq!(
            timestamp(parse_timestamp(text).unwrap()),
            "2023-11-14T22:13:20.123Z"
        );
        assert!(parse_timestamp("1960-01-01T00:00:00Z").is_err());
        assert!(parse_timestamp("yesterday").is_err());
    }

    #[test]
    fn a_value_stays_as_it_is_but_on_one_line() {
        let shown = |bytes: &'static [u8]| {
            JsonText::read(bytes).map(|text| serde_json::to_string(&text).unwrap())
        };
        assert_eq!(
            shown(b"{\"b\":1.0, \"a\":2}").unwrap(),
            "{\"b\":1.0, \"a\":2}"
        );
        assert_eq!(shown(b"[1,\r\n\"\\n\"]").unwrap(), "[1,  \"\\n\"]");
        assert_eq!(shown(b"{"), None);
    }
}
