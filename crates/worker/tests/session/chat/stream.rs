//! Answers that are read while they are written.

use serde_json::json;

use super::Asking;
use super::endpoint::{Answer, Endpoint, event, piece};

/// The last events of a stream.
fn end() -> Vec<u8> {
    let finish =
        event(&json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "stop" }] }));
    let usage = event(&json!({
        "choices": [],
        "usage": { "prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12 },
    }));
    [finish, usage, b"data: [DONE]\n\n".to_vec()].concat()
}

#[tokio::test]
async fn a_stream_is_read_wherever_it_is_cut() {
    let whole = [
        b": welcome\r\n\r\n".to_vec(),
        piece("Gr\u{fc}\u{df}e, "),
        String::from_utf8(piece("\u{1f980}!"))
            .unwrap()
            .replace('\n', "\r\n")
            .into_bytes(),
        end(),
    ]
    .concat();
    let bytes = whole.iter().map(|&byte| vec![byte]).collect();
    let endpoint = Endpoint::start([
        ("whole", Answer::Stream(vec![whole])),
        ("bytes", Answer::Stream(bytes)),
    ])
    .await;
    let mut asking = Asking::knowing(&endpoint, ["whole", "bytes"]).await;
    for model in ["whole", "bytes", "whole"] {
        let output = asking
            .output(json!({ "model": model, "prompt": "hello" }))
            .await;
        assert_eq!(
            output,
            json!({
                "text": "Gr\u{fc}\u{df}e, \u{1f980}!",
                "model": model,
                "finish_reason": "stop",
                "usage": { "prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12 },
                "failed": [],
            })
        );
    }
}

#[tokio::test]
async fn calls_of_functions_are_put_together() {
    let call =
        |part| event(&json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [part] } }] }));
    let pieces = vec![
        call(
            json!({ "index": 0, "id": "c1", "type": "function", "function": { "name": "get", "arguments": "" } }),
        ),
        call(json!({ "index": 0, "function": { "arguments": "{\"city\":" } })),
        call(json!({ "index": 0, "function": { "arguments": "\"Bonn\"}" } })),
        event(&json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "tool_calls" }] })),
        b"data: [DONE]\n\n".to_vec(),
    ];
    let mut endpoint = Endpoint::start([("m", Answer::Stream(pieces))]).await;
    let mut asking = Asking::knowing(&endpoint, ["m"]).await;
    let tools = json!([{ "type": "function", "function": { "name": "get", "parameters": {} } }]);
    let output = asking
        .output(
            json!({ "model": "m", "prompt": "weather?", "tools": tools, "tool_choice": "auto" }),
        )
        .await;
    let function = json!({ "name": "get", "arguments": "{\"city\":\"Bonn\"}" });
    assert_eq!(
        output["tool_calls"],
        json!([{ "id": "c1", "type": "function", "function": function }])
    );
    assert_eq!(
        (&output["text"], &output["usage"]),
        (&json!(""), &json!(null))
    );
    let asked = endpoint.asked().await;
    assert_eq!(
        (&asked.body["tools"], &asked.body["tool_choice"]),
        (&tools, &json!("auto"))
    );
}

#[tokio::test]
async fn half_and_broken_streams_are_passing_failures() {
    let half = || vec![piece("Hel"), piece("lo")];
    let endpoint = Endpoint::start([
        ("half", Answer::Stream(half())),
        ("cut", Answer::Cut(half())),
        (
            "garbage",
            Answer::Stream(vec![piece("Hel"), b"data: {]\n\n".to_vec()]),
        ),
        (
            "error",
            Answer::Stream(vec![
                piece("Hel"),
                event(&json!({ "error": { "message": "overloaded", "code": 503 } })),
            ]),
        ),
        (
            "endless",
            Answer::Stream(vec![b"data: ".to_vec(), vec![b'x'; 2 * 1024 * 1024]]),
        ),
    ])
    .await;
    let names = ["half", "cut", "garbage", "error", "endless"];
    let mut asking = Asking::knowing(&endpoint, names).await;
    for (model, message) in [
        ("half", "half: the answer broke off"),
        ("cut", "cut: the answer broke off: "),
        ("garbage", "garbage: the answer cannot be read: "),
        ("error", "error: overloaded"),
        (
            "endless",
            "endless: an event of the stream is longer than 1048576 bytes",
        ),
    ] {
        let failure = asking
            .failure(json!({ "model": model, "prompt": "hello" }))
            .await;
        assert!(failure.message.starts_with(message), "{failure:?}");
        assert_eq!(
            (failure.code.as_str(), failure.retryable),
            ("chat_failed", true)
        );
    }
    let long = (0..3).map(|_| piece(&"x".repeat(500_000))).collect();
    endpoint.set("half", Answer::Stream(long));
    let failure = asking
        .failure(json!({ "model": "half", "prompt": "hello" }))
        .await;
    assert_eq!(
        (failure.code.as_str(), failure.retryable),
        ("output_too_large", false)
    );
}
