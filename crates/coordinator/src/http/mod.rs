//! The HTTP API: JSON and server-sent events over the same services as gRPC.
//!
//! Each resource has a file with its operations and who handles them. [`route`] makes both the router and
//! the OpenAPI document of that one table.

mod autoscale;
mod breakers;
mod cache;
mod cluster;
mod config;
mod document;
mod events;
mod health;
mod metrics;
mod observe;
mod origin;
mod overview;
mod problem;
mod request;
mod route;
mod runs;
mod server;
mod sse;
mod submit;
mod task_stream;
mod tasks;
mod workflows;

use std::sync::{Arc, OnceLock};

use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use levelflow_common::Code;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::document::Operation;
use self::metrics::RequestMetrics;
use self::origin::Names;
use self::problem::Refusal;
use self::route::Routes;
use crate::listen::Listener;
use crate::service::Backend;

pub use config::HttpConfig;

/// What every handler needs. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api {
    config: Arc<HttpConfig>,
    /// There once the store has recovered.
    backend: Arc<OnceLock<Backend>>,
    /// The process wants no more work.
    draining: CancellationToken,
    /// The process ends.
    stop: CancellationToken,
    /// A permit for each stream of events.
    watchers: Arc<Semaphore>,
    /// A permit for each [`request::BYTES_OF_PERMIT`] of bodies.
    memory: Arc<Semaphore>,
    requests: RequestMetrics,
    document: Bytes,
}

impl Api {
    pub(crate) fn new(
        config: HttpConfig,
        draining: CancellationToken,
        stop: CancellationToken,
    ) -> Self {
        let document = document::document(&operations());
        Self {
            watchers: Arc::new(Semaphore::new(config.max_watchers)),
            memory: Arc::new(Semaphore::new(
                config.max_buffered_bytes.div_ceil(request::BYTES_OF_PERMIT),
            )),
            config: Arc::new(config),
            backend: Arc::default(),
            draining,
            stop,
            requests: RequestMetrics::default(),
            document: document.to_string().into(),
        }
    }

    /// From now on requests can be answered.
    pub(crate) fn ready(&self, backend: Backend) {
        // It happens once, at the start.
        let _ = self.backend.set(backend);
    }

    /// Serves until the process ends.
    pub(crate) fn serve(&self, listener: Listener) -> JoinHandle<()> {
        let address = listener.address().ok();
        let names = Names::of(address.as_ref(), &self.config.allowed_hosts);
        let router = table()
            .into_router(self)
            .layer(middleware::from_fn_with_state(names, origin::check))
            .layer(middleware::from_fn_with_state(
                self.clone(),
                observe::observe,
            ));
        let serving = server::serve(listener, router, (*self.config).clone(), self.stop.clone());
        levelflow_runtime::task::spawn("http server", serving)
    }

    fn backend(&self) -> Result<&Backend, Refusal> {
        self.backend.get().ok_or_else(|| {
            let mut refusal = Refusal::new(Code::NotReady, "the coordinator is starting");
            refusal.0.retry_after = Some(std::time::Duration::from_secs(1));
            refusal
        })
    }
}

fn table() -> Routes {
    let mut routes = Routes::default();
    workflows::routes(&mut routes);
    submit::routes(&mut routes);
    runs::routes(&mut routes);
    events::routes(&mut routes);
    tasks::routes(&mut routes);
    task_stream::routes(&mut routes);
    breakers::routes(&mut routes);
    cache::routes(&mut routes);
    cluster::routes(&mut routes);
    autoscale::routes(&mut routes);
    overview::routes(&mut routes);
    health::routes(&mut routes);
    metrics::routes(&mut routes);
    routes
}

/// Everything that is served.
fn operations() -> Vec<Operation> {
    table().into_operations()
}

/// An answer in JSON.
fn json<T: Serialize>(value: &T) -> Result<Response, Refusal> {
    let body = serde_json::to_vec(value).map_err(|error| {
        Refusal::new(
            Code::Internal,
            format!("the answer cannot be written: {error}"),
        )
    })?;
    let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((headers, body).into_response())
}
