//! Breakers of upstreams.

use axum::extract::State;
use axum::response::Response;
use levelflow_proto::json::{Breaker, BreakerList};

use super::document::Operation;
use super::problem::Refusal;
use super::request::UpstreamPath;
use super::route::Routes;
use super::{Api, json};

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get(
            "/api/v1/breakers",
            "listBreakers",
            "The breakers of all upstreams that were called lately",
        )
        .answers::<BreakerList<'static>>(200, "The breakers."),
        list,
    );
    routes.add(
        Operation::post(
            "/api/v1/breakers/{upstream}:reset",
            "resetBreaker",
            "Closes a breaker by hand: a few attempts find out whether the upstream is back",
        )
        .answers::<Breaker<'static>>(200, "The breaker as it stands now."),
        reset,
    );
}

async fn list(State(api): State<Api>) -> Result<Response, Refusal> {
    let breakers = api.backend()?.breakers().await?;
    json(&BreakerList::from(&breakers[..]))
}

async fn reset(
    State(api): State<Api>,
    UpstreamPath(upstream): UpstreamPath,
) -> Result<Response, Refusal> {
    let breaker = api.backend()?.reset_breaker(upstream).await?;
    json(&Breaker::from(&breaker))
}
