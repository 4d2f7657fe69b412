//! Coordinators that share a store, and workers that reach them over NATS.

use levelflow_proto::v1::ListWorkersRequest;
use serde_json::json;

use super::{Cluster, Coordinator};
use crate::client::{Client, eventually};
use crate::harness::Running;
use crate::nats_server::NatsServer;

/// Enough for each coordinator to have some of them.
const RUNS: usize = 24;

async fn coordinator(cluster: &Cluster, nats: &NatsServer) -> Coordinator {
    let arguments = ["coordinator", "--listen", "127.0.0.1:0", "--json"];
    let mut command = cluster.command(&arguments);
    command.args(["--nats", &nats.url()]);
    let (process, address) = Running::server(command).await;
    Coordinator { process, address }
}

#[tokio::test]
async fn a_worker_over_nats_works_for_every_coordinator() {
    let cluster = Cluster::new();
    let nats = NatsServer::start("");
    let first = coordinator(&cluster, &nats).await;
    let second = coordinator(&cluster, &nats).await;
    cluster.is_even(&first, 2).await;
    let mut worker = Running::start(cluster.command(&["worker", "--nats", &nats.url(), "--json"]));
    worker.json_line().await;

    let workflow = json!({
        "name": "hello",
        "tasks": [
            { "id": "a", "type": "transform", "with": { "value": 1 } },
            { "id": "b", "type": "transform", "with": { "value": "${{ tasks.a.output + 1 }}" } },
        ],
    });
    let client = Client::connect(&first.address).await;
    for _ in 0..RUNS {
        let run_id = client.start(&workflow).await;
        client.ended(&run_id).await;
    }

    // A coordinator that is killed is not heard of any more, and its runs go on with the other.
    second.process.kill().await;
    let third = coordinator(&cluster, &nats).await;
    cluster.is_even(&first, 2).await;
    for _ in 0..RUNS {
        let run_id = client.start(&workflow).await;
        client.ended(&run_id).await;
    }

    // Whichever of the first two the worker found first, that one is gone now. It keeps to those that it has.
    first.process.kill().await;
    let fourth = coordinator(&cluster, &nats).await;
    cluster.is_even(&third, 2).await;
    let clients = [
        Client::connect(&third.address).await,
        Client::connect(&fourth.address).await,
    ];
    let sessions = async || {
        let mut opened = Vec::new();
        for client in &clients {
            let request = ListWorkersRequest::default();
            let listed = client.service.clone().list_workers(request).await.unwrap();
            let workers = listed.into_inner().workers.into_iter();
            opened.extend(workers.filter_map(|it| Some(it.session?.connected_at_us)));
        }
        opened
    };
    let last = async || {
        let before = sessions().await;
        for _ in 0..RUNS {
            let run_id = clients[0].start(&workflow).await;
            clients[0].ended(&run_id).await;
        }
        before.len() == 2 && before == sessions().await
    };
    eventually("the sessions last", last).await;
}
