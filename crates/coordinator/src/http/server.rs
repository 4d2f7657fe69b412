//! The HTTP server: connections, and what they may cost.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::HttpConfig;
use crate::listen::Listener;

/// Bytes of the head of a request, and of what is read or written ahead on a connection.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Requests that may be under way on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait after the system refused a connection, for example because too many files are open.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

type Stream = Either<TcpStream, UnixStream>;

/// Serves until `stop`, and then until the requests that are under way have been answered.
pub(super) async fn serve(
    listener: Listener,
    router: Router,
    config: HttpConfig,
    stop: CancellationToken,
) {
    let builder = Arc::new(builder(&config));
    let connections = Arc::new(Semaphore::new(config.max_connections));
    let graceful = GracefulShutdown::new();
    let accept = async {
        loop {
            let Ok(permit) = connections.clone().acquire_owned().await else {
                return;
            };
            let stream = match accept(&listener).await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(error = %error, "connection was not accepted");
                    tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                    continue;
                }
            };
            let connection = Connection {
                builder: builder.clone(),
                router: router.clone(),
                header_timeout: config.header_timeout,
            };
            let watcher = graceful.watcher();
            levelflow_runtime::task::spawn("http connection", async move {
                connection.serve(stream, watcher).await;
                drop(permit);
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop.cancelled() => {}
    }
    drop(listener);
    graceful.shutdown().await;
}

fn builder(config: &HttpConfig) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_send_buf_size(MAX_HEAD_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT);
    builder
}

async fn accept(listener: &Listener) -> io::Result<Stream> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            Ok(Either::Left(stream))
        }
        Listener::Unix(listener, _) => {
            let (stream, _) = listener.accept().await?;
            Ok(Either::Right(stream))
        }
    }
}

struct Connection {
    builder: Arc<Builder<TokioExecutor>>,
    router: Router,
    header_timeout: Duration,
}

impl Connection {
    async fn serve(self, stream: Stream, watcher: Watcher) {
        let has_asked = Arc::new(AtomicBool::new(false));
        let asked = has_asked.clone();
        let router = self.router;
        let service = tower::service_fn(move |request: Request<_>| {
            asked.store(true, Ordering::Relaxed);
            router.clone().oneshot(request.map(Body::new))
        });
        let connection = self
            .builder
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let serving = watcher.watch(connection.into_owned());
        tokio::pin!(serving);
        let first = tokio::time::timeout(self.header_timeout, &mut serving).await;
        // Until a connection has shown which HTTP it speaks, no time limit of that protocol holds.
        if first.is_ok() || !has_asked.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = serving.await {
            tracing::debug!(error, "http connection broke off");
        }
    }
}
