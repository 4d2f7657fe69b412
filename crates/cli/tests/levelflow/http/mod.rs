//! The HTTP API of a server in another process.

mod alerts;
mod document;
mod errors;
mod events;
mod limits;
mod metrics;
mod readme;
mod runs;
mod task_streams;
mod watchers;

use std::sync::Once;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::harness::{DEADLINE, Home, Running};

/// A server, and a client of its HTTP API. The server ends with the test.
struct Server {
    running: Running,
    api: Api,
}

/// A client of an HTTP API.
#[derive(Clone)]
struct Api {
    client: reqwest::Client,
    /// `http://HOST:PORT`
    base: String,
}

/// An answer that was read.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Server {
    async fn start(home: &Home) -> Self {
        Self::with(home, &[]).await
    }

    /// A server with settings.
    async fn with(home: &Home, settings: &[(&str, &str)]) -> Self {
        let mut command = home.command(&["dev", "--listen", "127.0.0.1:0", "--json"]);
        command.envs(settings.iter().copied());
        let mut running = Running::start(command);
        let ready = running.json_line().await;
        let api = Api::of(ready["http"].as_str().expect("it serves HTTP"));
        Self { running, api }
    }
}

impl Api {
    fn of(address: &str) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| {
            rustls::crypto::ring::default_provider()
                .install_default()
                .expect("no other is installed");
        });
        Self {
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            base: format!("http://{address}"),
        }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    /// Submits a workflow and gives the id of its run.
    async fn start(&self, workflow: &Value) -> String {
        let answer = self
            .post("/api/v1/runs", &json!({ "workflow": workflow }))
            .await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.body["run_id"].as_str().unwrap().to_owned()
    }
}

/// Sends a request and reads its answer.
async fn answer(request: RequestBuilder) -> Answer {
    let exchange = async {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.unwrap();
        Answer {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    };
    timeout(DEADLINE, exchange)
        .await
        .expect("the server answers before the deadline")
}
