//! What handlers keep for later attempts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

#[cfg(target_os = "linux")]
use levelflow_common::HumanDuration;
use levelflow_proto::v1;
#[cfg(target_os = "linux")]
use levelflow_worker::MemoryConfig;
use levelflow_worker::{Context, HandlerCache, HandlerError, WorkerBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::coordinator::{Session, attempt, failure_of, outcome_of, session};
#[cfg(target_os = "linux")]
use crate::memory::resident_mib;

/// What a handler is to put, if anything, before it gets.
#[derive(Deserialize)]
struct Deed {
    key: Value,
    #[serde(default)]
    put: Option<Value>,
    #[serde(default)]
    scope: Option<String>,
    #[serde(default)]
    ttl_s: Option<u64>,
}

impl Deed {
    fn cache(&self, ctx: &Context) -> HandlerCache {
        let mut cache = ctx.cache();
        if let Some(scope) = &self.scope {
            cache = cache.scope(scope);
        }
        if let Some(seconds) = self.ttl_s {
            cache = cache.ttl(Duration::from_secs(seconds));
        }
        cache
    }
}

async fn perform(ctx: Context, deed: Deed) -> Result<Option<Value>, HandlerError> {
    let cache = deed.cache(&ctx);
    if let Some(value) = &deed.put {
        cache.put(&deed.key, value)?;
    }
    cache.get(&deed.key).await
}

fn performing(builder: WorkerBuilder) -> WorkerBuilder {
    builder
        .handler("a", perform)
        .handler("b", perform)
        .handler("length", async |ctx: Context, key: Value| {
            let fresh = async || Ok(0_usize);
            ctx.cache()
                .scope("s")
                .get_or_compute::<_, usize, _, _>(&key, fresh)
                .await
        })
        .handler("odd key", async |ctx: Context, (): ()| {
            let key = BTreeMap::from([((1, 2), 3)]);
            ctx.cache().get::<_, u32>(&key).await
        })
}

/// What a handler says for a tenant.
async fn said(session: &mut Session, tenant: &str, handler: &str, input: Value) -> Value {
    let attempt = v1::Attempt {
        tenant: tenant.to_owned(),
        ..attempt(1, handler, &input.to_string())
    };
    let outcome = outcome_of(session, attempt).await;
    assert_eq!(outcome.failure, None);
    serde_json::from_slice(&outcome.output).unwrap()
}

#[tokio::test]
async fn values_are_kept_for_a_handler_and_a_tenant() {
    let (mut session, _worker) = session(performing).await;
    let key = json!([1, "a"]);
    for (tenant, handler, put, scope, got) in [
        ("x", "a", json!(null), json!(null), json!(null)),
        ("x", "a", json!({ "n": 7 }), json!(null), json!({ "n": 7 })),
        ("x", "a", json!(null), json!(null), json!({ "n": 7 })),
        ("x", "b", json!(null), json!(null), json!(null)),
        ("y", "a", json!(null), json!(null), json!(null)),
        ("x", "a", json!("both"), json!("s"), json!("both")),
        ("x", "b", json!(null), json!("s"), json!("both")),
        ("y", "b", json!(null), json!("s"), json!(null)),
        // A scope that is called like a handler is not that of the handler.
        ("x", "b", json!(null), json!("a"), json!(null)),
        ("x", "a", json!(8), json!(null), json!(8)),
        ("x", "a", json!(null), json!(null), json!(8)),
    ] {
        let input = json!({ "key": key, "put": put, "scope": scope });
        let shown = format!("{tenant} {handler} {input}");
        assert_eq!(
            said(&mut session, tenant, handler, input).await,
            got,
            "{shown}"
        );
    }
}

#[tokio::test]
async fn what_cannot_be_kept_or_read_is_computed() {
    let (mut session, _worker) = session(performing).await;
    let no_time = json!({ "key": 1, "put": 7, "ttl_s": 0 });
    assert_eq!(said(&mut session, "x", "a", no_time).await, json!(null));
    let text = json!({ "key": 1, "put": "text", "scope": "s" });
    assert_eq!(said(&mut session, "x", "a", text).await, "text");
    // It asks for a number.
    assert_eq!(said(&mut session, "x", "length", json!(1)).await, 0);
    let kept = json!({ "key": 1, "scope": "s" });
    assert_eq!(said(&mut session, "x", "b", kept).await, 0);
    let (code, message, retryable) = failure_of(&mut session, attempt(1, "odd key", "null")).await;
    assert_eq!((code.as_str(), retryable), ("handler_failed", false));
    assert_eq!(
        message,
        "it cannot be written as JSON: key must be a string"
    );
}

#[tokio::test]
async fn attempts_that_need_the_same_compute_it_once() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let (begun, mut begins) = watch::channel(0);
    let (open, gate) = watch::channel(false);
    let (mut session, _worker) = session(|builder| {
        builder.handler("price", move |ctx: Context, currency: String| {
            let (begun, mut gate) = (begun.clone(), gate.clone());
            let calls = Arc::clone(&counted);
            async move {
                begun.send_modify(|count| *count += 1);
                let compute = async || {
                    gate.wait_for(|open| *open).await?;
                    let call = calls.fetch_add(1, Ordering::Relaxed) + 1;
                    if call == 1 {
                        return Err(HandlerError::permanent("nobody answers"));
                    }
                    Ok(f64::from(call) / 4.0)
                };
                ctx.cache().get_or_compute(&currency, compute).await
            }
        })
    })
    .await;
    let price = |token| attempt(token, "price", "\"eur\"");
    session.dispatch(vec![price(1)]).await;
    begins.wait_for(|count| *count == 1).await.unwrap();
    open.send(true).unwrap();
    let failure = session.outcome().await.failure.unwrap();
    assert_eq!(failure.message, "nobody answers");
    assert!(!failure.retryable);

    // A failure is not kept.
    open.send(false).unwrap();
    session.dispatch((2..=6).map(price).collect()).await;
    begins.wait_for(|count| *count == 6).await.unwrap();
    open.send(true).unwrap();
    for outcome in session.outcomes(5).await {
        assert_eq!((outcome.failure, &outcome.output[..]), (None, &b"0.5"[..]));
    }
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_is_kept_goes_when_memory_is_short() {
    let (open, gate) = watch::channel(false);
    let memory = MemoryConfig {
        warning_mib: resident_mib() + 128,
        critical_mib: 0,
        interval: HumanDuration(Duration::from_millis(10)),
        ..MemoryConfig::default()
    };
    let (mut session, _worker) = session(|builder| {
        performing(builder)
            .memory(memory)
            .handler("hold", move |_: Context, (): ()| {
                let mut gate = gate.clone();
                async move {
                    let held = vec![1_u8; 256 * 1024 * 1024];
                    gate.wait_for(|open| *open).await?;
                    Ok(held.len())
                }
            })
    })
    .await;
    let put = json!({ "key": 1, "put": 7 });
    assert_eq!(said(&mut session, "x", "a", put).await, 7);
    session.dispatch(vec![attempt(2, "hold", "null")]).await;
    let sheds = |session: &Session| session.heartbeat.as_ref().is_some_and(|it| it.refuses_low);
    session.until(sheds).await;
    let get = json!({ "key": 1 });
    assert_eq!(said(&mut session, "x", "a", get).await, json!(null));
    open.send(true).unwrap();
    assert_eq!(session.outcome().await.failure, None);
}
