//! When a worker's memory gives cause for an alert: levels with hysteresis, and steady growth.

use std::collections::VecDeque;
use std::time::Duration;

use levelflow_common::alert::MemoryAlertCause;
use levelflow_proto::v1;

use super::config::MemoryConfig;

/// Bytes in a MiB.
pub(super) const MIB: u64 = 1024 * 1024;

/// How full the memory is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Level {
    /// Below every limit.
    Normal,
    /// At the warning limit.
    Warning,
    /// At the critical limit: the worker takes no work.
    Critical,
}

impl Level {
    pub(crate) const fn number(self) -> i32 {
        let level = match self {
            Self::Normal => v1::MemoryLevel::Normal,
            Self::Warning => v1::MemoryLevel::Warning,
            Self::Critical => v1::MemoryLevel::Critical,
        };
        level as i32
    }
}

/// An alert that begins or is over, and the figures at that time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Alert {
    pub(super) cause: MemoryAlertCause,
    pub(super) is_over: bool,
    /// Resident bytes.
    pub(super) resident: u64,
    /// Bytes per second over the window, 0 if it shrinks.
    pub(super) growth: u64,
    /// The limit, in bytes or bytes per second.
    pub(super) limit: u64,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Duration,
    resident: u64,
}

/// A limit, and whether its alert was given and is not over.
struct Limit {
    cause: MemoryAlertCause,
    /// 0 for none.
    bytes: u64,
    is_exceeded: bool,
}

impl Limit {
    fn new(cause: MemoryAlertCause, mib: usize) -> Self {
        Self {
            cause,
            bytes: mib as u64 * MIB,
            is_exceeded: false,
        }
    }

    /// Whether the alert begins or is over, given what makes it begin and what ends it.
    fn change(&mut self, begins: bool, ends: bool) -> bool {
        let before = self.is_exceeded;
        self.is_exceeded = self.bytes > 0 && if before { !ends } else { begins };
        self.is_exceeded != before
    }
}

/// Judges samples of the resident memory.
pub(super) struct Policy {
    warning: Limit,
    critical: Limit,
    leak: Limit,
    window: Duration,
    /// Those of the last window, and the last one before them.
    samples: VecDeque<Sample>,
}

impl Policy {
    pub(super) fn new(config: &MemoryConfig) -> Self {
        Self {
            warning: Limit::new(MemoryAlertCause::Warning, config.warning_mib),
            critical: Limit::new(MemoryAlertCause::Critical, config.critical_mib),
            leak: Limit::new(MemoryAlertCause::Leak, config.leak_mib_per_second),
            window: config.window.0,
            samples: VecDeque::new(),
        }
    }

    /// Whether it has grown steadily, and does not shrink yet.
    pub(super) fn leaks(&self) -> bool {
        self.leak.is_exceeded
    }

    pub(super) fn level(&self) -> Level {
        if self.critical.is_exceeded {
            Level::Critical
        } else if self.warning.is_exceeded {
            Level::Warning
        } else {
            Level::Normal
        }
    }

    /// Growth over the window in bytes per second, 0 if it shrinks.
    pub(super) fn growth(&self) -> u64 {
        match (self.samples.front(), self.samples.back()) {
            (Some(&first), Some(&last)) => growth(first, last),
            _ => 0,
        }
    }

    /// Takes a sample in, later than those before, and gives the alerts that begin or are over.
    pub(super) fn sample(&mut self, at: Duration, resident: u64) -> Vec<Alert> {
        self.samples.push_back(Sample { at, resident });
        while let Some(second) = self.samples.get(1)
            && at.saturating_sub(second.at) >= self.window
        {
            self.samples.pop_front();
        }
        let growth = self.growth();
        let leaks = self.grows_steadily();

        let mut changed = Vec::new();
        for limit in [&mut self.warning, &mut self.critical] {
            let is_reached = resident >= limit.bytes;
            // Memory that goes up and down around a limit is one alert, not many.
            let is_well_below = resident < limit.bytes / 10 * 9;
            if limit.change(is_reached, is_well_below) {
                changed.push((limit.cause, limit.is_exceeded, limit.bytes));
            }
        }
        let limit = &mut self.leak;
        if limit.change(leaks, growth <= limit.bytes) {
            changed.push((limit.cause, limit.is_exceeded, limit.bytes));
        }
        let alert = |(cause, is_exceeded, limit): (MemoryAlertCause, bool, u64)| Alert {
            cause,
            is_over: !is_exceeded,
            resident,
            growth,
            limit,
        };
        changed.into_iter().map(alert).collect()
    }

    /// An alert that has no limit of its own: it comes of being critical.
    pub(super) fn alert(&self, cause: MemoryAlertCause, resident: u64) -> Alert {
        Alert {
            cause,
            is_over: false,
            resident,
            growth: self.growth(),
            limit: self.critical.bytes,
        }
    }

    /// Whether the samples span a window and the growth from each to the next is above the limit.
    fn grows_steadily(&self) -> bool {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return false;
        };
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        last.at.saturating_sub(first.at) >= self.window
            && pairs
                .into_iter()
                .all(|(&from, &to)| growth(from, to) > self.leak.bytes)
    }
}

/// Bytes per second; 0 if it shrinks.
fn growth(from: Sample, to: Sample) -> u64 {
    let grown = u128::from(to.resident.saturating_sub(from.resident));
    let micros = to.at.saturating_sub(from.at).as_micros().max(1);
    u64::try_from(grown * 1_000_000 / micros).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds one sample a second, in MiB, and gives what each brought.
    fn told(config: &MemoryConfig, samples: &[u64]) -> Vec<Vec<(MemoryAlertCause, bool)>> {
        let mut policy = Policy::new(config);
        let samples = (0..).zip(samples);
        samples
            .map(|(second, mib)| {
                let alerts = policy.sample(Duration::from_secs(second), mib * MIB);
                alerts.iter().map(|a| (a.cause, a.is_over)).collect()
            })
            .collect()
    }

    #[test]
    fn levels_begin_at_their_limit_and_end_well_below_it() {
        use MemoryAlertCause::{Critical, Warning};
        let samples = [399, 400, 390, 800, 799, 719, 361, 359, 900, 100];
        assert_eq!(
            told(&MemoryConfig::default(), &samples),
            [
                vec![],
                vec![(Warning, false)],
                vec![],
                vec![(Critical, false)],
                vec![],
                vec![(Critical, true)],
                vec![],
                vec![(Warning, true)],
                vec![(Warning, false), (Critical, false)],
                vec![(Warning, true), (Critical, true)],
            ]
        );
    }

    #[test]
    fn a_leak_is_growth_at_every_part_of_the_window() {
        let config = MemoryConfig {
            warning_mib: 0,
            critical_mib: 0,
            ..MemoryConfig::default()
        };
        // 11 MiB a second from the third second on.
        let leak = |seconds: u64| 100 + 11 * seconds.saturating_sub(3);
        let mut samples: Vec<u64> = (0..=14).map(leak).collect();
        // It stops: the growth over the window falls below the limit with the first flat second.
        samples.extend([samples[14]; 2]);
        let told = told(&config, &samples);
        let changes: Vec<_> = (0..).zip(&told).filter(|(_, t)| !t.is_empty()).collect();
        let (begins, over) = (
            vec![(MemoryAlertCause::Leak, false)],
            vec![(MemoryAlertCause::Leak, true)],
        );
        assert_eq!(changes, [(13, &begins), (15, &over)]);
    }

    #[test]
    fn one_jump_or_one_rest_is_no_leak() {
        let config = MemoryConfig {
            warning_mib: 0,
            critical_mib: 0,
            ..MemoryConfig::default()
        };
        let jump: Vec<u64> = (0..30).map(|s| if s < 5 { 100 } else { 700 }).collect();
        let rests: Vec<u64> = (0..30).map(|s| 100 + 20 * (s - s / 8)).collect();
        for samples in [jump, rests] {
            assert!(told(&config, &samples).iter().all(Vec::is_empty));
        }
    }

    #[test]
    fn an_alert_has_the_figures() {
        let mut policy = Policy::new(&MemoryConfig::default());
        policy.sample(Duration::ZERO, 380 * MIB);
        let alerts = policy.sample(Duration::from_secs(4), 420 * MIB);
        let expected = Alert {
            cause: MemoryAlertCause::Warning,
            is_over: false,
            resident: 420 * MIB,
            growth: 10 * MIB,
            limit: 400 * MIB,
        };
        assert_eq!(alerts, [expected]);
    }

    proptest! {
        #[test]
        fn alerts_alternate_and_nest(
            limits in (0_usize..50, 0_usize..50, 0_usize..20),
            steps in prop::collection::vec((1_u64..3_000, 0_u64..100), 1..200),
        ) {
            let (warning, above, leak) = limits;
            let critical = if above == 0 { 0 } else { warning + above };
            let config = MemoryConfig {
                warning_mib: warning,
                critical_mib: critical,
                leak_mib_per_second: leak,
                ..MemoryConfig::default()
            };
            let mut policy = Policy::new(&config);
            let mut at = Duration::ZERO;
            let mut open = Vec::new();
            for (wait, mib) in steps {
                at += Duration::from_millis(wait);
                for alert in policy.sample(at, mib * MIB) {
                    prop_assert_eq!(open.contains(&alert.cause), alert.is_over);
                    open.retain(|&cause| cause != alert.cause);
                    if !alert.is_over {
                        open.push(alert.cause);
                        let was_warned = warning == 0 || open.contains(&MemoryAlertCause::Warning);
                        prop_assert!(alert.cause != MemoryAlertCause::Critical || was_warned);
                    }
                }
                let expected = if open.contains(&MemoryAlertCause::Critical) {
                    Level::Critical
                } else if open.contains(&MemoryAlertCause::Warning) {
                    Level::Warning
                } else {
                    Level::Normal
                };
                prop_assert_eq!(policy.level(), expected);
                let reaches = |limit: usize| limit > 0 && mib >= limit as u64;
                prop_assert!(!reaches(critical) || expected == Level::Critical);
                prop_assert!(!reaches(warning) || expected >= Level::Warning);
                let is_well_below = |limit: usize| mib * 10 < limit as u64 * 9;
                prop_assert!(!is_well_below(critical) || expected < Level::Critical);
                prop_assert!(!is_well_below(warning) || !open.contains(&MemoryAlertCause::Warning));
                let kept = policy.samples.len() as u128;
                prop_assert!(kept <= config.window.0.as_millis() + 1);
            }
        }
    }
}
