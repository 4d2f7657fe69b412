use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Server;
use crate::api::quick;
use crate::harness::Home;

/// The values of what is measured, by name and labels.
fn values(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name, value.parse().unwrap())
        })
        .collect()
}

#[tokio::test]
async fn what_happens_is_counted() {
    let home = Home::new();
    let Server {
        running: _server,
        api,
    } = Server::start(&home).await;
    for _ in 0..3 {
        let submitted = api
            .post("/api/v1/runs?wait=60s", &json!({ "workflow": quick() }))
            .await;
        assert_eq!(submitted.status, 201, "{submitted:?}");
    }
    let answer = api.get("/metrics").await;
    assert_eq!(
        answer.headers["content-type"],
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    let Value::String(text) = &answer.body else {
        panic!("it is text: {answer:?}");
    };
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert!(
        text.contains("# TYPE levelflow_tasks_ended counter\n"),
        "{text}"
    );
    let values = values(text);
    for (name, expected) in [
        ("levelflow_runs_submitted_total", 3.0),
        ("levelflow_runs_ended_total{status=\"succeeded\"}", 3.0),
        ("levelflow_runs_ended_total{status=\"failed\"}", 0.0),
        ("levelflow_runs_open", 0.0),
        (
            "levelflow_tasks_ended_total{status=\"succeeded\",kind=\"transform\"}",
            6.0,
        ),
        ("levelflow_attempts_started_total{kind=\"transform\"}", 6.0),
        ("levelflow_attempts_retried_total{kind=\"transform\"}", 0.0),
        ("levelflow_sessions", 1.0),
        ("levelflow_results_stale_total", 0.0),
        ("levelflow_breakers{status=\"open\"}", 0.0),
        (
            "levelflow_http_requests_total{method=\"POST\",route=\"/api/v1/runs\",status=\"201\"}",
            3.0,
        ),
        (
            "levelflow_http_request_seconds_count{route=\"/api/v1/runs\"}",
            3.0,
        ),
    ] {
        assert_eq!(values.get(name), Some(&expected), "{name} in {text}");
    }
    let commits = values["levelflow_commit_seconds_count"];
    assert!(commits >= 3.0, "{text}");
    assert_eq!(
        values["levelflow_commit_seconds_bucket{le=\"+Inf\"}"],
        commits
    );
    assert!(values["levelflow_commit_entries_sum"] >= commits, "{text}");
}

#[tokio::test]
async fn the_number_of_workers_that_is_wanted_is_measured_where_it_is_decided() {
    let home = Home::new();
    let minimum = ("LEVELFLOW_COORDINATOR__AUTOSCALE__MIN", "3");
    let Server {
        running: _server,
        api,
    } = Server::with(&home, &[minimum]).await;
    // It waits for the first decision.
    let decided = api.get("/api/v1/autoscale").await;
    assert_eq!(decided.body["wanted"], 3, "{decided:?}");
    let Value::String(text) = api.get("/metrics").await.body else {
        panic!("metrics are text");
    };
    assert_eq!(values(&text)["levelflow_workers_wanted"], 3.0);
}
