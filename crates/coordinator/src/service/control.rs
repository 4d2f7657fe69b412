//! Cancelling and resuming runs, and explaining their tasks.

use levelflow_common::{Code, RunId, RunStatus, TaskStatus};
use levelflow_engine::record::{Kept, KeptEnd, Submitted};
use levelflow_engine::task::Place;
use levelflow_engine::{Explanation, Rejection, RunState, TaskIndex};
use levelflow_proto::{ApiError, v1};

use super::{Backend, refused};
use crate::actor::{Message, Refused};
use crate::cluster::{Peer, elsewhere};

impl Backend {
    pub(crate) async fn cancel(
        &self,
        run_id: RunId,
        reason: String,
    ) -> Result<RunStatus, ApiError> {
        let here = || self.cancel_here(run_id, reason.clone());
        let there = |peer: Peer| {
            let reason = reason.clone();
            async move { peer.cancel(run_id, reason).await }
        };
        self.cluster.at_run(run_id, here, there).await
    }

    async fn cancel_here(&self, run_id: RunId, reason: String) -> Result<RunStatus, ApiError> {
        let answer = self
            .ask(|reply| Message::Cancel {
                run_id,
                reason: reason.into(),
                reply,
            })
            .await?;
        match answer {
            Ok(status) => Ok(status),
            Err(Refused::Engine(Rejection::RunNotFound(_))) => {
                let status = self.stored_state(run_id).await?.status;
                self.check_is_here(run_id, status)?;
                let ended = Rejection::RunEnded { run_id, status };
                Err(refused(&ended.into()))
            }
            Err(why) => Err(refused(&why)),
        }
    }

    pub(crate) async fn resume(&self, run_id: RunId) -> Result<v1::ResumeRunResponse, ApiError> {
        let here = || self.resume_here(run_id);
        let there = |peer: Peer| async move { peer.resume(run_id).await };
        self.cluster.at_run(run_id, here, there).await
    }

    async fn resume_here(&self, run_id: RunId) -> Result<v1::ResumeRunResponse, ApiError> {
        let open = self.ask(|reply| Message::View { run_id, reply }).await?;
        let state = match open {
            Some(view) if !view.summary.status.is_terminal() => {
                return Err(not_resumable(run_id, view.summary.status));
            }
            _ => self.stored_state(run_id).await?,
        };
        self.check_is_here(run_id, state.status)?;
        if state.status == RunStatus::Succeeded {
            return Err(not_resumable(run_id, state.status));
        }
        let kept = kept(&state, run_id);
        let count = kept.len() as u32;
        let submitted = Submitted {
            run_id: self.cluster.new_run(&state.submitted.tenant, None),
            key: None,
            resumed_from: Some(run_id),
            kept,
            ..(*state.submitted).clone()
        };
        let accepted = self
            .submit_new(Box::new(submitted), state.definition.clone())
            .await?;
        Ok(v1::ResumeRunResponse {
            run_id: accepted.run_id.to_string(),
            kept: count,
        })
    }

    pub(crate) async fn explain(
        &self,
        run_id: RunId,
        task_id: String,
        item: Option<u32>,
    ) -> Result<Explanation, ApiError> {
        let here = || self.explain_here(run_id, &task_id, item);
        let there = |peer: Peer| {
            let task_id = task_id.clone();
            async move { peer.explain(run_id, task_id, item).await }
        };
        self.cluster.at_run(run_id, here, there).await
    }

    async fn explain_here(
        &self,
        run_id: RunId,
        task_id: &str,
        item: Option<u32>,
    ) -> Result<Explanation, ApiError> {
        let open = self
            .ask(|reply| Message::Explain {
                run_id,
                task_id: task_id.to_owned(),
                item,
                reply,
            })
            .await?;
        match open {
            Ok(explanation) => Ok(explanation),
            Err(Rejection::RunNotFound(_)) => {
                let state = self.stored_state(run_id).await?;
                self.check_is_here(run_id, state.status)?;
                let task = state.find(task_id, item).ok_or_else(|| {
                    let task = task_id.to_owned();
                    refused(&Rejection::TaskNotFound { run_id, task }.into())
                })?;
                Ok(Explanation {
                    status: state.task(task).status,
                    reasons: state.reasons(self.clock.now(), task),
                })
            }
            Err(rejection) => Err(refused(&rejection.into())),
        }
    }
}

impl Backend {
    /// A run that is open and not in the memory of the actor is on its way to another coordinator.
    fn check_is_here(&self, run_id: RunId, status: RunStatus) -> Result<(), ApiError> {
        match status.is_terminal() {
            true => Ok(()),
            false => Err(elsewhere(self.cluster.shard_of(run_id))),
        }
    }
}

fn not_resumable(run_id: RunId, status: RunStatus) -> ApiError {
    let status = status.as_str();
    ApiError::new(
        Code::NotResumable,
        format!("run {run_id} is {status}; only failed and cancelled runs can be resumed"),
    )
}

/// The results of an ended run that a new one can go on from.
fn kept(state: &RunState, run_id: RunId) -> Vec<Kept> {
    let mut kept = Vec::new();
    for index in 0..state.tasks.len() as u32 {
        let task = state.task(TaskIndex(index));
        let from = task.reused_from.as_deref().copied().unwrap_or(run_id);
        let end = match (task.status, &task.output) {
            (TaskStatus::Succeeded, Some(output)) => KeptEnd::Succeeded(output.clone()),
            (TaskStatus::Skipped, _) if task.skipped_by.is_none() => KeptEnd::Skipped,
            _ => continue,
        };
        match task.place {
            Place::Whole | Place::List { .. } => kept.push(Kept {
                task: TaskIndex(index),
                item: None,
                end,
                from,
            }),
            // Items matter only where their list did not succeed as a whole.
            Place::Item { of, position } if state.task(of).status != TaskStatus::Succeeded => {
                kept.push(Kept {
                    task: of,
                    item: Some(position),
                    end,
                    from,
                });
            }
            Place::Item { .. } => {}
        }
    }
    kept
}
