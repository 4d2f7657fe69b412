//! Watchers over gRPC.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use levelflow_common::ChunkEvent;
use levelflow_proto::v1;
use levelflow_proto::v1::workflow_service_client::WorkflowServiceClient;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::{CONNECTIONS, Latencies, NARROW, Watcher};

type Events = Streaming<v1::WatchTaskResponse>;

/// Watchers of these runs, over a few connections.
pub(super) async fn watch(address: &str, runs: &[&str], chunks: u32) -> Result<Vec<Watcher>> {
    let events = open(address, runs, None).await?.into_iter();
    Ok(events
        .map(|events| levelflow_runtime::task::spawn("watcher", read(events, chunks)))
        .collect())
}

/// Watchers of these runs that do not read.
pub(super) async fn stall(address: &str, runs: &[&str]) -> Result<Vec<Events>> {
    open(address, runs, Some(NARROW)).await
}

async fn open(address: &str, runs: &[&str], windows: Option<(u32, u32)>) -> Result<Vec<Events>> {
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS.min(runs.len()) {
        connections.push(connect(address, windows).await?);
    }
    let mut opened = Vec::new();
    for (service, run_id) in connections.iter().cycle().zip(runs) {
        let request = v1::WatchTaskRequest {
            run_id: (*run_id).to_owned(),
            task_id: "stream".to_owned(),
            ..Default::default()
        };
        opened.push(service.clone().watch_task(request).await?.into_inner());
    }
    Ok(opened)
}

async fn connect(
    address: &str,
    windows: Option<(u32, u32)>,
) -> Result<WorkflowServiceClient<Channel>> {
    let mut endpoint = Endpoint::from_shared(address.to_owned())?
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5));
    if let Some((stream, connection)) = windows {
        endpoint = endpoint
            .initial_stream_window_size(stream)
            .initial_connection_window_size(connection);
    }
    let channel = endpoint.connect().await;
    let channel = channel.context("cannot connect to the coordinator")?;
    Ok(WorkflowServiceClient::new(channel))
}

async fn read(mut events: Events, expected: u32) -> Result<Vec<u64>> {
    let mut latencies = Latencies::new(expected);
    while let Some(event) = events.message().await? {
        match ChunkEvent::try_from(event)? {
            ChunkEvent::Chunks { first, chunks, .. } => {
                let texts: Vec<&str> = chunks
                    .iter()
                    .map(|chunk| serde_json::from_slice(chunk))
                    .collect::<Result<_, _>>()?;
                latencies.take(first, texts.into_iter())?;
            }
            ChunkEvent::Ended(end) => {
                ensure!(end.chunks == expected, "the task ended: {end:?}");
                return latencies.all();
            }
            ChunkEvent::Started { .. } => {}
            ChunkEvent::Lagged { .. } => bail!("a watcher was too slow"),
        }
    }
    bail!("the stream broke off")
}
