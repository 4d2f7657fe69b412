//! Tasks of type `http`.
//!
//! The output is `{"status": …, "headers": {…}, "body": …}`: header names are lower case, and repeated
//! headers are joined with `, `; the body is JSON, text or base64 as `response` says. With `stream`, it is also
//! given on in chunks while it comes: `text` as it comes, `lines` one by one, or the data of server-sent `events`.
//! Every request carries an `Idempotency-Key`, the same for all attempts of a task, unless the task sets
//! that header itself. Failed connections, timeouts and the statuses 408, 425, 429 and 5xx are tried
//! again as the retry policy says; other unexpected statuses fail the task at once, and so do addresses
//! that the worker may not call.

mod client;
mod config;
mod dial;
mod egress;
mod pool;
mod request;
mod response;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body as _;
use levelflow_common::task_input::HttpInput;
use levelflow_common::{AttemptResult, Code, Failure, HumanDuration};
use tokio::time::timeout;

use self::dial::{Dial, Lookup, SystemLookup};
use self::pool::{Place, Pool};
use self::request::Prepared;
use self::response::Wanted;
use super::output::read_input;
use crate::attempt::cancelled;
use crate::context::Context;
use crate::error::WorkerError;
use crate::upstream::OpenCall;

pub(super) use client::{Client, SendError};
pub(super) use request::OURS as USER_AGENT_OF_OURS;
pub(super) use response::retry_after;

pub use config::HttpConfig;
pub use pool::{HttpPool, HttpPoolStatistics};

/// The redirects that are followed when the task says nothing else.
const REDIRECTS: u32 = 5;
/// The most redirects that a task may ask for.
const MAX_REDIRECTS: u32 = 20;

/// Runs `http` tasks. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HttpExecutor(Arc<Shared>);

struct Shared {
    config: HttpConfig,
    dial: Dial,
    pool: Arc<Pool>,
    /// Made when the first task runs, because reading the certificates of the system takes time.
    client: OnceLock<Client>,
}

impl HttpExecutor {
    pub(crate) fn new(config: HttpConfig) -> Result<Self, WorkerError> {
        Self::with_lookup(config, Arc::new(SystemLookup))
    }

    fn with_lookup(config: HttpConfig, lookup: Arc<dyn Lookup>) -> Result<Self, WorkerError> {
        let egress = Arc::new(config.egress()?);
        Ok(Self(Arc::new(Shared {
            dial: Dial { egress, lookup },
            pool: Arc::new(Pool::new(config.connections, config.keep_alive.0)),
            client: OnceLock::new(),
            config,
        })))
    }

    /// The connections of the tasks.
    pub(crate) fn pool(&self) -> HttpPool {
        HttpPool(Arc::clone(&self.0.pool))
    }

    /// Runs an attempt; breaks the exchange off when it is told to stop.
    pub(crate) async fn run(self, context: Context, input: Bytes) -> AttemptResult {
        tokio::select! {
            biased;
            () = context.cancelled() => Err(cancelled()),
            result = self.exchange(&context, &input) => result,
        }
    }

    async fn exchange(&self, context: &Context, input: &[u8]) -> AttemptResult {
        let mut input: HttpInput = read_input(input)?;
        let wanted = Wanted::of(&input);
        let redirects = input.redirects.unwrap_or(REDIRECTS).min(MAX_REDIRECTS);
        let limit = input.timeout.unwrap_or(self.0.config.timeout).0;
        let request = Prepared::of(&mut input, context)?;
        let client = self.client();
        let what = request.describe();
        // Waiting for room is no fault of the server, and so no part of its time.
        let place = client.place(&request.uri).await;
        let mut call = match request.upstream() {
            upstream if upstream.as_deref() == context.upstream() => context.call_own_upstream(),
            // The attempt probes a host to which this one redirects.
            Some(upstream) if context.upstream().is_some() => {
                Some(begin_call(context, &request, &upstream)?)
            }
            // The coordinator knows of no host: it may be a secret.
            _ => None,
        };
        let exchange = Exchange {
            client,
            context,
            wanted: &wanted,
            redirects,
            call: &mut call,
        };
        let result = timeout(limit, exchange.run(request, place))
            .await
            .unwrap_or_else(|_| Err(timed_out(&what, limit)));
        if let Some(call) = call {
            // What may be mended by another attempt is the fault of the server, or of the way there.
            match &result {
                Err(failure) if failure.retryable => call.failed(),
                Err(failure) if failure.code == Code::EgressRefused => drop(call),
                _ => call.succeeded(),
            }
        }
        result
    }

    /// The client, which other kinds of tasks share.
    pub(super) fn client(&self) -> &Client {
        let shared = &self.0;
        shared.client.get_or_init(|| {
            let pool = Arc::clone(&shared.pool);
            Client::new(&shared.config, shared.dial.clone(), pool)
        })
    }
}

/// A request and those that redirects lead to.
struct Exchange<'a> {
    client: &'a Client,
    context: &'a Context,
    wanted: &'a Wanted,
    /// The most that are followed.
    redirects: u32,
    /// The call to the host that is being asked, for its breaker.
    call: &'a mut Option<OpenCall>,
}

impl Exchange<'_> {
    async fn run(mut self, mut request: Prepared, mut place: Place) -> AttemptResult {
        let mut left = self.redirects;
        loop {
            let what = request.describe();
            let received = self
                .client
                .send(&request.uri, request.message(), place)
                .await
                .map_err(|error| not_answered(&what, &error))?;
            let status = received.head.status;
            let next = if self.redirects == 0 || self.wanted.names(status) {
                None
            } else {
                request.redirected(status, &received.head.headers)
            };
            let Some(next) = next else {
                return self.wanted.read(received, &what, self.context).await;
            };
            let next = next?;
            left = left.checked_sub(1).ok_or_else(|| {
                let message = format!("{what}: too many redirects; the most is {}", self.redirects);
                Failure::permanent(Code::HttpFailed, message)
            })?;
            // With the place in hand, two tasks that are sent to each other's hosts could wait for ever.
            if received.body.is_end_stream() {
                received.connection.give_back();
            } else {
                drop(received);
            }
            if !next.is_same_origin(&request) {
                self.go_on_to(&next)?;
            }
            place = self.client.place(&next.uri).await;
            request = next;
        }
    }

    /// The host so far has answered; from now on another one is asked.
    fn go_on_to(&mut self, next: &Prepared) -> Result<(), Failure> {
        if let Some(answered) = self.call.take() {
            answered.succeeded();
        }
        if let Some(upstream) = next.upstream() {
            *self.call = Some(begin_call(self.context, next, &upstream)?);
        }
        Ok(())
    }
}

fn begin_call(context: &Context, request: &Prepared, upstream: &str) -> Result<OpenCall, Failure> {
    context.call(upstream).map_err(|open| {
        let message = format!("{}: {open}", request.describe());
        Failure::retryable(Code::HttpFailed, message)
    })
}

fn not_answered(what: &str, error: &SendError) -> Failure {
    let message = format!("{what}: {error}");
    match error {
        SendError::Refused(_) => Failure::permanent(Code::EgressRefused, message),
        SendError::NotConnected(_) | SendError::BrokeOff(_) => {
            Failure::retryable(Code::HttpFailed, message)
        }
    }
}

fn timed_out(what: &str, limit: Duration) -> Failure {
    let message = format!("{what}: timed out after {}", HumanDuration(limit));
    Failure::retryable(Code::HttpFailed, message)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::IpAddr;
    use std::sync::Mutex;

    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::context::AttemptState;
    use crate::context::tests::{nowhere, wire_attempt};

    /// Gives other addresses each time.
    struct Changing(Mutex<Vec<Vec<IpAddr>>>);

    impl Lookup for Changing {
        fn lookup(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            let addresses = self.0.lock().unwrap().remove(0);
            std::future::ready(Ok(addresses)).boxed()
        }
    }

    async fn get(executor: &HttpExecutor, port: u16) -> Result<(), Failure> {
        let state =
            AttemptState::starting(&mut wire_attempt(1), &Arc::default(), &nowhere()).unwrap();
        let input = format!(r#"{{"url": "http://innocent.example:{port}/"}}"#);
        let executor = executor.clone();
        executor
            .run(Context::new(state), input.into())
            .await
            .map(drop)
    }

    #[tokio::test]
    async fn a_name_that_changes_its_address_gets_nowhere() {
        // What is allowed stands in for an address of the public internet.
        let open = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = open.local_addr().unwrap().port();
        let forbidden = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let accepted = levelflow_runtime::task::spawn("open server", async move {
            for _ in 0..2 {
                let (mut stream, _) = open.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            }
        });
        let [allowed, refused] = ["127.0.0.2", "127.0.0.1"].map(|text| text.parse().unwrap());
        let config = HttpConfig {
            allow: vec!["127.0.0.2".to_owned()],
            ..HttpConfig::default()
        };
        let answers = vec![vec![allowed], vec![refused], vec![refused, allowed]];
        let lookup = Arc::new(Changing(Mutex::new(answers)));
        let executor = HttpExecutor::with_lookup(config, lookup).unwrap();

        get(&executor, port).await.unwrap();
        let failure = get(&executor, port).await.unwrap_err();
        assert_eq!(failure.code, Code::EgressRefused);
        assert!(!failure.retryable);
        assert!(
            failure.message.contains("`innocent.example` stands for"),
            "{}",
            failure.message
        );
        get(&executor, port).await.unwrap();
        accepted.await.unwrap();
        // Nobody knocked there before this test does.
        let knocking = TcpStream::connect(forbidden.local_addr().unwrap());
        let ours = knocking.await.unwrap().local_addr().unwrap();
        assert_eq!(forbidden.accept().await.unwrap().1, ours);
    }
}
