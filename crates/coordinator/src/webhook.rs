//! Sends alerts to an address of the user's.
//!
//! One at a time and in order. Where that address is slow or does not answer, alerts wait in a queue that is
//! bounded, and those that find it full are not sent: they are in the log and in the list in any case.

use std::error::Error;
use std::time::Duration;

use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::{Request, StatusCode, Uri};
use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use http_body_util::Full;
use levelflow_common::alert::Alert;
use levelflow_proto::json;
use levelflow_runtime::http_client::{HttpClient, http_client};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::service::alert_view;

/// Alerts that wait to be sent.
const QUEUE: usize = 256;
/// How often an alert is tried again.
const RETRIES: usize = 4;
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// Where alerts are sent to.
#[derive(Clone, Debug)]
pub struct AlertsConfig {
    /// An `http` or `https` address; nowhere if not given.
    pub webhook: Option<String>,
    /// The longest that it may take to answer.
    pub timeout: Duration,
}

impl Default for AlertsConfig {
    fn default() -> Self {
        Self {
            webhook: None,
            timeout: Duration::from_secs(10),
        }
    }
}

impl AlertsConfig {
    /// The first thing that is wrong with it, as field and problem.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        if self.webhook.is_some() && self.uri().is_none() {
            // It may hold a secret, so it is not repeated.
            let problem = "must be an address such as https://example.com/alerts";
            return Some(("alerts.webhook", problem.to_owned()));
        }
        if self.timeout.is_zero() {
            return Some(("alerts.timeout", "must be longer than zero".to_owned()));
        }
        None
    }

    fn uri(&self) -> Option<Uri> {
        let uri: Uri = self.webhook.as_ref()?.parse().ok()?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        (is_web && uri.host().is_some()).then_some(uri)
    }
}

/// Takes alerts that are to be sent.
pub(crate) struct Webhook(mpsc::Sender<Alert>);

impl Webhook {
    /// Starts to send to the configured address, until this is dropped; none if there is no address.
    pub(crate) fn start(config: &AlertsConfig) -> Option<Self> {
        let sender = Sender {
            uri: config.uri()?,
            client: http_client(),
            timeout: config.timeout,
            first_wait: FIRST_WAIT,
        };
        let (alerts, waiting) = mpsc::channel(QUEUE);
        levelflow_runtime::task::spawn("webhook", sender.run(waiting));
        Some(Self(alerts))
    }

    /// Sends an alert, later.
    pub(crate) fn send(&self, alert: &Alert) {
        if self.0.try_send(alert.clone()).is_err() {
            tracing::warn!(
                number = alert.number,
                "alert is not sent to the webhook, for which too many wait"
            );
        }
    }
}

struct Sender {
    uri: Uri,
    client: HttpClient,
    timeout: Duration,
    first_wait: Duration,
}

/// Why an alert was not taken. Never has the address in it, which may be secret.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("no answer within {0:?}")]
    TooSlow(Duration),
    #[error("the answer has status {0}")]
    Refused(StatusCode),
    #[error("it cannot be reached")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
    #[error("the request cannot be made")]
    Request(#[from] axum::http::Error),
}

impl NotTaken {
    /// Whether it may be taken when it is sent again.
    fn is_passing(&self) -> bool {
        match self {
            Self::TooSlow(_) | Self::Unreachable(_) => true,
            Self::Refused(status) => {
                status.is_server_error()
                    || *status == StatusCode::TOO_MANY_REQUESTS
                    || *status == StatusCode::REQUEST_TIMEOUT
            }
            Self::Request(_) => false,
        }
    }
}

impl Sender {
    async fn run(self, mut waiting: mpsc::Receiver<Alert>) {
        while let Some(alert) = waiting.recv().await {
            self.deliver(&alert).await;
        }
    }

    async fn deliver(&self, alert: &Alert) {
        let number = alert.number;
        let host = self.uri.host().unwrap_or_default();
        let body = alert_view(alert)
            .map_err(|error| error.to_string())
            .and_then(|view| {
                serde_json::to_vec(&json::Alert::from(&view)).map_err(|error| error.to_string())
            });
        let body = match body {
            Ok(body) => Bytes::from(body),
            Err(error) => {
                tracing::error!(number, error, "alert cannot be written as json");
                return;
            }
        };
        let waits = ExponentialBuilder::default()
            .with_min_delay(self.first_wait)
            .with_max_delay(LONGEST_WAIT)
            .with_max_times(RETRIES)
            .with_jitter();
        let sent = (|| self.post(body.clone()))
            .retry(waits)
            .when(NotTaken::is_passing)
            .await;
        match sent {
            Ok(()) => tracing::debug!(number, host, "webhook took an alert"),
            Err(error) => {
                let cause = error.source().map(ToString::to_string);
                tracing::warn!(number, host, %error, cause, "webhook did not take an alert");
            }
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), NotTaken> {
        let mut request = Request::post(self.uri.clone()).header(CONTENT_TYPE, "application/json");
        if let Some(authority) = self.uri.authority() {
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            request = request.header(HOST, host);
        }
        let request = request.body(Full::new(body))?;
        let answer = timeout(self.timeout, self.client.request(request)).await;
        let answer = answer
            .map_err(|_| NotTaken::TooSlow(self.timeout))?
            .map_err(NotTaken::Unreachable)?;
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(NotTaken::Refused(answer.status()))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use levelflow_common::Timestamp;
    use levelflow_common::alert::AlertSubject;
    use serde_json::Value;
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn alert(number: u64) -> Alert {
        Alert {
            number,
            at: Timestamp::from_micros(1_700_000_000_000_000),
            subject: AlertSubject::BreakerClosed {
                upstream: "http:h:80".into(),
            },
        }
    }

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn sender(address: SocketAddr, timeout: Duration) -> Sender {
        Sender {
            uri: format!("http://user@{address}/secret").parse().unwrap(),
            client: http_client(),
            timeout,
            first_wait: Duration::from_millis(1),
        }
    }

    /// Answers each call with the next of these statuses, and the last for ever; gives the bodies.
    async fn endpoint(statuses: &'static [u16]) -> (SocketAddr, mpsc::UnboundedReceiver<Value>) {
        let (listener, address) = listener().await;
        let (bodies, received) = mpsc::unbounded_channel();
        levelflow_runtime::task::spawn("endpoint", async move {
            let mut left = statuses.iter();
            let mut status = 0;
            loop {
                status = left.next().copied().unwrap_or(status);
                let (stream, _) = listener.accept().await.unwrap();
                let mut stream = BufReader::new(stream);
                let (mut line, mut length) = (String::new(), 0);
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).await.unwrap();
                    if let Some(value) = line.strip_prefix("content-length: ") {
                        length = value.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                let _ = bodies.send(serde_json::from_slice(&body).unwrap());
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                );
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (address, received)
    }

    async fn next(received: &mut mpsc::UnboundedReceiver<Value>) -> Value {
        timeout(DEADLINE, received.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn an_alert_is_tried_again_until_it_is_taken_and_the_next_follows() {
        let (address, mut received) = endpoint(&[500, 429, 503, 200]).await;
        let sender = sender(address, DEADLINE);
        let (alerts, waiting) = mpsc::channel(QUEUE);
        let webhook = Webhook(alerts);
        webhook.send(&alert(1));
        webhook.send(&alert(2));
        drop(webhook);
        sender.run(waiting).await;
        let expected = serde_json::json!({
            "number": 1, "at": "2023-11-14T22:13:20.000Z", "kind": "breaker_closed", "all_clear": true,
            "text": "the breaker of upstream `http:h:80` closed",
            "subject": { "kind": "breaker_closed", "upstream": "http:h:80" },
        });
        for _ in 0..4 {
            assert_eq!(next(&mut received).await, expected);
        }
        assert_eq!(next(&mut received).await["number"], 2);
    }

    #[tokio::test]
    async fn what_is_refused_for_good_or_too_often_is_given_up() {
        let (address, mut received) = endpoint(&[403, 500]).await;
        let sender = sender(address, DEADLINE);
        sender.deliver(&alert(1)).await;
        sender.deliver(&alert(2)).await;
        let mut numbers = Vec::new();
        while let Ok(body) = received.try_recv() {
            numbers.push(body["number"].as_u64().unwrap());
        }
        assert_eq!(numbers, [1, 2, 2, 2, 2, 2]);
    }

    #[tokio::test]
    async fn one_that_hangs_or_is_not_there_holds_nobody_up() {
        let (listener, address) = listener().await;
        let hanging = sender(address, Duration::from_millis(10));
        timeout(DEADLINE, hanging.deliver(&alert(1))).await.unwrap();
        let error = hanging.post(Bytes::new()).await.unwrap_err();
        assert_eq!(error.to_string(), "no answer within 10ms");
        drop(listener);
        let gone = sender(address, DEADLINE);
        timeout(DEADLINE, gone.deliver(&alert(1))).await.unwrap();
        let error = gone.post(Bytes::new()).await.unwrap_err();
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }

    #[tokio::test]
    async fn the_queue_is_bounded() {
        let (alerts, mut waiting) = mpsc::channel(2);
        let webhook = Webhook(alerts);
        for number in 1..=5 {
            webhook.send(&alert(number));
        }
        drop(webhook);
        let mut kept = Vec::new();
        while let Some(alert) = waiting.recv().await {
            kept.push(alert.number);
        }
        assert_eq!(kept, [1, 2]);
    }

    #[test]
    fn an_address_that_is_none_is_refused_without_being_repeated() {
        for (address, is_valid) in [
            ("https://example.com/secret", true),
            ("http://127.0.0.1:80", true),
            ("example.com/secret", false),
            ("ftp://example.com/secret", false),
            ("https:///secret", false),
        ] {
            let config = AlertsConfig {
                webhook: Some(address.to_owned()),
                ..AlertsConfig::default()
            };
            let problem = config.problem();
            assert_eq!(problem.is_none(), is_valid, "{address}");
            assert!(!format!("{problem:?}").contains("secret"));
        }
    }
}
