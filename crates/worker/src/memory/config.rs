//! The settings of the watch over a worker's memory.

use std::time::Duration;

use levelflow_common::HumanDuration;
use serde::{Deserialize, Serialize};

use crate::config::in_range;
use crate::error::WorkerError;

/// The highest limit, a pebibyte.
const MAX_MIB: usize = 1 << 30;
/// The shortest time between samples.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);
/// The most samples in a window.
const MAX_SAMPLES: u32 = 1_000;

/// The settings of the watch over a worker's memory. A limit of 0 is none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Resident MiB from which on the worker warns.
    pub warning_mib: usize,
    /// Resident MiB from which on the worker takes no work.
    pub critical_mib: usize,
    /// Growth in MiB per second above which a leak is suspected.
    pub leak_mib_per_second: usize,
    /// How long it has to grow so fast.
    pub window: HumanDuration,
    /// The time between samples.
    pub interval: HumanDuration,
    /// Whether the worker uses only half of its slots while it is at the warning limit.
    pub cut_slots: bool,
    /// Whether it takes no tasks of low priority meanwhile.
    pub park_low: bool,
    /// How long it may be at the critical limit before it drains and ends, so that its program starts
    /// anew; a worker that also leaks does so at once. 0s for never.
    pub restart_after: HumanDuration,
    /// The time that a worker has to have run for before it does so.
    pub restart_interval: HumanDuration,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            warning_mib: 400,
            critical_mib: 800,
            leak_mib_per_second: 10,
            window: HumanDuration(Duration::from_secs(10)),
            interval: HumanDuration(Duration::from_secs(1)),
            cut_slots: true,
            park_low: true,
            restart_after: HumanDuration(Duration::from_secs(10)),
            restart_interval: HumanDuration(Duration::from_secs(60)),
        }
    }
}

impl MemoryConfig {
    /// Checks every setting.
    pub(crate) fn validate(&self) -> Result<(), WorkerError> {
        in_range("memory.warning_mib", self.warning_mib, 0, MAX_MIB)?;
        in_range("memory.critical_mib", self.critical_mib, 0, MAX_MIB)?;
        let leak = self.leak_mib_per_second;
        in_range("memory.leak_mib_per_second", leak, 0, MAX_MIB)?;
        if self.critical_mib > 0 && self.warning_mib >= self.critical_mib {
            return Err(WorkerError::Setting {
                setting: "memory.warning_mib".into(),
                problem: format!(
                    "is {}; it must be below `memory.critical_mib`, {}",
                    self.warning_mib, self.critical_mib
                ),
            });
        }
        let interval = self.interval.0;
        if interval < SHORTEST_INTERVAL {
            return Err(WorkerError::Setting {
                setting: "memory.interval".into(),
                problem: format!("is {interval:?}; it must be at least {SHORTEST_INTERVAL:?}"),
            });
        }
        if self.window.0 < interval || self.window.0 / MAX_SAMPLES > interval {
            return Err(WorkerError::Setting {
                setting: "memory.window".into(),
                problem: format!(
                    "is {:?}; it must be 1 to {MAX_SAMPLES} times `memory.interval`, {interval:?}",
                    self.window.0
                ),
            });
        }
        Ok(())
    }

    /// Whether there is any limit.
    pub(super) fn is_on(&self) -> bool {
        self.warning_mib > 0 || self.critical_mib > 0 || self.leak_mib_per_second > 0
    }
}
