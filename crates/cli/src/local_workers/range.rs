//! How many worker processes there may be: `4`, or `2..16`.

use std::fmt;
use std::str::FromStr;

use levelflow_engine::autoscale::MAX_WORKERS;
use serde::{Deserialize, Serialize};

/// How many worker processes there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub(crate) struct WorkerRange {
    /// At least.
    pub(crate) min: u32,
    /// At most.
    pub(crate) max: u32,
}

/// As people write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Count(u32),
    Text(String),
}

/// Not a number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "write a number of workers from 1 to {MAX_WORKERS}, such as 4, or the least and the most, such as 2..16"
)]
pub(crate) struct NotARange;

impl WorkerRange {
    fn new(min: u32, max: u32) -> Result<Self, NotARange> {
        match 1 <= min && min <= max && max <= MAX_WORKERS {
            true => Ok(Self { min, max }),
            false => Err(NotARange),
        }
    }
}

impl FromStr for WorkerRange {
    type Err = NotARange;

    fn from_str(text: &str) -> Result<Self, NotARange> {
        let (min, max) = text.split_once("..").unwrap_or((text, text));
        let number = |text: &str| text.parse().map_err(|_| NotARange);
        Self::new(number(min)?, number(max)?)
    }
}

impl TryFrom<Written> for WorkerRange {
    type Error = NotARange;

    fn try_from(written: Written) -> Result<Self, NotARange> {
        match written {
            Written::Count(count) => Self::new(count, count),
            Written::Text(text) => text.parse(),
        }
    }
}

impl fmt::Display for WorkerRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.min == self.max {
            true => write!(f, "{}", self.min),
            false => write!(f, "{}..{}", self.min, self.max),
        }
    }
}

impl From<WorkerRange> for String {
    fn from(range: WorkerRange) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_least_and_a_most() {
        let range = |min, max| Ok(WorkerRange { min, max });
        assert_eq!("2..16".parse(), range(2, 16));
        assert_eq!("4".parse(), range(4, 4));
        assert_eq!(
            serde_json::from_str(r#""3..3""#).ok(),
            Some(range(3, 3).unwrap())
        );
        assert_eq!(serde_json::from_str("5").ok(), Some(range(5, 5).unwrap()));
        for text in [
            "", "0", "0..4", "5..4", "2..1001", "2...4", "a..b", "-1", "2..",
        ] {
            assert_eq!(text.parse::<WorkerRange>(), Err(NotARange), "{text}");
        }
        assert_eq!(range(2, 16).unwrap().to_string(), "2..16");
        assert_eq!(range(4, 4).unwrap().to_string(), "4");
    }
}
