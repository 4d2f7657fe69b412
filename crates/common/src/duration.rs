//! Durations as people write them: `250ms`, `1s`, `1m30s`, `2h`, `7d`, or a number of seconds.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest duration that is accepted, ten years: far from the overflow of any sum of times.
pub const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// A duration that reads and writes itself as text such as `1m30s`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct HumanDuration(pub Duration);

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Nothing was written, or no unit, or an unknown one.
    #[error("`{0}` is not a duration; write for example 250ms, 10s, 1m30s, 2h or 7d")]
    Malformed(String),
    /// A minus sign.
    #[error("`{0}` is negative; a duration is zero or more")]
    Negative(String),
    /// More than [`LONGEST`].
    #[error("`{0}` is too long; the longest duration is 3660d")]
    TooLong(String),
}

impl FromStr for HumanDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || InvalidDuration::Malformed(text.to_owned());
        let too_long = || InvalidDuration::TooLong(text.to_owned());
        let mut rest = text.trim();
        if rest.starts_with('-') {
            return Err(InvalidDuration::Negative(text.to_owned()));
        }
        if rest.is_empty() {
            return Err(malformed());
        }
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .ok_or_else(malformed)?;
            let (number, tail) = rest.split_at(digits);
            let unit_end = tail
                .find(|c: char| !c.is_ascii_alphabetic() && c != 'µ')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let seconds = match unit {
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                _ => return Err(malformed()),
            };
            let number: f64 = number.parse().map_err(|_| malformed())?;
            let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| too_long())?;
            total = total.checked_add(part).ok_or_else(too_long)?;
            rest = tail.trim_start();
        }
        if total > LONGEST {
            return Err(too_long());
        }
        Ok(Self(total))
    }
}

impl HumanDuration {
    /// From a number of seconds, as a plain number in a file means it.
    ///
    /// # Errors
    /// When the number is negative, not finite, or more than [`LONGEST`].
    pub fn from_secs_f64(seconds: f64) -> Result<Self, InvalidDuration> {
        if seconds < 0.0 {
            return Err(InvalidDuration::Negative(seconds.to_string()));
        }
        match Duration::try_from_secs_f64(seconds) {
            Ok(span) if span <= LONGEST => Ok(Self(span)),
            _ => Err(InvalidDuration::TooLong(seconds.to_string())),
        }
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut micros = self.0.as_micros();
        if micros == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [
            ("d", 86_400_000_000),
            ("h", 3_600_000_000),
            ("m", 60_000_000),
            ("s", 1_000_000),
            ("ms", 1_000),
            ("us", 1),
        ] {
            let count = micros / size;
            micros %= size;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DurationVisitor;

        impl Visitor<'_> for DurationVisitor {
            type Value = HumanDuration;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration such as 250ms, 10s or 1m30s, or a number of seconds")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<HumanDuration, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<HumanDuration, E> {
                HumanDuration::from_secs_f64(seconds as f64).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<HumanDuration, E> {
                HumanDuration::from_secs_f64(seconds as f64).map_err(E::custom)
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<HumanDuration, E> {
                HumanDuration::from_secs_f64(seconds).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(DurationVisitor)
    }
}

impl JsonSchema for HumanDuration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A duration such as 250ms, 10s, 1m30s, 2h or 7d, or a number of seconds.",
            "anyOf": [
                { "type": "string", "pattern": r"^\s*([0-9.]+(us|µs|ms|s|m|min|h|d)\s*)+$" },
                { "type": "number", "minimum": 0 }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, millis) in [
            ("250ms", 250),
            ("1s", 1000),
            ("1.5s", 1500),
            ("1m30s", 90_000),
            ("2h", 7_200_000),
            (" 1d ", 86_400_000),
            ("0s", 0),
        ] {
            let parsed: HumanDuration = text.parse().unwrap();
            assert_eq!(parsed.0, Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |text: &str| text.parse::<HumanDuration>().unwrap_err().to_string();
        assert_eq!(
            error("-1s"),
            "`-1s` is negative; a duration is zero or more"
        );
        assert_eq!(
            error("1e99d"),
            "`1e99d` is not a duration; write for example 250ms, 10s, 1m30s, 2h or 7d"
        );
        assert_eq!(
            error("99999999d"),
            "`99999999d` is too long; the longest duration is 3660d"
        );
        assert_eq!(
            error("5"),
            "`5` is not a duration; write for example 250ms, 10s, 1m30s, 2h or 7d"
        );
        assert_eq!(
            error(""),
            "`` is not a duration; write for example 250ms, 10s, 1m30s, 2h or 7d"
        );
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["1m30s", "250ms", "7d", "0s", "1h1us"] {
            assert_eq!(text.parse::<HumanDuration>().unwrap().to_string(), text);
        }
    }
}
