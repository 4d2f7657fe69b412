//! How many workers there may be, and when there are to be more or fewer.

use std::time::Duration;

/// Workers that a policy may ask for.
pub const MAX_WORKERS: u32 = 1000;

/// How many workers there may be, and when there are to be more or fewer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AutoscalePolicy {
    /// Workers that there are at least.
    pub min: u32,
    /// Workers that there are at most.
    pub max: u32,
    /// So many tasks that no slot takes call for one more worker each time.
    pub scale_up_queue_depth: u64,
    /// They do so only if the workers that are there would be busy with them for that long.
    pub scale_up_backlog: Duration,
    /// A task that has waited this long calls for more workers.
    pub scale_up_wait: Duration,
    /// The share of slots, in percent, above which more workers are wanted.
    pub scale_up_busy_percent: u32,
    /// The share of slots that those who stay may have busy when there are to be fewer workers.
    pub scale_down_busy_percent: u32,
    /// How long fewer workers must have been enough before some may go.
    pub scale_down_idle: Duration,
    /// Within which all tasks that wait or run are to be done.
    pub drain_within: Duration,
    /// How long new workers are given to make a difference before the same backlog calls for more.
    pub cooldown: Duration,
    /// Slots of a worker, until one has been seen.
    pub worker_slots: u32,
}

impl Default for AutoscalePolicy {
    fn default() -> Self {
        Self {
            min: 2,
            max: 16,
            scale_up_queue_depth: 10,
            scale_up_backlog: Duration::from_millis(500),
            scale_up_wait: Duration::from_secs(5),
            scale_up_busy_percent: 80,
            scale_down_busy_percent: 50,
            scale_down_idle: Duration::from_secs(60),
            drain_within: Duration::from_secs(10),
            cooldown: Duration::from_secs(5),
            worker_slots: 16,
        }
    }
}

impl AutoscalePolicy {
    /// The first thing that is wrong with it, as field and problem.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let at_least_one = || "must be at least 1".to_owned();
        if self.max == 0 {
            return Some(("max", at_least_one()));
        }
        if self.max > MAX_WORKERS {
            return Some(("max", format!("must be at most {MAX_WORKERS}")));
        }
        if self.min > self.max {
            return Some(("min", format!("must be at most `max`, {}", self.max)));
        }
        if self.scale_up_queue_depth == 0 {
            return Some(("scale_up_queue_depth", at_least_one()));
        }
        if !(1..=100).contains(&self.scale_up_busy_percent) {
            let problem = "must be from 1 to 100".to_owned();
            return Some(("scale_up_busy_percent", problem));
        }
        if !(1..=self.scale_up_busy_percent).contains(&self.scale_down_busy_percent) {
            let most = self.scale_up_busy_percent;
            let problem = format!("must be from 1 to `scale_up_busy_percent`, {most}");
            return Some(("scale_down_busy_percent", problem));
        }
        let spans = [
            ("scale_up_wait", self.scale_up_wait),
            ("scale_down_idle", self.scale_down_idle),
            ("drain_within", self.drain_within),
            ("cooldown", self.cooldown),
        ];
        let zero = spans.into_iter().find(|(_, span)| span.is_zero());
        zero.map(|(field, _)| (field, "must be longer than zero".to_owned()))
    }
}
