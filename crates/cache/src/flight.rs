//! Identical work in this process, done once: the first computes, and the others wait for it.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Place;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::entry::Computed;
use levelflow_common::CacheKey;

type Landed = Option<Arc<Computed>>;

/// What is being computed in this process.
#[derive(Debug, Default)]
pub(crate) struct Flights {
    under_way: Mutex<HashMap<CacheKey, watch::Receiver<Landed>>>,
}

/// Whether to compute, or to wait for who does.
#[derive(Debug)]
pub(crate) enum Boarding<'a> {
    Lead(Lead<'a>),
    Follow(Follow),
}

/// The right to compute. Whoever drops it without a result leaves it to one of those who wait.
#[derive(Debug)]
pub(crate) struct Lead<'a> {
    flights: &'a Flights,
    key: CacheKey,
    landed: watch::Sender<Landed>,
}

/// The wait for who computes.
#[derive(Debug)]
pub(crate) struct Follow(watch::Receiver<Landed>);

impl Flights {
    pub(crate) fn board(&self, key: &CacheKey) -> Boarding<'_> {
        match self.under_way().entry(*key) {
            Place::Occupied(place) => Boarding::Follow(Follow(place.get().clone())),
            Place::Vacant(place) => {
                let (landed, follow) = watch::channel(None);
                place.insert(follow);
                Boarding::Lead(Lead {
                    flights: self,
                    key: *key,
                    landed,
                })
            }
        }
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<CacheKey, watch::Receiver<Landed>>> {
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead<'_> {
    /// Gives the result to those who wait.
    pub(crate) fn land(self, computed: Arc<Computed>) {
        self.landed.send_replace(Some(computed));
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        // Before the channel closes: those who then find no result board anew.
        self.flights.under_way().remove(&self.key);
    }
}

impl Follow {
    /// The result; none if who computed has gone without one.
    pub(crate) async fn landed(mut self) -> Landed {
        let landed = self.0.wait_for(Option::is_some).await.ok()?;
        landed.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEY: CacheKey = CacheKey::from_bytes([1; 32]);

    fn follow(flights: &Flights) -> Follow {
        match flights.board(&KEY) {
            Boarding::Follow(follow) => follow,
            Boarding::Lead(_) => panic!("nobody computes"),
        }
    }

    fn lead(flights: &Flights) -> Lead<'_> {
        match flights.board(&KEY) {
            Boarding::Lead(lead) => lead,
            Boarding::Follow(_) => panic!("another computes"),
        }
    }

    #[tokio::test]
    async fn those_who_wait_get_the_result_of_the_first() {
        let flights = Flights::default();
        let first = lead(&flights);
        let waiting = [follow(&flights), follow(&flights)];
        let computed = Arc::new(Computed::output("1", Duration::ZERO));
        first.land(Arc::clone(&computed));
        for follow in waiting {
            assert_eq!(follow.landed().await, Some(Arc::clone(&computed)));
        }
        drop(lead(&flights));
    }

    #[tokio::test]
    async fn when_the_first_goes_another_may_compute() {
        let flights = Flights::default();
        let first = lead(&flights);
        let waiting = follow(&flights);
        drop(first);
        assert_eq!(waiting.landed().await, None);
        drop(lead(&flights));
    }
}
