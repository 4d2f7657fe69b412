//! The coordinator as a whole: what it has under way, its workers and its alerts.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use levelflow_common::overview::AlertView;
use levelflow_proto::json::{Alert, AlertList, Overview, WorkerList};
use serde_json::json as value;

use super::document::{Operation, Parameter, Place, schema};
use super::problem::Refusal;
use super::request::Query;
use super::route::Routes;
use super::sse::{CURSOR, MEDIA_TYPE, cursor, event, events_of, respond};
use super::{Api, json};

/// Alerts that an overview shows.
const ALERTS_SHOWN: u32 = 20;

const ALERTS: &[Parameter] = &[
    Parameter {
        name: "after",
        place: Place::Query,
        description: "Only alerts with higher numbers.",
        schema: schema::<u64>,
    },
    Parameter {
        name: "limit",
        place: Place::Query,
        description: "Only so many, the newest: 100 if not given, at most 1000.",
        schema: schema::<u32>,
    },
];

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get(
            "/api/v1/overview",
            "getOverview",
            "The coordinator, its queues, workers, breakers and last alerts",
        )
        .answers::<Overview<'static>>(200, "How it all stands."),
        overview,
    );
    routes.add(
        Operation::get(
            "/api/v1/workers",
            "listWorkers",
            "The workers that are connected, and those that were lost and still hold attempts",
        )
        .answers::<WorkerList<'static>>(200, "The workers."),
        workers,
    );
    routes.add(
        Operation::get(
            "/api/v1/alerts",
            "listAlerts",
            "What those who run Levelflow should know of: memory, lost workers, breakers, quarantined tasks",
        )
        .takes(ALERTS)
        .answers::<AlertList<'static>>(200, "The alerts."),
        alerts,
    );
    routes.add(
        Operation::get(
            "/api/v1/alerts/events",
            "watchAlerts",
            "The alerts that are kept, then those that come",
        )
        .takes(CURSOR)
        .answers_in(
            MEDIA_TYPE,
            "The alerts as events with the name `alert`. `reset` comes first when the coordinator does not \
             know the alert that was named, because it has started anew; a gap in the numbers tells that \
             the client was too slow.",
            events_of::<Alert<'static>>,
        )
        .takes_its_time(),
        watch,
    );
}

async fn overview(State(api): State<Api>) -> Result<Response, Refusal> {
    let backend = api.backend()?;
    let view = backend.overview().await?;
    let workers = backend.workers().await?;
    let breakers = backend.breakers().await?;
    let alerts = backend.alerts(0, ALERTS_SHOWN).await?;
    json(&Overview::new(&view, &workers, &breakers, &alerts))
}

async fn workers(State(api): State<Api>) -> Result<Response, Refusal> {
    let workers = api.backend()?.workers().await?;
    json(&WorkerList::from(&workers[..]))
}

async fn alerts(State(api): State<Api>, query: Query) -> Result<Response, Refusal> {
    let query = query.only(&[ALERTS])?;
    let after = query.one("after")?.unwrap_or_default();
    let limit = query.one("limit")?.unwrap_or_default();
    let alerts = api.backend()?.alerts(after, limit).await?;
    json(&AlertList::from(&alerts[..]))
}

async fn watch(
    State(api): State<Api>,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, Refusal> {
    let backend = api.backend()?;
    let query = query.only(&[CURSOR])?;
    let mut after: u64 = cursor(&headers, &query)?.unwrap_or_default();
    let newest = backend.alerts(0, 1).await?;
    let newest = newest.last().map_or(0, |alert| alert.number);
    let mut first = Vec::new();
    if after > newest {
        // Numbers begin anew with the coordinator.
        first.push(event("reset", None, &value!({})));
        after = 0;
    }
    let alerts = backend.follow_alerts(after).await?;
    respond(&api, alerts, first, |alert: AlertView, events| {
        let id = alert.number.to_string();
        events.push_back(event("alert", Some(id), &Alert::from(&alert)));
    })
}
