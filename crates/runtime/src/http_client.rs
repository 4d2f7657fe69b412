//! The way to servers that a process asks for its own sake, over HTTP.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::ConfigVerifierExt as _;

use crate::tls::install_tls_provider;

/// A client that keeps connections. It follows no redirects, and no request is bounded in time.
pub type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that trusts the authorities of the system. It uses no proxies of the environment.
pub fn http_client() -> HttpClient {
    install_tls_provider();
    let trust = ClientConfig::with_platform_verifier().unwrap_or_else(|error| {
        tracing::warn!(%error, "no authorities to trust, requests over https will fail");
        ClientConfig::builder()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth()
    });
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(trust)
        .https_or_http()
        .enable_http1()
        .build();
    Client::builder(TokioExecutor::new()).build(https)
}
