//! The watch over the worker's own memory.

mod config;
mod policy;
mod resident;

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

pub use config::MemoryConfig;
pub(crate) use policy::Level;
use policy::{Alert, MIB, Policy};
pub(crate) use resident::resident_bytes;

/// Watches until nobody asks for the level any more. The level is right from the start.
pub(crate) fn watch_memory(config: &MemoryConfig) -> watch::Receiver<Level> {
    let mut policy = Policy::new(config);
    let first = if config.is_on() {
        resident_bytes()
    } else {
        None
    };
    if let Some(resident) = first {
        report(&policy.sample(Duration::ZERO, resident));
    }
    let (level, levels) = watch::channel(policy.level());
    if first.is_some() {
        let begun_at = Instant::now();
        let mut ticks = interval_at(begun_at + config.interval.0, config.interval.0);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        levelflow_runtime::task::spawn("memory", async move {
            loop {
                tokio::select! {
                    () = level.closed() => return,
                    _ = ticks.tick() => {}
                }
                if let Some(resident) = resident_bytes() {
                    report(&policy.sample(begun_at.elapsed(), resident));
                    level.send_if_modified(|level| {
                        std::mem::replace(level, policy.level()) != policy.level()
                    });
                }
            }
        });
    } else if config.is_on() {
        tracing::warn!("memory is not watched: the system does not say what is resident");
    }
    levels
}

fn report(alerts: &[Alert]) {
    for alert in alerts {
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
}
