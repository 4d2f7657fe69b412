use tokio_stream::StreamExt as _;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::client::{answer, channel};
use crate::harness::{Home, Running};

#[tokio::test]
async fn the_server_says_that_it_serves() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let health = HealthClient::new(channel(&address).await);
    for service in [
        "",
        "levelflow.v1.WorkflowService",
        "levelflow.v1.WorkerService",
        "externalscaler.ExternalScaler",
    ] {
        let service = service.to_owned();
        let checked = answer(health.clone().check(HealthCheckRequest { service }))
            .await
            .unwrap();
        assert_eq!(checked.status(), ServingStatus::Serving);
    }
}

#[tokio::test]
async fn the_server_describes_its_services() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let client = ServerReflectionClient::new(channel(&address).await);
    let ask = async |message_request| -> ServerReflectionResponse {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(message_request),
        };
        let mut client = client.clone();
        let stream = client.server_reflection_info(tokio_stream::once(request));
        answer(stream).await.unwrap().next().await.unwrap().unwrap()
    };
    let listed = ask(MessageRequest::ListServices(String::new())).await;
    let Some(MessageResponse::ListServicesResponse(listed)) = listed.message_response else {
        panic!("{listed:?}");
    };
    let names: Vec<&str> = listed
        .service
        .iter()
        .map(|service| service.name.as_str())
        .collect();
    for name in [
        "externalscaler.ExternalScaler",
        "levelflow.v1.AutoscaleService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "levelflow.v1.WorkerService",
        "levelflow.v1.WorkflowService",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let symbol = "levelflow.v1.WorkflowService.SubmitWorkflow".to_owned();
    let found = ask(MessageRequest::FileContainingSymbol(symbol)).await;
    assert!(
        matches!(
            &found.message_response,
            Some(MessageResponse::FileDescriptorResponse(_))
        ),
        "{found:?}"
    );
}
