use levelflow_common::Code;
use levelflow_proto::v1;
use serde_json::json;

use super::serve;
use crate::client::{answer, source};
use crate::harness::Home;

#[tokio::test]
async fn a_workflow_is_planned_without_a_run() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let task = |id: &str, needs: &[&str]| json!({ "id": id, "type": "transform", "needs": needs, "with": { "value": 1 } });
    let plan = async |tasks| {
        let workflow = json!({ "name": "planned", "tasks": tasks }).to_string();
        let request = v1::PlanWorkflowRequest {
            workflow: Some(source(workflow)),
        };
        answer(client.service.clone().plan_workflow(request)).await
    };
    let tasks = json!([
        task("a", &[]),
        task("b", &["a"]),
        task("c", &["b"]),
        task("d", &["a"]),
        task("e", &["c", "d"]),
    ]);
    let planned = plan(tasks).await.unwrap();
    let levels: Vec<Vec<String>> = planned
        .levels
        .into_iter()
        .map(|level| level.task_ids)
        .collect();
    assert_eq!(levels, [vec!["a"], vec!["b", "d"], vec!["c"], vec!["e"]]);
    assert_eq!(planned.critical_path, ["a", "b", "c", "e"]);
    assert_eq!((planned.tasks, planned.edges), (5, 5));
    assert_eq!(
        client
            .list(v1::ListRunsRequest::default())
            .await
            .unwrap()
            .runs,
        []
    );

    let circle = json!([task("a", &["c"]), task("b", &["a"]), task("c", &["b"])]);
    let error = plan(circle).await.unwrap_err();
    assert_eq!(error.code(), Code::WorkflowInvalid);
    assert_eq!(
        error.message,
        "tasks need each other in a cycle: `a` → `b` → `c` → `a`"
    );
}
