use serde_json::{Value, json};

use super::Server;
use super::events::Events;
use crate::harness::Home;
use crate::upstream::Upstream;

#[tokio::test]
async fn a_dead_upstream_is_told_of_and_its_breaker_reset() {
    let home = Home::new();
    let settings = [("LEVELFLOW_COORDINATOR__BREAKER__FAILURES", "1")];
    let Server {
        running: _server,
        api,
    } = Server::with(&home, &settings).await;
    let mut alerts = Events::at(&api, "/api/v1/alerts/events", None).await;
    let upstream = Upstream::start().await;
    let workflow = json!({
        "name": "call",
        "tasks": [{
            "id": "call",
            "type": "http",
            "with": { "url": upstream.url },
            "retry": { "max_attempts": 2, "initial": "1ms" },
        }],
    });
    let run_id = api.start(&workflow).await;
    let opened = alerts.next().await.unwrap();
    assert_eq!(
        (opened.id.as_deref(), opened.name.as_str()),
        (Some("1"), "alert")
    );
    let opened: Value = serde_json::from_str(&opened.data).unwrap();
    assert_eq!(opened["kind"], "breaker_opened");
    assert_eq!(opened["all_clear"], false);
    let listed = api.get("/api/v1/alerts").await;
    assert_eq!(listed.body["alerts"], json!([opened]));
    let breakers = api.get("/api/v1/breakers").await;
    assert_eq!(breakers.body["breakers"][0]["upstream"], upstream.name);
    assert_eq!(breakers.body["breakers"][0]["status"], "open");
    let why = api
        .get(&format!("/api/v1/runs/{run_id}/tasks/call:why"))
        .await;
    assert_eq!(why.status, 200, "{why:?}");

    upstream.heal();
    let reset = format!("/api/v1/breakers/{}:reset", upstream.name);
    let reset = api.post(&reset, &json!({})).await;
    assert_eq!(reset.status, 200, "{reset:?}");
    let run = Events::open(&api, &run_id, None).await.rest().await;
    let end: Value = serde_json::from_str(&run.last().unwrap().data).unwrap();
    assert_eq!(end["status"], "succeeded", "{run:?}");
    let closed = alerts.next().await.unwrap();
    let told: Value = serde_json::from_str(&closed.data).unwrap();
    assert_eq!(
        (&told["kind"], &told["all_clear"]),
        (&json!("breaker_closed"), &json!(true))
    );
    // Who comes back gets what came meanwhile, and who knows other alerts gets all.
    let mut missed = Events::at(&api, "/api/v1/alerts/events", Some("1")).await;
    assert_eq!(missed.next().await, Some(closed));
    let mut other = Events::at(&api, "/api/v1/alerts/events", Some("700")).await;
    assert_eq!(other.next().await.unwrap().name, "reset");
    assert_eq!(other.next().await.unwrap().id.as_deref(), Some("1"));
}
