//! The worker does its part of the workflow that is shipped with it.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use levelflow_coordinator::{Coordinator, CoordinatorConfig};
use levelflow_proto::v1;
use levelflow_proto::v1::run_event::Event;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use levelflow_proto::v1::workflow_source::Source;
use serde_json::{Value, json};
use tokio::process::Command;

const WORKFLOW: &str = include_str!("../../custom-worker.yaml");
const DEADLINE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn words_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.txt");
    std::fs::write(&file, "To be, or not to be: that is the question.").unwrap();
    let coordinator = Coordinator::start(CoordinatorConfig {
        listen: Some(SocketAddr::from(([127, 0, 0, 1], 0)).into()),
        ..CoordinatorConfig::default()
    })
    .await
    .unwrap();
    let _worker = Command::new(env!("CARGO_BIN_EXE_custom-worker"))
        .arg(format!("http://{}", coordinator.address().unwrap()))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();

    let mut client = WorkflowServiceClient::new(coordinator.channel());
    let request = v1::SubmitWorkflowRequest {
        workflow: Some(v1::WorkflowSource {
            source: Some(Source::Text(WORKFLOW.into())),
        }),
        inputs: json!({ "file": file, "top": 2 }).to_string().into(),
        ..Default::default()
    };
    let run_id = client
        .submit_workflow(request)
        .await
        .unwrap()
        .into_inner()
        .run_id;
    let request = v1::WatchRunRequest {
        run_id,
        after_sequence: 0,
        ..v1::WatchRunRequest::default()
    };
    let mut updates = client.watch_run(request).await.unwrap().into_inner();
    let end = async {
        loop {
            let update = updates
                .message()
                .await
                .unwrap()
                .expect("the run has an end");
            for event in update.events {
                if let Some(Event::Finished(end)) = event.event {
                    return end;
                }
            }
        }
    };
    let end = tokio::time::timeout(DEADLINE, end)
        .await
        .expect("the run ends before the deadline");
    assert_eq!(end.status(), v1::RunStatus::Succeeded, "{:?}", end.failure);
    let outputs: Value = serde_json::from_slice(&end.outputs).unwrap();
    let expected = format!(
        "The words that {} uses most:\n2  be\n2  to\n",
        file.display()
    );
    assert_eq!(outputs["report"], expected);
    coordinator.shutdown(Duration::ZERO).await;
}
