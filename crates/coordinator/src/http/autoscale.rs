//! How many workers there should be.

use axum::extract::State;
use axum::response::Response;
use levelflow_proto::json::Autoscale;

use super::document::{Operation, Parameter, Place, schema};
use super::problem::Refusal;
use super::request::Query;
use super::route::Routes;
use super::{Api, json};

const QUEUE: &[Parameter] = &[Parameter {
    name: "queue",
    place: Place::Query,
    description: "Only the tasks of this queue and the workers that subscribe to it.",
    schema: schema::<String>,
}];

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get(
            "/api/v1/autoscale",
            "getAutoscale",
            "How many workers there should be, and what each rule says of it",
        )
        .takes(QUEUE)
        .answers::<Autoscale<'static>>(200, "What was decided last."),
        get,
    );
}

async fn get(State(api): State<Api>, query: Query) -> Result<Response, Refusal> {
    let query = query.only(&[QUEUE])?;
    let queue: String = query.one("queue")?.unwrap_or_default();
    let decided = api.backend()?.autoscale(&queue).await?;
    json(&Autoscale::from(&decided))
}
