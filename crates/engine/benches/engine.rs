//! The steps of the engine, one by one, by the number of tasks in a workflow.
//!
//! `cargo bench -p levelflow-engine`

#[path = "../examples/count_engine/closed_loop.rs"]
mod closed_loop;
#[path = "../examples/count_engine/random_dag.rs"]
mod random_dag;

use closed_loop::{ClosedLoop, fan};
use divan::Bencher;
use divan::counter::ItemsCount;
use levelflow_engine::plan::Plan;
use levelflow_engine::{Record, RunNumber, RunState};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tasks in a workflow.
const SIZES: [u32; 3] = [5, 100, 10_000];

/// Tasks of all runs together, whatever their size; as many as the worker has credits.
const TASKS: u32 = 10_000;

fn main() {
    divan::main();
}

/// Tasks of all runs together that are neither the first nor the last of theirs.
const fn middle(size: u32) -> u32 {
    TASKS / size * (size - 2)
}

/// Runs are accepted: their state, a first record each, their roots in the queue.
#[divan::bench(args = SIZES)]
fn submit(bencher: Bencher<'_, '_>, size: u32) {
    let definition = fan(size);
    bencher
        .counter(ItemsCount::new(TASKS))
        .with_inputs(|| ClosedLoop::new(definition.clone(), TASKS))
        .bench_local_refs(|engine| (0..TASKS / size).for_each(|_| engine.submit()));
}

/// Waiting tasks are given to a worker: a lease each.
#[divan::bench(args = SIZES)]
fn assign(bencher: Bencher<'_, '_>, size: u32) {
    let definition = fan(size);
    bencher
        .counter(ItemsCount::new(middle(size)))
        .with_inputs(|| {
            let mut engine = ClosedLoop::new(definition.clone(), TASKS);
            engine.turn((TASKS / size) as usize);
            engine.complete();
            engine
        })
        .bench_local_refs(ClosedLoop::assign);
}

/// Outcomes come in: a record each, and the tasks that waited for them go into the queue.
#[divan::bench(args = SIZES)]
fn complete(bencher: Bencher<'_, '_>, size: u32) {
    let definition = fan(size);
    bencher
        .counter(ItemsCount::new(middle(size)))
        .with_inputs(|| {
            let mut engine = ClosedLoop::new(definition.clone(), TASKS);
            engine.turn((TASKS / size) as usize);
            engine.turn((TASKS / size) as usize);
            engine
        })
        .bench_local_refs(ClosedLoop::complete);
}

/// Runs from their submits to their ends, with 64 of them open: one turn of the shell.
#[divan::bench]
fn turn(bencher: Bencher<'_, '_>) {
    let mut engine = ClosedLoop::new(fan(5), 512);
    bencher.bench_local(|| engine.turn(64));
}

/// A DAG is laid out, with three edges for each task.
#[divan::bench(args = [100, 10_000, 100_000])]
fn plan(bencher: Bencher<'_, '_>, tasks: u32) {
    let edges = random_dag::edges(tasks);
    bencher
        .counter(ItemsCount::new(tasks))
        .bench_local(|| Plan::new(tasks as usize, &edges).expect("edges lead upwards"));
}

/// The journal of a run is folded.
#[divan::bench(args = SIZES)]
fn fold(bencher: Bencher<'_, '_>, size: u32) {
    let definition = fan(size);
    let mut engine = ClosedLoop::new(definition.clone(), size);
    engine.submit();
    engine.assign();
    let mut journal: Vec<Record> = Vec::new();
    while let Some(batch) = engine.commit() {
        journal.extend(batch.entries.into_iter().flat_map(|entry| entry.records));
        engine.complete();
        engine.assign();
    }
    bencher
        .counter(ItemsCount::new(journal.len()))
        .bench_local(|| {
            RunState::replay(RunNumber(1), definition.clone(), &journal)
                .expect("the engine wrote the journal")
        });
}
