//! Models behind an OpenAI-compatible endpoint.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Uri};
use levelflow_runtime::http_client::{HttpClient, http_client};
use serde::{Deserialize, Serialize};

use crate::config::{EmbeddingModel, wrong};
use crate::embedder::Embedder;
use crate::error::{EmbeddingError, StartError};
use crate::vector::Vector;

/// Bytes of an answer for each text: 8192 numbers of up to 16 digits.
const MAX_ANSWER_BYTES_PER_TEXT: usize = 160 * 1024;

/// Asks an endpoint. The time that it takes is bounded by whoever asks.
pub(crate) struct Endpoint {
    uri: Uri,
    host: HeaderValue,
    model: String,
    authorization: Option<HeaderValue>,
    client: HttpClient,
}

#[derive(Serialize)]
struct Question<'a> {
    model: &'a str,
    input: &'a [Arc<str>],
    encoding_format: &'static str,
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Embedding>,
}

#[derive(Deserialize)]
struct Embedding {
    /// Some endpoints give the vectors in the order of the texts and leave this out.
    index: Option<usize>,
    embedding: Vec<f32>,
}

impl Endpoint {
    pub(crate) fn new(name: &str, config: &EmbeddingModel) -> Result<Self, StartError> {
        let invalid = |key: &str, problem: &str| wrong(&format!("models.{name}.{key}"), problem);
        let uri = config.uri();
        let uri = uri.ok_or_else(|| invalid("base_url", "is not an address"))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        let host = authority.rsplit('@').next().unwrap_or_default();
        let authorization = match config.key(name)? {
            None => None,
            Some(key) => {
                let mut value = HeaderValue::try_from(format!("Bearer {}", key.reveal()))
                    .map_err(|_| invalid("api_key", "has characters that no key may have"))?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self {
            host: HeaderValue::try_from(host)
                .map_err(|_| invalid("base_url", "is not an address"))?,
            uri,
            model: config.model.clone().unwrap_or_else(|| name.to_owned()),
            authorization,
            client: http_client(),
        })
    }

    fn request(&self, texts: &[Arc<str>]) -> Result<Request<Full<Bytes>>, EmbeddingError> {
        let question = Question {
            model: &self.model,
            input: texts,
            encoding_format: "float",
        };
        let body =
            serde_json::to_vec(&question).map_err(|error| EmbeddingError::Request(error.into()))?;
        let mut request = Request::post(self.uri.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request
            .body(Full::new(body.into()))
            .map_err(|error| EmbeddingError::Request(error.into()))
    }
}

#[async_trait]
impl Embedder for Endpoint {
    async fn embed(&self, texts: &[Arc<str>]) -> Result<Vec<Option<Vector>>, EmbeddingError> {
        let request = self.request(texts)?;
        let answer = self.client.request(request).await;
        let answer = answer.map_err(EmbeddingError::Unreachable)?;
        if !answer.status().is_success() {
            return Err(EmbeddingError::Status(answer.status().as_u16()));
        }
        let limit = MAX_ANSWER_BYTES_PER_TEXT * texts.len();
        let body = Limited::new(answer.into_body(), limit).collect().await;
        let body = body.map_err(EmbeddingError::Body)?.to_bytes();
        let answer: Answer = serde_json::from_slice(&body).map_err(EmbeddingError::Answer)?;
        in_order(answer, texts.len())
    }
}

/// Puts the vectors into the order of the texts.
fn in_order(answer: Answer, count: usize) -> Result<Vec<Option<Vector>>, EmbeddingError> {
    let mut vectors = vec![None; count];
    for (place, embedding) in answer.data.into_iter().enumerate() {
        let place = vectors.get_mut(embedding.index.unwrap_or(place));
        let place = place.filter(|place| place.is_none());
        let vector = Vector::new(embedding.embedding);
        *place.ok_or(EmbeddingError::Count)? = Some(vector.ok_or(EmbeddingError::Count)?);
    }
    match vectors.iter().all(Option::is_some) {
        true => Ok(vectors),
        false => Err(EmbeddingError::Count),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;
    use axum::{Json, Router};
    use levelflow_runtime::secret::Secret;
    use serde_json::{Value, json};
    use tokio::net::TcpListener;

    use super::*;

    /// Serves the answers of a function, and asks for the vectors of two texts.
    async fn ask(
        answer: fn(&HeaderMap, &Value) -> (StatusCode, Value),
    ) -> Result<Vec<Option<Vector>>, EmbeddingError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serve = async move |headers: HeaderMap, Json(question): Json<Value>| {
            let (status, answer) = answer(&headers, &question);
            (status, Json(answer))
        };
        let routes = Router::new().route("/v1/embeddings", post(serve));
        levelflow_runtime::task::spawn("endpoint", async move {
            axum::serve(listener, routes).await.unwrap();
        });
        let config = EmbeddingModel {
            model: Some("small-1".to_owned()),
            api_key: Some(Secret::new("hunter2")),
            ..EmbeddingModel::at(format!("http://{address}/v1/"))
        };
        let endpoint = Endpoint::new("small", &config).unwrap();
        endpoint.embed(&["one".into(), "two".into()]).await
    }

    #[tokio::test]
    async fn vectors_come_in_the_order_of_the_texts() {
        let vectors = ask(|headers, question| {
            assert_eq!(headers[AUTHORIZATION], "Bearer hunter2");
            let expected = json!({
                "model": "small-1", "input": ["one", "two"], "encoding_format": "float",
            });
            assert_eq!(*question, expected);
            let data = json!([
                { "object": "embedding", "index": 1, "embedding": [0.0, 2.0] },
                { "object": "embedding", "index": 0, "embedding": [3.0, 0.0] },
            ]);
            (
                StatusCode::OK,
                json!({ "data": data, "usage": { "total_tokens": 2 } }),
            )
        });
        let expected = [vec![1.0, 0.0], vec![0.0, 1.0]].map(Vector::new);
        assert_eq!(vectors.await.unwrap(), expected);
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        let refused = ask(|_, _| (StatusCode::TOO_MANY_REQUESTS, json!({})));
        assert!(matches!(refused.await, Err(EmbeddingError::Status(429))));
        let strange = ask(|_, _| (StatusCode::OK, json!({ "data": "none" })));
        assert!(matches!(strange.await, Err(EmbeddingError::Answer(_))));
        for answer in [
            (|_, _| (StatusCode::OK, json!({ "data": [{ "embedding": [1.0] }] })))
                as fn(&HeaderMap, &Value) -> (StatusCode, Value),
            |_, _| {
                let one = json!({ "index": 0, "embedding": [1.0] });
                (StatusCode::OK, json!({ "data": [one, one] }))
            },
            |_, _| {
                let data = json!([{ "embedding": [1.0] }, { "embedding": [0.0] }]);
                (StatusCode::OK, json!({ "data": data }))
            },
        ] {
            assert!(matches!(ask(answer).await, Err(EmbeddingError::Count)));
        }
        let long = ask(|_, _| (StatusCode::OK, json!({ "data": "x".repeat(400_000) })));
        assert!(matches!(long.await, Err(EmbeddingError::Body(_))));
    }

    #[tokio::test]
    async fn an_endpoint_that_is_not_there_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let config = EmbeddingModel::at(format!("http://{address}"));
        let endpoint = Endpoint::new("small", &config).unwrap();
        let asked = endpoint.embed(&["one".into()]).await;
        assert!(matches!(asked, Err(EmbeddingError::Unreachable(_))));
    }
}
