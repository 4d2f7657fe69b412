//! Submits over one stream: answers as they are durable, and the ends of runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use levelflow_engine::Definition;
use levelflow_proto::v1::submission_answer::Answer;
use levelflow_proto::{Enumeration as _, v1};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::submit::{Checked, response};
use super::{Backend, refused};
use crate::actor::{Accepted, Message, RunEnding, StreamAnswer, SubmitReply};

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
        let sent = match self.backend.check_submit(request).await {
            Ok(Checked::New(submitted, definition)) => {
                self.outstanding.insert(
                    tag,
                    Outstanding {
                        definition: definition.clone(),
                        report_end,
                    },
                );
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
                self.outstanding.insert(
                    tag,
                    Outstanding {
                        definition,
                        report_end,
                    },
                );
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
                let Some(submission) = self.outstanding.get(&tag) else {
                    return;
                };
                match result {
                    Ok(accepted) => {
                        let answer = Answer::Accepted(response(accepted, &submission.definition));
                        if !submission.report_end {
                            self.outstanding.remove(&tag);
                        } else if accepted.existing {
                            self.find_end(tag, accepted);
                        }
                        self.push(tag, answer);
                    }
                    Err(why) => {
                        self.outstanding.remove(&tag);
                        self.push(tag, Answer::Refused(refused(&why).into()));
                    }
                }
            }
            StreamAnswer::Ended { tag, end } => {
                self.outstanding.remove(&tag);
                self.push(tag, Answer::Ended(run_end(end)));
            }
        }
    }

    /// The end of a run that was there before comes from following it.
    fn find_end(&self, tag: u64, accepted: Accepted) {
        let backend = self.backend.clone();
        let answers = self.answers.clone();
        levelflow_runtime::task::spawn("end of run", async move {
            if let Ok(end) = backend.wait_for_end(accepted.run_id).await {
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
