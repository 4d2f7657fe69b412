//! The service that tasks call: it takes its time, and fails a share of the calls.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};

use super::workload::hash;
use crate::process::Process;
use crate::role::{READY, runtime};

const WORK: &str = "/work";
const COUNTS: &str = "/counts";
/// Chosen so that the share of failures is right from the first hundreds of calls on, and that no five calls
/// in a row fail soon: then a breaker opens for a minute, and the comparison is of something else.
const SEED: u64 = 2;
const MILLION: u64 = 1_000_000;

/// The settings of the service.
#[derive(clap::Args, Clone, Debug, Serialize)]
pub(crate) struct ServiceArguments {
    /// Milliseconds that the service takes for a call.
    #[arg(long, default_value_t = 2)]
    service_ms: u64,
    /// Of a hundred calls, how many are answered with 503.
    #[arg(long, default_value_t = 5.0)]
    fail_percent: f64,
}

impl ServiceArguments {
    /// Of a service that answers every call.
    pub(crate) fn reliable(service_ms: u64) -> Self {
        Self {
            service_ms,
            fail_percent: 0.0,
        }
    }
}

/// What the service saw.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Counts {
    /// Connections that carried calls.
    pub(super) connections: u64,
    pub(super) calls: u64,
    pub(super) failed: u64,
    /// How long calls took in the service, on average: timers are coarser than what is asked of them.
    pub(super) service_ms: f64,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    calls: AtomicU64,
    failed: AtomicU64,
    answered: AtomicU64,
    service_us: AtomicU64,
}

/// The service in a process of its own.
pub(in crate::suite) struct Service {
    process: Process,
    client: reqwest::Client,
}

impl Service {
    pub(in crate::suite) fn start(arguments: &ServiceArguments) -> Result<Self> {
        let arguments = [
            "--service-ms".to_owned(),
            arguments.service_ms.to_string(),
            "--fail-percent".to_owned(),
            arguments.fail_percent.to_string(),
        ];
        Ok(Self {
            process: Process::start("http-server", &arguments)?,
            client: reqwest::Client::builder().no_proxy().build()?,
        })
    }

    /// What tasks call.
    pub(in crate::suite) fn url(&self) -> String {
        format!("http://{}{WORK}", self.process.ready)
    }

    /// What it saw since it was started.
    pub(super) async fn counts(&self) -> Result<Counts> {
        let url = format!("http://{}{COUNTS}", self.process.ready);
        let counts = self.client.get(url).send().await?.json().await?;
        Ok(counts)
    }
}

/// The role: serves until it is told to stop.
pub(crate) fn serve(arguments: &ServiceArguments) -> Result<()> {
    runtime(1)?.block_on(async {
        let stop = levelflow_runtime::shutdown::on_signal()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{READY}{}", listener.local_addr()?);
        std::io::stdout().flush()?;
        let counters = Arc::new(Counters::default());
        loop {
            let (stream, _) = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                accepted = listener.accept() => accepted.context("cannot accept")?,
            };
            let connection = connection(stream, arguments.clone(), Arc::clone(&counters));
            levelflow_runtime::task::spawn("connection", connection);
        }
    })
}

async fn connection(stream: TcpStream, arguments: ServiceArguments, counters: Arc<Counters>) {
    // A small answer waits for nothing that could be sent with it.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let carried_calls = AtomicBool::new(false);
    let service = service_fn(|request: Request<Incoming>| {
        let (counters, arguments) = (&counters, &arguments);
        if request.uri().path() == WORK && !carried_calls.swap(true, Ordering::Relaxed) {
            counters.connections.fetch_add(1, Ordering::Relaxed);
        }
        async move { Ok::<_, Infallible>(answer(&request, arguments, counters).await) }
    });
    // An error is a client that went away.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    request: &Request<Incoming>,
    arguments: &ServiceArguments,
    counters: &Counters,
) -> Response<String> {
    match request.uri().path() {
        WORK => {
            let started = Instant::now();
            let call = counters.calls.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(arguments.service_ms)).await;
            let taken = started.elapsed().as_micros() as u64;
            counters.service_us.fetch_add(taken, Ordering::Relaxed);
            counters.answered.fetch_add(1, Ordering::Relaxed);
            if fails(call, arguments.fail_percent) {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                return with_status(StatusCode::SERVICE_UNAVAILABLE, String::new());
            }
            let query = request.uri().query().unwrap_or_default();
            let body = serde_json::json!({ "query": query, "answer": 42 });
            with_status(StatusCode::OK, body.to_string())
        }
        COUNTS => {
            let answered = counters.answered.load(Ordering::Relaxed);
            let service_us = counters.service_us.load(Ordering::Relaxed);
            let counts = Counts {
                connections: counters.connections.load(Ordering::Relaxed),
                calls: counters.calls.load(Ordering::Relaxed),
                failed: counters.failed.load(Ordering::Relaxed),
                service_ms: service_us as f64 / 1e3 / answered.max(1) as f64,
            };
            let body = serde_json::to_string(&counts).expect("counts are JSON");
            with_status(StatusCode::OK, body)
        }
        _ => with_status(StatusCode::NOT_FOUND, String::new()),
    }
}

fn with_status(status: StatusCode, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static("application/json");
    response
        .headers_mut()
        .insert(hyper::header::CONTENT_TYPE, json);
    response
}

/// Decided by the number of the call alone, so that all sides meet the same failures.
fn fails(call: u64, percent: f64) -> bool {
    ((hash(SEED, call) % MILLION) as f64) < percent * 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_calls_that_fail() {
        for calls in [1_000, 10_000, 100_000] {
            let failed = (0..calls).filter(|&call| fails(call, 5.0)).count();
            let share = failed as f64 / calls as f64;
            assert!((0.046..0.054).contains(&share), "{share} of {calls}");
        }
        let in_a_row = |start: u64| (start..start + 5).all(|call| fails(call, 5.0));
        assert!(!(0..200_000).any(in_a_row));
        assert!((0..1_000).all(|call| !fails(call, 0.0)));
        assert!((0..1_000).all(|call| fails(call, 100.0)));
    }
}
