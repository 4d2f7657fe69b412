//! Runs that compute results ahead, when nothing else is to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use levelflow_common::{CacheUse, Priority, RunId};
use levelflow_engine::{Definition, PREFETCH_LABEL, Submitted};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::actor::{Message, StreamAnswer, SubmitReply};
use crate::service::{Backend, bind_inputs};

/// Runs that may wait to be computed ahead; those that come when as many wait are left out.
pub(crate) const QUEUE: usize = 256;

/// A run to compute ahead.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) definition: Arc<Definition>,
    pub(crate) tenant: Arc<str>,
    /// A JSON object.
    pub(crate) inputs: Bytes,
    /// The run after which it comes.
    pub(crate) after: RunId,
}

/// Computes what is wanted, one run at a time, each when no other run is open.
pub(crate) async fn compute(
    backend: Backend,
    mut wanted: mpsc::Receiver<Wanted>,
    stop: CancellationToken,
) {
    let compute = async {
        while let Some(wanted) = wanted.recv().await {
            let idle = backend.ask(|reply| Message::Idle { reply }).await;
            if idle.is_err() || run(&backend, wanted).await.is_none() {
                return;
            }
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = compute => {}
    }
}

/// Runs to the end; none when the coordinator stops. A run that is refused or fails is no loss.
async fn run(backend: &Backend, wanted: Wanted) -> Option<()> {
    let Wanted {
        definition,
        tenant,
        inputs,
        after,
    } = wanted;
    let inputs = match bind_inputs(&definition, &inputs) {
        Ok(inputs) => inputs,
        Err(problem) => {
            tracing::info!(run_id = %after, problem = %problem.message, "inputs to compute ahead do not fit");
            return Some(());
        }
    };
    let workflow = &definition.workflow;
    let mut labels: BTreeMap<_, _> = workflow.labels.clone();
    labels.insert(PREFETCH_LABEL.to_owned(), after.to_string());
    let submitted = Submitted {
        run_id: backend.cluster.new_run(&tenant, None),
        digest: definition.digest,
        workflow: definition.name.clone(),
        tenant,
        priority: Priority::Low,
        durability: workflow.durability,
        cache: CacheUse::Use,
        labels,
        inputs,
        key: None,
        resumed_from: None,
        kept: Vec::new(),
    };
    let (answers, mut answer) = mpsc::unbounded_channel();
    let message = Message::Submit {
        submitted: Box::new(submitted),
        definition: definition.clone(),
        reply: SubmitReply::Stream {
            tag: 0,
            report_end: true,
            answers,
        },
    };
    backend.send(message).await.ok()?;
    loop {
        match answer.recv().await {
            Some(StreamAnswer::Submitted { result: Ok(_), .. }) => {}
            Some(_) => return Some(()),
            None => return None,
        }
    }
}
