//! What runs attempts, one file a task type.

pub(crate) mod handler;
mod output;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use levelflow_common::{Code, Failure, TaskKind};
use levelflow_proto::v1;

use crate::attempt::{Job, catch_panic};
use crate::context::Context;
use crate::pace::Pace;
use handler::Handler;

/// The executors of a worker.
#[derive(Default)]
pub(crate) struct Executors {
    handlers: BTreeMap<String, Entry>,
    refusals: Arc<Pace>,
}

struct Entry {
    handler: Box<dyn Handler>,
    pace: Arc<Pace>,
}

impl Executors {
    pub(crate) fn new(handlers: BTreeMap<String, Box<dyn Handler>>) -> Self {
        let with_pace = |(name, handler)| {
            let pace = Arc::default();
            (name, Entry { handler, pace })
        };
        Self {
            handlers: handlers.into_iter().map(with_pace).collect(),
            refusals: Arc::default(),
        }
    }

    /// The task types that run here, `handler` excepted.
    pub(crate) fn kinds(&self) -> Vec<TaskKind> {
        Vec::new()
    }

    /// The names of the handlers.
    pub(crate) fn handlers(&self) -> impl Iterator<Item = &str> {
        self.handlers.keys().map(String::as_str)
    }

    /// Makes a job of an attempt. Nothing runs before the job is polled.
    pub(crate) fn prepare(&self, context: Context, attempt: v1::Attempt) -> Job {
        match attempt.kind() {
            v1::TaskKind::Handler => match self.handlers.get(&attempt.handler) {
                Some(Entry { handler, pace }) => Job {
                    future: catch_panic(handler.call(context, attempt.input)).boxed(),
                    pace: Arc::clone(pace),
                    on_thread: handler.on_thread(),
                },
                None => self.refuse(format!("this worker has no handler `{}`", attempt.handler)),
            },
            kind => self.refuse(format!(
                "this worker does not run tasks of type {}",
                kind.as_str_name()
            )),
        }
    }

    fn refuse(&self, message: String) -> Job {
        let failure = Failure::permanent(Code::TaskUnsupported, message);
        Job {
            future: std::future::ready(Err(failure)).boxed(),
            pace: Arc::clone(&self.refusals),
            on_thread: false,
        }
    }
}
