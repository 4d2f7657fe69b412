//! What the cache costs a task: its key, a hit in memory, keeping its result.
//!
//! `cargo bench -p levelflow-cache`

use std::sync::Arc;
use std::time::Duration;

use divan::Bencher;
use divan::counter::BytesCount;
use levelflow_cache::{Cache, CacheConfig, CanonicalJson, Computed, KeyParts, Subject, Terms};
use levelflow_common::{CacheKey, TaskKind, Timestamp, WorkflowDigest};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of an input or output; those over 1 KiB are compressed.
const SIZES: [usize; 3] = [200, 4_000, 64_000];

fn main() {
    divan::main();
}

/// JSON of about so many bytes, as tasks have it.
fn json(bytes: usize) -> Vec<u8> {
    let rows = (0..bytes / 50).map(|row| {
        serde_json::json!({ "id": row, "name": format!("customer {row}"), "balance": row as f64 / 7.0 })
    });
    serde_json::to_vec(&rows.collect::<Vec<_>>()).expect("rows are JSON")
}

/// A cache that holds the result of one task, in the runtime that it belongs to.
fn cache(output: &[u8]) -> (tokio::runtime::Runtime, Cache, CacheKey) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("there are threads");
    let guard = runtime.enter();
    let clock = Arc::new(Timestamp::default);
    let cache = Cache::start(CacheConfig::default(), clock).expect("the defaults are right");
    drop(guard);
    let key = CacheKey::from_bytes([1; 32]);
    put(&cache, &key, output);
    (runtime, cache, key)
}

fn put(cache: &Cache, key: &CacheKey, output: &[u8]) {
    let computed = Computed::output(output.to_vec(), Duration::from_secs(2));
    cache
        .put(key, computed, Terms::default())
        .expect("it is small enough");
}

/// The key of a task, from its input as bytes.
#[divan::bench(args = SIZES)]
fn key(bencher: Bencher<'_, '_>, size: usize) {
    let input = json(size);
    let definition = WorkflowDigest::of(b"{}");
    bencher
        .counter(BytesCount::new(input.len()))
        .bench_local(|| {
            let input = CanonicalJson::parse(&input).expect("it is JSON");
            let parts = KeyParts {
                tenant: "default",
                scope: "",
                kind: TaskKind::Http,
                definition,
                subject: Subject::Input(&input),
                handler_version: "",
            };
            parts.key()
        });
}

/// A hit in memory: found, checked, inflated and read.
#[divan::bench(args = SIZES)]
fn hit(bencher: Bencher<'_, '_>, size: usize) {
    let output = json(size);
    let (_runtime, cache, key) = cache(&output);
    bencher
        .counter(BytesCount::new(output.len()))
        .bench_local(|| cache.lookup_memory(&key).expect("it was put"));
}

/// A result is packed, sealed and kept in place of the one before.
#[divan::bench(args = SIZES)]
fn keep(bencher: Bencher<'_, '_>, size: usize) {
    let output = json(size);
    let (_runtime, cache, key) = cache(&output);
    bencher
        .counter(BytesCount::new(output.len()))
        .bench_local(|| put(&cache, &key, &output));
}
