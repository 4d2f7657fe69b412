use levelflow_common::limits::{
    MAX_FILE_BYTES, MAX_INPUT_BYTES, MAX_KEY_BYTES, MAX_LABELS, MAX_MESSAGE_BYTES, MAX_OUTPUT_BYTES,
};
use levelflow_common::{Code, RunStatus};
use levelflow_proto::v1;
use serde_json::json;
use tonic_types::StatusExt as _;

use super::{open, quick, serve};
use crate::client::{source, submission};
use crate::harness::Home;

#[tokio::test]
async fn a_message_over_the_limit_is_refused() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let request = |bytes| v1::SubmitWorkflowRequest {
        workflow: Some(source(vec![b'x'; bytes])),
        ..Default::default()
    };
    let error = client.submit(request(MAX_MESSAGE_BYTES)).await.unwrap_err();
    assert_eq!(error.code(), Code::TooLarge, "{error:?}");
    let error = client
        .submit(request(MAX_FILE_BYTES + 1))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::WorkflowInvalid);
    assert_eq!(
        error.message,
        format!(
            "the file is {} bytes long; the most is {MAX_FILE_BYTES}",
            MAX_FILE_BYTES + 1
        )
    );
    // The connection and the server go on.
    client.ended(&client.start(&quick()).await).await;
}

#[tokio::test]
async fn inputs_keys_and_labels_over_their_limits_are_refused() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let long = format!("{{\"number\": {}1}}", " ".repeat(MAX_INPUT_BYTES));
    let bytes = long.len();
    let inputs = v1::SubmitWorkflowRequest {
        inputs: long.into(),
        ..submission(&quick())
    };
    let error = client.submit(inputs).await.unwrap_err();
    assert_eq!(
        error.message,
        format!("the inputs are {bytes} bytes long; the most is {MAX_INPUT_BYTES}")
    );
    assert_eq!(error.code(), Code::InputInvalid);

    let idempotency_key = "k".repeat(MAX_KEY_BYTES + 1);
    let key = v1::SubmitWorkflowRequest {
        idempotency_key,
        ..submission(&quick())
    };
    let error = client.submit(key).await.unwrap_err();
    assert_eq!(error.code(), Code::RequestInvalid);
    assert_eq!(error.violations[0].field, "idempotency_key");

    let text = |tenant: &str, key: &str| v1::SubmitWorkflowRequest {
        tenant: tenant.to_owned(),
        idempotency_key: key.to_owned(),
        ..submission(&quick())
    };
    let error = client.submit(text("acme", "a\0b")).await.unwrap_err();
    let problem = "`idempotency_key`: may not have control characters";
    assert_eq!(error.message, problem);
    let error = client.submit(text("a\u{1}", "a")).await.unwrap_err();
    assert_eq!(error.message, "`tenant`: may not have control characters");
    let error = client.submit(text(&"t".repeat(257), "")).await.unwrap_err();
    assert_eq!(error.message, "`tenant`: 257 bytes; the limit is 256");

    let labels = (0..=MAX_LABELS)
        .map(|number| (number.to_string(), String::new()))
        .collect();
    let labels = v1::SubmitWorkflowRequest {
        labels,
        ..submission(&quick())
    };
    let error = client.submit(labels).await.unwrap_err();
    assert_eq!(error.message, "`labels`: 65 labels; the limit is 64");
}

#[tokio::test]
async fn an_output_over_the_limit_fails_its_task() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let bytes = MAX_OUTPUT_BYTES + 1;
    let script = format!("head -c {bytes} /dev/zero | tr '\\0' x");
    let program = json!({ "type": "process", "with": { "command": ["sh", "-c", script] } });
    let value =
        json!({ "type": "transform", "with": { "value": format!("${{{{ 'x' * {bytes} }}}}") } });
    for mut task in [program, value] {
        task["id"] = json!("large");
        let run_id = client
            .start(&json!({ "name": "large", "tasks": [task] }))
            .await;
        let run = client.ended(&run_id).await;
        assert_eq!(run.summary.status, RunStatus::Failed);
        let failure = run.tasks[0].failure.as_ref().unwrap();
        assert_eq!(failure.code, Code::OutputTooLarge, "{failure:?}");
        assert_eq!(run.tasks[0].attempts, 1, "it would be too large again");
    }
}

#[tokio::test]
async fn a_full_queue_says_when_to_try_again() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[("LEVELFLOW_COORDINATOR__MAX_QUEUE", "3")]).await;
    let mut accepted = Vec::new();
    let refused = loop {
        let request = submission(&open());
        match client.service.clone().submit_workflow(request).await {
            Ok(response) => accepted.push(response.into_inner().run_id),
            Err(status) => break status,
        }
        assert!(accepted.len() <= 3);
    };
    assert_eq!(accepted.len(), 3);
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let details = refused.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "queue_full");
    assert!(
        details
            .retry_info()
            .unwrap()
            .retry_delay
            .unwrap()
            .as_millis()
            > 0
    );
    assert_eq!(
        refused.message(),
        "queue `default` is full: 3 tasks wait for a worker; try again later"
    );

    client.cancel(&accepted[0]).await.unwrap();
    client.ended(&accepted[0]).await;
    client.start(&open()).await;
}

#[tokio::test]
async fn too_many_open_runs_are_refused() {
    let home = Home::new();
    let settings = [("LEVELFLOW_COORDINATOR__MAX_OPEN_RUNS", "2")];
    let (_server, client) = serve(&home, &settings).await;
    let first = client.start(&open()).await;
    client.start(&open()).await;
    let error = client.submit(submission(&quick())).await.unwrap_err();
    assert_eq!(error.code(), Code::TooManyRuns);
    assert!(error.retry_after.is_some());
    client.cancel(&first).await.unwrap();
    client.ended(&first).await;
    client.start(&quick()).await;
}

#[tokio::test]
async fn more_keys_of_rate_limits_than_are_known_at_once_fail() {
    let home = Home::new();
    let settings = [("LEVELFLOW_COORDINATOR__MAX_RATE_KEYS", "2")];
    let (_server, client) = serve(&home, &settings).await;
    let task = |key: &str| {
        json!({
            "id": key, "type": "transform", "with": { "value": 1 },
            "rate_limit": { "key": key, "limit": 1, "per": "1h" },
        })
    };
    let tasks = ["a", "b"].map(task);
    let run_id = client
        .start(&json!({ "name": "known", "tasks": tasks }))
        .await;
    assert_eq!(
        client.ended(&run_id).await.summary.status,
        RunStatus::Succeeded
    );
    // Their tokens come back within the hour.
    let run_id = client
        .start(&json!({ "name": "more", "tasks": [task("c")] }))
        .await;
    let run = client.ended(&run_id).await;
    let failure = run.tasks[0].failure.as_ref().unwrap();
    assert_eq!(failure.code, Code::RateKeysExhausted);

    let mut command = home.command(&["list"]);
    command.env("LEVELFLOW_COORDINATOR__MAX_RATE_KEYS", "0");
    let refused = crate::harness::finish(command).await;
    for part in ["setting `coordinator.max_rate_keys`", "must be at least 1"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
}
