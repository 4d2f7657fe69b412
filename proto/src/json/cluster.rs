//! The coordinators that share a store.

use schemars::JsonSchema;
use serde::Serialize;

use crate::v1;

/// The coordinators that share a store, and who has which shard.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Cluster<'a> {
    /// Those that are alive, by id.
    coordinators: Vec<Coordinator<'a>>,
    /// All shards, in order.
    shards: Vec<Shard<'a>>,
}

/// A coordinator.
#[derive(Debug, Serialize, JsonSchema)]
struct Coordinator<'a> {
    /// Drawn when its process started.
    id: &'a str,
    /// Where it serves gRPC to others.
    address: &'a str,
    /// Where it serves HTTP to others; empty if it does not.
    http_address: &'a str,
    /// Of its software.
    version: &'a str,
    /// It gives its shards away, because it is about to stop.
    is_leaving: bool,
    /// It is the one that answered.
    is_asked: bool,
    /// Shards that it has.
    shards: u32,
    /// What it has under way; null if it did not say.
    load: Option<Load>,
}

/// What a coordinator has under way.
#[derive(Debug, Serialize, JsonSchema)]
struct Load {
    /// Runs that have not ended.
    open_runs: u64,
    /// Attempts that workers hold.
    attempts: u64,
    /// Tasks that wait for a worker.
    ready: u64,
    /// Tasks that a breaker or a limit holds back.
    parked: u64,
}

/// A shard.
#[derive(Debug, Serialize, JsonSchema)]
struct Shard<'a> {
    /// Its number.
    shard: u32,
    /// The coordinator that has it; null if none has.
    owner: Option<&'a str>,
    /// Raised each time that somebody takes it.
    epoch: u64,
    /// How long ago its owner last said that it is there.
    lag_seconds: f64,
}

impl<'a> From<&'a v1::GetClusterResponse> for Cluster<'a> {
    fn from(message: &'a v1::GetClusterResponse) -> Self {
        let coordinators = message.coordinators.iter().map(|it| Coordinator {
            id: &it.id,
            address: &it.address,
            http_address: &it.http_address,
            version: &it.version,
            is_leaving: it.is_leaving,
            is_asked: it.is_asked,
            shards: it.shards,
            load: it.load.as_ref().map(|load| Load {
                open_runs: load.open_runs,
                attempts: load.attempts,
                ready: load.ready,
                parked: load.parked,
            }),
        });
        let shards = message.shards.iter().map(|it| Shard {
            shard: it.shard,
            owner: (!it.owner.is_empty()).then_some(&it.owner),
            epoch: it.epoch,
            lag_seconds: it.lag_us as f64 / 1e6,
        });
        Self {
            coordinators: coordinators.collect(),
            shards: shards.collect(),
        }
    }
}
