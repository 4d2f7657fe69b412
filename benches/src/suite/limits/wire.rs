//! What one bidirectional stream allows between two processes, with nothing behind it.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use levelflow_proto::v1;
use levelflow_proto::v1::worker_service_client::WorkerServiceClient;
use levelflow_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use crate::process::Process;
use crate::role::{READY, runtime};

const WINDOW: u32 = 4 * 1024 * 1024;
/// Frames that may wait while another is written.
const OUTBOUND: usize = 64;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(crate) struct EchoArguments {
    #[arg(long)]
    address: String,
}

/// The role at the far end: answers every frame of attempts with one frame of outcomes.
pub(crate) fn echo(arguments: &EchoArguments) -> Result<()> {
    println!("{READY}");
    std::io::stdout().flush()?;
    runtime(1)?.block_on(async {
        let channel = Endpoint::from_shared(arguments.address.clone())?
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .connect()
            .await?;
        let (outbound, frames) = mpsc::channel(OUTBOUND);
        let mut inbound = WorkerServiceClient::new(channel)
            .session(ReceiverStream::new(frames))
            .await?
            .into_inner();
        while let Some(frame) = inbound.message().await? {
            let outcomes = frame.attempts.into_iter().map(|attempt| v1::Outcome {
                token: attempt.token,
                output: Bytes::from_static(b"null"),
                ..v1::Outcome::default()
            });
            let answer = v1::WorkerFrame {
                outcomes: outcomes.collect(),
                ..v1::WorkerFrame::default()
            };
            if outbound.send(answer).await.is_err() {
                break;
            }
        }
        Ok(())
    })
}

/// A stream to an [`echo`] in a process of its own.
pub(super) struct Link {
    pub(super) inbound: Streaming<v1::WorkerFrame>,
    pub(super) outbound: mpsc::Sender<Result<v1::CoordinatorFrame, Status>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    _echo: Process,
}

impl Link {
    pub(super) async fn open() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = format!("http://{}", listener.local_addr()?);
        let (sessions, mut opened) = mpsc::channel(1);
        let server = Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .add_service(WorkerServiceServer::new(Sessions { sessions }))
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        let server = levelflow_runtime::task::spawn("bare server", server);
        let echo = Process::start("echo", &["--address".to_owned(), address])?;
        let session = tokio::time::timeout(CONNECT_WITHIN, opened.recv()).await;
        let Ok(Some((inbound, outbound))) = session else {
            bail!("the far end did not connect");
        };
        Ok(Self {
            inbound,
            outbound,
            server,
            _echo: echo,
        })
    }

    /// Sends batches with so many of them under way, for a time; gives batches a second there and back.
    pub(super) async fn batches_per_s(
        &mut self,
        batch: usize,
        under_way: usize,
        time: Duration,
    ) -> Result<f64> {
        let frame = v1::CoordinatorFrame {
            attempts: (0..batch as u64)
                .map(|token| attempt(token, "t1_0"))
                .collect(),
            ..v1::CoordinatorFrame::default()
        };
        for _ in 0..under_way {
            self.outbound.send(Ok(frame.clone())).await?;
        }
        let started = Instant::now();
        let (mut batches, mut open) = (0_u64, under_way);
        while open > 0 {
            let answer = self.inbound.message().await?;
            let answered = answer.context("the far end went away")?.outcomes.len();
            if answered != batch {
                bail!("{answered} answers to {batch} attempts");
            }
            batches += 1;
            if started.elapsed() < time {
                self.outbound.send(Ok(frame.clone())).await?;
            } else {
                open -= 1;
            }
        }
        Ok(batches as f64 / started.elapsed().as_secs_f64())
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An attempt as long as those of the product are.
pub(super) fn attempt(token: u64, task_id: &str) -> v1::Attempt {
    v1::Attempt {
        token,
        run_id: Bytes::from_static(&[0x5a; 16]),
        task_id: task_id.to_owned(),
        attempt: 1,
        kind: v1::TaskKind::Handler.into(),
        input: Bytes::from_static(b"null"),
        handler: "noop".to_owned(),
        timeout_us: 300_000_000,
        ..v1::Attempt::default()
    }
}

type Session = (
    Streaming<v1::WorkerFrame>,
    mpsc::Sender<Result<v1::CoordinatorFrame, Status>>,
);

/// Hands sessions over to who measures.
struct Sessions {
    sessions: mpsc::Sender<Session>,
}

#[tonic::async_trait]
impl WorkerService for Sessions {
    type SessionStream = ReceiverStream<Result<v1::CoordinatorFrame, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, frames) = mpsc::channel(OUTBOUND);
        self.sessions
            .try_send((request.into_inner(), outbound))
            .map_err(|_| Status::resource_exhausted("there is a session already"))?;
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}
