//! The client that all `http` tasks of a worker share.
//!
//! Built on hyper's connections rather than on reqwest: that one bounds only the connections that are
//! idle, and hides when one closes.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::http::response::Parts;
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use levelflow_common::HumanDuration;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio::time::{Instant, timeout};
use tower::Service as _;

use levelflow_runtime::tls::install_tls_provider;

use super::config::HttpConfig;
use super::dial::{BoxError, Dial};
use super::egress::Refused;
use super::pool::{Place, Pool, Sender};

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(in crate::executor) enum SendError {
    /// The address may not be called.
    #[error(transparent)]
    Refused(Refused),
    /// No connection could be opened.
    #[error("{}", chain(&**.0))]
    NotConnected(#[source] BoxError),
    /// The exchange broke off.
    #[error("{}", chain(.0))]
    BrokeOff(#[source] hyper::Error),
}

/// A response whose body is still to come.
pub(in crate::executor) struct Received {
    pub(in crate::executor) head: Parts,
    pub(in crate::executor) body: Incoming,
    /// To be given back when the body is read; dropped before, it closes the connection.
    pub(in crate::executor) connection: InUse,
}

/// A connection with an exchange under way.
pub(in crate::executor) struct InUse {
    sender: Sender,
    place: Place,
}

impl InUse {
    /// The body of the response is read.
    pub(in crate::executor) fn give_back(self) {
        self.place.give_back(self.sender);
    }
}

/// Sends requests. Cheap to clone.
#[derive(Clone)]
pub(in crate::executor) struct Client {
    https: HttpsConnector<Dial>,
    connect_timeout: Duration,
    pool: Arc<Pool>,
}

impl Client {
    /// Reads the certificates of the system, which takes time.
    pub(super) fn new(config: &HttpConfig, dial: Dial, pool: Arc<Pool>) -> Self {
        install_tls_provider();
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls())
            .https_or_http()
            .enable_http1()
            .wrap_connector(dial);
        let sweep = Pool::sweep(Arc::downgrade(&pool), config.keep_alive.0);
        levelflow_runtime::task::spawn("http pool", sweep);
        Self {
            https,
            connect_timeout: config.connect_timeout.0,
            pool,
        }
    }

    /// Waits until there may be one more exchange with the host.
    pub(in crate::executor) async fn place(&self, uri: &Uri) -> Place {
        self.pool.place(uri).await
    }

    /// Sends a request to `uri` and waits for the head of the response.
    pub(in crate::executor) async fn send(
        &self,
        uri: &Uri,
        mut request: Request<Full<Bytes>>,
        place: Place,
    ) -> Result<Received, SendError> {
        loop {
            let idle = place.take_idle();
            let may_be_stale = idle.is_some();
            let mut sender = match idle {
                Some(sender) => sender,
                None => self.connect(uri).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let connection = InUse { sender, place };
                    return Ok(Received {
                        head,
                        body,
                        connection,
                    });
                }
                Err(mut error) => match error.take_message() {
                    // The server closed the connection meanwhile, and nothing was sent.
                    Some(unsent) if may_be_stale => request = unsent,
                    _ => return Err(SendError::BrokeOff(error.into_error())),
                },
            }
        }
    }

    async fn connect(&self, uri: &Uri) -> Result<Sender, SendError> {
        let connecting = async {
            let room = self.pool.room().await;
            let started_at = Instant::now();
            let stream = self.https.clone().call(uri.clone()).await?;
            let (sender, connection) = http1::handshake(stream).await?;
            let open = self.pool.opened(room, started_at.elapsed());
            levelflow_runtime::task::spawn("http connection", async move {
                // What goes wrong reaches the exchange.
                let _ = connection.await;
                drop(open);
            });
            Ok::<_, BoxError>(sender)
        };
        let limit = self.connect_timeout;
        match timeout(limit, connecting).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) => Err(not_connected(error)),
            Err(_) => {
                let message = format!("connecting timed out after {}", HumanDuration(limit));
                let error = io::Error::new(io::ErrorKind::TimedOut, message);
                Err(SendError::NotConnected(error.into()))
            }
        }
    }
}

/// Trusts whom the system trusts.
fn tls() -> ClientConfig {
    ClientConfig::with_platform_verifier().unwrap_or_else(|error| {
        // Small images have no certificates; what needs none goes on.
        tracing::warn!(%error, "no authorities to trust, https will fail");
        ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    })
}

fn not_connected(error: BoxError) -> SendError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(inner) = cause {
        if let Some(refused) = inner.downcast_ref::<Refused>() {
            return SendError::Refused(refused.clone());
        }
        cause = inner.source();
    }
    SendError::NotConnected(error)
}

/// An error and its causes.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    message
}
