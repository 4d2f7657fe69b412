//! The connection of a process to NATS.

use std::time::Duration;

use async_nats::{
    Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr, SubscribeError,
};
use levelflow_common::Code;
use levelflow_runtime::config::InvalidSetting;
use levelflow_runtime::secret::Places;
use levelflow_runtime::tls::install_tls_provider;
use tokio::sync::watch;

use super::config::{NatsConfig, wrong};
use super::subject::Subjects;
use super::window::WINDOW_MESSAGES;

/// Older servers are refused.
const OLDEST_SERVER: (i64, i64) = (2, 10);
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const PING_INTERVAL: Duration = Duration::from_secs(10);
const LONGEST_RECONNECT_WAIT: Duration = Duration::from_secs(1);
/// Messages of one subject that may wait here: more than may be under way, with what tells about them.
const SUBSCRIPTION_MESSAGES: usize = 4 * WINDOW_MESSAGES;
/// Keepalives without a word after which a session ends.
const SILENT_KEEPALIVES: u32 = 3;
/// Addresses of servers.
const MAX_SERVERS: usize = 64;

/// Why there is no connection to NATS.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A setting is wrong.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// No server could be reached.
    #[error("NATS could not be reached")]
    Unreachable(#[source] ConnectError),
    /// The server does not let this client in, or TLS is not set up as it has to be.
    #[error("NATS refused the connection")]
    Refused(#[source] ConnectError),
    /// The server is too old.
    #[error("NATS has version {0}; the oldest that is supported is {major}.{minor}", major = OLDEST_SERVER.0, minor = OLDEST_SERVER.1)]
    TooOld(String),
    /// Messages cannot be asked for.
    #[error("messages from NATS cannot be asked for")]
    Subscribe(#[from] SubscribeError),
}

impl NatsError {
    /// The stable code of the error.
    pub fn code(&self) -> Code {
        match self {
            Self::Setting(_) | Self::Refused(_) | Self::TooOld(_) => Code::ConfigInvalid,
            Self::Unreachable(_) | Self::Subscribe(_) => Code::ServerUnreachable,
        }
    }

    /// Whether it would be the same the next time.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Setting(_) | Self::Refused(_) | Self::TooOld(_))
    }
}

impl From<ConnectError> for NatsError {
    fn from(error: ConnectError) -> Self {
        match error.kind() {
            ConnectErrorKind::Authentication
            | ConnectErrorKind::AuthorizationViolation
            | ConnectErrorKind::Tls => Self::Refused(error),
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => Self::Unreachable(error),
        }
    }
}

/// The connection of a process to NATS. When it breaks it is made again, without end.
#[derive(Clone)]
pub struct Nats {
    pub(super) client: Client,
    pub(super) subjects: Subjects,
    pub(super) keepalive: Duration,
    /// Changes when the connection was made again.
    pub(super) connects: watch::Receiver<u64>,
}

impl Nats {
    /// Connects once.
    ///
    /// # Errors
    /// When settings are wrong, no server can be reached, or it refuses.
    pub async fn connect(config: &NatsConfig) -> Result<Self, NatsError> {
        config.validate()?;
        install_tls_provider();
        let servers = servers(config)?;
        let (count, connects) = watch::channel(0);
        let options = authenticate(config, &servers)?
            .name(concat!("levelflow ", env!("CARGO_PKG_VERSION")))
            .connection_timeout(CONNECT_WITHIN)
            .ping_interval(PING_INTERVAL)
            .subscription_capacity(SUBSCRIPTION_MESSAGES)
            .reconnect_delay_callback(reconnect_wait)
            .event_callback(move |event| {
                notice(&event, &count);
                std::future::ready(())
            });
        let client = secure(config, options).connect(servers).await?;
        let (major, minor) = OLDEST_SERVER;
        if !client.is_server_compatible(major, minor, 0) {
            return Err(NatsError::TooOld(client.server_info().version));
        }
        Ok(Self {
            client,
            subjects: Subjects::new(&config.prefix),
            keepalive: config.keepalive.0,
            connects,
        })
    }

    /// How long a side of a session may be silent.
    pub(super) fn silence(&self) -> Duration {
        self.keepalive * SILENT_KEEPALIVES
    }
}

fn servers(config: &NatsConfig) -> Result<Vec<ServerAddr>, InvalidSetting> {
    let url = config.url_places().require("nats")?;
    // What the parser says may have a password in it.
    let no_address = || {
        let problem = "is not an address of NATS; write for example nats://127.0.0.1:4222";
        wrong("url", problem)
    };
    let servers: Vec<ServerAddr> = url
        .reveal()
        .split(',')
        .map(|server| server.trim().parse().map_err(|_| no_address()))
        .collect::<Result<_, _>>()?;
    if servers.iter().any(|server| server.host().is_empty()) {
        return Err(no_address());
    }
    if servers.len() > MAX_SERVERS {
        return Err(wrong("url", &format!("may name {MAX_SERVERS} servers")));
    }
    if servers.iter().any(ServerAddr::is_websocket) {
        return Err(wrong("url", "may not be of a web socket"));
    }
    Ok(servers)
}

fn read(places: &Places<'_>) -> Result<Option<String>, InvalidSetting> {
    match places.given() {
        0 => Ok(None),
        _ => Ok(Some(places.require("nats")?.reveal().to_owned())),
    }
}

fn authenticate(
    config: &NatsConfig,
    servers: &[ServerAddr],
) -> Result<ConnectOptions, InvalidSetting> {
    let options = ConnectOptions::new();
    if let Some(user) = &config.user {
        let password = config.password_places().require("nats")?;
        return Ok(options.user_and_password(user.clone(), password.reveal().to_owned()));
    }
    if let Some(token) = read(&config.token_places())? {
        return Ok(options.token(token));
    }
    if let Some(seed) = read(&config.nkey_places())? {
        return Ok(options.nkey(seed));
    }
    if let Some(mut credentials) = read(&config.credentials_places())? {
        // The parser wants the last line to end.
        credentials.push('\n');
        // What the parser says may have a part of the seed in it.
        let unusable = |_| wrong("credentials_file", "has no credentials of NATS in it");
        return options.credentials(&credentials).map_err(unusable);
    }
    // As other clients of NATS take addresses: a user alone is a token.
    let named = servers.iter().find_map(|server| {
        let user = server.username()?;
        Some((user.to_owned(), server.password().map(str::to_owned)))
    });
    Ok(match named {
        Some((user, Some(password))) => options.user_and_password(user, password),
        Some((token, None)) => options.token(token),
        None => options,
    })
}

fn secure(config: &NatsConfig, mut options: ConnectOptions) -> ConnectOptions {
    let tls = &config.tls;
    if let Some(path) = &tls.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    if let (Some(certificate), Some(key)) = (&tls.cert_file, &tls.key_file) {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    if tls.first {
        options = options.tls_first();
    }
    options.require_tls(tls.required)
}

/// The wait before an attempt to connect, counted from 1.
fn reconnect_wait(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(2)).unwrap_or(u32::MAX);
    match attempt {
        0 | 1 => Duration::ZERO,
        _ => Duration::from_millis(20)
            .saturating_mul(2_u32.saturating_pow(doublings))
            .min(LONGEST_RECONNECT_WAIT),
    }
}

fn notice(event: &Event, connects: &watch::Sender<u64>) {
    match event {
        Event::Connected => connects.send_modify(|count| *count += 1),
        Event::Disconnected => tracing::warn!("connection to nats lost"),
        Event::SlowConsumer(_) => tracing::warn!("messages from nats were dropped"),
        Event::ServerError(error) => tracing::warn!(%error, "nats refused something"),
        Event::ClientError(error) => tracing::debug!(%error, "connection to nats failed"),
        Event::LameDuckMode | Event::Draining | Event::Closed => {
            tracing::info!(%event, "connection to nats ends");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let waits: Vec<_> = (0..10).map(|it| reconnect_wait(it).as_millis()).collect();
        assert_eq!(waits, [0, 0, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(reconnect_wait(usize::MAX), LONGEST_RECONNECT_WAIT);
    }

    #[test]
    fn an_address_that_is_none_is_not_shown() {
        for url in ["nats://hunter2 hunter2", "ftp://hunter2@x", ""] {
            let error = servers(&NatsConfig::at(url)).unwrap_err().to_string();
            assert_eq!(
                error,
                "`nats.url` is not an address of NATS; write for example nats://127.0.0.1:4222"
            );
        }
        let two = servers(&NatsConfig::at("nats://a:4222, tls://b")).unwrap();
        assert_eq!((two[0].host(), two[1].host()), ("a", "b"));
        let socket = servers(&NatsConfig::at("ws://a")).unwrap_err();
        assert_eq!(socket.to_string(), "`nats.url` may not be of a web socket");
    }
}
