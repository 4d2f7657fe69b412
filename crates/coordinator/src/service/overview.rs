//! Looking at the coordinator and its workers.

use levelflow_common::overview::{Overview, WorkerView};
use levelflow_proto::ApiError;

use super::Backend;
use crate::actor::Message;

impl Backend {
    pub(crate) async fn workers(&self) -> Result<Vec<WorkerView>, ApiError> {
        self.ask(|reply| Message::Workers { reply }).await
    }

    pub(crate) async fn overview(&self) -> Result<Overview, ApiError> {
        self.ask(|reply| Message::Overview { reply }).await
    }
}
