//! Looking at runs.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use levelflow_common::view::{RunSummary, RunView};
use levelflow_common::{Code, RunId, RunStatus, Timestamp};
use levelflow_engine::RunNumber;
use levelflow_proto::{ApiError, Enumeration as _, v1};
use levelflow_store::RunFilter;
use tokio::time::timeout;

use super::{Backend, store_error};
use crate::actor::Message;
use crate::cluster::Peer;

/// How long other coordinators have to tell how their runs stand.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const DEFAULT_PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;

/// A page of a list of runs.
pub(crate) struct Page {
    pub(crate) runs: Vec<RunSummary>,
    /// What to ask the next page with.
    pub(crate) next: Option<String>,
}

impl Backend {
    pub(crate) async fn view(&self, run_id: RunId) -> Result<RunView, ApiError> {
        let here = || self.view_here(run_id);
        let there = |peer: Peer| async move { peer.view(run_id).await };
        self.cluster.at_run(run_id, here, there).await
    }

    async fn view_here(&self, run_id: RunId) -> Result<RunView, ApiError> {
        let open = self.ask(|reply| Message::View { run_id, reply }).await?;
        match open {
            Some(view) => Ok(*view),
            None => Ok(self.stored_state(run_id).await?.view()),
        }
    }

    pub(crate) async fn list(&self, request: v1::ListRunsRequest) -> Result<Page, ApiError> {
        let limit = match request.page_size {
            0 => DEFAULT_PAGE,
            size => size.min(MAX_PAGE),
        };
        let cursor = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map(RunNumber).map_err(|_| {
                ApiError::new(Code::RequestInvalid, "`page_token` is not from a listing")
            })?),
        };
        let page = self
            .store
            .list(filter(request.clone())?, cursor, limit as usize)
            .await
            .map_err(store_error)?;
        let next = page.next.map(|next| next.0.to_string());
        let runs = self.with_open(page.runs).await?;
        let runs = self.with_open_elsewhere(&request, runs).await;
        Ok(Page { runs, next })
    }

    /// Of the open runs of other coordinators, those know more. One that does not answer leaves what the
    /// store has.
    async fn with_open_elsewhere(
        &self,
        request: &v1::ListRunsRequest,
        mut runs: Vec<RunSummary>,
    ) -> Vec<RunSummary> {
        let open = runs.iter().filter(|run| !run.status.is_terminal());
        let peers = self.cluster.peers_of(open.map(|run| run.run_id));
        let asked = peers.iter().map(async |(peer, shards)| {
            let rows = timeout(ANSWER_WITHIN, peer.list(request.clone())).await;
            let rows = rows.ok().and_then(Result::ok).unwrap_or_default();
            let owned = |row: &RunSummary| shards.contains(&self.cluster.shard_of(row.run_id));
            rows.into_iter().filter(owned).collect::<Vec<_>>()
        });
        let known: BTreeMap<RunId, RunSummary> = join_all(asked)
            .await
            .into_iter()
            .flatten()
            .map(|run| (run.run_id, run))
            .collect();
        for run in &mut runs {
            if let Some(known) = known.get(&run.run_id) {
                run.clone_from(known);
            }
        }
        runs
    }

    /// The store counts the tasks of a run when its status changes; of open runs the engine knows more.
    async fn with_open(&self, mut runs: Vec<RunSummary>) -> Result<Vec<RunSummary>, ApiError> {
        let run_ids: Vec<RunId> = runs
            .iter()
            .filter(|run| !run.status.is_terminal())
            .map(|run| run.run_id)
            .collect();
        if run_ids.is_empty() {
            return Ok(runs);
        }
        let open = self
            .ask(|reply| Message::Summaries { run_ids, reply })
            .await?;
        let open: BTreeMap<RunId, RunSummary> =
            open.into_iter().map(|run| (run.run_id, run)).collect();
        for run in &mut runs {
            if let Some(open) = open.get(&run.run_id) {
                run.clone_from(open);
            }
        }
        Ok(runs)
    }
}

fn filter(request: v1::ListRunsRequest) -> Result<RunFilter, ApiError> {
    let text = |text: String| (!text.is_empty()).then_some(text);
    let time = |micros| (micros > 0).then(|| Timestamp::from_micros(micros));
    let statuses = request
        .statuses
        .into_iter()
        .map(|status| RunStatus::required("statuses", status))
        .collect::<Result<_, _>>()?;
    Ok(RunFilter {
        statuses,
        workflow: text(request.workflow),
        tenant: text(request.tenant),
        labels: request.labels,
        submitted_after: time(request.submitted_after_us),
        submitted_before: time(request.submitted_before_us),
    })
}
