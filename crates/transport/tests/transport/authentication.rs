//! Who is let in.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use levelflow_common::Code;
use levelflow_runtime::secret::Secret;
use levelflow_runtime::task;
use levelflow_transport::nats::{Nats, NatsConfig, NatsError, NatsTls};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::conformance::{hello, next};
use crate::nats::{COORDINATOR, Coordinator, heard, open, settings, worker};
use crate::server::NatsServer;

async fn refused(settings: &NatsConfig) -> String {
    let error = Nats::connect(settings)
        .await
        .err()
        .expect("it is not let in");
    assert!(error.is_final(), "{error:?}");
    assert_eq!(error.code(), Code::ConfigInvalid);
    error.to_string()
}

/// A coordinator and a worker find each other.
async fn works(settings: &NatsConfig) {
    let _coordinator = Coordinator::named(settings, "c1").await;
    heard(&worker(settings).await, "c1").await;
}

#[tokio::test]
async fn a_token_is_asked_for() {
    let server = NatsServer::start("authorization { token: hunter2 }");
    let nobody = settings(&server.url());
    assert_eq!(refused(&nobody).await, "NATS refused the connection");
    let with = |token: &str| NatsConfig {
        token: Some(Secret::new(token)),
        ..nobody.clone()
    };
    refused(&with("hunter3")).await;
    works(&with("hunter2")).await;
    let address = server.url().replace("//", "//hunter2@");
    works(&settings(&address)).await;
}

#[tokio::test]
async fn a_user_has_a_password() {
    let server = NatsServer::start("authorization { user: flow, password: hunter2 }");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let with = NatsConfig {
        user: Some("flow".to_owned()),
        password_file: Some(file.clone()),
        ..settings(&server.url())
    };
    let missing = refused(&with).await;
    assert!(
        missing.starts_with("`nats.password_file` names "),
        "{missing}"
    );
    fs::write(&file, "hunter3\n").unwrap();
    refused(&with).await;
    fs::write(&file, "hunter2\n").unwrap();
    works(&with).await;
    let address = server.url().replace("//", "//flow:hunter2@");
    works(&settings(&address)).await;
}

#[tokio::test]
async fn an_nkey_signs_what_the_server_asks() {
    let key = nkeys::KeyPair::new_user();
    let server = NatsServer::start(&format!(
        "authorization {{ users: [{{ nkey: {} }}] }}",
        key.public_key()
    ));
    let with = |seed: String| NatsConfig {
        nkey: Some(Secret::new(seed)),
        ..settings(&server.url())
    };
    works(&with(key.seed().unwrap())).await;
    refused(&with(nkeys::KeyPair::new_user().seed().unwrap())).await;
    refused(&with("no seed".to_owned())).await;
}

/// A claim about a key, signed by another, as NATS has them.
fn claim(kind: &str, subject: &nkeys::KeyPair, issuer: &nkeys::KeyPair) -> String {
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let head = encode(br#"{"typ":"JWT","alg":"ed25519-nkey"}"#);
    let (issuer_key, subject) = (issuer.public_key(), subject.public_key());
    let body = format!(
        r#"{{"jti":"{kind}","iat":1700000000,"iss":"{issuer_key}","name":"{kind}","sub":"{subject}","nats":{{"type":"{kind}","version":2{}}}}}"#,
        match kind {
            "account" =>
                r#","limits":{"subs":-1,"data":-1,"payload":-1,"imports":-1,"exports":-1,"conn":-1,"leaf":-1}"#,
            "user" => r#","subs":-1,"data":-1,"payload":-1"#,
            _ => "",
        }
    );
    let signed = format!("{head}.{}", encode(body.as_bytes()));
    let signature = encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn credentials_are_a_claim_and_a_seed() {
    let operator = nkeys::KeyPair::new_operator();
    let account = nkeys::KeyPair::new_account();
    let user = nkeys::KeyPair::new_user();
    let server = NatsServer::start(&format!(
        "operator: {}\nresolver: MEMORY\nresolver_preload: {{ {}: {} }}",
        claim("operator", &operator, &operator),
        account.public_key(),
        claim("account", &account, &operator),
    ));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("flow.creds");
    let with = NatsConfig {
        credentials_file: Some(file.clone()),
        ..settings(&server.url())
    };
    let credentials = |claim: &str| {
        let seed = user.seed().unwrap();
        format!(
            "-----BEGIN NATS USER JWT-----\n{claim}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    };
    fs::write(&file, credentials(&claim("user", &user, &account))).unwrap();
    works(&with).await;
    // Signed by somebody whom the server does not know.
    let stranger = nkeys::KeyPair::new_account();
    fs::write(&file, credentials(&claim("user", &user, &stranger))).unwrap();
    refused(&with).await;
    fs::write(&file, "no credentials").unwrap();
    assert_eq!(
        refused(&with).await,
        "`nats.credentials_file` has no credentials of NATS in it"
    );
}

#[tokio::test]
async fn each_side_needs_its_own_subjects_only() {
    let NatsConfig { prefix, .. } = settings("");
    let to_workers = format!(r#"["{prefix}.v1.presence", "{prefix}.v1.worker.>"]"#);
    let to_coordinators =
        format!(r#"["{prefix}.v1.query", "{prefix}.v1.open.>", "{prefix}.v1.coordinator.>"]"#);
    let user = |name: &str, publish: &str, subscribe: &str| {
        format!(
            "{{ user: {name}, password: x, \
             permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}"
        )
    };
    let server = NatsServer::start(&format!(
        "authorization {{ users: [{}, {}] }}",
        user("coordinator", &to_workers, &to_coordinators),
        user("worker", &to_coordinators, &to_workers),
    ));
    let named = |name: &str| NatsConfig {
        prefix: prefix.clone(),
        user: Some(name.to_owned()),
        password: Some(Secret::new("x")),
        ..NatsConfig::at(server.url())
    };
    let mut coordinator = Coordinator::start(&named("coordinator")).await;
    let connector = worker(&named("worker")).await;
    heard(&connector, COORDINATOR).await;
    let (worker, mut session) = open(&connector, &mut coordinator).await;
    assert_eq!(
        next(&mut session.inbound).await.unwrap().unwrap(),
        hello("w1")
    );
    drop(session);
    let mut inbound = worker.inbound;
    assert!(next(&mut inbound).await.is_none());
}

/// Writes a certificate of 127.0.0.1 that an issuer signs, and its key.
fn certify(issuer: &CertifiedIssuer<'_, KeyPair>, folder: &Path, name: &str) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let certificate = params.signed_by(&key, issuer).unwrap();
    fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
    fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn tls_knows_both_sides() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    fs::write(folder.join("ca.pem"), issuer.pem()).unwrap();
    certify(&issuer, folder, "server");
    certify(&issuer, folder, "client");
    let path = folder.display();
    let server = NatsServer::start(&format!(
        "tls {{ cert_file: \"{path}/server.pem\", key_file: \"{path}/server.key\", \
         ca_file: \"{path}/ca.pem\", verify: true }}"
    ));
    let url = server.url().replace("nats:", "tls:");
    let with = |tls: NatsTls| NatsConfig {
        tls,
        ..settings(&url)
    };
    let both = NatsTls {
        required: true,
        ca_file: Some(folder.join("ca.pem")),
        cert_file: Some(folder.join("client.pem")),
        key_file: Some(folder.join("client.key")),
        ..NatsTls::default()
    };
    works(&with(both.clone())).await;

    let not_trusted = NatsTls {
        ca_file: None,
        ..both.clone()
    };
    let not_known = NatsTls {
        cert_file: None,
        key_file: None,
        ..both.clone()
    };
    for tls in [not_trusted, not_known] {
        let error = Nats::connect(&with(tls)).await.err().unwrap();
        assert!(matches!(error, NatsError::Unreachable(_)), "{error:?}");
    }
    let no_file = NatsTls {
        ca_file: Some(folder.join("missing.pem")),
        ..both.clone()
    };
    refused(&with(no_file)).await;

    // A server that has no TLS.
    let plain = NatsServer::start("");
    let with_tls = NatsConfig {
        tls: both,
        ..settings(&plain.url())
    };
    assert!(Nats::connect(&with_tls).await.is_err());
}

#[tokio::test]
async fn an_old_server_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let server = task::spawn("old server", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let info = b"INFO {\"server_id\":\"x\",\"version\":\"2.9.10\",\"max_payload\":1048576,\"headers\":true,\"proto\":1}\r\n";
        stream.write_all(info).await.unwrap();
        let mut lines = BufReader::new(&mut stream).lines();
        while lines
            .next_line()
            .await
            .unwrap()
            .is_some_and(|line| line != "PING")
        {}
        stream.write_all(b"PONG\r\n").await.unwrap();
        stream
    });
    assert_eq!(
        refused(&settings(&url)).await,
        "NATS has version 2.9.10; the oldest that is supported is 2.10"
    );
    drop(server.await.unwrap());
}
