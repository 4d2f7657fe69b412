//! `http` tasks over TLS.

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Home, finish};

#[tokio::test]
async fn a_server_is_trusted_by_its_certificate() {
    let home = Home::new();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let authority = home.file("authority.pem", cert.pem());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = levelflow_runtime::task::spawn("https server", async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // A client that does not trust us goes away.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            if stream.read(&mut [0; 1024]).await.unwrap_or(0) > 0 {
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhidden";
                stream.write_all(answer).await.unwrap();
            }
        }
    });
    home.file(
        "flow.yaml",
        "name: https\ninputs: { url: { type: string } }\ntasks:\n  - id: a\n    type: http\n    \
         retry: { max_attempts: 1 }\n    with: { url: '${{ inputs.url }}' }\n\
         outputs: { body: '${{ tasks.a.output.body }}' }\n",
    );
    let call = async |host: &str, trusted: bool| {
        let url = format!("url=https://{host}:{port}/");
        let mut command = home.command(&["run", "flow.yaml", "-q", "-i", &url, "--output", "body"]);
        if trusted {
            command.env("SSL_CERT_FILE", &authority);
        }
        let ended = finish(command).await;
        format!("{}{}", ended.stdout, ended.stderr)
    };
    assert_eq!(call("localhost", true).await, "hidden\n");
    let unknown = call("localhost", false).await;
    assert!(
        unknown.contains("http_failed") && unknown.contains("UnknownIssuer"),
        "{unknown}"
    );
    let other_name = call("127.0.0.1", true).await;
    assert!(other_name.contains("not valid for name"), "{other_name}");
    server.abort();
}
