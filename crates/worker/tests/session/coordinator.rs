//! A coordinator that does what a test says.

use std::time::Duration;

use bytes::Bytes;
use levelflow_proto::protocol::{Feature, PROTOCOL_VERSION};
use levelflow_proto::v1;
use levelflow_proto::v1::worker_service_server::{WorkerService, WorkerServiceServer};
use levelflow_worker::{
    CancellationToken, HttpPool, Worker, WorkerBuilder, WorkerEnd, WorkerError,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// No test takes this long unless something is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// Fails the test when `event` does not come.
pub(crate) async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(DEADLINE, event).await.expect("came in time")
}

type Frames = Result<v1::CoordinatorFrame, Status>;

struct Service {
    sessions: mpsc::UnboundedSender<Session>,
}

#[tonic::async_trait]
impl WorkerService for Service {
    type SessionStream = ReceiverStream<Frames>;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbound, frames) = mpsc::channel(16);
        let inbound = request.into_inner();
        self.sessions
            .send(Session::new(inbound, outbound))
            .map_err(|_| Status::unavailable("the test has ended"))?;
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

/// The server.
pub(crate) struct Coordinator {
    pub(crate) address: String,
    sessions: mpsc::UnboundedReceiver<Session>,
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (sender, sessions) = mpsc::unbounded_channel();
        let server = tonic::transport::Server::builder()
            .tcp_nodelay(true)
            .add_service(WorkerServiceServer::new(Service { sessions: sender }))
            .serve_with_incoming(TcpListenerStream::new(listener));
        levelflow_runtime::task::spawn("coordinator", server);
        Self { address, sessions }
    }

    /// The next session, before the welcome, and what the worker said.
    pub(crate) async fn accept(&mut self) -> (Session, v1::Hello) {
        let mut session = soon(self.sessions.recv()).await.unwrap();
        let hello = session.frame().await.hello.expect("hello comes first");
        (session, hello)
    }

    /// The next session, after a welcome that revokes nothing and asks for no heartbeats.
    pub(crate) async fn welcome(&mut self) -> (Session, v1::Hello) {
        let (mut session, hello) = self.accept().await;
        session.welcome(60_000, &[]).await;
        (session, hello)
    }
}

/// A session of the worker under test.
pub(crate) struct Session {
    inbound: Streaming<v1::WorkerFrame>,
    outbound: mpsc::Sender<Frames>,
    /// Credits that the worker granted and that were not used.
    pub(crate) credits: u32,
    outcomes: Vec<v1::Outcome>,
    /// All that came.
    pub(crate) chunks: Vec<v1::Chunk>,
    pub(crate) refused: Vec<u64>,
    pub(crate) draining: bool,
    pub(crate) heartbeat: Option<v1::Heartbeat>,
}

impl Session {
    fn new(inbound: Streaming<v1::WorkerFrame>, outbound: mpsc::Sender<Frames>) -> Self {
        Self {
            inbound,
            outbound,
            credits: 0,
            outcomes: Vec::new(),
            chunks: Vec::new(),
            refused: Vec::new(),
            draining: false,
            heartbeat: None,
        }
    }

    pub(crate) async fn welcome(&mut self, heartbeat_interval_ms: u32, revoked: &[u64]) {
        self.send(v1::CoordinatorFrame {
            welcome: Some(v1::Welcome {
                coordinator_id: "test".to_owned(),
                protocol: PROTOCOL_VERSION,
                features: Feature::names(),
                heartbeat_interval_ms,
                lease_ms: 60_000,
                revoked: revoked.to_vec(),
                open_breakers: Vec::new(),
            }),
            ..v1::CoordinatorFrame::default()
        })
        .await;
    }

    /// Ends the stream with an error.
    pub(crate) async fn refuse(self, status: Status) {
        self.outbound.send(Err(status)).await.unwrap();
    }

    pub(crate) async fn send(&mut self, frame: v1::CoordinatorFrame) {
        self.outbound.send(Ok(frame)).await.unwrap();
    }

    pub(crate) async fn dispatch(&mut self, attempts: Vec<v1::Attempt>) {
        self.credits = self.credits.saturating_sub(attempts.len() as u32);
        self.send(v1::CoordinatorFrame {
            attempts,
            ..v1::CoordinatorFrame::default()
        })
        .await;
    }

    pub(crate) async fn cancel(&mut self, token: u64) {
        self.send(v1::CoordinatorFrame {
            cancelled: vec![token],
            ..v1::CoordinatorFrame::default()
        })
        .await;
    }

    pub(crate) async fn acknowledge(&mut self, tokens: &[u64]) {
        self.send(v1::CoordinatorFrame {
            acknowledged: tokens.to_vec(),
            ..v1::CoordinatorFrame::default()
        })
        .await;
    }

    /// The next frame; what it says is noted.
    pub(crate) async fn frame(&mut self) -> v1::WorkerFrame {
        self.next().await.expect("the stream is open")
    }

    /// The next frame, unless the stream ends.
    async fn next(&mut self) -> Option<v1::WorkerFrame> {
        let frame = soon(self.inbound.message()).await.ok()??;
        self.credits += frame.credits;
        self.chunks.extend(frame.chunks.iter().cloned());
        for outcome in frame.outcomes.iter().filter(|it| it.chunks > 0) {
            let came = self.chunks.iter().filter(|it| it.token == outcome.token);
            assert!(came.count() >= outcome.chunks as usize, "chunks come first");
        }
        self.outcomes.extend(frame.outcomes.iter().cloned());
        self.refused.extend(&frame.refused);
        self.draining |= frame.draining;
        self.heartbeat = frame.heartbeat.clone();
        Some(frame)
    }

    /// Reads until the worker ends the stream.
    pub(crate) async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }

    pub(crate) async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            self.frame().await;
        }
    }

    /// Waits for so many outcomes; by token.
    pub(crate) async fn outcomes(&mut self, count: usize) -> Vec<v1::Outcome> {
        self.until(|session| session.outcomes.len() >= count).await;
        let mut outcomes = std::mem::take(&mut self.outcomes);
        outcomes.sort_by_key(|outcome| outcome.token);
        outcomes
    }

    /// Waits for one outcome and acknowledges it.
    pub(crate) async fn outcome(&mut self) -> v1::Outcome {
        let outcome = self.outcomes(1).await.remove(0);
        self.acknowledge(&[outcome.token]).await;
        outcome
    }
}

/// An attempt at a handler.
pub(crate) fn attempt(token: u64, handler: &str, input: &str) -> v1::Attempt {
    v1::Attempt {
        token,
        run_id: Bytes::from_static(&[1; 16]),
        task_id: "task".to_owned(),
        attempt: 1,
        kind: v1::TaskKind::Handler.into(),
        input: Bytes::copy_from_slice(input.as_bytes()),
        handler: handler.to_owned(),
        timeout_us: 60_000_000,
        ..v1::Attempt::default()
    }
}

/// A worker that runs beside the test.
pub(crate) struct Running {
    pub(crate) shutdown: CancellationToken,
    pub(crate) http_pool: HttpPool,
    ended: JoinHandle<Result<WorkerEnd, WorkerError>>,
}

impl Running {
    pub(crate) fn start(worker: Worker) -> Self {
        let shutdown = CancellationToken::new();
        let http_pool = worker.http_pool();
        let ended = levelflow_runtime::task::spawn("worker", worker.run(shutdown.clone()));
        Self {
            shutdown,
            http_pool,
            ended,
        }
    }

    pub(crate) async fn ended(self) -> Result<(), WorkerError> {
        let ended = soon(self.ended).await.unwrap()?;
        assert_eq!(ended, WorkerEnd::Stopped);
        Ok(())
    }

    /// Waits for the end of a worker that holds too much memory.
    pub(crate) async fn out_of_memory(self) {
        let ended = soon(self.ended).await.unwrap().unwrap();
        assert_eq!(ended, WorkerEnd::OutOfMemory);
    }
}

/// A session with a worker that was configured so, with heartbeats every 50 ms and all its credits.
pub(crate) async fn session(
    configure: impl FnOnce(WorkerBuilder) -> WorkerBuilder,
) -> (Session, Running) {
    let mut coordinator = Coordinator::start().await;
    let builder = configure(Worker::builder().address(coordinator.address.as_str()));
    let worker = Running::start(builder.build().unwrap());
    let (mut session, _) = coordinator.accept().await;
    session.welcome(50, &[]).await;
    session.until(|session| session.credits > 0).await;
    (session, worker)
}

/// What comes of an attempt.
pub(crate) async fn outcome_of(session: &mut Session, attempt: v1::Attempt) -> v1::Outcome {
    session.dispatch(vec![attempt]).await;
    session.outcome().await
}

/// Code, message and whether it is retryable, of an attempt that fails.
pub(crate) async fn failure_of(
    session: &mut Session,
    attempt: v1::Attempt,
) -> (String, String, bool) {
    let failure = outcome_of(session, attempt)
        .await
        .failure
        .expect("it fails");
    (failure.code, failure.message, failure.retryable)
}
