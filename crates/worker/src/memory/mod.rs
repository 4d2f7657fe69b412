//! The watch over the worker's own memory.

mod config;
mod policy;
mod resident;

use levelflow_proto::{Enumeration as _, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

pub use config::MemoryConfig;
pub(crate) use policy::Level;
use policy::{Alert, MIB, Policy};
pub(crate) use resident::{resident_bytes, resident_bytes_of};

/// Alerts that wait for a session to the coordinator. What comes while it is full is only logged.
const WAITING_ALERTS: usize = 16;

/// How the memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MemoryState {
    pub(crate) level: Level,
    /// Bytes per second over the window, 0 if it shrinks.
    pub(crate) growth: u64,
}

/// What is known of the memory.
pub(crate) struct MemoryWatch {
    /// Changes with the level.
    pub(crate) state: watch::Receiver<MemoryState>,
    /// What the coordinator is to be told.
    pub(crate) alerts: mpsc::Receiver<v1::MemoryAlert>,
}

/// Watches until nobody asks for the level any more. The level is right from the start.
pub(crate) fn watch_memory(config: &MemoryConfig) -> MemoryWatch {
    let (told, alerts) = mpsc::channel(WAITING_ALERTS);
    let first = if config.is_on() {
        resident_bytes()
    } else {
        None
    };
    let begun_at = Instant::now();
    let mut policy = Policy::new(config);
    if let Some(resident) = first {
        tell(&policy.sample(begun_at.elapsed(), resident), &told);
    }
    let (state, states) = watch::channel(policy.state());
    if first.is_some() {
        let mut ticks = interval_at(begun_at + config.interval.0, config.interval.0);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        levelflow_runtime::task::spawn("memory", async move {
            loop {
                tokio::select! {
                    () = state.closed() => return,
                    _ = ticks.tick() => {}
                }
                if let Some(resident) = resident_bytes() {
                    tell(&policy.sample(begun_at.elapsed(), resident), &told);
                    state.send_if_modified(|state| {
                        let before = std::mem::replace(state, policy.state());
                        before.level != state.level
                    });
                }
            }
        });
    } else if config.is_on() {
        tracing::warn!("memory is not watched: the system does not say what is resident");
    }
    MemoryWatch {
        state: states,
        alerts,
    }
}

fn tell(alerts: &[Alert], told: &mpsc::Sender<v1::MemoryAlert>) {
    for alert in alerts {
        log(alert);
        let message = v1::MemoryAlert {
            cause: alert.cause.number(),
            over: alert.is_over,
            resident_bytes: alert.resident,
            growth_per_second: alert.growth,
            limit: alert.limit,
        };
        if told.try_send(message).is_err() {
            tracing::debug!("coordinator is not told of a memory alert");
        }
    }
}

fn log(alert: &Alert) {
    let cause = alert.cause.as_str();
    let resident_mib = alert.resident / MIB;
    let growth_mib_per_s = alert.growth / MIB;
    let limit_mib = alert.limit / MIB;
    if alert.is_over {
        tracing::info!(
            cause,
            resident_mib,
            growth_mib_per_s,
            limit_mib,
            "memory alert is over"
        );
    } else {
        tracing::warn!(
            cause,
            resident_mib,
            growth_mib_per_s,
            limit_mib,
            "memory alert"
        );
    }
}
