//! `/metrics`: what is measured, for Prometheus.
//!
//! What the actor measures are plain numbers that it gives out when asked. Only what happens to HTTP requests
//! is counted by the metrics themselves.

use std::fmt;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use levelflow_cache::{Cache, CacheStatistics};
use levelflow_common::{Code, RunStatus, TaskKind, TaskStatus};
use levelflow_embedding::EmbeddingsStatistics;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use schemars::json_schema;

use super::Api;
use super::document::Operation;
use super::problem::Refusal;
use super::route::Routes;
use crate::actor::{self, Measures, Message, WorkerMeasures};
use crate::autoscale::Autoscaling;
use crate::semantic::SemanticStatistics;

const PREFIX: &str = "levelflow";
const MEDIA_TYPE: &str = "application/openmetrics-text";
/// Seconds until the head of an answer.
const REQUEST_SECONDS: [f64; 11] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0,
];

/// What happens to requests.
#[derive(Clone, Debug)]
pub(super) struct RequestMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_SECONDS)),
        }
    }
}

impl RequestMetrics {
    /// A request was answered. `route` is the path as it is documented, so that there are only so many.
    pub(super) fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let route = route.to_owned();
        let seconds = self.seconds.get_or_create_owned(&RouteLabels {
            route: route.clone(),
        });
        seconds.observe(took.as_secs_f64());
        let method = method.to_owned();
        let requests = self.requests.get_or_create_owned(&RequestLabels {
            method,
            route,
            status,
        });
        requests.inc();
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "HTTP requests that were answered",
            self.requests.clone(),
        );
        registry.register(
            "http_request_seconds",
            "Time from the head of a request to the head of its answer",
            self.seconds.clone(),
        );
    }
}

pub(super) fn routes(routes: &mut Routes) {
    routes.add(
        Operation::get("/metrics", "metrics", "What is measured, for Prometheus").answers_in(
            MEDIA_TYPE,
            "Metrics in the OpenMetrics text format.",
            |_| json_schema!({ "type": "string" }),
        ),
        metrics,
    );
}

async fn metrics(State(api): State<Api>) -> Result<Response, Refusal> {
    let measures = api
        .backend()?
        .ask(|reply| Message::Measures { reply })
        .await?;
    let mut registry = Registry::with_prefix(PREFIX);
    api.requests.register(&mut registry);
    let backend = api.backend()?;
    registry.register_collector(Box::new(Snapshot {
        measures: *measures,
        cache: backend.cache.as_ref().map(Cache::statistics),
        semantic: backend.semantic_statistics(),
        wanted_workers: backend.autoscaling.as_ref().and_then(Autoscaling::wanted),
        streams: api.config.max_watchers - api.watchers.available_permits(),
    }));
    let mut text = String::new();
    encode(&mut text, &registry)
        .map_err(|fmt::Error| Refusal::new(Code::Internal, "the metrics cannot be written"))?;
    let media =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(CONTENT_TYPE, media)], text).into_response())
}

/// How everything stood when someone asked.
#[derive(Debug)]
struct Snapshot {
    measures: Measures,
    /// The result cache, if results are kept.
    cache: Option<CacheStatistics>,
    semantic: Option<SemanticStatistics>,
    /// Workers that there should be, if that is decided.
    wanted_workers: Option<u32>,
    /// Streams of events that are open.
    streams: usize,
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.runs(&mut encoder)?;
        self.tasks(&mut encoder)?;
        self.workers(&mut encoder)?;
        self.cache(&mut encoder)?;
        self.coordinator(&mut encoder)
    }
}

impl Snapshot {
    fn runs(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Measures { counters, load, .. } = &self.measures;
        let submitted = counters.submitted_runs;
        counter(
            encoder,
            "runs_submitted",
            "Runs that were accepted",
            submitted,
        )?;
        let ended = RunStatus::ALL
            .into_iter()
            .filter(|status| status.is_terminal())
            .map(|status| ([("status", status.as_str())], counters.ended_runs(status)));
        counters_by(encoder, "runs_ended", "Runs that ended", ended)?;
        gauge(
            encoder,
            "runs_open",
            "Runs that have not ended",
            load.open_runs,
        )
    }

    fn tasks(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Measures { counters, load, .. } = &self.measures;
        let ends = TaskStatus::ALL
            .into_iter()
            .filter(|status| status.is_terminal());
        let ended = ends.flat_map(|status| {
            TaskKind::ALL.map(|kind| {
                let labels = [("status", status.as_str()), ("kind", kind.as_str())];
                (labels, counters.ended_tasks(status, kind))
            })
        });
        let help = "Tasks that ended, items of for_each included";
        counters_by(encoder, "tasks_ended", help, ended)?;
        let by_kind = |count: &dyn Fn(TaskKind) -> u64| {
            TaskKind::ALL.map(|kind| ([("kind", kind.as_str())], count(kind)))
        };
        let started = by_kind(&|kind| counters.started_attempts(kind));
        let help = "Attempts that were given to workers";
        counters_by(encoder, "attempts_started", help, started)?;
        let retried = by_kind(&|kind| counters.retried_attempts(kind));
        let help = "Attempts that failed and are followed by another";
        counters_by(encoder, "attempts_retried", help, retried)?;
        let help = "Results that were refused because their lease had gone";
        counter(encoder, "results_stale", help, load.stale_results)?;
        let help = "Attempts that workers hold";
        gauge(encoder, "attempts_running", help, load.leases)?;
        let waiting = self.measures.queues.iter().flat_map(|queue| {
            [("ready", queue.ready), ("parked", queue.parked)].map(|(state, count)| {
                let labels = [("queue", &*queue.name), ("state", state)];
                (labels, usize::try_from(count).unwrap_or(usize::MAX))
            })
        });
        let help = "Tasks that wait: for a worker (ready), or for a breaker or a limit (parked)";
        gauges_by(encoder, "queue_tasks", help, waiting)
    }

    fn workers(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let by_status = |number: &dyn Fn(&WorkerMeasures) -> usize| -> Vec<_> {
            let workers = self.measures.workers.iter();
            let labelled =
                workers.map(|(status, workers)| ([("status", status.as_str())], number(workers)));
            labelled.collect()
        };
        let workers = by_status(&|workers| workers.workers);
        gauges_by(encoder, "workers", "Workers that are known", workers)?;
        let slots = by_status(&|workers| workers.slots);
        let help = "Attempts that workers run at once";
        gauges_by(encoder, "worker_slots", help, slots)?;
        let credits = by_status(&|workers| workers.credits);
        let help = "Attempts that workers would take now";
        gauges_by(encoder, "worker_credits", help, credits)?;
        match self.wanted_workers {
            Some(wanted) => gauge(
                encoder,
                "workers_wanted",
                "Workers that there should be",
                wanted as usize,
            ),
            None => Ok(()),
        }
    }

    fn cache(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (Some(cache), Some(semantic)) = (&self.cache, &self.semantic) else {
            return Ok(());
        };
        let help = "Tasks whose results were looked for in the cache";
        counter(encoder, "cache_lookups", help, cache.lookups)?;
        let hits = cache
            .tiers
            .iter()
            .map(|tier| ([("tier", tier.tier.as_str())], tier.hits));
        counters_by(encoder, "cache_hits", "Results that a tier had", hits)?;
        let lookups = [
            ("hit", semantic.hits),
            ("near_hit", semantic.near_hits),
            ("skipped", semantic.skipped),
            ("timeout", semantic.timeouts),
            ("miss", semantic.misses()),
        ];
        let lookups = lookups.map(|(outcome, count)| ([("outcome", outcome)], count));
        let help = "Tasks for whose text a nearly equal one was looked for";
        counters_by(encoder, "semantic_lookups", help, lookups)?;
        let help = "Texts of results that are known";
        let entries = usize::try_from(semantic.index.entries).unwrap_or(usize::MAX);
        gauge(encoder, "semantic_entries", help, entries)?;
        let of = |count: fn(&EmbeddingsStatistics) -> u64| {
            let models = semantic.models.iter();
            models.map(move |(name, model)| ([("model", name.as_str())], count(model)))
        };
        let help = "Texts that an embedding model made vectors of";
        counters_by(encoder, "embedding_texts", help, of(|model| model.texts))?;
        let help = "Batches of texts that an embedding model failed at";
        counters_by(
            encoder,
            "embedding_failures",
            help,
            of(|model| model.failures),
        )
    }

    fn coordinator(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let measures = &self.measures;
        let help = "Workers with a live session";
        gauge(encoder, "sessions", help, measures.load.workers)?;
        let help = "Messages that wait for the scheduler";
        gauge(encoder, "inbox_messages", help, measures.inbox)?;
        let help = "Clients that follow a run live";
        gauge(encoder, "watchers", help, measures.watchers)?;
        let help = "Streams of events over HTTP that are open";
        gauge(encoder, "http_streams", help, self.streams)?;
        let breakers = measures.breakers.iter();
        let breakers = breakers.map(|&(status, count)| ([("status", status.as_str())], count));
        gauges_by(encoder, "breakers", "Breakers of upstreams", breakers)?;
        let alerts = measures.alerts.iter();
        let alerts = alerts.map(|(&kind, &count)| ([("kind", kind)], count));
        counters_by(encoder, "alerts", "Alerts that came", alerts)?;
        let help = "Time from when a batch was made to when it was durable";
        histogram(encoder, "commit_seconds", help, &measures.commits.seconds)?;
        let help = "Entries of one batch";
        histogram(encoder, "commit_entries", help, &measures.commits.entries)
    }
}

type NoExemplar = Option<&'static Exemplar<[(&'static str, &'static str); 0], f64>>;
const NO_EXEMPLAR: NoExemplar = None;

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Counter)?
        .encode_counter(&value, NO_EXEMPLAR)
}

fn counters_by<S: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (S, u64)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        family
            .encode_family(&labels)?
            .encode_counter(&value, NO_EXEMPLAR)?;
    }
    Ok(())
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: usize) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Gauge)?
        .encode_gauge(&value)
}

fn gauges_by<S: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (S, usize)>,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        family.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

fn histogram(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histogram: &actor::Histogram,
) -> fmt::Result {
    encoder
        .encode_descriptor(name, help, None, MetricType::Histogram)?
        .encode_histogram::<[(&str, &str); 0]>(
            histogram.sum,
            histogram.count,
            &histogram.buckets,
            None,
        )
}
