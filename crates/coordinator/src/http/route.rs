//! The table of routes: each with what the OpenAPI document tells of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, any_service};
use levelflow_common::Code;
use tower::ServiceExt as _;

use super::Api;
use super::document::Operation;
use super::problem::Refusal;

/// The table of routes.
#[derive(Default)]
pub(super) struct Routes {
    operations: Vec<Operation>,
    /// By path, and by the verb after the last part of the path.
    resources: BTreeMap<&'static str, BTreeMap<&'static str, MethodRouter<Api>>>,
}

impl Routes {
    /// Adds an operation and who handles it.
    pub(super) fn add<H, T>(&mut self, operation: Operation, handler: H)
    where
        H: Handler<T, Api>,
        T: 'static,
    {
        let (path, verb) = split_verb(operation.path);
        let filter = MethodFilter::try_from(operation.method.clone())
            .expect("operations have one of the usual methods");
        let by_verb = self.resources.entry(path).or_default();
        let methods = by_verb.remove(verb).unwrap_or_default();
        let methods = methods.on(filter, handler);
        by_verb.insert(verb, methods);
        self.operations.push(operation);
    }

    /// What is told of all of them.
    pub(super) fn into_operations(self) -> Vec<Operation> {
        self.operations
    }

    /// The service that they make.
    pub(super) fn into_router(self, api: &Api) -> Router {
        let timeout = api.config.request_timeout;
        let patient: Vec<_> = self
            .operations
            .iter()
            .filter(|operation| operation.takes_its_time)
            .map(|operation| operation.path)
            .collect();
        let mut router = Router::new();
        for (path, by_verb) in self.resources {
            let by_verb: BTreeMap<&str, MethodRouter> = by_verb
                .into_iter()
                .map(|(verb, methods)| {
                    let mut methods = methods.fallback(method_not_allowed).with_state(api.clone());
                    if !patient
                        .iter()
                        .any(|patient| split_verb(patient) == (path, verb))
                    {
                        methods = methods.layer(middleware::from_fn(
                            move |request: Request, next: Next| within(timeout, request, next),
                        ));
                    }
                    (verb, methods)
                })
                .collect();
            router = router.route(path, resource(by_verb));
        }
        router.fallback(unknown)
    }
}

/// A path and the verb after its last parameter: `/runs/{run}:cancel`. Of a path without parameters at its
/// end the verb is a part like any other.
fn split_verb(path: &'static str) -> (&'static str, &'static str) {
    match path.rsplit_once("}:") {
        Some((before, verb)) => (&path[..=before.len()], verb),
        None => (path, ""),
    }
}

/// What stands at one path: the router knows no verbs.
fn resource(mut by_verb: BTreeMap<&'static str, MethodRouter>) -> MethodRouter {
    if by_verb.keys().all(|verb| verb.is_empty()) {
        return by_verb.remove("").unwrap_or_default();
    }
    let by_verb = Arc::new(by_verb);
    any_service(tower::service_fn(move |request: Request| {
        let by_verb = by_verb.clone();
        async move {
            let last = request.uri().path().rsplit('/').next().unwrap_or_default();
            let verb = last.rsplit_once(':').map_or("", |(_, verb)| verb);
            match by_verb.get(verb) {
                Some(methods) => methods.clone().oneshot(request).await,
                None => Ok::<Response, Infallible>(unknown(request).await.into_response()),
            }
        }
    }))
}

async fn within(timeout: Duration, request: Request, next: Next) -> Response {
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::new(Code::RequestTimeout, "the request was not answered in time")
            .into_response(),
    }
}

async fn unknown(request: Request) -> Refusal {
    let path = request.uri().path();
    Refusal::new(
        Code::RouteUnknown,
        format!("nothing is served at `{path}`; /api/v1/openapi.json says what is"),
    )
}

async fn method_not_allowed(request: Request) -> Refusal {
    let method = request.method();
    let path = request.uri().path();
    Refusal::new(
        Code::MethodNotAllowed,
        format!("`{path}` does not know {method}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_stands_after_the_last_parameter() {
        assert_eq!(split_verb("/runs/{run}:cancel"), ("/runs/{run}", "cancel"));
        assert_eq!(split_verb("/runs/{run}"), ("/runs/{run}", ""));
        assert_eq!(split_verb("/workflows:plan"), ("/workflows:plan", ""));
    }
}
