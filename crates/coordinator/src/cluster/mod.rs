//! Several coordinators on one store: which of them has which shard, and the way there.
//!
//! [`leadership`] keeps what this coordinator owns and says where everything else is; [`Cluster`] is what
//! requests ask. Alone on its store, a coordinator has the one shard there is, and nothing here has anything
//! to do.

mod balance;
mod demand;
mod leadership;
mod peer;

use std::collections::{BTreeMap, BTreeSet};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::{Code, RunId, ShardCount, ShardId};
use levelflow_proto::ApiError;
use levelflow_store::{ClusterView, MemberId};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

pub(crate) use self::demand::DemandElsewhere;
pub(crate) use self::leadership::{Leadership, Parts};
pub(crate) use self::peer::{FORWARDED, Peer};

/// How long a request waits for a shard to find its next owner.
const MOVES_WITHIN: Duration = Duration::from_secs(8);
/// How long it waits at most before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where the shards are.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    count: ShardCount,
    map: watch::Receiver<Arc<Map>>,
    /// Whether another coordinator asks: then nothing is passed on again.
    is_forwarded: bool,
}

/// Where the shards are, as this coordinator last heard.
#[derive(Debug, Default)]
pub(crate) struct Map {
    pub(crate) me: Option<MemberId>,
    peers: BTreeMap<MemberId, Peer>,
    /// By shard.
    places: Vec<Place>,
    here: Vec<ShardId>,
}

/// Where a shard is.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// This coordinator has it.
    Here,
    /// Another one has it.
    There(MemberId, Peer),
    /// It is on its way.
    Unknown,
}

impl Map {
    /// Another coordinator; none if it is this one, or not known.
    pub(crate) fn peer(&self, member: MemberId) -> Option<&Peer> {
        self.peers.get(&member)
    }

    /// The other coordinators.
    pub(crate) fn peers(&self) -> impl Iterator<Item = (MemberId, &Peer)> {
        self.peers.iter().map(|(member, peer)| (*member, peer))
    }

    fn place(&self, shard: ShardId) -> Place {
        let place = self.places.get(usize::from(shard.0));
        place.cloned().unwrap_or(Place::Unknown)
    }

    fn alone() -> Self {
        Self {
            places: vec![Place::Here],
            here: vec![ShardId(0)],
            ..Self::default()
        }
    }

    /// `here` are the shards that this coordinator has and keeps.
    pub(crate) fn new(
        me: MemberId,
        view: &ClusterView,
        here: Vec<ShardId>,
        peers: BTreeMap<MemberId, Peer>,
    ) -> Self {
        let place = |it: &levelflow_store::ShardState| match it.owner {
            Some(owner) if owner == me => match here.contains(&it.shard) {
                true => Place::Here,
                false => Place::Unknown,
            },
            Some(owner) => peers
                .get(&owner)
                .map_or(Place::Unknown, |peer| Place::There(owner, peer.clone())),
            None => Place::Unknown,
        };
        Self {
            me: Some(me),
            places: view.shards.iter().map(place).collect(),
            here,
            peers,
        }
    }
}

impl Cluster {
    /// Of a coordinator that has its store for itself.
    pub(crate) fn alone() -> Self {
        // Nobody changes it, so the sender is not needed.
        let (_, map) = watch::channel(Arc::new(Map::alone()));
        Self {
            count: ShardCount::ONE,
            map,
            is_forwarded: false,
        }
    }

    /// Of several, whose places are told over the channel.
    pub(crate) fn of(count: ShardCount, map: watch::Receiver<Arc<Map>>) -> Self {
        Self {
            count,
            map,
            is_forwarded: false,
        }
    }

    /// The same for a request that another coordinator passed on.
    pub(crate) fn forwarded(&self) -> Self {
        Self {
            is_forwarded: true,
            ..self.clone()
        }
    }

    /// Whether there may be others.
    pub(crate) fn is_shared(&self) -> bool {
        self.count != ShardCount::ONE
    }

    pub(crate) fn map(&self) -> Arc<Map> {
        self.map.borrow().clone()
    }

    pub(crate) fn shard_of(&self, run: RunId) -> ShardId {
        self.count.of_run(run)
    }

    /// Whether the shard of a run is here.
    pub(crate) fn has(&self, run: RunId) -> bool {
        let map = self.map.borrow();
        matches!(
            map.places.get(usize::from(self.shard_of(run).0)),
            Some(Place::Here)
        )
    }

    /// The coordinators that have these runs, each once and without this one; none for a request that
    /// was passed on.
    pub(crate) fn peers_of(
        &self,
        runs: impl Iterator<Item = RunId>,
    ) -> Vec<(Peer, BTreeSet<ShardId>)> {
        let map = self.map.borrow();
        let shards = runs
            .map(|run| self.shard_of(run))
            .filter(|_| !self.is_forwarded);
        let mut peers: BTreeMap<MemberId, (Peer, BTreeSet<ShardId>)> = BTreeMap::new();
        for shard in shards {
            if let Place::There(member, peer) = map.place(shard) {
                let known = peers
                    .entry(member)
                    .or_insert_with(|| (peer, BTreeSet::new()));
                known.1.insert(shard);
            }
        }
        peers.into_values().collect()
    }

    /// Whether any shard is here.
    pub(crate) fn has_any(&self) -> bool {
        !self.map.borrow().here.is_empty()
    }

    /// The id of a new run: in the shard of its key if it has one, otherwise in one that is here.
    pub(crate) fn new_run(&self, tenant: &str, key: Option<&str>) -> RunId {
        let fresh = Uuid::now_v7();
        let map = self.map.borrow();
        let shard = match key {
            Some(key) => self.count.of_key(tenant, key),
            None => match map.here.len() {
                // Some other coordinator has this one.
                0 => ShardId((fresh.as_u128() % u128::from(self.count.get())) as u16),
                shards => map.here[(fresh.as_u128() % shards as u128) as usize],
            },
        };
        self.count.run_id(shard, fresh)
    }

    /// Does something where a shard is: here, or by asking the coordinator that has it. Waits a while
    /// for a shard that changes hands.
    pub(crate) async fn at<T, H, P>(
        &self,
        shard: ShardId,
        here: impl Fn() -> H,
        there: impl Fn(Peer) -> P,
    ) -> Result<T, ApiError>
    where
        H: Future<Output = Result<T, ApiError>>,
        P: Future<Output = Result<T, ApiError>>,
    {
        if !self.is_shared() {
            return here().await;
        }
        let deadline = Instant::now() + MOVES_WITHIN;
        let mut map = self.map.clone();
        loop {
            let place = map.borrow_and_update().place(shard);
            let result = match place {
                Place::Here => here().await,
                Place::There(_, peer) if !self.is_forwarded => there(peer).await,
                Place::There(..) | Place::Unknown => Err(elsewhere(shard)),
            };
            match result {
                Err(error)
                    if has_moved(&error) && !self.is_forwarded && Instant::now() < deadline =>
                {
                    let _ = tokio::time::timeout(LOOK_AGAIN, map.changed()).await;
                }
                result => return result,
            }
        }
    }
}

impl Cluster {
    /// The same for the shard of a run.
    pub(crate) async fn at_run<T, H, P>(
        &self,
        run: RunId,
        here: impl Fn() -> H,
        there: impl Fn(Peer) -> P,
    ) -> Result<T, ApiError>
    where
        H: Future<Output = Result<T, ApiError>>,
        P: Future<Output = Result<T, ApiError>>,
    {
        self.at(self.shard_of(run), here, there).await
    }

    /// The coordinator that has a run; none if it is this one. Waits a while for one that changes hands.
    pub(crate) async fn peer_of(&self, run: RunId) -> Result<Option<Peer>, ApiError> {
        let here = || ready(Ok(None));
        let there = |peer: Peer| ready(Ok(Some(peer)));
        self.at_run(run, here, there).await
    }
}

/// For whoever follows a run through coordinators that come and go.
#[derive(Default)]
pub(crate) struct Patience {
    since: Option<Instant>,
}

impl Patience {
    /// Waits a moment before the next try. The first success makes it anew.
    ///
    /// # Errors
    /// The error, when trying again does not help, or did not for long.
    pub(crate) async fn wait(&mut self, error: ApiError) -> Result<(), ApiError> {
        let may_pass = has_moved(&error) || error.code() == Code::StoreUnavailable;
        let since = *self.since.get_or_insert_with(Instant::now);
        if !may_pass || since.elapsed() > MOVES_WITHIN {
            return Err(error);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
        Ok(())
    }
}

/// Whether something was not done because the shard is elsewhere.
pub(crate) fn has_moved(error: &ApiError) -> bool {
    matches!(
        error.code(),
        Code::ShardElsewhere | Code::ServerUnreachable | Code::ShuttingDown
    )
}

pub(crate) fn elsewhere(shard: ShardId) -> ApiError {
    let rejection = levelflow_engine::Rejection::ShardElsewhere(shard);
    let mut error = ApiError::new(rejection.code(), rejection.to_string());
    error.retry_after = rejection.retry_after();
    error
}
