//! Submits over one stream: answers as they are durable, and the ends of runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use levelflow_common::RunId;
use levelflow_engine::{Definition, Rejection};
use levelflow_proto::v1::submission_answer::Answer;
use levelflow_proto::{Enumeration as _, v1};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::submit::{Checked, response};
use super::{Backend, parse_run_id, refused};
use crate::actor::{Accepted, Message, Refused, RunEnding, StreamAnswer, SubmitReply};

/// Submissions of one stream that may wait for their last answer before further ones are read.
const MAX_OUTSTANDING: usize = 65_536;
/// Answers that go into one message.
const MAX_ANSWERS: usize = 1024;
/// Messages that may wait for a client that reads slowly.
const SEND_BUFFER: usize = 16;

pub(crate) type Responses = mpsc::Receiver<Result<v1::SubmitWorkflowsResponse, Status>>;

/// One stream.
pub(crate) struct SubmitStream {
    backend: Backend,
    answers: mpsc::UnboundedSender<StreamAnswer>,
    /// Submissions that still wait for an answer or an end, by tag.
    outstanding: BTreeMap<u64, Outstanding>,
    outgoing: Vec<v1::SubmissionAnswer>,
}

struct Outstanding {
    definition: Arc<Definition>,
    report_end: bool,
    /// Once it was accepted.
    run_id: Option<RunId>,
    /// The request, where its shard may turn out to be elsewhere.
    again: Option<v1::SubmitWorkflowRequest>,
}

impl SubmitStream {
    /// Serves a stream; the receiver gets what goes back.
    pub(crate) fn serve(
        backend: Backend,
        requests: Streaming<v1::SubmitWorkflowsRequest>,
    ) -> Responses {
        let (sender, receiver) = mpsc::channel(SEND_BUFFER);
        // Bounded by MAX_OUTSTANDING: each submission has at most two answers.
        let (answers, incoming) = mpsc::unbounded_channel();
        let stream = Self {
            backend,
            answers,
            outstanding: BTreeMap::new(),
            outgoing: Vec::new(),
        };
        levelflow_runtime::task::spawn("submit stream", stream.run(requests, incoming, sender));
        receiver
    }

    async fn run(
        mut self,
        mut requests: Streaming<v1::SubmitWorkflowsRequest>,
        mut incoming: mpsc::UnboundedReceiver<StreamAnswer>,
        sender: mpsc::Sender<Result<v1::SubmitWorkflowsResponse, Status>>,
    ) {
        let mut is_reading = true;
        let mut received = Vec::with_capacity(MAX_ANSWERS);
        while is_reading || !self.outstanding.is_empty() {
            let may_read = is_reading && self.outstanding.len() < MAX_OUTSTANDING;
            tokio::select! {
                biased;
                _ = incoming.recv_many(&mut received, MAX_ANSWERS) => {
                    for answer in received.drain(..) {
                        self.take_answer(answer);
                    }
                }
                request = requests.message(), if may_read => match request {
                    Ok(Some(request)) => {
                        for submission in request.submissions {
                            self.take_submission(submission).await;
                        }
                    }
                    Ok(None) => is_reading = false,
                    Err(_) => return,
                },
                () = sender.closed() => return,
            }
            if !self.outgoing.is_empty() {
                let answers = std::mem::take(&mut self.outgoing);
                let response = v1::SubmitWorkflowsResponse { answers };
                if sender.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn take_submission(&mut self, submission: v1::Submission) {
        let tag = submission.tag;
        let report_end = submission.report_end;
        let request = submission.request.unwrap_or_default();
        let again = self.backend.cluster.is_shared().then(|| request.clone());
        let sent = match self.backend.check_submit(request).await {
            Ok(Checked::New(submitted, definition)) => {
                let outstanding = Outstanding {
                    definition: definition.clone(),
                    report_end,
                    run_id: None,
                    again,
                };
                self.outstanding.insert(tag, outstanding);
                if !self.backend.cluster.has(submitted.run_id) {
                    self.submit_anywhere(tag);
                    return;
                }
                let reply = SubmitReply::Stream {
                    tag,
                    report_end,
                    answers: self.answers.clone(),
                };
                self.backend
                    .send(Message::Submit {
                        submitted,
                        definition,
                        reply,
                    })
                    .await
            }
            Ok(Checked::Existing(run_id, definition)) => {
                let outstanding = Outstanding {
                    definition,
                    report_end,
                    run_id: None,
                    again: None,
                };
                self.outstanding.insert(tag, outstanding);
                let existing = true;
                self.take_answer(StreamAnswer::Submitted {
                    tag,
                    result: Ok(Accepted { run_id, existing }),
                });
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            self.outstanding.remove(&tag);
            self.push(tag, Answer::Refused(error.into()));
        }
    }

    fn take_answer(&mut self, answer: StreamAnswer) {
        match answer {
            StreamAnswer::Submitted { tag, result } => {
                let Some(submission) = self.outstanding.get_mut(&tag) else {
                    return;
                };
                match result {
                    Ok(accepted) => {
                        let answer = Answer::Accepted(response(accepted, &submission.definition));
                        submission.run_id = Some(accepted.run_id);
                        submission.again = None;
                        if !submission.report_end {
                            self.outstanding.remove(&tag);
                        } else if accepted.existing {
                            self.find_end(tag, accepted.run_id);
                        }
                        self.push(tag, answer);
                    }
                    Err(Refused::Engine(Rejection::ShardElsewhere(_)))
                        if submission.again.is_some() =>
                    {
                        self.submit_anywhere(tag);
                    }
                    Err(why) => {
                        self.outstanding.remove(&tag);
                        self.push(tag, Answer::Refused(refused(&why).into()));
                    }
                }
            }
            StreamAnswer::SubmittedElsewhere { tag, result } => match result {
                Ok(accepted) => {
                    let submission = self.outstanding.get(&tag);
                    if submission.is_some_and(|it| it.report_end)
                        && let Ok(run_id) = parse_run_id(&accepted.run_id)
                    {
                        self.find_end(tag, run_id);
                    } else {
                        self.outstanding.remove(&tag);
                    }
                    self.push(tag, Answer::Accepted(accepted));
                }
                Err(error) => {
                    self.outstanding.remove(&tag);
                    self.push(tag, Answer::Refused((*error).into()));
                }
            },
            StreamAnswer::Moved { tag } => {
                let submission = self.outstanding.get(&tag);
                if let Some(run_id) = submission.and_then(|it| it.run_id) {
                    self.find_end(tag, run_id);
                }
            }
            StreamAnswer::Ended { tag, end } => {
                self.outstanding.remove(&tag);
                self.push(tag, Answer::Ended(run_end(end)));
            }
        }
    }

    /// Submits where the shard of the run is.
    fn submit_anywhere(&mut self, tag: u64) {
        let submission = self.outstanding.get_mut(&tag);
        let Some(request) = submission.and_then(|it| it.again.take()) else {
            return;
        };
        let (backend, answers) = (self.backend.clone(), self.answers.clone());
        levelflow_runtime::task::spawn("submit elsewhere", async move {
            let result = backend.submit(request).await.map_err(Box::new);
            let _ = answers.send(StreamAnswer::SubmittedElsewhere { tag, result });
        });
    }

    /// The end of a run that is not followed by the actor comes from following it.
    fn find_end(&self, tag: u64, run_id: RunId) {
        let backend = self.backend.clone();
        let answers = self.answers.clone();
        levelflow_runtime::task::spawn("end of run", async move {
            if let Ok(end) = backend.wait_for_end(run_id).await {
                let _ = answers.send(StreamAnswer::Ended { tag, end });
            }
        });
    }

    fn push(&mut self, tag: u64, answer: Answer) {
        self.outgoing.push(v1::SubmissionAnswer {
            tag,
            answer: Some(answer),
        });
    }
}

fn run_end(end: RunEnding) -> v1::RunEnd {
    v1::RunEnd {
        status: end.status.number(),
        outputs: end.outputs.unwrap_or_default(),
        failure: end.failure.map(Into::into),
    }
}
