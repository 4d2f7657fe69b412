//! One output of several answers.

use std::collections::BTreeMap;

use levelflow_common::task_input::ChatFuse;
use serde::Serialize;
use serde_json::Value;

use super::Failed;
use super::candidate::Candidate;
use super::reply::{Reply, Usage};

/// What a model answered.
pub(super) struct Answer {
    pub(super) candidate: Candidate,
    pub(super) reply: Reply,
}

/// The output of a task.
#[derive(Debug, Serialize)]
pub(super) struct Output {
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    json: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
    /// The model whose text it is; null if it is that of several.
    model: Option<String>,
    finish_reason: Option<String>,
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
    failed: Vec<InVain>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    answers: Vec<One>,
}

/// A model that was asked in vain.
#[derive(Debug, Serialize)]
struct InVain {
    model: String,
    error: String,
}

/// One of several answers.
#[derive(Debug, Serialize)]
struct One {
    model: String,
    text: String,
    finish_reason: Option<String>,
    usage: Option<Usage>,
}

impl Output {
    /// Puts the answers together; none if there is no answer.
    pub(super) fn of(
        answers: Vec<Answer>,
        failed: &[Failed],
        fuse: ChatFuse,
        wants_json: bool,
    ) -> Option<Self> {
        let chosen = match fuse {
            ChatFuse::First | ChatFuse::Concat => 0,
            ChatFuse::Longest => longest(&answers),
            ChatFuse::Vote => most_voted(&answers),
        };
        let winner = answers.get(chosen)?;
        let mut output = Self {
            text: winner.reply.text.clone(),
            json: None,
            tool_calls: calls(&winner.reply),
            model: Some(winner.candidate.name.clone()),
            finish_reason: winner.reply.finish_reason.clone(),
            usage: usage(&answers),
            cost: answers.iter().map(Answer::cost).sum(),
            failed: failed
                .iter()
                .map(|(candidate, problem)| InVain {
                    model: candidate.name.clone(),
                    error: problem.failure(&candidate.name).message,
                })
                .collect(),
            answers: Vec::new(),
        };
        if fuse == ChatFuse::Concat {
            let texts: Vec<_> = answers.iter().map(|one| one.reply.text.as_str()).collect();
            output.text = texts.join("\n\n");
            output.tool_calls = answers.iter().flat_map(|one| calls(&one.reply)).collect();
            if answers.len() > 1 {
                output.model = None;
                output.finish_reason = None;
            }
        } else if wants_json {
            // It was read before, when the answer was judged.
            output.json = winner.reply.json().ok();
        }
        if fuse != ChatFuse::First {
            output.answers = answers.into_iter().map(One::of).collect();
        }
        Some(output)
    }
}

impl One {
    fn of(answer: Answer) -> Self {
        Self {
            model: answer.candidate.name,
            text: answer.reply.text,
            finish_reason: answer.reply.finish_reason,
            usage: answer.reply.usage,
        }
    }
}

impl Answer {
    /// What it cost, where that is known.
    fn cost(&self) -> Option<f64> {
        const TOKENS_OF_PRICE: f64 = 1e6;
        let usage = self.reply.usage?;
        let (input, output) = (self.candidate.input_price?, self.candidate.output_price?);
        let price = input * usage.prompt_tokens as f64 + output * usage.completion_tokens as f64;
        Some(price / TOKENS_OF_PRICE)
    }

    /// What answers are compared by: JSON as values, other text without what surrounds it.
    fn vote(&self) -> String {
        let text = self.reply.text.trim();
        match serde_json::from_str::<Value>(text) {
            Ok(value) => value.to_string(),
            Err(_) => text.to_owned(),
        }
    }
}

fn calls(reply: &Reply) -> Vec<Value> {
    reply
        .tool_calls
        .iter()
        .map(super::reply::ToolCall::to_json)
        .collect()
}

/// The tokens of all answers that tell of them.
fn usage(answers: &[Answer]) -> Option<Usage> {
    answers
        .iter()
        .filter_map(|one| one.reply.usage)
        .reduce(Usage::plus)
}

/// The place of the longest text; the first of those that are as long.
fn longest(answers: &[Answer]) -> usize {
    let length = |one: &Answer| one.reply.text.trim().chars().count();
    first_greatest(answers.iter().map(length))
}

/// The place of the text that most models gave; the first of those that as many gave.
fn most_voted(answers: &[Answer]) -> usize {
    let votes: Vec<_> = answers.iter().map(Answer::vote).collect();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for vote in &votes {
        *counts.entry(vote).or_default() += 1;
    }
    first_greatest(votes.iter().map(|vote| counts[vote.as_str()]))
}

fn first_greatest(sizes: impl Iterator<Item = usize>) -> usize {
    let mut best = (0, 0);
    for (place, size) in sizes.enumerate() {
        if size > best.1 {
            best = (place, size);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(name: &str, text: &str, tokens: u64) -> Answer {
        let usage = json!({
            "prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": 2 * tokens,
        });
        let choice = json!({ "message": { "content": text }, "finish_reason": "stop" });
        let document = json!({ "choices": [choice], "usage": usage });
        Answer {
            candidate: Candidate {
                name: name.to_owned(),
                upstream: None,
                base_url: String::new(),
                model: name.to_owned(),
                key: None,
                input_price: Some(2.0),
                output_price: Some(4.0),
            },
            reply: Reply::of_document(document.to_string().as_bytes()).unwrap(),
        }
    }

    fn fused(fuse: ChatFuse) -> Value {
        let answers = vec![
            answer("a", "no", 1),
            answer("b", " yes\n", 2),
            answer("c", "yes", 3),
        ];
        serde_json::to_value(Output::of(answers, &[], fuse, false)).unwrap()
    }

    #[test]
    fn answers_are_put_together() {
        let output = fused(ChatFuse::Longest);
        assert_eq!(
            (&output["model"], &output["text"]),
            (&json!("b"), &json!(" yes\n"))
        );
        let output = fused(ChatFuse::Vote);
        assert_eq!(output["model"], "b");
        assert_eq!(output["usage"]["total_tokens"], 12);
        assert_eq!(output["cost"], 6.0 * 6.0 / 1e6);
        assert_eq!(output["answers"][2]["text"], "yes");
        let output = fused(ChatFuse::Concat);
        assert_eq!(output["text"], "no\n\n yes\n\n\nyes");
        assert_eq!(output["model"], Value::Null);
    }

    #[test]
    fn the_same_json_is_the_same_vote() {
        let answers = [
            answer("a", "{\"x\": 2}", 1),
            answer("b", "{\"x\":1}", 1),
            answer("c", " { \"x\" : 1 } ", 1),
        ];
        assert_eq!(most_voted(&answers), 1);
        assert_eq!(
            most_voted(&answers[..2]),
            0,
            "the first of two that are even"
        );
    }

    #[test]
    fn without_an_answer_there_is_no_output() {
        assert!(Output::of(Vec::new(), &[], ChatFuse::First, false).is_none());
    }
}
