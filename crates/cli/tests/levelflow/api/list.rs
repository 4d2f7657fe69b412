use levelflow_proto::v1;

use super::{open, quick, serve};
use crate::client::submission;
use crate::harness::Home;

#[tokio::test]
async fn runs_are_found_by_what_they_are() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let mut run_ids = Vec::new();
    for number in 0..7 {
        let workflow = if number < 5 { quick() } else { open() };
        let request = v1::SubmitWorkflowRequest {
            labels: [("parity".to_owned(), ["even", "odd"][number % 2].to_owned())].into(),
            tenant: if number == 0 {
                "acme".to_owned()
            } else {
                String::new()
            },
            ..submission(&workflow)
        };
        let run_id = client.submit(request).await.unwrap().run_id;
        if number < 5 {
            client.ended(&run_id).await;
        }
        run_ids.push(run_id);
    }
    let found = async |request: v1::ListRunsRequest| -> Vec<usize> {
        let page = client.list(request).await.unwrap();
        assert_eq!(page.next_page_token, "");
        let number = |run: v1::RunSummary| run_ids.iter().position(|id| *id == run.run_id).unwrap();
        page.runs.into_iter().map(number).collect()
    };
    let none = v1::ListRunsRequest::default;

    assert_eq!(
        found(none()).await,
        [6, 5, 4, 3, 2, 1, 0],
        "the newest first"
    );
    let workflow = "open".to_owned();
    assert_eq!(
        found(v1::ListRunsRequest { workflow, ..none() }).await,
        [6, 5]
    );
    let statuses = vec![v1::RunStatus::Running.into()];
    assert_eq!(
        found(v1::ListRunsRequest { statuses, ..none() }).await,
        [6, 5]
    );
    let labels = [("parity".to_owned(), "odd".to_owned())].into();
    assert_eq!(
        found(v1::ListRunsRequest { labels, ..none() }).await,
        [5, 3, 1]
    );
    let tenant = "acme".to_owned();
    assert_eq!(found(v1::ListRunsRequest { tenant, ..none() }).await, [0]);
    let third = client
        .get(&run_ids[3])
        .await
        .unwrap()
        .summary
        .submitted_at
        .as_micros();
    let submitted_after_us = third;
    let later = found(v1::ListRunsRequest {
        submitted_after_us,
        ..none()
    })
    .await;
    let submitted_before_us = third;
    let earlier = found(v1::ListRunsRequest {
        submitted_before_us,
        ..none()
    })
    .await;
    assert_eq!(
        (&later[..3], &earlier[earlier.len() - 3..]),
        (&[6, 5, 4][..], &[2, 1, 0][..])
    );

    // A run that is cancelled is listed as that at once.
    client.cancel(&run_ids[5]).await.unwrap();
    client.ended(&run_ids[5]).await;
    let statuses = vec![v1::RunStatus::Cancelled.into()];
    assert_eq!(found(v1::ListRunsRequest { statuses, ..none() }).await, [5]);
}

#[tokio::test]
async fn pages_meet_every_run_once_although_more_are_submitted() {
    let home = Home::new();
    let (_server, client) = serve(&home, &[]).await;
    let mut run_ids = Vec::new();
    for _ in 0..7 {
        run_ids.push(client.start(&quick()).await);
    }
    run_ids.reverse();
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRunsRequest {
            page_size: 3,
            page_token,
            ..Default::default()
        };
        let page = client.list(request).await.unwrap();
        assert!(page.runs.len() <= 3);
        listed.extend(page.runs.into_iter().map(|run| run.run_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
        client.start(&quick()).await;
    }
    assert_eq!(listed, run_ids);
    let page_token = "nonsense".to_owned();
    let request = v1::ListRunsRequest {
        page_token,
        ..Default::default()
    };
    let error = client.list(request).await.unwrap_err();
    assert_eq!(error.message, "`page_token` is not from a listing");
}
