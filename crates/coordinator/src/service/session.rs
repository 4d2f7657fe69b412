//! Sessions of workers: `levelflow.v1.WorkerService`, and the same over NATS.

use std::sync::atomic::Ordering;

use levelflow_common::limits::MAX_HELLO_BYTES;
use levelflow_common::{Code, FencingToken, TaskKind, WorkerId};
use levelflow_engine::HandlerVersion;
use levelflow_engine::event::{Hello, SessionId};
use levelflow_proto::protocol::{Feature, agree};
use levelflow_proto::v1::worker_service_server::WorkerService;
use levelflow_proto::{ApiError, v1};
use levelflow_transport::{Inbound, Session, grpc};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::{Backend, refused};
use crate::actor::{Agreed, Message, SessionFrame};

/// The service of workers over gRPC.
#[derive(Clone)]
pub(crate) struct Sessions(pub(crate) Backend);

#[tonic::async_trait]
impl WorkerService for Sessions {
    type SessionStream = grpc::Answer;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (session, answer) = grpc::accept(request);
        serve(&self.0, session);
        Ok(answer)
    }
}

/// A coordinator's end of a session, over whatever.
pub(crate) type WorkerSession = Session<Result<v1::CoordinatorFrame, Status>, v1::WorkerFrame>;

type Incoming = Inbound<v1::WorkerFrame>;
type Outgoing = mpsc::Sender<Result<v1::CoordinatorFrame, Status>>;

/// Serves a session to its end.
pub(crate) fn serve(backend: &Backend, worker: WorkerSession) {
    let backend = backend.clone();
    let session = SessionId(backend.next_session.fetch_add(1, Ordering::Relaxed));
    levelflow_runtime::task::spawn("worker session", async move {
        let Session {
            outbound,
            mut inbound,
        } = worker;
        if let Err(error) = read(&backend, session, &mut inbound, outbound.clone()).await {
            let _ = outbound.send(Err(error.into())).await;
        }
    });
}

/// Reads a session to its end.
async fn read(
    backend: &Backend,
    session: SessionId,
    incoming: &mut Incoming,
    outgoing: Outgoing,
) -> Result<(), ApiError> {
    let Some(Ok(first)) = incoming.next().await else {
        return Ok(());
    };
    let agreed = first.hello.as_ref().map(Agreed::with).transpose()?;
    let hello = hello(first.hello)?;
    // Bounded by the worker's credits.
    let (frames, from_actor) = mpsc::unbounded_channel();
    backend
        .send(Message::Opened {
            session,
            hello: Box::new(hello),
            agreed: agreed.unwrap_or_default(),
            frames,
        })
        .await?;
    levelflow_runtime::task::spawn("worker frames", write(from_actor, outgoing.clone()));
    let result = forward(backend, session, incoming, &outgoing).await;
    backend.send(Message::Closed { session }).await?;
    result
}

async fn forward(
    backend: &Backend,
    session: SessionId,
    incoming: &mut Incoming,
    outgoing: &Outgoing,
) -> Result<(), ApiError> {
    loop {
        tokio::select! {
            frame = incoming.next() => match frame {
                Some(Ok(frame)) => backend.send(Message::Frame { session, frame: Box::new(frame) }).await?,
                None => return Ok(()),
                Some(Err(error)) => {
                    tracing::info!(session = session.0, %error, "session broke off");
                    return Ok(());
                }
            },
            () = outgoing.closed() => return Ok(()),
        }
    }
}

/// Passes on what the actor sends, until it closes the session.
async fn write(mut from_actor: mpsc::UnboundedReceiver<SessionFrame>, outgoing: Outgoing) {
    while let Some(frame) = from_actor.recv().await {
        let (message, is_last) = match frame {
            SessionFrame::Send(frame) => (Ok(frame), false),
            SessionFrame::Close(why) => (Err(Status::from(refused(&why))), true),
        };
        if outgoing.send(message).await.is_err() || is_last {
            return;
        }
    }
}

impl Agreed {
    /// What is agreed on with the sender of a hello.
    fn with(hello: &v1::Hello) -> Result<Self, ApiError> {
        let protocol = agree(hello.oldest_protocol, hello.protocol).map_err(|why| {
            let message = format!("worker `{}`: {why}", hello.worker_id);
            ApiError::new(Code::ProtocolUnsupported, message)
        })?;
        Ok(Self {
            version: hello.version.clone(),
            protocol,
            features: Feature::common(&hello.features),
        })
    }
}

fn hello(hello: Option<v1::Hello>) -> Result<Hello, ApiError> {
    let invalid = |message: &str| ApiError::new(Code::RequestInvalid, message);
    let hello = hello.ok_or_else(|| invalid("a session begins with a hello"))?;
    if hello.worker_id.is_empty() {
        return Err(invalid("`hello.worker_id` is empty"));
    }
    if hello.slots == 0 {
        return Err(invalid("`hello.slots` must be at least 1"));
    }
    let bytes = bytes_of(&hello);
    if bytes > MAX_HELLO_BYTES {
        let message = format!("the hello has {bytes} bytes; the limit is {MAX_HELLO_BYTES}");
        return Err(ApiError::new(Code::TooLarge, message));
    }
    let kinds = hello
        .kinds
        .iter()
        // A newer worker may run kinds that are not known here; they are never asked for.
        .filter_map(|kind| TaskKind::parse(kind))
        .collect();
    Ok(Hello {
        worker: WorkerId(hello.worker_id.into()),
        instance: hello.instance,
        slots: hello.slots,
        weight: hello.weight.max(1),
        queues: hello.queues.into_iter().collect(),
        labels: hello.labels,
        kinds,
        handlers: hello.handlers.into_iter().collect(),
        handler_versions: hello
            .handler_versions
            .into_iter()
            .map(|(name, version)| (name, HandlerVersion::new(&version)))
            .collect(),
        connections: hello.connections.into_iter().collect(),
        held: hello.held.into_iter().map(FencingToken).collect(),
    })
}

/// About as much as a hello takes while its session is open.
fn bytes_of(hello: &v1::Hello) -> usize {
    const PER_TEXT: usize = size_of::<String>();
    let lists = [
        &hello.queues,
        &hello.kinds,
        &hello.handlers,
        &hello.connections,
        &hello.features,
    ];
    let pairs = hello.labels.iter().chain(&hello.handler_versions);
    let pairs = pairs.flat_map(|(name, value)| [name, value]);
    let texts = lists.into_iter().flatten().chain(pairs);
    texts
        .chain([&hello.worker_id, &hello.version])
        .map(|text| PER_TEXT + text.len())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_bounded() {
        let small = v1::Hello {
            worker_id: "w".to_owned(),
            slots: 1,
            handlers: (0..5_000).map(|number| number.to_string()).collect(),
            // These end with what they name.
            held: (0..1_000_000).collect(),
            ..v1::Hello::default()
        };
        let read = hello(Some(small.clone())).unwrap();
        assert_eq!((read.handlers.len(), read.held.len()), (5_000, 1_000_000));
        for large in [
            v1::Hello {
                labels: [("text".to_owned(), "x".repeat(MAX_HELLO_BYTES))].into(),
                ..small.clone()
            },
            v1::Hello {
                handler_versions: [("h".to_owned(), "x".repeat(MAX_HELLO_BYTES))].into(),
                ..small.clone()
            },
            v1::Hello {
                queues: vec![String::new(); 100_000],
                ..small
            },
        ] {
            assert_eq!(hello(Some(large)).unwrap_err().code(), Code::TooLarge);
        }
    }
}
