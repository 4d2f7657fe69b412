//! Tasks of type `chat`, against an endpoint that speaks the real wire format.

mod endpoint;
mod several;
mod stream;

use levelflow_proto::v1;
use levelflow_worker::{ChatModel, Secret, SecretsConfig, Worker};
use serde_json::{Value, json};

use crate::coordinator::{Coordinator, Running, Session, attempt, outcome_of};
use endpoint::{Answer, Endpoint};

/// A worker that knows the models of an endpoint, and may call it.
struct Asking {
    session: Session,
    _worker: Running,
}

impl Asking {
    async fn start(models: Vec<(&str, ChatModel)>) -> Self {
        Self::with_secrets(models, SecretsConfig::default()).await
    }

    async fn with_secrets(models: Vec<(&str, ChatModel)>, secrets: SecretsConfig) -> Self {
        let mut coordinator = Coordinator::start().await;
        let mut builder = Worker::builder()
            .address(coordinator.address.as_str())
            .secrets(secrets)
            .allow_http("127.0.0.1");
        for (name, model) in models {
            builder = builder.model(name, model);
        }
        let worker = Running::start(builder.build().unwrap());
        let (mut session, hello) = coordinator.accept().await;
        assert!(hello.kinds.contains(&"chat".to_owned()), "{hello:?}");
        // No heartbeat comes between, so that outcomes tell of all calls.
        session.welcome(60_000, &[]).await;
        session.until(|session| session.credits > 0).await;
        Self {
            session,
            _worker: worker,
        }
    }

    /// A worker that knows the models of an endpoint by their own names.
    async fn knowing<const N: usize>(endpoint: &Endpoint, names: [&str; N]) -> Self {
        let known = |name| (name, model(endpoint));
        Self::start(names.map(known).into()).await
    }

    async fn output(&mut self, input: Value) -> Value {
        let outcome = outcome_of(&mut self.session, chat(1, &input)).await;
        assert_eq!(outcome.failure, None);
        serde_json::from_slice(&outcome.output).unwrap()
    }

    async fn failure(&mut self, input: Value) -> v1::Failure {
        let outcome = outcome_of(&mut self.session, chat(1, &input)).await;
        outcome.failure.expect("it fails")
    }
}

fn model(endpoint: &Endpoint) -> ChatModel {
    ChatModel {
        base_url: endpoint.base_url.clone(),
        ..ChatModel::default()
    }
}

fn chat(token: u64, input: &Value) -> v1::Attempt {
    v1::Attempt {
        kind: v1::TaskKind::Chat.into(),
        ..attempt(token, "", &input.to_string())
    }
}

#[tokio::test]
async fn a_question_is_sent_and_its_answer_read() {
    let mut endpoint = Endpoint::start([("gpt-x", Answer::text("Hi!"))]).await;
    let small = ChatModel {
        model: Some("gpt-x".to_owned()),
        api_key: Some(Secret::new("sk-hunter2")),
        input_price: Some(1.0),
        output_price: Some(5.0),
        ..model(&endpoint)
    };
    let mut asking = Asking::start(vec![("small", small)]).await;
    let output = asking
        .output(json!({
            "model": "small",
            "system": "be short",
            "prompt": "hello",
            "temperature": 0,
            "max_tokens": 9,
            "stream": false,
        }))
        .await;
    assert_eq!(
        output,
        json!({
            "text": "Hi!",
            "model": "small",
            "finish_reason": "stop",
            "usage": { "prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12 },
            "cost": 2e-5,
            "failed": [],
        })
    );
    let asked = endpoint.asked().await;
    assert!(
        asked
            .head
            .starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{}",
        asked.head
    );
    assert!(
        asked
            .head
            .contains("\r\nauthorization: Bearer sk-hunter2\r\n"),
        "{}",
        asked.head
    );
    assert_eq!(
        asked.body,
        json!({
            "model": "gpt-x",
            "messages": [
                { "role": "system", "content": "be short" },
                { "role": "user", "content": "hello" },
            ],
            "temperature": 0.0,
            "max_tokens": 9,
            "stream": false,
        })
    );
}

#[tokio::test]
async fn json_is_read_and_must_be_json() {
    let endpoint = Endpoint::start([
        ("good", Answer::text("{\"mood\": \"good\"}")),
        ("bad", Answer::text("Sure! {\"mood\"")),
    ])
    .await;
    let mut asking = Asking::knowing(&endpoint, ["good", "bad"]).await;
    let ask = |model: &str, fallbacks: Value| {
        json!({
            "model": model,
            "fallbacks": fallbacks,
            "prompt": "how are you?",
            "response_format": { "type": "json_object" },
        })
    };
    let output = asking.output(ask("good", json!([]))).await;
    assert_eq!(output["json"], json!({ "mood": "good" }));
    let output = asking.output(ask("bad", json!(["good"]))).await;
    assert_eq!(output["model"], "good");
    assert_eq!(output["failed"][0]["model"], "bad");
    let failure = asking.failure(ask("bad", json!([]))).await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("chat_failed", true)
    );
    assert!(
        failure.message.contains("not the JSON that was asked for"),
        "{failure:?}"
    );
}

#[tokio::test]
async fn errors_of_an_endpoint_are_told_apart() {
    let endpoint = Endpoint::start([
        (
            "busy",
            Answer::error("429 Too Many Requests", "retry-after: 7\r\n", "slow down"),
        ),
        (
            "closed",
            Answer::error("401 Unauthorized", "", "no such key"),
        ),
        (
            "unknown",
            Answer::error("404 Not Found", "", "no such model"),
        ),
        (
            "broken",
            Answer::Document("502 Bad Gateway", "", "<html>bad</html>".to_owned()),
        ),
        ("lying", Answer::error("200 OK", "", "overloaded")),
        ("odd", Answer::Document("200 OK", "", "{}".to_owned())),
        ("silent", Answer::Silence),
    ])
    .await;
    let names = [
        "busy", "closed", "unknown", "broken", "lying", "odd", "silent",
    ];
    let mut asking = Asking::knowing(&endpoint, names).await;
    for (model, message, retryable) in [
        (
            "busy",
            "busy: the endpoint answered 429 Too Many Requests: slow down",
            true,
        ),
        (
            "closed",
            "closed: the endpoint answered 401 Unauthorized: no such key",
            false,
        ),
        (
            "unknown",
            "unknown: the endpoint answered 404 Not Found: no such model",
            false,
        ),
        (
            "broken",
            "broken: the endpoint answered 502 Bad Gateway: <html>bad</html>",
            true,
        ),
        ("lying", "lying: overloaded", true),
        ("odd", "odd: the answer has no `choices`", true),
        ("silent", "silent: no answer within 100ms", true),
    ] {
        let timeout = if model == "silent" { "100ms" } else { "10s" };
        let input = json!({ "model": model, "prompt": "hello", "timeout": timeout });
        let failure = asking.failure(input).await;
        assert_eq!(failure.code, "chat_failed");
        assert_eq!(
            (failure.message.as_str(), failure.retryable),
            (message, retryable)
        );
        let wait = (model == "busy").then_some(7_000_000);
        assert_eq!(failure.retry_after_us, wait, "{model}");
    }
}

#[tokio::test]
async fn what_cannot_be_asked_is_a_lasting_failure() {
    let endpoint = Endpoint::start([]).await;
    let mut asking = Asking::knowing(&endpoint, ["small"]).await;
    let failure = asking
        .failure(json!({ "model": "huge", "prompt": "hello" }))
        .await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("task_unsupported", false)
    );
    assert_eq!(
        failure.message,
        "this worker knows no model `huge`; it knows small"
    );

    let failure = asking
        .failure(json!({ "model": "m", "base_url": "http://10.1.2.3/v1", "prompt": "hello" }))
        .await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("egress_refused", false)
    );
    assert!(failure.message.starts_with("m: "), "{failure:?}");
}

#[tokio::test]
async fn a_task_may_name_its_endpoint() {
    let mut endpoint = Endpoint::start([("m", Answer::text("Hi!"))]).await;
    let mut asking = Asking::start(Vec::new()).await;
    let input = json!({
        "model": "m",
        "base_url": format!("{}/", endpoint.base_url),
        "api_key": "sk-1",
        "messages": [{ "role": "user", "content": [{ "type": "text", "text": "hello" }] }],
        "parameters": { "top_p": 0.5 },
    });
    let output = asking.output(input.clone()).await;
    assert_eq!(output["text"], "Hi!");
    let asked = endpoint.asked().await;
    assert!(
        asked.head.contains("\r\nauthorization: Bearer sk-1\r\n"),
        "{}",
        asked.head
    );
    assert_eq!(asked.body["messages"], input["messages"]);
    assert_eq!(asked.body["top_p"], 0.5);
    assert_eq!(
        asked.body["stream_options"],
        json!({ "include_usage": true })
    );
}

#[tokio::test]
async fn a_secret_is_masked_also_where_an_error_was_cut() {
    let key = "hunter2hunter2";
    let message = format!("{}{key}", "x".repeat(1_016));
    let mut endpoint =
        Endpoint::start([("m", Answer::error("400 Bad Request", "", &message))]).await;
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("KEY"), key).unwrap();
    let secrets = SecretsConfig {
        directory: Some(home.path().to_owned()),
        ..SecretsConfig::default()
    };
    let mut asking = Asking::with_secrets(Vec::new(), secrets).await;
    let input = json!({
        "model": "m", "base_url": endpoint.base_url, "api_key": [null], "prompt": "hello",
    });
    let place = v1::SecretPart {
        pointer: "/api_key".to_owned(),
        part: 0,
        name: "KEY".to_owned(),
    };
    let attempt = v1::Attempt {
        secrets: vec![place],
        ..chat(1, &input)
    };
    let failure = outcome_of(&mut asking.session, attempt).await.failure;
    let message = failure.unwrap().message;
    assert!(message.ends_with("xxx***"), "{message}");
    let asked = endpoint.asked().await;
    assert!(
        asked.head.contains(&format!("Bearer {key}\r\n")),
        "{}",
        asked.head
    );
}

#[tokio::test]
async fn a_cancel_ends_the_exchange() {
    let mut endpoint = Endpoint::start([("silent", Answer::Silence)]).await;
    let mut asking = Asking::knowing(&endpoint, ["silent"]).await;
    let input = json!({ "model": "silent", "prompt": "hello" });
    asking.session.dispatch(vec![chat(7, &input)]).await;
    endpoint.asked().await;
    asking.session.cancel(7).await;
    let outcome = asking.session.outcome().await;
    assert_eq!(outcome.failure.unwrap().code, "cancelled");
    assert_eq!(endpoint.gone().await, "silent");
}

#[test]
fn settings_of_models_are_checked_and_keys_are_not_shown() {
    let problem = |name: &str, model: ChatModel| {
        let built = Worker::builder().model(name, model).build();
        built.err().expect("it is refused").to_string()
    };
    let good = || ChatModel {
        base_url: "https://models.example/v1".to_owned(),
        api_key: Some(Secret::new("hunter2")),
        ..ChatModel::default()
    };
    assert_eq!(
        problem(
            "m",
            ChatModel {
                base_url: "models.example".to_owned(),
                ..good()
            }
        ),
        "`models.m.base_url` must be an address such as https://api.openai.com/v1"
    );
    assert_eq!(
        problem(
            "m",
            ChatModel {
                api_key_env: Some("X".to_owned()),
                ..good()
            }
        ),
        "`models.m.api_key` is given more than once; use one of `api_key`, `api_key_env` and \
         `api_key_file`"
    );
    assert_eq!(
        problem(
            "m",
            ChatModel {
                output_price: Some(-1.0),
                ..good()
            }
        ),
        "`models.m.output_price` must be 0 or more"
    );
    let shown = format!("{:?} {}", good(), serde_json::to_string(&good()).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
}
