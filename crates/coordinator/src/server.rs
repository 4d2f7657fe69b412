//! The gRPC server, over TCP and inside the process.

use std::io;
use std::time::Duration;

use levelflow_common::limits::MAX_MESSAGE_BYTES;
use levelflow_proto::keda::external_scaler_server::ExternalScalerServer;
use levelflow_proto::v1::autoscale_service_server::AutoscaleServiceServer;
use levelflow_proto::v1::cache_service_server::CacheServiceServer;
use levelflow_proto::v1::cluster_service_server::ClusterServiceServer;
use levelflow_proto::v1::worker_service_server::WorkerServiceServer;
use levelflow_proto::v1::workflow_service_server::WorkflowServiceServer;
use levelflow_proto::v1::{self};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::transport::{Channel, Endpoint, Server};

use crate::error::StartError;
use crate::listen::Listener;
use crate::service::{Autoscales, Backend, Caches, Clusters, KedaScaler, Sessions, Workflows};

/// Bytes that a peer may send before it hears that they were read.
const WINDOW: u32 = 4 * 1024 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes in flight between the ends of a connection inside the process.
const DUPLEX_BUFFER: usize = 1024 * 1024;
/// Connections inside the process that may wait to be served.
const DUPLEX_BACKLOG: usize = 8;

/// All services.
pub(crate) async fn routes(backend: Backend) -> Result<Routes, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_serving::<WorkflowServiceServer<Workflows>>()
        .await;
    health.set_serving::<WorkerServiceServer<Sessions>>().await;
    health.set_serving::<CacheServiceServer<Caches>>().await;
    health.set_serving::<ClusterServiceServer<Clusters>>().await;
    health
        .set_serving::<AutoscaleServiceServer<Autoscales>>()
        .await;
    health
        .set_serving::<ExternalScalerServer<KedaScaler>>()
        .await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(StartError::Reflection)?;
    let workflows = WorkflowServiceServer::new(Workflows(backend.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let caches = CacheServiceServer::new(Caches(backend.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let clusters = ClusterServiceServer::new(Clusters(backend.clone()));
    let autoscales = AutoscaleServiceServer::new(Autoscales(backend.clone()));
    let keda = ExternalScalerServer::new(KedaScaler(backend.clone()));
    let sessions = WorkerServiceServer::new(Sessions(backend))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    Ok(Routes::new(workflows)
        .add_service(sessions)
        .add_service(caches)
        .add_service(clusters)
        .add_service(autoscales)
        .add_service(keda)
        .add_service(health_service)
        .add_service(reflection))
}

fn router(routes: Routes) -> Router {
    Server::builder()
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(routes)
}

/// Serves connections from a listener until `stop`, and then lets requests end.
pub(crate) async fn serve(
    listener: Listener,
    routes: Routes,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let router = router(routes);
    let stop = stop.cancelled_owned();
    match listener {
        Listener::Tcp(listener) => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            router.serve_with_incoming_shutdown(incoming, stop).await
        }
        Listener::Unix(listener, _file) => {
            let incoming = UnixListenerStream::new(listener);
            router.serve_with_incoming_shutdown(incoming, stop).await
        }
    }
}

/// Serves connections inside the process until `stop`.
pub(crate) async fn serve_duplex(
    connections: mpsc::Receiver<io::Result<DuplexStream>>,
    routes: Routes,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    router(routes)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), stop.cancelled_owned())
        .await
}

/// A channel to [`serve_duplex`], and what to give to it.
pub(crate) fn duplex_channel() -> (Channel, mpsc::Receiver<io::Result<DuplexStream>>) {
    let (sender, receiver) = mpsc::channel(DUPLEX_BACKLOG);
    let connector = tower::service_fn(move |_| {
        let sender = sender.clone();
        async move {
            let (near, far) = tokio::io::duplex(DUPLEX_BUFFER);
            let gone = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
            sender.send(Ok(far)).await.map_err(gone)?;
            Ok::<_, io::Error>(hyper_util::rt::TokioIo::new(near))
        }
    });
    let endpoint = Endpoint::from_static("http://levelflow.internal")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    (endpoint.connect_with_connector_lazy(connector), receiver)
}
