//! A coordinator: actor, store and server, started and stopped together.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use levelflow_cache::Cache;
use levelflow_common::ShardCount;
use levelflow_store::sqlite::Options;
use levelflow_store::{Member, MemberId, Memory, Postgres, Shards, Sqlite, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::actor::{self, Actor, Message, Parts};
use crate::alert::AlertFeed;
use crate::autoscale::{self, Autoscaling, Decisions};
use crate::cache::ResultCache;
use crate::clock::Clock;
use crate::cluster::{self, Cluster, Leadership};
use crate::config::{CoordinatorConfig, Storage};
use crate::definitions::Definitions;
use crate::error::StartError;
use crate::http::Api;
use crate::listen::{Listen, Listener};
use crate::nats;
use crate::prefetch;
use crate::prepare::PreparePool;
use crate::recovery::Recover;
use crate::retention;
use crate::semantic::Semantic;
use crate::server;
use crate::service::Backend;

/// How long connections may take to end once their requests have.
const CLOSE_CONNECTIONS_WITHIN: Duration = Duration::from_secs(2);
/// How long tiers of the cache may take to write what waits for them.
const WRITE_CACHE_WITHIN: Duration = Duration::from_secs(2);

/// A running coordinator.
pub struct Coordinator {
    actor: mpsc::Sender<Message>,
    channel: Channel,
    address: Option<Listen>,
    http_address: Option<Listen>,
    draining: CancellationToken,
    stop: CancellationToken,
    servers: Vec<JoinHandle<()>>,
    /// Cancelled when its shards are with other coordinators, where there are any.
    given: Option<CancellationToken>,
    cache: Option<Cache>,
    autoscaling: Option<Autoscaling>,
}

impl Coordinator {
    /// Opens the store, takes up its open runs, and serves.
    ///
    /// # Errors
    /// When the configuration is wrong, the store cannot be opened or is damaged, or the address cannot
    /// be listened on.
    pub async fn start(config: CoordinatorConfig) -> Result<Self, StartError> {
        if let Some((field, problem)) = config.problem() {
            return Err(StartError::Config { field, problem });
        }
        // Before the store, so that a wrong address touches nothing.
        let (listener, address) = bind(config.listen.as_ref()).await?;
        let (http_listener, http_address) = bind(config.http.listen.as_ref()).await?;
        let stop = CancellationToken::new();
        // Ends what was begun if the rest cannot be.
        let unless_started = stop.clone().drop_guard();
        let draining = CancellationToken::new();
        let mut servers = Vec::new();
        let api = Api::new(config.http.clone(), draining.clone(), stop.clone());
        if let Some(listener) = http_listener {
            // It says so while the store recovers.
            servers.push(api.serve(listener));
        }
        let clock = Clock::start();
        let opened = open_store(config.storage.clone(), address.clone()).await?;
        let Opened { store, shards } = opened;
        let count = shards.as_ref().map_or(ShardCount::ONE, |it| it.count());
        let definitions = Arc::new(Definitions::default());
        let recover = Recover::new(config.clone(), definitions.clone(), count);
        let engine = recover.engine(&*store, clock).await?;

        let (sender, inbox) = mpsc::channel(actor::INBOX);
        let cache = config.cache.clone().map(|settings| {
            let clock: levelflow_cache::Clock = Arc::new(move || clock.now());
            Cache::start(settings, clock)
        });
        let cache = cache.transpose()?;
        let mut semantic = None;
        if cache.is_some() {
            // Those that are in directories are read.
            let settings = config.embeddings.clone();
            let open = tokio::task::spawn_blocking(|| Semantic::open(settings)).await;
            let open = open.map_err(|_| StartError::Interrupted)?;
            semantic = Some(Arc::new(open?));
        }
        let results = cache.clone().zip(semantic.clone());
        let results = results.map(|(cache, semantic)| Arc::new(ResultCache::new(cache, semantic)));
        let (ahead, wanted) = mpsc::channel(prefetch::QUEUE);
        let prepare = PreparePool::new(config.prepare_threads, sender.clone(), results, ahead)
            .map_err(StartError::Threads)?;
        let id = Uuid::now_v7();
        let mut cluster = Cluster::alone();
        let mut given = None;
        if let Some(shards) = &shards {
            let parts = cluster::Parts {
                shards: shards.clone(),
                store: store.clone(),
                recover: recover.clone(),
                actor: sender.clone(),
                member: member(id, &config, address.as_ref(), http_address.as_ref())?,
                config: config.cluster.clone(),
                leaving: draining.clone(),
                given: CancellationToken::new(),
                stopped: stop.clone(),
            };
            given = Some(parts.given.clone());
            let (lead, map) = Leadership::new(parts);
            cluster = Cluster::of(count, map);
            levelflow_runtime::task::spawn("leadership", lead.run());
        }
        let actor = Actor::new(Parts {
            engine,
            clock,
            store: store.clone(),
            recover,
            inbox,
            prepare,
            coordinator_id: id.to_string(),
            heartbeat_interval: config.heartbeat_interval,
            lease: config.lease,
            alerts: config.alerts,
        });
        levelflow_runtime::task::spawn("actor", actor.run());

        if let Some(retention) = config.retention {
            let enforce = retention::enforce(store.clone(), clock, retention, stop.clone());
            levelflow_runtime::task::spawn("retention", enforce);
        }
        let autoscaling = config.autoscale.map(|policy| {
            autoscale::start(autoscale::Parts {
                policy,
                actor: sender.clone(),
                cluster: cluster.clone(),
                clock,
                stop: stop.clone(),
            })
        });
        let backend = Backend {
            actor: sender.clone(),
            store,
            definitions,
            cluster,
            shards,
            shard_lease: config.cluster.lease,
            clock,
            cache: cache.clone(),
            semantic,
            autoscaling: autoscaling.clone(),
            dedup_window: config.dedup_window,
            next_session: Arc::new(AtomicU64::new(1)),
        };
        let compute = prefetch::compute(backend.clone(), wanted, stop.clone());
        levelflow_runtime::task::spawn("prefetch", compute);
        let routes = server::routes(backend.clone()).await?;
        let (channel, connections) = server::duplex_channel();
        let inside = server::serve_duplex(connections, routes.clone(), stop.clone());
        servers.push(spawn_server("server inside the process", inside));
        if let Some(listener) = listener {
            let outside = server::serve(listener, routes, stop.clone());
            servers.push(spawn_server("server", outside));
        }
        if config.nats.is_given() && address.is_some() {
            let server = nats::Server {
                config: config.nats,
                coordinator: id.to_string(),
                backend: backend.clone(),
                leaving: draining.clone(),
            };
            servers.push(server.start().await?);
        }
        api.ready(backend);
        Ok(Self {
            actor: sender,
            channel,
            address,
            http_address,
            draining,
            stop: unless_started.disarm(),
            servers,
            given,
            cache,
            autoscaling,
        })
    }

    /// A client channel inside the process: the same API as over TCP.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Where it serves gRPC to other processes.
    pub fn address(&self) -> Option<&Listen> {
        self.address.as_ref()
    }

    /// The alerts that are kept, and those that come; none when the coordinator has stopped.
    pub async fn alerts(&self) -> Option<AlertFeed> {
        let (reply, feed) = oneshot::channel();
        let message = Message::Alerts { after: 0, reply };
        self.actor.send(message).await.ok()?;
        feed.await.ok()
    }

    /// How many workers are wanted, decided four times a second; none if it has no policy for that.
    pub fn autoscale(&self) -> Option<Decisions> {
        self.autoscaling.as_ref().map(Autoscaling::all)
    }

    /// Where it serves HTTP.
    pub fn http_address(&self) -> Option<&Listen> {
        self.http_address.as_ref()
    }

    /// Says from now on that it is not ready, to those who would send it work.
    pub fn announce_stop(&self) {
        self.draining.cancel();
    }

    /// Stops: refuses new runs, gives out no more attempts, lets those under way end within `grace`,
    /// makes everything durable and closes. Runs that are open go on at the next start.
    pub async fn shutdown(self, grace: Duration) {
        self.announce_stop();
        if let Some(given) = self.given
            && tokio::time::timeout(grace, given.cancelled())
                .await
                .is_err()
        {
            tracing::warn!("not all shards were given away, and run out");
        }
        let (done, stopped) = oneshot::channel();
        if self.actor.send(Message::Stop { grace, done }).await.is_ok() {
            // An actor that has gone has stopped.
            let _ = stopped.await;
        }
        self.stop.cancel();
        let servers = async {
            for server in self.servers {
                let _ = server.await;
            }
        };
        if tokio::time::timeout(CLOSE_CONNECTIONS_WITHIN, servers)
            .await
            .is_err()
        {
            tracing::debug!("connections were cut");
        }
        if let Some(cache) = self.cache
            && tokio::time::timeout(WRITE_CACHE_WITHIN, cache.flush())
                .await
                .is_err()
        {
            tracing::warn!("results were not written to all tiers of the cache");
        }
    }
}

async fn bind(listen: Option<&Listen>) -> Result<(Option<Listener>, Option<Listen>), StartError> {
    let Some(listen) = listen else {
        return Ok((None, None));
    };
    let failed = |source| StartError::Listen {
        address: listen.clone(),
        source,
    };
    let listener = listen.bind().await.map_err(failed)?;
    let address = listener.address().map_err(failed)?;
    Ok((Some(listener), Some(address)))
}

fn spawn_server(
    name: &'static str,
    server: impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static,
) -> JoinHandle<()> {
    levelflow_runtime::task::spawn(name, async move {
        if let Err(error) = server.await {
            tracing::error!(server = name, error = %error, "server failed");
        }
    })
}

/// A store, and the shards of it where coordinators share it.
struct Opened {
    store: Arc<dyn Store>,
    shards: Option<Arc<dyn Shards>>,
}

impl Opened {
    fn alone(store: impl Store) -> Self {
        Self {
            store: Arc::new(store),
            shards: None,
        }
    }
}

/// What other coordinators are told of this one.
fn member(
    id: Uuid,
    config: &CoordinatorConfig,
    address: Option<&Listen>,
    http_address: Option<&Listen>,
) -> Result<Member, StartError> {
    let advertised = config.cluster.advertise.clone();
    let address = advertised.or_else(|| address?.reachable());
    let missing = || StartError::Config {
        field: "cluster.advertise".to_owned(),
        problem: "must be given where `listen` does not name an address that others can reach"
            .to_owned(),
    };
    Ok(Member {
        id: MemberId(id),
        address: address.ok_or_else(missing)?,
        http_address: http_address.and_then(Listen::reachable),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        is_leaving: false,
    })
}

async fn open_store(storage: Storage, address: Option<Listen>) -> Result<Opened, StoreError> {
    match storage {
        Storage::Memory => Ok(Opened::alone(Memory::default())),
        Storage::Postgres(config) => {
            let store = Arc::new(Postgres::open(&config).await?);
            Ok(Opened {
                shards: Some(store.clone()),
                store,
            })
        }
        Storage::DataDir(path) => {
            let open = move || {
                let store = Sqlite::open(&path, &Options::default())?;
                if let Some(address) = address {
                    store.publish_address(&address.to_string())?;
                }
                Ok(store)
            };
            let store = tokio::task::spawn_blocking(open)
                .await
                .map_err(|_| StoreError::Closed)??;
            Ok(Opened::alone(store))
        }
    }
}
