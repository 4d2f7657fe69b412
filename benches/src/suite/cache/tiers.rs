//! Hits in tiers that processes share, and what such a tier costs that does not answer or is not there.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use levelflow_common::CacheTier;
use levelflow_proto::Enumeration as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::{looked_up_in_vain, no_op, workflow};
use crate::client::{Client, Round};
use crate::process::{Cluster, Layout};
use crate::suite::Common;

/// Runs that wait for a tier which does not answer; then its breaker opens.
const WAITING: usize = 4;

/// Where the tiers are.
#[derive(clap::Args)]
pub(super) struct Addresses {
    /// Also measure hits in Redis at this address.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Also measure hits in PostgreSQL at this address.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
}

/// A coordinator with a tier beside memory for one entry.
pub(super) struct Tier {
    pub(super) kind: CacheTier,
    /// Their results push one another out of memory.
    clients: [Client; 2],
    _cluster: Cluster,
}

impl Addresses {
    /// A coordinator for each tier that is there.
    pub(super) async fn start(&self, common: &Common) -> Result<Vec<Tier>> {
        let mut tiers = Vec::new();
        for (kind, url) in [
            (CacheTier::Redis, &self.redis),
            (CacheTier::Postgres, &self.postgres),
        ] {
            if let Some(url) = url {
                tiers.push(Tier::start(common, kind, url).await?);
            }
        }
        Ok(tiers)
    }
}

impl Tier {
    async fn start(common: &Common, kind: CacheTier, url: &str) -> Result<Self> {
        let cluster = Cluster::start(&layout(common, kind, url))?;
        let address = cluster.address();
        // What was measured before may have left its results in the tier.
        let now = format!("{:?}", SystemTime::now());
        let cached = |name: &str| {
            let policy = json!({ "key": [name, now], "ttl": "10m" });
            workflow(&no_op(), Some(&policy))
        };
        let mut tier = Self {
            kind,
            clients: [
                Client::connect(&address, cached("one")?).await?,
                Client::connect(&address, cached("other")?).await?,
            ],
            _cluster: cluster,
        };
        tier.round(super::WARM_UP).await?;
        Ok(tier)
    }

    /// Runs one after the other, each of which finds its result in the tier.
    pub(super) async fn round(&mut self, time: Duration) -> Result<Round> {
        let before = self.hits().await?;
        let started = Instant::now();
        let mut latency = Histogram::new(3)?;
        let mut runs = 0;
        while started.elapsed() < time {
            for client in &self.clients {
                let ended = client.run_once().await?.ended;
                latency.record(ended.as_micros() as u64)?;
                runs += 1;
            }
        }
        let elapsed = started.elapsed();
        let hits = self.hits().await? - before;
        // The first may still be in memory.
        ensure!(
            hits + 1 >= runs,
            "{hits} of {runs} results were found in the tier"
        );
        Ok(Round {
            runs,
            elapsed,
            latency,
        })
    }

    async fn hits(&self) -> Result<u64> {
        let statistics = self.clients[0].cache_statistics().await?;
        let mut tiers = statistics.tiers.into_iter();
        let tier = tiers.find(|tier| tier.tier == self.kind.number());
        Ok(tier.context("the coordinator has the tier")?.hits)
    }
}

/// How long each of the first runs takes that a tier is asked for which takes requests and answers none.
pub(super) async fn beside_a_silent_tier(common: &Common) -> Result<Vec<Duration>> {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("redis://{}", silent.local_addr()?);
    let open = levelflow_runtime::task::spawn("silent tier", async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            connections.push(connection);
        }
    });
    let cluster = Cluster::start(&layout(common, CacheTier::Redis, &url))?;
    let address = cluster.address();
    // The worker is there, and its handler was called.
    Client::connect(&address, workflow(&no_op(), None)?).await?;
    let client = Client::open(&address, looked_up_in_vain()?).await?;
    let mut took = Vec::new();
    for _ in 0..WAITING {
        took.push(client.run_once().await?.ended);
    }
    open.abort();
    Ok(took)
}

/// A coordinator with a tier that is not there, and a client whose runs it would be asked for.
pub(super) async fn beside_a_dead_tier(common: &Common) -> Result<(Cluster, Client)> {
    let port = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let cluster = Cluster::start(&layout(
        common,
        CacheTier::Redis,
        &format!("redis://{port}"),
    ))?;
    let mut client = Client::connect(&cluster.address(), looked_up_in_vain()?).await?;
    client.keep_in_flight(1, super::WARM_UP).await?;
    Ok((cluster, client))
}

fn layout(common: &Common, kind: CacheTier, url: &str) -> Layout {
    let settings: Value = json!({
        "memory": { "max_entries": 1 },
        kind.as_str(): { "url": url },
    });
    Layout {
        cache: Some(settings.to_string()),
        ..common.layout()
    }
}
