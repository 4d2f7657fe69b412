//! Reaching a coordinator and opening a session.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use levelflow_common::limits::MAX_MESSAGE_BYTES;
use levelflow_proto::v1::worker_service_client::WorkerServiceClient;
use levelflow_proto::{PROTOCOL_VERSION, v1};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::error::WorkerError;
use crate::session::Streams;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const WELCOME_WITHIN: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How the coordinator is reached.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// Over the network.
    Address(Box<Endpoint>),
    /// Over a channel that somebody else opened.
    Channel(Channel),
}

impl Target {
    /// Reads an address.
    pub(crate) fn at(address: &str) -> Result<Self, WorkerError> {
        let malformed = |source| WorkerError::Address {
            address: address.to_owned(),
            source,
        };
        let endpoint =
            Endpoint::from_shared(address.to_owned()).map_err(|source| malformed(Some(source)))?;
        let is_socket = address.starts_with("unix:");
        let is_http = endpoint.uri().scheme_str() == Some("http");
        if !is_socket && (!is_http || endpoint.uri().host().is_none()) {
            return Err(malformed(None));
        }
        Ok(Self::Address(Box::new(
            endpoint
                .connect_timeout(CONNECT_WITHIN)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
                .keep_alive_timeout(KEEPALIVE_TIMEOUT)
                .keep_alive_while_idle(true)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES),
        )))
    }

    async fn channel(&self) -> Result<Channel, Status> {
        match self {
            Self::Channel(channel) => Ok(channel.clone()),
            Self::Address(endpoint) => endpoint
                .connect()
                .await
                .map_err(|error| Status::from_error(Box::new(error))),
        }
    }

    /// Opens a session: says hello and waits for the welcome.
    pub(crate) async fn open(&self, hello: v1::Hello) -> Result<Streams, OpenError> {
        let opening = async {
            let channel = self.channel().await?;
            // One frame waits while another is written; what comes meanwhile gathers in the session.
            let (outbound, frames) = mpsc::channel(1);
            let first = v1::WorkerFrame {
                hello: Some(hello),
                ..v1::WorkerFrame::default()
            };
            let closed = |_| Status::unavailable("the session closed during the handshake");
            outbound.send(first).await.map_err(closed)?;
            let mut inbound = WorkerServiceClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
                .session(ReceiverStream::new(frames))
                .await?
                .into_inner();
            let mut first = inbound.message().await?.unwrap_or_default();
            let welcome = first
                .welcome
                .take()
                .ok_or_else(|| Status::unavailable("the coordinator did not say welcome"))?;
            Ok(Streams {
                outbound,
                inbound,
                welcome,
                first,
            })
        };
        let streams = timeout(WELCOME_WITHIN, opening)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("the coordinator did not answer")))
            .map_err(|status| {
                if is_final(status.code()) {
                    OpenError::Final(WorkerError::Refused(Box::new(status)))
                } else {
                    OpenError::Passing(Box::new(status))
                }
            })?;
        if streams.welcome.protocol != PROTOCOL_VERSION {
            return Err(OpenError::Final(WorkerError::Protocol {
                ours: PROTOCOL_VERSION,
                theirs: streams.welcome.protocol,
            }));
        }
        Ok(streams)
    }
}

/// Why a session could not be opened.
pub(crate) enum OpenError {
    /// It may work the next time.
    Passing(Box<Status>),
    /// It will not.
    Final(WorkerError),
}

fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied
    )
}

/// The waits between attempts to connect: they grow, and never end.
pub(crate) fn waits() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(SHORTEST_WAIT)
        .with_max_delay(LONGEST_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_go_on() {
        let waits: Vec<_> = waits().take(10_000).collect();
        assert_eq!(waits.len(), 10_000);
        assert!(waits[0] < SHORTEST_WAIT * 2);
        assert!(waits.iter().all(|&wait| wait <= LONGEST_WAIT * 2));
        assert!(waits[9_999] >= LONGEST_WAIT);
    }

    #[test]
    fn an_address_needs_scheme_and_host() {
        Target::at("http://127.0.0.1:7400").unwrap();
        Target::at("unix:/run/levelflow.sock").unwrap();
        for address in [
            "127.0.0.1:7400",
            "https://localhost",
            "ftp://x",
            "http://",
            "",
        ] {
            let error = Target::at(address).unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("`{address}` is not an address; write for example http://127.0.0.1:7400")
            );
        }
    }
}
