//! The children of a handler: those that work, and those that wait for work.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use bytes::Bytes;
use levelflow_common::{AttemptResult, Failure};
use levelflow_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::IsolationOptions;
use super::child::Child;
use crate::context::Context;
use crate::usage::{Busy, Usage};

/// The children of a handler.
pub(super) struct Children {
    handler: String,
    options: IsolationOptions,
    room: Arc<Semaphore>,
    /// The one that worked last comes last, and works next.
    idle: Mutex<Vec<Child>>,
    usage: Arc<Usage>,
}

impl Children {
    pub(super) fn new(handler: &str, options: IsolationOptions) -> Self {
        let size = match options.children {
            0 => available_parallelism().map_or(1, usize::from),
            given => given,
        };
        Self {
            handler: handler.to_owned(),
            options,
            room: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
            usage: Usage::new(format!("isolated:{handler}"), size),
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Child>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn pool(&self) -> v1::Pool {
        self.usage.pool(self.idle().len())
    }

    /// Waits for room, and takes a child that waits for work, or starts one.
    pub(super) async fn take(self: Arc<Self>) -> Result<Taken, Failure> {
        let waiting = self.usage.wait();
        let room = Arc::clone(&self.room)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let child = match self.pop() {
            Some(child) => child,
            None => {
                let child = Child::start(&self.handler, &self.options).await?;
                self.usage.open();
                child
            }
        };
        Ok(Taken {
            child,
            busy: waiting.begin(),
            children: self,
            room,
        })
    }

    /// The child that worked last. One that ended meanwhile is left out.
    fn pop(&self) -> Option<Child> {
        let mut idle = self.idle();
        while let Some(mut child) = idle.pop() {
            if child.is_alive() {
                return Some(child);
            }
            tracing::warn!(handler = self.handler, "an idle child process ended");
        }
        None
    }
}

/// A child that works for an attempt; killed when dropped.
pub(super) struct Taken {
    child: Child,
    busy: Busy,
    children: Arc<Children>,
    room: OwnedSemaphorePermit,
}

impl Taken {
    pub(super) async fn run(&mut self, context: &Context, input: Bytes) -> AttemptResult {
        let limit = self.children.options.max_resident();
        self.child.run(context, input, limit).await
    }

    /// Keeps the child for another attempt, if it is good for one.
    pub(super) fn give_back(self) {
        let Self {
            child,
            busy,
            children,
            room,
        } = self;
        if child.may_go_on(&children.options) {
            children.idle().push(child);
        } else {
            child.retire();
        }
        drop((busy, room));
    }
}
