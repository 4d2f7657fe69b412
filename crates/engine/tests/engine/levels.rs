//! What is told when all tasks of a level have ended.

use bytes::Bytes;
use levelflow_common::event::{LevelOutput, RunEvent};
use levelflow_common::limits::{
    MAX_LEVEL_OUTPUT_BYTES, MAX_LEVEL_OUTPUTS, MAX_LEVEL_OUTPUTS_BYTES,
};
use levelflow_common::view::TaskCounts;
use levelflow_common::{Code, Failure, RunId, TaskStatus};
use levelflow_engine::record::{Kept, KeptEnd};
use levelflow_engine::{Record, RunState, TaskIndex};
use serde_json::json;

use crate::definitions::{define, flow, task};
use crate::shell::Shell;

/// The end of a level, as it is told.
struct End {
    level: u32,
    counts: TaskCounts,
    outputs: Vec<LevelOutput>,
    unlisted: u32,
}

impl End {
    /// What is told of each output: its task and the text, or its length alone.
    fn texts(&self) -> Vec<(&str, String)> {
        let text = |output: &LevelOutput| match &output.output {
            Some(value) => String::from_utf8(value.to_vec()).unwrap(),
            None => format!("{} bytes", output.bytes),
        };
        let outputs = self.outputs.iter();
        outputs.map(|it| (&*it.task_id, text(it))).collect()
    }
}

/// The ends of levels that a watcher is told who reads these records.
fn told(fold: &RunState, records: &[Record]) -> Vec<End> {
    let definition = fold.definition.clone();
    let mut state = RunState::new(fold.number, fold.submitted.clone(), definition);
    let mut ends = Vec::new();
    for record in records {
        for event in state.advance(record).events {
            if let RunEvent::LevelCompleted {
                level,
                counts,
                outputs,
                unlisted,
            } = event
            {
                ends.push(End {
                    level,
                    counts,
                    outputs,
                    unlisted,
                });
            }
        }
    }
    ends
}

fn told_of(shell: &Shell, run: RunId) -> Vec<End> {
    let number = shell.numbers[&run];
    told(&shell.store[&number], &shell.journals[&number])
}

/// The end of each level of an ended run is told once, with all its tasks.
pub(crate) fn check(fold: &RunState, records: &[Record]) {
    let ends = told(fold, records);
    let mut levels: Vec<u32> = ends.iter().map(|end| end.level).collect();
    levels.sort_unstable();
    let count = fold.definition.plan.levels().len() as u32;
    assert_eq!(levels, (0..count).collect::<Vec<_>>());
    let mut counts = TaskCounts::default();
    for end in &ends {
        counts.total += end.counts.total;
        counts.succeeded += end.counts.succeeded;
        counts.failed += end.counts.failed;
        counts.skipped += end.counts.skipped;
        counts.cancelled += end.counts.cancelled;
    }
    assert_eq!(counts, fold.counts, "levels count what the run counts");
    let outputs = ends.iter().flat_map(|end| &end.outputs);
    for output in outputs {
        let index = fold.find(&output.task_id, None).expect("a known task");
        assert_eq!(output.output, fold.task(index).output);
    }
}

#[test]
fn the_end_of_a_level_tells_how_its_tasks_ended_and_what_they_gave() {
    let mut shell = Shell::with_worker(8);
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task("b", &[], json!({ "continue_on_error": true })),
        task("list", &["a"], json!({ "for_each": { "items": [1, 2] } })),
        task("no", &["a"], json!({ "when": "inputs.no" })),
        task("last", &["no"], json!({})),
    ]));
    shell.finish("a", Ok(Bytes::from_static(b"{\"n\":1}")));
    shell.settle();
    let before: Vec<u32> = told_of(&shell, run).iter().map(|end| end.level).collect();
    assert_eq!(before, [2], "`b` and the items have not ended");
    shell.finish("b", Err(Failure::permanent(Code::HandlerFailed, "no")));
    shell.work();

    let ends = told_of(&shell, run);
    let levels: Vec<u32> = ends.iter().map(|end| end.level).collect();
    assert_eq!(levels, [2, 0, 1], "in the order in which they ended");
    assert_eq!(
        ends[1].counts,
        TaskCounts {
            total: 2,
            succeeded: 1,
            failed: 1,
            ..TaskCounts::default()
        }
    );
    assert_eq!(ends[1].texts(), [("a", r#"{"n":1}"#.to_owned())]);
    assert_eq!(
        ends[2].counts,
        TaskCounts {
            total: 4,
            succeeded: 3,
            skipped: 1,
            ..TaskCounts::default()
        },
        "items belong to the level of their list"
    );
    assert_eq!(ends[2].texts(), [("list", "[1,1]".to_owned())]);
    check(shell.state(run), &shell.journals[&shell.numbers[&run]]);
}

#[test]
fn the_end_of_a_run_ends_the_levels_that_were_open() {
    let mut shell = Shell::with_worker(1);
    let run = shell.run(&flow([
        task("a", &[], json!({})),
        task(
            "b",
            &[],
            json!({ "type": "sleep", "with": { "duration": "1h" } }),
        ),
        task("c", &["b"], json!({})),
    ]));
    shell.succeed("a");
    assert!(told_of(&shell, run).is_empty());
    shell.cancel(run).unwrap();
    shell.settle();
    assert_eq!(shell.status(run, "c"), TaskStatus::Cancelled);
    let ends = told_of(&shell, run);
    let cancelled: Vec<_> = ends
        .iter()
        .map(|end| (end.level, end.counts.cancelled))
        .collect();
    assert_eq!(cancelled, [(0, 1), (1, 1)]);
    assert_eq!(ends[0].texts(), [("a", "1".to_owned())]);
}

#[test]
fn long_outputs_are_named_only() {
    let limit = MAX_LEVEL_OUTPUT_BYTES;
    let mut shell = Shell::with_worker(2);
    let run = shell.run(&flow([
        task("fits", &[], json!({})),
        task("long", &[], json!({})),
    ]));
    shell.finish("fits", Ok(Bytes::from(vec![b'1'; limit])));
    shell.finish("long", Ok(Bytes::from(vec![b'1'; limit + 1])));
    let ends = told_of(&shell, run);
    assert_eq!(
        ends[0].texts(),
        [
            ("fits", "1".repeat(limit)),
            ("long", format!("{} bytes", limit + 1))
        ]
    );
}

#[test]
fn what_one_record_tells_of_levels_is_bounded() {
    let count = MAX_LEVEL_OUTPUTS as u32 + 5;
    let tasks: Vec<_> = (0..count)
        .map(|number| task(&format!("t{number}"), &[], json!({})))
        .chain([task("after", &["t0"], json!({}))])
        .chain([task("rest", &["after"], json!({}))])
        .collect();
    let definition = define(json!({ "name": "wide", "tasks": tasks }));
    let from = RunId::from_slice(&[7; 16]).unwrap();
    let output = Bytes::from(vec![b'1'; MAX_LEVEL_OUTPUT_BYTES]);
    let mut shell = Shell::with_worker(1);
    let mut submitted = shell.submission(&definition);
    submitted.kept = (0..=count)
        .map(|task| Kept {
            task: TaskIndex(task),
            item: None,
            end: KeptEnd::Succeeded(output.clone()),
            from,
        })
        .collect();
    let run = submitted.run_id;
    shell.submit(submitted).unwrap();
    shell.settle();
    let ends = told_of(&shell, run);
    let listed: Vec<_> = ends
        .iter()
        .map(|end| (end.level, end.outputs.len(), end.unlisted))
        .collect();
    assert_eq!(listed, [(0, MAX_LEVEL_OUTPUTS, 5), (1, 0, 1)]);
    let told = ends[0].outputs.iter().filter_map(|it| it.output.as_ref());
    let bytes: usize = told.map(Bytes::len).sum();
    assert_eq!(bytes, MAX_LEVEL_OUTPUTS_BYTES);
}
