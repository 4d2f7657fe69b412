//! What a worker does about its memory: first it gives back what it can, then it takes less work, and at
//! last it starts anew.

use std::time::Duration;

use super::config::MemoryConfig;
use super::policy::Level;

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Decision {
    /// Ask for memory back from whoever keeps some for later.
    pub(super) relieves: bool,
    /// Take less work, since that did not help.
    pub(super) sheds: bool,
    pub(super) restart: Restart,
}

/// Whether the worker ends so that its program starts anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Restart {
    #[default]
    No,
    /// It is time, but the worker has not run for long enough. Told once.
    TooSoon,
    /// It is time. Told once.
    Now,
}

/// Decides, from one sample to the next.
pub(super) struct Actions {
    /// 0 for never.
    restart_after: Duration,
    restart_interval: Duration,
    level: Level,
    critical_since: Duration,
    told: Restart,
}

impl Actions {
    pub(super) fn new(config: &MemoryConfig) -> Self {
        Self {
            restart_after: config.restart_after.0,
            restart_interval: config.restart_interval.0,
            level: Level::Normal,
            critical_since: Duration::ZERO,
            told: Restart::No,
        }
    }

    /// Takes in how the memory is, so long after the worker started.
    pub(super) fn decide(&mut self, at: Duration, level: Level, leaks: bool) -> Decision {
        let before = std::mem::replace(&mut self.level, level);
        if level == Level::Critical && before != Level::Critical {
            self.critical_since = at;
        }
        if level != Level::Critical && self.told == Restart::TooSoon {
            self.told = Restart::No;
        }
        Decision {
            relieves: level > before,
            sheds: level > Level::Normal && before > Level::Normal,
            restart: self.restart(at, leaks),
        }
    }

    fn restart(&mut self, at: Duration, leaks: bool) -> Restart {
        let waited = at.saturating_sub(self.critical_since) >= self.restart_after;
        // What leaks will not get better.
        let is_due =
            self.level == Level::Critical && !self.restart_after.is_zero() && (waited || leaks);
        let decided = match is_due {
            false => return Restart::No,
            true if at < self.restart_interval => Restart::TooSoon,
            true => Restart::Now,
        };
        if self.told == decided || self.told == Restart::Now {
            return Restart::No;
        }
        self.told = decided;
        decided
    }
}

#[cfg(test)]
mod tests {
    use levelflow_common::HumanDuration;

    use super::*;
    use Level::{Critical, Normal, Warning};

    fn config(after: u64, interval: u64) -> MemoryConfig {
        MemoryConfig {
            restart_after: HumanDuration(Duration::from_secs(after)),
            restart_interval: HumanDuration(Duration::from_secs(interval)),
            ..MemoryConfig::default()
        }
    }

    /// One sample a second.
    fn decided(config: &MemoryConfig, samples: &[(Level, bool)]) -> Vec<Decision> {
        let mut actions = Actions::new(config);
        let samples = (0..).map(Duration::from_secs).zip(samples);
        samples
            .map(|(at, &(level, leaks))| actions.decide(at, level, leaks))
            .collect()
    }

    fn restarts(config: &MemoryConfig, samples: &[(Level, bool)]) -> Vec<(usize, Restart)> {
        let decided = decided(config, samples).into_iter().enumerate();
        decided
            .filter(|(_, it)| it.restart != Restart::No)
            .map(|(second, it)| (second, it.restart))
            .collect()
    }

    #[test]
    fn memory_is_asked_for_before_work_is_cut() {
        let samples = [
            Normal, Warning, Warning, Critical, Warning, Normal, Critical,
        ];
        let samples = samples.map(|level| (level, false));
        let decided = decided(&config(0, 0), &samples);
        let told: Vec<_> = decided.iter().map(|it| (it.relieves, it.sheds)).collect();
        let (no, asks, sheds) = ((false, false), (true, false), (false, true));
        assert_eq!(told, [no, asks, sheds, (true, true), sheds, no, asks]);
    }

    #[test]
    fn it_restarts_once_after_it_was_critical_for_long_enough() {
        let mut samples = vec![(Critical, false); 3];
        samples.push((Warning, false));
        samples.extend([(Critical, false); 8]);
        assert_eq!(restarts(&config(4, 0), &samples), [(8, Restart::Now)]);
        assert_eq!(restarts(&config(0, 0), &samples), []);
    }

    #[test]
    fn a_leak_is_not_waited_for_but_only_while_it_is_critical() {
        let samples = [(Warning, true), (Critical, false), (Critical, true)];
        assert_eq!(restarts(&config(100, 0), &samples), [(2, Restart::Now)]);
    }

    #[test]
    fn it_does_not_restart_soon_after_its_start_and_says_so_once() {
        let samples = [(Critical, true); 9];
        let expected = [(0, Restart::TooSoon), (6, Restart::Now)];
        assert_eq!(restarts(&config(1, 6), &samples), expected);
    }
}
