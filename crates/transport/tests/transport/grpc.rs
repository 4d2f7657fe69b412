//! The suite over gRPC.

use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use levelflow_proto::v1;
use levelflow_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use levelflow_runtime::task;
use levelflow_transport::grpc;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::conformance::{CoordinatorEnd, Transport, WorkerEnd, conformance, hello};
use crate::proxy::Proxy;

const KEEPALIVE: Duration = Duration::from_millis(500);

/// Hands the coordinator's ends of sessions to the test.
struct Service(mpsc::Sender<CoordinatorEnd>);

#[tonic::async_trait]
impl WorkerService for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::CoordinatorFrame, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (session, answer) = grpc::accept(request);
        self.0.send(session).await.unwrap();
        Ok(answer.map(|frames| Box::pin(frames) as Self::SessionStream))
    }
}

struct Grpc {
    accepted: mpsc::Receiver<CoordinatorEnd>,
    proxy: Proxy,
}

impl Grpc {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::to(listener.local_addr().unwrap()).await;
        let (sender, accepted) = mpsc::channel(8);
        let limit = levelflow_common::limits::MAX_MESSAGE_BYTES;
        let service = WorkerServiceServer::new(Service(sender)).max_decoding_message_size(limit);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        task::spawn("server", server);
        Self { accepted, proxy }
    }
}

impl Transport for Grpc {
    async fn open(&mut self) -> (WorkerEnd, CoordinatorEnd) {
        // Sessions of one worker and many coordinators have a connection each.
        let channel = Endpoint::from_shared(format!("http://{}", self.proxy.address()))
            .unwrap()
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .connect()
            .await
            .unwrap();
        let worker = grpc::open(channel, hello("w1")).await.unwrap();
        (worker, self.accepted.recv().await.unwrap())
    }

    async fn cut(&mut self) {
        self.proxy.block();
    }
}

conformance!(Grpc::start());
