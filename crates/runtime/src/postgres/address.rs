//! Where a PostgreSQL database is, and how the way there is protected.
//!
//! `sslmode` may be `disable`, `require` or `verify-full`; without it, TLS is used for every host but this
//! machine. Certificates are always verified, against those of the system or those in `sslrootcert`, so
//! `require` is as strict as `verify-full`. Modes that fall back to plain text or verify less are refused.

use std::net::IpAddr;
use std::path::PathBuf;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::install_tls_provider;

/// Where a database is. Holds a password, so it is never shown.
pub struct Address {
    /// How to connect.
    pub config: Config,
    /// With what to protect the connection, if it is to be.
    pub tls: Option<MakeRustlsConnect>,
}

/// Whether an address is one of PostgreSQL.
pub fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong, as it follows the name of the setting, without a word of the address.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (plain, settings) = take_tls_settings(url)?;
        let mut config: Config = plain.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!(
                "is not an address of a database: {}",
                cause.unwrap_or_else(|| error.to_string())
            )
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("names no host".to_owned());
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err("names no user".to_owned());
        }
        let mode = match settings.mode {
            Some(mode) => mode,
            None if is_local(&config) => SslMode::Disable,
            None => SslMode::Require,
        };
        let tls = match mode {
            SslMode::Disable if settings.root_certificates.is_some() => {
                return Err("has `sslrootcert`, and does not use TLS".to_owned());
            }
            SslMode::Disable => None,
            _ => Some(tls(settings.root_certificates)?),
        };
        config.ssl_mode(mode);
        if config.get_application_name().is_none() {
            config.application_name("levelflow");
        }
        Ok(Self { config, tls })
    }
}

#[derive(Default)]
struct TlsSettings {
    mode: Option<SslMode>,
    root_certificates: Option<PathBuf>,
}

/// Takes the settings that are ours out of the query of an address.
fn take_tls_settings(url: &str) -> Result<(String, TlsSettings), String> {
    let mut settings = TlsSettings::default();
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), settings));
    };
    let mut others = Vec::new();
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", mode)) => {
                settings.mode = Some(match mode {
                    "disable" => SslMode::Disable,
                    "require" | "verify-full" => SslMode::Require,
                    _ => {
                        return Err(
                            "has an `sslmode` that is not supported; it may be `disable`, `require` \
                             or `verify-full`"
                                .to_owned(),
                        );
                    }
                });
            }
            Some(("sslrootcert", path)) => settings.root_certificates = Some(path.into()),
            Some(("sslcert" | "sslkey" | "sslcrl" | "sslpassword", _)) => {
                return Err(
                    "asks for a certificate of the client, which is not supported".to_owned(),
                );
            }
            _ => others.push(pair),
        }
    }
    let plain = match others.is_empty() {
        true => base.to_owned(),
        false => format!("{base}?{}", others.join("&")),
    };
    Ok((plain, settings))
}

/// Whether every host is this machine.
fn is_local(config: &Config) -> bool {
    let hosts = config.get_hosts().iter();
    let named = hosts.into_iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
        }
        Host::Unix(_) => true,
    });
    named && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

fn tls(root_certificates: Option<PathBuf>) -> Result<MakeRustlsConnect, String> {
    install_tls_provider();
    let Some(path) = root_certificates else {
        return match MakeRustlsConnect::with_native_certs() {
            Ok((connect, _)) => Ok(connect),
            Err(_) => Err("needs TLS, and this system has no certificates to trust".to_owned()),
        };
    };
    let shown = path.display();
    let unreadable = |error: rustls::pki_types::pem::Error| {
        format!("names the certificates {shown}, which cannot be read: {error}")
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&path).map_err(unreadable)? {
        roots
            .add(certificate.map_err(unreadable)?)
            .map_err(|error| format!("names a certificate that cannot be used: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("names {shown}, in which there is no certificate"));
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls_of(url: &str) -> Result<bool, String> {
        Address::parse(url).map(|address| address.tls.is_some())
    }

    #[test]
    fn tls_is_used_beyond_this_machine() {
        assert_eq!(tls_of("postgres://u:p@127.0.0.1/d"), Ok(false));
        assert_eq!(tls_of("postgresql://u@localhost:5433/d"), Ok(false));
        assert_eq!(tls_of("postgres://u@%2Fvar%2Frun/d"), Ok(false));
        assert_eq!(tls_of("postgres:///d?host=/tmp&user=u"), Ok(false));
        let plain = "postgres://u@db.example.com/d?sslmode=disable&connect_timeout=3";
        assert_eq!(tls_of(plain), Ok(false));
    }

    #[test]
    fn modes_that_protect_less_are_refused() {
        for mode in ["prefer", "allow", "verify-ca", "x"] {
            let problem = tls_of(&format!("postgres://u@h/d?sslmode={mode}")).unwrap_err();
            assert!(problem.starts_with("has an `sslmode`"), "{problem}");
        }
        let problem = tls_of("postgres://u@h/d?sslcert=/a").unwrap_err();
        assert!(problem.contains("certificate of the client"), "{problem}");
        let problem = tls_of("postgres://u@localhost/d?sslrootcert=/a").unwrap_err();
        assert!(problem.contains("does not use TLS"), "{problem}");
        let problem = tls_of("postgres://u@h/d?sslrootcert=/no/such/file").unwrap_err();
        assert!(problem.contains("/no/such/file"), "{problem}");
    }

    #[test]
    fn problems_do_not_show_the_password() {
        for url in [
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@h/d?what=1",
            "postgres://:hunter2@h/d",
            "postgres://",
        ] {
            let problem = tls_of(url).unwrap_err();
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }
}
