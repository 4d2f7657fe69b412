use futures_util::future::join_all;
use levelflow_common::Code;
use levelflow_proto::v1;
use levelflow_proto::v1::workflow_source::Source;
use serde_json::json;
use tonic_types::StatusExt as _;

use super::{quick, serve};
use crate::client::{source, submission};
use crate::harness::Home;

fn keyed(key: &str, number: u32) -> v1::SubmitWorkflowRequest {
    v1::SubmitWorkflowRequest {
        idempotency_key: key.to_owned(),
        inputs: json!({ "number": number }).to_string().into(),
        ..submission(&quick())
    }
}

#[tokio::test]
async fn a_key_stands_for_one_run() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let submits = (0..16).map(|_| client.submit(keyed("key", 1)));
    let accepted: Vec<_> = join_all(submits)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let run_id = &accepted[0].run_id;
    assert!(accepted.iter().all(|one| one.run_id == *run_id));
    assert_eq!(accepted.iter().filter(|one| !one.existing).count(), 1);

    let refused = |error: levelflow_proto::ApiError| {
        assert_eq!(error.code(), Code::KeyReused);
        assert_eq!(
            error.message,
            format!(
                "the idempotency key was used for run {run_id} with another workflow or other inputs"
            )
        );
    };
    refused(client.submit(keyed("key", 2)).await.unwrap_err());
    // The same when only the store still knows the run.
    client.ended(run_id).await;
    refused(client.submit(keyed("key", 2)).await.unwrap_err());
    let again = client.submit(keyed("key", 1)).await.unwrap();
    assert_eq!((&again.run_id, again.existing), (run_id, true));

    let tenant = "other".to_owned();
    let other = v1::SubmitWorkflowRequest {
        tenant,
        ..keyed("key", 2)
    };
    let other = client.submit(other).await.unwrap();
    assert!(!other.existing);
    assert_ne!(other.run_id, *run_id);
}

#[tokio::test]
async fn the_same_content_is_taken_for_one_run_within_the_window() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let submit = async |deduplicate, number: u32| {
        let inputs = json!({ "number": number }).to_string().into();
        let request = v1::SubmitWorkflowRequest {
            deduplicate,
            inputs,
            ..submission(&quick())
        };
        let accepted = client.submit(request).await.unwrap();
        (accepted.run_id, accepted.existing)
    };
    let (first, _) = submit(true, 1).await;
    assert_eq!(submit(true, 1).await, (first.clone(), true));
    client.ended(&first).await;
    assert_eq!(submit(true, 1).await, (first, true));
    assert!(!submit(true, 2).await.1);
    assert!(!submit(false, 1).await.1);
}

#[tokio::test]
async fn the_window_ends() {
    let home = Home::new();
    let window = [("LEVELFLOW_COORDINATOR__DEDUP_WINDOW", "1ms")];
    let (_server, client) = serve(&home, &window).await;
    let request = v1::SubmitWorkflowRequest {
        deduplicate: true,
        ..submission(&quick())
    };
    let first = client.submit(request.clone()).await.unwrap();
    // A run takes longer than the window.
    client.ended(&first.run_id).await;
    let second = client.submit(request).await.unwrap();
    assert!(!second.existing);
    assert_ne!(first.run_id, second.run_id);
}

#[tokio::test]
async fn a_workflow_is_sent_as_structure_or_named_by_its_digest() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let structure = v1::Workflow {
        name: "structure".to_owned(),
        tasks: vec![v1::TaskDefinition {
            id: "a".to_owned(),
            kind: v1::TaskKind::Transform.into(),
            with: r#"{"value": 7}"#.to_owned(),
            ..Default::default()
        }],
        outputs: [("seven".to_owned(), r#""${{ tasks.a.output }}""#.to_owned())].into(),
        ..Default::default()
    };
    let with_source = |source| v1::SubmitWorkflowRequest {
        workflow: Some(v1::WorkflowSource {
            source: Some(source),
        }),
        ..Default::default()
    };
    let first = client
        .submit(with_source(Source::Definition(structure)))
        .await
        .unwrap();
    let by_digest = with_source(Source::Digest(first.workflow_digest.clone()));
    let second = client.submit(by_digest).await.unwrap();
    assert_ne!(first.run_id, second.run_id);
    for run_id in [&first.run_id, &second.run_id] {
        let run = client.ended(run_id).await;
        assert_eq!(run.outputs.as_deref(), Some(&br#"{"seven":7}"#[..]));
        assert_eq!(&*run.summary.workflow, "structure");
    }
    let unknown = with_source(Source::Digest(vec![7; 32].into()));
    let error = client.submit(unknown).await.unwrap_err();
    assert_eq!(error.code(), Code::WorkflowUnknown);
    let short = with_source(Source::Digest(vec![7; 3].into()));
    let error = client.submit(short).await.unwrap_err();
    assert_eq!(error.message, "a workflow digest has 32 bytes");
    let error = client
        .submit(v1::SubmitWorkflowRequest::default())
        .await
        .unwrap_err();
    assert_eq!(error.message, "no workflow was sent");
}

#[tokio::test]
async fn problems_of_a_text_come_with_their_places() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let text = "name: bad\ntasks:\n  - id: a\n    type: transform\n    wth: { value: 1 }\n  - id: b\n    type: transform\n    needs: [c]\n    with: { value: 1 }\n";
    let request = v1::SubmitWorkflowRequest {
        workflow: Some(source(text)),
        ..Default::default()
    };
    let status = client
        .service
        .clone()
        .submit_workflow(request)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    // As clients in other languages read it.
    let details = status.get_error_details();
    assert_eq!(details.bad_request().unwrap().field_violations.len(), 3);
    let info = details.error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("workflow_invalid", "levelflow")
    );
    let error = levelflow_proto::from_status(&status);
    let violations: Vec<_> = error
        .violations
        .iter()
        .map(|one| (one.field.as_str(), one.description.as_str(), one.position))
        .collect();
    assert_eq!(
        violations,
        [
            (
                "tasks[0].with",
                "`value` or `template` is missing",
                Some((3, 5))
            ),
            (
                "tasks[0].wth",
                "unknown key `wth`; did you mean `with`?",
                Some((5, 5))
            ),
            ("tasks[1].needs[0]", "there is no task `c`", Some((8, 13))),
        ]
    );
}

#[tokio::test]
async fn inputs_that_do_not_fit_are_named() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let request = |inputs: &'static str| v1::SubmitWorkflowRequest {
        inputs: inputs.into(),
        ..submission(&quick())
    };
    let error = client
        .submit(request(r#"{"number": "x", "nmber": 1}"#))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InputInvalid);
    let fields: Vec<_> = error
        .violations
        .iter()
        .map(|one| one.field.as_str())
        .collect();
    assert_eq!(fields, ["inputs.nmber", "inputs.number"]);
    let error = client.submit(request("{")).await.unwrap_err();
    assert_eq!(error.code(), Code::InputInvalid);
    let run = client.submit(request("")).await.unwrap();
    let run = client.ended(&run.run_id).await;
    assert_eq!(&run.inputs[..], br#"{"number":1}"#);
}
