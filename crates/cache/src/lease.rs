//! Identical work in all processes that share a tier, done once: who has the lease of a key computes,
//! and the others wait for its result to come into the tier.

use std::sync::Arc;
use std::time::Duration;

use levelflow_runtime::task;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::cache::Inner;
use crate::entry::Hit;
use crate::tier::LeaseToken;
use levelflow_common::CacheKey;

/// The first wait between looks for a result; each is longer than the one before, up to the longest.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(200);
/// A lease is lengthened so often in its time.
const RENEWALS: u32 = 3;

/// Whether to compute, or to wait for who does.
#[derive(Debug)]
pub enum Flight {
    /// This process computes. It drops the lease after it has put the result.
    Leader(Lease),
    /// Another process computes.
    Follower(Wait),
}

/// What came of a wait.
#[derive(Debug)]
pub enum Arrival {
    /// The result is there.
    Hit(Box<Hit>),
    /// Whoever computed has gone without a result: this process computes now.
    Leader(Lease),
    /// It took too long.
    TimedOut,
}

/// The right to compute, lengthened until it is dropped. Where no tier says who has it, everyone has.
#[derive(Debug)]
pub struct Lease(Option<Held>);

struct Held {
    cache: Arc<Inner>,
    /// The place of its tier among the shared ones.
    tier: usize,
    key: CacheKey,
    token: LeaseToken,
    renewal: AbortHandle,
}

/// The wait for another process that computes.
pub struct Wait {
    cache: Arc<Inner>,
    key: CacheKey,
    /// The result, where it was there by the time that the lease was free.
    landed: Option<Box<Hit>>,
}

/// Takes the lease of a key from the first shared tier that answers.
pub(crate) async fn begin(cache: &Arc<Inner>, key: &CacheKey) -> Flight {
    let token = Uuid::now_v7();
    let span = cache.config().single_flight.lease.0;
    for (place, tier) in cache.shared().iter().enumerate() {
        let landed = match tier.lease(key, token, span).await {
            Some(true) => {
                let lease = Lease::held(cache, place, key, token);
                // Whoever had it may have put a result since this process looked.
                match cache.find_in_tier(key, place).await {
                    Some(hit) => Some(Box::new(hit)),
                    None => return Flight::Leader(lease),
                }
            }
            Some(false) => None,
            None => continue,
        };
        return Flight::Follower(Wait {
            cache: Arc::clone(cache),
            key: *key,
            landed,
        });
    }
    Flight::Leader(Lease(None))
}

impl Lease {
    /// Whether other processes are kept from computing the same.
    pub fn is_exclusive(&self) -> bool {
        self.0.is_some()
    }

    fn held(cache: &Arc<Inner>, tier: usize, key: &CacheKey, token: LeaseToken) -> Self {
        let renewing = Arc::clone(cache);
        let key = *key;
        let span = cache.config().single_flight.lease.0;
        let renewal = task::spawn("cache lease", async move {
            loop {
                sleep(span / RENEWALS).await;
                // One that was lost is only the loss of a hint: results are the same whoever computes.
                renewing.shared()[tier].lease(&key, token, span).await;
            }
        });
        Self(Some(Held {
            cache: Arc::clone(cache),
            tier,
            key,
            token,
            renewal: renewal.abort_handle(),
        }))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewal.abort();
        self.cache.shared()[self.tier].release(&self.key, self.token);
    }
}

impl Wait {
    /// Waits for the result, for as long as the configuration says.
    pub async fn arrival(mut self) -> Arrival {
        let deadline = Instant::now() + self.cache.config().single_flight.wait.0;
        let mut look = FIRST_LOOK;
        loop {
            if let Some(hit) = self.landed.take() {
                return Arrival::Hit(hit);
            }
            if Instant::now() >= deadline {
                return Arrival::TimedOut;
            }
            sleep(look).await;
            look = (look * 2).min(LONGEST_LOOK);
            self.landed = match self.cache.find_shared(&self.key).await {
                Some(hit) => Some(Box::new(hit)),
                None => match begin(&self.cache, &self.key).await {
                    Flight::Leader(lease) => return Arrival::Leader(lease),
                    Flight::Follower(wait) => wait.landed,
                },
            };
        }
    }
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wait")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
