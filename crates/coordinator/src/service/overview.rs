//! Looking at the coordinator, its workers and its alerts.

use bytes::Bytes;
use levelflow_common::Code;
use levelflow_common::alert::Alert;
use levelflow_common::overview::{AlertView, Overview, WorkerView};
use levelflow_proto::ApiError;
use tokio::sync::mpsc;

use super::Backend;
use crate::actor::Message;

const DEFAULT_ALERTS: u32 = 100;
const MAX_ALERTS: u32 = 1000;
/// Alerts that may wait for a client that reads slowly.
const BUFFER: usize = 16;

impl Backend {
    pub(crate) async fn workers(&self) -> Result<Vec<WorkerView>, ApiError> {
        self.ask(|reply| Message::Workers { reply }).await
    }

    pub(crate) async fn overview(&self) -> Result<Overview, ApiError> {
        self.ask(|reply| Message::Overview { reply }).await
    }

    /// The newest alerts after the one with that number, the oldest of them first; 0 for a usual number
    /// of them.
    pub(crate) async fn alerts(&self, after: u64, limit: u32) -> Result<Vec<AlertView>, ApiError> {
        let most = match limit {
            0 => DEFAULT_ALERTS,
            limit => limit.min(MAX_ALERTS),
        };
        let most = most as usize;
        let newest = self.ask(|reply| Message::NewestAlerts { after, most, reply });
        newest.await?.iter().map(alert_view).collect()
    }

    /// The alerts after the one with that number, and those that come.
    pub(crate) async fn follow_alerts(
        &self,
        after: u64,
    ) -> Result<mpsc::Receiver<Result<AlertView, ApiError>>, ApiError> {
        let mut feed = self.ask(|reply| Message::Alerts { after, reply }).await?;
        let (alerts, receiver) = mpsc::channel(BUFFER);
        levelflow_runtime::task::spawn("follow alerts", async move {
            for alert in std::mem::take(&mut feed.kept) {
                if alerts.send(alert_view(&alert)).await.is_err() {
                    return;
                }
            }
            loop {
                let alert = tokio::select! {
                    alert = feed.next() => alert,
                    () = alerts.closed() => return,
                };
                let Some(alert) = alert else {
                    return;
                };
                if alerts.send(alert_view(&alert)).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
}

pub(crate) fn alert_view(alert: &Alert) -> Result<AlertView, ApiError> {
    let subject = serde_json::to_vec(&alert.subject)
        .map_err(|error| ApiError::new(Code::Internal, error.to_string()))?;
    Ok(AlertView {
        number: alert.number,
        at: alert.at,
        kind: alert.subject.kind().as_str().to_owned(),
        is_all_clear: alert.subject.is_all_clear(),
        text: alert.subject.to_string(),
        subject: Bytes::from(subject),
    })
}
