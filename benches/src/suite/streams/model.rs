//! An OpenAI-compatible endpoint that takes its time, in a process of its own.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::now_us;
use crate::process::Process;
use crate::role::{READY, runtime};

/// Pieces of an answer after the first, and the time between them.
const MORE_PIECES: usize = 7;
const BETWEEN: Duration = Duration::from_millis(5);

#[derive(clap::Args, Clone, Copy)]
pub(crate) struct ModelArguments {
    /// Milliseconds until the first piece of an answer.
    #[arg(long)]
    first_ms: u64,
}

/// The endpoint in a process of its own.
pub(super) struct Model(Process);

impl Model {
    pub(super) fn start(first_ms: u64) -> Result<Self> {
        let arguments = ["--first-ms".to_owned(), first_ms.to_string()];
        Ok(Self(Process::start("model-server", &arguments)?))
    }

    pub(super) fn base_url(&self) -> String {
        format!("http://{}/v1", self.0.ready)
    }
}

/// The role: serves until it is told to stop.
pub(crate) fn serve(arguments: ModelArguments) -> Result<()> {
    runtime(1)?.block_on(async {
        let stop = levelflow_runtime::shutdown::on_signal()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{READY}{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        loop {
            let (stream, _) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted.context("cannot accept")?,
            };
            levelflow_runtime::task::spawn("connection", connection(stream, arguments));
        }
    })
}

async fn connection(stream: TcpStream, arguments: ModelArguments) {
    // A piece waits for nothing that could be sent with it.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(|mut request: Request<Incoming>| async move {
        // A question that was not read would end the connection.
        while poll_fn(|cx| Pin::new(request.body_mut()).poll_frame(cx))
            .await
            .is_some_and(|frame| frame.is_ok())
        {}
        let (sender, pieces) = mpsc::channel(1);
        levelflow_runtime::task::spawn("answer", answer(sender, arguments));
        let mut response = Response::new(Pieces(pieces));
        let events = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert(CONTENT_TYPE, events);
        Ok::<_, Infallible>(response)
    });
    // An error is a client that went away.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// Gives the pieces of an answer. The first says when it was made.
async fn answer(pieces: mpsc::Sender<Bytes>, arguments: ModelArguments) {
    let piece = |delta: Value, finish: Value| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": finish });
        let chunk = json!({ "object": "chat.completion.chunk", "choices": [choice] });
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    tokio::time::sleep(Duration::from_millis(arguments.first_ms)).await;
    let first = format!("{} ", now_us());
    let delta = json!({ "role": "assistant", "content": first });
    let mut sent = pieces.send(piece(delta, Value::Null)).await;
    for _ in 0..MORE_PIECES {
        tokio::time::sleep(BETWEEN).await;
        sent = sent.and(
            pieces
                .send(piece(json!({ "content": "and " }), Value::Null))
                .await,
        );
    }
    sent = sent.and(pieces.send(piece(json!({}), json!("stop"))).await);
    // An error is a client that went away.
    let _ = sent.and(pieces.send(Bytes::from_static(b"data: [DONE]\n\n")).await);
}

/// A body that comes in pieces.
struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.0.poll_recv(cx);
        piece.map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}
