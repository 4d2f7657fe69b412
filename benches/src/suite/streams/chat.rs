//! The first chunk of a model's answer, asked directly and over a run.

use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use reqwest::Client;
use serde::Deserialize;
use serde_json::{Value, json};

use super::model::Model;
use super::sse::{self, Events};
use super::{Row, SLOWEST_US, now_us};
use crate::figure::Figure;
use crate::process::Cluster;

const QUESTION: &str = "How long does it take?";

/// What was seen in one round, in microseconds.
pub(super) struct Chats {
    direct: Histogram<u64>,
    levelflow: Histogram<u64>,
    from_model: Histogram<u64>,
}

/// The first piece of an answer.
struct First {
    micros: u64,
    /// From the model to here.
    under_way: u64,
}

impl Chats {
    /// Asks directly and over a run, in turns, one after the other.
    pub(super) async fn measure(cluster: &Cluster, model: &Model, count: u32) -> Result<Self> {
        let client = sse::client().http1_only().build()?;
        let address = cluster.http_address()?;
        let histogram = || Histogram::new_with_bounds(1, SLOWEST_US, 3);
        let mut chats = Self {
            direct: histogram()?,
            levelflow: histogram()?,
            from_model: histogram()?,
        };
        let mut request = json!({ "workflow": {
            "name": "chat",
            "tasks": [{ "id": "stream", "type": "chat", "with": {
                "base_url": model.base_url(), "model": "m", "prompt": QUESTION,
            } }],
        } });
        for _ in 0..count {
            let direct = ask(&client, model).await?;
            chats.direct.saturating_record(direct.micros);
            let first = run(&client, &address, &mut request).await?;
            chats.levelflow.saturating_record(first.micros);
            chats.from_model.saturating_record(first.under_way.max(1));
        }
        Ok(chats)
    }
}

/// Asks the model as a task does.
async fn ask(client: &Client, model: &Model) -> Result<First> {
    let question = json!({
        "model": "m", "stream": true, "messages": [{ "role": "user", "content": QUESTION }],
    });
    let started = Instant::now();
    let url = format!("{}/chat/completions", model.base_url());
    let response = client.post(url).json(&question).send().await?;
    let mut events = Events::of(response.error_for_status()?);
    let mut first = None;
    while let Some(event) = events.next().await? {
        if first.is_none() {
            let piece: Value = serde_json::from_str(&event.data)?;
            let text = piece["choices"][0]["delta"]["content"].as_str();
            first = Some(First::of(started, text)?);
        }
    }
    first.context("the model gave nothing")
}

/// Submits a run, and watches its task.
async fn run(client: &Client, address: &str, request: &mut Value) -> Result<First> {
    #[derive(Deserialize)]
    struct Submitted {
        run_id: String,
        workflow_digest: String,
    }
    let started = Instant::now();
    let url = format!("{address}/api/v1/runs");
    let response = client.post(url).json(request).send().await?;
    let submitted: Submitted = response.error_for_status()?.json().await?;
    let mut events = Events::of(sse::open(client, address, &submitted.run_id).await?);
    let mut first = None;
    while let Some(event) = events.next().await? {
        let data: Value = serde_json::from_str(&event.data)?;
        match event.name.as_str() {
            "chunks" if first.is_none() => {
                let text = data["chunks"][0]["text"].as_str();
                first = Some(First::of(started, text)?);
            }
            "ended" if data["state"] != "succeeded" => bail!("the task ended: {data}"),
            _ => {}
        }
    }
    *request = json!({ "workflow_digest": submitted.workflow_digest });
    first.context("the task gave no chunk")
}

impl First {
    /// Of a text that begins with when it was made.
    fn of(started: Instant, text: Option<&str>) -> Result<Self> {
        let text = text.context("a piece has a text")?;
        let made_at: u64 = text.split_whitespace().next().unwrap_or_default().parse()?;
        Ok(Self {
            micros: u64::try_from(started.elapsed().as_micros())?,
            under_way: now_us().saturating_sub(made_at),
        })
    }
}

/// The row over all rounds.
pub(super) fn row(model_ms: u64, rounds: &[Chats]) -> Row {
    let millis = |value: fn(&Chats) -> f64| Figure::of(rounds.iter().map(|one| value(one) / 1e3));
    Row::FirstChunk {
        model_ms,
        direct_p50_ms: millis(|one| median(&one.direct)),
        p50_ms: millis(|one| median(&one.levelflow)),
        p99_ms: millis(|one| one.levelflow.value_at_quantile(0.99) as f64),
        over_direct_ms: millis(|one| median(&one.levelflow) - median(&one.direct)),
        from_model_p50_ms: millis(|one| median(&one.from_model)),
    }
}

fn median(histogram: &Histogram<u64>) -> f64 {
    histogram.value_at_quantile(0.5) as f64
}
