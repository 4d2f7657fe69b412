//! `levelflow.v1.CacheService`.

use std::io::BufReader;

use levelflow_cache::statistics::SharedStatistics;
use levelflow_cache::{
    BreakerState, Cache, CacheStatistics, Target, TierKind, TierStatistics, WarmUp,
};
use levelflow_common::view::BreakerStatus;
use levelflow_common::{CacheTier, Code};
use levelflow_proto::v1::cache_service_server::CacheService;
use levelflow_proto::v1::invalidate_cache_request::Target as TargetMessage;
use levelflow_proto::{ApiError, Enumeration as _, FieldViolation, v1};
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::Backend;
use super::submit::DEFAULT_TENANT;
use crate::semantic::SemanticStatistics;

/// Bytes of a file of results that is put in at once.
const MAX_WARM_UP_BYTES: usize = 64 * 1024 * 1024;

/// The service that looks after the cache.
#[derive(Clone)]
pub(crate) struct Caches(pub(crate) Backend);

impl Backend {
    /// The cache.
    ///
    /// # Errors
    /// When there is none.
    fn cache(&self) -> Result<&Cache, ApiError> {
        self.cache.as_ref().ok_or_else(|| {
            ApiError::new(
                Code::CacheOff,
                "this coordinator keeps no results: its cache is off",
            )
        })
    }

    pub(crate) fn cache_statistics(&self) -> Result<v1::CacheStatistics, ApiError> {
        let mut message = statistics(&self.cache()?.statistics());
        message.semantic = self.semantic_statistics().as_ref().map(semantic);
        Ok(message)
    }

    /// What came of results of nearly equal texts; none if results are not kept.
    pub(crate) fn semantic_statistics(&self) -> Option<SemanticStatistics> {
        Some(self.semantic.as_ref()?.statistics())
    }

    pub(crate) async fn invalidate_cache(
        &self,
        request: v1::InvalidateCacheRequest,
    ) -> Result<u64, ApiError> {
        let target = target(request)?;
        let removed = self.cache()?.invalidate(&target).await;
        removed.map_err(|error| {
            tracing::warn!(error = %error, code = %error.code(), "results were not removed everywhere");
            ApiError::new(error.code(), error.to_string())
        })
    }

    pub(crate) async fn warm_up_cache(&self, lines: Vec<u8>) -> Result<WarmUp, ApiError> {
        let cache = self.cache()?.clone();
        // It packs what it reads, which takes a while.
        let reading = tokio::task::spawn_blocking(move || cache.warm_up(BufReader::new(&*lines)));
        let failed = |problem: String| ApiError::new(Code::Internal, problem);
        let read = reading.await.map_err(|error| failed(error.to_string()))?;
        read.map_err(|error| failed(error.to_string()))
    }
}

fn target(request: v1::InvalidateCacheRequest) -> Result<Target, ApiError> {
    let tenant = match request.tenant {
        tenant if tenant.is_empty() => DEFAULT_TENANT.to_owned(),
        tenant => tenant,
    };
    let invalid = |field: &str, problem: String| {
        let mut error = ApiError::new(Code::RequestInvalid, format!("{field}: {problem}"));
        error.violations = vec![FieldViolation::new(field, problem)];
        error
    };
    Ok(match request.target {
        Some(TargetMessage::Key(key)) => Target::Key(key.parse().map_err(
            |error: levelflow_common::cache::InvalidCacheKey| invalid("key", error.to_string()),
        )?),
        Some(TargetMessage::Tag(tag)) => Target::Tag { tenant, tag },
        Some(TargetMessage::Workflow(workflow)) => Target::Workflow { tenant, workflow },
        Some(TargetMessage::WholeTenant(true)) => Target::Tenant(tenant),
        Some(TargetMessage::Everything(true)) => Target::All,
        Some(TargetMessage::WholeTenant(false) | TargetMessage::Everything(false)) | None => {
            return Err(invalid("target", "say what is to be removed".to_owned()));
        }
    })
}

#[tonic::async_trait]
impl CacheService for Caches {
    async fn get_cache_statistics(
        &self,
        _: Request<v1::GetCacheStatisticsRequest>,
    ) -> Result<Response<v1::GetCacheStatisticsResponse>, Status> {
        Ok(Response::new(v1::GetCacheStatisticsResponse {
            statistics: Some(self.0.cache_statistics()?),
        }))
    }

    async fn invalidate_cache(
        &self,
        request: Request<v1::InvalidateCacheRequest>,
    ) -> Result<Response<v1::InvalidateCacheResponse>, Status> {
        let removed = self.0.invalidate_cache(request.into_inner()).await?;
        Ok(Response::new(v1::InvalidateCacheResponse { removed }))
    }

    async fn warm_up_cache(
        &self,
        request: Request<Streaming<v1::WarmUpCacheRequest>>,
    ) -> Result<Response<v1::WarmUpCacheResponse>, Status> {
        let mut pieces = request.into_inner();
        let mut lines = Vec::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?.lines;
            if lines.len() + piece.len() > MAX_WARM_UP_BYTES {
                let problem = format!("a file may have {MAX_WARM_UP_BYTES} bytes; send several");
                return Err(ApiError::new(Code::TooLarge, problem).into());
            }
            lines.extend_from_slice(&piece);
        }
        let warm_up = self.0.warm_up_cache(lines).await?;
        let problems = warm_up.problems.iter();
        Ok(Response::new(v1::WarmUpCacheResponse {
            kept: warm_up.kept,
            passed_over: warm_up.passed_over,
            problems: problems.map(ToString::to_string).collect(),
        }))
    }
}

fn statistics(statistics: &CacheStatistics) -> v1::CacheStatistics {
    v1::CacheStatistics {
        lookups: statistics.lookups,
        hits: statistics.hits,
        saved_us: (statistics.saved_seconds * 1e6) as u64,
        kept: statistics.kept,
        not_kept: statistics.not_kept,
        compression_saved_bytes: statistics.compression_saved_bytes,
        tiers: statistics.tiers.iter().map(tier).collect(),
        semantic: None,
    }
}

fn semantic(statistics: &SemanticStatistics) -> v1::SemanticStatistics {
    let models = statistics.models.iter();
    let saved = statistics.saved.as_micros();
    v1::SemanticStatistics {
        lookups: statistics.lookups,
        hits: statistics.hits,
        near_hits: statistics.near_hits,
        skipped: statistics.skipped,
        timeouts: statistics.timeouts,
        saved_us: u64::try_from(saved).unwrap_or(u64::MAX),
        p50_us: statistics.latency.p50_us,
        p99_us: statistics.latency.p99_us,
        entries: statistics.index.entries,
        bytes: statistics.index.bytes,
        evictions: statistics.index.evictions,
        models: models
            .map(|(name, model)| v1::EmbeddingModelStatistics {
                name: name.clone(),
                texts: model.texts,
                failures: model.failures,
                skipped: model.skipped,
                breaker: breaker(model.breaker).number(),
            })
            .collect(),
    }
}

fn breaker(state: BreakerState) -> BreakerStatus {
    match state {
        BreakerState::Closed => BreakerStatus::Closed,
        BreakerState::Open => BreakerStatus::Open,
        BreakerState::HalfOpen => BreakerStatus::HalfOpen,
    }
}

fn tier(tier: &TierStatistics) -> v1::CacheTierStatistics {
    let kind = match tier.tier {
        TierKind::Memory => CacheTier::Memory,
        TierKind::Redis => CacheTier::Redis,
        TierKind::Postgres => CacheTier::Postgres,
    };
    v1::CacheTierStatistics {
        tier: kind.number(),
        hits: tier.hits,
        misses: tier.misses,
        corrupt: tier.corrupt,
        entries: tier.usage.map(|usage| usage.entries),
        bytes: tier.usage.map(|usage| usage.bytes),
        evictions: tier.evictions,
        expired: tier.expired,
        p50_us: tier.latency.p50_us,
        p99_us: tier.latency.p99_us,
        shared: tier.shared.map(shared),
    }
}

fn shared(shared: SharedStatistics) -> v1::SharedCacheTierStatistics {
    v1::SharedCacheTierStatistics {
        breaker: breaker(shared.breaker).number(),
        skipped: shared.skipped,
        timeouts: shared.timeouts,
        failures: shared.failures,
        writes: shared.writes,
        dropped_writes: shared.dropped_writes,
        queued: shared.queued,
    }
}
