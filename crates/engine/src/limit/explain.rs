//! Why a task is parked.

use std::time::Duration;

use levelflow_common::{HumanDuration, Timestamp};

use crate::engine::Engine;
use crate::event::RunKey;
use crate::explain::{Reason, reason};
use crate::limit::{LimitedTask, Stage};
use crate::live::LiveTask;
use crate::record::TaskIndex;

/// Holders of slots that a reason names.
const SHOWN: usize = 5;

impl Engine {
    pub(crate) fn why_parked(
        &self,
        now: Timestamp,
        key: RunKey,
        task: TaskIndex,
        since: Timestamp,
    ) -> Vec<Reason> {
        let Some(claim) = self.limits.claims.get(&(key, task)) else {
            return Vec::new();
        };
        let (first, waiting) = match (claim.stage, &claim.concurrency, claim.rate) {
            (Stage::WaitsForSlot, Some((name, limit)), _) => {
                let slots = &self.limits.slots[name];
                let held = slots.holders().len();
                let mut holders: Vec<String> = slots
                    .holders()
                    .take(SHOWN)
                    .map(|task| self.describe_holder(now, task))
                    .collect();
                if held > SHOWN {
                    holders.push(format!("{} more", held - SHOWN));
                }
                let holders = if holders.is_empty() {
                    "others are about to start".to_owned()
                } else {
                    format!("there are {}", holders.join(", "))
                };
                let text = format!(
                    "`concurrency` lets {limit} with key `{}` run at once, and {holders}",
                    name.1
                );
                (reason("concurrency", text), slots.waiting.len())
            }
            (Stage::WaitsForToken, _, Some((bucket, rate))) => {
                let bucket = &self.limits.buckets[bucket.0 as usize];
                let next = bucket.ready_at(rate).since(now);
                let next = if next == Duration::ZERO {
                    "now".to_owned()
                } else {
                    format!("in {next:.1?}")
                };
                let text = format!(
                    "`rate_limit` lets {} with key `{}` start per {}; the next may start {next}",
                    rate.limit,
                    bucket.name.1,
                    HumanDuration(rate.per)
                );
                (reason("rate_limit", text), bucket.waiting.len())
            }
            _ => return vec![reason("rejected", "its limits fail it")],
        };
        let waited = now.since(since);
        let place = format!("it has waited for {waited:.1?} among {waiting} tasks with that key");
        vec![first, reason("parked", place)]
    }

    fn describe_holder(&self, now: Timestamp, (key, task): LimitedTask) -> String {
        let state = &self.run(key).state;
        let id = &state.definition.tasks[state.defined(task).0 as usize].id;
        let item = match state.item(task) {
            Some(item) => format!("[{item}]"),
            None => String::new(),
        };
        let since = match self.run(key).tasks.get(task.0 as usize) {
            Some(&LiveTask::Leased(token)) => self.leases.get(token).map(|it| it.started_at),
            _ => None,
        };
        let ran = now.since(since.unwrap_or(now));
        let run_id = state.submitted.run_id;
        format!("`{id}{item}` of run {run_id} since {ran:.1?}")
    }
}
