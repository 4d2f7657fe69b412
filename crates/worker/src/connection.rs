//! Reaching a coordinator and opening a session.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use levelflow_proto::protocol::{NoCommonVersion, agree};
use levelflow_proto::v1;
use levelflow_transport::{Session, SessionError, grpc};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::error::WorkerError;
use crate::nats::NatsTarget;
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
    /// Over NATS.
    Nats(NatsTarget),
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

    /// The same for another coordinator, of which this one has told.
    pub(crate) fn towards(&self, other: &v1::CoordinatorAddress) -> Result<Self, WorkerError> {
        match self {
            Self::Nats(target) => Ok(Self::Nats(target.towards(&other.id))),
            Self::Address(_) | Self::Channel(_) => Self::at(&format!("http://{}", other.address)),
        }
    }

    /// Opens a session with a first frame.
    async fn session(
        &self,
        first: v1::WorkerFrame,
    ) -> Result<Session<v1::WorkerFrame, v1::CoordinatorFrame>, OpenError> {
        let channel = match self {
            Self::Nats(target) => return target.open(first).await,
            Self::Channel(channel) => channel.clone(),
            Self::Address(endpoint) => {
                let unreachable = |error| Status::from_error(Box::new(error));
                endpoint.connect().await.map_err(unreachable)?
            }
        };
        Ok(grpc::open(channel, first).await?)
    }

    /// Opens a session: says hello and waits for the welcome.
    pub(crate) async fn open(&self, hello: v1::Hello) -> Result<Streams, OpenError> {
        let opening = async {
            let first = v1::WorkerFrame {
                hello: Some(hello),
                ..v1::WorkerFrame::default()
            };
            let Session {
                outbound,
                mut inbound,
            } = self.session(first).await?;
            let mut first = inbound.next().await.transpose()?.unwrap_or_default();
            let welcome = first
                .welcome
                .take()
                .ok_or_else(|| Status::unavailable("the coordinator did not say welcome"))?;
            Ok::<_, OpenError>(Streams {
                outbound,
                inbound,
                welcome,
                first,
            })
        };
        let late = |_| Err(Status::deadline_exceeded("the coordinator did not answer").into());
        let streams = timeout(WELCOME_WITHIN, opening)
            .await
            .unwrap_or_else(late)?;
        // Software that does not choose a version says its own.
        agree(0, streams.welcome.protocol)?;
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

impl From<Status> for OpenError {
    fn from(status: Status) -> Self {
        let status = Box::new(status);
        match is_final(status.code()) {
            true => Self::Final(WorkerError::Refused(status)),
            false => Self::Passing(status),
        }
    }
}

impl From<NoCommonVersion> for OpenError {
    fn from(error: NoCommonVersion) -> Self {
        Self::Final(error.into())
    }
}

impl From<SessionError> for OpenError {
    fn from(error: SessionError) -> Self {
        Status::from(error).into()
    }
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
