use nix::sys::signal::Signal;
use serde_json::json;

use super::{Server, answer};
use crate::api::{gated, open, quick};
use crate::client::eventually;
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

#[tokio::test]
async fn a_workflow_in_yaml_is_submitted_with_its_inputs_in_the_query() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let yaml = "name: y\ninputs: { n: { type: integer, required: true } }\ntasks:\n\
                - { id: a, type: transform, with: { value: '${{ inputs.n + 1 }}' } }\n\
                outputs: { n: '${{ tasks.a.output }}' }\n";
    let query = "wait=60s&inputs=%7B%22n%22:41%7D&priority=low&label=a%3Db&label=c%3Dd";
    let request = api.request(reqwest::Method::POST, &format!("/api/v1/runs?{query}"));
    let request = request.header("content-type", "application/yaml; charset=utf-8");
    let submitted = answer(request.body(yaml)).await;
    assert_eq!(submitted.status, 201, "{submitted:?}");
    let run = &submitted.body["run"];
    assert_eq!(run["outputs"], json!({ "n": 42 }));
    assert_eq!(run["priority"], "low");
    assert_eq!(run["labels"], json!({ "a": "b", "c": "d" }));
    let text = api
        .post(
            "/api/v1/runs?wait=60s",
            &json!({ "workflow": yaml, "inputs": { "n": 1 } }),
        )
        .await;
    assert_eq!(text.body["run"]["outputs"], json!({ "n": 2 }), "{text:?}");
}

#[tokio::test]
async fn a_server_that_stops_is_not_ready() {
    let home = Home::new();
    let settings = [("LEVELFLOW_STOP_GRACE", "60s")];
    let Server { running, api } = Server::with(&home, &settings).await;
    let run_id = api.start(&gated(&home)).await;
    let started = async || home.path("started").exists();
    eventually("the program runs", started).await;
    running.signal(Signal::SIGTERM);
    let not_ready = async || api.get("/readyz").await.body["code"] == "shutting_down";
    eventually("it is not ready", not_ready).await;
    assert_eq!(api.get("/healthz").await.status, 200);
    let run = api.get(&format!("/api/v1/runs/{run_id}")).await;
    assert_eq!(run.body["status"], "running", "{run:?}");
    home.file("gate", "");
    assert_eq!(running.ended().await.code(), Some(0));
}
