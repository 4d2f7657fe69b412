use serde_json::json;

use super::{Server, answer};
use crate::api::{open, quick};
use crate::harness::Home;

#[tokio::test]
async fn a_run_is_submitted_and_looked_at() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let live = api.get("/healthz").await;
    assert_eq!(
        (live.status.as_u16(), live.body),
        (200, json!({ "status": "live" }))
    );
    let ready = api.get("/readyz").await;
    assert_eq!(
        (ready.status.as_u16(), ready.body),
        (200, json!({ "status": "ready" }))
    );

    let request = json!({
        "workflow": quick(),
        "inputs": { "number": 4 },
        "priority": "high",
        "labels": { "env": "test" },
    });
    let submitted = api.post("/api/v1/runs?wait=60s", &request).await;
    assert_eq!(submitted.status, 201, "{submitted:?}");
    let run_id = submitted.body["run_id"].as_str().unwrap();
    let location = format!("/api/v1/runs/{run_id}");
    assert_eq!(submitted.headers["location"], location);
    assert_eq!(submitted.body["run"]["status"], "succeeded");

    let run = api.get(&location).await;
    assert_eq!(run.status, 200, "{run:?}");
    assert_eq!(run.headers["content-type"], "application/json");
    assert_eq!(run.body["outputs"], json!({ "sum": 5 }));
    assert_eq!(run.body["priority"], "high");
    assert_eq!(run.body["labels"], json!({ "env": "test" }));
    assert_eq!(run.body["tasks"][1]["output"], 5);
    let (_, shown) = home.json(&["get", run_id]).await;
    assert_eq!(shown, run.body, "the command line shows the same");

    let task = api.get(&format!("{location}/tasks/b")).await;
    assert_eq!(task.body, run.body["tasks"][1]);
    let listed = api
        .get("/api/v1/runs?label=env%3Dtest&status=succeeded")
        .await;
    assert_eq!(listed.body["runs"][0]["run_id"], run_id);
    assert_eq!(listed.body["next_page_token"], json!(null));
    let none = api.get("/api/v1/runs?status=failed").await;
    assert_eq!(none.body["runs"], json!([]));
}

#[tokio::test]
async fn an_open_run_is_explained_and_cancelled() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let run_id = api.start(&open()).await;
    let why = api
        .get(&format!("/api/v1/runs/{run_id}/tasks/after:why"))
        .await;
    assert_eq!(why.status, 200, "{why:?}");
    assert_eq!(why.body["state"], "pending");
    assert_eq!(why.body["reasons"][0]["code"], "needs");

    let cancel = format!("/api/v1/runs/{run_id}:cancel");
    let cancelled = api.post(&cancel, &json!({ "reason": "enough" })).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    let again = answer(api.request(reqwest::Method::POST, &cancel)).await;
    assert_eq!(again.status, 409, "{again:?}");
    assert_eq!(again.body["code"], "run_ended");

    let resumed = api
        .post(&format!("/api/v1/runs/{run_id}:resume"), &json!({}))
        .await;
    assert_eq!(resumed.status, 201, "{resumed:?}");
    assert_eq!(resumed.body["kept"], 0);
    let id = resumed.body["run_id"].as_str().unwrap();
    assert_eq!(resumed.headers["location"], format!("/api/v1/runs/{id}"));
    let run = api.get(&format!("/api/v1/runs/{id}")).await;
    assert_eq!(run.body["resumed_from"], run_id);
}
