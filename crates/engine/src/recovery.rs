//! Going on with runs from their journals.

use std::sync::Arc;

use levelflow_common::{Protection, RunStatus, TaskStatus, Timestamp};

use crate::command::BatchNumber;
use crate::definition::Definition;
use crate::engine::Engine;
use crate::record::{Record, RunNumber, TaskIndex};
use crate::run::{ReplayError, RunState};
use crate::timer::Timer;

impl Engine {
    /// Goes on with an open run. Attempts that were under way are given out again under new tokens.
    ///
    /// # Errors
    /// When the journal is damaged.
    pub fn restore(
        &mut self,
        now: Timestamp,
        number: RunNumber,
        definition: Arc<Definition>,
        records: &[Record],
    ) -> Result<(), ReplayError> {
        let state = RunState::replay(number, definition.clone(), records)?;
        self.limits.recovered(now);
        let (key, _) = self.open(
            number,
            state.submitted.clone(),
            definition,
            BatchNumber::default(),
        );
        let run = self.run_mut(key);
        run.state = state;
        run.gate.level_completed(&run.state);
        if run.state.status != RunStatus::Running {
            run.gate.close();
            self.finish_if_done(now, key);
            return Ok(());
        }
        let submitted_at = run.state.submitted_at;
        self.arm_run_timeout(submitted_at, key);
        for task in 0..self.run(key).state.tasks.len() as u32 {
            let task = TaskIndex(task);
            let state = self.run(key).state.task(task);
            match (state.status, state.wakes_at) {
                // Items go on when the values of their list are known again.
                (TaskStatus::Running, _) => {
                    self.arm_task_timeout(key, task);
                    self.prepare(key, task);
                }
                _ if self.run(key).state.item(task).is_some() => {}
                (TaskStatus::Ready, _) => self.admit(now, key, task),
                (TaskStatus::Backoff, _) if !Protection::DurableBackoff.holds() => {
                    self.admit(now, key, task);
                }
                (TaskStatus::Backoff | TaskStatus::Sleeping, Some(at)) => {
                    self.arm_task_timeout(key, task);
                    self.arm(key, at, Timer::Wake(key, task));
                }
                _ => {}
            }
        }
        self.finish_if_done(now, key);
        Ok(())
    }
}
