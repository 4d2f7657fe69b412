//! The result cache.

use axum::extract::State;
use axum::response::Response;
use levelflow_common::Code;
use levelflow_proto::json::CacheStatistics;

use super::document::Operation;
use super::problem::Refusal;
use super::route::Routes;
use super::{Api, json};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get(
            "/api/v1/cache/stats",
            "getCacheStatistics",
            "What the result cache did since the coordinator started",
        )
        .answers::<CacheStatistics>(200, "The statistics."),
        statistics,
    );
}

async fn statistics(State(api): State<Api>) -> Result<Response, Refusal> {
    let statistics = api.backend()?.cache_statistics()?;
    let statistics = CacheStatistics::try_from(&statistics)
        .map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
    json(&statistics)
}
