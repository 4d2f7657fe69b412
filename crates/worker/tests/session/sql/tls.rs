//! PostgreSQL over TLS: before the server of the tests stands one that ends the encryption.

use std::path::PathBuf;
use std::sync::Arc;

use levelflow_worker::SqlConnection;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::server::Database;
use super::{Asked, sql};

/// What a client sends that wants TLS: the length of the message, and its code.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// The way to a database through TLS.
struct Tunnel {
    folder: TempDir,
    port: u16,
}

impl Tunnel {
    /// A tunnel with a certificate for this name.
    async fn start(database: &Database, name: &str) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed([name.to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("root.pem"), cert.pem()).unwrap();
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
        let server = database.authority();
        levelflow_runtime::task::spawn("tunnel", async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, server) = (acceptor.clone(), server.clone());
                levelflow_runtime::task::spawn("tunnel connection", async move {
                    // Clients that do not trust us go away.
                    let _ = carry(stream, &acceptor, &server).await;
                });
            }
        });
        Self { folder, port }
    }

    /// The database behind it, asked for by a host and with these settings.
    fn connection(&self, database: &Database, host: &str, settings: &str) -> SqlConnection {
        let Self { port, .. } = self;
        let name = database.name();
        SqlConnection::at(format!(
            "postgres://postgres@{host}:{port}/{name}?{settings}"
        ))
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }
}

async fn carry(mut stream: TcpStream, acceptor: &TlsAcceptor, server: &str) -> std::io::Result<()> {
    let mut request = [0; 8];
    stream.read_exact(&mut request).await?;
    assert_eq!(request, SSL_REQUEST, "the client wants no TLS");
    stream.write_all(b"S").await?;
    let mut stream = acceptor.accept(stream).await?;
    let mut server = TcpStream::connect(server).await?;
    copy_bidirectional(&mut stream, &mut server).await?;
    Ok(())
}

#[tokio::test]
async fn a_server_is_trusted_by_its_certificate() {
    let database = Database::create().await;
    let tunnel = Tunnel::start(&database, "localhost").await;
    let trusting = format!(
        "sslmode=verify-full&sslrootcert={}",
        tunnel.root().display()
    );
    let mut asked = Asked::start(tunnel.connection(&database, "localhost", &trusting)).await;
    assert_eq!(
        asked.row("select 7 as v", json!([])).await,
        json!({ "v": 7 })
    );

    // A cancel takes the same way.
    let sleep = json!({ "query": "select pg_sleep(600)" });
    asked.session.dispatch(vec![sql(7, sleep)]).await;
    let sleepers = "select count(*) from pg_stat_activity where state = 'active' \
                    and query = 'select pg_sleep(600)' and datname = current_database()";
    database.until(sleepers, 1).await;
    asked.session.cancel(7).await;
    assert_eq!(
        asked.session.outcome().await.failure.unwrap().code,
        "cancelled"
    );
    database.until(sleepers, 0).await;

    for (host, settings, problem) in [
        ("localhost", "sslmode=require", "UnknownIssuer"),
        ("127.0.0.1", trusting.as_str(), "not valid for"),
    ] {
        let mut asked = Asked::start(tunnel.connection(&database, host, settings)).await;
        let (code, message, retryable) = asked.failure(json!({ "query": "select 1" })).await;
        assert_eq!((code.as_str(), retryable), ("sql_unavailable", true));
        assert!(message.contains("invalid peer certificate"), "{message}");
        assert!(message.contains(problem), "{message}");
    }
}
