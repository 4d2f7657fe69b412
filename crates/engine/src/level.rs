//! What watchers are told when a level has ended.

use levelflow_common::TaskStatus;
use levelflow_common::event::{LevelOutput, RunEvent};
use levelflow_common::limits::{
    MAX_LEVEL_OUTPUT_BYTES, MAX_LEVEL_OUTPUTS, MAX_LEVEL_OUTPUTS_BYTES,
};
use levelflow_common::view::TaskCounts;

use crate::run::RunState;
use crate::task::Place;

/// How much of the outputs may be told again. Shared by the levels that one record ends, so that watchers
/// who come later are told the same.
pub(crate) struct Room {
    outputs: usize,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            outputs: MAX_LEVEL_OUTPUTS,
            bytes: MAX_LEVEL_OUTPUTS_BYTES,
        }
    }
}

impl RunState {
    /// The end of a level.
    pub(crate) fn tell_level(&self, level: u32, room: &mut Room) -> RunEvent {
        let mut counts = TaskCounts::default();
        let mut outputs = Vec::new();
        let mut unlisted = 0;
        for &task in &self.definition.plan.levels()[level as usize] {
            let state = self.task(task);
            count(&mut counts, state.status);
            if let Place::List {
                first,
                count: items,
                ..
            } = state.place
            {
                let items = &self.tasks[first as usize..(first + items) as usize];
                items
                    .iter()
                    .for_each(|item| count(&mut counts, item.status));
            }
            let Some(output) = &state.output else {
                continue;
            };
            if room.outputs == 0 {
                unlisted += 1;
                continue;
            }
            room.outputs -= 1;
            let has_room = output.len() <= MAX_LEVEL_OUTPUT_BYTES.min(room.bytes);
            if has_room {
                room.bytes -= output.len();
            }
            outputs.push(LevelOutput {
                task_id: self.definition.tasks[task.0 as usize].id.clone(),
                bytes: u32::try_from(output.len()).unwrap_or(u32::MAX),
                output: has_room.then(|| output.clone()),
            });
        }
        RunEvent::LevelCompleted {
            level,
            counts,
            outputs,
            unlisted,
        }
    }
}

fn count(counts: &mut TaskCounts, status: TaskStatus) {
    counts.total += 1;
    match status {
        TaskStatus::Succeeded => counts.succeeded += 1,
        TaskStatus::Failed => counts.failed += 1,
        TaskStatus::Skipped => counts.skipped += 1,
        _ => counts.cancelled += 1,
    }
}
