//! Several models: one after the other, all at once, the cheapest, the fastest.

use std::collections::BTreeMap;

use levelflow_proto::v1;
use levelflow_worker::ChatModel;
use serde_json::{Value, json};

use super::endpoint::{Answer, Endpoint, piece};
use super::{Asking, chat, model};
use crate::coordinator::outcome_of;

#[tokio::test]
async fn the_next_model_is_asked_when_one_fails() {
    let mut endpoint = Endpoint::start([
        (
            "down",
            Answer::error("503 Service Unavailable", "", "maintenance"),
        ),
        ("half", Answer::Cut(vec![piece("Hel")])),
        ("good", Answer::text("Hi!")),
    ])
    .await;
    let mut asking = Asking::knowing(&endpoint, ["down", "half", "good"]).await;
    let input = json!({ "model": "down", "fallbacks": ["half", "good"], "prompt": "hello" });
    let outcome = outcome_of(&mut asking.session, chat(1, &input)).await;
    let output: Value = serde_json::from_slice(&outcome.output).unwrap();
    assert_eq!(
        (&output["text"], &output["model"]),
        (&json!("Hi!"), &json!("good"))
    );
    assert_eq!(
        output["failed"][0],
        json!({
            "model": "down",
            "error": "down: the endpoint answered 503 Service Unavailable: maintenance",
        })
    );
    assert_eq!(output["failed"][1]["model"], "half");
    assert_eq!(endpoint.models(), ["down", "half", "good"]);
    let calls: Vec<_> = outcome
        .calls
        .iter()
        .map(|call| (call.upstream.as_str(), call.failed))
        .collect();
    assert_eq!(
        calls,
        [
            ("chat:down", true),
            ("chat:half", true),
            ("chat:good", false)
        ]
    );
}

#[tokio::test]
async fn when_all_fail_the_reasons_are_told() {
    let endpoint = Endpoint::start([
        (
            "busy",
            Answer::error("429 Too Many Requests", "retry-after: 9\r\n", "later"),
        ),
        (
            "busier",
            Answer::error("429 Too Many Requests", "retry-after: 60\r\n", "later"),
        ),
        ("closed", Answer::error("401 Unauthorized", "", "no")),
    ])
    .await;
    let mut asking = Asking::knowing(&endpoint, ["busy", "busier", "closed"]).await;
    let models = json!({ "models": ["closed", "busier", "busy"], "prompt": "hello" });
    let failure = asking.failure(models).await;
    assert_eq!(
        failure.message,
        "no model answered: closed: the endpoint answered 401 Unauthorized: no; busier: the endpoint \
         answered 429 Too Many Requests: later; busy: the endpoint answered 429 Too Many Requests: later"
    );
    assert_eq!(
        (failure.retryable, failure.retry_after_us),
        (true, Some(9_000_000))
    );
}

#[tokio::test]
async fn a_model_whose_breaker_is_open_is_passed_over() {
    let mut endpoint =
        Endpoint::start([("first", Answer::text("1")), ("second", Answer::text("2"))]).await;
    let mut asking = Asking::knowing(&endpoint, ["first", "second"]).await;
    asking
        .session
        .send(v1::CoordinatorFrame {
            breakers: vec![v1::BreakerChange {
                upstream: "chat:first".to_owned(),
                open: true,
            }],
            ..v1::CoordinatorFrame::default()
        })
        .await;
    let both = json!({ "model": "first", "fallbacks": ["second"], "prompt": "hello" });
    let output = asking.output(both).await;
    assert_eq!(output["text"], "2");
    assert_eq!(
        output["failed"][0]["error"],
        "first: the breaker of upstream `chat:first` is open"
    );
    assert_eq!(endpoint.models(), ["second"]);

    // Alone it waits for its breaker, and that is no attempt.
    let alone = json!({ "models": ["first"], "prompt": "hello" });
    let outcome = outcome_of(&mut asking.session, chat(1, &alone)).await;
    assert_eq!(outcome.parked_on, "chat:first");
    assert!(endpoint.models().is_empty());
}

#[tokio::test]
async fn the_first_of_all_breaks_the_others_off() {
    let mut endpoint = Endpoint::start([
        ("silent", Answer::Silence),
        ("down", Answer::error("500 Internal Server Error", "", "oh")),
        ("good", Answer::text("Hi!")),
    ])
    .await;
    let mut asking = Asking::knowing(&endpoint, ["silent", "down", "good"]).await;
    let output = asking
        .output(json!({
            "models": ["silent", "down", "good"],
            "strategy": "parallel",
            "prompt": "hello",
        }))
        .await;
    assert_eq!(output["model"], "good");
    assert_eq!(endpoint.gone().await, "silent");
}

#[tokio::test]
async fn answers_are_fused() {
    let mut endpoint = Endpoint::start([
        ("a", Answer::text("no")),
        ("b", Answer::text("yes")),
        ("c", Answer::text("yes")),
        ("d", Answer::text("perhaps")),
        ("down", Answer::error("500 Internal Server Error", "", "oh")),
    ])
    .await;
    let mut asking = Asking::knowing(&endpoint, ["a", "b", "c", "d", "down"]).await;
    for strategy in ["serial", "parallel"] {
        let ask = |fuse: &str| {
            json!({
                "models": ["a", "b", "down", "c", "d"],
                "strategy": strategy,
                "fuse": fuse,
                "prompt": "hello",
            })
        };
        let output = asking.output(ask("vote")).await;
        assert_eq!(
            (&output["text"], &output["model"]),
            (&json!("yes"), &json!("b"))
        );
        assert_eq!(output["usage"]["total_tokens"], 48);
        assert_eq!(output["answers"].as_array().unwrap().len(), 4);
        assert_eq!(output["failed"][0]["model"], "down");
        let output = asking.output(ask("longest")).await;
        assert_eq!(output["model"], "d");
        let output = asking.output(ask("concat")).await;
        assert_eq!(output["text"], "no\n\nyes\n\nyes\n\nperhaps");
        let mut models = endpoint.models();
        if strategy == "parallel" {
            models.sort();
            assert_eq!(models.len(), 15);
        } else {
            assert_eq!(models[..5], ["a", "b", "down", "c", "d"]);
        }
    }
}

#[tokio::test]
async fn models_are_chosen_by_price_capability_and_speed() {
    let mut endpoint = Endpoint::start([
        ("dear", Answer::text("dear")),
        ("cheap", Answer::text("cheap")),
        ("blind", Answer::text("blind")),
    ])
    .await;
    let with = |price: f64, capabilities: &[&str]| ChatModel {
        input_price: Some(price),
        output_price: Some(price),
        capabilities: capabilities.iter().map(ToString::to_string).collect(),
        ..model(&endpoint)
    };
    let mut asking = Asking::start(vec![
        ("dear", with(9.0, &["vision"])),
        ("cheap", with(2.0, &["vision"])),
        ("blind", with(1.0, &[])),
    ])
    .await;
    let cheapest = json!({ "prefer": "cheapest", "require": ["vision"], "prompt": "hello" });
    assert_eq!(asking.output(cheapest.clone()).await["text"], "cheap");
    assert_eq!(
        asking
            .output(json!({ "prefer": "cheapest", "prompt": "hello" }))
            .await["text"],
        "blind"
    );
    endpoint.set(
        "cheap",
        Answer::error("500 Internal Server Error", "", "oh"),
    );
    assert_eq!(asking.output(cheapest).await["text"], "dear");
    endpoint.models();

    // Each is tried once; then that which failed comes last, and is not asked again.
    let fastest = json!({ "prefer": "fastest", "prompt": "hello" });
    let mut asked = BTreeMap::<String, usize>::new();
    for _ in 0..6 {
        asking.output(fastest.clone()).await;
    }
    for name in endpoint.models() {
        *asked.entry(name).or_default() += 1;
    }
    assert_eq!(asked.get("cheap"), None, "{asked:?}");
    assert_eq!(asked.values().sum::<usize>(), 6, "{asked:?}");

    let failure = asking
        .failure(json!({ "require": ["audio"], "prompt": "hello" }))
        .await;
    assert_eq!(failure.code, "task_unsupported");
}
