//! The coordinators that share a store.

use axum::extract::State;
use axum::response::Response;
use levelflow_proto::json::Cluster;

use super::document::Operation;
use super::problem::Refusal;
use super::route::Routes;
use super::{Api, json};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get(
            "/api/v1/cluster",
            "getCluster",
            "The coordinators that share a store, and who has which shard",
        )
        .answers::<Cluster<'static>>(200, "The cluster."),
        get,
    );
}

async fn get(State(api): State<Api>) -> Result<Response, Refusal> {
    let cluster = api.backend()?.cluster_view().await?;
    json(&Cluster::from(&cluster))
}
