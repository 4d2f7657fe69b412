//! `levelflow.v1.WorkerService`: sessions of workers.

use std::sync::atomic::Ordering;

use levelflow_common::limits::MAX_HELLO_BYTES;
use levelflow_common::{Code, FencingToken, TaskKind, WorkerId};
use levelflow_engine::HandlerVersion;
use levelflow_engine::event::{Hello, SessionId};
use levelflow_proto::v1::worker_service_server::WorkerService;
use levelflow_proto::{ApiError, PROTOCOL_VERSION, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Backend, refused};
use crate::actor::{Message, SessionFrame};

/// The service of workers.
#[derive(Clone)]
pub(crate) struct Sessions(pub(crate) Backend);

type Frames = std::pin::Pin<
    Box<dyn tokio_stream::Stream<Item = Result<v1::CoordinatorFrame, Status>> + Send>,
>;

#[tonic::async_trait]
impl WorkerService for Sessions {
    type SessionStream = Frames;

    async fn session(
        &self,
        request: Request<Streaming<v1::WorkerFrame>>,
    ) -> Result<Response<Frames>, Status> {
        let mut incoming = request.into_inner();
        let backend = self.0.clone();
        let session = SessionId(backend.next_session.fetch_add(1, Ordering::Relaxed));
        // Bounded by the worker's credits.
        let (frames, outgoing) = mpsc::unbounded_channel();
        levelflow_runtime::task::spawn("worker session", async move {
            if let Err(error) = read(&backend, session, &mut incoming, frames.clone()).await {
                let _ = frames.send(Err(error.into()));
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(
            outgoing,
        ))))
    }
}

type Outgoing = mpsc::UnboundedSender<Result<v1::CoordinatorFrame, Status>>;

/// Reads a session to its end.
async fn read(
    backend: &Backend,
    session: SessionId,
    incoming: &mut Streaming<v1::WorkerFrame>,
    outgoing: Outgoing,
) -> Result<(), ApiError> {
    let first = match incoming.message().await {
        Ok(Some(frame)) => frame,
        Ok(None) | Err(_) => return Ok(()),
    };
    let version = first.hello.as_ref().map(|hello| hello.version.clone());
    let hello = hello(first.hello)?;
    let (frames, from_actor) = mpsc::unbounded_channel();
    backend
        .send(Message::Opened {
            session,
            hello: Box::new(hello),
            version: version.unwrap_or_default(),
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
    incoming: &mut Streaming<v1::WorkerFrame>,
    outgoing: &Outgoing,
) -> Result<(), ApiError> {
    loop {
        tokio::select! {
            frame = incoming.message() => match frame {
                Ok(Some(frame)) => backend.send(Message::Frame { session, frame: Box::new(frame) }).await?,
                Ok(None) => return Ok(()),
                Err(status) => {
                    tracing::info!(session = session.0, error = %status.message(), "session broke off");
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
        if outgoing.send(message).is_err() || is_last {
            return;
        }
    }
}

fn hello(hello: Option<v1::Hello>) -> Result<Hello, ApiError> {
    let invalid = |message: &str| ApiError::new(Code::RequestInvalid, message);
    let hello = hello.ok_or_else(|| invalid("a session begins with a hello"))?;
    if hello.protocol != PROTOCOL_VERSION {
        return Err(ApiError::new(
            Code::ProtocolUnsupported,
            format!(
                "worker `{}` speaks session protocol {}; this coordinator speaks {PROTOCOL_VERSION}",
                hello.worker_id, hello.protocol
            ),
        ));
    }
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
            protocol: PROTOCOL_VERSION,
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
