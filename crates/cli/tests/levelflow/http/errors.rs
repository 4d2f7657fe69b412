use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{Answer, Api, Server, answer};
use crate::api::{open, quick};
use crate::harness::Home;

/// The code of a refusal.
#[track_caller]
fn refused(answer: &Answer, status: u16) -> &str {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.headers[CONTENT_TYPE], "application/problem+json");
    assert_eq!(answer.body["status"], status);
    let code = answer.body["code"].as_str().unwrap();
    assert_eq!(answer.body["type"], format!("urn:levelflow:problem:{code}"));
    assert_eq!(
        answer.body["request_id"],
        *answer.headers["x-request-id"].to_str().unwrap()
    );
    code
}

async fn send(api: &Api, path: &str, media: &str, body: &str) -> Answer {
    let request = api.request(Method::POST, path).header(CONTENT_TYPE, media);
    answer(request.body(body.to_owned())).await
}

#[tokio::test]
async fn problems_say_where_they_are() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let json = "application/json";

    let broken = send(&api, "/api/v1/runs", json, "{\n  \"workflow\": }").await;
    assert_eq!(refused(&broken, 400), "request_invalid");
    let violation = &broken.body["violations"][0];
    assert_eq!(
        (&violation["line"], &violation["column"]),
        (&json!(2), &json!(15))
    );

    let unknown = send(&api, "/api/v1/runs", json, "{\"workflw\": {}}").await;
    assert_eq!(refused(&unknown, 400), "request_invalid");
    assert!(
        unknown.body["detail"]
            .as_str()
            .unwrap()
            .contains("`workflw`"),
        "{unknown:?}"
    );

    // The workflow begins in line 2, and its second task in line 4.
    let body = "{ \"inputs\": {},\n  \"workflow\": { \"name\": \"w\", \"tasks\": [\n    \
                { \"id\": \"a\", \"type\": \"transform\", \"with\": { \"value\": 1 } },\n    \
                { \"id\": \"b\", \"type\": \"transfrom\", \"with\": { \"value\": 1 } } ] } }";
    let wrong = send(&api, "/api/v1/runs", json, body).await;
    assert_eq!(refused(&wrong, 422), "workflow_invalid");
    let violation = &wrong.body["violations"][0];
    assert_eq!(violation["field"], "tasks[1].type");
    let line = body.lines().nth(3).unwrap();
    let column = line.find("\"transfrom\"").unwrap() + 1;
    assert_eq!(
        (&violation["line"], &violation["column"]),
        (&json!(4), &json!(column))
    );
    // In the line in which the workflow begins, its column is that of the body, too.
    let name = body.replace("\"name\": \"w\"", "\"nam\": \"w\"");
    let wrong = send(&api, "/api/v1/runs", json, &name).await;
    let column = name.lines().nth(1).unwrap().find("\"nam\"").unwrap() + 1;
    let mut violations = wrong.body["violations"].as_array().unwrap().iter();
    assert!(
        violations.any(|at| at["line"] == 2 && at["column"] == column),
        "{wrong:?}"
    );

    let yaml = "name: w\ntasks:\n  - { id: a, type: transform, needs: [a], with: { value: 1 } }\n";
    for path in [
        "/api/v1/workflows:validate",
        "/api/v1/workflows:plan",
        "/api/v1/runs",
    ] {
        let wrong = send(&api, path, "application/yaml", yaml).await;
        assert_eq!(refused(&wrong, 422), "workflow_invalid");
        assert_eq!(wrong.body["violations"][0]["line"], 3, "{wrong:?}");
    }

    let inputs = json!({ "workflow": quick(), "inputs": { "number": "four" } });
    let wrong = api.post("/api/v1/runs", &inputs).await;
    assert_eq!(refused(&wrong, 422), "input_invalid");
    assert_eq!(wrong.body["violations"][0]["field"], "inputs.number");
}

#[tokio::test]
async fn requests_that_nobody_can_answer_are_refused() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let unknown = api.get("/api/v1/rnus").await;
    assert_eq!(refused(&unknown, 404), "route_unknown");
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let verb = api
        .post(&format!("/api/v1/runs/{id}:explode"), &json!({}))
        .await;
    assert_eq!(refused(&verb, 404), "route_unknown");
    let method = answer(api.request(Method::DELETE, &format!("/api/v1/runs/{id}"))).await;
    assert_eq!(refused(&method, 405), "method_not_allowed");
    assert_eq!(method.headers["allow"], "GET,HEAD");
    let form = send(
        &api,
        "/api/v1/runs",
        "application/x-www-form-urlencoded",
        "a=b",
    )
    .await;
    assert_eq!(refused(&form, 415), "media_type_unsupported");
    let untyped = api.request(Method::POST, "/api/v1/runs").body("{}");
    assert_eq!(
        refused(&answer(untyped).await, 415),
        "media_type_unsupported"
    );
    let foreign = api
        .request(Method::POST, "/api/v1/runs")
        .header("origin", "http://evil.example");
    let foreign = answer(foreign.json(&json!({ "workflow": quick() }))).await;
    assert_eq!(refused(&foreign, 403), "origin_refused");
    let rebound = api
        .request(Method::GET, "/api/v1/runs")
        .header("host", "evil.example");
    assert_eq!(refused(&answer(rebound).await, 403), "origin_refused");
    let run = api.get("/api/v1/runs/seven").await;
    assert_eq!(refused(&run, 400), "request_invalid");
    assert_eq!(run.body["violations"][0]["field"], "run_id");
    let missing = api.get(&format!("/api/v1/runs/{id}")).await;
    assert_eq!(refused(&missing, 404), "run_not_found");
    let parameter = api.get("/api/v1/runs?stauts=failed").await;
    assert_eq!(refused(&parameter, 400), "request_invalid");
    let detail = parameter.body["detail"].as_str().unwrap();
    assert!(detail.contains("did you mean `status`?"), "{detail}");
    let status = api.get("/api/v1/runs?status=flying").await;
    assert_eq!(refused(&status, 400), "request_invalid");
    let breaker = api
        .post("/api/v1/breakers/http:nobody:80:reset", &json!({}))
        .await;
    assert_eq!(refused(&breaker, 404), "breaker_not_found");
    assert!(
        breaker.body["detail"]
            .as_str()
            .unwrap()
            .contains("`http:nobody:80`")
    );

    let named = api
        .request(Method::GET, "/healthz")
        .header("x-request-id", "mine-7");
    assert_eq!(answer(named).await.headers["x-request-id"], "mine-7");
}

#[tokio::test]
async fn the_same_key_gives_the_same_run() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    let submit = async |body: &Value, key: &str| {
        let request = api.request(Method::POST, "/api/v1/runs");
        answer(request.header("idempotency-key", key).json(body)).await
    };
    let body = json!({ "workflow": open() });
    let first = submit(&body, "order-17").await;
    assert_eq!(
        (first.status.as_u16(), &first.body["existing"]),
        (201, &json!(false))
    );
    let again = submit(&body, "order-17").await;
    assert_eq!(
        (again.status.as_u16(), &again.body["existing"]),
        (200, &json!(true))
    );
    assert_eq!(again.body["run_id"], first.body["run_id"]);
    let digest = json!({ "workflow_digest": first.body["workflow_digest"] });
    let known = submit(&digest, "order-17").await;
    assert_eq!(known.body["run_id"], first.body["run_id"], "{known:?}");
    let other = submit(&json!({ "workflow": quick() }), "order-17").await;
    assert_eq!(refused(&other, 409), "key_reused");
    let two = json!({ "workflow": open(), "idempotency_key": "order-18" });
    assert_eq!(
        refused(&submit(&two, "order-17").await, 400),
        "request_invalid"
    );
}

#[tokio::test]
async fn a_full_server_says_when_to_come_back() {
    let home = Home::new();
    let settings = [("LEVELFLOW_COORDINATOR__MAX_OPEN_RUNS", "1")];
    let Server {
        running: _server,
        api,
    } = Server::with(&home, &settings).await;
    api.start(&open()).await;
    let refusal = api
        .post("/api/v1/runs", &json!({ "workflow": open() }))
        .await;
    assert_eq!(refused(&refusal, 429), "too_many_runs");
    let seconds: u64 = refusal.headers["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(seconds > 0);
}
