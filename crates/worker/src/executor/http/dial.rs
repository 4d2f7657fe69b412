//! Dialling: only addresses that may be called.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use super::egress::{Egress, unbracketed};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Connecting<T> = BoxFuture<'static, Result<T, BoxError>>;

/// Finds the addresses of names.
pub(super) trait Lookup: Send + Sync {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// As the operating system finds them.
pub(super) struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    }
}

/// Dials addresses that may be called.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) egress: Arc<Egress>,
    pub(super) lookup: Arc<dyn Lookup>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dial = self.clone();
        async move {
            let is_https = uri.scheme_str() == Some("https");
            let port = uri.port_u16().unwrap_or(if is_https { 443 } else { 80 });
            let host = uri.host().unwrap_or_default();
            // An address that stands in the place of the name is dialled without a look-up.
            if let Ok(address) = unbracketed(host).parse() {
                dial.egress.check(host, port, address)?;
            }
            let mut connector = HttpConnector::new_with_resolver(Checked { dial, port });
            connector.enforce_http(false);
            connector.set_nodelay(true);
            Ok(connector.call(uri).await?)
        }
        .boxed()
    }
}

/// Looks a name up and leaves out the addresses that may not be called. What is left is what is dialled,
/// so that a name cannot change its address between the check and the call.
#[derive(Clone)]
struct Checked {
    dial: Dial,
    port: u16,
}

impl Service<Name> for Checked {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let Self { dial, port } = self.clone();
        async move {
            let host = name.as_str();
            let found = dial.lookup.lookup(host.to_owned()).await?;
            let mut refused = None;
            let mut allowed = Vec::with_capacity(found.len());
            for address in found {
                match dial.egress.check(host, port, address) {
                    Ok(()) => allowed.push(SocketAddr::new(address, port)),
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(refused) if allowed.is_empty() => Err(refused.into()),
                _ => Ok(allowed.into_iter()),
            }
        }
        .boxed()
    }
}
