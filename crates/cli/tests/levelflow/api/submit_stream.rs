use std::collections::BTreeMap;

use levelflow_proto::v1;
use levelflow_proto::v1::submission_answer::Answer;
use serde_json::json;
use tokio::time::timeout;

use super::{quick, serve};
use crate::client::{answer, source, submission};
use crate::harness::{DEADLINE, Home};

fn request(key: &str, number: u32) -> v1::SubmitWorkflowRequest {
    v1::SubmitWorkflowRequest {
        idempotency_key: key.to_owned(),
        inputs: json!({ "number": number }).to_string().into(),
        ..submission(&quick())
    }
}

fn submitted(tag: u64, request: v1::SubmitWorkflowRequest, report_end: bool) -> v1::Submission {
    v1::Submission {
        tag,
        request: Some(request),
        report_end,
    }
}

#[tokio::test]
async fn a_stream_answers_each_submission_and_reports_ends() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let ended = client.submit(request("ended", 10)).await.unwrap().run_id;
    client.ended(&ended).await;

    let bad = v1::SubmitWorkflowRequest {
        workflow: Some(source("name: 1")),
        ..Default::default()
    };
    let failing = json!({
        "name": "failing",
        "tasks": [{ "id": "a", "type": "transform", "with": { "value": "${{ 1 // 0 }}" } }],
    });
    let first = vec![
        submitted(1, request("", 1), true),
        submitted(2, request("", 2), false),
        submitted(3, request("ended", 10), true),
        submitted(4, request("ended", 11), true),
        submitted(5, bad, true),
        submitted(6, submission(&failing), true),
    ];
    // The same key twice in one message, and again in the next.
    let second = vec![
        submitted(7, request("twice", 1), true),
        submitted(8, request("twice", 1), true),
    ];
    let third = vec![submitted(9, request("twice", 1), true)];
    let requests =
        [first, second, third].map(|submissions| v1::SubmitWorkflowsRequest { submissions });
    let mut service = client.service.clone();
    let stream = service.submit_workflows(futures_util::stream::iter(requests));
    let mut responses = answer(stream).await.unwrap();

    let mut answers: BTreeMap<u64, Vec<Answer>> = BTreeMap::new();
    let all = async {
        // The stream ends by itself, when the last run has.
        while let Some(response) = responses.message().await.unwrap() {
            for answer in response.answers {
                answers
                    .entry(answer.tag)
                    .or_default()
                    .push(answer.answer.unwrap());
            }
        }
    };
    timeout(DEADLINE, all)
        .await
        .expect("the stream ends before the deadline");

    let accepted = |tag: u64| match &answers[&tag][0] {
        Answer::Accepted(accepted) => (accepted.run_id.clone(), accepted.existing),
        other => panic!("{tag}: {other:?}"),
    };
    let end = |tag: u64| match &answers[&tag][1..] {
        [Answer::Ended(end)] => (
            end.status(),
            String::from_utf8_lossy(&end.outputs).into_owned(),
        ),
        other => panic!("{tag}: {other:?}"),
    };
    let refusal = |tag: u64| match &answers[&tag][..] {
        [Answer::Refused(error)] => error.code.clone(),
        other => panic!("{tag}: {other:?}"),
    };
    assert_eq!(
        end(1),
        (v1::RunStatus::Succeeded, r#"{"sum":2}"#.to_owned())
    );
    assert!(!accepted(2).1);
    assert_eq!(answers[&2].len(), 1, "its end was not asked for");
    assert_eq!(accepted(3), (ended, true));
    assert_eq!(
        end(3),
        (v1::RunStatus::Succeeded, r#"{"sum":11}"#.to_owned())
    );
    assert_eq!(refusal(4), "key_reused");
    assert_eq!(refusal(5), "workflow_invalid");
    assert_eq!(end(6), (v1::RunStatus::Failed, String::new()));
    let twice = [7, 8, 9].map(accepted);
    assert!(twice.iter().all(|(run_id, _)| *run_id == twice[0].0));
    assert_eq!(twice.iter().filter(|(_, existing)| !existing).count(), 1);
    for tag in [7, 8, 9] {
        assert_eq!(
            end(tag),
            (v1::RunStatus::Succeeded, r#"{"sum":2}"#.to_owned())
        );
    }
}
