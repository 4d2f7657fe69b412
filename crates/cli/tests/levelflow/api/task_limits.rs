use levelflow_common::{Code, RunStatus};
use serde_json::{Value, json};

use super::control::until_explained;
use super::{gated, serve};
use crate::client::{Client, eventually, submission};
use crate::harness::Home;

/// A program that waits for the gate, of which one with the key may run at once.
fn exclusive(home: &Home, on_full: &str) -> Value {
    let mut workflow = gated(home);
    workflow["inputs"] = json!({ "customer": { "default": 7 } });
    workflow["tasks"][0]["concurrency"] = json!({
        "key": "customer-${{ inputs.customer }}", "limit": 1, "on_full": on_full,
    });
    workflow
}

async fn failure(client: &Client, run_id: &str) -> Option<Code> {
    let run = client.ended(run_id).await;
    run.tasks[0].failure.as_ref().map(|failure| failure.code)
}

#[tokio::test]
async fn one_at_a_time_waits_fails_or_makes_room_and_outlives_a_crash() {
    let home = Home::new();
    let (server, client) = serve(&home, &[]).await;
    let first = client.start(&exclusive(&home, "queue")).await;
    until_explained(&client, &first, "gated", "running").await;
    let second = client.start(&exclusive(&home, "queue")).await;
    until_explained(&client, &second, "gated", "concurrency").await;
    let (_, reasons) = client.explain(&second, "gated").await;
    let expected = format!(
        "`concurrency` lets 1 with key `customer-7` run at once, and there are `gated` of run {first} since "
    );
    assert!(reasons[0].text.starts_with(&expected), "{reasons:?}");

    let other = levelflow_proto::v1::SubmitWorkflowRequest {
        inputs: br#"{"customer":8}"#.to_vec().into(),
        ..submission(&exclusive(&home, "queue"))
    };
    let other = client.submit(other).await.unwrap().run_id;
    until_explained(&client, &other, "gated", "running").await;
    let third = client.start(&exclusive(&home, "fail")).await;
    assert_eq!(failure(&client, &third).await, Some(Code::ConcurrencyFull));

    server.kill().await;
    let (_server, client) = serve(&home, &[]).await;
    let code = async |run_id: &str| client.explain(run_id, "gated").await.1[0].code.clone();
    eventually("one of two has the slot again", async || {
        let mut codes = [code(&first).await, code(&second).await];
        codes.sort();
        codes == ["concurrency", "running"]
    })
    .await;
    home.file("gate", "");
    for run_id in [&first, &second, &other] {
        let run = client.ended(run_id).await;
        assert_eq!(run.summary.status, RunStatus::Succeeded);
    }

    std::fs::remove_file(home.path("gate")).unwrap();
    let older = client.start(&exclusive(&home, "cancel_oldest")).await;
    until_explained(&client, &older, "gated", "running").await;
    let newer = client.start(&exclusive(&home, "cancel_oldest")).await;
    assert_eq!(
        failure(&client, &older).await,
        Some(Code::ConcurrencyDisplaced)
    );
    home.file("gate", "");
    assert_eq!(failure(&client, &newer).await, None);
}

#[tokio::test]
async fn starts_are_limited_in_time() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let workflow = json!({
        "name": "rated",
        "tasks": [{
            "id": "a", "type": "transform", "with": { "value": 1 },
            "rate_limit": { "key": "k", "limit": 2, "per": "2h" },
        }],
    });
    for _ in 0..2 {
        client.ended(&client.start(&workflow).await).await;
    }
    let third = client.start(&workflow).await;
    until_explained(&client, &third, "a", "rate_limit").await;
    let (_, reasons) = client.explain(&third, "a").await;
    let expected = "`rate_limit` lets 2 with key `k` start per 2h; the next may start in 3";
    assert!(reasons[0].text.starts_with(expected), "{reasons:?}");
}
