//! What people and programs get to see, made from view models.

pub(crate) mod autoscale;
pub(crate) mod breaker;
pub(crate) mod chunk;
pub(crate) mod cluster;
pub(crate) mod diagnostic;
pub(crate) mod live;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod time;
pub(crate) mod top;
pub(crate) mod worker;

/// A number with its noun.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}
