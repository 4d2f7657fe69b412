//! Listing and resetting breakers.

use levelflow_common::Code;
use levelflow_common::view::BreakerView;
use levelflow_proto::ApiError;

use super::Backend;
use crate::actor::Message;

impl Backend {
    pub(crate) async fn breakers(&self) -> Result<Vec<BreakerView>, ApiError> {
        self.ask(|reply| Message::Breakers { reply }).await
    }

    pub(crate) async fn reset_breaker(&self, upstream: String) -> Result<BreakerView, ApiError> {
        let reset = self
            .ask(|reply| Message::ResetBreaker {
                upstream: upstream.clone(),
                reply,
            })
            .await?;
        reset.ok_or_else(|| {
            ApiError::new(
                Code::BreakerNotFound,
                format!("no task has called an upstream `{upstream}` lately"),
            )
        })
    }
}
