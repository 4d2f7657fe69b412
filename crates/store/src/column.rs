//! Values as the databases keep them: their integers are signed.

use levelflow_common::Timestamp;

/// A number as a column. Numbers of runs and sequences count up from 1 and never come near the bound;
/// a larger number in a question simply matches nothing beyond it.
pub(crate) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number from a column that this program wrote.
pub(crate) fn number(column: i64) -> u64 {
    u64::try_from(column).unwrap_or(0)
}

/// A time as a column; all times after the year 294 000 are one.
pub(crate) fn micros(time: Timestamp) -> i64 {
    integer(time.as_micros())
}

/// A time from a column.
pub(crate) fn time(column: i64) -> Timestamp {
    if column == i64::MAX {
        Timestamp::MAX
    } else {
        Timestamp::from_micros(number(column))
    }
}
