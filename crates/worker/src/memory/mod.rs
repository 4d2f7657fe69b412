//! The watch over the worker's own memory.

mod action;
mod config;
mod policy;
mod relief;
mod resident;

use std::time::Duration;

use levelflow_common::alert::MemoryAlertCause;
use levelflow_proto::{Enumeration as _, v1};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use action::{Actions, Restart};
pub use config::MemoryConfig;
pub(crate) use policy::Level;
use policy::{Alert, MIB, Policy};
pub(crate) use relief::Relief;
pub(crate) use resident::{resident_bytes, resident_bytes_of};

/// Alerts that wait for a session to the coordinator. What comes while it is full is only logged.
const WAITING_ALERTS: usize = 16;

/// How the memory is, and what the worker takes because of that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MemoryState {
    pub(crate) level: Level,
    /// Bytes per second over the window, 0 if it shrinks.
    pub(crate) growth: u64,
    /// It uses half of its slots only.
    pub(crate) cuts_slots: bool,
    /// It takes no attempts of low priority.
    pub(crate) refuses_low: bool,
}

/// What is known of the memory. A clone is told what comes from then on.
pub(crate) struct MemoryWatch {
    /// Changes with all but the growth.
    pub(crate) state: watch::Receiver<MemoryState>,
    /// What the coordinator is to be told.
    pub(crate) alerts: broadcast::Receiver<v1::MemoryAlert>,
}

impl Clone for MemoryWatch {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            alerts: self.alerts.resubscribe(),
        }
    }
}

/// Watches until nobody asks for the state any more. The level is right from the start. Asks `sources`
/// for memory when it is short, and cancels `restart` when the worker has to end because of that.
pub(crate) fn watch_memory(
    config: &MemoryConfig,
    sources: Vec<Relief>,
    restart: CancellationToken,
) -> MemoryWatch {
    let (told, alerts) = broadcast::channel(WAITING_ALERTS);
    let mut watcher = Watcher {
        config: config.clone(),
        policy: Policy::new(config),
        actions: Actions::new(config),
        begun_at: Instant::now(),
        sources,
        restart,
        told,
    };
    let resident = if config.is_on() {
        resident_bytes()
    } else {
        None
    };
    let mut first = MemoryState {
        level: Level::Normal,
        growth: 0,
        cuts_slots: false,
        refuses_low: false,
    };
    if let Some(resident) = resident {
        watcher.tell(Duration::ZERO, resident);
        first.level = watcher.policy.level();
    }
    let (state, states) = watch::channel(first);
    if resident.is_some() {
        levelflow_runtime::task::spawn("memory", watcher.run(state));
    } else if config.is_on() {
        tracing::warn!("memory is not watched: the system does not say what is resident");
    }
    MemoryWatch {
        state: states,
        alerts,
    }
}

struct Watcher {
    config: MemoryConfig,
    policy: Policy,
    actions: Actions,
    begun_at: Instant,
    sources: Vec<Relief>,
    restart: CancellationToken,
    told: broadcast::Sender<v1::MemoryAlert>,
}

impl Watcher {
    async fn run(mut self, state: watch::Sender<MemoryState>) {
        let interval = self.config.interval.0;
        let mut ticks = interval_at(self.begun_at + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = state.closed() => return,
                _ = ticks.tick() => {}
            }
            if let Some(resident) = resident_bytes() {
                let next = self.sample(resident).await;
                state.send_if_modified(|state| {
                    let before = std::mem::replace(state, next);
                    let growth = before.growth;
                    before != MemoryState { growth, ..next }
                });
            }
        }
    }

    /// Takes a sample in, does what has to be done because of it, and gives the state after that.
    async fn sample(&mut self, resident: u64) -> MemoryState {
        let at = self.begun_at.elapsed();
        self.tell(at, resident);
        let level = self.policy.level();
        let decision = self.actions.decide(at, level, self.policy.leaks());
        if level > Level::Normal {
            self.relieve(decision.relieves).await;
        }
        match decision.restart {
            Restart::No => {}
            Restart::TooSoon => tracing::warn!(
                resident_mib = resident / MIB,
                restart_interval = ?self.config.restart_interval.0,
                "memory stays critical, but it is too soon to start anew: the worker only sheds load"
            ),
            Restart::Now => {
                let alert = self.policy.alert(MemoryAlertCause::Restart, resident);
                tell(&[alert], &self.told);
                self.restart.cancel();
            }
        }
        MemoryState {
            level,
            growth: self.policy.growth(),
            cuts_slots: decision.sheds && self.config.cut_slots,
            refuses_low: decision.sheds && self.config.park_low,
        }
    }

    fn tell(&mut self, at: Duration, resident: u64) {
        tell(&self.policy.sample(at, resident), &self.told);
    }

    /// Lets the allocator give memory back, and at first those that keep some.
    async fn relieve(&self, at_first: bool) {
        let sources = if at_first {
            self.sources.clone()
        } else {
            Vec::new()
        };
        let relieve = move || {
            relief::relieve(&sources);
            relief::purge();
        };
        if let Err(error) = tokio::task::spawn_blocking(relieve).await {
            tracing::error!(%error, "memory could not be asked for");
        }
    }
}

fn tell(alerts: &[Alert], told: &broadcast::Sender<v1::MemoryAlert>) {
    for alert in alerts {
        log(alert);
        let message = v1::MemoryAlert {
            cause: alert.cause.number(),
            over: alert.is_over,
            resident_bytes: alert.resident,
            growth_per_second: alert.growth,
            limit: alert.limit,
        };
        if told.send(message).is_err() {
            tracing::debug!("no coordinator is told of a memory alert");
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
