//! The subjects; `proto/levelflow/v1/nats.proto` lists them.

use std::sync::Arc;

use async_nats::Subject;

/// Bytes of a part of a subject.
const MAX_TOKEN_BYTES: usize = 128;

/// The subjects below a prefix.
#[derive(Clone, Debug)]
pub(super) struct Subjects {
    root: Arc<str>,
}

impl Subjects {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            root: format!("{prefix}.v1").into(),
        }
    }

    fn below(&self, rest: &str) -> Subject {
        Subject::from(format!("{}.{rest}", self.root))
    }

    /// Where coordinators say that they are there.
    pub(super) fn presence(&self) -> Subject {
        self.below("presence")
    }

    /// Where workers ask who is there.
    pub(super) fn query(&self) -> Subject {
        self.below("query")
    }

    /// Where a coordinator is asked for sessions.
    pub(super) fn open(&self, coordinator: &str) -> Subject {
        self.below(&format!("open.{coordinator}"))
    }

    /// The coordinator's end of a session.
    pub(super) fn coordinator(&self, coordinator: &str, session: &str) -> Subject {
        self.below(&format!("coordinator.{coordinator}.{session}"))
    }

    /// The worker's end of a session.
    pub(super) fn worker(&self, process: &str, session: &str) -> Subject {
        self.below(&format!("worker.{process}.{session}"))
    }

    /// Whether a subject is a worker's end of a session.
    pub(super) fn is_worker(&self, subject: &str, session: &str) -> bool {
        let process = subject
            .strip_prefix(&*self.root)
            .and_then(|rest| rest.strip_prefix(".worker."))
            .and_then(|rest| rest.strip_suffix(session))
            .and_then(|rest| rest.strip_suffix('.'));
        process.is_some_and(is_token) && is_token(session)
    }
}

/// Whether a text can be one part of a subject.
pub(super) fn is_token(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !text.is_empty() && text.len() <= MAX_TOKEN_BYTES && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_worker_ends_of_a_session_are_answered() {
        let subjects = Subjects::new("acme.flow");
        let worker = subjects.worker("w1", "s1");
        assert_eq!(worker.as_str(), "acme.flow.v1.worker.w1.s1");
        assert!(subjects.is_worker(&worker, "s1"));
        for (subject, session) in [
            ("acme.flow.v1.worker.w1.s2", "s1"),
            ("acme.flow.v1.worker.w1.x.s1", "s1"),
            ("acme.flow.v1.worker.*.s1", "s1"),
            ("acme.flow.v1.worker..s1", "s1"),
            ("acme.flow.v1.worker.s1", "s1"),
            ("acme.flow.v1.worker.w1.", ""),
            ("acme.flow.v1.coordinator.w1.s1", "s1"),
            ("other.v1.worker.w1.s1", "s1"),
            ("$SYS.REQ", "s1"),
        ] {
            assert!(!subjects.is_worker(subject, session), "{subject}");
        }
    }

    #[test]
    fn a_token_has_no_dot_and_no_wildcard() {
        assert!(is_token("0193a5c2-7e5f-7000-8000-000000000000"));
        for text in ["", "a.b", "*", ">", "a b", "ä", &"x".repeat(129)] {
            assert!(!is_token(text), "{text}");
        }
    }
}
