//! Handlers whose attempts run in child processes of the worker.
//!
//! A child is this program once more, with the name of the handler in its `argv[0]`, which neither the
//! parser of arguments nor what the handler starts gets to see. Its `main` describes the worker as ever, and
//! [`Worker::run`](crate::Worker::run) then takes attempts from the parent, one at a time, instead of opening
//! a session. The two speak the messages of a session over a socket that is the standard input of the child;
//! the parent closes it, or ends, and the child ends too.

mod child;
mod frames;
mod pool;
mod serve;

use std::ffi::OsString;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use levelflow_common::AttemptResult;
use levelflow_proto::v1;

use super::handler::Handler;
use crate::attempt::cancelled;
use crate::config::in_range;
use crate::context::Context;
use crate::error::WorkerError;
use pool::Children;

pub(crate) use serve::{Function, Role};

/// How an [isolated handler](crate::WorkerBuilder::isolated_handler) runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsolationOptions {
    /// The most children at once; 0 for one per core.
    pub children: usize,
    /// Attempts after which another child takes the place of one.
    pub attempts_per_child: u32,
    /// A child that holds more resident memory than this is killed, and its attempt fails as
    /// `memory_exceeded`; one that holds more than half of it after an attempt is replaced. 0 for no limit.
    pub max_resident_mib: usize,
    /// What children are started with, for a program whose own arguments would lead them elsewhere; if
    /// not given, the arguments of this process.
    pub arguments: Option<Vec<OsString>>,
}

impl Default for IsolationOptions {
    fn default() -> Self {
        Self {
            children: 0,
            attempts_per_child: 1_000,
            max_resident_mib: 512,
            arguments: None,
        }
    }
}

/// The most children of one handler.
const MAX_CHILDREN: usize = 1024;
/// The highest limit, a pebibyte.
const MAX_MIB: usize = 1 << 30;
const MIB: u64 = 1024 * 1024;

impl IsolationOptions {
    pub(crate) fn validate(&self) -> Result<(), WorkerError> {
        let attempts = usize::try_from(self.attempts_per_child).unwrap_or(usize::MAX);
        in_range("children", self.children, 0, MAX_CHILDREN)?;
        in_range("attempts_per_child", attempts, 1, usize::MAX)?;
        in_range("max_resident_mib", self.max_resident_mib, 0, MAX_MIB)
    }

    /// The limit in bytes, if there is one.
    fn max_resident(&self) -> Option<u64> {
        (self.max_resident_mib > 0).then(|| self.max_resident_mib as u64 * MIB)
    }
}

/// The children of an isolated handler. Cheap to clone.
#[derive(Clone)]
pub(crate) struct IsolatedHandler(Arc<Children>);

impl IsolatedHandler {
    pub(crate) fn new(name: &str, options: IsolationOptions) -> Self {
        Self(Arc::new(Children::new(name, options)))
    }

    /// What the children are doing.
    pub(crate) fn pool(&self) -> v1::Pool {
        self.0.pool()
    }
}

impl Handler for IsolatedHandler {
    fn call(&self, context: Context, input: Bytes) -> BoxFuture<'static, AttemptResult> {
        let children = Arc::clone(&self.0);
        async move {
            let mut taken = tokio::select! {
                biased;
                () = context.cancelled() => return Err(cancelled()),
                taken = children.take() => taken?,
            };
            let result = taken.run(&context, input).await;
            taken.give_back();
            result
        }
        .boxed()
    }

    fn on_thread(&self) -> bool {
        // The child is killed when the future is dropped.
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_bounds() {
        let problem = |options: IsolationOptions| {
            let checked = options.validate();
            checked.err().map(|error| error.to_string())
        };
        let default = IsolationOptions::default;
        assert_eq!(problem(default()), None);
        assert_eq!(
            problem(IsolationOptions {
                children: 2_000,
                ..default()
            })
            .unwrap(),
            "`children` is 2000; it may be 0 to 1024"
        );
        assert!(
            problem(IsolationOptions {
                attempts_per_child: 0,
                ..default()
            })
            .unwrap()
            .starts_with("`attempts_per_child` is 0")
        );
    }
}
