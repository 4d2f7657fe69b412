//! How much of what attempts share is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use levelflow_proto::v1;
use tokio::time::Instant;

/// Counts who waits for, and who uses, a bounded set of things such as threads.
#[derive(Debug)]
pub(crate) struct Usage {
    name: String,
    size: usize,
    waiting: AtomicUsize,
    busy: AtomicUsize,
    opened: AtomicU64,
    used: AtomicU64,
    waited_us: AtomicU64,
}

impl Usage {
    pub(crate) fn new(name: impl Into<String>, size: usize) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            size,
            waiting: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            opened: AtomicU64::new(0),
            used: AtomicU64::new(0),
            waited_us: AtomicU64::new(0),
        })
    }

    /// One more waits, until what is returned is dropped or begins.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting {
            usage: Arc::clone(self),
            since: Instant::now(),
        }
    }

    /// Notes that one was opened.
    pub(crate) fn open(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// What a heartbeat says of it; `idle` of them are open and not in use.
    pub(crate) fn pool(&self, idle: usize) -> v1::Pool {
        v1::Pool {
            name: self.name.clone(),
            size: count(self.size),
            busy: count(self.busy.load(Ordering::Relaxed)),
            idle: count(idle),
            waiting: count(self.waiting.load(Ordering::Relaxed)),
            opened: self.opened.load(Ordering::Relaxed),
            used: self.used.load(Ordering::Relaxed),
            waited_us: self.waited_us.load(Ordering::Relaxed),
        }
    }
}

/// A number as messages have it.
pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// A time as messages have it.
pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// An attempt waits for one.
#[derive(Debug)]
pub(crate) struct Waiting {
    usage: Arc<Usage>,
    since: Instant,
}

impl Waiting {
    /// It has one, until what is returned is dropped.
    pub(crate) fn begin(self) -> Busy {
        let Self { usage, since } = &self;
        usage.used.fetch_add(1, Ordering::Relaxed);
        let waited = micros(since.elapsed());
        usage.waited_us.fetch_add(waited, Ordering::Relaxed);
        usage.busy.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(usage))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.usage.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One is in use.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Usage>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_who_waits_and_who_uses() {
        let usage = Usage::new("cpu", 2);
        let (first, second) = (usage.wait(), usage.wait());
        assert_eq!((usage.pool(2).waiting, usage.pool(2).busy), (2, 0));
        tokio::time::advance(Duration::from_millis(3)).await;
        let busy = first.begin();
        // It gave up waiting.
        drop(second);
        usage.open();
        let expected = v1::Pool {
            name: "cpu".to_owned(),
            size: 2,
            busy: 1,
            idle: 1,
            waiting: 0,
            opened: 1,
            used: 1,
            waited_us: 3_000,
        };
        assert_eq!(usage.pool(1), expected);
        drop(busy);
        assert_eq!(
            usage.pool(2),
            v1::Pool {
                busy: 0,
                idle: 2,
                ..expected
            }
        );
    }
}
