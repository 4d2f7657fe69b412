//! Guarantee 9: what the cache serves.

use levelflow_common::Protection;
use levelflow_proto::v1;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::scene::Scene;
use super::scripted_worker::ScriptedWorker;
use super::{flow, show, task};
use crate::client::submission;
use crate::cluster::chaos::guarantees::Violation;
use crate::harness::DEADLINE;

fn cached(ttl: &str) -> Value {
    let mut cached = task("a");
    cached["cache"] = json!({ "ttl": ttl });
    flow("cached", &[cached])
}

/// A run of a tenant, whose task the worker computes unless its result is found.
async fn run(scene: &Scene, worker: &mut ScriptedWorker, workflow: &Value, tenant: &str) {
    let request = v1::SubmitWorkflowRequest {
        tenant: tenant.to_owned(),
        ..submission(workflow)
    };
    let run_id = scene.submit_as(workflow, request).await.unwrap();
    worker.grant(1).await;
    let ended = async {
        tokio::select! {
            never = worker.work() => match never {},
            _ = scene.client.ended(&run_id) => {}
        }
    };
    timeout(DEADLINE, ended).await.expect("the run ends");
}

async fn same_task_of_two_tenants(without: Option<Protection>) -> Vec<Violation> {
    let scene = Scene::start(without, &[]).await;
    let mut worker = scene.worker("w").await;
    for tenant in ["one", "other"] {
        run(&scene, &mut worker, &cached("1h"), tenant).await;
    }
    scene.violations().await
}

#[tokio::test]
async fn a_tenant_is_not_given_what_another_computed() {
    show(Protection::TenantInKey, 9, same_task_of_two_tenants).await;
}

async fn same_task_later(without: Option<Protection>) -> Vec<Violation> {
    let scene = Scene::start(without, &[]).await;
    let mut worker = scene.worker("w").await;
    run(&scene, &mut worker, &cached("1s"), "").await;
    scene.pass("2s").await;
    run(&scene, &mut worker, &cached("1s"), "").await;
    scene.violations().await
}

#[tokio::test]
async fn a_result_is_not_given_after_its_time() {
    show(Protection::Expiry, 9, same_task_later).await;
}
