//! Keeps the shards that this coordinator owns, takes those that nobody has, and gives away what is
//! others' to have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use levelflow_common::ShardId;
use levelflow_proto::v1;
use levelflow_store::{ClusterView, Member, MemberId, Shards, Store};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::balance::{Plan, plan};
use super::{Map, Peer};
use crate::actor::Message;
use crate::config::ClusterConfig;
use crate::recovery::Recover;

/// What leadership is made of.
pub(crate) struct Parts {
    pub(crate) shards: Arc<dyn Shards>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) recover: Recover,
    pub(crate) actor: mpsc::Sender<Message>,
    pub(crate) member: Member,
    pub(crate) config: ClusterConfig,
    /// Cancelled when the coordinator is about to stop: it then gives everything away.
    pub(crate) leaving: CancellationToken,
    /// Cancelled here when nothing is left that another coordinator could have.
    pub(crate) given: CancellationToken,
    /// Cancelled when the coordinator has stopped, and its store is closed.
    pub(crate) stopped: CancellationToken,
}

/// The leadership of one coordinator.
pub(crate) struct Leadership {
    parts: Parts,
    map: watch::Sender<Arc<Map>>,
    peers: BTreeMap<MemberId, (String, Peer)>,
    view: ClusterView,
    /// What workers were last told.
    told: Vec<v1::CoordinatorAddress>,
    /// What the actor has taken up.
    here: Vec<ShardId>,
    /// What is being taken up.
    taking: Option<JoinHandle<Option<Vec<ShardId>>>>,
    /// What the actor is about to let go.
    giving: Option<Giving>,
}

struct Giving {
    shards: Vec<ShardId>,
    done: oneshot::Receiver<()>,
}

/// What happened to shards that were being given away.
enum Given {
    /// The actor has let them go, and all that it said of them is durable.
    All(Vec<ShardId>),
    /// It went back to what the store has meanwhile.
    NotNow,
}

impl Leadership {
    pub(crate) fn new(parts: Parts) -> (Self, watch::Receiver<Arc<Map>>) {
        let (map, places) = watch::channel(Arc::default());
        let leadership = Self {
            parts,
            map,
            peers: BTreeMap::new(),
            view: ClusterView::default(),
            told: Vec::new(),
            here: Vec::new(),
            taking: None,
            giving: None,
        };
        (leadership, places)
    }

    /// Leads until it has given everything away, or the coordinator has stopped: what nobody takes it keeps
    /// as long as attempts of it may end, and the store gives it up when it is closed.
    pub(crate) async fn run(mut self) {
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(next) => {}
                given = given(&mut self.giving) => self.release(given).await,
                taken = taken(&mut self.taking) => self.took(taken),
                () = self.parts.stopped.cancelled() => return,
                () = self.parts.leaving.cancelled(), if !self.parts.member.is_leaving => {
                    self.parts.member.is_leaving = true;
                }
            }
            next = Instant::now() + self.parts.config.renew_every();
            self.renew().await;
            if self.parts.member.is_leaving && self.has_left() {
                self.parts.given.cancel();
                if self.here.is_empty() {
                    break;
                }
            }
        }
        if let Err(error) = self.parts.shards.leave().await {
            tracing::warn!(error = %error, "membership was not given up, and runs out");
        }
    }

    /// Says that this coordinator is there, and begins what is to be done about shards.
    async fn renew(&mut self) {
        let lease = self.parts.config.lease;
        let asked = Instant::now();
        let renewed = self.parts.shards.renew(&self.parts.member, lease);
        let view = match timeout(lease, renewed).await {
            Ok(Ok(view)) => view,
            Ok(Err(error)) => {
                tracing::warn!(error = %error, code = %error.code(), "shards were not renewed");
                return;
            }
            Err(_) => {
                tracing::warn!("the store was too slow to renew shards");
                return;
            }
        };
        let until = asked + lease;
        if self
            .parts
            .actor
            .send(Message::Renewed { until })
            .await
            .is_err()
        {
            return;
        }
        self.tell_workers(&view).await;
        let me = self.parts.member.id;
        let is_mine = |shard: &ShardId| {
            let state = view.shards.get(usize::from(shard.0));
            state.is_some_and(|it| it.owner == Some(me))
        };
        if !self.here.iter().all(is_mine) {
            tracing::error!("shards were lost to others, going back to what the store has");
            self.reload().await;
        }
        let Plan { claim, give } = plan(&view, me);
        let mine = view.shards.iter().filter(|it| it.owner == Some(me));
        let mine: Vec<_> = mine.map(|it| it.shard).collect();
        self.view = view;
        self.publish();
        if self.taking.is_some() || self.giving.is_some() {
            return;
        }
        let stray = mine.iter().filter(|shard| !self.here.contains(shard));
        let stray: Vec<_> = stray.copied().collect();
        if !stray.is_empty() {
            // They could not be taken up: others may.
            self.release(Given::All(stray)).await;
        } else if !give.is_empty() {
            self.give(give).await;
        } else if !claim.is_empty() {
            self.take(claim);
        }
    }

    /// Has workers work for all coordinators that stay.
    async fn tell_workers(&mut self, view: &ClusterView) {
        let staying = view.members.iter().filter(|it| !it.is_leaving);
        let staying: Vec<_> = staying
            .map(|it| v1::CoordinatorAddress {
                id: it.id.to_string(),
                address: it.address.clone(),
            })
            .collect();
        if staying != self.told {
            self.told.clone_from(&staying);
            // An actor that is gone needs to know nothing.
            let _ = self.parts.actor.send(Message::Coordinators(staying)).await;
        }
    }

    /// Has the actor forget everything that it does not own any more.
    async fn reload(&mut self) {
        let (reply, shards) = oneshot::channel();
        self.giving = None;
        self.here.clear();
        if self
            .parts
            .actor
            .send(Message::Reload { reply })
            .await
            .is_ok()
            && let Ok(shards) = shards.await
        {
            self.here = shards;
        }
    }

    /// Begins to take shards that nobody has. What is owned is renewed meanwhile.
    fn take(&mut self, shards: Vec<ShardId>) {
        let take = Take {
            shards: self.parts.shards.clone(),
            store: self.parts.store.clone(),
            recover: self.parts.recover.clone(),
            actor: self.parts.actor.clone(),
            lease: self.parts.config.lease,
        };
        let take = async move { take.run(&shards).await };
        self.taking = Some(levelflow_runtime::task::spawn("take shards up", take));
    }

    fn took(&mut self, taken: Option<Vec<ShardId>>) {
        self.taking = None;
        self.here.extend(taken.into_iter().flatten());
        self.here.sort_unstable();
        self.here.dedup();
    }

    /// Begins to give shards away.
    async fn give(&mut self, shards: Vec<ShardId>) {
        let (reply, done) = oneshot::channel();
        let message = Message::GiveAway {
            shards: shards.clone(),
            grace: self.parts.config.hand_over,
            reply,
        };
        // From now on requests for them wait for their next owner.
        self.here.retain(|shard| !shards.contains(shard));
        self.publish();
        if self.parts.actor.send(message).await.is_ok() {
            self.giving = Some(Giving { shards, done });
        }
    }

    async fn release(&mut self, given: Given) {
        self.giving = None;
        let shards = match given {
            Given::All(shards) => shards,
            Given::NotNow => return self.reload().await,
        };
        match self.parts.shards.release(&shards).await {
            Ok(()) => tracing::info!(shards = shards.len(), "shards were given away"),
            Err(error) => {
                tracing::warn!(error = %error, "shards were not released, and run out");
            }
        }
    }

    /// Whether nothing is here that somebody else could have.
    fn has_left(&self) -> bool {
        let me = self.parts.member.id;
        let others = self.view.members.iter();
        let others = others.filter(|it| it.id != me).any(|it| !it.is_leaving);
        let is_idle = self.giving.is_none() && self.taking.is_none();
        is_idle && (self.here.is_empty() || !others)
    }

    fn publish(&mut self) {
        let members = self.view.members.iter();
        let mut peers = BTreeMap::new();
        for member in members.filter(|it| it.id != self.parts.member.id) {
            let known = self.peers.remove(&member.id);
            let known = known.filter(|(address, _)| *address == member.address);
            let peer =
                known.or_else(|| Some((member.address.clone(), Peer::new(&member.address)?)));
            peers.extend(peer.map(|peer| (member.id, peer)));
        }
        self.peers = peers;
        let peers = self.peers.iter();
        let peers = peers.map(|(&id, (_, peer))| (id, peer.clone())).collect();
        let map = Map::new(self.parts.member.id, &self.view, self.here.clone(), peers);
        self.map.send_replace(Arc::new(map));
    }
}

async fn given(giving: &mut Option<Giving>) -> Given {
    match giving {
        Some(Giving { shards, done }) => match done.await {
            Ok(()) => Given::All(std::mem::take(shards)),
            Err(_) => Given::NotNow,
        },
        None => std::future::pending().await,
    }
}

async fn taken(taking: &mut Option<JoinHandle<Option<Vec<ShardId>>>>) -> Option<Vec<ShardId>> {
    match taking {
        Some(taking) => taking.await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// What takes shards up.
struct Take {
    shards: Arc<dyn Shards>,
    store: Arc<dyn Store>,
    recover: Recover,
    actor: mpsc::Sender<Message>,
    lease: Duration,
}

impl Take {
    /// Claims them, reads what is open in them, and has the actor go on with it.
    async fn run(self, shards: &[ShardId]) -> Option<Vec<ShardId>> {
        let recovery = self.shards.claim(shards, self.lease).await;
        let recovery = recovery.inspect_err(|error| {
            tracing::warn!(error = %error, code = %error.code(), "shards were not taken");
        });
        let recovery = recovery.ok()?;
        let (taken, open) = (recovery.shards.clone(), recovery.open.len());
        if taken.is_empty() {
            return None;
        }
        let recovered = self.recover.read(&*self.store, recovery).await;
        let recovered = recovered.inspect_err(|error| {
            tracing::error!(error = %error, code = %error.code(), "shards cannot be taken up");
        });
        let recovered = Box::new(recovered.ok()?);
        let (reply, done) = oneshot::channel();
        let message = Message::TakeUp { recovered, reply };
        self.actor.send(message).await.ok()?;
        done.await.ok()?;
        tracing::info!(
            shards = taken.len(),
            open_runs = open,
            "shards were taken up"
        );
        Some(taken)
    }
}

impl ClusterConfig {
    /// Several times within a lease, so that a slow answer costs nothing.
    fn renew_every(&self) -> Duration {
        self.lease / 4
    }
}
