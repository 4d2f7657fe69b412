//! How many workers are wanted: told to people, to programs and to KEDA.

use std::collections::HashMap;

use levelflow_common::Code;
use levelflow_proto::keda::external_scaler_client::ExternalScalerClient;
use levelflow_proto::keda::{GetMetricsRequest, IsActiveResponse, MetricSpec, ScaledObjectRef};
use levelflow_proto::{ApiError, from_status};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::client::{Client, answer, channel, eventually};
use crate::harness::{DEADLINE, Home, Running};

/// Tasks of a burst; a worker has two slots.
const BURST: usize = 60;

/// A server with one worker, which looks back one second.
async fn serve(home: &Home) -> (Running, String) {
    let mut command = home.command(&["dev", "--listen", "127.0.0.1:0", "--json"]);
    command
        .env("LEVELFLOW_WORKER__SLOTS", "2")
        .env("LEVELFLOW_COORDINATOR__AUTOSCALE__MIN", "1")
        .env("LEVELFLOW_COORDINATOR__AUTOSCALE__MAX", "12")
        .env("LEVELFLOW_COORDINATOR__AUTOSCALE__SCALE_DOWN_IDLE", "1s")
        .env("LEVELFLOW_COORDINATOR__AUTOSCALE__COOLDOWN", "200ms");
    Running::server(command).await
}

/// Programs that go on until the file `gate` is there.
fn burst(home: &Home, queue: &str) -> Value {
    let script = "while ! test -e gate; do sleep 0.02; done";
    let with = json!({ "command": ["sh", "-c", script], "cwd": home.path("") });
    let task = |number: usize| {
        json!({
            "id": format!("t{number}"),
            "type": "process",
            "worker": { "queue": queue },
            "with": with,
        })
    };
    json!({ "name": "burst", "tasks": (0..BURST).map(task).collect::<Vec<_>>() })
}

async fn explain(home: &Home, address: &str) -> Value {
    let arguments = ["autoscale", "explain", "--address", address];
    home.json(&arguments).await.1
}

/// What a rule says.
fn reason<'a>(decided: &'a Value, rule: &str) -> &'a Value {
    let reasons = decided["reasons"].as_array().unwrap().iter();
    let mut of = reasons.filter(|it| it["rule"] == rule);
    of.next().expect("every rule is told of")
}

#[tokio::test]
async fn a_coordinator_without_a_policy_says_so() {
    let home = Home::new();
    let (_server, address) = Running::serve(&home, &["dev"]).await;
    let arguments = ["autoscale", "explain", "--address", &address];
    let (code, error) = home.json(&arguments).await;
    assert_eq!(error["error"]["code"], "autoscale_off", "{error}");
    assert_eq!(code, Some(2));
}

#[tokio::test]
async fn a_burst_wants_workers_and_its_end_sends_them_away() {
    let home = Home::new();
    let (_server, address) = serve(&home).await;
    let client = Client::connect(&address).await;
    let idle = async || {
        let decided = explain(&home, &address).await;
        decided["current"] == 1 && decided["is_active"] == false
    };
    eventually("the worker is there and idle", idle).await;
    let decided = explain(&home, &address).await;
    assert_eq!(decided["wanted"], 1, "{decided}");
    assert_eq!(decided["decided_by"], "min");
    assert_eq!(decided["next_change_at"], Value::Null);

    let run = client.start(&burst(&home, "default")).await;
    let wants_most = async || explain(&home, &address).await["wanted"] == 12;
    eventually("the burst wants the most workers", wants_most).await;
    let decided = explain(&home, &address).await;
    assert_eq!(decided["is_active"], true);
    // Two of them run, and nobody else comes.
    let load = &decided["workload"];
    assert_eq!((&load["waiting"], &load["busy"]), (&json!(58), &json!(2)));
    assert_eq!(decided["workers"][0]["attempts"], 2);
    let text = reason(&decided, "queue_depth")["text"].as_str().unwrap();
    assert!(text.starts_with("58 tasks wait"), "{text}");

    let arguments = ["autoscale", "explain", "--address", &address];
    let shown = home.levelflow(&arguments).await;
    assert_eq!(shown.code, Some(0), "{}", shown.stderr);
    let wanted = "12 workers are wanted, 1 of them there";
    assert!(shown.stdout.starts_with(wanted), "{}", shown.stdout);
    assert!(shown.stdout.contains("> "), "{}", shown.stdout);

    home.file("gate", "");
    client.ended(&run).await;
    let wants_least = async || explain(&home, &address).await["wanted"] == 1;
    eventually("one worker is enough again", wants_least).await;
}

/// KEDA, as far as it talks to an external scaler.
struct Keda {
    client: ExternalScalerClient<Channel>,
    scaled: ScaledObjectRef,
}

impl Keda {
    /// With what a trigger says beside the address.
    async fn new(address: &str, metadata: &[(&str, &str)]) -> Self {
        let given = [("scalerAddress", address)];
        let metadata = given.iter().chain(metadata);
        let metadata = metadata.map(|&(key, value)| (key.to_owned(), value.to_owned()));
        Self {
            client: ExternalScalerClient::new(channel(address).await),
            scaled: ScaledObjectRef {
                name: "workers".to_owned(),
                namespace: "default".to_owned(),
                scaler_metadata: metadata.collect(),
            },
        }
    }

    async fn is_active(&self) -> Result<bool, ApiError> {
        let mut client = self.client.clone();
        let active = answer(client.is_active(self.scaled.clone())).await?;
        Ok(active.result)
    }

    async fn stream(&self) -> Streaming<IsActiveResponse> {
        let mut client = self.client.clone();
        answer(client.stream_is_active(self.scaled.clone()))
            .await
            .unwrap()
    }

    async fn metric(&self, name: &str) -> Result<f64, ApiError> {
        let mut client = self.client.clone();
        let request = GetMetricsRequest {
            scaled_object_ref: Some(self.scaled.clone()),
            metric_name: name.to_owned(),
        };
        let values = answer(client.get_metrics(request)).await?.metric_values;
        let values: HashMap<_, _> = values
            .into_iter()
            .map(|it| (it.metric_name, (it.metric_value, it.metric_value_float)))
            .collect();
        let (whole, float) = values[name];
        assert_eq!(whole as f64, float);
        Ok(float)
    }

    async fn specs(&self) -> Result<Vec<MetricSpec>, ApiError> {
        let mut client = self.client.clone();
        let specs = answer(client.get_metric_spec(self.scaled.clone())).await?;
        Ok(specs.metric_specs)
    }

    /// The replicas that the autoscaler of Kubernetes makes of the metrics.
    async fn replicas(&self) -> u32 {
        let specs = self.specs().await.unwrap();
        assert_eq!(specs.len(), 1);
        assert_eq!(specs[0].target_size as f64, specs[0].target_size_float);
        let metric = self.metric(&specs[0].metric_name).await.unwrap();
        (metric / specs[0].target_size_float).ceil() as u32
    }
}

async fn next(stream: &mut Streaming<IsActiveResponse>) -> bool {
    let told = timeout(DEADLINE, stream.message()).await;
    let told = told.expect("KEDA is told before the deadline").unwrap();
    told.expect("the stream goes on").result
}

#[tokio::test]
async fn keda_is_told_of_a_burst_and_scales_to_what_is_wanted() {
    let home = Home::new();
    let (_server, address) = serve(&home).await;
    let client = Client::connect(&address).await;
    let keda = Keda::new(&address, &[]).await;
    assert!(!keda.is_active().await.unwrap());
    assert_eq!(keda.replicas().await, 1);
    let mut stream = keda.stream().await;
    assert!(!next(&mut stream).await);

    let run = client.start(&burst(&home, "default")).await;
    assert!(next(&mut stream).await);
    assert!(keda.is_active().await.unwrap());
    eventually("KEDA scales to the most", async || {
        keda.replicas().await == 12
    })
    .await;
    let decided = explain(&home, &address).await;
    assert_eq!(decided["wanted"], 12);

    home.file("gate", "");
    client.ended(&run).await;
    assert!(!next(&mut stream).await);
    eventually("KEDA scales to the fewest", async || {
        keda.replicas().await == 1
    })
    .await;
}

#[tokio::test]
async fn keda_may_scale_the_workers_of_one_queue() {
    let home = Home::new();
    let (_server, address) = serve(&home).await;
    let client = Client::connect(&address).await;
    let gpu = Keda::new(&address, &[("queue", "gpu")]).await;
    let other = Keda::new(&address, &[("queueFromEnv", "default")]).await;
    // Nobody subscribes to this queue, so its tasks are those that new workers would do.
    client.start(&burst(&home, "gpu")).await;
    eventually("KEDA scales this queue", async || {
        gpu.replicas().await == 12
    })
    .await;
    assert!(gpu.is_active().await.unwrap());
    assert!(!other.is_active().await.unwrap());
    assert_eq!(other.replicas().await, 1);
    let arguments = [
        "autoscale",
        "explain",
        "--queue",
        "gpu",
        "--address",
        &address,
    ];
    let decided = home.json(&arguments).await.1;
    assert_eq!(decided["queue"], "gpu");
    assert_eq!(
        (&decided["wanted"], &decided["current"]),
        (&json!(12), &json!(0))
    );
    // Of all workers, none may take them.
    let all = explain(&home, &address).await;
    assert_eq!(all["workload"]["unserved"], BURST);
    assert_eq!(all["wanted"], 1);
}

#[tokio::test]
async fn keda_hears_what_is_wrong_with_its_trigger() {
    let home = Home::new();
    let (_server, address) = serve(&home).await;
    let field = |error: &ApiError| {
        assert_eq!(error.code(), Code::RequestInvalid, "{error}");
        error.violations[0].field.clone()
    };
    for (key, value) in [("qeue", "gpu"), ("queue", "")] {
        let keda = Keda::new(&address, &[(key, value)]).await;
        let error = keda.is_active().await.unwrap_err();
        assert_eq!(field(&error), format!("scalerMetadata.{key}"));
        let mut client = keda.client.clone();
        let stream = client.stream_is_active(keda.scaled.clone()).await;
        assert_eq!(field(&from_status(&stream.unwrap_err())), field(&error));
    }
    let keda = Keda::new(&address, &[]).await;
    let error = keda.metric("queue_length").await.unwrap_err();
    assert_eq!(field(&error), "metricName");
    let long = "q".repeat(300);
    let keda = Keda::new(&address, &[("queue", &long)]).await;
    assert_eq!(field(&keda.is_active().await.unwrap_err()), "queue");

    for number in 0..64 {
        let queue = format!("q{number}");
        let keda = Keda::new(&address, &[("queue", &queue)]).await;
        assert!(keda.specs().await.is_ok());
    }
    let keda = Keda::new(&address, &[("queue", "one-too-many")]).await;
    let error = keda.specs().await.unwrap_err();
    assert_eq!(error.code(), Code::TooManyQueues);

    let (_off, address) = Running::serve(&Home::new(), &["dev"]).await;
    let keda = Keda::new(&address, &[]).await;
    let error = keda.is_active().await.unwrap_err();
    assert_eq!(error.code(), Code::AutoscaleOff);
}
