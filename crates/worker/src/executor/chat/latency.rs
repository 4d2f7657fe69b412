//! How fast models answered lately, in this worker.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The part of the newest answer in the average.
const NEWEST: f64 = 0.2;
/// What a model that failed is taken to have needed at least.
const FAILED: Duration = Duration::from_secs(30);
/// After this a measurement is forgotten, so that a model that was slow gets another chance.
const FORGET_AFTER: Duration = Duration::from_secs(300);

/// The moving average of each model's time to answer. The names are those of the configuration, so they
/// are few.
#[derive(Debug, Default)]
pub(super) struct Latencies(Mutex<BTreeMap<String, Measured>>);

#[derive(Clone, Copy, Debug)]
struct Measured {
    seconds: f64,
    at: Instant,
}

impl Latencies {
    /// Notes an answer.
    pub(super) fn answered(&self, model: &str, took: Duration) {
        self.note(model, took);
    }

    /// Notes a failure.
    pub(super) fn failed(&self, model: &str, took: Duration) {
        self.note(model, took.max(FAILED));
    }

    fn note(&self, model: &str, took: Duration) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = match all.get(model) {
            Some(before) if before.at.elapsed() < FORGET_AFTER => {
                before.seconds + NEWEST * (took.as_secs_f64() - before.seconds)
            }
            _ => took.as_secs_f64(),
        };
        let at = Instant::now();
        all.insert(model.to_owned(), Measured { seconds, at });
    }

    /// The average; none for a model that was not asked lately, which should be tried.
    pub(super) fn of(&self, model: &str) -> Option<f64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = all.get(model)?;
        (measured.at.elapsed() < FORGET_AFTER).then_some(measured.seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn averages_follow_slowly_and_are_forgotten() {
        let latencies = Latencies::default();
        assert_eq!(latencies.of("a"), None);
        latencies.answered("a", Duration::from_secs(1));
        latencies.answered("a", Duration::from_secs(2));
        assert!((latencies.of("a").unwrap() - 1.2).abs() < 1e-9);
        latencies.failed("a", Duration::from_millis(1));
        assert!(latencies.of("a").unwrap() > 6.0);
        tokio::time::advance(FORGET_AFTER).await;
        assert_eq!(latencies.of("a"), None);
        latencies.answered("a", Duration::from_secs(3));
        assert_eq!(latencies.of("a"), Some(3.0));
    }
}
