//! `levelflow.v1.ClusterService`.

use std::time::Duration;

use futures_util::future::join_all;
use levelflow_common::overview::Overview;
use levelflow_proto::v1::cluster_service_server::ClusterService;
use levelflow_proto::{ApiError, v1};
use levelflow_store::{Member, ShardState};
use tonic::{Request, Response, Status};

use super::{Backend, store_error};

/// How long other coordinators have to say what they have under way.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// The service that looks at the cluster.
#[derive(Clone)]
pub(crate) struct Clusters(pub(crate) Backend);

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn get_cluster(
        &self,
        _: Request<v1::GetClusterRequest>,
    ) -> Result<Response<v1::GetClusterResponse>, Status> {
        Ok(Response::new(self.0.cluster_view().await?))
    }
}

impl Backend {
    pub(crate) async fn cluster_view(&self) -> Result<v1::GetClusterResponse, ApiError> {
        let Some(shards) = &self.shards else {
            return self.view_alone().await;
        };
        let view = shards.view().await.map_err(store_error)?;
        let map = self.cluster.map();
        let coordinators = view.members.iter().map(async |member| {
            let load = match map.peer(member.id) {
                Some(peer) => tokio::time::timeout(ANSWER_WITHIN, peer.overview()).await,
                None => Ok(self.overview().await),
            };
            let owned = view.shards.iter().filter(|it| it.owner == Some(member.id));
            let is_asked = map.me == Some(member.id);
            coordinator(
                member,
                owned.count(),
                is_asked,
                load.ok().and_then(Result::ok).as_ref(),
            )
        });
        Ok(v1::GetClusterResponse {
            coordinators: join_all(coordinators).await,
            shards: view.shards.iter().map(|it| self.shard(it)).collect(),
        })
    }

    /// A coordinator that has its store for itself.
    async fn view_alone(&self) -> Result<v1::GetClusterResponse, ApiError> {
        let overview = self.overview().await?;
        let coordinator = v1::Coordinator {
            id: overview.coordinator_id.clone(),
            version: overview.version.clone(),
            is_asked: true,
            shards: 1,
            load: Some(load(&overview)),
            ..Default::default()
        };
        let shard = v1::Shard {
            owner: overview.coordinator_id,
            ..Default::default()
        };
        Ok(v1::GetClusterResponse {
            coordinators: vec![coordinator],
            shards: vec![shard],
        })
    }

    fn shard(&self, state: &ShardState) -> v1::Shard {
        let lag = self.shard_lease.saturating_sub(state.expires_in);
        let lag = state.owner.map_or(Duration::ZERO, |_| lag);
        v1::Shard {
            shard: state.shard.0.into(),
            owner: state.owner.map(|it| it.to_string()).unwrap_or_default(),
            epoch: state.epoch,
            lag_us: u64::try_from(lag.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

fn coordinator(
    member: &Member,
    shards: usize,
    is_asked: bool,
    overview: Option<&Overview>,
) -> v1::Coordinator {
    v1::Coordinator {
        id: member.id.to_string(),
        address: member.address.clone(),
        http_address: member.http_address.clone().unwrap_or_default(),
        version: member.version.clone(),
        is_leaving: member.is_leaving,
        is_asked,
        shards: u32::try_from(shards).unwrap_or(u32::MAX),
        load: overview.map(load),
    }
}

fn load(overview: &Overview) -> v1::CoordinatorLoad {
    v1::CoordinatorLoad {
        open_runs: overview.open_runs,
        attempts: overview.attempts,
        ready: overview.queues.iter().map(|queue| queue.ready).sum(),
        parked: overview.queues.iter().map(|queue| queue.parked).sum(),
    }
}
