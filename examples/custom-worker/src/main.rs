//! A worker with two handlers of its own: one reads a text file, one counts its words.

use std::collections::HashMap;

use levelflow_worker::{Worker, on_signal};

#[derive(serde::Deserialize)]
struct Count {
    text: String,
    top: usize,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let address = std::env::args()
        .nth(1)
        .unwrap_or("http://127.0.0.1:7400".into());
    let worker = Worker::builder()
        .address(address)
        .handler("read_text", async |_, path: String| {
            Ok(tokio::fs::read_to_string(path).await?)
        })
        .cpu_handler("count_words", |_, count: Count| Ok(most_used(&count)))
        .build()?;
    // Anew, should it have ended because its memory stayed full.
    Ok(worker.run(on_signal()?).await?.restart_program()?)
}

fn most_used(count: &Count) -> Vec<(String, usize)> {
    let words = count.text.split(|c: char| !c.is_alphabetic());
    let mut counts: HashMap<String, usize> = HashMap::new();
    for word in words.filter(|word| !word.is_empty()) {
        *counts.entry(word.to_lowercase()).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by(|(a, n), (b, m)| m.cmp(n).then_with(|| a.cmp(b)));
    counts.truncate(count.top);
    counts
}
