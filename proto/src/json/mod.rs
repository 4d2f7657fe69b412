//! What clients read as JSON: the same from the HTTP API and from `--json`.
//!
//! The forms borrow from the views that they show. Their schemas are those of the OpenAPI document.

mod breaker;
mod chunk;
mod event;
mod run;

use std::borrow::Cow;

use levelflow_common::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

pub use breaker::{Breaker, BreakerList};
pub use chunk::Chunk;
pub use event::Event;
pub use run::{Explanation, Reason, Run, RunList, Summary, Task, TaskExplanation, TaskOutputs};

/// A point in time in RFC 3339, in UTC, to the millisecond.
pub fn timestamp(time: Timestamp) -> String {
    let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(time) => format!("{time:.3}"),
        // After the year 9999, which RFC 3339 cannot write.
        Err(_) => "never".to_owned(),
    }
}

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
