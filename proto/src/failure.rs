//! Why an attempt, a task or a run failed.

use std::time::Duration;

use levelflow_common::{Code, Failure};

use crate::v1;

impl From<Failure> for v1::Failure {
    fn from(failure: Failure) -> Self {
        Self {
            code: failure.code.as_str().to_owned(),
            message: failure.message,
            retryable: failure.retryable,
            retry_after_us: failure
                .retry_after
                .map(|wait| u64::try_from(wait.0.as_micros()).unwrap_or(u64::MAX)),
        }
    }
}

impl From<v1::Failure> for Failure {
    /// A code that only the peer knows becomes [`Code::Internal`] and moves into the message.
    fn from(message: v1::Failure) -> Self {
        let failure = match Code::parse(&message.code) {
            Some(code) => Self::new(code, message.message, message.retryable),
            None => Self::new(
                Code::Internal,
                format!("{}: {}", message.code, message.message),
                message.retryable,
            ),
        };
        match message.retry_after_us {
            Some(wait) => failure.with_retry_after(Duration::from_micros(wait)),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back() {
        for &code in Code::ALL {
            for retryable in [true, false] {
                let failure = Failure::new(code, "it broke".to_owned(), retryable);
                assert_eq!(Failure::from(v1::Failure::from(failure.clone())), failure);
                let failure = failure.with_retry_after(Duration::from_millis(1500));
                assert_eq!(Failure::from(v1::Failure::from(failure.clone())), failure);
            }
        }
    }

    #[test]
    fn a_code_of_a_newer_peer_is_kept_in_the_message() {
        let failure = Failure::from(v1::Failure {
            code: "from_the_future".to_owned(),
            message: "it broke".to_owned(),
            retryable: true,
            retry_after_us: None,
        });
        assert_eq!(
            failure,
            Failure::retryable(Code::Internal, "from_the_future: it broke")
        );
    }
}
