//! Who may ask from a browser.
//!
//! Nobody signs in here, and whoever can submit a workflow may be able to run programs. So a page of another
//! site must not be able to make the browser of someone at this machine ask in its place: neither with
//! requests that browsers send without asking first, nor under a name that it lets point here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use levelflow_common::Code;

use super::problem::Refusal;
use crate::listen::Listen;

/// The header in which browsers say what a request has to do with the page that made it.
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Under which names requests may come.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Only those of this machine, because it serves nobody else, and those that were configured.
    local: Option<Arc<[String]>>,
}

impl Names {
    pub(super) fn of(address: Option<&Listen>, configured: &[String]) -> Self {
        let is_local = match address {
            Some(Listen::Tcp(address)) => address.ip().is_loopback(),
            // No browser opens a socket.
            Some(Listen::Unix(_)) | None => false,
        };
        Self {
            local: is_local.then(|| configured.into()),
        }
    }

    fn allow(&self, host: &str) -> bool {
        let Some(configured) = &self.local else {
            return true;
        };
        let name = host_name(host);
        let ip: Option<IpAddr> = name.trim_matches(['[', ']']).parse().ok();
        ip.is_some_and(|ip| ip.is_loopback())
            || name.eq_ignore_ascii_case("localhost")
            || configured
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
    }
}

/// The name in `name:port`.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

pub(super) async fn check(State(names): State<Names>, request: Request, next: Next) -> Response {
    match refusal(&names, request.method(), request.uri(), request.headers()) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

fn refusal(names: &Names, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // HTTP/2 has it in the address.
    let host = uri.authority().map(Authority::as_str);
    let host = host
        .or_else(|| text(header::HOST.as_str()))
        .unwrap_or_default();
    if !names.allow(host) {
        let message = format!(
            "`{host}` is no name of this server, which listens on this machine only; `http.allowed_hosts` \
             can name it"
        );
        return Some(Refusal::new(Code::OriginRefused, message));
    }
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return None;
    }
    let is_foreign = match (text(SEC_FETCH_SITE), text(header::ORIGIN.as_str())) {
        (Some(site), _) => !matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => origin.split_once("://").is_none_or(|(_, of)| of != host),
        // No browser.
        (None, None) => false,
    };
    is_foreign.then(|| {
        Refusal::new(
            Code::OriginRefused,
            "pages of other sites may not change anything here",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local() -> Names {
        let address = Listen::Tcp(([127, 0, 0, 1], 7401).into());
        Names::of(Some(&address), &["flow.example".to_owned()])
    }

    fn is_refused(names: &Names, method: &Method, headers: &[(&'static str, &str)]) -> bool {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        refusal(names, method, &Uri::from_static("/api/v1/runs"), &headers).is_some()
    }

    #[test]
    fn a_server_of_this_machine_only_answers_to_its_names() {
        for host in [
            "127.0.0.1:7401",
            "localhost:1",
            "[::1]:7401",
            "LOCALHOST",
            "flow.example",
        ] {
            assert!(
                !is_refused(&local(), &Method::GET, &[("host", host)]),
                "{host}"
            );
        }
        for host in [
            "evil.example:7401",
            "10.0.0.1:7401",
            "localhost.evil.example",
            "",
        ] {
            assert!(
                is_refused(&local(), &Method::GET, &[("host", host)]),
                "{host}"
            );
        }
        let public = Names::of(Some(&Listen::Tcp(([0, 0, 0, 0], 7401).into())), &[]);
        assert!(!is_refused(
            &public,
            &Method::GET,
            &[("host", "any.example")]
        ));
    }

    #[test]
    fn other_sites_change_nothing() {
        let host = ("host", "localhost:7401");
        let post = |headers: &[(&'static str, &str)]| {
            is_refused(&local(), &Method::POST, &[&[host], headers].concat())
        };
        assert!(!post(&[]));
        assert!(!post(&[("origin", "http://localhost:7401")]));
        assert!(!post(&[
            ("sec-fetch-site", "same-origin"),
            ("origin", "http://localhost:7401")
        ]));
        assert!(post(&[("origin", "http://localhost:3000")]));
        assert!(post(&[("origin", "null")]));
        assert!(post(&[("sec-fetch-site", "cross-site")]));
        let get = [host, ("sec-fetch-site", "cross-site")];
        assert!(!is_refused(&local(), &Method::GET, &get));
    }
}
