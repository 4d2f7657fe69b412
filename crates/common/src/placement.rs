//! How the worker of a task is chosen.

use serde::{Deserialize, Serialize};

/// How a worker is chosen among those that would take a task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// The one of whose slots the least part is taken.
    #[default]
    LeastBusy,
    /// One after the other.
    RoundRobin,
    /// Each as often as its weight says.
    Weighted,
    /// Any.
    Random,
}
